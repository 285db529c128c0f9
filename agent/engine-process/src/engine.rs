//! An engine in a worker, as the daemon sees it: one lane.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use engine::{
    ALIGNMENT, Batch, Dim, Engine, EngineError, Footprint, Member, MemberId, Memory, OnLost, Outputs,
    Placement, Signature, Storage, Tensor, TensorSpec, element_count, gather, scatter,
};

use crate::Error;
use crate::arena::{Arena, ArenaMemory, Block};
use crate::frame::{FrameError, Input, LentPlace, MAX_FRAME, Run, RunMember, Span, ToDaemon, ToWorker};
use crate::outputs::{complete, held_bytes, take};
use crate::process::Worker;
use crate::segment::Segment;
use crate::socket::{Lane, pair};

/// Room for an output whose size is not known, before the first was seen.
const FIRST_GUESS: usize = 4096;
/// Bytes of a frame that one tensor of a member takes at most, by way of estimate: up to 9 axes.
const PER_TENSOR: usize = 104;
/// More than any model gives; a worker that holds back more is out of its mind. It is memory that the daemon would
/// make and the worker fill.
const HELD_LIMIT: usize = 1 << 30;

/// What all lanes of one loaded model share.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) worker: Arc<Worker>,
    pub(crate) signature: Signature,
    pub(crate) placement: Placement,
    pub(crate) run_timeout: Duration,
    /// Private memory of a worker that others share: what this model's load added. `None` where the worker is the
    /// model's own.
    pub(crate) added_bytes: Option<u64>,
}

/// What is lent for one output of a run.
struct Room {
    /// Where it is known; the block then has exactly its bytes.
    shape: Option<Vec<usize>>,
    block: Option<Arc<Block>>,
}

/// Where the inputs of a run are.
struct Inputs {
    members: Vec<RunMember>,
    /// Allocated for those that were not in the arena.
    _copies: Vec<Block>,
    /// Those that had no room in it.
    overflow: Option<OwnedFd>,
}

#[derive(Debug)]
pub(crate) struct ProcessEngine {
    /// Goes first when the engine is dropped: an end that was wanted is told to nobody.
    watched: Arc<()>,
    model: Arc<Model>,
    lane: Lane,
    runs: u64,
    /// Bytes of each output, where its shape is not known before a run: the most seen so far.
    guesses: Vec<usize>,
    /// Why there is no worker any more.
    lost: Option<String>,
}

impl ProcessEngine {
    pub(crate) fn new(model: Arc<Model>, mut lane: Lane) -> Result<Self, Error> {
        lane.set_limit(model.run_timeout)?;
        let guesses = vec![FIRST_GUESS; model.signature.outputs.len()];
        Ok(Self { watched: Arc::default(), model, lane, runs: 0, guesses, lost: None })
    }

    fn arena(&self) -> &Arc<Arena> {
        self.model.worker.arena()
    }

    fn run_here(&mut self, batch: &Batch) -> Result<Result<Vec<Outputs>, EngineError>, Error> {
        self.runs += 1;
        let Inputs { members, _copies, overflow } = self.inputs(batch)?;
        let lent = self.lend(batch);
        let places = lent.iter().map(|room| LentPlace {
            shape: room.shape.clone(),
            at: room.block.as_ref().map(|block| arena_span(block)),
        });
        let run = Run { run: self.runs, members, places: places.collect() };
        let frame = ToWorker::Run(run).encode();
        self.lane.send(&frame, overflow.as_ref().map(AsFd::as_fd))?;
        let done = match ToDaemon::decode(self.lane.receive()?)? {
            ToDaemon::Done { run, members } if run == self.runs => members,
            ToDaemon::Failed { run, error } if run == self.runs => return Ok(Err(error)),
            _ => return Err(FrameError::OutOfTurn.into()),
        };
        let lent: Vec<_> = lent.into_iter().map(|room| room.block).collect();
        let taken = take(done, batch.members.len(), &self.model.signature.outputs, &lent)?;
        let held = held_bytes(&taken).filter(|bytes| *bytes <= HELD_LIMIT);
        let held = held.ok_or(FrameError::Output { what: "more than memory is held back" })?;
        let fetched = if held > 0 { Some(self.fetch(held)?) } else { None };
        let outputs = complete(taken, fetched)?;
        for (index, guess) in self.guesses.iter_mut().enumerate() {
            let lengths =
                outputs.iter().filter_map(|member| member.get(index)).map(|output| output.data().len());
            *guess = (*guess).max(lengths.sum());
        }
        Ok(Ok(outputs))
    }

