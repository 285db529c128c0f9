use engine::{Backend, LoadError, Provider};

use crate::run::double;
use crate::support::{backend, batch, floats, load, load_with};
use Provider::{Cpu, Cuda, TensorRt, Wgpu};

#[test]
fn the_placement_is_read_back() {
    let engine = load(&double()).unwrap();
    let placement = engine.placement();
    assert_eq!(placement.provider, Cpu);
    assert_eq!(placement.device.id, "cpu");
    assert!(!placement.device.name.is_empty());
    assert_eq!(placement.assignments.len(), 1);
    assert_eq!(placement.assignments[0].provider, Cpu);
    assert_eq!(placement.assignments[0].nodes, 1);
    assert_eq!(placement.assignments[0].operators, [("Add".to_owned(), 1)]);
}

/// Holds with the CPU library (providers not compiled in) and with the GPU library on a machine without CUDA
/// (their libraries cannot be opened).
#[test]
fn providers_that_fail_are_recorded_and_the_next_one_runs() {
    let backend = backend();
    let list = [TensorRt, Cuda, Wgpu, Cpu];
    let mut loaded = load_with(&backend, &double(), &list, None).unwrap();
    assert!(loaded.pending.is_none(), "nothing can be built without the provider");
    let placement = loaded.engine.placement();
    assert_eq!(placement.provider, Cpu);
    let attempts: Vec<_> = placement.attempts.iter().map(|attempt| attempt.provider).collect();
    assert_eq!(attempts, list);
    for attempt in &placement.attempts {
        assert_eq!(attempt.failure.is_none(), attempt.provider == Cpu, "{attempt:?}");
    }
    assert_eq!(placement.attempts[2].failure.as_deref(), Some("not built into this version"));
    assert!(loaded.engine.run(&batch(vec![vec![floats(&[1, 4], &[1.; 4])]])).is_ok());
}

#[test]
fn a_list_without_a_working_provider_is_an_error() {
    for list in [vec![Cuda], vec![TensorRt], vec![TensorRt, Cuda], vec![Wgpu], vec![]] {
        match load_with(&backend(), &double(), &list, None) {
            Err(LoadError::NoProvider { detail }) => {
                for provider in &list {
                    assert!(detail.contains(provider.name()), "{list:?}: {detail}");
                }
            }
            other => panic!("{list:?}: {other:?}"),
        }
    }
}

#[test]
fn a_required_provider_that_does_not_run_the_model_is_an_error() {
    for (list, required) in [
        (vec![Cuda, Cpu], Cuda),
        (vec![Cuda], Cuda),
        (vec![TensorRt, Cuda, Cpu], Cuda),
        (vec![TensorRt, Cpu], TensorRt),
        (vec![Cpu], Cuda),
        (vec![Cpu], TensorRt),
    ] {
        match load_with(&backend(), &double(), &list, Some(required)) {
            Err(LoadError::Required { required: named, detail }) => {
                assert_eq!(named, required);
                if list == [Cpu] && required == Cuda {
                    assert_eq!(detail, "cpu runs 1 Add");
                }
            }
            other => panic!("{list:?} requires {required}: {other:?}"),
        }
    }
    let loaded = load_with(&backend(), &double(), &[Cuda, Cpu], Some(Cpu)).unwrap();
    assert_eq!(loaded.engine.placement().provider, Cpu);
}

#[test]
fn the_backend_names_its_device() {
    let backend = backend();
    assert!(backend.providers().contains(&Cpu));
    assert!(!backend.device().name.is_empty());
}
