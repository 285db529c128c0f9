//! What the agent is told of each request that ended, for its traces; and what of a client's own trace is taken over
//! (W3C Trace Context, `traceparent`).

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::http::HeaderMap;
use wire::{Error, ErrorCode, Part, Ran, RequestId, Timings};

use crate::app::App;

const TRACEPARENT: &str = "traceparent";

/// Takes a request that has ended. Called on the request path: it must not wait.
pub type Traces = Arc<dyn Fn(Finished) + Send + Sync>;

/// A request that has ended. Holds no word of the client's.
#[derive(Debug, Clone)]
pub struct Finished {
    pub id: RequestId,
    /// `http` or `grpc`.
    pub protocol: &'static str,
    /// The span of the client's that caused this one.
    pub parent: Option<Parent>,
    pub started: SystemTime,
    /// From the end of its header to the end of its reply's making.
    pub took: Duration,
    /// From `started` to its place in the queue.
    pub accepted: Option<Duration>,
    /// A model that is known here.
    pub model: Option<Arc<str>>,
    /// What ran it.
    pub ran: Option<RanBy>,
    pub outcome: Outcome,
}

/// What of a part goes into a span.
#[derive(Debug, Clone)]
pub struct RanBy {
    pub version: u64,
    pub ran: Ran,
    pub timings: Timings,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Answered,
    Failed(ErrorCode),
    /// The client went away first.
    Abandoned,
}

impl Outcome {
    /// Of a fixed vocabulary.
    pub fn word(self) -> &'static str {
        match self {
            Self::Answered => "ok",
            Self::Abandoned => "abandoned",
            Self::Failed(code) => match code {
                ErrorCode::InvalidArgument => "invalid_argument",
                ErrorCode::UnknownModel => "unknown_model",
                ErrorCode::NotFound => "not_found",
                ErrorCode::Unauthenticated => "unauthenticated",
                ErrorCode::Refused => "refused",
                ErrorCode::RateLimited => "rate_limited",
                ErrorCode::TooLarge => "too_large",
                ErrorCode::Unavailable => "unavailable",
                ErrorCode::DeadlineExceeded => "deadline_exceeded",
                ErrorCode::Unsupported => "unsupported",
                ErrorCode::Internal => "internal",
            },
        }
    }
}

/// The caller's place in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    pub trace: [u8; 16],
    pub span: [u8; 8],
    /// Whether the caller records its side.
    pub sampled: bool,
}

impl Parent {
    /// The header's value, which counts only if there is one and it is well-formed; otherwise a trace begins here
    /// (W3C Trace Context §3.2, §4.3).
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let value = values.next().filter(|_| values.next().is_none())?;
        Self::parse(value.as_bytes())
    }

    /// `00-<32 hex>-<16 hex>-<2 hex>`; a later version may go on behind a dash.
    fn parse(value: &[u8]) -> Option<Self> {
        let (fixed, rest) = value.split_at_checked(55)?;
        let mut fields = fixed.split(|byte| *byte == b'-');
        let [version]: [u8; 1] = hex(fields.next()?)?;
        let parent = Self {
            trace: hex(fields.next()?)?,
            span: hex(fields.next()?)?,
            sampled: hex::<1>(fields.next()?)?[0] & 1 == 1,
        };
        let ends = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.first().is_none_or(|byte| *byte == b'-'),
        };
        let zero = parent.trace == [0; 16] || parent.span == [0; 8];
        (ends && !zero && fields.next().is_none()).then_some(parent)
    }
}

/// Exactly `2 * N` digits, lower case.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    let (pairs, []) = text.as_chunks::<2>() else { return None };
    if pairs.len() != N {
        return None;
    }
    for (place, [high, low]) in bytes.iter_mut().zip(pairs) {
        *place = (digit(*high)? << 4) | digit(*low)?;
    }
    Some(bytes)
}

/// A request on its way, from the end of its header to its end: its id, and where traces are on what they are told
/// when it is dropped.
#[derive(Debug)]
pub(crate) struct Trace {
    id: RequestId,
    /// When the last byte that was read of it came.
    arrived: Instant,
    record: Option<Box<Record>>,
}

