//! Messages that clients pack (gRPC over HTTP/2, "Message-Encoding").

use std::io::Write;
use std::slice::from_ref;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use prost::Message;
use tonic::Code;
use triton::{ModelInferRequest, ModelInferResponse, ModelReadyRequest, ModelReadyResponse};

use super::client::{Ended, Raw, floats, framed, raw};
use crate::agent::{Agent, Setup, until};

fn pack(encoding: &str, bytes: &[u8]) -> Vec<u8> {
    if encoding == "gzip" {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    } else {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }
}

/// With the flag and the length before it.
fn packed(bytes: &[u8]) -> Vec<u8> {
    [&[1], &u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

/// What a call with these messages ends with.
fn call(agent: &Agent, method: &str, encoding: &str, messages: &[Vec<u8>]) -> Ended {
    agent.runtime.block_on(async {
        let mut call = Raw::open(agent, method, &[("grpc-encoding", encoding)]);
        call.send(messages.concat());
        call.feed = None;
        call.ended().await
    })
}

fn bomb(encoding: &str) -> Vec<u8> {
    let request = ModelInferRequest { raw_input_contents: vec![vec![0; 1_000_000].into()], ..raw(&[1.0; 4]) };
    packed(&pack(encoding, &request.encode_to_vec()))
}

#[test]
fn packed_and_plain_messages_are_the_same_request() {
    let agent = Agent::start(Setup::default());
    let values = [1.0, 0.5, -2.0, 3e5];
    for encoding in ["gzip", "deflate"] {
        let good = packed(&pack(encoding, &raw(&values).encode_to_vec()));
        // A client sends a message plain where packing does not make it shorter.
        for message in [good.clone(), framed(&raw(&values))] {
            let ended = call(&agent, "ModelInfer", encoding, &[message]);
            assert_eq!(ended.status(), 0, "{encoding}: {ended:?}");
            assert_eq!(ended.said["grpc-accept-encoding"], "identity,gzip,deflate");
            let reply = ModelInferResponse::decode(&ended.body[5..]).unwrap();
            assert_eq!(reply.raw_output_contents, [floats(&values)]);
        }
        // On one stream, one behind the other in the same bytes.
        let turns = [good.clone(), framed(&raw(&values)), packed(&pack(encoding, b"")), good.clone(), good];
        let ended = call(&agent, "ModelStreamInfer", encoding, &turns);
        assert_eq!(ended.status(), 0, "{encoding}: {ended:?}");
        let tensor = floats(&values);
        let tensors = ended.body.windows(tensor.len()).filter(|part| *part == tensor).count();
        assert_eq!(tensors, 4, "{encoding}: {ended:?}");
        // A client that packs whatever it sends.
        let request = ModelReadyRequest { name: "echo".to_owned(), version: String::new() };
        let ended =
            call(&agent, "ModelReady", encoding, &[packed(&pack(encoding, &request.encode_to_vec()))]);
        assert_eq!(ended.status(), 0, "{encoding}: {ended:?}");
        assert!(ModelReadyResponse::decode(&ended.body[5..]).unwrap().ready);
    }
    until("the room to be free", || agent.serve.pressure().buffered_bytes == 0);
}

#[test]
fn what_unpacks_to_more_than_there_is_room_for_is_refused() {
    let check = |setup: Setup, code: Code, part: &str| {
        let agent = Agent::start(setup);
        for encoding in ["gzip", "deflate"] {
            let bomb = bomb(encoding);
            assert!(bomb.len() < 5_000, "the bomb is no bomb: {}", bomb.len());
            let ended = call(&agent, "ModelInfer", encoding, from_ref(&bomb));
            assert_eq!(ended.status(), code as i32, "{encoding}: {ended:?}");
            assert!(ended.message().contains(part), "{encoding}: {ended:?}");
            until("the room to be free", || agent.serve.pressure().buffered_bytes == 0);
            // The stream knows where the next message begins, and goes on.
            let good = packed(&pack(encoding, &raw(&[1.0; 4]).encode_to_vec()));
            let ended = call(&agent, "ModelStreamInfer", encoding, &[bomb.clone(), good]);
            assert_eq!(ended.status(), 0, "{encoding}: {ended:?}");
            let said = String::from_utf8_lossy(&ended.body);
            assert!(said.contains(part) && said.contains("mast_provider"), "{encoding}: {said}");
            // Calls without tensors have a limit of their own.
            let ended = call(&agent, "ModelReady", encoding, &[bomb]);
            assert_eq!(ended.status(), Code::ResourceExhausted as i32, "{encoding}: {ended:?}");
        }
        until("the room to be free", || agent.serve.pressure().buffered_bytes == 0);
        agent.check_serving_grpc();
    };
    let limited = Setup { front: "body_limit_bytes = 100_000", ..Setup::default() };
    check(limited, Code::ResourceExhausted, "body_limit_bytes");
    let small = Setup { buffered_limit_bytes: Some(200_000), ..Setup::default() };
    check(small, Code::ResourceExhausted, "buffers");
}

#[test]
fn what_is_not_packed_as_it_says_is_an_error() {
    let agent = Agent::start(Setup::default());
    let check = |encoding: &str, message: Vec<u8>, code: Code, part: &str| {
        for method in ["ModelInfer", "ServerLive"] {
            let ended = call(&agent, method, encoding, from_ref(&message));
            assert_eq!(ended.status(), code as i32, "{method} {encoding}: {ended:?}");
            assert!(ended.message().contains(part), "{method} {encoding}: {ended:?}");
        }
    };
    let message = raw(&[1.0; 4]).encode_to_vec();
    for encoding in ["gzip", "deflate"] {
        check(encoding, packed(&message), Code::InvalidArgument, "malformed");
        let whole = pack(encoding, &message);
        for end in 0..whole.len() {
            let ended = call(&agent, "ModelInfer", encoding, &[packed(&whole[..end])]);
            assert_eq!(ended.status(), Code::InvalidArgument as i32, "{encoding} cut at {end}: {ended:?}");
        }
    }
    let ended = call(&agent, "ModelInfer", "identity", &[packed(&pack("gzip", &message))]);
    assert_eq!(ended.status(), Code::Internal as i32, "{ended:?}");
    check("zstd", packed(&message), Code::Unimplemented, "grpc-encoding");
    agent.check_serving_grpc();
}
