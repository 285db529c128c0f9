use axum::http::HeaderMap;
use wire::{Error, Labels, Refusal};

use crate::config::DefaultLabels;

pub(crate) const TENANT: &str = "mast-tenant";
const JURISDICTION: &str = "mast-jurisdiction";
const DATA_CLASS: &str = "mast-data-class";
const PURPOSE: &str = "mast-purpose";

/// The labels of a request: its headers, with the listener's defaults. What cannot be read is refused, never
/// guessed.
pub(crate) fn labels(headers: &HeaderMap, defaults: &DefaultLabels) -> Result<Labels, Error> {
    let jurisdiction = match text(headers, JURISDICTION)? {
        Some(text) => text.parse().map_err(|error| unknown(JURISDICTION, &error))?,
        None => match &defaults.jurisdiction {
            Some(jurisdiction) => jurisdiction.clone(),
            None => return Err(unknown(JURISDICTION, &"it is missing and has no default here")),
        },
    };
    let or = |name, default: &String| Ok(text(headers, name)?.map_or_else(|| default.clone(), str::to_owned));
    Ok(Labels {
        tenant: or(TENANT, &defaults.tenant)?,
        jurisdiction,
        data_class: or(DATA_CLASS, &defaults.data_class)?,
        purpose: or(PURPOSE, &defaults.purpose)?,
    })
}

/// A header that stands twice has no one meaning.
fn text<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, Error> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(unknown(name, &"it is given more than once"));
    }
    let text = value.to_str().ok().filter(|text| !text.is_empty());
    text.map(Some).ok_or_else(|| unknown(name, &"it is empty or not plain text"))
}

/// The value itself is not repeated.
fn unknown(name: &str, why: &dyn std::fmt::Display) -> Error {
    Error::refused(Refusal { rule: "unknown-label".to_owned(), allowed: format!("{name}: {why}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_go_before_defaults_and_nothing_is_guessed() {
        let check = |pairs: &[(&'static str, &[u8])], site: Option<&str>, expected: Option<[&str; 4]>| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, axum::http::HeaderValue::from_bytes(value).unwrap());
            }
            let jurisdiction = site.map(|site| site.parse().unwrap());
            let got = labels(&headers, &DefaultLabels { jurisdiction, ..DefaultLabels::default() });
            match (got, expected) {
                (Ok(got), Some(expected)) => {
                    let got = [&*got.tenant, got.jurisdiction.as_str(), &*got.data_class, &*got.purpose];
                    assert_eq!(got, expected);
                }
                (Err(error), None) => assert_eq!(error.refusal.unwrap().rule, "unknown-label"),
                (got, expected) => panic!("{pairs:?}: {got:?}, expected {expected:?}"),
            }
        };
        check(&[], Some("DE-BY"), Some(["local", "DE-BY", "operational", "inference"]));
        check(&[], None, None);
        check(
            &[(TENANT, b"acme"), (JURISDICTION, b"FR"), (DATA_CLASS, b"personal"), (PURPOSE, b"triage")],
            Some("DE"),
            Some(["acme", "FR", "personal", "triage"]),
        );
        check(&[(JURISDICTION, b"de")], Some("DE"), None);
        check(&[(JURISDICTION, b"")], Some("DE"), None);
        check(&[(TENANT, b"a\xff")], Some("DE"), None);
        check(&[(TENANT, b"a"), (TENANT, b"b")], Some("DE"), None);
        check(&[(JURISDICTION, b"DE"), (JURISDICTION, b"FR")], Some("DE"), None);
    }
}
