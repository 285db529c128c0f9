//! Keys and TLS over gRPC.

use std::collections::HashMap;
use std::sync::Arc;

use front::{ClientCertificates, KeysConfig, TlsConfig};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::{Code, Request, Status};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use triton::model_repository_parameter::ParameterChoice;
use triton::{
    ModelConfigRequest, ModelConfigResponse, ModelInferRequest, ModelMetadataRequest, ModelMetadataResponse,
    ModelReadyRequest, ModelReadyResponse, ModelRepositoryParameter, ModelStatisticsRequest,
    ModelStatisticsResponse, ModelStreamInferResponse, RepositoryIndexRequest, RepositoryIndexResponse,
    RepositoryModelLoadRequest, RepositoryModelLoadResponse, RepositoryModelUnloadRequest,
    RepositoryModelUnloadResponse, ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest,
    ServerMetadataResponse,
};

use super::client::{Ended, Raw, framed, raw};
use crate::agent::{Agent, Setup, add_model};
use crate::keys::{Keyed, entry};
use crate::pki::{Authority, put};
use crate::tls::{Client, tls};

fn with<T>(key: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if !key.is_empty() {
        request.metadata_mut().insert("mast-key", key.parse().unwrap());
    }
    request
}

fn ask<I: Message + 'static, O: Message + Default + 'static>(
    agent: &Agent,
    key: &str,
    method: &str,
    message: I,
) -> Result<O, Status> {
    agent.call::<I, O>(method, with(key, message)).map(tonic::Response::into_inner)
}

fn code<T>(answer: Result<T, Status>) -> Result<T, Code> {
    answer.map_err(|status| status.code())
}

#[test]
fn every_call_but_health_needs_a_key() {
    let (any, key) = entry("any", "");
    let keyed = Keyed::start(&any);
    let agent = &keyed.agent;
    let check = |bearer: &str, expected: Option<Code>| {
        let send = |message| {
            let mut request = Request::new(message);
            if !bearer.is_empty() {
                request.metadata_mut().insert("authorization", bearer.parse().unwrap());
            }
            request
        };
        let infer = agent.model_infer(send(raw(&[1.0; 4])));
        assert_eq!(infer.err().map(|status: Status| status.code()), expected, "{bearer}");
    };
    check(&format!("Bearer {key}"), None);
    check(&format!("bearer {key}"), None);
    check("", Some(Code::Unauthenticated));
    check(&key, Some(Code::Unauthenticated));
    check("Bearer wrong", Some(Code::Unauthenticated));
    check(&format!("Bearer {key}x"), Some(Code::Unauthenticated));
    let metadata =
        |key| code(ask::<_, ServerMetadataResponse>(agent, key, "ServerMetadata", ServerMetadataRequest {}));
    assert!(metadata(&key).is_ok());
    assert_eq!(metadata("").unwrap_err(), Code::Unauthenticated);
    // Not even which methods there are.
    let nowhere =
        |key| code(ask::<_, ServerMetadataResponse>(agent, key, "Nothing", ServerMetadataRequest {}));
    assert_eq!(
        (nowhere("").unwrap_err(), nowhere(&key).unwrap_err()),
        (Code::Unauthenticated, Code::Unimplemented)
    );
    let live: ServerLiveResponse = ask(agent, "", "ServerLive", ServerLiveRequest {}).unwrap();
    assert!(live.live);
    let health: HealthCheckResponse = agent
        .call_path::<HealthCheckRequest, _>("/grpc.health.v1.Health/Check", HealthCheckRequest::default())
        .unwrap()
        .into_inner();
    assert_eq!(health.status, 1);
    // A call without a key is over before its message has come.
    let ended = agent.runtime.block_on(async { Raw::open(agent, "ModelInfer", &[]).ended().await });
    assert_eq!(ended.status(), Code::Unauthenticated as i32, "{ended:?}");
    assert_eq!(agent.serve.pressure().buffered_bytes, 0);
}

