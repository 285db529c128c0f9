//! One line per step: a progress bar on a terminal, plain lines elsewhere (CI, a pipe).

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// A step that takes time. Say [`Self::done`] at its end; a step dropped before that has failed and leaves its name.
pub(crate) struct Step {
    name: String,
    bar: Option<ProgressBar>,
    started: Instant,
}

impl Step {
    /// Begins a step without a known length, e.g. `Step::begin("model nanodet-coco", "building")`.
    pub(crate) fn begin(name: impl Into<String>, doing: &str) -> Self {
        let name = name.into();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner().with_prefix(name.clone()).with_message(doing.to_owned());
            bar.set_style(style("{spinner} {prefix:28} {msg} {elapsed}"));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            eprintln!("{name:28} {doing}");
        }
        Self { name, bar, started: Instant::now() }
    }

    /// From here on the step has a length in bytes.
    pub(crate) fn bytes(&self, total: u64) {
        self.length(total, "{spinner} {prefix:28} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {msg}");
    }

    /// From here on the step has a length in items.
    pub(crate) fn items(&self, total: u64) {
        self.length(total, "{spinner} {prefix:28} [{bar:30}] {pos}/{len} {msg}");
    }

    fn length(&self, total: u64, template: &str) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_style(style(template));
        }
    }

    pub(crate) fn at(&self, position: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(position);
        }
    }

    pub(crate) fn doing(&self, what: impl Into<String>) {
        if let Some(bar) = &self.bar {
            bar.set_message(what.into());
        }
    }

    /// Ends the step with what came of it.
    pub(crate) fn done(mut self, result: &str) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        eprintln!("{:28} {result} ({:.1} s)", self.name, self.started.elapsed().as_secs_f32());
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.abandon_with_message("failed");
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}
