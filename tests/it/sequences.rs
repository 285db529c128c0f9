//! Sequences: what a model heard before is kept for each caller, however they take turns and whichever protocol they speak.

use std::path::Path;
use std::process::Command;
use std::sync::Barrier;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use harness::http::{Connection, Request};
use harness::load::grpc;
use harness::{Agent, Setup, infer, onnx, wait_until, workspace};
use serde_json::{Value, json};
use triton::InferParameter;
use triton::infer_parameter::ParameterChoice;

const MODEL: &str = "silero-vad";
const SAMPLES: usize = 576;
const CALLERS: u64 = 20;

/// A sound, and the speech that the runtime alone heard in each of its chunks.
struct Sound {
    chunks: Vec<Vec<u8>>,
    speech: Vec<f64>,
    tolerance: f64,
}

impl Sound {
    fn read(name: &str) -> Result<Self> {
        let path = workspace::root().join("models/golden").join(MODEL).join(name);
        let case: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        let speech = case["speech"].as_array().context("no speech")?;
        let sound = Self {
            chunks: bytes(&path)?.chunks_exact(4 * SAMPLES).map(<[u8]>::to_vec).collect(),
            speech: speech.iter().filter_map(Value::as_f64).collect(),
            tolerance: case["tolerance"]["absolute"].as_f64().context("no tolerance")?,
        };
        ensure!(sound.chunks.len() == sound.speech.len() && sound.chunks.len() >= 4, "{name}");
        Ok(sound)
    }
}

