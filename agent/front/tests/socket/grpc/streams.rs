use engine::fake::FakeScript;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_prost::ProstCodec;
use triton::infer_parameter::ParameterChoice;
use triton::{ModelInferRequest, ModelStreamInferResponse};

use super::client::{Raw, floats, framed, grpc, parameter, prefixed, raw};
use crate::agent::{Agent, SOON, Setup, until};

async fn open(agent: &Agent) -> (mpsc::Sender<ModelInferRequest>, Streaming<ModelStreamInferResponse>) {
    let (sender, requests) = mpsc::channel(16);
    let mut grpc = grpc(agent.grpc);
    grpc.ready().await.unwrap();
    let path = "/inference.GRPCInferenceService/ModelStreamInfer".parse().unwrap();
    let requests = tonic::Request::new(ReceiverStream::new(requests));
    let replies = grpc.streaming(requests, path, ProstCodec::default()).await.unwrap();
    (sender, replies.into_inner())
}

async fn next(
    replies: &mut Streaming<ModelStreamInferResponse>,
) -> Result<Option<ModelStreamInferResponse>, Status> {
    tokio::time::timeout(SOON, replies.message()).await.expect("a reply in time")
}

fn numbered(id: &str, value: f32) -> ModelInferRequest {
    ModelInferRequest { id: id.to_owned(), ..raw(&[value; 4]) }
}

#[test]
fn a_bad_request_is_answered_in_its_place_and_the_stream_goes_on() {
    let agent = Agent::start(Setup::default());
    agent.runtime.block_on(async {
        let (sender, mut replies) = open(&agent).await;
        let mut last = numbered("c", 3.0);
        last.parameters.insert(
            "triton_enable_empty_final_response".to_owned(),
            parameter(ParameterChoice::BoolParam(true)),
        );
        let unknown = ModelInferRequest { model_name: "nobody".to_owned(), ..numbered("u", 0.0) };
        let mut misfit = numbered("m", 0.0);
        misfit.inputs[0].shape = vec![1, 5];
        for request in [numbered("a", 1.0), unknown, misfit, numbered("b", 2.0), last] {
            sender.send(request).await.unwrap();
        }
        for (id, value) in [("a", Some(1.0)), ("u", None), ("m", None), ("b", Some(2.0)), ("c", Some(3.0))] {
            let reply = next(&mut replies).await.unwrap().unwrap();
            let response = reply.infer_response.unwrap();
            assert_eq!(response.id, id);
            match value {
                Some(value) => {
                    assert_eq!(reply.error_message, "");
                    assert_eq!(response.raw_output_contents, [floats(&[value; 4])]);
                    let is_final = response.parameters.contains_key("triton_final_response");
                    assert_eq!(is_final, id == "c");
                }
                None => assert!(!reply.error_message.is_empty()),
            }
        }
        drop(sender);
        assert!(next(&mut replies).await.unwrap().is_none());
    });
}

#[test]
fn more_requests_than_may_be_in_flight_are_all_answered_in_order() {
    let agent = Agent::start(Setup { queue_limit: Some(1000), ..Setup::default() });
    agent.runtime.block_on(async {
        let (sender, mut replies) = open(&agent).await;
        let feed = async {
            for number in 0..300_u16 {
                sender.send(numbered(&number.to_string(), f32::from(number))).await.unwrap();
            }
            drop(sender);
        };
        let read = async {
            for number in 0..300 {
                let response = next(&mut replies).await.unwrap().unwrap().infer_response.unwrap();
                assert_eq!(response.id, number.to_string());
            }
            assert!(next(&mut replies).await.unwrap().is_none());
        };
        tokio::join!(feed, read);
    });
}

#[test]
fn a_request_without_room_is_skipped_and_the_stream_goes_on() {
    let agent = Agent::start(Setup { buffered_limit_bytes: Some(8192), ..Setup::default() });
    agent.runtime.block_on(async {
        let hoard = agent.serve.reserve(8000).unwrap();
        let raw_stream = Raw::open(&agent, "ModelStreamInfer", &[]);
        let big = ModelInferRequest { id: "x".repeat(4000), ..numbered("", 1.0) };
        raw_stream.send(framed(&big));
        raw_stream.send(prefixed(9000, &[]));
        let ended = raw_stream.ended().await;
        // A message that can never have room ends the stream, after what was there before it.
        assert_eq!(ended.status(), Code::ResourceExhausted as i32, "{ended:?}");
        let reply = <ModelStreamInferResponse as prost::Message>::decode(&ended.body[5..]).unwrap();
        assert!(reply.error_message.contains("fill"), "{reply:?}");
        drop(hoard);

        let (sender, mut replies) = open(&agent).await;
        sender.send(numbered("a", 1.0)).await.unwrap();
        assert_eq!(next(&mut replies).await.unwrap().unwrap().error_message, "");
    });
}

#[test]
fn a_client_that_goes_away_takes_its_requests_with_it() {
    let script = FakeScript::default();
    let gate = script.runs.clone();
    let agent = Agent::start(Setup { script, ..Setup::default() });
    // As for a single call, the agent may hear of it late.
    until("the requests of a lost client to be given up", || {
        let closed = gate.close();
        agent.runtime.block_on(async {
            let (sender, replies) = open(&agent).await;
            for count in 1..=3 {
                sender.send(numbered("a", 1.0)).await.unwrap();
                agent.has_pending(count).await;
            }
            drop((sender, replies));
            drop(closed);
            agent.has_pending(0).await;
        });
        agent.serve.stats()[0].all.failures.canceled > 0
    });
    agent.check_serving_grpc();
}

#[test]
fn streams_without_an_end_do_not_hold_up_the_shutdown() {
    let mut agent = Agent::start(Setup::default());
    let running = agent.running.take().unwrap();
    agent.runtime.block_on(async {
        let (sender, mut replies) = open(&agent).await;
        sender.send(numbered("a", 1.0)).await.unwrap();
        assert_eq!(next(&mut replies).await.unwrap().unwrap().error_message, "");
        let mut watch = {
            let mut grpc = grpc(agent.grpc);
            grpc.ready().await.unwrap();
            let path = "/grpc.health.v1.Health/Watch".parse().unwrap();
            let request = tonic::Request::new(HealthCheckRequest::default());
            let codec: ProstCodec<HealthCheckRequest, HealthCheckResponse> = ProstCodec::default();
            grpc.server_streaming(request, path, codec).await.unwrap().into_inner()
        };
        assert_eq!(watch.message().await.unwrap().unwrap().status, 1);
        agent.shutdown.send(true).unwrap();
        assert_eq!(running.finished(SOON).await, Vec::<String>::new());
        assert_eq!(watch.message().await.unwrap().unwrap().status, 2, "the watcher is told");
        assert_eq!(watch.message().await.unwrap(), None);
        let ended = next(&mut replies).await.unwrap_err();
        assert_eq!((ended.code(), ended.message()), (Code::Unavailable, "the agent stops"));
    });
}
