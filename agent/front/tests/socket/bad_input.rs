use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use engine::fake::FakeScript;

use crate::agent::{Agent, Answer, ECHO_JSON, SOON, Setup, post, until};

#[test]
fn each_is_a_clear_error_and_the_agent_keeps_serving() {
    let agent = Agent::start(Setup::default());
    let check = |headers: &str, body: &str, status: u16, part: &str| {
        let answer = agent.infer(headers, body.as_bytes());
        assert_eq!(answer.status, status, "{headers} {body}: {answer:?}");
        assert!(answer.error().contains(part), "{headers} {body}: {}", answer.error());
        assert_eq!(answer.header("content-type"), Some("application/json"));
        agent.check_serving();
    };
    let input = |name: &str, datatype: &str, shape: &str, data: &str| {
        format!(r#"{{"inputs":[{{"name":"{name}","datatype":"{datatype}","shape":{shape},"data":{data}}}]}}"#)
    };
    check("", "", 400, "failed to parse the request JSON buffer");
    check("", "{\"inputs\":[", 400, "failed to parse the request JSON buffer");
    check("", &input("input", "FP32", "[1,4]", "[1,2,3]"), 400, "fewer elements");
    check("", &input("input", "FP32", "[1,4]", "[1,2,3,4,5]"), 400, "more elements");
    check("", &input("input", "FP32", "[1,3]", "[1,2,3]"), 400, "shape");
    check("", &input("input", "FP32", "[4]", "[1,2,3,4]"), 400, "shape");
    check("", &input("input", "FP64", "[1,4]", "[1,2,3,4]"), 400, "FP64");
    check("", &input("input", "FP9", "[1,4]", "[1,2,3,4]"), 400, "FP9");
    check("", &input("inputs", "FP32", "[1,4]", "[1,2,3,4]"), 400, "'inputs'");
    let long = "y".repeat(100_000);
    let answer = agent.infer("", input(&long, "FP32", "[1,4]", "[1,2,3,4]").as_bytes());
    assert_eq!((answer.status, answer.error().len()), (400, 1000), "an error repeats a body");
    check("", &input("input", "FP32", "[9,4]", &format!("{:?}", [0; 36])), 400, "8");
    check("", &input("input", "FP32", "[0,4]", "[]"), 400, "rows");
    check("", r#"{"inputs":[]}"#, 400, "missing 'input'");
    let one = r#"{"name":"input","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}"#;
    check("", &format!(r#"{{"inputs":[{one},{one}]}}"#), 400, "expected 1 inputs but got 2");
    check("", &format!(r#"{{"inputs":[{one}],"outputs":[{{"name":"y"}}]}}"#), 400, "'y'");
    let sequence = format!(r#"{{"inputs":[{one}],"parameters":{{"sequence_id":1.5}}}}"#);
    check("", &sequence, 400, "failed to parse");
    check("content-encoding: br\r\n", "{}", 501, "gzip, deflate");
    check("content-encoding: gzip\r\n", "{}", 400, "malformed");

    let head = r#"{"inputs":[{"name":"input","datatype":"FP32","shape":[1,4],"parameters":{"binary_data_size":16}}]}"#;
    let length = |length: usize| format!("inference-header-content-length: {length}\r\n");
    let right = length(head.len());
    let missing = "unexpected size for input 'input', expecting 1 additional bytes for model 'echo'";
    check(&right, &format!("{head}{}", "\0".repeat(15)), 400, missing);
    let extra = "unexpected additional input data for model 'echo'";
    check(&right, &format!("{head}{}", "\0".repeat(17)), 400, extra);
    check(&length(head.len() + 100), head, 400, "outside the body");
    check(&length(usize::MAX), head, 400, "outside the body");
    check("inference-header-content-length: -1\r\n", head, 400, "no number");
    check("", head, 400, "expecting 16 additional bytes");
    check("inference-header-content-length: 0\r\n", "12345", 400, "needs 16 bytes");

    let answer = agent.infer("content-encoding: br\r\n", b"{}");
    assert_eq!(answer.header("accept-encoding"), Some("gzip, deflate"));
}

#[test]
fn unknown_models_versions_and_paths() {
    let agent = Agent::start(Setup::default());
    let check = |method: &str, path: &str, status: u16, part: &str| {
        let answer = agent
            .send(format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").as_bytes());
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        assert!(answer.error().contains(part), "{method} {path}: {}", answer.error());
    };
    check("POST", "/v2/models/nobody/infer", 400, "nobody");
    check("GET", "/v2/models/nobody", 400, "nobody");
    check("GET", "/v2/models/nobody/stats", 400, "nobody");
    check("POST", "/v2/models/echo/versions/7/infer", 404, "echo");
    check("POST", "/v2/models/echo/versions/x/infer", 404, "Not Found");
    check("POST", "/v2/models/echo/versions/99999999999999999999/infer", 404, "Not Found");
    check("GET", "/", 404, "Not Found");
    check("GET", "/v2/nothing", 404, "Not Found");
    check("GET", "/control/status", 404, "Not Found");
    check("POST", "/v2/models/echo/generate", 404, "Not Found");
    check("GET", "/v2/models/echo/infer", 405, "Method Not Allowed");
    check("DELETE", "/v2/models/echo", 405, "Method Not Allowed");
    check("GET", "/v2/repository/index", 405, "Method Not Allowed");
}

#[test]
fn a_body_over_the_limit_is_refused_before_it_is_read() {
    let agent = Agent::start(Setup { front: "body_limit_bytes = 1000", ..Setup::default() });
    let head = "POST /v2/models/echo/infer HTTP/1.1\r\nhost: x\r\n";
    // Not a byte of the body is sent, with and without asking first.
    for expect in ["", "expect: 100-continue\r\n"] {
        let answer = agent.send(format!("{head}{expect}content-length: 1001\r\n\r\n").as_bytes());
        assert_eq!(answer.status, 413, "{answer:?}");
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(answer.error().contains("1000"));
    }
    // A client that sends it all without looking still reads why.
    let answer = agent.infer("", &[b' '; 5_000_000]);
    assert_eq!(answer.status, 413);
    // Without a length, as soon as it is over.
    let chunk = format!("{:x}\r\n{}\r\n", 600, " ".repeat(600));
    let answer = agent.send(format!("{head}transfer-encoding: chunked\r\n\r\n{chunk}{chunk}").as_bytes());
    assert_eq!(answer.status, 413);
    // What unpacks to more than the limit.
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&[b' '; 100_000]).unwrap();
    let answer = agent.infer("content-encoding: gzip\r\n", &gzip.finish().unwrap());
    assert_eq!(answer.status, 413);
    agent.check_serving();
}

#[test]
fn a_full_byte_budget_is_503_before_the_body_is_read() {
    let agent = Agent::start(Setup { buffered_limit_bytes: Some(4096), ..Setup::default() });
    let head = |length: usize| {
        format!("POST /v2/models/echo/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n")
    };
    let mut slow = agent.connect();
    slow.write_all(head(4000).as_bytes()).unwrap();
    until("the reservation", || agent.serve.pressure().buffered_bytes >= 4000);
    let answer = agent.send(head(1000).as_bytes());
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    assert_eq!(agent.send(head(5000).as_bytes()).status, 413);
    drop(slow);
    until("the room to be free", || agent.serve.pressure().buffered_bytes == 0);
    agent.check_serving();
}

#[test]
fn slow_clients_are_given_up() {
    let agent =
        Agent::start(Setup { front: "body_timeout_ms = 100\nheader_timeout_ms = 150", ..Setup::default() });
    let request = post("/v2/models/echo/infer", "", ECHO_JSON);
    let (most, _) = request.split_at(request.len() - 1);
    let answer = agent.send(most);
    assert_eq!(answer.status, 408, "{answer:?}");
    assert_eq!(answer.header("connection"), Some("close"));
    // A header that never ends, and a connection that is never used, are closed.
    for part in ["GET /v2 HTTP/1.1\r\nho", ""] {
        let mut stream = agent.connect();
        stream.write_all(part.as_bytes()).unwrap();
        assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0, "{part:?}");
    }
    agent.check_serving();
}

#[test]
fn a_client_that_does_not_read_its_replies_is_given_up() {
    let agent = Agent::start(Setup { front: "write_timeout_ms = 100", ..Setup::default() });
    let mut stream = TcpStream::connect(agent.metrics).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    // Pages pile up until the socket's buffers are full, then the agent closes rather than wait for ever.
    let requests = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100);
    let error = loop {
        if let Err(error) = stream.write_all(&requests) {
            break error;
        }
    };
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error:?}");
    agent.check_serving();
}

#[test]
fn a_header_without_end_is_refused() {
    let agent = Agent::start(Setup::default());
    let answer = agent.send(format!("GET /v2 HTTP/1.1\r\nhost: {}", "x".repeat(70_000)).as_bytes());
    assert_eq!(answer.status, 431, "{answer:?}");
    agent.check_serving();
}

#[test]
fn half_closed_clients_are_gone() {
    let script = FakeScript { compute: Duration::from_millis(30), ..FakeScript::default() };
    let agent = Agent::start(Setup { script, ..Setup::default() });
    let request = post("/v2/models/echo/infer", "", ECHO_JSON);
    let (part, _) = request.split_at(request.len() - 5);
    let mut stream = agent.connect();
    stream.write_all(part).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).ok();
    let rest = String::from_utf8_lossy(&rest);
    assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 400"), "{rest}");
    until("its room to be free", || agent.serve.pressure().buffered_bytes == 0);
    agent.check_serving();
}

#[test]
fn a_client_that_goes_away_frees_its_place() {
    let script = FakeScript { compute: Duration::from_millis(200), ..FakeScript::default() };
    let agent = Agent::start(Setup { script, queue_limit: Some(2), ..Setup::default() });
    // Eight rows each fill a batch, so that one runs and the others wait.
    let data = format!("{:?}", [0; 32]);
    let body = format!(r#"{{"inputs":[{{"name":"input","datatype":"FP32","shape":[8,4],"data":{data}}}]}}"#);
    let request = post("/v2/models/echo/infer", "", body.as_bytes());
    let mut first = agent.connect();
    first.write_all(&request).unwrap();
    until("the first to be taken", || agent.serve.pressure().pending_requests >= 1);
    let mut dead = agent.connect();
    dead.write_all(&request).unwrap();
    until("the second to wait", || agent.serve.pressure().pending_requests >= 2);
    drop(dead);
    assert_eq!(Answer::read(&mut first).status, 200);
    let stats = || agent.serve.stats().into_iter().find(|stats| stats.model == "echo").unwrap();
    until("the dead request to be dropped", || stats().pending == 0);
    let stats = stats();
    assert_eq!((stats.all.success.count, stats.all.failures.canceled), (1, 1), "{stats:?}");
}

#[test]
fn a_full_queue_and_a_passed_deadline_are_503() {
    let script = FakeScript { compute: Duration::from_millis(300), ..FakeScript::default() };
    let agent = Agent::start(Setup { script, queue_limit: Some(1), ..Setup::default() });
    let data = format!("{:?}", [0; 32]);
    let input = format!(r#""inputs":[{{"name":"input","datatype":"FP32","shape":[8,4],"data":{data}}}]"#);
    let late = agent.infer("", format!(r#"{{"parameters":{{"timeout":20000}},{input}}}"#).as_bytes());
    assert_eq!(late.status, 503, "{late:?}");
    assert_eq!(late.error(), "Request timeout expired");
    assert!(late.header("retry-after").is_some());

    let request = post("/v2/models/echo/infer", "", format!("{{{input}}}").as_bytes());
    let mut clients = Vec::new();
    let refused = loop {
        assert!(clients.len() < 20, "the queue never filled");
        let pending = agent.serve.pressure().pending_requests;
        let mut client = agent.connect();
        client.write_all(&request).unwrap();
        let stats = || agent.serve.stats().iter().map(|stats| stats.all.refused).sum::<u64>();
        until("the request to be judged", || {
            agent.serve.pressure().pending_requests > pending || stats() > 0
        });
        if stats() > 0 {
            break Answer::read(&mut client);
        }
        clients.push(client);
    };
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.header("retry-after").is_some());
    for mut client in clients {
        assert_eq!(Answer::read(&mut client).status, 200);
    }
}

#[test]
fn an_engine_that_fails_or_panics_is_500_and_the_next_request_runs() {
    for script in [
        FakeScript { fail_every: 2, ..FakeScript::default() },
        FakeScript { panic_every: 2, ..FakeScript::default() },
    ] {
        let agent = Agent::start(Setup { script, ..Setup::default() });
        let statuses: Vec<u16> = (0..4).map(|_| agent.infer("", ECHO_JSON).status).collect();
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 2, "{statuses:?}");
        assert_eq!(statuses.iter().filter(|status| **status == 500).count(), 2, "{statuses:?}");
    }
}
