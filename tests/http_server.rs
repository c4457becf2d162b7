//! The HTTP server over real sockets with a stub handler: its promises to friendly and hostile
//! clients.
//!
//! No test sleeps for a result. It waits for it, and fails after [`PATIENCE`].

#![allow(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but does not know that all of this file is one"
)]

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::{Request, Response, StatusCode};
use multipath_exporter::web::server::{Body, Limits, Notice, serve};
use multipath_exporter::web_config::TlsMode;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// The deadline of a wait. It is longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// More than the server's queue and the socket buffers can hold.
const LARGE: usize = 16 * 1024 * 1024;

const GET: &str = "GET /hello HTTP/1.1\r\nHost: test\r\n\r\n";

/// The state behind the stub's paths.
#[derive(Clone)]
struct Stub {
    large: Arc<[Bytes]>,
    /// The single permit for unfinished answers to `/guarded`.
    permits: Arc<Semaphore>,
    /// Signals that a request for `/held` has arrived.
    arrived: Arc<Notify>,
    /// Lets that request continue.
    release: Arc<Notify>,
}

impl Stub {
    async fn answer(self, request: Request<()>) -> Response<Body> {
        match request.uri().path() {
            "/hello" => Response::new(format!("{} hello\n", request.method()).into()),
            "/chunks" => Response::new(Body::chunks(["one ", "", "two ", "three\n"].map(Bytes::from).into())),
            "/empty" => Response::new(Body::empty()),
            "/large" => Response::new(Body::chunks(self.large)),
            "/guarded" => {
                let permit = self.permits.try_acquire_owned().unwrap();
                Response::new(Body::chunks(self.large).with_guard(permit))
            }
            "/held" => {
                self.arrived.notify_one();
                self.release.notified().await;
                Response::new("held\n".into())
            }
            "/stream" => {
                let (sender, receiver) = tokio::sync::mpsc::channel(1);
                tokio::spawn(async move {
                    for text in ["first\n", "second\n"] {
                        sender.send(text.into()).await.unwrap();
                        self.release.notified().await;
                    }
                });
                Response::new(Body::stream(receiver))
            }
            "/panic" => panic!("the stub was told to"),
            _ => {
                let mut response = Response::new("no such page\n".into());
                *response.status_mut() = StatusCode::NOT_FOUND;
                response
            }
        }
    }
}

struct Server {
    address: SocketAddr,
    stub: Stub,
    shutdown: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let page = Bytes::from(vec![b'x'; 64 * 1024]);
        let stub = Stub {
            large: std::iter::repeat_n(page, LARGE / (64 * 1024)).collect(),
            permits: Arc::new(Semaphore::new(1)),
            arrived: Arc::default(),
            release: Arc::default(),
        };
        let handler = stub.clone();
        let (shutdown, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let stopped = async move { stopped.await.unwrap() };
            let handler = move |_, request| handler.clone().answer(request);
            serve(vec![listener], || TlsMode::Plain, handler, limits, Notice::default(), stopped).await;
        });
        Server { address, stub, shutdown, task }
    }

    async fn connect(&self) -> Client {
        Client { stream: within(TcpStream::connect(self.address)).await.unwrap(), buffer: Vec::new() }
    }

    /// A client with a small receive buffer, so that an answer soon fills all buffers.
    async fn connect_narrow(&self) -> Client {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(64 * 1024).unwrap();
        Client { stream: within(socket.connect(self.address)).await.unwrap(), buffer: Vec::new() }
    }

    /// Sends these bytes on a new connection, and returns everything that the server sends until it
    /// closes.
    async fn say(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut client = self.connect().await;
        client.send(bytes).await;
        client.rest().await
    }

    /// Stops the server, and returns how long that took.
    async fn stop(self) -> Duration {
        let start = Instant::now();
        self.shutdown.send(()).unwrap();
        within(self.task).await.unwrap();
        start.elapsed()
    }
}

struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within(self.stream.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Reads more into the buffer. Returns false if the server has closed its side or the
    /// connection.
    async fn more(&mut self) -> bool {
        match within(self.stream.read_buf(&mut self.buffer)).await {
            Ok(read) => read > 0,
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// Everything that the server sends until it closes the connection.
    async fn rest(&mut self) -> String {
        while self.more().await {}
        String::from_utf8(std::mem::take(&mut self.buffer)).unwrap()
    }

    /// Reads until the buffer holds the text. Returns everything up to and including the text.
    async fn until(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.buffer.windows(text.len()).position(|window| window == text.as_bytes()) {
                let rest = self.buffer.split_off(at + text.len());
                return String::from_utf8(std::mem::replace(&mut self.buffer, rest)).unwrap();
            }
            assert!(self.more().await, "closed after {:?}", String::from_utf8_lossy(&self.buffer));
        }
    }

    /// Reads one answer: its head, and the content whose length the head states.
    async fn answer(&mut self) -> (String, String) {
        let head = self.until("\r\n\r\n").await.to_lowercase();
        let length: usize = head.split_once("content-length: ").unwrap().1.split_once('\r').unwrap().0.parse().unwrap();
        while self.buffer.len() < length {
            assert!(self.more().await, "closed after {} of {length} bytes", self.buffer.len());
        }
        let rest = self.buffer.split_off(length);
        (head, String::from_utf8(std::mem::replace(&mut self.buffer, rest)).unwrap())
    }

    async fn get(&mut self, path: &str) -> (String, String) {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")).await;
        self.answer().await
    }
}

#[track_caller]
fn within<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let caller = std::panic::Location::caller();
    async move { timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("nothing came to {caller}")) }
}

/// Checks that the server refused the request once, with this answer, and closed the connection.
#[track_caller]
fn assert_refused(said: &str, status: u16) {
    assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{said:?}");
    assert_eq!(said.matches("HTTP/1.").count(), 1, "{said:?}");
    assert!(!said.contains("hello"), "{said:?}");
}

fn impatient() -> Limits {
    let short = Duration::from_millis(300);
    Limits { header_timeout: short, idle_timeout: short, stall_timeout: short, ..Limits::default() }
}

#[tokio::test]
async fn a_connection_is_kept_for_the_next_request() {
    let server = Server::start(Limits::default()).await;
    let mut client = server.connect().await;
    for _ in 0..2 {
        let (head, content) = client.get("/hello").await;
        assert!(head.starts_with("http/1.1 200 ok\r\n") && !head.contains("connection: close"), "{head}");
        assert_eq!(content, "GET hello\n");
    }
    let (head, content) = client.get("/chunks").await;
    assert!(head.contains("content-length: 14\r\n") && !head.contains("transfer-encoding"), "{head}");
    assert_eq!(content, "one two three\n");
    assert_eq!(client.get("/empty").await.1, "");
    assert_eq!(client.get("/hello").await.1, "GET hello\n");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = Server::start(Limits::default()).await;
    let mut client = server.connect().await;
    client.send("GET /chunks HTTP/1.1\r\nHost: test\r\n\r\n".to_owned() + GET + GET).await;
    assert_eq!(client.answer().await.1, "one two three\n");
    assert_eq!(client.answer().await.1, "GET hello\n");
    assert_eq!(client.answer().await.1, "GET hello\n");
}

#[tokio::test]
async fn head_is_get_without_the_content() {
    let server = Server::start(Limits::default()).await;
    let mut client = server.connect().await;
    for (path, length) in [("/chunks", 14), ("/hello", 11), ("/large", LARGE), ("/guarded", LARGE)] {
        client.send(format!("HEAD {path} HTTP/1.1\r\nHost: test\r\n\r\n")).await;
        let head = client.until("\r\n\r\n").await;
        assert!(head.contains(&format!("content-length: {length}\r\n")), "{head}");
    }
    // The next answer follows immediately, and the guard of the unsent answer is gone.
    assert_eq!(client.get("/hello").await.1, "GET hello\n");
    assert_eq!(server.stub.permits.available_permits(), 1);
}

#[tokio::test]
async fn the_handler_decides_the_status() {
    let server = Server::start(Limits::default()).await;
    let mut client = server.connect().await;
    let (head, content) = client.get("/nowhere").await;
    assert!(head.starts_with("http/1.1 404 not found\r\n"), "{head}");
    assert_eq!(content, "no such page\n");
    assert_eq!(client.get("/hello").await.1, "GET hello\n");
}

