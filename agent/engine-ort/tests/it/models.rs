use engine::{Backend, Dim as Axis, LoadError, LoadOptions, ModelSource, SubgraphRunner};

use crate::onnx::{COMPLEX64, Dim, FLOAT, FLOAT8, Model};
use crate::run::double;
use crate::support::{backend, batch, floats, load, read_floats};

#[test]
fn the_signature_is_the_models() {
    let engine = load(&double()).unwrap();
    let input = &engine.signature().inputs[0];
    assert_eq!(input.name, "x");
    assert_eq!(input.shape, [Axis::Dynamic(Some("batch".to_owned())), Axis::Fixed(4)]);
    assert_eq!(engine.signature().outputs[0].name, "y");
    assert!(engine.signature().batches());
}

#[test]
fn broken_models_are_refused_in_one_line() {
    let whole = double();
    let foreign = Model::new()
        .foreign_node("Divine", &["x"], "y")
        .input("x", FLOAT, &[Dim::Size(1)])
        .output("y", FLOAT, &[Dim::Size(1)])
        .build();
    let unknown = Model::new()
        .node("NoSuchOperator", &["x"], "y")
        .input("x", FLOAT, &[Dim::Size(1)])
        .output("y", FLOAT, &[Dim::Size(1)])
        .build();
    let dangling =
        Model::new().node("Add", &["x", "nowhere"], "y").input("x", FLOAT, &[]).output("y", FLOAT, &[]);
    let cases = [
        ("empty", Vec::new()),
        ("text", b"this is no model\nat all".to_vec()),
        ("an ELF file", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec()),
        ("a foreign domain", foreign),
        ("an unknown operator", unknown),
        ("a missing tensor", dangling.build()),
    ];
    let truncated = (1..whole.len()).step_by(7).map(|end| ("truncated", whole[..end].to_vec()));
    for (what, model) in cases.into_iter().chain(truncated) {
        match load(&model) {
            Err(LoadError::Refused { detail }) => assert!(!detail.contains('\n'), "{what}: {detail}"),
            // A graph cut off after its last node can still be whole; it must not be anything else.
            Ok(_) if what == "truncated" => {}
            other => panic!("{what} ({} bytes): {other:?}", model.len()),
        }
    }
}

#[test]
fn a_missing_file_is_a_read_error() {
    let source = ModelSource { name: "none".to_owned(), version: 1, path: "/nonexistent/model.onnx".into() };
    let error = backend().load(&source, &LoadOptions::default()).unwrap_err();
    assert!(matches!(error, LoadError::Read { .. }), "{error}");
}

#[test]
fn types_outside_the_protocol_are_named() {
    let x = || [Dim::Size(2)];
    let sequence = Model::new()
        .constant("zero", 7, &[], &[0; 8])
        .node("SequenceAt", &["x", "zero"], "y")
        .wrapped_input("x", 4, FLOAT)
        .output("y", FLOAT, &[]);
    let optional = Model::new().node("OptionalGetElement", &["x"], "y").wrapped_input("x", 9, FLOAT);
    let cases = [
        ("a sequence as input \"x\"", sequence),
        ("an optional value as input \"x\"", optional.output("y", FLOAT, &[])),
        (
            "a sequence as output \"y\"",
            Model::new()
                .node("SequenceConstruct", &["x"], "y")
                .input("x", FLOAT, &x())
                .wrapped_output("y", 4, FLOAT),
        ),
        (
            "elements of type float8 as output \"y\"",
            Model::new().input("x", FLOAT8, &x()).node("Identity", &["x"], "y").output("y", FLOAT8, &x()),
        ),
        (
            "a tensor of unknown rank as input \"x\"",
            Model::new().input_of_unknown_rank("x", FLOAT).node("Abs", &["x"], "y").output("y", FLOAT, &x()),
        ),
    ];
    for (expected, model) in cases {
        match load(&model.build()) {
            Err(LoadError::Unsupported { what }) => {
                let (kind, _) = expected.split_once(" as ").unwrap();
                assert!(what == expected || what.starts_with(kind), "{what}, expected {expected}");
            }
            other => panic!("{expected}: {other:?}"),
        }
    }
    // The runtime itself has no complex numbers.
    let complex =
        Model::new().input("x", COMPLEX64, &x()).node("Identity", &["x"], "y").output("y", COMPLEX64, &x());
    let error = load(&complex.build()).unwrap_err();
    assert!(matches!(error, LoadError::Refused { .. } | LoadError::Unsupported { .. }), "{error}");
}

#[test]
fn subgraphs_load_from_memory() {
    let backend = backend();
    let mut engine = backend.load_subgraph(&double()).unwrap();
    let outputs = engine.run(&batch(vec![vec![floats(&[1, 4], &[1.5; 4])]])).unwrap();
    assert_eq!(read_floats(&outputs[0][0]), [3.0; 4]);
    assert!(matches!(backend.load_subgraph(b"no model"), Err(LoadError::Refused { .. })));
}
