use engine::{DataType, Tensor};
use serde::Serialize;
use wire::{Error, Part};

use super::{elements, no_json_form, numbers};

/// Everything before the first output. The `parameters` say what really ran and where the time went.
pub(super) fn preamble(out: &mut Vec<u8>, id: Option<&str>, model: &str, part: &Part) {
    out.push(b'{');
    if let Some(id) = id {
        out.extend_from_slice(b"\"id\":");
        put(out, id);
        out.push(b',');
    }
    out.extend_from_slice(b"\"model_name\":");
    put(out, model);
    out.extend_from_slice(b",\"model_version\":\"");
    put(out, &part.model_version);
    out.extend_from_slice(b"\",\"parameters\":{\"mast_provider\":");
    put(out, part.ran.provider.name());
    out.extend_from_slice(b",\"mast_device\":");
    put(out, part.ran.device.id.as_str());
    for (key, number) in numbers(part) {
        out.push(b',');
        put(out, key);
        out.push(b':');
        put(out, &number);
    }
    out.extend_from_slice(b"},\"outputs\":[");
}

pub(super) fn output_head(out: &mut Vec<u8>, name: &str, tensor: &Tensor) {
    out.extend_from_slice(b"{\"name\":");
    put(out, name);
    out.extend_from_slice(b",\"datatype\":\"");
    out.extend_from_slice(tensor.datatype().name().as_bytes());
    out.extend_from_slice(b"\",\"shape\":");
    put(out, tensor.shape());
}

pub(super) fn binary_size(out: &mut Vec<u8>, bytes: usize) {
    out.extend_from_slice(b",\"parameters\":{\"binary_data_size\":");
    put(out, &bytes);
    out.push(b'}');
}

/// The elements, flat. Floats in the shortest form that reads back as the same value.
pub(super) fn data(out: &mut Vec<u8>, name: &str, tensor: &Tensor) -> Result<(), Error> {
    out.extend_from_slice(b",\"data\":[");
    match tensor.datatype() {
        DataType::Bool => list(out, elements(tensor, |[byte]: [u8; 1]| byte != 0)),
        DataType::Uint8 => list(out, elements(tensor, u8::from_le_bytes)),
        DataType::Uint16 => list(out, elements(tensor, u16::from_le_bytes)),
        DataType::Uint32 => list(out, elements(tensor, u32::from_le_bytes)),
        DataType::Uint64 => list(out, elements(tensor, u64::from_le_bytes)),
        DataType::Int8 => list(out, elements(tensor, i8::from_le_bytes)),
        DataType::Int16 => list(out, elements(tensor, i16::from_le_bytes)),
        DataType::Int32 => list(out, elements(tensor, i32::from_le_bytes)),
        DataType::Int64 => list(out, elements(tensor, i64::from_le_bytes)),
        DataType::Fp32 => {
            out.reserve(tensor.data().len().saturating_mul(3));
            if !elements(tensor, f32::from_le_bytes).all(f32::is_finite) {
                return Err(not_finite(name, tensor));
            }
            list(out, elements(tensor, f32::from_le_bytes));
        }
        DataType::Fp64 => {
            if !elements(tensor, f64::from_le_bytes).all(f64::is_finite) {
                return Err(not_finite(name, tensor));
            }
            list(out, elements(tensor, f64::from_le_bytes));
        }
        DataType::Fp16 | DataType::Bf16 => {
            return Err(no_json_form(name, tensor.datatype(), "has no JSON form"));
        }
        DataType::Bytes => {
            for (index, element) in tensor.byte_elements().enumerate() {
                let text = std::str::from_utf8(element)
                    .map_err(|_| no_json_form(name, tensor.datatype(), "holds bytes that are not UTF-8"))?;
                if index > 0 {
                    out.push(b',');
                }
                put(out, text);
            }
        }
    }
    out.push(b']');
    Ok(())
}

fn not_finite(name: &str, tensor: &Tensor) -> Error {
    no_json_form(name, tensor.datatype(), "holds NaN or infinity, which JSON lacks")
}

fn list<T: Serialize>(out: &mut Vec<u8>, values: impl Iterator<Item = T>) {
    for (index, value) in values.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        put(out, &value);
    }
}

/// Appends a plain value. Writing to memory cannot fail, and these types have no failing form.
fn put<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).ok();
}
