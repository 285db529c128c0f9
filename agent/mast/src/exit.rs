//! Exit codes: an interface with systemd and with scripts, listed in README.
//!
//! 0 to 2 are what every command means by them. From 64 on, each code is one kind of trouble that a restart does not cure;
//! the unit file lists them in `RestartPreventExitStatus`.

use std::fmt::Write as _;
use std::process::ExitCode;

/// How `mast` ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All went well, or an ordered shutdown finished everything.
    Ok = 0,
    /// The command failed: the request was refused, a check of `doctor` failed, the daemon does not answer.
    Failed = 1,
    /// Configuration or policy is wrong. Wrong arguments are 2, by clap.
    BadConfig = 64,
    /// ONNX Runtime is missing, too old, of another architecture, or carries the telemetry uploader.
    NoRuntime = 65,
    /// An address is in use or may not be bound.
    CannotListen = 66,
    /// The data directory cannot be used: read-only, full, or another agent holds its lock.
    BadDataDir = 67,
    /// A task of the daemon ended by itself; systemd should restart it.
    TaskEnded = 70,
    /// The shutdown budget ended before everything had stopped; the log names what was left.
    DrainTimeout = 71,
}

impl Exit {
    pub(crate) fn code(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}

/// The error and its causes in one line, for the one place where it is logged or printed.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // Some libraries say their cause themselves.
        if !text.ends_with(&said) {
            // Writing into a String cannot fail.
            write!(text, ": {said}").ok();
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Said {
        text: &'static str,
        source: Option<Box<Said>>,
    }

    #[test]
    fn each_cause_is_said_once() {
        let last = Said { text: "no bytes", source: None };
        let chatty = Said { text: "cannot decode: no bytes", source: Some(Box::new(last)) };
        let first = Said { text: "cannot use the photo", source: Some(Box::new(chatty)) };
        assert_eq!(chain(&first), "cannot use the photo: cannot decode: no bytes");
    }
}
