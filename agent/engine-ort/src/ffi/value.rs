#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use engine::{Buffer, BufferMut, DataType, Storage, Tensor, element_count};
use ort::AsPointer;
use ort::memory::MemoryInfo;
use ort_sys::{ONNXTensorElementDataType as Element, OrtValue};

use super::Session;
use super::session::{check, not_null};

/// A tensor of the runtime. An input borrows the bytes of the tensor it was made from.
pub(crate) struct Value<'bytes> {
    pointer: NonNull<OrtValue>,
    _bytes: PhantomData<&'bytes [u8]>,
}

// SAFETY: an OrtValue has no thread affinity; it is written only before it is shared.
unsafe impl Send for Value<'_> {}
// SAFETY: as above, and the functions called on a shared value only read it.
unsafe impl Sync for Value<'_> {}

impl Drop for Value<'_> {
    fn drop(&mut self) {
        // SAFETY: this is the only owner of the value.
        unsafe { (ort::api().ReleaseValue)(self.pointer.as_ptr()) }
    }
}

impl Value<'static> {
    /// # Safety
    /// `pointer` is a value that the runtime gave to the caller to release.
    pub(super) unsafe fn from_raw(pointer: NonNull<OrtValue>) -> Self {
        Self { pointer, _bytes: PhantomData }
    }
}

impl<'bytes> Value<'bytes> {
    /// An input over the tensor's own memory; only BYTES elements are copied, because the runtime keeps them
    /// as C++ strings.
    pub(crate) fn borrow(host_memory: &MemoryInfo<'_>, tensor: &'bytes Tensor) -> Result<Self, ort::Error> {
        let shape = tensor.shape().iter().map(|dim| i64::try_from(*dim));
        let shape: Vec<i64> = shape.collect::<Result<_, _>>().map_err(ort::Error::wrap)?;
        let Some(element) = element_of(tensor.datatype()) else {
            return strings(tensor, &shape);
        };
        let bytes = tensor.data().bytes();
        let mut value = ptr::null_mut();
        // SAFETY: the runtime does not write to inputs, though the C API takes `void *`; the bytes outlive the
        // value ('bytes), and the runtime checks that they are enough for the shape.
        unsafe {
            check((ort::api().CreateTensorWithDataAsOrtValue)(
                host_memory.ptr(),
                bytes.as_ptr().cast_mut().cast(),
                bytes.len(),
                shape.as_ptr(),
                shape.len(),
                element,
                &raw mut value,
            ))
        }?;
        Ok(Self { pointer: not_null(value, "tensor")?, _bytes: PhantomData })
    }

    /// An output that the runtime writes to `bytes`; they must be what the shape needs.
    pub(crate) fn place(
        host_memory: &MemoryInfo<'_>,
        datatype: DataType,
        shape: &[usize],
        bytes: &'bytes mut [u8],
    ) -> Result<Option<Self>, ort::Error> {
        let shape: Result<Vec<i64>, _> = shape.iter().map(|dim| i64::try_from(*dim)).collect();
        let shape = shape.map_err(ort::Error::wrap)?;
        let Some(element) = element_of(datatype) else { return Ok(None) };
        let mut value = ptr::null_mut();
        // SAFETY: the bytes are borrowed for writing as long as the value lives ('bytes), and the runtime checks
        // that they are enough for the shape.
        unsafe {
            check((ort::api().CreateTensorWithDataAsOrtValue)(
                host_memory.ptr(),
                bytes.as_mut_ptr().cast(),
                bytes.len(),
                shape.as_ptr(),
                shape.len(),
                element,
                &raw mut value,
            ))
        }?;
        Ok(Some(Self { pointer: not_null(value, "tensor")?, _bytes: PhantomData }))
    }

    pub(crate) fn as_ptr(&self) -> *const OrtValue {
        self.pointer.as_ptr()
    }

