//! WHAT GOES BEFORE AND AFTER A MODEL: a photo or sentences into its inputs, its outputs into labels, boxes or
//! vectors, as the blocks `[image]`, `[classify]`, `[detect]`, `[text]` and `[embed]` of its `model.toml` say.
//!
//! In: the bytes of a JPEG or PNG, or text, from anyone; the outputs of the model; the files beside `model.toml`
//! (labels, tokenizer). Out: tensors in memory that the caller allocates, and what the outputs mean.
//! Start reading at `plan.rs`.
//!
//! Every function is pure but [`Plan::read`], and works on the caller's thread: no thread, no task, no lock. Most
//! are too slow for a thread that serves connections: a photo of 1920 x 1080 takes about 20 ms, one of 224 x 224 0.6 ms, a sentence
//! of 16 tokens 0.05 ms, of 256 tokens 1 ms. What is untrusted is judged before it costs anything: size of the
//! photo in pixels, length of the text in bytes. Memory is that of [`Photo::memory_bytes`], time grows with both.
//!
//! It never opens a socket, starts a thread, or logs a byte of what it was given.
#![forbid(unsafe_code)]

mod plan;

// Before the model.
mod fit;
mod jpeg;
mod photo;
mod tensor;
mod text;

// After it.
mod classify;
mod detect;
mod embed;
mod labels;
mod outputs;

mod error;

pub use classify::Label;
pub use detect::Detection;
pub use error::Error;
pub use fit::Place;
pub use outputs::{Floats, Outputs};
pub use photo::{PIXEL_LIMIT, Photo};
pub use plan::{Blocks, Plan};
pub use tensor::Prepared;
pub use text::{TEXT_LIMIT_BYTES, TEXTS_LIMIT_BYTES, Tokens};
