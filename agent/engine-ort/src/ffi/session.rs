#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};

use engine::{Dim, LoadError, Signature, TensorSpec};
use ort::AsPointer;
use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::RunOptions;
use ort::session::builder::SessionBuilder;
use ort_sys::{OrtSession, OrtStatusPtr, OrtTensorTypeAndShapeInfo, OrtTypeInfo, OrtValue};

use super::value::{Value, datatype_of, element_name};
use crate::error::one_line;

/// A loaded model and the names of its inputs and outputs as the C API wants them.
pub(crate) struct Session {
    pointer: NonNull<OrtSession>,
    inputs: Names,
    outputs: Names,
    /// Describes plain host memory, for inputs that stay where they are.
    host_memory: MemoryInfo<'static>,
    /// Runs log nothing by themselves: an error comes back as a status, and its text may quote the inputs.
    run_options: RunOptions,
    /// Sessions may not outlive it.
    _environment: Environment,
}

// SAFETY: an OrtSession has no thread affinity, and the C API lets any thread release it.
unsafe impl Send for Session {}
// SAFETY: the C API documents Run as safe for several threads on one session, and engines share one only on the
// providers that keep to it (`OrtEngine::share`). The other methods that take `&self` read what is fixed after load.
unsafe impl Sync for Session {}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("pointer", &self.pointer).finish_non_exhaustive()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: the pointer came from CreateSession* and is released once, here.
        unsafe { (ort::api().ReleaseSession)(self.pointer.as_ptr()) }
    }
}

#[derive(Default)]
struct Names {
    /// Into `_owned`, whose heap blocks do not move.
    pointers: Vec<*const c_char>,
    _owned: Vec<CString>,
}

impl Names {
    fn new(owned: Vec<CString>) -> Self {
        Self { pointers: owned.iter().map(|name| name.as_ptr()).collect(), _owned: owned }
    }
}

/// Takes over a status of the C API.
///
/// # Safety
/// `status` is what a function of the C API just returned.
pub(super) unsafe fn check(status: OrtStatusPtr) -> Result<(), ort::Error> {
    // SAFETY: the caller's promise.
    unsafe { ort::Error::result_from_status(status) }
}

pub(super) fn not_null<T>(pointer: *mut T, what: &str) -> Result<NonNull<T>, ort::Error> {
    NonNull::new(pointer).ok_or_else(|| ort::Error::new(format!("the runtime gave no {what}")))
}

