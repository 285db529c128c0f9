//! The task that decides: takes from the agent, publishes, believes acknowledgements, reconnects.

use std::time::Duration;

use egress::{BATCH_LIMIT_BYTES, BATCH_LIMIT_RECORDS, Birth, Topics, Will};
use rumqttc::mqttbytes::v5::PubAckReason;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::acks::AckReader;
use super::backoff::Backoff;
use super::connection::{Connection, Happening};
use super::credentials::Credentials;
use super::window::{Acked, Window};
use crate::frames::{self, FromUplink, StoredRecord, ToUplink};
use crate::{Broker, BrokerReason, Error, UplinkConfig, UplinkState};

/// The state is sent to the agent at most this often, unless the connection changed.
const REPORT_EVERY: Duration = Duration::from_millis(200);
/// Warnings about what the hub sends are logged at most this often.
const WARN_EVERY: Duration = Duration::from_secs(10);
/// A connection that lasted so long was a good one: the next wait starts over.
const GOOD_AFTER: Duration = Duration::from_secs(30);
/// A broker that answers pings and takes nothing for so many keep-alives is left.
const STALLED_KEEP_ALIVES: u32 = 2;
/// After so many attempts in vain it is said that the hub is silent.
const SILENT_AFTER: u32 = 2;
/// Longer than any budget.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

pub(super) struct Drain {
    config: UplinkConfig,
    broker: Broker,
    writer: OwnedWriteHalf,
    window: Window,
    acks: AckReader,
    backoff: Backoff,
    link: Link,
    state: UplinkState,
    reported: Option<(UplinkState, Instant)>,
    warned: Option<Instant>,
    unwarned: u64,
    /// A `take` is not answered yet.
    taking: bool,
    ending: Option<Ending>,
}

enum Link {
    /// Until then nothing is tried.
    Waiting(Instant),
    Open(Open),
}

struct Open {
    connection: Connection,
    /// CONNACK has come.
    is_up: bool,
    since: Instant,
    /// Publications that the broker has not answered, and when it last answered one.
    unanswered: usize,
    answered_at: Instant,
}

/// The agent asked to end.
struct Ending {
    deadline: Instant,
    /// The outbox has no more.
    is_drained: bool,
    /// Goodbye is said; waiting for the broker to have it.
    has_parted: bool,
}

