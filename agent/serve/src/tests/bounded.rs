//! Models with bounds of their own: instances, priority levels, sequences.

use engine::fake::FakeEngine;
use engine::{Engine, Provider, StateTensor, States};
use wire::ErrorCode;

use super::*;
use crate::ModelConfig;
use crate::admit::Budget;
use crate::infer::ticket;
use crate::model::{Model, Parts, instances};
use crate::model_config::Shown;
use crate::schedule::bounds::{Bounds, QueuePolicy, TimeoutAction};
use crate::stats::Stats;

/// One version without a registry around it.
pub(super) struct Bounded {
    pub(super) model: Arc<Model>,
    pub(super) budget: Arc<Budget>,
    pub(super) runs: Arc<AtomicU64>,
    pub(super) lost: Arc<AtomicU64>,
    pub(super) states: Option<States>,
}

impl Bounded {
    pub(super) fn new(mut script: FakeScript, bounds: Bounds, engines: usize) -> Self {
        let states = bounds.sequencing.map(|_| {
            script.sums = true;
            let (input, output) = ("state".to_owned(), "next_state".to_owned());
            States::new(vec![StateTensor { input, output, shape: None }], Vec::new())
        });
        let runs = Arc::<AtomicU64>::default();
        let engine = engine(&script, &runs, states.as_ref(), Provider::Cpu);
        let parts = Parts {
            name: Arc::from("m"),
            version: 1,
            dir: Arc::from(Path::new("")),
            config: ModelConfig { max_batch_size: bounds.max_rows, ..ModelConfig::default() },
            queue_limit: bounds.limit,
            stats: Arc::<Stats>::default(),
            placement: engine.placement().clone(),
            states: states.clone(),
            stamp: crate::repository::Stamp::default(),
            shown: Shown { signature: Arc::new(engine.signature().clone()), ..Shown::default() },
            lease: None,
        };
        let lost = Arc::<AtomicU64>::default();
        let told = Arc::clone(&lost);
        let on_lost = Box::new(move |queue: &Arc<crate::schedule::Queue>| {
            told.fetch_add(1, Ordering::SeqCst);
            queue.give_up("nobody loads it again");
        });
        let model = Model::start_bounded(parts, bounds, instances(engine, engines), on_lost).unwrap();
        model.stats.loaded(Duration::ZERO, 0, crate::model::ran(&model.placed.placement()));
        Self { model, budget: Budget::new(1 << 20), runs, lost, states }
    }

    pub(super) fn send(&self, request: Request) -> Result<Reply, Error> {
        let room = self.budget.reserve(BODY)?;
        let (ticket, mut reply) = ticket(&self.model, request, room, Instant::now(), true)?;
        reply.accepted(self.model.queue.push(ticket)?);
        Ok(reply)
    }

    pub(super) async fn infer(&self, request: Request) -> Result<f32, Error> {
        Ok(value(&self.send(request)?.single().await?))
    }

    /// Sends one and waits until it is in an engine, which the test holds.
    pub(super) async fn occupy(&self, request: Request) -> Reply {
        let before = self.runs.load(Ordering::Relaxed);
        let reply = self.send(request).unwrap();
        eventually("an engine takes a request", || self.runs.load(Ordering::Relaxed) > before).await;
        reply
    }

    pub(super) fn stats(&self) -> crate::ModelStats {
        self.model.stats.snapshot("m", 1, &self.model.queue.now()).unwrap()
    }

    pub(super) async fn assert_idle(&self) {
        eventually("nothing is pending", || self.model.queue.pending() == 0).await;
        assert_eq!(self.budget.used(), 0);
        assert!(self.stats().levels.iter().all(|level| level.pending == 0));
    }
}

pub(super) fn engine(
    script: &FakeScript,
    runs: &Arc<AtomicU64>,
    states: Option<&States>,
    provider: Provider,
) -> Box<dyn Engine> {
    let engine = Box::new(FakeEngine::new(script.clone(), Arc::clone(runs), provider));
    match states {
        Some(states) => Box::new(states.wrap(engine).unwrap()),
        None => engine,
    }
}

fn level(max_queue_size: Option<usize>) -> QueuePolicy {
    QueuePolicy { max_queue_size, ..QueuePolicy::default() }
}

fn at(priority: u64, value: f32) -> Request {
    Request { priority, ..request(value) }
}

#[tokio::test]
async fn a_higher_level_goes_first() {
    let check = async |max_rows, sent: &[(u64, f32)], expected: &[&[f32]]| {
        let log = engine::fake::Log::default();
        let script = FakeScript { log: Some(Arc::clone(&log)), ..FakeScript::default() };
        let gate = script.runs.clone();
        let levels = vec![level(None); 3];
        let bounds = Bounds { max_rows, levels, default_level: 2, ..Bounds::default() };
        let bounded = Bounded::new(script, bounds, 1);
        let held = gate.close();
        let first = bounded.occupy(at(3, 0.5)).await;
        let waiting: Vec<_> =
            sent.iter().map(|(priority, value)| bounded.send(at(*priority, *value)).unwrap()).collect();
        drop(held);
        first.single().await.unwrap();
        for (reply, (_, sent)) in waiting.into_iter().zip(sent) {
            assert_eq!(value(&reply.single().await.unwrap()), *sent);
        }
        assert_eq!(log.lock().unwrap()[1..], *expected, "{sent:?}");
        bounded.assert_idle().await;
    };
    let sent = [(3, 31.0), (0, 20.0), (1, 11.0), (2, 21.0), (9, 22.0), (1, 12.0), (3, 32.0)];
    check(0, &sent, &[&[11.0], &[12.0], &[20.0], &[21.0], &[22.0], &[31.0], &[32.0]]).await;
    // A batch spans levels, as Triton's do.
    check(3, &sent, &[&[11.0, 12.0, 20.0], &[21.0, 22.0, 31.0], &[32.0]]).await;
}

