//! The floor of the benchmark: what ONNX Runtime alone needs for a request, without a daemon around it.
//!
//! `ort_floor MODEL.onnx [--concurrency N] [--seconds S] [--input-shape 1,3,48,192] [--pause-us N] [--engine]`
//!
//! With `--pause-us` a caller sleeps that long before each call, outside the latency: a server's engine, too, waits for the
//! next request, and finds colder caches and a processor that has to wake up. One session per caller thread, one intra-op thread, no spinning, IoBinding, one fixed random FP32 input. With
//! `--engine` the same through this crate's engine, so that the difference is what the engine costs. Prints one line of
//! JSON. CPU time is user and system time of the whole process (`/proc/self/stat`) over the window, warm-up left out.
#![allow(unsafe_code)]
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use engine::{
    Backend, Batch, Buffer, DataType, Engine, LoadOptions, Member, MemberId, ModelSource, Provider, Tensor,
};
use mast_engine_ort::{Config, OrtBackend, find, load};
use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;

type Failure = Box<dyn Error + Send + Sync>;

const WARM_UP: Duration = Duration::from_secs(1);
/// `USER_HZ` of every Linux this runs on; proc(5).
const TICKS_PER_SECOND: f64 = 100.0;

struct Arguments {
    model: String,
    concurrency: usize,
    window: Duration,
    pause: Duration,
    shape: Vec<usize>,
    engine: bool,
}

fn main() -> Result<(), Failure> {
    // SAFETY: the program has one thread.
    #[allow(clippy::disallowed_methods)]
    unsafe {
        std::env::set_var("ORT_DISABLE_TELEMETRY", "1");
    }
    let arguments = Arguments::parse()?;
    let config = Config::default();
    let mut callers: Vec<Box<dyn Caller>> = Vec::new();
    if arguments.engine {
        let runtime = load(&config)?;
        let backend = OrtBackend::new(&runtime, &config);
        for _ in 0..arguments.concurrency {
            callers.push(Box::new(ThroughEngine::new(&backend, &arguments)?));
        }
    } else {
        let environment = ort::init_from(find(&config)?)?.with_telemetry(false).build()?;
        environment.set_log_level(LogLevel::Warning);
        for _ in 0..arguments.concurrency {
            callers.push(Box::new(Bare::new(&environment, &arguments)?));
        }
    }
    let (mut latencies_ns, cpu_ms) = measure(callers, arguments.window, arguments.pause)?;
    latencies_ns.sort_unstable();
    let requests = latencies_ns.len();
    let percentile_us = |percent: usize| {
        let index = (requests * percent / 100).min(requests.saturating_sub(1));
        latencies_ns.get(index).map_or(0.0, |ns| *ns as f64 / 1e3)
    };
    let line = serde_json::json!({
        "requests": requests,
        "seconds": arguments.window.as_secs_f64(),
        "concurrency": arguments.concurrency,
        "through": if arguments.engine { "engine" } else { "io_binding" },
        "cpu_ms_per_request": cpu_ms / requests.max(1) as f64,
        "p50_us": percentile_us(50),
        "p99_us": percentile_us(99),
    });
    println!("{line}");
    Ok(())
}

impl Arguments {
    fn parse() -> Result<Self, Failure> {
        let mut parsed = Self {
            model: String::new(),
            concurrency: 1,
            window: Duration::from_secs(10),
            pause: Duration::ZERO,
            shape: vec![1, 3, 48, 192],
            engine: false,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--concurrency" => parsed.concurrency = value()?.parse()?,
                "--seconds" => parsed.window = Duration::try_from_secs_f64(value()?.parse()?)?,
                "--pause-us" => parsed.pause = Duration::from_micros(value()?.parse()?),
                "--input-shape" => {
                    parsed.shape = value()?.split(',').map(str::parse).collect::<Result<_, _>>()?;
                }
                "--engine" => parsed.engine = true,
                other if other.starts_with('-') => return Err(format!("unknown option {other}").into()),
                model => model.clone_into(&mut parsed.model),
            }
        }
        if parsed.model.is_empty() || parsed.concurrency == 0 {
            return Err("usage: ort_floor MODEL.onnx [--concurrency N] [--seconds S] [--input-shape 1,3,48,192] [--pause-us N] [--engine]".into());
        }
        Ok(parsed)
    }

    /// The same numbers in [0, 1) on every run.
    fn values(&self) -> Vec<f32> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let next = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1_u64 << 24) as f32
        };
        (0..self.shape.iter().product()).map(next).collect()
    }
}

