//! Repositories as Triton's users have them: several versions, its configuration, its modes, and a memory budget.

mod memory;
mod misfit;
mod sequence;

use std::path::PathBuf;
use std::sync::Mutex;

use engine::{Backend, Device, Footprint, LoadError, LoadOptions, Loaded, ModelSource, Provider};
use wire::ErrorCode;

use super::*;
use crate::models::Poller;
use crate::{LoadParameters, ModelControlMode};

/// Loads what a test wants and remembers what it was asked.
#[derive(Debug, Default)]
struct Scripted {
    fake: FakeBackend,
    name: &'static str,
    providers: Vec<Provider>,
    /// A file whose text is this is refused with it.
    refuses: &'static str,
    /// What an engine takes: the file's length times this.
    bytes_per_byte: u64,
    used: Arc<AtomicU64>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Backend for Scripted {
    fn device(&self) -> Device {
        Device { id: self.name.to_owned(), name: self.name.to_owned() }
    }

    fn providers(&self) -> &[Provider] {
        &self.providers
    }

    fn load(&self, source: &ModelSource, options: &LoadOptions) -> Result<Loaded, LoadError> {
        let providers: Vec<_> = options.providers.iter().map(|provider| provider.name()).collect();
        let asked = format!("{} v{} {}", self.name, source.version, providers.join("+"));
        self.asked.lock().unwrap().push(asked);
        let text = fs::read_to_string(&source.path).map_err(|source| LoadError::Read { source })?;
        assert!(!text.contains("panic"), "scripted panic");
        if !self.refuses.is_empty() && text.contains(self.refuses) {
            return Err(LoadError::Refused { detail: self.refuses.to_owned() });
        }
        self.used.fetch_add(text.len() as u64 * self.bytes_per_byte, Ordering::SeqCst);
        self.fake.load(source, options)
    }

    fn used(&self) -> Option<Footprint> {
        let host_bytes = self.used.load(Ordering::SeqCst);
        Some(Footprint { host_bytes, device_bytes: 0 })
    }
}

struct Site {
    serve: Arc<Serve>,
    root: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
    runs: Arc<AtomicU64>,
}

impl Site {
    fn new(files: &[(&str, &str)], config: Config) -> Self {
        Self::scripted(files, config, FakeScript::default())
    }

    fn scripted(files: &[(&str, &str)], config: Config, script: FakeScript) -> Self {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            put(root.path(), path, text);
        }
        let backend = Scripted {
            name: "box",
            providers: vec![Provider::Cpu],
            refuses: "broken",
            bytes_per_byte: 10,
            fake: FakeBackend::new(script),
            ..Scripted::default()
        };
        let (asked, runs) = (Arc::clone(&backend.asked), Arc::clone(&backend.fake.runs));
        let config = Config { model_repository: root.path().to_owned(), unload_budget_ms: 2000, ..config };
        let serve = Serve::new(config, Policy::local(), vec![Arc::new(backend)]);
        Self { serve, root, asked, runs }
    }

    async fn started(files: &[(&str, &str)], config: Config) -> Self {
        let site = Self::new(files, config);
        site.serve.load_all().await;
        site
    }

    fn put(&self, path: &str, text: &str) {
        put(self.root.path(), path, text);
    }

    fn remove(&self, path: &str) {
        fs::remove_dir_all(self.root.path().join(path)).unwrap();
    }

    /// What the backends were asked since the last time.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    fn versions(&self) -> Vec<u64> {
        self.serve.models.versions("m")
    }

    fn index(&self) -> Vec<(Option<u64>, State, String)> {
        self.serve.index().into_iter().map(|it| (it.version, it.state, it.reason)).collect()
    }

    async fn send(&self, request: Request) -> Result<Part, Error> {
        let reservation = self.serve.reserve(BODY)?;
        self.serve.infer(request, reservation).await?.single().await
    }

    async fn served_by(&self, version: Option<u64>) -> Result<u64, ErrorCode> {
        let part = self.send(Request { version, ..request(1.0) }).await;
        part.map(|part| part.model_version).map_err(|error| error.code)
    }
}

/// Whole files appear at once; a test's own clock is the length of what it writes.
fn put(root: &Path, path: &str, text: &str) {
    let path: PathBuf = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    write(&path, text);
}

