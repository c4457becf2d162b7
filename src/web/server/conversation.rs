//! One connection: reads HTTP requests, refuses them or passes them to the handler, and writes the
//! responses.

use std::any::Any;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue, TRANSFER_ENCODING};
use hyper::http::request;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::select;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, error};

use super::activity::{Activity, Exchange, Metered, Phase};
use super::handshake::{handshake, reason};
use super::notice::{Closed, Notice};
use super::{Body, Limits};
use crate::shares::Client;
use crate::web_config::{HTTP_2, TlsMode};

/// The limit of hyper's buffers, in bytes: for data that a client sends ahead, and for queued parts
/// of a response. With hyper's default, five hundred clients that sent ahead and read nothing took
/// twice the memory. A large page took the same time with both.
const MAX_BUFFER: usize = 128 * 1024;

/// The largest request head, in bytes. A larger one gets a 431. Prometheus sends about 500 bytes.
const MAX_HEAD: usize = 64 * 1024;

/// The number of responses that may be under way on one HTTP/2 connection. Prometheus needs one, a
/// browser a few.
const MAX_STREAMS: u32 = 32;

/// The number of bytes of a request body that an HTTP/2 client may send. The server reads none of
/// them.
const BODY_WINDOW: u32 = 16 * 1024;

/// The error that ended a connection early.
type Broken = Box<dyn std::error::Error + Send + Sync>;

/// The parts that all connections share.
pub(crate) struct Server<H> {
    pub(crate) handler: H,
    pub(crate) tls_mode: Box<dyn Fn() -> TlsMode + Send + Sync>,
    pub(crate) limits: Limits,
    pub(crate) notice: Notice,
}

/// Serves one connection until it ends.
pub(crate) async fn connection<S, H, F>(
    stream: S,
    peer: SocketAddr,
    server: Arc<Server<H>>,
    activity: Arc<Activity>,
    stopping: watch::Receiver<()>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Client, Request<()>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    // Measures below TLS, so that the bytes of the handshake count too.
    let stream = Metered::new(stream, activity.clone());
    let conversation = Conversation { peer, server: server.clone(), activity: activity.clone(), stopping };
    select! {
        // The order matters: the deadline is checked after the connection has moved it. Both are
        // polled whenever the task wakes.
        biased;
        ended = conversation.hold(stream) => match ended {
            Ok(()) => debug!(%peer, "connection closed"),
            Err(error) => {
                debug!(%peer, ?error, "connection broken");
                server.notice.broken(peer, error.downcast_ref());
            }
        },
        is_slow = activity.overdue(&server.limits) => {
            debug!(%peer, is_slow, "connection timed out");
            if is_slow {
                server.notice.closed(Closed::Slow, peer.ip().to_canonical());
            }
        }
    }
}

/// The state of one connection.
struct Conversation<H> {
    peer: SocketAddr,
    server: Arc<Server<H>>,
    activity: Arc<Activity>,
    stopping: watch::Receiver<()>,
}

