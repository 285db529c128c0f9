//! A ModelInferRequest of the gRPC front, raw or typed.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    front::fuzz::grpc(data);
});
