//! The HTTP server: HTTP/1.1, and HTTP/2 over TLS. It passes requests to a handler, and no client
//! can hold up another one.
//!
//! [`serve`] accepts connections and keeps the table of `Connections`. Each connection is one task,
//! `connection`, which runs hyper over a `Metered` stream. The stream, the requests (`Exchange`)
//! and the deadlines share the connection's `Activity`. It records how long a client has kept us
//! waiting, and which connection has been idle longest. The table uses it to make room for a new
//! connection. No task waits for the client of another task.
//!
//! ```text
//! mod.rs            listeners, the table of connections
//! conversation.rs   one connection and its requests
//! handshake.rs      TLS handshakes, and why they fail
//! activity.rs       how long a client may keep us waiting
//! body.rs           the bodies of responses
//! notice.rs         metrics and log lines about clients
//! ```
//!
//! The server uses neither hyper-util's auto connection and graceful-shutdown helper nor tower.
//! They support neither eviction nor deadlines per phase, which are most of this code. They would
//! replace a dozen lines.

mod activity;
mod body;
mod conversation;
mod handshake;
mod notice;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::{Request, Response};
use rustix::io::Errno;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::select;
use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, error, info, warn};

use activity::Activity;
pub use body::Body;
pub(crate) use body::Rest;
pub(crate) use conversation::NoRefusal;
use conversation::{Server, connection, panic_message};
pub(crate) use notice::Closed;
pub use notice::Notice;

use crate::shares::{AddressShare, Client};
use crate::web_config::TlsMode;

/// The number of connections that the kernel queues until we accept them, up to net.core.somaxconn.
/// A flood fills the 128 of Rust's `bind` within 3 ms. A client that is turned away retries a
/// second later, which is too late for many scrapes.
const BACKLOG: i32 = 4096;

/// The kernel's buffer for one connection in each direction, in bytes; the kernel doubles the value
/// (socket(7)). Without a limit, it holds up to 4 MiB of a response that the client does not read
/// (`tcp_wmem`). This memory counts towards a container's limit.
const SOCKET_BUFFER: usize = 64 << 10;

/// The number of connections up to which clients rank equal for eviction: two scrapers on one host,
/// or a browser.
const EQUAL_RANK_CONNECTIONS: usize = 4;

/// The time that an evicted connection may take to end before the next one is evicted. A task ends
/// at its next await, so this time passes only if a handler computes without one.
const EVICTION_DEADLINE: Duration = Duration::from_millis(50);

/// The pause after an accept error that is not about one connection. It is long enough to prevent a
/// busy loop and too short to delay a scrape noticeably.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The time without an error after which accepting counts as recovered. The first success is not
/// enough: at the limit of open files, errors and successes alternate and would fill the log.
const ACCEPT_RECOVERY: Duration = Duration::from_secs(60);

/// Limits on clients.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at the same time, over all listeners. At the limit, a new connection closes the
    /// one that has been idle longest, of the client that has the most.
    pub connections: usize,
    /// The part of the connections that one client may use. At this limit, a new connection closes
    /// that client's own longest idle one.
    pub share: AddressShare,
    /// The time from the start of the connection, or from the first byte of a later request, to the
    /// end of the request's head.
    pub header_timeout: Duration,
    /// The time between a response and the next request.
    pub idle_timeout: Duration,
    /// The time within which a client must read at least a part of the pending response.
    pub stall_timeout: Duration,
    /// The time within which a client must read a whole response that is not a stream. The response
    /// stays in memory until then.
    pub response_timeout: Duration,
    /// The time within which a stream must end.
    pub stream_timeout: Duration,
    /// The time from shutdown until unfinished responses are dropped.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 512,
            share: AddressShare::default(),
            header_timeout: Duration::from_secs(10),
            // Longer than any usual scrape interval: Prometheus keeps its connection between
            // scrapes.
            idle_timeout: Duration::from_secs(300),
            stall_timeout: Duration::from_secs(10),
            // Enough for megabytes over a slow line, and longer than Prometheus waits for a scrape.
            response_timeout: Duration::from_secs(60),
            // Longer than an event stream lasts.
            stream_timeout: Duration::from_secs(360),
            // A stopped exporter should exit within a second, including the end of the runtime.
            grace: Duration::from_millis(900),
        }
    }
}

