//! Facts about the past, as they are shown beside the present.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use super::Kind;

/// Facts about the past of one device that is there, or that the configuration names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// How many paths it should have.
    pub expected_paths: u32,
    /// How many of them are not there.
    pub missing_paths: u32,
    /// Since when some are not there.
    pub missing_since: Option<SystemTime>,
    /// Whether it keeps a path no matter which single port or fabric fails. `None` if that is not expected of it, or if no
    /// path is valid or on standby.
    pub is_redundant: Option<bool>,
    /// Whether it is not redundant now and was for six hours. `None` in the same cases.
    pub has_lost_redundancy: Option<bool>,
    /// Whether its paths have had I/O errors in the last minutes.
    pub has_new_errors: bool,
}

/// Why a device counts as lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LossReason {
    /// It had no valid path, and its disks went before it.
    NoValidPath,
    /// It went while it was in use.
    InUse,
    /// It was in use before the host booted, and did not come back.
    NotBackAfterBoot,
}

impl LossReason {
    /// The word of the `reason` label.
    pub fn as_str(self) -> &'static str {
        match self {
            LossReason::NoValidPath => "no_valid_path",
            LossReason::InUse => "in_use",
            LossReason::NotBackAfterBoot => "not_back_after_boot",
        }
    }
}

/// A device that is gone, though nobody took it away in order.
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
    /// Why it counts as lost.
    pub reason: LossReason,
    /// When it was lost.
    pub time: SystemTime,
}

/// Facts about the past of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// By WWID, and sorted by it.
    pub devices: Vec<(Arc<str>, History)>,
    /// The lost devices, sorted by WWID.
    pub lost: Vec<LostDevice>,
    /// The WWPNs of Fibre Channel ports of this host that were online, or carried a path, within the memory window.
    pub fc_host_ports: BTreeSet<Arc<str>>,
    /// Fibre Channel remote ports that were up within the memory window: the WWPN of the host's port, and its own.
    pub fc_remote_ports: BTreeSet<(Arc<str>, Arc<str>)>,
    /// A device is not well, or was not and has not been seen well since.
    pub in_trouble: bool,
    /// When the host last recovered.
    pub last_recovery: Option<SystemTime>,
}

impl Remembered {
    /// The past of this device.
    pub fn of(&self, wwid: &str) -> Option<&History> {
        let found = self.devices.binary_search_by(|(named, _)| (**named).cmp(wwid)).ok()?;
        self.devices.get(found).map(|(_, history)| history)
    }

    /// How many paths are missing on the whole host.
    pub fn missing_paths(&self) -> u64 {
        self.devices.iter().map(|(_, history)| u64::from(history.missing_paths)).sum()
    }
}
