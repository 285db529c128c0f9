use proptest::prelude::*;

use super::*;

const POLICY: &str = r#"
version = 1
[groups]
EU = ["DE", "FR", "AT"]
[vocabulary]
purposes = ["inference", "training"]
[[rules]]
id = "traffic"
effect = "allow"
tenants = ["city-traffic"]
jurisdictions = ["DE"]
data_classes = ["public", "operational"]
purposes = ["inference"]
egress = "aggregate"
[[rules]]
id = "clinic"
effect = "allow"
tenants = ["clinic"]
jurisdictions = ["EU"]
execution = "run_ephemeral"
[[rules]]
id = "no-training-on-people"
effect = "deny"
data_classes = ["personal", "special"]
purposes = ["training"]
[[rules]]
id = "no-bavarian-secrets"
effect = "deny"
jurisdictions = ["DE-BY"]
data_classes = ["secret"]
"#;

fn labels(text: &str) -> Labels {
    let words: Vec<_> = text.split_whitespace().collect();
    let [tenant, jurisdiction, data_class, purpose] = words[..] else { panic!("four labels: {text}") };
    Labels {
        tenant: tenant.to_owned(),
        jurisdiction: jurisdiction.parse().unwrap(),
        data_class: data_class.to_owned(),
        purpose: purpose.to_owned(),
    }
}

fn site(code: &str) -> Site {
    Site { jurisdiction: Some(code.parse().unwrap()) }
}

/// The rule that decides, with `!` before it for a refusal.
fn verdict(policy: &Policy, site: &Site, labels: &Labels) -> String {
    match decide(policy, site, labels) {
        Decision::Run { rule, .. } => rule.to_string(),
        Decision::Refuse(refusal) => format!("!{}", refusal.rule),
    }
}

#[test]
fn decisions() {
    let policy = Policy::parse(POLICY).unwrap();
    let check = |here: &str, text: &str, expected: &str| {
        assert_eq!(verdict(&policy, &site(here), &labels(text)), expected, "at {here}: {text}");
    };
    check("DE-BY", "city-traffic DE operational inference", "traffic");
    check("DE", "city-traffic DE public inference", "traffic");
    check("DE", "city-traffic DE personal inference", "!default-deny");
    check("DE", "city-traffic DE public training", "!default-deny");
    check("DE", "city-traffic DE-BY public inference", "!site-jurisdiction");
    check("DE-BE", "city-traffic DE-BY public inference", "!site-jurisdiction");
    check("FR", "city-traffic DE public inference", "!site-jurisdiction");
    // Data of the whole group is more than a rule about DE gives.
    check("DE", "city-traffic EU public inference", "!default-deny");
    check("FR-75", "clinic EU special inference", "clinic");
    check("DE", "clinic DE special inference", "clinic");
    check("CH", "clinic EU special inference", "!site-jurisdiction");
    check("DE", "clinic EU personal training", "!no-training-on-people");
    // Data of DE is partly Bavarian, and so is that of the EU.
    check("DE", "clinic DE secret inference", "!no-bavarian-secrets");
    check("FR", "clinic EU secret inference", "!no-bavarian-secrets");
    check("FR", "clinic FR secret inference", "clinic");
    check("DE", "nobody DE public inference", "!unknown-label");
    check("DE", "clinic DE gossip inference", "!unknown-label");
    check("DE", "clinic DE public resale", "!unknown-label");
    check("DE", "clinic UN public inference", "!unknown-label");
}

