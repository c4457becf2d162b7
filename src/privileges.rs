//! Capabilities, and the two threads that keep them.
//!
//! Device mapper's ioctls want `CAP_SYS_ADMIN`, and its control file wants `CAP_DAC_READ_SEARCH`. Each thread of a process has
//! capabilities of its own, and a new thread has those of the one that started it (`capabilities(7)`). So the first thread of all
//! keeps them and starts the two that ask device mapper. All others are started without, before anybody can connect.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::{io, thread};

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// The capabilities that device mapper takes.
const DEVICE_MAPPER: CapabilitySet = CapabilitySet::SYS_ADMIN.union(CapabilitySet::DAC_READ_SEARCH);

/// Starts threads that keep the capabilities of the process.
#[derive(Debug, Default)]
pub struct Privileged {
    /// `None` if the calling thread has them, too.
    keeper: Option<Sender<Job>>,
}

type Work = Box<dyn FnOnce() + Send>;

/// A thread to start, and who waits to know whether it has been.
struct Job {
    name: String,
    work: Work,
    started: Sender<io::Result<()>>,
}

impl Privileged {
    /// Takes the capabilities from this thread, and so from all that it starts. Has to be called before there are others.
    ///
    /// # Errors
    /// If the kernel refuses. Then all threads keep them.
    pub fn confine() -> Result<Self, (Self, io::Error)> {
        let all_keep = |error| (Privileged::default(), error);
        let held = capabilities(None).map_err(|error| all_keep(error.into()))?;
        // A service without them may be forbidden to ask for fewer: `capset` is none of its system calls.
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
    /// If it cannot be started.
    pub fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let Some(keeper) = &self.keeper else { return start(name, Box::new(work)) };
        let (started, answer) = channel();
        let job = Job { name: name.to_owned(), work: Box::new(work), started };
        let has_ended = || io::Error::other("the thread that keeps the capabilities has ended");
        keeper.send(job).map_err(|_| has_ended())?;
        answer.recv().map_err(|_| has_ended())?
    }
}

/// Starts threads until nobody can ask for one any more.
fn keep(jobs: &Receiver<Job>) {
    for Job { name, work, started } in jobs {
        let _ = started.send(start(&name, work));
    }
}

fn start(name: &str, work: Work) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
}
