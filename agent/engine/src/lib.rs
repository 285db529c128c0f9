//! The contract between the request path and what computes.
//!
//! A [`Backend`] is one physical device: it allocates [`Buffer`]s and loads a model into an [`Engine`]. An
//! engine is one loaded model; it is synchronous and lives on an [`EngineThread`] of its own, which pulls
//! [`Batch`]es from a [`Feed`] (the scheduler) and hands the outputs back.
//!
//! In: batches of [`Tensor`]s in signature order. Out: one row of output tensors per member.
//! This crate does no IO, knows no wire format and depends on no runtime; it spawns exactly one thread per
//! [`EngineThread::spawn`].

mod batch;
mod buffer;
mod datatype;
mod error;
#[cfg(feature = "fake")]
pub mod fake;
mod load;
mod provider;
mod signature;
mod stateful;
mod tensor;
mod thread;

pub use batch::{Batch, Correlation, Member, Outputs, Step, gather, scatter};
pub use buffer::{ALIGNMENT, Buffer, BufferMut, Storage, StorageMut};
pub use datatype::DataType;
pub use error::{EngineError, LoadError};
pub use load::{
    Backend, BuildProgress, Engine, Footprint, Isolation, LoadOptions, Loaded, MemberId, Memory, ModelSource,
    OnLost, PendingBuild, Place, SubgraphRunner,
};
pub use provider::{Assignment, Attempt, Device, Placement, Provider};
pub use signature::{Dim, Signature, TensorSpec};
pub use stateful::{Control, ControlKind, Flag, StateTensor, Stateful, States};
pub use tensor::{Tensor, TensorError, element_count};
pub use thread::{EngineThread, Feed, Work};
