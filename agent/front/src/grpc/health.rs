//! `grpc.health.v1.Health` (gRPC health checking protocol): the agent itself, under no name and under that of its
//! service.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use serve::Serve;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::Grpc;
use crate::connection::requested;

/// How soon a change is told to who watches.
const LOOK_EVERY: Duration = Duration::from_millis(500);

fn is_known(service: &str) -> bool {
    ["", "inference.GRPCInferenceService", "grpc.health.v1.Health"].contains(&service)
}

fn status(serve: &Serve) -> ServingStatus {
    if serve.is_ready() { ServingStatus::Serving } else { ServingStatus::NotServing }
}

#[tonic::async_trait]
impl Health for Grpc {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !is_known(&request.get_ref().service) {
            return Err(Status::not_found("there is no such service"));
        }
        Ok(Response::new(HealthCheckResponse { status: i32::from(status(self.serve())) }))
    }

    type WatchStream = Watch;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Watch>, Status> {
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stopping = self.stopping.clone();
        Ok(Response::new(Watch {
            serve: is_known(&request.get_ref().service).then(|| Arc::clone(self.serve())),
            told: None,
            look,
            stopping: Some(Box::pin(async move { requested(&mut stopping).await })),
        }))
    }
}

/// The present status, then every change until the agent stops.
pub(crate) struct Watch {
    /// `None`: no service of that name.
    serve: Option<Arc<Serve>>,
    told: Option<ServingStatus>,
    look: Interval,
    /// `None` once it has.
    stopping: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("told", &self.told).finish_non_exhaustive()
    }
}

impl Stream for Watch {
    type Item = Result<HealthCheckResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if self.stopping.as_mut().is_some_and(|stopping| stopping.as_mut().poll(cx).is_ready()) {
                self.stopping = None;
            }
            let stopping = self.stopping.is_none();
            let now = match &self.serve {
                None => ServingStatus::ServiceUnknown,
                Some(_) if stopping => ServingStatus::NotServing,
                Some(serve) => status(serve),
            };
            if self.told != Some(now) {
                self.told = Some(now);
                return Poll::Ready(Some(Ok(HealthCheckResponse { status: i32::from(now) })));
            }
            if stopping {
                return Poll::Ready(None);
            }
            ready!(self.look.poll_tick(cx));
        }
    }
}