#[tokio::test]
async fn each_level_has_its_limit_and_the_queue_has_one() {
    let script = FakeScript::default();
    let gate = script.runs.clone();
    let levels = vec![level(Some(2)), level(None), level(Some(1))];
    let bounded = Bounded::new(script, Bounds { limit: 4, levels, ..Bounds::default() }, 1);
    let held = gate.close();
    let mut accepted = vec![bounded.occupy(at(2, 0.0)).await];
    let mut check = |priority, expected: Option<&str>| match (bounded.send(at(priority, 1.0)), expected) {
        (Ok(reply), None) => accepted.push(reply),
        (Err(error), Some(part)) => {
            assert_eq!(error.code, ErrorCode::Unavailable);
            assert!(error.message.contains(part), "{error}");
            assert!(error.retry_after.is_some());
        }
        (outcome, _) => panic!("level {priority}: {outcome:?}"),
    };
    check(1, None);
    check(1, None);
    check(1, Some("2 requests wait"));
    check(3, None);
    check(3, Some("1 requests wait"));
    check(2, None);
    check(2, Some("4 requests wait"));
    let levels: Vec<_> = bounded.stats().levels.iter().map(|it| (it.level, it.pending, it.refused)).collect();
    assert_eq!(levels, [(1, 2, 1), (2, 1, 1), (3, 1, 1)]);
    drop(held);
    for reply in accepted {
        reply.single().await.unwrap();
    }
    bounded.assert_idle().await;
}

#[tokio::test]
async fn timeouts_are_the_levels() {
    let policy = |default_timeout_us, allow_timeout_override, timeout_action| QueuePolicy {
        default_timeout_us,
        allow_timeout_override,
        timeout_action,
        ..QueuePolicy::default()
    };
    let check = async |policy: QueuePolicy, timeout: Option<u64>, is_late: bool, expected: &[f32]| {
        let log = engine::fake::Log::default();
        let script = FakeScript { log: Some(Arc::clone(&log)), ..FakeScript::default() };
        let gate = script.runs.clone();
        let bounds = Bounds { levels: vec![policy], ..Bounds::default() };
        let bounded = Bounded::new(script, bounds, 1);
        let held = gate.close();
        // It is in the engine, and done in time for whoever waits longer than the test.
        let first = bounded.occupy(request(0.0)).await;
        let timeout = timeout.map(Duration::from_millis);
        let one = bounded.send(Request { timeout, ..request(1.0) }).unwrap();
        let long_ago = Instant::now() + Duration::from_millis(40);
        eventually("the timeout passed", || Instant::now() > long_ago).await;
        let two = bounded.send(Request { timeout: Some(Duration::from_secs(60)), ..request(2.0) }).unwrap();
        drop(held);
        drop(first);
        let one = one.single().await.map(|part| value(&part)).map_err(|error| error.code);
        assert_eq!(one, if is_late { Err(ErrorCode::DeadlineExceeded) } else { Ok(1.0) });
        two.single().await.ok();
        let log = log.lock().unwrap();
        assert_eq!(log[1..].concat(), expected, "{policy:?} {timeout:?}");
        assert_eq!(bounded.stats().levels[0].expired > 0, is_late, "{policy:?} {timeout:?}");
    };
    let minute = 60_000_000;
    use TimeoutAction::{Delay, Reject};
    check(policy(0, true, Reject), Some(20), true, &[2.0]).await;
    check(policy(minute, true, Reject), Some(20), true, &[2.0]).await;
    check(policy(minute, false, Reject), Some(20), false, &[1.0, 2.0]).await;
    check(policy(0, false, Reject), Some(20), false, &[1.0, 2.0]).await;
    // Behind those that are in time, but never refused.
    check(policy(minute, true, Delay), Some(20), false, &[2.0, 1.0]).await;
    check(policy(minute, true, Delay), None, false, &[1.0, 2.0]).await;
}

#[tokio::test]
async fn a_client_that_goes_away_frees_its_place_at_once_and_its_room_with_the_next_batch() {
    let script = FakeScript::default();
    let gate = script.runs.clone();
    let bounded = Bounded::new(script, Bounds { limit: 8, max_rows: 4, ..Bounds::default() }, 1);
    let held = gate.close();
    let running = bounded.occupy(request(0.0)).await;
    let mut waiting: Vec<_> = (0..8).map(|_| bounded.send(request(1.0)).unwrap()).collect();
    assert_eq!(bounded.send(request(9.0)).unwrap_err().code, ErrorCode::Unavailable);
    // One leaves, one comes: none of them is searched for, and they do not pile up while the engine is stuck.
    for _ in 0..100 {
        waiting.remove(0);
        waiting.push(bounded.send(request(2.0)).unwrap());
        assert_eq!(bounded.send(request(9.0)).unwrap_err().code, ErrorCode::Unavailable);
        assert!(bounded.budget.used() <= BODY * 17, "{} bytes", bounded.budget.used());
    }
    waiting.truncate(1);
    drop(held);
    running.single().await.unwrap();
    assert_eq!(value(&waiting.remove(0).single().await.unwrap()), 2.0);
    bounded.assert_idle().await;
    let all = bounded.stats().all;
    assert_eq!((all.success.count, all.failures.canceled), (2, 107));
    // The first batch, and the one that was left of the others.
    assert_eq!(bounded.runs.load(Ordering::Relaxed), 2);
}
