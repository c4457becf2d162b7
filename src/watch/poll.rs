//! Waits in the kernel for a file to have something to read, or to change.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Waits for the file to be readable, no longer than `timeout`. A signal ends the wait early.
pub fn readable(file: &impl AsFd, timeout: Duration) -> io::Result<bool> {
    wait(file, PollFlags::IN, timeout)
}

/// Waits for a file of procfs that can be polled to change, in the same way.
pub fn changed(file: &impl AsFd, timeout: Duration) -> io::Result<bool> {
    wait(file, PollFlags::PRI, timeout)
}

fn wait(file: &impl AsFd, event: PollFlags, timeout: Duration) -> io::Result<bool> {
    let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
    match poll(&mut [PollFd::new(file, event)], Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
