//! Closed-loop load: N connections, each sends its next request when it has its reply. One thread and epoll(7), so that the
//! client takes as little as it can of the cores it shares with what it measures. [`open`] is the open loop over HTTP, [`grpc`]
//! the closed loop over gRPC.

pub mod grpc;
pub mod open;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use crate::http::Request;

/// When a run ends.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// Requests over all connections together.
    Requests(u64),
    After(Duration),
}

/// What a run saw.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Replies with 200.
    pub replies: u64,
    /// Replies with 503: refused for want of room, to be sent again later.
    pub refused: u64,
    /// Time of each 200, sorted.
    pub latencies: Vec<Duration>,
    pub elapsed: Duration,
}

impl Outcome {
    /// The latency that `part` (0.5 is the median) of the replies did not exceed.
    pub fn quantile(&self, part: f64) -> Duration {
        quantile(&self.latencies, part)
    }

    /// Replies per second.
    pub fn throughput(&self) -> f64 {
        self.replies as f64 / self.elapsed.as_secs_f64()
    }
}

fn quantile(sorted: &[Duration], part: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    let index = (part * last as f64).round() as usize;
    sorted.get(index).copied().unwrap_or_default()
}

/// No reply for this long, and the run has failed.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// Sends `request` over `connections`. Any reply but 200 and 503 is an error.
pub fn run(address: SocketAddr, request: &Request, connections: usize, until: Until) -> Result<Outcome> {
    let bytes = request.bytes();
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut clients = Vec::with_capacity(connections);
    for index in 0..connections {
        let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let data = epoll::EventData::new_u64(u64::try_from(index)?);
        let interest = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&poll, &stream, data, interest)?;
        clients.push(Client { stream, sent: Instant::now(), unsent: 0, reply: Vec::new(), busy: false });
    }
    let started = Instant::now();
    let (mut outcome, mut begun) = (Outcome::default(), 0_u64);
    let mut next = |now: Instant| {
        let more = match until {
            Until::Requests(all) => begun < all,
            Until::After(limit) => now.duration_since(started) < limit,
        };
        begun += u64::from(more);
        more
    };
    for client in &mut clients {
        if next(Instant::now()) {
            client.begin(&bytes)?;
        }
    }
    let mut events = Vec::with_capacity(connections.max(1));
    let stall = Timespec { tv_sec: i64::try_from(STALL_LIMIT.as_secs())?, tv_nsec: 0 };
    while clients.iter().any(|client| client.busy) {
        events.clear();
        epoll::wait(&poll, spare_capacity(&mut events), Some(&stall))?;
        ensure!(!events.is_empty(), "no reply for {STALL_LIMIT:?}");
        for event in events.drain(..) {
            let client = &mut clients[usize::try_from(event.data.u64())?];
            client.write(&bytes)?;
            while let Some(status) = client.read()? {
                match status {
                    200 => {
                        outcome.replies += 1;
                        outcome.latencies.push(client.sent.elapsed());
                    }
                    503 => outcome.refused += 1,
                    _ => bail!("unexpected reply under load: {}", String::from_utf8_lossy(&client.reply)),
                }
                client.reply.clear();
                client.busy = false;
                if !next(Instant::now()) {
                    break;
                }
                client.begin(&bytes)?;
            }
        }
    }
    outcome.elapsed = started.elapsed();
    outcome.latencies.sort_unstable();
    Ok(outcome)
}

struct Client {
    stream: TcpStream,
    sent: Instant,
    /// Bytes of the request that the socket has not taken yet.
    unsent: usize,
    reply: Vec<u8>,
    busy: bool,
}

impl Client {
    fn begin(&mut self, request: &[u8]) -> Result<()> {
        (self.sent, self.unsent, self.busy) = (Instant::now(), request.len(), true);
        self.write(request)
    }

    fn write(&mut self, request: &[u8]) -> Result<()> {
        while self.unsent > 0 {
            match self.stream.write(&request[request.len() - self.unsent..]) {
                Ok(written) => self.unsent -= written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("cannot send under load"),
            }
        }
        Ok(())
    }

    /// The status of the reply when it is whole; it then stands in `reply`.
    fn read(&mut self) -> Result<Option<u16>> {
        let mut buffer = [0; 64 << 10];
        while self.busy {
            if let Some(status) = complete(&self.reply)? {
                return Ok(Some(status));
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => bail!("the connection was closed under load"),
                Ok(length) => self.reply.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error).context("cannot read under load"),
            }
        }
        Ok(None)
    }
}

/// The status of a reply that has arrived whole: head and as many bytes as its Content-Length says.
fn complete(reply: &[u8]) -> Result<Option<u16>> {
    let Some(end) = reply.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&reply[..end]).context("a head that is no text")?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let length = length.with_context(|| format!("no Content-Length in {head:?}"))?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).context("not a status line")?;
    Ok((reply.len() >= end + 4 + length).then_some(status))
}