impl Drain {
    pub(super) fn new(config: UplinkConfig, writer: OwnedWriteHalf) -> Result<Self, Error> {
        let hub = &config.hub;
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(hub.backoff_min_ms), ms(hub.backoff_max_ms));
        // Also the first attempt waits: after a power cut a whole region starts at once.
        let first = Instant::now() + backoff.next(&mut rand::rng());
        backoff.reset();
        if hub.keys.is_empty() {
            tracing::warn!("hub.keys is empty: acknowledgements are believed without a signature");
        }
        let broker = Broker::parse(&hub.broker)?;
        if hub.username.is_some() && !broker.tls && !broker.is_loopback() {
            tracing::warn!("hub.broker is mqtt://: the password crosses the network in clear");
        }
        Ok(Self {
            window: Window::new(config.epoch, hub.window_batches, ms(hub.resend_after_ms)),
            acks: AckReader::new(Topics::new(&config.site).ack(), config.epoch, &hub.keys)?,
            broker,
            backoff,
            link: Link::Waiting(first),
            state: UplinkState::default(),
            reported: None,
            warned: None,
            unwarned: 0,
            taking: false,
            ending: None,
            writer,
            config,
        })
    }

    /// Until the agent asks to end or is gone.
    pub(super) async fn run(
        mut self,
        mut frames: mpsc::Receiver<Result<ToUplink, Error>>,
    ) -> Result<(), Error> {
        loop {
            self.open_if_due();
            self.send_batches()?;
            self.take().await?;
            if self.is_over()? {
                self.report(true).await?;
                return Ok(());
            }
            self.report(false).await?;
            let wake_at = self.wake_at();
            let wake = async {
                match wake_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let happening = async {
                match &mut self.link {
                    Link::Open(open) => open.connection.next().await,
                    Link::Waiting(_) => std::future::pending().await,
                }
            };
            tokio::select! {
                frame = frames.recv() => match frame {
                    Some(frame) => self.hear_agent(frame?).await?,
                    None => return Err(Error::Closed),
                },
                happening = happening => self.hear_broker(happening).await?,
                () = wake => self.wake_up(),
            }
        }
    }

    async fn hear_agent(&mut self, frame: ToUplink) -> Result<(), Error> {
        match frame {
            ToUplink::Config(_) => Err(Error::Frame { problem: "a second config", source: None }),
            ToUplink::Shutdown { budget_ms } => {
                let deadline = Instant::now() + Duration::from_millis(budget_ms);
                self.ending = Some(Ending { deadline, is_drained: false, has_parted: false });
                if let Link::Waiting(at) = &mut self.link {
                    *at = Instant::now();
                }
                Ok(())
            }
            ToUplink::Records(records) => {
                self.taking = false;
                if let (true, Some(ending)) = (records.is_empty(), &mut self.ending) {
                    ending.is_drained = true;
                }
                let stored = records.into_iter().map(|StoredRecord { seq, bytes }| (seq, bytes));
                let taken = self.window.push(stored)?;
                self.state.counts.skipped = self.state.counts.skipped.saturating_add(taken.skipped);
                for seq in taken.rejected {
                    self.state.counts.rejected = self.state.counts.rejected.saturating_add(1);
                    self.write(&FromUplink::Rejected { seq }).await?;
                }
                Ok(())
            }
        }
    }

    async fn hear_broker(&mut self, happening: Happening) -> Result<(), Error> {
        let now = Instant::now();
        let Link::Open(open) = &mut self.link else { return Ok(()) };
        match happening {
            Happening::Up { packet_limit } => {
                let UplinkConfig { epoch, boot, agent, site, caps, .. } = &self.config;
                let birth = Birth::new(*epoch, *boot, agent.clone(), site.jurisdiction.clone(), caps.clone());
                open.is_up = open.connection.greet(&birth)?;
                // Why the last connection went. A word on this one may come before the broker's answer to the subscription.
                self.state.detail = None;
                open.unanswered = 1;
                open.answered_at = now;
                self.window.connected(packet_limit);
                self.state.counts.connects = self.state.counts.connects.saturating_add(1);
            }
            Happening::Subscribed => {
                self.state.connected = true;
                self.state.reason = BrokerReason::Connected;
                tracing::info!(broker = %self.broker.host, port = self.broker.port, "connected to the broker");
            }
            Happening::Ack(payload) => return self.hear_hub(&payload).await,
            Happening::PubAck(reason) => {
                open.unanswered = open.unanswered.saturating_sub(1);
                open.answered_at = now;
                self.hear_puback(reason);
            }
            Happening::Down { reason, detail } => self.down(reason, detail),
        }
        Ok(())
    }

    fn hear_puback(&mut self, reason: PubAckReason) {
        match reason {
            PubAckReason::Success => {}
            PubAckReason::NoMatchingSubscribers => {
                self.state.counts.unheard = self.state.counts.unheard.saturating_add(1);
                self.state.detail =
                    Some("the broker takes what is sent, but no hub is subscribed".to_owned());
            }
            refusal => {
                self.state.counts.refused = self.state.counts.refused.saturating_add(1);
                self.state.reason = match refusal {
                    PubAckReason::NotAuthorized => BrokerReason::NotAuthorised,
                    PubAckReason::QuotaExceeded => BrokerReason::Busy,
                    _ => BrokerReason::Protocol,
                };
                self.state.detail = Some(format!("publication refused: {refusal:?}"));
                self.warn("the broker refused a publication");
            }
        }
    }

    async fn hear_hub(&mut self, payload: &[u8]) -> Result<(), Error> {
        match self.acks.read(payload) {
            Ok(upto_seq) => {
                self.state.counts.acks = self.state.counts.acks.saturating_add(1);
                self.state.reason = BrokerReason::Connected;
                self.state.detail = None;
                let acked = self.window.acknowledge(upto_seq, Instant::now().into_std());
                if let Acked::Freed { upto_seq } = acked {
                    self.backoff.reset();
                    self.state.acknowledged_seq = self.state.acknowledged_seq.max(upto_seq);
                    self.write(&FromUplink::Acknowledged { upto_seq }).await?;
                }
            }
            Err(bad) => {
                self.state.counts.bad_acks = self.state.counts.bad_acks.saturating_add(1);
                self.state.detail = Some(format!("acknowledgement ignored: {bad}"));
                self.warn("an acknowledgement was ignored");
            }
        }
        Ok(())
    }

    fn down(&mut self, reason: BrokerReason, detail: String) {
        let now = Instant::now();
        if let Link::Open(open) = &self.link
            && open.is_up
            && now - open.since >= GOOD_AFTER
        {
            self.backoff.reset();
        }
        // While ending, one attempt is all there is.
        let wait = if self.ending.is_some() { NEVER } else { self.backoff.next(&mut rand::rng()) };
        self.link = Link::Waiting(now + wait);
        self.state.connected = false;
        self.state.reason = reason;
        self.state.counts.disconnects = self.state.counts.disconnects.saturating_add(1);
        if self.ending.is_none() {
            tracing::warn!(%reason, detail, wait_ms = wait.as_millis(), "no connection to the broker");
        }
        self.state.detail = Some(detail).filter(|detail| !detail.is_empty());
    }

    fn open_if_due(&mut self) {
        let Link::Waiting(at) = &self.link else { return };
        let now = Instant::now();
        if *at > now {
            return;
        }
        let opened = Credentials::read(&self.config.hub, &self.broker)
            .and_then(|credentials| Connection::open(&self.config, &self.broker, &credentials));
        match opened {
            Ok(connection) => {
                let open = Open { connection, is_up: false, since: now, unanswered: 0, answered_at: now };
                self.link = Link::Open(open);
            }
            Err(error) => self.down(BrokerReason::CredentialFile, described(&error)),
        }
    }

    fn send_batches(&mut self) -> Result<(), Error> {
        let Link::Open(open) = &mut self.link else { return Ok(()) };
        if !open.is_up {
            return Ok(());
        }
        while let Some(outgoing) = self.window.to_send()? {
            if !open.connection.send_batch(outgoing.payload) {
                return Ok(());
            }
            let now = Instant::now();
            self.window.published(now.into_std());
            if open.unanswered == 0 {
                open.answered_at = now;
            }
            open.unanswered += 1;
            let counts = &mut self.state.counts;
            let count = if outgoing.again { &mut counts.resent } else { &mut counts.published };
            *count = count.saturating_add(1);
        }
        Ok(())
    }

    async fn take(&mut self) -> Result<(), Error> {
        if self.taking || self.ending.as_ref().is_some_and(|ending| ending.is_drained) {
            return Ok(());
        }
        let Some(from_seq) = self.window.wants() else { return Ok(()) };
        self.taking = true;
        let limit_bytes = BATCH_LIMIT_BYTES - 4 * 1024;
        self.write(&FromUplink::Take { from_seq, limit_records: BATCH_LIMIT_RECORDS, limit_bytes }).await
    }

    fn wake_at(&self) -> Option<Instant> {
        let link = match &self.link {
            Link::Waiting(at) => Some(*at),
            Link::Open(open) if open.is_up => self.window.due().map(Instant::from_std),
            Link::Open(_) => None,
        };
        let report = self
            .reported
            .as_ref()
            .and_then(|(state, at)| (*state != self.state).then_some(*at + REPORT_EVERY));
        let ending = self.ending.as_ref().map(|ending| ending.deadline);
        link.into_iter().chain(report).chain(ending).min()
    }

    fn wake_up(&mut self) {
        let now = Instant::now();
        let Link::Open(open) = &mut self.link else { return };
        if !open.is_up || self.window.due().is_none_or(|due| due > now.into_std()) {
            return;
        }
        if open.unanswered == 0 {
            self.window.resend(now.into_std());
            if self.window.fruitless() == SILENT_AFTER {
                self.state.detail.get_or_insert_with(|| "the hub acknowledges nothing".to_owned());
                tracing::warn!(
                    detail = self.state.detail,
                    records = self.window.pending_records(),
                    "the hub acknowledges nothing; what was sent stays in the outbox"
                );
            }
            return;
        }
        // What was sent is still on its way to the broker, in order: sending it twice would only make that slower.
        let stalled = Duration::from_secs(self.config.hub.keep_alive_s.into()) * STALLED_KEEP_ALIVES;
        if now - open.answered_at >= stalled {
            self.down(BrokerReason::Timeout, "the broker takes no publication".to_owned());
        } else {
            self.window.postpone(now.into_std());
        }
    }

    /// Whether the end that was asked for has come. Says goodbye when all is sent.
    fn is_over(&mut self) -> Result<bool, Error> {
        let Some(ending) = &mut self.ending else { return Ok(false) };
        let left = ending.deadline.saturating_duration_since(Instant::now());
        match &self.link {
            _ if left.is_zero() => {
                tracing::warn!(
                    records = self.window.pending_records(),
                    "the budget is over; these stay in the outbox"
                );
                Ok(true)
            }
            // Also after the one attempt that the end allows.
            Link::Waiting(_) => Ok(true),
            Link::Open(open) => {
                if open.is_up && ending.is_drained && self.window.is_empty() && !ending.has_parted {
                    ending.has_parted = true;
                    return Ok(!open.connection.part(Will::new(self.config.epoch), left)?);
                }
                Ok(false)
            }
        }
    }

    async fn report(&mut self, last: bool) -> Result<(), Error> {
        self.state.pending_records = u64::try_from(self.window.pending_records()).unwrap_or(u64::MAX);
        let now = Instant::now();
        let is_due = match &self.reported {
            None => true,
            Some((reported, _)) if *reported == self.state => false,
            Some((reported, at)) => {
                last || reported.connected != self.state.connected || now - *at >= REPORT_EVERY
            }
        };
        if !is_due {
            return Ok(());
        }
        self.reported = Some((self.state.clone(), now));
        self.write(&FromUplink::State(Box::new(self.state.clone()))).await
    }

    async fn write(&mut self, frame: &FromUplink) -> Result<(), Error> {
        frames::write(&mut self.writer, frame).await
    }

    fn warn(&mut self, message: &str) {
        if self.warned.is_some_and(|at| at.elapsed() < WARN_EVERY) {
            self.unwarned += 1;
            return;
        }
        let detail = self.state.detail.as_deref().unwrap_or_default();
        tracing::warn!(detail, not_logged = self.unwarned, "{message}");
        self.warned = Some(Instant::now());
        self.unwarned = 0;
    }
}

/// An error with its causes, for the local log.
fn described(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
