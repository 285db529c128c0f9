//! The way out: MQTT 5 to the hub, run as `mast uplink`, a process of its own that sees records and nothing else.
//!
//! Two ends of one inherited socket:
//!
//! - [`serve_uplink`] in the agent: hands records of the outbox to the child and frees what the hub acknowledged. One task,
//!   plus one that reads the socket; the outbox is called on tokio's blocking threads.
//! - [`run_uplink`] in the child: all of `mast uplink`. One task that decides, one that reads the socket, and one per MQTT
//!   connection that owns its event loop.
//!
//! In: records as bytes, from the parent; acknowledgements, from the hub. Out: batches of records, birth and will.
//!
//! What it never does: send bytes it cannot read as an [`egress::Record`]; free a record for anything but the
//! hub's own acknowledgement (a PUBACK says only that the broker has it); trust the broker; touch a file of the agent but the
//! credentials that its configuration names.

#![forbid(unsafe_code)]

mod config;
mod error;

mod frames;
mod outbox;
mod serve;
mod state;

mod uplink;

pub use config::{Broker, Config, UplinkConfig};
pub use error::Error;
pub use outbox::{OutboxError, OutboxSource};
pub use serve::serve_uplink;
pub use state::{BrokerReason, Counts, UplinkState};
pub use uplink::{run_uplink, socket_from_stdin};
