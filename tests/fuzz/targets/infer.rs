//! The v2 infer request: JSON and the raw tensors behind it. What is read is answered with its own inputs, and the answer
//! must read back as the same tensors.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    front::fuzz::infer(data);
});
