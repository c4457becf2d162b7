//! Hostile clients of TLS and HTTP/2, and some that only look hostile. The server must serve
//! another client at the same time.

use std::time::{Duration, Instant};

use hyper::{Method, Request};
use multipath_exporter::web::server::Limits;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::site::{LARGE, PATIENCE, Server, Site, TLS, within};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A frame, valid or not (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The header fields of a GET (RFC 7541).
fn fields(path: &str) -> Vec<u8> {
    let mut fields = vec![0x82, 0x87, 0x41, 4];
    fields.extend(b"test");
    fields.extend([0x04, path.len() as u8]);
    fields.extend(path.as_bytes());
    fields
}

fn ask(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &fields(path))
}

/// A connection that has agreed on HTTP/2 and carries no data yet.
async fn agreed(site: &Site, server: &Server) -> TlsStream<TcpStream> {
    let mut client = site.client(None);
    client.alpn_protocols = vec![b"h2".to_vec()];
    server.connect(client).await.unwrap()
}

/// Such a connection after the preface, empty settings, and these bytes.
async fn saying(site: &Site, server: &Server, bytes: &[u8]) -> TlsStream<TcpStream> {
    let mut stream = agreed(site, server).await;
    within(stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), bytes].concat())).await.unwrap();
    stream
}

/// Everything that the server sends until it closes: kinds of frames and their payloads.
async fn frames(stream: &mut TlsStream<TcpStream>) -> Vec<(u8, Vec<u8>)> {
    let mut bytes = Vec::new();
    // The connection may end in any way, including a reset.
    let _ = within(stream.read_to_end(&mut bytes)).await;
    let (mut frames, mut rest) = (Vec::new(), bytes.as_slice());
    while rest.len() >= 9 {
        let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
        let end = rest.len().min(9 + length);
        frames.push((rest[3], rest[9..end].to_vec()));
        rest = &rest[end..];
    }
    frames
}

/// Checks that another client's scrape does not wait.
async fn assert_served(site: &Site, server: &Server) {
    let start = Instant::now();
    server.lets_in(site.client(None)).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

fn impatient() -> Limits {
    let short = Duration::from_millis(300);
    Limits {
        header_timeout: short,
        idle_timeout: short,
        stall_timeout: short,
        response_timeout: short,
        ..Limits::default()
    }
}

#[tokio::test]
async fn http_2_serves_many_at_once() {
    let site = Site::new();
    let server = site.serve(&format!("{TLS}http_server_config:\n  headers:\n    X-Frame-Options: deny\n")).await;
    let stream = agreed(&site, &server).await;
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut client, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    use http_body_util::{BodyExt, Empty};
    // The client reads all streams at once. Unread streams would use up the window of the
    // connection.
    let mut answers = tokio::task::JoinSet::new();
    for number in 0..20 {
        let (path, length) = if number % 4 == 0 { ("/large", LARGE) } else { ("/", "hello\n".len()) };
        let method = if number % 8 < 4 { Method::GET } else { Method::HEAD };
        let content = if method == Method::GET { length } else { 0 };
        let request = Request::builder().method(method).uri(format!("https://test{path}"));
        let request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
        let answer = client.send_request(request);
        answers.spawn(async move {
            let answer = within(answer).await.unwrap();
            assert_eq!((answer.status().as_u16(), answer.headers()["x-frame-options"].as_bytes()), (200, &b"deny"[..]));
            assert_eq!(answer.headers()["content-length"], length.to_string());
            assert_eq!(within(answer.into_body().collect()).await.unwrap().to_bytes().len(), content);
        });
    }
    assert_eq!(answers.join_all().await.len(), 20);
}

#[tokio::test]
async fn http_2_that_is_wrong_ends_the_connection_at_once() {
    let site = Site::new();
    let server = site.serve(TLS).await;
    let shapes = [
        ("data on no stream", frame(DATA, 0, 0, b"x")),
        ("data on a stream that is not open", frame(DATA, 0, 1, b"x")),
        ("headers on no stream", frame(HEADERS, END_STREAM | END_HEADERS, 0, &fields("/"))),
        ("headers on a server's stream", frame(HEADERS, END_STREAM | END_HEADERS, 2, &fields("/"))),
        ("headers that cannot be decoded", frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xff; 20])),
        ("more padding than frame", frame(HEADERS, 8 | END_HEADERS, 1, &[255, 0x82])),
        ("streams that go backwards", [ask(5, "/"), ask(3, "/")].concat()),
        ("continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, &fields("/"))),
        ("something else amid headers", [frame(HEADERS, END_STREAM, 1, &[0x82]), frame(PING, 0, 0, &[0; 8])].concat()),
        ("a reset of a stream that is not open", frame(RST_STREAM, 0, 1, &[0; 4])),
        ("a reset of another size", frame(RST_STREAM, 0, 1, &[0; 3])),
        ("settings of half a setting", frame(SETTINGS, 0, 0, &[0, 4, 0])),
        ("settings on a stream", frame(SETTINGS, 0, 1, &[])),
        ("settings that say more than yes", frame(SETTINGS, 1, 0, &[0; 6])),
        ("a window beyond all", frame(SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff])),
        ("a frame size below all", frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1])),
        ("a push from a client", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82])),
        ("a ping of another size", frame(PING, 0, 0, &[0; 7])),
        ("a ping on a stream", frame(PING, 0, 1, &[0; 8])),
        ("a window that does not grow", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        ("a window that overflows", frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])),
        ("a goodbye of no size", frame(GOAWAY, 0, 0, &[0; 3])),
        ("a priority of another size", frame(PRIORITY, 0, 1, &[0; 2])),
        ("a frame of 16 MiB", [&[0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1][..], &[0; 1000]].concat()),
        ("garbage", vec![0xfe; 5000]),
    ];
    for (name, shape) in shapes {
        let start = Instant::now();
        let mut stream = saying(&site, &server, &shape).await;
        let said = frames(&mut stream).await;
        let goaway = said.iter().find(|(kind, _)| *kind == GOAWAY).unwrap_or_else(|| panic!("{name}: {said:?}"));
        assert_ne!(goaway.1[4..8], [0; 4], "{name}: it is an error");
        assert!(start.elapsed() < Duration::from_secs(5), "{name}: only its deadline ended it");
    }
    for preface in [&b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", &[0; 100]] {
        let mut stream = agreed(&site, &server).await;
        within(stream.write_all(preface)).await.unwrap();
        let said = frames(&mut stream).await;
        assert!(said.iter().all(|(kind, _)| *kind != HEADERS && *kind != DATA), "{preface:?}: {said:?}");
    }
    assert_served(&site, &server).await;
}