    fn fetch(&mut self, bytes: usize) -> Result<Segment, Error> {
        let (segment, file) = Segment::create("mast-held", bytes)?;
        self.lane.send(&ToWorker::Fetch { run: self.runs }.encode(), Some(file.as_fd()))?;
        match ToDaemon::decode(self.lane.receive()?)? {
            ToDaemon::Fetched { run } if run == self.runs => Ok(segment),
            _ => Err(FrameError::OutOfTurn.into()),
        }
    }

    fn inputs(&self, batch: &Batch) -> Result<Inputs, Error> {
        let mut copies = Vec::new();
        let mut overflow: Vec<&Tensor> = Vec::new();
        let mut overflow_len = 0;
        let mut members = Vec::with_capacity(batch.members.len());
        for member in &batch.members {
            let mut inputs = Vec::with_capacity(member.inputs.len());
            for tensor in &member.inputs {
                let bytes = tensor.data().bytes();
                let at = if bytes.is_empty() {
                    Span { segment: 0, offset: 0, len: 0 }
                } else if let Some(offset) = self.arena().offset_of(bytes) {
                    Span { segment: 0, offset, len: bytes.len() }
                } else if let Some(mut block) = self.arena().lend(bytes.len()) {
                    block.bytes_mut().copy_from_slice(bytes);
                    let span = arena_span(&block);
                    copies.push(block);
                    span
                } else {
                    let span = Span { segment: 1, offset: overflow_len, len: bytes.len() };
                    overflow_len += bytes.len().next_multiple_of(ALIGNMENT);
                    overflow.push(tensor);
                    span
                };
                inputs.push(Input { datatype: tensor.datatype(), shape: tensor.shape().to_vec(), at });
            }
            members.push(RunMember { id: member.id.0, inputs });
        }
        let overflow = if overflow_len > 0 { Some(spill(&overflow, overflow_len)?) } else { None };
        Ok(Inputs { members, _copies: copies, overflow })
    }

    /// A place for each output: of the very size where the shape follows from the inputs, else of the size seen.
    fn lend(&self, batch: &Batch) -> Vec<Room> {
        let axes = Axes::of(batch, &self.model.signature);
        let outputs = self.model.signature.outputs.iter().zip(&self.guesses);
        let place = |(spec, guess): (&TensorSpec, &usize)| match axes.shape(spec) {
            Some((shape, bytes)) => {
                let block = self.arena().lend(bytes).map(Arc::new);
                Room { shape: block.is_some().then_some(shape), block }
            }
            None => Room { shape: None, block: self.arena().lend(*guess).map(Arc::new) },
        };
        outputs.map(place).collect()
    }

    /// The worker is gone, or is made to go.
    fn lose(&mut self, error: &Error) -> EngineError {
        let worker = &self.model.worker;
        let detail = match error {
            Error::Closed => worker.why_ended(),
            error => {
                worker.kill();
                match std::error::Error::source(error) {
                    Some(source) => format!("{error}: {source}"),
                    None => error.to_string(),
                }
            }
        };
        self.lost = Some(detail.clone());
        EngineError::WorkerLost { detail }
    }
}

/// A file that the worker reads the inputs from that had no room in the arena, one after the other.
fn spill(tensors: &[&Tensor], len: usize) -> Result<OwnedFd, Error> {
    let (mut segment, file) = Segment::create("mast-overflow", len)?;
    let mut offset = 0;
    for tensor in tensors {
        let bytes = tensor.data().bytes();
        segment.write(offset, bytes);
        offset += bytes.len().next_multiple_of(ALIGNMENT);
    }
    Ok(file)
}

fn arena_span(block: &Block) -> Span {
    Span { segment: 0, offset: block.range().start, len: block.bytes().len() }
}

/// Sizes of the axes that a batch fixes, by the model's own names for them.
struct Axes<'model> {
    named: HashMap<&'model str, usize>,
    /// Of the first axis of a model that batches.
    rows: Option<usize>,
}

impl<'model> Axes<'model> {
    fn of(batch: &Batch, signature: &'model Signature) -> Self {
        let rows = batch.rows();
        let mut named = HashMap::new();
        let first = batch.members.first();
        for (index, spec) in signature.inputs.iter().enumerate() {
            let Some(tensor) = first.and_then(|member| member.inputs.get(index)) else { continue };
            for (axis, (dim, size)) in spec.shape.iter().zip(tensor.shape()).enumerate() {
                if let Dim::Dynamic(Some(name)) = dim {
                    named.insert(name.as_str(), if axis == 0 { rows } else { *size });
                }
            }
        }
        Self { named, rows: signature.batches().then_some(rows) }
    }