impl<H, F> Conversation<H>
where
    H: Fn(Client, Request<()>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    /// Serves any stream, until either side closes it or `stopping` signals shutdown.
    async fn hold<S>(mut self, stream: S) -> Result<(), Broken>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        match (self.server.tls_mode)() {
            TlsMode::Plain => return self.http_1(stream).await,
            TlsMode::Tls(_) => {}
            TlsMode::Refused => return Ok(()),
        }
        let stream = select! {
            biased;
            accepted = handshake(stream, &self.server.tls_mode) => match accepted {
                Ok(Some(stream)) => stream,
                Ok(None) => return Ok(()),
                Err((error, mut stream)) => {
                    if let Some(reason) = reason(&error) {
                        self.server.notice.handshake_failed(self.peer.ip(), reason);
                    }
                    // The client has been sent an alert, and needs time to read it.
                    stream.shutdown().await?;
                    return Err(error.into());
                }
            },
            _ = self.stopping.changed() => return Ok(()),
        };
        match stream.get_ref().1.alpn_protocol() {
            Some(HTTP_2) => self.http_2(stream).await,
            _ => self.http_1(stream).await,
        }
    }

    async fn http_1<S>(self, stream: S) -> Result<(), Broken>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Conversation { peer, server, activity, stopping } = self;
        let service = service_fn(|request| respond(request, peer, server.clone(), activity.exchange()));
        // hyper's default for writing stays: it queues chunks and writes them together with writev.
        // A page of 3 MB then takes as long as in a plain loop of writes. Copying the chunks into
        // one buffer (`writev(false)`) took a tenth longer.
        let http = hyper::server::conn::http1::Builder::new()
            // A client may close its sending side after its last request (`nc -N`) and still read
            // the response. In return, only a write detects a client that has disconnected.
            .half_close(true)
            // hyper's timeout would also run between requests, where idle_timeout applies.
            // `Activity` enforces both.
            .header_read_timeout(None)
            .max_header_size(MAX_HEAD)
            .max_buf_size(MAX_BUFFER)
            .serve_connection(TokioIo::new(stream), service);
        until(http, &activity, stopping, |http| http.graceful_shutdown()).await
    }

    async fn http_2<S>(self, stream: S) -> Result<(), Broken>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Conversation { peer, server, activity, stopping } = self;
        activity.multiplex();
        let service = service_fn(|request| respond(request, peer, server.clone(), activity.exchange()));
        // These limits and h2's own bound the memory that a client can make us use. h2 closes the
        // connection after 20 streams that were reset before they were accepted, or 1024 invalid
        // frames.
        let http = hyper::server::conn::http2::Builder::new(Streams::default())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD as u32)
            // The server does not read request bodies.
            .initial_stream_window_size(BODY_WINDOW)
            .initial_connection_window_size(u32::from(u16::MAX))
            .serve_connection(TokioIo::new(stream), service);
        until(http, &activity, stopping, |http| http.graceful_shutdown()).await
    }
}

/// Runs a connection to its end. When `stopping` signals shutdown, lets the responses under way
/// finish.
async fn until<C>(
    http: C,
    activity: &Activity,
    mut stopping: watch::Receiver<()>,
    graceful_shutdown: impl FnOnce(Pin<&mut C>),
) -> Result<(), Broken>
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut http = pin!(http);
    select! {
        biased;
        ended = http.as_mut() => return Ok(ended?),
        // Dropping the sender signals shutdown.
        _ = stopping.changed() => {}
    }
    // hyper would wait for the rest of a request that has only partly arrived. This client has no
    // response under way.
    if let Phase::Head { .. } = activity.lock().phase {
        return Ok(());
    }
    graceful_shutdown(http.as_mut());
    Ok(http.await?)
}

/// Runs the streams of one HTTP/2 connection, each as a task. They end with the connection.
#[derive(Clone, Default)]
struct Streams(Arc<Mutex<JoinSet<()>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let mut streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        streams.spawn(stream);
        // Frees finished tasks, which would otherwise be kept until the connection ends.
        while streams.try_join_next().is_some() {}
    }
}

/// Marks a response with an error status that is expected and not logged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoRefusal;

