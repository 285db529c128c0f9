use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use engine::fake::FakeScript;
use front::{Config, Error};

use crate::agent::{Agent, Answer, ECHO_JSON, SOON, Setup, post, until};

#[test]
fn shutdown_finishes_what_is_in_flight() {
    let script = FakeScript { compute: Duration::from_millis(100), ..FakeScript::default() };
    let mut agent = Agent::start(Setup { script, ..Setup::default() });
    let mut idle = agent.connect();
    idle.write_all(&post("/v2/models/echo/infer", "", ECHO_JSON)).unwrap();
    assert_eq!(Answer::read(&mut idle).status, 200);
    let mut busy = agent.connect();
    busy.write_all(&post("/v2/models/echo/infer", "", ECHO_JSON)).unwrap();
    until("the request to be taken", || agent.serve.pressure().pending_requests == 1);

    agent.shutdown.send(true).unwrap();
    let client = std::thread::spawn(move || {
        let answer = Answer::read(&mut busy);
        (answer.status, busy.read(&mut [0; 1]).unwrap(), idle.read(&mut [0; 1]).unwrap())
    });
    let left = agent.runtime.block_on(agent.running.take().unwrap().finished(SOON));
    assert_eq!(left, Vec::<String>::new());
    assert_eq!(client.join().unwrap(), (200, 0, 0));
    assert!(TcpStream::connect(agent.http).is_err(), "still listening");
}

#[test]
fn shutdown_names_what_did_not_stop() {
    let script = FakeScript { compute: Duration::from_secs(2), ..FakeScript::default() };
    let mut agent = Agent::start(Setup { script, ..Setup::default() });
    let mut busy = agent.connect();
    busy.write_all(&post("/v2/models/echo/infer", "", ECHO_JSON)).unwrap();
    until("the request to be taken", || agent.serve.pressure().pending_requests == 1);
    agent.shutdown.send(true).unwrap();
    let running = agent.running.take().unwrap();
    let left = agent.runtime.block_on(running.finished(Duration::from_millis(50)));
    assert_eq!(left, ["http: 1 open connections"]);
    assert_eq!(busy.read(&mut [0; 1]).unwrap_or(0), 0, "the connection is closed");
}

#[test]
fn draining_is_not_ready_and_refuses() {
    let agent = Agent::start(Setup::default());
    let left = agent.runtime.block_on(agent.serve.drain(SOON));
    assert_eq!(left, Vec::<String>::new());
    assert_eq!(agent.get("/v2/health/ready").status, 400);
    assert_eq!(agent.get("/v2/health/live").status, 200);
    let answer = agent.infer("", ECHO_JSON);
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.header("retry-after").is_some());
}

#[test]
fn a_connection_too_many_is_told_so() {
    let agent = Agent::start(Setup { front: "connection_limit = 2", ..Setup::default() });
    let mut kept: Vec<TcpStream> = (0..2).map(|_| agent.connect()).collect();
    for stream in &mut kept {
        stream.write_all(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        assert_eq!(Answer::read(stream).status, 200);
    }
    let answer = agent.infer("", ECHO_JSON);
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(answer.error(), "too many connections");
    drop(kept);
    until("a place to be free", || {
        let mut stream = agent.connect();
        stream.write_all(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        Answer::read(&mut stream).status == 200
    });
}

#[test]
fn a_port_in_use_is_named() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let free = (std::net::Ipv4Addr::LOCALHOST, 0).into();
    for config in [
        Config { http: address, grpc: free, metrics: free, ..Config::default() },
        Config { http: free, grpc: address, metrics: free, ..Config::default() },
        Config { http: free, grpc: free, metrics: address, ..Config::default() },
    ] {
        let error = runtime.block_on(front::bind(config)).unwrap_err();
        assert!(matches!(error, Error::InUse { .. }), "{error:?}");
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
    let open = Config { http: "0.0.0.0:0".parse().unwrap(), metrics: free, ..Config::default() };
    let error = runtime.block_on(front::bind(open)).unwrap_err();
    assert!(matches!(error, Error::Exposed { listener: "http", .. }), "{error:?}");
}
