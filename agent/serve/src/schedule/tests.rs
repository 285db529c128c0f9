//! The queue with a clock and engines that the test moves.

use engine::fake::{FakeEngine, FakeScript};
use engine::{Batch, Buffer, DataType, EngineError, Feed as _, Outputs, Provider, Tensor, Work};
use proptest::prelude::*;
use wire::{ErrorCode, RequestId};

use super::bounds::{QueuePolicy, TimeoutAction};
use super::take::Polled;
use super::*;
use crate::admit::Budget;
use crate::model::Placed;
use crate::model_config::Shown;
use crate::reply;
use crate::{Reply, stats};

/// Threads that do nothing by themselves.
struct Driven {
    queue: Arc<Queue>,
    feeds: Vec<Option<ModelFeed>>,
    running: Vec<Option<Running>>,
    budget: Arc<Budget>,
    stats: Arc<Stats>,
    lost: Arc<AtomicUsize>,
    /// Of engines, so far.
    sets: usize,
    placed: Arc<Placed>,
    shown: Arc<Shown>,
    zero: Instant,
    now: Instant,
}

struct Running {
    batch: Batch,
    tags: Vec<f32>,
    began: Instant,
}

impl Driven {
    fn new(bounds: Bounds, instances: usize) -> Self {
        let stats = Arc::<Stats>::default();
        let engine = FakeEngine::new(FakeScript::default(), Arc::default(), Provider::Cpu);
        let placed = Arc::new(Placed::new(engine::Engine::placement(&engine).clone(), Arc::clone(&stats)));
        stats.loaded(Duration::ZERO, 0, placed.ran());
        let queue = Arc::new(Queue::new(Arc::from("m"), bounds, instances, Arc::clone(&stats)));
        let signature = Arc::new(engine::Engine::signature(&engine).clone());
        let shown = Arc::new(Shown { signature, ..Shown::default() });
        let running = (0..instances).map(|_| None).collect();
        let feeds = (0..instances).map(|_| None).collect();
        let (budget, lost, zero) = (Budget::new(1 << 30), Arc::default(), Instant::now());
        let mut driven =
            Self { queue, feeds, running, budget, stats, lost, sets: 0, placed, shown, zero, now: zero };
        driven.start();
        driven
    }

    /// Threads where there are none.
    fn start(&mut self) {
        let told = Arc::clone(&self.lost);
        let on_lost = Lost::new(Box::new(move |_| {
            told.fetch_add(1, Ordering::SeqCst);
        }));
        self.sets += 1;
        for (index, feed) in self.feeds.iter_mut().enumerate().filter(|(_, feed)| feed.is_none()) {
            let (queue, shown) = (Arc::clone(&self.queue), Arc::clone(&self.shown));
            let placed = Arc::clone(&self.placed);
            *feed = Some(ModelFeed::new(queue, shown, placed, 1, index, on_lost.clone()));
        }
    }

    /// New engines, when all threads of those that were lost have ended.
    fn revive(&mut self) {
        if !self.queue.phase().is_lost() {
            return;
        }
        (0..self.feeds.len()).for_each(|index| self.begin(index));
        if self.feeds.iter().all(Option::is_none) && self.queue.resume(self.feeds.len()) {
            self.start();
        }
    }

    fn send(&self, tag: f32, rows: usize, priority: u64, timeout: Option<Duration>) -> Result<Reply, Error> {
        let bytes: Vec<u8> = (0..rows * 4).flat_map(|_| tag.to_le_bytes()).collect();
        let tensor = Tensor::new(DataType::Fp32, vec![rows, 4], Buffer::copy_from(&bytes)).unwrap();
        let Terms { level, deadline, patience } = self.queue.bounds().terms(priority, timeout, self.now);
        // The reply's own deadline is of the real clock: here the test looks at it when it wants to.
        let (sender, mut reply) = reply::channel(None);
        let ticket = Ticket {
            id: RequestId::next(),
            inputs: vec![tensor],
            rows,
            outputs: Vec::new(),
            arrived: self.now,
            deadline,
            patience,
            level,
            place: None,
            is_suspect: false,
            exportable: false,
            room: self.budget.reserve(1).unwrap(),
            reply: sender,
        };
        reply.accepted(self.queue.push(ticket)?);
        Ok(reply)
    }

