//! `cargo xtask bench`: the numbers that README and docs/bench quote, each against its floor or its rivals on the same machine in
//! the same run. Windows of the sides are interleaved and the median of paired ratios counts, so that a busy neighbour hits all.

mod echo;
mod footprint;
mod outbox;
mod overhead;
mod programs;
mod rivals;
mod serve;

use std::fs::File;
use std::io::Write;
use std::path::Path;

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
    Serve(serve::Args),
    /// Side by side with the servers of the field, and what must hold under too much load
    Rivals(rivals::Args),
}

pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.what {
        What::Serve(args) => serve::run(args),
        What::Rivals(args) => rivals::run(args),
    }
}

/// The parts whose names are wanted, all of them if none is named.
fn parts<P, const N: usize>(parts: [(&str, P); N], only: &[String]) -> Result<Vec<P>> {
    if let Some(unknown) = only.iter().find(|only| parts.iter().all(|(name, _)| name != only)) {
        let names: Vec<&str> = parts.iter().map(|(name, _)| *name).collect();
        bail!("no part {unknown} of the benchmark; there are {}", names.join(", "));
    }
    let wanted = |name: &str| only.is_empty() || only.iter().any(|only| only == name);
    Ok(parts.into_iter().filter(|(name, _)| wanted(name)).map(|(_, part)| part).collect())
}

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

/// Prints the table, writes the files that are wanted, and fails where a target is missed.
fn publish(rows: &[Row], json: Option<&Path>, markdown: Option<&Path>, head: &str, tail: &str) -> Result<()> {
    let table = table(rows);
    println!("\n{table}\n{tail}");
    if let Some(path) = json {
        save(path, &serde_json::to_string_pretty(rows)?)?;
    }
    if let Some(path) = markdown {
        save(path, &format!("{head}{table}{tail}"))?;
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

/// Cores and processor.
fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{cores} cores of {model}")
}

fn save(path: &Path, text: &str) -> Result<()> {
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