#[test]
fn a_refusal_says_what_is_allowed_and_nothing_of_others() {
    let policy = Policy::parse(POLICY).unwrap();
    let refusal = |text: &str| match decide(&policy, &site("DE"), &labels(text)) {
        Decision::Refuse(refusal) => refusal.allowed,
        Decision::Run { rule, .. } => panic!("{text} ran by {rule}"),
    };
    assert_eq!(
        refusal("city-traffic DE personal inference"),
        "data class public or operational; purpose inference; jurisdiction DE"
    );
    let unknown_tenant = refusal("mallory DE public inference");
    for secret in ["city-traffic", "clinic", "mallory"] {
        assert!(!unknown_tenant.contains(secret), "{unknown_tenant}");
    }
    assert!(refusal("clinic DE public resale").contains("inference, training"));
    assert!(!refusal("clinic DE public resale").contains("resale"));
    assert!(refusal("clinic UN public inference").contains("EU"));
    assert!(refusal("clinic DE secret inference").contains("no-bavarian-secrets"));
}

#[test]
fn execution_and_egress_are_those_of_the_allow() {
    let policy = Policy::parse(POLICY).unwrap();
    let check = |text: &str, expected| match decide(&policy, &site("DE"), &labels(text)) {
        Decision::Run { execution, egress, .. } => assert_eq!((execution, egress), expected),
        Decision::Refuse(refusal) => panic!("{refusal:?}"),
    };
    check("city-traffic DE public inference", (Execution::Run, Egress::Aggregate));
    check("clinic DE public inference", (Execution::RunEphemeral, Egress::None));
}

#[test]
fn the_local_policy_allows_the_local_tenant_its_own_data() {
    let policy = Policy::local();
    let check = |site: &Site, text: &str, expected: &str| {
        assert_eq!(verdict(&policy, site, &labels(text)), expected, "{text}");
    };
    check(&Site::default(), "local ZZ special inference", "local");
    check(&site("DE-BY"), "local DE-BY operational safety", "local");
    check(&site("DE-BY"), "local ZZ operational safety", "!site-jurisdiction");
    check(&Site::default(), "other ZZ operational inference", "!unknown-label");
    assert_eq!(policy.digest().len(), 64);
    assert_ne!(policy.digest(), Policy::parse("version = 1").unwrap().digest());
}

#[test]
fn a_wrong_policy_is_refused_with_its_line() {
    let check = |text: &str, expected: &[&str]| {
        let error = Policy::parse(text).unwrap_err().to_string();
        for part in expected {
            assert!(error.contains(part), "{text:?} gave {error:?}, without {part:?}");
        }
    };
    let rule = |more: &str| format!("version = 1\n[[rules]]\nid = \"a\"\neffect = \"allow\"\n{more}\n");
    check("", &["version"]);
    check("version = 2", &["line 1", "version 2"]);
    check("version = 1\nrule = []", &["line 2", "rule"]);
    check(&rule("tenants = [\"t\"]\nuntil = 3"), &["line 6", "until"]);
    check(&rule("effect2 = 1"), &["line 5", "effect2"]);
    check(&rule(""), &["line 3", "`a`", "tenants"]);
    check(&rule("tenants = []"), &["line 3", "tenants is empty"]);
    check(&rule("tenants = [\"t\"]\njurisdictions = []"), &["jurisdictions is empty"]);
    check(&rule("tenants = [\"t\"]\njurisdictions = [\"EU\"]"), &["line 6", "`EU`"]);
    check(&rule("tenants = [\"t\"]\ndata_classes = [\"gossip\"]"), &["line 6", "gossip"]);
    check(&rule("tenants = [\"t\"]\negress = \"all\""), &["line 6", "all"]);
    check(
        &format!("{}{}", rule("tenants = [\"t\"]"), &rule("tenants = [\"t\"]")[12..]),
        &["line 7", "taken"],
    );
    check("version = 1\n[[rules]]\nid = \"default-deny\"\neffect = \"deny\"", &["line 3", "taken"]);
    check("version = 1\n[[rules]]\nid = \"A b\"\neffect = \"deny\"", &["line 3", "a-z"]);
    check("version = 1\n[[rules]]\nid = \"a\"\neffect = \"deny\"\negress = \"none\"", &["deny has no"]);
    check("version = 1\n[groups]\nDE = [\"FR\"]", &["line 3", "`DE`"]);
    check("version = 1\n[groups]\nEU = [\"FR\", \"UK\"]", &["line 3", "`UK`"]);
    check("version = 1\n[groups]\nEU = [\"france\"]", &["line 3", "ISO 3166"]);
}