    /// Lets an instance that is free look at the queue.
    fn begin(&mut self, index: usize) {
        let (Some(feed), None) = (&mut self.feeds[index], &self.running[index]) else { return };
        let work = match feed.next_single() {
            Some(work) => work,
            None => {
                let mut dead = Vec::new();
                let mut state = self.queue.lock();
                let polled =
                    self.queue.poll(&mut state, &mut feed.instance, self.now, &mut feed.running, &mut dead);
                drop(state);
                self.queue.drop_dead(dead, self.now);
                let Polled::Ready(taken) = polled else { return };
                feed.begin(taken)
            }
        };
        let batch = match work {
            Work::Run(batch) => batch,
            // The thread ends.
            Work::Stop => return self.feeds[index] = None,
            _ => return,
        };
        let tag = |bytes: &[u8]| f32::from_le_bytes(*bytes.first_chunk().unwrap());
        let tags = batch.members.iter().map(|member| tag(member.inputs[0].data().bytes())).collect();
        self.running[index] = Some(Running { batch, tags, began: self.now });
    }

    /// Ends what the instance runs.
    fn end(
        &mut self,
        index: usize,
        result: impl FnOnce(&Batch) -> Result<Vec<Outputs>, EngineError>,
    ) -> Vec<f32> {
        let (Some(feed), Some(running)) = (&mut self.feeds[index], self.running[index].take()) else {
            return Vec::new();
        };
        let result = result(&running.batch);
        feed.complete(running.batch, result, self.now.saturating_duration_since(running.began));
        running.tags
    }
}

fn echo(batch: &Batch) -> Result<Vec<Outputs>, EngineError> {
    Ok(batch.members.iter().map(|member| member.inputs.clone()).collect())
}

/// The reply's outcome, if there is one by now.
fn outcome(reply: &mut Reply) -> Option<Result<f32, ErrorCode>> {
    let waker = std::task::Waker::noop();
    let mut context = std::task::Context::from_waker(waker);
    let next = std::pin::pin!(reply.next());
    match std::future::Future::poll(next, &mut context) {
        std::task::Poll::Pending => None,
        std::task::Poll::Ready(None) => panic!("answered twice"),
        std::task::Poll::Ready(Some(Ok(part))) => {
            let bytes = part.outputs[0].tensor.data().bytes();
            Some(Ok(f32::from_le_bytes(*bytes.first_chunk().unwrap())))
        }
        std::task::Poll::Ready(Some(Err(error))) => Some(Err(error.code)),
    }
}

#[derive(Debug, Clone)]
enum Act {
    Push { rows: usize, priority: u64, timeout_ms: Option<u64> },
    Cancel(prop::sample::Index),
    Pass { ms: u64 },
    Begin(usize),
    End(usize),
    Fail(usize),
    Lose(usize),
    Revive,
    GiveUp,
    Close,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let push = (1_usize..4, 0_u64..4, proptest::option::of(0_u64..40))
        .prop_map(|(rows, priority, timeout_ms)| Act::Push { rows, priority, timeout_ms });
    let act = prop_oneof![
        40 => push,
        10 => any::<prop::sample::Index>().prop_map(Act::Cancel),
        15 => (0_u64..20).prop_map(|ms| Act::Pass { ms }),
        30 => (0_usize..3).prop_map(Act::Begin),
        25 => (0_usize..3).prop_map(Act::End),
        6 => (0_usize..3).prop_map(Act::Fail),
        3 => (0_usize..3).prop_map(Act::Lose),
        4 => Just(Act::Revive),
        1 => Just(Act::GiveUp),
        1 => Just(Act::Close),
    ];
    proptest::collection::vec(act, 0..150)
}

