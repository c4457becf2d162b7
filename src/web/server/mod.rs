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
//!                                                            complaints.rs   which clients the log tells of
//! ```
//!
//! Not hyper-util's auto connection and graceful-shutdown helper, nor tower: they know neither eviction nor deadlines
//! per phase, which are most of what is here, and what they would replace is a dozen lines.

mod activity;
mod body;
mod complaints;
mod conversation;

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
use tokio::net::{TcpListener, TcpStream};
use tokio::select;
use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, error, info, warn};

use activity::Activity;
pub use body::Body;
use complaints::Complaints;
use conversation::{Server, connection, panic_message};

use crate::web_config::Transport;

/// How many connections the kernel may hold for us until we accept them, as far as net.core.somaxconn lets it. The 128 of
/// Rust's `bind` are full after 3 ms of a flood, and whoever is then turned away tries again a second later: too late
/// for many a scrape.
const BACKLOG: i32 = 4096;

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
    /// For a client to take a whole answer, unless it is a stream: until then it is kept in memory for it.
    pub answer_timeout: Duration,
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
            // Megabytes over a slow line. Longer than Prometheus waits for a scrape.
            answer_timeout: Duration::from_secs(60),
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
    shutdown: impl Future<Output = ()>,
) where
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
    let server = Arc::new(Server { handler, transport: Box::new(transport), limits, complaints: Complaints::new() });
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
            let task = connection(stream, peer, server.clone(), activity.clone(), stopping.clone());
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

    /// Closes the connection whose last byte in either direction is longest ago, if any is left to close; one whose
    /// request we are working on only where there is no other. Its client can do nothing but wait, and a flood of
    /// connections would push it out before a slow hash or a large page is made.
    ///
    /// A look at each of them, because there are 512 and this is rare; an order kept up to date would cost every read
    /// and write of every connection instead. It is closed by aborting its task, not by asking: it may be just the
    /// client that does not listen.
    fn close_longest_idle(&mut self) {
        let candidates = self.open.values_mut().filter(|open| open.abort.is_some());
        let rank = |open: &&mut Open| {
            let state = open.activity.lock();
            (state.is_working(), state.last)
        };
        if let Some(longest) = candidates.min_by_key(rank)
            && let Some(abort) = longest.abort.take()
        {
            debug!("closing the connection idle longest to make room");
            abort.abort();
        }
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

        let (asking, silent) = (Arc::new(Activity::new()), Arc::new(Activity::new()));
        connections.open(std::future::pending(), asking.clone());
        let _turn = asking.turn();
        tokio::time::advance(Duration::from_secs(1)).await;
        connections.open(std::future::pending(), silent);
        connections.close_longest_idle();
        assert!(connections.ended().await);
        // Who waits for us is still there.
        assert!(connections.open.values().all(|open| Arc::ptr_eq(&open.activity, &asking)));
        connections.close_longest_idle();
        assert!(connections.ended().await && connections.open.is_empty());

        connections.open(async { panic!("told to") }, Arc::new(Activity::new()));
        assert!(connections.ended().await && connections.open.is_empty());
    }
}
