//! The front and the request path over an engine that echoes FP32 `[n, 4]`: for measuring what they cost, and
//! for trying clients without a model. Serves model `echo`; prints its addresses.

use std::io::Write;
use std::net::Ipv4Addr;
use std::sync::Arc;

use engine::fake::{FakeBackend, FakeScript};
use mast_front::{Config, bind};
use serve::Serve;
use serve::residency::Policy;
use tokio::sync::watch;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let repository = tempfile::tempdir()?;
    let model = repository.path().join("echo");
    std::fs::create_dir_all(model.join("1"))?;
    std::fs::File::create(model.join("1/model.onnx"))?;
    std::fs::File::create(model.join("model.toml"))?.write_all(b"max_batch_size = 64\n")?;
    let serving =
        serve::Config { model_repository: repository.path().to_owned(), ..serve::Config::default() };
    let backend = Arc::new(FakeBackend::new(FakeScript::default()));
    let serve = Serve::new(serving, Policy::local(), vec![backend]);
    let any = (Ipv4Addr::LOCALHOST, 0).into();
    let bound = bind(Config { http: any, grpc: any, metrics: any, ..Config::default() }).await?;
    let addresses = bound.addresses();
    serve.load_all().await;
    let (_shutdown, requested) = watch::channel(false);
    let _running = bound.serve(&serve, None, &requested);
    #[expect(clippy::print_stdout, reason = "the addresses are what this program prints")]
    {
        println!("{} {} {}", addresses.http, addresses.grpc, addresses.metrics);
    }
    std::future::pending().await
}
