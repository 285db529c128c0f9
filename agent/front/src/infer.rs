//! `POST /v2/models/{m}[/versions/{v}]/infer`: how a body is read and a reply written. The way between is `call.rs`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE, EXPECT};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use bytes::Bytes;
use engine::{DataType, Dim, Tensor, TensorSpec};
use serve::ModelView;
use wire::{Error, NamedTensor, Part, RequestId};

use crate::app::App;
use crate::body::{Budget, Encoding, Reader};
use crate::call::{Call, Caller, Decoded};
use crate::decode::{self, InputHead, Room, Source, Wishes};
use crate::encode::{self, Encoded, Wanted};
use crate::fault::Fault;
use crate::frames::Frames;
use crate::media;
use crate::target::Target;
use crate::trace::{Parent, Trace};

const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");
const MAST_REQUEST_ID: HeaderName = HeaderName::from_static("mast-request-id");
const MAST_PROVIDER: HeaderName = HeaderName::from_static("mast-provider");
const MAST_DEVICE: HeaderName = HeaderName::from_static("mast-device");

pub(crate) async fn infer(
    State(app): State<Arc<App>>,
    target: Target,
    request: Request,
) -> Result<Response, Fault> {
    let (parts, body) = request.into_parts();
    let mut trace = Trace::begin(app.traces.as_ref(), "http", Parent::of(&parts.headers));
    let id = trace.id();
    let mut reader = Reader::new(body, app.body_limit, app.body_time);
    let answer = answer(&app, target, &parts, &mut reader, &mut trace).await;
    trace.ended(answer.as_ref().err().map(Fault::code));
    match answer {
        Ok(response) => Ok(response),
        Err(mut fault) => {
            fault.id = Some(id);
            // Reading on would tell a client that asks first (RFC 9110 §10.1.1) to send what nobody wants.
            let asked = parts.headers.contains_key(EXPECT);
            fault.close = asked || !reader.drain_arrived().await;
            Err(fault)
        }
    }
}

async fn answer(
    app: &Arc<App>,
    target: Target,
    parts: &Parts,
    reader: &mut Reader,
    trace: &mut Trace,
) -> Result<Response, Fault> {
    let headers = &parts.headers;
    let caller = Caller::of(app, parts)?;
    let mut call = Call::open(app, caller, target, Budget::reserve(&app.serve, 0)?)?;
    let encoding = encoding_of(headers).ok_or_else(Fault::unknown_encoding)?;
    let header_length = header_length(headers)?;
    let length = reader.left();
    if length.is_some_and(|length| length > app.body_limit) {
        return Err(reader.over_limit().into());
    }
    call.reserve(app, length.unwrap_or_default())?;
    reader.unpack(encoding, &mut call.budget).await?;
    if let Some(kind) = media::Kind::of(headers, call.view()) {
        return media::answer(app, call, kind, reader, trace).await;
    }
    let decoded = decode(reader, &mut call, header_length).await?;
    trace.arrived(reader.arrived());
    let answer = call.submit(app, decoded, trace).await?.answer(app, trace).await?;
    let encoded = encode::reply(&answer.part, &answer.wanted, answer.context())?;
    Ok(respond(encoded, answer.id, &answer.part))
}

/// Reads the JSON, then streams the tensors behind it into memory that the engines read in place.
async fn decode(reader: &mut Reader, call: &mut Call, header_length: Option<u64>) -> Result<Decoded, Fault> {
    let json = match header_length {
        Some(0) => return raw(reader, call).await,
        None => reader.rest(&mut call.budget).await?,
        Some(length) => {
            let outside = || {
                Error::invalid(format!(
                    "Inference-Header-Content-Length is {length}, which is outside the body"
                ))
            };
            let fits = usize::try_from(length).ok().filter(|_| length <= reader.allowance());
            reader.take(fits.ok_or_else(outside)?, &mut call.budget).await?.ok_or_else(outside)?
        }
    };
    let mut head = decode::head(&json)?;
    call.expects(head.inputs.len())?;
    check_binary(&head.inputs, reader, call.view())?;
    let mut inputs = Vec::with_capacity(head.inputs.len());
    for input in &head.inputs {
        inputs.push(match input.source {
            Source::Json(raw) => decode::json_tensor(input, raw, call)?,
            Source::Binary(size) => {
                let mut buffer = call.take(size)?;
                let lacking = reader.fill(buffer.bytes_mut()).await?;
                if lacking > 0 {
                    return Err(too_short(input, lacking, call.view()).into());
                }
                decode::tensor(input, buffer.freeze())?
            }
        });
    }
    if !reader.is_empty().await? {
        return Err(too_long(call.view()).into());
    }
    let wishes = std::mem::take(&mut head.parameters.wishes);
    Ok(Decoded { inputs, wanted: Wanted::of(&head), wishes })
}

