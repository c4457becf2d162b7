//! The multipath storage of a host as plain values. Nothing here does I/O.
//!
//! All other modules use these types. A [`Device`] is one multipath device, identified by its WWID.
//! A [`Path`] is one of its members. A [`Snapshot`] has all of them at one moment and never changes
//! after it is published.

mod facts;
pub(crate) mod luns;
mod redundancy;
mod remembered;
#[cfg(test)]
pub mod sample;
mod transport;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub(crate) use redundancy::{initiator_ports, is_redundant, target_ports};
pub use remembered::{History, LossReason, LostDevice, Remembered};
pub use transport::{
    Adapter, Adapters, Failures, FcHostPort, FcRemotePort, IscsiBond, IscsiSession, NvmeController, NvmeSubsystem,
    NvmeTimeouts, Ports, Transport, Transports,
};
pub(crate) use transport::{fabric_of, is_deleted, portal};

/// Major and minor number of a block device, written as the kernel prints them: `8:16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Deserialize, serde::Serialize)]
#[serde(into = "String", try_from = "String")]
pub struct DevNo {
    /// The number of the driver.
    pub major: u32,
    /// The number of the device within its driver.
    pub minor: u32,
}

impl fmt::Display for DevNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl From<DevNo> for String {
    fn from(devno: DevNo) -> Self {
        devno.to_string()
    }
}

impl TryFrom<String> for DevNo {
    type Error = InvalidDevNo;

    fn try_from(text: String) -> Result<Self, InvalidDevNo> {
        text.parse()
    }
}

/// A text that does not have the form `MAJOR:MINOR`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a device number: {0:?}")]
pub struct InvalidDevNo(String);

impl FromStr for DevNo {
    type Err = InvalidDevNo;

    fn from_str(text: &str) -> Result<Self, InvalidDevNo> {
        // `parse` would also take a sign.
        let number = |part: &str| if part.bytes().all(|byte| byte.is_ascii_digit()) { part.parse().ok() } else { None };
        text.split_once(':')
            .and_then(|(major, minor)| Some(DevNo { major: number(major)?, minor: number(minor)? }))
            .ok_or_else(|| InvalidDevNo(text.to_owned()))
    }
}

/// The part of the kernel that assembles the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub enum Kind {
    /// A device-mapper device with a `multipath` target.
    #[serde(rename = "dm")]
    DeviceMapper,
    /// A native NVMe multipath namespace head.
    #[serde(rename = "nvme")]
    Nvme,
}

impl Kind {
    /// Both kinds.
    pub const ALL: [Kind; 2] = [Kind::DeviceMapper, Kind::Nvme];

    /// The value of the `kind` label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Kind::DeviceMapper => "dm",
            Kind::Nvme => "nvme",
        }
    }
}

/// The use that the kernel makes of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathState {
    /// The kernel sends I/O to the path.
    Valid,
    /// NVMe only: the path is reachable, but its ANA state takes no I/O now.
    Standby,
    /// The path is neither valid nor on standby.
    Failed,
}

/// The state of a device. It is always in exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// At least one path is valid and none has failed.
    Healthy,
    /// Some paths are valid and some have failed.
    Degraded,
    /// No path is valid. This includes a device that has lost all its members.
    WithoutValidPaths,
}

impl Health {
    /// The value of `state` in the API.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Health::Healthy => "healthy",
            Health::Degraded => "degraded",
            Health::WithoutValidPaths => "without_valid_paths",
        }
    }
}

/// The number of paths in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Paths that the kernel sends I/O to.
    pub valid: usize,
    /// NVMe paths that are reachable and take no I/O now.
    pub standby: usize,
    /// All other paths.
    pub failed: usize,
}

impl Counts {
    /// Counts the states.
    pub(crate) fn of(states: impl IntoIterator<Item = PathState>) -> Self {
        states.into_iter().fold(Counts::default(), |mut counts, state| {
            match state {
                PathState::Valid => counts.valid += 1,
                PathState::Standby => counts.standby += 1,
                PathState::Failed => counts.failed += 1,
            }
            counts
        })
    }

