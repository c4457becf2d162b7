//! Disks that are members of no map, though they could be: a map lacks them, or no map was created.
//!
//! ```text
//! block/sdb                       leads to the disk's directory, see disks.rs
//! block/sdb/holders/md0           what holds it
//! block/sdb/sdb1/holders/md0      what holds a partition of it
//! block/emcpowera/slaves/sdb      the same from the other side
//! ```
//!
//! A reading of everything reads the files of these disks. The members were read before.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disks::{Disk, Disks, KnownDisk, is_numbered};
use super::udev_db::UdevDb;
use crate::source::Error;
use crate::source::files::{Attribute, DirectoryEntry, follow, list, or_note};
use crate::topology::{DevNo, Transport};

/// A disk that is a member of no map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) disk: Arc<Disk>,
    /// The identity in udev's database.
    pub(crate) wwid: Arc<str>,
    /// udev's mark (`DM_MULTIPATH_DEVICE_PATH`): true for a path of multipath, false for any other
    /// disk. `None` if udev has set no mark.
    pub(crate) mark: Option<bool>,
    /// The kernel name of another driver's device that holds the disk or a partition of it: `md0`,
    /// `emcpowera`.
    pub(crate) held_by: Option<Arc<str>>,
    /// A device of another multipath driver that has the disk's size, if sysfs does not show which
    /// disks that device holds.
    pub(crate) resembles: Option<Arc<str>>,
    /// True if another LUN of the same SCSI host, channel and target is in a map.
    pub(crate) is_beside_member: bool,
}

/// Reads these disks, and remembers them for values that cannot be read.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    known: HashMap<String, (KnownDisk, Candidate)>,
}

/// A device of another multipath driver that does not show its disks.
struct OpaqueDevice {
    name: Arc<str>,
    wwid: Option<Arc<str>>,
    size_bytes: Option<u64>,
}

/// The devices of other drivers, and the disks that they hold.
#[derive(Default)]
struct Drivers {
    /// By the kernel name of a disk or partition.
    holders: HashMap<String, Arc<str>>,
    opaque: Vec<OpaqueDevice>,
}

impl Strangers {
    /// Reads the disks in `block` that multipath could use and that udev knows. Disks that were
    /// read as members are left out.
    pub(crate) fn read(
        &mut self,
        sysfs: &Path,
        block: &[DirectoryEntry],
        members: &[&Disk],
        disks: &mut Disks,
        identities: &UdevDb,
        unreadable: &mut Vec<Error>,
    ) -> Vec<Candidate> {
        let names: HashSet<&str> = members.iter().map(|disk| &*disk.name).collect();
        let mut file = Attribute::default();
        let drivers = Drivers::read(sysfs, block, identities, &mut file, unreadable);
        let mut before = std::mem::take(&mut self.known);
        for DirectoryEntry { name, .. } in
            block.iter().filter(|entry| is_disk(&entry.name) && !names.contains(&*entry.name))
        {
            let last = before.remove(name);
            let directory = sysfs.join("block").join(name);
            let found = follow(&directory, Path::new("block"))
                .and_then(|place| Ok(place.zip(file.parsed::<DevNo>(&directory, "dev")?)));
            let (place, devno) = match found {
                Ok(Some(found)) => found,
                Ok(None) => continue,
                Err(error) => {
                    unreadable.push(error);
                    self.known.extend(last.map(|last| (name.clone(), last)));
                    continue;
                }
            };
            let Some(wwid) = identities.wwid(devno, name).filter(|_| !is_left_alone(&place)) else { continue };
            let (last_disk, last) = last.unzip();
            let last_disk = last_disk.filter(|known: &KnownDisk| known.disk.devno == devno);
            let known = disks.read(devno, &place, last_disk, identities, unreadable);
            let disk = Arc::clone(&known.disk);
            let holders = holders(&directory, name).map(Some);
            let held_by = match or_note(holders, unreadable) {
                Some(holders) => holders.into_iter().next().or_else(|| drivers.holder_of(name, wwid)),
                None => last.and_then(|last| last.held_by),
            };
            let candidate = Candidate {
                wwid: Arc::clone(wwid),
                mark: identities.mark(devno),
                resembles: drivers.of_size_of(&disk).filter(|_| held_by.is_none()),
                held_by,
                is_beside_member: false,
                disk,
            };
            self.known.insert(name.clone(), (known, candidate));
        }
        let mut candidates: Vec<Candidate> = self.known.values().map(|(_, candidate)| candidate.clone()).collect();
        candidates.sort_by_key(|candidate| candidate.disk.devno);
        look_for_neighbours(&mut candidates, members);
        candidates
    }
}

