use engine::{Buffer, DataType, EngineError, Tensor};

use crate::onnx::{BOOL, Dim, FLOAT, INT64, Model, STRING};
use crate::support::{batch, floats, load, read_floats, tensor};

/// `y = x + x`, `[batch, 4]`.
pub(crate) fn double() -> Vec<u8> {
    let dims = || [Dim::Name("batch"), Dim::Size(4)];
    Model::new().node("Add", &["x", "x"], "y").input("x", FLOAT, &dims()).output("y", FLOAT, &dims()).build()
}

fn identity(element: u64) -> Vec<u8> {
    let dims = || [Dim::Name("batch"), Dim::Size(3)];
    Model::new()
        .node("Identity", &["x"], "y")
        .input("x", element, &dims())
        .output("y", element, &dims())
        .build()
}

#[test]
fn each_member_gets_its_own_rows() {
    let mut engine = load(&double()).unwrap();
    for rows in [vec![1], vec![0], vec![1, 3], vec![2, 0, 5], vec![0, 0]] {
        let input = |(member, rows): (usize, &usize)| {
            let values: Vec<f32> = (0..rows * 4).map(|value| (member * 100 + value) as f32).collect();
            (vec![floats(&[*rows, 4], &values)], values)
        };
        let (inputs, values): (Vec<_>, Vec<_>) = rows.iter().enumerate().map(input).unzip();
        let outputs = engine.run(&batch(inputs)).unwrap();
        assert_eq!(outputs.len(), rows.len());
        for ((outputs, values), rows) in outputs.iter().zip(&values).zip(&rows) {
            assert_eq!(outputs[0].shape(), [*rows, 4]);
            let doubled: Vec<f32> = values.iter().map(|value| value * 2.0).collect();
            assert_eq!(read_floats(&outputs[0]), doubled);
        }
    }
    assert!(engine.run(&batch(Vec::new())).unwrap().is_empty());
}

#[test]
fn outputs_outlive_the_engine() {
    let mut engine = load(&double()).unwrap();
    let outputs: Vec<_> = (0..100_u8)
        .map(|value| engine.run(&batch(vec![vec![floats(&[1, 4], &[f32::from(value); 4])]])).unwrap())
        .collect();
    drop(engine);
    let last = std::thread::spawn(move || read_floats(&outputs[99][0][0])).join().unwrap();
    assert_eq!(last, [198.0; 4]);
}

#[test]
fn every_data_type_passes_unchanged() {
    let elements = [9, 2, 4, 12, 13, 3, 5, 6, 7, 10, 16, 1, 11];
    for (datatype, element) in DataType::ALL.into_iter().zip(elements) {
        let mut engine = load(&identity(element)).unwrap();
        assert_eq!(engine.signature().inputs[0].datatype, datatype);
        let len = 6 * datatype.size().unwrap();
        let pattern = |at: u8| if datatype == DataType::Bool { at % 2 } else { at.wrapping_mul(37) };
        let bytes: Vec<u8> = (0..=u8::MAX).map(pattern).take(len).collect();
        let outputs = engine.run(&batch(vec![vec![tensor(datatype, &[2, 3], &bytes)]])).unwrap();
        assert_eq!(outputs[0][0].datatype(), datatype);
        assert_eq!(outputs[0][0].data().bytes(), bytes, "{datatype}");
    }
}

#[test]
fn a_refused_input_is_told_and_never_logged() {
    let model = Model::new()
        .node("Gather", &["data", "index"], "y")
        .input("data", FLOAT, &[Dim::Size(2)])
        .input("index", INT64, &[Dim::Size(1)])
        .output("y", FLOAT, &[Dim::Size(1)])
        .build();
    let mut engine = load(&model).unwrap();
    let index = tensor(DataType::Int64, &[1], &7_777_i64.to_le_bytes());
    let log = tempfile::NamedTempFile::new().unwrap();
    let lines = tracing_subscriber::fmt().with_writer(std::sync::Mutex::new(log.reopen().unwrap()));
    let error = tracing::subscriber::with_default(lines.finish(), || {
        engine.run(&batch(vec![vec![floats(&[2], &[0.0, 1.0]), index]])).unwrap_err()
    });
    assert!(matches!(&error, EngineError::Input { detail } if detail.contains("7777")), "{error}");
    assert_eq!(std::fs::read_to_string(log.path()).unwrap(), "");
}

