//! Requests a second through the request path alone: 64 tasks, 1 KiB bodies, an engine that only echoes.
//!
//! `cargo run --release -p mast-serve --example path [seconds]`
#![allow(clippy::print_stdout, reason = "a measurement prints its result")]

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::fake::{FakeBackend, FakeScript};
use engine::{Buffer, DataType, Tensor};
use mast_serve::residency::{Policy, Site};
use mast_serve::{Config, Serve};
use tokio::task::JoinSet;
use wire::{Labels, NamedTensor, Request, RequestId};

const TASKS: usize = 64;
const BODY_BYTES: u64 = 1024;
/// Of FP32 `[rows, 4]`.
const ROWS: usize = 64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let seconds = std::env::args().nth(1).map_or(Ok(3), |seconds| seconds.parse())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build()?;
    for max_batch_size in [0, 4096] {
        runtime.block_on(measure(max_batch_size, Duration::from_secs(seconds)))?;
    }
    Ok(())
}

async fn measure(max_batch_size: usize, duration: Duration) -> Result<(), Box<dyn std::error::Error>> {
    let root = tempfile::tempdir()?;
    std::fs::create_dir_all(root.path().join("echo/1"))?;
    File::create(root.path().join("echo/1/model.onnx"))?;
    let mut toml = File::create(root.path().join("echo/model.toml"))?;
    std::io::Write::write_all(&mut toml, format!("max_batch_size = {max_batch_size}").as_bytes())?;
    let config = Config { model_repository: root.path().to_owned(), ..Config::default() };
    let backend = Arc::new(FakeBackend::new(FakeScript::default()));
    let serve = Serve::new(config, Policy::local(), vec![backend]);
    serve.load_all().await;

    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let serve = Arc::clone(&serve);
        tasks.spawn(async move {
            let mut answered = 0_u64;
            while started.elapsed() < duration {
                let reservation = serve.reserve(BODY_BYTES)?;
                serve.infer(request()?, reservation).await?.single().await?;
                answered += 1;
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(answered)
        });
    }
    let mut answered = 0;
    while let Some(done) = tasks.join_next().await {
        answered += done?.map_err(|error| error.to_string())?;
    }
    let per_second = answered * 1000 / u64::try_from(started.elapsed().as_millis())?;
    let executions = serve.stats().first().map_or(0, |stats| stats.all.execution_count);
    println!("max_batch_size {max_batch_size}: {per_second} requests/s, {answered} in {executions} batches");
    Ok(())
}

fn request() -> Result<Request, engine::TensorError> {
    let data = Buffer::copy_from(&[0; ROWS * 16]);
    let tensor = Tensor::new(DataType::Fp32, vec![ROWS, 4], data)?;
    Ok(Request {
        id: RequestId::next(),
        model: "echo".to_owned(),
        version: None,
        labels: Labels {
            tenant: "local".to_owned(),
            jurisdiction: Site::default().jurisdiction().clone(),
            data_class: "operational".to_owned(),
            purpose: "inference".to_owned(),
        },
        inputs: vec![NamedTensor { name: "input".to_owned(), tensor }],
        outputs: Vec::new(),
        timeout: None,
        priority: 0,
        sequence: None,
    })
}
