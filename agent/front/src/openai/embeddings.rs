//! `POST /v1/embeddings`. Sentences are sorted by length and go to the model in requests of as many rows as it takes, so
//! that little of a request is padding; each request is one of the model's queue like any other.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Request as HttpRequest, State};
use axum::http::header::EXPECT;
use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use engine::BufferMut;
use media::{Plan, Tokens};
use serde::Serialize;
use serve::ModelView;
use wire::{Error, ErrorCode, Part};

use super::fault::Fault;
use super::input::{Format, Inputs, Request};
use crate::app::App;
use crate::body::{Budget, Reader, over_limit};
use crate::call::{Call, Caller, Decoded, Pending};
use crate::decode::{Room as _, Wishes};
use crate::encode::Wanted;
use crate::fault::UNKNOWN_ENCODING;
use crate::infer::{encoding_of, mark};
use crate::plans::Failure;
use crate::target::Target;
use crate::trace::{Parent, Trace};

/// 2048 sentences, and what JSON makes of them.
const BODY_LIMIT_BYTES: u64 = 8 << 20;
/// Requests of one client's list that are in the model's queue at once: one runs, the next waits.
const IN_FLIGHT: usize = 2;

#[derive(Debug, Serialize)]
struct List {
    object: &'static str,
    data: Vec<Embedding>,
    model: String,
    usage: Usage,
}

#[derive(Debug, Serialize)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Vector {
    Float(Vec<f32>),
    Base64(String),
}

#[derive(Debug, Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

pub(super) async fn embeddings(State(app): State<Arc<App>>, request: HttpRequest) -> Result<Response, Fault> {
    let (parts, body) = request.into_parts();
    let mut trace = Trace::begin(app.traces.as_ref(), "http", Parent::of(&parts.headers));
    let id = trace.id();
    let mut reader = Reader::new(body, app.body_limit.min(BODY_LIMIT_BYTES), app.body_time);
    let answer = answer(&app, &parts, &mut reader, &mut trace).await;
    trace.ended(answer.as_ref().err().map(Fault::wire_code));
    match answer {
        Ok(response) => Ok(response),
        Err(mut fault) => {
            fault.id = Some(id);
            fault.close = parts.headers.contains_key(EXPECT) || !reader.drain_arrived().await;
            Err(fault)
        }
    }
}

async fn answer(
    app: &Arc<App>,
    parts: &Parts,
    reader: &mut Reader,
    trace: &mut Trace,
) -> Result<Response, Fault> {
    let caller = Caller::of(app, parts)?;
    let encoding =
        encoding_of(&parts.headers).ok_or_else(|| Error::new(ErrorCode::Unsupported, UNKNOWN_ENCODING))?;
    let limit = app.body_limit.min(BODY_LIMIT_BYTES);
    let length = reader.left().unwrap_or_default();
    if length > limit {
        return Err(over_limit(limit).into());
    }
    let mut budget = Budget::reserve(&app.serve, length)?;
    reader.unpack(encoding, &mut budget).await?;
    let body = reader.rest(&mut budget).await?;
    trace.arrived(reader.arrived());
    let request = Request::read(&body)?;
    let inputs = request.inputs()?;

    caller.principal().permit(&request.model).map_err(|error| Fault::of(error, "model"))?;
    let view = app.serve.find(&request.model, None).map_err(|error| Fault::of(error, "model"))?;
    if view.config.text.is_none() || view.config.embed.is_none() {
        let text =
            format!("model '{}' makes no embeddings: its model.toml has no [text] and [embed]", view.name);
        return Err(Fault::invalid("model", text));
    }
    let plan = app.plan(&view).await?;
    let asked = Arc::clone(&plan);
    let tokens = app
        .work(&view.name, move || tokens(&asked, inputs))
        .await
        .map_err(|error| Fault::of(error, "input"))?;
    let usage: usize = tokens.iter().map(Tokens::len).sum();
    let (vectors, last) = run(app, &caller, &view, &plan, tokens, trace).await?;

    let size = vectors.first().map_or(0, Vec::len);
    if request.dimensions.is_some_and(|wanted| usize::try_from(wanted).ok() != Some(size)) {
        let text =
            format!("model '{}' has {size} dimensions and does not support specifying others", view.name);
        return Err(Fault::invalid("dimensions", text));
    }
    let format = request.encoding_format;
    let model = view.name.as_ref().to_owned();
    let encode = move || {
        let embedding =
            |(index, vector)| Embedding { object: "embedding", index, embedding: encode(vector, format) };
        let data = vectors.into_iter().enumerate().map(embedding).collect();
        let usage = Usage { prompt_tokens: usage, total_tokens: usage };
        Ok(Json(List { object: "list", data, model, usage }).into_response())
    };
    let mut response = app.work(&view.name, encode).await?;
    mark(response.headers_mut(), trace.id(), &last);
    Ok(response)
}

