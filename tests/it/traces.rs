//! Traces: spans reach a collector on this box, say what ran and for how long, and no word of a client's; a collector that
//! is slow or gone costs no request anything.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::http::Request;
use harness::{Setup, infer as body, wait_for};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use crate::{assert_serves, setup_with_add};

const PATIENCE: Duration = Duration::from_secs(20);

/// A collector: takes what is posted to `/v1/traces` and hands over the spans.
struct Collector {
    address: SocketAddr,
    spans: Receiver<Vec<Span>>,
    seen: Vec<Span>,
}

impl Collector {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (sender, spans) = sync_channel(64);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut reader = BufReader::new(stream);
                while let Ok(Some(body)) = take(&mut reader) {
                    let request = ExportTraceServiceRequest::decode(&body[..]).expect("OTLP");
                    let resources = request.resource_spans.into_iter();
                    let scopes = resources.flat_map(|resource| resource.scope_spans);
                    if sender.send(scopes.flat_map(|scope| scope.spans).collect()).is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Self { address, spans, seen: Vec::new() })
    }

    fn setup(&self) -> Result<Setup> {
        Ok(setup_with_add()?.config(&format!("[traces]\notlp = \"http://{}\"", self.address)))
    }

    /// Waits for as many spans of requests, and gives all that came so far.
    fn wait_for(&mut self, requests: usize) -> Result<&[Span]> {
        wait_for("spans", PATIENCE, || {
            self.seen.extend(self.spans.try_iter().flatten());
            Ok((self.roots().count() >= requests).then_some(()))
        })?;
        Ok(&self.seen)
    }

    fn roots(&self) -> impl Iterator<Item = &Span> {
        self.seen.iter().filter(|span| span.name == "infer")
    }

    fn root(&self, status: &str) -> Result<&Span> {
        let root = self.roots().find(|span| text(span, "mast.status") == status);
        root.with_context(|| format!("no span with status {status}: {:?}", self.seen))
    }
}

/// One request of the exporter, answered with 200; `None` at the end of the connection.
fn take(reader: &mut BufReader<TcpStream>) -> Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        if line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_ascii_lowercase());
    }
    ensure!(head[0] == "post /v1/traces http/1.1", "{head:?}");
    ensure!(head.iter().any(|line| line == "content-type: application/x-protobuf"), "{head:?}");
    let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")).context("no length")?;
    let mut body = vec![0; length.parse()?];
    reader.read_exact(&mut body)?;
    reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
    Ok(Some(body))
}

fn value<'a>(span: &'a Span, key: &str) -> Option<&'a Value> {
    span.attributes.iter().find(|one| one.key == key)?.value.as_ref()?.value.as_ref()
}

fn text(span: &Span, key: &str) -> String {
    match value(span, key) {
        Some(Value::StringValue(text)) => text.clone(),
        other => format!("{other:?}"),
    }
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const SECRET: &str = "word-of-the-client-2718";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_request_is_a_span_with_its_stages_and_no_word_of_the_clients() -> Result<()> {
    let mut collector = Collector::start()?;
    let mut agent = collector.setup()?.start()?;
    let good = body::json("add", "x", &[1, 4], &[0.0; 4]);
    let reply = agent.send_ok(&good.clone().with("traceparent", &format!("00-{TRACE}-{PARENT}-01")))?;
    let id = reply.header("Mast-Request-Id").context("no id")?.to_owned();
    let secret = format!("{{\"id\":\"{SECRET}\",\"inputs\":[{{\"name\":\"{SECRET}\"}}]}}");
    let refused =
        agent.send(&Request::post("/v2/models/add/infer", secret).with("Mast-Purpose", "inference"))?;
    ensure!(refused.status == 400, "{refused}");
    let refused_id = refused.header("Mast-Request-Id").context("no id")?.to_owned();
    agent.send(&Request::post(&format!("/v2/models/{SECRET}/infer"), "{}"))?;
    agent.send(&good.clone().with("Mast-Tenant", SECRET))?;
    // Not recorded by its caller, so not here either.
    agent.send_ok(&good.with("traceparent", &format!("00-{TRACE}-{PARENT}-00")))?;
    collector.wait_for(4)?;
    agent.terminate()?;
    let everything = format!("{:?}", collector.wait_for(4)?);
    ensure!(!everything.contains(SECRET), "{everything}");
    ensure!(collector.roots().count() == 4, "{everything}");

    let root = collector.root("ok")?;
    ensure!(hex(&root.trace_id) == TRACE && hex(&root.parent_span_id) == PARENT, "{root:?}");
    ensure!(text(root, "mast.request_id") == id, "{root:?} is not {id}");
    ensure!(text(root, "mast.model") == "add" && text(root, "mast.provider") == "cpu", "{root:?}");
    ensure!(value(root, "mast.batch_rows") == Some(&Value::IntValue(1)), "{root:?}");
    let mut at = root.start_time_unix_nano;
    for stage in ["queue", "batch", "compute"] {
        let of_root = |span: &&Span| span.name == stage && span.parent_span_id == root.span_id;
        let span = collector.seen.iter().find(of_root).with_context(|| format!("no {stage}"))?;
        ensure!(span.start_time_unix_nano >= at && span.trace_id == root.trace_id, "{span:?} before {at}");
        at = span.end_time_unix_nano;
    }
    ensure!(at <= root.end_time_unix_nano, "{root:?} ends before its compute at {at}");
    ensure!(text(collector.root("invalid_argument")?, "mast.request_id") == refused_id, "{everything}");
    collector.root("unknown_model")?;
    collector.root("refused")?;
    Ok(())
}

#[test]
fn a_collector_that_is_gone_costs_spans_and_no_request() -> Result<()> {
    let nobody = harness::free_port()?;
    let config = format!("[traces]\notlp = \"http://127.0.0.1:{nobody}\"\nqueue_limit = 16");
    let mut agent = setup_with_add()?.config(&config).start()?;
    for _ in 0..100 {
        assert_serves(&agent)?;
    }
    let dropped = |agent: &harness::Agent, reason: &str| {
        agent.metric(&format!("mast_traces_dropped_total{{reason=\"{reason}\"}}"))
    };
    wait_for("dropped spans to be counted", PATIENCE, || {
        let total =
            [dropped(&agent, "queue")?, dropped(&agent, "collector")?].into_iter().flatten().sum::<f64>();
        Ok((total >= 100.0).then_some(()))
    })?;
    ensure!(agent.metric("mast_traces_exported_total")? == Some(0.0), "exported to nobody");
    ensure!(agent.terminate()?.success(), "{}", agent.log());
    Ok(())
}

#[test]
fn a_collector_elsewhere_is_refused() -> Result<()> {
    for place in ["http://192.0.2.1:4318", "http://collector.example.com:4318", "https://127.0.0.1:4318"] {
        let setup = setup_with_add()?.config(&format!("[traces]\notlp = \"{place}\""));
        let (status, said) = setup.run_to_its_end()?;
        ensure!(status.code() == Some(64) && said.contains("traces.otlp"), "{place}: {status} {said}");
    }
    Ok(())
}

#[test]
fn without_a_collector_nothing_is_counted() -> Result<()> {
    let agent = setup_with_add()?.start()?;
    assert_serves(&agent)?;
    ensure!(agent.metric("mast_traces_exported_total")?.is_none(), "traces are on");
    Ok(())
}
