//! Tries what no worker may, before its model is loaded and after, and answers with what became of it.

use std::fs::{self, File};
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use engine::{
    Backend, Batch, Buffer, DataType, Device, Dim, Engine, EngineError, LoadError, LoadOptions, Loaded,
    ModelSource, Outputs, Placement, Provider, Signature, Tensor, TensorSpec,
};
use rustix::process::{Pid, Signal, getppid, kill_process};

#[derive(Debug)]
pub(crate) struct AttemptBackend;

#[derive(Debug)]
struct AttemptEngine {
    signature: Signature,
    placement: Placement,
    model: PathBuf,
    /// What became of the attempts while loading.
    loading: Vec<String>,
}

impl Backend for AttemptBackend {
    fn device(&self) -> Device {
        Device { id: "cpu".to_owned(), name: "CPU".to_owned() }
    }

    fn providers(&self) -> &[Provider] {
        &[Provider::Cpu]
    }

    fn load(&self, source: &ModelSource, _options: &LoadOptions) -> Result<Loaded, LoadError> {
        let spec = |name: &str| TensorSpec {
            name: name.to_owned(),
            datatype: DataType::Bytes,
            shape: vec![Dim::Dynamic(None)],
        };
        let signature =
            Signature { inputs: vec![spec("input")], outputs: vec![spec("loading"), spec("running")] };
        let placement = Placement {
            provider: Provider::Cpu,
            device: self.device(),
            attempts: Vec::new(),
            assignments: Vec::new(),
        };
        let loading = attempts(&source.path);
        let engine = AttemptEngine { signature, placement, model: source.path.clone(), loading };
        Ok(Loaded { engine: Box::new(engine), pending: None })
    }
}

impl Engine for AttemptEngine {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn placement(&self) -> &Placement {
        &self.placement
    }

    fn run(&mut self, batch: &Batch) -> Result<Vec<Outputs>, EngineError> {
        let outputs = vec![texts(&self.loading)?, texts(&attempts(&self.model))?];
        Ok(batch.members.iter().map(|_| outputs.clone()).collect())
    }
}

fn texts(texts: &[String]) -> Result<Tensor, EngineError> {
    let mut framed = Vec::new();
    for text in texts {
        framed.extend_from_slice(&u32::try_from(text.len()).unwrap_or_default().to_le_bytes());
        framed.extend_from_slice(text.as_bytes());
    }
    Tensor::new(DataType::Bytes, vec![texts.len()], Buffer::copy_from(&framed))
        .map_err(|error| EngineError::Run { detail: error.to_string() })
}

/// "what: allowed" or "what: refused (why)".
fn attempts(model: &Path) -> Vec<String> {
    let beside = model.with_file_name("written-by-the-worker");
    let attempts: [(&str, io::Result<()>); 19] = [
        ("read the model", fs::read(model).map(drop)),
        ("read /etc/passwd", fs::read("/etc/passwd").map(drop)),
        ("read its environment", fs::read("/proc/self/environ").map(drop)),
        ("list /", fs::read_dir("/").map(drop)),
        ("write beside the model", File::create(&beside).map(drop)),
        ("write to /tmp", File::create("/tmp/mast-attempt").map(drop)),
        ("listen on TCP", TcpListener::bind("127.0.0.1:0").map(drop)),
        ("connect by TCP", TcpStream::connect("127.0.0.1:80").map(drop)),
        ("make a UDP socket", UdpSocket::bind("127.0.0.1:0").map(drop)),
        ("make a unix socket", UnixStream::pair().map(drop)),
        ("run a program", Command::new("/bin/true").status().map(drop)),
        ("signal the daemon", signal_parent()),
        ("raise a limit", raise_limit()),
        ("bind the daemon to a processor", bind_parent()),
        ("have the daemon signalled", own_for_parent()),
        ("share memory of no file", share_memory()),
        ("send a file", send_file()),
        (
            "be traced again",
            rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)
                .map_err(Into::into),
        ),
        ("start a thread", std::thread::Builder::new().spawn(|| {}).map(|thread| drop(thread.join()))),
    ];
    let told = attempts.into_iter().map(|(what, result)| match result {
        Ok(()) => format!("{what}: allowed"),
        Err(error) => format!("{what}: refused ({error})"),
    });
    told.collect()
}

fn signal_parent() -> io::Result<()> {
    let parent: Pid = getppid().ok_or_else(|| io::Error::other("no parent"))?;
    // Of no effect on a test that does not stop at it.
    Ok(kill_process(parent, Signal::CONT)?)
}

fn raise_limit() -> io::Result<()> {
    let unlimited = rustix::process::Rlimit { current: None, maximum: None };
    Ok(rustix::process::setrlimit(rustix::process::Resource::Core, unlimited)?)
}

fn bind_parent() -> io::Result<()> {
    let parent: Pid = getppid().ok_or_else(|| io::Error::other("no parent"))?;
    // To what it may use already.
    let processors = rustix::thread::sched_getaffinity(Some(parent))?;
    Ok(rustix::thread::sched_setaffinity(Some(parent), &processors)?)
}

#[allow(unsafe_code)]
fn own_for_parent() -> io::Result<()> {
    let parent: Pid = getppid().ok_or_else(|| io::Error::other("no parent"))?;
    // SAFETY: takes two numbers and touches no memory.
    match unsafe { libc::fcntl(0, libc::F_SETOWN, parent.as_raw_pid()) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[allow(unsafe_code)]
fn share_memory() -> io::Result<()> {
    let (access, shared) = (rustix::mm::ProtFlags::READ, rustix::mm::MapFlags::SHARED);
    // SAFETY: a new mapping, of which nothing is read and which is unmapped at once.
    unsafe {
        let start = rustix::mm::mmap_anonymous(std::ptr::null_mut(), 4096, access, shared)?;
        Ok(rustix::mm::munmap(start, 4096)?)
    }
}

/// To nowhere: what is asked is whether the call is there.
fn send_file() -> io::Result<()> {
    use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
    let sent = sendmsg(io::stderr(), &[], &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL);
    match sent {
        Err(rustix::io::Errno::NOTSOCK) => Ok(()),
        other => Ok(other.map(drop)?),
    }
}
