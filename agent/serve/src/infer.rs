//! The request path, from top to bottom: admit, residency, fit, schedule, reply.
//!
//! Every step either refuses at once or hands on; nothing here waits. A request that is accepted is a ticket
//! in its model's queue; the [`Reply`] is the other end of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use engine::MemberId;
use wire::{Error, Labels, Request, Sequence};

use crate::fit::fit;
use crate::model::Model;
use crate::models::draining;
use crate::residency::{Decision, Egress, decide};
use crate::schedule::{Key, Place, Terms, Ticket};
use crate::{Reply, Reservation, Serve, reply};

impl Serve {
    /// Runs one request. `reservation` is the room that its body was read into.
    ///
    /// # Errors
    /// At once: `UnknownModel`, `NotFound`, `Refused` by the policy, `InvalidArgument` with what the model
    /// expects, or when the request continues a sequence that is not live; `Unavailable` when the queue is full or
    /// the model keeps as many sequences as it may (with when to come back); `DeadlineExceeded` when what is before
    /// it and the request itself take longer than its timeout. What goes wrong later comes through the [`Reply`].
    #[allow(clippy::unused_async, reason = "a durable request will wait for its journal here")]
    pub async fn infer(&self, request: Request, reservation: Reservation) -> Result<Reply, Error> {
        let arrived = Instant::now();
        let model = self.admit(&request)?;
        let exportable = self.permit(&request.labels)?;
        let (ticket, mut reply) = ticket(&model, request, reservation, arrived, exportable)?;
        let gone = model.queue.push(ticket).inspect_err(|error| model.stats.refused(error, exportable))?;
        reply.accepted(gone);
        Ok(reply)
    }

    /// Is anything there that could serve it?
    fn admit(&self, request: &Request) -> Result<Arc<Model>, Error> {
        if self.draining.load(Ordering::SeqCst) {
            return Err(draining());
        }
        self.models.find(&request.model, request.version)
    }

    /// May a request with these labels run here, and may its counts leave the site? A front asks before it reads the
    /// body, so that a payload that may not be here is not even read; [`Serve::infer`] asks again.
    ///
    /// # Errors
    /// `Refused`, with the rule and what would be allowed.
    pub fn permit(&self, labels: &Labels) -> Result<bool, Error> {
        match decide(&self.policy, &self.config.site, labels) {
            Decision::Run { egress, .. } => Ok(egress == Egress::Aggregate),
            Decision::Refuse(refusal) => {
                self.refusals.count(&refusal.rule);
                Err(Error::refused(refusal))
            }
        }
    }
}

pub(crate) fn ticket(
    model: &Model,
    request: Request,
    room: Reservation,
    arrived: Instant,
    exportable: bool,
) -> Result<(Ticket, Reply), Error> {
    let Request { id, labels, inputs, outputs, timeout, priority, sequence, .. } = request;
    let bounds = model.queue.bounds();
    let refused = |error: &Error| model.stats.refused(error, exportable);
    let mut fitted = fit(&model.name, &model.shown.signature, model.config.max_batch_size, inputs, &outputs)
        .inspect_err(refused)?;
    model.shown.enter(&mut fitted.inputs);
    let place = match bounds.sequencing {
        Some(_) => Some(place(&model.name, labels.tenant, sequence, fitted.rows).inspect_err(refused)?),
        None => None,
    };
    let Terms { level, deadline, patience } = bounds.terms(priority, timeout, arrived);
    let (sender, reply) = reply::channel(deadline);
    let ticket = Ticket {
        id,
        inputs: fitted.inputs,
        rows: fitted.rows,
        outputs: fitted.outputs,
        arrived,
        deadline,
        patience,
        level,
        place,
        is_suspect: false,
        exportable,
        room,
        reply: sender,
    };
    Ok((ticket, reply))
}

/// Which sequence, for a model that keeps state. In Triton's words.
fn place(model: &str, tenant: String, sequence: Option<Sequence>, rows: usize) -> Result<Place, Error> {
    let Some(Sequence { id, start, end }) = sequence else {
        let text = format!(
            "inference request to model '{model}' must specify a non-zero or non-empty correlation ID"
        );
        return Err(Error::invalid(text));
    };
    if rows != 1 {
        let text = format!(
            "inference request to model '{model}' must specify batch-size 1 due to requirements of sequence batcher"
        );
        return Err(Error::invalid(text));
    }
    // The queue gives the member with the place.
    Ok(Place { key: Arc::new(Key { tenant, id }), member: MemberId(0), start, end })
}