#[test]
fn strings_keep_their_bytes() {
    let mut engine = load(&identity(STRING)).unwrap();
    let frame = |elements: &[&[u8]]| {
        let length = |element: &[u8]| u32::try_from(element.len()).unwrap().to_le_bytes();
        let frame = |element: &&[u8]| [&length(element), *element].concat();
        elements.iter().flat_map(frame).collect::<Vec<u8>>()
    };
    let long = [b'x'; 1000];
    let first = frame(&[b"a", b"", "zwölf".as_bytes()]);
    let second = frame(&[b"in\0side", b"\xff\xfe", &long, b"1", b"2", b"3"]);
    let inputs = batch(vec![
        vec![tensor(DataType::Bytes, &[1, 3], &first)],
        vec![tensor(DataType::Bytes, &[2, 3], &second)],
        vec![tensor(DataType::Bytes, &[0, 3], &[])],
    ]);
    let outputs = engine.run(&inputs).unwrap();
    let bytes: Vec<_> = outputs.iter().map(|outputs| outputs[0].data().bytes().to_vec()).collect();
    assert_eq!(bytes, [first, second, Vec::new()]);
    let none = engine.run(&batch(vec![vec![tensor(DataType::Bytes, &[0, 3], &[])]])).unwrap();
    assert_eq!(none[0][0].shape(), [0, 3]);
}

#[test]
fn shapes_are_computed_from_the_input() {
    let numbers = |values: &[i64]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let model = Model::new()
        .constant("zero", INT64, &[], &numbers(&[0]))
        .constant("axes", INT64, &[1], &numbers(&[0]))
        .constant("rest", INT64, &[1], &numbers(&[4]))
        .node("Shape", &["x"], "shape")
        .node("Gather", &["shape", "zero"], "rows")
        .node("Unsqueeze", &["rows", "axes"], "row")
        .concat(&["row", "rest"], "target")
        .node("Reshape", &["x", "target"], "y")
        .input("x", FLOAT, &[Dim::Name("batch"), Dim::Size(2), Dim::Size(2)])
        .output("y", FLOAT, &[Dim::Name("batch"), Dim::Size(4)])
        .build();
    let mut engine = load(&model).unwrap();
    let outputs = engine
        .run(&batch(vec![vec![floats(&[1, 2, 2], &[1., 2., 3., 4.])], vec![floats(&[2, 2, 2], &[0.; 8])]]))
        .unwrap();
    assert_eq!(outputs[0][0].shape(), [1, 4]);
    assert_eq!(outputs[1][0].shape(), [2, 4]);
    assert_eq!(read_floats(&outputs[0][0]), [1., 2., 3., 4.]);
}

#[test]
fn outputs_that_are_inputs_or_constants_stay_valid() {
    let seven: Vec<u8> = 7_f32.to_le_bytes().to_vec();
    let model = Model::new()
        .constant("seven", FLOAT, &[1], &seven)
        .node("Identity", &["seven"], "constant")
        .node("Add", &["x", "seven"], "sum")
        .input("x", FLOAT, &[Dim::Name("batch")])
        .output("x", FLOAT, &[Dim::Name("batch")])
        .output("constant", FLOAT, &[Dim::Size(1)])
        .output("sum", FLOAT, &[Dim::Name("batch")])
        .build();
    let mut engine = load(&model).unwrap();
    let run = |engine: &mut Box<dyn engine::Engine>, value: f32| {
        engine.run(&batch(vec![vec![floats(&[1], &[value])]])).unwrap().remove(0)
    };
    let first = run(&mut engine, 1.0);
    let second = run(&mut engine, 2.0);
    drop(engine);
    let values = |outputs: &[Tensor]| outputs.iter().flat_map(read_floats).collect::<Vec<_>>();
    assert_eq!(values(&first), [1.0, 7.0, 8.0]);
    assert_eq!(values(&second), [2.0, 7.0, 9.0]);
}