/// Made by the recipe's own code, which checks the digest.
fn bytes(case: &Path) -> Result<Vec<u8>> {
    let output = Command::new(workspace::python()?)
        .arg("-B")
        .arg(workspace::root().join("tests/cases/golden_input.py"))
        .args([case, &workspace::photos()])
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

/// Where in its sequence a request is.
#[derive(Clone, Copy)]
struct Step {
    caller: u64,
    start: bool,
    end: bool,
}

fn over_http(connection: &mut Connection, chunk: &[u8], step: Step) -> Result<f32> {
    let head = json!({
        "inputs": [
            { "name": "input", "shape": [1, SAMPLES], "datatype": "FP32", "parameters": { "binary_data_size": chunk.len() } },
            { "name": "sr", "shape": [], "datatype": "INT64", "data": [16000] },
        ],
        "outputs": [{ "name": "output" }],
        "parameters": { "sequence_id": step.caller, "sequence_start": step.start, "sequence_end": step.end },
    });
    let response = connection.send(&infer::binary_parts(MODEL, &head, chunk))?;
    ensure!(response.status == 200, "{response}");
    infer::first_output(&response)?.first().copied().context("an empty output")
}

fn over_grpc(agent: &Agent, chunk: &[u8], step: Step) -> Result<f32> {
    let rate = 16000_i64.to_le_bytes();
    let samples = i64::try_from(SAMPLES)?;
    let inputs: [grpc::Input<'_>; 2] = [("input", "FP32", &[1, samples], chunk), ("sr", "INT64", &[], &rate)];
    let mut request = grpc::request(MODEL, &inputs);
    let mut say = |name: &str, choice| {
        let parameter = InferParameter { parameter_choice: Some(choice) };
        request.parameters.insert(name.to_owned(), parameter);
    };
    say("sequence_id", ParameterChoice::Int64Param(i64::try_from(step.caller)?));
    say("sequence_start", ParameterChoice::BoolParam(step.start));
    say("sequence_end", ParameterChoice::BoolParam(step.end));
    let response = grpc::send(agent.grpc, &grpc::frame(&request)?)?;
    let at = response.outputs.iter().position(|output| output.name == "output").context("no output")?;
    let values = infer::f32_values(response.raw_output_contents.get(at).context("no contents")?);
    values.first().copied().context("an empty output")
}

/// Twenty callers step by step side by side, each with the sound that it has; the next step begins when all have done theirs.
#[test]
fn twenty_callers_at_once_hear_what_each_alone_would() -> Result<()> {
    let agent = Setup::new()?.repository_at(workspace::models()).start()?;
    let sounds = [Sound::read("voice.json")?, Sound::read("silence.json")?];
    let steps = sounds[0].chunks.len().max(sounds[1].chunks.len());
    let turn = Barrier::new(usize::try_from(CALLERS)?);
    let call = |caller: u64| -> Result<()> {
        let sound = &sounds[usize::from(caller.is_multiple_of(4))];
        let connection = Connection::tcp(agent.http);
        let mut result = Ok(());
        let mut connection = connection.map_err(|error| result = Err(error)).ok();
        let last = sound.chunks.len() - 1;
        for index in 0..steps {
            // Also after an error, and when the sound is over: the others wait for it.
            turn.wait();
            let (Some(chunk), Some(connection), Ok(())) =
                (sound.chunks.get(index), connection.as_mut(), &result)
            else {
                continue;
            };
            let step = Step { caller: caller + 1, start: index == 0, end: index == last };
            let heard = if caller.is_multiple_of(2) {
                over_http(connection, chunk, step)
            } else {
                over_grpc(&agent, chunk, step)
            };
            result = heard.and_then(|heard| {
                let (heard, expected) = (f64::from(heard), sound.speech[index]);
                ensure!((heard - expected).abs() <= sound.tolerance, "[{index}]: {heard}, not {expected}");
                Ok(())
            });
        }
        result.with_context(|| format!("caller {caller}"))
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CALLERS).map(|caller| scope.spawn(move || call(caller))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a caller panicked"))?)
    })
    .with_context(|| agent.log())
}

fn sum_agent(sequence: &str) -> Result<Agent> {
    let toml = format!(
        "[sequence]\nstate = [{{ input = \"before\", output = \"after\", shape = [1, 1] }}]\n{sequence}\n"
    );
    Setup::new()?.model("sum", &onnx::sum_so_far(), &toml)?.start()
}

/// The sum so far, or the status that refused the step and why.
fn add(agent: &Agent, value: f32, sequence: &Value, tenant: &str) -> Result<Result<f32, (u16, String)>> {
    let body = json!({
        "inputs": [{ "name": "x", "shape": [1, 1], "datatype": "FP32", "data": [value] }],
        "parameters": sequence,
    });
    let request = Request::post("/v2/models/sum/infer", body.to_string()).with("mast-tenant", tenant);
    let response = agent.send(&request)?;
    if response.status != 200 {
        return Ok(Err((response.status, response.error()?)));
    }
    Ok(Ok(infer::first_output(&response)?.first().copied().context("an empty output")?))
}

#[test]
fn sequences_start_end_and_are_counted() -> Result<()> {
    let agent = sum_agent("max_sequences = 2")?;
    let start = |id: u64| json!({ "sequence_id": id, "sequence_start": true });
    let step = |id: u64| json!({ "sequence_id": id });
    let end = |id: u64| json!({ "sequence_id": id, "sequence_end": true });
    let check = |value: f32, sequence: Value, expected: Result<f32, u16>| -> Result<()> {
        let got = add(&agent, value, &sequence, "local")?;
        let same = match (&got, expected) {
            (Ok(got), Ok(expected)) => *got == expected,
            (Err((status, why)), Err(expected)) => *status == expected && !why.is_empty(),
            _ => false,
        };
        ensure!(same, "{sequence}: {got:?}, expected {expected:?}");
        Ok(())
    };
    check(1.0, step(1), Err(400))?;
    check(1.0, start(1), Ok(1.0))?;
    check(10.0, start(2), Ok(10.0))?;
    check(5.0, step(1), Ok(6.0))?;
    // Full: refused, and nobody else's sum is touched.
    check(1.0, start(3), Err(503))?;
    check(10.0, step(2), Ok(20.0))?;
    check(1.0, end(1), Ok(7.0))?;
    check(1.0, step(1), Err(400))?;
    check(3.0, start(3), Ok(3.0))?;
    // A start in the middle begins anew.
    check(2.0, start(2), Ok(2.0))
}

#[test]
fn a_sequence_that_is_left_ends_by_itself() -> Result<()> {
    let agent = sum_agent("max_sequences = 1\nmax_idle_us = 200000")?;
    let start = |id: u64| json!({ "sequence_id": id, "sequence_start": true });
    ensure!(add(&agent, 1.0, &start(1), "local")? == Ok(1.0));
    wait_until("room for another", Duration::from_secs(20), || {
        Ok(add(&agent, 2.0, &start(2), "local")? == Ok(2.0))
    })?;
    let late = add(&agent, 1.0, &json!({ "sequence_id": 1 }), "local")?;
    ensure!(late.as_ref().is_err_and(|(status, _)| *status == 400), "{late:?}");
    Ok(())
}
