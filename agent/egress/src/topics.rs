//! Topic names. One box owns the tree `mast/v1/<org>/<region>/<site>/<box>/`.

use crate::Site;

/// The topics of one box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    prefix: String,
}

/// The documents of the desired and reported state. The names are reserved; nothing is exchanged on them yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    /// `config`
    Config,
    /// `models`
    Models,
    /// `policy`
    Policy,
    /// `residency`
    Residency,
}

impl Document {
    /// The last level of its topic.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Models => "models",
            Self::Policy => "policy",
            Self::Residency => "residency",
        }
    }
}

impl Topics {
    /// What a hub subscribes to for the metric streams of every box.
    pub const ALL_METRICS: &str = "mast/v1/+/+/+/+/m/#";

    /// The topics of the box that `site` names.
    #[must_use]
    pub fn new(site: &Site) -> Self {
        Self { prefix: format!("mast/v1/{site}") }
    }

    /// `mast/v1/<org>/<region>/<site>/<box>`, without a slash at the end.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// `…/st`: retained birth; the will.
    #[must_use]
    pub fn state(&self) -> String {
        format!("{}/st", self.prefix)
    }

    /// `…/m/metrics`: batches of records.
    #[must_use]
    pub fn metrics(&self) -> String {
        format!("{}/m/metrics", self.prefix)
    }

    /// `…/ack`: the hub's acknowledgements.
    #[must_use]
    pub fn ack(&self) -> String {
        format!("{}/ack", self.prefix)
    }

    /// `…/des/<document>`: reserved.
    #[must_use]
    pub fn desired(&self, document: Document) -> String {
        format!("{}/des/{}", self.prefix, document.as_str())
    }

    /// `…/rep/<document>`: reserved.
    #[must_use]
    pub fn reported(&self, document: Document) -> String {
        format!("{}/rep/{}", self.prefix, document.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Ident, Jurisdiction};

    fn site(parts: [&str; 4]) -> Site {
        let [org, region, site, box_id] = parts.map(|part| Ident::new(part).unwrap());
        Site { org, region, site, box_id, jurisdiction: Jurisdiction::new("DE").unwrap() }
    }

    #[test]
    fn the_tree_is_that_of_the_spec() {
        let topics = Topics::new(&site(["acme", "eu-1", "muc-3", "box-1"]));
        assert_eq!(topics.prefix(), "mast/v1/acme/eu-1/muc-3/box-1");
        assert_eq!(topics.state(), "mast/v1/acme/eu-1/muc-3/box-1/st");
        assert_eq!(topics.metrics(), "mast/v1/acme/eu-1/muc-3/box-1/m/metrics");
        assert_eq!(topics.ack(), "mast/v1/acme/eu-1/muc-3/box-1/ack");
        assert_eq!(topics.desired(Document::Models), "mast/v1/acme/eu-1/muc-3/box-1/des/models");
        assert_eq!(topics.reported(Document::Policy), "mast/v1/acme/eu-1/muc-3/box-1/rep/policy");
    }

    proptest! {
        #[test]
        fn no_name_adds_a_level_or_a_wildcard(parts in proptest::array::uniform4("[a-z0-9._-]{1,64}")) {
            let topics = Topics::new(&site([&parts[0], &parts[1], &parts[2], &parts[3]]));
            for (topic, levels) in [(topics.state(), 7), (topics.metrics(), 8), (topics.ack(), 7)] {
                prop_assert_eq!(topic.split('/').count(), levels);
                prop_assert!(!topic.contains(['+', '#', '$', '\0']));
            }
        }
    }
}
