//! Does a request fit its model? Puts its tensors into the model's order, or says what is expected.

use engine::{Signature, Tensor, TensorSpec};
use wire::{Error, NamedTensor};

/// A request's tensors as the engine takes them.
#[derive(Debug)]
pub(crate) struct Fitted {
    /// In signature order.
    pub(crate) inputs: Vec<Tensor>,
    /// Along the first axis where the model batches, else 1.
    pub(crate) rows: usize,
    /// Which outputs are wanted, in the client's order; empty for all.
    pub(crate) outputs: Vec<usize>,
}

/// # Errors
/// `InvalidArgument`, with what the model declares and what was given.
pub(crate) fn fit(
    model: &str,
    signature: &Signature,
    max_batch_size: usize,
    given: Vec<NamedTensor>,
    outputs: &[String],
) -> Result<Fitted, Error> {
    let inputs = order(model, signature, given)?;
    for (spec, tensor) in signature.inputs.iter().zip(&inputs) {
        check(model, spec, tensor)?;
    }
    let rows = if max_batch_size > 0 { rows(model, signature, max_batch_size, &inputs)? } else { 1 };
    let outputs = wanted(model, signature, outputs)?;
    Ok(Fitted { inputs, rows, outputs })
}

fn wanted(model: &str, signature: &Signature, outputs: &[String]) -> Result<Vec<usize>, Error> {
    let mut wanted = Vec::with_capacity(signature.outputs.len());
    for name in outputs {
        let Some(index) = signature.outputs.iter().position(|spec| spec.name == *name) else {
            let known = names(signature.outputs.iter().map(|spec| &spec.name));
            let text = format!("unexpected inference output '{name}' for model '{model}': it has {known}");
            return Err(Error::invalid(text));
        };
        // Each would be a copy of the tensor in the reply, which no budget bounds.
        if wanted.contains(&index) {
            let text = format!("output '{name}' of model '{model}' is asked for more than once");
            return Err(Error::invalid(text));
        }
        wanted.push(index);
    }
    Ok(wanted)
}

fn order(model: &str, signature: &Signature, given: Vec<NamedTensor>) -> Result<Vec<Tensor>, Error> {
    let expected = &signature.inputs;
    // Almost every client sends a model's inputs in the model's order.
    if given.len() == expected.len() && given.iter().zip(expected).all(|(got, spec)| got.name == spec.name) {
        return Ok(given.into_iter().map(|input| input.tensor).collect());
    }
    let mut slots: Vec<Option<Tensor>> = expected.iter().map(|_| None).collect();
    for NamedTensor { name, tensor } in given {
        let slot = expected.iter().position(|spec| spec.name == name);
        let Some(slot) = slot.and_then(|index| slots.get_mut(index)) else {
            let known = names(expected.iter().map(|spec| &spec.name));
            let text = format!("unexpected inference input '{name}' for model '{model}': it has {known}");
            return Err(Error::invalid(text));
        };
        if slot.replace(tensor).is_some() {
            return Err(Error::invalid(format!(
                "input '{name}' for model '{model}' is given more than once"
            )));
        }
    }
    let missing = expected.iter().zip(&slots).filter(|(_, slot)| slot.is_none()).map(|(spec, _)| &spec.name);
    let missing = names(missing);
    let count = expected.len();
    slots.into_iter().collect::<Option<_>>().ok_or_else(|| {
        Error::invalid(format!("expected {count} inputs for model '{model}', but missing {missing}"))
    })
}

fn check(model: &str, spec: &TensorSpec, tensor: &Tensor) -> Result<(), Error> {
    let name = &spec.name;
    if tensor.datatype() != spec.datatype {
        let (got, expected) = (tensor.datatype(), spec.datatype);
        return Err(Error::invalid(format!(
            "input '{name}' for model '{model}' has data type {got}, expected {expected}"
        )));
    }
    if !spec.accepts(tensor.shape()) {
        let (got, expected) = (tensor.shape(), spec.wire_shape());
        return Err(Error::invalid(format!(
            "unexpected shape for input '{name}' for model '{model}': expected {expected:?}, got {got:?}"
        )));
    }
    Ok(())
}

