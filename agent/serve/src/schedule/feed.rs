use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use engine::{Batch, EngineError, Feed, Member, MemberId, Outputs, Step, Tensor, Work};
use wire::{Error, ErrorCode, NamedTensor, Part, Ran, Timings};

use super::{Instance, Place, Queue, Taken, Ticket};
use crate::model::Placed;
use crate::model_config::Shown;
use crate::reply::deadline_exceeded;
use crate::stats::Success;

/// Called once, on an engine's thread, when the engines of its queue are lost.
pub(crate) type OnLost = Box<dyn FnOnce(&Arc<Queue>) + Send>;

/// [`OnLost`], shared by the instances of a version: the first to lose its engine calls it.
#[derive(Clone)]
pub(crate) struct Lost(Arc<Mutex<Option<OnLost>>>);

impl Lost {
    pub(crate) fn new(on_lost: OnLost) -> Self {
        Self(Arc::new(Mutex::new(Some(on_lost))))
    }

    pub(crate) fn call(&self, queue: &Arc<Queue>) {
        let on_lost = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(on_lost) = on_lost {
            on_lost(queue);
        }
    }
}

/// An engine thread's view of its model: takes batches from the queue and answers the tickets.
pub(crate) struct ModelFeed {
    queue: Arc<Queue>,
    shown: Arc<Shown>,
    placed: Arc<Placed>,
    version: u64,
    pub(super) instance: Instance,
    /// Where the engine runs now, as the replies say it.
    ran: Ran,
    /// The batch that is in the engine.
    pub(super) running: Vec<Ticket>,
    /// Which batch of the queue that is, or the singles are; `None` once it went out.
    number: Option<u64>,
    started: Instant,
    forming: Duration,
    /// Members of a batch that failed, to run one by one: one bad request must not fail the others.
    singles: VecDeque<(Ticket, Member)>,
    /// For `preserve_ordering`: what came of the batch so far.
    outcomes: Vec<Outcome>,
    on_lost: Lost,
    is_stopped: bool,
}

/// What came of requests that were in an engine.
#[derive(Debug)]
pub(super) enum Outcome {
    Ran { members: Vec<(Ticket, Outputs)>, started: Instant, timings: Timings, ran: Ran },
    Failed { ticket: Ticket, error: Error },
}

impl ModelFeed {
    pub(crate) fn new(
        queue: Arc<Queue>,
        shown: Arc<Shown>,
        placed: Arc<Placed>,
        version: u64,
        index: usize,
        on_lost: Lost,
    ) -> Self {
        Self {
            instance: Instance { index, generation: queue.generation() },
            queue,
            shown,
            version,
            ran: placed.ran(),
            placed,
            running: Vec::new(),
            number: None,
            started: Instant::now(),
            forming: Duration::ZERO,
            singles: VecDeque::new(),
            outcomes: Vec::new(),
            on_lost,
            is_stopped: false,
        }
    }

    /// What the engine does about what was taken from the queue.
    pub(super) fn begin(&mut self, taken: Taken) -> Work {
        match taken {
            Taken::Batch { at, number } => {
                self.number = Some(number);
                let member = |ticket: &mut Ticket| Member {
                    id: ticket.place.as_ref().map_or(MemberId(ticket.id.get()), |place| place.member),
                    inputs: std::mem::take(&mut ticket.inputs),
                };
                let members = self.running.iter_mut().map(member).collect();
                self.run(at, members)
            }
            Taken::Close(members) => Work::Close(members),
            Taken::Better(engine) => {
                self.ran = self.placed.replaced(engine.placement());
                Work::Replace(engine)
            }
            Taken::Stop => {
                self.is_stopped = true;
                Work::Stop
            }
        }
    }

    fn run(&mut self, started: Instant, members: Vec<Member>) -> Work {
        self.started = started;
        let batch = Batch { members };
        let steps: Option<Vec<Step>> = match self.queue.bounds.sequencing {
            Some(_) => self.running.iter().map(|ticket| ticket.place.as_ref().map(Place::step)).collect(),
            None => None,
        };
        self.forming = started.elapsed();
        match steps {
            Some(steps) => Work::Step(batch, steps),
            None => Work::Run(batch),
        }
    }

    /// A member of a failed batch whose client still waits.
    pub(super) fn next_single(&mut self) -> Option<Work> {
        let now = Instant::now();
        while let Some((ticket, member)) = self.singles.pop_front() {
            if ticket.is_dead(now) {
                self.queue.fail(ticket, deadline_exceeded(), now);
            } else {
                self.running.push(ticket);
                self.queue.pace.began(self.instance.index, self.queue.size(&self.running), now);
                return Some(self.run(now, vec![member]));
            }
        }
        self.deliver();
        None
    }

    fn succeed(&mut self, rows: Vec<Outputs>, compute: Duration) {
        let timings = Timings {
            queue: Duration::ZERO,
            batch: self.forming,
            compute,
            batch_rows: self.running.iter().map(|ticket| ticket.rows).sum(),
        };
        let members = self.running.drain(..).zip(rows).collect();
        self.came(Outcome::Ran { members, started: self.started, timings, ran: self.ran.clone() });
    }

    /// Answers at once, or when it is this batch's turn.
    fn came(&mut self, outcome: Outcome) {
        if self.queue.order.is_some() {
            self.outcomes.push(outcome);
        } else {
            self.answer(outcome);
        }
    }

