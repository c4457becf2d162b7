//! What a host's multipath storage looks like: plain values, no I/O.
//!
//! Everything else in the program speaks in these. A [`Device`] is one multipath device, identified by its WWID; a
//! [`Path`] is one of its members. A [`Snapshot`] is all of them at one moment, immutable once published.

mod facts;
pub mod luns;
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

pub use redundancy::{initiator_ports, is_redundant, target_ports};
pub use remembered::{History, LossReason, LostDevice, Remembered};
pub use transport::{
    Adapter, Adapters, Failures, FcHostPort, FcRemotePort, IscsiBond, IscsiSession, NvmeController, NvmeSubsystem,
    NvmeTimeouts, Ports, Transport, Transports, fabric_of, is_deleted, portal,
};

/// Major and minor number of a block device, printed as the kernel prints it: `8:16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Deserialize, serde::Serialize)]
#[serde(into = "String", try_from = "String")]
pub struct DevNo {
    /// The driver's number.
    pub major: u32,
    /// The device's number within its driver.
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

/// The text was not of the form `MAJOR:MINOR`.
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

/// Which part of the kernel assembles the device.
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
    /// Both of them.
    pub const ALL: [Kind; 2] = [Kind::DeviceMapper, Kind::Nvme];

    /// The word of the `kind` label.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::DeviceMapper => "dm",
            Kind::Nvme => "nvme",
        }
    }
}

/// What the kernel will do with I/O for a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathState {
    /// It sends I/O there.
    Valid,
    /// NVMe only: reachable, but its ANA state takes no I/O now.
    Standby,
    /// Neither.
    Failed,
}

/// The one state a device is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// No failed path, at least one valid.
    Healthy,
    /// Some failed, some valid.
    Degraded,
    /// No valid path; a device that has lost all its members included.
    WithoutValidPaths,
}

impl Health {
    /// The word of the API's `state`.
    pub fn as_str(self) -> &'static str {
        match self {
            Health::Healthy => "healthy",
            Health::Degraded => "degraded",
            Health::WithoutValidPaths => "without_valid_paths",
        }
    }
}

/// How many paths are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Valid paths.
    pub valid: usize,
    /// Standby paths.
    pub standby: usize,
    /// Failed paths.
    pub failed: usize,
}

impl Counts {
    /// Counts the states.
    pub fn of(states: impl IntoIterator<Item = PathState>) -> Self {
        states.into_iter().fold(Counts::default(), |mut counts, state| {
            match state {
                PathState::Valid => counts.valid += 1,
                PathState::Standby => counts.standby += 1,
                PathState::Failed => counts.failed += 1,
            }
            counts
        })
    }

    /// Members: valid, standby and failed.
    pub fn paths(self) -> usize {
        self.valid + self.standby + self.failed
    }

    /// The health of a device with these paths.
    pub fn health(self) -> Health {
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
    /// Position in the kernel's status, from 1.
    pub index: u32,
    /// `active`, `enabled`, `disabled`, or the source's own word where it is none of these.
    pub state: Arc<str>,
}

/// One member of a device.
///
/// Text that is not known is empty; what is absent for this kind of path is `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct Path {
    /// Kernel name (`sdb`); the last known one, or the device number, once that name is gone.
    pub name: Arc<str>,
    /// Device number.
    pub devno: Option<DevNo>,
    /// SCSI host, channel, target and LUN, `6:0:0:1`.
    pub hctl: Arc<str>,
    /// What carries its I/O.
    pub transport: Transport,
    /// What it shares with others.
    pub ports: Ports,
    /// Index of its path group, from 1; the ANA group of an NVMe path.
    pub group: Option<u32>,
    /// Whether the kernel sends I/O to it.
    pub state: PathState,
    /// Whether `state` is the kernel's own word: of its status, read here or by multipathd, or of an event. Otherwise it was
    /// concluded from the SCSI state, or assumed.
    pub is_told: bool,
    /// Times it failed since the exporter started.
    pub failures: u64,
    /// multipathd's priority.
    pub priority: Option<i64>,
    /// multipathd's checker state, its own word.
    pub checker_state: Option<Arc<str>>,
    /// State of the SCSI device or the NVMe controller, the kernel's own word.
    pub device_state: Option<Arc<str>>,
    /// SCSI ALUA access state, the kernel's own word.
    pub access_state: Option<Arc<str>>,
    /// NVMe ANA state, the kernel's own word.
    pub ana_state: Option<Arc<str>>,
    /// Whether multipathd holds it marginal.
    pub marginal: Option<bool>,
    /// Requests that ended with an error, as the SCSI layer counts since the disk came, or the NVMe driver since the path came.
    pub io_errors: Option<u64>,
    /// Requests that ran out of time, likewise.
    pub io_timeouts: Option<u64>,
    /// How long the same I/O had been in flight at the last resync, while none completed; `None` if I/O flows or there is none.
    pub stalled: Option<Duration>,
}

