//! The HTTP/1.1 server: listeners and a handler in, answers out, and no client that can hold up another.
//!
//! [`serve`] accepts, and keeps the table of `Connections`. Each of them is one task, `connection`, which runs hyper
//! over a `Metered` stream. The stream, the requests (`Turn`) and the deadlines meet in the connection's
//! `Activity`: it says when a client has kept us waiting too long, and which connection has been idle longest, so that
//! the table can make room for a new one. A task never waits for another one's client.
//!
//! Not hyper-util's auto connection and graceful-shutdown helper, nor tower: they know neither eviction nor deadlines
//! per phase, which are most of what is here, and what they would replace is a dozen lines.

use std::any::Any;
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderValue, TRANSFER_ENCODING};
use hyper::http::request;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::select;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, error, info, warn};

/// The largest request head, in bytes; a larger one is answered 431. Generous: Prometheus sends some 500.
const MAX_HEAD: usize = 64 * 1024;

/// How many connections the kernel may hold for us until we accept them, as far as net.core.somaxconn lets it. The 128 of
/// Rust's `bind` are full after 3 ms of a flood, and whoever is then turned away tries again a second later: too late
/// for many a scrape.
const BACKLOG: i32 = 4096;

/// How long, and for how many bytes, a connection that ends amid what the client is sending goes on reading. Closing at
/// once would make the kernel answer the rest with a reset, and a reset can overtake our answer (RFC 9112, 9.6).
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1024 * 1024;

/// How long a connection that was told to end may take before the next one is told, too. A task ends at its next await,
/// so this passes only where a handler computes without one.
const EVICTION_PATIENCE: Duration = Duration::from_millis(50);

/// How long to leave the listeners alone after an error that says nothing about the one connection: long enough not to
/// spin, too short for a scrape to notice.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long without an error until accepting counts as recovered. Not the first success: at the limit of open files
/// errors and successes alternate, and would fill the log.
const ACCEPT_RECOVERY: Duration = Duration::from_secs(60);

/// What a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once, over all listeners. One more closes the one that has been idle longest.
    pub connections: usize,
    /// From the connection, or from the first byte of a later request, to the end of the request's head.
    pub header_timeout: Duration,
    /// Between an answer and the next request.
    pub idle_timeout: Duration,
    /// For a client to take at least something of the answer that waits for it.
    pub stall_timeout: Duration,
    /// From shutdown until the answers not yet finished are dropped.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 512,
            header_timeout: Duration::from_secs(10),
            // Longer than any scrape interval in use: Prometheus keeps its connection from one scrape to the next.
            idle_timeout: Duration::from_secs(300),
            stall_timeout: Duration::from_secs(10),
            // A stopped exporter should be gone within a second, the runtime's own end included.
            grace: Duration::from_millis(900),
        }
    }
}

/// The content of an answer.
///
/// Of known length, so that hyper sends `Content-Length`, unless it is a [`stream`](Body::stream). Its chunks are handed
/// to the socket as they are: a page shared between scrapes is never copied.
pub struct Body {
    content: Content,
    guard: Option<Box<dyn Send>>,
}

enum Content {
    /// `left` is the number of bytes in `chunks[next..]`.
    Chunks {
        chunks: Arc<[Bytes]>,
        next: usize,
        left: u64,
    },
    /// One chunk, empty once it is taken.
    Whole(Bytes),
    Stream(mpsc::Receiver<Bytes>),
}

impl Body {
    /// No content.
    pub fn empty() -> Self {
        Bytes::new().into()
    }

    /// These chunks, one after the other. Their size matters little: 4 KiB or 3 MiB, they are written as fast.
    pub fn chunks(chunks: Arc<[Bytes]>) -> Self {
        let left = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        Content::Chunks { chunks, next: 0, left }.into()
    }

