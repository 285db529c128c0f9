//! May this request run here? A pure, total function of its labels, the site and the policy: no IO, no clock,
//! no default that lets anything through.
//!
//! The order of [`decide`] is the specification (`docs/specs/residency.md` has the file format and examples):
//!
//! 1. A label whose value nobody defined is refused by `unknown-label`: a tenant that no rule names, a class or
//!    purpose outside the vocabulary, a jurisdiction that is neither ISO 3166 nor a group of the policy.
//! 2. The data's jurisdiction must cover the site's, or `site-jurisdiction` refuses. DE covers DE-BY, DE-BY
//!    does not cover DE; a group covers what one of its members covers.
//! 3. A deny rule that matches refuses, whatever else matches.
//! 4. The first allow rule that matches decides execution and egress.
//! 5. `default-deny` refuses the rest.

mod countries;
mod policy;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::Deserialize;
use wire::{Jurisdiction, Labels, Refusal};

pub use policy::Policy;
use policy::{Rule, USER_ASSIGNED};

/// Where this agent is, as far as the law goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Site {
    /// A country or a subdivision. Without it the site is in `ZZ`, a code that ISO 3166 leaves to its users:
    /// only data labelled `ZZ` may then run here.
    pub jurisdiction: Option<Jurisdiction>,
}

impl Site {
    /// The configured jurisdiction, or `ZZ`.
    pub fn jurisdiction(&self) -> &Jurisdiction {
        self.jurisdiction.as_ref().unwrap_or(&USER_ASSIGNED)
    }
}

/// How a permitted request may run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Execution {
    #[default]
    Run,
    /// Nothing of it may be written to disk: it cannot be a durable request.
    RunEphemeral,
}

/// What of a permitted request may leave the site.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Egress {
    /// Not even a count.
    #[default]
    None,
    /// Counts and durations, summed with those of other requests.
    Aggregate,
}

/// What the policy says to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Run { rule: Arc<str>, execution: Execution, egress: Egress },
    Refuse(Refusal),
}

pub(crate) const UNKNOWN_LABEL: &str = "unknown-label";
pub(crate) const SITE_JURISDICTION: &str = "site-jurisdiction";
pub(crate) const DEFAULT_DENY: &str = "default-deny";

/// Whether, by which rule, and how a request with these labels runs at this site.
pub fn decide(policy: &Policy, site: &Site, labels: &Labels) -> Decision {
    let refuse = |rule: &str, allowed: String| Decision::Refuse(Refusal { rule: rule.to_owned(), allowed });

    if !policy.names_tenant(&labels.tenant) {
        return refuse(UNKNOWN_LABEL, "a tenant that a rule of the policy names".to_owned());
    }
    if !policy.data_classes.contains(&labels.data_class) {
        return refuse(UNKNOWN_LABEL, format!("a data class out of: {}", policy.data_classes.join(", ")));
    }
    if !policy.purposes.contains(&labels.purpose) {
        return refuse(UNKNOWN_LABEL, format!("a purpose out of: {}", policy.purposes.join(", ")));
    }
    let Some(data) = policy.places(&labels.jurisdiction) else {
        return refuse(UNKNOWN_LABEL, policy.known_jurisdictions());
    };

    let here = site.jurisdiction();
    if !data.iter().any(|place| place.covers(here)) {
        let allowed = format!("data whose jurisdiction covers this site's, {here}");
        return refuse(SITE_JURISDICTION, allowed);
    }

    let may = || allowed_here(policy, here, &labels.tenant);
    if let Some(deny) = policy.denies.iter().find(|rule| rule.concerns(labels) && rule.touches(data)) {
        return refuse(&deny.id, format!("{}, except what rule '{}' denies", may(), deny.id));
    }
    match policy.allows.iter().find(|rule| rule.concerns(labels) && rule.contains(data)) {
        Some(allow) => {
            Decision::Run { rule: Arc::clone(&allow.id), execution: allow.execution, egress: allow.egress }
        }
        None => refuse(DEFAULT_DENY, may()),
    }
}

impl Rule {
    fn concerns(&self, labels: &Labels) -> bool {
        let lists = |list: &Option<Vec<String>>, value: &String| {
            list.as_ref().is_none_or(|list| list.contains(value))
        };
        lists(&self.tenants, &labels.tenant)
            && lists(&self.data_classes, &labels.data_class)
            && lists(&self.purposes, &labels.purpose)
    }

    /// For an allow: every place the data belongs to is covered by the rule's jurisdictions.
    fn contains(&self, data: &[Jurisdiction]) -> bool {
        self.places
            .as_ref()
            .is_none_or(|places| data.iter().all(|inner| places.iter().any(|outer| outer.covers(inner))))
    }

    /// For a deny: any part in common is enough, so that data of DE cannot escape a rule about DE-BY.
    fn touches(&self, data: &[Jurisdiction]) -> bool {
        self.places.as_ref().is_none_or(|places| {
            data.iter().any(|one| places.iter().any(|other| other.covers(one) || one.covers(other)))
        })
    }
}

/// What the allow rules let this tenant do at this site. Says nothing of other tenants.
fn allowed_here(policy: &Policy, here: &Jurisdiction, tenant: &String) -> String {
    let mut ways = Vec::new();
    for rule in &policy.allows {
        let reachable = rule.touches(std::slice::from_ref(here));
        if reachable && rule.tenants.as_ref().is_none_or(|tenants| tenants.contains(tenant)) {
            let classes = rule.data_classes.as_ref().unwrap_or(&policy.data_classes).join(" or ");
            let purposes = rule.purposes.as_ref().unwrap_or(&policy.purposes).join(" or ");
            let places = match &rule.jurisdictions {
                Some(words) => words.join(" or "),
                None => format!("any that covers {here}"),
            };
            ways.push(format!("data class {classes}; purpose {purposes}; jurisdiction {places}"));
        }
    }
    if ways.is_empty() { format!("nothing for this tenant in {here}") } else { ways.join(", or ") }
}
