//! `cargo xtask prove NAME`: proofs that take as long as they are given. `cargo xtask test` runs each with a small N.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use harness::http::Request;
use harness::load::{self, Until};
use harness::{Agent, Hub, Mosquitto, Setup, infer, onnx};
use serde_json::{Value, json};

use crate::{cache, demo, setup};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// outbox: kill -9 the broker, the uplink and the agent in turn, under load; the hub must count every reply
    name: String,
    /// How long
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Also write the result to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A proof: the folder of the programs, how long, and what it found; an error where it does not hold.
type Proof = fn(&Path, Duration) -> Result<Value>;

const PROOFS: [(&str, Proof); 1] = [("outbox", outbox)];

/// Enough for one turn of everything that is killed.
const SMALL: Duration = Duration::from_secs(15);

pub(crate) fn run(args: &Args) -> Result<()> {
    let Some((_, proof)) = PROOFS.iter().find(|(name, _)| *name == args.name) else {
        let names: Vec<&str> = PROOFS.iter().map(|(name, _)| *name).collect();
        bail!("no proof {}; there is {}", args.name, names.join(", "));
    };
    setup::ensure()?;
    let programs = demo::build_release(&cache::root())?;
    let found = proof(&programs, Duration::try_from_secs_f64(args.minutes * 60.0)?)?;
    println!("{found:#}");
    if let Some(path) = &args.json {
        let mut file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        write!(file, "{found:#}")?;
    }
    Ok(())
}

/// Every proof, with a small N.
pub(crate) fn small(programs: &Path) -> Result<()> {
    for (name, proof) in PROOFS {
        println!("{name}: {}", proof(programs, SMALL).with_context(|| name.to_owned())?);
    }
    Ok(())
}

/// Accepted is never lost. A killed agent loses at most the interval that it had not committed, and says how much was committed:
/// so it is killed only when the hub has all, and everything else at any time.
fn outbox(programs: &Path, time: Duration) -> Result<Value> {
    let mut broker = Mosquitto::start()?;
    let hub = Hub::start(broker.port)?;
    let policy = "version = 1\n[[rules]]\nid = \"local\"\neffect = \"allow\"\ntenants = [\"local\"]\negress = \"aggregate\"\n";
    let site = "[site]\norg = \"proof\"\nregion = \"r\"\nsite = \"s\"\nbox = \"b\"\njurisdiction = \"DE\"\n";
    let setup = Setup::new()?.program_at(programs.join("mast")).model(
        "add",
        &onnx::add_one(4),
        "queue_limit = 256\n",
    )?;
    let mut agent = setup.config(site).config(&hub.agent_config(1)?).policy(policy)?.start()?;
    let request = infer::json("add", "x", &[1, 4], &[0.0; 4]);
    let (started, mut replies, mut kills) =
        (Instant::now(), 0, json!({ "broker": 0, "uplink": 0, "agent": 0 }));
    let mut turn = 0_u64;
    while started.elapsed() < time || turn < 3 {
        replies += send(&agent, &request)?;
        let victim = ["broker", "uplink", "agent"][usize::try_from(turn % 3)?];
        match victim {
            "broker" => {
                broker.kill()?;
                replies += send(&agent, &request)?;
                broker.restart()?;
            }
            "uplink" => kill_uplink(&agent)?,
            _ => {
                hub.wait_for("all replies before the agent is killed", |ledger| ledger.requests == replies)?;
                agent.kill()?;
                agent.start_again()?;
            }
        }
        kills[victim] = json!(kills[victim].as_u64().unwrap_or(0) + 1);
        turn += 1;
    }
    replies += send(&agent, &request)?;
    let ledger = hub.wait_for("all replies", |ledger| ledger.requests >= replies)?;
    ensure!(ledger.requests == replies, "the hub counts {}, the clients {replies}", ledger.requests);
    ensure!(ledger.missing == 0 && ledger.upto_seq.len() == 1, "{ledger:?}");
    Ok(json!({ "seconds": started.elapsed().as_secs(), "replies": replies, "kills": kills, "hub": ledger }))
}

fn send(agent: &Agent, request: &Request) -> Result<u64> {
    let outcome = load::run(agent.http, request, 4, Until::After(Duration::from_millis(1500)))?;
    ensure!(outcome.refused == 0, "refused under a small load: {}", outcome.refused);
    Ok(outcome.replies)
}

fn kill_uplink(agent: &Agent) -> Result<()> {
    let status =
        agent.wait_for_status("with an uplink", |status| status["uplink"]["pid"].as_u64().is_some())?;
    let pid = status["uplink"]["pid"].as_u64().and_then(|pid| i32::try_from(pid).ok());
    harness::kill_by_id(pid.context("no uplink")?)
}
