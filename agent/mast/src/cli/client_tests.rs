use std::os::unix::fs::PermissionsExt as _;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};

use super::*;

const LIMIT: Duration = Duration::from_secs(5);

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Reads one request to the end of its header and answers with these bytes.
async fn answer_once(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &[u8]) -> String {
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.push(stream.read_u8().await.unwrap());
    }
    stream.write_all(answer).await.unwrap();
    stream.shutdown().await.unwrap();
    String::from_utf8(seen).unwrap()
}

#[test]
fn addresses() {
    let check = |address: &str, expected: Option<&str>| match (Client::over_http(address), expected) {
        (Ok(Client::Http(place)), Some(expected)) => assert_eq!(place, expected),
        (Err(ClientError::Address { .. }), None) => {}
        (got, _) => panic!("{address}: {got:?}"),
    };
    check("127.0.0.1:8000", Some("127.0.0.1:8000"));
    check("http://localhost:8000/", Some("localhost:8000"));
    check("[::1]:8000", Some("[::1]:8000"));
    for bad in ["", "localhost", ":8000", "localhost:http", "https://localhost:8000", "a/b:1"] {
        check(bad, None);
    }
}

#[test]
fn no_daemon_is_said_with_the_socket_and_the_way_on() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::over_socket(dir.path());
    let check = |name: &str| {
        let error = run(client.get_json::<serde_json::Value>("/control/status", LIMIT)).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, ClientError::NotRunning { .. }), "{name}: {error:?}");
        for part in [dir.path().join(SOCKET).to_str().unwrap(), "mast run", "mast doctor"] {
            assert!(text.contains(part), "{name}: '{text}' has no '{part}'");
        }
    };
    check("no socket");
    // A socket file that a killed daemon left behind.
    drop(std::os::unix::net::UnixListener::bind(dir.path().join(SOCKET)).unwrap());
    check("stale socket");
}

#[test]
fn no_permission_names_the_group() {
    let error = ClientError::Denied { path: "/run/x".into(), source: io::ErrorKind::PermissionDenied.into() };
    assert!(error.to_string().contains("group `mast`"), "{error}");
    if rustix::process::geteuid().is_root() {
        return; // root may connect to everything
    }
    let dir = tempfile::tempdir().unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(dir.path().join(SOCKET)).unwrap();
    std::fs::set_permissions(dir.path().join(SOCKET), std::fs::Permissions::from_mode(0o000)).unwrap();
    let error = run(Client::over_socket(dir.path()).get_json::<serde_json::Value>("/", LIMIT)).unwrap_err();
    assert!(matches!(error, ClientError::Denied { .. }), "{error:?}");
}

#[test]
fn answers_over_the_socket() {
    let check = |answer: &str, expected: Result<u64, &str>| {
        let dir = tempfile::tempdir().unwrap();
        let got = run(async {
            let listener = UnixListener::bind(dir.path().join(SOCKET)).unwrap();
            let server = async {
                let (stream, _) = listener.accept().await.unwrap();
                answer_once(stream, answer.as_bytes()).await
            };
            let client = Client::over_socket(dir.path());
            let (request, got) = tokio::join!(server, client.get_json::<u64>("/control/x", LIMIT));
            assert!(request.starts_with("GET /control/x HTTP/1.1\r\nhost: mast\r\n"), "{request}");
            got
        });
        match (got, expected) {
            (Ok(got), Ok(expected)) => assert_eq!(got, expected),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error} has no '{part}'"),
            (got, expected) => panic!("{answer}: {got:?} instead of {expected:?}"),
        }
    };
    check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n42", Ok(42));
    check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", Err("another version"));
    check(
        "HTTP/1.1 404 Not Found\r\nContent-Length: 16\r\n\r\n{\"error\":\"no m\"}",
        Err("404 Not Found: no m"),
    );
    check("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n42", Err("broke"));
    check("SSH-2.0-none\r\n\r\n", Err("broke"));
    check("", Err("broke"));
}

#[test]
fn a_silent_agent_ends_at_the_deadline() {
    let error = run(async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let client = Client::over_http(&listener.local_addr().unwrap().to_string()).unwrap();
        // The kernel accepts the connection; nobody answers.
        client.get_json::<u64>("/v2", Duration::from_millis(50)).await.unwrap_err()
    });
    assert!(matches!(error, ClientError::TimedOut { .. }), "{error:?}");
}

#[test]
fn a_closed_port_is_named() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let client = Client::over_http(&address).unwrap();
    let error = run(client.get_json::<u64>("/v2", LIMIT)).unwrap_err();
    assert!(error.to_string().contains(&address), "{error}");
}
