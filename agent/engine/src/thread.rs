use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::{Batch, Engine, EngineError, MemberId, Outputs, Step};

/// What an engine thread does next.
#[derive(Debug)]
pub enum Work {
    Run(Batch),
    /// The next request of every member's sequence, one of the steps each.
    Step(Batch, Vec<Step>),
    /// These sequences ended without a last request. Nothing is to be completed.
    Close(Vec<MemberId>),
    /// A better engine for the same model is ready (a TensorRT build that ended).
    Replace(Box<dyn Engine>),
    Stop,
}

/// The scheduler's end of an engine thread.
pub trait Feed: Send + 'static {
    /// Blocks until there is work. Called only when the engine is free.
    fn next(&mut self) -> Work;

    /// Takes the outcome of the batch that [`Feed::next`] gave last, one row of outputs per member.
    fn complete(&mut self, batch: Batch, result: Result<Vec<Outputs>, EngineError>, compute: Duration);
}

/// The OS thread that owns an engine. A panic inside the engine is the batch's error, not the daemon's end.
#[derive(Debug)]
pub struct EngineThread {
    join: JoinHandle<()>,
}

impl EngineThread {
    /// # Errors
    /// The system's, when no thread can be started.
    pub fn spawn(name: &str, engine: Box<dyn Engine>, feed: impl Feed) -> std::io::Result<Self> {
        let join = std::thread::Builder::new().name(name.to_owned()).spawn(move || drive(engine, feed))?;
        Ok(Self { join })
    }

    /// Waits for the end; the feed must have been told to stop.
    pub fn join(self) {
        // The thread catches the engine's panics, so an error here is a bug in the feed, which the panic hook
        // has printed already.
        self.join.join().ok();
    }
}

fn drive(mut engine: Box<dyn Engine>, mut feed: impl Feed) {
    loop {
        match feed.next() {
            Work::Run(batch) => {
                let started = Instant::now();
                let result = guard(|| engine.run(&batch));
                feed.complete(batch, result, started.elapsed());
            }
            Work::Step(batch, steps) => {
                let started = Instant::now();
                let result = guard(|| step(&mut *engine, &batch, &steps));
                feed.complete(batch, result, started.elapsed());
            }
            Work::Close(members) => {
                // A panic here has no request to tell it to.
                guard(|| {
                    members.iter().for_each(|member| engine.close(*member));
                    Ok(())
                })
                .ok();
            }
            Work::Replace(better) => engine = better,
            Work::Stop => return,
        }
    }
}

fn guard<T>(run: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(run))
        .unwrap_or_else(|panic| Err(EngineError::Panicked { detail: describe(&*panic) }))
}

/// Begins, steps and ends the members as their requests ask.
fn step(engine: &mut dyn Engine, batch: &Batch, steps: &[Step]) -> Result<Vec<Outputs>, EngineError> {
    for (member, _) in batch.members.iter().zip(steps).filter(|(_, step)| step.start) {
        engine.open(member.id)?;
    }
    let outputs = engine.step(batch, steps)?;
    for (member, _) in batch.members.iter().zip(steps).filter(|(_, step)| step.end) {
        engine.close(member.id);
    }
    Ok(outputs)
}

fn describe(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "unknown panic".to_owned())
}
