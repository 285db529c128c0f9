//! What travels between the daemon and a worker, version 1.
//!
//! **Sockets.** All are `AF_UNIX`, `SOCK_SEQPACKET`: one frame is one message of at most [`MAX_FRAME`] bytes. The
//! *control* socket is the worker's stdin. Every further socket is a *lane*: it carries one conversation, request and
//! answer in turn, and is closed by the daemon when its engine is dropped. The end of the control socket ends the
//! worker.
//!
//! **A frame** is `version: u8 = 1`, `kind: u8`, fields. Fields are little-endian and not aligned: integers; `usize` as
//! u64; a bool as u8, 0 or 1; text and lists as a u32 count and the elements; an optional value as a bool and the value.
//! Nothing may follow the last field. Whoever reads a frame that is not so ends the conversation, and the daemon ends
//! the worker.
//!
//! | to the worker | kind | with a file | answered by |
//! |---|---|---|---|
//! | [`Start`], first on the control socket | 1 | the arena | `Ready` or `NotReady` |
//! | `Open` on the control socket | 2 | a lane | nothing |
//! | [`Load`], first on a lane | 3 | | `Loaded` or `Refused`; the lane is then the model's |
//! | `Build` of what `Loaded` announced, first on a lane | 4 | | `Progress` any number of times, then as `Load` |
//! | [`Run`] | 5 | the overflow, if there is one | `Done` or `Failed` |
//! | `Share` | 6 | a lane for another engine over the same weights | `Shared` |
//! | `Fetch` of what `Done` held back | 7 | memory for it | `Fetched` |
//!
//! | to the daemon | kind |
//! |---|---|
//! | `Ready` 1, `NotReady` 2, [`LoadedModel`] 3, `Refused` 4, `Progress` 5, `Done` 6, `Failed` 7, `Shared` 8, `Fetched` 9 | |
//!
//! **Memory.** Files are memfds sealed against any change of length. The *arena* is mapped by both ends for the
//! worker's life; only the daemon allocates in it. A [`Span`] is a part of segment 0, the arena, or of segment 1, the
//! *overflow*: memory for one run, for inputs that the arena had no room for, each at a multiple of 64 bytes. A run lends
//! places for outputs, all in the arena. The worker puts each member's output into the place of that output and says
//! where ([`At::Lent`]), or holds it back and says how long it is ([`At::Held`]). What is held back is fetched in one
//! piece: the outputs in the order of `Done`, members first, each at a multiple of 64 bytes. The worker keeps it until
//! the next frame on the lane.
//!
//! **Trust.** The worker may believe the daemon. The daemon believes nothing: [`ToDaemon::decode`] is total, and
//! what it gives is checked against what was lent before memory is touched.

mod codec;
mod words;

use std::path::PathBuf;

use engine::{DataType, EngineError, LoadError, LoadOptions, ModelSource, Placement, Provider, Signature};

use codec::{Reader, Word, Writer, words};

pub use codec::FrameError;

/// The format above; both ends must be of the same.
pub const VERSION: u8 = 1;

/// Below what one message on a socket with the system's smallest usual buffer may have (212 992 bytes).
pub const MAX_FRAME: usize = 128 << 10;

/// What a worker is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Whether it serves one model on the CPU, and may close the file system after its load.
    pub one_model: bool,
    pub settings: String,
    pub readable: Vec<PathBuf>,
    pub writable: Vec<PathBuf>,
    pub memory_limit_bytes: Option<u64>,
}

#[derive(Debug, Clone)]
pub struct Load {
    pub source: ModelSource,
    pub options: LoadOptions,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Repeated in the answer.
    pub run: u64,
    pub members: Vec<RunMember>,
    /// One per output.
    pub places: Vec<LentPlace>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunMember {
    pub id: u64,
    pub inputs: Vec<Input>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    pub datatype: DataType,
    pub shape: Vec<usize>,
    pub at: Span,
}

/// Room for one output of the whole batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LentPlace {
    /// Where it is known; the room then has exactly its bytes.
    pub shape: Option<Vec<usize>>,
    pub at: Option<Span>,
}