/// A proxy could interpret these requests differently.
#[tokio::test]
async fn http_2_requests_that_could_be_smuggled_are_not_answered() {
    let site = Site::new();
    let server = site.serve(TLS).await;
    let literal = |name: &str, value: &str| {
        let mut field = vec![0, name.len() as u8];
        field.extend(name.as_bytes());
        field.push(value.len() as u8);
        field.extend(value.as_bytes());
        field
    };
    for (name, value) in [
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
        ("te", "gzip"),
        ("Upper", "case"),
        ("content-length", "5"),
        ("content-length", "-1"),
        ("x", "a\r\nb: c"),
        ("x", "\0"),
        (":path", "/other"),
        (":unknown", "x"),
        ("x y", "z"),
        ("", "nameless"),
    ] {
        let block = [fields("/"), literal(name, value)].concat();
        let request = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block);
        // A GOAWAY follows, so that the connection ends.
        let mut stream = saying(&site, &server, &[request, frame(GOAWAY, 0, 0, &[0; 8])].concat()).await;
        let said = frames(&mut stream).await;
        assert!(said.iter().all(|(kind, _)| *kind != DATA), "{name}: {value:?} was answered: {said:?}");
    }
    assert_served(&site, &server).await;
}

#[tokio::test]
async fn headers_without_end_are_refused() {
    let site = Site::new();
    let server = site.serve(TLS).await;
    let mut stream = saying(&site, &server, &frame(HEADERS, END_STREAM, 1, &fields("/"))).await;
    let more = frame(CONTINUATION, 0, 1, &[&[0, 1, b'x', 127, 0x81, 0x7e][..], &[b'x'; 16_000]].concat());
    let start = Instant::now();
    within(async { while stream.write_all(&more).await.is_ok() {} }).await;
    assert!(start.elapsed() < Duration::from_secs(5), "only its deadline ended it");
    assert_served(&site, &server).await;
}

/// CVE-2023-44487 and similar attacks: the client cancels each request immediately.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_resets_are_cut_off() {
    let site = Site::new();
    let server = site.serve(TLS).await;
    let burst: Vec<u8> = (0..5000)
        .flat_map(|n| [ask(2 * n + 1, "/held"), frame(RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 8])].concat())
        .collect();
    let mut stream = saying(&site, &server, &[]).await;
    // The server may close the connection during the write.
    let _ = within(stream.write_all(&burst)).await;
    let said = frames(&mut stream).await;
    let goaway = said.iter().find(|(kind, _)| *kind == GOAWAY).map(|(_, payload)| payload[4..8].to_vec());
    // The code is ENHANCE_YOUR_CALM, if the frame arrived.
    assert!(goaway.is_none_or(|code| code == [0, 0, 0, 11]), "{said:?}");
    assert_served(&site, &server).await;
}

