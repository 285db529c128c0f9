//! What a worker gives up, in the order in which it can: each step says what the kernel gave, and a step that fails
//! leaves the others to be taken.

#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, set_dumpable_behavior, set_parent_process_death_signal,
    setrlimit,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, UnshareFlags, set_capabilities, set_no_new_privs, unshare_unsafe,
};

use super::syscalls;
use crate::frame::{Fence, FenceReport, FenceState, Start};

/// Above what a service manager usually gives the daemon: a model goes before the agent does.
const OOM_SCORE: &str = "500";
/// The newest that was read about; an older kernel gives less and says so.
const LANDLOCK: ABI = ABI::V6;

/// What the libraries of a GPU and its driver are read from.
const GPU_READ: [&str; 8] =
    ["/usr", "/lib", "/lib64", "/opt", "/etc/ld.so.cache", "/etc/nvidia", "/proc", "/sys"];
/// The driver's devices.
const GPU_WRITE: [&str; 6] = [
    "/dev/nvidia0",
    "/dev/nvidiactl",
    "/dev/nvidia-uvm",
    "/dev/nvidia-uvm-tools",
    "/dev/nvidia-modeset",
    "/dev/nvidia-caps",
];

fn report<E: std::fmt::Display>(fence: Fence, result: Result<&str, E>) -> FenceReport {
    match result {
        Ok(detail) => FenceReport { fence, state: FenceState::Enforced, detail: detail.to_owned() },
        Err(error) => FenceReport { fence, state: FenceState::Unavailable, detail: error.to_string() },
    }
}

/// Before the first word of the daemon.
pub(super) fn before_start(control: &OwnedFd) -> Vec<FenceReport> {
    vec![
        report(Fence::OpenFiles, close_others(control).map(|()| "all but the daemon's socket and the log")),
        // Before the files in /proc become root's.
        report(Fence::OomFirst, go_first().map(|()| OOM_SCORE)),
    ]
}

fn go_first() -> std::io::Result<()> {
    File::options().write(true).open("/proc/self/oom_score_adj")?.write_all(OOM_SCORE.as_bytes())
}

fn close_others(control: &OwnedFd) -> std::io::Result<()> {
    let kept = u32::try_from(control.as_raw_fd()).map_err(std::io::Error::other)?;
    let close = |first: u32, last: u32| {
        if first > last {
            return Ok(());
        }
        // SAFETY: the process has just begun, and owns no file but the three of every process and the control socket.
        match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0_u32) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    close(3, kept.saturating_sub(1).max(2))?;
    close(kept.max(2) + 1, u32::MAX)
}

fn undumpable() -> rustix::io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

/// Before the runtime's library is loaded: the process has one thread, which namespaces of users need.
pub(super) fn before_runtime(start: &Start) -> Vec<FenceReport> {
    let memory = match start.memory_limit_bytes {
        None => FenceReport {
            fence: Fence::MemoryLimit,
            state: FenceState::Unavailable,
            detail: "no worker_memory_limit_bytes is configured".to_owned(),
        },
        Some(limit) => {
            let limits = Rlimit { current: Some(limit), maximum: Some(limit) };
            let told = format!("{limit} bytes of private memory");
            report(Fence::MemoryLimit, setrlimit(Resource::Data, limits).map(|()| told.as_str()))
        }
    };
    let network = own_network();
    // After the namespaces: a change of credentials takes the signal back, and where fs.suid_dumpable is 1 it makes
    // the process dumpable again. A daemon that died before this closes the control socket, which ends us as well.
    let parent = set_parent_process_death_signal(Some(Signal::KILL)).map(|()| "SIGKILL");
    let dumpable = report(Fence::Dumpable, undumpable().map(|()| "not dumpable, no core"));
    vec![memory, report(Fence::Network, network), report(Fence::ParentDeath, parent), dumpable]
}

/// An empty network, of a new user where that takes no privilege, else by privilege.
fn own_network() -> rustix::io::Result<&'static str> {
    let network = UnshareFlags::NEWNET | UnshareFlags::NEWIPC;
    // SAFETY: the process has one thread, and no file descriptor table or working directory is unshared.
    let as_new_user = unsafe { unshare_unsafe(network | UnshareFlags::NEWUSER) };
    if as_new_user.is_ok() {
        return Ok("a network and IPC of its own, as a user of its own");
    }
    // SAFETY: as above.
    unsafe { unshare_unsafe(network) }.map(|()| "a network and IPC of its own")
}

/// When the runtime is loaded, and no model is.
pub(super) fn before_models(start: &Start) -> Vec<FenceReport> {
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    vec![
        report(Fence::Capabilities, set_capabilities(None, sets).map(|()| "none")),
        report(Fence::NewPrivileges, set_no_new_privs(true).map(|()| "no program gives more")),
        landlock(start),
        report(Fence::Seccomp, syscalls::confine(start.one_model)),
    ]
}

fn landlock(start: &Start) -> FenceReport {
    let fence = Fence::Landlock;
    match restrict(start) {
        Ok(RulesetStatus::FullyEnforced) if threads() > 1 => FenceReport {
            fence,
            state: FenceState::Partial,
            detail: "threads of the runtime that were there before are not bound".to_owned(),
        },
        Ok(RulesetStatus::FullyEnforced) => FenceReport {
            fence,
            state: FenceState::Enforced,
            detail: format!("{} folders to read, {} to write", start.readable.len(), start.writable.len()),
        },
        Ok(RulesetStatus::PartiallyEnforced) => FenceReport {
            fence,
            state: FenceState::Partial,
            detail: "the kernel knows an older Landlock".to_owned(),
        },
        Ok(RulesetStatus::NotEnforced) => FenceReport {
            fence,
            state: FenceState::Unavailable,
            detail: "the kernel has no Landlock".to_owned(),
        },
        Err(error) => report(fence, Err(error)),
    }
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}

fn restrict(start: &Start) -> Result<RulesetStatus, landlock::RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?;
    let gpu_read = GPU_READ.iter().map(Path::new).filter(|_| !start.one_model);
    for path in start.readable.iter().map(AsRef::as_ref).chain(gpu_read) {
        // What is not there cannot be read.
        let Ok(opened) = PathFd::new(path) else { continue };
        let access = if path.is_dir() { read } else { AccessFs::ReadFile.into() };
        rules = rules.add_rule(PathBeneath::new(opened, access))?;
    }
    let gpu_write = GPU_WRITE.iter().map(Path::new).filter(|_| !start.one_model);
    for path in start.writable.iter().map(AsRef::as_ref).chain(gpu_write) {
        let Ok(opened) = PathFd::new(path) else { continue };
        let all = AccessFs::from_all(LANDLOCK) & !AccessFs::Execute;
        let access = if path.is_dir() { all } else { all & AccessFs::from_file(LANDLOCK) };
        rules = rules.add_rule(PathBeneath::new(opened, access))?;
    }
    Ok(rules.restrict_self()?.ruleset)
}

/// When the one model of the worker is loaded: nothing is left to read.
pub(super) fn after_load() -> FenceReport {
    report(Fence::Files, syscalls::close_files())
}
