//! One end of a socket that carries frames, and files beside them.
//!
//! `SOCK_SEQPACKET`: a frame is a message, whole or not at all, and the end of the process at the other end is seen at
//! once. The daemon takes no files from a worker: the kernel drops what it sends.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, sendmsg, socketpair,
};

use crate::Error;
use crate::frame::MAX_FRAME;

/// Both ends of a new lane.
///
/// # Errors
/// [`Error::Socket`].
pub fn pair() -> Result<(Lane, OwnedFd), Error> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|error| Error::Socket(error.into()))?;
    Ok((Lane::new(ours), theirs))
}

/// One end.
#[derive(Debug)]
pub struct Lane {
    socket: OwnedFd,
    buffer: Vec<u8>,
    limit: Option<Duration>,
}

/// A frame and the file that came with it.
#[derive(Debug)]
pub struct Received<'buffer> {
    pub frame: &'buffer [u8],
    pub file: Option<OwnedFd>,
}

impl Lane {
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, buffer: vec![0; MAX_FRAME], limit: None }
    }

    /// How long a receive, and a send to an end that does not read, may take.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn set_limit(&mut self, limit: Duration) -> Result<(), Error> {
        if self.limit != Some(limit) {
            for side in [Timeout::Recv, Timeout::Send] {
                set_socket_timeout(&self.socket, side, Some(limit))
                    .map_err(|error| Error::Socket(error.into()))?;
            }
            self.limit = Some(limit);
        }
        Ok(())
    }

    /// # Errors
    /// [`Error::Closed`], when the other end is gone; [`Error::Send`].
    pub fn send(&self, frame: &[u8], file: Option<BorrowedFd<'_>>) -> Result<(), Error> {
        send(self.socket.as_fd(), frame, file).map_err(|error| self.failed(error, Error::Send))
    }

    /// The next frame; a file that comes with it is dropped.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Silent`], [`Error::Receive`].
    pub fn receive(&mut self) -> Result<&[u8], Error> {
        let received = retry_on_intr(|| recv(&self.socket, &mut self.buffer[..], RecvFlags::TRUNC));
        let (_, len) = received.map_err(|error| self.failed(error, Error::Receive))?;
        whole(&self.buffer, len)
    }

    /// As [`Lane::receive`], into memory of its own: for the rare answer that comes while the lane is shared.
    ///
    /// # Errors
    /// As [`Lane::receive`].
    pub fn receive_owned(&self) -> Result<Vec<u8>, Error> {
        let mut buffer = vec![0; MAX_FRAME];
        let received = retry_on_intr(|| recv(&self.socket, &mut buffer[..], RecvFlags::TRUNC));
        let (_, len) = received.map_err(|error| self.failed(error, Error::Receive))?;
        whole(&buffer, len).map(<[u8]>::to_vec)
    }

    /// The next frame and its file.
    ///
    /// # Errors
    /// As [`Lane::receive`].
    pub fn receive_with_file(&mut self) -> Result<Received<'_>, Error> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::TRUNC;
        let received = retry_on_intr(|| {
            recvmsg(&self.socket, &mut [IoSliceMut::new(&mut self.buffer)], &mut control, flags)
        });
        let len = received.map_err(|error| self.failed(error, Error::Receive))?.bytes;
        let mut file = None;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                file = files.last();
            }
        }
        Ok(Received { frame: whole(&self.buffer, len)?, file })
    }

    fn failed(&self, error: Errno, what: impl FnOnce(std::io::Error) -> Error) -> Error {
        match error {
            Errno::AGAIN => Error::Silent { limit_ms: self.limit.unwrap_or_default().as_millis() },
            Errno::PIPE | Errno::CONNRESET => Error::Closed,
            error => what(error.into()),
        }
    }
}

/// A message of no bytes is the end: no frame is empty.
fn whole(buffer: &[u8], len: usize) -> Result<&[u8], Error> {
    match len {
        0 => Err(Error::Closed),
        len => buffer.get(..len).ok_or(Error::Frame(crate::frame::FrameError::TooLong { len })),
    }
}

fn send(socket: BorrowedFd<'_>, frame: &[u8], file: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let Some(file) = file else {
        // A worker has no other call left to send by: files that it sent would count against the daemon's own.
        return retry_on_intr(|| rustix::net::send(socket, frame, SendFlags::NOSIGNAL)).map(|_| ());
    };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [file];
    if !control.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(Errno::NOBUFS);
    }
    let parts = [IoSlice::new(frame)];
    // A message is sent whole or not at all.
    retry_on_intr(|| sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL)).map(|_| ())
}
