//! Logs go to stderr, one line an event. A line that says the same as one just written is counted instead:
//! an accept loop that fails for ever must not fill the disk (aws-greengrass-lite#959: 120 GB overnight).

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Filter, SubscriberExt as _};
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{Layer as _, Registry, reload};

use crate::config::{LogConfig, LogFormat};

/// Distinct lines that are remembered; past it, all are forgotten and may be written again.
const REMEMBERED_LINES: usize = 512;

/// Why logging did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    #[error(
        "log.level: '{word}' is none of off, error, warn, info, debug, trace, nor target=level with one of them"
    )]
    Level { word: String },
    #[error("log.level: over {LEVELS_LIMIT} bytes")]
    TooLong,
    #[error("cannot install the log subscriber")]
    Install(#[from] TryInitError),
    #[error("the log has ended")]
    Reload(#[from] reload::Error),
}

/// Logging, once it has started.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    pub(crate) repeats: Repeats,
    pub(crate) level: Level,
}

/// Starts logging for the process.
pub(crate) fn init(config: &LogConfig) -> Result<Log, LogError> {
    let repeats = Repeats::new(Duration::from_millis(config.repeat_window_ms));
    let (filter, handle) = reload::Layer::new(filter(&config.level)?);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let layer = match config.format {
        LogFormat::Text => layer.with_ansi(false).with_filter(repeats.clone()).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_filter(repeats.clone()).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(layer).try_init()?;
    let words = Arc::new(Mutex::new(config.level.clone()));
    Ok(Log { repeats, level: Level { filter: handle, words } })
}

/// The level in force, which may be changed while the agent runs. The child processes keep the one they were
/// started with, and so does the chatter of ONNX Runtime.
#[derive(Debug, Clone)]
pub(crate) struct Level {
    filter: reload::Handle<Targets, Registry>,
    words: Arc<Mutex<String>>,
}

impl Level {
    /// Sets the level, in the words of `log.level`, or leaves it with `None`; the answer is what is in force.
    pub(crate) fn set(&self, levels: Option<&str>) -> Result<String, LogError> {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(levels) = levels.map(str::trim) {
            let filter = filter(levels)?;
            // Under the old level or the new: who turned the log off should be found in it.
            let said = say_change(&words, levels);
            self.filter.reload(filter)?;
            if !said {
                say_change(&words, levels);
            }
            levels.clone_into(&mut words);
        }
        Ok(words.clone())
    }

    /// For the front.
    pub(crate) fn hook(&self) -> front::LogLevel {
        let level = self.clone();
        Arc::new(move |levels| level.set(levels).map_err(|error| error.to_string()))
    }
}

fn say_change(from: &str, to: &str) -> bool {
    tracing::warn!(from, to, "the log level was changed");
    tracing::enabled!(tracing::Level::WARN)
}

/// Bytes of a level with its targets.
const LEVELS_LIMIT: usize = 1000;

/// `info`, or `info,mast_serve=debug`. A word that is no level is refused: taken as a target, it would silence the rest.
fn filter(levels: &str) -> Result<Targets, LogError> {
    if levels.len() > LEVELS_LIMIT {
        return Err(LogError::TooLong);
    }
    levels.split(',').try_fold(Targets::new(), |targets, word| {
        let wrong = || LogError::Level { word: word.to_owned() };
        let (target, level) = word.trim().split_once('=').unwrap_or(("", word.trim()));
        // An empty level would be `error`.
        let level: LevelFilter = level.parse().ok().filter(|_| !level.is_empty()).ok_or_else(wrong)?;
        Ok(if target.is_empty() { targets.with_default(level) } else { targets.with_target(target, level) })
    })
}

/// Remembers lines by their text and lets each through once a window.
#[derive(Debug, Clone)]
pub(crate) struct Repeats {
    window: Duration,
    lines: Arc<Mutex<HashMap<u64, Line>>>,
}

#[derive(Debug)]
struct Line {
    written: Instant,
    held_back: u64,
    text: String,
}

impl Repeats {
    fn new(window: Duration) -> Self {
        Self { window, lines: Arc::default() }
    }

    /// Whether a line may be written at `now`; counts it otherwise.
    fn admit(&self, text: &str, now: Instant) -> bool {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() >= REMEMBERED_LINES {
            lines.clear();
        }
        match lines.get_mut(&hasher.finish()) {
            Some(line) if now.duration_since(line.written) < self.window => {
                line.held_back += 1;
                false
            }
            Some(line) => {
                line.written = now;
                true
            }
            None => {
                let line = Line { written: now, held_back: 0, text: text.to_owned() };
                lines.insert(hasher.finish(), line);
                true
            }
        }
    }

    /// Takes the lines whose window has ended and that were held back: (text, times).
    fn take(&self, now: Instant) -> Vec<(String, u64)> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = Vec::new();
        lines.retain(|_, line| {
            let ended = now.duration_since(line.written) >= self.window;
            if ended && line.held_back > 0 {
                taken.push((std::mem::take(&mut line.text), line.held_back));
            }
            !ended
        });
        taken
    }

    /// Says how often lines were held back. Called from a slow tick of the daemon, and once at its end.
    pub(crate) fn report(&self) {
        for (line, times) in self.take(Instant::now()) {
            tracing::warn!(target: "mast::repeats", times, line, "identical lines were held back");
        }
    }
}