fn explicit() -> Config {
    Config::default()
}

fn poll() -> Config {
    Config { model_control_mode: ModelControlMode::Poll, ..Config::default() }
}

const THREE: [(&str, &str); 3] =
    [("m/1/model.onnx", "one"), ("m/2/model.onnx", "two"), ("m/3/model.onnx", "three")];

#[tokio::test]
async fn the_version_policy_says_what_serves() {
    let check = async |policy: &str, expected: &[u64]| {
        let site = Site::started(&THREE, explicit()).await;
        site.put("m/config.pbtxt", policy);
        site.serve.load("m").await.unwrap();
        assert_eq!(site.versions(), expected, "{policy}");
        assert_eq!(site.served_by(None).await, Ok(*expected.last().unwrap()));
        for version in 1..=4 {
            let known = if expected.contains(&version) { Ok(version) } else { Err(ErrorCode::NotFound) };
            assert_eq!(site.served_by(Some(version)).await, known, "{policy} {version}");
        }
        assert_eq!(site.serve.find("m", None).unwrap().versions, expected);
    };
    check("", &[3]).await;
    check("version_policy { latest { num_versions: 2 } }", &[2, 3]).await;
    check("version_policy { all { } }", &[1, 2, 3]).await;
    check("version_policy { specific { versions: [ 3, 1 ] } }", &[1, 3]).await;
}

#[tokio::test]
async fn what_fails_leaves_what_serves_and_says_why() {
    let site = Site::started(&THREE, explicit()).await;
    site.put("m/config.pbtxt", "version_policy { latest { num_versions: 2 } }");
    site.serve.load("m").await.unwrap();
    site.put("m/4/model.onnx", "broken");
    let error = site.serve.load("m").await.unwrap_err();
    assert!(error.message.contains("broken"), "{error}");
    assert_eq!(site.versions(), [2, 3], "2 stays, for 4 does not serve");
    let index = site.index();
    assert_eq!(index[2].0, Some(4));
    assert!(index[2].1 == State::Unavailable && index[2].2.contains("broken"), "{index:?}");
    assert_eq!(site.served_by(None).await, Ok(3));

    site.put("m/4/model.onnx", "mended");
    site.serve.load("m").await.unwrap();
    assert_eq!(site.versions(), [3, 4]);
    assert!(site.index().iter().all(|(_, state, _)| *state == State::Ready));

    // One that the policy names and nobody has.
    site.put("m/config.pbtxt", "version_policy { specific { versions: [ 4, 9 ] } }");
    let error = site.serve.load("m").await.unwrap_err();
    assert!(error.message.contains("version 9 has no model.onnx"), "{error}");
    assert_eq!(site.versions(), [3, 4]);

    // The folder itself is gone.
    site.remove("m");
    assert_eq!(site.serve.load("m").await.unwrap_err().code, ErrorCode::InvalidArgument);
    assert_eq!(site.served_by(None).await, Ok(4));
    site.serve.unload("m").await.unwrap();
    assert_eq!(site.versions(), [0; 0]);
    assert!(
        site.index()
            .iter()
            .all(|(_, state, reason)| (*state, reason.as_str()) == (State::Unavailable, "unloaded"))
    );
}

