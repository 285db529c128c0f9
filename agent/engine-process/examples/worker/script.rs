//! Echoes FP32, unless the first value of a batch says to do something else.

use std::time::Duration;

use engine::{
    Backend, Batch, DataType, Device, Dim, Engine, EngineError, LoadError, LoadOptions, Loaded, ModelSource,
    Outputs, PendingBuild, Placement, Provider, Signature, TensorSpec, gather, scatter,
};

#[derive(Debug)]
pub(crate) struct ScriptBackend;

#[derive(Debug)]
pub(crate) struct ScriptEngine {
    signature: Signature,
    placement: Placement,
    hoard: Vec<Vec<u8>>,
}

impl Backend for ScriptBackend {
    fn device(&self) -> Device {
        Device { id: "cpu".to_owned(), name: "by the worker".to_owned() }
    }

    fn providers(&self) -> &[Provider] {
        &Provider::ALL
    }

    fn load(&self, source: &ModelSource, options: &LoadOptions) -> Result<Loaded, LoadError> {
        match source.name.as_str() {
            "refuse" => return Err(LoadError::Unsupported { what: "this model".to_owned() }),
            "abort" => {
                #[allow(clippy::print_stderr, reason = "as a runtime does")]
                {
                    eprintln!("free(): invalid pointer");
                }
                std::process::abort()
            }
            "exit" => std::process::exit(7),
            "panic" => panic!("while loading"),
            _ => {}
        }
        let build = options.providers.contains(&Provider::TensorRt);
        let pending = build.then(|| {
            PendingBuild::new(Provider::TensorRt, |progress| {
                progress.set(1, Some(2));
                std::thread::sleep(Duration::from_millis(20));
                progress.set(2, Some(2));
                Ok(Box::new(ScriptEngine::new(Provider::TensorRt)))
            })
        });
        Ok(Loaded { engine: Box::new(ScriptEngine::new(Provider::Cpu)), pending })
    }
}

impl ScriptEngine {
    fn new(provider: Provider) -> Self {
        let spec = |name: &str| TensorSpec {
            name: name.to_owned(),
            datatype: DataType::Fp32,
            shape: vec![Dim::Dynamic(Some("batch".to_owned())), Dim::Dynamic(None)],
        };
        let signature = Signature { inputs: vec![spec("input")], outputs: vec![spec("output")] };
        let placement = Placement {
            provider,
            device: ScriptBackend.device(),
            attempts: Vec::new(),
            assignments: Vec::new(),
        };
        Self { signature, placement, hoard: Vec::new() }
    }
}

impl Engine for ScriptEngine {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn placement(&self) -> &Placement {
        &self.placement
    }

    fn run(&mut self, batch: &Batch) -> Result<Vec<Outputs>, EngineError> {
        let joined = gather(batch, 0)?;
        let first = joined.data().bytes().first_chunk().map(|bytes| f32::from_le_bytes(*bytes));
        match first.unwrap_or_default() {
            -1.0 => std::process::abort(),
            -2.0 => std::thread::sleep(Duration::from_secs(3600)),
            -3.0 => panic!("as the input says"),
            -4.0 => loop {
                self.hoard.push(vec![1; 16 << 20]);
            },
            -5.0 => return Err(EngineError::Input { detail: "it says so".to_owned() }),
            -6.0 => return Err(EngineError::DeviceLost { detail: "it says so".to_owned() }),
            milliseconds if milliseconds >= 1000.0 => {
                std::thread::sleep(Duration::from_secs_f32((milliseconds - 1000.0) / 1000.0));
            }
            _ => {}
        }
        scatter(batch, vec![joined])
    }

    fn share(&self) -> Option<Box<dyn Engine>> {
        Some(Box::new(Self::new(self.placement.provider)))
    }
}
