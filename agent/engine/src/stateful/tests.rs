use super::*;
use crate::{Correlation, DataType, Device, Dim, Provider, TensorSpec};

/// `x [n, 1]`, state `s [n, 1]` and control inputs in; `y = x + s`, the state `t = y`, and `seen`: the controls.
#[derive(Debug)]
struct Model {
    signature: Signature,
    placement: Placement,
    /// Members of each run.
    runs: Arc<Mutex<Vec<usize>>>,
    fails: Arc<Mutex<bool>>,
}

fn spec(name: &str, datatype: DataType, shape: &[i64]) -> TensorSpec {
    let dim = |size: &i64| usize::try_from(*size).map_or(Dim::Dynamic(None), Dim::Fixed);
    TensorSpec { name: name.to_owned(), datatype, shape: shape.iter().map(dim).collect() }
}

impl Model {
    /// `state` is the shape of `s` and `t`, -1 for a dynamic axis.
    fn new(state: &[i64], controls: Vec<TensorSpec>) -> Self {
        let mut inputs = vec![spec("s", DataType::Fp32, state), spec("x", DataType::Fp32, &[-1, 1])];
        let mut outputs = vec![spec("y", DataType::Fp32, &[-1, 1]), spec("t", DataType::Fp32, state)];
        for control in controls {
            outputs.push(TensorSpec { name: format!("seen_{}", control.name), ..control.clone() });
            inputs.push(control);
        }
        let device = Device { id: "fake".to_owned(), name: "Fake".to_owned() };
        let placement =
            Placement { provider: Provider::Cpu, device, attempts: Vec::new(), assignments: Vec::new() };
        Self {
            signature: Signature { inputs, outputs },
            placement,
            runs: Arc::default(),
            fails: Arc::default(),
        }
    }
}

impl Engine for Model {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn placement(&self) -> &Placement {
        &self.placement
    }

    fn run(&mut self, batch: &Batch) -> Result<Vec<Outputs>, EngineError> {
        self.runs.lock().unwrap().push(batch.members.len());
        let run = |member: &Member| {
            let [state, x, controls @ ..] = &*member.inputs else { panic!("inputs") };
            if *self.fails.lock().unwrap() && number(x) == 13.0 {
                return Err(EngineError::Run { detail: "thirteen".to_owned() });
            }
            let sum = fp32(number(x) + number(state), x.shape());
            let next = fp32(number(&sum), state.shape());
            Ok([&[sum, next], controls].concat())
        };
        batch.members.iter().map(run).collect()
    }

    fn share(&self) -> Option<Box<dyn Engine>> {
        let (signature, placement) = (self.signature.clone(), self.placement.clone());
        let (runs, fails) = (Arc::clone(&self.runs), Arc::clone(&self.fails));
        Some(Box::new(Self { signature, placement, runs, fails }))
    }
}

fn fp32(value: f32, shape: &[usize]) -> Tensor {
    Tensor::new(DataType::Fp32, shape.to_vec(), Buffer::copy_from(&value.to_le_bytes())).unwrap()
}

fn number(tensor: &Tensor) -> f32 {
    f32::from_le_bytes(*tensor.data().bytes().first_chunk().unwrap())
}

fn states(controls: Vec<Control>) -> States {
    let tensor = StateTensor { input: "s".to_owned(), output: "t".to_owned(), shape: None };
    States::new(vec![tensor], controls)
}

fn middle() -> Step {
    Step { start: false, end: false, correlation: Correlation::Number(7) }
}

/// One step of the members, each with its value; the outputs `y`.
fn step(engine: &mut dyn Engine, members: &[(u64, f32)]) -> Result<Vec<f32>, EngineError> {
    let member = |&(id, x): &(u64, f32)| Member { id: MemberId(id), inputs: vec![fp32(x, &[1, 1])] };
    let batch = Batch { members: members.iter().map(member).collect() };
    let steps = vec![middle(); members.len()];
    Ok(engine.step(&batch, &steps)?.iter().map(|outputs| number(&outputs[0])).collect())
}