/// Responds to one request: refuses it, or calls the handler.
async fn respond<H, F>(
    request: Request<Incoming>,
    peer: SocketAddr,
    server: Arc<Server<H>>,
    exchange: Exchange,
) -> Result<Response<ResponseBody>, Infallible>
where
    H: Fn(Client, Request<()>) -> F,
    F: Future<Output = Response<Body>>,
{
    let start = Instant::now();
    let (head, content) = request.into_parts();
    let (method, uri, version) = (head.method.clone(), head.uri.clone(), head.version);
    let refused = refusal(&head);
    // The server never reads a request body, not even to find the next request after it. No
    // response depends on a body. A peer that computes another length than we do could smuggle a
    // request past a proxy. HTTP/2 has no such ambiguity.
    let last = version < Version::HTTP_2 && (refused.is_some() || !content.is_end_stream());
    drop(content);
    if last {
        exchange.activity.lock().amid_sending = true;
    }
    let mut response = match refused {
        Some(reason) => plain(StatusCode::BAD_REQUEST, reason),
        None => {
            match unpanicked(async { (server.handler)(peer.ip().into(), Request::from_parts(head, ())).await }).await {
                Ok(response) => response,
                Err(panic) => {
                    error!(%method, path = uri.path(), panic = panic_message(&*panic), "panic while serving a request");
                    plain(StatusCode::INTERNAL_SERVER_ERROR, "internal error\n")
                }
            }
        }
    };
    if method == Method::HEAD && version == Version::HTTP_2 {
        // hyper does this by itself in HTTP/1.
        if let Some(length) = response.body().size_hint().exact() {
            response.headers_mut().insert(CONTENT_LENGTH, length.into());
        }
        *response.body_mut() = Body::empty();
    }
    if last {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    debug!(%peer, %method, path = uri.path(), status = response.status().as_u16(), duration = ?start.elapsed(), "answered");
    match response.extensions().get() {
        None => server.notice.answered(peer, response.status()),
        Some(NoRefusal) => server.notice.expected(response.status()),
    }
    let is_whole = response.body().size_hint().exact().is_some();
    exchange.owes(if is_whole { server.limits.response_timeout } else { server.limits.stream_timeout });
    Ok(response.map(|body| ResponseBody { body, exchange: Arc::new(exchange) }))
}

/// The reason to refuse a request that hyper accepts.
fn refusal(head: &request::Parts) -> Option<&'static str> {
    // hyper reads a request with both framings as RFC 9112 allows, and hides the length that it
    // dropped. A chunked body makes no sense in a GET, so all chunked requests are refused. The
    // handler refuses other methods.
    if head.headers.contains_key(TRANSFER_ENCODING) && matches!(head.method, Method::GET | Method::HEAD) {
        return Some("GET and HEAD requests must not have a body\n");
    }
    // RFC 9112, 3.2. Go's server, and therefore other exporters, require it too.
    let hosts = head.headers.get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && head.version == Version::HTTP_11) {
        return Some("exactly one Host header is required\n");
    }
    None
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Runs a future and catches its panic. tokio would catch the panic of a separate task. Such a task
/// would outlive the connection, and would cost a wake-up per request.
async fn unpanicked<F: Future>(future: F) -> Result<F::Output, Box<dyn Any + Send>> {
    let mut future = pin!(future);
    // Unwind safety: the future is dropped after a panic. Its author keeps shared state consistent.
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "the panic has no message",
    }
}

/// A response body. Its exchange ends with the last piece, which HTTP/2 may hold for a long time.
struct ResponseBody {
    body: Body,
    exchange: Arc<Exchange>,
}

impl http_body::Body for ResponseBody {
    type Data = Piece;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, Infallible>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let piece = |bytes| Piece { bytes, _exchange: Arc::clone(&self.exchange) };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A piece of a response, until it is written.
struct Piece {
    bytes: Bytes,
    _exchange: Arc<Exchange>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::sync::mpsc;
    use tokio::time::sleep;

    use super::super::activity::LINGER_TIME;
    use super::*;

    /// An in-memory connection, so that tests can pause the clock, which then jumps to the next
    /// deadline.
    fn connect(limits: Limits) -> (DuplexStream, impl Future<Output = Duration>) {
        let (client, server) = duplex(1024);
        let (stop, stopping) = watch::channel(());
        let peer = SocketAddr::from(([192, 0, 2, 1], 1));
        let handler = |_, request: Request<()>| async move {
            let content = |size| Response::new(Body::from(Bytes::from(vec![b'x'; size])));
            match request.uri().path() {
                "/large" => content(65536),
                "/stream" => {
                    let (sender, chunks) = mpsc::channel(1);
                    tokio::spawn(async move {
                        while sender.send(Bytes::from_static(b"now")).await.is_ok() {
                            sleep(Duration::from_secs(5)).await;
                        }
                    });
                    Response::new(Body::stream(chunks))
                }
                _ => content(4096),
            }
        };
        let tls_mode = Box::new(|| TlsMode::Plain);
        let common = Arc::new(Server { handler, tls_mode, limits, notice: Notice::default() });
        let connection = connection(server, peer, common, Arc::new(Activity::new()), stopping);
        let start = Instant::now();
        let lasted = async move {
            connection.await;
            drop(stop);
            start.elapsed()
        };
        (client, lasted)
    }

    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n";