    /// Returns the number of all members.
    pub(crate) fn paths(self) -> usize {
        self.valid + self.standby + self.failed
    }

    /// Returns the health of a device with these paths.
    pub(crate) fn health(self) -> Health {
        match self {
            Counts { valid: 0, .. } => Health::WithoutValidPaths,
            Counts { failed: 0, .. } => Health::Healthy,
            _ => Health::Degraded,
        }
    }
}

/// A path group of a device-mapper device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The position in the kernel's status, from 1.
    pub index: u32,
    /// `active`, `enabled` or `disabled`, or any other word that the source has.
    pub state: Arc<str>,
}

/// One member of a device.
///
/// Unknown text is empty. A fact that this kind of path does not have is `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct Path {
    /// The kernel name (`sdb`). After the name is gone, the last known one, or the device number.
    pub name: Arc<str>,
    /// The number of the path's block device. `None` for an NVMe path, and for a disk whose number
    /// no source shows.
    pub devno: Option<DevNo>,
    /// SCSI host, channel, target and LUN, such as `6:0:0:1`.
    pub hctl: Arc<str>,
    /// The transport that carries its I/O.
    pub transport: Transport,
    /// The parts that it shares with other paths.
    pub ports: Ports,
    /// The index of its path group, from 1. For an NVMe path, its ANA group.
    pub group: Option<u32>,
    /// The use that the kernel makes of it.
    pub state: PathState,
    /// True if `state` is the kernel's own: from its status, read by the exporter or by multipathd,
    /// or from an event. Otherwise the exporter concluded it from the SCSI state, or assumed it.
    pub is_told: bool,
    /// The number of failures since the exporter started.
    pub failures: u64,
    /// The priority in multipathd.
    pub priority: Option<i64>,
    /// The checker state, in multipathd's own word.
    pub checker_state: Option<Arc<str>>,
    /// The state of the SCSI device or the NVMe controller, in the kernel's own word.
    pub device_state: Option<Arc<str>>,
    /// The SCSI ALUA access state, in the kernel's own word. While an array changes the state, Linux
    /// may show the former one (`alua_rtpg_work` in `drivers/scsi/device_handler/scsi_dh_alua.c`).
    pub access_state: Option<Arc<str>>,
    /// The NVMe ANA state, in the kernel's own word.
    pub ana_state: Option<Arc<str>>,
    /// True if multipathd treats it as marginal.
    pub marginal: Option<bool>,
    /// Requests that ended with an error. The SCSI layer counts since the disk appeared, the NVMe
    /// driver since the path appeared.
    pub io_errors: Option<u64>,
    /// Requests that timed out, counted in the same way.
    pub io_timeouts: Option<u64>,
    /// How long the same I/O had been in flight at the last resync without any completion. `None`
    /// if I/O flows or none is in flight.
    pub stalled: Option<Duration>,
}

/// multipathd's own counters of a device. They return to 0 when multipathd reconfigures it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DaemonCounters {
    /// Path failures that multipathd saw.
    pub path_faults: u64,
    /// Switches from one path group to another.
    pub group_switches: u64,
    /// Tables that multipathd loaded.
    pub table_loads: u64,
    /// Seconds for which I/O was queued because no path was valid.
    pub queueing_seconds: u64,
    /// Times that queueing ended because `no_path_retry` expired.
    pub queueing_timeouts: u64,
}

/// Counts of path events of a device since the exporter started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathEventCounts {
    /// Path failures.
    pub failed: u64,
    /// Path reinstatements.
    pub reinstated: u64,
    /// The time of the last failure.
    pub last_failed: Option<SystemTime>,
    /// The time of the last reinstatement.
    pub last_reinstated: Option<SystemTime>,
}

