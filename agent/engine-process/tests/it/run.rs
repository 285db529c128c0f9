//! What comes out of a worker is what comes out of the runtime.

use engine::{Backend, DataType, EngineError, LoadError, Provider};
use mast_engine_process::Config;

use crate::onnx::{Dim, FLOAT, Model, STRING};
use crate::support::{
    batch, config, engine, file, floats, le, load, one, ort, placed, read_floats, script, tensor,
};

/// `y = x + x`, `[batch, width]`.
fn double(width: u64) -> Vec<u8> {
    let dims = || [Dim::Name("batch"), Dim::Size(width)];
    Model::new().node("Add", &["x", "x"], "y").input("x", FLOAT, &dims()).output("y", FLOAT, &dims()).build()
}

fn identity(element: u64, output: &[Dim]) -> Vec<u8> {
    let dims = [Dim::Name("batch"), Dim::Size(3)];
    Model::new().node("Identity", &["x"], "y").input("x", element, &dims).output("y", element, output).build()
}

#[test]
fn every_data_type_passes_unchanged() {
    let backend = ort(config());
    let elements = [9, 2, 4, 12, 13, 3, 5, 6, 7, 10, 16, 1, 11];
    for (datatype, element) in DataType::ALL.into_iter().zip(elements) {
        // With an output shape that follows from the input, and with one that does not.
        for output in [[Dim::Name("batch"), Dim::Size(3)], [Dim::Name("rows"), Dim::Name("cols")]] {
            let mut engine = engine(&backend, &identity(element, &output));
            let len = 6 * datatype.size().unwrap();
            let pattern = |at: u8| if datatype == DataType::Bool { at % 2 } else { at.wrapping_mul(37) };
            let bytes: Vec<u8> = (0..=u8::MAX).map(pattern).take(len).collect();
            let inputs = [tensor(datatype, &[2, 3], &bytes), placed(&*engine, datatype, &[2, 3], &bytes)];
            for input in inputs {
                let outputs = engine.run(&batch(vec![vec![input]])).unwrap();
                assert_eq!(outputs[0][0].datatype(), datatype);
                assert_eq!(outputs[0][0].shape(), [2, 3]);
                assert_eq!(outputs[0][0].data().bytes(), bytes, "{datatype}");
            }
        }
    }
}

#[test]
fn strings_keep_their_bytes() {
    let mut engine = engine(&ort(config()), &identity(STRING, &[Dim::Name("batch"), Dim::Size(3)]));
    let frame = |elements: &[&[u8]]| {
        let frame =
            |element: &&[u8]| [&u32::try_from(element.len()).unwrap().to_le_bytes(), *element].concat();
        elements.iter().flat_map(frame).collect::<Vec<u8>>()
    };
    let long = vec![b'x'; 50_000];
    let first = frame(&[b"a", b"", "zwölf".as_bytes()]);
    // Longer than the first guess at its place: held back, and fetched.
    let second = frame(&[b"in\0side", b"\xff\xfe", &long, b"1", b"2", b"3"]);
    for _ in 0..3 {
        let outputs = engine.run(&batch(vec![
            vec![placed(&*engine, DataType::Bytes, &[1, 3], &first)],
            vec![tensor(DataType::Bytes, &[2, 3], &second)],
            vec![tensor(DataType::Bytes, &[0, 3], &[])],
        ]));
        let outputs = outputs.unwrap();
        let bytes: Vec<_> = outputs.iter().map(|outputs| outputs[0].data().bytes().to_vec()).collect();
        assert_eq!(bytes, [first.clone(), second.clone(), Vec::new()]);
    }
}

