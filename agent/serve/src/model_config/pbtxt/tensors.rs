use std::path::PathBuf;

use engine::DataType;
use triton::DataType as Written;
use triton::model_warmup::input::InputDataType;

use super::super::file_name;
use super::count;
use crate::{TensorConfig, WarmupData, WarmupInput, WarmupSample};

pub(super) fn input(written: &triton::ModelInput) -> Result<TensorConfig, String> {
    let triton::ModelInput { name, data_type, dims, reshape, .. } = written;
    tensor(name, *data_type, dims, reshape.as_ref(), "")
}

pub(super) fn output(written: &triton::ModelOutput) -> Result<TensorConfig, String> {
    let triton::ModelOutput { name, data_type, dims, reshape, label_filename, .. } = written;
    tensor(name, *data_type, dims, reshape.as_ref(), label_filename)
}

fn tensor(
    name: &str,
    data_type: i32,
    dims: &[i64],
    reshape: Option<&triton::ModelTensorReshape>,
    labels: &str,
) -> Result<TensorConfig, String> {
    if name.is_empty() {
        return Err("an input or output has no name".to_owned());
    }
    if dims.is_empty() {
        return Err(format!("'{name}' has no dims"));
    }
    let sizes = |dims: &[i64]| {
        let size = |dim: &i64| match dim {
            -1 => Ok(None),
            dim => count("dims", *dim).map(Some),
        };
        dims.iter().map(size).collect::<Result<Vec<_>, _>>().map_err(|error| format!("'{name}': {error}"))
    };
    let labels = match labels {
        "" => None,
        labels => Some(PathBuf::from(file_name("label_filename", labels)?)),
    };
    Ok(TensorConfig {
        name: name.to_owned(),
        datatype: datatype(name, data_type)?,
        dims: sizes(dims)?,
        reshape: reshape.map(|reshape| sizes(&reshape.shape)).transpose()?,
        labels,
    })
}

pub(super) fn warmup(written: &triton::ModelWarmup) -> Result<WarmupSample, String> {
    let triton::ModelWarmup { name, batch_size, inputs, count: runs } = written;
    let mut sample = WarmupSample {
        name: name.clone(),
        batch_size: usize::try_from(*batch_size).unwrap_or(usize::MAX),
        count: usize::try_from((*runs).max(1)).unwrap_or(usize::MAX),
        inputs: std::collections::BTreeMap::new(),
    };
    for (input, written) in inputs {
        let data = match &written.input_data_type {
            Some(InputDataType::ZeroData(true)) => WarmupData::Zero,
            Some(InputDataType::RandomData(true)) => WarmupData::Random,
            Some(InputDataType::InputDataFile(file)) => {
                WarmupData::File(PathBuf::from(file_name("input_data_file", file)?))
            }
            _ => return Err(format!("model_warmup '{name}' has no data for input '{input}'")),
        };
        let dims = written.dims.iter().map(|dim| count("dims of a warm-up input", *dim));
        let dims = dims.collect::<Result<_, _>>()?;
        let datatype = datatype(input, written.data_type)?;
        sample.inputs.insert(input.clone(), WarmupInput { datatype, dims, data });
    }
    Ok(sample)
}

fn datatype(name: &str, written: i32) -> Result<DataType, String> {
    Ok(match Written::try_from(written) {
        Ok(Written::TypeBool) => DataType::Bool,
        Ok(Written::TypeUint8) => DataType::Uint8,
        Ok(Written::TypeUint16) => DataType::Uint16,
        Ok(Written::TypeUint32) => DataType::Uint32,
        Ok(Written::TypeUint64) => DataType::Uint64,
        Ok(Written::TypeInt8) => DataType::Int8,
        Ok(Written::TypeInt16) => DataType::Int16,
        Ok(Written::TypeInt32) => DataType::Int32,
        Ok(Written::TypeInt64) => DataType::Int64,
        Ok(Written::TypeFp16) => DataType::Fp16,
        Ok(Written::TypeFp32) => DataType::Fp32,
        Ok(Written::TypeFp64) => DataType::Fp64,
        Ok(Written::TypeString) => DataType::Bytes,
        Ok(Written::TypeBf16) => DataType::Bf16,
        Ok(Written::TypeInvalid) | Err(_) => return Err(format!("'{name}' has no data_type")),
    })
}
