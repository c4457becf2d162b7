//! The watchers wake the monitor. Each one is a thread that waits in the kernel and sends plain
//! values.
//!
//! ```text
//! uevent.rs       kernel events: the device, and what only an event has (path, time, number)
//! dm_event.rs     device mapper's event poll: something changed, so look at the list of maps
//! mounts.rs       something was mounted or unmounted
//! path_events.rs  finds out once if the kernel sends path events at all
//! poll.rs         how the watchers wait
//! ```
//!
//! The first two are independent. Netlink can overflow, but the event poll cannot lose the fact
//! that something changed.

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

/// The message of a watcher to the monitor.
#[derive(Debug)]
pub enum Wake {
    /// The watcher has begun: from now on it misses nothing.
    Watching(Watcher),
    /// The kernel's queue of events was empty at this moment, and the watcher has sent all earlier
    /// events. The watcher sends this message at least once per [`PULSE`].
    Drained {
        /// The moment.
        at: Instant,
        /// How long it took to send them.
        took: Duration,
    },
    /// A kernel event of a block device.
    Uevent(Box<Uevent>),
    /// A SCSI device changed. This is its address, such as `6:0:0:1`.
    ScsiDevice(Arc<str>),
    /// The kernel dropped events because they were not read fast enough.
    Overflow,
    /// The kernel is built without path events, according to this file.
    NoPathEvents(PathBuf),
    /// Some device-mapper device changed.
    DeviceMapper,
    /// Something was mounted or unmounted.
    Mounts,
    /// The watcher cannot work, or has ended.
    Lost(Watcher, Error),
}

/// The watchers that report their start and their loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watcher {
    /// Kernel uevents.
    Uevent,
    /// Device mapper's event poll.
    DeviceMapper,
}

/// The longest time between two signs of life of a watcher.
pub const PULSE: Duration = Duration::from_secs(1);
/// How long a watcher waits after an error before it tries again.
const RETRY: Duration = Duration::from_secs(5);

/// The number of messages that may wait for the monitor. If the queue is full, the watcher waits
/// too, and the kernel's own buffer fills. So memory is bounded, and an overflow is noticed.
const QUEUE: usize = 4096;

/// Makes the channel that all watchers send on.
pub fn channel() -> (mpsc::Sender<Wake>, mpsc::Receiver<Wake>) {
    mpsc::channel(QUEUE)
}

/// The monitor has ended and receives no more messages.
struct MonitorEnded;

/// Runs a watcher until the monitor ends. The watcher restarts after an error, and even after a
/// panic: an event reader that dies unnoticed is the worst failure of an event-driven exporter.
fn spawn(
    threads: &Privileged,
    watcher: Watcher,
    name: &str,
    wakes: mpsc::Sender<Wake>,
    watch: impl Fn(&mpsc::Sender<Wake>) -> Result<MonitorEnded, Error> + Send + 'static,
) -> std::io::Result<()> {
    let run = move || {
        while !wakes.is_closed() {
            let lost = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| watch(&wakes))) {
                Ok(Ok(MonitorEnded)) => return,
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

fn send(wakes: &mpsc::Sender<Wake>, wake: Wake) -> Result<(), MonitorEnded> {
    wakes.blocking_send(wake).map_err(|_| MonitorEnded)
}
