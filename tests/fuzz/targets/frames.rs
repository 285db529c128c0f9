//! The frames between the daemon and a worker, both ways: any bytes give a frame or an error, and what was read once is
//! read again from its own encoding. The daemon's side cleans texts of a worker, so there the bytes may differ.

#![no_main]

use engine_process::frame::{ToDaemon, ToWorker};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(frame) = ToDaemon::decode(data) {
        let encoded = frame.encode();
        match ToDaemon::decode(&encoded) {
            Ok(again) => assert_eq!(again.encode(), encoded, "{frame:?}"),
            Err(error) => panic!("{error}: {frame:?}"),
        }
    }
    if let Ok(frame) = ToWorker::decode(data) {
        assert_eq!(frame.encode(), data, "{frame:?}");
    }
});
