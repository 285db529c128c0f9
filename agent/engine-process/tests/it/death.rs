//! Workers that end, hang or grow, as they do in the field.

use std::time::{Duration, Instant};

use engine::{Backend as _, EngineError, LoadError};
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
    for (name, told) in [
        ("abort", "SIGABRT"),
        ("abort", "its last line was: free(): invalid pointer"),
        ("exit", "exit status: 7"),
        ("panic", "while loading"),
        ("refuse", "this model"),
    ] {
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
fn the_death_of_an_idle_worker_is_told_at_once() {
    let backend = script(config());
    let (tell, told) = std::sync::mpsc::sync_channel(8);
    let watch = |engine: &dyn engine::Engine, who: &'static str| {
        let tell = tell.clone();
        engine.on_lost(Box::new(move |how| tell.send((who, how.to_owned())).unwrap()));
    };
    let (unloaded, idle) = (engine(&backend, b""), engine(&backend, b""));
    let lane = idle.share().unwrap();
    let gone = idle.share().unwrap();
    for (engine, who) in [(&unloaded, "unloaded"), (&idle, "idle"), (&lane, "lane"), (&gone, "gone")] {
        watch(&**engine, who);
    }
    // What is dropped is not lost.
    drop((unloaded, gone));
    kill_process(pid(&backend), Signal::KILL).unwrap();
    let wait = || told.recv_timeout(Duration::from_secs(5)).unwrap();
    let mut both = [wait(), wait()];
    both.sort();
    assert!(both.iter().all(|(_, how)| how.contains("SIGKILL")), "{both:?}");
    assert_eq!(both.map(|(who, _)| who), ["idle", "lane"]);
    watch(&*lane, "late");
    assert_eq!(wait().0, "late");
    drop((idle, lane));
    assert!(told.try_recv().is_err());
}

#[test]
fn loads_that_are_the_first_on_a_gpu_share_a_worker() {
    let gpu = engine::Device { id: "GPU-1".to_owned(), name: "a GPU".to_owned() };
    let backend = crate::support::script_on(gpu);
    let loads = [(); 4].map(|()| {
        let backend = std::sync::Arc::clone(&backend);
        std::thread::spawn(move || {
            let options =
                engine::LoadOptions { providers: vec![engine::Provider::Cuda], ..Default::default() };
            backend.load(&crate::support::file("test", b"").source, &options).unwrap().engine
        })
    });
    for mut engine in loads.map(|load| load.join().unwrap()) {
        assert_eq!(read_floats(&engine.run(&one(&[1.0])).unwrap()[0][0]), [1.0]);
    }
    assert_eq!(backend.started(), 1);
    assert!(backend.workers().is_empty());
}

#[test]
fn a_program_that_is_no_worker_is_a_failed_load() {
    let program = mast_engine_process::WorkerProgram { program: "/bin/true".into(), ..Default::default() };
    let cpu = engine::Device { id: "cpu".to_owned(), name: "CPU".to_owned() };
    let backend = ProcessBackend::new(config(), program, vec![cpu], engine::Provider::ALL.to_vec());
    let error = load(&backend, "test", b"").unwrap_err().to_string();
    assert!(error.contains("did not start") && error.contains("exit status: 0"), "{error}");
}

/// As a test runner of its own, so that no other test's files and memory are counted: true in there.
fn alone(name: &str) -> bool {
    const MARK: &str = "MAST_TEST_ALONE";
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let alone = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(MARK, "1")
        .output()
        .unwrap();
    assert!(alone.status.success(), "{}", String::from_utf8_lossy(&alone.stderr));
    false
}

/// Resident memory of a process in KiB, of its own and shared.
fn resident(pid: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let value = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    value("RssAnon:") + value("RssShmem:")
}

#[test]
fn an_unload_gives_all_memory_back() {
    if !alone("death::an_unload_gives_all_memory_back") {
        return;
    }
    const WIDTH: usize = 1 << 20;
    let backend = script(Config { arena_bytes: 64 << 20, ..config() });
    let values = vec![1.0; WIDTH];
    let cycle = || {
        let mut engine = engine(&backend, b"");
        let idle = engine.footprint().unwrap().host_bytes;
        let outputs = engine.run(&one(&values)).unwrap();
        assert_eq!(outputs[0][0].data().len(), WIDTH * 4);
        // The arena is counted: what was run through it is there.
        let used = engine.footprint().unwrap().host_bytes;
        assert!(used > idle + WIDTH as u64 * 4, "{used} bytes, {idle} before the run");
        let loaded = resident("self") + resident(&pid(&backend).as_raw_pid().to_string());
        drop((outputs, engine));
        // No worker is left, so the daemon's own is all there is.
        assert!(backend.workers().is_empty());
        (loaded, resident("self"))
    };
    let repeat = |cycles: u32| (0..cycles).fold((0, 0), |_, _| cycle());
    let (loaded_before, before) = repeat(6);
    let (loaded_after, after) = repeat(50);
    println!("loaded {loaded_before} KiB, {loaded_after} after 50 cycles; unloaded {before}, {after}");
    // Whether a tensor that was just dropped still counts, on either side, differs from cycle to cycle; one that each cycle
    // kept would be 200 MiB.
    let tensor = WIDTH as u64 * 4 / 1024;
    let within =
        |before: u64, after: u64, tensors: u64| after <= before + loaded_before / 20 + tensors * tensor;
    assert!(within(loaded_before, loaded_after, 4), "loaded: {loaded_after} KiB, {loaded_before} before");
    assert!(within(before, after, 1), "unloaded: {after} KiB, {before} before");
    assert_eq!((backend.started(), shared_mappings()), (56, 0));
}

#[test]
fn five_hundred_loads_and_unloads_leave_nothing_behind() {
    if !alone("death::five_hundred_loads_and_unloads_leave_nothing_behind") {
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
