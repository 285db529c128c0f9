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
        install(forbidden()?, SeccompAction::Allow, errno(libc::EPERM))?;
        Ok("no socket, program, tracing, signal to others or change of the system")
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
    insert_if(
        &mut rules,
        libc::SYS_clone,
        vec![masked(0, NAMESPACES.into_iter().fold(thread, |all, flag| all | bits(flag)), thread)?],
    )?;

    // abort() ends the process by a signal to itself.
    insert_if(&mut rules, libc::SYS_tgkill, vec![equal(0, std::process::id().into())?])?;

    // Reads a limit of this process.
    insert_if(&mut rules, libc::SYS_prlimit64, vec![equal(0, 0)?, masked(2, u64::MAX, 0)?])?;

    // Memory that others could map is not counted by RLIMIT_DATA: only that of files, which the daemon makes.
    let (shared, of_no_file) = (bits(libc::MAP_SHARED), bits(libc::MAP_ANONYMOUS));
    insert_if(&mut rules, libc::SYS_mmap, vec![masked(3, shared, 0)?])?;
    insert_if(&mut rules, libc::SYS_mmap, vec![masked(3, of_no_file, 0)?])?;

    // Of its own threads, which it starts with a number of its choice: by any other number it could bind the daemon's.
    insert_if(&mut rules, libc::SYS_sched_setaffinity, vec![equal(0, 0)?])?;

    // No owner and no signal of a file: by these the kernel would signal the daemon on its behalf.
    for command in [
        libc::F_DUPFD,
        libc::F_DUPFD_CLOEXEC,
        libc::F_GETFD,
        libc::F_SETFD,
        libc::F_GETFL,
        libc::F_SETFL,
        libc::F_GET_SEALS,
    ] {
        insert_if(&mut rules, libc::SYS_fcntl, vec![equal(1, bits(command))?])?;
    }

    for option in [libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_VMA, libc::PR_SET_NO_NEW_PRIVS] {
        insert_if(&mut rules, libc::SYS_prctl, vec![equal(0, bits(option))?])?;
    }
    Ok(rules)
}

fn forbidden() -> Result<Rules, BackendError> {
    let mut rules = every(&NEVER);
    #[cfg(target_arch = "x86_64")]
    {
        rules.extend(every(&NEVER_X86_64));
        // The same calls by the numbers of x32, where the kernel has it.
        let x32: Vec<i64> = rules.keys().map(|call| call | X32).collect();
        rules.extend(every(&x32));
    }
    // Signals to itself alone, and threads but no process: that would outlive it.
    let not = |argument, value| If::new(argument, Len::Dword, Op::Ne, value);
    insert_if(&mut rules, libc::SYS_tgkill, vec![not(0, std::process::id().into())?])?;
    insert_if(&mut rules, libc::SYS_clone, vec![masked(0, bits(libc::CLONE_THREAD), 0)?])?;
    for namespace in NAMESPACES {
        insert_if(&mut rules, libc::SYS_clone, vec![masked(0, bits(namespace), bits(namespace))?])?;
    }
    insert_if(&mut rules, libc::SYS_prlimit64, vec![not(0, 0)?])?;
    insert_if(&mut rules, libc::SYS_sched_setaffinity, vec![not(0, 0)?])?;
    for command in [libc::F_SETOWN, F_SETSIG, F_SETOWN_EX] {
        insert_if(&mut rules, libc::SYS_fcntl, vec![equal(1, bits(command))?])?;
    }
    for request in [FIOSETOWN, SIOCSPGRP, TIOCSTI, TIOCLINUX] {
        insert_if(&mut rules, libc::SYS_ioctl, vec![equal(1, request)?])?;
    }
    Ok(rules)
}

/// asm-generic/fcntl.h, asm-generic/sockios.h and asm-generic/ioctls.h
const F_SETSIG: i32 = 10;
const F_SETOWN_EX: i32 = 15;
const FIOSETOWN: u64 = 0x8901;
const SIOCSPGRP: u64 = 0x8902;
const TIOCSTI: u64 = 0x5412;
const TIOCLINUX: u64 = 0x541C;
/// `__X32_SYSCALL_BIT`
#[cfg(target_arch = "x86_64")]
const X32: i64 = 0x4000_0000;

/// What a kernel might not know, so that every caller has another way.
const UNKNOWN: [i64; 2] = [libc::SYS_clone3, libc::SYS_openat2];

const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

const ALLOWED: [i64; 62] = [
    // memory
    libc::SYS_brk,
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
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fadvise64,
    libc::SYS_recvmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_getsockopt,
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

/// What no worker for a GPU needs. `sendmsg` would send files, and the kernel counts those against the daemon.
const NEVER: [i64; 70] = [
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_setpriority,
    libc::SYS_ioprio_set,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setattr,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_kcmp,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_syslog,
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

#[cfg(target_arch = "x86_64")]
const NEVER_X86_64: [i64; 5] =
    [libc::SYS_fork, libc::SYS_vfork, libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt];
