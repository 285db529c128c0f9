//! Accepted is never lost, whatever is killed.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::http::Request;
use harness::load::{self, Until};
use harness::{Agent, Hub, Mosquitto, Setup, infer, onnx};
use serde_json::{Value, json};

use super::Effort;

/// A killed agent loses at most the interval that it had not committed, and says how much was committed:
/// so it is killed only when the hub has all, and everything else at any time.
pub(super) fn prove(programs: &Path, effort: Effort) -> Result<Value> {
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
    while started.elapsed() < effort.time || turn < 3 {
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
