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

use crate::source::files::{Attribute, Entry, essence, exists, follow, list};
use crate::source::{Error, Places, dm_name, recorded, witness};
use crate::topology::DevNo;

/// The kernel names of all block devices below `/`: none where it stands on no block device, or on one that cannot be
/// told.
///
/// # Errors
/// If what is mounted cannot be read.
pub fn devices(places: &Places) -> Result<HashSet<String>, Error> {
    let sysfs = &places.sysfs;
    let mut found = HashSet::new();
    let table = mounts(&places.procfs)?;
    let root = mounted_on_root(&table).find_map(|(devno, source)| place_of(places, devno, source));
    let mut open = root.map_or_else(|| Ok(Vec::new()), |place| whole_file_system(sysfs, place))?;
    while let Some(place) = open.pop() {
        let Some(name) = place.file_name().and_then(|name| name.to_str()) else { continue };
        if !found.insert(name.to_owned()) {
            continue;
        }
        let directory = sysfs.join(&place);
        if exists(&directory.join("partition")) {
            open.extend(place.parent().map(Path::to_owned));
        }
        open.extend(links(sysfs, &place.join("slaves"))?);
    }
    Ok(found)
}

/// What is mounted, as the first process sees it, or we if that may not be read. A mount point may be any bytes.
fn mounts(procfs: &Path) -> Result<String, Error> {
    let read = |table: &str| {
        let file = procfs.join(table);
        essence(&file, root_mounts).map_err(|cause| Error::io(file.display(), &cause))
    };
    let table = read("1/mountinfo").or_else(|_| read("self/mountinfo"))?;
    Ok(String::from_utf8_lossy(&table).into_owned())
}

/// The lines of the table that are of interest here.
fn root_mounts(table: &[u8]) -> Vec<u8> {
    let lines = table.split_inclusive(|byte| *byte == b'\n');
    let is_root = |line: &&[u8]| {
        let line = String::from_utf8_lossy(line);
        ROOTS.into_iter().any(|mount_point| mounted_on(mount_point, &line).is_some())
    };
    lines.filter(is_root).flatten().copied().collect()
}

/// Where the root file system is mounted, and where what an image of it lies in.
const ROOTS: [&str; 2] = ["/", "/sysroot"];

/// Device number and source of what is mounted on `/`, what is on top first. Below an overlay may be what the machine was
/// booted from; where that is an image in a file system (composefs), that one is mounted on `/sysroot`.
fn mounted_on_root(table: &str) -> impl Iterator<Item = (DevNo, &str)> {
    let on = |mount_point| table.lines().rev().filter_map(move |line| mounted_on(mount_point, line));
    ROOTS.into_iter().flat_map(on)
}

/// Device number and source, if this line of mountinfo is about this mount point.
fn mounted_on<'a>(mount_point: &str, line: &'a str) -> Option<(DevNo, &'a str)> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(2);
    let (devno, mounted) = (fields.next()?, fields.nth(1)?);
    let source = file_system.split(' ').nth(1)?;
    Some((devno.parse().ok()?, source)).filter(|_| mounted == mount_point)
}

/// The directory of the block device that a file system stands on. btrfs and others have a number of their own and name a
/// device: its node may be another machine's here (a container's), so it is looked for by its name first.
fn place_of(places: &Places, devno: DevNo, source: &str) -> Option<PathBuf> {
    let sysfs = &places.sysfs;
    let numbered = |devno: DevNo| {
        let numbers = Path::new("dev/block");
        follow(&sysfs.join(numbers).join(devno.to_string()), numbers).ok().flatten()
    };
    if devno.major != 0 {
        return numbered(devno);
    }
    let named = || {
        let name = source.strip_prefix("/dev/")?;
        let kernel_name = name.strip_prefix("mapper/").map_or_else(|| Some(name.into()), |name| mapped(sysfs, name))?;
        let names = Path::new("class/block");
        follow(&sysfs.join(names).join(kernel_name), names).ok().flatten()
    };
    named().or_else(|| numbered(number_of(source, places.capture.as_deref())?))
}

/// The number of a device node.
fn number_of(node: &str, capture: Option<&Path>) -> Option<DevNo> {
    if let Some(capture) = capture {
        return recorded::read(capture).ok()?.nodes.get(node)?.parse().ok();
    }
    let device = fs::metadata(Path::new(node).is_absolute().then_some(node)?).ok()?.rdev();
    let devno = DevNo { major: major(device), minor: minor(device) };
    witness::node(node, devno);
    Some(devno)
}

/// The kernel name of a device-mapper device.
fn mapped(sysfs: &Path, name: &str) -> Option<String> {
    let block = sysfs.join("block");
    let mut file = Attribute::default();
    let devices = list(&block).ok()?.into_iter().map(|entry| entry.name).filter(|name| name.starts_with("dm-"));
    devices.into_iter().find(|device| {
        let known = file.bytes(&block.join(device), "dm/name").ok().flatten();
        known.is_some_and(|known| dm_name(known) == name)
    })
}

/// The devices of the file system that stands on this one.
fn whole_file_system(sysfs: &Path, place: PathBuf) -> Result<Vec<PathBuf>, Error> {
    let file_systems = Path::new("fs/btrfs");
    for entry in unless_exhausted(list(&sysfs.join(file_systems)))? {
        let devices = links(sysfs, &file_systems.join(entry.name).join("devices"))?;
        if devices.contains(&place) {
            return Ok(devices);
        }
    }
    Ok(vec![place])
}

/// Where the links in a directory point. What cannot be listed is not looked through: the alert is for what is known to
/// carry the root.
fn links(sysfs: &Path, directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = unless_exhausted(list(&sysfs.join(directory)))?.into_iter();
    Ok(entries.filter_map(|entry| follow(&sysfs.join(directory).join(entry.name), directory).ok()?).collect())
}

/// A directory that cannot be listed counts as empty, unless this process has no files left to list it with.
fn unless_exhausted(listed: Result<Vec<Entry>, Error>) -> Result<Vec<Entry>, Error> {
    listed.or_else(|error| if error.is_exhaustion() { Err(error) } else { Ok(Vec::new()) })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn places(procfs: &Path, sysfs: &Path) -> Places {
        Places { sysfs: sysfs.to_owned(), procfs: procfs.to_owned(), udev_data: sysfs.join("udev"), capture: None }
    }

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
            assert_eq!(mounted_on("/", line), found, "{line}");
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
        let mut found: Vec<_> = devices(&places(&procfs, &sysfs)).unwrap().into_iter().collect();
        found.sort();
        assert_eq!(found, ["dm-0", "dm-1", "dm-2", "sda", "sdb", "sdb1"]);
    }

    #[test]
    fn a_root_on_no_device_is_on_none() {
        let tree = tempfile::tempdir().unwrap();
        let places = places(tree.path(), tree.path());
        assert!(devices(&places).is_err());
        fs::create_dir_all(tree.path().join("self")).unwrap();
        fs::write(tree.path().join("self/mountinfo"), "1 0 0:5 / / rw - overlay overlay rw\n").unwrap();
        assert_eq!(devices(&places), Ok(HashSet::new()));
    }
}
