//! Kernel events (uevents) of block devices and SCSI devices, from the kernel's own multicast
//! group.
//!
//! udev's group carries the same events later, because udevd runs its rules first. For multipath
//! paths that takes a good part of a second or more. The kernel's event already has every `DM_*`
//! property (`drivers/md/dm-uevent.c`, `Documentation/admin-guide/device-mapper/dm-uevent.rst`).
//!
//! Events of one map that are raised together arrive in reverse order of `DM_SEQNUM`. The reason is
//! that dm-uevent queues them on a list and sends it from its head. The last state is in the event
//! with the highest number, not in the last one to arrive.
//!
//! A SCSI device passes on what an array reported (`SDEV_UA`, `scsi_evt_emit` in
//! `drivers/scsi/scsi_lib.c`): another LUN, another size, another ALUA state. For another LUN the
//! kernel reads the disk's identity again before it sends the event.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use std::{fs, io};

use nix::errno::Errno;
use rustix::net::sockopt;
use tokio::sync::mpsc;
use udev::MonitorSocket;

use super::poll::readable;
use super::{MonitorEnded, PULSE, Wake, Watcher, send, spawn};
use crate::privileges::Privileged;
use crate::source::{Error, UUID_PREFIX, dm_name};
use crate::topology::DevNo;

/// In bytes; the same as udevd requests. This is a limit, not an allocation. Without
/// `CAP_NET_ADMIN` the kernel grants at most `net.core.rmem_max`.
const RECEIVE_BUFFER: usize = 128 << 20;

/// A kernel event of a block device.
#[derive(Clone, Debug, PartialEq)]
pub struct Uevent {
    /// The kernel's sequence number, ascending over all events.
    pub seqnum: u64,
    /// `add`, `change`, `remove`, …
    pub action: Arc<str>,
    /// The kernel name: `dm-3`, `sdb`.
    pub sysname: Arc<str>,
    /// Device number.
    pub devno: Option<DevNo>,
    /// Distinguishes this device from an earlier one with the same number (Linux 5.15 and later).
    pub diskseq: Option<u64>,
    /// True if somebody wrote to the device's `uevent` file (`udevadm trigger`). Nothing has
    /// happened to the device.
    pub synthetic: bool,
    /// True if the device is a partition.
    pub is_partition: bool,
    /// The path that the event is about; `None` if it is not about a path of a map.
    pub path: Option<PathEvent>,
    /// When the event was read, for measuring.
    pub received: Instant,
    /// When the event was read, for showing.
    pub time: SystemTime,
}

/// The facts about a path from `drivers/md/dm-uevent.c`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathEvent {
    /// The map's WWID, from `DM_UUID`.
    pub wwid: Arc<str>,
    /// The map's name, `DM_NAME`.
    pub name: Arc<str>,
    /// The kind of the event.
    pub action: PathAction,
    /// The path's device number, `DM_PATH`.
    pub path: DevNo,
    /// The position among the map's own events, `DM_SEQNUM`. It starts at 1 when the map is
    /// created.
    pub dm_seqnum: u64,
    /// The number of valid paths left, `DM_NR_VALID_PATHS`.
    pub valid_paths: Option<u64>,
}

/// The kinds of path events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathAction {
    /// The kernel sends no more I/O to the path.
    Failed,
    /// The kernel sends I/O to the path again.
    Reinstated,
}

/// Starts the watcher's thread.
///
/// # Errors
/// If the thread cannot be started.
pub fn watch(wakes: mpsc::Sender<Wake>) -> io::Result<()> {
    spawn(&Privileged::default(), Watcher::Uevent, "uevent", wakes, run)
}

fn run(wakes: &mpsc::Sender<Wake>) -> Result<MonitorEnded, Error> {
    let failed = |cause| Error::new("kernel uevents", cause);
    if !are_sent_here() {
        return Err(failed(io::Error::other(
            "the kernel sends none to a network namespace that belongs to a user namespace",
        )));
    }
    let socket = subscribe().map_err(failed)?;
    if send(wakes, Wake::Watching(Watcher::Uevent)).is_err() {
        return Ok(MonitorEnded);
    }
    loop {
        readable(&socket.as_fd(), PULSE).map_err(failed)?;
        let woken = Instant::now();
        let Ok(at) = drain(&socket, wakes).map_err(failed)? else { return Ok(MonitorEnded) };
        if send(wakes, Wake::Drained { at, took: woken.elapsed() }).is_err() {
            return Ok(MonitorEnded);
        }
    }
}

/// Returns true if the kernel sends events to this process's network namespace. It does so only if
/// the namespace belongs to the host's root (`uevent_net_init` in `lib/kobject_uevent.c`, Linux
/// 4.18 and later). A listener elsewhere gets no error. If the owner cannot be determined, as in
/// nested user namespaces, events are expected.
fn are_sent_here() -> bool {
    // Files below `/proc/self/net` belong to the root of the network namespace. The directory
    // itself belongs to this process.
    let owner = fs::metadata("/proc/self/net/dev").map(|file| file.uid());
    let numbers = fs::read_to_string("/proc/self/uid_map");
    let nobody = fs::read_to_string("/proc/sys/kernel/overflowuid");
    match (owner, numbers) {
        // The overflow UID: the owner is not mapped into this user namespace. Usually it is the
        // host's root.
        (Ok(owner), _) if nobody.is_ok_and(|nobody| nobody.trim() == owner.to_string()) => true,
        (Ok(owner), Ok(numbers)) => may_be_root(owner, &numbers),
        _ => true,
    }
}

