//! Reading a request's body: within the limit, the byte budget and the deadline, and with one copy at most.

use std::future::poll_fn;
use std::io::Read;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use axum::body::Body;
use bytes::{Buf as _, Bytes, BytesMut};
use flate2::read::{GzDecoder, ZlibDecoder};
use http_body::Body as _;
use http_body_util::BodyExt;
use serve::{Reservation, Serve};
use tokio::time::{Instant, timeout_at};
use wire::{Error, ErrorCode};

/// An unread body up to this many bytes is worth reading to keep the connection.
const DRAIN_BELOW: u64 = 64 << 10;

/// How the body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
    Deflate,
}

impl Encoding {
    /// By the name that HTTP and gRPC give it, which is zlib (RFC 1950) for `deflate`.
    pub(crate) fn named(name: &[u8]) -> Option<Self> {
        match name {
            b"identity" => Some(Self::Identity),
            b"gzip" => Some(Self::Gzip),
            b"deflate" => Some(Self::Deflate),
            _ => None,
        }
    }
}

/// The part of the byte budget that a request has, and how much of it is spent.
#[derive(Debug)]
pub(crate) struct Budget {
    reservation: Reservation,
    /// Reserved and not spent yet.
    ahead: u64,
}

impl Budget {
    /// Room for `bytes` that are about to be read. Refused here, they have not been.
    pub(crate) fn reserve(serve: &Serve, bytes: u64) -> Result<Self, Error> {
        Ok(Self { reservation: serve.reserve(bytes)?, ahead: bytes })
    }

    pub(crate) fn spend(&mut self, bytes: usize) -> Result<(), Error> {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        match self.ahead.checked_sub(bytes) {
            Some(left) => self.ahead = left,
            None => {
                self.reservation.grow(bytes - self.ahead)?;
                self.ahead = 0;
            }
        }
        Ok(())
    }

    pub(crate) fn into_reservation(self) -> Reservation {
        self.reservation
    }
}

/// Why a body cannot be read on.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// It did not arrive in time.
    Late,
    /// It ended too early, or its framing is broken.
    Malformed,
    Refused(Error),
}

impl ReadError {
    pub(crate) const LATE: &str = "the body did not arrive in time (body_timeout_ms)";
    pub(crate) const MALFORMED: &str = "the body is malformed or ended too early";
}

impl From<Error> for ReadError {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

pub(crate) fn over_limit(limit: u64) -> Error {
    let text = format!("the body is over the limit of {limit} bytes (body_limit_bytes)");
    Error::new(ErrorCode::TooLarge, text)
}

/// A body that is read piece by piece. Pieces are views into the connection's read buffer.
#[derive(Debug)]
pub(crate) struct Reader {
    body: Body,
    pending: Bytes,
    /// What had arrived behind a piece that was unpacked into `pending`.
    behind: Bytes,
    /// What may still come before the body is over the limit.
    allowance: u64,
    limit: u64,
    /// `None`: a stream that waits for its next message.
    deadline: Option<Instant>,
    /// When the last piece came.
    arrived: Instant,
    ended: bool,
}

impl Reader {
    pub(crate) fn new(body: Body, limit: u64, time: Duration) -> Self {
        let ended = body.is_end_stream();
        let arrived = Instant::now();
        Self {
            body,
            pending: Bytes::new(),
            behind: Bytes::new(),
            allowance: limit,
            limit,
            deadline: Some(arrived + time),
            arrived,
            ended,
        }
    }

    /// When the last piece came that was read, or the header where none was.
    pub(crate) fn arrived(&self) -> std::time::Instant {
        self.arrived.into_std()
    }

    /// Bytes that are still to come, when the client announced how many.
    pub(crate) fn left(&self) -> Option<u64> {
        let pending = u64::try_from(self.pending.len() + self.behind.len()).unwrap_or(u64::MAX);
        if self.ended { Some(pending) } else { Some(self.body.size_hint().exact()?.saturating_add(pending)) }
    }

