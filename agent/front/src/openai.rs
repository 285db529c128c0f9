//! OpenAI's API, as far as it is served: `/v1/models`, `/v1/models/{id}`, `/v1/embeddings`. Every failure under `/v1` is in
//! OpenAI's form.

mod embeddings;
pub(crate) mod fault;
mod input;
mod models;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};

use crate::app::App;

pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/models", get(models::list))
        .route("/models/{*id}", get(models::one))
        .route("/embeddings", post(embeddings::embeddings))
        .fallback(fault::unknown_url)
        .method_not_allowed_fallback(fault::wrong_method)
}
