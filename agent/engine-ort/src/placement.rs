//! From the runtime's assignment of nodes to a `Placement`, and the check of `require`.

use std::collections::BTreeMap;

use engine::{Assignment, LoadError, Provider};

use crate::ffi::AssignedNode;

/// Operators of shape arithmetic. The runtime puts such nodes on the CPU on purpose when their tensors are shapes
/// (a handful of int64), and a round trip to the device would cost more. It reports operators, not tensor types,
/// so the list holds only what exporters emit to compute a shape, and it counts only in a model that asks for a
/// shape at all (`Shape` or `Size`). Element-wise arithmetic is not in it: on the wrong side it is a real loss.
const SHAPE_OPERATORS: [&str; 9] =
    ["Shape", "Size", "Gather", "Slice", "Concat", "Unsqueeze", "Squeeze", "Cast", "Range"];

pub(crate) fn provider_of(name: &str) -> Option<Provider> {
    Some(match name {
        "TensorrtExecutionProvider" => Provider::TensorRt,
        "CUDAExecutionProvider" => Provider::Cuda,
        "WebGpuExecutionProvider" => Provider::Wgpu,
        "CPUExecutionProvider" => Provider::Cpu,
        _ => return None,
    })
}

/// Counts the nodes per provider, in the order of [`Provider::ALL`].
pub(crate) fn assignments(nodes: &[AssignedNode]) -> Result<Vec<Assignment>, LoadError> {
    let mut counts: BTreeMap<usize, BTreeMap<&str, usize>> = BTreeMap::new();
    for node in nodes {
        let place = Provider::ALL.iter().position(|known| provider_of(&node.provider) == Some(*known));
        let place = place.ok_or_else(|| LoadError::Refused {
            detail: format!("{} runs on {}, which nobody asked for", node.operator, node.provider),
        })?;
        *counts.entry(place).or_default().entry(&node.operator).or_default() += 1;
    }
    let assignment = |(place, counts): (usize, BTreeMap<&str, usize>)| {
        let mut operators: Vec<_> =
            counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
        operators.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let provider = *Provider::ALL.get(place)?;
        Some(Assignment { provider, nodes: operators.iter().map(|(_, count)| count).sum(), operators })
    };
    Ok(counts.into_iter().filter_map(assignment).collect())
}

/// The provider that runs most of the nodes that compute; `idle` for a model without any.
pub(crate) fn main_provider(assignments: &[Assignment], idle: Provider) -> Provider {
    let computing = |assignment: &Assignment| -> usize {
        let operators = assignment.operators.iter();
        operators.filter(|(name, _)| !SHAPE_OPERATORS.contains(&name.as_str())).map(|(_, count)| count).sum()
    };
    let most = assignments.iter().rev().max_by_key(|assignment| (computing(assignment), assignment.nodes));
    most.map_or(idle, |assignment| assignment.provider)
}

/// # Errors
/// [`LoadError::Required`] when a node that is no shape arithmetic runs elsewhere; it names operators and counts.
pub(crate) fn check_required(assignments: &[Assignment], required: Provider) -> Result<(), LoadError> {
    let operators = || assignments.iter().flat_map(|assignment| &assignment.operators);
    let asks_shapes = operators().any(|(name, _)| name == "Shape" || name == "Size");
    let mut elsewhere = Vec::new();
    for assignment in assignments.iter().filter(|assignment| assignment.provider != required) {
        let excused = |name: &str| asks_shapes && SHAPE_OPERATORS.contains(&name);
        let strays = assignment.operators.iter().filter(|(name, _)| !excused(name));
        let strays: Vec<String> = strays.map(|(name, count)| format!("{count} {name}")).collect();
        if !strays.is_empty() {
            elsewhere.push(format!("{} runs {}", assignment.provider, strays.join(", ")));
        }
    }
    match elsewhere.is_empty() {
        true => Ok(()),
        false => Err(LoadError::Required { required, detail: elsewhere.join("; ") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPU: &str = "CPUExecutionProvider";
    const CUDA: &str = "CUDAExecutionProvider";

    fn placed(nodes: &[(&str, &str)]) -> Vec<Assignment> {
        let node = |(provider, operator): &(&str, &str)| AssignedNode {
            provider: (*provider).to_owned(),
            operator: (*operator).to_owned(),
        };
        assignments(&nodes.iter().map(node).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn nodes_are_counted_per_provider() {
        let placed = placed(&[(CPU, "Add"), (CUDA, "Conv"), (CUDA, "Relu"), (CUDA, "Conv")]);
        assert_eq!(placed[0].provider, Provider::Cuda);
        assert_eq!(placed[0].operators, [("Conv".to_owned(), 2), ("Relu".to_owned(), 1)]);
        assert_eq!((placed[1].provider, placed[1].nodes), (Provider::Cpu, 1));
        let stray =
            AssignedNode { provider: "XnnpackExecutionProvider".to_owned(), operator: "Add".to_owned() };
        assert!(assignments(&[stray]).is_err());
    }

    #[test]
    fn the_main_provider_computes_most() {
        let check = |nodes: &[(&str, &str)], expected| {
            assert_eq!(main_provider(&placed(nodes), Provider::Cpu), expected, "{nodes:?}");
        };
        check(&[], Provider::Cpu);
        check(&[(CPU, "Shape"), (CPU, "Gather"), (CUDA, "Conv")], Provider::Cuda);
        check(&[(CPU, "Add"), (CPU, "Mul"), (CUDA, "Conv")], Provider::Cpu);
        check(&[(CPU, "Add"), (CUDA, "Conv")], Provider::Cuda);
    }

    #[test]
    fn required_excuses_only_shape_arithmetic() {
        let check = |nodes: &[(&str, &str)], detail: Option<&str>| {
            let found = match check_required(&placed(nodes), Provider::Cuda) {
                Err(LoadError::Required { detail, .. }) => Some(detail),
                other => other.map(|()| None).unwrap(),
            };
            assert_eq!(found.as_deref(), detail, "{nodes:?}");
        };
        check(&[(CUDA, "Conv")], None);
        check(&[(CUDA, "Conv"), (CPU, "Shape"), (CPU, "Gather"), (CPU, "Concat")], None);
        check(&[(CUDA, "Conv"), (CPU, "Gather")], Some("cpu runs 1 Gather"));
        check(
            &[(CPU, "NonMaxSuppression"), (CPU, "Shape"), (CUDA, "Conv")],
            Some("cpu runs 1 NonMaxSuppression"),
        );
        check(&[(CPU, "Add"), (CPU, "Conv"), (CPU, "Conv")], Some("cpu runs 2 Conv, 1 Add"));
    }
}