#[tokio::test]
async fn there_are_only_so_many_streams() {
    let site = Site::new();
    let server = site.serve(TLS).await;
    let many: Vec<u8> = (0..40).flat_map(|n| ask(2 * n + 1, "/held")).collect();
    let mut stream = saying(&site, &server, &many).await;
    let mut bytes = Vec::new();
    let refused = frame(RST_STREAM, 0, 2 * 32 + 1, &[0, 0, 0, 7]);
    while !bytes.windows(refused.len()).any(|window| window == refused) {
        assert!(within(stream.read_buf(&mut bytes)).await.unwrap() > 0, "{bytes:?}");
    }
    assert_served(&site, &server).await;
}

/// Each frame requires an answer, and the client reads none. The server stops reading, and later
/// closes the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_end() {
    let site = Site::new();
    let server = site.serve_with(TLS, Limits { stall_timeout: Duration::from_millis(300), ..Limits::default() }).await;
    for (name, frame) in [
        ("settings", frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100])),
        ("pings", frame(PING, 0, 0, &[0; 8])),
        ("requests", Vec::new()),
    ] {
        let mut stream = saying(&site, &server, &[]).await;
        let mut next = 1;
        let flood = async {
            loop {
                let some = if frame.is_empty() {
                    (0..1000).flat_map(|n| ask(next + 2 * n, "/large")).collect()
                } else {
                    frame.repeat(1000)
                };
                next += 2000;
                if stream.write_all(&some).await.is_err() {
                    break;
                }
            }
        };
        let served = async {
            for _ in 0..5 {
                assert_served(&site, &server).await;
            }
        };
        let (ended, ()) = tokio::join!(timeout(PATIENCE, flood), served);
        assert!(ended.is_ok(), "a flood of {name} goes on and on");
    }
}

/// A zero window: the server cannot send the answer, however often the client shows that it is
/// alive.
#[tokio::test]
async fn an_answer_that_is_not_taken_ends_the_connection_though_it_pings() {
    let site = Site::new();
    let server = site.serve_with(TLS, impatient()).await;
    for window in [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0xff, 0xff]] {
        let settings = frame(SETTINGS, 0, 0, &[&[0, 4][..], &window].concat());
        let mut stream = saying(&site, &server, &[settings, ask(1, "/large")].concat()).await;
        let start = Instant::now();
        let mut said = Vec::new();
        loop {
            let _ = stream.write_all(&frame(PING, 0, 0, &[0; 8])).await;
            match timeout(Duration::from_millis(20), stream.read_buf(&mut said)).await {
                Err(_) => assert!(start.elapsed() < PATIENCE, "still open"),
                Ok(Ok(1..)) => {}
                Ok(_) => break,
            }
            assert!(start.elapsed() < PATIENCE, "still open");
        }
        assert!(start.elapsed() > Duration::from_millis(250), "{window:?}: {:?}", start.elapsed());
    }
}

/// The client takes the answer in small pieces, each one in time.
#[tokio::test]
async fn an_answer_that_is_taken_slowly_is_not_kept_for_ever() {
    let site = Site::new();
    let response_timeout = Duration::from_secs(2);
    let server = site.serve_with(TLS, Limits { response_timeout, ..Limits::default() }).await;
    let mut stream = saying(&site, &server, &ask(1, "/large")).await;
    let start = Instant::now();
    let (mut said, more) = (0, 20_000_u32.to_be_bytes());
    loop {
        let bit = [frame(WINDOW_UPDATE, 0, 0, &more), frame(WINDOW_UPDATE, 0, 1, &more)].concat();
        let _ = stream.write_all(&bit).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        match timeout(Duration::from_millis(1), stream.read(&mut [0; 65536])).await {
            Ok(Ok(length @ 1..)) => said += length,
            Ok(_) => break,
            Err(_) => {}
        }
        assert!(start.elapsed() < PATIENCE, "still open");
    }
    assert!(start.elapsed() >= response_timeout, "{:?}", start.elapsed());
    // The amount exceeds the initial window (RFC 9113, section 6.9.2), so the client took the
    // following data in time.
    assert!(65_535 < said && said < LARGE, "{said}");
    assert_served(&site, &server).await;
}

#[tokio::test]
async fn who_only_pings_is_idle() {
    let site = Site::new();
    let server = site.serve_with(TLS, impatient()).await;
    // Before and after a request.
    for bytes in [Vec::new(), ask(1, "/")] {
        let mut stream = saying(&site, &server, &bytes).await;
        let start = Instant::now();
        let mut said = Vec::new();
        loop {
            let _ = stream.write_all(&frame(PING, 0, 0, &[0; 8])).await;
            match timeout(Duration::from_millis(20), stream.read_buf(&mut said)).await {
                Ok(Ok(0) | Err(_)) => break,
                _ => assert!(start.elapsed() < PATIENCE, "still open"),
            }
        }
    }
    // A stream whose answer is slow is not idle.
    let mut stream = saying(&site, &server, &ask(1, "/held")).await;
    let mut said = Vec::new();
    let ended =
        timeout(Duration::from_millis(900), async { while stream.read_buf(&mut said).await.unwrap_or(0) > 0 {} });
    assert!(ended.await.is_err(), "closed while the handler worked");
}

