//! What a configuration says of a model's tensors, and whether the model agrees.

use std::path::PathBuf;
use std::sync::Arc;

use engine::{DataType, Dim, Signature, Tensor, TensorSpec};

use crate::ModelConfig;
use crate::error::Error;
use crate::reshape::Reshape;

/// One input or output as its clients see it (model_config.proto, `ModelInput` and `ModelOutput`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorConfig {
    pub name: String,
    pub datatype: DataType,
    /// Without the batch axis of a model that batches; `None` is any size.
    pub dims: Vec<Option<usize>>,
    /// The shape inside the model, where it is another one.
    pub reshape: Option<Vec<Option<usize>>>,
    /// The names of an output's classes, one a line, relative to the model's folder.
    pub labels: Option<PathBuf>,
}

/// A model's signature as its clients see it, and the way between the two.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shown {
    pub(crate) signature: Arc<Signature>,
    pub(crate) inputs: Vec<Option<Reshape>>,
    pub(crate) outputs: Vec<Option<Reshape>>,
    /// What of the configuration is only partly so.
    pub(crate) warnings: Vec<String>,
}

impl Shown {
    /// A request's tensors, which fit the clients' shapes, as the model takes them.
    pub(crate) fn enter(&self, inputs: &mut [Tensor]) {
        for (tensor, way) in inputs.iter_mut().zip(&self.inputs) {
            if let Some(Ok(entered)) = way.as_ref().map(|way| way.enter(tensor)) {
                *tensor = entered;
            }
        }
    }

    /// Output `index` as the clients see it. One that the model gave in a shape of its own stays so.
    pub(crate) fn leave(&self, index: usize, tensor: Tensor) -> Tensor {
        let way = self.outputs.get(index).and_then(Option::as_ref);
        way.and_then(|way| way.leave(&tensor).ok()).unwrap_or(tensor)
    }
}

/// Holds the configuration against the model that was loaded.
pub(crate) fn show(config: &ModelConfig, signature: &Signature) -> Result<Shown, Error> {
    let (inputs, ways_in, left) = show_all("input", config, &signature.inputs, &config.inputs)?;
    if let Some(name) = left.first() {
        return misfit(format!("config.pbtxt leaves out input '{name}' of the model"));
    }
    let (outputs, ways_out, left) = show_all("output", config, &signature.outputs, &config.outputs)?;
    let warn = |name| format!("output '{name}' is not in config.pbtxt and is served all the same");
    let warnings = left.into_iter().map(warn).collect();
    let signature = Arc::new(Signature { inputs, outputs });
    Ok(Shown { signature, inputs: ways_in, outputs: ways_out, warnings })
}

/// The tensors of one side, the ways to them, and the names that the configuration leaves out.
#[allow(clippy::type_complexity, reason = "three columns of one table")]
fn show_all(
    what: &str,
    config: &ModelConfig,
    specs: &[TensorSpec],
    written: &[TensorConfig],
) -> Result<(Vec<TensorSpec>, Vec<Option<Reshape>>, Vec<String>), Error> {
    let stranger = written.iter().find(|tensor| !specs.iter().any(|spec| spec.name == tensor.name));
    if let Some(tensor) = stranger {
        let known: Vec<_> = specs.iter().map(|spec| spec.name.as_str()).collect();
        return misfit(format!("the model has no {what} '{}': it has {}", tensor.name, known.join(", ")));
    }
    let own: Vec<_> = config.sequence.iter().flat_map(|sequence| sequence.own()).collect();
    let (mut seen, mut ways, mut left) = (Vec::new(), Vec::new(), Vec::new());
    for spec in specs {
        let tensor = written.iter().find(|tensor| tensor.name == spec.name);
        let (spec, way) = match tensor {
            Some(tensor) => show_one(what, tensor, spec, config.max_batch_size > 0)?,
            None => (spec.clone(), None),
        };
        if tensor.is_none() && !written.is_empty() && !own.contains(&spec.name.as_str()) {
            left.push(spec.name.clone());
        }
        seen.push(spec);
        ways.push(way);
    }
    Ok((seen, ways, left))
}

fn show_one(
    what: &str,
    tensor: &TensorConfig,
    spec: &TensorSpec,
    batches: bool,
) -> Result<(TensorSpec, Option<Reshape>), Error> {
    let name = &tensor.name;
    if tensor.datatype != spec.datatype {
        let (written, real) = (tensor.datatype, spec.datatype);
        return misfit(format!("{what} '{name}' is {written} in config.pbtxt, but {real} in the model"));
    }
    let whole = |dims: &[Option<usize>]| {
        let batch = batches.then_some(Dim::Dynamic(Some("batch".to_owned())));
        let dim = |dim: &Option<usize>| dim.map_or(Dim::Dynamic(None), Dim::Fixed);
        batch.into_iter().chain(dims.iter().map(dim)).collect::<Vec<_>>()
    };
    let inside = TensorSpec { shape: whole(tensor.reshape.as_ref().unwrap_or(&tensor.dims)), ..spec.clone() };
    // A configuration may be narrower than its model, and never wider. What a model gives may be anything that it
    // declares.
    let agrees = inside.shape.len() == spec.shape.len()
        && inside.shape.iter().zip(&spec.shape).all(|(written, real)| match (written, real) {
            (Dim::Fixed(written), Dim::Fixed(real)) => written == real,
            (_, Dim::Dynamic(_)) => true,
            (Dim::Dynamic(_), Dim::Fixed(_)) => false,
        });
    if !agrees {
        let (written, real) = (inside.wire_shape(), spec.wire_shape());
        return misfit(format!("{what} '{name}' is {written:?} in config.pbtxt, but {real:?} in the model"));
    }
    let seen = TensorSpec { shape: whole(&tensor.dims), ..spec.clone() };
    let way = match &tensor.reshape {
        Some(inner) => Some(
            Reshape::new(&tensor.dims, inner, batches)
                .map_err(|detail| Error::Misfit { detail: format!("{what} '{name}': {detail}") })?,
        ),
        None => None,
    };
    Ok((seen, way))
}