/// Part of a segment, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub segment: u8,
    pub offset: usize,
    pub len: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub datatype: DataType,
    pub shape: Vec<usize>,
    pub at: At,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    Lent(Span),
    Held { len: usize },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedModel {
    pub signature: Signature,
    pub placement: Placement,
    /// A better engine that can be built, and its number for `Build`.
    pub pending: Option<(Provider, u64)>,
    /// What the worker gave up since `Ready`.
    pub fences: Vec<FenceReport>,
}

#[derive(Debug)]
pub enum ToWorker {
    Start(Start),
    Open,
    Load(Load),
    Build { number: u64 },
    Run(Run),
    Share,
    Fetch { run: u64 },
}

#[derive(Debug)]
pub enum ToDaemon {
    Ready { sandbox: SandboxReport },
    NotReady { detail: String },
    Loaded(LoadedModel),
    Refused(LoadError),
    Progress { done: u32, total: Option<u32> },
    Done { run: u64, members: Vec<Vec<Output>> },
    Failed { run: u64, error: EngineError },
    Shared { shared: bool },
    Fetched { run: u64 },
}

/// One thing a worker gives up, or a bound on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fence {
    /// It ends with the daemon (`PR_SET_PDEATHSIG`).
    ParentDeath,
    /// No core file, and nobody of the same user may trace it (`PR_SET_DUMPABLE`, `RLIMIT_CORE`).
    Dumpable,
    /// Only the daemon's files are open.
    OpenFiles,
    /// The kernel takes it first when memory is short (`oom_score_adj`).
    OomFirst,
    /// `RLIMIT_DATA`.
    MemoryLimit,
    /// A network of its own, without an interface that is up.
    Network,
    Capabilities,
    /// `PR_SET_NO_NEW_PRIVS`
    NewPrivileges,
    /// Reads its models, writes nothing but the cache of a GPU worker.
    Landlock,
    /// No socket, no program, no tracing, nothing that changes the system.
    Seccomp,
    /// No file at all, once its model is loaded.
    Files,
}

impl Fence {
    pub const ALL: [Fence; 11] = [
        Fence::ParentDeath,
        Fence::Dumpable,
        Fence::OpenFiles,
        Fence::OomFirst,
        Fence::MemoryLimit,
        Fence::Network,
        Fence::Capabilities,
        Fence::NewPrivileges,
        Fence::Landlock,
        Fence::Seccomp,
        Fence::Files,
    ];

