//! Open-loop load: requests leave on a fixed schedule, whether or not the ones before have been answered. A latency counts from
//! the moment the schedule meant, so a server that stalls is charged for all who would have come meanwhile (no coordinated
//! omission). One thread and epoll(7), as many connections as are needed at once.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use super::{STALL_LIMIT, complete, quantile};
use crate::http::Request;

/// More unanswered requests than this, and the run has failed: the server neither serves nor refuses.
const CONNECTIONS_LIMIT: usize = 4096;

/// One reply with 200.
#[derive(Debug, Clone, Copy)]
pub struct Reply {
    /// When the schedule meant the request to leave, from the start of the run.
    pub due: Duration,
    /// From then to the last byte of the reply.
    pub latency: Duration,
}

/// What a run saw.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub sent: u64,
    /// In the order in which they came.
    pub replies: Vec<Reply>,
    /// Of each 503, from the last byte of the request to the first of the refusal, sorted.
    pub refusals: Vec<Duration>,
    /// Every other end of a request: when it came and what it was.
    pub failures: Vec<(Duration, String)>,
    /// How long after its time a request left, for the worst 1 %: how far the generator itself can be trusted.
    pub late_p99: Duration,
    pub elapsed: Duration,
}

impl Outcome {
    /// The latency that `part` of the replies did not exceed, of those that were due in `from..to`.
    pub fn quantile_within(&self, part: f64, from: Duration, to: Duration) -> Duration {
        let within = self.replies.iter().filter(|reply| (from..to).contains(&reply.due));
        let mut latencies: Vec<Duration> = within.map(|reply| reply.latency).collect();
        latencies.sort_unstable();
        quantile(&latencies, part)
    }

    pub fn quantile(&self, part: f64) -> Duration {
        self.quantile_within(part, Duration::ZERO, Duration::MAX)
    }

    /// The time in which `part` of the refusals came.
    pub fn refused_within(&self, part: f64) -> Duration {
        quantile(&self.refusals, part)
    }

    /// Replies per second.
    pub fn goodput(&self) -> f64 {
        self.replies.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// Fails, with the first of them, if there are failures.
    pub fn ensure_none_failed(&self) -> Result<()> {
        match self.failures.first() {
            Some((at, what)) => {
                Err(anyhow!("{} of {} failed, the first at {at:.1?}: {what}", self.failures.len(), self.sent))
            }
            None => Ok(()),
        }
    }
}

/// A run that goes on until it is stopped.
#[derive(Debug)]
pub struct Running {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Outcome>>,
    started: Instant,
}

impl Running {
    /// `per_second` requests a second from now on.
    pub fn start(address: SocketAddr, request: &Request, per_second: f64) -> Result<Self> {
        ensure!(per_second > 0.0, "no rate");
        let stop = Arc::new(AtomicBool::new(false));
        let interval = Duration::from_secs_f64(1.0 / per_second);
        let started = Instant::now();
        let mut run = Run::new(address, request.bytes(), interval, started)?;
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            while run.turn(told.load(Ordering::Relaxed))? {}
            Ok(run.finish())
        });
        Ok(Self { stop, thread, started })
    }

    /// Since its start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Sends no more from now on. [`Running::stop`] tells what it saw.
    pub fn halt(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Sends no more, waits for what is under way, and tells what it saw.
    pub fn stop(self) -> Result<Outcome> {
        self.halt();
        self.thread.join().map_err(|_| anyhow!("the load panicked"))?
    }
}

/// [`Running`] for as long as `time`.
pub fn run(address: SocketAddr, request: &Request, per_second: f64, time: Duration) -> Result<Outcome> {
    let running = Running::start(address, request, per_second)?;
    std::thread::sleep(time);
    running.stop()
}

/// A connection and, while it is busy, the request that it carries.
struct Client {
    stream: TcpStream,
    busy: bool,
    /// From the start of the run.
    due: Duration,
    unsent: usize,
    /// Just before the write that took the last byte.
    written: Instant,
    first_byte: Option<Instant>,
    reply: Vec<u8>,
}

