use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use wire::{Error, ErrorCode};

use crate::app::App;
use crate::fault::Fault;
use crate::target::Target;

/// For the parameters of repository calls.
pub(crate) const BODY_LIMIT_BYTES: usize = 64 << 10;

#[derive(Default, Deserialize)]
struct IndexRequest {
    #[serde(default)]
    ready: bool,
}

#[derive(Default, Deserialize)]
struct ControlRequest {
    #[serde(default)]
    parameters: Map<String, Value>,
}

/// An empty body means the defaults.
fn parse<T: Default + for<'de> Deserialize<'de>>(body: Result<Bytes, BytesRejection>) -> Result<T, Fault> {
    let body = body.map_err(|rejection| Fault::new(rejection.status(), rejection.body_text()))?;
    if body.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    let malformed = |error| Error::invalid(format!("failed to parse the request JSON buffer: {error}"));
    Ok(serde_json::from_slice(&body).map_err(malformed)?)
}

pub(crate) async fn index(
    State(app): State<Arc<App>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Fault> {
    let request: IndexRequest = parse(body)?;
    Ok(Json(rows(&app, request.ready)))
}

/// The rows of the index. A state that Triton has no word for is given as the nearest one that its clients
/// know, with the reason beside it: BUILDING serves, so it is READY.
pub(crate) fn rows(app: &App, serving_only: bool) -> Value {
    let entries = app.serve.index().into_iter().filter(|entry| !serving_only || entry.state.is_serving());
    entries
        .map(|entry| {
            let building = entry.state == serve::State::Building;
            let state = if building { serve::State::Ready } else { entry.state };
            let reason = if building && entry.reason.is_empty() {
                "building a faster engine".to_owned()
            } else {
                entry.reason
            };
            let version = entry.version.map(|version| version.to_string()).unwrap_or_default();
            json!({ "name": entry.name, "version": version, "state": state.name(), "reason": reason })
        })
        .collect()
}

pub(crate) async fn load(
    State(app): State<Arc<App>>,
    target: Target,
    body: Result<Bytes, BytesRejection>,
) -> Result<(), Fault> {
    control(&app, body)?;
    Ok(app.serve.load(&target.model).await?)
}

pub(crate) async fn unload(
    State(app): State<Arc<App>>,
    target: Target,
    body: Result<Bytes, BytesRejection>,
) -> Result<(), Fault> {
    control(&app, body)?;
    Ok(app.serve.unload(&target.model).await?)
}

fn control(app: &App, body: Result<Bytes, BytesRejection>) -> Result<(), Fault> {
    if !app.repository_control {
        let text = "loading and unloading is not allowed on this port; use the control socket, or set \
                    allow_repository_control = true";
        return Err(Fault::new(StatusCode::FORBIDDEN, text));
    }
    let request: ControlRequest = parse(body)?;
    for key in request.parameters.keys() {
        // There are no dependent models here, so `unload_dependents` has nothing to change.
        if key == "config" || key.starts_with("file:") {
            let text = format!("parameter '{key}' is not served: models are loaded from the repository only");
            return Err(Error::new(ErrorCode::Unsupported, text).into());
        }
    }
    Ok(())
}
