//! The request path and the life of models over the public API, with engines that do as they are told.

mod bounded;
mod instances;
mod life_cycle;
mod loss;
mod overload;
mod path;
mod repository;
mod sequences;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use engine::fake::{FakeBackend, FakeScript};
use engine::{Buffer, DataType, Tensor};
use wire::{Error, Labels, NamedTensor, Part, Request, RequestId};

use crate::residency::Policy;
use crate::{Config, Reply, Serve, State};

/// An agent over a repository with the one model `m`, version 1.
struct Agent {
    serve: Arc<Serve>,
    root: tempfile::TempDir,
    /// Batches that engines began, warm-up runs included.
    runs: Arc<AtomicU64>,
    /// Loads that the backend began.
    loads: Arc<AtomicU64>,
}

const BODY: u64 = 16;

impl Agent {
    async fn new(script: FakeScript, model_toml: &str) -> Self {
        Self::with_policy(script, model_toml, Policy::local()).await
    }

    async fn with_policy(script: FakeScript, model_toml: &str, policy: Policy) -> Self {
        let root = tempfile::tempdir().unwrap();
        add_version(root.path(), "m", 1);
        write(&root.path().join("m/model.toml"), model_toml);
        let backend = FakeBackend::new(script);
        let (runs, loads) = (Arc::clone(&backend.runs), Arc::clone(&backend.loads));
        let config = Config {
            model_repository: root.path().to_owned(),
            buffered_limit_bytes: 4096,
            ..Config::default()
        };
        let serve = Serve::new(config, policy, vec![Arc::new(backend)]);
        serve.load_all().await;
        Self { serve, root, runs, loads }
    }

    async fn send(&self, request: Request) -> Result<Reply, Error> {
        let reservation = self.serve.reserve(BODY)?;
        self.serve.infer(request, reservation).await
    }

    async fn infer(&self, value: f32) -> Result<Part, Error> {
        self.send(request(value)).await?.single().await
    }

    /// Sends one and waits until it is in the engine, which the test holds.
    async fn occupy(&self) -> Reply {
        let before = self.runs();
        let reply = self.send(request(0.5)).await.unwrap();
        eventually("the engine takes a request", || self.runs() > before).await;
        reply
    }

    fn runs(&self) -> u64 {
        self.runs.load(Ordering::Relaxed)
    }

    fn stats(&self) -> crate::ModelStats {
        self.serve.stats().into_iter().find(|stats| stats.version == 1).unwrap()
    }

    fn state(&self) -> (State, String) {
        let entry = self.serve.index().into_iter().next().unwrap();
        (entry.state, entry.reason)
    }

    /// Everything that was accepted has ended and gave its room back.
    fn assert_idle(&self) {
        let pressure = self.serve.pressure();
        assert_eq!((pressure.buffered_bytes, pressure.pending_requests), (0, 0));
    }
}

fn add_version(root: &Path, model: &str, version: u64) {
    let dir = root.join(model).join(version.to_string());
    fs::create_dir_all(&dir).unwrap();
    write(&dir.join("model.onnx"), "");
}

fn write(path: &Path, text: &str) {
    File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn request(value: f32) -> Request {
    rows(&[value])
}

/// One row per value: `[value, 0, 0, 0]`.
fn rows(values: &[f32]) -> Request {
    let bytes: Vec<u8> =
        values.iter().flat_map(|value| [*value, 0.0, 0.0, 0.0]).flat_map(f32::to_le_bytes).collect();
    let tensor = Tensor::new(DataType::Fp32, vec![values.len(), 4], Buffer::copy_from(&bytes)).unwrap();
    Request {
        id: RequestId::next(),
        model: "m".to_owned(),
        version: None,
        labels: Labels {
            tenant: "local".to_owned(),
            jurisdiction: "ZZ".parse().unwrap(),
            data_class: "operational".to_owned(),
            purpose: "inference".to_owned(),
        },
        inputs: vec![NamedTensor { name: "input".to_owned(), tensor }],
        outputs: Vec::new(),
        timeout: None,
        priority: 0,
        sequence: None,
    }
}

fn with_timeout(value: f32, timeout: Duration) -> Request {
    Request { timeout: Some(timeout), ..request(value) }
}

/// The first value of the only output.
fn value(part: &Part) -> f32 {
    f32::from_le_bytes(*part.outputs[0].tensor.data().bytes().first_chunk().unwrap())
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        tokio::task::yield_now().await;
    }
}
