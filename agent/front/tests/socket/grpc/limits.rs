use std::io::{Read, Write};
use std::net::TcpStream;

use engine::fake::FakeScript;
use tonic::Code;
use triton::ModelInferRequest;

use super::client::{Raw, framed, prefixed, raw};
use crate::agent::{Agent, SOON, Setup, add_model, until};

#[test]
fn a_message_is_refused_before_it_is_read() {
    let agent = Agent::start(Setup {
        front: "body_limit_bytes = 100_000",
        buffered_limit_bytes: Some(50_000),
        ..Setup::default()
    });
    let check = |headers: &[(&'static str, &str)], length: u32, code: Code, part: &str| {
        // Only the length is ever sent, or not even that.
        let ended = agent.runtime.block_on(async {
            let call = Raw::open(&agent, "ModelInfer", headers);
            if length > 0 {
                call.send(prefixed(length, &[]));
            }
            call.ended().await
        });
        assert_eq!(ended.status(), code as i32, "{headers:?} {length}: {ended:?}");
        assert!(ended.message().contains(part), "{headers:?} {length}: {ended:?}");
    };
    check(&[], 100_001, Code::ResourceExhausted, "body_limit_bytes");
    check(&[], u32::MAX, Code::ResourceExhausted, "body_limit_bytes");
    check(&[], 50_001, Code::ResourceExhausted, "buffers");
    check(&[("mast-tenant", "somebody")], 0, Code::PermissionDenied, "unknown-label");
    check(&[("grpc-timeout", "soon")], 0, Code::InvalidArgument, "grpc-timeout");
    check(&[("grpc-encoding", "br")], 0, Code::Unimplemented, "gzip");

    let hoard = agent.serve.reserve(45_000).unwrap();
    check(&[], 10_000, Code::Unavailable, "fill");
    drop(hoard);
    agent.check_serving_grpc();
}

#[test]
fn a_message_that_swells_is_refused_before_it_is_decoded() {
    let agent = Agent::start(Setup { buffered_limit_bytes: Some(100_000), ..Setup::default() });
    // Two bytes an input on the wire, hundreds in memory.
    let inputs = vec![Default::default(); 4000];
    let request = ModelInferRequest { model_name: "echo".to_owned(), inputs, ..ModelInferRequest::default() };
    let status = agent.model_infer(request).unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    until("the room to be free", || agent.serve.pressure().buffered_bytes == 0);
    agent.check_serving_grpc();
}

#[test]
fn no_protobuf_is_a_clear_error() {
    let agent = Agent::start(Setup::default());
    let good = raw(&[1.0; 4]);
    let whole = framed(&good);
    let body = &whole[5..];
    let check = |bytes: Vec<u8>, part: &str| {
        let ended = agent.runtime.block_on(async {
            let mut call = Raw::open(&agent, "ModelInfer", &[]);
            call.send(bytes.clone());
            call.feed = None;
            call.ended().await
        });
        assert_eq!(ended.status(), Code::InvalidArgument as i32, "{bytes:?}: {ended:?}");
        assert!(ended.message().contains(part), "{bytes:?}: {ended:?}");
    };
    let message = |bytes: &[u8]| prefixed(u32::try_from(bytes.len()).unwrap(), bytes);
    check(Vec::new(), "no message");
    check(vec![0, 0], "ended");
    check(prefixed(100, body), "ended");
    check(message(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), "malformed");
    check(message(b"\x0b"), "malformed");
    check(message(b"\x0a\x7f"), "malformed");
    check(message(b"\x0a\x01\xff"), "ModelInferRequest");
    check(message(&[body, b"\x1a\x01x"].concat()), "last field");
    for end in 0..body.len() {
        let ended = agent.runtime.block_on(async {
            let call = Raw::open(&agent, "ModelInfer", &[]);
            call.send(message(&body[..end]));
            call.ended().await
        });
        assert_eq!(ended.status(), Code::InvalidArgument as i32, "cut at {end}: {ended:?}");
    }
    agent.check_serving_grpc();
}

#[test]
fn slow_clients_are_given_up() {
    let agent =
        Agent::start(Setup { front: "body_timeout_ms = 100\nheader_timeout_ms = 200", ..Setup::default() });
    for bytes in [Vec::new(), vec![0, 0], prefixed(1000, b"\x0a\x04echo")] {
        for method in ["ModelInfer", "ServerLive"] {
            let ended = agent.runtime.block_on(async {
                let call = Raw::open(&agent, method, &[]);
                if !bytes.is_empty() {
                    call.send(bytes.clone());
                }
                call.ended().await
            });
            assert_eq!(ended.status(), Code::Unavailable as i32, "{method} {bytes:?}: {ended:?}");
            assert!(ended.message().contains("body_timeout_ms"), "{ended:?}");
        }
    }
    // A connection that says nothing, or nothing after the preface, is closed.
    for part in [&b""[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"] {
        let mut stream = TcpStream::connect(agent.grpc).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(part).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
    agent.check_serving_grpc();
}

/// An HTTP/2 frame (RFC 9113 §4.1) of stream 1, or of the connection.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

#[test]
fn a_client_that_never_opens_its_window_is_given_up() {
    let agent = Agent::start(Setup { front: "write_timeout_ms = 500", ..Setup::default() });
    add_model(&agent.repository, "single", "");
    assert_eq!(agent.administer("single", "load", b"").status, 200);
    let request = ModelInferRequest { model_name: "single".to_owned(), ..raw(&vec![1.0; 40_000]) };
    let path = b"/inference.GRPCInferenceService/ModelInfer";
    let media_type = b"application/grpc";
    // POST, http, and two literals without indexing (RFC 7541 §6.2.2).
    let mut headers = vec![0x83, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
    headers.extend_from_slice(path);
    headers.extend_from_slice(&[0x0f, 0x10, u8::try_from(media_type.len()).unwrap()]);
    headers.extend_from_slice(media_type);
    let settings = [0, 4, 0, 0, 0, 10];
    let mut stream = TcpStream::connect(agent.grpc).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    stream.write_all(&frame(4, 0, 0, &settings)).unwrap();
    // The message is longer than the first window of a connection (65 535 bytes, RFC 9113 §6.9.2). The agent widens
    // a stream's by its settings, which hold once they are acknowledged, and the connection's by WINDOW_UPDATE.
    let mut kinds = Vec::new();
    while !kinds.contains(&8) {
        let mut head = [0; 9];
        stream.read_exact(&mut head).unwrap();
        kinds.push(head[3]);
        stream.read_exact(&mut vec![0; usize::from(head[2])]).unwrap();
    }
    assert_eq!(kinds[0], 4, "no settings: {kinds:?}");
    stream.write_all(&frame(4, 1, 0, b"")).unwrap();
    stream.write_all(&frame(1, 4, 1, &headers)).unwrap();
    let message = framed(&request);
    let mut pieces = message.chunks(16 << 10).peekable();
    while let Some(piece) = pieces.next() {
        stream.write_all(&frame(0, u8::from(pieces.peek().is_none()), 1, piece)).unwrap();
    }
    let mut said = Vec::new();
    stream.read_to_end(&mut said).unwrap();
    // The reply had begun: ten bytes of it, the whole window.
    assert!(said.windows(9).any(|head| head == [0, 0, 10, 0, 0, 0, 0, 0, 1]), "{said:?}");
    agent.check_serving_grpc();
}

#[test]
fn a_connection_too_many_is_told_so() {
    let agent = Agent::start(Setup { front: "connection_limit = 1", ..Setup::default() });
    let mut kept = TcpStream::connect(agent.grpc).unwrap();
    kept.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    kept.read_exact(&mut [0; 9]).unwrap();
    let mut stream = TcpStream::connect(agent.grpc).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).unwrap();
    // SETTINGS, then GOAWAY of stream 0 with ENHANCE_YOUR_CALM.
    let (settings, goaway) = said.split_at(9);
    assert_eq!(settings, b"\0\0\0\x04\0\0\0\0\0");
    let (head, text) = goaway.split_at(17);
    assert_eq!(head, b"\0\0\x1c\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0b");
    assert_eq!(text, b"too many connections");
    drop(kept);
    until("a place to be free", || {
        let mut stream = TcpStream::connect(agent.grpc).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
        let mut first = [0; 4];
        stream.read_exact(&mut first).unwrap();
        // The agent's own settings are not empty.
        first != *b"\0\0\0\x04"
    });
}

#[test]
fn a_cancelled_request_frees_its_place() {
    let script = FakeScript::default();
    let gate = script.runs.clone();
    let agent = Agent::start(Setup { script, ..Setup::default() });
    let call = || {
        let mut call = Raw::open(&agent, "ModelInfer", &[]);
        call.send(framed(&raw(&[1.0; 4])));
        call.feed = None;
        call
    };
    // The agent may hear of it only when the engine is done with the first, and then it runs: not for ever.
    until("a cancelled request to be given up", || {
        let closed = gate.close();
        agent.runtime.block_on(async {
            let running = tokio::spawn(call().ended());
            agent.has_pending(1).await;
            let queued = tokio::spawn(call().ended());
            agent.has_pending(2).await;
            queued.abort();
            assert!(queued.await.unwrap_err().is_cancelled());
            drop(closed);
            assert_eq!(running.await.unwrap().status(), 0);
            agent.has_pending(0).await;
        });
        agent.serve.stats()[0].all.failures.canceled > 0
    });
    agent.check_serving_grpc();
}
