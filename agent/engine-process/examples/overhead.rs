//! What a worker process costs: the same model, the same input, in turn in this process and in a worker.
//!
//! `cargo run --release -p mast-engine-process --example overhead [-- WINDOWS [MODEL.onnx…]]`
//!
//! With models named, only these are measured, each also against itself in this process (the A/A row): what that row
//! shows is the noise of the machine.
//!
//! Windows of 200 ms alternate between the two, first one and then the other first, so that both meet the same
//! neighbours. Told are medians over the windows: of each window's own median latency, of its CPU time (both processes)
//! per run, and of what a worker's window adds to that of its pair. As in the daemon the engine lives on a thread of its
//! own that is woken for each request, the input is written into the engine's memory by the caller, and the caller reads
//! every byte of the output.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use engine::{
    Backend, Batch, BufferMut, Dim, Engine, EngineError, EngineThread, Feed, LoadOptions, Member, MemberId,
    Memory, ModelSource, Outputs, Provider, Tensor, TensorSpec, Work, element_count,
};
use engine_ort::OrtBackend;
use mast_engine_process::{Config, ProcessBackend, WorkerProgram, serve_worker, socket_from_stdin};
use rustix::process::{Pid, Signal, kill_process};

#[path = "../../engine-ort/tests/it/onnx.rs"]
#[allow(dead_code, unreachable_pub)]
mod onnx;

type Failure = Box<dyn std::error::Error>;

const WINDOW: Duration = Duration::from_millis(200);