trait Caller: Send {
    fn call(&mut self) -> Result<(), Failure>;
}

struct Bare {
    session: Session,
    binding: ort::session::IoBinding,
}

impl Bare {
    fn new(environment: &Environment, arguments: &Arguments) -> Result<Self, Failure> {
        let build = || -> Result<_, ort::Error> {
            Session::builder(environment)?
                .with_optimization_level(GraphOptimizationLevel::All)?
                .with_intra_threads(1)?
                .with_intra_op_spinning(false)?
                .commit_from_file(&arguments.model)
        };
        let session = build()?;
        let input = session.inputs().first().ok_or("the model has no input")?.name().to_owned();
        let mut binding = session.create_binding()?;
        let value = ort::value::Tensor::from_array((arguments.shape.clone(), arguments.values()))?;
        binding.bind_input(input, &value)?;
        for output in session.outputs() {
            let host = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)?;
            binding.bind_output_to_device(output.name(), &host)?;
        }
        Ok(Self { session, binding })
    }
}

impl Caller for Bare {
    fn call(&mut self) -> Result<(), Failure> {
        self.session.run_binding(&self.binding)?;
        Ok(())
    }
}

struct ThroughEngine {
    engine: Box<dyn Engine>,
    input: Tensor,
}

impl ThroughEngine {
    fn new(backend: &OrtBackend, arguments: &Arguments) -> Result<Self, Failure> {
        let source = ModelSource { name: "floor".to_owned(), version: 1, path: (&arguments.model).into() };
        let options = LoadOptions {
            providers: vec![Provider::Cpu],
            threads: 1,
            spinning: Some(false),
            ..LoadOptions::default()
        };
        let engine = backend.load(&source, &options)?.engine;
        let bytes: Vec<u8> = arguments.values().iter().flat_map(|value| value.to_le_bytes()).collect();
        let input = Tensor::new(DataType::Fp32, arguments.shape.clone(), Buffer::copy_from(&bytes))?;
        Ok(Self { engine, input })
    }
}

impl Caller for ThroughEngine {
    fn call(&mut self) -> Result<(), Failure> {
        let members = vec![Member { id: MemberId(0), inputs: vec![self.input.clone()] }];
        self.engine.run(&Batch { members })?;
        Ok(())
    }
}

/// Latencies of all calls that began in the window, and the CPU milliseconds of the process over it.
fn measure(
    callers: Vec<Box<dyn Caller>>,
    window: Duration,
    pause: Duration,
) -> Result<(Vec<u64>, f64), Failure> {
    let measuring = AtomicBool::new(false);
    let stopped = AtomicBool::new(false);
    let ready = Barrier::new(callers.len() + 1);
    std::thread::scope(|scope| {
        let call = |mut caller: Box<dyn Caller>| {
            let (measuring, stopped, ready) = (&measuring, &stopped, &ready);
            scope.spawn(move || -> Result<Vec<u64>, Failure> {
                let mut latencies_ns = Vec::with_capacity(1 << 20);
                ready.wait();
                while !stopped.load(Ordering::Relaxed) {
                    if !pause.is_zero() {
                        std::thread::sleep(pause);
                    }
                    let counted = measuring.load(Ordering::Relaxed);
                    let started = Instant::now();
                    caller.call()?;
                    if counted {
                        latencies_ns.push(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX));
                    }
                }
                Ok(latencies_ns)
            })
        };
        let threads: Vec<_> = callers.into_iter().map(call).collect();
        ready.wait();
        std::thread::sleep(WARM_UP);
        let before = cpu_ms();
        measuring.store(true, Ordering::Relaxed);
        std::thread::sleep(window);
        measuring.store(false, Ordering::Relaxed);
        let after = cpu_ms();
        stopped.store(true, Ordering::Relaxed);
        let mut latencies_ns = Vec::new();
        for thread in threads {
            latencies_ns.extend(thread.join().map_err(|_| "a caller panicked")??);
        }
        Ok((latencies_ns, after? - before?))
    })
}

/// User and system time of this process: fields 14 and 15 of `/proc/self/stat`, proc(5).
fn cpu_ms() -> Result<f64, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, after_name) = stat.rsplit_once(')').ok_or("no name in /proc/self/stat")?;
    let ticks = after_name.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    let ticks = ticks.collect::<Result<Vec<_>, _>>()?;
    Ok(ticks.iter().sum::<f64>() * 1e3 / TICKS_PER_SECOND)
}