    async fn read_response(client: &mut DuplexStream) {
        let mut response = Vec::new();
        while response.windows(4).position(|end| end == b"\r\n\r\n").is_none_or(|end| response.len() < end + 4 + 4096) {
            assert!(client.read_buf(&mut response).await.unwrap() > 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_phase_has_its_deadline() {
        let limits = Limits::default();
        let (mut client, lasted) = connect(limits);
        let silent = lasted.await;
        assert_eq!(silent.as_secs(), limits.header_timeout.as_secs());
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);

        let (mut client, lasted) = connect(limits);
        let script = async {
            // Prometheus sends a request every minute on one connection. This client then stops.
            for _ in 0..3 {
                client.write_all(GET).await.unwrap();
                read_response(&mut client).await;
                sleep(Duration::from_secs(60)).await;
            }
        };
        let (lasted, ()) = tokio::join!(lasted, script);
        assert_eq!(lasted.as_secs(), 2 * 60 + limits.idle_timeout.as_secs());

        let (mut client, lasted) = connect(limits);
        let script = async {
            client.write_all(GET).await.unwrap();
            read_response(&mut client).await;
            sleep(Duration::from_secs(60)).await;
            // A head that arrives byte by byte: its deadline counts from its first byte, and later
            // bytes do not extend it.
            while client.write_all(b"G").await.is_ok() {
                sleep(Duration::from_secs(1)).await;
            }
        };
        let (lasted, ()) = tokio::join!(lasted, script);
        assert_eq!(lasted.as_secs(), 60 + limits.header_timeout.as_secs());

        let (mut client, lasted) = connect(limits);
        let script = async {
            client.write_all(GET).await.unwrap();
            // Each read of a part gives the client another ten seconds for the next one.
            for _ in 0..3 {
                sleep(Duration::from_secs(9)).await;
                client.read_exact(&mut [0; 512]).await.unwrap();
            }
        };
        let (lasted, ()) = tokio::join!(lasted, script);
        assert_eq!(lasted.as_secs(), 3 * 9 + limits.stall_timeout.as_secs());

        let (mut client, lasted) = connect(limits);
        let script = async {
            // The deadline of the whole response applies even if the client keeps reading a little.
            client.write_all(b"GET /large HTTP/1.1\r\nHost: test\r\n\r\n").await.unwrap();
            while client.read_exact(&mut [0; 512]).await.is_ok() {
                sleep(Duration::from_secs(2)).await;
            }
        };
        let (lasted, ()) = tokio::join!(lasted, script);
        assert_eq!(lasted.as_secs(), limits.response_timeout.as_secs());

        let (mut client, lasted) = connect(limits);
        let script = async {
            // Each response has a deadline of its own.
            for _ in 0..10 {
                client.write_all(GET).await.unwrap();
                sleep(Duration::from_secs(9)).await;
                read_response(&mut client).await;
            }
        };
        let (lasted, ()) = tokio::join!(lasted, script);
        assert_eq!(lasted.as_secs(), 10 * 9 + limits.idle_timeout.as_secs());

        let (mut client, lasted) = connect(limits);
        let script = async {
            // A stream may last as long as the client reads it.
            client.write_all(b"GET /stream HTTP/1.1\r\nHost: test\r\n\r\n").await.unwrap();
            let _ = tokio::time::timeout(3 * limits.response_timeout, async {
                while client.read(&mut [0; 512]).await.unwrap() > 0 {}
            })
            .await;
            drop(client);
        };
        let (lasted, ()) = tokio::join!(lasted, script);
        assert!(lasted >= 3 * limits.response_timeout, "{lasted:?}");

        let (mut client, lasted) = connect(limits);
        client.write_all(b"no such thing\r\n\r\n").await.unwrap();
        assert_eq!(lasted.await, LINGER_TIME);
    }
}