/// Returns true if this UID in our user namespace is root's outside. `numbers` has the lines of
/// `/proc/PID/uid_map`: first UID inside, first UID outside, count.
fn may_be_root(uid: u32, numbers: &str) -> bool {
    let outside = |line: &str| {
        let mut words = line.split_whitespace().map(|word| word.parse::<u32>().ok());
        let (inside, outside, count) = (words.next()??, words.next()??, words.next()??);
        let offset = uid.checked_sub(inside).filter(|offset| *offset < count)?;
        Some(outside.saturating_add(offset))
    };
    numbers.lines().find_map(outside).is_none_or(|outside| outside == 0)
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

/// Passes on all waiting events. Returns a moment at which none was waiting.
fn drain(socket: &MonitorSocket, wakes: &mpsc::Sender<Wake>) -> io::Result<Result<Instant, MonitorEnded>> {
    let mut unexplained = 0;
    loop {
        let wake = match receive(|| socket.iter().next()) {
            Ok(event) => wake(&event),
            Err(errno) => match why_nothing(errno) {
                Nothing::Overflow => Some(Wake::Overflow),
                Nothing::Broken => return Err(io::Error::from_raw_os_error(errno)),
                Nothing::Unexplained if unexplained == MOST_UNEXPLAINED => {
                    return Err(io::Error::from_raw_os_error(errno));
                }
                nothing => {
                    unexplained += usize::from(nothing == Nothing::Unexplained);
                    // libudev also returns nothing when it drops a message, and others may wait
                    // behind that one.
                    let looked = Instant::now();
                    if readable(&socket.as_fd(), Duration::ZERO)? {
                        continue;
                    }
                    return Ok(Ok(looked));
                }
            },
        };
        if let Some(wake) = wake
            && let Err(closed) = send(wakes, wake)
        {
            return Ok(Err(closed));
        }
    }
}

/// Returns the next event, or errno if libudev returns none. Some versions of libudev do not set
/// errno when they drop a message (eudev, and systemd before version 240). So errno is cleared
/// first, and a value that an earlier call left is not taken for a reason.
fn receive<E>(next: impl FnOnce() -> Option<E>) -> Result<E, i32> {
    Errno::clear();
    next().ok_or_else(Errno::last_raw)
}

/// Reasons why libudev returned no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nothing {
    /// No message waited, or libudev dropped one that is not for us.
    Waits,
    /// Messages were lost.
    Overflow,
    /// The socket can no longer be read.
    Broken,
    /// The reason is unknown. libudev may have dropped a message, or the kernel may refuse to
    /// deliver any.
    Unexplained,
}

/// Ends the loop if the kernel refuses every message. libudev drops fewer messages in a row.
const MOST_UNEXPLAINED: usize = 1000;

fn why_nothing(errno: i32) -> Nothing {
    match Errno::from_raw(errno) {
        _ if errno == 0 => Nothing::Waits,
        // `EINVAL`: a message from another sender, or one that libudev cannot parse.
        Errno::EAGAIN | Errno::EINTR | Errno::EINVAL => Nothing::Waits,
        // `ENOMEM`: libudev had taken the message but had no memory for it.
        Errno::ENOBUFS | Errno::ENOMEM => Nothing::Overflow,
        Errno::EBADF | Errno::ENOTSOCK => Nothing::Broken,
        _ => Nothing::Unexplained,
    }
}

/// Returns the message for an event, if the event is relevant.
fn wake(event: &udev::Event) -> Option<Wake> {
    let is_scsi = event.subsystem().is_some_and(|subsystem| subsystem == "scsi");
    match event.event_type() {
        udev::EventType::Change if is_scsi => Some(Wake::ScsiDevice(event.sysname().to_string_lossy().into())),
        // The event of its disk says the same.
        _ if is_scsi => None,
        _ => Some(Wake::Uevent(Box::new(translate(event)))),
    }
}

/// Turns libudev's event into a plain value. No libudev type leaves this module.
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
        is_partition: text("DEVTYPE").is_some_and(|kind| kind == "partition"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_of_a_user_namespace_is_not_the_machines() {
        let numbers = [
            ("the machine's own", "         0          0 4294967295\n", 0, true),
            ("a namespace entered from it", "0 0 4294967295", 100_000, false),
            ("a container without root", "0 1000 1\n1 100000 65536", 0, false),
            ("systemd's PrivateUsers=", "0 0 1\n61234 61234 1", 0, true),
            ("none", "", 0, true),
        ];
        for (what, numbers, owner, expected) in numbers {
            assert_eq!(may_be_root(owner, numbers), expected, "{what}");
        }
    }

    #[test]
    fn what_an_earlier_call_left_in_errno_is_no_reason() {
        Errno::ENOBUFS.set();
        assert_eq!(receive(|| None::<()>), Err(0));
        let refused = || {
            Errno::EACCES.set();
            None::<()>
        };
        assert_eq!(receive(refused), Err(Errno::EACCES as i32));
        assert_eq!(receive(|| Some(1)), Ok(1));
    }

    #[test]
    fn only_what_says_so_is_a_loss() {
        for (errno, reason) in [
            (0, Nothing::Waits),
            (Errno::EAGAIN as i32, Nothing::Waits),
            (Errno::EINTR as i32, Nothing::Waits),
            (Errno::EINVAL as i32, Nothing::Waits),
            (Errno::ENOBUFS as i32, Nothing::Overflow),
            (Errno::ENOMEM as i32, Nothing::Overflow),
            (Errno::EBADF as i32, Nothing::Broken),
            (Errno::ENOTSOCK as i32, Nothing::Broken),
            (Errno::ENOENT as i32, Nothing::Unexplained),
            (Errno::ETIMEDOUT as i32, Nothing::Unexplained),
            (Errno::EACCES as i32, Nothing::Unexplained),
            (-1, Nothing::Unexplained),
            (4096, Nothing::Unexplained),
        ] {
            assert_eq!(why_nothing(errno), reason, "{errno}");
        }
    }
}
