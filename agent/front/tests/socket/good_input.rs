use std::io::Write;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use serde_json::json;

use crate::agent::{Agent, Answer, ECHO_JSON, Setup, post};

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A body of JSON and tensors, and the header that says where the JSON ends.
fn binary(json: &str, tail: &[u8]) -> (String, Vec<u8>) {
    let header = format!("inference-header-content-length: {}\r\n", json.len());
    (header, [json.as_bytes(), tail].concat())
}

const BINARY_HEAD: &str = r#"{"inputs":[{"name":"input","datatype":"FP32","shape":[1,4],
    "parameters":{"binary_data_size":16}}],"parameters":{"binary_data_output":true}}"#;

#[test]
fn json_in_json_out() {
    let agent = Agent::start(Setup::default());
    let body = br#"{"id":"mine","inputs":[{"name":"input","datatype":"FP32","shape":[2,4],
        "data":[[1,0.1,-2,3e5],[0,0,0,1e-7]]}],"outputs":[{"name":"output"}]}"#;
    for path in ["/v2/models/echo/infer", "/v2/models/echo/versions/1/infer", "/v2/models/ech%6F/infer"] {
        let answer = agent.post(path, "", body);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("inference-header-content-length"), None);
        assert_eq!(answer.header("mast-provider"), Some("cpu"));
        assert_eq!(answer.header("mast-device"), Some("fake"));
        assert!(answer.header("mast-request-id").is_some_and(|id| id.starts_with('r')));
        let reply = answer.json();
        assert_eq!(reply["id"], "mine");
        assert_eq!(reply["model_name"], "echo");
        assert_eq!(reply["model_version"], "1");
        assert_eq!(reply["parameters"]["mast_provider"], "cpu");
        assert_eq!(reply["parameters"]["mast_batch_rows"], 2);
        let output = &reply["outputs"][0];
        assert_eq!(output["shape"], json!([2, 4]));
        assert_eq!(output["data"].to_string(), "[1.0,0.1,-2.0,300000.0,0.0,0.0,0.0,1e-7]");
    }
}

#[test]
fn binary_in_binary_out() {
    let agent = Agent::start(Setup::default());
    let tensor = floats(&[1.0, f32::NAN, f32::NEG_INFINITY, 1e-40]);
    let (header, body) = binary(BINARY_HEAD, &tensor);
    let check = |answer: Answer| {
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
        let length: usize = answer.header("inference-header-content-length").unwrap().parse().unwrap();
        let (json, rest) = answer.body.split_at(length);
        let reply: serde_json::Value = serde_json::from_slice(json).unwrap();
        assert_eq!(reply["outputs"][0]["parameters"]["binary_data_size"], 16);
        assert_eq!(rest, tensor);
    };
    check(agent.infer(&header, &body));
    // Raw: no JSON at all, one row of the one input.
    check(agent.infer("inference-header-content-length: 0\r\n", &tensor));
    // Chunked, in pieces that cut the JSON and the tensor.
    let mut chunked = format!(
        "POST /v2/models/echo/infer HTTP/1.1\r\nhost: x\r\n{header}transfer-encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    for piece in body.chunks(7) {
        chunked.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        chunked.extend_from_slice(piece);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    check(agent.send(&chunked));
    // Packed: the JSON's length counts plain bytes.
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&body).unwrap();
    check(agent.infer(&format!("{header}content-encoding: GZip\r\n"), &gzip.finish().unwrap()));
    let mut deflate = ZlibEncoder::new(Vec::new(), Compression::fast());
    deflate.write_all(&body).unwrap();
    check(agent.infer(&format!("{header}content-encoding: deflate\r\n"), &deflate.finish().unwrap()));
}

#[test]
fn a_connection_carries_many_requests() {
    let agent = Agent::start(Setup::default());
    let mut stream = agent.connect();
    let refused = post("/v2/models/nobody/infer", "", ECHO_JSON);
    let request = post("/v2/models/echo/infer", "", ECHO_JSON);
    for _ in 0..3 {
        stream.write_all(&request).unwrap();
        assert_eq!(Answer::read(&mut stream).status, 200);
        // A small body of a refused request does not cost the connection.
        stream.write_all(&refused).unwrap();
        assert_eq!(Answer::read(&mut stream).status, 400);
    }
    // Pipelined.
    stream.write_all(&request.repeat(5)).unwrap();
    for _ in 0..5 {
        assert_eq!(Answer::read(&mut stream).status, 200);
    }
}

#[test]
fn classes_carry_the_models_labels() {
    let agent = Agent::start(Setup::default());
    let body = br#"{"inputs":[{"name":"input","datatype":"FP32","shape":[1,4],"data":[0.1,0.9,0.2,0.3]}],
        "outputs":[{"name":"output","parameters":{"classification":3}}]}"#;
    let output = &agent.infer("", body).json()["outputs"][0];
    assert_eq!(output["datatype"], "BYTES");
    assert_eq!(output["shape"], json!([1, 3]));
    assert_eq!(output["data"], json!(["0.900000:1:dog", "0.300000:3", "0.200000:2:owl"]));
}

#[test]
fn labels_decide() {
    let agent = Agent::start(Setup::default());
    let check = |headers: &str, status: u16, rule: Option<&str>| {
        let answer = agent.infer(headers, ECHO_JSON);
        assert_eq!(answer.status, status, "{headers}: {answer:?}");
        if let Some(rule) = rule {
            let body = answer.json();
            assert_eq!(body["rule"], rule, "{headers}");
            assert!(body["allowed"].as_str().is_some_and(|allowed| !allowed.is_empty()));
            assert!(!answer.error().is_empty());
        }
    };
    check("", 200, None);
    check("Mast-Tenant: local\r\nMast-Jurisdiction: ZZ\r\n", 200, None);
    check("Mast-Tenant: somebody\r\n", 403, Some("unknown-label"));
    check("Mast-Jurisdiction: germany\r\n", 403, Some("unknown-label"));
    check("Mast-Jurisdiction: DE\r\n", 403, Some("site-jurisdiction"));
    check("Mast-Data-Class: nonsense\r\n", 403, Some("unknown-label"));
    check("Mast-Purpose: nonsense\r\n", 403, Some("unknown-label"));
    check("Mast-Tenant: local\r\nMast-Tenant: local\r\n", 403, Some("unknown-label"));
}