fn tokens(plan: &Plan, inputs: Inputs) -> Result<Vec<Tokens>, Failure> {
    Ok(match inputs {
        Inputs::Texts(texts) => plan.tokenise(&texts)?,
        Inputs::Tokens(rows) => rows.iter().map(|row| plan.complete(row)).collect::<Result<_, _>>()?,
    })
}

/// The vectors in the order of `tokens`, and the last part that the model answered.
async fn run(
    app: &Arc<App>,
    caller: &Caller,
    view: &ModelView,
    plan: &Arc<Plan>,
    tokens: Vec<Tokens>,
    trace: &mut Trace,
) -> Result<(Vec<Vec<f32>>, Part), Error> {
    let mut order: Vec<usize> = (0..tokens.len()).collect();
    order.sort_by_key(|index| tokens[*index].len());
    let mut vectors = vec![Vec::new(); tokens.len()];
    let mut waiting: VecDeque<(&[usize], Pending)> = VecDeque::with_capacity(IN_FLIGHT);
    let mut groups = order.chunks(view.config.max_batch_size.max(1));
    let mut last = None;
    loop {
        while waiting.len() < IN_FLIGHT
            && let Some(group) = groups.next()
        {
            let rows: Vec<&Tokens> = group.iter().map(|index| &tokens[*index]).collect();
            let target = Target { model: view.name.as_ref().to_owned(), version: None };
            let mut call = Call::open(app, caller.clone(), target, Budget::reserve(&app.serve, 0)?)?;
            let inputs =
                plan.text(&rows, |len| take(&mut call, len)).map_err(|failure| failure.of(&view.name))?;
            let decoded = Decoded { inputs, wanted: Wanted::raw(), wishes: Wishes::default() };
            waiting.push_back((group, call.submit(app, decoded, trace).await?));
        }
        let Some((group, pending)) = waiting.pop_front() else { break };
        let part = pending.answer(app, trace).await?.part;
        let lengths: Vec<usize> = group.iter().map(|index| tokens[*index].len()).collect();
        let plan = Arc::clone(plan);
        let pool = move || Ok((plan.embed(&*part.outputs, &lengths)?, part));
        let (pooled, part) = app.work(&view.name, pool).await?;
        for (index, vector) in group.iter().zip(pooled.unwrap_or_default()) {
            vectors[*index] = vector;
        }
        last = Some(part);
    }
    let last = last.ok_or_else(|| Error::invalid("there is no input"))?;
    Ok((vectors, last))
}

fn take(call: &mut Call, len: usize) -> Result<BufferMut, Failure> {
    Ok(call.take(len)?)
}

fn encode(vector: Vec<f32>, format: Format) -> Vector {
    match format {
        Format::Float => Vector::Float(vector),
        Format::Base64 => {
            let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
            Vector::Base64(BASE64_STANDARD.encode(bytes))
        }
    }
}
