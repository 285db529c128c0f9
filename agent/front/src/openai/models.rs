use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;

use super::fault::Fault;
use crate::app::App;

#[derive(Debug, Serialize)]
pub(super) struct List {
    object: &'static str,
    data: Vec<Model>,
}

#[derive(Debug, Serialize)]
pub(super) struct Model {
    id: String,
    object: &'static str,
    /// When the agent started; Unix seconds.
    created: u64,
    owned_by: &'static str,
}

impl Model {
    fn new(app: &App, id: &str) -> Self {
        Self { id: id.to_owned(), object: "model", created: app.started_unix, owned_by: "mast" }
    }
}

pub(super) async fn list(State(app): State<Arc<App>>) -> Json<List> {
    let data = app.serve.models().iter().map(|view| Model::new(&app, &view.name)).collect();
    Json(List { object: "list", data })
}

pub(super) async fn one(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Model>, Fault> {
    let view = app.serve.find(&id, None).map_err(|error| Fault::of(error, "model"))?;
    Ok(Json(Model::new(&app, &view.name)))
}