#[test]
fn a_key_is_for_its_models_whatever_the_call() {
    let (some, key) = entry("some", "models = [\"echo\"]\ntenant = \"local\"");
    let (all, everything) = entry("all", "");
    let keyed = Keyed::start(&(some + &all));
    let agent = &keyed.agent;
    add_model(&agent.repository, "other", "");
    assert_eq!(agent.administer("other", "load", b"").status, 200);
    let check = |key: &str, name: &str, expected: Option<Code>| {
        let name = name.to_owned();
        let infer = ModelInferRequest { model_name: name.clone(), ..raw(&[1.0; 4]) };
        let codes = [
            code(agent.model_infer(with(key, infer))).err(),
            code(ask::<_, ModelReadyResponse>(
                agent,
                key,
                "ModelReady",
                ModelReadyRequest { name: name.clone(), version: String::new() },
            ))
            .err(),
            code(ask::<_, ModelMetadataResponse>(
                agent,
                key,
                "ModelMetadata",
                ModelMetadataRequest { name: name.clone(), version: String::new() },
            ))
            .err(),
            code(ask::<_, ModelConfigResponse>(
                agent,
                key,
                "ModelConfig",
                ModelConfigRequest { name: name.clone(), version: String::new() },
            ))
            .err(),
            code(ask::<_, ModelStatisticsResponse>(
                agent,
                key,
                "ModelStatistics",
                ModelStatisticsRequest { name: name.clone(), version: String::new() },
            ))
            .err(),
        ];
        assert_eq!(codes, [expected; 5], "{name}");
    };
    check(&key, "echo", None);
    check(&key, "other", Some(Code::PermissionDenied));
    // As if it were there.
    check(&key, "nowhere", Some(Code::PermissionDenied));
    check(&everything, "other", None);
    let refused = agent
        .model_infer(with(&key, ModelInferRequest { model_name: "other".to_owned(), ..raw(&[1.0; 4]) }))
        .unwrap_err();
    assert_eq!(refused.metadata().get("mast-rule").unwrap(), "key-models");
    let mut foreign = with(&key, raw(&[1.0; 4]));
    foreign.metadata_mut().insert("mast-tenant", "acme".parse().unwrap());
    let refused = agent.model_infer(foreign).unwrap_err();
    assert_eq!(
        (refused.code(), refused.metadata().get("mast-rule").unwrap()),
        (Code::PermissionDenied, &"key-tenant".parse().unwrap())
    );
    let listed = |key: &str| {
        let index: RepositoryIndexResponse =
            ask(agent, key, "RepositoryIndex", RepositoryIndexRequest::default()).unwrap();
        let statistics: ModelStatisticsResponse =
            ask(agent, key, "ModelStatistics", ModelStatisticsRequest::default()).unwrap();
        (index.models.into_iter().map(|row| row.name).collect::<Vec<_>>(), statistics.model_stats.len())
    };
    assert_eq!(listed(&key), (vec!["echo".to_owned()], 1));
    assert_eq!(listed(&everything), (vec!["echo".to_owned(), "other".to_owned()], 2));
}

