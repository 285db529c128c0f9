use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use toml::Spanned;
use wire::Jurisdiction;

use super::countries::is_country;
use super::{DEFAULT_DENY, Egress, Execution, SITE_JURISDICTION, UNKNOWN_LABEL};
use crate::error::{Error, line_of, located};

/// The policy of an agent that was given none: one tenant, everything it may do with its own data here.
const LOCAL: &str = r#"
version = 1
[[rules]]
id = "local"
effect = "allow"
tenants = ["local"]
egress = "aggregate"
"#;

pub(super) static USER_ASSIGNED: LazyLock<Jurisdiction> = LazyLock::new(|| match "ZZ".parse() {
    Ok(code) => code,
    Err(_) => unreachable!("ZZ has the form of a country"),
});

/// The residency policy of a site, checked: every word in it is defined.
#[derive(Debug, Clone)]
pub struct Policy {
    digest: String,
    groups: BTreeMap<Jurisdiction, Vec<Jurisdiction>>,
    tenants: BTreeSet<String>,
    pub(super) data_classes: Vec<String>,
    pub(super) purposes: Vec<String>,
    pub(super) denies: Vec<Rule>,
    pub(super) allows: Vec<Rule>,
}

/// `None` in a list is any value that the policy knows.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) id: Arc<str>,
    pub(super) tenants: Option<Vec<String>>,
    pub(super) data_classes: Option<Vec<String>>,
    pub(super) purposes: Option<Vec<String>>,
    /// The rule's own words.
    pub(super) jurisdictions: Option<Vec<String>>,
    /// The same with groups resolved.
    pub(super) places: Option<Vec<Jurisdiction>>,
    pub(super) execution: Execution,
    pub(super) egress: Egress,
}

impl Policy {
    /// The built-in policy for an agent without a policy file: tenant `local` may do everything of the
    /// default vocabulary with data of the site's own jurisdiction.
    pub fn local() -> Self {
        // The text is a constant and a test parses it; were it wrong, nothing would be allowed.
        Self::parse(LOCAL).unwrap_or_else(|_| Self::empty(LOCAL))
    }

