//! Without a hub nothing leaves the box, and nothing is written for one.

use anyhow::{Result, ensure};
use harness::{files, load};

use crate::{agent_with_add, assert_serves};

#[test]
fn no_outbox_and_no_child() -> Result<()> {
    let mut agent = agent_with_add()?;
    let request = harness::infer::json("add", "x", &[1, 4], &[0.0; 4]);
    load::run(agent.http, &request, 2, load::Until::Requests(50))?;
    assert_serves(&agent)?;
    let status = agent.status()?;
    ensure!(status["outbox"].is_null() && status["uplink"].is_null(), "{status}");
    let children = format!("/proc/{0}/task/{0}/children", agent.process().id());
    let children = std::fs::read_to_string(children)?;
    ensure!(children.trim().is_empty(), "child processes: {children}");
    ensure!(agent.terminate()?.code() == Some(0), "{}", agent.log());
    let data_dir = agent.setup().data_dir();
    ensure!(!data_dir.join("outbox").exists(), "an outbox was written");
    let segments =
        files::walk(data_dir)?.into_iter().filter(|path| path.extension().is_some_and(|end| end == "seg"));
    ensure!(segments.count() == 0, "segments were written");
    Ok(())
}
