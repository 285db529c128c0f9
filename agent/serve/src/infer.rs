//! The request path, from top to bottom: admit, residency, fit, schedule, reply.
//!
//! Every step either refuses at once or hands on; nothing here waits. A request that is accepted is a ticket
//! in its model's queue; the [`Reply`] is the other end of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use wire::{Error, Labels, Request};

use crate::fit::fit;
use crate::model::Model;
use crate::models::draining;
use crate::residency::{Decision, Egress, decide};
use crate::schedule::Ticket;
use crate::{Reply, Reservation, Serve, reply};

impl Serve {
    /// Runs one request. `reservation` is the room that its body was read into.
    ///
    /// # Errors
    /// At once: `UnknownModel`, `NotFound`, `Refused` by the policy, `InvalidArgument` with what the model
    /// expects, `Unavailable` when the queue is full (with when to come back), `DeadlineExceeded` when what is
    /// pending takes longer than the request's timeout. What goes wrong later comes through the [`Reply`].
    #[allow(clippy::unused_async, reason = "a durable request will wait for its journal here")]
    pub async fn infer(&self, request: Request, reservation: Reservation) -> Result<Reply, Error> {
        let arrived = Instant::now();
        let model = self.admit(&request)?;
        let exportable = self.permit(&request.labels)?;
        let (ticket, reply) = ticket(&model, request, reservation, arrived, exportable)?;
        model.queue.push(ticket).inspect_err(|error| model.stats.refused(error, exportable))?;
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

fn ticket(
    model: &Model,
    request: Request,
    room: Reservation,
    arrived: Instant,
    exportable: bool,
) -> Result<(Ticket, Reply), Error> {
    let Request { id, inputs, outputs, timeout, .. } = request;
    let fitted = fit(&model.name, &model.signature, model.config.max_batch_size, inputs, &outputs)
        .inspect_err(|error| model.stats.refused(error, exportable))?;
    let deadline = timeout.and_then(|timeout| arrived.checked_add(timeout));
    let (sender, reply) = reply::channel(deadline);
    let ticket = Ticket {
        id,
        inputs: fitted.inputs,
        rows: fitted.rows,
        outputs: fitted.outputs,
        arrived,
        deadline,
        exportable,
        room,
        reply: sender,
    };
    Ok((ticket, reply))
}
