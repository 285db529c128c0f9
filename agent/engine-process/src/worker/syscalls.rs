//! Which system calls a worker has left (seccomp, all threads). A call that is not allowed fails with EPERM, so that
//! what a runtime only tries is not its end.
//!
//! A worker of one model has a list of what is allowed, found with ONNX Runtime on the CPU: memory, threads, its open
//! sockets, files to read. A worker for a GPU has a list of what is not, because the driver's library needs what no
//! document names; with no GPU at hand that list is by reading, not by trial.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op,
    SeccompCondition as If, SeccompFilter, SeccompRule, TargetArch, apply_filter_all_threads,
};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// The filter of the time when models are loaded and run.
pub(super) fn confine(one_model: bool) -> Result<&'static str, seccompiler::Error> {
    // A clone3 has its flags in memory, where no filter sees them; without it the C library uses clone.
    install(every(&UNKNOWN), SeccompAction::Allow, errno(libc::ENOSYS))?;
    if one_model {
        install(allowed()?, errno(libc::EPERM), SeccompAction::Allow)?;
        Ok("memory, threads, its sockets, files to read: nothing else")
    } else {
        install(every(&NEVER), SeccompAction::Allow, errno(libc::EPERM))?;
        Ok("no socket, program, tracing or change of the system")
    }
}

/// The filter of the time after the load.
pub(super) fn close_files() -> Result<&'static str, seccompiler::Error> {
    let mut rules = every(&BY_PATH);
    // With an empty path it asks about an open file.
    let flags = (libc::SYS_newfstatat, 3, libc::AT_EMPTY_PATH);
    insert_if(&mut rules, flags.0, vec![masked(flags.1, bits(flags.2), 0)?])?;
    install(rules, SeccompAction::Allow, errno(libc::EPERM))?;
    Ok("no file can be opened or looked at")
}

fn install(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> Result<(), seccompiler::Error> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let program: BpfProgram = SeccompFilter::new(rules, otherwise, matched, arch)?.try_into()?;
    apply_filter_all_threads(&program)
}

fn errno(number: i32) -> SeccompAction {
    SeccompAction::Errno(number.unsigned_abs())
}

fn every(calls: &[i64]) -> Rules {
    calls.iter().map(|call| (*call, Vec::new())).collect()
}

fn bits(flags: i32) -> u64 {
    u64::from(flags.cast_unsigned())
}

fn masked(argument: u8, mask: u64, value: u64) -> Result<If, BackendError> {
    If::new(argument, Len::Qword, Op::MaskedEq(mask), value)
}

fn equal(argument: u8, value: u64) -> Result<If, BackendError> {
    If::new(argument, Len::Dword, Op::Eq, value)
}

/// One more case in which the call matches.
fn insert_if(rules: &mut Rules, call: i64, conditions: Vec<If>) -> Result<(), BackendError> {
    rules.entry(call).or_default().push(SeccompRule::new(conditions)?);
    Ok(())
}

fn allowed() -> Result<Rules, BackendError> {
    let mut rules = every(&ALLOWED);
    // The strictest filter decides, and of two that fail a call the later: it has to let these pass.
    rules.extend(every(&UNKNOWN));
    #[cfg(target_arch = "x86_64")]
    rules.extend(every(&ALLOWED_X86_64));

    let to_write = bits(libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND);
    insert_if(&mut rules, libc::SYS_openat, vec![masked(2, to_write, 0)?])?;
    #[cfg(target_arch = "x86_64")]
    insert_if(&mut rules, libc::SYS_open, vec![masked(1, to_write, 0)?])?;

    // Threads, and no process and no namespace.
    let thread = bits(libc::CLONE_THREAD);
    insert_if(&mut rules, libc::SYS_clone, vec![masked(0, bits(NAMESPACES) | thread, thread)?])?;

    // abort() ends the process by a signal to itself.
    insert_if(&mut rules, libc::SYS_tgkill, vec![equal(0, std::process::id().into())?])?;

    // Reads a limit of this process.
    insert_if(&mut rules, libc::SYS_prlimit64, vec![equal(0, 0)?, masked(2, u64::MAX, 0)?])?;

    for option in [libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_VMA, libc::PR_SET_NO_NEW_PRIVS] {
        insert_if(&mut rules, libc::SYS_prctl, vec![equal(0, bits(option))?])?;
    }
    Ok(rules)
}

/// What a kernel might not know, so that every caller has another way.
const UNKNOWN: [i64; 2] = [libc::SYS_clone3, libc::SYS_openat2];

const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

const ALLOWED: [i64; 67] = [
    // memory
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mincore,
    // open files and sockets
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fadvise64,
    libc::SYS_recvmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_ppoll,
    // paths, to read
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    // threads
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_rseq,
    libc::SYS_set_tid_address,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_getcpu,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_restart_syscall,
    // signals of its own
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    // time, chance, and what machine this is
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getuid,
    libc::SYS_getppid,
    libc::SYS_getrusage,
    // to give up more
    libc::SYS_seccomp,
];

/// The same by their old names.
#[cfg(target_arch = "x86_64")]
const ALLOWED_X86_64: [i64; 7] = [
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_poll,
    libc::SYS_time,
    libc::SYS_arch_prctl,
];

#[cfg(target_arch = "x86_64")]
const BY_PATH: [i64; 14] = [
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_statx,
    libc::SYS_access,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_seccomp,
];

#[cfg(not(target_arch = "x86_64"))]
const BY_PATH: [i64; 9] = [
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_statx,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_seccomp,
];

/// What no worker for a GPU needs.
const NEVER: [i64; 34] = [
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_kill,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
];