impl Session {
    /// Loads a file; external data is looked for beside it.
    pub(crate) fn from_file(
        environment: &Environment,
        options: &SessionBuilder,
        path: &Path,
    ) -> Result<Self, ort::Error> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mut session = ptr::null_mut();
        // SAFETY: all pointers are live for the call; the path is NUL-terminated.
        unsafe {
            check((ort::api().CreateSession)(
                environment.ptr(),
                path.as_ptr(),
                options.ptr(),
                &raw mut session,
            ))
        }?;
        Self::new(environment, session)
    }

    /// Loads an ONNX protobuf; the runtime keeps no reference to it.
    pub(crate) fn from_memory(
        environment: &Environment,
        options: &SessionBuilder,
        model: &[u8],
    ) -> Result<Self, ort::Error> {
        let mut session = ptr::null_mut();
        // SAFETY: all pointers are live for the call and `model` is that long.
        unsafe {
            check((ort::api().CreateSessionFromArray)(
                environment.ptr(),
                model.as_ptr().cast(),
                model.len(),
                options.ptr(),
                &raw mut session,
            ))
        }?;
        Self::new(environment, session)
    }

    fn new(environment: &Environment, session: *mut OrtSession) -> Result<Self, ort::Error> {
        let pointer = not_null(session, "session")?;
        let host_memory =
            MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default);
        let mut run_options = RunOptions::new()?;
        run_options.set_log_level(LogLevel::Fatal)?;
        let mut session = Self {
            pointer,
            inputs: Names::default(),
            outputs: Names::default(),
            host_memory: host_memory?,
            run_options,
            _environment: environment.clone(),
        };
        session.inputs = Names::new(session.names(End::Input)?);
        session.outputs = Names::new(session.names(End::Output)?);
        Ok(session)
    }

    pub(super) fn pointer(&self) -> *mut OrtSession {
        self.pointer.as_ptr()
    }

    pub(crate) fn host_memory(&self) -> &MemoryInfo<'static> {
        &self.host_memory
    }

    /// Runs the model on inputs in the model's order. An output with a value in `places` is written there and is
    /// `None` in the result.
    ///
    /// # Errors
    /// The runtime's; what is in the places is then worth nothing.
    pub(crate) fn run(
        &self,
        inputs: &[Value<'_>],
        places: &mut [Option<Value<'_>>],
    ) -> Result<Vec<Option<Value<'static>>>, ort::Error> {
        if inputs.len() != self.inputs.pointers.len() {
            return Err(ort::Error::new_with_code(
                ort::ErrorCode::InvalidArgument,
                format!("{} inputs for a model of {}", inputs.len(), self.inputs.pointers.len()),
            ));
        }
        let values: Vec<*const OrtValue> = inputs.iter().map(Value::as_ptr).collect();
        let place = |index| places.get(index).and_then(Option::as_ref).map(Value::as_ptr);
        let given: Vec<Option<*const OrtValue>> = (0..self.outputs.pointers.len()).map(place).collect();
        let pointer = |place: &Option<*const OrtValue>| place.map_or(ptr::null_mut(), <*const _>::cast_mut);
        let mut outputs: Vec<*mut OrtValue> = given.iter().map(pointer).collect();
        // SAFETY: names and values are as many as the lengths say and live for the call; null outputs ask the
        // runtime to allocate them in host memory, the others are values over memory that may be written.
        let status = unsafe {
            (ort::api().Run)(
                self.pointer(),
                self.run_options.ptr(),
                self.inputs.pointers.as_ptr(),
                values.as_ptr(),
                values.len(),
                self.outputs.pointers.as_ptr(),
                self.outputs.pointers.len(),
                outputs.as_mut_ptr(),
            )
        };
        let outputs = outputs.into_iter().zip(given).map(|(output, given)| match given {
            Some(_) => Ok(None),
            // SAFETY: an output that is not null and was null before is a value that Run made and gave to us.
            None => not_null(output, "output").map(|output| Some(unsafe { Value::from_raw(output) })),
        });
        // Collected before the status is looked at, so that a partial result is released.
        let outputs: Result<Vec<_>, _> = outputs.collect();
        // SAFETY: the status is Run's.
        unsafe { check(status) }?;
        outputs
    }

    /// What the model declares.
    ///
    /// # Errors
    /// [`LoadError::Unsupported`] names the input or output that is no tensor of a known element type.
    pub(crate) fn signature(&self) -> Result<Signature, LoadError> {
        Ok(Signature { inputs: self.specs(End::Input)?, outputs: self.specs(End::Output)? })
    }

    fn specs(&self, end: End) -> Result<Vec<TensorSpec>, LoadError> {
        let names = match end {
            End::Input => &self.inputs,
            End::Output => &self.outputs,
        };
        let specs = names._owned.iter().enumerate().map(|(index, name)| {
            let name = name.to_string_lossy().into_owned();
            let info = self.type_info(end, index).map_err(refused)?;
            spec(&info, name, end)
        });
        specs.collect()
    }

    fn names(&self, end: End) -> Result<Vec<CString>, ort::Error> {
        let api = ort::api();
        let (count_of, name_of) = match end {
            End::Input => (api.SessionGetInputCount, api.SessionGetInputName),
            End::Output => (api.SessionGetOutputCount, api.SessionGetOutputName),
        };
        let mut allocator = ptr::null_mut();
        let mut count = 0;
        // SAFETY: out-pointers are live; the default allocator is the runtime's own and never released.
        unsafe {
            check((api.GetAllocatorWithDefaultOptions)(&raw mut allocator))?;
            check(count_of(self.pointer(), &raw mut count))?;
        }
        let name = |index| {
            let mut text = ptr::null_mut();
            // SAFETY: index is below the count; the text is NUL-terminated, copied, and given back to the
            // allocator it came from.
            unsafe {
                check(name_of(self.pointer(), index, allocator, &raw mut text))?;
                let text = not_null(text, "name")?;
                let name = CStr::from_ptr(text.as_ptr()).to_owned();
                check((api.AllocatorFree)(allocator, text.as_ptr().cast()))?;
                Ok(name)
            }
        };
        (0..count).map(name).collect()
    }

    fn type_info(&self, end: End, index: usize) -> Result<TypeInfo, ort::Error> {
        let api = ort::api();
        let info_of = match end {
            End::Input => api.SessionGetInputTypeInfo,
            End::Output => api.SessionGetOutputTypeInfo,
        };
        let mut info = ptr::null_mut();
        // SAFETY: index is that of a name of this session; the out-pointer is live.
        unsafe { check(info_of(self.pointer(), index, &raw mut info)) }?;
        Ok(TypeInfo(not_null(info, "type")?))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Input,
    Output,
}

impl End {
    fn name(self) -> &'static str {
        match self {
            End::Input => "input",
            End::Output => "output",
        }
    }
}

