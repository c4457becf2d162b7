//! One source's reads, away from the loop: one at a time, each with a deadline.
//!
//! A read in the kernel cannot be called off. One that takes longer than its deadline is given up for the present (the
//! source counts as down, its last reading stays), and its result is still taken when it comes.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};
use std::{io, thread};

use tokio::sync::mpsc;

use crate::source::Error;

/// The way to one source and back.
pub struct Lane<Request, Reply> {
    hand_over: Box<dyn Fn(Request) + Send>,
    replies: mpsc::UnboundedReceiver<Result<Reply, Error>>,
    asked: Option<Instant>,
    late: bool,
    deadline: Duration,
}

impl<Request: Send + 'static, Reply: Send + 'static> Lane<Request, Reply> {
    /// Reads that block, on a thread of their own.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn on_thread(
        name: &'static str,
        deadline: Duration,
        mut read: impl FnMut(Request) -> Result<Reply, Error> + Send + 'static,
    ) -> io::Result<Self> {
        let (requests, inbox) = std::sync::mpsc::channel();
        let (outbox, replies) = mpsc::unbounded_channel();
        let work = move || {
            for request in inbox {
                // A reader that panics has a bug; the others must not go down with it.
                let reply = catch_unwind(AssertUnwindSafe(|| read(request)))
                    .unwrap_or_else(|_| Err(Error::new(name, "the reader panicked")));
                if outbox.send(reply).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name(name.to_owned()).spawn(work)?;
        // The thread ends only after this lane, so there is somebody to take the request.
        let hand_over = Box::new(move |request| drop(requests.send(request)));
        Ok(Lane { hand_over, replies, asked: None, late: false, deadline })
    }

    /// Reads that wait for a peer, each in a task.
    pub fn on_tasks<F>(deadline: Duration, read: impl Fn(Request) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<Reply, Error>> + Send + 'static,
    {
        let (outbox, replies) = mpsc::unbounded_channel();
        let hand_over = Box::new(move |request| {
            let (reply, outbox) = (read(request), outbox.clone());
            tokio::spawn(async move { drop(outbox.send(reply.await)) });
        });
        Lane { hand_over, replies, asked: None, late: false, deadline }
    }

    /// Whether a read is under way.
    pub fn busy(&self) -> bool {
        self.asked.is_some()
    }

    /// Starts a read. Only when not [`busy`](Lane::busy).
    pub fn ask(&mut self, request: Request) {
        debug_assert!(!self.busy());
        self.asked = Some(Instant::now());
        (self.hand_over)(request);
    }

    /// The reply, and when it was asked for; waits for ever while nothing is asked.
    pub async fn reply(&mut self) -> (Result<Reply, Error>, Instant) {
        let (reply, asked) = match self.asked {
            Some(asked) => (self.replies.recv().await, asked),
            None => std::future::pending().await,
        };
        (self.asked, self.late) = (None, false);
        (reply.unwrap_or_else(|| Err(Error::new("reader", "has ended"))), asked)
    }

    /// When the read under way was asked for.
    pub fn asked(&self) -> Option<Instant> {
        self.asked
    }

    /// When the read under way will be late; `None` once that has been noticed.
    pub fn late_at(&self) -> Option<Instant> {
        self.asked.filter(|_| !self.late).map(|asked| asked + self.deadline)
    }

    /// Notices that the read under way is late: `true` once.
    pub fn turns_late(&mut self, now: Instant) -> bool {
        let turns = self.late_at().is_some_and(|late| late <= now);
        self.late |= turns;
        turns
    }

    /// Whether a read is under way that is not late.
    pub fn in_time(&self) -> bool {
        self.busy() && !self.late
    }
}
