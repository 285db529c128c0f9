//! `cargo xtask demo`: the whole road, once, with nothing in it that is not real: models from packages, the release build of
//! `mast`, a broker that is killed meanwhile, a hub in a process of its own, photos through the public HTTP API.

mod photos;
mod report;
mod road;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::{cache, setup, test};

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Leave everything running, and print what to try next; Ctrl-C ends it
    #[arg(long)]
    keep: bool,
    /// Also write what was seen to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let started = Instant::now();
    let ready = setup::ensure()?;
    let programs = build_release(&cache::root())?;
    let mut road = road::Road::open(&ready, &programs)?;
    let report = road.travel(&ready)?;
    println!("\n{}", report.table());
    println!("{:.1} s", started.elapsed().as_secs_f64());
    if let Some(path) = &args.json {
        let mut file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        file.write_all(serde_json::to_string_pretty(&report)?.as_bytes())?;
    }
    let broken = report.broken();
    if !broken.is_empty() {
        bail!("did not hold: {}\n{}", broken.join("; "), road.log());
    }
    println!("all of it held");
    if args.keep {
        road.keep(&programs)?;
    }
    Ok(())
}

/// The folder of the release build. Both packages in one call, so that cargo settles on one set of features for both.
pub(crate) fn build_release(root: &Path) -> Result<PathBuf> {
    println!("building the release, which takes minutes the first time");
    let mut build = test::cargo_command(root);
    build.args(["build", "--release", "--package", "mast", "--package", "mast-tests", "--bins"]);
    test::succeed(build)?;
    Ok(test::target_dir(root).join("release"))
}
