//! Closed-loop load over gRPC: [`super::run`] for `inference.GRPCInferenceService/ModelInfer`. One thread, one HTTP/2 connection
//! for each caller, and the bytes of the message made once: the client takes as little as it can of the cores it shares.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::Request;
use prost::Message;
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use triton::model_infer_request::InferInputTensor;
use triton::{ModelInferRequest, ModelInferResponse};

use super::{Outcome, STALL_LIMIT, Until};

const PATH: &str = "/inference.GRPCInferenceService/ModelInfer";
/// Room for what a reply may bring before the client says that it has read some.
const WINDOW: u32 = 4 << 20;
/// `RESOURCE_EXHAUSTED` and `UNAVAILABLE`: refused for want of room.
const REFUSED: [&str; 2] = ["8", "14"];

/// One tensor: name, datatype as in the protocol, shape, little-endian bytes.
pub type Input<'a> = (&'a str, &'a str, &'a [i64], &'a [u8]);

/// A `ModelInfer` with raw contents, framed.
pub fn message(model: &str, inputs: &[Input<'_>]) -> Result<Bytes> {
    frame(&request(model, inputs))
}

/// A `ModelInfer` with raw contents.
pub fn request(model: &str, inputs: &[Input<'_>]) -> ModelInferRequest {
    ModelInferRequest {
        model_name: model.to_owned(),
        inputs: inputs
            .iter()
            .map(|(name, datatype, shape, _)| InferInputTensor {
                name: (*name).to_owned(),
                datatype: (*datatype).to_owned(),
                shape: shape.to_vec(),
                ..InferInputTensor::default()
            })
            .collect(),
        raw_input_contents: inputs.iter().map(|(.., bytes)| bytes.to_vec().into()).collect(),
        ..ModelInferRequest::default()
    }
}

/// A message as it goes over the wire: a byte for "not compressed", four of length, the message.
pub fn frame(message: &impl Message) -> Result<Bytes> {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.encoded_len())?);
    message.encode(&mut framed)?;
    Ok(framed.freeze())
}

/// Sends `message` over `connections`. Any status but OK and the two of a refusal is an error.
pub fn run(address: SocketAddr, message: &Bytes, connections: usize, until: Until) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let mut callers = Vec::with_capacity(connections);
        for _ in 0..connections {
            callers.push(connect(address).await?);
        }
        let shared =
            Rc::new(Shared { started: Instant::now(), until, begun: 0.into(), outcome: <_>::default() });
        let tasks: Vec<_> = callers
            .into_iter()
            .map(|caller| tokio::task::spawn_local(call(caller, message.clone(), shared.clone())))
            .collect();
        for task in tasks {
            task.await??;
        }
        let mut outcome = shared.outcome.take();
        outcome.elapsed = shared.started.elapsed();
        outcome.latencies.sort_unstable();
        Ok(outcome)
    })
}

/// One call; the reply.
pub fn send(address: SocketAddr, message: &Bytes) -> Result<ModelInferResponse> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let mut caller = connect(address).await?;
        match exchange(&mut caller, message).await? {
            Answer::Ok(bytes) => {
                ensure!(bytes.len() >= 5, "a reply without a message");
                Ok(ModelInferResponse::decode(&bytes[5..])?)
            }
            Answer::Refused => bail!("refused"),
        }
    })
}

struct Shared {
    started: Instant,
    until: Until,
    begun: std::cell::Cell<u64>,
    outcome: std::cell::RefCell<Outcome>,
}

impl Shared {
    fn another(&self) -> bool {
        let more = match self.until {
            Until::Requests(all) => self.begun.get() < all,
            Until::After(limit) => self.started.elapsed() < limit,
        };
        self.begun.set(self.begun.get() + u64::from(more));
        more
    }
}

async fn connect(address: SocketAddr) -> Result<SendRequest<Bytes>> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true)?;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
    let (caller, connection) = builder.handshake::<_, Bytes>(stream).await?;
    tokio::task::spawn_local(async move {
        // How it ended is told to the calls that it carried.
        connection.await.ok();
    });
    Ok(caller)
}

async fn call(mut caller: SendRequest<Bytes>, message: Bytes, shared: Rc<Shared>) -> Result<()> {
    while shared.another() {
        let sent = Instant::now();
        let answer = tokio::time::timeout(STALL_LIMIT, exchange(&mut caller, &message))
            .await
            .with_context(|| format!("no reply for {STALL_LIMIT:?}"))??;
        let mut outcome = shared.outcome.borrow_mut();
        match answer {
            Answer::Ok(_) => {
                outcome.replies += 1;
                outcome.latencies.push(sent.elapsed());
            }
            Answer::Refused => outcome.refused += 1,
        }
    }
    Ok(())
}

enum Answer {
    Ok(Vec<u8>),
    Refused,
}

async fn exchange(caller: &mut SendRequest<Bytes>, message: &Bytes) -> Result<Answer> {
    let request = Request::post(format!("http://mast{PATH}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    room(caller).await?;
    let (reply, mut body) = caller.send_request(request, false)?;
    body.send_data(message.clone(), true)?;
    let (head, mut body) = reply.await?.into_parts();
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        bytes.extend_from_slice(&chunk);
        body.flow_control().release_capacity(chunk.len())?;
    }
    let trailers = body.trailers().await?;
    let ends = trailers.as_ref().unwrap_or(&head.headers);
    let word = |name: &str| ends.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match word("grpc-status") {
        "0" => Ok(Answer::Ok(bytes)),
        status if REFUSED.contains(&status) => Ok(Answer::Refused),
        status => bail!("{} with grpc-status {status:?}: {}", head.status, word("grpc-message")),
    }
}

async fn room(caller: &mut SendRequest<Bytes>) -> Result<()> {
    Ok(std::future::poll_fn(|context| caller.poll_ready(context)).await?)
}