impl<S: Subscriber> Filter<S> for Repeats {
    fn enabled(&self, _metadata: &Metadata<'_>, _context: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _context: &Context<'_, S>) -> bool {
        if event.metadata().target() == "mast::repeats" {
            return true;
        }
        let mut text = Text(event.metadata().target().to_owned());
        event.record(&mut text);
        self.admit(&text.0, Instant::now())
    }
}

/// The fields of an event as text.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing into a String cannot fail.
        if field.name() == "message" {
            write!(self.0, " {value:?}").ok();
        } else {
            write!(self.0, " {}={value:?}", field.name()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn a_level_is_a_level() {
        let check = |levels: &str, serve: Option<Level>, others: Option<Level>| {
            let filter = filter(levels).unwrap();
            for level in [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE] {
                let wanted = |most: Option<Level>| most.is_some_and(|most| level <= most);
                assert_eq!(
                    filter.would_enable("mast_serve::batch", &level),
                    wanted(serve),
                    "{levels} {level}"
                );
                assert_eq!(filter.would_enable("hyper", &level), wanted(others), "{levels} {level}");
            }
        };
        check("info", Some(Level::INFO), Some(Level::INFO));
        check("info,mast_serve=debug", Some(Level::DEBUG), Some(Level::INFO));
        check("mast_serve=trace, warn", Some(Level::TRACE), Some(Level::WARN));
        check("mast_serve=debug", Some(Level::DEBUG), None);
        check("off", None, None);
        for wrong in ["inof", "", "info,", "info,mast_serve=debgu", "mast_serve"] {
            let said = filter(wrong).unwrap_err().to_string();
            assert!(said.contains("log.level"), "{wrong}: {said}");
        }
    }

    #[test]
    fn a_level_that_would_take_memory_is_refused() {
        assert!(matches!(filter(&"a=info,".repeat(1000)), Err(LogError::TooLong)));
    }

    #[test]
    fn an_identical_line_is_written_once_a_window_and_counted() {
        let repeats = Repeats::new(Duration::from_secs(10));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(repeats.admit("accept failed", at(0)));
        assert!(repeats.admit("another", at(0)));
        assert!(!repeats.admit("accept failed", at(1)));
        assert!(!repeats.admit("accept failed", at(9)));
        assert_eq!(repeats.take(at(9)), []);
        assert_eq!(repeats.take(at(10)), [("accept failed".to_owned(), 2)]);
        assert!(repeats.admit("accept failed", at(11)));
    }

    #[test]
    fn memory_is_bounded() {
        let repeats = Repeats::new(Duration::from_secs(10));
        for line in 0..10 * REMEMBERED_LINES {
            assert!(repeats.admit(&line.to_string(), Instant::now()));
        }
        assert!(repeats.lines.lock().unwrap().len() <= REMEMBERED_LINES);
    }
}