#[test]
fn inputs_at_odd_addresses_are_read_rightly() {
    let mut engine = load(&double()).unwrap();
    let values: Vec<u8> = [1_f32, 2., 3., 4.].iter().flat_map(|value| value.to_le_bytes()).collect();
    for offset in 0..=17 {
        let padded = [vec![0; offset], values.clone()].concat();
        let data = Buffer::copy_from(&padded).slice(offset..offset + 16).unwrap();
        let input = Tensor::new(DataType::Fp32, vec![1, 4], data).unwrap();
        let outputs = engine.run(&batch(vec![vec![input]])).unwrap();
        assert_eq!(read_floats(&outputs[0][0]), [2., 4., 6., 8.], "offset {offset}");
    }
}

#[test]
fn wrong_inputs_are_refused_and_the_engine_stays() {
    let mut engine = load(&double()).unwrap();
    let good = || floats(&[1, 4], &[1.; 4]);
    let wrong = [
        vec![tensor(DataType::Fp64, &[1, 4], &[0; 32])],
        vec![tensor(DataType::Bytes, &[1, 4], &[0; 16])],
        vec![floats(&[4], &[1.; 4])],
        vec![floats(&[1, 4, 1], &[1.; 4])],
        vec![floats(&[1, 3], &[1.; 3])],
        vec![floats(&[], &[1.])],
        vec![],
        vec![good(), good()],
    ];
    for inputs in wrong {
        let shown = format!("{inputs:?}");
        let error = engine.run(&batch(vec![inputs])).unwrap_err();
        assert!(matches!(error, EngineError::Input { .. }), "{shown}: {error}");
    }
    let error = engine.run(&batch(vec![vec![good()], vec![floats(&[1, 3], &[1.; 3])]])).unwrap_err();
    assert!(matches!(error, EngineError::Shape { index: 0 }), "{error}");
    assert_eq!(read_floats(&engine.run(&batch(vec![vec![good()]])).unwrap()[0][0]), [2.; 4]);

    let mut engine = load(&identity(BOOL)).unwrap();
    let error = engine.run(&batch(vec![vec![tensor(DataType::Bool, &[1, 3], &[0, 2, 1])]])).unwrap_err();
    assert!(matches!(error, EngineError::Input { .. }), "{error}");
}

#[test]
fn a_failure_inside_the_model_is_an_error_of_the_batch() {
    let model = Model::new()
        .constant("table", FLOAT, &[2], &[0; 8])
        .node("Gather", &["table", "x"], "y")
        .input("x", INT64, &[Dim::Name("batch")])
        .output("y", FLOAT, &[Dim::Name("batch")])
        .build();
    let mut engine = load(&model).unwrap();
    let index = |value: i64| batch(vec![vec![tensor(DataType::Int64, &[1], &value.to_le_bytes())]]);
    let error = engine.run(&index(99)).unwrap_err();
    assert!(matches!(error, EngineError::Input { .. } | EngineError::Run { .. }), "{error}");
    assert!(!error.to_string().contains('\n'));
    assert!(engine.run(&index(1)).is_ok());
}

#[test]
fn a_model_that_does_not_batch_says_so() {
    let model = Model::new()
        .node("ReduceSum", &["x"], "y")
        .input("x", FLOAT, &[Dim::Name("batch"), Dim::Size(4)])
        .output("y", FLOAT, &[Dim::Size(1), Dim::Size(1)])
        .build();
    let mut engine = load(&model).unwrap();
    let member = || vec![floats(&[1, 4], &[1.; 4])];
    assert_eq!(read_floats(&engine.run(&batch(vec![member()])).unwrap()[0][0]), [4.0]);
    let error = engine.run(&batch(vec![member(), member()])).unwrap_err();
    assert!(matches!(error, EngineError::OutputRows { expected: 2, got: 1 }), "{error}");
}
