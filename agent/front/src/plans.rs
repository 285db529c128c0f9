//! What goes before and after the models that were asked for in photos and sentences, and where the work is done.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use media::Plan;
use serve::{ModelConfig, ModelView};
use tokio::sync::Semaphore;
use wire::{Error, ErrorCode};

use crate::app::App;

/// Why a photo or a text became no input, or an output no meaning.
#[derive(Debug)]
pub(crate) enum Failure {
    Media(media::Error),
    Wire(Error),
}

impl From<media::Error> for Failure {
    fn from(error: media::Error) -> Self {
        Self::Media(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Wire(error)
    }
}

impl Failure {
    /// In the words of every other failure. What is wrong with the model's folder is the operator's to read.
    pub(crate) fn of(self, model: &str) -> Error {
        match self {
            Self::Wire(error) => error,
            Self::Media(error) if error.is_of_the_request() => {
                Error::invalid(wire::chain(&error).to_string())
            }
            Self::Media(error) => {
                tracing::warn!(model, reason = %wire::chain(&error), "a model takes no photo or text");
                let text = format!(
                    "model '{model}' cannot do this with its configuration; the agent's log says why"
                );
                Error::new(ErrorCode::Internal, text)
            }
        }
    }
}

type Known = (Arc<ModelConfig>, Arc<Plan>);

/// Plans by model, each with the configuration it was read for, and the turns on the processors.
#[derive(Debug)]
pub(crate) struct Plans {
    known: Mutex<HashMap<Arc<str>, Known>>,
    /// One for each processor: more at once would only take more memory.
    turns: Arc<Semaphore>,
}

impl Default for Plans {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self { known: Mutex::default(), turns: Arc::new(Semaphore::new(processors)) }
    }
}

impl App {
    /// The plan of a loaded model, read when it is first asked for after a load.
    ///
    /// # Errors
    /// `Internal` when the model's folder is wrong.
    pub(crate) async fn plan(&self, view: &ModelView) -> Result<Arc<Plan>, Error> {
        let known = || self.plans.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((config, plan)) = known().get(&view.name)
            && Arc::ptr_eq(config, &view.config)
        {
            return Ok(Arc::clone(plan));
        }
        let (dir, config) = (Arc::clone(&view.dir), Arc::clone(&view.config));
        let plan = self.work(&view.name, move || Ok(Plan::read(&dir, (&*config).into())?)).await?;
        let plan = Arc::new(plan);
        let loaded = self.serve.models();
        let mut known = known();
        // A model that is gone takes its tokenizer with it.
        known.retain(|name, _| loaded.iter().any(|model| model.name == *name));
        known.insert(Arc::clone(&view.name), (Arc::clone(&view.config), Arc::clone(&plan)));
        Ok(plan)
    }

    /// Does what takes a processor longer than a connection's thread may be away, when it is its turn.
    pub(crate) async fn work<T: Send + 'static>(
        &self,
        model: &str,
        work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Error> {
        let lost = || {
            Error::new(ErrorCode::Internal, format!("what came for model '{model}' could not be worked on"))
        };
        let turn = Arc::clone(&self.plans.turns).acquire_owned().await.map_err(|_| lost())?;
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn; // it ends with the work, even if the client has gone
            work()
        });
        // A panic in a decoder ends here.
        done.await.map_err(|_| lost())?.map_err(|failure| failure.of(model))
    }
}