#[test]
fn each_member_gets_its_own_rows() {
    let mut engine = engine(&ort(config()), &double(4));
    // The last has more members than a frame can name.
    for rows in [vec![1], vec![0], vec![1, 3], vec![2, 0, 5], vec![0, 0], vec![1; 64], vec![1; 3000]] {
        let input = |(member, rows): (usize, &usize)| {
            let values: Vec<f32> = (0..rows * 4).map(|value| (member * 100 + value) as f32).collect();
            (vec![placed(&*engine, DataType::Fp32, &[*rows, 4], &le(&values))], values)
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
fn outputs_lie_where_the_worker_wrote_them_and_outlive_it() {
    let mut engine = engine(&ort(config()), &double(4));
    let memory = format!("{:?}", engine.memory());
    assert!(memory.contains("Arena"), "{memory}");
    let input = placed(&*engine, DataType::Fp32, &[1, 4], &le(&[1.0; 4]));
    // The arena's mapping: the input's page holds the output too.
    let near = |bytes: &[u8]| bytes.as_ptr().addr().abs_diff(input.data().bytes().as_ptr().addr()) < 1 << 20;
    let outputs = engine.run(&batch(vec![vec![input.clone()]])).unwrap();
    assert!(near(outputs[0][0].data().bytes()), "the output was copied out of the arena");
    drop(engine);
    assert_eq!(read_floats(&outputs[0][0]), [2.0; 4]);
}

#[test]
fn what_has_no_room_in_the_arena_passes_too() {
    let width = 100_000;
    for arena_bytes in [0, 4096, 500_000, 1 << 20] {
        let backend = ort(Config { arena_bytes, ..config() });
        let mut engine = engine(&backend, &double(width));
        let len = usize::try_from(width).unwrap();
        let values: Vec<f32> = (0..len).map(|value| value as f32).collect();
        let doubled: Vec<f32> = values.iter().map(|value| value * 2.0).collect();
        for _ in 0..3 {
            let inputs = vec![
                vec![placed(&*engine, DataType::Fp32, &[1, len], &le(&values))],
                vec![floats(&[1, len], &values)],
            ];
            let outputs = engine.run(&batch(inputs)).unwrap();
            assert!(outputs.iter().all(|outputs| read_floats(&outputs[0]) == doubled), "{arena_bytes}");
        }
    }
}

#[test]
fn a_model_that_declares_other_shapes_than_it_gives_still_runs() {
    // Says [batch, 4], gives [batch, 2].
    let model = Model::new()
        .constant("half", crate::onnx::INT64, &[2], &[0_i64.to_le_bytes(), 2_i64.to_le_bytes()].concat())
        .node("Reshape", &["x", "half"], "y")
        .input("x", FLOAT, &[Dim::Name("batch"), Dim::Name("n")])
        .output("y", FLOAT, &[Dim::Name("batch"), Dim::Name("batch")])
        .build();
    let mut engine = engine(&ort(config()), &model);
    for rows in [2_usize, 3, 2] {
        let outputs = engine.run(&batch(vec![vec![floats(&[rows, 2], &vec![1.5; rows * 2])]])).unwrap();
        assert_eq!(outputs[0][0].shape(), [rows, 2]);
        assert_eq!(read_floats(&outputs[0][0]), vec![1.5; rows * 2]);
    }
}

#[test]
fn wrong_inputs_are_refused_and_the_engine_stays() {
    let mut engine = engine(&ort(config()), &double(4));
    let good = || floats(&[1, 4], &[1.; 4]);
    for inputs in [
        vec![tensor(DataType::Fp64, &[1, 4], &[0; 32])],
        vec![tensor(DataType::Bytes, &[1, 4], &[0; 16])],
        vec![floats(&[4], &[1.; 4])],
        vec![floats(&[], &[1.])],
        vec![],
        vec![good(), good()],
    ] {
        let shown = format!("{inputs:?}");
        let error = engine.run(&batch(vec![inputs])).unwrap_err();
        assert!(matches!(error, EngineError::Input { .. }), "{shown}: {error}");
    }
    let error = engine.run(&batch(vec![vec![good()], vec![floats(&[1, 3], &[1.; 3])]])).unwrap_err();
    assert!(matches!(error, EngineError::Shape { index: 0 }), "{error}");
    assert_eq!(read_floats(&engine.run(&batch(vec![vec![good()]])).unwrap()[0][0]), [2.; 4]);
}

#[test]
fn a_load_keeps_its_error_and_its_placement() {
    let backend = ort(config());
    match load(&backend, "broken", b"this is no model") {
        Err(LoadError::Refused { detail }) => assert!(!detail.contains("worker"), "{detail}"),
        other => panic!("{other:?}"),
    }
    let mut missing = file("missing", b"").source;
    missing.path = "/nonexistent/model.onnx".into();
    let error = backend.load(&missing, &engine::LoadOptions::default()).unwrap_err();
    assert!(matches!(error, LoadError::Read { .. }), "{error}");

    let engine = engine(&backend, &double(4));
    assert_eq!(engine.signature().inputs[0].name, "x");
    assert_eq!(engine.placement().provider, Provider::Cpu);
    // The worker's word for it is not taken.
    assert_eq!(engine.placement().device.name, "by the daemon");
    assert_eq!(engine.placement().assignments[0].operators, [("Add".to_owned(), 1)]);
    assert!(engine.footprint().is_some_and(|footprint| footprint.host_bytes > 1 << 20));
}

#[test]
fn lanes_run_side_by_side() {
    let backend = script(config());
    let first = engine(&backend, b"");
    let second = first.share().expect("the script can be shared");
    assert_eq!(backend.started(), 1);
    let begun = std::time::Instant::now();
    // A second each, in one process.
    let runs = [first, second].map(|mut engine| {
        std::thread::spawn(move || read_floats(&engine.run(&one(&[2000.0, 7.0])).unwrap()[0][0]))
    });
    for run in runs {
        assert_eq!(run.join().unwrap(), [2000.0, 7.0]);
    }
    assert!(begun.elapsed().as_millis() < 1900, "{:?}", begun.elapsed());
}

#[test]
fn lanes_of_onnx_runtime_share_its_weights() {
    let backend = ort(config());
    let engine = engine(&backend, &double(4));
    let lanes: Vec<_> = (0..3).map(|_| engine.share().unwrap()).chain([engine.share().unwrap()]).collect();
    drop(engine);
    let run = |(lane, mut engine): (usize, Box<dyn engine::Engine>)| {
        std::thread::spawn(move || {
            for value in 0..200_u16 {
                let value = f32::from(value) + lane as f32 * 1000.0;
                let outputs = engine.run(&one(&[value; 4])).unwrap();
                assert_eq!(read_floats(&outputs[0][0]), [value * 2.0; 4]);
            }
        })
    };
    for thread in lanes.into_iter().enumerate().map(run).collect::<Vec<_>>() {
        thread.join().unwrap();
    }
    assert_eq!(backend.started(), 1);
}

#[test]
fn a_build_runs_in_the_worker_that_serves() {
    let backend = script(config());
    let options = engine::LoadOptions { providers: vec![Provider::TensorRt], ..Default::default() };
    let loaded = backend.load(&file("test", b"").source, &options).unwrap();
    let pending = loaded.pending.unwrap();
    let progress = pending.progress();
    let mut better = pending.run().unwrap();
    assert_eq!(better.placement().provider, Provider::TensorRt);
    assert!(progress.get().0 >= 1, "{progress:?}");
    drop(loaded.engine);
    assert_eq!(read_floats(&better.run(&one(&[5.0])).unwrap()[0][0]), [5.0]);
    assert_eq!(backend.started(), 1);
}