#[tokio::test]
async fn poll_follows_the_repository_when_it_lies_still() {
    let site = Site::started(&THREE[..1], poll()).await;
    let mut poller = Poller::default();
    site.asked();
    let look = async |poller: &mut Poller| {
        site.serve.models.poll_once(poller).await;
        site.asked()
    };
    assert_eq!(look(&mut poller).await, [""; 0]);
    assert_eq!(look(&mut poller).await, [""; 0], "nothing changed");

    // A version that is copied slowly.
    site.put("m/2/model.onnx", "brok");
    assert_eq!(look(&mut poller).await, [""; 0]);
    site.put("m/2/model.onnx", "broken");
    assert_eq!(look(&mut poller).await, [""; 0]);
    assert_eq!(look(&mut poller).await, ["box v2 cpu"]);
    assert_eq!(site.served_by(None).await, Ok(1));
    assert!(site.index()[1].2.contains("broken"));
    for _ in 0..3 {
        assert_eq!(look(&mut poller).await, [""; 0], "what failed is not tried again");
    }
    site.put("m/2/model.onnx", "mended!");
    assert_eq!(look(&mut poller).await, [""; 0]);
    assert_eq!(look(&mut poller).await, ["box v2 cpu"]);
    assert_eq!(site.versions(), [2]);

    // The configuration changes: all that is wanted is loaded anew.
    site.put("m/config.pbtxt", "version_policy { all { } }");
    look(&mut poller).await;
    assert_eq!(look(&mut poller).await, ["box v1 cpu", "box v2 cpu"]);
    assert_eq!(site.versions(), [1, 2]);
    // A version comes, and only that is loaded; one goes.
    site.put("m/3/model.onnx", "three");
    look(&mut poller).await;
    assert_eq!(look(&mut poller).await, ["box v3 cpu"]);
    site.remove("m/1");
    look(&mut poller).await;
    assert_eq!(look(&mut poller).await, [""; 0]);
    assert_eq!(site.versions(), [2, 3]);
    assert_eq!(site.served_by(Some(1)).await, Err(ErrorCode::NotFound));

    // A model comes and goes, and comes again just as it was.
    site.put("n/1/model.onnx", "n");
    look(&mut poller).await;
    assert_eq!(look(&mut poller).await, ["box v1 cpu"]);
    assert!(site.serve.is_model_ready("n", None).unwrap());
    fs::rename(site.root.path().join("n"), site.root.path().join(".n")).unwrap();
    look(&mut poller).await;
    assert!(site.serve.is_model_ready("n", None).unwrap(), "not before it is gone for an interval");
    look(&mut poller).await;
    assert!(!site.serve.is_model_ready("n", None).unwrap());
    fs::rename(site.root.path().join(".n"), site.root.path().join("n")).unwrap();
    look(&mut poller).await;
    assert_eq!(look(&mut poller).await, ["box v1 cpu"]);

    // A repository that cannot be read takes nothing away.
    let away = site.root.path().with_extension("away");
    fs::rename(site.root.path(), &away).unwrap();
    look(&mut poller).await;
    look(&mut poller).await;
    assert_eq!(site.served_by(None).await, Ok(3));
    fs::rename(&away, site.root.path()).unwrap();
}

#[tokio::test(start_paused = true)]
async fn poll_looks_until_it_is_told_to_end() {
    let site = Site::started(&THREE[..1], Config { poll_interval_ms: 1000, ..poll() }).await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serve = Arc::clone(&site.serve);
    let task = tokio::spawn(async move { serve.poll(async { stopped.await.unwrap_or(()) }).await });
    site.put("m/2/model.onnx", "two");
    eventually_paused(|| site.versions() == [2]).await;
    stop.send(()).unwrap();
    task.await.unwrap();
    // Where the mode is another one there is nothing to do.
    let site = Site::started(&THREE[..1], explicit()).await;
    site.serve.poll(std::future::pending()).await;
}

/// The paused clock moves only when every task waits; loads run on threads of their own.
async fn eventually_paused(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 20 s");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test]
async fn the_mode_says_who_controls_the_models() {
    let files = [("a/1/model.onnx", "a"), ("b/1/model.onnx", "b")];
    let check = async |config: Config, ready: &[&str], failed: &[&str], controls: bool| {
        let what = format!("{:?} {:?}", config.model_control_mode, config.load_models);
        let site = Site::new(&files, config);
        let summary = site.serve.load_all().await;
        let names: Vec<_> = summary.failed.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            (summary.ready, names),
            (ready.iter().map(|it| (*it).to_owned()).collect(), failed.to_vec()),
            "{what}"
        );
        assert!(site.index().iter().all(|(_, state, _)| *state != State::Loading), "{what}");
        for outcome in [site.serve.load("a").await, site.serve.unload("a").await] {
            match outcome {
                Ok(()) => assert!(controls, "{what}"),
                Err(error) => {
                    assert!(!controls && error.code == ErrorCode::Unavailable, "{what}: {error}");
                    assert!(error.message.contains("not allowed"), "{error}");
                }
            }
        }
    };
    let mode = |model_control_mode, names: &[&str]| Config {
        model_control_mode,
        load_models: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Config::default()
    };
    check(explicit(), &["a", "b"], &[], true).await;
    check(mode(ModelControlMode::Explicit, &["b", "c"]), &["b"], &["c"], true).await;
    check(mode(ModelControlMode::Explicit, &[]), &[], &[], true).await;
    check(mode(ModelControlMode::Poll, &[]), &["a", "b"], &[], false).await;
    check(mode(ModelControlMode::None, &["b"]), &["a", "b"], &[], false).await;
}

