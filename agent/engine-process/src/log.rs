//! What a worker logs, passed on to the daemon's own log.

use std::io::{BufRead, BufReader, Read, Write};

/// A longer line is cut in pieces.
const LINE: usize = 4096;
/// Of the last line, for an error text.
const LAST: usize = 300;

/// Copies lines until the worker is gone, each in one piece and without control characters: what a model prints
/// must not steer a terminal. Gives the last line that was not empty.
pub(crate) fn pass_on(from: impl Read, mut to: impl Write) -> String {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    let mut last = String::new();
    loop {
        line.clear();
        let limit = u64::try_from(LINE).unwrap_or(u64::MAX);
        // An error is the end too: there is nothing more to read.
        let read = from.by_ref().take(limit).read_until(b'\n', &mut line).unwrap_or(0);
        if read == 0 {
            return last;
        }
        let text = String::from_utf8_lossy(&line);
        let text: String = text.chars().filter(|letter| !letter.is_control() || *letter == '\t').collect();
        if text.trim().is_empty() {
            continue;
        }
        // Where the daemon's log goes nowhere, so does this.
        to.write_all(format!("{text}\n").as_bytes()).ok();
        last = text.trim().chars().take(LAST).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_pass_and_the_last_is_kept() {
        let long = "x".repeat(LINE);
        for (from, to, last) in [
            ("", "", ""),
            ("one\ntwo\n\n", "one\ntwo\n", "two"),
            ("no end", "no end\n", "no end"),
            ("\x1b[2Jcleared\r\n", "[2Jcleared\n", "[2Jcleared"),
            (&format!("{long}y"), &format!("{long}\ny\n"), "y"),
        ] {
            let mut written = Vec::new();
            assert_eq!(pass_on(from.as_bytes(), &mut written), last);
            assert_eq!(String::from_utf8(written).unwrap(), to);
        }
        assert_eq!(pass_on(b"\xff\n".as_slice(), Vec::new()), "\u{fffd}");
        assert_eq!(pass_on(long.as_bytes(), Vec::new()).len(), LAST);
    }
}
