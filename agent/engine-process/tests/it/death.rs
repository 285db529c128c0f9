//! Workers that end, hang or grow, as they do in the field.

use std::time::{Duration, Instant};

use engine::{EngineError, LoadError};
use mast_engine_process::{Config, ProcessBackend};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{config, engine, load, one, open_files, read_floats, script, shared_mappings};

fn pid(backend: &ProcessBackend) -> Pid {
    let workers = backend.workers();
    assert_eq!(workers.len(), 1, "{workers:?}");
    Pid::from_raw(i32::try_from(workers[0].pid).unwrap()).unwrap()
}

fn lost(error: EngineError, told: &str) {
    match error {
        EngineError::WorkerLost { detail } => assert!(detail.contains(told), "{detail}, not {told}"),
        other => panic!("{other}"),
    }
}

#[test]
fn a_worker_killed_in_a_run_loses_that_run_and_is_back_at_once() {
    let backend = script(config());
    let mut victim = engine(&backend, b"");
    let pid = pid(&backend);
    let run = std::thread::spawn(move || (victim.run(&one(&[1000.0 + 60_000.0])), victim));
    // It is in the run as soon as it sleeps there, or will be: either way the run ends.
    kill_process(pid, Signal::KILL).unwrap();
    let (result, mut victim) = run.join().unwrap();
    lost(result.unwrap_err(), "SIGKILL");
    lost(victim.run(&one(&[1.0])).unwrap_err(), "SIGKILL");

    let begun = Instant::now();
    let mut again = engine(&backend, b"");
    assert_eq!(read_floats(&again.run(&one(&[1.0])).unwrap()[0][0]), [1.0]);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(backend.started(), 2);
}

#[test]
fn an_abort_costs_the_model_that_aborts_and_no_other() {
    let backend = script(config());
    let mut aborts = engine(&backend, b"");
    let mut other = engine(&backend, b"");
    lost(aborts.run(&one(&[-1.0])).unwrap_err(), "SIGABRT");
    assert_eq!(read_floats(&other.run(&one(&[3.0])).unwrap()[0][0]), [3.0]);
}

#[test]
fn a_run_that_hangs_is_ended_by_the_watchdog() {
    let backend = script(Config { run_timeout_ms: 300, ..config() });
    let mut hangs = engine(&backend, b"");
    let begun = Instant::now();
    lost(hangs.run(&one(&[-2.0])).unwrap_err(), "300 ms");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(backend.workers().is_empty());
}

#[test]
fn a_model_that_takes_all_memory_meets_its_limit() {
    let backend = script(Config { worker_memory_limit_bytes: Some(256 << 20), ..config() });
    let mut grows = engine(&backend, b"");
    lost(grows.run(&one(&[-4.0])).unwrap_err(), "signal");
}

#[test]
fn a_panic_and_an_error_leave_the_worker_where_it_is() {
    let backend = script(config());
    let mut engine = engine(&backend, b"");
    for (value, kind) in [(-3.0, "panicked"), (-5.0, "input"), (-3.0, "panicked")] {
        assert_eq!(engine.run(&one(&[value])).unwrap_err().kind(), kind);
    }
    assert_eq!(read_floats(&engine.run(&one(&[1.0])).unwrap()[0][0]), [1.0]);
    assert_eq!(backend.started(), 1);
}

#[test]
fn a_lost_device_takes_its_worker_along() {
    let backend = script(config());
    let mut engine = engine(&backend, b"");
    let mut lane = engine.share().unwrap();
    assert_eq!(engine.run(&one(&[-6.0])).unwrap_err().kind(), "device_lost");
    assert!(lane.run(&one(&[1.0])).unwrap_err().is_lost() && engine.run(&one(&[1.0])).unwrap_err().is_lost());
}

#[test]
fn a_load_that_ends_its_worker_is_a_failed_load() {
    let backend = script(config());
    for (name, told) in [("abort", "SIGABRT"), ("panic", "while loading"), ("refuse", "this model")] {
        match load(&backend, name, b"") {
            Err(error @ (LoadError::Refused { .. } | LoadError::Unsupported { .. })) => {
                assert!(error.to_string().contains(told), "{name}: {error}");
            }
            other => panic!("{name}: {other:?}"),
        }
        assert!(backend.workers().is_empty(), "{name}");
    }
}

#[test]
fn a_program_that_is_no_worker_is_a_failed_load() {
    let program = mast_engine_process::WorkerProgram { program: "/bin/true".into(), ..Default::default() };
    let cpu = engine::Device { id: "cpu".to_owned(), name: "CPU".to_owned() };
    let backend = ProcessBackend::new(config(), program, vec![cpu], engine::Provider::ALL.to_vec());
    let error = load(&backend, "test", b"").unwrap_err().to_string();
    assert!(error.contains("did not start") && error.contains("exit status: 0"), "{error}");
}

/// One process, so that no other test's files are counted.
#[test]
fn five_hundred_loads_and_unloads_leave_nothing_behind() {
    const MARK: &str = "MAST_TEST_ALONE";
    if std::env::var_os(MARK).is_none() {
        let name = "death::five_hundred_loads_and_unloads_leave_nothing_behind";
        let alone = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(MARK, "1")
            .output()
            .unwrap();
        assert!(alone.status.success(), "{}", String::from_utf8_lossy(&alone.stderr));
        return;
    }
    let backend = script(config());
    let cycle = |cycle: u32| {
        let mut engine = engine(&backend, b"");
        let lane = engine.share().unwrap();
        assert_eq!(read_floats(&engine.run(&one(&[1.0])).unwrap()[0][0]), [1.0]);
        if cycle.is_multiple_of(5) {
            lost(engine.run(&one(&[-1.0])).unwrap_err(), "SIGABRT");
        }
        drop((engine, lane));
        assert!(backend.workers().is_empty());
    };
    cycle(0);
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let (files, mappings, threads_before) = (open_files(), shared_mappings(), threads());
    for number in 1..500 {
        cycle(number);
    }
    // The last keeper may still be on its way out, with its handle.
    assert!(open_files() <= files + 1, "{} files, {files} before", open_files());
    assert_eq!(shared_mappings(), mappings);
    assert!(threads() <= threads_before + 1, "{} threads, {threads_before} before", threads());
    let children = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    assert_eq!(children.trim(), "", "zombies");
    assert_eq!(backend.started(), 500);
}
