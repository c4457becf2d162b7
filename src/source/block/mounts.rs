//! Mounts and swaps, and their block devices.
//!
//! ```text
//! /proc/1/mountinfo            the mounts                        (Documentation/filesystems/proc.rst)
//! /proc/swaps                  the swaps
//! dev/block/254:3              the block device of a number
//! fs/btrfs/UUID/devices/dm-4   all devices of a btrfs, of which mountinfo names one
//! ```
//!
//! This module does not see other mount namespaces and ZFS pools. It does not see a journal or log
//! on a separate device. It does not see programs that have opened a device node (a virtual
//! machine, a database, an iSCSI target, a loop device, DRBD).

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};

use crate::source::files::{Attribute, DirectoryEntry, Table, follow, list};
use crate::source::{Error, Places, dm_name, is_gone, recorded, witness};
use crate::topology::DevNo;

/// The mount points of the root file system, and of the file system that holds an image of it.
pub(crate) const ROOT_MOUNT_POINTS: [&str; 2] = ["/", "/sysroot"];

/// The table of mounts.
#[derive(Debug)]
pub(crate) struct Mounts {
    /// True if these are the mounts of the first process. Otherwise they are the exporter's own,
    /// which may be fewer.
    pub(crate) of_first_process: bool,
    table: String,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mount<'a> {
    /// The file system's device number: that of a block device, or one of its own (major number 0).
    pub(crate) devno: DevNo,
    /// The mount point, escaped as in mountinfo.
    pub(crate) mount_point: &'a str,
    /// The mounted source, usually a device node.
    pub(crate) source: String,
}

impl<'a> Mount<'a> {
    /// Parses a line of mountinfo. `None` if the line has another form.
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(2);
        let (devno, mount_point) = (fields.next()?, fields.nth(1)?);
        let source = file_system.split(' ').nth(1)?;
        Some(Mount { devno: devno.parse().ok()?, mount_point, source: unescaped(source) })
    }

    fn is_on_root(&self) -> bool {
        ROOT_MOUNT_POINTS.contains(&self.mount_point)
    }

    /// Returns true if the file system stands on a block device.
    pub(crate) fn has_device(&self) -> bool {
        self.devno.major != 0 || self.source.starts_with("/dev/")
    }
}

/// Reads the tables of mounts and swaps.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    first: Table,
    own: Table,
    swaps: Table,
    /// True if the first process's mounts have been read. The exporter's own mounts do not replace
    /// them later.
    knows_first: bool,
}

impl Tables {
    /// Returns the mounts of the first process, or the exporter's own if the first process's cannot
    /// be read. A mount point may be any bytes.
    ///
    /// # Errors
    /// If neither table can be read.
    pub(crate) fn mounts(&mut self, procfs: &Path) -> Result<Mounts, Error> {
        let read = |table: &mut Table, name: &str| {
            let file = procfs.join(name);
            let read = table.read(&file, mounts_of_interest).map_err(|cause| Error::io(file.display(), &cause))?;
            Ok::<_, Error>(String::from_utf8_lossy(read).into_owned())
        };
        if !is_of_container(procfs, Path::new(OWN_NAMESPACE_LINK)) {
            match read(&mut self.first, "1/mountinfo") {
                Ok(table) => {
                    self.knows_first = true;
                    return Ok(Mounts { of_first_process: true, table });
                }
                Err(error) if self.knows_first => return Err(error),
                Err(_) => {}
            }
        }
        Ok(Mounts { of_first_process: false, table: read(&mut self.own, "self/mountinfo")? })
    }

    /// Returns the device nodes of the swaps. A swap that is a file lies in a file system, which is
    /// mounted.
    ///
    /// # Errors
    /// If the table cannot be read. A kernel without swaps is not an error.
    pub(crate) fn swaps(&mut self, procfs: &Path) -> Result<Vec<String>, Error> {
        let file = procfs.join("swaps");
        match self.swaps.read(&file, swaps_of_interest) {
            Ok(table) => Ok(String::from_utf8_lossy(table).lines().filter_map(swap).collect()),
            Err(error) if is_gone(&error) => Ok(Vec::new()),
            Err(cause) => Err(Error::io(file.display(), &cause)),
        }
    }
}

