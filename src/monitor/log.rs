//! The log lines of path events, modelled on those of oVirt's host agent. Their number is limited
//! for a path that flaps.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use crate::event::{Event, EventType};
use crate::source::Error;
use crate::topology::{Device, LossReason, LostDevice, PathState};

/// The most lines of one map in one [`LOG_WINDOW`]. A map whose eight paths fail and come back
/// needs sixteen. A storm of ten thousand events per second would drown the log that has to report
/// it.
const LINES_PER_WINDOW: u32 = 20;
const LOG_WINDOW: Duration = Duration::from_secs(10);

/// Writes the lines, and counts the ones that it leaves out.
#[derive(Debug, Default)]
pub(crate) struct PathLog {
    windows: HashMap<Arc<str>, Window>,
}

#[derive(Debug)]
struct Window {
    name: Arc<str>,
    ends: Instant,
    lines: u32,
    left_out: u64,
    /// The number of valid paths after the last event.
    valid_paths: Option<u64>,
}

impl PathLog {
    /// Logs an event. `paths` is the number of the device's members.
    pub(crate) fn write(&mut self, event: &Event, paths: usize, now: Instant) {
        let (wwid, name) = (event.wwid.clone().unwrap_or_default(), event.name.clone().unwrap_or_default());
        let window = self.windows.entry(wwid).or_insert_with(|| Window {
            name,
            ends: now + LOG_WINDOW,
            lines: 0,
            left_out: 0,
            valid_paths: None,
        });
        window.valid_paths = event.valid_paths;
        window.lines += 1;
        if window.lines > LINES_PER_WINDOW {
            window.left_out += 1;
            return;
        }
        write(event, paths);
    }

    /// Returns when the next window ends.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.windows.values().map(|window| window.ends).min()
    }

    /// Closes the windows that have ended, and logs how many lines they left out.
    pub(crate) fn look_at_clock(&mut self, now: Instant) {
        self.windows.retain(|wwid, window| {
            if window.ends > now {
                return true;
            }
            if window.left_out > 0 {
                let (wwid, name, events) = (&**wwid, &*window.name, window.left_out);
                let left = window.valid_paths.map(left).unwrap_or_default();
                warn!(wwid, name, events, left, "too many path events: the last ones were not logged");
            }
            false
        });
    }
}

/// Describes in words how many valid paths a device has left.
pub(crate) fn left(valid_paths: u64) -> String {
    match valid_paths {
        0 => "no valid path is left".to_owned(),
        1 => "1 valid path is left".to_owned(),
        more => format!("{more} valid paths are left"),
    }
}

/// Logs that a device has no valid path although none of its paths failed just now.
pub(crate) fn no_valid_path(device: &Device, found: &str) {
    let (wwid, name, paths) = (&*device.wwid, &*device.name, device.paths.len());
    warn!(wwid, name, paths, left = left(0), found, "device without valid path");
}

pub(crate) fn lost(device: &LostDevice) {
    let (wwid, name, reason) = (&*device.wwid, &*device.name, device.reason.as_str());
    match device.reason {
        LossReason::NoValidPath => {
            warn!(wwid, name, reason, "device lost: its paths failed, then its disks disappeared")
        }
        LossReason::InUse => warn!(wwid, name, reason, "device lost: it disappeared while it was in use"),
        LossReason::NotBackAfterBoot => {
            warn!(wwid, name, reason, "device lost: it was in use before this boot and did not come back");
        }
    }
}

pub(crate) fn recovered() {
    info!("recovered: no multipath device is in trouble any more");
}

/// Problems that occur again and again. Each is logged when it changes.
#[derive(Debug, Default)]
pub(crate) struct LoggedOnce {
    interfaces: Option<Error>,
    event_poll: Option<Error>,
}

impl LoggedOnce {
    /// Logs that device mapper's event poll cannot be used. Uevents and re-reads show changes then,
    /// later.
    pub(crate) fn event_poll(&mut self, error: &Error) {
        if self.event_poll.replace(error.clone()).as_ref() == Some(error) {
            return;
        }
        if error.is_refusal() {
            // The ioctls are refused for the same reason, and another warning reports that.
            debug!(%error, "device mapper's event poll cannot be used");
        } else {
            let missing = "only uevents and re-reads show changes of maps";
            warn!(%error, missing, "device mapper's event poll cannot be used");
        }
    }

    /// Logs that the kernel does not list the addresses of interfaces now.
    pub(crate) fn interfaces(&mut self, error: &Error) {
        if self.interfaces.replace(error.clone()).as_ref() != Some(error) {
            let missing = "initiator ports of new sessions and controllers may be missing";
            warn!(%error, missing, "network interfaces cannot be listed");
        }
    }
}

/// Logs the failures of a device that is first seen. No event reports them.
pub(crate) fn found(device: &Device) {
    let counts = device.counts();
    let (wwid, name, valid_paths) = (&*device.wwid, &*device.name, counts.valid as u64);
    let (left, found) = (left(valid_paths), "at start");
    for path in device.paths.iter().filter(|path| path.state == PathState::Failed) {
        let devno = path.devno.map(|devno| devno.to_string()).unwrap_or_default();
        warn!(wwid, name, path = &*path.name, devno, valid_paths, left, found, "path failed");
    }
    if counts.valid == 0 && counts.failed == 0 {
        no_valid_path(device, found);
    }
}

fn write(event: &Event, paths: usize) {
    let (wwid, name) = (event.wwid.as_deref().unwrap_or_default(), event.name.as_deref().unwrap_or_default());
    let path = event.path.as_deref().unwrap_or_default();
    let devno = event.devno.map(|devno| devno.to_string()).unwrap_or_default();
    let Some(valid_paths) = event.valid_paths else {
        // The event is about a map that no reading has shown yet, and the kernel gives no number of
        // paths.
        return warn!(wwid, name, path, devno, "path event for an unknown map");
    };
    match event.kind {
        EventType::PathFailed => {
            let left = left(valid_paths);
            warn!(wwid, name, path, devno, valid_paths, left, "path failed");
        }
        EventType::PathReinstated => {
            let left = match usize::try_from(valid_paths) {
                Ok(valid) if valid >= paths && paths > 0 => "all paths are valid".to_owned(),
                Ok(valid) if valid > paths => format!("{valid} paths are valid"),
                _ => format!("{valid_paths} of {paths} paths are valid"),
            };
            info!(wwid, name, path, devno, valid_paths, left, "path reinstated");
        }
        EventType::DeviceAdded => info!(wwid, name, valid_paths, "device added"),
        EventType::DeviceRemoved => info!(wwid, name, valid_paths, "device removed"),
        EventType::PathAdded => info!(wwid, name, path, devno, valid_paths, "path added"),
        EventType::PathRemoved => info!(wwid, name, path, devno, valid_paths, "path removed"),
        // These have log lines of their own.
        EventType::DeviceLost | EventType::Recovered => {}
    }
}