#[test]
fn each_member_has_its_own_state_whichever_engine_runs_it() {
    let check = |state: &[i64], together: bool| {
        let model = Model::new(state, Vec::new());
        let runs = Arc::clone(&model.runs);
        let states = states(Vec::new());
        let mut one = states.wrap(Box::new(model)).unwrap();
        assert_eq!(one.signature().inputs, [spec("x", DataType::Fp32, &[-1, 1])]);
        assert_eq!(one.signature().outputs, [spec("y", DataType::Fp32, &[-1, 1])]);
        let mut other = one.share().unwrap();
        one.open(MemberId(1)).unwrap();
        other.open(MemberId(2)).unwrap();
        assert_eq!(step(&mut one, &[(1, 1.0), (2, 10.0)]).unwrap(), [1.0, 10.0]);
        assert_eq!(step(&mut *other, &[(2, 20.0), (1, 2.0)]).unwrap(), [30.0, 3.0]);
        let expected = if together { vec![2, 2] } else { vec![1; 4] };
        assert_eq!(*runs.lock().unwrap(), expected, "state {state:?}");
        // Anew, while the other goes on.
        one.open(MemberId(1)).unwrap();
        assert_eq!(step(&mut *other, &[(1, 5.0), (2, 1.0)]).unwrap(), [5.0, 31.0]);
        other.close(MemberId(1));
        assert_eq!(states.len(), 1);
        let error = step(&mut one, &[(1, 1.0)]).unwrap_err();
        assert_eq!(error.kind(), "stateless");
        // A run without a sequence leaves nothing.
        let batch = Batch { members: vec![Member { id: MemberId(9), inputs: vec![fp32(4.0, &[1, 1])] }] };
        assert_eq!(number(&one.run(&batch).unwrap()[0][0]), 4.0);
        one.close(MemberId(2));
        assert!(states.is_empty());
    };
    check(&[-1, 1], true);
    // The batch is not the first axis of the state, as in silero-vad.
    check(&[1, -1, 1], false);
}

#[test]
fn a_step_that_fails_changes_no_state() {
    for state in [&[-1_i64, 1][..], &[1, -1, 1]] {
        let model = Model::new(state, Vec::new());
        let fails = Arc::clone(&model.fails);
        let mut engine = states(Vec::new()).wrap(Box::new(model)).unwrap();
        engine.open(MemberId(1)).unwrap();
        engine.open(MemberId(2)).unwrap();
        *fails.lock().unwrap() = true;
        step(&mut engine, &[(1, 1.0), (2, 13.0)]).unwrap_err();
        *fails.lock().unwrap() = false;
        assert_eq!(step(&mut engine, &[(1, 1.0), (2, 13.0)]).unwrap(), [1.0, 13.0], "{state:?}");
    }
}

#[test]
fn a_state_is_not_a_part_of_a_batch() {
    let mut engine = states(Vec::new()).wrap(Box::new(Model::new(&[-1, 1], Vec::new()))).unwrap();
    engine.open(MemberId(1)).unwrap();
    let batch = Batch { members: vec![Member { id: MemberId(1), inputs: vec![fp32(4.0, &[1, 1])] }] };
    let outputs = engine.step(&batch, &[middle()]).unwrap();
    let kept = engine.states.get(MemberId(1)).unwrap();
    assert_eq!(kept[0].data().bytes(), outputs[0][0].data().bytes());
    assert_ne!(kept[0].data().bytes().as_ptr(), outputs[0][0].data().bytes().as_ptr());
}