struct Record {
    traces: Traces,
    begun: Instant,
    finished: Finished,
}

impl Trace {
    pub(crate) fn begin(traces: Option<&Traces>, protocol: &'static str, parent: Option<Parent>) -> Self {
        let id = RequestId::next();
        let begun = Instant::now();
        let record = traces.map(|traces| {
            let finished = Finished {
                id,
                protocol,
                parent,
                started: SystemTime::now(),
                took: Duration::ZERO,
                accepted: None,
                model: None,
                ran: None,
                outcome: Outcome::Abandoned,
            };
            Box::new(Record { traces: Arc::clone(traces), begun, finished })
        });
        Self { id, arrived: begun, record }
    }

    /// Mast's own name for the request, in its reply and in the log.
    pub(crate) fn id(&self) -> RequestId {
        self.id
    }

    /// Its last byte came then.
    pub(crate) fn arrived(&mut self, at: Instant) {
        self.arrived = at;
    }

    /// The request path does not take it; where that is because it does not fit, how long that took is counted.
    pub(crate) fn refused(&self, app: &App, error: &Error) {
        if matches!(error.code, ErrorCode::Unavailable | ErrorCode::DeadlineExceeded) {
            app.refusal_times.count(self.arrived.elapsed());
        }
    }

    /// It is about to be queued for this model.
    pub(crate) fn accepted(&mut self, model: &Arc<str>) {
        if let Some(Record { begun, finished, .. }) = self.record.as_deref_mut() {
            finished.accepted = Some(begun.elapsed());
            finished.model = Some(Arc::clone(model));
        }
    }

    pub(crate) fn ran(&mut self, part: &Part) {
        if let Some(record) = &mut self.record {
            let Part { model_version, ran, timings, .. } = part;
            record.finished.ran =
                Some(RanBy { version: *model_version, ran: ran.clone(), timings: *timings });
        }
    }

    /// `None`: with a result. A request that never gets here was given up by its client.
    pub(crate) fn ended(mut self, failure: Option<ErrorCode>) {
        let outcome = failure.map_or(Outcome::Answered, Outcome::Failed);
        if failure.is_some() {
            tracing::debug!(request = %self.id, status = outcome.word(), "not answered");
        }
        if let Some(record) = &mut self.record {
            record.finished.outcome = outcome;
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.finished.took = self.begun.elapsed();
        (self.traces)(self.finished.clone());
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.finished.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_parent_is_taken_over_only_when_well_formed() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let span = "b7ad6b7169203331";
        let check = |values: &[String], expected: Option<bool>| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(TRACEPARENT, HeaderValue::from_str(value).unwrap());
            }
            let parent = Parent::of(&headers);
            assert_eq!(parent.map(|parent| parent.sampled), expected, "{values:?}");
            if let Some(parent) = parent {
                assert_eq!((parent.trace[0], parent.span[7]), (0x0a, 0x31));
            }
        };
        let one = |value: String, expected| check(&[value], expected);
        one(format!("00-{trace}-{span}-01"), Some(true));
        one(format!("00-{trace}-{span}-00"), Some(false));
        one(format!("00-{trace}-{span}-ff"), Some(true));
        one(format!("cc-{trace}-{span}-01-what-comes-later"), Some(true));
        one(format!("cc-{trace}-{span}-01"), Some(true));
        one(format!("00-{trace}-{span}-01-more"), None);
        one(format!("cc-{trace}-{span}-01.more"), None);
        one(format!("ff-{trace}-{span}-01"), None);
        one(format!("00-{}-{span}-01", trace.to_uppercase()), None);
        one(format!("00-{}-{span}-01", "0".repeat(32)), None);
        one(format!("00-{trace}-{}-01", "0".repeat(16)), None);
        one(format!("00-{trace}-{span}"), None);
        one(format!("00-{trace}-{span}-0"), None);
        one(format!("00-{}-{span}0-01", &trace[1..]), None);
        one(String::new(), None);
        check(&[], None);
        check(&[format!("00-{trace}-{span}-01"), format!("00-{trace}-{span}-01")], None);
    }
}
