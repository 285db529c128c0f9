use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serve::{ModelView, Serve};

use crate::config::DefaultLabels;
use crate::plans::Plans;
use crate::refusals::RefusalTimes;
use crate::{Config, Credentials, LogLevel, Traces};

/// What the agent says about itself on `GET /control/status`.
pub type Status = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// What the agent gives the control socket.
pub struct Control {
    pub status: Status,
    pub log_level: Option<LogLevel>,
    pub traces: Option<Traces>,
}

impl From<Status> for Control {
    fn from(status: Status) -> Self {
        Self { status, log_level: None, traces: None }
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

/// The names of classes, by the output they belong to.
pub(crate) type Classes = HashMap<String, Arc<[String]>>;

/// Appends lines in the Prometheus text format to `GET /metrics`.
pub type MoreMetrics = Arc<dyn Fn(&mut String) + Send + Sync>;

/// What every request of one listener needs.
pub(crate) struct App {
    pub(crate) serve: Arc<Serve>,
    pub(crate) body_limit: u64,
    pub(crate) body_time: Duration,
    pub(crate) labels: DefaultLabels,
    /// For `/metrics`.
    pub(crate) credentials: Credentials,
    pub(crate) status: Option<Status>,
    pub(crate) metrics: Option<MoreMetrics>,
    pub(crate) log_level: Option<LogLevel>,
    /// Where nothing listens, a request costs nothing more.
    pub(crate) traces: Option<Traces>,
    /// Requests whose labels could not be read, which the policy therefore never saw.
    pub(crate) unread_labels: AtomicU64,
    pub(crate) refusal_times: RefusalTimes,
    pub(crate) plans: Plans,
    /// Unix seconds.
    pub(crate) started_unix: u64,
    label_files: LabelFiles,
}

impl App {
    pub(crate) fn new(serve: Arc<Serve>, config: &Config) -> Self {
        let mut labels = config.labels.clone();
        labels.jurisdiction.get_or_insert_with(|| serve.site().jurisdiction().clone());
        Self {
            serve,
            body_limit: config.body_limit_bytes,
            body_time: Duration::from_millis(config.body_timeout_ms),
            labels,
            credentials: Credentials::default(),
            status: None,
            metrics: None,
            log_level: None,
            traces: None,
            unread_labels: AtomicU64::new(0),
            refusal_times: RefusalTimes::default(),
            plans: Plans::default(),
            started_unix: SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()),
            label_files: LabelFiles::default(),
        }
    }

    /// The lines of the outputs' label files. An output is missing when it has none or it cannot be read.
    pub(crate) async fn label_lines(
        self: &Arc<Self>,
        view: &ModelView,
        outputs: impl Iterator<Item = &str>,
    ) -> Classes {
        let path = |name: &str| Some((name.to_owned(), view.dir.join(view.config.labels(name)?)));
        let paths: Vec<_> = outputs.filter_map(path).collect();
        if paths.is_empty() {
            return Classes::new();
        }
        let app = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || {
            let lines = |(output, path): (String, PathBuf)| {
                let lines = app.label_files.lines(&path).inspect_err(|error| {
                    tracing::warn!(path = %path.display(), %error, "cannot read the labels of a model");
                });
                Some((output, lines.ok()?))
            };
            paths.into_iter().filter_map(lines).collect()
        });
        read.await.unwrap_or_default()
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").field("labels", &self.labels).finish_non_exhaustive()
    }
}

/// Label files that were read, each with the time of change that it had. One entry per file of the repository.
#[derive(Debug, Default)]
struct LabelFiles(Mutex<HashMap<PathBuf, Lines>>);

type Lines = (Option<SystemTime>, Arc<[String]>);

/// A label file is a few hundred short lines.
const LABEL_FILE_LIMIT_BYTES: u64 = 4 << 20;

impl LabelFiles {
    fn lines(&self, path: &PathBuf) -> std::io::Result<Arc<[String]>> {
        let file = File::open(path)?;
        let changed = file.metadata()?.modified().ok();
        if let Some((known, lines)) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(path)
            && *known == changed
        {
            return Ok(Arc::clone(lines));
        }
        let mut text = String::new();
        file.take(LABEL_FILE_LIMIT_BYTES).read_to_string(&mut text)?;
        let lines: Arc<[String]> = text.lines().map(|line| line.trim().to_owned()).collect();
        let entry = (changed, Arc::clone(&lines));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone(), entry);
        Ok(lines)
    }
}