fn any_labels() -> impl Strategy<Value = Labels> {
    let tenant = prop_oneof![Just("t".to_owned()), Just("u".to_owned()), ".{0,8}"];
    let place = prop_oneof!["[A-Z]{2}", "(DE|FR|EU|UN)", "(DE|FR)-[A-Z0-9]{1,3}", "DE-B[EY]"];
    let class = prop_oneof!["public|personal|secret".prop_map(String::from), ".{0,8}"];
    let purpose = prop_oneof!["inference|safety".prop_map(String::from), ".{0,8}"];
    (tenant, place, class, purpose).prop_map(|(tenant, place, data_class, purpose)| Labels {
        tenant,
        jurisdiction: place.parse().unwrap(),
        data_class,
        purpose,
    })
}

fn any_rule() -> impl Strategy<Value = (bool, String)> {
    let list = |key: &'static str, words: &'static [&'static str]| {
        proptest::option::of(proptest::sample::subsequence(words, 1..=words.len()))
            .prop_map(move |some| some.map(|some| format!("{key} = {some:?}\n")).unwrap_or_default())
    };
    let parts = (
        any::<bool>(),
        proptest::sample::subsequence(vec!["t", "u"], 1..=2),
        list("jurisdictions", &["DE", "FR", "EU", "DE-BY"]),
        list("data_classes", &["public", "personal", "secret"]),
        list("purposes", &["inference", "safety"]),
    );
    parts.prop_map(|(allow, tenants, places, classes, purposes)| {
        let effect = if allow { "allow" } else { "deny" };
        (allow, format!("effect = \"{effect}\"\ntenants = {tenants:?}\n{places}{classes}{purposes}"))
    })
}

fn policy(rules: &[(bool, String)]) -> Policy {
    let mut text = "version = 1\n[groups]\nEU = [\"DE\", \"FR\"]\n".to_owned();
    for (index, (_, rule)) in rules.iter().enumerate() {
        text.push_str(&format!("[[rules]]\nid = \"r{index}\"\n{rule}"));
    }
    Policy::parse(&text).unwrap()
}

proptest! {
    #[test]
    fn never_panics_and_never_runs_what_nobody_allowed(
        rules in proptest::collection::vec(any_rule(), 0..6), labels in any_labels(), here in "(DE|FR)(-BY)?",
    ) {
        let decision = decide(&policy(&rules), &site(&here), &labels);
        let denies: Vec<_> = rules.iter().filter(|(allow, _)| !allow).cloned().collect();
        if let Decision::Run { .. } = decision {
            prop_assert!(denies.len() < rules.len(), "ran without any allow");
        }
        let denied = decide(&policy(&denies), &site(&here), &labels);
        prop_assert!(matches!(denied, Decision::Refuse(_)));
    }

    #[test]
    fn a_deny_wins_and_adding_one_never_allows_more(
        rules in proptest::collection::vec(any_rule(), 0..6), (_, deny) in any_rule(),
        labels in any_labels(), here in "(DE|FR)(-BY)?",
    ) {
        let deny = (false, deny.replace("effect = \"allow\"", "effect = \"deny\""));
        let before = decide(&policy(&rules), &site(&here), &labels);
        let mut more = rules.clone();
        more.push(deny.clone());
        let after = decide(&policy(&more), &site(&here), &labels);
        if let Decision::Run { .. } = after {
            prop_assert_eq!(&before, &after);
        }
        // Where the deny alone would already decide, it decides in any company.
        let alone = policy(std::slice::from_ref(&deny));
        if verdict(&alone, &site(&here), &labels) == "!r0" {
            prop_assert!(matches!(after, Decision::Refuse(_)));
        }
    }
}