impl Mounts {
    /// Returns the mounts of interest, the topmost last.
    pub(crate) fn all(&self) -> impl DoubleEndedIterator<Item = Mount<'_>> {
        self.table.lines().filter_map(Mount::parse)
    }

    /// Returns the mounts of the root file system, the topmost first. The mount below an overlay
    /// may be the one that the machine was booted from. If the root is an image in a file system
    /// (composefs), that file system is mounted on `/sysroot`.
    pub(crate) fn on_root(&self) -> impl Iterator<Item = Mount<'_>> {
        ROOT_MOUNT_POINTS.into_iter().flat_map(|place| self.all().rev().filter(move |mount| mount.mount_point == place))
    }
}

/// Opens the table of mounts that [`Tables::mounts`] reads. The kernel wakes processes that poll
/// this file when the mounts change (`proc_pid_mounts(5)`).
///
/// # Errors
/// If no table can be opened.
pub(crate) fn open(procfs: &Path) -> io::Result<File> {
    let own = || File::open(procfs.join("self/mountinfo"));
    if is_of_container(procfs, Path::new(OWN_NAMESPACE_LINK)) {
        own()
    } else {
        File::open(procfs.join("1/mountinfo")).or_else(|_| own())
    }
}

/// The link that names the process ID namespace of this process.
const OWN_NAMESPACE_LINK: &str = "/proc/self/ns/pid";

/// Returns true if the first process in `procfs` belongs to a container. This is so if this process
/// is in a namespace other than the host's, and has the same number in `procfs`. A capture contains
/// only the table that was read on its host.
fn is_of_container(procfs: &Path, our_namespace: &Path) -> bool {
    /// `PROC_PID_INIT_INO` in `include/linux/proc_ns.h` of the kernel.
    const HOST_NAMESPACE: &str = "pid:[4026531836]";
    let says = |link: &Path, text: &str| fs::read_link(link).ok().map(|target| target == Path::new(text));
    says(&procfs.join("self"), &std::process::id().to_string()) == Some(true)
        && says(our_namespace, HOST_NAMESPACE) == Some(false)
}

/// Keeps the lines about the root, and one line for each device. A host with many containers may
/// mount one device a thousand times.
fn mounts_of_interest(table: &[u8]) -> Vec<u8> {
    let mut seen = HashSet::new();
    let mut is_of_interest = |line: &&[u8]| {
        let line = String::from_utf8_lossy(line);
        let Some(mount) = Mount::parse(line.trim_end_matches('\n')) else { return false };
        mount.is_on_root() || mount.has_device() && seen.insert((mount.devno, mount.source))
    };
    table.split_inclusive(|byte| *byte == b'\n').filter(&mut is_of_interest).flatten().copied().collect()
}

/// Returns the device node in this line of `/proc/swaps`. `None` if the line names no device node.
/// The node may have been removed since.
pub(crate) fn swap(line: &str) -> Option<String> {
    let mut fields = line.split_ascii_whitespace();
    let (path, kind) = (fields.next()?, fields.next()?);
    let path = unescaped(path);
    (kind == "partition").then(|| path.strip_suffix(" (deleted)").unwrap_or(&path).to_owned())
}

fn swaps_of_interest(table: &[u8]) -> Vec<u8> {
    let lines = table.split_inclusive(|byte| *byte == b'\n');
    lines.filter(|line| swap(&String::from_utf8_lossy(line)).is_some()).flatten().copied().collect()
}

/// Returns the device nodes if the mounted source consists of several: `/dev/sdb:/dev/sdc`.
pub(crate) fn several_nodes(source: &str) -> Option<impl Iterator<Item = &str>> {
    let nodes = source.split(':');
    (source.contains(':') && nodes.clone().all(|node| node.starts_with("/dev/"))).then_some(nodes)
}

/// Undoes the kernel's escapes of blanks and backslashes (`\040`, three octal digits).
pub(crate) fn unescaped(text: &str) -> String {
    crate::source::unescaped(text.as_bytes(), b"\\", 3, 8)
}

