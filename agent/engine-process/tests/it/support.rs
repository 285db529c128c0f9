//! Backends over the example worker, and short words for models and tensors.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use engine::{
    Backend, Batch, Buffer, DataType, Device, Engine, LoadError, LoadOptions, Loaded, Member, MemberId,
    ModelSource, Provider, Tensor,
};
use mast_engine_process::{Config, ProcessBackend, WorkerProgram};

/// `cargo test` builds examples before it runs tests, into the folder beside.
pub(crate) fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("examples/worker");
    assert!(program.exists(), "{} is built by: cargo build --examples", program.display());
    program
}

pub(crate) fn config() -> Config {
    Config { arena_bytes: 1 << 20, ..Config::default() }
}

pub(crate) fn backend_of(
    config: Config,
    args: &[&str],
    settings: &str,
    readable: &[&Path],
) -> ProcessBackend {
    let program = WorkerProgram {
        program: program(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: vec![("ORT_DISABLE_TELEMETRY".to_owned(), "1".to_owned())],
        settings: settings.to_owned(),
        readable: readable.iter().map(|path| (*path).to_owned()).collect(),
        writable: Vec::new(),
    };
    let cpu = Device { id: "cpu".to_owned(), name: "by the daemon".to_owned() };
    ProcessBackend::new(config, program, vec![cpu], Provider::ALL.to_vec())
}

/// An engine that does as its input says.
pub(crate) fn script(config: Config) -> ProcessBackend {
    backend_of(config, &["worker"], "script", &[])
}

/// The same, on a machine that has a GPU as well.
pub(crate) fn script_on(gpu: Device) -> std::sync::Arc<ProcessBackend> {
    let cpu = Device { id: "cpu".to_owned(), name: "by the daemon".to_owned() };
    let program = WorkerProgram {
        program: program(),
        args: vec!["worker".to_owned()],
        settings: "script".to_owned(),
        ..WorkerProgram::default()
    };
    std::sync::Arc::new(ProcessBackend::new(config(), program, vec![cpu, gpu], Provider::ALL.to_vec()))
}

pub(crate) fn liar(lie: &str) -> ProcessBackend {
    backend_of(config(), &[lie], "", &[])
}

/// ONNX Runtime.
pub(crate) fn ort(config: Config) -> ProcessBackend {
    static LIBRARY: LazyLock<PathBuf> = LazyLock::new(|| {
        engine_ort::find(&engine_ort::Config::default())
            .unwrap_or_else(|error| panic!("{error}: run cargo xtask setup"))
    });
    let ort = engine_ort::Config { library: Some(LIBRARY.clone()), ..engine_ort::Config::default() };
    backend_of(config, &["worker"], &serde_json::to_string(&ort).unwrap(), &[])
}

/// A model's file in a folder of its own.
pub(crate) struct File {
    _dir: tempfile::TempDir,
    pub(crate) source: ModelSource,
}

pub(crate) fn file(name: &str, model: &[u8]) -> File {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.onnx");
    std::io::Write::write_all(&mut std::fs::File::create(&path).unwrap(), model).unwrap();
    File { _dir: dir, source: ModelSource { name: name.to_owned(), version: 1, path } }
}

pub(crate) fn load(backend: &ProcessBackend, name: &str, model: &[u8]) -> Result<Loaded, LoadError> {
    let options = LoadOptions { providers: vec![Provider::Cpu], ..LoadOptions::default() };
    backend.load(&file(name, model).source, &options)
}

pub(crate) fn engine(backend: &ProcessBackend, model: &[u8]) -> Box<dyn Engine> {
    load(backend, "test", model).unwrap().engine
}

pub(crate) fn tensor(datatype: DataType, shape: &[usize], bytes: &[u8]) -> Tensor {
    Tensor::new(datatype, shape.to_vec(), Buffer::copy_from(bytes)).unwrap()
}

/// In the engine's own memory, as the front makes them.
pub(crate) fn placed(engine: &dyn Engine, datatype: DataType, shape: &[usize], bytes: &[u8]) -> Tensor {
    let mut buffer = engine.memory().unwrap().allocate(bytes.len());
    buffer.bytes_mut().copy_from_slice(bytes);
    Tensor::new(datatype, shape.to_vec(), buffer.freeze()).unwrap()
}

pub(crate) fn le(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(crate) fn floats(shape: &[usize], values: &[f32]) -> Tensor {
    tensor(DataType::Fp32, shape, &le(values))
}

pub(crate) fn read_floats(tensor: &Tensor) -> Vec<f32> {
    let values = tensor.data().bytes().as_chunks::<4>().0;
    values.iter().map(|value| f32::from_le_bytes(*value)).collect()
}

pub(crate) fn batch(members: Vec<Vec<Tensor>>) -> Batch {
    let members = members.into_iter().enumerate();
    Batch { members: members.map(|(id, inputs)| Member { id: MemberId(id as u64), inputs }).collect() }
}

/// A batch of one row.
pub(crate) fn one(values: &[f32]) -> Batch {
    batch(vec![vec![floats(&[1, values.len()], values)]])
}

pub(crate) fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

pub(crate) fn shared_mappings() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains("/memfd:mast")).count()
}
