//! An HTTP server that keeps the posted documents in order.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use serde_json::Value;

use crate::wait::PATIENCE;

/// A server that listens as long as the program runs.
pub struct Inbox {
    address: SocketAddr,
    posts: Arc<Mutex<Vec<Value>>>,
}

impl Inbox {
    /// Opens the server on a port of its own. A log records each document and the seconds since the
    /// start.
    pub fn open(log: &Path) -> Self {
        let start = Instant::now();
        let mut log = File::create(log).expect("the scenario's directory is writable");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let posts = Arc::new(Mutex::new(Vec::new()));
        let sink = posts.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let post = stream.and_then(|stream| receive(&stream));
                let text = post.as_ref().map_or_else(|e| format!("not a post: {e}"), Value::to_string);
                // The log is only for people.
                let _ = writeln!(log, "{:.1} {text}", start.elapsed().as_secs_f64());
                sink.lock().expect("nobody panics over posts").extend(post);
            }
        });
        Inbox { address, posts }
    }

    /// The server's address. It accepts any path.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All received documents, oldest first.
    pub fn posts(&self) -> Vec<Value> {
        self.posts.lock().expect("nobody panics over posts").clone()
    }
}

/// Reads one request with a JSON document and a `Content-Length`.
fn receive(mut stream: &TcpStream) -> io::Result<Value> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
            None if line.trim_end().is_empty() => break,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let post = serde_json::from_slice(&body)?;
    stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")?;
    Ok(post)
}