/// Finds block devices in sysfs. Searches through many devices at most once.
#[derive(Debug)]
pub(crate) struct Finder<'a> {
    places: &'a Places,
    /// The kernel names of device-mapper devices, by their device-mapper names.
    mapped: OnceCell<HashMap<String, String>>,
    /// The devices of each btrfs.
    btrfs: Vec<Vec<PathBuf>>,
}

impl<'a> Finder<'a> {
    /// Makes a finder for these places.
    ///
    /// # Errors
    /// If this process has no files left to read with.
    pub(crate) fn new(places: &'a Places) -> Result<Self, Error> {
        let file_systems = Path::new("fs/btrfs");
        let entries = unless_exhausted(list(&places.sysfs.join(file_systems)))?.into_iter();
        let devices = |entry: DirectoryEntry| links(&places.sysfs, &file_systems.join(entry.name).join("devices"));
        Ok(Finder { places, mapped: OnceCell::new(), btrfs: entries.map(devices).collect::<Result<_, _>>()? })
    }

    /// Returns the directories of all devices of a file system, relative to the root of sysfs. The
    /// result is empty if they are not known. btrfs and others have a device number of their own,
    /// and mountinfo names one device. bcachefs has the number of its first device, and mountinfo
    /// names all.
    pub(crate) fn of_mount(&self, mount: &Mount<'_>) -> Vec<PathBuf> {
        if let Some(nodes) = several_nodes(&mount.source) {
            return nodes.filter_map(|node| self.of_node(node)).collect();
        }
        let place = if mount.devno.major == 0 { self.of_node(&mount.source) } else { self.numbered(mount.devno) };
        let Some(place) = place else { return Vec::new() };
        self.btrfs.iter().find(|devices| devices.contains(&place)).cloned().unwrap_or_else(|| vec![place])
    }

    /// Returns the directory of the device of this node. The device is first searched by its name:
    /// the node at this path may be a different one here, for example a container's.
    pub(crate) fn of_node(&self, node: &str) -> Option<PathBuf> {
        let named = || {
            let name = node.strip_prefix("/dev/")?;
            let kernel_name = match name.strip_prefix("mapper/") {
                Some(name) => self.mapped.get_or_init(|| self.all_mapped()).get(&dm_name(name.as_bytes()))?,
                None => name,
            };
            let names = Path::new("class/block");
            follow(&self.places.sysfs.join(names).join(kernel_name), names).ok().flatten()
        };
        named().or_else(|| self.numbered(number_of(node, self.places.capture.as_deref())?))
    }

    fn numbered(&self, devno: DevNo) -> Option<PathBuf> {
        let numbers = Path::new("dev/block");
        follow(&self.places.sysfs.join(numbers).join(devno.to_string()), numbers).ok().flatten()
    }

    fn all_mapped(&self) -> HashMap<String, String> {
        let block = self.places.sysfs.join("block");
        let mut file = Attribute::default();
        let devices = list(&block).unwrap_or_default().into_iter().map(|entry| entry.name);
        let named = |device: String| Some((dm_name(file.bytes(&block.join(&device), "dm/name").ok()??), device));
        devices.filter(|name| name.starts_with("dm-")).filter_map(named).collect()
    }
}

/// Returns the device number of a device node.
fn number_of(node: &str, capture: Option<&Path>) -> Option<DevNo> {
    if let Some(capture) = capture {
        return recorded::read(capture).ok()?.nodes.get(node)?.parse().ok();
    }
    let device = fs::metadata(Path::new(node).is_absolute().then_some(node)?).ok()?.rdev();
    let devno = DevNo { major: major(device), minor: minor(device) };
    witness::node(node, devno);
    Some(devno)
}

/// Returns the targets of the links in a directory. A directory that cannot be listed counts as
/// empty.
pub(crate) fn links(sysfs: &Path, directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = unless_exhausted(list(&sysfs.join(directory)))?.into_iter();
    Ok(entries.filter_map(|entry| follow(&sysfs.join(directory).join(entry.name), directory).ok()?).collect())
}

