//! What a reply means, by the model's `[classify]` and `[detect]`.

use serde::Serialize;

use super::catalog::Card;
use super::classify;
use super::detect::{self, Level};
use super::photo::Place;
use super::reply::Reply;

/// A class and how sure the model is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Class {
    pub(super) label: String,
    pub(super) score: f32,
}

/// An object in the photo.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Object {
    pub(super) label: String,
    pub(super) score: f32,
    /// x0, y0, x1, y1 in pixels of the photo, after EXIF orientation.
    #[serde(rename = "box")]
    pub(super) corners: [f32; 4],
}

/// The best classes; nothing for a model without `[classify]`.
///
/// # Errors
/// In words, when the reply does not have what the configuration promises.
pub(super) fn classes(reply: &Reply, card: &Card) -> Result<Option<Vec<Class>>, String> {
    let Some(config) = &card.config.classify else { return Ok(None) };
    let output = reply.output(&config.output)?;
    let scores = output.floats()?;
    // One photo: one row.
    let row = scores.get(..output.shape.last().copied().unwrap_or(0).min(scores.len())).unwrap_or_default();
    let labels = card.labels(config.labels.as_ref());
    let ranked = classify::top(row, config.softmax, config.top).into_iter();
    Ok(Some(ranked.map(|(class, score)| Class { label: label(&labels, class), score }).collect()))
}

/// The objects, in pixels of the photo; nothing for a model without `[detect]`, or without a photo.
///
/// # Errors
/// In words, when the reply does not have what the configuration promises.
pub(super) fn objects(
    reply: &Reply,
    card: &Card,
    place: Option<Place>,
) -> Result<Option<Vec<Object>>, String> {
    let (Some(config), Some(image), Some(place)) = (&card.config.detect, &card.config.image, place) else {
        return Ok(None);
    };
    if config.scores.len() != config.strides.len() || config.boxes.len() != config.strides.len() {
        return Err("[detect] needs as many scores and boxes as strides".to_owned());
    }
    let mut values = Vec::new();
    let mut classes = 0;
    for ((stride, scores), boxes) in config.strides.iter().zip(&config.scores).zip(&config.boxes) {
        let (scores, boxes) = (reply.output(scores)?, reply.output(boxes)?);
        classes = scores.shape.last().copied().unwrap_or(0);
        values.push((*stride, scores.floats()?, boxes.floats()?));
    }
    let levels: Vec<Level<'_>> =
        values.iter().map(|(stride, scores, boxes)| Level { stride: *stride, scores, boxes }).collect();
    let found = detect::nanodet(&levels, [image.width, image.height], classes, config)?;
    let labels = card.labels(config.labels.as_ref());
    let object = |one: detect::Found| Object {
        label: label(&labels, one.class),
        score: one.score,
        corners: place.to_photo(one.corners),
    };
    Ok(Some(found.into_iter().map(object).collect()))
}

fn label(labels: &[String], class: usize) -> String {
    labels.get(class).filter(|label| !label.is_empty()).cloned().unwrap_or_else(|| format!("class {class}"))
}

#[cfg(test)]
mod tests {
    use hyper::{HeaderMap, StatusCode};
    use serde_json::json;

    use super::super::client::Answer;
    use super::*;

    fn card(dir: &std::path::Path, model_toml: &str) -> Card {
        for (name, text) in [("model.toml", model_toml), ("labels.txt", "cat\ndog\n")] {
            std::io::Write::write_all(&mut std::fs::File::create(dir.join(name)).unwrap(), text.as_bytes())
                .unwrap();
        }
        Card::of_dir(dir).unwrap()
    }

    fn reply(outputs: &serde_json::Value) -> Reply {
        let body = json!({ "model_name": "m", "outputs": outputs }).to_string();
        Reply::read(&Answer { status: StatusCode::OK, headers: HeaderMap::new(), body: body.into() }).unwrap()
    }

    #[test]
    fn classes_have_labels_or_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let card = card(dir.path(), "[classify]\noutput = \"y\"\nlabels = \"labels.txt\"\ntop = 2");
        let reply =
            reply(&json!([{ "name": "y", "datatype": "FP32", "shape": [1, 3], "data": [0.25, 0.0, 0.75] }]));
        let class = |label: &str, score| Class { label: label.to_owned(), score };
        let expected = vec![class("class 2", 0.75), class("cat", 0.25)];
        assert_eq!(classes(&reply, &card), Ok(Some(expected)));
        assert_eq!(objects(&reply, &card, None), Ok(None));
    }

    #[test]
    fn objects_are_in_pixels_of_the_photo() {
        let dir = tempfile::tempdir().unwrap();
        let toml = "[image]\ninput = \"x\"\nwidth = 8\nheight = 8\nresize = \"stretch\"\n[detect]\nkind = \"nanodet\"\n\
                    labels = \"labels.txt\"\nstrides = [8]\nscores = [\"s\"]\nboxes = [\"b\"]\nreg_max = 1\n\
                    score_threshold = 0.5\niou_threshold = 0.5";
        let card = card(dir.path(), toml);
        // Every side's two bins weigh the same: half a stride, so the box is the whole cell.
        let head = json!([
            { "name": "s", "datatype": "FP32", "shape": [1, 1, 2], "data": [0.25, 0.875] },
            { "name": "b", "datatype": "FP32", "shape": [1, 1, 8], "data": [0, 0, 0, 0, 0, 0, 0, 0] },
        ]);
        let place = Place { scale: [2.0, 4.0], offset: [0.0, 0.0], photo: [16.0, 32.0] };
        let dog = Object { label: "dog".to_owned(), score: 0.875, corners: [0.0, 0.0, 16.0, 32.0] };
        assert_eq!(objects(&reply(&head), &card, Some(place)), Ok(Some(vec![dog])));
        let error = objects(&reply(&json!([])), &card, Some(place)).unwrap_err();
        assert!(error.contains("no output 's'"), "{error}");
    }
}