#[tokio::test]
async fn a_load_may_bring_its_configuration_but_no_files() {
    let site = Site::started(&THREE, explicit()).await;
    let with = |config: &str, files: &[&str]| LoadParameters {
        config: (!config.is_empty()).then(|| config.to_owned()),
        files: files.iter().map(|file| (*file).to_owned()).collect(),
    };
    site.put("m/config.pbtxt", "version_policy { latest { num_versions: 2 } }");
    let json = r#"{"name": "m", "max_batch_size": 2, "version_policy": {"specific": {"versions": [1]}}}"#;
    site.serve.load_with("m", with(json, &[])).await.unwrap();
    assert_eq!((site.versions(), site.serve.find("m", None).unwrap().config.max_batch_size), (vec![1], 2));
    for (json, part) in [("{\"nam\": 1}", "nam"), ("{\"backend\": \"python\"}", "python"), ("{", "line 1")] {
        let error = site.serve.load_with("m", with(json, &[])).await.unwrap_err();
        assert!(error.message.contains(part) && error.message.contains("config parameter"), "{error}");
    }
    let error = site.serve.load_with("m", with("", &["file:1/model.onnx"])).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Unsupported);
    assert_eq!(site.versions(), [1]);
    site.serve.load("m").await.unwrap();
    assert_eq!(site.versions(), [2, 3], "the file counts again");
}

#[tokio::test]
async fn a_backend_that_panics_leaves_nothing_loading() {
    let site = Site::started(&THREE[..1], explicit()).await;
    site.put("m/2/model.onnx", "panic");
    let error = site.serve.load("m").await.unwrap_err();
    assert!(error.message.contains("panicked"), "{error}");
    assert_eq!((site.served_by(None).await, site.index()[0].1), (Ok(1), State::Ready));
    site.put("m/2/model.onnx", "calm");
    site.serve.load("m").await.unwrap();
    assert_eq!(site.versions(), [2]);
    eventually("nothing is held", || site.serve.memory().host_bytes == 40).await;
}

#[tokio::test]
async fn providers_are_tried_in_the_models_order_whichever_backend_has_them() {
    use Provider::{Cpu, Cuda, TensorRt, Wgpu};
    let check = async |toml: &str, refuses: [&'static str; 2], expected: &[&str]| {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "m/1/model.onnx", "ort wgpu");
        put(root.path(), "m/model.toml", toml);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let backend = |name, providers: &[Provider], refuses| {
            let (providers, asked) = (providers.to_vec(), Arc::clone(&asked));
            Arc::new(Scripted { name, providers, refuses, asked, ..Scripted::default() }) as Arc<dyn Backend>
        };
        let backends =
            vec![backend("ort", &[TensorRt, Cuda, Cpu], refuses[0]), backend("gpu:0", &[Wgpu], refuses[1])];
        let config = Config { model_repository: root.path().to_owned(), ..Config::default() };
        Serve::new(config, Policy::local(), backends).load_all().await;
        assert_eq!(*asked.lock().unwrap(), expected, "{toml}");
    };
    let three = "providers = [\"cuda\", \"wgpu\", \"cpu\"]";
    check(three, ["ort", "wgpu"], &["ort v1 cuda", "gpu:0 v1 wgpu", "ort v1 cpu"]).await;
    check(three, ["ort", ""], &["ort v1 cuda", "gpu:0 v1 wgpu"]).await;
    check(three, ["", ""], &["ort v1 cuda"]).await;
    check("", ["ort", "wgpu"], &["ort v1 tensorrt+cuda+cpu"]).await;
    check("providers = [\"wgpu\", \"cpu\"]", ["", "wgpu"], &["gpu:0 v1 wgpu", "ort v1 cpu"]).await;
}