    /// Whatever is sent, until the sender is dropped. On shutdown the sender should be dropped, or the stream uses up
    /// the grace. A client that is gone is noticed only by writing to it: send something now and then.
    pub fn stream(chunks: mpsc::Receiver<Bytes>) -> Self {
        Content::Stream(chunks).into()
    }

    /// Holds `guard` until the last chunk is in the connection's write queue, or the connection ends. (Not until the
    /// client has it all: what is left by then is shared memory and takes nothing from anybody.)
    #[must_use]
    pub fn with_guard(mut self, guard: impl Send + 'static) -> Self {
        self.guard = Some(Box::new(guard));
        self
    }
}

impl From<Content> for Body {
    fn from(content: Content) -> Self {
        Body { content, guard: None }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Content::Whole(bytes).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let chunk = match &mut self.content {
            Content::Chunks { chunks, next, left } => chunks.get(*next).map(|chunk| {
                *next += 1;
                *left -= chunk.len() as u64;
                chunk.clone()
            }),
            Content::Whole(bytes) => Some(std::mem::take(bytes)).filter(|bytes| !bytes.is_empty()),
            Content::Stream(chunks) => ready!(chunks.poll_recv(cx)),
        };
        Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.size_hint().exact() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Chunks { left, .. } => SizeHint::with_exact(*left),
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Stream(_) => SizeHint::default(),
        }
    }
}

/// Answers the requests that come in over `listeners` with what `handler` makes of them, until `shutdown`.
///
/// The handler gets requests without their bodies, those of HEAD among them: it answers these like GET, and the content
/// stays here. If it panics, that one request is answered 500.
///
/// After `shutdown` nothing more is accepted, idle connections are closed, and answers under way have `limits.grace` to
/// finish. Errors of the listeners do not end the server: they pass, or the log tells.
pub async fn serve<H, F>(listeners: Vec<TcpListener>, handler: H, limits: Limits, shutdown: impl Future<Output = ()>)
where
    H: Fn(Request<()>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    for listener in &listeners {
        // Listening already, so this only changes the number, also of a socket that systemd has made. Without it the
        // server works as well, but for floods.
        if let Err(error) = rustix::net::listen(listener, BACKLOG) {
            debug!(%error, "cannot raise the backlog of a listener");
        }
    }
    let handler = Arc::new(handler);
    let (stop, stopping) = watch::channel(());
    let mut connections = Connections::new(limits.connections);
    let mut trouble = Trouble::default();
    let mut waiting = None;
    let mut turn = 0;
    let mut shutdown = pin!(shutdown);
    loop {
        select! {
            // In this order: what ends makes room for what comes, and a flood of connections cannot put off the end.
            biased;
            () = &mut shutdown => break,
            true = connections.ended() => trouble.room(),
            accepted = accept(&listeners, turn, trouble.pause), if waiting.is_none() => {
                turn = turn.wrapping_add(1);
                match accepted {
                    Ok(accepted) => {
                        trouble.success(Instant::now());
                        if connections.is_full() {
                            connections.close_longest_idle();
                        }
                        // An answer is written whole: holding back its last packet until the client acknowledges the
                        // others gains nothing. This fails only if the connection is lost, as its first read will tell.
                        let _ = accepted.0.set_nodelay(true);
                        waiting = Some(accepted);
                    }
                    Err(error) => {
                        if trouble.failure(&error, Instant::now()) {
                            connections.close_longest_idle();
                        }
                    }
                }
            }
            () = sleep(EVICTION_PATIENCE), if waiting.is_some() => connections.close_longest_idle(),
        }
        if let Some((stream, peer)) = waiting.take_if(|_| !connections.is_full()) {
            let activity = Arc::new(Activity::new());
            let task = connection(stream, peer, handler.clone(), activity.clone(), limits, stopping.clone());
            connections.open(task, activity);
        }
    }
    drop((listeners, waiting, stop));
    // Dropping the table at the end of the grace aborts what is left. Not awaited: it might never come to an await.
    let _ = tokio::time::timeout(limits.grace, async { while connections.ended().await {} }).await;
}

