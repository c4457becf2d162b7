//! What wakes us. Each watcher is a thread of its own that waits in the kernel and sends plain values.
//!
//! ```text
//! uevent.rs    kernel uevents: which device, and what only an event knows (which path, when, how often)
//! dm_event.rs  device mapper's event poll: something changed, look at the list for what
//! mounts.rs    something was mounted or unmounted
//! poll.rs      how they wait
//! ```
//!
//! The first two are independent: netlink can overflow, the event poll cannot lose the fact that something changed.

pub mod dm_event;
pub mod mounts;
pub mod path_events;
mod poll;
pub mod uevent;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::privileges::Privileged;
use crate::source::Error;
pub use uevent::{PathAction, PathEvent, Uevent};

/// What a watcher has to say.
#[derive(Debug)]
pub enum Wake {
    /// From now on nothing that happens is missed.
    Watching(Watcher),
    /// No uevent was waiting at this moment: all that had come have been sent. Comes at least every [`PULSE`].
    Drained {
        /// When.
        at: Instant,
        /// How long sending them took.
        took: Duration,
    },
    /// The kernel told of a block device.
    Uevent(Box<Uevent>),
    /// The kernel told that a SCSI device changed, by its address, `6:0:0:1`.
    ScsiDevice(Arc<str>),
    /// The kernel dropped uevents because they were not read fast enough.
    Overflow,
    /// The kernel is built without path events, by this file.
    NoPathEvents(PathBuf),
    /// Some device-mapper device changed.
    DeviceMapper,
    /// Something was mounted or unmounted.
    Mounts,
    /// The watcher cannot do its work, or has ended.
    Lost(Watcher, Error),
}

/// Who woke us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watcher {
    /// Kernel uevents.
    Uevent,
    /// Device mapper's event poll.
    DeviceMapper,
}

/// How long a watcher waits at most before it shows that it is alive.
pub const PULSE: Duration = Duration::from_secs(1);
/// How long after an error it tries again.
const RETRY: Duration = Duration::from_secs(5);

/// Wakes waiting for the monitor. Beyond this the watcher waits too, and the kernel's own buffer fills: bounded memory,
/// and an overflow is noticed.
const QUEUE: usize = 4096;

/// The channel that all watchers send on.
pub fn channel() -> (mpsc::Sender<Wake>, mpsc::Receiver<Wake>) {
    mpsc::channel(QUEUE)
}

/// The monitor has gone.
struct Closed;

/// Runs a watcher until nobody listens any more. It starts anew after an error, and even after a panic: an event reader
/// that dies in silence is the worst failure an event-driven exporter can have.
fn spawn(
    threads: &Privileged,
    watcher: Watcher,
    name: &str,
    wakes: mpsc::Sender<Wake>,
    watch: impl Fn(&mpsc::Sender<Wake>) -> Result<Closed, Error> + Send + 'static,
) -> std::io::Result<()> {
    let run = move || {
        while !wakes.is_closed() {
            let lost = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| watch(&wakes))) {
                Ok(Ok(Closed)) => return,
                Ok(Err(error)) => error,
                Err(_) => Error::new("watcher", "panicked"),
            };
            if wakes.blocking_send(Wake::Lost(watcher, lost)).is_err() {
                return;
            }
            thread::sleep(RETRY);
        }
    };
    threads.spawn(name, run)
}

fn send(wakes: &mpsc::Sender<Wake>, wake: Wake) -> Result<(), Closed> {
    wakes.blocking_send(wake).map_err(|_| Closed)
}
