//! An engine without a runtime, for the tests of the request path. It is never in a backend list of the
//! daemon: only tests build a [`FakeBackend`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::{
    Attempt, Backend, Batch, Buffer, DataType, Device, Dim, Engine, EngineError, LoadError, LoadOptions,
    Loaded, ModelSource, OnLost, Outputs, PendingBuild, Placement, Provider, Signature, Tensor, TensorSpec,
    gather, scatter,
};

/// How fake engines behave.
#[derive(Debug, Clone, Default)]
pub struct FakeScript {
    /// How long one run takes.
    pub compute: Duration,
    /// Every n-th run fails; 0 never.
    pub fail_every: u64,
    /// Every n-th run panics; 0 never.
    pub panic_every: u64,
    /// The load itself fails with this text.
    pub refuse_load: Option<String>,
    /// A background build is offered, which takes this long.
    pub pending_build: Option<Duration>,
    /// Runs wait here; they are counted before.
    pub runs: Gate,
    /// Background builds wait here.
    pub builds: Gate,
    /// A run fails when this is a first value of one of its members.
    pub fail_on: Option<f32>,
    /// The runtime refuses a run, and quotes it, when this is a first value of one of its members.
    pub refuse_on: Option<f32>,
    /// The device is lost when this is a first value of one of its members.
    pub lose_on: Option<f32>,
    /// How often; absent: every time.
    pub losses: Option<Arc<AtomicU64>>,
    /// Loads wait here.
    pub loads: Gate,
    /// Who is to be told that an engine was lost while it had nothing to run.
    pub watch: Watch,
    /// A run waits at `slow` when this is a first value of one of its members.
    pub slow_on: Option<f32>,
    pub slow: Gate,
    /// Keeps a sum: `state` `[batch, 4]` is added to `input`, and the result goes out as `output` and as
    /// `next_state`.
    pub sums: bool,
    /// No second engine over the same weights.
    pub single: bool,
    /// The first values of the members of each run that was begun, in order.
    pub log: Option<Log>,
}

/// What engines were given by [`Engine::on_lost`].
#[derive(Clone, Default)]
pub struct Watch(Arc<Mutex<Vec<OnLost>>>);

impl Watch {
    /// All engines so far are lost.
    pub fn tell(&self, reason: &str) {
        let told = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        told.into_iter().for_each(|tell| tell(reason));
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

pub type Log = Arc<Mutex<Vec<Vec<f32>>>>;

/// Open, until a test closes it: what a test does meanwhile happens before what waits here.
#[derive(Debug, Clone, Default)]
pub struct Gate {
    closed: Arc<(Mutex<bool>, Condvar)>,
}

/// Opens its gate again when dropped.
#[derive(Debug)]
#[must_use]
pub struct Closed {
    gate: Gate,
}

impl Gate {
    pub fn close(&self) -> Closed {
        self.set(true);
        Closed { gate: self.clone() }
    }

    fn set(&self, closed: bool) {
        *self.closed.0.lock().unwrap_or_else(PoisonError::into_inner) = closed;
        self.closed.1.notify_all();
    }

    fn pass(&self) {
        let closed = self.closed.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.closed.1.wait_while(closed, |closed| *closed));
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        self.gate.set(false);
    }
}

/// Echoes FP32 `[batch, 4]` from `input` to `output`.
#[derive(Debug, Default)]
pub struct FakeBackend {
    pub script: FakeScript,
    /// Batches run by all engines of this backend.
    pub runs: Arc<AtomicU64>,
    /// Loads that were begun.
    pub loads: Arc<AtomicU64>,
}

impl FakeBackend {
    pub fn new(script: FakeScript) -> Self {
        Self { script, runs: Arc::default(), loads: Arc::default() }
    }

    fn engine(&self, provider: Provider) -> Box<dyn Engine> {
        Box::new(FakeEngine::new(self.script.clone(), Arc::clone(&self.runs), provider))
    }
}

impl Backend for FakeBackend {
    fn device(&self) -> Device {
        Device { id: "fake".to_owned(), name: "Fake device".to_owned() }
    }

    fn providers(&self) -> &[Provider] {
        &Provider::ALL
    }

    fn load(&self, _source: &ModelSource, _options: &LoadOptions) -> Result<Loaded, LoadError> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        self.script.loads.pass();
        if let Some(detail) = &self.script.refuse_load {
            return Err(LoadError::Refused { detail: detail.clone() });
        }
        let pending = self.script.pending_build.map(|duration| {
            let better = self.engine(Provider::TensorRt);
            let gate = self.script.builds.clone();
            PendingBuild::new(Provider::TensorRt, move |progress| {
                progress.set(1, Some(2));
                std::thread::sleep(duration);
                gate.pass();
                progress.set(2, Some(2));
                Ok(better)
            })
        });
        Ok(Loaded { engine: self.engine(Provider::Cpu), pending })
    }
}