/// Finds the candidates whose target has another LUN in a map. Searches only the few targets of
/// candidates. Targets of virtio-scsi do not count, because a hypervisor presents unrelated disks
/// as LUNs of one target.
fn look_for_neighbours(candidates: &mut [Candidate], members: &[&Disk]) {
    let has_targets = |disk: &Disk| disk.transport != Transport::VirtioScsi;
    let with_targets = candidates.iter().map(|candidate| &candidate.disk).filter(|disk| has_targets(disk));
    let mut has_member: HashMap<String, bool> =
        with_targets.filter_map(|disk| Some((disk.target()?.to_owned(), false))).collect();
    if has_member.is_empty() {
        return;
    }
    for target in members.iter().filter_map(|disk| disk.target()) {
        if let Some(has_member) = has_member.get_mut(target) {
            *has_member = true;
        }
    }
    for candidate in candidates.iter_mut().filter(|candidate| has_targets(&candidate.disk)) {
        candidate.is_beside_member = candidate.disk.target().is_some_and(|target| has_member[target]);
    }
}

impl Drivers {
    fn read(
        sysfs: &Path,
        block: &[DirectoryEntry],
        identities: &UdevDb,
        file: &mut Attribute,
        unreadable: &mut Vec<Error>,
    ) -> Self {
        let mut drivers = Drivers::default();
        for DirectoryEntry { name, .. } in block.iter().filter(|entry| is_of_another_driver(&entry.name)) {
            let directory = sysfs.join("block").join(name);
            let holder: Arc<str> = name.as_str().into();
            let slaves = or_note(list(&directory.join("slaves")).map(Some), unreadable).unwrap_or_default();
            let is_opaque = slaves.is_empty() && is_of_multipath_driver(name);
            for slave in slaves {
                let disks = disks_at(&directory.join("slaves").join(&slave.name));
                let disks = disks.into_iter().chain([slave.name]);
                drivers.holders.extend(disks.map(|disk| (disk, Arc::clone(&holder))));
            }
            if is_opaque {
                let devno = or_note(file.parsed::<DevNo>(&directory, "dev"), unreadable);
                let wwid = devno.and_then(|devno| identities.wwid(devno, name)).cloned();
                let size_bytes = or_note(file.size_bytes(&directory), unreadable).filter(|size| *size > 0);
                drivers.opaque.push(OpaqueDevice { name: holder, wwid, size_bytes });
            }
        }
        drivers
    }

    fn holder_of(&self, name: &str, wwid: &Arc<str>) -> Option<Arc<str>> {
        let by_wwid = || self.opaque.iter().find(|device| device.wwid.as_ref() == Some(wwid));
        self.holders.get(name).or_else(|| by_wwid().map(|device| &device.name)).cloned()
    }

    fn of_size_of(&self, disk: &Disk) -> Option<Arc<str>> {
        let has_its_size = |device: &&OpaqueDevice| device.size_bytes.is_some() && device.size_bytes == disk.size_bytes;
        self.opaque.iter().find(has_its_size).map(|device| Arc::clone(&device.name))
    }
}

/// Returns the kernel names of the disk or partition at the end of this link, and of the disk that
/// contains the partition.
fn disks_at(link: &Path) -> Vec<String> {
    let place = follow(link, Path::new("")).ok().flatten().unwrap_or_default();
    place.iter().filter_map(OsStr::to_str).filter(|name| is_disk(name)).map(str::to_owned).collect()
}

/// Returns the devices of other drivers that hold the disk or a partition of it.
fn holders(directory: &Path, name: &str) -> Result<Vec<Arc<str>>, Error> {
    let mut holders = Vec::new();
    let parts = list(directory)?.into_iter().filter(|entry| entry.name.starts_with(name));
    for part in [PathBuf::new()].into_iter().chain(parts.map(|part| part.name.into())) {
        let held = list(&directory.join(part).join("holders"))?.into_iter();
        holders.extend(held.filter(|entry| is_of_another_driver(&entry.name)).map(|entry| entry.name.into()));
    }
    Ok(holders)
}

/// Returns true if the name is that of a driver that combines several disks: an array or a
/// multipath driver.
pub(crate) fn is_of_another_driver(name: &str) -> bool {
    is_numbered(name, "md") || name.starts_with("md_") || is_of_multipath_driver(name)
}

/// Returns true for a device of PowerPath (`emcpowera`), of Veritas (`VxDMP1`, and the volumes
/// `VxVM1000`), or of HDLM (`sddlmaa`).
pub(crate) fn is_of_multipath_driver(name: &str) -> bool {
    ["emcpower", "VxDMP", "vxdmp", "VxVM", "sddlm"].iter().any(|driver| {
        name.strip_prefix(driver).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_alphanumeric()))
    })
}

/// Returns true for a disk that multipath could use. Device-mapper, loop, RAM and optical devices
/// and hidden NVMe paths do not count.
fn is_disk(name: &str) -> bool {
    let starts =
        |prefix: &str| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
    let nvme = name.strip_prefix("nvme").is_some_and(|rest| rest.contains('n') && !rest.contains('c'));
    (starts("sd") || starts("dasd") || nvme) && !is_of_multipath_driver(name)
}

