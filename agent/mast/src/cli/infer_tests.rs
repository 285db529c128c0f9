use clap::Parser as _;

use super::*;

#[derive(Debug, clap::Parser)]
struct Line {
    #[command(flatten)]
    args: InferArgs,
}

/// A photo of 2 x 1 pixels: (1, 2, 3), (4, 5, 6).
const PNG: &[u8] =
    b"\x89PNG\x0d\x0a\x1a\x0a\x00\x00\x00\x0dIHDR\x00\x00\x00\x02\x00\x00\x00\x01\x08\x02\x00\x00\x00{\
    @\xe8\xdd\x00\x00\x00\x12IDATx\x01\x01\x07\x00\xf8\xff\x00\x01\x02\x03\x04\x05\x06\x00?\x00\x16h\
    A_\x8d\x00\x00\x00\x00IEND\xaeB`\x82";

fn args(line: &[&str]) -> InferArgs {
    Line::parse_from([&["infer"], line].concat()).args
}

fn answer(status: StatusCode, headers: &[(HeaderName, &'static str)], body: &str) -> Answer {
    let headers = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
    Answer { status, headers: headers.collect(), body: body.to_owned().into() }
}

fn card(dir: &Path, model_toml: &str) -> Card {
    std::io::Write::write_all(&mut File::create(dir.join("model.toml")).unwrap(), model_toml.as_bytes())
        .unwrap();
    Card::of_dir(dir).unwrap()
}

#[test]
fn paths() {
    let check = |model: &str, version, expected: &str| assert_eq!(path(model, version), expected);
    check("a-b.c_1", None, "/v2/models/a-b.c_1/infer");
    check("a", Some(3), "/v2/models/a/versions/3/infer");
    check("a/b ü?", None, "/v2/models/a%2Fb%20%C3%BC%3F/infer");
}

#[test]
fn labels_become_headers_and_the_rest_is_left_to_the_listener() {
    let headers = labels(&args(&["m", "x", "--jurisdiction", "DE-BY", "--data-class", "personal"])).unwrap();
    let named = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    assert_eq!(named("mast-jurisdiction"), Some("DE-BY"));
    assert_eq!(named("mast-data-class"), Some("personal"));
    assert_eq!(named("mast-tenant"), None);
    assert!(labels(&args(&["m", "x", "--purpose", "a\nb"])).is_err());
}

#[test]
fn a_photo_is_sent_in_binary_form() {
    let dir = tempfile::tempdir().unwrap();
    let card = card(dir.path(), "[image]\ninput = \"in\"\nwidth = 2\nheight = 1\nresize = \"stretch\"");
    let png = PNG;

    let request = media_request(&args(&["m", "x.png", "--timeout-ms", "5"]), &card.plan, png).unwrap();
    let json_len: usize =
        request.headers["inference-header-content-length"].to_str().unwrap().parse().unwrap();
    let head: Value = serde_json::from_slice(&request.body[..json_len]).unwrap();
    let input = json!({ "name": "in", "datatype": "FP32", "shape": [1, 3, 1, 2],
                        "parameters": { "binary_data_size": 24 } });
    assert_eq!(
        head,
        json!({ "inputs": [input], "parameters": { "binary_data_output": true, "timeout": 5000 } })
    );
    let values: Vec<u8> =
        [1.0_f32, 4.0, 2.0, 5.0, 3.0, 6.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(request.body[json_len..], values);

    let error = media_request(&args(&["m", "x.png"]), &card.plan, b"GIF").err().unwrap();
    assert!(error.to_string().contains("x.png"), "{error}");
}

#[test]
fn a_model_takes_what_its_configuration_says() {
    let dir = tempfile::tempdir().unwrap();
    let check = |bytes: &[u8], part: &str| {
        let error = media_request(&args(&["m", "x"]), &card(dir.path(), "").plan, bytes).err().unwrap();
        assert!(matches!(error, InferError::NotFor { .. }) && error.to_string().contains(part), "{error}");
    };
    check(b"\x89PNG", "[image]");
    check(b"hot", "[text]");
}

#[test]
fn refusals_and_errors_are_told_apart() {
    let check = |answer: &Answer, json: Value| assert_eq!(refusal(answer).to_json(), json);
    let refused = r#"{"error":"refused by rule 'eu'","rule":"eu","allowed":"DE"}"#;
    check(
        &answer(StatusCode::FORBIDDEN, &[], refused),
        json!({ "error": "refused by rule 'eu'", "rule": "eu", "allowed": "DE" }),
    );
    check(
        &answer(StatusCode::SERVICE_UNAVAILABLE, &[(RETRY_AFTER, "2")], r#"{"error":"queue full"}"#),
        json!({ "error": "the agent answered 503 Service Unavailable: queue full (try again in 2 s)" }),
    );
    check(
        &answer(StatusCode::BAD_GATEWAY, &[], "<html>"),
        json!({ "error": "the agent answered 502 Bad Gateway: <html>" }),
    );
}

#[test]
fn the_report_has_what_ran_and_what_came_out() {
    let body = r#"{"model_name":"m","model_version":"2","parameters":{"mast_provider":"cpu","mast_device":"cpu",
        "mast_queue_us":90,"mast_batch_us":10,"mast_compute_us":12345,"mast_batch_rows":1},
        "outputs":[{"name":"y","datatype":"INT32","shape":[1,2],"data":[1,2]}]}"#;
    let report =
        understand(&answer(StatusCode::OK, &[], body), None, Sent::Request, Duration::from_millis(14))
            .unwrap();
    let expected = json!({
        "model": "m", "version": "2", "provider": "cpu", "device": "cpu", "batch_rows": 1, "round_trip_us": 14_000,
        "timings_us": { "queue": 90, "batch": 10, "compute": 12_345 },
        "outputs": [{ "name": "y", "datatype": "INT32", "shape": [1, 2], "first": [1, 2] }],
    });
    assert_eq!(serde_json::from_str::<Value>(&report.to_json()).unwrap(), expected);
    let table = "\
model    m version 2
ran on   cpu, cpu
latency  queue 90 µs, batch 10 µs (1 rows), compute 12.3 ms; round trip 14.0 ms

y  INT32 [1, 2]  1, 2
";
    assert_eq!(report.to_table(), table);
}