#[derive(Debug)]
pub struct FakeEngine {
    script: FakeScript,
    runs: Arc<AtomicU64>,
    signature: Signature,
    placement: Placement,
}

impl FakeEngine {
    pub fn new(script: FakeScript, runs: Arc<AtomicU64>, provider: Provider) -> Self {
        let spec = |name: &str| TensorSpec {
            name: name.to_owned(),
            datatype: DataType::Fp32,
            shape: vec![Dim::Dynamic(Some("batch".to_owned())), Dim::Fixed(4)],
        };
        let mut signature = Signature { inputs: vec![spec("input")], outputs: vec![spec("output")] };
        if script.sums {
            signature.inputs.push(spec("state"));
            signature.outputs.push(spec("next_state"));
        }
        let placement = Placement {
            provider,
            device: Device { id: "fake".to_owned(), name: "Fake device".to_owned() },
            attempts: vec![Attempt { provider, failure: None }],
            assignments: Vec::new(),
        };
        Self { script, runs, signature, placement }
    }
}

impl Engine for FakeEngine {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn placement(&self) -> &Placement {
        &self.placement
    }

    fn run(&mut self, batch: &Batch) -> Result<Vec<Outputs>, EngineError> {
        if let Some(log) = &self.script.log {
            let firsts = batch.members.iter().filter_map(|member| {
                Some(f32::from_le_bytes(*member.inputs.first()?.data().bytes().first_chunk()?))
            });
            log.lock().unwrap_or_else(PoisonError::into_inner).push(firsts.collect());
        }
        let run = self.runs.fetch_add(1, Ordering::Relaxed) + 1;
        let every = |n: u64| n > 0 && run.is_multiple_of(n);
        if every(self.script.panic_every) {
            panic!("scripted panic in run {run}");
        }
        self.script.runs.pass();
        let has = |value: Option<f32>| value.is_some_and(|value| holds(batch, value));
        if has(self.script.lose_on) && self.script.losses.as_deref().is_none_or(count_down) {
            return Err(EngineError::DeviceLost { detail: "scripted loss".to_owned() });
        }
        if let Some(value) = self.script.refuse_on.filter(|value| holds(batch, *value)) {
            return Err(EngineError::Input { detail: format!("scripted refusal of {value}") });
        }
        if has(self.script.fail_on) {
            return Err(EngineError::Run { detail: "scripted failure of an input".to_owned() });
        }
        if has(self.script.slow_on) {
            self.script.slow.pass();
        }
        if !self.script.compute.is_zero() {
            std::thread::sleep(self.script.compute);
        }
        if every(self.script.fail_every) {
            return Err(EngineError::Run { detail: format!("scripted failure in run {run}") });
        }
        let joined: Tensor = gather(batch, 0)?;
        if self.script.sums {
            let sum = add(&joined, &gather(batch, 1)?)?;
            return scatter(batch, vec![sum.clone(), sum]);
        }
        scatter(batch, vec![joined])
    }

    fn on_lost(&self, tell: OnLost) {
        self.script.watch.0.lock().unwrap_or_else(PoisonError::into_inner).push(tell);
    }

    fn share(&self) -> Option<Box<dyn Engine>> {
        let provider = self.placement.provider;
        (!self.script.single).then(|| {
            Box::new(Self::new(self.script.clone(), Arc::clone(&self.runs), provider)) as Box<dyn Engine>
        })
    }
}

fn add(one: &Tensor, other: &Tensor) -> Result<Tensor, EngineError> {
    let values = |tensor: &Tensor| -> Vec<f32> {
        let (words, _) = tensor.data().bytes().as_chunks();
        words.iter().map(|word| f32::from_le_bytes(*word)).collect()
    };
    let sums = values(one).into_iter().zip(values(other)).map(|(one, other)| one + other);
    let bytes: Vec<u8> = sums.flat_map(f32::to_le_bytes).collect();
    Tensor::new(one.datatype(), one.shape().to_vec(), Buffer::copy_from(&bytes))
        .map_err(|error| EngineError::Run { detail: error.to_string() })
}

/// Whether there was one left.
fn count_down(left: &AtomicU64) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

fn holds(batch: &Batch, value: f32) -> bool {
    let first = |tensor: &Tensor| tensor.data().bytes().first_chunk() == Some(&value.to_le_bytes());
    batch.members.iter().flat_map(|member| &member.inputs).any(first)
}
