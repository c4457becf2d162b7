//! An HTTP client that hides nothing: bytes out, status, header lines and body in.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::PATIENCE;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// In their order, names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The header's value, if it stands there once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str());
        values.next().filter(|_| values.next().is_none())
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        assert_eq!((self.status, self.header("content-type")), (200, Some("application/json")));
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// A connection. It stays open unless the server closes it.
pub struct Connection {
    stream: TcpStream,
    /// Received bytes that no caller has used.
    buffer: Vec<u8>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Connection { stream, buffer: Vec::new() }
    }

    /// Sends these bytes.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Sends a request and reads the whole answer.
    pub fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.ask(method, path, headers);
        let answer = self.head();
        match method {
            "HEAD" => answer,
            _ => self.body(answer),
        }
    }

    /// Sends a request with a `Host` of this machine, unless `headers` has another one.
    pub fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) {
        let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let host = if headers.iter().any(|(name, _)| *name == "Host") { "" } else { "Host: localhost\r\n" };
        self.send(format!("{method} {path} HTTP/1.1\r\n{host}{lines}\r\n"));
    }

    /// Reads status and headers, and leaves the body unread.
    pub fn head(&mut self) -> Answer {
        let end = loop {
            match self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(end) => break end,
                None => assert!(self.read_more(), "closed within a head: {:?}", String::from_utf8_lossy(&self.buffer)),
            }
        };
        let head = String::from_utf8(self.buffer.drain(..end + 4).collect()).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().strip_prefix("HTTP/1.").unwrap().get(2..5).unwrap().parse().unwrap();
        let header = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_lowercase(), value.to_owned())
        };
        Answer { status, headers: lines.map(header).collect(), body: Vec::new() }
    }

    /// Reads the body that belongs to this head.
    pub fn body(&mut self, mut answer: Answer) -> Answer {
        let length: usize = answer.header("content-length").unwrap().parse().unwrap();
        while self.buffer.len() < length {
            assert!(self.read_more(), "closed within a body");
        }
        answer.body = self.buffer.drain(..length).collect();
        answer
    }

    /// Reads the next chunk of a body of unknown length, or returns `None` at its end.
    pub fn chunk(&mut self) -> Option<String> {
        let size = usize::from_str_radix(self.line().trim_end(), 16).unwrap();
        while self.buffer.len() < size + 2 {
            assert!(self.read_more(), "closed within a chunk");
        }
        let chunk = self.buffer.drain(..size).collect();
        assert_eq!(self.line(), "\r\n");
        (size > 0).then(|| String::from_utf8(chunk).unwrap())
    }

    fn line(&mut self) -> String {
        let end = loop {
            match self.buffer.iter().position(|byte| *byte == b'\n') {
                Some(end) => break end,
                None => assert!(self.read_more(), "closed within a line"),
            }
        };
        String::from_utf8(self.buffer.drain(..=end).collect()).unwrap()
    }

    /// Waits until the server closes the connection. Returns true if the server sent nothing more
    /// before.
    pub fn is_closed(&mut self) -> bool {
        !self.read_more()
    }

    /// Returns false at the end.
    fn read_more(&mut self) -> bool {
        let mut piece = [0; 64 << 10];
        match self.stream.read(&mut piece) {
            Ok(length) => {
                self.buffer.extend_from_slice(&piece[..length]);
                length > 0
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("{error}, after {:?}", String::from_utf8_lossy(&self.buffer)),
        }
    }
}
