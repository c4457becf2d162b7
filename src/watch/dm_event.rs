//! Device mapper's event poll (`DM_DEV_ARM_POLL`, Linux 4.13 and later).
//!
//! It wakes on path failures and reinstatements, on path group changes, and when a map is created,
//! removed or renamed. It does not wake on suspend. Each arming is good for one wake-up. So the
//! watcher arms first and looks at the list of maps afterwards: a change in between wakes it again.

use std::io;

use tokio::sync::mpsc;

use super::poll::readable;
use super::{MonitorEnded, PULSE, Wake, Watcher, send, spawn};
use crate::privileges::Privileged;
use crate::source::Error;
use crate::source::device_mapper::{CONTROL_FILE, Control};

/// Starts the watcher's thread.
///
/// # Errors
/// If the thread cannot be started.
pub fn watch(wakes: mpsc::Sender<Wake>, privileged: &Privileged) -> io::Result<()> {
    spawn(privileged, Watcher::DeviceMapper, "dm-event", wakes, run)
}

fn run(wakes: &mpsc::Sender<Wake>) -> Result<MonitorEnded, Error> {
    let failed = |cause: io::Error| Error::io(CONTROL_FILE, &cause);
    let mut control = Control::open().map_err(failed)?;
    control.arm_poll().map_err(failed)?;
    if send(wakes, Wake::Watching(Watcher::DeviceMapper)).is_err() {
        return Ok(MonitorEnded);
    }
    loop {
        if readable(&control, PULSE).map_err(failed)? {
            control.arm_poll().map_err(failed)?;
            if send(wakes, Wake::DeviceMapper).is_err() {
                return Ok(MonitorEnded);
            }
        } else if wakes.is_closed() {
            return Ok(MonitorEnded);
        }
    }
}
