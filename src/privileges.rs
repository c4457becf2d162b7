//! Drops the capabilities in all threads except those that ask device mapper.
//!
//! Device mapper's ioctls need `CAP_SYS_ADMIN`, and its control file needs `CAP_DAC_READ_SEARCH`.
//! Each thread of a process has its own capabilities, and a new thread inherits those of the thread
//! that starts it (`capabilities(7)`). So one early thread, `capabilities`, keeps them until it has
//! started the two threads that ask device mapper. All other threads start without them, before any
//! client can connect. Only a capture lets all its threads keep them.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::{io, thread};

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// The capabilities that device mapper needs.
const DEVICE_MAPPER: CapabilitySet = CapabilitySet::SYS_ADMIN.union(CapabilitySet::DAC_READ_SEARCH);

/// Starts threads that have the capabilities of the process.
#[derive(Debug, Default)]
pub struct Privileged {
    /// The thread that keeps the capabilities; `None` if all threads have them.
    keeper: Option<Sender<Job>>,
}

type Work = Box<dyn FnOnce() + Send>;

/// A thread to start, and where to report that it has started.
struct Job {
    name: String,
    work: Work,
    started: Sender<io::Result<()>>,
}

impl Privileged {
    /// Drops the capabilities of this thread, and so of all threads that it starts later. Must be
    /// called before there are other threads.
    ///
    /// # Errors
    /// If the kernel refuses. Then all threads keep the capabilities.
    pub fn confine() -> Result<Self, (Self, io::Error)> {
        let all_keep = |error| (Privileged::default(), error);
        let held = capabilities(None).map_err(|error| all_keep(error.into()))?;
        // Without capabilities there is nothing to drop. The service may not even be allowed to
        // call `capset`.
        if !(held.permitted | held.inheritable).intersects(DEVICE_MAPPER) {
            return Ok(Privileged::default());
        }
        let (jobs, inbox) = channel();
        start("capabilities", Box::new(move || keep(&inbox))).map_err(all_keep)?;
        let fewer = CapabilitySets {
            effective: held.effective - DEVICE_MAPPER,
            permitted: held.permitted - DEVICE_MAPPER,
            inheritable: held.inheritable - DEVICE_MAPPER,
        };
        set_capabilities(None, fewer).map_err(|error| all_keep(error.into()))?;
        Ok(Privileged { keeper: Some(jobs) })
    }

    /// Starts a thread with the capabilities.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub(crate) fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let Some(keeper) = &self.keeper else { return start(name, Box::new(work)) };
        let (started, answer) = channel();
        let job = Job { name: name.to_owned(), work: Box::new(work), started };
        let has_ended = || io::Error::other("the thread that keeps the capabilities has ended");
        keeper.send(job).map_err(|_| has_ended())?;
        answer.recv().map_err(|_| has_ended())?
    }
}

/// Starts threads until all senders are gone.
fn keep(jobs: &Receiver<Job>) {
    for Job { name, work, started } in jobs {
        let _ = started.send(start(&name, work));
    }
}

fn start(name: &str, work: Work) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
}
