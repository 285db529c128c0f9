//! The gRPC service over a real socket.

mod calls;
mod client;
mod limits;
mod streams;