/// Serves requests from `listeners` with `handler`, until `shutdown` resolves.
///
/// The handler gets requests without their bodies. It responds to HEAD as to GET, and the server
/// drops the body. If the handler panics, that request gets a 500.
///
/// After `shutdown`, the server accepts no connections and closes idle ones. Responses under way
/// have `limits.grace` to finish. Errors of the listeners do not end the server. They are temporary
/// or appear in the log.
///
/// `tls_mode` is called when the client begins to send. The client may have waited until then, and
/// the configuration may have changed.
pub async fn serve<H, F>(
    listeners: Vec<TcpListener>,
    tls_mode: impl Fn() -> TlsMode + Send + Sync + 'static,
    handler: H,
    limits: Limits,
    notice: Notice,
    shutdown: impl Future<Output = ()>,
) where
    H: Fn(Client, Request<()>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    for listener in &listeners {
        // Without these settings the server works, but withstands floods less well. All of them can
        // be set on a socket from systemd.
        if let Err(error) = prepare(listener) {
            debug!(%error, "cannot set the limits of a listener");
        }
    }
    let server = Arc::new(Server { handler, tls_mode: Box::new(tls_mode), limits, notice: notice.clone() });
    let (stop, stopping) = watch::channel(());
    let mut connections = Connections::new(limits.connections, limits.share, notice);
    let mut trouble = AcceptErrors::default();
    let mut waiting = None;
    let mut turn = 0;
    let mut shutdown = pin!(shutdown);
    loop {
        select! {
            // The order matters: connections that end make room for new ones, and a flood of
            // connections cannot delay the shutdown.
            biased;
            () = &mut shutdown => break,
            true = connections.ended() => trouble.room(),
            accepted = accept(&listeners, turn, trouble.pause), if waiting.is_none() => {
                turn = turn.wrapping_add(1);
                match accepted {
                    Ok(accepted) => {
                        trouble.success(Instant::now());
                        connections.make_room(accepted.1.ip().into());
                        // Disables Nagle's algorithm: a response is written as a whole, so delaying
                        // its last packet gains nothing. This fails only if the connection is lost,
                        // and its first read detects that.
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
            () = sleep(EVICTION_DEADLINE), if waiting.is_some() => connections.close_longest_idle(),
        }
        if let Some((stream, peer)) = waiting.take_if(|_| !connections.is_full()) {
            let activity = Arc::new(Activity::new());
            let task = connection(stream, peer, server.clone(), activity.clone(), stopping.clone());
            connections.open(task, peer, activity);
        }
    }
    drop((listeners, waiting, stop));
    // Dropping the table after the grace period aborts the remaining tasks. They are not awaited,
    // because a task may never reach an await.
    let _ = tokio::time::timeout(limits.grace, async { while connections.ended().await {} }).await;
}

/// Sets the listener's kernel limits. Accepted connections inherit the buffer sizes.
fn prepare(listener: &TcpListener) -> rustix::io::Result<()> {
    sockopt::set_socket_send_buffer_size(listener, SOCKET_BUFFER)?;
    sockopt::set_socket_recv_buffer_size(listener, SOCKET_BUFFER)?;
    // The socket already listens, so this only changes the backlog.
    rustix::net::listen(listener, BACKLOG)
}

/// Accepts the next connection of any listener. Each `turn` starts with another listener. Waits for
/// the end of `pause` first.
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

/// Tracks accept errors. Logs once when they begin and once when they end.
#[derive(Default)]
struct AcceptErrors {
    /// The time of the last error. `None` if there is no trouble.
    last: Option<Instant>,
    /// True if the last attempt failed.
    failing: bool,
    /// The time of the next attempt.
    pause: Option<Instant>,
    /// True if the end of a connection ends the pause early.
    until_room: bool,
}

impl AcceptErrors {
    /// Records an error. Returns true if closing a connection would help.
    fn failure(&mut self, error: &io::Error, now: Instant) -> bool {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
        // Linux reports errors of the new connection here (accept(2)). They concern one client
        // only.
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
        // The end of a connection frees the exhausted resource. If the next attempt fails too,
        // another process takes what we free. Closing more connections would not help then.
        self.until_room = exhausted && !self.failing;
        self.failing = true;
        self.last = Some(now);
        exhausted
    }

    /// Records that a connection has ended.
    fn room(&mut self) {
        if self.until_room {
            self.pause = None;
        }
    }

    /// Records a success.
    fn success(&mut self, now: Instant) {
        self.failing = false;
        self.pause = None;
        if self.last.is_some_and(|last| now.duration_since(last) >= ACCEPT_RECOVERY) {
            self.last = None;
            info!("accepting connections again");
        }
    }
}

/// The open connections. Each is a task.
struct Connections {
    tasks: JoinSet<()>,
    /// One entry for each task of `tasks`, until [`Connections::ended`] returns its end.
    open: HashMap<Id, OpenConnection>,
    /// The number of connections of each client, without evicted ones.
    by: HashMap<Client, usize>,
    limit: usize,
    /// The largest number of connections for one client.
    each: usize,
    notice: Notice,
}

struct OpenConnection {
    peer: SocketAddr,
    activity: Arc<Activity>,
    /// `None` if the connection was evicted and its task has not ended yet.
    abort: Option<AbortHandle>,
}

impl OpenConnection {
    fn client(&self) -> Client {
        self.peer.ip().into()
    }
}

impl Connections {
    fn new(limit: usize, share: AddressShare, notice: Notice) -> Self {
        let limit = limit.max(1);
        Connections {
            tasks: JoinSet::new(),
            open: HashMap::new(),
            by: HashMap::new(),
            limit,
            each: share.of(limit),
            notice,
        }
    }

    fn is_full(&self) -> bool {
        self.open.len() >= self.limit
    }

    fn open(&mut self, task: impl Future<Output = ()> + Send + 'static, peer: SocketAddr, activity: Arc<Activity>) {
        let abort = self.tasks.spawn(task);
        let open = OpenConnection { peer, activity, abort: Some(abort.clone()) };
        *self.by.entry(open.client()).or_default() += 1;
        self.open.insert(abort.id(), open);
    }

    /// Evicts a connection if this client has its share or the table is full. In the first case it
    /// is the client's own, otherwise one of the client that has the most.
    fn make_room(&mut self, client: Client) {
        if self.by.get(&client).is_some_and(|own| *own >= self.each) {
            self.close_longest_idle_of(client);
        } else if self.is_full() {
            self.close_longest_idle();
        }
    }

    /// Records that a client has one connection less.
    fn leave(&mut self, client: Client) {
        if let Some(own) = self.by.get_mut(&client) {
            *own -= 1;
            if *own == 0 {
                self.by.remove(&client);
            }
        }
    }

    /// Waits for the next connection to end. Returns false if there is none. Cancel safe.
    async fn ended(&mut self) -> bool {
        let Some(ended) = self.tasks.join_next_with_id().await else { return false };
        let id = match &ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        if let Some(open) = self.open.remove(&id)
            && open.abort.is_some()
        {
            self.leave(open.client());
        }
        if let Err(Ok(panic)) = ended.map_err(JoinError::try_into_panic) {
            error!(panic = panic_message(&*panic), "a connection's task panicked");
        }
        true
    }

    /// Evicts a connection of the client that has the most.
    fn close_longest_idle(&mut self) {
        self.close(|_| true);
    }

    /// Evicts a connection of this client.
    fn close_longest_idle_of(&mut self, client: Client) {
        self.close(|open| open.client() == client);
    }

    /// Evicts one of the connections that `is_one` selects. The client with the most connections
    /// comes first, then the connection whose last byte in either direction is oldest. A connection
    /// whose request is being served is evicted only if there is no other one, because its client
    /// can only wait.
    ///
    /// A full search is acceptable, because there are 512 connections and evictions are rare. A
    /// sorted structure would add cost to every read and write of every connection. The task is
    /// aborted instead of being asked to end, because the client may be one that does not read.
    fn close(&mut self, is_one: impl Fn(&OpenConnection) -> bool) {
        let candidates = self.open.values_mut().filter(|open| open.abort.is_some() && is_one(open));
        let rank = |open: &&mut OpenConnection| {
            let own = self.by.get(&open.client()).copied().unwrap_or_default();
            let state = open.activity.lock();
            (Reverse(own.max(EQUAL_RANK_CONNECTIONS)), state.is_working(), state.last)
        };
        let Some(longest) = candidates.min_by_key(rank) else { return };
        let (peer, abort) = (longest.peer.ip(), longest.abort.take());
        self.leave(peer.into());
        self.notice.closed(Closed::Evicted, peer.to_canonical());
        abort.inspect(AbortHandle::abort);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_told_once() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let exhausted = io::Error::from(Errno::MFILE);
        let mut trouble = AcceptErrors::default();

        assert!(!trouble.failure(&Errno::CONNABORTED.into(), start), "the client's own");
        assert_eq!((trouble.last, trouble.pause), (None, None));

        // The end of a connection frees what was exhausted.
        assert!(trouble.failure(&exhausted, start));
        assert_eq!(trouble.pause, Some(start + ACCEPT_PAUSE));
        trouble.room();
        assert_eq!(trouble.pause, None);
        // The attempt failed again, so the pause is not cut short.
        assert!(trouble.failure(&exhausted, start));
        trouble.room();
        assert_eq!(trouble.pause, Some(start + ACCEPT_PAUSE));

        // Alternating errors and successes are one trouble, until a minute has passed without an
        // error.
        trouble.success(at(1));
        assert_eq!((trouble.last, trouble.pause), (Some(start), None));
        trouble.failure(&exhausted, at(30));
        trouble.success(at(61));
        assert!(trouble.last.is_some());
        trouble.success(at(90));
        assert!(trouble.last.is_none());

        // An error that closing a connection does not fix.
        assert!(!trouble.failure(&Errno::INVAL.into(), at(100)));
        trouble.room();
        assert_eq!(trouble.pause, Some(at(100) + ACCEPT_PAUSE));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_end_is_not_waited_for() {
        let peer = SocketAddr::from(([192, 0, 2, 1], 1));
        let whole = "100".parse().unwrap();
        let mut connections = Connections::new(2, whole, Notice::default());
        assert!(!connections.ended().await);
        for _ in 0..2 {
            connections.open(std::future::pending(), peer, Arc::new(Activity::new()));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!(connections.is_full());
        connections.close_longest_idle();
        connections.close_longest_idle();
        // Both were evicted, and there is no other one.
        connections.close_longest_idle();
        assert!(connections.ended().await && connections.ended().await && !connections.ended().await);
        assert!(!connections.is_full());

        let (asking, silent) = (Arc::new(Activity::new()), Arc::new(Activity::new()));
        connections.open(std::future::pending(), peer, asking.clone());
        let _exchange = asking.exchange();
        tokio::time::advance(Duration::from_secs(1)).await;
        connections.open(std::future::pending(), peer, silent);
        connections.close_longest_idle();
        assert!(connections.ended().await);
        // The connection whose request is being served is still there.
        assert!(connections.open.values().all(|open| Arc::ptr_eq(&open.activity, &asking)));
        connections.close_longest_idle();
        assert!(connections.ended().await && connections.open.is_empty());

        connections.open(async { panic!("told to") }, peer, Arc::new(Activity::new()));
        assert!(connections.ended().await && connections.open.is_empty());
    }
}