/// Treats a directory that cannot be listed as empty, unless this process has no files left to read
/// with.
fn unless_exhausted(listed: Result<Vec<DirectoryEntry>, Error>) -> Result<Vec<DirectoryEntry>, Error> {
    listed.or_else(|error| if error.is_exhaustion() { Err(error) } else { Ok(Vec::new()) })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn lines_of_mountinfo() {
        for (line, found) in [
            (
                "36 35 98:0 /mnt1 / rw,noatime master:1 - ext3 /dev/root rw,errors=continue",
                Some(("98:0", "/", "/dev/root")),
            ),
            (
                r"22 1 0:20 /@ /a\040b rw shared:1 - btrfs /dev/mapper/a\134x20b rw",
                Some(("0:20", r"/a\040b", r"/dev/mapper/a\x20b")),
            ),
            ("36 35 98:0 / / rw", None),
            ("", None),
        ] {
            let found = found.map(|(devno, mount_point, source)| Mount {
                devno: devno.parse().unwrap(),
                mount_point,
                source: source.to_owned(),
            });
            assert_eq!(Mount::parse(line), found, "{line}");
        }
    }

    #[test]
    fn the_first_process_of_a_container_does_not_see_all_mounts() {
        let tree = tempfile::tempdir().unwrap();
        let link = |name: &str, target: &str| symlink(target, tree.path().join(name)).unwrap();
        link("host", "pid:[4026531836]");
        link("container", "pid:[4026532000]");
        let is_of_container = |namespace: &str| is_of_container(tree.path(), &tree.path().join(namespace));
        assert!(!is_of_container("container"), "the first process belongs to another namespace");
        link("self", &std::process::id().to_string());
        assert!(is_of_container("container"));
        assert!(!is_of_container("host") && !is_of_container("none"));
        fs::remove_file(tree.path().join("self")).unwrap();
        link("self", "0");
        assert!(!is_of_container("container"), "the first process is the host's");
    }

    #[test]
    fn one_line_of_each_mounted_device_is_kept() {
        let table = "1 0 0:1 / / rw - rootfs rootfs rw\n\
                     2 1 8:2 / / rw - ext4 /dev/sda2 rw\n\
                     3 1 0:5 / /proc rw - proc proc rw\n\
                     4 1 8:3 / /srv rw - ext4 /dev/sda3 rw\n\
                     5 1 8:3 /a /var/lib/containers/a rw - ext4 /dev/sda3 rw\n\
                     6 1 0:9 / /nfs rw - nfs4 filer:/vol rw\n\
                     7 1 0:40 /@ /data rw - btrfs /dev/sdb rw\n\
                     8 1 8:2 / /sysroot rw - ext4 /dev/sda2 rw\n";
        let kept = String::from_utf8(mounts_of_interest(table.as_bytes())).unwrap();
        let numbers: Vec<_> = kept.lines().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(numbers, ["1", "2", "4", "7", "8"]);
    }

    #[test]
    fn lines_of_swaps() {
        for (line, path) in [
            ("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority", None),
            ("/dev/dm-3                               partition\t8388604\t\t0\t\t-2", Some("/dev/dm-3")),
            (r"/dev/mapper/a\134x20b\040(deleted) partition 8 0 -2", Some(r"/dev/mapper/a\x20b")),
            ("/swapfile                               file\t\t8388604\t\t0\t\t-3", None),
            ("", None),
        ] {
            assert_eq!(swap(line).as_deref(), path, "{line}");
        }
        let several = |source| several_nodes(source).map(|nodes| nodes.collect::<Vec<_>>());
        assert_eq!(several("/dev/sdb:/dev/sdc"), Some(vec!["/dev/sdb", "/dev/sdc"]));
        for one in ["/dev/sdb", "/dev/disk/by-path/pci-0000:00", "filer:/dev/sdb", ""] {
            assert_eq!(several(one), None, "{one}");
        }
        assert_eq!(unescaped(r"a\9\04\400\"), r"a\9\04\400\");
        assert_eq!(Tables::default().swaps(Path::new("/nonexistent")), Ok(Vec::new()));
    }
}
