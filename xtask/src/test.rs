//! `cargo xtask test`: everything that must hold before a change lands, with the seconds of each step. Installs what it needs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::{cache, check, demo, deny, models, prove, setup, system};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave these steps out, by name, comma-separated
    #[arg(long, value_delimiter = ',')]
    skip: Vec<String>,
    /// Run only these steps
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// A step's name, and what it does at the root of the workspace.
type Step = (&'static str, fn(&Path) -> Result<()>);

const STEPS: [Step; 14] = [
    ("system", |_| system::ensure()),
    ("setup", |_| setup::ensure().map(drop)),
    ("models", |_| models::check(&setup::ensure()?)),
    ("fmt", |root| cargo(root, &["fmt", "--all", "--check"])),
    ("invariants", check::run),
    ("clippy", |root| cargo(root, &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])),
    ("build", |root| cargo(root, &["build", "--workspace", "--all-targets"])),
    ("tests", tests),
    ("doctests", |root| cargo(root, &["test", "--workspace", "--doc"])),
    ("docs", docs),
    ("licences", |root| deny::check(root, &["licenses", "bans", "sources"])),
    ("advisories", deny::advisories),
    ("prove", |root| prove::small(&target_dir(root).join("debug"))),
    ("demo", |_| demo::run(&demo::Args::default())),
];

pub(crate) fn run(args: &Args) -> Result<()> {
    let unknown = args.skip.iter().chain(&args.only).find(|name| STEPS.iter().all(|(step, _)| step != name));
    if let Some(name) = unknown {
        let names: Vec<&str> = STEPS.iter().map(|(step, _)| *step).collect();
        bail!("no step {name}; there are {}", names.join(", "));
    }
    let root = cache::root();
    let chosen = |name: &str| {
        !args.skip.iter().any(|skip| skip == name)
            && (args.only.is_empty() || args.only.iter().any(|only| only == name))
    };
    let mut done: Vec<(&str, f64, Option<anyhow::Error>)> = Vec::new();
    for (name, step) in STEPS.into_iter().filter(|(name, _)| chosen(name)) {
        println!("\n== {name}");
        let started = Instant::now();
        let error = step(&root).err();
        if let Some(error) = &error {
            println!("{name} FAILED: {error:#}");
        }
        let failed = error.is_some();
        done.push((name, started.elapsed().as_secs_f64(), error));
        // Without these nothing after them says anything.
        if failed && matches!(name, "system" | "setup" | "build") {
            break;
        }
    }
    summary(&done)
}

fn summary(done: &[(&str, f64, Option<anyhow::Error>)]) -> Result<()> {
    println!("\n== summary");
    for (name, seconds, error) in done {
        let state = if error.is_some() { "FAILED" } else { "ok" };
        println!("{name:12} {seconds:7.1} s  {state}");
    }
    for (name, _, error) in done {
        if let Some(error) = error {
            println!("{name}: {error:#}");
        }
    }
    let failed = done.iter().filter(|(_, _, error)| error.is_some()).count();
    println!("{} passed, {failed} failed", done.len() - failed);
    if failed > 0 {
        bail!("{failed} of {} steps failed", done.len());
    }
    Ok(())
}

/// Unit and integration tests: nextest where it is installed, cargo's own otherwise.
fn tests(root: &Path) -> Result<()> {
    let mut command = cargo_command(root);
    if Command::new("cargo-nextest").arg("--version").output().is_ok_and(|output| output.status.success()) {
        command.args(["nextest", "run", "--workspace", "--no-fail-fast"]);
    } else {
        command.args(["test", "--workspace", "--no-fail-fast", "--lib", "--bins", "--tests"]);
    }
    command.env("MAST_BIN_DIR", target_dir(root).join("debug"));
    if !harness::mounting_is_possible().unwrap_or(false) {
        println!("NOT CHECKED HERE: full and read-only disks. The tests mount a tmpfs, which needs root");
        command.env("MAST_TESTS_WITHOUT_MOUNT", "1");
    }
    succeed(command)
}

fn docs(root: &Path) -> Result<()> {
    let mut command = cargo_command(root);
    command.args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
    succeed(command)
}

fn cargo(root: &Path, args: &[&str]) -> Result<()> {
    let mut command = cargo_command(root);
    command.args(args);
    succeed(command)
}

/// The cargo that runs this, at the root.
pub(crate) fn cargo_command(root: &Path) -> Command {
    let cargo = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let mut command = Command::new(cargo);
    command.current_dir(root);
    // What `cargo run` set for xtask would make the inner cargo rebuild what it already has.
    command.env_remove("CARGO_MANIFEST_DIR").env_remove("CARGO_PKG_NAME");
    command
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir(root: &Path) -> PathBuf {
    root.join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

pub(crate) fn succeed(mut command: Command) -> Result<()> {
    let line = format!("{command:?}");
    let status = command.status().with_context(|| format!("cannot run {line}"))?;
    if !status.success() {
        bail!("{line} ended with {status}");
    }
    Ok(())
}
