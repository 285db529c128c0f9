//! Exit codes: an interface with systemd and with scripts, listed in README.
//!
//! 0 to 2 are what every command means by them. From 64 on, each code is one kind of trouble that a restart does not cure;
//! the unit file lists them in `RestartPreventExitStatus`.

use std::process::ExitCode;

pub(crate) use wire::chain;

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
