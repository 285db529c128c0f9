use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tokio::sync::oneshot;
use wire::{Error, ErrorCode, Part};

use crate::schedule::Gone;

/// The parts of one request's answer, in order. Dropping it is the client going away: its ticket is dropped
/// before the next batch is formed.
///
/// An ordinary model sends one part, so the channel behind it holds one.
#[derive(Debug)]
pub struct Reply {
    parts: Option<oneshot::Receiver<Result<Part, Error>>>,
    deadline: Option<(Instant, Settled)>,
    /// Where it is counted that nobody waits for the ticket any more.
    gone: Option<Arc<Gone>>,
}

/// Set by the result or by the deadline, whichever comes first: that one is told and that one is counted.
type Settled = Arc<AtomicBool>;

/// The engine's end of a reply.
#[derive(Debug)]
pub(crate) struct Sender {
    parts: oneshot::Sender<Result<Part, Error>>,
    settled: Option<Settled>,
}

pub(crate) fn channel(deadline: Option<Instant>) -> (Sender, Reply) {
    let (sender, parts) = oneshot::channel();
    let deadline = deadline.map(|deadline| (deadline, Settled::default()));
    let settled = deadline.as_ref().map(|(_, settled)| Arc::clone(settled));
    (Sender { parts: sender, settled }, Reply { parts: Some(parts), deadline, gone: None })
}

impl Sender {
    /// The client went away, or was told that its deadline passed.
    pub(crate) fn is_closed(&self) -> bool {
        self.parts.is_closed()
    }

    /// Whether a result still counts. Then the client waits for it, past its deadline if need be.
    pub(crate) fn settle(&self) -> bool {
        !self.is_closed() && self.settled.as_ref().is_none_or(is_first)
    }

    /// Whether somebody listens; that the client went away meanwhile is fine.
    pub(crate) fn send(self, result: Result<Part, Error>) -> bool {
        self.parts.send(result).is_ok()
    }
}

fn is_first(settled: &Settled) -> bool {
    !settled.swap(true, Ordering::AcqRel)
}

impl Reply {
    /// Its ticket has a place in a queue.
    pub(crate) fn accepted(&mut self, gone: Arc<Gone>) {
        self.gone = Some(gone);
    }

    /// Nobody waits for the ticket any more. Counted exactly when the sender then finds nobody.
    fn leave(&mut self) {
        let (Some(mut parts), Some(gone)) = (self.parts.take(), self.gone.take()) else { return };
        parts.close();
        if parts.try_recv().is_err() {
            gone.add();
        }
    }

    /// The next part; `None` after the last one or an error. Cancel safe.
    ///
    /// At the deadline it is an error at once, even while the engine is still busy with other requests.
    pub async fn next(&mut self) -> Option<Result<Part, Error>> {
        let parts = self.parts.as_mut()?;
        let received = match &self.deadline {
            None => parts.await,
            Some((deadline, settled)) => {
                match tokio::time::timeout_at((*deadline).into(), &mut *parts).await {
                    Ok(received) => received,
                    Err(_) if is_first(settled) => {
                        self.leave();
                        return Some(Err(deadline_exceeded()));
                    }
                    // The result was counted already and is on its way.
                    Err(_) => parts.await,
                }
            }
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

impl Drop for Reply {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Triton's words, which its clients look for.
pub(crate) fn deadline_exceeded() -> Error {
    Error::new(ErrorCode::DeadlineExceeded, "Request timeout expired")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_counted_is_what_is_told() {
        let (sender, mut reply) = channel(Some(Instant::now()));
        assert!(sender.settle());
        let mut told = std::pin::pin!(reply.next());
        let late = tokio::time::timeout(std::time::Duration::from_secs(1), &mut told).await;
        assert!(late.is_err(), "{late:?} while the result is being counted");
        sender.send(Err(Error::invalid("the result")));
        assert_eq!(told.await.unwrap().unwrap_err().message, "the result");

        let (sender, mut reply) = channel(Some(Instant::now()));
        let told = reply.next().await.unwrap().unwrap_err();
        assert_eq!(told.code, ErrorCode::DeadlineExceeded);
        assert!(!sender.settle(), "the result of a request that was told to be late counts");
    }
}
