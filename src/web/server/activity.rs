//! What a connection is doing, how long it may do so, and the stream that tells.

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

/// How long, and for how many bytes, a connection that ends amid what the client is sending goes on reading. Closing at
/// once would make the kernel answer the rest with a reset, and a reset can overtake our answer (RFC 9112, 9.6).
pub const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1024 * 1024;

/// What a connection is doing, and since when.
///
/// Shared between the parts of the connection's own task, and with the table, which looks at `last`. A std mutex: it is
/// held for a few loads and stores, never across an await.
pub struct Activity(Mutex<State>);

pub struct State {
    /// The last byte in either direction; before the first one, the connection itself.
    pub last: Instant,
    pub phase: Phase,
    /// When a write first found the client not reading, since the last one that went through.
    blocked: Option<Instant>,
    /// Whether bytes came that belong to no request answered or to be answered: the client may be sending still.
    pub amid_sending: bool,
    /// Whether several turns can be under way at once, as in HTTP/2.
    multiplexed: bool,
    /// How many are.
    turns: usize,
    /// The number of the next.
    next: u64,
    /// The turns whose answers are not wholly written, and by when they have to be. In HTTP/2 a client can take bytes all
    /// the time and leave one answer untouched.
    owed: HashMap<u64, Instant>,
}

impl State {
    /// Whether there is an answer under way, and it is not the client that it waits for.
    pub fn is_working(&self) -> bool {
        matches!(self.phase, Phase::Answer) && self.blocked.is_none()
    }
}

#[derive(Clone, Copy, Debug)]
pub enum Phase {
    /// The request's head is under way.
    Head { since: Instant },
    /// The handler, or the client that reads the answer, has the word.
    Answer,
    /// Between an answer (the end of it may still be in the queue of TLS) and the next request.
    Idle { since: Instant },
    /// Our side is shut down.
    Closing { since: Instant },
}

impl Activity {
    pub fn new() -> Self {
        let now = Instant::now();
        Activity(Mutex::new(State {
            last: now,
            phase: Phase::Head { since: now },
            blocked: None,
            amid_sending: false,
            multiplexed: false,
            turns: 0,
            next: 0,
            owed: HashMap::new(),
        }))
    }

    /// The state, usable after a panic elsewhere: no code that holds it can leave it half changed.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on several turns can be under way at once.
    pub fn multiplex(&self) {
        self.lock().multiplexed = true;
    }

    /// Begins a turn, now that a request's head is read.
    pub fn turn(self: &Arc<Self>) -> Turn {
        let mut state = self.lock();
        state.phase = Phase::Answer;
        state.amid_sending = false;
        state.turns += 1;
        state.next += 1;
        Turn { activity: self.clone(), number: state.next }
    }

    fn read(&self) {
        let mut state = self.lock();
        state.last = Instant::now();
        state.amid_sending = true;
        // In HTTP/2 this may be anything: a client that pings has not begun to ask.
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

    /// When to give the client up, as things stand, and whether it is too slow: an idle one is not.
    fn deadline(&self, limits: &Limits) -> Option<(Instant, bool)> {
        let state = self.lock();
        let (waiting, is_slow) = match (state.blocked, state.phase) {
            (Some(since), _) => (Some((since, limits.stall_timeout)), true),
            (None, Phase::Head { since }) => (Some((since, limits.header_timeout)), true),
            // The handler works, or the answer has a deadline of its own.
            (None, Phase::Answer) => (None, true),
            (None, Phase::Idle { since }) if state.multiplexed => (Some((since, limits.idle_timeout)), false),
            (None, Phase::Idle { .. }) => (Some((state.last, limits.idle_timeout)), false),
            (None, Phase::Closing { since }) => (Some((since, LINGER)), false),
        };
        let waiting = waiting.and_then(|(since, timeout)| since.checked_add(timeout));
        let owing = state.owed.values().min().map(|end| (*end, true));
        waiting.map(|end| (end, is_slow)).into_iter().chain(owing).min()
    }

    /// Resolves once the deadline has passed, with whether the client was too slow. It moves while the connection works, so
    /// this belongs into the task that moves it, after what moves it.
    pub async fn overdue(&self, limits: &Limits) -> bool {
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

/// From the end of a request's head until its answer is written, however it ends.
pub struct Turn {
    pub activity: Arc<Activity>,
    number: u64,
}

impl Turn {
    /// Notes that there is an answer, which the client is to take within this time.
    pub fn owes(&self, within: Duration) {
        if let Some(end) = Instant::now().checked_add(within) {
            self.activity.lock().owed.insert(self.number, end);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.activity.lock();
        state.owed.remove(&self.number);
        state.turns -= 1;
        if state.turns == 0 && !matches!(state.phase, Phase::Closing { .. }) {
            state.phase = Phase::Idle { since: Instant::now() };
        }
    }
}

/// A stream that tells its [`Activity`] about every byte, and that reads on for a while after it was shut down.
pub struct Metered<S> {
    stream: S,
    activity: Arc<Activity>,
    /// Bytes read since it was shut down.
    lingered: Option<usize>,
}

impl<S> Metered<S> {
    pub fn new(stream: S, activity: Arc<Activity>) -> Self {
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