fn misfit<T>(detail: String) -> Result<T, Error> {
    Err(Error::Misfit { detail })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, shape: &[i64]) -> TensorSpec {
        let dim = |size: &i64| usize::try_from(*size).map_or(Dim::Dynamic(None), Dim::Fixed);
        TensorSpec { name: name.to_owned(), datatype: DataType::Fp32, shape: shape.iter().map(dim).collect() }
    }

    fn tensor(name: &str, dims: &[i64], reshape: Option<&[i64]>) -> TensorConfig {
        let sizes = |dims: &[i64]| dims.iter().map(|size| usize::try_from(*size).ok()).collect();
        TensorConfig {
            name: name.to_owned(),
            datatype: DataType::Fp32,
            dims: sizes(dims),
            reshape: reshape.map(sizes),
            labels: None,
        }
    }

    #[test]
    fn a_configuration_may_be_narrower_than_its_model_but_never_other() {
        let check = |max_batch_size, written: TensorConfig, real: &[i64], expected: Result<&[i64], &str>| {
            let config = ModelConfig { max_batch_size, inputs: vec![written], ..ModelConfig::default() };
            let signature = Signature { inputs: vec![spec("x", real)], outputs: vec![] };
            match (show(&config, &signature), expected) {
                (Ok(shown), Ok(shape)) => assert_eq!(shown.signature.inputs[0].wire_shape(), shape),
                (Err(error), Err(part)) => {
                    assert!(wire::chain(&error).contains(part), "{error} is without {part}");
                }
                (got, expected) => panic!("{got:?}, not {expected:?}"),
            }
        };
        let x = |dims| tensor("x", dims, None);
        check(4, x(&[3, 8]), &[-1, 3, 8], Ok(&[-1, 3, 8]));
        check(4, x(&[3, 8]), &[-1, -1, -1], Ok(&[-1, 3, 8]));
        check(4, x(&[-1]), &[-1, 3], Err("[-1, -1]"));
        check(4, x(&[3, 9]), &[-1, 3, 8], Err("[-1, 3, 8] in the model"));
        check(4, x(&[3]), &[-1, 3, 8], Err("[-1, 3] in config.pbtxt"));
        check(0, x(&[-1, 3]), &[-1, 3], Ok(&[-1, 3]));
        check(0, x(&[3]), &[-1, 3], Err("[3] in config.pbtxt"));
        check(4, tensor("x", &[1], Some(&[])), &[-1], Ok(&[-1, 1]));
        check(4, tensor("x", &[4], Some(&[2, 2])), &[-1, 2, 2], Ok(&[-1, 4]));
        check(4, tensor("x", &[4], Some(&[2, 3])), &[-1, 2, 3], Err("elements"));
        check(4, tensor("y", &[4], None), &[-1, 4], Err("no input 'y': it has x"));
        check(4, TensorConfig { datatype: DataType::Int8, ..x(&[4]) }, &[-1, 4], Err("INT8"));
    }

    #[test]
    fn what_is_left_out_is_named() {
        let signature = Signature {
            inputs: vec![spec("x", &[-1, 1]), spec("h", &[-1, 1])],
            outputs: vec![spec("y", &[-1, 1]), spec("z", &[-1, 1])],
        };
        let mut config = ModelConfig {
            max_batch_size: 1,
            inputs: vec![tensor("x", &[1], None)],
            outputs: vec![tensor("y", &[1], None)],
            ..ModelConfig::default()
        };
        let error = show(&config, &signature).unwrap_err();
        assert!(wire::chain(&error).contains("'h'"), "{error}");
        config.sequence = Some(crate::SequenceConfig {
            state: vec![crate::StateConfig { input: "h".to_owned(), output: "z".to_owned(), shape: None }],
            ..crate::SequenceConfig::default()
        });
        assert_eq!(show(&config, &signature).unwrap().warnings, [""; 0]);
        config.sequence = None;
        config.inputs.push(tensor("h", &[1], None));
        let warnings = show(&config, &signature).unwrap().warnings;
        assert!(warnings.len() == 1 && warnings[0].contains("'z'"), "{warnings:?}");
    }
}
