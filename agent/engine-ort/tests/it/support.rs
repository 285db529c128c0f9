//! The runtime under test and short words for tensors and batches.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use engine::{
    Backend, Batch, Buffer, DataType, Engine, LoadError, LoadOptions, Loaded, Member, MemberId, ModelSource,
    Provider, Tensor,
};
use mast_engine_ort::{Config, Error, OrtBackend, Runtime};

/// Runs before `main`, as the daemon's `main` does it before its first thread.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = {
    extern "C" fn set() {
        // SAFETY: the program has one thread and has not reached main.
        #[allow(clippy::disallowed_methods)]
        unsafe {
            std::env::set_var("ORT_DISABLE_TELEMETRY", "1");
        }
    }
    set
};

/// Every test fails, and says what to do, when there is no library.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: LazyLock<Result<Runtime, Error>> = LazyLock::new(|| mast_engine_ort::load(&config()));
    RUNTIME.as_ref().unwrap_or_else(|error| panic!("{error}: run cargo xtask setup"))
}

/// The library of the checkout this test was built in, unless `ORT_DYLIB_PATH` names another.
pub(crate) fn config() -> Config {
    Config::default()
}

pub(crate) fn library() -> PathBuf {
    runtime().path().to_owned()
}

pub(crate) fn backend() -> OrtBackend {
    OrtBackend::new(runtime(), &config())
}

pub(crate) fn write(path: &Path, bytes: &[u8]) {
    File::create(path).unwrap().write_all(bytes).unwrap();
}

/// Loads a model from a file that is gone afterwards.
pub(crate) fn load_with(
    backend: &OrtBackend,
    model: &[u8],
    providers: &[Provider],
    require: Option<Provider>,
) -> Result<Loaded, LoadError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.onnx");
    write(&path, model);
    let source = ModelSource { name: "test".to_owned(), version: 1, path };
    let options = LoadOptions { providers: providers.to_vec(), require, ..LoadOptions::default() };
    backend.load(&source, &options)
}

pub(crate) fn load(model: &[u8]) -> Result<Box<dyn Engine>, LoadError> {
    load_with(&backend(), model, &[Provider::Cpu], None).map(|loaded| loaded.engine)
}

pub(crate) fn tensor(datatype: DataType, shape: &[usize], bytes: &[u8]) -> Tensor {
    Tensor::new(datatype, shape.to_vec(), Buffer::copy_from(bytes)).unwrap()
}

pub(crate) fn floats(shape: &[usize], values: &[f32]) -> Tensor {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor(DataType::Fp32, shape, &bytes)
}

pub(crate) fn read_floats(tensor: &Tensor) -> Vec<f32> {
    assert_eq!(tensor.datatype(), DataType::Fp32);
    let values = tensor.data().bytes().as_chunks::<4>().0;
    values.iter().map(|value| f32::from_le_bytes(*value)).collect()
}

pub(crate) fn batch(members: Vec<Vec<Tensor>>) -> Batch {
    let members = members.into_iter().enumerate();
    Batch { members: members.map(|(id, inputs)| Member { id: MemberId(id as u64), inputs }).collect() }
}
