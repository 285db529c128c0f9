use serde_json::json;

use crate::agent::{Agent, Answer, ECHO_JSON, Setup, add_model, post, write};

#[test]
fn health_and_metadata() {
    let agent = Agent::start(Setup::default());
    for path in
        ["/v2/health/live", "/v2/health/ready", "/v2/models/echo/ready", "/v2/models/echo/versions/1/ready"]
    {
        let answer = agent.get(path);
        assert_eq!((answer.status, answer.body.len()), (200, 0), "{path}");
    }
    let server = agent.get("/v2").json();
    assert_eq!(server["name"], "mast");
    assert!(server["extensions"].as_array().unwrap().contains(&json!("statistics")));
    let spec = |name: &str| json!([{ "name": name, "datatype": "FP32", "shape": [-1, 4] }]);
    assert_eq!(
        agent.get("/v2/models/echo").json(),
        json!({ "name": "echo", "versions": ["1"], "platform": "onnxruntime_onnx",
            "inputs": spec("input"), "outputs": spec("output") })
    );
}

#[test]
fn configuration_is_what_perf_analyzer_reads() {
    let agent = Agent::start(Setup::default());
    let config = agent.get("/v2/models/echo/config").json();
    assert_eq!(config["name"], "echo");
    assert_eq!(config["max_batch_size"], 8);
    assert!(config["dynamic_batching"].is_object());
    assert_eq!(config["input"].as_array().unwrap().len(), 1);
    let input = &config["input"][0];
    assert_eq!(
        (&input["name"], &input["data_type"], &input["dims"]),
        (&json!("input"), &json!("TYPE_FP32"), &json!([4]))
    );
    assert_eq!(config["output"][0]["label_filename"], "labels.txt");
    // Defaults are there, and 64-bit numbers are numbers.
    assert_eq!((&input["optional"], &config["parameters"]), (&json!(false), &json!({})));
    assert_eq!(config["dynamic_batching"]["max_queue_delay_microseconds"], 0);
    assert_eq!(config["model_transaction_policy"]["decoupled"], false);

    add_model(&agent.repository, "single", "");
    assert_eq!(agent.administer("single", "load", b"").status, 200);
    let config = agent.get("/v2/models/single/config").json();
    assert_eq!(config["max_batch_size"], 0);
    assert!(config.get("dynamic_batching").is_none());
    assert_eq!(config["output"][0]["dims"], json!([-1, 4]));
}

#[test]
fn statistics_have_every_field_that_perf_analyzer_reads() {
    let agent = Agent::start(Setup::default());
    agent.check_serving();
    for path in ["/v2/models/echo/stats", "/v2/models/echo/versions/1/stats", "/v2/models/stats"] {
        let stats = agent.get(path).json();
        let stats = &stats["model_stats"][0];
        assert_eq!((&stats["name"], &stats["version"]), (&json!("echo"), &json!("1")));
        assert_eq!((&stats["inference_count"], &stats["execution_count"]), (&json!(1), &json!(1)));
        let inference = &stats["inference_stats"];
        for key in [
            "success",
            "fail",
            "queue",
            "compute_input",
            "compute_infer",
            "compute_output",
            "cache_hit",
            "cache_miss",
        ] {
            assert!(inference[key]["count"].is_u64() && inference[key]["ns"].is_u64(), "{path} {key}");
        }
        for key in ["success", "compute_input", "compute_infer", "compute_output"] {
            assert_eq!(inference[key]["count"], 1, "{key}");
        }
        assert!(stats["last_inference"].as_u64().unwrap() > 0);
        assert_eq!(stats["batch_stats"][0]["batch_size"], 1);
    }
}

