use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use serde::Deserialize;
use serde_json::{Map, Value};
use serve::LoadParameters;
use wire::Error;

use crate::access::Principal;
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
    principal: Principal,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Fault> {
    let request: IndexRequest = parse(body)?;
    Ok(Json(rows(&app, &principal, request.ready)?))
}

/// The rows of the index that the caller may see.
pub(crate) fn rows(app: &App, principal: &Principal, serving_only: bool) -> Result<Value, Error> {
    let index = describe::index(&app.serve, principal, serving_only);
    let Json(mut index) = json("RepositoryIndexResponse", &index)?;
    Ok(index.get_mut("models").map(Value::take).unwrap_or_default())
}

pub(crate) async fn load(
    State(app): State<Arc<App>>,
    target: Target,
    principal: Principal,
    body: Result<Bytes, BytesRejection>,
) -> Result<(), Fault> {
    let parameters = control(&principal, body)?;
    let parameters = load_parameters(parameters.iter().map(|(key, value)| (key, value.as_str())))?;
    Ok(app.serve.load_with(&target.model, parameters).await?)
}

pub(crate) async fn unload(
    State(app): State<Arc<App>>,
    target: Target,
    principal: Principal,
    body: Result<Bytes, BytesRejection>,
) -> Result<(), Fault> {
    control(&principal, body)?;
    Ok(app.serve.unload(&target.model).await?)
}

/// What came with the call; asked for only once it is known that the caller may.
fn control(principal: &Principal, body: Result<Bytes, BytesRejection>) -> Result<Map<String, Value>, Fault> {
    principal.administer()?;
    let ControlRequest { parameters } = parse(body)?;
    // There are no dependents here; but who asks for something else than yes or no is mistaken.
    if parameters.get("unload_dependents").is_some_and(|value| !value.is_boolean()) {
        return Err(Error::invalid("parameter 'unload_dependents' must be true or false").into());
    }
    Ok(parameters)
}

/// Of a load: `config`, whose value is text, and the names of files.
///
/// # Errors
/// `InvalidArgument`: `config` is something else.
pub(crate) fn load_parameters<'a>(
    parameters: impl IntoIterator<Item = (&'a String, Option<&'a str>)>,
) -> Result<LoadParameters, Error> {
    let mut load = LoadParameters::default();
    for (key, text) in parameters {
        if key == "config" {
            let text = text
                .ok_or_else(|| Error::invalid("parameter 'config' must be a model configuration as text"))?;
            load.config = Some(text.to_owned());
        } else if key.starts_with("file:") {
            load.files.push(key.clone());
        }
    }
    Ok(load)
}
