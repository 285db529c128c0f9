//! A worker that is not what it should be: its model is lost, and nothing else.

use std::time::Instant;

use engine::EngineError;

use crate::support::{liar, load, one, read_floats, shared_mappings};

#[test]
fn a_worker_that_lies_in_a_load_is_ended() {
    for (lie, told) in [
        ("garbage-at-start", "never should"),
        ("wrong-turn-at-start", "never should"),
        ("garbage-at-load", "never should"),
        ("huge-frame", "never should"),
        ("another-device", "never should"),
    ] {
        let backend = liar(lie);
        let error = load(&backend, "test", b"").unwrap_err().to_string();
        assert!(error.contains(told), "{lie}: {error}");
        assert!(backend.workers().is_empty(), "{lie}");
    }
}

#[test]
fn a_worker_that_lies_in_an_answer_is_lost() {
    for lie in [
        "garbage",
        "empty",
        "another-version",
        "another-run",
        "wrong-turn",
        "the-inputs-memory",
        "outside-the-arena",
        "beyond-the-place",
        "the-overflow",
        "another-type",
        "more-bytes-than-shape",
        "a-shape-beyond-all",
        "held-beyond-memory",
        "no-members",
        "goes-away",
    ] {
        let backend = liar(lie);
        let mut engine = load(&backend, "test", b"").unwrap().engine;
        for _ in 0..2 {
            let error = engine.run(&one(&[1.0; 4])).unwrap_err();
            assert!(matches!(error, EngineError::WorkerLost { .. }), "{lie}: {error}");
        }
        assert!(backend.workers().is_empty(), "{lie}: it still runs");
    }
}

#[test]
fn a_worker_that_tells_the_truth_is_believed() {
    let mut engine = load(&liar("nothing"), "test", b"").unwrap().engine;
    assert_eq!(engine.placement().device.name, "by the daemon");
    for _ in 0..3 {
        assert_eq!(read_floats(&engine.run(&one(&[1.0; 4])).unwrap()[0][0]).len(), 4);
    }
}

#[test]
fn what_is_held_back_in_name_only_costs_no_memory() {
    let before = shared_mappings();
    let begun = Instant::now();
    let mut engine = load(&liar("held-beyond-memory"), "test", b"").unwrap().engine;
    assert!(engine.run(&one(&[1.0; 4])).is_err());
    drop(engine);
    assert!(begun.elapsed().as_secs() < 20);
    assert!(shared_mappings() <= before + 8, "other tests run beside this one");
}