/// How many paths differ from their device. All paths should lead to the same LUN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mismatches {
    /// Paths with another size.
    pub size: usize,
    /// Paths with another write protection.
    pub read_only: usize,
    /// Paths with another WWID: they lead to another LUN now.
    pub wwid: usize,
    /// Paths whose LUN number differs from that of most paths to the same target. Always 0 where
    /// the configuration says that the array numbers LUNs by port.
    pub lun: usize,
}

/// One multipath device.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// Its identity, and the only key to join its series.
    pub wwid: Arc<str>,
    /// Its alias: `mpatha`.
    pub name: Arc<str>,
    /// Its kernel name: `dm-3`.
    pub sysfs_name: Arc<str>,
    /// The UUID as the kernel has it: `mpath-3600…`.
    pub uuid: Arc<str>,
    /// The part of the kernel that assembles it.
    pub kind: Kind,
    /// SCSI vendor.
    pub vendor: Arc<str>,
    /// SCSI product (model).
    pub product: Arc<str>,
    /// SCSI product revision (firmware).
    pub revision: Arc<str>,
    /// Its members, by path group, in the kernel's order.
    pub paths: Vec<Path>,
    /// Its path groups, in the kernel's order.
    pub groups: Vec<Group>,
    /// True if I/O waits instead of failing when no path is valid.
    pub queueing: Option<bool>,
    /// True if the device is suspended.
    pub suspended: Option<bool>,
    /// True if the device is write-protected.
    pub read_only: Option<bool>,
    /// The size in bytes.
    pub size_bytes: Option<u64>,
    /// How many times the device is open.
    pub open_count: Option<u64>,
    /// True if something uses the device; `None` if that is unknown.
    pub in_use: Option<bool>,
    /// Requests sent to the device and not completed.
    pub inflight_requests: Option<u64>,
    /// Blocked paths: valid paths on which I/O waits instead of failing.
    pub blocked_paths: usize,
    /// The time from the last re-read at which I/O had moved or none was in flight, to the latest
    /// re-read. `None` if both are the same re-read.
    pub stalled: Option<Duration>,
    /// True if the root file system is on the device.
    pub root: bool,
    /// Kernel names of stray paths, sorted: working disks that are the same LUN and not paths of
    /// the device.
    pub stray_paths: Vec<Arc<str>>,
    /// The numbers of paths that differ from the device.
    pub mismatches: Mismatches,
    /// Pairs of ports that lead to several LUN numbers. The device may hold several LUNs.
    pub lun_conflicts: usize,
    /// multipathd's counters; `None` while it does not answer.
    pub daemon_counters: Option<DaemonCounters>,
    /// The priority of the path group in use.
    pub active_group_priority: Option<i64>,
    /// The priority of the best path group that has a valid path.
    pub best_group_priority: Option<i64>,
    /// Counts of path events since the exporter started.
    pub path_events: PathEventCounts,
    /// Failures and disorderly removals of a path within 15 minutes after its previous one, since
    /// the exporter started.
    pub repeated_path_failures: u64,
    /// I/O errors and timeouts of all present and former paths, since the exporter first saw the
    /// device. It never falls.
    pub path_io_errors: u64,
}

impl Device {
    /// Counts its paths by state.
    pub(crate) fn counts(&self) -> Counts {
        Counts::of(self.paths.iter().map(|path| path.state))
    }
}

/// A disk that is used directly instead of through its multipath device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirectUse {
    /// The identity of the multipath device.
    pub wwid: Arc<str>,
    /// The kernel name of the disk, such as `sdb`.
    pub disk: Arc<str>,
    /// The user of the disk or of a partition of it: `mount`, `swap`, or the kind of a block device
    /// (`dm`, `md`, `bcache`).
    pub by: Arc<str>,
}

/// The state of multipathd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Daemon {
    /// The exporter does not query it.
    #[default]
    NotAsked,
    /// It does not answer.
    Down,
    /// It answers. This is its state in its own word (`idle`, `running`, `configure`).
    Up(Arc<str>),
}