/// multipathd's own counters of a device. They return to 0 when it is reconfigured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DaemonCounters {
    /// Path failures it saw.
    pub path_faults: u64,
    /// Switches from one path group to another.
    pub group_switches: u64,
    /// Tables it loaded.
    pub table_loads: u64,
    /// Seconds I/O queued for want of a path.
    pub queueing_seconds: u64,
    /// Times queueing ended because `no_path_retry` ran out.
    pub queueing_timeouts: u64,
}

/// Path events of a device since the exporter started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathEventCounts {
    /// Paths that failed.
    pub failed: u64,
    /// Paths reinstated.
    pub reinstated: u64,
    /// When a path last failed.
    pub last_failed: Option<SystemTime>,
    /// When a path was last reinstated.
    pub last_reinstated: Option<SystemTime>,
}

/// How many paths differ from their device: all of them should be the same LUN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mismatches {
    /// In size.
    pub size: usize,
    /// In write protection.
    pub read_only: usize,
    /// In WWID: another LUN is behind them now.
    pub wwid: usize,
    /// In the LUN number, among the paths to one target; 0 where the array is configured to number by port.
    pub lun: usize,
}

/// One multipath device.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// Its identity and the one join key.
    pub wwid: Arc<str>,
    /// Alias: `mpatha`.
    pub name: Arc<str>,
    /// Kernel name: `dm-3`.
    pub sysfs_name: Arc<str>,
    /// UUID as the kernel gives it: `mpath-3600…`.
    pub uuid: Arc<str>,
    /// Who assembles it.
    pub kind: Kind,
    /// SCSI vendor.
    pub vendor: Arc<str>,
    /// SCSI product (model).
    pub product: Arc<str>,
    /// SCSI product revision (firmware).
    pub revision: Arc<str>,
    /// Members, by path group in the kernel's order.
    pub paths: Vec<Path>,
    /// Path groups in the kernel's order.
    pub groups: Vec<Group>,
    /// Whether I/O waits instead of failing when no path is valid.
    pub queueing: Option<bool>,
    /// Whether it is suspended.
    pub suspended: Option<bool>,
    /// Whether it is write-protected.
    pub read_only: Option<bool>,
    /// Size in bytes.
    pub size_bytes: Option<u64>,
    /// Holders of the device.
    pub open_count: Option<u64>,
    /// Whether something uses it; `None` if that is unknown.
    pub in_use: Option<bool>,
    /// Requests sent down and not completed.
    pub inflight_requests: Option<u64>,
    /// Valid paths on which I/O waits instead of failing.
    pub blocked_paths: usize,
    /// From the last re-read at which I/O had moved or none was in flight to the latest one; `None` if that is the same.
    pub stalled: Option<Duration>,
    /// Whether the root file system stands on it.
    pub root: bool,
    /// Kernel names of working disks that are the same LUN and no paths of it, sorted.
    pub stray_paths: Vec<Arc<str>>,
    /// Paths that differ from it.
    pub mismatches: Mismatches,
    /// Pairs of ports that lead to several LUN numbers: it may hold several LUNs.
    pub lun_conflicts: usize,
    /// multipathd's counters, while it answers.
    pub daemon_counters: Option<DaemonCounters>,
    /// Priority of the path group in use.
    pub active_group_priority: Option<i64>,
    /// Priority of the best path group with a valid path.
    pub best_group_priority: Option<i64>,
    /// Path events since the exporter started.
    pub path_events: PathEventCounts,
    /// Failures and disorderly removals of a path within 15 minutes after its last one, since the exporter started.
    pub repeated_path_failures: u64,
    /// I/O errors and timeouts of all paths that it has had since the exporter knows it. It never falls.
    pub path_io_errors: u64,
}

