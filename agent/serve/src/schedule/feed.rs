use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{Batch, EngineError, Feed, Member, MemberId, Outputs, Signature, Work};
use wire::{Error, ErrorCode, NamedTensor, Part, Ran, Timings};

use super::{Queue, Taken, Ticket};
use crate::admit::retry_after;
use crate::model::Placed;
use crate::reply::deadline_exceeded;
use crate::stats::Success;

/// Called once, on the engine's thread, when its device is lost.
pub(crate) type OnLost = Box<dyn FnOnce() + Send>;

/// The engine thread's view of its model: takes batches from the queue and answers the tickets.
pub(crate) struct ModelFeed {
    queue: Arc<Queue>,
    signature: Arc<Signature>,
    placed: Arc<Placed>,
    version: u64,
    /// Where the engine runs now, as the replies say it.
    ran: Ran,
    /// The batch that is in the engine.
    running: Vec<Ticket>,
    started: Instant,
    forming: Duration,
    /// Members of a batch that failed, to run one by one: one bad request must not fail the others.
    singles: VecDeque<(Ticket, Member)>,
    on_lost: Option<OnLost>,
}

impl ModelFeed {
    pub(crate) fn new(
        queue: Arc<Queue>,
        signature: Arc<Signature>,
        placed: Arc<Placed>,
        version: u64,
        on_lost: OnLost,
    ) -> Self {
        Self {
            queue,
            signature,
            version,
            ran: placed.ran(),
            placed,
            running: Vec::new(),
            started: Instant::now(),
            forming: Duration::ZERO,
            singles: VecDeque::new(),
            on_lost: Some(on_lost),
        }
    }

    fn run(&mut self, started: Instant, members: Vec<Member>) -> Work {
        self.started = started;
        self.forming = started.elapsed();
        Work::Run(Batch { members })
    }

    /// A member of a failed batch whose client still waits.
    fn next_single(&mut self) -> Option<Work> {
        let now = Instant::now();
        while let Some((ticket, member)) = self.singles.pop_front() {
            if ticket.is_dead(now) {
                self.queue.fail(ticket, deadline_exceeded());
            } else {
                self.running.push(ticket);
                return Some(self.run(now, vec![member]));
            }
        }
        None
    }

    fn succeed(&mut self, rows: Vec<Outputs>, compute: Duration) {
        let timings = Timings {
            queue: Duration::ZERO,
            batch: self.forming,
            compute,
            batch_rows: self.running.iter().map(|ticket| ticket.rows).sum(),
        };
        let started = self.started;
        let timed =
            |ticket: &Ticket| Timings { queue: started.saturating_duration_since(ticket.arrived), ..timings };
        // Who went away while the engine ran, or was told that it is late, has no reply to count.
        let (waiting, gone): (Vec<_>, Vec<_>) =
            self.running.drain(..).zip(rows).partition(|(ticket, _)| ticket.reply.settle());
        for (ticket, _) in gone {
            self.queue.fail(ticket, deadline_exceeded());
        }
        self.queue.stats.batch(waiting.iter().map(|(ticket, _)| Success {
            timings: timed(ticket),
            rows: ticket.rows,
            exportable: ticket.exportable,
        }));
        for (ticket, outputs) in waiting {
            let part = Part {
                outputs: self.named(&ticket.outputs, outputs),
                model_version: self.version,
                ran: self.ran.clone(),
                timings: timed(&ticket),
            };
            self.queue.end(ticket, Ok(part));
        }
    }

    fn named(&self, wanted: &[usize], outputs: Outputs) -> Vec<NamedTensor> {
        let specs = &self.signature.outputs;
        if wanted.is_empty() {
            let named = specs.iter().zip(outputs);
            return named.map(|(spec, tensor)| NamedTensor { name: spec.name.clone(), tensor }).collect();
        }
        let one = |index: &usize| {
            let (spec, tensor) = (specs.get(*index)?, outputs.get(*index)?);
            Some(NamedTensor { name: spec.name.clone(), tensor: tensor.clone() })
        };
        wanted.iter().filter_map(one).collect()
    }

    fn fail(&mut self, batch: Batch, error: &EngineError) {
        let model = &self.queue.model;
        if error.is_lost() {
            tracing::error!(%model, version = self.version, %error, "the model is unavailable");
            // First of all, so that who comes back sees the model as it is.
            self.queue.lose(&error.to_string());
            for ticket in self.running.drain(..) {
                let text = format!("model '{model}' lost its device and is being loaded again");
                self.queue.fail(ticket, Error::unavailable(text, retry_after(Duration::ZERO)));
            }
            if let Some(on_lost) = self.on_lost.take() {
                on_lost();
            }
        } else if self.running.len() > 1 {
            let requests = self.running.len();
            tracing::warn!(%model, version = self.version, requests, error = error.kind(), "a batch failed: running its requests one by one");
            self.singles.extend(self.running.drain(..).zip(batch.members));
        } else {
            // The same line for every request of a kind, so that a log can hold it back. Never the error's text,
            // which may quote the inputs; inputs that the runtime refuses are the client's to know.
            if !matches!(error, EngineError::Input { .. }) {
                tracing::warn!(%model, version = self.version, error = error.kind(), "a request failed");
            }
            for ticket in self.running.drain(..) {
                tracing::debug!(%model, version = self.version, request = %ticket.id, "a request failed");
                self.queue.fail(ticket, to_wire(error));
            }
        }
    }
}

impl Feed for ModelFeed {
    fn next(&mut self) -> Work {
        if let Some(work) = self.next_single() {
            return work;
        }
        match self.queue.take(&mut self.running) {
            Taken::Batch { at } => {
                let member = |ticket: &mut Ticket| Member {
                    id: MemberId(ticket.id.get()),
                    inputs: std::mem::take(&mut ticket.inputs),
                };
                let members = self.running.iter_mut().map(member).collect();
                self.run(at, members)
            }
            Taken::Better(engine) => {
                self.ran = self.placed.replaced(engine.placement());
                Work::Replace(engine)
            }
            Taken::Stop => Work::Stop,
        }
    }

    fn complete(&mut self, batch: Batch, result: Result<Vec<Outputs>, EngineError>, compute: Duration) {
        self.queue.learn(self.forming + compute, self.running.len());
        match result {
            Ok(rows) if rows.len() == self.running.len() => self.succeed(rows, compute),
            Ok(rows) => {
                let error = EngineError::OutputRows { expected: self.running.len(), got: rows.len() };
                self.fail(batch, &error);
            }
            Err(error) => self.fail(batch, &error),
        }
    }
}

impl Drop for ModelFeed {
    /// The thread ends. Whatever it still had is answered, also when the reason is a bug in this feed.
    fn drop(&mut self) {
        let left = self.running.drain(..).chain(self.singles.drain(..).map(|(ticket, _)| ticket));
        for ticket in left {
            self.queue.fail(ticket, Error::new(ErrorCode::Internal, "the engine's thread ended"));
        }
        self.queue.lose("the engine's thread ended");
    }
}

fn to_wire(error: &EngineError) -> Error {
    match error {
        EngineError::Input { .. } => Error::invalid(error.to_string()),
        _ => Error::new(ErrorCode::Internal, error.to_string()),
    }
}