    /// The shape of an output and its bytes, when every axis is known.
    fn shape(&self, spec: &TensorSpec) -> Option<(Vec<usize>, usize)> {
        let size = spec.datatype.size()?;
        let axis = |(axis, dim): (usize, &Dim)| match dim {
            Dim::Fixed(size) => Some(*size),
            Dim::Dynamic(name) => {
                let named = name.as_ref().and_then(|name| self.named.get(name.as_str()).copied());
                named.or(self.rows.filter(|_| axis == 0))
            }
        };
        let shape: Vec<usize> = spec.shape.iter().enumerate().map(axis).collect::<Option<_>>()?;
        let bytes = element_count(&shape).ok()?.checked_mul(size)?;
        Some((shape, bytes))
    }
}

impl Engine for ProcessEngine {
    fn signature(&self) -> &Signature {
        &self.model.signature
    }

    fn placement(&self) -> &Placement {
        &self.model.placement
    }

    fn run(&mut self, batch: &Batch) -> Result<Vec<Outputs>, EngineError> {
        if let Some(detail) = &self.lost {
            return Err(EngineError::WorkerLost { detail: detail.clone() });
        }
        if batch.members.is_empty() {
            return Ok(Vec::new());
        }
        let expected = self.model.signature.inputs.len();
        if let Some(member) = batch.members.iter().find(|member| member.inputs.len() != expected) {
            let detail = format!("{} inputs for a model of {expected}", member.inputs.len());
            return Err(EngineError::Input { detail });
        }
        let tensors = expected + self.model.signature.outputs.len();
        if batch.members.len() > 1 && batch.members.len().saturating_mul(tensors) > MAX_FRAME / PER_TENSOR {
            return self.run_joined(batch);
        }
        match self.run_here(batch) {
            Ok(Err(error)) if error.is_lost() => {
                // The device's context is lost to the whole process: a new one is needed.
                self.lost = Some(error.to_string());
                self.model.worker.kill();
                Err(error)
            }
            Ok(ran) => ran,
            Err(Error::Memory(error)) => {
                Err(EngineError::Run { detail: format!("no memory to share with the worker: {error}") })
            }
            Err(error) => Err(self.lose(&error)),
        }
    }

    fn share(&self) -> Option<Box<dyn Engine>> {
        let shared = self.open_shared();
        shared.inspect_err(|error| tracing::warn!(%error, "no second lane to a worker")).ok().flatten()
    }

    fn footprint(&self) -> Option<Footprint> {
        let host_bytes = match self.model.added_bytes {
            Some(bytes) => bytes,
            // The arena is the model's too, whichever side has touched it.
            None => self.model.worker.private_bytes()?.saturating_add(self.arena().resident_bytes()?),
        };
        Some(Footprint { host_bytes, device_bytes: 0 })
    }

    fn on_lost(&self, tell: OnLost) {
        self.model.worker.on_end(Arc::downgrade(&self.watched), tell);
    }

    fn memory(&self) -> Option<Arc<dyn Memory>> {
        Some(Arc::new(ArenaMemory(Arc::clone(self.arena()))))
    }
}

impl ProcessEngine {
    /// A batch of so many members that one frame could not name their tensors: joined here.
    fn run_joined(&mut self, batch: &Batch) -> Result<Vec<Outputs>, EngineError> {
        let inputs = 0..self.model.signature.inputs.len();
        let inputs: Vec<Tensor> = inputs.map(|index| gather(batch, index)).collect::<Result<_, _>>()?;
        let joined = Batch { members: vec![Member { id: MemberId(0), inputs }] };
        let outputs = self.run(&joined)?.into_iter().next().unwrap_or_default();
        scatter(batch, outputs)
    }

    fn open_shared(&self) -> Result<Option<Box<dyn Engine>>, Error> {
        if self.lost.is_some() {
            return Ok(None);
        }
        let (lane, theirs) = pair()?;
        self.lane.send(&ToWorker::Share.encode(), Some(theirs.as_fd()))?;
        match ToDaemon::decode(&self.lane.receive_owned()?)? {
            ToDaemon::Shared { shared: false } => Ok(None),
            ToDaemon::Shared { shared: true } => {
                Ok(Some(Box::new(Self::new(Arc::clone(&self.model), lane)?)))
            }
            _ => Err(FrameError::OutOfTurn.into()),
        }
    }
}
