use std::time::Instant;

use tokio::sync::oneshot;
use wire::{Error, ErrorCode, Part};

/// The parts of one request's answer, in order. Dropping it is the client going away: its ticket is dropped
/// before the next batch is formed.
///
/// An ordinary model sends one part, so the channel behind it holds one.
#[derive(Debug)]
pub struct Reply {
    parts: Option<oneshot::Receiver<Result<Part, Error>>>,
    deadline: Option<Instant>,
}

/// The engine's end of a reply.
pub(crate) type Sender = oneshot::Sender<Result<Part, Error>>;

pub(crate) fn channel(deadline: Option<Instant>) -> (Sender, Reply) {
    let (sender, parts) = oneshot::channel();
    (sender, Reply { parts: Some(parts), deadline })
}

impl Reply {
    /// The next part; `None` after the last one or an error. Cancel safe.
    ///
    /// At the deadline it is an error at once, even while the engine is still busy with other requests.
    pub async fn next(&mut self) -> Option<Result<Part, Error>> {
        let parts = self.parts.as_mut()?;
        let received = match self.deadline {
            None => parts.await,
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), parts).await {
                Ok(received) => received,
                Err(_) => Ok(Err(deadline_exceeded())),
            },
        };
        self.parts = None;
        // Only an engine thread that died drops a ticket unanswered.
        Some(received.unwrap_or_else(|_| Err(Error::new(ErrorCode::Internal, "the engine's thread ended"))))
    }

    /// The answer of a model that sends exactly one part.
    ///
    /// # Errors
    /// The request's error, or `Internal` when no part came.
    pub async fn single(mut self) -> Result<Part, Error> {
        let nothing = || Err(Error::new(ErrorCode::Internal, "the model sent no part"));
        self.next().await.unwrap_or_else(nothing)
    }
}

/// Triton's words, which its clients look for.
pub(crate) fn deadline_exceeded() -> Error {
    Error::new(ErrorCode::DeadlineExceeded, "Request timeout expired")
}
