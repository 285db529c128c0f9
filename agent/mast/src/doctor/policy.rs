use super::{Outcome, Subject};
use crate::exit::chain;

/// The residency policy can be read; the agent does not start with a wrong one.
pub(super) fn check(subject: &Subject) -> Outcome {
    let config = match subject.config() {
        Ok(config) => config,
        Err(outcome) => return outcome,
    };
    let source = match &config.policy.path {
        Some(path) => path.display().to_string(),
        None => "built-in policy, one local tenant".to_owned(),
    };
    let policy = match config.policy() {
        Ok(policy) => policy,
        Err(error) => {
            return Outcome::failed(
                chain(&error).replace('\n', " "),
                "correct the policy file; deploy/config/policy.toml is an example with every key",
            );
        }
    };
    let digest = policy.digest();
    let text = format!("{source}, sha256 {}", digest.get(..16).unwrap_or(digest));
    if config.policy.path.is_some() && config.site.is_none() {
        return Outcome::warning(
            format!("{text}; but this box states no jurisdiction, so only data labelled ZZ may run here"),
            "fill in [site] of the configuration",
        );
    }
    Outcome::ok(text)
}