fn main() -> Result<(), Failure> {
    if std::env::args().nth(1).as_deref() == Some("worker") {
        return Ok(serve_worker(socket_from_stdin()?, |settings| {
            let config = serde_json::from_str(settings).map_err(|error| error.to_string())?;
            let runtime = engine_ort::load(&config).map_err(|error| error.to_string())?;
            Ok(Arc::new(OrtBackend::new(&runtime, &config)))
        })?);
    }
    if std::env::var_os("ORT_DISABLE_TELEMETRY").is_none() {
        use std::os::unix::process::CommandExt;
        let mut again = std::process::Command::new("/proc/self/exe");
        let error = again.args(std::env::args().skip(1)).env("ORT_DISABLE_TELEMETRY", "1").exec();
        return Err(error.into());
    }
    let windows = std::env::args().nth(1).map_or(Ok(40), |count| count.parse())?;
    let named: Vec<PathBuf> = std::env::args_os().skip(2).map(PathBuf::from).collect();
    let ort = engine_ort::Config {
        library: Some(engine_ort::find(&engine_ort::Config::default())?),
        ..engine_ort::Config::default()
    };
    let inline = OrtBackend::new(&engine_ort::load(&ort)?, &ort);
    let program = WorkerProgram {
        program: "/proc/self/exe".into(),
        args: vec!["worker".to_owned()],
        env: [
            Some(("ORT_DISABLE_TELEMETRY".to_owned(), "1".to_owned())),
            std::env::var("GLIBC_TUNABLES").ok().map(|tunables| ("GLIBC_TUNABLES".to_owned(), tunables)),
        ]
        .into_iter()
        .flatten()
        .collect(),
        settings: serde_json::to_string(&ort)?,
        ..WorkerProgram::default()
    };
    let process = ProcessBackend::new(Config::default(), program, inline.devices(), vec![Provider::Cpu]);

    let folder = std::env::temp_dir().join(format!("mast-overhead-{}", std::process::id()));
    let small = made(&folder, "small", 4)?;
    tell("| model | input | output | p50 in process | worker | added | CPU in process | worker | added |");
    tell("|---|---|---|---|---|---|---|---|---|");
    for path in &named {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        measure(&name, path.clone(), &inline, &process, windows)?;
        measure(&format!("{name}, A/A"), path.clone(), &inline, &inline, windows)?;
    }
    if !named.is_empty() {
        return Ok(fs::remove_dir_all(folder)?);
    }
    for (name, path) in [
        ("efficientnet-lite0-int8", cached("efficientnet-lite0-int8")),
        ("efficientnet-lite0", cached("efficientnet-lite0")),
        ("one layer of 64, 150 KiB", Some(made(&folder, "layer", 38_400)?)),
        ("y = x + x, 150 KiB", Some(made(&folder, "double", 38_400)?)),
        ("y = sum(x), 150 KiB", Some(made(&folder, "sum", 38_400)?)),
        ("y = x + x, 16 B", Some(small.clone())),
    ] {
        match path {
            Some(path) => measure(name, path, &inline, &process, windows)?,
            None => tell(&format!("| {name} | not there: cargo xtask setup | | | | | | | |")),
        }
    }
    back("y = x + x", small, &process)?;
    if let Some(path) = cached("efficientnet-lite0-int8") {
        back("efficientnet-lite0-int8", path, &process)?;
    }
    fs::remove_dir_all(folder)?;
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the table is the result")]
fn tell(line: &str) {
    println!("{line}");
}

fn cached(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/models").join(name);
    path.join("1/model.onnx").canonicalize().ok()
}

fn made(folder: &Path, name: &str, width: u64) -> Result<PathBuf, Failure> {
    use onnx::{Dim, FLOAT, Model};
    let wide = |width| [Dim::Name("batch"), Dim::Size(width)];
    let model = match name {
        "layer" => {
            let weights = vec![0x3d_u8; usize::try_from(width * 64 * 4)?];
            let model = Model::new().constant("weights", FLOAT, &[width, 64], &weights);
            model.node("MatMul", &["x", "weights"], "y").output("y", FLOAT, &wide(64))
        }
        "sum" => {
            let one = [Dim::Size(1), Dim::Size(1)];
            Model::new().node("ReduceSum", &["x"], "y").output("y", FLOAT, &one)
        }
        _ => Model::new().node("Add", &["x", "x"], "y").output("y", FLOAT, &wide(width)),
    };
    let folder = folder.join(name);
    fs::create_dir_all(&folder)?;
    let path = folder.join("model.onnx");
    File::create(&path)?.write_all(&model.input("x", FLOAT, &wide(width)).build())?;
    Ok(path)
}

struct Side {
    desk: Arc<Desk>,
    thread: Option<EngineThread>,
    spec: TensorSpec,
    memory: Option<Arc<dyn Memory>>,
    worker: Option<u32>,
    p50_us: Vec<f64>,
    cpu_us: Vec<f64>,
    output_bytes: usize,
}

/// Where the caller and the engine's thread meet: a queue of one.
#[derive(Default)]
struct Desk {
    state: Mutex<Exchange>,
    work: Condvar,
    done: Condvar,
}

#[derive(Default)]
struct Exchange {
    batch: Option<Batch>,
    result: Option<Result<Vec<Outputs>, EngineError>>,
    stop: bool,
}

struct DeskFeed(Arc<Desk>);

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Exchange> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, batch: Batch) -> Result<Vec<Outputs>, EngineError> {
        let mut state = self.lock();
        state.batch = Some(batch);
        self.work.notify_one();
        loop {
            if let Some(result) = state.result.take() {
                return result;
            }
            state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Feed for DeskFeed {
    fn next(&mut self) -> Work {
        let mut state = self.0.lock();
        loop {
            if let Some(batch) = state.batch.take() {
                return Work::Run(batch);
            }
            if state.stop {
                return Work::Stop;
            }
            state = self.0.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn complete(&mut self, batch: Batch, result: Result<Vec<Outputs>, EngineError>, _compute: Duration) {
        drop(batch);
        self.0.lock().result = Some(result);
        self.0.done.notify_one();
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.desk.lock().stop = true;
        self.desk.work.notify_one();
        if let Some(thread) = self.thread.take() {
            thread.join();
        }
    }
}

/// What is measured against the engine in this process.
trait Measured: Backend {
    fn worker(&self) -> Option<u32>;
}

impl Measured for OrtBackend {
    fn worker(&self) -> Option<u32> {
        None
    }
}

impl Measured for ProcessBackend {
    fn worker(&self) -> Option<u32> {
        self.workers().first().map(|worker| worker.pid)
    }
}

fn measure(
    name: &str,
    path: PathBuf,
    inline: &OrtBackend,
    other: &dyn Measured,
    windows: usize,
) -> Result<(), Failure> {
    let source = ModelSource { name: name.to_owned(), version: 1, path };
    let options = LoadOptions { providers: vec![Provider::Cpu], threads: 1, ..LoadOptions::default() };
    let isolated = other.load(&source, &options)?.engine;
    let worker = other.worker();
    let mut here = Side::new(inline.load(&source, &options)?.engine, None)?;
    let mut there = Side::new(isolated, worker)?;
    let mut input_bytes = 0;
    for window in 0..=windows {
        if window % 2 == 0 {
            input_bytes = here.window(window > 0)?;
            there.window(window > 0)?;
        } else {
            there.window(window > 0)?;
            here.window(window > 0)?;
        }
    }
    let added = |there: &[f64], here: &[f64]| -> Vec<f64> {
        there.iter().zip(here).map(|(there, here)| there - here).collect()
    };
    let share: Vec<f64> =
        there.cpu_us.iter().zip(&here.cpu_us).map(|(there, here)| (there / here - 1.0) * 100.0).collect();
    tell(&format!(
        "| {name} | {input_bytes} B | {} B | {:.1} µs | {:.1} µs | {:+.1} µs | {:.1} µs | {:.1} µs | {:+.1} µs, {:+.1} % |",
        there.output_bytes,
        median(&here.p50_us),
        median(&there.p50_us),
        median(&added(&there.p50_us, &here.p50_us)),
        median(&here.cpu_us),
        median(&there.cpu_us),
        median(&added(&there.cpu_us, &here.cpu_us)),
        median(&share),
    ));
    Ok(())
}

/// How long a model is away when its worker is killed.
fn back(name: &str, path: PathBuf, process: &ProcessBackend) -> Result<(), Failure> {
    let source = ModelSource { name: name.to_owned(), version: 1, path };
    let options = LoadOptions { providers: vec![Provider::Cpu], ..LoadOptions::default() };
    let mut times = Vec::new();
    for _ in 0..9 {
        let mut victim = Side::new(process.load(&source, &options)?.engine, None)?;
        let pid = process.workers().first().and_then(|worker| Pid::from_raw(worker.pid.cast_signed()));
        kill_process(pid.ok_or("no worker")?, Signal::KILL)?;
        let killed = Instant::now();
        while victim.once().is_ok() {}
        Side::new(process.load(&source, &options)?.engine, None)?.once()?;
        times.push(killed.elapsed().as_secs_f64() * 1e3);
    }
    tell(&format!("\n{name}: {:.0} ms from kill -9 to the first answer of its next worker", median(&times)));
    Ok(())
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Side {
    fn new(engine: Box<dyn Engine>, worker: Option<u32>) -> Result<Self, Failure> {
        let spec = engine.signature().inputs.first().ok_or("no input")?.clone();
        let memory = engine.memory();
        let desk = Arc::<Desk>::default();
        let thread = Some(EngineThread::spawn("engine", engine, DeskFeed(Arc::clone(&desk)))?);
        Ok(Self {
            desk,
            thread,
            spec,
            memory,
            worker,
            p50_us: Vec::new(),
            cpu_us: Vec::new(),
            output_bytes: 0,
        })
    }

    /// Runs for one window.
    fn window(&mut self, counts: bool) -> Result<usize, Failure> {
        let mut input_bytes = 0;
        let mut times = Vec::new();
        let cpu = self.cpu()?;
        let begun = Instant::now();
        while begun.elapsed() < WINDOW {
            let once = Instant::now();
            input_bytes = self.once()?;
            times.push(once.elapsed().as_secs_f64() * 1e6);
        }
        let spent = self.cpu()? - cpu;
        if counts {
            self.p50_us.push(median(&times));
            self.cpu_us.push(spent.as_secs_f64() * 1e6 / f64::from(u32::try_from(times.len())?));
        }
        Ok(input_bytes)
    }

    /// One request: the input is written into the engine's memory, the output read.
    fn once(&mut self) -> Result<usize, Failure> {
        static BODY: [u8; 1 << 20] = [0x3c; 1 << 20];
        let spec = &self.spec;
        let size = |dim: &Dim| if let Dim::Fixed(size) = dim { *size } else { 1 };
        let shape: Vec<usize> = spec.shape.iter().map(size).collect();
        let datatype = spec.datatype;
        let len = element_count(&shape)? * datatype.size().ok_or("a text input")?;
        let memory = self.memory.as_ref();
        let mut buffer = memory.map_or_else(|| BufferMut::heap(len), |memory| memory.allocate(len));
        buffer.bytes_mut().copy_from_slice(BODY.get(..len).ok_or("a larger input")?);
        let inputs = vec![Tensor::new(datatype, shape, buffer.freeze())?];
        let outputs = self.desk.run(Batch { members: vec![Member { id: MemberId(0), inputs }] })?;
        let (mut sum, mut bytes) = (0_u64, 0);
        for output in outputs.iter().flatten() {
            let words = output.data().bytes().as_chunks::<8>().0;
            sum = words.iter().fold(sum, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)));
            bytes += output.data().len();
        }
        std::hint::black_box(sum);
        self.output_bytes = bytes;
        Ok(len)
    }

    /// CPU time of this process and of the worker, from the scheduler's own nanoseconds.
    fn cpu(&self) -> Result<Duration, Failure> {
        let mut total = spent("/proc/self/task".as_ref())?;
        if let Some(pid) = self.worker {
            total += spent(format!("/proc/{pid}/task").as_ref())?;
        }
        Ok(total)
    }
}

fn spent(tasks: &Path) -> Result<Duration, Failure> {
    let mut nanoseconds = 0;
    for task in fs::read_dir(tasks)? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        nanoseconds += text.split_whitespace().next().ok_or("no time")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}