    /// Reads a policy file's text.
    ///
    /// # Errors
    /// [`Error::Parse`] with the line: an unknown key or version, a duplicate rule id, a word that is not in
    /// the vocabulary, a group that is not defined.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let document: Document = toml::from_str(text).map_err(|error| located(POLICY, text, &error))?;
        let refuse = |span: Option<Range<usize>>, detail: String| {
            let line = span.and_then(|span| line_of(text, span.start));
            Error::Parse { what: POLICY, line, detail }
        };
        if *document.version.get_ref() != 1 {
            let detail = format!("version {} is not known: this agent reads 1", document.version.get_ref());
            return Err(refuse(Some(document.version.span()), detail));
        }
        let mut policy = Self::empty(text);
        if let Some(words) = document.vocabulary.data_classes {
            policy.data_classes = words;
        }
        if let Some(words) = document.vocabulary.purposes {
            policy.purposes = words;
        }
        for (name, members) in document.groups {
            let group = name.get_ref().parse().ok().filter(|group| !is_country(group));
            let Some(group) = group.filter(|group: &Jurisdiction| !group.as_str().contains('-')) else {
                let detail = format!("group `{}`: two capitals that are no country's code", name.get_ref());
                return Err(refuse(Some(name.span()), detail));
            };
            if let Some(stray) = members.iter().find(|member| !is_country(member.get_ref())) {
                let detail = format!("`{}` in group `{group}` is no country or subdivision", stray.get_ref());
                return Err(refuse(Some(stray.span()), detail));
            }
            policy.groups.insert(group, members.into_iter().map(Spanned::into_inner).collect());
        }
        let mut ids = BTreeSet::from([UNKNOWN_LABEL, SITE_JURISDICTION, DEFAULT_DENY].map(str::to_owned));
        for rule in document.rules {
            let span = rule.id.span();
            let (effect, rule) = policy
                .check(rule, &mut ids)
                .map_err(|(at, detail)| refuse(Some(at.unwrap_or(span)), detail))?;
            policy.tenants.extend(rule.tenants.iter().flatten().cloned());
            match effect {
                Effect::Allow => policy.allows.push(rule),
                Effect::Deny => policy.denies.push(rule),
            }
        }
        Ok(policy)
    }

    /// SHA-256 of the policy's text, in hex: what an agent reports to show which policy it keeps.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    fn empty(text: &str) -> Self {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let mut digest = String::with_capacity(64);
        for byte in Sha256::digest(text.as_bytes()) {
            // Writing to a String cannot fail.
            write!(digest, "{byte:02x}").ok();
        }
        Self {
            digest,
            groups: BTreeMap::new(),
            tenants: BTreeSet::new(),
            data_classes: words(&["public", "operational", "personal", "special", "secret"]),
            purposes: words(&["inference", "analytics", "maintenance", "safety"]),
            denies: Vec::new(),
            allows: Vec::new(),
        }
    }

    pub(super) fn names_tenant(&self, tenant: &str) -> bool {
        self.tenants.contains(tenant)
    }

    /// The countries and subdivisions that a jurisdiction stands for; `None` when nobody defined it.
    pub(super) fn places<'a>(&'a self, jurisdiction: &'a Jurisdiction) -> Option<&'a [Jurisdiction]> {
        match self.groups.get(jurisdiction) {
            Some(members) => Some(members),
            None => is_country(jurisdiction).then(|| std::slice::from_ref(jurisdiction)),
        }
    }

    pub(super) fn known_jurisdictions(&self) -> String {
        let groups: Vec<_> = self.groups.keys().map(Jurisdiction::as_str).collect();
        let groups = if groups.is_empty() { "none".to_owned() } else { groups.join(", ") };
        format!("a jurisdiction of ISO 3166 (DE, DE-BY) or a group of the policy ({groups})")
    }

    /// A rule of the file as a rule of the policy, or where and what is wrong.
    fn check(&self, rule: RuleDocument, ids: &mut BTreeSet<String>) -> Result<(Effect, Rule), Wrong> {
        let effect = rule.effect;
        let id = rule.id.into_inner();
        let wrong = |detail: String| Err((None, format!("rule `{id}`: {detail}")));
        let sign = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        if !(1..=64).contains(&id.len()) || !id.bytes().all(sign) {
            return wrong("an id is 1 to 64 of a-z, 0-9, '.', '_' and '-'".to_owned());
        }
        if ids.contains(&id) {
            return wrong("the id is taken".to_owned());
        }
        match effect {
            Effect::Allow if rule.tenants.is_none() => {
                return wrong("an allow names its tenants".to_owned());
            }
            Effect::Deny if rule.execution.is_some() || rule.egress.is_some() => {
                return wrong("a deny has no execution and no egress".to_owned());
            }
            Effect::Allow | Effect::Deny => {}
        }
        let listed = |key: &str, list: Option<Vec<Spanned<String>>>, known: Option<&Vec<String>>| {
            let Some(list) = list else { return Ok(None) };
            if list.is_empty() {
                return Err((None, format!("rule `{id}`: {key} is empty; leave it out for any")));
            }
            let stray = list.iter().find(|word| known.is_some_and(|known| !known.contains(word.get_ref())));
            if let Some(word) = stray {
                let detail = format!("rule `{id}`: `{}` in {key} is not in the vocabulary", word.get_ref());
                return Err((Some(word.span()), detail));
            }
            Ok(Some(list.into_iter().map(Spanned::into_inner).collect()))
        };
        let mut places = None;
        for word in rule.jurisdictions.iter().flatten() {
            let parsed = word.get_ref().parse::<Jurisdiction>().ok();
            let Some(found) = parsed.as_ref().and_then(|jurisdiction| self.places(jurisdiction)) else {
                let detail =
                    format!("rule `{id}`: `{}` is no country and no group of the policy", word.get_ref());
                return Err((Some(word.span()), detail));
            };
            places.get_or_insert_with(Vec::new).extend_from_slice(found);
        }
        let rule = Rule {
            tenants: listed("tenants", rule.tenants, None)?,
            data_classes: listed("data_classes", rule.data_classes, Some(&self.data_classes))?,
            purposes: listed("purposes", rule.purposes, Some(&self.purposes))?,
            jurisdictions: listed("jurisdictions", rule.jurisdictions, None)?,
            places,
            execution: rule.execution.unwrap_or_default(),
            egress: rule.egress.unwrap_or_default(),
            id: Arc::from(id.as_str()),
        };
        ids.insert(id);
        Ok((effect, rule))
    }
}

/// Where, unless it is the rule as a whole, and what.
type Wrong = (Option<Range<usize>>, String);

const POLICY: &str = "residency policy";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: Spanned<u32>,
    #[serde(default)]
    groups: BTreeMap<Spanned<String>, Vec<Spanned<Jurisdiction>>>,
    #[serde(default)]
    vocabulary: Vocabulary,
    #[serde(default)]
    rules: Vec<RuleDocument>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Vocabulary {
    data_classes: Option<Vec<String>>,
    purposes: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleDocument {
    id: Spanned<String>,
    effect: Effect,
    tenants: Option<Vec<Spanned<String>>>,
    jurisdictions: Option<Vec<Spanned<String>>>,
    data_classes: Option<Vec<Spanned<String>>>,
    purposes: Option<Vec<Spanned<String>>>,
    execution: Option<Execution>,
    egress: Option<Egress>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Effect {
    Allow,
    Deny,
}
