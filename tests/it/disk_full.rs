//! A full disk under the outbox: requests are served on, somebody is told, and nothing that was counted is lost.

use anyhow::{Result, ensure};
use harness::http;
use harness::infer::json as json_body;
use harness::load::{self, Until};
use harness::{Hub, Mosquitto, Tmpfs, files, mounting_is_possible};

use crate::assert_serves;
use crate::outbox::setup_with_hub;

#[test]
fn serves_on_says_so_and_catches_up() -> Result<()> {
    if !mounting_is_possible()? {
        return Ok(());
    }
    let disk = Tmpfs::mount(48 << 20)?;
    let broker = Mosquitto::start()?;
    let hub = Hub::start(broker.port)?;
    let small = "[outbox]\nsegment_bytes = 1048576\nquota_bytes = 8388608\n";
    let setup = setup_with_hub(&hub)?.config(small).data_dir_at(disk.path().join("data"));
    let agent = setup.start()?;
    let request = json_body("add", "x", &[1, 4], &[0.0; 4]);
    let send = |count: u64| -> Result<u64> {
        Ok(load::run(agent.http, &request, 2, Until::Requests(count))?.replies)
    };
    let mut replies = send(100)?;
    hub.wait_for("the first replies", |ledger| ledger.requests == 100)?;

    let hog = disk.path().join("hog");
    fill(&hog)?;
    // Everything the journal keeps in reserve is used up, and then the log says that the disk is full.
    harness::wait_until("a word about the full disk", std::time::Duration::from_secs(60), || {
        replies += send(20)?;
        fill(&hog)?;
        Ok(agent.log().contains("no room on the disk"))
    })?;
    assert_serves(&agent)?;
    replies += 1;
    ensure!(
        http::get(agent.http, "/v2/health/ready")?.status == 200,
        "a full disk is no reason to turn clients away"
    );

    std::fs::remove_file(&hog)?;
    replies += send(20)?;
    let ledger = hub.wait_for("all replies after room came back", |ledger| ledger.requests >= replies)?;
    ensure!(
        ledger.requests == replies && ledger.missing == 0,
        "the clients counted {replies}, the hub {ledger:?}"
    );
    assert_serves(&agent)
}

/// Writes until there is no room at all.
fn fill(hog: &std::path::Path) -> Result<()> {
    use std::io::Write;
    let mut file = std::fs::File::options().create(true).append(true).open(hog)?;
    for block in [1 << 20, 4096, 1] {
        while file.write_all(&vec![7; block]).is_ok() {}
    }
    ensure!(files::write(hog.with_extension("probe"), [7; 8192]).is_err(), "the disk is not full");
    std::fs::remove_file(hog.with_extension("probe")).ok();
    Ok(())
}
