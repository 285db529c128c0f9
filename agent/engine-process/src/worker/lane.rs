//! One conversation with the daemon, on a thread of its own: a load or a build, then batches.

#![allow(unsafe_code)]

use std::any::Any;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use engine::{
    ALIGNMENT, Backend, Batch, Buffer, BufferMut, DataType, Engine, EngineError, Loaded, Member, MemberId,
    Outputs, PendingBuild, Place, Storage, StorageMut, Tensor, element_count,
};

use super::fences;
use crate::Error;
use crate::frame::{
    At, FrameError, Input, LentPlace, Load, LoadedModel, MAX_FRAME, Output, Run, Span, ToDaemon, ToWorker,
};
use crate::segment::Segment;
use crate::socket::Lane;

/// How often a build tells how far it is.
const PROGRESS: Duration = Duration::from_millis(500);

/// What the lanes of a worker share.
#[derive(Debug)]
pub(super) struct Shared {
    backend: Arc<dyn Backend>,
    arena: Arc<Segment>,
    one_model: bool,
    pending: Mutex<HashMap<u64, PendingBuild>>,
    next: AtomicU64,
}

impl Shared {
    pub(super) fn new(backend: Arc<dyn Backend>, arena: Arc<Segment>, one_model: bool) -> Self {
        Self { backend, arena, one_model, pending: Mutex::default(), next: AtomicU64::new(0) }
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<u64, PendingBuild>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the lane's thread; with an engine it goes straight to its batches.
pub(super) fn spawn(shared: &Arc<Shared>, lane: Lane, engine: Option<Box<dyn Engine>>) -> Result<(), Error> {
    let shared = Arc::clone(shared);
    let serve = move || {
        let served = match engine {
            Some(engine) => serve(&shared, lane, engine),
            None => begin(&shared, lane),
        };
        match served {
            // The daemon has dropped its engine.
            Ok(()) | Err(Error::Closed) => {}
            Err(error) => tracing::error!(%error, "a lane of the worker ended"),
        }
    };
    std::thread::Builder::new().name("lane".to_owned()).spawn(serve).map_err(Error::Spawn)?;
    Ok(())
}

fn begin(shared: &Arc<Shared>, mut lane: Lane) -> Result<(), Error> {
    let loaded = match ToWorker::decode(lane.receive()?)? {
        ToWorker::Load(Load { source, options }) => {
            catch_unwind(AssertUnwindSafe(|| shared.backend.load(&source, &options)))
                .unwrap_or_else(|panic| Err(engine::LoadError::Refused { detail: panicked(&*panic) }))
        }
        ToWorker::Build { number } => build(shared, &lane, number)?,
        _ => return Err(FrameError::OutOfTurn.into()),
    };
    let Loaded { engine, pending } = match loaded {
        Ok(loaded) => loaded,
        Err(error) => return lane.send(&ToDaemon::Refused(error).encode(), None),
    };
    let fences = if shared.one_model { vec![fences::after_load()] } else { Vec::new() };
    let number = pending.as_ref().map(|pending| {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        (pending.provider, number)
    });
    if let (Some(pending), Some((_, number))) = (pending, number) {
        shared.pending().insert(number, pending);
    }
    let answer = LoadedModel {
        signature: engine.signature().clone(),
        placement: engine.placement().clone(),
        pending: number,
        fences,
    };
    lane.send(&ToDaemon::Loaded(answer).encode(), None)?;
    let served = serve(shared, lane, engine);
    if let Some((_, number)) = number {
        // What nobody asked for until now nobody will.
        shared.pending().remove(&number);
    }
    served
}

type Outcome = Result<Loaded, engine::LoadError>;

/// Runs a build that a load left, and tells how far it is meanwhile.
fn build(shared: &Shared, lane: &Lane, number: u64) -> Result<Outcome, Error> {
    let pending = shared.pending().remove(&number).ok_or(FrameError::OutOfTurn)?;
    let progress = pending.progress();
    let tell = || {
        let (done, total) = progress.get();
        lane.send(&ToDaemon::Progress { done, total }.encode(), None)
    };
    let done = AtomicBool::new(false);
    let built = std::thread::scope(|scope| {
        let teller = std::thread::Builder::new().name("progress".to_owned());
        let teller = teller.spawn_scoped(scope, || {
            // An error is met again by the answer.
            while !done.load(Ordering::Acquire) && tell().is_ok() {
                std::thread::park_timeout(PROGRESS);
            }
        });
        let built = catch_unwind(AssertUnwindSafe(|| pending.run()))
            .unwrap_or_else(|panic| Err(engine::LoadError::Refused { detail: panicked(&*panic) }));
        done.store(true, Ordering::Release);
        if let Ok(teller) = teller {
            teller.thread().unpark();
        }
        built
    });
    tell()?;
    Ok(built.map(|engine| Loaded { engine, pending: None }))
}

fn serve(shared: &Arc<Shared>, mut lane: Lane, mut engine: Box<dyn Engine>) -> Result<(), Error> {
    let mut held: Option<(u64, Vec<Tensor>)> = None;
    loop {
        let received = lane.receive_with_file()?;
        match (ToWorker::decode(received.frame)?, received.file) {
            (ToWorker::Run(run), file) => {
                held = None;
                let number = run.run;
                let ran =
                    catch_unwind(AssertUnwindSafe(|| run_batch(&shared.arena, &mut *engine, run, file)));
                let ran =
                    ran.unwrap_or_else(|panic| Err(EngineError::Panicked { detail: panicked(&*panic) }));
                let frame = match ran {
                    Ok((members, back)) => {
                        held = Some((number, back));
                        ToDaemon::Done { run: number, members }.encode()
                    }
                    Err(error) => ToDaemon::Failed { run: number, error }.encode(),
                };
                let frame = if frame.len() > MAX_FRAME { too_many(number) } else { frame };
                lane.send(&frame, None)?;
            }
            (ToWorker::Share, Some(file)) => {
                let other = engine.share();
                let shared_too = other.is_some();
                if let Some(other) = other {
                    spawn(shared, Lane::new(file), Some(other))?;
                }
                lane.send(&ToDaemon::Shared { shared: shared_too }.encode(), None)?;
            }
            (ToWorker::Fetch { run }, Some(file)) => {
                let back = held.take().filter(|(number, _)| *number == run).ok_or(FrameError::OutOfTurn)?;
                let mut memory = Segment::map(file)?;
                let mut offset = 0;
                for tensor in &back.1 {
                    memory.write(offset, tensor.data().bytes());
                    offset += tensor.data().len().next_multiple_of(ALIGNMENT);
                }
                lane.send(&ToDaemon::Fetched { run }.encode(), None)?;
            }
            _ => return Err(FrameError::OutOfTurn.into()),
        }
    }
}

fn too_many(run: u64) -> Vec<u8> {
    let error = EngineError::Run { detail: "the answer has more tensors than a frame can name".to_owned() };
    ToDaemon::Failed { run, error }.encode()
}

fn panicked(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "unknown panic".to_owned())
}

/// Runs the engine on inputs where they lie. Gives where the outputs are, and those that have no place.
fn run_batch(
    arena: &Arc<Segment>,
    engine: &mut dyn Engine,
    run: Run,
    file: Option<OwnedFd>,
) -> Result<(Vec<Vec<Output>>, Vec<Tensor>), EngineError> {
    let broken = |detail: String| EngineError::Run { detail };
    let overflow = file.map(|file| Segment::map(file).map(Arc::new)).transpose();
    let overflow = overflow.map_err(|error| broken(error.to_string()))?;
    let tensor = |input: Input| {
        let Input { datatype, shape, at } = input;
        let segment = match at.segment {
            0 => Some(arena),
            _ => overflow.as_ref(),
        };
        let window =
            segment.and_then(|segment| Window::of(segment, at)).map(|w| Arc::new(w) as Arc<dyn Storage>);
        let data = window
            .map(Buffer::from_storage)
            .ok_or_else(|| broken("an input outside of its memory".to_owned()))?;
        Tensor::new(datatype, shape, data).map_err(|error| EngineError::Input { detail: error.to_string() })
    };
    let member = |member: crate::frame::RunMember| {
        let inputs = member.inputs.into_iter().map(tensor).collect::<Result<_, _>>()?;
        Ok(Member { id: MemberId(member.id), inputs })
    };
    let members = run.members.into_iter().map(member).collect::<Result<_, EngineError>>()?;
    let batch = Batch { members };
    let datatypes: Vec<DataType> = engine.signature().outputs.iter().map(|spec| spec.datatype).collect();
    let places = run.places.iter().zip(&datatypes).map(|(lent, datatype)| place(arena, lent, *datatype));
    let rows = engine.run_into(&batch, places.collect())?;
    let mut lent: Vec<Room> = run.places.iter().map(|lent| Room::of(arena, lent)).collect();
    let mut held = Vec::new();
    let members = rows.into_iter().map(|outputs| answer(outputs, &mut lent, &mut held)).collect();
    Ok((members, held))
}

/// The place as the engine can write to it, when it has exactly the bytes of its shape.
fn place(arena: &Arc<Segment>, lent: &LentPlace, datatype: DataType) -> Option<Place> {
    let (shape, at) = (lent.shape.as_ref()?, lent.at?);
    let bytes = element_count(shape).ok()?.checked_mul(datatype.size()?)?;
    let window = Window::of(arena, at).filter(|_| bytes == at.len)?;
    Some(Place { shape: shape.clone(), memory: BufferMut::from_storage(Box::new(window)) })
}

fn answer(outputs: Outputs, lent: &mut [Room], held: &mut Vec<Tensor>) -> Vec<Output> {
    let outputs = outputs.into_iter().enumerate().map(|(index, tensor)| {
        let room = lent.get_mut(index);
        let at = match room.and_then(|room| room.take(&tensor)) {
            Some(span) => At::Lent(span),
            None => {
                held.push(tensor.clone());
                At::Held { len: tensor.data().len() }
            }
        };
        Output { datatype: tensor.datatype(), shape: tensor.shape().to_vec(), at }
    });
    outputs.collect()
}

/// The place lent for one output, filled member after member.
struct Room {
    segment: Arc<Segment>,
    lent: Option<Span>,
    used: usize,
}

impl Room {
    fn of(arena: &Arc<Segment>, lent: &LentPlace) -> Self {
        Self { segment: Arc::clone(arena), lent: lent.at, used: 0 }
    }

