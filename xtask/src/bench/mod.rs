//! `cargo xtask bench serve`: the numbers that README and docs/bench quote, each against its floor on the same machine in the
//! same run. Windows of the two sides are interleaved and the median of paired ratios counts, so that a busy neighbour hits both.

mod echo;
mod footprint;
mod outbox;
mod overhead;
mod programs;

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use programs::Programs;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// The request path, the footprint and the outbox
    Serve(ServeArgs),
}

#[derive(Debug, clap::Args)]
struct ServeArgs {
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

/// One line of the table.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    value: f64,
    unit: &'static str,
    /// What it is compared with, in the unit of the measurement behind it; none where the target is absolute.
    floor: Option<f64>,
    target: String,
    holds: bool,
}

impl Row {
    fn at_most(name: impl Into<String>, value: f64, unit: &'static str, limit: f64) -> Self {
        Self {
            name: name.into(),
            value,
            unit,
            floor: None,
            target: format!("≤ {limit}"),
            holds: value <= limit,
        }
    }

    fn at_least(name: impl Into<String>, value: f64, unit: &'static str, limit: f64) -> Self {
        Self {
            name: name.into(),
            value,
            unit,
            floor: None,
            target: format!("≥ {limit}"),
            holds: value >= limit,
        }
    }

    fn beside(mut self, floor: f64) -> Self {
        self.floor = Some(floor);
        self
    }
}

/// How each ratio is measured.
#[derive(Debug, Clone, Copy)]
struct Windows {
    pairs: u32,
    seconds: f64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let What::Serve(args) = &args.what;
    if let Some(name) = args.only.iter().find(|only| PARTS.iter().all(|(name, _)| name != only)) {
        bail!("no part {name} of the benchmark");
    }
    let programs = Programs::build()?;
    let windows = Windows { pairs: args.pairs, seconds: args.seconds };
    let mut rows = Vec::new();
    for (_, measure) in PARTS
        .into_iter()
        .filter(|(name, _)| args.only.is_empty() || args.only.iter().any(|only| only == name))
    {
        rows.extend(measure(&programs, windows)?);
    }
    let table = table(&rows);
    println!("\n{table}");
    if let Some(path) = &args.json {
        save(path, &serde_json::to_string_pretty(&rows)?)?;
    }
    if let Some(path) = &args.markdown {
        save(path, &page(&table, windows))?;
    }
    match rows.iter().filter(|row| !row.holds).count() {
        0 => Ok(()),
        missed => bail!("{missed} of {} targets missed", rows.len()),
    }
}

fn table(rows: &[Row]) -> String {
    let mut lines =
        vec!["| what | value | floor | target | holds |".to_owned(), "|---|---:|---:|---:|---|".to_owned()];
    for Row { name, value, unit, floor, target, holds } in rows {
        let floor = floor.map_or_else(String::new, number);
        let holds = if *holds { "yes" } else { "NO" };
        lines.push(format!("| {name} | {} {unit} | {floor} | {target} {unit} | {holds} |", number(*value)));
    }
    lines.join("\n") + "\n"
}

/// Three significant digits, as far as the measurement goes.
fn number(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.3}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn page(table: &str, windows: Windows) -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "# bench serve\n\n`cargo xtask bench serve --markdown docs/bench/serve.md`: {} pairs of windows of {} s, on {cores} cores of \
         {model}. Client, daemon and floor share the cores. What each row compares is said in `xtask/src/bench`.\n\n{table}",
        windows.pairs, windows.seconds
    )
}

fn save(path: &PathBuf, text: &str) -> Result<()> {
    let mut file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    file.write_all(text.as_bytes())?;
    Ok(())
}

/// The middle one; the mean of the two middle ones for an even number.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2).copied().unwrap_or(f64::NAN);
    let lower = values.get((values.len().saturating_sub(1)) / 2).copied().unwrap_or(f64::NAN);
    (lower + upper) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        let check =
            |values: &[f64], expected: f64| assert!((median(values.to_vec()) - expected).abs() < 1e-12);
        check(&[3.0, 1.0, 2.0], 2.0);
        check(&[4.0, 1.0, 2.0, 3.0], 2.5);
        check(&[7.0], 7.0);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn a_missed_target_is_said() {
        let rows = [Row::at_most("a", 1.3, "x", 1.2).beside(1.0), Row::at_least("b", 1.3, "x", 1.2)];
        let table = table(&rows);
        assert!(
            table.contains("| a | 1.300 x | 1.000 | ≤ 1.2 x | NO |")
                && table.contains("| b | 1.300 x |  | ≥ 1.2 x | yes |"),
            "{table}"
        );
        assert!(!Row::at_most("nan", f64::NAN, "x", 1.2).holds);
    }
}
