//! The gRPC service over a real socket.

mod access;
mod calls;
mod client;
mod compression;
mod limits;
mod streams;
