//! The block devices that the root file system stands on, through whatever layers.
//!
//! ```text
//! /proc/1/mountinfo            what is mounted on /             (Documentation/filesystems/proc.rst)
//! dev/block/254:3              the block device of that number
//! fs/btrfs/UUID/devices/dm-4   all devices of a btrfs, which mountinfo names one of
//! …/dm-3/slaves/dm-0           what it is made of: LVM, crypt, partitions on a map, RAID
//! …/sda/sda2/partition         a partition lies in its disk's directory
//! ```

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};

use super::files::{follow, list};
use crate::topology::DevNo;

/// The kernel names of all block devices below `/`: none where it stands on no block device, or on one that cannot be
/// told. `procfs` and `sysfs` are where these are mounted. `None` if what is mounted cannot be read.
pub fn devices(procfs: &Path, sysfs: &Path) -> Option<HashSet<String>> {
    let mut found = HashSet::new();
    let root = root_device(&mounts(procfs)?).and_then(|devno| place_of(sysfs, devno));
    let mut open = root.map(|place| whole_file_system(sysfs, place)).unwrap_or_default();
    while let Some(place) = open.pop() {
        let Some(name) = place.file_name().and_then(|name| name.to_str()) else { continue };
        if !found.insert(name.to_owned()) {
            continue;
        }
        let directory = sysfs.join(&place);
        if directory.join("partition").exists() {
            open.extend(place.parent().map(Path::to_owned));
        }
        open.extend(links(sysfs, &place.join("slaves")));
    }
    Some(found)
}

/// What is mounted, as the first process sees it, or we if that may not be read.
fn mounts(procfs: &Path) -> Option<String> {
    let tables = ["1/mountinfo", "self/mountinfo"];
    tables.iter().find_map(|table| fs::read_to_string(procfs.join(table)).ok())
}

/// The device of the file system on `/`.
fn root_device(table: &str) -> Option<DevNo> {
    // What was mounted last is on top.
    let (devno, source) = table.lines().rev().find_map(mounted_on_root)?;
    match devno.major {
        // btrfs and others have a number of their own and name a device.
        0 => {
            let device = fs::metadata(source).ok()?.rdev();
            Some(DevNo { major: major(device), minor: minor(device) })
        }
        _ => Some(devno),
    }
}

/// Device number and source, if this line of mountinfo is about `/`.
fn mounted_on_root(line: &str) -> Option<(DevNo, &str)> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(2);
    let (devno, mount_point) = (fields.next()?, fields.nth(1)?);
    let source = file_system.split(' ').nth(1)?;
    Some((devno.parse().ok()?, source)).filter(|_| mount_point == "/")
}

fn place_of(sysfs: &Path, devno: DevNo) -> Option<PathBuf> {
    let numbers = Path::new("dev/block");
    follow(&sysfs.join(numbers).join(devno.to_string()), numbers).ok().flatten()
}

/// The devices of the file system that stands on this one.
fn whole_file_system(sysfs: &Path, place: PathBuf) -> Vec<PathBuf> {
    let file_systems = Path::new("fs/btrfs");
    let entries = list(&sysfs.join(file_systems)).unwrap_or_default().into_iter();
    let mut devices = entries.map(|entry| links(sysfs, &file_systems.join(entry.name).join("devices")));
    devices.find(|devices| devices.contains(&place)).unwrap_or_else(|| vec![place])
}

/// Where the links in a directory point. What cannot be listed is not looked through: the alert is for what is known to
/// carry the root.
fn links(sysfs: &Path, directory: &Path) -> Vec<PathBuf> {
    let entries = list(&sysfs.join(directory)).unwrap_or_default().into_iter();
    entries.filter_map(|entry| follow(&sysfs.join(directory).join(entry.name), directory).ok()?).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn lines_of_mountinfo() {
        for (line, found) in [
            ("36 35 98:0 /mnt1 / rw,noatime master:1 - ext3 /dev/root rw,errors=continue", Some(("98:0", "/dev/root"))),
            ("22 1 0:20 /@ / rw,relatime shared:1 - btrfs /dev/mapper/a rw", Some(("0:20", "/dev/mapper/a"))),
            ("36 35 98:0 / /mnt rw - ext3 /dev/root rw", None),
            ("36 35 98:0 / / rw", None),
            ("", None),
        ] {
            let found = found.map(|(devno, source)| (devno.parse().unwrap(), source));
            assert_eq!(mounted_on_root(line), found, "{line}");
        }
    }

    #[test]
    fn through_lvm_a_partition_and_a_map() {
        let tree = tempfile::tempdir().unwrap();
        let (procfs, sysfs) = (tree.path().join("proc"), tree.path().join("sys"));
        let block = sysfs.join("devices/virtual/block");
        fs::create_dir_all(procfs.join("1")).unwrap();
        fs::write(
            procfs.join("1/mountinfo"),
            "1 0 0:1 / / rw - rootfs rootfs rw\n2 1 254:2 / / rw - ext4 /dev/mapper/vg-root rw\n",
        )
        .unwrap();
        // vg-root (dm-2) on a partition of a map (dm-1) on the map (dm-0) on sda, and on a partition of sdb.
        for (device, slaves) in
            [("dm-2", &["dm-1", "sdb1"][..]), ("dm-1", &["dm-0"]), ("dm-0", &["sda"]), ("dm-9", &["sdc"])]
        {
            let directory = block.join(device).join("slaves");
            fs::create_dir_all(&directory).unwrap();
            for slave in slaves {
                let target = match *slave {
                    "sdb1" => "../../../../pci/block/sdb/sdb1".to_owned(),
                    slave if slave.starts_with("dm-") => format!("../../{slave}"),
                    slave => format!("../../../../pci/block/{slave}"),
                };
                symlink(target, directory.join(slave)).unwrap();
            }
        }
        fs::create_dir_all(sysfs.join("devices/pci/block/sda")).unwrap();
        fs::create_dir_all(sysfs.join("devices/pci/block/sdb/sdb1")).unwrap();
        fs::write(sysfs.join("devices/pci/block/sdb/sdb1/partition"), "1\n").unwrap();
        fs::create_dir_all(sysfs.join("dev/block")).unwrap();
        symlink("../../devices/virtual/block/dm-2", sysfs.join("dev/block/254:2")).unwrap();
        let mut found: Vec<_> = devices(&procfs, &sysfs).unwrap().into_iter().collect();
        found.sort();
        assert_eq!(found, ["dm-0", "dm-1", "dm-2", "sda", "sdb", "sdb1"]);
    }

    #[test]
    fn a_root_on_no_device_is_on_none() {
        let tree = tempfile::tempdir().unwrap();
        assert_eq!(devices(tree.path(), tree.path()), None);
        fs::create_dir_all(tree.path().join("self")).unwrap();
        fs::write(tree.path().join("self/mountinfo"), "1 0 0:5 / / rw - overlay overlay rw\n").unwrap();
        assert_eq!(devices(tree.path(), tree.path()), Some(HashSet::new()));
    }
}