    /// The number of the element type, and the shape.
    fn describe(&self) -> Result<(i32, Vec<usize>), ort::Error> {
        let mut element = 0_i32;
        let mut dims: *const i64 = ptr::null();
        let mut rank = 0;
        // SAFETY: the out-pointers are live, the enum is repr(i32), and the dims belong to this live value.
        let dims = unsafe {
            check((ort::api().GetTensorElementTypeAndShapeDataReference)(
                self.as_ptr(),
                (&raw mut element).cast(),
                &raw mut dims,
                &raw mut rank,
            ))?;
            if rank == 0 || dims.is_null() { &[] } else { std::slice::from_raw_parts(dims, rank) }
        };
        let shape: Result<Vec<usize>, _> = dims.iter().map(|dim| usize::try_from(*dim)).collect();
        Ok((element, shape.map_err(ort::Error::wrap)?))
    }

    /// Whether the data is in memory that this process can read.
    fn in_host_memory(&self) -> Result<bool, ort::Error> {
        const CPU: i32 = 0;
        let mut memory = ptr::null();
        let mut device = -1_i32;
        // SAFETY: the out-pointers are live, the memory info belongs to this live value, the enum is repr(i32).
        unsafe {
            check((ort::api().GetTensorMemoryInfo)(self.as_ptr(), &raw mut memory))?;
            (ort::api().MemoryInfoGetDeviceType)(memory, (&raw mut device).cast());
        }
        Ok(device == CPU)
    }

    /// The address of the elements.
    fn data(&self) -> Result<*const u8, ort::Error> {
        let mut data = ptr::null();
        // SAFETY: the out-pointer is live.
        unsafe { check((ort::api().GetTensorData)(self.as_ptr(), &raw mut data)) }?;
        Ok(data.cast())
    }
}

impl Value<'static> {
    /// The output as a tensor over the runtime's memory. `inputs` are the tensors of the run: an output that
    /// is one of them (a model can name an input as an output) is shared with it instead.
    pub(crate) fn into_tensor(self, session: &Arc<Session>, inputs: &[Tensor]) -> Result<Tensor, ort::Error> {
        let (element, shape) = self.describe()?;
        let Some(datatype) = datatype_of(element) else {
            return Err(ort::Error::new(format!("an output of type {}", element_name(element))));
        };
        if !self.in_host_memory()? {
            return Err(ort::Error::new("an output in device memory"));
        }
        let elements = element_count(&shape).map_err(ort::Error::wrap)?;
        let buffer = match datatype.size() {
            None => frame_strings(&self, elements)?,
            Some(size) => {
                let len = elements.saturating_mul(size);
                let data = self.data()?;
                match inputs.iter().find_map(|input| shared_part(input.data(), data, len)) {
                    Some(buffer) => buffer,
                    None => Buffer::from_storage(Arc::new(Output {
                        data: if len == 0 || data.is_null() {
                            NonNull::dangling()
                        } else {
                            not_null(data.cast_mut(), "data")?
                        },
                        len: if data.is_null() { 0 } else { len },
                        _value: self,
                        _session: Arc::clone(session),
                    })),
                }
            }
        };
        Tensor::new(datatype, shape, buffer).map_err(ort::Error::wrap)
    }
}

/// The part of `buffer` at `data`, when it is inside it.
fn shared_part(buffer: &Buffer, data: *const u8, len: usize) -> Option<Buffer> {
    let start = data.addr().checked_sub(buffer.bytes().as_ptr().addr())?;
    if len == 0 || start >= buffer.len() {
        return None;
    }
    buffer.slice(start..start.checked_add(len)?)
}

/// Output memory of the runtime, released with the last tensor that shares it.
struct Output {
    data: NonNull<u8>,
    len: usize,
    _value: Value<'static>,
    /// An output that is a constant of the model lies in the session's memory.
    _session: Arc<Session>,
}

// SAFETY: the memory is only read from here on, by any thread, and freed through the runtime's allocator, which
// takes frees from any thread.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Storage for Output {
    fn bytes(&self) -> &[u8] {
        // SAFETY: `data` points at `len` bytes of `_value`, which the runtime neither moves nor writes after Run.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }
}

