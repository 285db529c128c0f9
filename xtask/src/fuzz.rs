//! `cargo xtask prove fuzz`: everything that reads bytes of others, against a fuzzer that sees which code they reach.
//!
//! The targets are `tests/fuzz/targets/*.rs`, their first inputs `tests/fuzz/seeds/NAME/`. libFuzzer comes with the crate
//! libfuzzer-sys and the compiler's own coverage pass, both on the stable toolchain; the flags are those of `cargo fuzz
//! --sanitizer none`. What was found interesting is kept in `target/fuzz/corpus/NAME` and is where the next run begins.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use crate::{cache, test};

const FLAGS: [&str; 8] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    // One unit: counters of others would be linked in twice.
    "-Ccodegen-units=1",
    "--cfg",
    "fuzzing",
];

/// An input that takes longer than this, or makes the process larger, is a finding.
const INPUT_LIMIT_S: u32 = 10;
const MEMORY_LIMIT_MIB: u32 = 1024;

/// Runs every target for its share of `time`; an error where one has a finding, which is kept.
pub(crate) fn fuzz(_programs: &Path, time: Duration) -> Result<Value> {
    let root = cache::root();
    let names = targets(&root.join("tests/fuzz/targets"))?;
    let folder = test::target_dir(&root).join("fuzz");
    let programs = build(&root, &folder)?;
    let seconds = (time.as_secs() / u64::try_from(names.len())?).max(1);
    let mut found = Map::new();
    for name in names {
        let seeds = root.join("tests/fuzz/seeds").join(&name);
        let result = run(&programs.join(&name), &name, &folder, &seeds, seconds)?;
        found.insert(name, result);
    }
    Ok(found.into())
}

fn targets(dir: &Path) -> Result<Vec<String>> {
    let files = std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let mut names = Vec::new();
    for file in files {
        let path = file?.path();
        names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    names.sort();
    ensure!(!names.is_empty(), "no target in {}", dir.display());
    Ok(names)
}

/// Builds the targets; the folder of the programs. Naming the machine keeps the flags away from build scripts.
fn build(root: &Path, folder: &Path) -> Result<PathBuf> {
    let machine = machine()?;
    let mut cargo = test::cargo_command(root);
    cargo.args(["build", "--quiet", "--release", "--bins", "--manifest-path", "tests/fuzz/Cargo.toml"]);
    cargo.args(["--target", &machine, "--target-dir"]).arg(folder);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f")).env_remove("RUSTFLAGS");
    test::succeed(cargo)?;
    Ok(folder.join(machine).join("release"))
}

fn machine() -> Result<String> {
    let out = Command::new("rustc").arg("-vV").output().context("cannot run rustc")?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not say its host")?.to_owned())
}

fn run(program: &Path, name: &str, folder: &Path, seeds: &Path, seconds: u64) -> Result<Value> {
    let corpus = folder.join("corpus").join(name);
    let findings = folder.join("findings").join(name);
    for dir in [&corpus, &findings] {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    let log = folder.join(format!("{name}.log"));
    let mut fuzzer = Command::new(program);
    fuzzer.arg(&corpus).arg(seeds).arg(format!("-max_total_time={seconds}"));
    fuzzer.arg(format!("-timeout={INPUT_LIMIT_S}")).arg(format!("-rss_limit_mb={MEMORY_LIMIT_MIB}"));
    fuzzer.args(["-print_final_stats=1", "-max_len=65536", "-len_control=20"]);
    fuzzer.arg(format!("-artifact_prefix={}/", findings.display()));
    fuzzer.stderr(File::create(&log).with_context(|| format!("cannot write {}", log.display()))?);
    let status = fuzzer.status().with_context(|| format!("cannot run {}", program.display()))?;
    let said = std::fs::read(&log).with_context(|| format!("cannot read {}", log.display()))?;
    let said = String::from_utf8_lossy(&said);
    if !status.success() {
        let lines: Vec<&str> = said.lines().rev().take(40).collect();
        let tail = lines.into_iter().rev().collect::<Vec<_>>().join("\n");
        bail!("fuzz target {name}: {status}; the input is in {}\n{tail}", findings.display());
    }
    let runs = number_after(&said, "stat::number_of_executed_units:").context("the fuzzer counts no runs")?;
    ensure!(runs > 0, "the fuzzer of {name} ran nothing");
    let coverage = said.lines().rev().find_map(|line| number_after(line, " cov:"));
    let kept = std::fs::read_dir(&corpus)?.count();
    Ok(json!({ "seconds": seconds, "runs": runs, "edges": coverage, "corpus": kept }))
}

fn number_after(text: &str, key: &str) -> Option<u64> {
    text.split_once(key)?.1.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_a_program_and_seeds() {
        let root = cache::root().join("tests/fuzz");
        let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
        for name in targets(&root.join("targets")).unwrap() {
            assert!(manifest.contains(&format!("path = \"targets/{name}.rs\"")), "{name}");
            assert!(std::fs::read_dir(root.join("seeds").join(&name)).unwrap().next().is_some(), "{name}");
        }
    }

    #[test]
    fn what_the_fuzzer_counts_is_read() {
        let said = "#42\tDONE   cov: 1391 ft: 5400\nstat::number_of_executed_units: 1234\n";
        assert_eq!(number_after(said, "stat::number_of_executed_units:"), Some(1234));
        assert_eq!(number_after("#42\tDONE   cov: 1391 ft: 5", " cov:"), Some(1391));
        assert_eq!(number_after("nothing", " cov:"), None);
    }
}