    /// Where the tensor lies in the place, after a copy if it lay elsewhere; `None` when there is no room.
    fn take(&mut self, tensor: &Tensor) -> Option<Span> {
        let lent = self.lent?;
        let bytes = tensor.data().bytes();
        let end = lent.offset.checked_add(lent.len)?;
        if let Some(offset) = self.segment.offset_of(bytes)
            && offset >= lent.offset
            && offset + bytes.len() <= end
        {
            // The engine has written it here; what follows must not be copied over it.
            self.used = self.used.max(offset + bytes.len() - lent.offset);
            return Some(Span { segment: 0, offset, len: bytes.len() });
        }
        let offset = lent.offset.checked_add(self.used)?;
        let upto = offset.checked_add(bytes.len()).filter(|upto| *upto <= end)?;
        // SAFETY: the daemon lent this place to this run, this lane runs one at a time, and the engine is done with it:
        // what it returned in place lies below `used`.
        unsafe { self.segment.bytes_mut(offset..upto) }?.copy_from_slice(bytes);
        self.used += bytes.len();
        Some(Span { segment: 0, offset, len: bytes.len() })
    }
}

/// A part of a segment that this run may use.
struct Window {
    segment: Arc<Segment>,
    span: Span,
}

impl Window {
    fn of(segment: &Arc<Segment>, span: Span) -> Option<Self> {
        let end = span.offset.checked_add(span.len)?;
        (end <= segment.len()).then(|| Self { segment: Arc::clone(segment), span })
    }
}

impl Storage for Window {
    fn bytes(&self) -> &[u8] {
        self.segment.bytes(self.span.offset..self.span.offset + self.span.len).unwrap_or_default()
    }
}

impl StorageMut for Window {
    fn bytes_mut(&mut self) -> &mut [u8] {
        let range = self.span.offset..self.span.offset + self.span.len;
        // SAFETY: the daemon lends a place to one run, and `place` makes one window of it.
        unsafe { self.segment.bytes_mut(range) }.unwrap_or_default()
    }

    fn len(&self) -> usize {
        self.span.len
    }

    fn freeze(self: Box<Self>) -> Arc<dyn Storage> {
        Arc::from(self as Box<dyn Storage>)
    }
}
