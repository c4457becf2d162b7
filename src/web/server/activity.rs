//! The activity of a connection, its deadlines, and the stream that records the activity.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};

use super::Limits;

/// If the server closes a connection while the client sends, it continues to read for this time and
/// this number of bytes. Closing at once would make the kernel respond to the remaining bytes with
/// a reset. A reset can overtake our response (RFC 9112, 9.6).
pub(crate) const LINGER_TIME: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1024 * 1024;

/// The current phase of a connection, and when it began.
///
/// The parts of the connection's task share it, and the table reads `last`. A std mutex suffices:
/// it is held for a few loads and stores, never across an await.
pub(crate) struct Activity(Mutex<ActivityState>);

pub(crate) struct ActivityState {
    /// The time of the last byte in either direction. Before the first one, the start of the
    /// connection.
    pub(crate) last: Instant,
    pub(crate) phase: Phase,
    /// Since when writes have been blocked because the client does not read. `None` after a
    /// successful write.
    blocked: Option<Instant>,
    /// True if bytes arrived that belong to no request with a response. The client may still be
    /// sending.
    pub(crate) amid_sending: bool,
    /// True if several exchanges can be under way at the same time, as in HTTP/2.
    multiplexed: bool,
    /// The number of exchanges under way.
    exchanges: usize,
    /// The number of the next exchange.
    next: u64,
    /// The exchanges whose responses are not completely written, with their deadlines. An HTTP/2
    /// client can read bytes all the time and leave one response untouched.
    owed: HashMap<u64, Instant>,
}

impl ActivityState {
    /// Returns true if a response is under way and does not wait for the client.
    pub(crate) fn is_working(&self) -> bool {
        matches!(self.phase, Phase::Response) && self.blocked.is_none()
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Phase {
    /// A request's head is arriving.
    Head { since: Instant },
    /// The handler works, or the client reads the response.
    Response,
    /// Between a response and the next request. TLS may still hold the end of the response.
    Idle { since: Instant },
    /// Our side has been shut down.
    Closing { since: Instant },
}

impl Activity {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Activity(Mutex::new(ActivityState {
            last: now,
            phase: Phase::Head { since: now },
            blocked: None,
            amid_sending: false,
            multiplexed: false,
            exchanges: 0,
            next: 0,
            owed: HashMap::new(),
        }))
    }

    /// Ignores poisoning: no code that holds the lock can leave the state half changed.
    pub(crate) fn lock(&self) -> MutexGuard<'_, ActivityState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Allows several exchanges at the same time from now on.
    pub(crate) fn multiplex(&self) {
        self.lock().multiplexed = true;
    }

    /// Begins an exchange, after a request's head has been read.
    pub(crate) fn exchange(self: &Arc<Self>) -> Exchange {
        let mut state = self.lock();
        state.phase = Phase::Response;
        state.amid_sending = false;
        state.exchanges += 1;
        state.next += 1;
        Exchange { activity: self.clone(), number: state.next }
    }

    fn read(&self) {
        let mut state = self.lock();
        state.last = Instant::now();
        state.amid_sending = true;
        // In HTTP/2, the bytes may not be a request: a client may send a ping.
        if let Phase::Idle { .. } = state.phase
            && !state.multiplexed
        {
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

    /// The current deadline, and true if a client that reaches it is too slow. An idle client is
    /// not.
    fn deadline(&self, limits: &Limits) -> Option<(Instant, bool)> {
        let state = self.lock();
        let (waiting, is_slow) = match (state.blocked, state.phase) {
            (Some(since), _) => (Some((since, limits.stall_timeout)), true),
            (None, Phase::Head { since }) => (Some((since, limits.header_timeout)), true),
            // The handler works, or the response has its own deadline.
            (None, Phase::Response) => (None, true),
            (None, Phase::Idle { since }) if state.multiplexed => (Some((since, limits.idle_timeout)), false),
            (None, Phase::Idle { .. }) => (Some((state.last, limits.idle_timeout)), false),
            (None, Phase::Closing { since }) => (Some((since, LINGER_TIME)), false),
        };
        let waiting = waiting.and_then(|(since, timeout)| since.checked_add(timeout));
        let owing = state.owed.values().min().map(|end| (*end, true));
        waiting.map(|end| (end, is_slow)).into_iter().chain(owing).min()
    }

    /// Resolves when the deadline has passed. Returns true if the client was too slow. The deadline
    /// moves while the connection works. Poll this in the task that moves the deadline, after it
    /// has moved.
    pub(crate) async fn overdue(&self, limits: &Limits) -> bool {
        let mut timer = pin!(sleep_until(Instant::now()));
        poll_fn(|cx| {
            let Some((deadline, is_slow)) = self.deadline(limits) else { return Poll::Pending };
            if timer.deadline() != deadline {
                timer.as_mut().reset(deadline);
            }
            timer.as_mut().poll(cx).map(|()| is_slow)
        })
        .await
    }
}

/// The time from the end of a request's head until its response is written or dropped.
pub(crate) struct Exchange {
    pub(crate) activity: Arc<Activity>,
    number: u64,
}

impl Exchange {
    /// Records a response, which the client must read within this time.
    pub(crate) fn owes(&self, within: Duration) {
        if let Some(end) = Instant::now().checked_add(within) {
            self.activity.lock().owed.insert(self.number, end);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let mut state = self.activity.lock();
        state.owed.remove(&self.number);
        state.exchanges -= 1;
        if state.exchanges == 0 && !matches!(state.phase, Phase::Closing { .. }) {
            state.phase = Phase::Idle { since: Instant::now() };
        }
    }
}

/// A stream that reports every byte to its [`Activity`], and reads for a while after its shutdown.
pub(crate) struct Metered<S> {
    stream: S,
    activity: Arc<Activity>,
    /// The number of bytes that were read after the shutdown.
    lingered: Option<usize>,
}

impl<S> Metered<S> {
    pub(crate) fn new(stream: S, activity: Arc<Activity>) -> Self {
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

    /// Passed on, because hyper queues chunks for writev if this is true, and copies them together
    /// otherwise.
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
                // The client has closed its side, or reset the connection. No response can be lost
                // any more.
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
