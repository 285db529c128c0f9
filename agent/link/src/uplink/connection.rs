//! One connection to the broker. A new client and a new event loop each time: nothing of a broken one is carried over.
//!
//! One task owns the event loop and does nothing but poll it; polling is not cancel safe (a packet half written is lost), so it
//! never stands beside a timer in a select. It ends with the connection.

use std::time::Duration;

use egress::{Birth, Egress, Topics, Will};
use rumqttc::mqttbytes::v5::{
    ConnectReturnCode, DisconnectReasonCode, LastWill, LastWillProperties, Packet, PubAckReason,
    SubscribeReasonCode,
};
use rumqttc::{
    AsyncClient, Broker as Address, ConnectionError, Event, EventLoop, MqttOptions, Outgoing, PublishOptions,
    QoS, StateError, Transport,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::credentials::Credentials;
use crate::{Broker, BrokerReason, Error, UplinkConfig};

/// The largest packet taken from the broker, in bytes. Declared in CONNECT, so that the broker does not send more.
const PACKET_LIMIT_BYTES: u32 = 256 * 1024;
/// Publications taken from the broker before they are acknowledged.
const RECEIVE_MAXIMUM: u16 = 32;
/// TCP, TLS and CONNACK together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What happened on the connection.
#[derive(Debug)]
pub(super) enum Happening {
    /// CONNACK. The broker takes packets of so many bytes.
    Up { packet_limit: Option<u32> },
    /// The broker has the subscription to acknowledgements.
    Subscribed,
    /// Something on `…/ack`.
    Ack(Vec<u8>),
    /// The broker has taken, or refused, a publication.
    PubAck(PubAckReason),
    /// It is over. The last.
    Down { reason: BrokerReason, detail: String },
}

/// A connection, up or on its way.
#[derive(Debug)]
pub(super) struct Connection {
    client: AsyncClient,
    happenings: mpsc::Receiver<Happening>,
    task: JoinHandle<()>,
    topics: Topics,
}

impl Connection {
    /// Begins to connect.
    pub(super) fn open(
        config: &UplinkConfig,
        broker: &Broker,
        credentials: &Credentials,
    ) -> Result<Self, Error> {
        let topics = Topics::new(&config.site);
        let options = options(config, broker, credentials, &topics)?;
        // All that can be under way: the window, birth, subscription and goodbye. So publishing never waits.
        let (client, event_loop) =
            AsyncClient::builder(options).capacity(config.hub.window_batches + 8).build();
        let (sender, happenings) = mpsc::channel(64);
        let task = tokio::spawn(poll(event_loop, topics.ack(), sender));
        Ok(Self { client, happenings, task, topics })
    }

    /// The next happening. Cancel safe.
    pub(super) async fn next(&mut self) -> Happening {
        self.happenings.recv().await.unwrap_or_else(|| Happening::Down {
            reason: BrokerReason::Closed,
            detail: "the event loop ended".to_owned(),
        })
    }

    /// Subscribes to acknowledgements and says that the box is there. `false` if that was not possible.
    pub(super) fn greet(&self, birth: &Birth) -> Result<bool, Error> {
        let retained = PublishOptions::new(QoS::AtLeastOnce).retained();
        Ok(self.client.try_subscribe(self.topics.ack(), QoS::AtLeastOnce).is_ok()
            && self.publish(self.topics.state(), birth, retained)?)
    }

    /// Publishes an encoded batch. `false` if there is no room just now.
    pub(super) fn send_batch(&self, payload: Vec<u8>) -> bool {
        let options = PublishOptions::new(QoS::AtLeastOnce);
        self.client.try_publish(self.topics.metrics(), payload, options).is_ok()
    }

    /// Says that the box leaves on purpose, and disconnects once the broker has that. `false` if that was not possible.
    pub(super) fn part(&self, will: Will, within: Duration) -> Result<bool, Error> {
        let retained = PublishOptions::new(QoS::AtLeastOnce).retained();
        Ok(self.publish(self.topics.state(), &will, retained)?
            && self.client.try_disconnect_with_timeout(within).is_ok())
    }

    fn publish(&self, topic: String, words: &impl Egress, options: PublishOptions) -> Result<bool, Error> {
        Ok(self.client.try_publish(topic, words.encode()?, options).is_ok())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn options(
    config: &UplinkConfig,
    broker: &Broker,
    credentials: &Credentials,
    topics: &Topics,
) -> Result<MqttOptions, Error> {
    let hub = &config.hub;
    let mut options = MqttOptions::new(config.client_id(), Address::tcp(&broker.host, broker.port));
    let will_properties = LastWillProperties {
        delay_interval: Some(hub.will_delay_s),
        payload_format_indicator: Some(1),
        message_expiry_interval: None,
        content_type: None,
        response_topic: None,
        correlation_data: None,
        user_properties: Vec::new(),
    };
    let will = Will::new(config.epoch).encode()?;
    options
        .set_keep_alive(hub.keep_alive_s)
        .set_clean_start(true)
        // The will is due when its delay is over or the session ends, whichever is first (MQTT 5, 3.1.3.2.2).
        .set_session_expiry_interval(Some(hub.will_delay_s))
        .set_max_packet_size(Some(PACKET_LIMIT_BYTES))
        .set_receive_maximum(Some(RECEIVE_MAXIMUM))
        .set_connect_timeout(CONNECT_TIMEOUT)
        .set_last_will(LastWill::new(topics.state(), will, QoS::AtLeastOnce, true, Some(will_properties)));
    if let Some((username, password)) = &credentials.password {
        options.set_credentials(username.clone(), password.clone());
    }
    if let Some(tls) = &credentials.tls {
        options.set_transport(Transport::tls_with_config(tls.clone()));
    }
    Ok(options)
}

/// Owns the event loop until the connection ends.
async fn poll(mut event_loop: EventLoop, ack_topic: String, sender: mpsc::Sender<Happening>) {
    loop {
        let happening = match event_loop.poll().await {
            Ok(Event::Incoming(packet)) => happening(packet, &ack_topic),
            Ok(Event::Outgoing(Outgoing::Disconnect)) => {
                Some(Happening::Down { reason: BrokerReason::Stopped, detail: String::new() })
            }
            Ok(_) => None,
            Err(error) => Some(Happening::Down { reason: classify(&error), detail: error.to_string() }),
        };
        let Some(happening) = happening else { continue };
        let is_last = matches!(happening, Happening::Down { .. });
        if sender.send(happening).await.is_err() || is_last {
            return;
        }
    }
}

fn happening(packet: Packet, ack_topic: &str) -> Option<Happening> {
    match packet {
        Packet::ConnAck(connack) => {
            Some(Happening::Up { packet_limit: connack.properties.and_then(|p| p.max_packet_size) })
        }
        Packet::SubAck(suback) => Some(match suback.return_codes.as_slice() {
            [SubscribeReasonCode::Success(_)] => Happening::Subscribed,
            codes => Happening::Down {
                reason: BrokerReason::NotAuthorised,
                detail: format!("subscription to acknowledgements refused: {codes:?}"),
            },
        }),
        Packet::PubAck(puback) => Some(Happening::PubAck(puback.reason)),
        Packet::Publish(publish) if publish.topic == ack_topic => {
            Some(Happening::Ack(publish.payload.to_vec()))
        }
        _ => None,
    }
}

fn classify(error: &ConnectionError) -> BrokerReason {
    match error {
        ConnectionError::Timeout(_) | ConnectionError::DisconnectTimeout => BrokerReason::Timeout,
        ConnectionError::Tls(_) => BrokerReason::Tls,
        ConnectionError::Io(error) => classify_io(error),
        ConnectionError::ConnectionRefused(code) => match code {
            ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::BadAuthenticationMethod => {
                BrokerReason::Credentials
            }
            ConnectReturnCode::NotAuthorized | ConnectReturnCode::Banned => BrokerReason::NotAuthorised,
            ConnectReturnCode::ServiceUnavailable
            | ConnectReturnCode::ServerUnavailable
            | ConnectReturnCode::ServerBusy
            | ConnectReturnCode::QuotaExceeded
            | ConnectReturnCode::ConnectionRateExceeded => BrokerReason::Busy,
            ConnectReturnCode::PacketTooLarge => BrokerReason::PacketTooLarge,
            _ => BrokerReason::Protocol,
        },
        ConnectionError::MqttState(error) => match error {
            StateError::Io(error) => classify_io(error),
            // TLS 1.3 tells of a client certificate that is missing or refused only at the first read.
            StateError::Deserialization(error) if error.to_string().contains("fatal alert") => {
                BrokerReason::Tls
            }
            StateError::AwaitPingResp => BrokerReason::Timeout,
            StateError::ConnectionAborted => BrokerReason::Closed,
            StateError::OutgoingPacketTooLarge { .. } | StateError::IncomingPacketTooLarge { .. } => {
                BrokerReason::PacketTooLarge
            }
            StateError::ServerDisconnect { reason_code, .. } => match reason_code {
                DisconnectReasonCode::NotAuthorized => BrokerReason::NotAuthorised,
                DisconnectReasonCode::ServerBusy
                | DisconnectReasonCode::ServerShuttingDown
                | DisconnectReasonCode::MessageRateTooHigh
                | DisconnectReasonCode::QuotaExceeded => BrokerReason::Busy,
                DisconnectReasonCode::KeepAliveTimeout => BrokerReason::Timeout,
                DisconnectReasonCode::PacketTooLarge => BrokerReason::PacketTooLarge,
                _ => BrokerReason::Closed,
            },
            _ => BrokerReason::Protocol,
        },
        ConnectionError::RequestsDone => BrokerReason::Stopped,
        _ => BrokerReason::Protocol,
    }
}

fn classify_io(error: &std::io::Error) -> BrokerReason {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::UnexpectedEof => BrokerReason::Closed,
        ErrorKind::TimedOut => BrokerReason::Timeout,
        // What rustls says comes as this kind.
        ErrorKind::InvalidData => BrokerReason::Tls,
        _ => BrokerReason::Unreachable,
    }
}
