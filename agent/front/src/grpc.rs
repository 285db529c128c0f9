//! `inference.GRPCInferenceService` with Triton's messages, and `grpc.health.v1.Health` (docs/specs/wire.md, "gRPC").
//!
//! ModelInfer and ModelStreamInfer read their messages field by field: the length that precedes a message has room
//! in the byte budget before the message is read, and tensors go from the connection straight into the engines'
//! memory. Every other call is small and goes through tonic. The way between is `call.rs`, as over HTTP.

mod contents;
mod decode;
mod encode;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
#[allow(clippy::all, clippy::pedantic, unreachable_pub, missing_debug_implementations)]
mod generated {
    include!("grpc/generated/inference.rs");
}
mod health;
mod infer;
mod message;
mod request;
mod service;
pub(crate) mod status;
mod stream;
mod weigh;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serve::Serve;
use tokio::sync::watch;
use tonic_health::pb::health_server::HealthServer;
use wire::{Error, ErrorCode};

use crate::app::App;
use crate::body::{Budget, Encoding, Reader};
use generated::grpc_inference_service_server::GrpcInferenceServiceServer;

/// The longest message of a call that carries no tensors.
const SMALL_LIMIT_BYTES: u64 = 64 << 10;

/// How a client may pack its messages.
const ACCEPTED: HeaderValue = HeaderValue::from_static("identity,gzip,deflate");

/// What every call of the listener needs.
#[derive(Debug, Clone)]
pub(crate) struct Grpc {
    app: Arc<App>,
    stopping: watch::Receiver<bool>,
}

impl Grpc {
    /// `stopping` ends calls that have no end of their own.
    pub(crate) fn new(app: Arc<App>, stopping: watch::Receiver<bool>) -> Self {
        Self { app, stopping }
    }

    fn serve(&self) -> &Arc<Serve> {
        &self.app.serve
    }
}

pub(crate) fn router(grpc: Grpc) -> Router {
    let small = Router::new()
        .route_service(
            "/inference.GRPCInferenceService/{method}",
            GrpcInferenceServiceServer::new(grpc.clone()),
        )
        .route_service("/grpc.health.v1.Health/{method}", HealthServer::new(grpc.clone()))
        .layer(middleware::from_fn_with_state(grpc.clone(), whole));
    Router::new()
        .route("/inference.GRPCInferenceService/ModelInfer", post(infer::model_infer))
        .route("/inference.GRPCInferenceService/ModelStreamInfer", post(stream::model_stream_infer))
        .with_state(grpc)
        .merge(small)
        .fallback(unknown)
        .layer(middleware::from_fn(only_grpc))
}

/// Other media types are no gRPC, and are answered as HTTP (gRPC over HTTP/2, "Content-Type").
async fn only_grpc(request: Request, next: Next) -> Response {
    let media_type = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    if media_type.is_some_and(|media_type| media_type.starts_with(b"application/grpc")) {
        let mut response = next.run(request).await;
        response.headers_mut().insert("grpc-accept-encoding", ACCEPTED);
        return response;
    }
    StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response()
}

/// Reads a small message to its end, so that no call waits for a client without a limit and a deadline.
async fn whole(State(grpc): State<Grpc>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let mut reader = Reader::new(body, SMALL_LIMIT_BYTES, grpc.app.body_time);
    let read = async {
        let encoding = infer::encoding(&parts.headers)?;
        let mut budget = Budget::reserve(&grpc.app.serve, 0)?;
        let read = if encoding == Encoding::Identity {
            reader.rest(&mut budget).await
        } else {
            parts.headers.remove(infer::ENCODING);
            message::plain(&mut reader, encoding, SMALL_LIMIT_BYTES, &mut budget).await
        };
        read.map_err(|error| status::unread(error, None))
    };
    match read.await {
        Ok(bytes) => next.run(Request::from_parts(parts, Body::from(bytes))).await,
        Err(error) => status::response(&error),
    }
}

async fn unknown() -> Response {
    status::response(&Error::new(ErrorCode::Unsupported, "there is no such method"))
}
