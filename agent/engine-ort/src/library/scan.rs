//! One pass over a library's bytes for three marks, in chunks, so that a library of any size costs the same memory.

use std::io::{self, Read};

/// The host of Microsoft's 1DS uploader. In official builds from 1.29.0 on.
const TELEMETRY_HOST: &[u8] = b"events.data.microsoft.com";
const API_SYMBOL: &[u8] = b"OrtGetApiBase\0";
/// The official linker script gives exports the symbol version `VERS_1.28.0`.
const VERSION_MARK: &[u8] = b"\0VERS_";
/// Longest version text that is looked at.
const VERSION_LIMIT: usize = 24;

const CHUNK: usize = 256 * 1024;
/// Bytes that the end of one chunk is looked at again with the next: more than the longest mark.
const OVERLAP: usize = 64;

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    pub(super) telemetry: bool,
    pub(super) exports_api: bool,
    pub(super) version: Option<String>,
}

pub(super) fn scan(file: &mut impl Read) -> io::Result<Findings> {
    let mut findings = Findings::default();
    let mut window = Vec::with_capacity(OVERLAP + CHUNK);
    loop {
        let kept = window.len();
        let read = file.by_ref().take(CHUNK as u64).read_to_end(&mut window)?;
        if read == 0 {
            return Ok(findings);
        }
        findings.add(&window);
        window.drain(..(kept + read).saturating_sub(OVERLAP));
    }
}

impl Findings {
    fn add(&mut self, window: &[u8]) {
        self.telemetry = self.telemetry || find(window, TELEMETRY_HOST).is_some();
        self.exports_api = self.exports_api || find(window, API_SYMBOL).is_some();
        if self.version.is_none() {
            self.version =
                find(window, VERSION_MARK).and_then(|at| version(&window[at + VERSION_MARK.len()..]));
        }
    }
}

/// "1.28.0" of `1.28.0\0...`; `None` when it is cut off or no version.
fn version(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().take(VERSION_LIMIT).position(|byte| *byte == 0)?;
    let text = std::str::from_utf8(&bytes[..end]).ok()?;
    let is_version = text.contains('.') && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    is_version.then(|| text.to_owned())
}

/// The first place of `mark` (Boyer-Moore-Horspool): tens of milliseconds for 30 MB without a dependency.
pub(crate) fn find(window: &[u8], mark: &[u8]) -> Option<usize> {
    let last = mark.len().checked_sub(1)?;
    // How far the mark may move when the byte under its last place is this one.
    let mut skips = [mark.len(); 256];
    for (at, byte) in mark.iter().take(last).enumerate() {
        skips[usize::from(*byte)] = last - at;
    }
    let mut at = 0;
    while let Some(byte) = window.get(at + last) {
        if window.get(at..=at + last) == Some(mark) {
            return Some(at);
        }
        at += skips[usize::from(*byte)];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_found_wherever_the_chunks_end() {
        let marks = [b"x".as_slice(), TELEMETRY_HOST, b"\0", API_SYMBOL, VERSION_MARK, b"1.28.0\0"].concat();
        for before in [0, 1, CHUNK - 60, CHUNK - 30, CHUNK - 10, CHUNK - 1, CHUNK, 2 * CHUNK - 20] {
            let mut bytes = vec![b'.'; before];
            bytes.extend_from_slice(&marks);
            bytes.extend_from_slice(&[7; 100]);
            let findings = scan(&mut bytes.as_slice()).unwrap();
            let expected =
                Findings { telemetry: true, exports_api: true, version: Some("1.28.0".to_owned()) };
            assert_eq!(findings, expected, "{before} bytes before the marks");
        }
    }

    #[test]
    fn similar_bytes_are_no_marks() {
        for bytes in [
            b"".as_slice(),
            b"events.data.microsoft.co",
            b"events.data.microsofT.com OrtGetApiBaseX VERS_1.2.3\0",
            b"\0VERS_one.two\0",
            b"\0VERS_\0",
        ] {
            assert_eq!(scan(&mut &bytes[..]).unwrap(), Findings::default(), "{bytes:?}");
        }
    }
}