/// The sizes in the JSON against what the body still has, before any memory is taken for them.
fn check_binary(inputs: &[InputHead<'_>], reader: &Reader, view: &ModelView) -> Result<(), Error> {
    let mut available = reader.allowance();
    for input in inputs {
        if let Source::Binary(size) = input.source {
            let size = u64::try_from(size).unwrap_or(u64::MAX);
            match available.checked_sub(size) {
                Some(left) => available = left,
                None if reader.left().is_none() => return Err(reader.over_limit()),
                None => {
                    return Err(too_short(
                        input,
                        usize::try_from(size - available).unwrap_or(usize::MAX),
                        view,
                    ));
                }
            }
        }
    }
    if reader.left().is_some() && available > 0 { Err(too_long(view)) } else { Ok(()) }
}

fn too_short(input: &InputHead<'_>, lacking: usize, view: &ModelView) -> Error {
    Error::invalid(format!(
        "unexpected size for input '{}', expecting {lacking} additional bytes for model '{}'",
        input.name, view.name
    ))
}

fn too_long(view: &ModelView) -> Error {
    Error::invalid(format!("unexpected additional input data for model '{}'", view.name))
}

/// A body without JSON: the one input of the model, one row of it.
async fn raw(reader: &mut Reader, call: &mut Call) -> Result<Decoded, Fault> {
    let signature = Arc::clone(&call.view().signature);
    let [spec] = &*signature.inputs else {
        let name = &call.view().name;
        let text = format!("a raw binary request needs a model with one input, '{name}' has more");
        return Err(Error::invalid(text).into());
    };
    let body = reader.rest(&mut call.budget).await?;
    let framed = spec.datatype == DataType::Bytes;
    let mut buffer = call.take(body.len() + if framed { 4 } else { 0 })?;
    let mut place = buffer.bytes_mut();
    if framed {
        let length = u32::try_from(body.len()).map_err(|_| Error::invalid("the body is over 4 GiB"))?;
        let (prefix, rest) = place.split_at_mut(4);
        prefix.copy_from_slice(&length.to_le_bytes());
        place = rest;
    }
    place.copy_from_slice(&body);
    let shape = raw_shape(spec, call.view().config.max_batch_size > 0, body.len())?;
    let tensor = Tensor::new(spec.datatype, shape, buffer.freeze())
        .map_err(|error| Error::invalid(format!("input '{}': {error}", spec.name)))?;
    let inputs = vec![NamedTensor { name: spec.name.clone(), tensor }];
    Ok(Decoded { inputs, wanted: Wanted::raw(), wishes: Wishes::default() })
}

/// The shape that `length` bytes have: one row, and at most one more dynamic axis, which takes what is left.
fn raw_shape(spec: &TensorSpec, batches: bool, length: usize) -> Result<Vec<usize>, Error> {
    let mut shape: Vec<Option<usize>> = spec
        .shape
        .iter()
        .map(|dim| match dim {
            Dim::Fixed(size) => Some(*size),
            Dim::Dynamic(_) => None,
        })
        .collect();
    if batches && let Some(rows) = shape.first_mut() {
        *rows = Some(1);
    }
    let elements = spec.datatype.size().map_or(1, |size| length / size);
    let known = shape.iter().flatten().try_fold(1_usize, |count, size| count.checked_mul(*size));
    let mut open = shape.iter_mut().filter(|size| size.is_none());
    if let Some(size) = open.next() {
        *size = known.filter(|known| *known > 0).map(|known| elements / known);
    }
    shape.into_iter().collect::<Option<_>>().ok_or_else(|| {
        Error::invalid(format!(
            "input '{}': a raw binary request needs an input with at most one dynamic axis besides the batch",
            spec.name
        ))
    })
}

/// How the body is packed; nothing when it is not understood.
pub(crate) fn encoding_of(headers: &HeaderMap) -> Option<Encoding> {
    // In any case of letters (RFC 9110 §8.4.1).
    match headers.get(CONTENT_ENCODING).map(|coding| coding.as_bytes().to_ascii_lowercase()).as_deref() {
        None | Some(b"") => Some(Encoding::Identity),
        Some(name) => Encoding::named(name),
    }
}

fn header_length(headers: &HeaderMap) -> Result<Option<u64>, Error> {
    let Some(value) = headers.get(HEADER_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    length.map(Some).ok_or_else(|| Error::invalid("Inference-Header-Content-Length is no number of bytes"))
}

fn respond(encoded: Encoded, id: RequestId, part: &Part) -> Response {
    let Encoded { frames, header_length } = encoded;
    let mut response = Response::new(body(frames));
    let headers = response.headers_mut();
    let content_type = if header_length.is_some() { "application/octet-stream" } else { "application/json" };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Some(length) = header_length {
        headers.insert(HEADER_LENGTH, HeaderValue::from(length));
    }
    mark(headers, id, part);
    response
}

/// Says in the headers of a reply which request of the log it answers.
pub(crate) fn mark_id(headers: &mut HeaderMap, id: RequestId) {
    if let Ok(id) = HeaderValue::from_maybe_shared(Bytes::from(id.to_string())) {
        headers.insert(MAST_REQUEST_ID, id);
    }
}

/// Says in the headers of a reply what ran it, in whatever protocol.
pub(crate) fn mark(headers: &mut HeaderMap, id: RequestId, part: &Part) {
    mark_id(headers, id);
    headers.insert(MAST_PROVIDER, HeaderValue::from_static(part.ran.provider.name()));
    if let Ok(device) = HeaderValue::from_str(&part.ran.device.id) {
        headers.insert(MAST_DEVICE, device);
    }
}

fn body(mut frames: Vec<Bytes>) -> Body {
    if frames.len() > 1 {
        return Body::new(Frames::new(frames));
    }
    Body::from(frames.pop().unwrap_or_default())
}
