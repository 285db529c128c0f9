//! What a model's code can reach from inside a worker.

use engine::{Backend, DataType, LoadOptions, Provider};
use mast_engine_process::{Fence, FenceState};

use crate::support::{backend_of, batch, config, file, tensor};

fn outcome<'a>(told: &'a [String], what: &str) -> &'a str {
    told.iter()
        .find_map(|line| line.strip_prefix(what)?.strip_prefix(": "))
        .unwrap_or_else(|| panic!("{what}: {told:?}"))
}

#[test]
fn a_worker_opens_no_socket_no_file_and_no_program() {
    let backend = backend_of(config(), &["worker"], "attempts", &[]);
    let model = file("test", b"a model");
    let options = LoadOptions { providers: vec![Provider::Cpu], ..LoadOptions::default() };
    let mut engine = backend.load(&model.source, &options).unwrap().engine;
    let input = tensor(DataType::Bytes, &[0], b"");
    let outputs = engine.run(&batch(vec![vec![input]])).unwrap().remove(0);
    let told = |index: usize| -> Vec<String> {
        outputs[index].byte_elements().map(|text| String::from_utf8(text.to_vec()).unwrap()).collect()
    };
    let (loading, running) = (told(0), told(1));

    let sandbox = backend.sandbox().unwrap();
    let enforced = |fence| sandbox.state(fence) == Some(FenceState::Enforced);
    assert!(enforced(Fence::Seccomp) && enforced(Fence::Files), "{sandbox:?}");

    for never in [
        "write beside the model",
        "write to /tmp",
        "listen on TCP",
        "connect by TCP",
        "make a UDP socket",
        "make a unix socket",
        "run a program",
        "signal the daemon",
        "raise a limit",
        "be traced again",
        "bind the daemon to a processor",
        "have the daemon signalled",
        "share memory of no file",
        "send a file",
    ] {
        assert!(outcome(&loading, never).starts_with("refused"), "{loading:?}");
        assert!(outcome(&running, never).starts_with("refused"), "{running:?}");
    }
    for after in ["read the model", "read /etc/passwd", "read its environment", "list /"] {
        assert!(outcome(&running, after).starts_with("refused"), "{running:?}");
    }
    assert_eq!(outcome(&loading, "read the model"), "allowed");
    assert_eq!(outcome(&running, "start a thread"), "allowed");
    // Before the load only Landlock stands between the runtime and the rest of the disk.
    for before in ["read /etc/passwd", "list /"] {
        if enforced(Fence::Landlock) {
            assert!(outcome(&loading, before).starts_with("refused"), "{loading:?}");
        } else {
            println!("without Landlock, while loading, {before}: {}", outcome(&loading, before));
        }
    }
    assert!(!model.source.path.with_file_name("written-by-the-worker").exists());
}

#[test]
fn every_fence_is_reported_with_its_reason() {
    let backend = backend_of(config(), &["worker"], "attempts", &[]);
    let model = file("test", b"a model");
    assert!(backend.sandbox().is_none());
    let _engine = backend.load(&model.source, &LoadOptions::default()).unwrap();
    let sandbox = backend.sandbox().unwrap();
    for fence in Fence::ALL {
        let report = sandbox.fences.iter().find(|report| report.fence == fence);
        let report = report.unwrap_or_else(|| panic!("{} is not reported: {sandbox:?}", fence.name()));
        assert!(!report.detail.is_empty());
        println!("{}: {}: {}", fence.name(), report.state.name(), report.detail);
    }
    let by_process = sandbox.state(Fence::OpenFiles);
    assert_eq!(by_process, Some(FenceState::Enforced), "{sandbox:?}");
    let pid = backend.workers()[0].pid;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line} not in {status}");
    }
}