fn policy() -> impl Strategy<Value = QueuePolicy> {
    let action = prop_oneof![Just(TimeoutAction::Reject), Just(TimeoutAction::Delay)];
    (proptest::option::of(1_usize..6), prop_oneof![Just(0_u64), Just(20_000)], any::<bool>(), action)
        .prop_map(|(max_queue_size, default_timeout_us, allow_timeout_override, timeout_action)| {
            QueuePolicy { max_queue_size, default_timeout_us, allow_timeout_override, timeout_action }
        })
}

proptest! {
    /// Whatever happens, in whatever order: who was accepted gets its own answer, once, and nothing is kept.
    #[test]
    fn no_request_is_lost_or_answered_twice(
        acts in acts(),
        levels in proptest::collection::vec(policy(), 1..4),
        (instances, max_rows, limit, delay_ms) in (1_usize..4, 0_usize..6, 1_usize..9, 0_u64..10),
        preferred in proptest::collection::btree_set(1_usize..6, 0..3),
        preserve_ordering in any::<bool>(),
    ) {
        let preferred = preferred.into_iter().filter(|rows| *rows <= max_rows).collect();
        let delay = Duration::from_millis(delay_ms);
        let bounds = Bounds { limit, max_rows, delay, preferred, preserve_ordering, levels, ..Bounds::default() };
        let mut driven = Driven::new(bounds, instances);
        let mut replies: Vec<(f32, Reply)> = Vec::new();
        let (mut accepted, mut refused, mut left) = (0_u64, 0_u64, 0_u64);
        for (tag, act) in (1_u16..).zip(acts) {
            let tag = f32::from(tag);
            match act {
                Act::Push { rows, priority, timeout_ms } => {
                    let rows = if max_rows == 0 { 1 } else { rows.min(max_rows) };
                    let open = matches!(driven.queue.phase(), Phase::Open | Phase::Reloading(_));
                    match driven.send(tag, rows, priority, timeout_ms.map(Duration::from_millis)) {
                        Ok(reply) => {
                            prop_assert!(open, "accepted after the end");
                            accepted += 1;
                            replies.push((tag, reply));
                        }
                        Err(error) => {
                            refused += 1;
                            let full = error.code == ErrorCode::Unavailable;
                            prop_assert!(full || error.code == ErrorCode::DeadlineExceeded, "{error}");
                            prop_assert!(error.retry_after.is_some());
                        }
                    }
                }
                Act::Cancel(which) if !replies.is_empty() => {
                    let (_, mut reply) = replies.swap_remove(which.index(replies.len()));
                    left += u64::from(outcome(&mut reply).is_none());
                }
                Act::Cancel(_) => {}
                Act::Pass { ms } => driven.now += Duration::from_millis(ms),
                Act::Begin(index) => driven.begin(index % instances),
                Act::End(index) => {
                    driven.end(index % instances, echo);
                }
                Act::Fail(index) => {
                    let error = EngineError::Run { detail: String::new() };
                    driven.end(index % instances, |_| Err(error));
                }
                Act::Lose(index) => {
                    let error = EngineError::DeviceLost { detail: String::new() };
                    driven.end(index % instances, |_| Err(error));
                }
                Act::Revive => driven.revive(),
                Act::GiveUp => driven.queue.give_up("a test says so"),
                Act::Close => driven.queue.close(),
            }
            let now = driven.queue.now();
            let running = instances * max_rows.max(1);
            prop_assert!(now.levels.iter().sum::<usize>() <= limit * 2 + running);
            prop_assert!(now.pending <= limit * 2 + running);
        }
        // Nothing more comes: the threads run what there is, and end.
        driven.queue.stop();
        for round in 0.. {
            prop_assert!(round < 10_000, "{} requests never end", driven.queue.pending());
            if driven.queue.pending() == 0 {
                break;
            }
            driven.now += Duration::from_millis(1);
            for index in 0..instances {
                driven.begin(index);
                driven.end(index, echo);
            }
        }
        let mut unserved = 0;
        for (tag, mut reply) in replies {
            match outcome(&mut reply) {
                None => prop_assert!(false, "{tag} was never answered"),
                Some(Ok(got)) => prop_assert_eq!(got, tag),
                Some(Err(_)) => unserved += 1,
            }
        }
        prop_assert_eq!(driven.budget.used(), 0);
        prop_assert!(driven.queue.gone.iter().all(|gone| gone.count() == 0));
        prop_assert!(driven.lost.load(Ordering::SeqCst) <= driven.sets);
        let all = driven.stats.snapshot("m", 1, &driven.queue.now()).unwrap().all;
        let unanswered: stats::Unserved = all.accepted_unserved;
        let failed = unanswered.unavailable + unanswered.deadline + unanswered.canceled + unanswered.engine + unanswered.input;
        prop_assert_eq!(all.success.count + failed, accepted);
        prop_assert!(failed >= unserved && failed <= unserved + left + accepted);
        let by_level: u64 = driven.stats.snapshot("m", 1, &driven.queue.now()).unwrap().levels.iter().map(|it| it.refused).sum();
        prop_assert_eq!(by_level, refused);
    }
}