/// The next connection on any of the listeners, starting with another one at each `turn`, not before `pause` is over.
async fn accept(listeners: &[TcpListener], turn: usize, pause: Option<Instant>) -> io::Result<(TcpStream, SocketAddr)> {
    if let Some(end) = pause {
        sleep_until(end).await;
    }
    poll_fn(|cx| {
        let (before, after) = listeners.split_at(turn % listeners.len().max(1));
        match after.iter().chain(before).map(|listener| listener.poll_accept(cx)).find(Poll::is_ready) {
            Some(accepted) => accepted,
            None => Poll::Pending,
        }
    })
    .await
}

/// Errors of accepting, told to the log once when they begin and once when they have ended.
#[derive(Default)]
struct Trouble {
    /// When the last error was; None while all is well.
    last: Option<Instant>,
    /// Whether the last attempt failed.
    failing: bool,
    /// Until when not to try again.
    pause: Option<Instant>,
    /// Whether a connection's end cuts the pause short.
    until_room: bool,
}

impl Trouble {
    /// Notes an error, and says whether closing a connection would help.
    fn failure(&mut self, error: &io::Error, now: Instant) -> bool {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
        // Linux reports errors of the new connection here (accept(2)). They are the client's, and there is a next one.
        if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
            debug!(%error, "connection lost before it was accepted");
            return false;
        }
        if self.last.is_none() {
            warn!(%error, "cannot accept connections");
        }
        let exhausted =
            matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM));
        self.pause = Some(now + ACCEPT_PAUSE);
        // A connection that ends gives back what lacked. If the next attempt fails all the same, others take what we
        // give back, and hurrying would only close all that we have.
        self.until_room = exhausted && !self.failing;
        self.failing = true;
        self.last = Some(now);
        exhausted
    }

    /// Notes that a connection has ended.
    fn room(&mut self) {
        if self.until_room {
            self.pause = None;
        }
    }

    /// Notes a success.
    fn success(&mut self, now: Instant) {
        self.failing = false;
        self.pause = None;
        if self.last.is_some_and(|last| now.duration_since(last) >= ACCEPT_RECOVERY) {
            self.last = None;
            info!("accepting connections again");
        }
    }
}

/// The connections that exist, each a task.
struct Connections {
    tasks: JoinSet<()>,
    /// One entry for each task of `tasks`, until its end was seen by [`Connections::ended`].
    open: HashMap<Id, Open>,
    limit: usize,
}

struct Open {
    activity: Arc<Activity>,
    /// None once it is used: the task was told to end and has not done so yet.
    abort: Option<AbortHandle>,
}

impl Connections {
    fn new(limit: usize) -> Self {
        Connections { tasks: JoinSet::new(), open: HashMap::new(), limit: limit.max(1) }
    }

    fn is_full(&self) -> bool {
        self.open.len() >= self.limit
    }

    fn open(&mut self, task: impl Future<Output = ()> + Send + 'static, activity: Arc<Activity>) {
        let abort = self.tasks.spawn(task);
        self.open.insert(abort.id(), Open { activity, abort: Some(abort) });
    }

    /// Waits for the next connection to end; false if there is none. Cancel safe.
    async fn ended(&mut self) -> bool {
        let Some(ended) = self.tasks.join_next_with_id().await else { return false };
        let id = match &ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        self.open.remove(&id);
        if let Err(Ok(panic)) = ended.map_err(JoinError::try_into_panic) {
            error!(panic = panic_message(&*panic), "a connection's task panicked");
        }
        true
    }

    /// Closes the connection whose last byte in either direction is longest ago, if any is left to close.
    ///
    /// A look at each of them, because there are 512 and this is rare; an order kept up to date would cost every read
    /// and write of every connection instead. It is closed by aborting its task, not by asking: it may be just the
    /// client that does not listen.
    fn close_longest_idle(&mut self) {
        let candidates = self.open.values_mut().filter(|open| open.abort.is_some());
        if let Some(longest) = candidates.min_by_key(|open| open.activity.lock().last)
            && let Some(abort) = longest.abort.take()
        {
            debug!("closing the connection idle longest to make room");
            abort.abort();
        }
    }
}