#[test]
fn controls_say_where_in_its_sequence_a_request_is() {
    let step = |start, end, correlation| Step { start, end, correlation };
    let text = |text: &str| Correlation::Text(Arc::from(text));
    let check = |kind: ControlKind, datatype, step: &Step, expected: Option<&[u8]>| {
        let control = spec("c", datatype, &[-1, 1]);
        let states = states(vec![Control { input: "c".to_owned(), kind }]);
        let mut engine = states.wrap(Box::new(Model::new(&[-1, 1], vec![control]))).unwrap();
        assert_eq!(engine.signature().inputs.len(), 1);
        engine.open(MemberId(1)).unwrap();
        let batch = Batch { members: vec![Member { id: MemberId(1), inputs: vec![fp32(0.0, &[1, 1])] }] };
        let seen = engine.step(&batch, std::slice::from_ref(step));
        let seen = seen.map(|outputs| outputs[0][1].data().bytes().to_vec());
        assert_eq!(seen.as_deref().ok(), expected, "{kind:?} {step:?}");
        assert!(seen.err().is_none_or(|error| error.kind() == "input"));
    };
    let one = Correlation::Number(1);
    let first = step(true, false, one.clone());
    let last = step(false, true, one.clone());
    let int = Flag::Int32([-1, 3]);
    let (no, yes) = ((-1_i32).to_le_bytes(), 3_i32.to_le_bytes());
    check(ControlKind::Start(int), DataType::Int32, &first, Some(&yes));
    check(ControlKind::Start(int), DataType::Int32, &last, Some(&no));
    check(ControlKind::End(int), DataType::Int32, &first, Some(&no));
    check(ControlKind::End(int), DataType::Int32, &last, Some(&yes));
    check(ControlKind::Ready(int), DataType::Int32, &middle(), Some(&yes));
    let fp32 = Flag::Fp32([0.5, 2.0]);
    check(ControlKind::Start(fp32), DataType::Fp32, &first, Some(&2_f32.to_le_bytes()));
    check(ControlKind::Start(fp32), DataType::Fp32, &last, Some(&0.5_f32.to_le_bytes()));
    let bool = Flag::Bool([true, false]);
    check(ControlKind::End(bool), DataType::Bool, &first, Some(&[1]));
    check(ControlKind::End(bool), DataType::Bool, &last, Some(&[0]));

    let id = ControlKind::CorrelationId;
    let big = step(true, false, Correlation::Number(u64::MAX));
    check(id, DataType::Uint64, &big, Some(&[0xff; 8]));
    check(id, DataType::Int64, &big, None);
    check(id, DataType::Uint32, &big, None);
    check(id, DataType::Int32, &middle(), Some(&[7, 0, 0, 0]));
    check(id, DataType::Uint64, &step(true, false, text("cell")), None);
    check(id, DataType::Bytes, &step(true, false, text("cell")), Some(b"\x04\0\0\0cell"));
    check(id, DataType::Bytes, &middle(), Some(&[1, 0, 0, 0, b'7']));
}

#[test]
fn settings_that_do_not_fit_the_model_say_why() {
    let check = |tensors: Vec<(&str, &str, Option<Vec<usize>>)>,
                 control: Option<(&str, ControlKind)>,
                 part: &str| {
        let tensor = |(input, output, shape): (&str, &str, _)| StateTensor {
            input: input.to_owned(),
            output: output.to_owned(),
            shape,
        };
        let control = control.map(|(input, kind)| Control { input: input.to_owned(), kind });
        let states = States::new(tensors.into_iter().map(tensor).collect(), control.into_iter().collect());
        let controls = vec![spec("c", DataType::Bool, &[1]), spec("wide", DataType::Bool, &[2])];
        let error = states.wrap(Box::new(Model::new(&[-1, 4], controls))).unwrap_err().to_string();
        assert!(error.contains(part), "{error:?} is without {part:?}");
    };
    let start = ControlKind::Start(Flag::Bool([false, true]));
    check(vec![("nothing", "t", None)], None, "no input 'nothing'");
    check(vec![("s", "nothing", None)], None, "no output 'nothing'");
    check(vec![("s", "seen_c", None)], None, "goes out as BOOL and comes in as FP32");
    check(vec![("s", "t", Some(vec![1, 5]))], None, "[1, 5], but [-1, 4]");
    check(vec![("s", "t", None), ("s", "y", None)], None, "'s' is named twice");
    check(vec![("s", "t", None), ("x", "t", None)], None, "'t' is named twice");
    check(vec![], Some(("wide", start)), "more than one element");
    check(vec![], Some(("c", ControlKind::Ready(Flag::Int32([0, 1])))), "'c' is BOOL");
    check(vec![], Some(("d", start)), "no input 'd'");
}
