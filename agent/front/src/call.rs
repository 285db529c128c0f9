//! THE WAY OF EVERY INFERENCE through the front, whatever protocol it came by. What a protocol brings is how it
//! reads a body and how it writes a reply; the steps between are these, in the order that refuses early:
//!
//! 1. [`Caller::of`]: whose request is it, and may it run here? From the headers alone.
//! 2. [`Call::open`]: may they use the model, and what serves it?
//! 3. [`Call::reserve`]: is there room for its body? Only now is the body read.
//! 4. the protocol's own decoding, into memory that [`Call`] gives (it is the decoders' [`Room`])
//! 5. [`Call::submit`]: into the model's queue
//! 6. [`Pending::answer`]: the result, with what its encoding needs
//!
//! Dropping any of them gives back what it held; dropping [`Pending`] is the client going away.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::http::request::Parts;
use engine::BufferMut;
use serve::{ModelView, Reply};
use wire::{Error, Labels, NamedTensor, Part, Request, RequestId};

use crate::access::Principal;
use crate::app::{App, Classes};
use crate::body::Budget;
use crate::decode::{Room, Wishes};
use crate::encode::{Context, Wanted};
use crate::labels::labels;
use crate::target::Target;
use crate::trace::Trace;

/// Who asks, and until when.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    principal: Principal,
    labels: Labels,
    deadline: Option<Instant>,
}

impl Caller {
    /// # Errors
    /// `Refused`: a label cannot be read, or the policy says no.
    pub(crate) fn of(app: &App, parts: &Parts) -> Result<Self, Error> {
        let labels = labels(&parts.headers, &app.labels).inspect_err(|_| {
            app.unread_labels.fetch_add(1, Ordering::Relaxed);
        })?;
        app.serve.permit(&labels)?;
        Ok(Self { principal: Principal::of(&parts.extensions), labels, deadline: None })
    }

    /// The protocol itself says how long the client waits.
    #[must_use]
    pub(crate) fn until(self, deadline: Option<Instant>) -> Self {
        Self { deadline, ..self }
    }

    pub(crate) fn principal(&self) -> &Principal {
        &self.principal
    }
}

/// A request whose body is being read.
#[derive(Debug)]
pub(crate) struct Call {
    caller: Caller,
    target: Target,
    view: ModelView,
    pub(crate) budget: Budget,
}

/// What a protocol's decoder makes of a body.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) inputs: Vec<NamedTensor>,
    pub(crate) wanted: Wanted,
    pub(crate) wishes: Wishes,
}

impl Call {
    /// `budget`: what the body has already been given room for, which is nothing where the model stands in the path.
    ///
    /// # Errors
    /// `Refused` where the caller may not use the model, `UnknownModel`, `NotFound`, or `Unavailable` while the model is loading.
    pub(crate) fn open(app: &App, caller: Caller, target: Target, budget: Budget) -> Result<Self, Error> {
        caller.principal.permit(&target.model)?;
        let view = app.serve.find(&target.model, target.version)?;
        Ok(Self { caller, target, view, budget })
    }

    /// # Errors
    /// `TooLarge` and `Unavailable`; the body is then not to be read.
    pub(crate) fn reserve(&mut self, app: &App, bytes: u64) -> Result<(), Error> {
        self.budget = Budget::reserve(&app.serve, bytes)?;
        Ok(())
    }

    pub(crate) fn view(&self) -> &ModelView {
        &self.view
    }

    /// Whether `inputs` are worth reading. Fewer than expected is the request path's to say, which knows what is missing.
    ///
    /// # Errors
    /// `InvalidArgument`: there are more than the model has.
    pub(crate) fn expects(&self, inputs: usize) -> Result<(), Error> {
        let expected = self.view.signature.inputs.len();
        if inputs <= expected {
            return Ok(());
        }
        let model = &self.view.name;
        Err(Error::invalid(format!("expected {expected} inputs but got {inputs} inputs for model '{model}'")))
    }

    /// # Errors
    /// Those of [`serve::Serve::infer`].
    pub(crate) async fn submit(
        self,
        app: &App,
        decoded: Decoded,
        trace: &mut Trace,
    ) -> Result<Pending, Error> {
        let Self { caller, target, view, budget } = self;
        let Decoded { inputs, wanted, wishes } = decoded;
        let id = trace.id();
        trace.accepted(&view.name);
        let request = Request {
            id,
            model: target.model,
            version: target.version,
            labels: caller.labels,
            inputs,
            outputs: wanted.names(),
            timeout: sooner(wishes.timeout(), caller.deadline),
            priority: wishes.priority,
            sequence: wishes.sequence(),
        };
        let reply = app.serve.infer(request, budget.into_reservation()).await;
        let reply = reply.inspect_err(|error| trace.refused(app, error))?;
        Ok(Pending { id, view, wanted, reply })
    }
}

impl Room for Call {
    fn take(&mut self, bytes: usize) -> Result<BufferMut, Error> {
        self.budget.spend(bytes)?;
        Ok(self.view.allocate(bytes))
    }
}

/// The client's two words on how long it waits, from now.
fn sooner(timeout: Option<Duration>, deadline: Option<Instant>) -> Option<Duration> {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    match (timeout, left) {
        (Some(timeout), Some(left)) => Some(timeout.min(left)),
        (timeout, left) => timeout.or(left),
    }
}

/// A request that has its place in the queue.
#[derive(Debug)]
pub(crate) struct Pending {
    id: RequestId,
    view: ModelView,
    wanted: Wanted,
    reply: Reply,
}

impl Pending {
    /// # Errors
    /// What went wrong after the request was accepted.
    pub(crate) async fn answer(self, app: &Arc<App>, trace: &mut Trace) -> Result<Answer, Error> {
        let Self { id, view, wanted, reply } = self;
        let part = reply.single().await?;
        trace.ran(&part);
        tracing::debug!(request = %id, model = &*view.name, provider = %part.ran.provider, "answered");
        let labels = app.label_lines(&view, wanted.classified()).await;
        Ok(Answer { id, part, wanted, view, labels })
    }
}

/// A result, and what its encoding needs.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) id: RequestId,
    pub(crate) part: Part,
    pub(crate) wanted: Wanted,
    view: ModelView,
    labels: Classes,
}

impl Answer {
    pub(crate) fn context(&self) -> Context<'_> {
        Context { model: &self.view.name, batches: self.view.config.max_batch_size > 0, labels: &self.labels }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_of_both_deadlines_counts() {
        let check = |timeout: Option<u64>, deadline: Option<u64>, expected: Option<(u64, u64)>| {
            let until = deadline.map(|secs| Instant::now() + Duration::from_secs(secs));
            let got = sooner(timeout.map(Duration::from_secs), until).map(|duration| duration.as_secs_f64());
            let fits = match (got, expected) {
                (Some(got), Some((low, high))) => (low as f64..=high as f64).contains(&got),
                (got, expected) => got.is_none() && expected.is_none(),
            };
            assert!(fits, "{timeout:?} {deadline:?}: {got:?}");
        };
        check(None, None, None);
        check(Some(5), None, Some((5, 5)));
        check(None, Some(50), Some((40, 50)));
        check(Some(5), Some(50), Some((5, 5)));
        check(Some(500), Some(50), Some((40, 50)));
        check(None, Some(0), Some((0, 0)));
    }
}