/// Serves one connection until it ends, for whatever reason.
///
/// This is where TLS goes: between `Metered`, which is to see the bytes of the handshake too, and `converse`.
async fn connection<S, H, F>(
    stream: S,
    peer: SocketAddr,
    handler: Arc<H>,
    activity: Arc<Activity>,
    limits: Limits,
    stopping: watch::Receiver<()>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Request<()>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let stream = Metered::new(stream, activity.clone());
    select! {
        // First the conversation, then the deadline as it stands after it: both are polled whenever the task wakes.
        biased;
        ended = converse(stream, peer, handler, activity.clone(), stopping) => match ended {
            Ok(()) => debug!(%peer, "connection closed"),
            Err(error) => debug!(%peer, ?error, "connection broken"),
        },
        phase = activity.overdue(&limits) => debug!(%peer, ?phase, "connection timed out"),
    }
}

/// Speaks HTTP over any stream, until either side closes it or `stopping` does.
async fn converse<S, H, F>(
    stream: S,
    peer: SocketAddr,
    handler: Arc<H>,
    activity: Arc<Activity>,
    mut stopping: watch::Receiver<()>,
) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Request<()>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let service = service_fn(|request| answer(request, peer, handler.clone(), activity.turn()));
    // Writing is left as hyper has it: chunks are queued and written together by writev. 3 MB then take as long as in a
    // bare loop of writes; copying them together (`writev(false)`) took a tenth longer, and a small `max_buf_size`, which
    // would bound the head as well, gained nothing.
    let http = hyper::server::conn::http1::Builder::new()
        // A client may shut down its side after its last request (`nc -N`) and still wants the answer. The price: one
        // that is gone is noticed by writing to it only.
        .half_close(true)
        // It would run between requests too, where idle_timeout is meant: Activity keeps both.
        .header_read_timeout(None)
        .max_header_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut http = pin!(http);
    select! {
        biased;
        ended = http.as_mut() => return ended,
        // Its sender is dropped: that is the sign.
        _ = stopping.changed() => {}
    }
    // hyper would wait for the rest of a request that has begun to come. No answer is under way to this client.
    if let Phase::Head { .. } = activity.lock().phase {
        return Ok(());
    }
    http.as_mut().graceful_shutdown();
    http.await
}

/// Answers one request: by refusing it, or by asking the handler.
async fn answer<H, F>(
    request: Request<Incoming>,
    peer: SocketAddr,
    handler: Arc<H>,
    turn: Turn,
) -> Result<Response<Answer>, Infallible>
where
    H: Fn(Request<()>) -> F,
    F: Future<Output = Response<Body>>,
{
    let start = Instant::now();
    let (head, content) = request.into_parts();
    let (method, uri) = (head.method.clone(), head.uri.clone());
    let refused = refusal(&head);
    // What a client sends along is never read, not even to find the next request behind it: no answer here depends on
    // it, and a peer that counts it differently than we do could smuggle a request past a proxy.
    let last = refused.is_some() || !content.is_end_stream();
    drop(content);
    if last {
        turn.activity.lock().amid_sending = true;
    }
    let mut response = match refused {
        Some(reason) => plain(StatusCode::BAD_REQUEST, reason),
        None => match unpanicked(async { handler(Request::from_parts(head, ())).await }).await {
            Ok(response) => response,
            Err(panic) => {
                error!(%method, %uri, panic = panic_message(&*panic), "panic while answering a request");
                plain(StatusCode::INTERNAL_SERVER_ERROR, "internal error\n")
            }
        },
    };
    if last {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    debug!(%peer, %method, %uri, status = response.status().as_u16(), duration = ?start.elapsed(), "answered");
    Ok(response.map(|body| Answer { body, _turn: turn }))
}

/// Why a request that hyper found well-formed is refused all the same.
fn refusal(head: &request::Parts) -> Option<&'static str> {
    // hyper reads one with both framings as RFC 9112 allows, and does not show the length that it dropped. A chunked body
    // has no business in a GET, so both go. With other methods it is the handler that says no.
    if head.headers.contains_key(TRANSFER_ENCODING) && matches!(head.method, Method::GET | Method::HEAD) {
        return Some("this request may not have a body\n");
    }
    // RFC 9112, 3.2. Go's server, and so every other exporter, asks for it too.
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

/// Runs a future and catches its panic. Not a task of its own, whose panic tokio would catch: that would outlive the
/// connection, and cost a wake-up for each request.
async fn unpanicked<F: Future>(future: F) -> Result<F::Output, Box<dyn Any + Send>> {
    let mut future = pin!(future);
    // Unwind safe: the future is dropped after a panic, and what it shares is its author's to keep in order.
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "not a text",
    }
}

