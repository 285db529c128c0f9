//! What JSON means by an object and by a whole number, where serde's derived readers mean something else.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Unexpected, Visitor};

/// A struct that is read from an object only; derived readers take an array too, field by field.
#[derive(Debug, Default)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

/// A whole number from 0, in whichever way it is written: JSON does not tell 4 from 4.0 or 4e0 (RFC 8259 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Whole(pub(crate) u64);

impl Whole {
    pub(crate) fn size<E: Error>(self) -> Result<usize, E> {
        usize::try_from(self.0)
            .map_err(|_| E::invalid_value(Unexpected::Unsigned(self.0), &"a smaller number"))
    }
}

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WholeVisitor)
    }
}

struct WholeVisitor;

impl Visitor<'_> for WholeVisitor {
    type Value = Whole;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number from 0")
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Whole, E> {
        Ok(Whole(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Whole, E> {
        let whole = (value.fract() == 0.0).then(|| format!("{value:.0}").parse().ok()).flatten();
        whole.map(Whole).ok_or_else(|| E::invalid_value(Unexpected::Float(value), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_number_is_one_however_it_is_written() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(serde_json::from_str::<Whole>(text).ok().map(|whole| whole.0), expected, "{text}");
        };
        check("0", Some(0));
        check("4", Some(4));
        check("4.0", Some(4));
        check("4e3", Some(4000));
        check("18446744073709551615", Some(u64::MAX));
        for wrong in ["-1", "-1.0", "0.5", "18446744073709551616", "1e300", "\"4\"", "true", "null", "[4]"] {
            check(wrong, None);
        }
    }

    #[test]
    fn an_array_is_no_object() {
        #[derive(Debug, serde::Deserialize)]
        struct Pair {
            a: u8,
            b: u8,
        }
        let Object(Pair { a, b }) = serde_json::from_str(r#"{"b":2,"a":1}"#).unwrap();
        assert_eq!((a, b), (1, 2));
        assert!(serde_json::from_str::<Pair>("[1,2]").is_ok(), "serde has changed");
        assert!(serde_json::from_str::<Object<Pair>>("[1,2]").is_err());
    }
}
