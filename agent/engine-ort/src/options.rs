//! A model's `LoadOptions` as session options.

use engine::{LoadOptions, Provider};
use ort::environment::Environment;
use ort::session::builder::{AutoDevicePolicy, GraphOptimizationLevel, SessionBuilder};

use crate::device::Cores;

/// Up to this many logical cores a site shares them between models, front and kernel: one thread per model, and
/// no thread that spins.
const FEW_CORES: usize = 4;

/// Threads inside one operator. 0 asks us: 1 where cores are few, else half of the physical cores, so that two
/// models can compute side by side.
pub(crate) fn intra_threads(asked: usize, cores: Cores) -> usize {
    match asked {
        0 if cores.logical <= FEW_CORES => 1,
        0 => (cores.physical / 2).max(1),
        asked => asked,
    }
}

/// Whether idle threads spin. Spinning takes the wake-up out of the latency and a whole core per thread out of
/// the machine.
pub(crate) fn spinning(asked: Option<bool>, cores: Cores) -> bool {
    asked.unwrap_or(cores.logical > FEW_CORES)
}

/// Session options for `options`; `chain` is the providers that will be registered on them.
pub(crate) fn session_options(
    environment: &Environment,
    options: &LoadOptions,
    chain: &[Provider],
) -> Result<SessionBuilder, ort::Error> {
    let cores = Cores::probe();
    let spin = spinning(options.spinning, cores);
    let mut builder = SessionBuilder::new(environment)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(intra_threads(options.threads, cores))?
        .with_inter_threads(1)?
        .with_intra_op_spinning(spin)?
        .with_inter_op_spinning(false)?
        .with_memory_pattern(true)?
        // ort's default policy would let a plugged-in provider that the list does not name take the model.
        .with_auto_device(AutoDevicePolicy::PreferCPU)?
        .with_config_entry("session.record_ep_graph_assignment_info", "1")?;
    if !chain.contains(&Provider::Cpu) {
        builder = builder.with_disable_cpu_fallback()?;
    }
    Ok(builder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_leave_room() {
        for (asked, logical, physical, threads, spins) in [
            (0, 1, 1, 1, false),
            (0, 4, 4, 1, false),
            (0, 8, 4, 2, true),
            (0, 8, 1, 1, true),
            (0, 64, 32, 16, true),
            (3, 2, 2, 3, false),
        ] {
            let cores = Cores { logical, physical };
            assert_eq!(intra_threads(asked, cores), threads, "{asked} on {cores:?}");
            assert_eq!(spinning(None, cores), spins, "{cores:?}");
            assert!(spinning(Some(true), cores) && !spinning(Some(false), cores));
        }
    }
}
