//! Waits in the kernel until a file is readable or has changed.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Waits until the file is readable, at most for `timeout`. A signal ends the wait early.
pub fn readable(file: &impl AsFd, timeout: Duration) -> io::Result<bool> {
    wait(file, PollFlags::IN, timeout)
}

/// Waits in the same way until a file of procfs that can be polled has changed.
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
