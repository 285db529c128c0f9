//! What a reply means, by the model's `[classify]`, `[detect]` and `[embed]`.

use media::{Detection, Error, Floats, Label, Outputs, Place, Plan};

use super::reply::Reply;

/// What was sent, as far as the meaning of the outputs depends on it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Sent {
    /// And how the model's image lies over it.
    Photo(Place),
    /// Of so many tokens.
    Text { tokens: usize },
    /// A request in JSON.
    Request,
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Findings {
    pub(super) classes: Option<Vec<Label>>,
    pub(super) objects: Option<Vec<Detection>>,
    pub(super) vector: Option<Vec<f32>>,
}

impl Findings {
    /// # Errors
    /// `Output`, when the reply does not have what the configuration promises.
    pub(super) fn of(reply: &Reply, plan: &Plan, sent: Sent) -> Result<Self, Error> {
        let mut findings = Self { classes: plan.classify(reply)?, ..Self::default() };
        match sent {
            Sent::Photo(place) => findings.objects = plan.detect(reply, place)?,
            Sent::Text { tokens } => {
                findings.vector = plan.embed(reply, &[tokens])?.and_then(|mut rows| rows.pop())
            }
            Sent::Request => {}
        }
        Ok(findings)
    }
}

impl Outputs for Reply {
    fn floats(&self, name: &str) -> Result<Floats, Error> {
        let wrong = |detail| Error::Output { output: name.to_owned(), detail };
        let output = self.output(name).map_err(wrong)?;
        Ok(Floats { shape: output.shape.clone(), values: output.floats().map_err(wrong)? })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use hyper::{HeaderMap, StatusCode};
    use serde_json::json;
    use serve::ModelConfig;

    use super::super::client::Answer;
    use super::*;

    fn plan(dir: &Path, model_toml: &str) -> Plan {
        let mut file = std::fs::File::create(dir.join("labels.txt")).unwrap();
        std::io::Write::write_all(&mut file, b"cat\ndog\n").unwrap();
        Plan::read(dir, (&ModelConfig::parse(model_toml).unwrap()).into()).unwrap()
    }

    fn reply(outputs: &serde_json::Value) -> Reply {
        let body = json!({ "model_name": "m", "outputs": outputs }).to_string();
        Reply::read(&Answer { status: StatusCode::OK, headers: HeaderMap::new(), body: body.into() }).unwrap()
    }

    #[test]
    fn classes_have_labels_or_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan(dir.path(), "[classify]\noutput = \"y\"\nlabels = \"labels.txt\"\ntop = 2");
        let reply =
            reply(&json!([{ "name": "y", "datatype": "FP32", "shape": [1, 3], "data": [0.25, 0.0, 0.75] }]));
        let class = |index, label: &str, score| Label { index, label: label.to_owned(), score };
        let expected = Some(vec![class(2, "class 2", 0.75), class(0, "cat", 0.25)]);
        let found = Findings::of(&reply, &plan, Sent::Request).unwrap();
        assert_eq!(found, Findings { classes: expected, ..Findings::default() });
    }

    #[test]
    fn what_the_configuration_promises_has_to_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let toml = "[image]\ninput = \"x\"\nwidth = 8\nheight = 8\nresize = \"stretch\"\n[detect]\nkind = \"nanodet\"\n\
                    labels = \"labels.txt\"\nstrides = [8]\nscores = [\"s\"]\nboxes = [\"b\"]\nreg_max = 1\n\
                    score_threshold = 0.5\niou_threshold = 0.5";
        let plan = plan(dir.path(), toml);
        // Every side's two bins weigh the same: half a stride, so the box is the whole cell.
        let head = json!([
            { "name": "s", "datatype": "FP32", "shape": [1, 1, 2], "data": [0.25, 0.875] },
            { "name": "b", "datatype": "FP32", "shape": [1, 1, 8], "data": [0, 0, 0, 0, 0, 0, 0, 0] },
        ]);
        let photo = Sent::Photo(Place { scale: [2.0, 4.0], offset: [0.0, 0.0], photo: [16.0, 32.0] });
        let dog =
            Detection { index: 1, label: "dog".to_owned(), score: 0.875, corners: [0.0, 0.0, 16.0, 32.0] };
        assert_eq!(Findings::of(&reply(&head), &plan, photo).unwrap().objects, Some(vec![dog]));
        // Without the photo nobody knows where its pixels are.
        assert_eq!(Findings::of(&reply(&head), &plan, Sent::Request).unwrap(), Findings::default());
        let error = Findings::of(&reply(&json!([])), &plan, photo).unwrap_err();
        assert!(error.to_string().contains("no output 's'"), "{error}");
    }

    #[test]
    fn a_text_has_a_vector() {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan(dir.path(), "[embed]\noutput = \"y\"");
        let hidden = json!([{ "name": "y", "datatype": "FP32", "shape": [1, 2, 2], "data": [6, 0, 0, 8] }]);
        let found = Findings::of(&reply(&hidden), &plan, Sent::Text { tokens: 2 }).unwrap();
        assert_eq!(found.vector, Some(vec![0.6, 0.8]));
    }
}