struct Run {
    address: SocketAddr,
    request: Vec<u8>,
    interval: Duration,
    started: Instant,
    /// When the sending ended; none while it goes on.
    ended: Option<Duration>,
    poll: OwnedFd,
    clients: Vec<Client>,
    idle: Vec<usize>,
    busy: usize,
    late: Vec<Duration>,
    last_event: Instant,
    outcome: Outcome,
}

impl Run {
    fn new(address: SocketAddr, request: Vec<u8>, interval: Duration, started: Instant) -> Result<Self> {
        Ok(Self {
            address,
            request,
            interval,
            started,
            ended: None,
            poll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            clients: Vec::new(),
            idle: Vec::new(),
            busy: 0,
            late: Vec::new(),
            last_event: Instant::now(),
            outcome: Outcome::default(),
        })
    }

    /// Sends what is due, waits for what comes or is due next, reads it. False once all is over.
    fn turn(&mut self, stop: bool) -> Result<bool> {
        if stop && self.ended.is_none() {
            self.ended = Some(self.started.elapsed());
        }
        let wait = if self.ended.is_some() {
            if self.busy == 0 {
                return Ok(false);
            }
            Duration::from_millis(100)
        } else {
            self.send_due()?;
            self.due_next().saturating_sub(self.started.elapsed()).min(Duration::from_millis(100))
        };
        ensure!(self.busy == 0 || self.last_event.elapsed() < STALL_LIMIT, "no reply for {STALL_LIMIT:?}");
        let wait =
            Timespec { tv_sec: i64::try_from(wait.as_secs())?, tv_nsec: i64::from(wait.subsec_nanos()) };
        let mut events = Vec::with_capacity(256);
        epoll::wait(&self.poll, spare_capacity(&mut events), Some(&wait))?;
        if !events.is_empty() {
            self.last_event = Instant::now();
        }
        for event in events {
            self.advance(usize::try_from(event.data.u64())?)?;
        }
        Ok(true)
    }

    fn due_next(&self) -> Duration {
        // From the count, not from the last one: no drift.
        Duration::from_secs_f64(self.interval.as_secs_f64() * self.outcome.sent as f64)
    }

    fn send_due(&mut self) -> Result<()> {
        loop {
            let (now, due) = (self.started.elapsed(), self.due_next());
            if due > now {
                return Ok(());
            }
            let index = match self.idle.pop() {
                Some(index) => index,
                None => self.connect()?,
            };
            self.late.push(now.saturating_sub(due));
            self.outcome.sent += 1;
            self.busy += 1;
            if self.busy == 1 {
                self.last_event = Instant::now();
            }
            let client = &mut self.clients[index];
            (client.busy, client.due, client.unsent) = (true, due, self.request.len());
            client.first_byte = None;
            client.reply.clear();
            self.advance(index)?;
        }
    }

    fn connect(&mut self) -> Result<usize> {
        let index = self.clients.len();
        ensure!(index < CONNECTIONS_LIMIT, "{CONNECTIONS_LIMIT} requests without an answer");
        self.clients.push(Client {
            stream: self.open(index)?,
            busy: false,
            due: Duration::ZERO,
            unsent: 0,
            written: Instant::now(),
            first_byte: None,
            reply: Vec::new(),
        });
        Ok(index)
    }

