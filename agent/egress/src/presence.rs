//! Whether a box is there: the retained birth, and the will the broker publishes in its place.

use serde::{Deserialize, Serialize};

use crate::sealed::Sealed;
use crate::{Egress, FormatVersion, Ident, Jurisdiction, Provider};

/// Published retained on `…/st` after every CONNACK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Birth {
    /// Format version.
    pub v: FormatVersion,
    /// Always true.
    pub online: bool,
    /// The outbox stream the box writes now.
    #[serde(with = "crate::fixed::hex_u64")]
    pub epoch: u64,
    /// Random, made when the agent starts: another value means that it restarted.
    #[serde(with = "crate::fixed::hex_u64")]
    pub boot: u64,
    /// The agent's version.
    pub agent: Ident,
    /// [`crate::PROTOCOL`].
    pub proto: u32,
    /// Where the site stands.
    pub jurisdiction: Jurisdiction,
    /// What the box can do.
    pub caps: Vec<Capability>,
}

impl Birth {
    /// The birth of a box that runs `agent` and writes the stream `epoch`.
    #[must_use]
    pub fn new(
        epoch: u64,
        boot: u64,
        agent: Ident,
        jurisdiction: Jurisdiction,
        caps: Vec<Capability>,
    ) -> Self {
        Self {
            v: FormatVersion,
            online: true,
            epoch,
            boot,
            agent,
            proto: crate::PROTOCOL,
            jurisdiction,
            caps,
        }
    }
}

/// One thing a box can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// It sends metric records.
    Metrics,
    /// It folds old records into roll-ups at its quota.
    Rollup,
    /// It computes with this provider.
    Provider(Provider),
}

/// Published retained on `…/st` by the broker when a box is lost, or by the box itself when it stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Will {
    /// Format version.
    pub v: FormatVersion,
    /// Always false.
    pub online: bool,
    /// The outbox stream the box wrote. A will of another epoch than the last birth's is an old one.
    #[serde(with = "crate::fixed::hex_u64")]
    pub epoch: u64,
}

impl Will {
    /// The end of the connection of the box that writes `epoch`.
    #[must_use]
    pub fn new(epoch: u64) -> Self {
        Self { v: FormatVersion, online: false, epoch }
    }
}

impl Sealed for Birth {
    const WHAT: &'static str = "birth";
}

impl Egress for Birth {
    const LIMIT_BYTES: usize = 4 * 1024;
}

impl Sealed for Will {
    const WHAT: &'static str = "will";
}

impl Egress for Will {
    const LIMIT_BYTES: usize = 256;
}
