//! ModelStreamInfer: many requests on one stream, answered in their order as Triton does it.
//!
//! A request that fails is answered in its place and the stream goes on; a stream ends early only when its framing is
//! lost, the client is too slow, or the agent stops. One task per stream reads and answers; it ends with the stream,
//! and a client that goes away takes all its requests with it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use bytes::Bytes;
use http_body::Frame;
use tokio::sync::mpsc;
use wire::{Error, ErrorCode};

use super::encode::{self, Form};
use super::infer::{APPLICATION_GRPC, caller, deadline, reserve};
use super::message::{self, Incoming, Prefix};
use super::status::unread;
use super::{Grpc, request, status};
use crate::app::App;
use crate::body::{Encoding, ReadError, Reader};
use crate::call::{Caller, Pending};
use crate::connection::requested;
use crate::fault::clipped;
use crate::trace::{Parent, Trace};

/// Requests of one stream that wait for their replies; the next one is not read.
const IN_FLIGHT: usize = 64;

/// Pieces of replies that wait for the connection.
const PIECES: usize = 4;

pub(super) async fn model_stream_infer(State(grpc): State<Grpc>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let (caller, until, encoding) = match caller(&grpc.app, &parts) {
        Ok(caller) => caller,
        Err(error) => return status::response(&error),
    };
    let reader = Reader::new(body, u64::MAX, grpc.app.body_time);
    let (frames, replies) = mpsc::channel(PIECES);
    let parent = Parent::of(&parts.headers);
    let stream = Stream { grpc, caller, until, encoding, parent };
    tokio::spawn(async move {
        tokio::select! {
            () = stream.run(reader, &frames) => {}
            () = frames.closed() => {}
        }
    });
    let mut response = Response::new(Body::new(Replies(replies)));
    response.headers_mut().insert(CONTENT_TYPE, APPLICATION_GRPC);
    response
}

struct Stream {
    grpc: Grpc,
    caller: Caller,
    until: Option<Instant>,
    encoding: Encoding,
    parent: Option<Parent>,
}

/// A request in its place among the others.
struct Turn {
    id: String,
    marks_final: bool,
    outcome: Result<Pending, Error>,
    trace: Trace,
}

type Frames = mpsc::Sender<Frame<Bytes>>;

impl Stream {
    async fn run(&self, reader: Reader, frames: &Frames) {
        let (turns, waiting) = mpsc::channel(IN_FLIGHT);
        let (ended, ()) = tokio::join!(self.read(reader, turns), write(&self.grpc.app, waiting, frames));
        let status = match ended {
            Ok(()) => tonic::Status::ok(""),
            Err(error) => status::of(&error),
        };
        let mut trailers = HeaderMap::new();
        if status.add_header(&mut trailers).is_ok() {
            // The client is gone otherwise.
            frames.send(Frame::trailers(trailers)).await.ok();
        }
    }

    /// Takes requests until the client has no more.
    async fn read(&self, mut reader: Reader, turns: mpsc::Sender<Turn>) -> Result<(), Error> {
        let mut stopping = self.grpc.stopping.clone();
        // The first request was counted with the call.
        let mut counted = true;
        loop {
            // Between messages a client may take its time: pings tell whether it is there.
            reader.renew(self.until.map(Into::into));
            // A place first, so that no request is read that has none.
            let Ok(place) = turns.reserve().await else { return Ok(()) };
            let next = tokio::select! {
                next = message::next(&mut reader, self.encoding) => next.map_err(|error| unread(error, self.until))?,
                () = requested(&mut stopping) => {
                    return Err(Error::new(ErrorCode::Unavailable, "the agent stops"));
                }
            };
            let Some(prefix) = next else { return Ok(()) };
            reader.renew(Some(deadline(&self.grpc.app, self.until)));
            let admitted = if counted { Ok(()) } else { self.caller.principal().spend() };
            counted = false;
            place.send(self.turn(&mut reader, prefix, admitted).await?);
        }
    }

    /// Reads one request and puts it into its queue, or past it where it is not `admitted`. An error ends the stream.
    async fn turn(
        &self,
        reader: &mut Reader,
        prefix: Prefix,
        admitted: Result<(), Error>,
    ) -> Result<Turn, Error> {
        let app = &self.grpc.app;
        let mut incoming = Incoming::new(reader, prefix);
        let mut turn = Turn {
            id: String::new(),
            marks_final: false,
            outcome: Err(Error::invalid("")),
            trace: Trace::begin(app.traces.as_ref(), "grpc", self.parent),
        };
        let read = match admitted.and_then(|()| reserve(app, prefix.length)) {
            // What could never be read is not waited for either.
            Err(error) if error.code == ErrorCode::TooLarge => return Err(error),
            Err(error) => Err(ReadError::Refused(error)),
            Ok(budget) => request::read(app, self.caller.clone(), &mut incoming, budget, &mut turn.id).await,
        };
        turn.outcome = match read {
            Ok((call, asked)) => {
                turn.marks_final = asked.marks_final;
                turn.trace.arrived(reader.arrived());
                call.submit(app, asked.decoded, &mut turn.trace).await
            }
            Err(ReadError::Refused(error)) => {
                incoming.skip().await.map_err(|error| unread(error, self.until))?;
                Err(error)
            }
            Err(lost) => return Err(unread(lost, self.until)),
        };
        Ok(turn)
    }
}

/// Answers requests in their order.
async fn write(app: &Arc<App>, mut waiting: mpsc::Receiver<Turn>, frames: &Frames) {
    while let Some(Turn { id, marks_final, outcome, mut trace }) = waiting.recv().await {
        let answered = match outcome {
            Ok(pending) => pending.answer(app, &mut trace).await,
            Err(error) => Err(error),
        };
        let reply =
            answered.and_then(|answer| encode::reply(&answer, Form::ModelStreamInferResponse, marks_final));
        trace.ended(reply.as_ref().err().map(|error| error.code));
        let reply = reply.or_else(|error| Ok(vec![encode::failure(&id, clipped(&error.message))?]));
        let reply: Result<_, Error> = reply;
        for piece in reply.unwrap_or_default() {
            if frames.send(Frame::data(piece)).await.is_err() {
                return;
            }
        }
    }
}

/// The body of the reply.
#[derive(Debug)]
struct Replies(mpsc::Receiver<Frame<Bytes>>);

impl http_body::Body for Replies {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}
