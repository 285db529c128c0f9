use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::http::Request;
use harness::load::{self, Until};
use harness::{Agent, EmbeddedBroker, Hub, Setup, infer};

use super::photos;
use super::report::Report;
use crate::setup::Ready;

/// The rule of [`POLICY`] that refuses.
pub(super) const DENY_RULE: &str = "no-analytics-of-patients";

const POLICY: &str = r#"
version = 1

[[rules]]
id = "no-analytics-of-patients"
effect = "deny"
tenants = ["clinic"]
purposes = ["analytics"]

[[rules]]
id = "clinic-inference"
effect = "allow"
tenants = ["clinic"]
jurisdictions = ["DE"]
egress = "aggregate"
"#;

const SITE: &str = "[site]\norg = \"demo\"\nregion = \"south\"\nsite = \"munich\"\nbox = \"box-1\"\njurisdiction = \"DE-BY\"\n";
const ALLOWED: [&str; 8] =
    ["--tenant", "clinic", "--jurisdiction", "DE", "--data-class", "personal", "--purpose", "inference"];
const REFUSED: [&str; 8] =
    ["--tenant", "clinic", "--jurisdiction", "DE", "--data-class", "personal", "--purpose", "analytics"];

/// Requests from several connections: before the broker is killed, while it is away, and after.
const LOAD: u64 = 60;
const CONNECTIONS: usize = 4;

/// Everything that runs: broker, hub, agent.
pub(super) struct Road {
    broker: EmbeddedBroker,
    hub: Hub,
    agent: Agent,
}

impl Road {
    pub(super) fn open(ready: &Ready, programs: &Path) -> Result<Self> {
        let broker = EmbeddedBroker::start(&programs.join("mast-test-broker"))?;
        let hub = Hub::start(broker.port)?;
        let setup = Setup::new()?
            .program_at(programs.join("mast"))
            .repository_at(&ready.model_repository)
            .env("ORT_DYLIB_PATH", &ready.ort_library)
            .config(SITE)
            .config(&hub.agent_config(1)?)
            .policy(POLICY)?;
        println!("starting mast run with {}", ready.model_repository.display());
        let agent = setup.start()?;
        Ok(Self { broker, hub, agent })
    }

    pub(super) fn travel(&mut self, ready: &Ready) -> Result<Report> {
        let photos = photos::show_all(&self.agent, ready, &ALLOWED)?;
        let before = self.load()?;
        println!("killing the broker");
        self.broker.kill()?;
        let meanwhile = self.load()?;
        let refused =
            photos::infer(&self.agent, &ready.photos.join("coffee.png"), "efficientnet-lite0", &REFUSED)?;
        // Records are committed while there is nobody to send them to.
        self.agent.wait_for_status("keeping records for later", |status| {
            status["outbox"]["pending_records"].as_u64() > Some(0) && status["uplink"]["connected"] == false
        })?;
        println!("starting it again");
        self.broker.restart()?;
        let after = self.load()?;
        let text = |key: &str| {
            refused[key].as_str().map(str::to_owned).with_context(|| format!("no {key} in {refused}"))
        };
        let replies = u64::try_from(photos.len())? + before + meanwhile + after;
        // When the counts do not come to agree, the report says by how much.
        let hub = match self.hub.wait_for("every reply", |hub| hub.requests >= replies) {
            Ok(ledger) => ledger,
            Err(_) => self.hub.ledger()?,
        };
        let empty = |status: &serde_json::Value| status["outbox"]["pending_records"] == 0;
        let status =
            self.agent.wait_for_status("done with its outbox", empty).or_else(|_| self.agent.status())?;
        let count = |part: &str, key: &str| {
            status[part][key].as_u64().with_context(|| format!("no {part}.{key} in {status}"))
        };
        Ok(Report {
            photos,
            detector: ready.nanodet,
            rule: text("rule")?,
            allowed: text("allowed")?,
            replies,
            broker_kills: 1,
            replies_without_broker: meanwhile,
            hub,
            outbox_pending: count("outbox", "pending_records")?,
            reconnects: count("uplink", "reconnects")?,
        })
    }

    /// Replies to [`LOAD`] requests of the small classifier, all of which must be answered.
    fn load(&self) -> Result<u64> {
        let pixels = infer::f32_bytes(&vec![0.25; 3 * 224 * 224]);
        let request = labelled(infer::binary("efficientnet-lite0-int8", "image", &[1, 3, 224, 224], &pixels));
        let outcome = load::run(self.agent.http, &request, CONNECTIONS, Until::Requests(LOAD))?;
        ensure!(
            outcome.replies == LOAD,
            "{} replies to {LOAD} requests, {} refused",
            outcome.replies,
            outcome.refused
        );
        println!(
            "{LOAD} requests over {CONNECTIONS} connections, p50 {:.1?}, p99 {:.1?}",
            outcome.quantile(0.5),
            outcome.quantile(0.99)
        );
        Ok(outcome.replies)
    }

    pub(super) fn log(&self) -> String {
        self.agent.log()
    }

    /// Leaves it running until Ctrl-C, which reaches every process of this group.
    pub(super) fn keep(&mut self, programs: &Path) -> Result<()> {
        let (http, metrics) = (self.agent.http, self.agent.metrics);
        let data_dir = self.agent.setup().data_dir().display().to_string();
        let mast = programs.join("mast").display().to_string();
        println!(
            "\nit keeps running; Ctrl-C ends it. To try next:\n\
             curl http://{http}/v2/health/ready -i\n\
             curl http://{http}/v2/models/efficientnet-lite0\n\
             curl -X POST http://{http}/v2/repository/index\n\
             curl http://{metrics}/metrics\n\
             {mast} status --data-dir {data_dir}\n\
             {mast} models --data-dir {data_dir}"
        );
        let status = self.agent.wait_for_end_without_limit()?;
        println!("mast run ended with {status}");
        Ok(())
    }
}

fn labelled(request: Request) -> Request {
    request
        .with("Mast-Tenant", "clinic")
        .with("Mast-Jurisdiction", "DE")
        .with("Mast-Data-Class", "personal")
        .with("Mast-Purpose", "inference")
}
