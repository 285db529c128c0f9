//! `cargo xtask bench serve`: the request path, the footprint and the outbox, each against its floor.

use std::path::PathBuf;

use anyhow::Result;

use super::{Programs, Row, Windows, echo, footprint, outbox, overhead, parts, publish};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Also write the rows to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Also write the table to this file, as Markdown
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Only these parts: footprint, overhead, echo, outbox
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Pairs of windows per ratio; the published table is made with 7
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
    /// Length of a window in seconds
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

type Part = fn(&Programs, Windows) -> Result<Vec<Row>>;

const PARTS: [(&str, Part); 4] = [
    ("footprint", |programs, _| footprint::measure(programs)),
    ("overhead", overhead::measure),
    ("echo", echo::measure),
    ("outbox", outbox::measure),
];

pub(super) fn run(args: &Args) -> Result<()> {
    let chosen = parts(PARTS, &args.only)?;
    let programs = Programs::build()?;
    let windows = Windows { pairs: args.pairs, seconds: args.seconds };
    let mut rows = Vec::new();
    for measure in chosen {
        rows.extend(measure(&programs, windows)?);
    }
    let head = format!(
        "# bench serve\n\n`cargo xtask bench serve --markdown docs/bench/serve.md`: {} pairs of windows of {} s, on {}. Client, \
         daemon and floor share the cores. What each row compares is said in `xtask/src/bench`.\n\n",
        windows.pairs,
        windows.seconds,
        super::machine()
    );
    publish(&rows, args.json.as_deref(), args.markdown.as_deref(), &head, "")
}
