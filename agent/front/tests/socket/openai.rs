use serde_json::{Value, json};

use crate::agent::{Agent, Answer, Setup};

/// Status, then `type`, `param` and `code` of a body that has exactly OpenAI's four members.
fn fault(answer: &Answer) -> (u16, Value, Value, Value) {
    let body = answer.json();
    let error = body["error"].as_object().unwrap_or_else(|| panic!("{body}"));
    let mut members: Vec<&str> = error.keys().map(String::as_str).collect();
    members.sort_unstable();
    assert_eq!(members, ["code", "message", "param", "type"], "{body}");
    assert!(body.as_object().unwrap().len() == 1 && !error["message"].as_str().unwrap().is_empty(), "{body}");
    (answer.status, error["type"].clone(), error["param"].clone(), error["code"].clone())
}

#[test]
fn every_failure_is_in_openai_s_form() {
    let agent = Agent::start(Setup::default());
    let check = |method: &str, path: &str, headers: &str, body: &str, expected: (u16, &str, Value, Value)| {
        let length = body.len();
        let request =
            format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n{headers}\r\n{body}");
        let (status, kind, param, code) = expected;
        let answer = agent.send(request.as_bytes());
        assert_eq!(fault(&answer), (status, json!(kind), param, code), "{method} {path} {body}");
    };
    let invalid = "invalid_request_error";
    let none = || Value::Null;
    check("GET", "/v1/none", "", "", (404, invalid, none(), json!("unknown_url")));
    check("POST", "/v1/chat/completions", "", "{}", (404, invalid, none(), json!("unknown_url")));
    check("GET", "/v1/embeddings", "", "", (405, invalid, none(), json!("method_not_supported")));
    check("DELETE", "/v1/models/echo", "", "", (405, invalid, none(), json!("method_not_supported")));
    check("GET", "/v1/models/none", "", "", (404, invalid, json!("model"), json!("model_not_found")));
    check("GET", "/v1/models/a/b", "", "", (404, invalid, json!("model"), json!("model_not_found")));
    let create =
        |headers: &str, body: &str, expected| check("POST", "/v1/embeddings", headers, body, expected);
    create("", "", (400, invalid, none(), none()));
    create("", "{\"model\": \"echo\"}", (400, invalid, none(), none()));
    create("", "{\"model\": \"echo\", \"input\": 7}", (400, invalid, json!("input"), none()));
    create("", "{\"model\": \"echo\", \"input\": \"x\"}", (400, invalid, json!("model"), none()));
    let unknown = "{\"model\": \"none\", \"input\": \"x\"}";
    create("", unknown, (404, invalid, json!("model"), json!("model_not_found")));
    create("content-encoding: br\r\n", "{}", (400, invalid, none(), json!("unsupported")));
    let refused = (403, "permission_error", none(), json!("refused_by_policy"));
    create("mast-jurisdiction: de\r\n", "{}", refused);
    agent.check_serving();
}

#[test]
fn a_body_without_room_is_not_read() {
    let agent = Agent::start(Setup { buffered_limit_bytes: Some(1000), ..Setup::default() });
    let check = |length: u64| {
        let head = format!("POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
        let answer = agent.send(head.as_bytes());
        let expected = (413, json!("invalid_request_error"), Value::Null, json!("request_too_large"));
        assert_eq!(fault(&answer), expected, "{length}");
        assert_eq!(answer.header("connection"), Some("close"));
    };
    check(2000);
    check(1 << 40);

    // The room of the whole agent is taken by a body that is still on its way.
    let mut other = agent.connect();
    let head = "POST /v2/models/echo/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 900\r\n\r\n{";
    std::io::Write::write_all(&mut other, head.as_bytes()).unwrap();
    crate::agent::until("the body has its room", || agent.serve.pressure().buffered_bytes >= 900);
    let body = format!("{{\"model\": \"echo\", \"input\": \"{}\"}}", "x".repeat(200));
    let answer = agent.post("/v1/embeddings", "", body.as_bytes());
    assert_eq!(fault(&answer), (503, json!("server_error"), Value::Null, json!("overloaded")));
    assert!(answer.header("retry-after").is_some_and(|wait| wait.parse::<u64>().is_ok_and(|wait| wait >= 1)));
}

#[test]
fn the_models_that_serve() {
    let agent = Agent::start(Setup::default());
    let list = agent.get("/v1/models").json();
    assert_eq!((&list["object"], list["data"].as_array().unwrap().len()), (&json!("list"), 1));
    let one = agent.get("/v1/models/echo").json();
    assert_eq!(list["data"][0], one);
    assert_eq!(
        (&one["id"], &one["object"], &one["owned_by"]),
        (&json!("echo"), &json!("model"), &json!("mast"))
    );
    assert!(one["created"].as_u64().unwrap() > 1_700_000_000, "{one}");
}
