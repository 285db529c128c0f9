//! A front over a serve with fake engines, and a client that is nothing but a socket.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::fake::{FakeBackend, FakeScript};
use front::{Config, Credentials, KeysConfig, Running, TlsConfig};
use serve::Serve;
use serve::residency::Policy;
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// The budget of whatever should happen at once.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) struct Agent {
    pub(crate) runtime: Runtime,
    pub(crate) serve: Arc<Serve>,
    pub(crate) http: SocketAddr,
    pub(crate) grpc: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) control: PathBuf,
    pub(crate) shutdown: watch::Sender<bool>,
    pub(crate) running: Option<Running>,
    pub(crate) credentials: Credentials,
    pub(crate) repository: tempfile::TempDir,
}

#[derive(Default)]
pub(crate) struct Setup {
    pub(crate) front: &'static str,
    pub(crate) script: FakeScript,
    pub(crate) buffered_limit_bytes: Option<u64>,
    pub(crate) queue_limit: Option<usize>,
    pub(crate) tls: Option<TlsConfig>,
    pub(crate) keys: Option<KeysConfig>,
}

impl Agent {
    pub(crate) fn start(setup: Setup) -> Self {
        let repository = tempfile::tempdir().unwrap();
        add_model(
            &repository,
            "echo",
            "max_batch_size = 8\n[classify]\noutput = \"output\"\nlabels = \"labels.txt\"",
        );
        write(&repository.path().join("echo/labels.txt"), "cat\ndog\nowl\n");
        let mut config: Config = toml::from_str(setup.front).unwrap();
        config.http = (std::net::Ipv4Addr::LOCALHOST, 0).into();
        config.grpc = config.http;
        config.metrics = config.http;
        (config.tls, config.keys) = (setup.tls, setup.keys);
        let mut serving =
            serve::Config { model_repository: repository.path().to_owned(), ..serve::Config::default() };
        if let Some(limit) = setup.buffered_limit_bytes {
            serving.buffered_limit_bytes = limit;
        }
        if let Some(limit) = setup.queue_limit {
            serving.queue_limit = limit;
        }
        let backend = Arc::new(FakeBackend::new(setup.script));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let serve = Serve::new(serving, Policy::local(), vec![backend]);
        let (shutdown, requested) = watch::channel(false);
        let control = repository.path().join("control.sock");
        let (addresses, credentials, running) = runtime.block_on(async {
            let summary = serve.load_all().await;
            assert!(summary.failed.is_empty(), "{summary:?}");
            let bound = front::bind(config.clone()).await.unwrap();
            let (addresses, credentials) = (bound.addresses(), bound.credentials());
            let more: front::MoreMetrics = Arc::new(|text: &mut String| text.push_str("app_row 7\n"));
            let status: front::Status = Arc::new(|| serde_json::json!({ "site": "test" }));
            let listener = tokio::net::UnixListener::bind(&control).unwrap();
            let running = bound
                .serve(&serve, Some(more), &requested)
                .and(front::serve_unix(listener, &config, &serve, status, &requested));
            (addresses, credentials, running)
        });
        let front::Addresses { http, grpc, metrics } = addresses;
        Self {
            runtime,
            serve,
            http,
            grpc,
            metrics,
            control,
            shutdown,
            running: Some(running),
            credentials,
            repository,
        }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.http).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    }

    /// One request on a connection of its own.
    pub(crate) fn send(&self, request: &[u8]) -> Answer {
        let mut stream = self.connect();
        stream.write_all(request).unwrap();
        Answer::read(&mut stream)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes())
    }

    pub(crate) fn post(&self, path: &str, headers: &str, body: &[u8]) -> Answer {
        self.send(&post(path, headers, body))
    }

    pub(crate) fn infer(&self, headers: &str, body: &[u8]) -> Answer {
        self.post("/v2/models/echo/infer", headers, body)
    }

    pub(crate) fn over_control(&self, request: &[u8]) -> Answer {
        let mut stream = UnixStream::connect(&self.control).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(request).unwrap();
        Answer::read(&mut stream)
    }

    /// Loads or unloads.
    pub(crate) fn administer(&self, model: &str, what: &str, body: &[u8]) -> Answer {
        self.over_control(&post(&format!("/v2/repository/models/{model}/{what}"), "", body))
    }

    /// The agent still does what it is for.
    pub(crate) fn check_serving(&self) {
        let answer = self.infer("", ECHO_JSON);
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

pub(crate) const ECHO_JSON: &[u8] =
    br#"{"inputs":[{"name":"input","datatype":"FP32","shape":[1,4],"data":[1,0.5,-2,3e5]}]}"#;

pub(crate) fn add_model(repository: &tempfile::TempDir, name: &str, toml: &str) {
    let version = repository.path().join(name).join("1");
    fs::create_dir_all(&version).unwrap();
    write(&version.join("model.onnx"), "fake");
    write(&repository.path().join(name).join("model.toml"), toml);
}

pub(crate) fn write(path: &std::path::Path, text: &str) {
    fs::File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
}

pub(crate) fn post(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

/// Waits for what must come; fails after [`SOON`].
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < SOON, "{what} did not happen");
        std::thread::yield_now();
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Reads one response with a `Content-Length`.
    pub(crate) fn read(stream: &mut impl Read) -> Self {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            assert_eq!(
                stream.read(&mut byte).unwrap(),
                1,
                "closed after {:?}",
                String::from_utf8_lossy(&head)
            );
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Self { status, head, body: Vec::new() };
        let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        answer.body = vec![0; length];
        stream.read_exact(&mut answer.body).unwrap();
        answer
    }

    /// Names and values in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_else(|| panic!("no error text: {self:?}")).to_owned()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}
