//! Python for recipes and test clients: a venv with the exact packages of a requirements file.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

use crate::cache::{self, Stamp};
use crate::step::Step;

const OLDEST: (u32, u32) = (3, 11);

/// The interpreter of the venv. Makes the venv if it is not there or its requirements changed.
pub(crate) fn ensure(cache: &Path) -> Result<PathBuf> {
    venv(cache, "venv", &cache::root().join("models/requirements.txt"))
}

/// No registry that answers needs longer for one venv.
const INSTALL_LIMIT_S: &str = "900";

/// The interpreter of the venv at `place` in the cache, which has exactly the packages of the file `requirements`.
pub(crate) fn venv(cache: &Path, place: &str, requirements: &Path) -> Result<PathBuf> {
    let text =
        std::fs::read(requirements).with_context(|| format!("cannot read {}", requirements.display()))?;
    let venv = cache.join(place);
    let python = venv.join("bin/python");
    let stamp = Stamp::new(cache, &place.replace('/', "-"), cache::sha256_parts([&text[..]]));
    let files = [venv.join("pyvenv.cfg")];
    // A venv points at the interpreter it was made with; after an upgrade of the system that one may be gone.
    if stamp.holds(&files) && python.exists() {
        return Ok(python);
    }
    stamp.remove()?;
    let host = host()?;
    let step = Step::begin(format!("python {place}"), "making a venv");
    let out = Command::new(&host).args(["-m", "venv", "--clear"]).arg(&venv).output();
    let out = out.with_context(|| format!("cannot run {host}"))?;
    if !out.status.success() {
        let said = [out.stdout, out.stderr].concat();
        bail!(
            "{host} -m venv failed. On Debian and Ubuntu: apt-get install python3-venv\n{}",
            String::from_utf8_lossy(&said).trim()
        );
    }
    let wanted = String::from_utf8_lossy(&text).lines().filter(|l| l.contains("==")).count();
    step.items(wanted as u64);
    step.doing("packages");
    twice(|| {
        let mut pip = Command::new("timeout");
        pip.arg(INSTALL_LIMIT_S).arg(&python).args(["-m", "pip", "install"]);
        pip.args(["--disable-pip-version-check", "--no-input", "--no-deps", "--only-binary=:all:"]);
        pip.args(["--no-compile", "--requirement"]).arg(requirements);
        let mut seen = 0;
        finish(pip, &mut |line| {
            if line.starts_with("Collecting ") {
                seen += 1;
                step.at(seen);
            } else if line.starts_with("Installing ") {
                step.doing("installing");
            }
        })
    })
    .with_context(|| {
        format!("cannot install the packages of {}; is the registry reachable?", requirements.display())
    })?;
    stamp.write(&files)?;
    step.done(&format!("{wanted} packages in {}", venv.display()));
    Ok(python)
}

/// The name of the machine's Python, if it is new enough.
fn host() -> Result<String> {
    let code = "import sys; print(*sys.version_info[:2])";
    let Ok(out) = Command::new("python3").args(["-c", code]).output() else {
        bail!("there is no python3. On Debian and Ubuntu: apt-get install python3 python3-venv python3-pip");
    };
    let text = String::from_utf8_lossy(&out.stdout);
    let mut numbers = text.split_whitespace().map(str::parse);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        bail!("python3 does not run: {}", String::from_utf8_lossy(&out.stderr).trim());
    };
    if (major, minor) < OLDEST {
        bail!("python3 is {major}.{minor}; the pinned packages need {}.{} or newer", OLDEST.0, OLDEST.1);
    }
    Ok("python3".to_owned())
}

/// `python -m pip COMMAND`, quiet about itself, with progress as lines ("Progress 1 of 2").
pub(crate) fn pip(python: &Path, command: &str) -> Command {
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", command, "--disable-pip-version-check", "--no-input"]);
    if command == "download" {
        pip.args(["--progress-bar", "raw"]);
    }
    pip
}

/// Runs a program of `models/recipes`; its last lines become the error if it fails.
pub(crate) fn recipe(python: &Path, recipe: &str) -> Command {
    let recipes = cache::root().join("models/recipes");
    let mut command = Command::new(python);
    command.arg(recipes.join(recipe));
    // Bytecode goes beside the venv, not into the source tree.
    if let Some(cache) = python.ancestors().nth(3) {
        command.env("PYTHONPYCACHEPREFIX", cache.join("pycache"));
    }
    command
}

/// Runs to the end, handing over each line of output; failure carries the last lines of both streams.
pub(crate) fn finish(mut command: Command, each: &mut dyn FnMut(&str)) -> Result<()> {
    let name = format!("{command:?}");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {name}"))?;
    let errors = child.stderr.take().map(|mut stream| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = stream.read_to_end(&mut bytes);
            read.map(|_| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
        })
    });
    let mut last = Vec::new();
    if let Some(out) = child.stdout.take() {
        for line in BufReader::new(out).lines() {
            let line = line.with_context(|| format!("cannot read what {name} prints"))?;
            each(&line);
            if !line.starts_with("Progress ") {
                last.push(line);
            }
            last.drain(..last.len().saturating_sub(10));
        }
    }
    let status: ExitStatus = child.wait().with_context(|| format!("cannot wait for {name}"))?;
    let errors = errors.and_then(|thread| thread.join().ok()).unwrap_or_default();
    if !status.success() {
        let tail: Vec<&str> = errors.lines().rev().take(20).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        bail!("{name} failed ({status})\n{}\n{}", last.join("\n"), tail.join("\n"));
    }
    Ok(())
}

/// Tries again once: registries drop connections.
pub(crate) fn twice(mut attempt: impl FnMut() -> Result<()>) -> Result<()> {
    attempt().or_else(|first| {
        eprintln!("trying again: {}", first.to_string().lines().last().unwrap_or_default());
        attempt()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_failed_program_says_why_without_its_progress() {
        let mut lines = Vec::new();
        let script = "echo Progress 1 of 2; echo collecting; echo no such package >&2; exit 3";
        let error = finish(sh(script), &mut |l| lines.push(l.to_owned())).unwrap_err().to_string();
        assert_eq!(lines, ["Progress 1 of 2", "collecting"]);
        assert!(error.contains("no such package") && error.contains("collecting"), "{error}");
        assert!(!error.contains("\nProgress"), "{error}");
    }

    #[test]
    fn a_dropped_connection_is_tried_once_more_and_only_once() {
        for (fails, ok) in [(0, true), (1, true), (2, false)] {
            let mut calls = 0;
            let result = twice(|| {
                calls += 1;
                if calls <= fails { bail!("connection reset") } else { Ok(()) }
            });
            assert_eq!((result.is_ok(), calls), (ok, 1 + fails.min(1)), "{fails} failures");
        }
    }
}