    fn open(&self, index: usize) -> Result<TcpStream> {
        let stream = TcpStream::connect(self.address)
            .with_context(|| format!("cannot connect to {}", self.address))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let interest = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&self.poll, &stream, epoll::EventData::new_u64(u64::try_from(index)?), interest)?;
        Ok(stream)
    }

    /// Takes a connection as far as it goes now.
    fn advance(&mut self, index: usize) -> Result<()> {
        let client = &mut self.clients[index];
        let end = match client.write(&self.request).and_then(|()| client.read()) {
            Ok(None) => return Ok(()),
            Ok(Some(end)) => end,
            Err(error) => End::Closed(format!("{error:#}")),
        };
        let (now, was_busy) = (self.started.elapsed(), client.busy);
        client.busy = false;
        if was_busy {
            self.busy -= 1;
            match &end {
                End::Status(200) => self
                    .outcome
                    .replies
                    .push(Reply { due: client.due, latency: now.saturating_sub(client.due) }),
                End::Status(503) => {
                    let first = client.first_byte.unwrap_or(client.written);
                    self.outcome.refusals.push(first.duration_since(client.written));
                }
                End::Status(_) => {
                    let text = String::from_utf8_lossy(&client.reply).into_owned();
                    self.outcome.failures.push((now, text));
                }
                End::Closed(why) => self.outcome.failures.push((now, why.clone())),
            }
        }
        if matches!(end, End::Closed(_)) {
            // The old descriptor leaves the poll with its last copy.
            self.clients[index].stream = self.open(index)?;
        }
        if was_busy {
            self.idle.push(index);
        }
        Ok(())
    }

    fn finish(mut self) -> Outcome {
        self.late.sort_unstable();
        self.outcome.late_p99 = quantile(&self.late, 0.99);
        self.outcome.refusals.sort_unstable();
        self.outcome.elapsed = self.ended.unwrap_or_else(|| self.started.elapsed());
        self.outcome
    }
}

enum End {
    Status(u16),
    Closed(String),
}

impl Client {
    fn write(&mut self, request: &[u8]) -> Result<()> {
        while self.busy && self.unsent > 0 {
            self.written = Instant::now();
            match self.stream.write(&request[request.len() - self.unsent..]) {
                Ok(written) => self.unsent -= written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("cannot send"),
            }
        }
        Ok(())
    }

    fn read(&mut self) -> Result<Option<End>> {
        let mut buffer = [0; 64 << 10];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(Some(End::Closed("the connection was closed without a reply".into()))),
                Ok(length) => {
                    self.first_byte.get_or_insert_with(Instant::now);
                    self.reply.extend_from_slice(&buffer[..length]);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error).context("cannot read"),
            }
            if let Some(status) = complete(&self.reply)? {
                return Ok(Some(End::Status(status)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A server that takes one connection at a time and answers what `answer` says, after `stall` for the first request.
    fn serve(answer: &'static [u8], stall: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut stall = Some(stall);
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut buffer = [0; 4096];
                if let Some(stall) = stall.take() {
                    std::thread::sleep(stall);
                }
                // One request a connection.
                if stream.read(&mut buffer).is_ok_and(|length| length > 0) {
                    stream.write_all(answer).ok();
                }
            }
        });
        address
    }

    #[test]
    fn a_stall_is_charged_to_all_who_would_have_come() {
        let address = serve(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Duration::from_millis(400));
        let outcome = run(address, &Request::get("/"), 100.0, Duration::from_millis(200)).unwrap();
        // Twenty requests were due in the stall: a closed loop would have seen one slow reply.
        assert!(outcome.sent >= 15, "{outcome:?}");
        let slow = outcome.replies.iter().filter(|reply| reply.latency > Duration::from_millis(150)).count();
        assert!(slow >= 10, "{outcome:?}");
    }

    #[test]
    fn each_end_is_counted_as_what_it_is() {
        let check = |answer: &'static [u8], wanted: fn(&Outcome) -> usize| {
            let address = serve(answer, Duration::ZERO);
            let outcome = run(address, &Request::get("/"), 50.0, Duration::from_millis(200)).unwrap();
            let all = outcome.replies.len() + outcome.refusals.len() + outcome.failures.len();
            assert_eq!(all as u64, outcome.sent, "{outcome:?}");
            assert!(wanted(&outcome) >= 1, "{outcome:?}");
        };
        check(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", |outcome| outcome.replies.len());
        check(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", |outcome| outcome.refusals.len());
        check(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", |outcome| outcome.failures.len());
        check(b"", |outcome| outcome.failures.len());
    }
}
