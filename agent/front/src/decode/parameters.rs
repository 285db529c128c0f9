//! The `parameters` objects of a request. Keys that are not reserved belong to the client and are ignored, as
//! the protocol allows.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use wire::{Error, Sequence, SequenceId};

use crate::json::Whole;

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct RequestParameters {
    pub(crate) binary_data_output: bool,
    pub(crate) wishes: Wishes,
    reserved: bool,
}

/// What a request asks of the scheduler, in whatever protocol.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// 0 is none.
    pub(crate) timeout_us: u64,
    pub(crate) priority: u64,
    pub(crate) sequence_id: Option<SequenceId>,
    pub(crate) sequence_start: bool,
    pub(crate) sequence_end: bool,
}

impl Wishes {
    pub(crate) fn timeout(&self) -> Option<Duration> {
        (self.timeout_us > 0).then(|| Duration::from_micros(self.timeout_us))
    }

    /// Without an id, start and end mean nothing, as in Triton.
    pub(crate) fn sequence(&self) -> Option<Sequence> {
        let id = self.sequence_id.clone()?;
        Some(Sequence { id, start: self.sequence_start, end: self.sequence_end })
    }
}

/// 0 and "" are no sequence.
pub(crate) fn sequence_id(id: SequenceId) -> Result<Option<SequenceId>, Error> {
    match id {
        SequenceId::Number(0) => Ok(None),
        SequenceId::Text(text) if text.is_empty() => Ok(None),
        SequenceId::Text(text) if text.len() > SEQUENCE_ID_LIMIT => {
            let text = format!("parameter 'sequence_id' is over {SEQUENCE_ID_LIMIT} bytes");
            Err(Error::invalid(text))
        }
        id => Ok(Some(id)),
    }
}

pub(crate) const RESERVED: &str = "parameter keys starting with 'triton_' are reserved";

/// As in Triton: an id is kept as long as its sequence.
const SEQUENCE_ID_LIMIT: usize = 128;

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
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.reserved { Err(Error::invalid(RESERVED)) } else { Ok(()) }
    }
}

/// `sequence_id` in JSON.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Id<'a> {
    Number(Whole),
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
                "timeout" => self.0.wishes.timeout_us = map.next_value::<Whole>()?.0,
                "priority" => self.0.wishes.priority = map.next_value::<Whole>()?.0,
                "sequence_id" => {
                    let id = match map.next_value::<Id<'de>>()? {
                        Id::Number(Whole(id)) => SequenceId::Number(id),
                        Id::Text(id) => SequenceId::Text(id.into_owned()),
                    };
                    self.0.wishes.sequence_id = sequence_id(id).map_err(de::Error::custom)?;
                }
                "sequence_start" => self.0.wishes.sequence_start = map.next_value()?,
                "sequence_end" => self.0.wishes.sequence_end = map.next_value()?,
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
                "binary_data_size" => self.0.binary_data_size = Some(map.next_value::<Whole>()?.size()?),
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
                "classification" => self.0.classification = map.next_value::<Whole>()?.size()?,
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
