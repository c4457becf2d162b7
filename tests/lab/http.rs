//! A small HTTP/1.1 client: one connection, one GET.

use std::io::{self, BufRead, BufReader, Lines, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// An answer. Its body is decoded from chunks.
pub struct Response {
    pub status: u16,
    pub body: String,
    headers: Vec<(String, String)>,
}

impl Response {
    /// The value of a header. The name is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Requests `path`, and reads the whole answer.
pub fn get(address: SocketAddr, path: &str, patience: Duration) -> io::Result<Response> {
    let mut stream = ask(address, path, "", patience)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an HTTP answer"))
}

fn ask(address: SocketAddr, path: &str, headers: &str, patience: Duration) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n")?;
    Ok(stream)
}

/// A client of the event stream.
pub struct EventStream {
    lines: Lines<BufReader<TcpStream>>,
    /// The id to resume after.
    pub last_id: String,
}

impl EventStream {
    /// Opens the stream after the event with this id, or at the next event. Waits for the
    /// confirmation.
    pub fn open(address: SocketAddr, after: Option<&str>, patience: Duration) -> io::Result<Self> {
        let last = after.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        let headers = format!("Accept: text/event-stream\r\n{last}");
        let stream = ask(address, "/api/v1/events", &headers, patience)?;
        let mut events = EventStream { lines: BufReader::new(stream).lines(), last_id: String::new() };
        events.line("retry: ")?;
        Ok(events)
    }

    /// The next event.
    pub fn next(&mut self) -> io::Result<Value> {
        Ok(serde_json::from_str(&self.line("data: ")?)?)
    }

    /// The rest of the next line with this beginning. Chunks hold whole lines, so the function can
    /// skip their frames.
    fn line(&mut self, start: &str) -> io::Result<String> {
        for line in &mut self.lines {
            let line = line?;
            if let Some(id) = line.strip_prefix("id: ") {
                id.clone_into(&mut self.last_id);
            }
            if let Some(rest) = line.strip_prefix(start) {
                return Ok(rest.to_owned());
            }
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

fn parse(answer: &[u8]) -> Option<Response> {
    let head_end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    let mut lines = std::str::from_utf8(&answer[..head_end]).ok()?.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let headers = lines
        .map(|line| line.split_once(':').map(|(key, value)| (key.to_ascii_lowercase(), value.trim().to_owned())))
        .collect::<Option<_>>()?;
    let mut response = Response { status, body: String::new(), headers };
    let body = &answer[head_end + 4..];
    let body = match response.header("transfer-encoding") {
        Some("chunked") => dechunk(body)?,
        _ => match response.header("content-length") {
            Some(length) if length.parse::<usize>().ok()? != body.len() => return None,
            _ => body.to_vec(),
        },
    };
    response.body = String::from_utf8(body).ok()?;
    Some(response)
}

fn dechunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line_end = rest.windows(2).position(|w| w == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..line_end]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        rest = &rest[line_end + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size + 2..)?;
    }
}