#[tokio::test]
async fn a_target_in_absolute_form_is_understood() {
    let server = Server::start(Limits::default()).await;
    let mut client = server.connect().await;
    client.send("GET http://elsewhere:80/hello?x HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_eq!(client.answer().await.1, "GET hello\n");
}

#[tokio::test]
async fn http_1_0_closes_unless_asked_not_to() {
    let server = Server::start(Limits::default()).await;
    let said = server.say("GET /hello HTTP/1.0\r\n\r\n").await;
    assert!(said.starts_with("HTTP/1.0 200 OK\r\n") && said.ends_with("\r\n\r\nGET hello\n"), "{said:?}");

    let mut client = server.connect().await;
    for _ in 0..2 {
        client.send("GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
        assert_eq!(client.answer().await.1, "GET hello\n");
    }
}

#[tokio::test]
async fn a_stream_arrives_as_it_is_sent() {
    let server = Server::start(Limits::default()).await;
    let mut client = server.connect().await;
    client.send("GET /stream HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert!(client.until("first\n").await.contains("transfer-encoding: chunked\r\n"));
    server.stub.release.notify_one();
    client.until("second\n").await;
    server.stub.release.notify_one();
    client.until("0\r\n\r\n").await;
    assert_eq!(client.get("/hello").await.1, "GET hello\n");
}

#[tokio::test]
async fn a_client_that_has_shut_down_its_side_gets_its_answer() {
    let server = Server::start(Limits::default()).await;
    let mut client = server.connect().await;
    client.send("GET /held HTTP/1.1\r\nHost: test\r\n\r\n").await;
    client.stream.shutdown().await.unwrap();
    within(server.stub.arrived.notified()).await;
    server.stub.release.notify_one();
    assert!(client.rest().await.ends_with("\r\n\r\nheld\n"));
}

#[tokio::test]
async fn a_panic_costs_one_answer() {
    let server = Server::start(Limits::default()).await;
    let mut client = server.connect().await;
    assert!(client.get("/panic").await.0.starts_with("http/1.1 500 "));
    assert_eq!(client.get("/hello").await.1, "GET hello\n");
}

#[tokio::test]
async fn a_body_sent_along_ends_the_connection() {
    let server = Server::start(Limits::default()).await;
    let second = format!("GET /hello HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{GET}", GET.len());
    let said = server.say(second).await;
    assert_eq!(said.matches("HTTP/1.1 200 OK").count(), 1, "{said:?}");
    assert!(said.contains("connection: close\r\n"), "{said:?}");

    // The server neither reads nor awaits the body, and does not request it with 100.
    let mut client = server.connect().await;
    client.send("POST /nowhere HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n").await;
    assert_eq!(client.answer().await.1, "no such page\n");
    client.send(vec![b'x'; 500_000]).await;
    assert_eq!(client.rest().await, "");
    let mut client = server.connect().await;
    client.send("PUT /nowhere HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n").await;
    assert!(client.answer().await.0.starts_with("http/1.1 404 "));
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn what_could_smuggle_a_request_is_refused() {
    let server = Server::start(Limits::default()).await;
    let shapes = [
        "Host: test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Host: test\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "Host: test\r\nTransfer-Encoding: chunked\r\n\r\nfive\r\nhello\r\n0\r\n\r\n",
        "Host: test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Host: test\r\nTransfer-Encoding: xchunked\r\n\r\n",
        "Host: test\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
        "Host: test\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "Host: test\r\nX-Folded: a\r\n b\r\n\r\n",
        "Host: test\r\nContent-Length: +5\r\n\r\nhello",
        "Host: test\r\nContent-Length: -1\r\n\r\n",
        "Host: test\r\nContent-Length: 5, 5\r\n\r\nhello",
        "Host: test\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "Host: test\r\nContent-Length: 18446744073709551616\r\n\r\n",
        "Host: test\r\nContent-Length:\r\n\r\n",
        "Host: test\r\nHost: other\r\n\r\n",
        "X-Host: none\r\n\r\n",
        "Host: test\r\nX-Null: \0\r\n\r\n",
        "Host: test\r\n: no name\r\n\r\n",
        "Host: test\r\nno colon\r\n\r\n",
    ];
    for shape in shapes {
        for more in ["", GET] {
            let said = server.say(format!("GET /hello HTTP/1.1\r\n{shape}{more}")).await;
            assert_refused(&said, 400);
        }
    }
    // HTTP/1.0 has no chunks, so the server refuses them there, too.
    let said = server.say("GET /hello HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned() + GET).await;
    assert!(said.contains(" 400 ") && !said.contains("hello"), "{said:?}");
    // The handler answers a method that may have a body. The server takes nothing after it for a
    // request.
    let said = server
        .say(
            "POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
                .to_owned()
                + GET,
        )
        .await;
    assert_refused(&said, 404);
}

#[tokio::test]
async fn garbage_is_refused() {
    let server = Server::start(Limits::default()).await;
    let mut hello = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    hello.extend((0..506_u32).map(|i| (i * 7) as u8));
    assert_refused(&server.say(&hello).await, 400);
    assert_refused(&server.say([0; 4096]).await, 400);
    assert_refused(&server.say("GET /hello\r\n\r\n").await, 400);
    assert_refused(&server.say("GET /hello HTTP/3.0\r\n\r\n").await, 400);
    assert_refused(&server.say("GET /hel lo HTTP/1.1\r\nHost: test\r\n\r\n").await, 400);
    assert_refused(&server.say("PRI * HTTP/2.0\r\n\r\n").await, 400);
    assert_eq!(server.connect().await.get("/hello").await.1, "GET hello\n");
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let server = Server::start(Limits::default()).await;
    let start = "GET /hello HTTP/1.1\r\nHost: test\r\n";
    let line = format!("X-More: {}\r\n", "x".repeat(1000));
    for head in [
        start.to_owned() + &line.repeat(80),
        start.to_owned() + "X-More: " + &"x".repeat(80_000),
        start.to_owned() + &"X: x\r\n".repeat(200) + "\r\n",
        // The client sends as long as it can, and still receives the reason.
        start.to_owned() + &line.repeat(500),
    ] {
        assert_refused(&server.say(head).await, 431);
    }
    // The server cuts off a client that never stops.
    let mut client = server.connect().await;
    within(async { while client.stream.write_all(&[b'x'; 65_536]).await.is_ok() {} }).await;
}

#[tokio::test]
async fn a_head_that_trickles_in_is_cut_off() {
    let server = Server::start(impatient()).await;
    // On a new connection, and on one that has been in use.
    for requests in 0..2 {
        let mut client = server.connect().await;
        for _ in 0..requests {
            client.get("/hello").await;
        }
        let start = Instant::now();
        for byte in "GET /hello HTTP/1.1\r\nX: ".bytes().chain(std::iter::repeat(b'x')) {
            if client.stream.write_all(&[byte]).await.is_err() {
                break;
            }
            // The delay between two bytes, far below the timeout.
            match timeout(Duration::from_millis(20), client.stream.read(&mut [0])).await {
                Err(_) => assert!(start.elapsed() < PATIENCE, "still not cut off"),
                Ok(read) => {
                    assert!(!matches!(read, Ok(1..)), "it was answered");
                    break;
                }
            }
        }
        assert!(start.elapsed() >= Duration::from_millis(250), "{:?}", start.elapsed());
    }
}

#[tokio::test]
async fn idle_connections_end() {
    let server = Server::start(impatient()).await;
    let mut fresh = server.connect().await;
    let mut used = server.connect().await;
    used.get("/hello").await;
    let start = Instant::now();
    assert_eq!(used.rest().await, "");
    assert!(start.elapsed() >= Duration::from_millis(250), "{:?}", start.elapsed());
    assert_eq!(fresh.rest().await, "");
    // A connection whose answer is slow is not idle.
    let mut waiting = server.connect().await;
    waiting.send("GET /held HTTP/1.1\r\nHost: test\r\n\r\n").await;
    let quiet = timeout(Duration::from_millis(700), waiting.stream.read_u8()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    server.stub.release.notify_one();
    assert_eq!(waiting.answer().await.1, "held\n");
}

#[tokio::test]
async fn idle_connections_do_not_keep_a_scrape_out() {
    // Both ends of 600 connections exceed the default limit on open files in most shells.
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files).unwrap();
    let server = Server::start(Limits::default()).await;
    let mut idle = Vec::new();
    for _ in 0..600 {
        idle.push(server.connect().await);
    }
    let start = Instant::now();
    assert_eq!(server.connect().await.get("/hello").await.1, "GET hello\n");
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    // The server closed the oldest connections, but not the newest.
    assert_eq!(idle[0].rest().await, "");
    assert_eq!(idle[599].get("/hello").await.1, "GET hello\n");
}

#[tokio::test]
async fn the_connection_idle_longest_goes_first() {
    let server = Server::start(Limits { connections: 3, share: "100".parse().unwrap(), ..Limits::default() }).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = server.connect().await;
        client.get("/hello").await;
        clients.push(client);
    }
    clients[0].get("/hello").await;
    // The server closes connections that wait for an answer last.
    clients[1].send("GET /held HTTP/1.1\r\nHost: test\r\n\r\n").await;
    within(server.stub.arrived.notified()).await;
    clients[0].get("/hello").await;

    let mut fourth = server.connect().await;
    fourth.get("/hello").await;
    assert_eq!(clients[2].rest().await, "", "the third was idle longest");
    let mut fifth = server.connect().await;
    fifth.get("/hello").await;
    assert_eq!(clients[0].rest().await, "", "then the first");
    fourth.get("/hello").await;
    fifth.get("/hello").await;
    server.stub.release.notify_one();
    let (head, _) = within(clients[1].answer()).await;
    assert!(head.starts_with("http/1.1 200 ok\r\n"), "{head}");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_given_up() {
    let server = Server::start(impatient()).await;
    let mut client = server.connect_narrow().await;
    client.send("GET /guarded HTTP/1.1\r\nHost: test\r\n\r\n").await;
    client.until("\r\n\r\n").await;
    assert_eq!(server.stub.permits.available_permits(), 0);
    let start = Instant::now();
    // The server meanwhile serves others.
    assert_eq!(server.connect().await.get("/hello").await.1, "GET hello\n");
    let _permit = within(server.stub.permits.acquire()).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(200), "{:?}", start.elapsed());
    // The server closes the connection instead of only forgetting it.
    while client.more().await {}
    assert!(client.buffer.len() < LARGE);
}

#[tokio::test]
async fn a_slow_client_gets_all_of_a_large_answer() {
    let server = Server::start(Limits::default()).await;
    let mut client = server.connect_narrow().await;
    let (_, content) = client.get("/guarded").await;
    assert!(content.len() == LARGE && content.bytes().all(|byte| byte == b'x'));
    let _permit = within(server.stub.permits.acquire()).await.unwrap();
    assert_eq!(client.get("/hello").await.1, "GET hello\n");
}

#[tokio::test]
async fn shutdown_closes_what_is_idle_at_once() {
    let server = Server::start(Limits { grace: PATIENCE, ..Limits::default() }).await;
    let mut fresh = server.connect().await;
    let mut used = server.connect().await;
    used.get("/hello").await;
    let mut begun = server.connect().await;
    begun.get("/hello").await;
    begun.send("GET /hel").await;
    let address = server.address;
    let took = server.stop().await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!((fresh.rest().await, used.rest().await, begun.rest().await), Default::default());
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn shutdown_lets_answers_finish() {
    let server = Server::start(Limits { grace: PATIENCE, ..Limits::default() }).await;
    let mut held = server.connect().await;
    // The second request arrives too late.
    held.send("GET /held HTTP/1.1\r\nHost: test\r\n\r\n".to_owned() + GET).await;
    within(server.stub.arrived.notified()).await;
    let mut large = server.connect_narrow().await;
    large.send("GET /large HTTP/1.1\r\nHost: test\r\n\r\n").await;
    large.until("\r\n\r\n").await;

    let (release, address) = (server.stub.release.clone(), server.address);
    let stop = tokio::spawn(server.stop());
    within(async { while TcpStream::connect(address).await.is_ok() {} }).await;
    release.notify_one();
    let (head, content) = held.answer().await;
    assert!(head.contains("connection: close\r\n"), "{head}");
    assert_eq!(content, "held\n");
    assert_eq!(held.rest().await, "");
    while large.more().await {}
    assert_eq!(large.buffer.len(), LARGE);
    assert!(within(stop).await.unwrap() < PATIENCE);
}

#[tokio::test]
async fn shutdown_waits_for_nobody_longer_than_the_grace() {
    assert!(Limits::default().grace < Duration::from_secs(1));
    let grace = Duration::from_millis(200);
    let server = Server::start(Limits { grace, ..Limits::default() }).await;
    let mut stuck = server.connect_narrow().await;
    stuck.send("GET /guarded HTTP/1.1\r\nHost: test\r\n\r\n").await;
    stuck.until("\r\n\r\n").await;
    let mut held = server.connect().await;
    held.send("GET /held HTTP/1.1\r\nHost: test\r\n\r\n").await;
    within(server.stub.arrived.notified()).await;
    let permits = server.stub.permits.clone();
    let took = server.stop().await;
    assert!((grace..Duration::from_secs(1)).contains(&took), "{took:?}");
    let _permit = within(permits.acquire()).await.unwrap();
    assert_eq!(held.rest().await, "");
}

#[tokio::test]
async fn every_listener_is_served() {
    let mut listeners = Vec::new();
    for address in ["127.0.0.1:0", "127.0.0.1:0", "127.0.0.2:0"] {
        listeners.push(TcpListener::bind(address).await.unwrap());
    }
    let addresses: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
    let handler = async |_, _| Response::new(Body::from("here\n"));
    let (limits, notice) = (Limits::default(), Notice::default());
    let server = tokio::spawn(serve(listeners, || TlsMode::Plain, handler, limits, notice, std::future::pending()));
    for address in addresses.iter().chain(&addresses) {
        let mut client = Client { stream: within(TcpStream::connect(address)).await.unwrap(), buffer: Vec::new() };
        assert_eq!(client.get("/").await.1, "here\n");
    }
    // Dropping the server leaves no connection behind.
    let mut client = Client { stream: within(TcpStream::connect(addresses[0])).await.unwrap(), buffer: Vec::new() };
    client.get("/").await;
    server.abort();
    assert_eq!(client.rest().await, "");
}