struct TypeInfo(NonNull<OrtTypeInfo>);

impl Drop for TypeInfo {
    fn drop(&mut self) {
        // SAFETY: the pointer came from SessionGet*TypeInfo and is released once, here.
        unsafe { (ort::api().ReleaseTypeInfo)(self.0.as_ptr()) }
    }
}

impl TypeInfo {
    /// The `ONNXType` as a number: the enum of the bindings must not hold a value that a newer library adds.
    fn kind(&self) -> Result<i32, ort::Error> {
        let mut kind = 0_i32;
        // SAFETY: the enum is repr(i32), so an i32 is a place it can be written to.
        unsafe { check((ort::api().GetOnnxTypeFromTypeInfo)(self.0.as_ptr(), (&raw mut kind).cast())) }?;
        Ok(kind)
    }

    /// Part of this type info; null when it is no tensor.
    fn tensor(&self) -> Result<*const OrtTensorTypeAndShapeInfo, ort::Error> {
        let mut tensor = ptr::null();
        // SAFETY: the out-pointer is live.
        unsafe { check((ort::api().CastTypeInfoToTensorInfo)(self.0.as_ptr(), &raw mut tensor)) }?;
        Ok(tensor)
    }
}

fn spec(info: &TypeInfo, name: String, end: End) -> Result<TensorSpec, LoadError> {
    let unsupported =
        |what: &str| Err(LoadError::Unsupported { what: format!("{what} as {} {name:?}", end.name()) });
    match info.kind().map_err(refused)? {
        1 => {}
        2 => return unsupported("a sequence"),
        3 => return unsupported("a map"),
        5 => return unsupported("a sparse tensor"),
        6 => return unsupported("an optional value"),
        _ => return unsupported("an opaque value"),
    }
    let tensor = info.tensor().map_err(refused)?;
    if tensor.is_null() {
        return unsupported("a value without a tensor type");
    }
    let mut element = 0_i32;
    // SAFETY: `tensor` lives as long as `info`; the enum is repr(i32).
    unsafe { check((ort::api().GetTensorElementType)(tensor, (&raw mut element).cast())) }
        .map_err(refused)?;
    let Some(datatype) = datatype_of(element) else {
        return unsupported(&format!("elements of type {}", element_name(element)));
    };
    // SAFETY: as above.
    if end == End::Input && !unsafe { (ort::api().TensorTypeAndShape_HasShape)(tensor) } {
        return unsupported("a tensor of unknown rank");
    }
    // SAFETY: as above.
    let shape = unsafe { dims(tensor) }.map_err(refused)?;
    Ok(TensorSpec { name, datatype, shape })
}

/// # Safety
/// `tensor` is a live tensor type info.
unsafe fn dims(tensor: *const OrtTensorTypeAndShapeInfo) -> Result<Vec<Dim>, ort::Error> {
    let api = ort::api();
    let mut rank = 0;
    // SAFETY: the out-pointer is live.
    unsafe { check((api.GetDimensionsCount)(tensor, &raw mut rank)) }?;
    let mut sizes = vec![0_i64; rank];
    let mut symbols: Vec<*const c_char> = vec![ptr::null(); rank];
    // SAFETY: both vectors have room for `rank` elements.
    unsafe {
        check((api.GetDimensions)(tensor, sizes.as_mut_ptr(), rank))?;
        check((api.GetSymbolicDimensions)(tensor, symbols.as_mut_ptr(), rank))?;
    }
    let dim = |(size, symbol): (i64, *const c_char)| match usize::try_from(size) {
        Ok(size) => Dim::Fixed(size),
        Err(_) if symbol.is_null() => Dim::Dynamic(None),
        // SAFETY: the symbol is NUL-terminated and belongs to the live tensor info.
        Err(_) => match unsafe { CStr::from_ptr(symbol) }.to_string_lossy() {
            symbol if symbol.is_empty() => Dim::Dynamic(None),
            symbol => Dim::Dynamic(Some(symbol.into_owned())),
        },
    };
    Ok(sizes.into_iter().zip(symbols).map(dim).collect())
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn refused(error: ort::Error) -> LoadError {
    LoadError::Refused { detail: one_line(error.message()) }
}
