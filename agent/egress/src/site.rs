//! Who speaks: a box of a site.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Ident};

/// One box of one site. `box_id` is unique in the site, `site` in the region, and so on up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// The operator's organisation.
    pub org: Ident,
    /// The part of the fleet one hub serves; never spans a jurisdiction that must not share one.
    pub region: Ident,
    /// The place.
    pub site: Ident,
    /// The machine.
    pub box_id: Ident,
    /// Where the site stands.
    pub jurisdiction: Jurisdiction,
}

impl fmt::Display for Site {
    /// `<org>/<region>/<site>/<box>`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.org, self.region, self.site, self.box_id)
    }
}

/// The law that data or a site belongs to: a country, `DE` (ISO 3166-1 alpha-2), or a subdivision of one, `DE-BY`
/// (ISO 3166-2). A policy may name groups of them in the form of a country, `EU`.
///
/// The form is checked, not the assignment: ISO's lists change more often than agents do.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Jurisdiction(String);

impl Jurisdiction {
    /// Reads `CC` or `CC-S`, where `CC` is two of `A-Z` and `S` one to three of `A-Z0-9`.
    ///
    /// # Errors
    /// [`Error::Jurisdiction`] for any other form.
    pub fn new(code: &str) -> Result<Self, Error> {
        let (country, subdivision) = match code.split_once('-') {
            Some((country, subdivision)) => (country, Some(subdivision)),
            None => (code, None),
        };
        let is_country = country.len() == 2 && country.bytes().all(|b| b.is_ascii_uppercase());
        let is_subdivision = subdivision.is_none_or(|s| {
            (1..=3).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
        });
        if is_country && is_subdivision { Ok(Self(code.to_owned())) } else { Err(Error::Jurisdiction) }
    }

    /// The code.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The country of a subdivision, the code itself otherwise.
    #[must_use]
    pub fn country(&self) -> &str {
        self.0.split_once('-').map_or(&self.0, |(country, _)| country)
    }

    /// Whether this one contains `other`: `DE` covers `DE` and `DE-BY`, `DE-BY` covers only itself. Groups are not
    /// known here; a policy resolves them first.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self == other || (!self.0.contains('-') && self.0 == other.country())
    }
}

impl FromStr for Jurisdiction {
    type Err = Error;

    fn from_str(code: &str) -> Result<Self, Error> {
        Self::new(code)
    }
}

impl TryFrom<String> for Jurisdiction {
    type Error = Error;

    fn try_from(code: String) -> Result<Self, Error> {
        Self::new(&code)
    }
}

impl From<Jurisdiction> for String {
    fn from(jurisdiction: Jurisdiction) -> Self {
        jurisdiction.0
    }
}

impl fmt::Display for Jurisdiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Jurisdiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Jurisdiction({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_iso_forms_are_jurisdictions() {
        let check =
            |code: &str, wanted: bool| assert_eq!(Jurisdiction::new(code).is_ok(), wanted, "{code:?}");
        check("DE", true);
        check("DE-BY", true);
        check("GB-SCT", true);
        check("FR-75", true);
        check("de", false);
        check("DEU", false);
        check("D", false);
        check("", false);
        check("DE-", false);
        check("DE-BYXX", false);
        check("DE-BY-M", false);
        check("EU ", false);
    }

    #[test]
    fn a_country_covers_its_parts_and_nothing_else() {
        let check = |outer: &str, inner: &str, wanted: bool| {
            let [outer, inner] = [outer, inner].map(|code| Jurisdiction::new(code).unwrap());
            assert_eq!(outer.covers(&inner), wanted, "{outer} covers {inner}");
        };
        check("DE", "DE", true);
        check("DE", "DE-BY", true);
        check("DE-BY", "DE-BY", true);
        check("DE-BY", "DE", false);
        check("DE-BY", "DE-BE", false);
        check("FR", "DE-BY", false);
    }
}
