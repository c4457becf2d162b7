//! Kernel uevents of block devices and SCSI devices, from the kernel's own multicast group.
//!
//! udev's group carries the same events later: udevd runs its rules first, for multipath paths a good part of a second
//! and more. The kernel's already holds every `DM_*` property (`drivers/md/dm-uevent.c`,
//! `Documentation/admin-guide/device-mapper/dm-uevent.rst`).
//!
//! Uevents of one map that are raised together arrive in reverse order of `DM_SEQNUM`: dm-uevent queues them on a list
//! and sends it from its head. Whoever wants the last state takes the highest number, not the last to come.
//!
//! A SCSI device tells what an array told it (`SDEV_UA`, `scsi_evt_emit` in `drivers/scsi/scsi_lib.c`): that there is
//! another LUN behind it, that its size or its ALUA state changed. The kernel has looked again before it tells.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use rustix::net::sockopt;
use tokio::sync::mpsc;
use udev::MonitorSocket;

use super::dm_event::readable;
use super::{Closed, Wake, Watcher, send, spawn};
use crate::source::device_mapper::UUID_PREFIX;
use crate::source::{Error, dm_name};
use crate::topology::DevNo;

/// What udevd itself asks for. It is a limit, not an allocation; without `CAP_NET_ADMIN` the kernel grants
/// `net.core.rmem_max` at most.
const RECEIVE_BUFFER: usize = 128 << 20;

/// A block device's uevent.
#[derive(Clone, Debug, PartialEq)]
pub struct Uevent {
    /// The kernel's number, ascending over all uevents.
    pub seqnum: u64,
    /// `add`, `change`, `remove`, …
    pub action: Arc<str>,
    /// Kernel name: `dm-3`, `sdb`.
    pub sysname: Arc<str>,
    /// Device number.
    pub devno: Option<DevNo>,
    /// Tells this device from an earlier one of the same number (Linux 5.15 and later).
    pub diskseq: Option<u64>,
    /// Somebody wrote to the device's `uevent` file (`udevadm trigger`): nothing has happened to it.
    pub synthetic: bool,
    /// Set if the event is about a path of a multipath map.
    pub path: Option<PathEvent>,
    /// When it was read, for measuring.
    pub received: Instant,
    /// When it was read, for showing.
    pub time: SystemTime,
}

/// What `drivers/md/dm-uevent.c` says of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathEvent {
    /// The map's WWID, from `DM_UUID`.
    pub wwid: Arc<str>,
    /// The map's name, `DM_NAME`.
    pub name: Arc<str>,
    /// What happened.
    pub action: PathAction,
    /// The path's device number, `DM_PATH`.
    pub path: DevNo,
    /// Order among the map's own events, `DM_SEQNUM`: starts at 1 when the map is created.
    pub dm_seqnum: u64,
    /// Valid paths left, `DM_NR_VALID_PATHS`.
    pub valid_paths: Option<u64>,
}

/// What can happen to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathAction {
    /// The kernel sends no more I/O to it.
    Failed,
    /// The kernel sends I/O to it again.
    Reinstated,
}

/// Starts the watcher's thread.
///
/// # Errors
/// If the thread cannot be started.
pub fn watch(wakes: mpsc::Sender<Wake>) -> io::Result<()> {
    spawn(Watcher::Uevent, "uevent", wakes, run)
}

fn run(wakes: &mpsc::Sender<Wake>) -> Result<Closed, Error> {
    let failed = |cause| Error::new("kernel uevents", cause);
    let socket = subscribe().map_err(failed)?;
    if send(wakes, Wake::Watching(Watcher::Uevent)).is_err() {
        return Ok(Closed);
    }
    loop {
        readable(&socket.as_fd()).map_err(failed)?;
        let woken = Instant::now();
        let Ok(at) = drain(&socket, wakes).map_err(failed)? else { return Ok(Closed) };
        if send(wakes, Wake::Drained { at, took: woken.elapsed() }).is_err() {
            return Ok(Closed);
        }
    }
}

fn subscribe() -> io::Result<MonitorSocket> {
    let socket = udev::MonitorBuilder::new_kernel()?
        .match_subsystem("block")?
        .match_subsystem_devtype("scsi", "scsi_device")?
        .listen()?;
    if sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER).is_err() {
        sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER)?;
    }
    Ok(socket)
}

/// Sends on all events that are waiting. Gives a moment at which none was.
fn drain(socket: &MonitorSocket, wakes: &mpsc::Sender<Wake>) -> io::Result<Result<Instant, Closed>> {
    loop {
        let mut looked = Instant::now();
        for event in socket.iter() {
            let wake = match event.subsystem() {
                Some(subsystem) if subsystem == "scsi" => Wake::ScsiDevice(event.sysname().to_string_lossy().into()),
                _ => Wake::Uevent(Box::new(translate(&event))),
            };
            if let Err(closed) = send(wakes, wake) {
                return Ok(Err(closed));
            }
            looked = Instant::now();
        }
        // The iterator ends on whatever is no message. libudev leaves the reason in errno, and nothing has run since.
        let error = io::Error::last_os_error();
        match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
            Some(rustix::io::Errno::NOBUFS) => {
                if let Err(closed) = send(wakes, Wake::Overflow) {
                    return Ok(Err(closed));
                }
            }
            // Nothing more, or one message that was none: the next poll tells.
            Some(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR | rustix::io::Errno::INVAL) | None => {
                return Ok(Ok(looked));
            }
            Some(_) => return Err(error),
        }
    }
}

/// Turns libudev's event into a plain value. Nothing of udev goes further than this.
fn translate(event: &udev::Event) -> Uevent {
    let text = |name: &str| event.property_value(name).map(OsStr::to_string_lossy);
    let number = |name: &str| text(name).and_then(|text| text.parse::<u64>().ok());
    let devno = match (number("MAJOR"), number("MINOR")) {
        (Some(major), Some(minor)) => {
            major.try_into().ok().zip(minor.try_into().ok()).map(|(major, minor)| DevNo { major, minor })
        }
        _ => None,
    };
    Uevent {
        seqnum: event.sequence_number(),
        action: text("ACTION").unwrap_or_default().into(),
        sysname: event.sysname().to_string_lossy().into(),
        devno,
        diskseq: number("DISKSEQ"),
        synthetic: text("SYNTH_UUID").is_some(),
        path: path_event(&text),
        received: Instant::now(),
        time: SystemTime::now(),
    }
}

fn path_event<'a>(property: &impl Fn(&str) -> Option<std::borrow::Cow<'a, str>>) -> Option<PathEvent> {
    let action = match property("DM_ACTION")?.as_ref() {
        "PATH_FAILED" => PathAction::Failed,
        "PATH_REINSTATED" => PathAction::Reinstated,
        _ => return None,
    };
    Some(PathEvent {
        wwid: property("DM_UUID")?.strip_prefix(UUID_PREFIX)?.into(),
        name: dm_name(property("DM_NAME")?.as_bytes()).into(),
        action,
        path: property("DM_PATH")?.parse().ok()?,
        dm_seqnum: property("DM_SEQNUM")?.parse().ok()?,
        valid_paths: property("DM_NR_VALID_PATHS").and_then(|text| text.parse().ok()),
    })
}