    /// The batch is done: it goes out when it is its turn. Nothing to do where batches have no order.
    fn deliver(&mut self) {
        if let (Some(order), Some(number)) = (&self.queue.order, self.number.take()) {
            let outcomes = std::mem::take(&mut self.outcomes);
            order.done(number, outcomes, |outcomes| {
                outcomes.into_iter().for_each(|outcome| self.answer(outcome));
            });
        }
    }

    fn answer(&self, outcome: Outcome) {
        let (mut members, started, timings, ran) = match outcome {
            Outcome::Ran { members, started, timings, ran } => (members, started, timings, ran),
            Outcome::Failed { ticket, error } => return self.queue.fail(ticket, error, Instant::now()),
        };
        let timed =
            |ticket: &Ticket| Timings { queue: started.saturating_duration_since(ticket.arrived), ..timings };
        // Who went away while the engine ran, or was told that it is late, has no reply to count.
        for (ticket, _) in members.extract_if(.., |(ticket, _)| !ticket.reply.settle()) {
            self.queue.fail(ticket, deadline_exceeded(), Instant::now());
        }
        self.queue.stats.batch(members.iter().map(|(ticket, _)| Success {
            timings: timed(ticket),
            rows: ticket.rows,
            exportable: ticket.exportable,
        }));
        for (ticket, outputs) in members {
            let part = Part {
                outputs: self.named(&ticket.outputs, outputs),
                model_version: self.version,
                ran: ran.clone(),
                timings: timed(&ticket),
            };
            self.queue.end(ticket, Ok(part));
        }
    }

    fn named(&self, wanted: &[usize], outputs: Outputs) -> Vec<NamedTensor> {
        let specs = &self.shown.signature.outputs;
        let named = |(index, tensor): (usize, Tensor)| {
            let name = specs.get(index)?.name.clone();
            Some(NamedTensor { name, tensor: self.shown.leave(index, tensor) })
        };
        if wanted.is_empty() {
            return outputs.into_iter().enumerate().filter_map(named).collect();
        }
        let one = |index: &usize| named((*index, outputs.get(*index)?.clone()));
        wanted.iter().filter_map(one).collect()
    }

    fn fail(&mut self, batch: Batch, error: &EngineError) {
        let model = Arc::clone(&self.queue.model);
        if error.is_lost() {
            tracing::error!(%model, version = self.version, %error, "the model is unavailable");
            // First of all, so that who comes back sees the model as it is.
            let first = self.queue.lose(self.instance.generation, &error.to_string());
            self.put_back(batch);
            if first {
                self.on_lost.call(&self.queue);
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
            for ticket in std::mem::take(&mut self.running) {
                tracing::debug!(%model, version = self.version, request = %ticket.id, "a request failed");
                self.came(Outcome::Failed { ticket, error: to_wire(error) });
            }
        }
    }
}

impl ModelFeed {
    /// The engine is lost, and did not finish `batch`: its requests run once more, each alone, in the engine that
    /// takes its place. One that was in two lost engines is not tried again.
    fn put_back(&mut self, batch: Batch) {
        let mut again = Vec::with_capacity(self.running.len() + self.singles.len());
        for (ticket, member) in std::mem::take(&mut self.running).into_iter().zip(batch.members) {
            if ticket.is_suspect {
                let text =
                    format!("model '{}' lost its engine twice while it ran this request", self.queue.model);
                self.came(Outcome::Failed { ticket, error: Error::new(ErrorCode::Internal, text) });
            } else {
                again.push(Ticket { inputs: member.inputs, is_suspect: true, ..ticket });
            }
        }
        let singles = self.singles.drain(..);
        again.extend(singles.map(|(ticket, member)| Ticket { inputs: member.inputs, ..ticket }));
        self.queue.requeue(again);
    }
}

impl Feed for ModelFeed {
    fn next(&mut self) -> Work {
        if let Some(work) = self.next_single() {
            return work;
        }
        let taken = self.queue.take(&mut self.instance, &mut self.running);
        self.begin(taken)
    }

    fn complete(&mut self, batch: Batch, result: Result<Vec<Outputs>, EngineError>, compute: Duration) {
        let size = self.queue.size(&self.running);
        let cost = self.forming + compute;
        match &result {
            Err(error) if error.is_lost() => self.queue.pace.broke(self.instance.index),
            _ => self.queue.pace.ended(self.instance.index, size, cost, self.started + cost),
        }
        match result {
            Ok(rows) if rows.len() == self.running.len() => self.succeed(rows, compute),
            Ok(rows) => {
                let error = EngineError::OutputRows { expected: self.running.len(), got: rows.len() };
                self.fail(batch, &error);
            }
            Err(error) => self.fail(batch, &error),
        }
        if self.singles.is_empty() {
            self.deliver();
        }
    }
}

impl Drop for ModelFeed {
    /// The thread ends. Whatever it still had is answered, also when the reason is a bug in this feed.
    fn drop(&mut self) {
        self.queue.instances.fetch_sub(1, Ordering::Relaxed);
        if self.is_stopped {
            return;
        }
        let left = std::mem::take(&mut self.running).into_iter();
        let left: Vec<_> = left.chain(self.singles.drain(..).map(|(ticket, _)| ticket)).collect();
        for ticket in left {
            let error = Error::new(ErrorCode::Internal, "the engine's thread ended");
            self.came(Outcome::Failed { ticket, error });
        }
        self.deliver();
        if self.queue.lose(self.instance.generation, "the engine's thread ended") {
            self.on_lost.call(&self.queue);
        }
    }
}

fn to_wire(error: &EngineError) -> Error {
    match error {
        EngineError::Input { .. } => Error::invalid(error.to_string()),
        _ => Error::new(ErrorCode::Internal, error.to_string()),
    }
}
