//! Watches for mounts and unmounts.
//!
//! Resyncs are too rare to tell if a device was unmounted before it was removed. Without this
//! watcher, a device that is unmounted and then removed would seem to have disappeared while it was
//! in use.

use std::path::Path;
use std::time::Duration;
use std::{io, thread};

use tokio::sync::mpsc;

use super::poll::changed;
use super::{MonitorEnded, PULSE, Wake, send};
use crate::source::block::mounts;

/// The shortest time between two messages. Where containers start and stop all the time, one
/// message stands for many changes.
const PAUSE: Duration = Duration::from_millis(100);

/// Starts the watcher's thread. If the table of mounts cannot be polled, the thread ends at once,
/// and mounts are those of the last resync.
///
/// # Errors
/// If the thread cannot be started.
pub fn watch(wakes: mpsc::Sender<Wake>, procfs: &Path) -> io::Result<()> {
    let procfs = procfs.to_owned();
    thread::Builder::new().name("mounts".to_owned()).spawn(move || run(&wakes, &procfs)).map(drop)
}

fn run(wakes: &mpsc::Sender<Wake>, procfs: &Path) -> io::Result<MonitorEnded> {
    let table = mounts::open(procfs)?;
    while !wakes.is_closed() {
        if changed(&table, PULSE)? {
            if send(wakes, Wake::Mounts).is_err() {
                break;
            }
            thread::sleep(PAUSE);
        }
    }
    Ok(MonitorEnded)
}
