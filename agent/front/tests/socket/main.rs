//! Over real sockets, with engines that echo.

#![allow(clippy::unwrap_used, reason = "what fails in a test ends it")]

extern crate mast_front as front;

mod agent;
mod bad_input;
mod good_input;
mod grpc;
mod keys;
mod lifecycle;
mod media;
mod openai;
mod pages;
mod pki;
mod tls;
