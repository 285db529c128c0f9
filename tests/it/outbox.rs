//! Metric records on their way to the hub: accepted is never lost, whatever breaks.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::infer::json as json_body;
use harness::load::{self, Until};
use harness::{Agent, Hub, Mosquitto, Setup, onnx, wait_until};

use crate::assert_serves;

pub(crate) const SITE: &str =
    "[site]\norg = \"org\"\nregion = \"south\"\nsite = \"muc\"\nbox = \"b1\"\njurisdiction = \"DE-BY\"\n";
/// The tenant of requests without labels, whose counts may leave.
pub(crate) const POLICY: &str = "version = 1\n[[rules]]\nid = \"local\"\neffect = \"allow\"\ntenants = [\"local\"]\negress = \"aggregate\"\n";

pub(crate) fn setup_with_hub(hub: &Hub) -> Result<Setup> {
    Setup::new()?
        .model("add", &onnx::add_one(4), "max_batch_size = 8\nqueue_limit = 256\n")?
        .config(SITE)
        .config(&hub.agent_config(1)?)
        .policy(POLICY)
}

/// So many requests that were all answered.
fn send(agent: &Agent, count: u64) -> Result<u64> {
    let request = json_body("add", "x", &[1, 4], &[0.0; 4]);
    let outcome = load::run(agent.http, &request, 4, Until::Requests(count))?;
    ensure!(outcome.replies == count, "{outcome:?}");
    Ok(count)
}

#[test]
fn the_hub_counts_what_the_clients_counted() -> Result<()> {
    let broker = Mosquitto::start()?;
    let hub = Hub::start(broker.port)?;
    let mut agent = setup_with_hub(&hub)?.start()?;
    let mut replies = send(&agent, 200)?;
    hub.wait_for("the first replies", |ledger| ledger.requests == 200)?;
    replies += send(&agent, 100)?;
    // The last, partial interval is committed and sent on the way out.
    ensure!(agent.terminate()?.code() == Some(0), "{}", agent.log());
    let ledger = hub.wait_for("all replies", |ledger| ledger.requests == replies)?;
    ensure!(ledger.missing == 0, "{ledger:?}");
    Ok(())
}

#[test]
fn mosquitto_killed_three_times_under_load_loses_nothing() -> Result<()> {
    let mut broker = Mosquitto::start()?;
    let hub = Hub::start(broker.port)?;
    let agent = setup_with_hub(&hub)?.start()?;
    let mut replies = 0;
    for _ in 0..3 {
        agent.wait_for_status("connected", |status| status["uplink"]["connected"] == true)?;
        replies += send(&agent, 500)?;
        broker.kill()?;
        replies += send(&agent, 500)?;
        let down = |status: &serde_json::Value| {
            status["uplink"]["connected"] == false && status["outbox"]["pending_records"].as_u64() > Some(0)
        };
        agent.wait_for_status("without its broker", down)?;
        broker.restart()?;
        replies += send(&agent, 500)?;
    }
    let ledger = hub.wait_for("all replies", |ledger| ledger.requests >= replies)?;
    ensure!(ledger.requests == replies, "the hub counts {}, the clients {replies}", ledger.requests);
    ensure!(ledger.missing == 0 && ledger.upto_seq.len() == 1, "{ledger:?}");
    let status =
        agent.wait_for_status("done with its outbox", |status| status["outbox"]["pending_records"] == 0)?;
    ensure!(status["uplink"]["reconnects"].as_u64() >= Some(3), "{status}");
    Ok(())
}

#[test]
fn the_epoch_survives_restarts_and_a_kill() -> Result<()> {
    let broker = Mosquitto::start()?;
    let hub = Hub::start(broker.port)?;
    let mut agent = setup_with_hub(&hub)?.start()?;
    let epoch = agent.status()?["outbox"]["epoch"].clone();
    let mut replies = send(&agent, 50)?;
    hub.wait_for("the first replies", |ledger| ledger.requests == 50)?;
    agent.terminate()?;
    agent.start_again()?;
    replies += send(&agent, 50)?;
    hub.wait_for("the second replies", |ledger| ledger.requests == 100)?;
    agent.kill()?;
    agent.start_again()?;
    replies += send(&agent, 50)?;
    let ledger = hub.wait_for("the third replies", |ledger| ledger.requests >= replies)?;
    ensure!(ledger.requests == replies && ledger.missing == 0, "{ledger:?}");
    ensure!(agent.status()?["outbox"]["epoch"] == epoch, "the epoch changed");
    ensure!(ledger.upto_seq.len() == 1, "{ledger:?}");
    Ok(())
}

#[test]
fn a_dead_uplink_is_started_again_and_the_agent_serves_on() -> Result<()> {
    let broker = Mosquitto::start()?;
    let hub = Hub::start(broker.port)?;
    let agent = setup_with_hub(&hub)?.start()?;
    let status = agent.wait_for_status("connected", |status| status["uplink"]["connected"] == true)?;
    let pid = status["uplink"]["pid"].as_u64().and_then(|pid| i32::try_from(pid).ok());
    harness::kill_by_id(pid.ok_or_else(|| anyhow::anyhow!("no pid in {status}"))?)?;
    assert_serves(&agent)?;
    agent.wait_for_status("connected again", |status| {
        status["uplink"]["restarts"].as_u64() >= Some(1) && status["uplink"]["connected"] == true
    })?;
    send(&agent, 50)?;
    hub.wait_for("the replies", |ledger| ledger.requests == 51)?;
    Ok(())
}

/// Without a broker at all the agent is ready and serves; doctor and status say what is missing.
#[test]
fn no_broker_is_no_reason_not_to_serve() -> Result<()> {
    let broker = Mosquitto::start()?;
    let hub = Hub::start(broker.port)?;
    let setup = setup_with_hub(&hub)?;
    drop(hub);
    drop(broker);
    let agent = setup.start()?;
    send(&agent, 50)?;
    wait_until("the outbox to fill", Duration::from_secs(20), || {
        Ok(agent.status()?["outbox"]["pending_records"].as_u64() >= Some(2))
    })?;
    let status = agent.status()?;
    ensure!(status["uplink"]["connected"] == false && status["uplink"]["last_error"].is_string(), "{status}");
    assert_serves(&agent)
}
