//! `mast infer`: one inference, from a photo, a text or a v2 request, and what it means.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use engine::BufferMut;
use hyper::header::{HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{HeaderMap, StatusCode};
use media::{Photo, Plan};
use serde_json::{Value, json};
use wire::NamedTensor;

use super::catalog::{Card, CardError};
use super::client::{Answer, Client, ClientError, binary_headers, json_headers};
use super::findings::{Findings, Sent};
use super::reply::Reply;
use super::report::Report;
use super::{complain, print};
use crate::config::default_data_dir;
use crate::exit::{Exit, chain};

/// The longest input that is read.
const INPUT_LIMIT_BYTES: u64 = 256 << 20;
/// How long to wait when no --timeout-ms says otherwise.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The agent's own deadline comes first; this is for the way there and back.
const TIMEOUT_MARGIN: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(crate) struct InferArgs {
    /// Name of the model, as `mast models` lists it
    model: String,
    /// A photo (JPEG, PNG), a text, or a v2 inference request in JSON; `-` reads from stdin
    input: PathBuf,
    /// Send it to this address (HOST:PORT) of the public API instead of the control socket
    #[arg(long)]
    http: Option<String>,
    /// Folder of the model with its model.toml, when the agent's control socket is out of reach
    #[arg(long)]
    model_dir: Option<PathBuf>,
    /// Version of the model; the newest that is served if not given
    #[arg(long)]
    version: Option<u64>,
    /// Whose request it is
    #[arg(long)]
    tenant: Option<String>,
    /// The law the data belongs to: DE, DE-BY, or a group of the policy
    #[arg(long)]
    jurisdiction: Option<String>,
    /// Class of the data, a word of the policy
    #[arg(long)]
    data_class: Option<String>,
    /// What it is for, a word of the policy
    #[arg(long)]
    purpose: Option<String>,
    /// How long the answer may take
    #[arg(long)]
    timeout_ms: Option<u64>,
    /// Data directory of the agent, where its control socket is
    #[arg(long, env = "MAST_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, thiserror::Error)]
enum InferError {
    #[error("cannot read {}", path.display())]
    Input { path: PathBuf, source: io::Error },
    #[error("{} is longer than {INPUT_LIMIT_BYTES} bytes", path.display())]
    InputTooLong { path: PathBuf },
    #[error("cannot use {}", path.display())]
    Media { path: PathBuf, source: media::Error },
    #[error(
        "model '{model}' has no {block} in its model.toml: send it a v2 request in JSON instead of {what}"
    )]
    NotFor { model: String, block: &'static str, what: &'static str },
    #[error("--{name} is no plain text")]
    Label { name: &'static str },
    #[error(transparent)]
    Card(#[from] CardError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{message}")]
    Refused { message: String, rule: String, allowed: String },
    #[error("the reply makes no sense: {detail}")]
    Reply { detail: String },
}

pub(crate) fn run(args: &InferArgs) -> Exit {
    super::block_on(async {
        match infer(args).await {
            Ok(report) if args.json => print(format!("{}\n", report.to_json()).as_bytes()),
            Ok(report) => print(report.to_table().as_bytes()),
            Err(error) if args.json => {
                print(format!("{}\n", error.to_json()).as_bytes());
                Exit::Failed
            }
            Err(error) => complain(&error),
        }
    })
}

impl InferError {
    fn to_json(&self) -> Value {
        match self {
            Self::Refused { message, rule, allowed } => {
                json!({ "error": message, "rule": rule, "allowed": allowed })
            }
            other => json!({ "error": chain(other) }),
        }
    }
}

async fn infer(args: &InferArgs) -> Result<Report, InferError> {
    let socket = Client::over_socket(&args.data_dir.clone().unwrap_or_else(default_data_dir));
    let target = match &args.http {
        Some(address) => Client::over_http(address)?,
        None => socket.clone(),
    };
    let input = read_input(&args.input)?;
    let card = match &args.model_dir {
        Some(dir) => Card::of_dir(dir),
        None => Card::of_agent(&socket, &args.model).await,
    };
    let (request, card) = match input.trim_ascii_start().first() {
        // What the outputs mean is good to know, but a request in JSON can do without.
        Some(b'{') => {
            (Request { headers: json_headers(), body: input.into(), sent: Sent::Request }, card.ok())
        }
        _ => {
            let card = card?;
            (media_request(args, &card.plan, &input)?, Some(card))
        }
    };
    let mut headers = request.headers;
    headers.extend(labels(args)?);
    let limit =
        args.timeout_ms.map_or(TIMEOUT, |ms| Duration::from_millis(ms).saturating_add(TIMEOUT_MARGIN));
    let start = Instant::now();
    let answer = target.post(&path(&args.model, args.version), headers, request.body, limit).await?;
    let round_trip = start.elapsed();
    understand(&answer, card.as_ref(), request.sent, round_trip)
}

struct Request {
    headers: HeaderMap,
    body: Bytes,
    sent: Sent,
}

/// The photo or the text as the model's inputs, in the binary form both ways.
fn media_request(args: &InferArgs, plan: &Plan, bytes: &[u8]) -> Result<Request, InferError> {
    let failed = |source| InferError::Media { path: args.input.clone(), source };
    let allocate = |len| Ok(BufferMut::heap(len));
    let (inputs, sent) = match std::str::from_utf8(bytes) {
        // A photo is never UTF-8: both formats begin with a byte that is none.
        Ok(text) if plan.takes_text() => {
            let tokens = plan.tokenise(&[text.trim_end()]).map_err(failed)?;
            let rows: Vec<_> = tokens.iter().collect();
            let inputs = plan.text(&rows, allocate).map_err(failed)?;
            (inputs, Sent::Text { tokens: rows.iter().map(|row| row.len()).sum() })
        }
        _ if plan.takes_photos() => {
            let prepared =
                Photo::open(bytes).and_then(|photo| plan.photo(photo, allocate)).map_err(failed)?;
            (vec![prepared.input], Sent::Photo(prepared.place))
        }
        text => {
            let (block, what) = if text.is_ok() { ("[text]", "a text") } else { ("[image]", "a photo") };
            return Err(InferError::NotFor { model: args.model.clone(), block, what });
        }
    };
    let (headers, body) = binary(&inputs, args.timeout_ms);
    Ok(Request { headers, body, sent })
}

fn binary(inputs: &[NamedTensor], timeout_ms: Option<u64>) -> (HeaderMap, Bytes) {
    let mut parameters = json!({ "binary_data_output": true });
    if let Some(ms) = timeout_ms {
        // The v2 parameter `timeout` is in microseconds.
        parameters["timeout"] = ms.saturating_mul(1_000).into();
    }
    let head = |NamedTensor { name, tensor }: &NamedTensor| {
        json!({
            "name": name,
            "datatype": tensor.datatype().name(),
            "shape": tensor.shape(),
            "parameters": { "binary_data_size": tensor.data().len() },
        })
    };
    let head = json!({ "parameters": parameters, "inputs": inputs.iter().map(head).collect::<Vec<_>>() });
    let mut body = head.to_string().into_bytes();
    let headers = binary_headers(body.len());
    for input in inputs {
        body.extend_from_slice(input.tensor.data().bytes());
    }
    (headers, body.into())
}

fn read_input(path: &Path) -> Result<Vec<u8>, InferError> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if path == Path::new("-") {
            io::stdin().lock().take(INPUT_LIMIT_BYTES + 1).read_to_end(&mut bytes)?;
        } else {
            File::open(path)?.take(INPUT_LIMIT_BYTES + 1).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    };
    let bytes = read().map_err(|source| InferError::Input { path: path.to_owned(), source })?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > INPUT_LIMIT_BYTES {
        return Err(InferError::InputTooLong { path: path.to_owned() });
    }
    Ok(bytes)
}

/// The label headers; what is not given is the listener's default.
fn labels(args: &InferArgs) -> Result<HeaderMap, InferError> {
    let mut headers = HeaderMap::new();
    for (name, header, value) in [
        ("tenant", "mast-tenant", &args.tenant),
        ("jurisdiction", "mast-jurisdiction", &args.jurisdiction),
        ("data-class", "mast-data-class", &args.data_class),
        ("purpose", "mast-purpose", &args.purpose),
    ] {
        if let Some(value) = value {
            let value = HeaderValue::from_str(value).map_err(|_| InferError::Label { name })?;
            headers.insert(HeaderName::from_static(header), value);
        }
    }
    Ok(headers)
}

fn path(model: &str, version: Option<u64>) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let encode = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    let model: String = model.bytes().map(encode).collect();
    match version {
        Some(version) => format!("/v2/models/{model}/versions/{version}/infer"),
        None => format!("/v2/models/{model}/infer"),
    }
}

fn understand(
    answer: &Answer,
    card: Option<&Card>,
    sent: Sent,
    round_trip: Duration,
) -> Result<Report, InferError> {
    if answer.status != StatusCode::OK {
        return Err(refusal(answer));
    }
    let nonsense = |detail| InferError::Reply { detail };
    let reply = Reply::read(answer).map_err(nonsense)?;
    let findings = match card {
        Some(card) => Findings::of(&reply, &card.plan, sent).map_err(|error| nonsense(error.to_string()))?,
        None => Findings::default(),
    };
    Ok(Report::new(&reply, findings, round_trip))
}

fn refusal(answer: &Answer) -> InferError {
    let mut message = answer.error_text();
    let json: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let text = |key: &str| json.get(key).and_then(Value::as_str).map(str::to_owned);
    if let (StatusCode::FORBIDDEN, Some(rule), Some(allowed)) = (answer.status, text("rule"), text("allowed"))
    {
        return InferError::Refused { message, rule, allowed };
    }
    if let Some(seconds) = answer.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()) {
        message = format!("{message} (try again in {seconds} s)");
    }
    ClientError::Refused { status: answer.status, message }.into()
}

#[cfg(test)]
#[path = "infer_tests.rs"]
mod tests;
