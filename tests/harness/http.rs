//! A client of bytes: enough HTTP/1.1 to talk to the daemon, and full control to talk to it badly.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

const READ_LIMIT: Duration = Duration::from_secs(60);

/// A reply, whole.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {self}"))
    }

    /// The message of an error reply, in the form every v2 client reads: `{"error": "…"}`.
    pub fn error(&self) -> Result<String> {
        let value = self.json()?;
        Ok(value["error"].as_str().with_context(|| format!("no \"error\" in {self}"))?.to_owned())
    }
}

impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.text().chars().take(600).collect::<String>())
    }
}

/// A request; [`Request::bytes`] is what goes over the wire.
#[derive(Debug, Clone)]
pub struct Request {
    head: String,
    body: Vec<u8>,
}

impl Request {
    pub fn get(path: &str) -> Self {
        Self { head: format!("GET {path} HTTP/1.1\r\nHost: mast\r\n"), body: Vec::new() }
    }

    pub fn post(path: &str, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let head = format!("POST {path} HTTP/1.1\r\nHost: mast\r\nContent-Length: {}\r\n", body.len());
        Self { head, body }
    }

    /// A POST whose head promises `length` bytes, whatever the body has.
    pub fn post_claiming(path: &str, length: u64, body: impl Into<Vec<u8>>) -> Self {
        let head = format!("POST {path} HTTP/1.1\r\nHost: mast\r\nContent-Length: {length}\r\n");
        Self { head, body: body.into() }
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.head.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    pub fn body(&self) -> &[u8] {
        &self.body
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head.clone().into_bytes();
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Read for &Socket {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Socket::Tcp(stream) => (&*stream).read(buffer),
            Socket::Unix(stream) => (&*stream).read(buffer),
        }
    }
}

/// One connection, kept alive between requests.
#[derive(Debug)]
pub struct Connection {
    socket: std::sync::Arc<Socket>,
    reader: BufReader<SharedSocket>,
}

#[derive(Debug)]
struct SharedSocket(std::sync::Arc<Socket>);

impl Read for SharedSocket {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        (&*self.0).read(buffer)
    }
}

impl Connection {
    pub fn tcp(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READ_LIMIT))?;
        Ok(Self::over(Socket::Tcp(stream)))
    }

    pub fn unix(path: &Path) -> Result<Self> {
        let stream =
            UnixStream::connect(path).with_context(|| format!("cannot connect to {}", path.display()))?;
        stream.set_read_timeout(Some(READ_LIMIT))?;
        Ok(Self::over(Socket::Unix(stream)))
    }

    fn over(socket: Socket) -> Self {
        let socket = std::sync::Arc::new(socket);
        Self { reader: BufReader::with_capacity(64 << 10, SharedSocket(socket.clone())), socket }
    }

    /// Bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match &*self.socket {
            Socket::Tcp(stream) => (&*stream).write_all(bytes)?,
            Socket::Unix(stream) => (&*stream).write_all(bytes)?,
        }
        Ok(())
    }

    /// Half-closes: nothing more will be written, the reply can still be read.
    pub fn finish_writing(&mut self) -> Result<()> {
        match &*self.socket {
            Socket::Tcp(stream) => stream.shutdown(Shutdown::Write)?,
            Socket::Unix(stream) => stream.shutdown(Shutdown::Write)?,
        }
        Ok(())
    }

    pub fn send(&mut self, request: &Request) -> Result<Response> {
        self.write(&request.bytes())?;
        self.read()
    }

    /// The next reply. Fails when the daemon closed the connection without one.
    pub fn read(&mut self) -> Result<Response> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            bail!("the connection was closed without a reply");
        }
        let status = line.split_whitespace().nth(1).and_then(|word| word.parse().ok());
        let status = status.with_context(|| format!("not a status line: {line:?}"))?;
        let headers = self.read_headers()?;
        let mut response = Response { status, headers, body: Vec::new() };
        if let Some(length) = response.header("content-length") {
            response.body = vec![0; length.parse().context("not a Content-Length")?];
            self.reader.read_exact(&mut response.body)?;
        } else if response.header("transfer-encoding").is_some() {
            response.body = self.read_chunks()?;
        } else if status != 204 {
            self.reader.read_to_end(&mut response.body)?;
        }
        Ok(response)
    }

    fn read_headers(&mut self) -> Result<Vec<(String, String)>> {
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line)?;
            let line = line.trim_end();
            if line.is_empty() {
                return Ok(headers);
            }
            let (name, value) = line.split_once(':').with_context(|| format!("not a header: {line:?}"))?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    fn read_chunks(&mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line)?;
            let size =
                usize::from_str_radix(line.trim(), 16).with_context(|| format!("not a chunk: {line:?}"))?;
            let start = body.len();
            body.resize(start + size, 0);
            self.reader.read_exact(&mut body[start..])?;
            self.reader.read_line(&mut String::new())?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
}

/// One request on a connection of its own.
pub fn send(address: SocketAddr, request: &Request) -> Result<Response> {
    Connection::tcp(address)?.send(request)
}

pub fn get(address: SocketAddr, path: &str) -> Result<Response> {
    send(address, &Request::get(path))
}

pub fn post(address: SocketAddr, path: &str, body: impl Into<Vec<u8>>) -> Result<Response> {
    send(address, &Request::post(path, body))
}