fn strings<'bytes>(tensor: &Tensor, shape: &[i64]) -> Result<Value<'bytes>, ort::Error> {
    let api = ort::api();
    let mut allocator = ptr::null_mut();
    let mut value = ptr::null_mut();
    // SAFETY: the out-pointers are live, the shape is as long as said, and the default allocator is never released.
    let value = unsafe {
        check((api.GetAllocatorWithDefaultOptions)(&raw mut allocator))?;
        check((api.CreateTensorAsOrtValue)(
            allocator,
            shape.as_ptr(),
            shape.len(),
            Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING,
            &raw mut value,
        ))?;
        Value { pointer: not_null(value, "tensor")?, _bytes: PhantomData }
    };
    for (index, element) in tensor.byte_elements().enumerate() {
        let mut place = ptr::null_mut();
        // SAFETY: the runtime makes room for exactly this element, checks the index, and the place stays valid
        // until the value is touched again.
        unsafe {
            check((api.GetResizedStringTensorElementBuffer)(
                value.pointer.as_ptr(),
                index,
                element.len(),
                &raw mut place,
            ))?;
            if !element.is_empty() {
                let place = not_null(place, "string")?;
                ptr::copy_nonoverlapping(element.as_ptr(), place.as_ptr().cast(), element.len());
            }
        }
    }
    Ok(value)
}

/// The elements of a string tensor in the framing of [`DataType::Bytes`].
fn frame_strings(value: &Value<'_>, elements: usize) -> Result<Buffer, ort::Error> {
    let api = ort::api();
    if elements == 0 {
        return Ok(BufferMut::heap(0).freeze());
    }
    let mut len = 0;
    // SAFETY: the out-pointer is live.
    unsafe { check((api.GetStringTensorDataLength)(value.as_ptr(), &raw mut len)) }?;
    let mut content = vec![0_u8; len];
    let mut starts = vec![0_usize; elements];
    // SAFETY: both vectors are as long as said.
    unsafe {
        check((api.GetStringTensorContent)(
            value.as_ptr(),
            content.as_mut_ptr().cast(),
            len,
            starts.as_mut_ptr(),
            elements,
        ))
    }?;
    let ends = starts.iter().skip(1).copied().chain([len]);
    let mut framed = Vec::with_capacity(len + 4 * elements);
    for (start, end) in starts.iter().zip(ends) {
        let element = content.get(*start..end).unwrap_or_default();
        let length = u32::try_from(element.len()).map_err(ort::Error::wrap)?;
        framed.extend_from_slice(&length.to_le_bytes());
        framed.extend_from_slice(element);
    }
    Ok(Buffer::copy_from(&framed))
}

/// `None` for BYTES, which the runtime holds as strings.
fn element_of(datatype: DataType) -> Option<Element> {
    Some(match datatype {
        DataType::Bool => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
        DataType::Uint8 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
        DataType::Uint16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16,
        DataType::Uint32 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32,
        DataType::Uint64 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64,
        DataType::Int8 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
        DataType::Int16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16,
        DataType::Int32 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        DataType::Int64 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
        DataType::Fp16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
        DataType::Bf16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
        DataType::Fp32 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        DataType::Fp64 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,
        DataType::Bytes => return None,
    })
}

/// The type behind a number of `ONNXTensorElementDataType`; `None` for those that Mast does not serve.
pub(super) fn datatype_of(element: i32) -> Option<DataType> {
    if element == Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING as i32 {
        return Some(DataType::Bytes);
    }
    DataType::ALL
        .into_iter()
        .find(|datatype| element_of(*datatype).is_some_and(|known| known as i32 == element))
}

pub(super) fn element_name(element: i32) -> String {
    match element {
        14 => "complex64".to_owned(),
        15 => "complex128".to_owned(),
        17..=20 | 26 => "float8".to_owned(),
        21..=22 => "4-bit integer".to_owned(),
        23 => "float4".to_owned(),
        24..=25 => "2-bit integer".to_owned(),
        other => format!("number {other}"),
    }
}
