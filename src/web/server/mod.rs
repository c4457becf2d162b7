//! The HTTP server, 1.1 and over TLS also 2: listeners and a handler in, answers out, and no client that can hold up another.
//!
//! [`serve`] accepts, and keeps the table of `Connections`. Each of them is one task, `connection`, which runs hyper
//! over a `Metered` stream. The stream, the requests (`Turn`) and the deadlines meet in the connection's
//! `Activity`: it says when a client has kept us waiting too long, and which connection has been idle longest, so that
//! the table can make room for a new one. A task never waits for another one's client.
//!
//! ```text
//! mod.rs            listeners, the table of connections      activity.rs     how long a client may keep us waiting
//! conversation.rs   one connection, its requests             body.rs         what answers are made of
//! handshake.rs      how TLS begins, or does not              notice.rs       what metrics and log tell of clients
//! ```
//!
//! Not hyper-util's auto connection and graceful-shutdown helper, nor tower: they know neither eviction nor deadlines
//! per phase, which are most of what is here, and what they would replace is a dozen lines.

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
pub use body::{Body, Rest};
pub use conversation::NoRefusal;
use conversation::{Server, connection, panic_message};
pub use notice::{Closed, Notice};

use crate::shares::{AddressShare, Client};
use crate::web_config::Transport;

/// How many connections the kernel may hold for us until we accept them, as far as net.core.somaxconn lets it. The 128 of
/// Rust's `bind` are full after 3 ms of a flood, and whoever is then turned away tries again a second later: too late
/// for many a scrape.
const BACKLOG: i32 = 4096;

/// The kernel may hold so much for one connection in each direction, in bytes. It counts twice as much (socket(7)). Without a
/// limit it holds up to 4 MiB of an answer that nobody reads (`tcp_wmem`), which a container's limit includes.
const SOCKET_BUFFER: usize = 64 << 10;

/// A client with so many connections has not more of them than others: two scrapers on one host, or a browser.
const FEW: usize = 4;

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
    /// Connections at once, over all listeners. One more closes the one that has been idle longest, of the client that has
    /// most.
    pub connections: usize,
    /// The part of them that one client may have. One more closes the one of its own that has been idle longest.
    pub share: AddressShare,
    /// From the connection, or from the first byte of a later request, to the end of the request's head.
    pub header_timeout: Duration,
    /// Between an answer and the next request.
    pub idle_timeout: Duration,
    /// For a client to take at least something of the answer that waits for it.
    pub stall_timeout: Duration,
    /// For a client to take a whole answer, unless it is a stream: until then it is kept in memory for it.
    pub answer_timeout: Duration,
    /// For a stream to end.
    pub stream_timeout: Duration,
    /// From shutdown until the answers not yet finished are dropped.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 512,
            share: AddressShare::default(),
            header_timeout: Duration::from_secs(10),
            // Longer than any scrape interval in use: Prometheus keeps its connection from one scrape to the next.
            idle_timeout: Duration::from_secs(300),
            stall_timeout: Duration::from_secs(10),
            // Megabytes over a slow line. Longer than Prometheus waits for a scrape.
            answer_timeout: Duration::from_secs(60),
            // Longer than the event streams are.
            stream_timeout: Duration::from_secs(360),
            // A stopped exporter should be gone within a second, the runtime's own end included.
            grace: Duration::from_millis(900),
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
///
/// Each connection is spoken to as `transport` says when its client begins to speak: until then it may have waited, and
/// what the answer rests on may have changed.
pub async fn serve<H, F>(
    listeners: Vec<TcpListener>,
    transport: impl Fn() -> Transport + Send + Sync + 'static,
    handler: H,
    limits: Limits,
    notice: Notice,
    shutdown: impl Future<Output = ()>,
) where
    H: Fn(Client, Request<()>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    for listener in &listeners {
        // Without these the server works as well, but for floods. Each is possible on a socket that systemd has made.
        if let Err(error) = prepare(listener) {
            debug!(%error, "cannot set the limits of a listener");
        }
    }
    let server = Arc::new(Server { handler, transport: Box::new(transport), limits, notice: notice.clone() });
    let (stop, stopping) = watch::channel(());
    let mut connections = Connections::new(limits.connections, limits.share, notice);
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
                        connections.make_room(accepted.1.ip().into());
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
            let task = connection(stream, peer, server.clone(), activity.clone(), stopping.clone());
            connections.open(task, peer, activity);
        }
    }
    drop((listeners, waiting, stop));
    // Dropping the table at the end of the grace aborts what is left. Not awaited: it might never come to an await.
    let _ = tokio::time::timeout(limits.grace, async { while connections.ended().await {} }).await;
}

