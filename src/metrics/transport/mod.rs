//! What paths go over, and disks that multipath does not hold or does not hold alone, as metric families.

mod fibre_channel;
mod iscsi;
mod nvme;

use std::fmt;

use super::{Families, labels};
use crate::topology::{DirectUse, Snapshot};

labels!(Unassembled {
    wwid: &'a str,
});

labels!(UsedDirectly {
    wwid: &'a str,
    disk: &'a str,
    by: &'a str,
});

/// Writes the families of iSCSI, Fibre Channel and NVMe, and of disks that multipath does not hold, or does not hold alone.
/// Those that count what happened since the start are written only with `events`.
pub fn encode(snapshot: &Snapshot, events: bool, families: &mut Families) -> fmt::Result {
    iscsi::encode(snapshot, events, families)?;
    fibre_channel::encode(snapshot, families)?;
    nvme::encode(snapshot, events, families)?;
    families.gauge(
        "multipath_unassembled_paths",
        "Paths of a disk that no multipath device holds, nor another driver",
        // A disk that another driver holds is not for multipath, so no alert may tell of it.
        snapshot
            .unassembled
            .iter()
            .filter(|disk| disk.held_by.is_none())
            .map(|disk| (Unassembled { wwid: &disk.wwid }, disk.paths.len() as u64)),
    )?;
    families.gauge(
        "multipath_disk_used_directly",
        "1 for each disk that is used itself though it should be used through its multipath device",
        snapshot.used_directly.iter().map(|DirectUse { wwid, disk, by }| (UsedDirectly { wwid, disk, by }, 1u64)),
    )
}
