//! Disks that are there on several paths, and that no multipath device holds: an installer would show one disk twice, and
//! whoever uses one of them loses it with that path.
//!
//! `block/sdb` is a whole disk; `dev` its number. What it is, udev knows ([`super::udev_db`]).

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use super::Error;
use super::files::{Attribute, Entry, follow};
use super::inventory::Inventory;
use super::udev_db::UdevDb;
use crate::topology::DevNo;

/// A disk that could be assembled.
#[derive(Clone, Debug, PartialEq, Eq)]
struct WholeDisk {
    name: Arc<str>,
    devno: DevNo,
}

/// A disk that no multipath device holds, by each of its paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unassembled {
    /// Its identity.
    pub wwid: Arc<str>,
    /// The kernel names of its paths: two or more.
    pub paths: Vec<Arc<str>>,
}

/// Reads whole disks and remembers them.
#[derive(Debug)]
pub struct WholeDisks {
    disks: Inventory<WholeDisk>,
    file: Attribute,
}

impl WholeDisks {
    /// `root` is where sysfs is mounted.
    pub fn new(root: &Path) -> Self {
        WholeDisks { disks: Inventory::new(root.join("block")), file: Attribute::default() }
    }

    /// Those of `block` that are there on several paths though no map has one of these as a member, sorted by WWID.
    pub fn unassembled(
        &mut self,
        block: &[Entry],
        identities: &UdevDb,
        members: &HashSet<DevNo>,
        unreadable: &mut Vec<Error>,
    ) -> Vec<Unassembled> {
        let file = &mut self.file;
        self.disks.read_these(block, unreadable, |directory, name, last, _| match last {
            Some(last) => Ok(Some(last.clone())),
            None if !is_disk(name) || is_left_alone(directory)? => Ok(None),
            None => {
                let devno = file.parsed(directory, "dev")?;
                Ok(devno.map(|devno| WholeDisk { name: Arc::clone(name), devno }))
            }
        });
        let disks = self.disks.all();
        let (assembled, free): (Vec<_>, Vec<_>) = disks.iter().partition(|disk| members.contains(&disk.devno));
        let mut paths: BTreeMap<Arc<str>, Vec<Arc<str>>> = BTreeMap::new();
        for disk in free {
            if let Some(wwid) = identities.wwid(disk.devno, &disk.name) {
                paths.entry(Arc::clone(wwid)).or_default().push(Arc::clone(&disk.name));
            }
        }
        paths.retain(|_, paths| paths.len() > 1);
        // On nearly every host that is all: there are none.
        if !paths.is_empty() {
            let wwids: HashSet<_> =
                assembled.iter().filter_map(|disk| identities.wwid(disk.devno, &disk.name)).collect();
            paths.retain(|wwid, _| !wwids.contains(wwid));
        }
        paths.into_iter().map(|(wwid, paths)| Unassembled { wwid, paths }).collect()
    }
}

/// Whether it is a disk that multipath takes: neither a device-mapper, loop, RAM or optical one, nor a hidden NVMe path.
fn is_disk(name: &str) -> bool {
    let starts =
        |prefix: &str| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
    let nvme = name.strip_prefix("nvme").is_some_and(|rest| rest.contains('n') && !rest.contains('c'));
    starts("sd") || starts("dasd") || nvme
}

/// Whether multipath leaves it alone by the place where it lies: an NVMe multipath head, which has its paths below it, or a
/// disk on USB, of which many have the same serial number (`allow_usb_devices` in `multipath.conf(5)`).
fn is_left_alone(directory: &Path) -> Result<bool, Error> {
    let left_alone = |part: &OsStr| {
        let usb = part.to_str().and_then(|part| part.strip_prefix("usb"));
        part == "nvme-subsystem" || usb.is_some_and(|bus| bus.starts_with(|c: char| c.is_ascii_digit()))
    };
    let place = follow(directory, Path::new("block"))?;
    Ok(place.is_some_and(|place| place.components().any(|part| left_alone(part.as_os_str()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_by_their_names() {
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
        ] {
            assert_eq!(is_disk(name), disk, "{name}");
        }
    }
}
