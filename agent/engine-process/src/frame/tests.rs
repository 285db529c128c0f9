use engine::{Dim, TensorSpec};
use proptest::prelude::*;

use super::*;

fn span(offset: usize, len: usize) -> Span {
    Span { segment: 0, offset, len }
}

fn to_worker() -> Vec<ToWorker> {
    let input = Input { datatype: DataType::Fp32, shape: vec![1, 4], at: span(64, 16) };
    let places = vec![
        LentPlace { shape: Some(vec![1, 4]), at: Some(span(128, 16)) },
        LentPlace { shape: None, at: None },
    ];
    let source = ModelSource { name: "m".to_owned(), version: 3, path: "/m/3/model.onnx".into() };
    vec![
        ToWorker::Start(Start {
            one_model: true,
            settings: "{}".to_owned(),
            readable: vec!["/models".into()],
            writable: Vec::new(),
            memory_limit_bytes: Some(1 << 30),
        }),
        ToWorker::Open,
        ToWorker::Load(Load { source, options: LoadOptions::default() }),
        ToWorker::Build { number: 1 },
        ToWorker::Run(Run { run: 9, members: vec![RunMember { id: 1, inputs: vec![input] }], places }),
        ToWorker::Share,
        ToWorker::Fetch { run: 9 },
    ]
}

fn to_daemon() -> Vec<ToDaemon> {
    let spec = |name: &str| TensorSpec {
        name: name.to_owned(),
        datatype: DataType::Bytes,
        shape: vec![Dim::Fixed(2), Dim::Dynamic(None), Dim::Dynamic(Some("n".to_owned()))],
    };
    let placement = Placement {
        provider: Provider::Cpu,
        device: engine::Device { id: "cpu".to_owned(), name: "a CPU".to_owned() },
        attempts: vec![engine::Attempt { provider: Provider::Cuda, failure: Some("none".to_owned()) }],
        assignments: vec![engine::Assignment {
            provider: Provider::Cpu,
            nodes: 2,
            operators: vec![("Add".to_owned(), 2)],
        }],
    };
    let fences =
        vec![FenceReport { fence: Fence::Landlock, state: FenceState::Partial, detail: "ABI 1".to_owned() }];
    let output = |at| Output { datatype: DataType::Int8, shape: vec![3], at };
    vec![
        ToDaemon::Ready { sandbox: SandboxReport { fences: fences.clone() } },
        ToDaemon::NotReady { detail: "no library".to_owned() },
        ToDaemon::Loaded(LoadedModel {
            signature: Signature { inputs: vec![spec("x")], outputs: vec![spec("y")] },
            placement,
            pending: Some((Provider::TensorRt, 4)),
            fences,
        }),
        ToDaemon::Refused(LoadError::Required { required: Provider::Cuda, detail: "none".to_owned() }),
        ToDaemon::Progress { done: 1, total: None },
        ToDaemon::Done {
            run: 7,
            members: vec![vec![output(At::Lent(span(0, 3))), output(At::Held { len: 3 })]],
        },
        ToDaemon::Failed { run: 7, error: EngineError::OutputRows { expected: 1, got: 2 } },
        ToDaemon::Shared { shared: false },
        ToDaemon::Fetched { run: 7 },
    ]
}

#[test]
fn frames_come_back_as_they_were_and_in_no_part() {
    let worker = to_worker().into_iter().map(|frame| (format!("{frame:?}"), frame.encode(), true));
    let daemon = to_daemon().into_iter().map(|frame| (format!("{frame:?}"), frame.encode(), false));
    for (shown, bytes, to_worker) in worker.chain(daemon) {
        let decode = |bytes: &[u8]| match to_worker {
            true => ToWorker::decode(bytes).map(|frame| format!("{frame:?}")),
            false => ToDaemon::decode(bytes).map(|frame| format!("{frame:?}")),
        };
        assert_eq!(decode(&bytes).unwrap(), shown);
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end]).is_err(), "{shown} cut at {end}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(decode(&longer), Err(FrameError::Trailing { len: 1 }), "{shown}");
        let other = [&[VERSION + 1], &bytes[1..]].concat();
        assert_eq!(decode(&other), Err(FrameError::Version { got: VERSION + 1 }), "{shown}");
    }
}

#[test]
fn every_error_of_an_engine_keeps_its_kind() {
    let text = || "what happened".to_owned();
    for error in [
        EngineError::Shape { index: 2 },
        EngineError::OutputRows { expected: 3, got: 4 },
        EngineError::Input { detail: text() },
        EngineError::Run { detail: text() },
        EngineError::DeviceLost { detail: text() },
        EngineError::Panicked { detail: text() },
        EngineError::Cancelled,
    ] {
        let shown = error.to_string();
        match ToDaemon::decode(&ToDaemon::Failed { run: 0, error }.encode()) {
            Ok(ToDaemon::Failed { error, .. }) => assert_eq!(error.to_string(), shown),
            other => panic!("{shown}: {other:?}"),
        }
    }
}

#[test]
fn a_workers_text_is_one_short_line() {
    let error = EngineError::Run { detail: "first\nsecond\x1b[31m".to_owned() + &"é".repeat(9000) };
    let Ok(ToDaemon::Failed { error: EngineError::Run { detail }, .. }) =
        ToDaemon::decode(&ToDaemon::Failed { run: 0, error }.encode())
    else {
        panic!("another frame")
    };
    assert!(detail.starts_with("first second [31m") && detail.chars().count() == 400, "{detail}");
}

#[test]
fn a_claimed_count_costs_nothing() {
    // A Done with four billion members, and nothing behind.
    let mut bytes = vec![VERSION, 6];
    bytes.extend_from_slice(&7_u64.to_le_bytes());
    bytes.extend_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(ToDaemon::decode(&bytes), Err(FrameError::Short)));
}

proptest! {
    #[test]
    fn any_bytes_are_a_frame_or_an_error(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0_u8..12) {
        let decoded = (ToDaemon::decode(&bytes).is_ok(), ToWorker::decode(&bytes).is_ok());
        prop_assert!(bytes.len() >= 2 || decoded == (false, false));
        if bytes.len() > 2 {
            (bytes[0], bytes[1]) = (VERSION, kind);
            drop((ToDaemon::decode(&bytes), ToWorker::decode(&bytes)));
        }
    }
}
