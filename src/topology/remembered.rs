//! Facts about the past, which the exporter shows beside the present.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use super::Kind;

/// Facts about the past of one device that is present or named in the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// The number of paths that it should have.
    pub expected_paths: u32,
    /// How many of the expected paths are missing.
    pub missing_paths: u32,
    /// The time since which paths are missing; `None` if none is.
    pub missing_since: Option<SystemTime>,
    /// True if it keeps a path when any single port or fabric fails. `None` if it is not expected
    /// to be redundant, or if no path is valid or on standby.
    pub is_redundant: Option<bool>,
    /// True if it is not redundant now but was for six hours. `None` in the same cases.
    pub has_lost_redundancy: Option<bool>,
    /// True if its paths had I/O errors in the last minutes.
    pub has_new_errors: bool,
}

/// The reason why a device counts as lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LossReason {
    /// It had no valid path, and its disks disappeared before it.
    NoValidPath,
    /// It disappeared while it was in use.
    InUse,
    /// It was in use before the host booted, and did not come back.
    NotBackAfterBoot,
}

impl LossReason {
    /// The value of the `reason` label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            LossReason::NoValidPath => "no_valid_path",
            LossReason::InUse => "in_use",
            LossReason::NotBackAfterBoot => "not_back_after_boot",
        }
    }
}

/// A device that disappeared without an orderly removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostDevice {
    /// Its identity.
    pub wwid: Arc<str>,
    /// Its last alias.
    pub name: Arc<str>,
    /// The part of the kernel that assembled it.
    pub kind: Kind,
    /// SCSI vendor.
    pub vendor: Arc<str>,
    /// SCSI product or NVMe model.
    pub product: Arc<str>,
    /// The reason why it counts as lost.
    pub reason: LossReason,
    /// The time of the loss.
    pub time: SystemTime,
}

/// Facts about the past of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// The past of each device, sorted by WWID.
    pub devices: Vec<(Arc<str>, History)>,
    /// The lost devices, sorted by WWID.
    pub lost: Vec<LostDevice>,
    /// The WWPNs of Fibre Channel ports of this host that were online, or carried a path, within
    /// the memory window.
    pub fc_host_ports: BTreeSet<Arc<str>>,
    /// Fibre Channel remote ports that were up within the memory window: the WWPN of the host's
    /// port, and its own.
    pub fc_remote_ports: BTreeSet<(Arc<str>, Arc<str>)>,
    /// True if a device is in trouble, or was and has not been seen healthy since.
    pub in_trouble: bool,
    /// The time of the host's last recovery.
    pub last_recovery: Option<SystemTime>,
}

impl Remembered {
    /// Returns the past of this device.
    pub(crate) fn of(&self, wwid: &str) -> Option<&History> {
        let found = self.devices.binary_search_by(|(named, _)| (**named).cmp(wwid)).ok()?;
        self.devices.get(found).map(|(_, history)| history)
    }

    /// Returns the number of missing paths on the host.
    pub(crate) fn missing_paths(&self) -> u64 {
        self.devices.iter().map(|(_, history)| u64::from(history.missing_paths)).sum()
    }
}
