use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// A reply of several pieces of memory, of known length.
#[derive(Debug)]
pub(crate) struct Frames {
    frames: VecDeque<Bytes>,
    left: u64,
}

impl Frames {
    pub(crate) fn new(frames: Vec<Bytes>) -> Self {
        let left = frames.iter().map(|frame| u64::try_from(frame.len()).unwrap_or(u64::MAX)).sum();
        Self { frames: frames.into(), left }
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = self.frames.pop_front();
        if let Some(frame) = &frame {
            self.left = self.left.saturating_sub(u64::try_from(frame.len()).unwrap_or(u64::MAX));
        }
        Poll::Ready(frame.map(|frame| Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
