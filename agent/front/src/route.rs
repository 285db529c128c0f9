use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, get, post};
use axum::{Extension, Router};

use crate::access::Principal;
use crate::app::App;
use crate::{access, control, fault, infer, logging, metrics, model, openai, repository};

/// KServe v2 REST.
pub(crate) fn v2(app: Arc<App>) -> Router {
    guarded(finish(v2_routes(), Arc::clone(&app)), &app)
}

/// Behind the guard, where keys are configured. For every listener that clients of a network may reach.
pub(crate) fn guarded(router: Router, app: &App) -> Router {
    match &app.credentials.keys {
        Some(keys) => router.layer(from_fn_with_state(Arc::clone(keys), access::guard)),
        None => router,
    }
}

/// KServe v2 REST and what only the command line needs.
pub(crate) fn control(app: Arc<App>) -> Router {
    let control = Router::new()
        .route("/control/status", get(control::status))
        .route("/control/models", get(control::models))
        .route("/control/log", get(logging::level).post(logging::set_level).layer(small()));
    finish(v2_routes().merge(control), app).layer(Extension(Principal::Local))
}

pub(crate) fn metrics(app: Arc<App>) -> Router {
    finish(Router::new().route("/metrics", get(metrics::metrics)), app)
}

fn v2_routes() -> Router<Arc<App>> {
    let router = Router::new()
        .route("/v2", get(model::server))
        .route("/v2/", get(model::server))
        .route("/v2/health/live", get(model::live))
        .route("/v2/health/ready", get(model::ready))
        .route("/v2/models/stats", get(model::all_stats))
        .nest("/v1", openai::routes())
        .merge(repository_routes())
        .route("/v2/logging", get(logging::settings).post(logging::set_settings).layer(small()));
    let of_model: [(&str, MethodRouter<Arc<App>>); 5] = [
        ("", get(model::metadata)),
        ("/ready", get(model::model_ready)),
        ("/config", get(model::config)),
        ("/stats", get(model::stats)),
        ("/infer", post(infer::infer)),
    ];
    of_model.into_iter().fold(router, |router, (path, method)| {
        router
            .route(&format!("/v2/models/{{model}}{path}"), method.clone())
            .route(&format!("/v2/models/{{model}}/versions/{{version}}{path}"), method)
    })
}

fn repository_routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v2/repository/index", post(repository::index))
        .route("/v2/repository/models/{model}/load", post(repository::load))
        .route("/v2/repository/models/{model}/unload", post(repository::unload))
        .layer(small())
}

/// For a few parameters; infer has a limit of its own.
fn small() -> DefaultBodyLimit {
    DefaultBodyLimit::max(repository::BODY_LIMIT_BYTES)
}

fn finish(router: Router<Arc<App>>, app: Arc<App>) -> Router {
    router.fallback(fault::not_found).method_not_allowed_fallback(fault::method_not_allowed).with_state(app)
}
