//! One request to the running agent: HTTP/1.1 over its control socket, or over TCP to its public address.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// The file name of the control socket in the data directory.
pub(crate) const SOCKET: &str = "control.sock";
/// The longest answer that is read.
const ANSWER_LIMIT_BYTES: usize = 256 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error(
        "the agent does not run, or keeps its data elsewhere: nothing listens on {}; start it with `mast run`, \
         name its --data-dir, or look what is wrong with `mast doctor`",
        path.display()
    )]
    NotRunning { path: PathBuf, source: io::Error },
    #[error("no permission to use {}: join the group `mast` (usermod -aG mast $USER, then log in again)", path.display())]
    Denied { path: PathBuf, source: io::Error },
    #[error("cannot connect to {address}")]
    Connect { address: String, source: io::Error },
    #[error("'{address}' is no address of an agent: expected HOST:PORT")]
    Address { address: String },
    #[error("the agent did not answer within {} ms", limit.as_millis())]
    TimedOut { limit: Duration },
    #[error("the connection to the agent broke")]
    Broken { source: hyper::Error },
    #[error("the answer is longer than {ANSWER_LIMIT_BYTES} bytes")]
    TooLong,
    #[error("the agent answered {status}: {message}")]
    Refused { status: StatusCode, message: String },
    #[error("the agent's answer to {path} cannot be understood; is it of another version?")]
    Unreadable { path: String, source: serde_json::Error },
}

/// What the agent answered, whatever the status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Where the agent listens. Every call opens a connection of its own.
#[derive(Debug, Clone)]
pub(crate) enum Client {
    Socket(PathBuf),
    Http(String),
}

impl Client {
    pub(crate) fn over_socket(data_dir: &Path) -> Self {
        Self::Socket(data_dir.join(SOCKET))
    }

    /// `HOST:PORT`, with or without `http://` before and a slash after it.
    pub(crate) fn over_http(address: &str) -> Result<Self, ClientError> {
        let place = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
        let fits = place.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok()
        });
        if fits && HeaderValue::from_str(place).is_ok() {
            Ok(Self::Http(place.to_owned()))
        } else {
            Err(ClientError::Address { address: address.to_owned() })
        }
    }

    /// The answer to a GET, which must be 200 and JSON of this form.
    pub(crate) async fn get_json<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        limit: Duration,
    ) -> Result<T, ClientError> {
        let answer = self.send(Method::GET, path, HeaderMap::new(), Bytes::new(), limit).await?;
        if answer.status != StatusCode::OK {
            let message = answer.error_text();
            return Err(ClientError::Refused { status: answer.status, message });
        }
        serde_json::from_slice(&answer.body)
            .map_err(|source| ClientError::Unreadable { path: path.to_owned(), source })
    }

    /// The answer to a POST, whatever its status.
    pub(crate) async fn post(
        &self,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
        limit: Duration,
    ) -> Result<Answer, ClientError> {
        self.send(Method::POST, path, headers, body, limit).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
        limit: Duration,
    ) -> Result<Answer, ClientError> {
        let exchange = async {
            match self {
                Self::Socket(socket) => {
                    let stream = connect_socket(socket).await?;
                    exchange(stream, method, "mast", path, headers, body).await
                }
                Self::Http(address) => {
                    let stream = connect_http(address).await?;
                    exchange(stream, method, address, path, headers, body).await
                }
            }
        };
        timeout(limit, exchange).await.map_err(|_| ClientError::TimedOut { limit })?
    }
}

impl Answer {
    /// The text of `{"error": …}`, or the beginning of whatever came instead.
    pub(crate) fn error_text(&self) -> String {
        let parsed: Option<serde_json::Value> = serde_json::from_slice(&self.body).ok();
        let text = parsed.as_ref().and_then(|json| json.get("error")).and_then(serde_json::Value::as_str);
        text.map_or_else(
            || String::from_utf8_lossy(&self.body[..self.body.len().min(200)]).into_owned(),
            str::to_owned,
        )
    }
}

async fn connect_socket(path: &Path) -> Result<UnixStream, ClientError> {
    UnixStream::connect(path).await.map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => ClientError::Denied { path: path.to_owned(), source },
        _ => ClientError::NotRunning { path: path.to_owned(), source },
    })
}

async fn connect_http(address: &str) -> Result<TcpStream, ClientError> {
    let failed = |source| ClientError::Connect { address: address.to_owned(), source };
    let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    let stream = connected.unwrap_or_else(|elapsed| Err(elapsed.into())).map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}

async fn exchange<S>(
    stream: S,
    method: Method,
    host: &str,
    path: &str,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Answer, ClientError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |source| ClientError::Broken { source };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let request = request(method, host, path, headers, body)?;
    // The connection must be polled for the request to move; it ends when the sender is dropped.
    let answer = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let answer = read(response).await;
        drop(sender);
        answer
    };
    let (answer, connection) = tokio::join!(answer, connection);
    // The answer's own error says more than the connection's.
    match (answer, connection) {
        (Ok(answer), _) => Ok(answer),
        (Err(error), _) => Err(error),
    }
}

fn request(
    method: Method,
    host: &str,
    path: &str,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, ClientError> {
    let address = || ClientError::Address { address: format!("{host}{path}") };
    let mut request =
        Request::builder().method(method).uri(path).body(Full::new(body)).map_err(|_| address())?;
    *request.headers_mut() = headers;
    let host = HeaderValue::from_str(host).map_err(|_| address())?;
    request.headers_mut().insert(HOST, host);
    Ok(request)
}

async fn read(response: Response<Incoming>) -> Result<Answer, ClientError> {
    let (head, body) = response.into_parts();
    let collected = Limited::new(body, ANSWER_LIMIT_BYTES).collect().await;
    let body = collected.map_err(|error| match error.downcast::<hyper::Error>() {
        Ok(source) => ClientError::Broken { source: *source },
        Err(other) => {
            debug_assert!(other.is::<LengthLimitError>());
            ClientError::TooLong
        }
    })?;
    Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
}

/// Headers of a request with a JSON body.
pub(crate) fn json_headers() -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))])
}

/// Headers of a request with the binary extension: `json_len` bytes of JSON, then the tensors.
pub(crate) fn binary_headers(json_len: usize) -> HeaderMap {
    HeaderMap::from_iter([
        (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (INFERENCE_HEADER, HeaderValue::from(json_len)),
    ])
}

/// `Inference-Header-Content-Length` of the binary tensor data extension.
pub(crate) const INFERENCE_HEADER: HeaderName = HeaderName::from_static("inference-header-content-length");

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
