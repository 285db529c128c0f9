use std::time::Duration;

use engine::fake::FakeScript;
use serde_json::json;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use triton::infer_parameter::ParameterChoice;
use triton::model_config::SchedulingChoice;
use triton::model_infer_request::InferRequestedOutputTensor;
use triton::{
    InferTensorContents, ModelConfigRequest, ModelConfigResponse, ModelInferRequest, ModelMetadataRequest,
    ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse, ModelStatisticsRequest,
    ModelStatisticsResponse, RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelUnloadRequest,
    RepositoryModelUnloadResponse, ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest,
    ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
};

use super::client::{floats, input, parameter, raw, within};
use crate::agent::{Agent, SOON, Setup};

#[test]
fn the_agent_its_models_and_its_repository_are_described() {
    let agent = Agent::start(Setup::default());
    let live: ServerLiveResponse = agent.call("ServerLive", ServerLiveRequest {}).unwrap().into_inner();
    let ready: ServerReadyResponse = agent.call("ServerReady", ServerReadyRequest {}).unwrap().into_inner();
    assert!(live.live && ready.ready);
    let server: ServerMetadataResponse =
        agent.call("ServerMetadata", ServerMetadataRequest {}).unwrap().into_inner();
    assert_eq!(json!(server.extensions), agent.get("/v2").json()["extensions"]);

    let name = || "echo".to_owned();
    let metadata = ModelMetadataRequest { name: name(), version: "1".to_owned() };
    let metadata: ModelMetadataResponse = agent.call("ModelMetadata", metadata).unwrap().into_inner();
    assert_eq!(
        triton::to_json("ModelMetadataResponse", &metadata).unwrap(),
        agent.get("/v2/models/echo").json()
    );
    assert_eq!(metadata.inputs[0].shape, [-1, 4]);

    let config = ModelConfigRequest { name: name(), ..Default::default() };
    let config: ModelConfigResponse = agent.call("ModelConfig", config).unwrap().into_inner();
    let config = config.config.unwrap();
    assert_eq!(triton::to_json("ModelConfig", &config).unwrap(), agent.get("/v2/models/echo/config").json());
    assert_eq!((config.max_batch_size, &*config.input[0].dims), (8, &[4_i64][..]));
    assert!(matches!(config.scheduling_choice, Some(SchedulingChoice::DynamicBatching(_))));

    agent.check_serving_grpc();
    for model in ["echo", ""] {
        let statistics = ModelStatisticsRequest { name: model.to_owned(), ..Default::default() };
        let statistics: ModelStatisticsResponse =
            agent.call("ModelStatistics", statistics).unwrap().into_inner();
        assert_eq!(statistics.model_stats[0].inference_count, 1);
        assert_eq!(statistics.model_stats[0].inference_stats.unwrap().success.unwrap().count, 1);
    }

    let version_ready = |agent: &Agent, name: &str, version: &str| -> Result<bool, Code> {
        let request = ModelReadyRequest { name: name.to_owned(), version: version.to_owned() };
        let ready = agent.call::<_, ModelReadyResponse>("ModelReady", request);
        ready.map(|ready| ready.into_inner().ready).map_err(|status| status.code())
    };
    let model_ready = |agent: &Agent| version_ready(agent, "echo", "").unwrap();
    assert!(model_ready(&agent));
    // What is not there is not ready, as in Triton; what can be no version is an error.
    assert_eq!(version_ready(&agent, "echo", "1"), Ok(true));
    assert_eq!(version_ready(&agent, "echo", "7"), Ok(false));
    assert_eq!(version_ready(&agent, "nobody", ""), Ok(false));
    assert_eq!(version_ready(&agent, "echo", "one"), Err(Code::InvalidArgument));
    assert_eq!(agent.administer("echo", "unload", b"").status, 200);
    assert!(!model_ready(&agent));
    let index = RepositoryIndexRequest::default();
    let index: RepositoryIndexResponse = agent.call("RepositoryIndex", index).unwrap().into_inner();
    assert_eq!((&*index.models[0].name, &*index.models[0].state), ("echo", "UNAVAILABLE"));
    assert_eq!(agent.administer("echo", "load", b"").status, 200);
    assert!(model_ready(&agent));
}

