//! Runs before a version serves, so that the first request does not pay for lazy set-up.

use std::fs::File;
use std::io::Read as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use engine::{
    Batch, Buffer, BufferMut, DataType, Dim, Engine, EngineError, Member, MemberId, Tensor, TensorSpec,
    element_count,
};

use crate::error::Error;
use crate::model_config::Shown;
use crate::{ModelConfig, WarmupData, WarmupInput, WarmupSample};

/// One run with zeros, every dynamic axis 1, and then the samples of the configuration.
pub(super) fn warm_up(
    engine: &mut dyn Engine,
    config: &ModelConfig,
    shown: &Shown,
    dir: &Path,
) -> Result<(), Error> {
    if config.warmup {
        let inputs: Option<Vec<_>> = engine.signature().inputs.iter().map(zeros).collect();
        // There is no harmless value for text.
        if let Some(inputs) = inputs {
            run(engine, inputs, "warm-up run")?;
        }
    }
    for sample in &config.warmup_samples {
        let what = format!("warm-up run '{}'", sample.name);
        let inputs = inputs(engine, config, shown, dir, sample)?;
        for _ in 0..sample.count {
            run(engine, inputs.clone(), &what)?;
        }
    }
    Ok(())
}

fn run(engine: &mut dyn Engine, inputs: Vec<Tensor>, what: &str) -> Result<(), Error> {
    let batch = Batch { members: vec![Member { id: MemberId(0), inputs }] };
    let ran = catch_unwind(AssertUnwindSafe(|| engine.run(&batch)))
        .unwrap_or_else(|_| Err(EngineError::Panicked { detail: "while it warmed up".to_owned() }));
    ran.map(|_| ()).map_err(|source| Error::Warmup { run: what.to_owned(), source })
}

fn zeros(spec: &TensorSpec) -> Option<Tensor> {
    let size = |dim: &Dim| match dim {
        Dim::Fixed(size) => *size,
        Dim::Dynamic(_) => 1,
    };
    let shape: Vec<_> = spec.shape.iter().map(size).collect();
    let bytes = element_count(&shape).ok()?.checked_mul(spec.datatype.size()?)?;
    Tensor::new(spec.datatype, shape, BufferMut::heap(bytes).freeze()).ok()
}

/// The sample's tensors, in the engine's order.
fn inputs(
    engine: &dyn Engine,
    config: &ModelConfig,
    shown: &Shown,
    dir: &Path,
    sample: &WarmupSample,
) -> Result<Vec<Tensor>, Error> {
    let misfit =
        |detail: String| Error::Misfit { detail: format!("model_warmup '{}': {detail}", sample.name) };
    let specs = &engine.signature().inputs;
    if let Some(name) = sample.inputs.keys().find(|name| !specs.iter().any(|spec| spec.name == **name)) {
        return Err(misfit(format!("the model has no input '{name}'")));
    }
    let own: Vec<_> = config.sequence.iter().flat_map(|sequence| sequence.inputs()).collect();
    let mut tensors = Vec::with_capacity(specs.len());
    for (index, spec) in specs.iter().enumerate() {
        let Some(input) = sample.inputs.get(&spec.name) else {
            let zero = zeros(spec).filter(|_| own.contains(&spec.name.as_str()));
            tensors.push(zero.ok_or_else(|| misfit(format!("input '{}' is missing", spec.name)))?);
            continue;
        };
        let rows = (config.max_batch_size > 0).then_some(sample.batch_size.max(1));
        if rows.is_some_and(|rows| rows > config.max_batch_size) {
            return Err(misfit(format!("batch_size is over max_batch_size, {}", config.max_batch_size)));
        }
        let tensor = tensor(input, rows, dir).map_err(|error| misfit(format!("'{}': {error}", spec.name)))?;
        let way = shown.inputs.get(index).and_then(Option::as_ref);
        let tensor = match way {
            Some(way) => way.enter(&tensor).map_err(|error| misfit(format!("'{}': {error}", spec.name)))?,
            None => tensor,
        };
        if tensor.datatype() != spec.datatype || !spec.accepts(tensor.shape()) {
            let (name, real) = (&spec.name, spec.wire_shape());
            let (datatype, shape) = (tensor.datatype(), tensor.shape());
            let detail =
                format!("'{name}' is {datatype} {shape:?}, but {} {real:?} in the model", spec.datatype);
            return Err(misfit(detail));
        }
        tensors.push(tensor);
    }
    Ok(tensors)
}

fn tensor(input: &WarmupInput, rows: Option<usize>, dir: &Path) -> Result<Tensor, String> {
    let copies = rows.unwrap_or(1);
    let elements = element_count(&input.dims).map_err(|error| error.to_string())?;
    let too_large = || format!("{:?} is too large", input.dims);
    // Text of no letters is four zeros: its length.
    let width = input.datatype.size().unwrap_or(4);
    let bytes = elements.checked_mul(width).filter(|bytes| *bytes <= LIMIT_BYTES / copies);
    let bytes = bytes.ok_or_else(too_large)?;
    let row = match &input.data {
        WarmupData::Zero => vec![0; bytes],
        WarmupData::Random => random(input.datatype, elements),
        WarmupData::File(name) => {
            let path = dir.join("warmup").join(name);
            let mut row = Vec::new();
            let limit = u64::try_from(LIMIT_BYTES / copies).unwrap_or(u64::MAX);
            let read = File::open(&path).and_then(|file| file.take(limit).read_to_end(&mut row));
            read.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            row
        }
    };
    let shape: Vec<_> = rows.into_iter().chain(input.dims.iter().copied()).collect();
    Tensor::new(input.datatype, shape, Buffer::copy_from(&row.repeat(copies)))
        .map_err(|error| error.to_string())
}

/// Of one sample's tensor.
const LIMIT_BYTES: usize = 1 << 30;

/// Values that are the same at every load: whole numbers of any bits, others from 0 to 1, texts of one letter.
fn random(datatype: DataType, elements: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes = Vec::with_capacity(elements.saturating_mul(datatype.size().unwrap_or(5)));
    for _ in 0..elements {
        let bits = next().to_le_bytes();
        let [low, high, ..] = bits;
        match datatype {
            DataType::Bool => bytes.push(low & 1),
            // Exponents from 2^-16 and 2^-127 up to below 1: every bit but the sign and the highest of them.
            DataType::Fp16 => bytes.extend([low, high & 0x3b]),
            DataType::Bf16 => bytes.extend([low, high & 0x3e]),
            DataType::Fp32 => {
                bytes.extend((f32::from(u16::from_le_bytes([low, high])) / 65_536.0).to_le_bytes())
            }
            DataType::Fp64 => {
                bytes.extend((f64::from(u16::from_le_bytes([low, high])) / 65_536.0).to_le_bytes())
            }
            DataType::Bytes => bytes.extend([1, 0, 0, 0, b'a' + low % 26]),
            other => bytes.extend(bits.iter().take(other.size().unwrap_or(0))),
        }
    }
    bytes
}
