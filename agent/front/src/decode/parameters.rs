//! The `parameters` objects of a request. Keys that are not reserved belong to the client and are ignored, as
//! the protocol allows.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use wire::{Error, ErrorCode};

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestParameters {
    pub(crate) binary_data_output: bool,
    timeout_us: u64,
    sequence: bool,
    reserved: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InputParameters {
    pub(crate) binary_data_size: Option<usize>,
    pub(crate) shared_memory: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OutputParameters {
    /// `None`: as the request's `binary_data_output` says.
    pub(crate) binary_data: Option<bool>,
    /// How many classes; 0 for the tensor itself.
    pub(crate) classification: usize,
    pub(crate) shared_memory: bool,
}

impl RequestParameters {
    /// Reserved keys that cannot be honoured are an error rather than silently another meaning.
    pub(super) fn check(self) -> Result<(), Error> {
        if self.reserved {
            return Err(Error::invalid("parameter keys starting with 'triton_' are reserved"));
        }
        if self.sequence {
            let message = "sequences are not served: no model of this agent keeps state between requests";
            return Err(Error::new(ErrorCode::Unsupported, message));
        }
        Ok(())
    }

    pub(crate) fn timeout(self) -> Option<Duration> {
        (self.timeout_us > 0).then(|| Duration::from_micros(self.timeout_us))
    }
}

/// `sequence_id` is a number or a text; 0 and "" mean none.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum SequenceId<'a> {
    Number(u64),
    #[serde(borrow)]
    Text(Cow<'a, str>),
}

struct Keys<P>(P);

impl<'de> Visitor<'de> for Keys<RequestParameters> {
    type Value = RequestParameters;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of request parameters")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match &*key {
                "binary_data_output" => self.0.binary_data_output = map.next_value()?,
                "timeout" => self.0.timeout_us = map.next_value()?,
                // Accepted and of no effect: every request of a model has the same priority.
                "priority" => drop(map.next_value::<u64>()?),
                "sequence_id" => {
                    self.0.sequence = match map.next_value::<SequenceId<'de>>()? {
                        SequenceId::Number(id) => id != 0,
                        SequenceId::Text(id) => !id.is_empty(),
                    }
                }
                key => {
                    self.0.reserved |= key.starts_with("triton_");
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(self.0)
    }
}

impl<'de> Visitor<'de> for Keys<InputParameters> {
    type Value = InputParameters;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of input parameters")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match &*key {
                "binary_data_size" => self.0.binary_data_size = Some(map.next_value()?),
                key => {
                    self.0.shared_memory |= key == "shared_memory_region";
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(self.0)
    }
}

impl<'de> Visitor<'de> for Keys<OutputParameters> {
    type Value = OutputParameters;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of output parameters")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match &*key {
                "binary_data" => self.0.binary_data = Some(map.next_value()?),
                "classification" => self.0.classification = map.next_value()?,
                key => {
                    self.0.shared_memory |= key == "shared_memory_region";
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(self.0)
    }
}

macro_rules! deserialize_keys {
    ($($parameters:ty),*) => {$(
        impl<'de> Deserialize<'de> for $parameters {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_map(Keys(Self::default()))
            }
        }
    )*};
}

deserialize_keys!(RequestParameters, InputParameters, OutputParameters);