#[test]
fn raw_and_typed_contents_are_the_same_request() {
    let agent = Agent::start(Setup::default());
    let values = [1.0, f32::INFINITY, -2.0, 1e-40, 5.0, 6.0, 7.0, 8.0];
    let named = |request| ModelInferRequest { id: "mine".to_owned(), ..request };
    let mut typed = input(&[2, 4]);
    typed.contents = Some(InferTensorContents { fp32_contents: values.to_vec(), ..Default::default() });
    let typed = ModelInferRequest {
        model_name: "echo".to_owned(),
        model_version: "1".to_owned(),
        inputs: vec![typed],
        outputs: vec![InferRequestedOutputTensor { name: "output".to_owned(), ..Default::default() }],
        ..ModelInferRequest::default()
    };
    for request in [raw(&values), typed] {
        let response = agent.model_infer(named(request)).unwrap();
        let metadata = response.metadata().clone();
        assert_eq!(metadata.get("mast-provider").unwrap(), "cpu");
        assert_eq!(metadata.get("mast-device").unwrap(), "fake");
        let reply = response.into_inner();
        assert_eq!((&*reply.id, &*reply.model_name, &*reply.model_version), ("mine", "echo", "1"));
        assert_eq!(reply.raw_output_contents, [floats(&values)]);
        assert_eq!((&*reply.outputs[0].datatype, &*reply.outputs[0].shape), ("FP32", &[2_i64, 4][..]));
        let said = |key: &str| reply.parameters[key].parameter_choice.clone().unwrap();
        let text = |text: &str| ParameterChoice::StringParam(text.to_owned());
        assert_eq!((said("mast_provider"), said("mast_device")), (text("cpu"), text("fake")));
        assert_eq!(said("mast_request_id"), text(metadata.get("mast-request-id").unwrap().to_str().unwrap()));
        assert_eq!(said("mast_batch_rows"), ParameterChoice::Int64Param(2));
    }
}

#[test]
fn large_tensors_come_back_whole() {
    let agent = Agent::start(Setup::default());
    crate::agent::add_model(&agent.repository, "single", "");
    assert_eq!(agent.administer("single", "load", b"").status, 200);
    let values: Vec<f32> = (0..1_000_000_u32).map(|value| f32::from_bits(value % 0x7f00_0000)).collect();
    let request = ModelInferRequest { model_name: "single".to_owned(), ..raw(&values) };
    let reply = agent.model_infer(request).unwrap().into_inner();
    assert!(reply.raw_output_contents == [floats(&values)], "not what was sent");
}

#[test]
fn classes_carry_the_models_labels() {
    let agent = Agent::start(Setup::default());
    let mut output = InferRequestedOutputTensor { name: "output".to_owned(), ..Default::default() };
    output.parameters.insert("classification".to_owned(), parameter(ParameterChoice::Int64Param(2)));
    let request = ModelInferRequest { outputs: vec![output], ..raw(&[0.1, 0.9, 0.2, 0.3]) };
    let reply = agent.model_infer(request).unwrap().into_inner();
    assert_eq!((&*reply.outputs[0].datatype, &*reply.outputs[0].shape), ("BYTES", &[1_i64, 2][..]));
    assert_eq!(&*reply.raw_output_contents[0], b"\x0e\0\0\x000.900000:1:dog\x0a\0\0\x000.300000:3");
}