/// A disk that no multipath device holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unassembled {
    /// The identity of the disk.
    pub wwid: Arc<str>,
    /// The kernel names of its paths, at least one.
    pub paths: Vec<Arc<str>>,
    /// The device of another driver that holds the disk, or probably holds it: `md0`, `emcpowera`.
    /// Then nothing is wrong.
    pub held_by: Option<Arc<str>>,
}

/// The multipath storage of a host at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// All devices, sorted by WWID, so that the same state always gives the same bytes.
    pub devices: Vec<Arc<Device>>,
    /// The state of multipathd.
    pub daemon: Daemon,
    /// The sessions, ports and controllers that paths use.
    pub transports: Arc<Transports>,
    /// How many members of devices use each iSCSI session, by its name. A session without an entry
    /// carries no path.
    pub iscsi_session_paths: BTreeMap<Arc<str>, usize>,
    /// Times that iSCSI sessions between these ports were lost without a logout.
    pub iscsi_session_failures: Arc<Failures>,
    /// Times that NVMe controllers between these ports were lost without an orderly removal.
    pub nvme_controller_failures: Arc<Failures>,
    /// The configured iSCSI bonds, in the order of the configuration.
    pub iscsi_bonds: Vec<IscsiBond>,
    /// Disks that no multipath device holds although they have several paths or are marked for
    /// multipath. Sorted by WWID.
    pub unassembled: Vec<Unassembled>,
    /// Direct uses of disks that are in a multipath device, or should be. Sorted, without
    /// duplicates.
    pub used_directly: Vec<DirectUse>,
    /// Facts about the past of the host.
    pub remembered: Arc<Remembered>,
}

impl Snapshot {
    /// Returns the direct uses of disks of this device, sorted by disk.
    pub(crate) fn direct_users(&self, wwid: &str) -> &[DirectUse] {
        let first = self.used_directly.partition_point(|one| *one.wwid < *wwid);
        let rest = &self.used_directly[first..];
        &rest[..rest.partition_point(|one| *one.wwid == *wwid)]
    }

    /// Returns what uses this path of this device directly.
    pub(crate) fn users_of<'a>(&'a self, wwid: &str, path: &str) -> impl Iterator<Item = &'a str> {
        self.direct_users(wwid).iter().filter(move |one| *one.disk == *path).map(|one| &*one.by)
    }

    /// Returns the WWID and the kernel name of each disk that multipath should hold but does not:
    /// stray paths and unassembled disks.
    pub(crate) fn disks_beside(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        let strays = self.devices.iter().map(|device| (&device.wwid, &device.stray_paths));
        let unassembled = self.unassembled.iter().map(|disk| (&disk.wwid, &disk.paths));
        strays.chain(unassembled).flat_map(|(wwid, names)| names.iter().map(move |name| (wwid, name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_read_back_as_printed() {
        let devno: DevNo = "259:1048575".parse().unwrap();
        assert_eq!(devno, DevNo { major: 259, minor: 1_048_575 });
        assert_eq!(devno.to_string(), "259:1048575");
        for bad in ["", "8", "8:", ":0", "8:16 ", "+8:0", "8:-1", "sda", "8:16:1", "99999999999:0"] {
            assert!(bad.parse::<DevNo>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn every_device_is_in_exactly_one_state() {
        use PathState::*;
        for (states, health) in [
            (vec![], Health::WithoutValidPaths),
            (vec![Failed], Health::WithoutValidPaths),
            (vec![Standby], Health::WithoutValidPaths),
            (vec![Standby, Failed], Health::WithoutValidPaths),
            (vec![Valid], Health::Healthy),
            (vec![Valid, Standby], Health::Healthy),
            (vec![Valid, Failed], Health::Degraded),
            (vec![Valid, Standby, Failed], Health::Degraded),
        ] {
            assert_eq!(Counts::of(states.iter().copied()).health(), health, "{states:?}");
            assert_eq!(Counts::of(states.iter().copied()).paths(), states.len());
        }
    }
}
