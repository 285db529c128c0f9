use std::sync::Arc;

use engine::{Backend, Device, Footprint, Isolation, LoadError, LoadOptions, Loaded, ModelSource, Provider};

/// Loads each model where its configuration, or else the agent's, wants it.
#[derive(Debug)]
pub struct IsolatingBackend {
    pub inline: Arc<dyn Backend>,
    pub process: Arc<dyn Backend>,
    /// For models that do not say.
    pub default: Isolation,
}

impl IsolatingBackend {
    fn of(&self, isolation: Isolation) -> &Arc<dyn Backend> {
        match isolation {
            Isolation::None => &self.inline,
            Isolation::Process => &self.process,
        }
    }
}

impl Backend for IsolatingBackend {
    fn device(&self) -> Device {
        self.inline.device()
    }

    fn providers(&self) -> &[Provider] {
        self.inline.providers()
    }

    fn load(&self, source: &ModelSource, options: &LoadOptions) -> Result<Loaded, LoadError> {
        self.of(options.isolation.unwrap_or(self.default)).load(source, options)
    }

    /// Of this process; engines in workers tell their own footprint.
    fn used(&self) -> Option<Footprint> {
        self.inline.used()
    }
}