/// Ten times what the engines can do, for ten simulated seconds: what is run is in time, and nearly all the time
/// is spent on it.
#[test]
fn at_ten_times_the_capacity_nearly_all_work_is_worth_it() {
    let check = |instances: usize, max_rows: usize, limit: usize, timeout_ms: Option<u64>| {
        let us = Duration::from_micros;
        let mut driven = Driven::new(Bounds { limit, max_rows, ..Bounds::default() }, instances);
        let rows = max_rows.max(1);
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        // 10 ms, plus or minus a fifth.
        let mut service = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            us(8_000 + state % 4_000)
        };
        let capacity = 100.0 * f64::from(u32::try_from(instances * rows).unwrap());
        let gap = Duration::from_secs_f64(0.1 / capacity);
        let mut ends: Vec<Option<Instant>> = vec![None; instances];
        let (mut waiting, mut good, mut slowest) = (Vec::<(Instant, Reply)>::new(), 0_u32, Duration::ZERO);
        let (end, mut next) = (driven.zero + Duration::from_secs(10), driven.zero);
        while next < end {
            // What ends before the next request comes.
            while let Some((index, at)) = ends
                .iter()
                .enumerate()
                .filter_map(|(index, at)| Some((index, (*at)?)))
                .min_by_key(|(_, at)| *at)
                && at <= next
            {
                driven.now = at;
                driven.end(index, echo);
                driven.begin(index);
                ends[index] = driven.running[index].is_some().then(|| at + service());
                waiting.retain_mut(|(deadline, reply)| match outcome(reply) {
                    None => driven.now < *deadline,
                    Some(result) => {
                        good += u32::from(result.is_ok() && driven.now <= *deadline);
                        false
                    }
                });
            }
            driven.now = next;
            next += gap;
            let asked = Instant::now();
            let sent = driven.send(1.0, 1, 0, timeout_ms.map(Duration::from_millis));
            match sent {
                Ok(reply) => {
                    let patience = timeout_ms.map_or(Duration::from_secs(3600), Duration::from_millis);
                    waiting.push((driven.now + patience, reply));
                }
                Err(_) => slowest = slowest.max(asked.elapsed()),
            }
            for (index, at) in ends.iter_mut().enumerate() {
                if at.is_none() {
                    driven.begin(index);
                    *at = driven.running[index].is_some().then(|| driven.now + service());
                }
            }
        }
        let goodput = f64::from(good) / (capacity * 10.0);
        println!(
            "{instances} × {max_rows} rows, {limit} places, {timeout_ms:?} ms: goodput {goodput:.3}, slowest refusal {slowest:?}"
        );
        assert!(goodput >= 0.9, "{goodput}");
    };
    check(1, 0, 128, None);
    check(1, 0, 128, Some(50));
    check(1, 0, 128, Some(100));
    check(2, 0, 128, Some(100));
    check(1, 8, 128, Some(100));
    check(2, 4, 1024, Some(200));
    check(1, 0, 100_000, Some(100));
}