/// Sets what the kernel may hold for each connection, which the connections take over from their listener.
fn prepare(listener: &TcpListener) -> rustix::io::Result<()> {
    sockopt::set_socket_send_buffer_size(listener, SOCKET_BUFFER)?;
    sockopt::set_socket_recv_buffer_size(listener, SOCKET_BUFFER)?;
    // Listening already, so this only changes the number.
    rustix::net::listen(listener, BACKLOG)
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
    /// How many connections each client has, without those that were told to end.
    by: HashMap<Client, usize>,
    limit: usize,
    /// The most that one client may have.
    each: usize,
    notice: Notice,
}

struct Open {
    peer: SocketAddr,
    activity: Arc<Activity>,
    /// None once it is used: the task was told to end and has not done so yet.
    abort: Option<AbortHandle>,
}

impl Open {
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
        let open = Open { peer, activity, abort: Some(abort.clone()) };
        *self.by.entry(open.client()).or_default() += 1;
        self.open.insert(abort.id(), open);
    }

    /// Closes a connection, if this client has its share or there is no place left: the client's own, or one of the client
    /// that has most.
    fn make_room(&mut self, client: Client) {
        if self.by.get(&client).is_some_and(|own| *own >= self.each) {
            self.close_longest_idle_of(client);
        } else if self.is_full() {
            self.close_longest_idle();
        }
    }

    /// Notes that a client has one connection less.
    fn leave(&mut self, client: Client) {
        if let Some(own) = self.by.get_mut(&client) {
            *own -= 1;
            if *own == 0 {
                self.by.remove(&client);
            }
        }
    }

    /// Waits for the next connection to end; false if there is none. Cancel safe.
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

    /// Closes a connection of the client that has most.
    fn close_longest_idle(&mut self) {
        self.close(|_| true);
    }

    /// Closes a connection of this client.
    fn close_longest_idle_of(&mut self, client: Client) {
        self.close(|open| open.client() == client);
    }

    /// Closes the connection, of these, whose client has most, and whose last byte in either direction is longest ago; one whose
    /// request we are working on only where there is no other. Its client can do nothing but wait.
    ///
    /// A look at each of them, because there are 512 and this is rare; an order kept up to date would cost every read
    /// and write of every connection instead. It is closed by aborting its task, not by asking: it may be just the
    /// client that does not listen.
    fn close(&mut self, is_one: impl Fn(&Open) -> bool) {
        let candidates = self.open.values_mut().filter(|open| open.abort.is_some() && is_one(open));
        let rank = |open: &&mut Open| {
            let own = self.by.get(&open.client()).copied().unwrap_or_default();
            let state = open.activity.lock();
            (Reverse(own.max(FEW)), state.is_working(), state.last)
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
        // Both were told, and there is none left to tell.
        connections.close_longest_idle();
        assert!(connections.ended().await && connections.ended().await && !connections.ended().await);
        assert!(!connections.is_full());

        let (asking, silent) = (Arc::new(Activity::new()), Arc::new(Activity::new()));
        connections.open(std::future::pending(), peer, asking.clone());
        let _turn = asking.turn();
        tokio::time::advance(Duration::from_secs(1)).await;
        connections.open(std::future::pending(), peer, silent);
        connections.close_longest_idle();
        assert!(connections.ended().await);
        // Who waits for us is still there.
        assert!(connections.open.values().all(|open| Arc::ptr_eq(&open.activity, &asking)));
        connections.close_longest_idle();
        assert!(connections.ended().await && connections.open.is_empty());

        connections.open(async { panic!("told to") }, peer, Arc::new(Activity::new()));
        assert!(connections.ended().await && connections.open.is_empty());
    }
}