#[test]
fn administration_needs_an_admin_key() {
    let (admin, boss) = entry("boss", "admin = true\nmodels = [\"echo\"]");
    let (user, key) = entry("user", "");
    let keyed = Keyed::start(&(admin + &user));
    let open = Agent::start(Setup::default());
    let load =
        |agent: &Agent, key: &str, name: &str, parameters: HashMap<String, ModelRepositoryParameter>| {
            let request =
                RepositoryModelLoadRequest { model_name: name.to_owned(), parameters, ..Default::default() };
            ask::<_, RepositoryModelLoadResponse>(agent, key, "RepositoryModelLoad", request).map(drop)
        };
    let unload = |agent: &Agent, key: &str| {
        let request = RepositoryModelUnloadRequest { model_name: "echo".to_owned(), ..Default::default() };
        ask::<_, RepositoryModelUnloadResponse>(agent, key, "RepositoryModelUnload", request).map(drop)
    };
    let check = |agent: &Agent, key: &str, expected: Option<Code>| {
        let codes = [unload(agent, key), load(agent, key, "echo", HashMap::new())];
        let codes = codes.map(|answer| answer.err().map(|status| status.code()));
        assert_eq!(codes, [expected; 2], "{key}");
    };
    check(&keyed.agent, &boss, None);
    check(&keyed.agent, &key, Some(Code::PermissionDenied));
    check(&keyed.agent, "", Some(Code::Unauthenticated));
    check(&open, "", Some(Code::PermissionDenied));
    let agent = &keyed.agent;
    assert_eq!(load(agent, &boss, "other", HashMap::new()).unwrap_err().code(), Code::PermissionDenied);
    // What comes with a load is used, or refused by name.
    let with_parameter = |key: &str, text: &str| {
        let choice = ParameterChoice::StringParam(text.to_owned());
        load(
            agent,
            &boss,
            "echo",
            [(key.to_owned(), ModelRepositoryParameter { parameter_choice: Some(choice) })].into(),
        )
    };
    let refused = with_parameter("file:1/model.onnx", "AAAA").unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    assert!(refused.message().contains("file:1/model.onnx"), "{refused:?}");
    assert_eq!(with_parameter("config", "{").unwrap_err().code(), Code::InvalidArgument);
    with_parameter("config", r#"{"instance_group":[{"count":3,"kind":"KIND_CPU"}]}"#).unwrap();
    let request = with(&boss, ModelConfigRequest { name: "echo".to_owned(), ..Default::default() });
    let config: ModelConfigResponse =
        agent.call::<ModelConfigRequest, _>("ModelConfig", request).unwrap().into_inner();
    assert_eq!(config.config.unwrap().instance_group[0].count, 3);
}

#[test]
fn each_request_of_a_stream_counts() {
    let (slow, key) = entry("slow", "requests_per_second = 0.01\nburst = 3");
    let keyed = Keyed::start(&slow);
    let agent = &keyed.agent;
    let stream = |headers: &[(&'static str, &str)], count: usize| {
        agent.runtime.block_on(async {
            let mut call = Raw::open(agent, "ModelStreamInfer", headers);
            for index in 0..count {
                call.send(framed(&ModelInferRequest { id: index.to_string(), ..raw(&[1.0; 4]) }));
            }
            call.feed = None;
            call.ended().await
        })
    };
    let ended = stream(&[("mast-key", &key)], 5);
    assert_eq!(ended.status(), 0, "{ended:?}");
    // Those over the rate are answered in their places, and the stream goes on.
    let said: Vec<_> = replies(&ended).into_iter().map(|reply| reply.error_message).collect();
    assert_eq!(said.iter().filter(|text| text.is_empty()).count(), 3, "{said:?}");
    assert!(said[3].contains("rate") && said[4].contains("rate"), "{said:?}");
    let ended = stream(&[("mast-key", &key)], 1);
    assert_eq!(ended.status(), Code::ResourceExhausted as i32, "{ended:?}");
    let wait: u64 = ended.said["grpc-retry-pushback-ms"].to_str().unwrap().parse().unwrap();
    assert!((90_000..=100_000).contains(&wait), "{wait}");
    assert_eq!(stream(&[], 1).status(), Code::Unauthenticated as i32);
    assert_eq!(keyed.denied("rate"), "3");
}

fn replies(ended: &Ended) -> Vec<ModelStreamInferResponse> {
    let mut left = &ended.body[..];
    let mut replies = Vec::new();
    while let Some((head, rest)) = left.split_at_checked(5) {
        let length = u32::from_be_bytes(head[1..].try_into().unwrap()).try_into().unwrap();
        let (message, after) = rest.split_at(length);
        replies.push(ModelStreamInferResponse::decode(message).unwrap());
        left = after;
    }
    replies
}

/// One ModelInfer on a TLS connection of its own; `None` where there is no connection.
fn infer_over_tls(
    agent: &Agent,
    client: &Client,
    alpn: &[&str],
    headers: &[(&'static str, &str)],
) -> Option<Ended> {
    let mut config = client.config.clone();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    agent.runtime.block_on(async {
        let stream = TcpStream::connect(agent.grpc).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()?;
        let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.ok()?;
        let connection = tokio::spawn(connection);
        sender.ready().await.ok()?;
        let mut call = Raw::over(agent, "ModelInfer", headers, move |request| async move {
            sender.send_request(request).await.unwrap()
        });
        call.send(framed(&raw(&[1.0; 4])));
        call.feed = None;
        let ended = call.ended().await;
        connection.abort();
        Some(ended)
    })
}

#[test]
fn grpc_over_tls_with_a_key_or_a_certificate() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let years = (2020, 2090);
    let camera = authority.sign("camera", years);
    let digest = <sha2::Sha256 as sha2::Digest>::digest(&camera.der);
    let (any, key) = entry("any", "");
    let file = authority.path("keys.toml");
    put(
        &file,
        &format!("{any}[[key]]\nid = \"camera\"\ncertificate_sha256 = \"{}\"\n", hex::encode(digest)),
        0o600,
    );
    let config = TlsConfig {
        client_ca: Some(authority.ca()),
        client_certificates: ClientCertificates::Optional,
        ..tls(&authority.sign("box", years))
    };
    let agent =
        Agent::start(Setup { tls: Some(config), keys: Some(KeysConfig { file }), ..Setup::default() });
    let client = Client::new(&authority, None);
    let check = |client: &Client, alpn: &[&str], key: &str, expected: Option<i32>| {
        let headers = [("mast-key", key)];
        let headers = if key.is_empty() { &[] } else { &headers[..] };
        let ended = infer_over_tls(&agent, client, alpn, headers);
        assert_eq!(ended.as_ref().map(Ended::status), expected, "{alpn:?} {key} {ended:?}");
    };
    check(&client, &["h2"], &key, Some(0));
    check(&client, &["http/1.1", "h2"], &key, Some(0));
    check(&client, &[], &key, Some(0));
    check(&client, &["http/1.1"], &key, None);
    check(&client, &["h2"], "", Some(16));
    check(&client, &["h2"], "wrong", Some(16));
    check(&Client::new(&authority, Some(&camera)), &["h2"], "", Some(0));
    check(&Client::new(&stranger, None), &["h2"], &key, None);
    // Plain HTTP/2 finds nothing here.
    let plain = agent.runtime.block_on(async {
        let stream = TcpStream::connect(agent.grpc).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake::<_, _, String>(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .ok()?;
        tokio::spawn(connection);
        let request = hyper::Request::post(format!("http://{}/x", agent.grpc)).body(String::new()).unwrap();
        sender.send_request(request).await.ok()
    });
    assert!(plain.is_none(), "{plain:?}");
    check(&client, &["h2"], &key, Some(0));
}
