//! The words of `engine` as fields.

use engine::{
    Assignment, Attempt, DataType, Device, Dim, EngineError, Isolation, LoadError, LoadOptions, ModelSource,
    Placement, Provider, Signature, TensorSpec,
};

use super::codec::{FrameError, Reader, Word, Writer, choices, words};
use super::{At, Fence, FenceState, Span};

choices! {
    DataType, "data type", DataType::ALL;
    Provider, "provider", Provider::ALL;
    Isolation, "isolation", [Isolation::None, Isolation::Process];
    Fence, "fence", Fence::ALL;
    FenceState, "state of a fence", [FenceState::Enforced, FenceState::Partial, FenceState::Unavailable];
}

words! {
    ModelSource { name, version, path }
    LoadOptions { providers, require, threads, spinning, device_memory_limit_bytes, isolation }
    Signature { inputs, outputs }
    TensorSpec { name, datatype, shape }
    Placement { provider, device, attempts, assignments }
    Device { id, name }
    Attempt { provider, failure }
    Assignment { provider, nodes, operators }
}

impl Word for Dim {
    fn write(&self, out: &mut Writer) {
        match self {
            Dim::Fixed(size) => {
                0_u8.write(out);
                size.write(out);
            }
            Dim::Dynamic(name) => {
                1_u8.write(out);
                name.write(out);
            }
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, FrameError> {
        match u8::read(from)? {
            0 => Ok(Dim::Fixed(usize::read(from)?)),
            1 => Ok(Dim::Dynamic(Word::read(from)?)),
            _ => Err(FrameError::Field { what: "axis" }),
        }
    }
}

impl Word for At {
    fn write(&self, out: &mut Writer) {
        match self {
            At::Lent(span) => {
                0_u8.write(out);
                span.write(out);
            }
            At::Held { len } => {
                1_u8.write(out);
                len.write(out);
            }
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, FrameError> {
        match u8::read(from)? {
            0 => Ok(At::Lent(Span::read(from)?)),
            1 => Ok(At::Held { len: usize::read(from)? }),
            _ => Err(FrameError::Field { what: "place of an output" }),
        }
    }
}

/// A text of a worker is for a reply: one line, and no longer than the runtime's own texts are cut to.
fn line(from: &mut Reader<'_>) -> Result<String, FrameError> {
    const LIMIT: usize = 400;
    let text = String::read(from)?;
    Ok(text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LIMIT).collect())
}

impl Word for EngineError {
    fn write(&self, out: &mut Writer) {
        let detail = |out: &mut Writer, kind: u8, detail: &String| {
            kind.write(out);
            detail.write(out);
        };
        match self {
            EngineError::Shape { index } => {
                0_u8.write(out);
                index.write(out);
            }
            EngineError::OutputRows { expected, got } => {
                1_u8.write(out);
                expected.write(out);
                got.write(out);
            }
            EngineError::Input { detail: text } => detail(out, 2, text),
            EngineError::Run { detail: text } => detail(out, 3, text),
            EngineError::DeviceLost { detail: text } => detail(out, 4, text),
            EngineError::Panicked { detail: text } => detail(out, 5, text),
            EngineError::Cancelled => 6_u8.write(out),
            // What no engine in a worker says.
            EngineError::WorkerLost { .. } | EngineError::Stateless { .. } => {
                detail(out, 3, &self.to_string());
            }
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, FrameError> {
        Ok(match u8::read(from)? {
            0 => EngineError::Shape { index: Word::read(from)? },
            1 => EngineError::OutputRows { expected: Word::read(from)?, got: Word::read(from)? },
            2 => EngineError::Input { detail: line(from)? },
            3 => EngineError::Run { detail: line(from)? },
            4 => EngineError::DeviceLost { detail: line(from)? },
            5 => EngineError::Panicked { detail: line(from)? },
            6 => EngineError::Cancelled,
            _ => return Err(FrameError::Field { what: "error of an engine" }),
        })
    }
}

impl Word for LoadError {
    fn write(&self, out: &mut Writer) {
        match self {
            LoadError::Read { source } => {
                0_u8.write(out);
                source.to_string().write(out);
            }
            LoadError::Refused { detail } => {
                1_u8.write(out);
                detail.write(out);
            }
            LoadError::NoProvider { detail } => {
                2_u8.write(out);
                detail.write(out);
            }
            LoadError::Required { required, detail } => {
                3_u8.write(out);
                required.write(out);
                detail.write(out);
            }
            LoadError::Unsupported { what } => {
                4_u8.write(out);
                what.write(out);
            }
            LoadError::Build { provider, detail } => {
                5_u8.write(out);
                provider.write(out);
                detail.write(out);
            }
            LoadError::State { detail } => {
                6_u8.write(out);
                detail.write(out);
            }
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, FrameError> {
        Ok(match u8::read(from)? {
            0 => LoadError::Read { source: std::io::Error::other(line(from)?) },
            1 => LoadError::Refused { detail: line(from)? },
            2 => LoadError::NoProvider { detail: line(from)? },
            3 => LoadError::Required { required: Word::read(from)?, detail: line(from)? },
            4 => LoadError::Unsupported { what: line(from)? },
            5 => LoadError::Build { provider: Word::read(from)?, detail: line(from)? },
            6 => LoadError::State { detail: line(from)? },
            _ => return Err(FrameError::Field { what: "error of a load" }),
        })
    }
}