#[test]
fn the_repository_is_listed_loaded_and_unloaded() {
    let agent = Agent::start(Setup::default());
    add_model(&agent.repository, "second", "max_batch_size = 2");
    add_model(&agent.repository, "wrong", "max_batchsize = 2");
    let state = |name: &str| {
        let index = agent.post("/v2/repository/index", "", b"{}").json();
        let row = index.as_array().unwrap().iter().find(|row| row["name"] == name).cloned();
        row.map(|row| row["state"].as_str().unwrap().to_owned())
    };
    let control = |name: &str, what: &str, body: &[u8]| agent.administer(name, what, body);
    assert_eq!(control("second", "load", b"").status, 200);
    assert_eq!(state("second").as_deref(), Some("READY"));
    assert_eq!(agent.post("/v2/models/second/infer", "", ECHO_JSON).status, 200);
    assert_eq!(control("second", "unload", br#"{"parameters":{"unload_dependents":false}}"#).status, 200);
    assert_eq!(agent.get("/v2/models/second/ready").status, 400);
    assert_eq!(state("second").as_deref(), Some("UNAVAILABLE"));
    let ready = agent.post("/v2/repository/index", "", br#"{"ready":true}"#).json();
    assert!(ready.as_array().unwrap().iter().all(|row| row["state"] == "READY"), "{ready}");

    let wrong = control("wrong", "load", b"");
    assert_eq!(wrong.status, 400);
    assert!(wrong.error().contains("max_batchsize"), "{}", wrong.error());
    assert_eq!(state("wrong").as_deref(), Some("UNAVAILABLE"));
    assert_eq!(control("nobody", "load", b"").status, 400);
    let with = |key: &str, value: serde_json::Value| {
        control("second", "load", json!({ "parameters": { key: value } }).to_string().as_bytes())
    };
    assert_eq!(with("file:1/model.onnx", json!("AAAA")).status, 501);
    assert_eq!(with("config", json!("x")).status, 400);
    assert_eq!(with("config", json!({})).status, 400);
    let config = r#"{"version_policy":{"all":{}},"instance_group":[{"count":2,"kind":"KIND_CPU"}]}"#;
    assert_eq!(with("config", json!(config)).status, 200);
    let served = agent.get("/v2/models/second/config").json();
    assert_eq!(served["instance_group"][0]["count"], 2, "{served}");
    assert_eq!(served["version_policy"], json!({ "all": {} }), "{served}");
    assert_eq!(control("second", "load", b"{").status, 400);
    assert_eq!(control("second", "load", &[b' '; 100_000]).status, 413);
    agent.check_serving();
}

#[test]
fn the_control_socket_serves_what_the_port_may_not() {
    let agent = Agent::start(Setup::default());
    let unload = post("/v2/repository/models/echo/unload", "", b"");
    let refused = agent.send(&unload);
    assert_eq!(refused.status, 403, "{refused:?}");
    assert!(refused.error().contains("control socket"));
    let extensions = agent.get("/v2").json();
    assert!(!extensions["extensions"].as_array().unwrap().contains(&json!("model_repository")));
    agent.check_serving();

    let get = |path: &str| agent.over_control(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes());
    assert_eq!(get("/control/status").json(), json!({ "site": "test" }));
    let models = get("/control/models").json();
    let model = &models["models"][0];
    assert_eq!(
        (&model["name"], &model["version"], &model["state"]),
        (&json!("echo"), &json!(1), &json!("READY"))
    );
    assert_eq!(model["placement"]["device"]["id"], "fake");
    assert_eq!(model["config"]["classify"]["labels"], "labels.txt");
    assert_eq!(models["index"][0]["name"], "echo");
    assert_eq!(agent.over_control(&post("/v2/models/echo/infer", "", ECHO_JSON)).status, 200);
    assert_eq!(agent.over_control(&unload).status, 200);
    assert_eq!(agent.get("/v2/models/echo/ready").status, 400);
    assert_eq!(get("/control/models").json()["models"], json!([]));
}

#[test]
fn metrics_are_prometheus_text() {
    let agent = Agent::start(Setup::default());
    agent.check_serving();
    assert_eq!(agent.infer("Mast-Jurisdiction: nowhere\r\n", ECHO_JSON).status, 403);
    assert_eq!(agent.infer("Mast-Jurisdiction: DE\r\n", ECHO_JSON).status, 403);
    let mut stream = std::net::TcpStream::connect(agent.metrics).unwrap();
    std::io::Write::write_all(&mut stream, b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let answer = Answer::read(&mut stream);
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = answer.text();
    let mut families = std::collections::BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with("# HELP ")) {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let (name, kind) = family.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(families.insert(name.to_owned()), "{name} twice");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        assert!(labels.ends_with('}'), "{line}");
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let known = families.contains(name) || family.is_some_and(|family| families.contains(family));
        assert!(known || name == "app_row", "{line}");
    }
    for row in [
        "nv_inference_request_success{model=\"echo\",version=\"1\"} 1",
        "nv_inference_request_failure{model=\"echo\",version=\"1\",reason=\"REJECTED\"} 0",
        "nv_inference_request_failure{model=\"echo\",version=\"1\",reason=\"CANCELED\"} 0",
        "nv_inference_request_failure{model=\"echo\",version=\"1\",reason=\"BACKEND\"} 0",
        "nv_inference_request_failure{model=\"echo\",version=\"1\",reason=\"OTHER\"} 0",
        "nv_inference_count{model=\"echo\",version=\"1\"} 1",
        "mast_model_info{model=\"echo\",version=\"1\",provider=\"cpu\",device=\"fake\"} 1",
        "mast_refused_total{rule=\"site-jurisdiction\"} 1",
        "mast_refused_total{rule=\"unknown-label\"} 1",
        "mast_compute_duration_us_bucket{model=\"echo\",version=\"1\",le=\"+Inf\"} 1",
        "mast_model_instances{model=\"echo\",version=\"1\"} 1",
        "mast_model_warnings{model=\"echo\",version=\"1\"} 0",
        "mast_model_pending{model=\"echo\",version=\"1\",priority=\"1\"} 0",
        "mast_model_refused_total{model=\"echo\",version=\"1\",priority=\"1\"} 0",
        "mast_ready 1",
        "app_row 7",
    ] {
        assert!(text.lines().any(|line| line == row), "no {row} in\n{text}");
    }
    // Metrics are all there is on this port.
    let mut stream = std::net::TcpStream::connect(agent.metrics).unwrap();
    std::io::Write::write_all(&mut stream, b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    assert_eq!(Answer::read(&mut stream).status, 404);
}

#[test]
fn a_changed_label_file_is_read_again() {
    let agent = Agent::start(Setup::default());
    let body = br#"{"inputs":[{"name":"input","datatype":"FP32","shape":[1,4],"data":[9,0,0,0]}],
        "outputs":[{"name":"output","parameters":{"classification":1}}]}"#;
    let class = || agent.infer("", body).json()["outputs"][0]["data"][0].as_str().unwrap().to_owned();
    assert_eq!(class(), "9.000000:0:cat");
    let path = agent.repository.path().join("echo/labels.txt");
    write(&path, "lynx\n");
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
    std::fs::File::options().append(true).open(&path).unwrap().set_modified(later).unwrap();
    assert_eq!(class(), "9.000000:0:lynx");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(class(), "9.000000:0");
}
