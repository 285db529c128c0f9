//! What a worker logs, passed on to the daemon's own log.

use std::io::{BufRead, BufReader, Read, Write};
use std::time::{Duration, Instant};

/// A longer line is cut in pieces.
const LINE: usize = 4096;
/// Of the last line, for an error text.
const LAST: usize = 300;

/// Lines of one worker that are copied in [`WINDOW`]; the rest is counted, so that a model that prints without end fills no disk.
const LINES: u64 = 200;
const WINDOW: Duration = Duration::from_secs(1);

/// Copies lines until the worker is gone, each in one piece and without control characters: what a model prints
/// must not steer a terminal. Gives the last line that was not empty.
pub(crate) fn pass_on(from: impl Read, to: impl Write) -> String {
    pass_on_by(from, to, Instant::now)
}

fn pass_on_by(from: impl Read, mut to: impl Write, mut clock: impl FnMut() -> Instant) -> String {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    let mut last = String::new();
    let (mut since, mut lines) = (clock(), 0);
    // Where the daemon's log goes nowhere, so does this.
    let mut write = |text: &str| to.write_all(format!("{text}\n").as_bytes()).ok();
    loop {
        line.clear();
        let limit = u64::try_from(LINE).unwrap_or(u64::MAX);
        // An error is the end too: there is nothing more to read.
        let read = from.by_ref().take(limit).read_until(b'\n', &mut line).unwrap_or(0);
        let now = clock();
        if read == 0 || now.duration_since(since) >= WINDOW {
            if lines > LINES {
                write(&format!("a worker printed {} more lines, which are left out", lines - LINES));
            }
            (since, lines) = (now, 0);
        }
        if read == 0 {
            return last;
        }
        let text = String::from_utf8_lossy(&line);
        let text: String = text.chars().filter(|letter| !letter.is_control() || *letter == '\t').collect();
        if text.trim().is_empty() {
            continue;
        }
        lines += 1;
        if lines <= LINES {
            write(&text);
        }
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

    #[test]
    fn a_worker_that_prints_without_end_is_cut_short_each_second() {
        let begin = Instant::now();
        let check = |lines: u64, per_second: u64, copied: u64, left_out: &[u64]| {
            let from: String = (0..lines).map(|line| format!("line {line}\n")).collect();
            // The first call is the begin, the others come with the lines and the end.
            let mut calls = 0_u64;
            let clock = || {
                calls += 1;
                begin + Duration::from_millis(calls.saturating_sub(2) * 1000 / per_second)
            };
            let mut written = Vec::new();
            assert_eq!(pass_on_by(from.as_bytes(), &mut written, clock), format!("line {}", lines - 1));
            let text = String::from_utf8(written).unwrap();
            let told: Vec<_> = text.lines().filter(|line| line.starts_with("a worker printed")).collect();
            assert_eq!(told.len(), left_out.len(), "{told:?}");
            for (line, count) in told.iter().zip(left_out) {
                assert!(line.contains(&format!(" {count} more lines")), "{line}");
            }
            assert_eq!(text.lines().filter(|line| line.starts_with("line ")).count() as u64, copied);
        };
        check(LINES, 1_000_000, LINES, &[]);
        check(LINES + 7, 1_000_000, LINES, &[7]);
        check(3 * LINES, LINES, 3 * LINES, &[]);
        check(4 * LINES, 2 * LINES, 2 * LINES, &[LINES, LINES]);
    }
}