/// Go's client sends these frames between two scrapes to check the connection.
#[tokio::test]
async fn a_ping_between_requests_begins_none() {
    let site = Site::new();
    let short = Duration::from_millis(300);
    let server = site.serve_with(TLS, Limits { header_timeout: short, ..Limits::default() }).await;
    let mut stream = saying(&site, &server, &ask(1, "/")).await;
    let mut said = Vec::new();
    let read_until = async |stream: &mut TlsStream<TcpStream>, said: &mut Vec<u8>, text: &[u8]| {
        while !said.windows(text.len()).any(|window| window == text) {
            assert!(within(stream.read_buf(said)).await.unwrap() > 0, "closed");
        }
        said.clear();
    };
    read_until(&mut stream, &mut said, b"hello\n").await;
    within(stream.write_all(&frame(PING, 0, 0, b"pingpong"))).await.unwrap();
    read_until(&mut stream, &mut said, b"pingpong").await;
    let closed = timeout(3 * short, async { while stream.read_buf(&mut said).await.unwrap_or(0) > 0 {} }).await;
    assert!(closed.is_err(), "closed, as if the ping had been half a request");
    within(stream.write_all(&ask(3, "/"))).await.unwrap();
    read_until(&mut stream, &mut said, b"hello\n").await;
}

#[tokio::test]
async fn handshakes_that_are_garbage_or_never_end_are_cut_off() {
    let site = Site::new();
    let server = site.serve_with(TLS, Limits { header_timeout: Duration::from_millis(300), ..Limits::default() }).await;
    let record = |length: [u8; 2]| [&[22, 3, 1][..], &length].concat();
    for (name, bytes) in [
        ("nothing", Vec::new()),
        ("zeroes", vec![0; 4096]),
        ("HTTP that Go does not know either", b"DELETE / HTTP/1.1\r\nHost: test\r\n\r\n".to_vec()),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        ("half a request", b"GET".to_vec()),
        ("half a record's head", vec![22, 3]),
        ("a record that does not come", record([0x3f, 0xff])),
        ("a record that is too long", [record([0xff, 0xff]), vec![0; 65_535]].concat()),
        ("an empty record", record([0, 0])),
        ("a hello that is too long", [record([0, 4]), vec![1, 0xff, 0xff, 0xff]].concat()),
        ("a hello of garbage", [record([2, 0]), vec![1, 0, 1, 0xfc], vec![7; 508]].concat()),
        ("an alert", vec![21, 3, 1, 0, 2, 2, 40]),
        ("data before its time", [vec![23, 3, 3, 0, 16], vec![0; 16]].concat()),
        ("SSL 2", vec![0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10]),
    ] {
        for half_closed in [false, true] {
            let mut stream = server.tcp().await;
            let _ = within(stream.write_all(&bytes)).await;
            if half_closed {
                let _ = stream.shutdown().await;
            }
            let mut said = Vec::new();
            let _ = within(stream.read_to_end(&mut said)).await;
            // At most an alert.
            assert!(said.is_empty() || (said[0] == 21 && said.len() == 7), "{name}: {said:?}");
        }
        assert_served(&site, &server).await;
    }
    // The client sends single bytes, each well within the timeout.
    let mut stream = server.tcp().await;
    let start = Instant::now();
    for byte in record([0x3f, 0]).into_iter().chain(std::iter::repeat(0)) {
        if stream.write_all(&[byte]).await.is_err() {
            break;
        }
        let mut end = [0];
        match timeout(Duration::from_millis(20), stream.read(&mut end)).await {
            Err(_) => assert!(start.elapsed() < PATIENCE, "still not cut off"),
            Ok(_) => break,
        }
    }
}

#[tokio::test]
async fn connections_that_say_nothing_do_not_keep_a_scrape_out() {
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files).unwrap();
    let site = Site::new();
    let server = site.serve(TLS).await;
    // Some clients stop before the handshake, some after it, some within the hello, and some within
    // HTTP/2.
    let mut silent = Vec::new();
    let mut connected = Vec::new();
    for number in 0..560 {
        match number % 8 {
            0 => connected.push(agreed(&site, &server).await),
            1 => connected.push(saying(&site, &server, &[]).await),
            2 => {
                let mut stream = server.tcp().await;
                within(stream.write_all(&[22, 3, 1, 2])).await.unwrap();
                silent.push(stream);
            }
            _ => silent.push(server.tcp().await),
        }
    }
    assert_served(&site, &server).await;
}
