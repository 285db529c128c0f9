//! `POST /v2/models/{m}[/versions/{v}]/infer` with a photo or a sentence for a body, for a model whose `model.toml` says
//! what to make of it. The way is that of every request (`call.rs`); around it is what `media` does.
//!
//! | `Content-Type` | body | model.toml | reply, beside `model_name` and `model_version` |
//! |---|---|---|---|
//! | `image/jpeg`, `image/png` | the photo | `[image]` and `[classify]` | `labels`: `index`, `label`, `score`, best first |
//! | | | `[image]` and `[detect]` | `boxes`: also `box`, x0 y0 x1 y1 in pixels of the upright photo |
//! | `text/plain` | UTF-8 | `[text]` and `[embed]` | `embedding`: numbers |
//! | | | `[text]` and `[classify]` | `labels` |
//!
//! `text/plain` for a model without `[text]` is read as JSON, as it always was: browsers send JSON so.

use std::sync::Arc;

use axum::Json;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use engine::BufferMut;
use media::{Detection, Label, Photo, Place};
use serde::Serialize;
use serve::ModelView;
use wire::Error;

use crate::app::App;
use crate::body::Reader;
use crate::call::{Call, Decoded};
use crate::decode::{Room as _, Wishes};
use crate::encode::Wanted;
use crate::fault::Fault;
use crate::infer::mark;
use crate::plans::Failure;
use crate::trace::Trace;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Photo,
    Text,
}

impl Kind {
    /// What the body is, where it is not a request of the protocol.
    pub(crate) fn of(headers: &HeaderMap, view: &ModelView) -> Option<Self> {
        let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
        let name = value.split(';').next().unwrap_or_default().trim();
        let is = |media: &str| name.eq_ignore_ascii_case(media);
        if is("image/jpeg") || is("image/png") {
            return Some(Self::Photo);
        }
        (is("text/plain") && view.config.text.is_some()).then_some(Self::Text)
    }
}

#[derive(Debug, Serialize)]
struct Reply {
    model_name: String,
    model_version: String,
    #[serde(flatten)]
    findings: Findings,
}

#[derive(Debug, Default, Serialize)]
struct Findings {
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<Vec<Label>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    boxes: Option<Vec<Detection>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    embedding: Option<Vec<f32>>,
}

/// What was sent, as far as the meaning of the outputs depends on it.
enum Sent {
    Photo(Place),
    Text { tokens: usize },
}

pub(crate) async fn answer(
    app: &Arc<App>,
    mut call: Call,
    kind: Kind,
    reader: &mut Reader,
    trace: &mut Trace,
) -> Result<Response, Fault> {
    let view = call.view().clone();
    explained(&view, kind)?;
    let body = reader.rest(&mut call.budget).await?;
    trace.arrived(reader.arrived());
    let plan = app.plan(&view).await?;
    let (serve, asked) = (Arc::clone(&app.serve), Arc::clone(&plan));
    let (call, inputs, sent) = app
        .work(&view.name, move || {
            let (inputs, sent) = match kind {
                Kind::Photo => {
                    let photo = Photo::open(&body)?;
                    let _room = serve.reserve(photo.memory_bytes())?;
                    let prepared = asked.photo(photo, |len| take(&mut call, len))?;
                    (vec![prepared.input], Sent::Photo(prepared.place))
                }
                Kind::Text => {
                    let text =
                        std::str::from_utf8(&body).map_err(|_| Error::invalid("the text is not UTF-8"))?;
                    let tokens = asked.tokenise(&[text.trim_end_matches(['\r', '\n'])])?;
                    let rows: Vec<_> = tokens.iter().collect();
                    let inputs = asked.text(&rows, |len| take(&mut call, len))?;
                    (inputs, Sent::Text { tokens: rows.iter().map(|row| row.len()).sum() })
                }
            };
            Ok((call, inputs, sent))
        })
        .await?;
    let decoded = Decoded { inputs, wanted: Wanted::raw(), wishes: Wishes::default() };
    let answer = call.submit(app, decoded, trace).await?.answer(app, trace).await?;
    let (id, part) = (answer.id, answer.part);
    let (part, findings) = app
        .work(&view.name, move || {
            let outputs = &*part.outputs;
            let mut findings = Findings { labels: plan.classify(outputs)?, ..Findings::default() };
            match sent {
                Sent::Photo(place) => findings.boxes = plan.detect(outputs, place)?,
                Sent::Text { tokens } => {
                    findings.embedding = plan.embed(outputs, &[tokens])?.and_then(|mut rows| rows.pop());
                }
            }
            Ok((part, findings))
        })
        .await?;
    let reply = Reply {
        model_name: view.name.as_ref().to_owned(),
        model_version: part.model_version.to_string(),
        findings,
    };
    let mut response = Json(reply).into_response();
    mark(response.headers_mut(), id, &part);
    Ok(response)
}

fn take(call: &mut Call, len: usize) -> Result<BufferMut, Failure> {
    Ok(call.take(len)?)
}

/// Whether the model's configuration says what goes in and what comes out, before the body is read.
fn explained(view: &ModelView, kind: Kind) -> Result<(), Error> {
    let config = &view.config;
    let (takes, means, what) = match kind {
        Kind::Photo => (
            config.image.is_some(),
            config.classify.is_some() || config.detect.is_some(),
            "no photo: [image] and [classify] or [detect]",
        ),
        Kind::Text => (
            config.text.is_some(),
            config.classify.is_some() || config.embed.is_some(),
            "no text: [text] and [embed] or [classify]",
        ),
    };
    if takes && means {
        return Ok(());
    }
    Err(Error::invalid(format!("model '{}' takes {what} are missing in its model.toml", view.name)))
}
