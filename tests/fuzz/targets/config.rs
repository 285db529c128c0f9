//! `config.pbtxt`, and the JSON of a load request: any text gives a configuration, or an error with a place in the text.

#![no_main]

use libfuzzer_sys::fuzz_target;
use triton::config::{self, Error};

fuzz_target!(|text: &str| {
    for parse in [config::parse, config::parse_json] {
        match parse(text) {
            Ok(_) | Err(Error::TooLong { .. }) => {}
            Err(Error::TooDeep { line, column } | Error::Syntax { line, column, .. }) => {
                let lines = text.matches('\n').count() + 1;
                assert!((1..=lines).contains(&line) && column >= 1, "{line}:{column} of {lines} lines");
            }
        }
    }
});
