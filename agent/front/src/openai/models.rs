use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;

use super::fault::Fault;
use crate::access::Principal;
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

pub(super) async fn list(State(app): State<Arc<App>>, principal: Principal) -> Json<List> {
    let models = app.serve.models();
    let models = models.iter().filter(|view| principal.may_use(&view.name));
    Json(List { object: "list", data: models.map(|view| Model::new(&app, &view.name)).collect() })
}

pub(super) async fn one(
    State(app): State<Arc<App>>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<Json<Model>, Fault> {
    principal.permit(&id).map_err(|error| Fault::of(error, "model"))?;
    let view = app.serve.find(&id, None).map_err(|error| Fault::of(error, "model"))?;
    Ok(Json(Model::new(&app, &view.name)))
}