    /// The word in logs, `mast status` and `mast doctor`.
    pub const fn name(self) -> &'static str {
        match self {
            Fence::ParentDeath => "parent-death",
            Fence::Dumpable => "dumpable",
            Fence::OpenFiles => "open-files",
            Fence::OomFirst => "oom-first",
            Fence::MemoryLimit => "memory-limit",
            Fence::Network => "network",
            Fence::Capabilities => "capabilities",
            Fence::NewPrivileges => "no-new-privileges",
            Fence::Landlock => "landlock",
            Fence::Seccomp => "seccomp",
            Fence::Files => "files",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceState {
    Enforced,
    Partial,
    Unavailable,
}

impl FenceState {
    pub const fn name(self) -> &'static str {
        match self {
            FenceState::Enforced => "enforced",
            FenceState::Partial => "partial",
            FenceState::Unavailable => "unavailable",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FenceReport {
    pub fence: Fence,
    pub state: FenceState,
    /// What was enforced, or why not.
    pub detail: String,
}

/// What the kernel gave. It is the worker's own word, given before it read a model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SandboxReport {
    pub fences: Vec<FenceReport>,
}

impl SandboxReport {
    pub fn state(&self, fence: Fence) -> Option<FenceState> {
        self.fences.iter().find(|report| report.fence == fence).map(|report| report.state)
    }
}

words! {
    Start { one_model, settings, readable, writable, memory_limit_bytes }
    Load { source, options }
    Run { run, members, places }
    RunMember { id, inputs }
    Input { datatype, shape, at }
    LentPlace { shape, at }
    Span { segment, offset, len }
    Output { datatype, shape, at }
    LoadedModel { signature, placement, pending, fences }
    FenceReport { fence, state, detail }
    SandboxReport { fences }
}

impl ToWorker {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::frame(match self {
            ToWorker::Start(_) => 1,
            ToWorker::Open => 2,
            ToWorker::Load(_) => 3,
            ToWorker::Build { .. } => 4,
            ToWorker::Run(_) => 5,
            ToWorker::Share => 6,
            ToWorker::Fetch { .. } => 7,
        });
        match self {
            ToWorker::Start(start) => start.write(&mut out),
            ToWorker::Load(load) => load.write(&mut out),
            ToWorker::Build { number } => number.write(&mut out),
            ToWorker::Run(run) => run.write(&mut out),
            ToWorker::Fetch { run } => run.write(&mut out),
            ToWorker::Open | ToWorker::Share => {}
        }
        out.into_bytes()
    }

    /// # Errors
    /// [`FrameError`]: this is no such frame.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        Reader::frame(bytes, |kind, from| {
            Ok(match kind {
                1 => ToWorker::Start(Word::read(from)?),
                2 => ToWorker::Open,
                3 => ToWorker::Load(Word::read(from)?),
                4 => ToWorker::Build { number: Word::read(from)? },
                5 => ToWorker::Run(Word::read(from)?),
                6 => ToWorker::Share,
                7 => ToWorker::Fetch { run: Word::read(from)? },
                got => return Err(FrameError::Kind { got }),
            })
        })
    }
}

impl ToDaemon {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::frame(match self {
            ToDaemon::Ready { .. } => 1,
            ToDaemon::NotReady { .. } => 2,
            ToDaemon::Loaded(_) => 3,
            ToDaemon::Refused(_) => 4,
            ToDaemon::Progress { .. } => 5,
            ToDaemon::Done { .. } => 6,
            ToDaemon::Failed { .. } => 7,
            ToDaemon::Shared { .. } => 8,
            ToDaemon::Fetched { .. } => 9,
        });
        match self {
            ToDaemon::Ready { sandbox } => sandbox.write(&mut out),
            ToDaemon::NotReady { detail } => detail.write(&mut out),
            ToDaemon::Loaded(loaded) => loaded.write(&mut out),
            ToDaemon::Refused(error) => error.write(&mut out),
            ToDaemon::Progress { done, total } => {
                done.write(&mut out);
                total.write(&mut out);
            }
            ToDaemon::Done { run, members } => {
                run.write(&mut out);
                members.write(&mut out);
            }
            ToDaemon::Failed { run, error } => {
                run.write(&mut out);
                error.write(&mut out);
            }
            ToDaemon::Shared { shared } => shared.write(&mut out),
            ToDaemon::Fetched { run } => run.write(&mut out),
        }
        out.into_bytes()
    }

    /// Total: any bytes give a frame or an error, in time and memory of the order of their length.
    ///
    /// # Errors
    /// [`FrameError`]: this is no such frame.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        Reader::frame(bytes, |kind, from| {
            Ok(match kind {
                1 => ToDaemon::Ready { sandbox: Word::read(from)? },
                2 => ToDaemon::NotReady { detail: Word::read(from)? },
                3 => ToDaemon::Loaded(Word::read(from)?),
                4 => ToDaemon::Refused(Word::read(from)?),
                5 => ToDaemon::Progress { done: Word::read(from)?, total: Word::read(from)? },
                6 => ToDaemon::Done { run: Word::read(from)?, members: Word::read(from)? },
                7 => ToDaemon::Failed { run: Word::read(from)?, error: Word::read(from)? },
                8 => ToDaemon::Shared { shared: Word::read(from)? },
                9 => ToDaemon::Fetched { run: Word::read(from)? },
                got => return Err(FrameError::Kind { got }),
            })
        })
    }
}

#[cfg(test)]
mod tests;
