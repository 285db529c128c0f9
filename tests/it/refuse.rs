//! Residency: what the labels and the policy do not allow is refused with the rule's id, and never guessed.

use anyhow::{Result, ensure};
use harness::http::Request;
use harness::infer::json as json_body;
use harness::{Agent, http};

use crate::setup_with_add;

const POLICY: &str = r#"
version = 1

[groups]
EU = ["DE", "FR"]

[[rules]]
id = "no-secrets"
effect = "deny"
data_classes = ["secret"]

[[rules]]
id = "acme-inference"
effect = "allow"
tenants = ["acme"]
purposes = ["inference"]
jurisdictions = ["EU"]
egress = "aggregate"
"#;

const SITE: &str =
    "[site]\norg = \"org\"\nregion = \"south\"\nsite = \"muc\"\nbox = \"b1\"\njurisdiction = \"DE-BY\"\n";

fn agent() -> Result<Agent> {
    setup_with_add()?.config(SITE).policy(POLICY)?.start()
}

fn labelled(labels: &[(&str, &str)]) -> Request {
    let request = json_body("add", "x", &[1, 4], &[0.0; 4]);
    labels.iter().fold(request, |request, (name, value)| request.with(name, value))
}

const ALLOWED: [(&str, &str); 4] = [
    ("Mast-Tenant", "acme"),
    ("Mast-Jurisdiction", "DE-BY"),
    ("Mast-Data-Class", "personal"),
    ("Mast-Purpose", "inference"),
];

/// The allowed labels with some of them changed.
fn but(changes: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    let value = |name: &str| changes.iter().find(|(changed, _)| *changed == name).map(|(_, value)| *value);
    ALLOWED.into_iter().map(|(name, plain)| (name, value(name).unwrap_or(plain))).collect()
}

#[test]
fn a_refusal_names_the_rule_and_what_would_be_allowed() -> Result<()> {
    let agent = agent()?;
    let check = |labels: &[(&str, &str)], rule: Option<&str>| -> Result<()> {
        let response = agent.send(&labelled(labels))?;
        let Some(rule) = rule else {
            ensure!(response.status == 200, "{labels:?}: {response}");
            return Ok(());
        };
        ensure!(response.status == 403, "{labels:?}: expected 403, got {response}");
        let value = response.json()?;
        ensure!(value["rule"] == rule, "{labels:?}: expected {rule}, got {value}");
        ensure!(value["allowed"].as_str().is_some_and(|text| !text.is_empty()), "{labels:?}: {value}");
        ensure!(response.error()?.contains(rule), "{labels:?}: {response}");
        ensure!(response.header("retry-after").is_none(), "a refusal is never retried");
        Ok(())
    };
    check(&ALLOWED, None)?;
    check(&but(&[("Mast-Jurisdiction", "EU")]), None)?;
    check(&but(&[("Mast-Jurisdiction", "DE")]), None)?;
    check(&but(&[("Mast-Tenant", "rival")]), Some("unknown-label"))?;
    check(&but(&[("Mast-Data-Class", "gossip")]), Some("unknown-label"))?;
    check(&but(&[("Mast-Purpose", "fun")]), Some("unknown-label"))?;
    check(&but(&[("Mast-Jurisdiction", "YY")]), Some("unknown-label"))?;
    check(&but(&[("Mast-Jurisdiction", "Bavaria")]), Some("unknown-label"))?;
    check(&but(&[("Mast-Jurisdiction", "FR")]), Some("site-jurisdiction"))?;
    check(&but(&[("Mast-Jurisdiction", "DE-BE")]), Some("site-jurisdiction"))?;
    check(&but(&[("Mast-Data-Class", "secret")]), Some("no-secrets"))?;
    check(&but(&[("Mast-Purpose", "analytics")]), Some("default-deny"))?;
    // The defaults of the listener name the local tenant, whom this policy does not know.
    check(&[], Some("unknown-label"))?;
    let twice = [&ALLOWED[..], &[("Mast-Tenant", "acme")]].concat();
    check(&twice, Some("unknown-label"))
}

#[test]
fn refusals_are_counted_by_rule_and_the_model_never_ran() -> Result<()> {
    let agent = agent()?;
    for _ in 0..3 {
        agent.send(&labelled(&but(&[("Mast-Data-Class", "secret")])))?;
    }
    let status = agent.status()?;
    ensure!(status["policy"]["refusals"] == serde_json::json!([["no-secrets", 3]]), "{}", status["policy"]);
    let stats = http::get(agent.http, "/v2/models/add/stats")?.json()?;
    ensure!(
        stats["model_stats"][0]["execution_count"].as_u64().unwrap_or(0) <= 1,
        "ran (more than the warm-up): {stats}"
    );
    ensure!(stats["model_stats"][0]["inference_count"] == 0, "inferred: {stats}");
    let text = http::get(agent.metrics, "/metrics")?.text();
    ensure!(
        text.lines()
            .any(|line| line.starts_with("mast_") && line.contains("no-secrets") && line.ends_with(" 3")),
        "{text}"
    );
    Ok(())
}

#[test]
fn without_a_policy_one_local_tenant_is_served() -> Result<()> {
    let agent = setup_with_add()?.start()?;
    ensure!(agent.send(&labelled(&[]))?.status == 200, "the local tenant");
    let response = agent.send(&labelled(&[("Mast-Tenant", "acme")]))?;
    ensure!(response.status == 403, "another tenant: {response}");
    let response = agent.send(&labelled(&[("Mast-Jurisdiction", "DE")]))?;
    ensure!(response.status == 403, "data of a law this box does not stand under: {response}");
    Ok(())
}