    /// Bytes that may still come before the body is over the limit.
    pub(crate) fn allowance(&self) -> u64 {
        self.left().unwrap_or(self.allowance)
    }

    pub(crate) fn over_limit(&self) -> Error {
        over_limit(self.limit)
    }

    /// Makes `pending` non-empty; false at the end of the body.
    async fn advance(&mut self) -> Result<bool, ReadError> {
        while self.pending.is_empty() {
            if !self.behind.is_empty() {
                self.pending = std::mem::take(&mut self.behind);
                break;
            }
            if self.ended {
                return Ok(false);
            }
            let frame = match self.deadline {
                Some(deadline) => {
                    timeout_at(deadline, self.body.frame()).await.map_err(|_| ReadError::Late)?
                }
                None => self.body.frame().await,
            };
            match frame {
                None => self.ended = true,
                Some(Err(_)) => return Err(ReadError::Malformed),
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
                    self.allowance = self.allowance.checked_sub(length).ok_or_else(|| self.over_limit())?;
                    self.pending = data;
                    self.arrived = Instant::now();
                }
            }
        }
        Ok(true)
    }

    /// Exactly `length` bytes in one piece, without a copy when they came in one. `Ok(None)`: the body is shorter.
    pub(crate) async fn take(
        &mut self,
        length: usize,
        budget: &mut Budget,
    ) -> Result<Option<Bytes>, ReadError> {
        if length > 0 && !self.advance().await? {
            return Ok(None);
        }
        if self.pending.len() >= length {
            budget.spend(length)?;
            return Ok(Some(self.pending.split_to(length)));
        }
        let mut whole = BytesMut::new();
        while whole.len() < length {
            if !self.advance().await? {
                return Ok(None);
            }
            let piece = self.pending.split_to(self.pending.len().min(length - whole.len()));
            budget.spend(piece.len())?;
            whole.extend_from_slice(&piece);
        }
        Ok(Some(whole.freeze()))
    }

    /// All that is left, in one piece.
    pub(crate) async fn rest(&mut self, budget: &mut Budget) -> Result<Bytes, ReadError> {
        if !self.advance().await? {
            return Ok(Bytes::new());
        }
        let first = std::mem::take(&mut self.pending);
        budget.spend(first.len())?;
        if !self.advance().await? {
            return Ok(first);
        }
        let expected = usize::try_from(self.left().unwrap_or_default()).unwrap_or_default();
        let mut whole = BytesMut::with_capacity(first.len().saturating_add(expected));
        whole.extend_from_slice(&first);
        while self.advance().await? {
            budget.spend(self.pending.len())?;
            whole.extend_from_slice(&std::mem::take(&mut self.pending));
        }
        Ok(whole.freeze())
    }

    /// Fills `place` from the body; how many bytes it lacks at the end of the body.
    pub(crate) async fn fill(&mut self, mut place: &mut [u8]) -> Result<usize, ReadError> {
        while !place.is_empty() {
            if !self.advance().await? {
                break;
            }
            let piece = self.pending.split_to(self.pending.len().min(place.len()));
            let (filled, rest) = place.split_at_mut(piece.len());
            filled.copy_from_slice(&piece);
            place = rest;
        }
        Ok(place.len())
    }

    /// Appends `length` bytes; how many the body lacks.
    pub(crate) async fn append(
        &mut self,
        mut length: usize,
        out: &mut Vec<u8>,
        budget: &mut Budget,
    ) -> Result<usize, ReadError> {
        while length > 0 && self.advance().await? {
            let piece = self.pending.split_to(self.pending.len().min(length));
            budget.spend(piece.len())?;
            out.extend_from_slice(&piece);
            length -= piece.len();
        }
        Ok(length)
    }

    /// Throws `length` bytes away; how many the body lacks.
    pub(crate) async fn skip(&mut self, mut length: u64) -> Result<u64, ReadError> {
        while length > 0 && self.advance().await? {
            let piece = usize::try_from(length).unwrap_or(usize::MAX).min(self.pending.len());
            self.pending.advance(piece);
            length -= u64::try_from(piece).unwrap_or(u64::MAX);
        }
        Ok(length)
    }

