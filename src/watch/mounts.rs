//! Changes of what is mounted.
//!
//! Everything is read too seldom to know whether a device was unmounted before it went. Without this watcher one that is unmounted and
//! taken away would seem to have gone while it was in use.

use std::path::Path;
use std::time::Duration;
use std::{io, thread};

use tokio::sync::mpsc;

use super::poll::changed;
use super::{Closed, PULSE, Wake, send};
use crate::source::block::mounts;

/// Where containers come and go, one wake stands for many changes.
const PAUSE: Duration = Duration::from_millis(100);

/// Starts the watcher's thread. Where there is nothing to be polled it ends at once, and mounts are as of the last resync.
///
/// # Errors
/// If the thread cannot be started.
pub fn watch(wakes: mpsc::Sender<Wake>, procfs: &Path) -> io::Result<()> {
    let procfs = procfs.to_owned();
    thread::Builder::new().name("mounts".to_owned()).spawn(move || run(&wakes, &procfs)).map(drop)
}

fn run(wakes: &mpsc::Sender<Wake>, procfs: &Path) -> io::Result<Closed> {
    let table = mounts::open(procfs)?;
    while !wakes.is_closed() {
        if changed(&table, PULSE)? {
            if send(wakes, Wake::Mounts).is_err() {
                break;
            }
            thread::sleep(PAUSE);
        }
    }
    Ok(Closed)
}
