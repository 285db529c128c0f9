//! A gRPC client without a transport of its own, and one that sends what it likes.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::{HeaderMap, Request, Uri};
use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use prost::Message;
use tokio::sync::mpsc;
use tonic::{Response, Status};
use tonic_prost::ProstCodec;
use triton::infer_parameter::ParameterChoice;
use triton::model_infer_request::InferInputTensor;
use triton::{InferParameter, ModelInferRequest, ModelInferResponse};

use crate::agent::{Agent, SOON};

pub(super) const SERVICE: &str = "/inference.GRPCInferenceService/";

pub(super) type Answer<T> = Result<Response<T>, Status>;

fn uri(address: SocketAddr, path: &str) -> Uri {
    format!("http://{address}{path}").parse().unwrap()
}

fn connector<B: Body<Data = Bytes> + Send + 'static>() -> Client<HttpConnector, B> {
    Client::builder(TokioExecutor::new()).timer(TokioTimer::new()).http2_only(true).build_http()
}

pub(super) fn grpc(address: SocketAddr) -> tonic::client::Grpc<Client<HttpConnector, tonic::body::Body>> {
    tonic::client::Grpc::with_origin(connector(), uri(address, "")).max_decoding_message_size(usize::MAX)
}

impl Agent {
    /// One call of the service on a connection of its own.
    pub(super) fn call<I: Message + 'static, O: Message + Default + 'static>(
        &self,
        method: &str,
        request: impl tonic::IntoRequest<I>,
    ) -> Answer<O> {
        self.call_path(&format!("{SERVICE}{method}"), request)
    }

    pub(super) fn call_path<I: Message + 'static, O: Message + Default + 'static>(
        &self,
        path: &str,
        request: impl tonic::IntoRequest<I>,
    ) -> Answer<O> {
        let request = request.into_request();
        let path = path.parse().unwrap();
        self.runtime.block_on(async {
            let mut grpc = grpc(self.grpc);
            grpc.ready().await.unwrap();
            let call = grpc.unary(request, path, ProstCodec::default());
            tokio::time::timeout(SOON, call).await.expect("an answer in time")
        })
    }

    pub(super) fn model_infer(
        &self,
        request: impl tonic::IntoRequest<ModelInferRequest>,
    ) -> Answer<ModelInferResponse> {
        self.call("ModelInfer", request)
    }

    pub(super) async fn has_pending(&self, count: u64) {
        let taken = async {
            while self.serve.pressure().pending_requests != count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, taken).await.expect("requests to be taken or given back");
    }

    pub(super) fn check_serving_grpc(&self) {
        self.model_infer(raw(&[1.0, 0.5, -2.0, 3e5])).unwrap();
    }
}

pub(super) fn floats(values: &[f32]) -> Bytes {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(super) fn input(shape: &[i64]) -> InferInputTensor {
    InferInputTensor {
        name: "input".to_owned(),
        datatype: "FP32".to_owned(),
        shape: shape.to_vec(),
        ..InferInputTensor::default()
    }
}

/// Rows of four for the model `echo`.
pub(super) fn raw(values: &[f32]) -> ModelInferRequest {
    let rows = i64::try_from(values.len() / 4).unwrap();
    ModelInferRequest {
        model_name: "echo".to_owned(),
        inputs: vec![input(&[rows, 4])],
        raw_input_contents: vec![floats(values)],
        ..ModelInferRequest::default()
    }
}

pub(super) fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter { parameter_choice: Some(choice) }
}

/// With its length before it.
pub(super) fn framed(message: &impl Message) -> Vec<u8> {
    prefixed(u32::try_from(message.encoded_len()).unwrap(), &message.encode_to_vec())
}

pub(super) fn prefixed(length: u32, bytes: &[u8]) -> Vec<u8> {
    [&[0], &length.to_be_bytes()[..], bytes].concat()
}

/// A call whose body is sent piece by piece.
pub(super) struct Raw {
    pub(super) feed: Option<mpsc::Sender<Bytes>>,
    response: Pin<Box<dyn Future<Output = axum::http::Response<hyper::body::Incoming>> + Send>>,
}

/// What came back: messages, and headers and trailers together.
#[derive(Debug, Default)]
pub(super) struct Ended {
    pub(super) body: Vec<u8>,
    pub(super) said: HeaderMap,
    pub(super) broken: bool,
}

impl Ended {
    pub(super) fn status(&self) -> i32 {
        self.said
            .get("grpc-status")
            .unwrap_or_else(|| panic!("no status: {self:?}"))
            .to_str()
            .unwrap()
            .parse()
            .unwrap()
    }

    pub(super) fn message(&self) -> String {
        let text = self.said.get("grpc-message").map(|text| text.to_str().unwrap()).unwrap_or_default();
        text.replace("%20", " ")
    }
}

impl Raw {
    pub(super) fn open(agent: &Agent, method: &str, headers: &[(&'static str, &str)]) -> Self {
        Self::over(
            agent,
            method,
            headers,
            |request| async move { connector().request(request).await.unwrap() },
        )
    }

    /// On a connection that the caller made.
    pub(super) fn over<F: Future<Output = axum::http::Response<hyper::body::Incoming>> + Send + 'static>(
        agent: &Agent,
        method: &str,
        headers: &[(&'static str, &str)],
        send: impl FnOnce(Request<Feed>) -> F,
    ) -> Self {
        let (feed, pieces) = mpsc::channel(64);
        let mut request = Request::post(uri(agent.grpc, &format!("{SERVICE}{method}")))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Feed(pieces)).unwrap();
        Self { feed: Some(feed), response: Box::pin(send(request)) }
    }

    /// Sends what it can while waiting for nothing.
    pub(super) fn send(&self, bytes: impl Into<Bytes>) {
        self.feed.as_ref().unwrap().try_send(bytes.into()).unwrap();
    }

    /// Everything until the agent ends the call.
    pub(super) async fn ended(self) -> Ended {
        let ended = async {
            let (parts, mut body) = self.response.await.into_parts();
            let mut ended = Ended { said: parts.headers, ..Ended::default() };
            while let Some(frame) = body.frame().await {
                match frame.map(Frame::into_data) {
                    Ok(Ok(data)) => ended.body.extend_from_slice(&data),
                    Ok(Err(frame)) => ended.said.extend(frame.into_trailers().unwrap()),
                    Err(_) => {
                        ended.broken = true;
                        break;
                    }
                }
            }
            ended
        };
        tokio::time::timeout(SOON, ended).await.expect("an end in time")
    }
}

/// The body of a [`Raw`].
pub(super) struct Feed(mpsc::Receiver<Bytes>);

impl Body for Feed {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

pub(super) fn within(timeout: Duration, request: ModelInferRequest) -> tonic::Request<ModelInferRequest> {
    let mut request = tonic::Request::new(request);
    request.set_timeout(timeout);
    request
}
