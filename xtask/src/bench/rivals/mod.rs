//! `cargo xtask bench rivals`: Mast beside the servers of the field in one run, what batching brings, and what must hold under
//! more load than fits, while models change and while workers die.

mod batching;
mod lane;
mod server;
mod side_by_side;
mod under_load;

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::{Programs, Row, Windows, machine, parts, publish};
use crate::prove::Effort;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Also write the rows to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Also write the tables to this file, as Markdown
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Only these parts: side-by-side, batching, overload, hot-swap, worker-kill
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Rounds of windows per ratio
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Length of a window in seconds
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// How long the overload lasts, in seconds
    #[arg(long, default_value_t = 60.0)]
    overload_seconds: f64,
    /// How many hot swaps
    #[arg(long, default_value_t = 50)]
    swaps: u32,
    /// How many workers are killed
    #[arg(long, default_value_t = 5)]
    kills: u32,
}

/// How much of everything.
#[derive(Debug, Clone, Copy)]
struct Scale {
    windows: Windows,
    overload: Effort,
    hot_swap: Effort,
    worker_kill: Effort,
}

/// Rows of the table, and text behind it.
struct Findings {
    rows: Vec<Row>,
    text: String,
}

type Part = fn(&Programs, Scale) -> Result<Findings>;

const PARTS: [(&str, Part); 5] = [
    ("side-by-side", side_by_side::measure),
    ("batching", batching::measure),
    ("overload", under_load::overload),
    ("hot-swap", under_load::hot_swap),
    ("worker-kill", under_load::worker_kill),
];

pub(super) fn run(args: &Args) -> Result<()> {
    let chosen = parts(PARTS, &args.only)?;
    let programs = Programs::build()?;
    let scale = Scale {
        windows: Windows { pairs: args.rounds, seconds: args.seconds },
        overload: Effort::lasting(args.overload_seconds)?,
        hot_swap: Effort::of(args.swaps),
        worker_kill: Effort::of(args.kills),
    };
    let (mut rows, mut text) = (Vec::new(), String::new());
    for measure in chosen {
        let findings = measure(&programs, scale)?;
        rows.extend(findings.rows);
        text.push_str(&findings.text);
    }
    let runtime =
        programs.ready.ort_library.file_name().context("no library")?.to_string_lossy().into_owned();
    let head = format!(
        "# bench rivals\n\n`cargo xtask bench rivals --markdown docs/bench/rivals.md`: {} rounds of windows of {} s, on {}. Clients and \
         servers share the cores. Every server has one session of `{runtime}` (rivals: the onnxruntime package of that version), one \
         thread, no spinning. Triton's packages hold no ONNX Runtime backend: its core is measured with its Python backend, which is \
         the only one they hold. What each row compares is said in `xtask/src/bench/rivals` and `xtask/src/prove`.\n\n",
        args.rounds,
        args.seconds,
        machine()
    );
    publish(&rows, args.json.as_deref(), args.markdown.as_deref(), &head, &text)
}