#[test]
fn each_failure_has_its_code_and_the_agent_keeps_serving() {
    let agent = Agent::start(Setup::default());
    let check = |request: ModelInferRequest, code: Code, part: &str| {
        let status = agent.model_infer(request.clone()).unwrap_err();
        assert_eq!(status.code(), code, "{request:?}: {status:?}");
        assert!(status.message().contains(part), "{request:?}: {status:?}");
        agent.check_serving_grpc();
    };
    let good = || raw(&[1.0; 4]);
    let shaped = |shape: &[i64], contents| ModelInferRequest {
        inputs: vec![input(shape)],
        raw_input_contents: contents,
        ..good()
    };
    let asking = |key: &str, choice| {
        let mut request = good();
        request.parameters.insert(key.to_owned(), parameter(choice));
        request
    };
    let named = |name: &str, version: &str| ModelInferRequest {
        model_name: name.to_owned(),
        model_version: version.to_owned(),
        ..good()
    };
    check(named("nobody", ""), Code::InvalidArgument, "nobody");
    check(named("echo", "7"), Code::NotFound, "echo");
    check(named("echo", "one"), Code::InvalidArgument, "digits");
    check(shaped(&[1, 3], vec![floats(&[1.0; 3])]), Code::InvalidArgument, "shape");
    check(shaped(&[9, 4], vec![floats(&[1.0; 36])]), Code::InvalidArgument, "8");
    check(shaped(&[1, -4], vec![floats(&[1.0; 4])]), Code::InvalidArgument, "negative");
    check(shaped(&[i64::MAX, i64::MAX], vec![floats(&[1.0; 4])]), Code::InvalidArgument, "too large");
    check(shaped(&[1; 101], vec![floats(&[1.0])]), Code::InvalidArgument, "axes");
    check(shaped(&[1, 4], vec![floats(&[1.0; 3])]), Code::InvalidArgument, "needs 16 bytes");
    check(shaped(&[1, 4], vec![floats(&[1.0; 4]), floats(&[1.0; 4])]), Code::InvalidArgument, "more entries");
    check(shaped(&[1, 4], vec![]), Code::InvalidArgument, "4 elements");
    check(ModelInferRequest { inputs: vec![input(&[1, 4]); 2], ..good() }, Code::InvalidArgument, "got 2");
    check(ModelInferRequest { inputs: vec![], ..good() }, Code::InvalidArgument, "more entries");
    check(
        ModelInferRequest { inputs: vec![], raw_input_contents: vec![], ..good() },
        Code::InvalidArgument,
        "missing",
    );
    let mut both = good();
    both.inputs[0].contents = Some(InferTensorContents::default());
    check(both, Code::InvalidArgument, "excludes");
    let mut shared = good();
    shared.inputs[0]
        .parameters
        .insert("shared_memory_region".to_owned(), parameter(ParameterChoice::StringParam("r".to_owned())));
    check(shared, Code::Unimplemented, "shared memory");
    check(asking("triton_x", ParameterChoice::BoolParam(true)), Code::InvalidArgument, "triton_");
    check(
        asking("priority", ParameterChoice::StringParam("high".to_owned())),
        Code::InvalidArgument,
        "priority",
    );
    let outputs = vec![InferRequestedOutputTensor { name: "y".to_owned(), ..Default::default() }];
    check(ModelInferRequest { outputs, ..good() }, Code::InvalidArgument, "'y'");
    check(
        ModelInferRequest { outputs: vec![Default::default(); 5000], ..good() },
        Code::InvalidArgument,
        "4096",
    );

    for (key, value, rule) in
        [("mast-tenant", "somebody", "unknown-label"), ("mast-jurisdiction", "DE", "site-jurisdiction")]
    {
        let mut request = tonic::Request::new(good());
        request.metadata_mut().insert(key, value.parse().unwrap());
        let status = agent.model_infer(request).unwrap_err();
        assert_eq!(
            (status.code(), status.metadata().get("mast-rule").unwrap().to_str().unwrap()),
            (Code::PermissionDenied, rule)
        );
    }

    let unload = RepositoryModelUnloadRequest { model_name: "echo".to_owned(), ..Default::default() };
    let refused =
        agent.call::<_, RepositoryModelUnloadResponse>("RepositoryModelUnload", unload).unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    agent.check_serving_grpc();
}

#[test]
fn what_is_not_served_says_what_to_do() {
    let agent = Agent::start(Setup::default());
    let check = |method: &str, part: &str| {
        // None of these reads its message.
        let status = agent.call::<_, ServerLiveResponse>(method, ServerLiveRequest {}).unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{method}: {status:?}");
        assert!(status.message().contains(part), "{method}: {status:?}");
    };
    for memory in ["System", "Cuda"] {
        for call in ["Status", "Register", "Unregister"] {
            check(&format!("{memory}SharedMemory{call}"), "raw_input_contents");
        }
    }
    check("TraceSetting", "[traces]");
    check("LogSettings", "/v2/logging");
    check("Nothing", "");
    let status =
        agent.call_path::<_, ServerLiveResponse>("/other.Service/Call", ServerLiveRequest {}).unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

#[test]
fn the_smaller_of_both_deadlines_ends_a_request() {
    let script = FakeScript { compute: Duration::from_millis(600), ..FakeScript::default() };
    let agent = Agent::start(Setup { script, ..Setup::default() });
    let good = || raw(&[1.0; 4]);
    let timed = |timeout_us: i64| {
        let mut request = good();
        request.parameters.insert("timeout".to_owned(), parameter(ParameterChoice::Int64Param(timeout_us)));
        request
    };
    let soon = Duration::from_millis(30);
    for request in [within(soon, good()), within(SOON, timed(30_000)), within(soon, timed(20_000_000))] {
        let status = agent.model_infer(request).unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "Request timeout expired"));
    }
    agent.model_infer(within(SOON, timed(20_000_000))).unwrap();
}

#[test]
fn health_is_that_of_the_agent() {
    let agent = Agent::start(Setup::default());
    let check = |agent: &Agent, service: &str| {
        let request = HealthCheckRequest { service: service.to_owned() };
        agent
            .call_path::<_, HealthCheckResponse>("/grpc.health.v1.Health/Check", request)
            .map(|answer| answer.into_inner().status)
            .map_err(|status| status.code())
    };
    assert_eq!(check(&agent, ""), Ok(1));
    assert_eq!(check(&agent, "inference.GRPCInferenceService"), Ok(1));
    assert_eq!(check(&agent, "other"), Err(Code::NotFound));
    agent.runtime.block_on(agent.serve.drain(SOON));
    assert_eq!(check(&agent, ""), Ok(2));
}
