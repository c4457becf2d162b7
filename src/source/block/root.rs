//! The block devices below the root file system, through all layers.
//!
//! ```text
//! …/dm-3/slaves/dm-0           its components: LVM, crypt, partitions on a map, RAID
//! …/sda/sda2/partition         a partition lies in its disk's directory
//! ```

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::mounts::{Finder, Mounts, links};
use crate::source::Error;
use crate::source::files::exists;

/// Returns the kernel names of all block devices below `/`. The result is empty if the root file
/// system has no block device or an unknown one. `sysfs` is the mount point of sysfs. A directory
/// that cannot be listed counts as empty, because alerts need only devices that are known to carry
/// the root.
///
/// # Errors
/// If this process has no files left to read with.
pub(crate) fn devices(sysfs: &Path, mounts: &Mounts, finder: &Finder<'_>) -> Result<HashSet<String>, Error> {
    let mut found = HashSet::new();
    let known = mounts.on_root().map(|mount| finder.of_mount(&mount));
    let mut open: Vec<PathBuf> = known.into_iter().find(|devices| !devices.is_empty()).unwrap_or_default();
    while let Some(place) = open.pop() {
        let Some(name) = place.file_name().and_then(|name| name.to_str()) else { continue };
        if !found.insert(name.to_owned()) {
            continue;
        }
        if exists(&sysfs.join(&place).join("partition")) {
            open.extend(place.parent().map(Path::to_owned));
        }
        open.extend(links(sysfs, &place.join("slaves"))?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::mounts::Tables;
    use super::*;
    use crate::source::Places;

    fn devices_of(procfs: &Path, sysfs: &Path) -> Result<HashSet<String>, Error> {
        let places =
            Places { sysfs: sysfs.to_owned(), procfs: procfs.to_owned(), udev_data: sysfs.join("udev"), capture: None };
        devices(sysfs, &Tables::default().mounts(procfs)?, &Finder::new(&places)?)
    }

    #[test]
    fn the_root_lies_on_lvm_a_partition_and_a_map() {
        let tree = tempfile::tempdir().unwrap();
        let (procfs, sysfs) = (tree.path().join("proc"), tree.path().join("sys"));
        let block = sysfs.join("devices/virtual/block");
        fs::create_dir_all(procfs.join("1")).unwrap();
        fs::write(
            procfs.join("1/mountinfo"),
            "1 0 0:1 / / rw - rootfs rootfs rw\n2 1 254:2 / / rw - ext4 /dev/mapper/vg-root rw\n",
        )
        .unwrap();
        // vg-root (dm-2) lies on a partition (dm-1) of the map dm-0 on sda, and on a partition of
        // sdb.
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
        let mut found: Vec<_> = devices_of(&procfs, &sysfs).unwrap().into_iter().collect();
        found.sort();
        assert_eq!(found, ["dm-0", "dm-1", "dm-2", "sda", "sdb", "sdb1"]);
    }

    #[test]
    fn a_root_without_device_yields_no_devices() {
        let tree = tempfile::tempdir().unwrap();
        let devices = || devices_of(tree.path(), tree.path());
        assert!(devices().is_err());
        fs::create_dir_all(tree.path().join("self")).unwrap();
        fs::write(tree.path().join("self/mountinfo"), "1 0 0:5 / / rw - overlay overlay rw\n").unwrap();
        assert_eq!(devices(), Ok(HashSet::new()));
    }
}
