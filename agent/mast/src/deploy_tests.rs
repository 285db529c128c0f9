//! deploy/config against the code: the files that an operator starts from may not lie.

use std::collections::BTreeSet;

use serve::residency::{Decision, Site, decide};
use toml::{Table, Value};

use crate::config::Config;

const MAST_TOML: &str = include_str!("../../../deploy/config/mast.toml");
const POLICY_TOML: &str = include_str!("../../../deploy/config/policy.toml");

/// `mast.toml` with its `#key = value` lines taken in; with `examples` its `#: ` lines too. A section whose
/// header is an example is left out otherwise, with what stands under it.
fn uncommented(examples: bool) -> String {
    let mut text = String::new();
    let mut inside = true;
    for line in MAST_TOML.lines() {
        let (line, example) = match (line.strip_prefix("#: "), line.strip_prefix('#')) {
            (Some(rest), _) => (rest, true),
            (None, Some(rest)) if rest.starts_with(|first: char| first.is_ascii_lowercase()) => (rest, false),
            (None, Some(_)) => continue,
            (None, None) => (line, false),
        };
        if line.starts_with('[') {
            inside = !example || examples;
        }
        if inside && (!example || examples) {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[test]
fn the_file_as_it_is_and_with_every_default_taken_in_is_the_default() {
    assert_eq!(toml::from_str::<Config>(MAST_TOML).unwrap(), Config::default());
    let text = uncommented(false);
    assert_ne!(text, MAST_TOML);
    assert_eq!(toml::from_str::<Config>(&text).unwrap(), Config::default(), "{text}");
}

#[test]
fn the_defaults_of_the_hub_are_the_defaults() {
    let table: Table = uncommented(true).parse().unwrap();
    let hub = table["hub"].as_table().unwrap();
    // Examples are of keys without a default: taking them out again leaves the defaults.
    let named = |key: &str| MAST_TOML.lines().any(|line| line.starts_with(&format!("#{key} = ")));
    let defaults: Table = hub.clone().into_iter().filter(|(key, _)| named(key)).collect();
    assert!(!defaults.is_empty());
    assert_eq!(Value::Table(defaults).try_into::<link::Config>().unwrap(), link::Config::default());
}

/// The keys a section of the code knows, out of its complaint about one that it does not know.
fn known_keys(document: &Table, section: &[&str]) -> Option<BTreeSet<String>> {
    let mut document = document.clone();
    let mut table = &mut document;
    for name in section {
        table = table.get_mut(*name)?.as_table_mut()?;
    }
    table.insert("no_such_key".to_owned(), Value::Boolean(true));
    let complaint = Value::Table(document).try_into::<Config>().unwrap_err().message().to_owned();
    let (_, expected) = complaint.split_once("unknown field `no_such_key`, expected")?;
    Some(expected.split('`').skip(1).step_by(2).map(str::to_owned).collect())
}

#[test]
fn every_key_of_the_code_is_in_the_file() {
    let document: Table = uncommented(true).parse().unwrap();
    assert!(Value::Table(document.clone()).try_into::<Config>().is_ok());
    let mut seen = 0;
    let mut sections: Vec<Vec<&str>> = vec![vec![]];
    while let Some(section) = sections.pop() {
        let mut table = &document;
        for name in &section {
            table = table[*name].as_table().unwrap();
        }
        // A map whose keys the operator chooses (hub.keys) knows no unknown key.
        let Some(known) = known_keys(&document, &section) else { continue };
        let written: BTreeSet<String> = table.keys().cloned().collect();
        assert_eq!(written, known, "section {section:?}");
        seen += known.len();
        for (name, _) in table.iter().filter(|(_, value)| value.is_table()) {
            sections.push([section.as_slice(), &[name.as_str()]].concat());
        }
    }
    assert!(seen > 50, "only {seen} keys were found");
}

#[test]
fn the_example_policy_decides_as_its_comments_say() {
    let policy = serve::residency::Policy::parse(POLICY_TOML).unwrap();
    let site = Site { jurisdiction: Some("DE-BY".parse().unwrap()) };
    let check = |labels: [&str; 4], rule: &str, runs: bool| {
        let [tenant, jurisdiction, data_class, purpose] = labels;
        let labels = wire::Labels {
            tenant: tenant.to_owned(),
            jurisdiction: jurisdiction.parse().unwrap(),
            data_class: data_class.to_owned(),
            purpose: purpose.to_owned(),
        };
        let decided = match decide(&policy, &site, &labels) {
            Decision::Run { rule, .. } => (rule.to_string(), true),
            Decision::Refuse(refusal) => (refusal.rule, false),
        };
        assert_eq!(decided, (rule.to_owned(), runs), "{labels:?}");
    };
    check(["local", "DE-BY", "operational", "inference"], "own-operation", true);
    check(["local", "DE-BY", "secret", "inference"], "default-deny", false);
    check(["city-traffic", "DE", "personal", "safety"], "city-traffic", true);
    check(["city-traffic", "DE", "personal", "analytics"], "no-analytics-on-people", false);
    check(["city-traffic", "FR", "public", "inference"], "site-jurisdiction", false);
    check(["clinic", "EU", "special", "inference"], "clinic", true);
    check(["nobody", "DE", "public", "inference"], "unknown-label", false);
    check(["local", "DE", "unclassified", "inference"], "unknown-label", false);
}

#[test]
fn the_labels_a_listener_assumes_are_words_of_the_policy() {
    let policy = serve::residency::Policy::parse(POLICY_TOML).unwrap();
    let defaults = Config::default().listen.labels;
    let labels = wire::Labels {
        tenant: defaults.tenant,
        jurisdiction: "DE".parse().unwrap(),
        data_class: defaults.data_class,
        purpose: defaults.purpose,
    };
    let site = Site { jurisdiction: Some("DE".parse().unwrap()) };
    assert!(matches!(decide(&policy, &site, &labels), Decision::Run { .. }));
}