/// A body on its way out, and with it the turn that it ends.
struct Answer {
    body: Body,
    _turn: Turn,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What a connection is doing, and since when.
///
/// Shared between the parts of the connection's own task, and with the table, which looks at `last`. A std mutex: it is
/// held for a few loads and stores, never across an await.
struct Activity(Mutex<State>);

struct State {
    /// The last byte in either direction; before the first one, the connection itself.
    last: Instant,
    phase: Phase,
    /// When a write first found the client not reading, since the last one that went through.
    blocked: Option<Instant>,
    /// Whether bytes came that belong to no request answered or to be answered: the client may be sending still.
    amid_sending: bool,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// The request's head is under way.
    Head { since: Instant },
    /// The handler, or the client that reads the answer, has the word.
    Answer,
    /// Between an answer (the end of it may still be in the write queue) and the next request.
    Idle,
    /// Our side is shut down.
    Closing { since: Instant },
}

impl Activity {
    fn new() -> Self {
        let now = Instant::now();
        Activity(Mutex::new(State { last: now, phase: Phase::Head { since: now }, blocked: None, amid_sending: false }))
    }

    /// The state, usable after a panic elsewhere: no code that holds it can leave it half changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a turn, now that a request's head is read.
    fn turn(self: &Arc<Self>) -> Turn {
        let mut state = self.lock();
        state.phase = Phase::Answer;
        state.amid_sending = false;
        Turn { activity: self.clone() }
    }

    fn read(&self) {
        let mut state = self.lock();
        state.last = Instant::now();
        state.amid_sending = true;
        if let Phase::Idle = state.phase {
            state.phase = Phase::Head { since: state.last };
        }
    }

    fn wrote(&self, result: &Poll<io::Result<usize>>) {
        let mut state = self.lock();
        match result {
            Poll::Ready(_) => {
                state.last = Instant::now();
                state.blocked = None;
            }
            Poll::Pending => state.blocked = state.blocked.or_else(|| Some(Instant::now())),
        }
    }

    /// When to give the client up, as things stand, and for what.
    fn deadline(&self, limits: &Limits) -> Option<(Instant, Phase)> {
        let state = self.lock();
        let (since, timeout) = match (state.blocked, state.phase) {
            (Some(since), _) => (since, limits.stall_timeout),
            (None, Phase::Head { since }) => (since, limits.header_timeout),
            // Nobody waits for the client: the handler works, or a stream has nothing to say.
            (None, Phase::Answer) => return None,
            (None, Phase::Idle) => (state.last, limits.idle_timeout),
            (None, Phase::Closing { since }) => (since, LINGER),
        };
        Some((since.checked_add(timeout)?, state.phase))
    }