/// Returns true if the place of the disk shows that it is not one of several paths. This holds for
/// an NVMe multipath head, which has its paths below it. It holds for a disk on USB, because many
/// USB disks have the same serial number (`allow_usb_devices` in `multipath.conf(5)`). It also
/// holds for a disk on an ATA port, which is wired to one drive.
fn is_left_alone(place: &Path) -> bool {
    let left_alone = |part: &str| part == "nvme-subsystem" || is_numbered(part, "usb") || is_numbered(part, "ata");
    place.iter().filter_map(OsStr::to_str).any(left_alone)
}

/// The tests of this file, and a disk for the tests of other modules.
#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::source::block::disks::{DiskIdentity, IoCounts, Model, States};
    use crate::topology::Ports;

    /// Returns a running SCSI disk of this name and address, without mark and holders.
    pub(crate) fn candidate(name: &str, wwid: &str, hctl: &str) -> Candidate {
        let minor = u32::from(name.as_bytes()[name.len() - 1] - b'a') * 16;
        Candidate {
            disk: Arc::new(Disk {
                devno: DevNo { major: 8, minor },
                name: name.into(),
                hctl: hctl.into(),
                transport: Transport::Unknown,
                way: None,
                ports: Ports::default(),
                model: Model { vendor: "VEND".into(), product: "MODEL".into(), revision: "1".into() },
                identity: DiskIdentity::default(),
                size_bytes: Some(1 << 30),
                read_only: Some(false),
                stalled: None,
                io: IoCounts::default(),
                states: States { device: Some("running".into()), ..States::default() },
            }),
            wwid: wwid.into(),
            mark: None,
            held_by: None,
            resembles: None,
            is_beside_member: false,
        }
    }

    #[test]
    fn disks_are_recognised_by_their_names() {
        for (name, disk) in [
            ("sda", true),
            ("sdaa", true),
            ("dasdb", true),
            ("nvme0n1", true),
            ("nvme0c1n1", false),
            ("sr0", false),
            ("dm-0", false),
            ("loop0", false),
            ("ram0", false),
            ("sd", false),
            ("sddlmaa", false),
            ("sddlm", true),
        ] {
            assert_eq!(is_disk(name), disk, "{name}");
        }
    }

    #[test]
    fn drivers_are_recognised_by_the_names_of_their_devices() {
        for (name, of_another, of_multipath) in [
            ("md0", true, false),
            ("md127", true, false),
            ("md_data", true, false),
            ("emcpowera", true, true),
            ("VxDMP1", true, true),
            ("vxdmp12", true, true),
            ("VxVM1000", true, true),
            ("sddlmaa", true, true),
            ("dm-3", false, false),
            ("bcache0", false, false),
            ("sdd", false, false),
            ("emcpower", false, false),
            ("mdadm", false, false),
        ] {
            assert_eq!(
                (is_of_another_driver(name), is_of_multipath_driver(name)),
                (of_another, of_multipath),
                "{name}"
            );
        }
    }

    #[test]
    fn a_disk_beside_a_member_is_another_lun_of_its_target() {
        let at = |hctl: &str, transport| {
            let disk = candidate("sda", "3600a", hctl);
            Candidate { disk: Arc::new(Disk { transport, ..(*disk.disk).clone() }), ..disk }
        };
        let member = at("6:0:0:1", Transport::Iscsi).disk;
        let cases = [
            ("6:0:0:2", Transport::Iscsi, true),
            ("6:0:1:2", Transport::Iscsi, false),
            ("16:0:0:2", Transport::Iscsi, false),
            ("6:0:0:2", Transport::VirtioScsi, false),
            ("", Transport::Unknown, false),
        ];
        let mut candidates: Vec<_> = cases.iter().map(|(hctl, transport, _)| at(hctl, *transport)).collect();
        look_for_neighbours(&mut candidates, &[&member]);
        let found: Vec<_> = candidates.iter().map(|candidate| candidate.is_beside_member).collect();
        assert_eq!(found, cases.map(|(_, _, expected)| expected));
    }

    #[test]
    fn disks_that_are_left_alone_because_of_their_place() {
        for (place, alone) in [
            ("devices/pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0/host6/target6:0:0/6:0:0:0/block/sdb", true),
            ("devices/pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block/sda", true),
            ("devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1", true),
            ("devices/pci0000:00/0000:01:00.0/host6/target6:0:0/6:0:0:0/block/sdb", false),
            ("devices/platform/host2/session1/target2:0:0/2:0:0:1/block/sdc", false),
        ] {
            assert_eq!(is_left_alone(Path::new(place)), alone, "{place}");
        }
    }
}
