use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{Process, wait_for, workspace};

const PATIENCE: Duration = Duration::from_secs(90);

/// The hub: `hub.py` as a process of its own, which writes and fsyncs what it receives before it acknowledges.
#[derive(Debug)]
pub struct Hub {
    port: u16,
    dir: TempDir,
    process: Process,
}

/// What the hub has on disk of one box, read from its own file, not from what it says.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Ledger {
    /// By epoch: the last number up to which nothing is missing.
    pub upto_seq: BTreeMap<String, u64>,
    /// Successful requests, summed over all records, each counted once.
    pub requests: u64,
    /// Records, each counted once.
    pub records: u64,
    /// Numbers missing below the highest one.
    pub missing: u64,
    /// Records that came more than once.
    pub duplicates: u64,
}

impl Hub {
    /// A hub of the broker on this loopback port.
    pub fn start(port: u16) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("mast-hub-").tempdir()?;
        let mut command = Command::new(workspace::python()?);
        command.arg("-B").arg(workspace::root().join("tests/harness/hub.py"));
        command.args(["--port", &port.to_string(), "--dir"]).arg(dir.path());
        let process = Process::spawn("hub.py", &mut command, &dir.path().join("log"))?;
        let mut hub = Self { port, dir, process };
        wait_for("the hub's key", PATIENCE, || {
            ensure!(hub.process.ended()?.is_none(), "hub.py ended: {}", hub.process.log());
            Ok(hub.public_key().ok())
        })?;
        Ok(hub)
    }

    fn public_key(&self) -> Result<String> {
        let text = std::fs::read_to_string(self.dir.path().join("key.pub"))?;
        let text = text.trim();
        ensure!(!text.is_empty(), "no key yet");
        Ok(text.to_owned())
    }

    /// `[hub]` of an agent's configuration: this broker, this hub's key, and waits that suit a test.
    pub fn agent_config(&self, interval_s: u64) -> Result<String> {
        Ok(format!(
            "[hub]\nbroker = \"mqtt://127.0.0.1:{}\"\ninterval_s = {interval_s}\nbackoff_min_ms = 50\nbackoff_max_ms = 500\n\
             resend_after_ms = 500\nkeys = {{ hub-1 = \"{}\" }}\n",
            self.port,
            self.public_key()?
        ))
    }

    /// What has reached its disk.
    pub fn ledger(&self) -> Result<Ledger> {
        let read = |name: &str| std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        let (text, duplicates) = (read("records.jsonl"), read("duplicates.jsonl"));
        let mut ledger =
            Ledger { duplicates: u64::try_from(duplicates.lines().count())?, ..Ledger::default() };
        let mut seen: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
        // A line that has no end yet is still being written.
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let record: Value =
                serde_json::from_str(line).with_context(|| format!("the hub wrote {line:?}"))?;
            add(&record, &mut ledger, &mut seen)?;
        }
        for (epoch, seqs) in seen {
            let unbroken = seqs.iter().zip(1..).take_while(|(seq, expected)| *seq == expected).count();
            ledger.upto_seq.insert(epoch, u64::try_from(unbroken)?);
            let last = seqs.last().copied().unwrap_or(0);
            ledger.missing += last - u64::try_from(seqs.len())?;
        }
        Ok(ledger)
    }

    /// Waits until the ledger is as wanted and returns it.
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&Ledger) -> bool) -> Result<Ledger> {
        let mut last = Ledger::default();
        let found = wait_for(&format!("a hub that has {what}"), PATIENCE, || {
            last = self.ledger()?;
            Ok(wanted(&last).then(|| last.clone()))
        });
        found.with_context(|| format!("{last:?}\n{}", self.process.log()))
    }
}

/// Counts one record. The hub writes each once; a second line would be its fault.
fn add(line: &Value, ledger: &mut Ledger, seen: &mut BTreeMap<String, BTreeSet<u64>>) -> Result<()> {
    let seq = line["seq"].as_u64().with_context(|| format!("no seq in {line}"))?;
    let epoch = line["epoch"].as_str().with_context(|| format!("no epoch in {line}"))?.to_owned();
    ensure!(seen.entry(epoch).or_default().insert(seq), "the hub wrote {seq} twice");
    ledger.records += 1;
    let body = &line["record"]["body"];
    // Roll-ups and gaps stand for other records; where they may come, `hub.py summary` counts.
    ensure!(
        body["interval"].is_object() || body["agent"].is_object(),
        "neither an interval nor an agent: {body}"
    );
    let counters = &body["interval"]["counters"];
    ledger.requests += counters["requests"].as_u64().unwrap_or(0);
    Ok(())
}
