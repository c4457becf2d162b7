//! Waits in the kernel for a file to have something to read, or to change.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Waits for the file to be readable, no longer than `patience`. A signal ends the wait early.
pub fn readable(file: &impl AsFd, patience: Duration) -> io::Result<bool> {
    wait(file, PollFlags::IN, patience)
}

/// Waits for a file of procfs that can be polled to change, in the same way.
pub fn changed(file: &impl AsFd, patience: Duration) -> io::Result<bool> {
    wait(file, PollFlags::PRI, patience)
}

fn wait(file: &impl AsFd, event: PollFlags, patience: Duration) -> io::Result<bool> {
    let patience = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: patience.subsec_nanos().into() };
    match poll(&mut [PollFd::new(file, event)], Some(&patience)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