impl Device {
    /// Its paths, counted by state.
    pub fn counts(&self) -> Counts {
        Counts::of(self.paths.iter().map(|path| path.state))
    }
}

/// A disk that is used itself though it should be used through its multipath device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirectUse {
    /// The identity of the device.
    pub wwid: Arc<str>,
    /// The kernel name of the disk, `sdb`.
    pub disk: Arc<str>,
    /// What uses it or a partition of it: `mount`, `swap`, or the kind of a block device (`dm`, `md`, `bcache`).
    pub by: Arc<str>,
}

/// What is known of multipathd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Daemon {
    /// It is not asked.
    #[default]
    NotAsked,
    /// It does not answer.
    Down,
    /// It answers; its state in its own word (`idle`, `running`, `configure`).
    Up(Arc<str>),
}

/// A disk that no multipath device holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unassembled {
    /// Its identity.
    pub wwid: Arc<str>,
    /// The kernel names of its paths: at least one.
    pub paths: Vec<Arc<str>>,
    /// The device of another driver that holds it, or is taken to hold it: `md0`, `emcpowera`. Then nothing is wrong.
    pub held_by: Option<Arc<str>>,
}

/// All devices of a host at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Sorted by WWID, so that the same state always gives the same bytes.
    pub devices: Vec<Arc<Device>>,
    /// multipathd.
    pub daemon: Daemon,
    /// What the paths go over.
    pub transports: Arc<Transports>,
    /// How many members of devices use each iSCSI session, by its name. One that is not in here is used by none.
    pub iscsi_session_paths: BTreeMap<Arc<str>, usize>,
    /// Times that sessions between these ports were lost without a logout.
    pub iscsi_session_failures: Arc<Failures>,
    /// Times that NVMe controllers between these ports were lost without being removed in order.
    pub nvme_controller_failures: Arc<Failures>,
    /// The configured iSCSI bonds, in the order of the configuration.
    pub iscsi_bonds: Vec<IscsiBond>,
    /// Disks that no multipath device holds, though they are there on several paths or are multipath's. Sorted by WWID.
    pub unassembled: Vec<Unassembled>,
    /// Who uses disks of multipath devices, or such as should be of one, without the device. Sorted, each once.
    pub used_directly: Vec<DirectUse>,
    /// Facts about the past.
    pub remembered: Arc<Remembered>,
}

impl Snapshot {
    /// Who uses the disks of this device without it. It is sorted by disk.
    pub fn direct_users(&self, wwid: &str) -> &[DirectUse] {
        let first = self.used_directly.partition_point(|one| *one.wwid < *wwid);
        let rest = &self.used_directly[first..];
        &rest[..rest.partition_point(|one| *one.wwid == *wwid)]
    }

    /// What uses a path of this device without it.
    pub fn users_of<'a>(&'a self, wwid: &str, path: &str) -> impl Iterator<Item = &'a str> {
        self.direct_users(wwid).iter().filter(move |one| *one.disk == *path).map(|one| &*one.by)
    }

    /// Disks that multipath should have and has not, strays and unassembled ones: the WWID and the kernel name of each.
    pub fn disks_beside(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
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
