//! Metric families of sessions, ports and controllers, and of disks that multipath does not hold or
//! does not hold alone.

mod fibre_channel;
mod iscsi;
mod nvme;

use std::fmt;

use super::{Families, labels};
use crate::topology::{DirectUse, Failures, Ports, Snapshot};

labels!(FailureLabels {
    target: &'a str,
    target_port: &'a str,
    initiator_port: &'a str,
});

labels!(Unassembled {
    wwid: &'a str,
});

labels!(UsedDirectly {
    wwid: &'a str,
    disk: &'a str,
    by: &'a str,
});

/// Writes the families of iSCSI, Fibre Channel and NVMe, and of disks that multipath does not hold
/// or does not hold alone. Only with `events` it writes those that count events since the start.
pub fn encode(snapshot: &Snapshot, events: bool, families: &mut Families) -> fmt::Result {
    iscsi::encode(snapshot, events, families)?;
    fibre_channel::encode(snapshot, families)?;
    nvme::encode(snapshot, events, families)?;
    families.gauge(
        "multipath_unassembled_paths",
        "Paths of a disk that neither a multipath device nor another driver holds",
        // A disk that another driver holds is not for multipath, so no alert may mention it.
        snapshot
            .unassembled
            .iter()
            .filter(|disk| disk.held_by.is_none())
            .map(|disk| (Unassembled { wwid: &disk.wwid }, disk.paths.len() as u64)),
    )?;
    families.gauge(
        "multipath_disk_used_directly",
        "1 for each disk that is used directly instead of through its multipath device",
        snapshot.used_directly.iter().map(|DirectUse { wwid, disk, by }| (UsedDirectly { wwid, disk, by }, 1u64)),
    )
}

/// Writes the failures of sessions or controllers, by their ports. `name` comes without `_total`.
fn failures(families: &mut Families, name: &str, help: &str, failures: &Failures) -> fmt::Result {
    families.counter(
        name,
        help,
        failures.iter().map(|(ports, failures)| {
            let Ports { initiator_port, target, target_port } = ports;
            (FailureLabels { target, target_port, initiator_port }, *failures)
        }),
    )
}