fn rows(model: &str, signature: &Signature, limit: usize, inputs: &[Tensor]) -> Result<usize, Error> {
    let rows = inputs.first().map_or(1, Tensor::rows);
    let differs = signature.inputs.iter().zip(inputs).find(|(_, tensor)| tensor.rows() != rows);
    if let Some((spec, tensor)) = differs {
        let (name, got) = (&spec.name, tensor.rows());
        return Err(Error::invalid(format!(
            "input '{name}' for model '{model}' has {got} rows, but the first input has {rows}"
        )));
    }
    match rows {
        0 => Err(Error::invalid(format!("the inputs for model '{model}' have no rows"))),
        rows if rows > limit => Err(Error::invalid(format!(
            "inference request batch-size must be <= {limit} for model '{model}', got {rows}"
        ))),
        rows => Ok(rows),
    }
}

fn names<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let quoted: Vec<_> = names.map(|name| format!("'{name}'")).collect();
    quoted.join(", ")
}

#[cfg(test)]
mod tests {
    use engine::{Buffer, DataType, Dim};

    use super::*;

    fn signature() -> Signature {
        let spec = |name: &str, datatype, last| TensorSpec {
            name: name.to_owned(),
            datatype,
            shape: vec![Dim::Dynamic(None), Dim::Fixed(last)],
        };
        Signature {
            inputs: vec![spec("a", DataType::Fp32, 2), spec("b", DataType::Int8, 1)],
            outputs: vec![spec("y", DataType::Fp32, 1), spec("z", DataType::Fp32, 1)],
        }
    }

    fn tensor(name: &str, datatype: DataType, shape: &[usize]) -> NamedTensor {
        let len = engine::element_count(shape).unwrap() * datatype.size().unwrap();
        let tensor = Tensor::new(datatype, shape.to_vec(), Buffer::copy_from(&vec![0; len])).unwrap();
        NamedTensor { name: name.to_owned(), tensor }
    }

    fn a(rows: usize) -> NamedTensor {
        tensor("a", DataType::Fp32, &[rows, 2])
    }

    fn b(rows: usize) -> NamedTensor {
        tensor("b", DataType::Int8, &[rows, 1])
    }

    #[test]
    fn inputs_are_put_into_the_models_order() {
        for given in [vec![a(3), b(3)], vec![b(3), a(3)]] {
            let fitted = fit("m", &signature(), 4, given, &["z".to_owned(), "y".to_owned()]).unwrap();
            assert_eq!(fitted.inputs[0].datatype(), DataType::Fp32);
            assert_eq!((fitted.rows, fitted.outputs), (3, vec![1, 0]));
        }
        assert_eq!(fit("m", &signature(), 0, vec![a(9), b(9)], &[]).unwrap().rows, 1);
    }

    #[test]
    fn a_misfit_is_told_what_is_expected() {
        let check = |given: Vec<NamedTensor>, outputs: &[&str], expected: &[&str]| {
            let outputs: Vec<_> = outputs.iter().map(|name| (*name).to_owned()).collect();
            let error = fit("m", &signature(), 4, given, &outputs).unwrap_err();
            assert_eq!(error.code, wire::ErrorCode::InvalidArgument);
            for part in expected {
                assert!(error.message.contains(part), "{:?} is without {part:?}", error.message);
            }
        };
        check(vec![a(1)], &[], &["missing 'b'", "expected 2"]);
        check(vec![a(1), a(1)], &[], &["'a'", "more than once"]);
        check(vec![a(1), b(1), b(1)], &[], &["'b'", "more than once"]);
        check(vec![a(1), tensor("c", DataType::Int8, &[1, 1])], &[], &["'c'", "it has 'a', 'b'"]);
        check(vec![a(1), tensor("b", DataType::Uint8, &[1, 1])], &[], &["UINT8", "expected INT8"]);
        check(vec![a(1), tensor("b", DataType::Int8, &[1, 2])], &[], &["[-1, 1]", "[1, 2]"]);
        check(vec![a(1), tensor("b", DataType::Int8, &[1])], &[], &["[-1, 1]", "[1]"]);
        check(vec![a(2), b(1)], &[], &["'b'", "1 rows", "2"]);
        check(vec![a(5), b(5)], &[], &["<= 4", "got 5"]);
        check(vec![a(0), b(0)], &[], &["no rows"]);
        check(vec![a(1), b(1)], &["x"], &["'x'", "'y', 'z'"]);
        check(vec![a(1), b(1)], &["z", "y", "z"], &["'z'", "more than once"]);
        check(vec![], &[], &["missing 'a', 'b'"]);
    }
}