    /// What follows is judged by its own length, and has until `deadline`.
    pub(crate) fn renew(&mut self, deadline: Option<Instant>) {
        self.allowance = u64::MAX;
        self.deadline = deadline;
    }

    /// The next byte; `None` at the end of the body.
    pub(crate) async fn byte(&mut self) -> Result<Option<u8>, ReadError> {
        let more = !self.pending.is_empty() || self.advance().await?;
        Ok(more.then(|| self.pending.get_u8()))
    }

    /// Whether the body has nothing more.
    pub(crate) async fn is_empty(&mut self) -> Result<bool, ReadError> {
        Ok(!self.advance().await?)
    }

    /// Unpacks the rest of the body. The result is read as if it had been sent plain.
    pub(crate) async fn unpack(&mut self, encoding: Encoding, budget: &mut Budget) -> Result<(), ReadError> {
        if encoding == Encoding::Identity {
            return Ok(());
        }
        let packed = self.rest(budget).await?;
        self.pending = inflate(&packed, encoding, self.limit, budget).await?;
        Ok(())
    }

    /// Unpacks the next `length` bytes and says how many they are then: at most `limit`. They are read as if they had
    /// been sent plain. After [`ReadError::Refused`] they are gone, and the body goes on behind them.
    ///
    /// What was unpacked before has been read to its end, and `budget` has room for `length` bytes.
    pub(crate) async fn unpack_next(
        &mut self,
        length: u64,
        encoding: Encoding,
        limit: u64,
        budget: &mut Budget,
    ) -> Result<u64, ReadError> {
        let length = usize::try_from(length).map_err(|_| over_limit(limit))?;
        let packed = self.take(length, budget).await?.ok_or(ReadError::Malformed)?;
        let plain = inflate(&packed, encoding, limit, budget).await?;
        if self.pending.is_empty() {
            self.pending = std::mem::take(&mut self.behind);
        }
        let length = u64::try_from(plain.len()).unwrap_or(u64::MAX);
        self.behind = std::mem::replace(&mut self.pending, plain);
        Ok(length)
    }

    /// Takes the little that has arrived already; true when that was all, so that the connection can go on.
    pub(crate) async fn drain_arrived(&mut self) -> bool {
        if self.left().is_none_or(|left| left > DRAIN_BELOW) {
            return self.ended;
        }
        poll_fn(|cx| {
            while !self.ended {
                match Pin::new(&mut self.body).poll_frame(cx) {
                    Poll::Ready(None) => self.ended = true,
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(Some(Err(_))) | Poll::Pending => break,
                }
            }
            Poll::Ready(self.ended)
        })
        .await
    }
}

/// What `packed` is when it is unpacked: at most `limit` bytes, each with room in the budget before it is kept.
async fn inflate(
    packed: &[u8],
    encoding: Encoding,
    limit: u64,
    budget: &mut Budget,
) -> Result<Bytes, ReadError> {
    let mut decoder: Box<dyn Read + Send + '_> = match encoding {
        Encoding::Identity => Box::new(packed),
        Encoding::Gzip => Box::new(GzDecoder::new(packed)),
        Encoding::Deflate => Box::new(ZlibDecoder::new(packed)),
    };
    let mut plain = Vec::new();
    let mut piece = vec![0_u8; 64 << 10];
    loop {
        // Other connections share this thread.
        tokio::task::yield_now().await;
        let read =
            decoder.read(&mut piece).map_err(|_| Error::invalid("the compressed body is malformed"))?;
        if read == 0 {
            return Ok(plain.into());
        }
        if u64::try_from(plain.len() + read).unwrap_or(u64::MAX) > limit {
            return Err(over_limit(limit).into());
        }
        budget.spend(read)?;
        plain.extend_from_slice(piece.get(..read).unwrap_or_default());
    }
}