    /// Resolves once the deadline has passed. It moves while the connection works, so this belongs into the task that
    /// moves it, after what moves it.
    async fn overdue(&self, limits: &Limits) -> Phase {
        let mut timer = pin!(sleep_until(Instant::now()));
        poll_fn(|cx| {
            let Some((deadline, phase)) = self.deadline(limits) else { return Poll::Pending };
            if timer.deadline() != deadline {
                timer.as_mut().reset(deadline);
            }
            timer.as_mut().poll(cx).map(|()| phase)
        })
        .await
    }
}

/// From the end of a request's head until its answer is handed over, however it ends.
struct Turn {
    activity: Arc<Activity>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.activity.lock().phase = Phase::Idle;
    }
}

/// A stream that tells its [`Activity`] about every byte, and that reads on for a while after it was shut down.
struct Metered<S> {
    stream: S,
    activity: Arc<Activity>,
    /// Bytes read since it was shut down.
    lingered: Option<usize>,
}

impl<S> Metered<S> {
    fn new(stream: S, activity: Arc<Activity>) -> Self {
        Metered { stream, activity, lingered: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.read();
        }
        result
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.activity.wrote(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.activity.wrote(&result);
        result
    }

    /// Passed on, because by it hyper chooses between queueing chunks and copying them together.
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingered.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.activity.lock().phase = Phase::Closing { since: Instant::now() };
        }
        let mut read = self.lingered.unwrap_or(0);
        let mut scratch = [0; 8192];
        let result = loop {
            let mut buf = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => read += buf.filled().len(),
                // The client has closed its side, or reset: no answer can be lost any more.
                Poll::Ready(_) => break Poll::Ready(Ok(())),
                Poll::Pending if read == 0 && !self.activity.lock().amid_sending => break Poll::Ready(Ok(())),
                Poll::Pending => break Poll::Pending,
            }
            if read > LINGER_BYTES {
                break Poll::Ready(Ok(()));
            }
        };
        self.lingered = Some(read);
        result
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    #[tokio::test]
    async fn a_body_knows_its_length() {
        let page: Arc<[Bytes]> = ["", "one ", "two"].map(Bytes::from).into();
        for (body, content) in [
            (Body::empty(), ""),
            (Body::from("text"), "text"),
            (Body::from("text".to_owned()), "text"),
            (Body::chunks(page), "one two"),
            (Body::chunks(Arc::new([])), ""),
        ] {
            assert_eq!(body.size_hint().exact(), Some(content.len() as u64));
            assert_eq!(body.is_end_stream(), content.is_empty());
            assert_eq!(body.collect().await.unwrap().to_bytes(), content);
        }
        let (sender, receiver) = mpsc::channel(1);
        let body = Body::stream(receiver);
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (None, false));
        sender.send("now".into()).await.unwrap();
        drop(sender);
        assert_eq!(body.collect().await.unwrap().to_bytes(), "now");
    }

    #[tokio::test]
    async fn chunks_are_shared_not_copied() {
        let page: Arc<[Bytes]> = [Bytes::from(vec![b'x'; 100])].into();
        let frame = Body::chunks(page.clone()).frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap().as_ptr(), page[0].as_ptr());
    }

    /// A connection over memory, so that time can be paused: it then jumps to the next deadline.
    fn connect(limits: Limits) -> (DuplexStream, impl Future<Output = Duration>) {
        let (client, server) = duplex(1024);
        let (stop, stopping) = watch::channel(());
        let peer = SocketAddr::from(([192, 0, 2, 1], 1));
        let handler = Arc::new(async |_| Response::new(Body::from(Bytes::from(vec![b'x'; 4096]))));
        let handler = Arc::new(move |request| {
            let handler = handler.clone();
            async move { handler(request).await }
        });
        let connection = connection(server, peer, handler, Arc::new(Activity::new()), limits, stopping);
        let start = Instant::now();
        let lasted = async move {
            connection.await;
            drop(stop);
            start.elapsed()
        };
        (client, lasted)
    }

    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n";

    async fn read_answer(client: &mut DuplexStream) {
        let mut answer = Vec::new();
        while answer.windows(4).position(|end| end == b"\r\n\r\n").is_none_or(|end| answer.len() < end + 4 + 4096) {
            assert!(client.read_buf(&mut answer).await.unwrap() > 0);
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
            // As Prometheus does: a request every minute on one connection. Then no more.
            for _ in 0..3 {
                client.write_all(GET).await.unwrap();
                read_answer(&mut client).await;
                sleep(Duration::from_secs(60)).await;
            }
        };
        let (lasted, ()) = tokio::join!(lasted, script);
        assert_eq!(lasted.as_secs(), 2 * 60 + limits.idle_timeout.as_secs());

        let (mut client, lasted) = connect(limits);
        let script = async {
            client.write_all(GET).await.unwrap();
            read_answer(&mut client).await;
            sleep(Duration::from_secs(60)).await;
            // A head that trickles in: its own time starts with its first byte, and no later one prolongs it.
            while client.write_all(b"G").await.is_ok() {
                sleep(Duration::from_secs(1)).await;
            }
        };
        let (lasted, ()) = tokio::join!(lasted, script);
        assert_eq!(lasted.as_secs(), 60 + limits.header_timeout.as_secs());

        let (mut client, lasted) = connect(limits);
        let script = async {
            client.write_all(GET).await.unwrap();
            // Each time it takes a little, it gets another ten seconds for the next.
            for _ in 0..3 {
                sleep(Duration::from_secs(9)).await;
                client.read_exact(&mut [0; 512]).await.unwrap();
            }
        };
        let (lasted, ()) = tokio::join!(lasted, script);
        assert_eq!(lasted.as_secs(), 3 * 9 + limits.stall_timeout.as_secs());

        let (mut client, lasted) = connect(limits);
        client.write_all(b"no such thing\r\n\r\n").await.unwrap();
        assert_eq!(lasted.await, LINGER);
    }

    #[test]
    fn trouble_is_told_once() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let exhausted = io::Error::from(Errno::MFILE);
        let mut trouble = Trouble::default();

        assert!(!trouble.failure(&Errno::CONNABORTED.into(), start), "the client's own");
        assert_eq!((trouble.last, trouble.pause), (None, None));

        // A connection that ends is what was lacking.
        assert!(trouble.failure(&exhausted, start));
        assert_eq!(trouble.pause, Some(start + ACCEPT_PAUSE));
        trouble.room();
        assert_eq!(trouble.pause, None);
        // It was not enough: no hurry.
        assert!(trouble.failure(&exhausted, start));
        trouble.room();
        assert_eq!(trouble.pause, Some(start + ACCEPT_PAUSE));

        // Errors and successes in turn are one trouble, until a minute has passed without one.
        trouble.success(at(1));
        assert_eq!((trouble.last, trouble.pause), (Some(start), None));
        trouble.failure(&exhausted, at(30));
        trouble.success(at(61));
        assert!(trouble.last.is_some());
        trouble.success(at(90));
        assert!(trouble.last.is_none());

        // What closing a connection does not help against.
        assert!(!trouble.failure(&Errno::INVAL.into(), at(100)));
        trouble.room();
        assert_eq!(trouble.pause, Some(at(100) + ACCEPT_PAUSE));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_end_is_not_waited_for() {
        let mut connections = Connections::new(2);
        assert!(!connections.ended().await);
        for _ in 0..2 {
            connections.open(std::future::pending(), Arc::new(Activity::new()));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!(connections.is_full());
        connections.close_longest_idle();
        connections.close_longest_idle();
        // Both were told, and there is none left to tell.
        connections.close_longest_idle();
        assert!(connections.ended().await && connections.ended().await && !connections.ended().await);
        assert!(!connections.is_full());

        connections.open(async { panic!("told to") }, Arc::new(Activity::new()));
        assert!(connections.ended().await && connections.open.is_empty());
    }
}
