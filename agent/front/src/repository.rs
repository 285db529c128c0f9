use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use serde::Deserialize;
use serde_json::{Map, Value};
use wire::Error;

use crate::app::App;
use crate::describe;
use crate::fault::Fault;
use crate::json::Object;
use crate::model::json;
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
pub(crate) fn parse<T: Default + for<'de> Deserialize<'de>>(
    body: Result<Bytes, BytesRejection>,
) -> Result<T, Fault> {
    let body = body.map_err(|rejection| Fault::new(rejection.status(), rejection.body_text()))?;
    if body.is_empty() {
        return Ok(T::default());
    }
    let malformed = |error| Error::invalid(format!("failed to parse the request JSON buffer: {error}"));
    let Object(parsed) = serde_json::from_slice(&body).map_err(malformed)?;
    Ok(parsed)
}

pub(crate) async fn index(
    State(app): State<Arc<App>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Fault> {
    let request: IndexRequest = parse(body)?;
    Ok(Json(rows(&app, request.ready)?))
}

/// The rows of the index.
pub(crate) fn rows(app: &App, serving_only: bool) -> Result<Value, Error> {
    let Json(mut index) = json("RepositoryIndexResponse", &describe::index(&app.serve, serving_only))?;
    Ok(index.get_mut("models").map(Value::take).unwrap_or_default())
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
    // Who may not is told so, whatever the body.
    describe::repository_control(app.repository_control, [])?;
    let request: ControlRequest = parse(body)?;
    // There are no dependents here; but who asks for something else than yes or no is mistaken.
    if request.parameters.get("unload_dependents").is_some_and(|value| !value.is_boolean()) {
        return Err(Error::invalid("parameter 'unload_dependents' must be true or false").into());
    }
    Ok(describe::repository_control(true, request.parameters.keys())?)
}
