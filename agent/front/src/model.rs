//! Health, metadata, configuration and statistics over HTTP: the messages of `describe.rs` as JSON.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::Value;
use wire::{Error, ErrorCode};

use crate::access::Principal;
use crate::app::App;
use crate::describe;
use crate::fault::Fault;
use crate::target::Target;

/// # Errors
/// None in practice: the messages are our own.
pub(crate) fn json(name: &'static str, message: &impl prost::Message) -> Result<Json<Value>, Error> {
    let value = triton::to_json(name, message);
    value.map(Json).map_err(|error| Error::new(ErrorCode::Internal, wire::chain(&error)))
}

pub(crate) async fn server(principal: Principal) -> Result<Json<Value>, Fault> {
    Ok(json("ServerMetadataResponse", &describe::server(principal.may_administer()))?)
}

pub(crate) async fn live() {}

/// Not ready is 400 with nothing in it, as in Triton.
pub(crate) async fn ready(State(app): State<Arc<App>>) -> StatusCode {
    if app.serve.is_ready() { StatusCode::OK } else { StatusCode::BAD_REQUEST }
}

pub(crate) async fn model_ready(State(app): State<Arc<App>>, target: Target) -> Result<(), Fault> {
    if app.serve.is_model_ready(&target.model, target.version)? {
        Ok(())
    } else {
        Err(Error::invalid("Model version not ready").into())
    }
}

pub(crate) async fn metadata(State(app): State<Arc<App>>, target: Target) -> Result<Json<Value>, Fault> {
    let view = app.serve.find(&target.model, target.version)?;
    Ok(json("ModelMetadataResponse", &describe::metadata(&view))?)
}

pub(crate) async fn config(State(app): State<Arc<App>>, target: Target) -> Result<Json<Value>, Fault> {
    let view = app.serve.find(&target.model, target.version)?;
    Ok(json("ModelConfig", &describe::config(&view))?)
}

pub(crate) async fn all_stats(
    State(app): State<Arc<App>>,
    principal: Principal,
) -> Result<Json<Value>, Fault> {
    Ok(json("ModelStatisticsResponse", &describe::statistics(&app.serve, &principal, None, None)?)?)
}

pub(crate) async fn stats(
    State(app): State<Arc<App>>,
    principal: Principal,
    target: Target,
) -> Result<Json<Value>, Fault> {
    let statistics = describe::statistics(&app.serve, &principal, Some(&target.model), target.version)?;
    Ok(json("ModelStatisticsResponse", &statistics)?)
}
