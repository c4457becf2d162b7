//! The users of block devices: mounts, swaps, and other block devices.
//!
//! ```text
//! dev/block/254:3/             the device of a mount or swap     see mounts.rs
//! …/sda/sda2/partition         a partition lies in its disk's directory
//! …/dm-3/slaves/dm-0           the map of a partition mapping, which has a UUID for a partition
//! …/dm-0/holders/dm-3          the devices on top: LVM, crypt, RAID, or its own partition mapping
//! …/md0/slaves/sdb1            a disk that is used directly, or its partition, found from its user
//! ```
//!
//! A mount stands on one device. Each device below is held by the device above it, so this module
//! looks only through partitions. It finds the users of disks from above, because there are fewer
//! volumes than paths. PowerPath, VxDMP and HDLM show no `slaves`.
//!
//! All this is read at each resync. On some hosts, mounts, swaps and the holders of NVMe namespaces
//! are also read when the mounts change or a device-mapper device goes. These are hosts with native
//! NVMe devices, and hosts whose device mapper does not report open counts.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::maps::{SysfsMap, VIRTUAL_DEVICES};
use super::mounts::{Finder, Mount, Tables, links};
use super::root;
use super::strangers::is_of_multipath_driver;
use crate::source::files::{Attribute, DirectoryEntry, exists, follow, list, list_if_there, or_last};
use crate::source::transports::nvme;
use crate::source::{Error, Places, UUID_PREFIX, partitioned};
use crate::topology::DevNo;

/// A user of a block device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum User {
    /// The block device of this kernel name stands on the device or a partition of it. It is not a
    /// partition mapping of the device.
    Holder(String),
    /// The device of this number is mounted. It is the device itself or a partition of it.
    Mount(DevNo),
    /// The device of this number is swapped to. It is the device itself or a partition of it.
    Swap(DevNo),
}

impl User {
    /// Returns the kind of user, in one word.
    fn kind(&self) -> &str {
        match self {
            User::Holder(name) => kind_of(name),
            User::Mount(_) => "mount",
            User::Swap(_) => "swap",
        }
    }
}

/// Returns the kind of the block device of this kernel name: `dm` for `dm-3`, `md` for `md_home`.
fn kind_of(name: &str) -> &str {
    let end = name.find(|character: char| !character.is_ascii_alphabetic()).unwrap_or(name.len());
    &name[..end]
}

/// The users of the host's block devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// True if the mounts are those that the first process sees. Otherwise there may be others.
    pub(crate) mounts_known: bool,
    /// By the kernel name of the whole device: `dm-3`, `nvme0n1`, `sda`. A device whose holders
    /// were read and that has no users is there with an empty set.
    pub(crate) users: BTreeMap<String, BTreeSet<User>>,
    /// The device numbers that are mounted or swapped to. A device of such a number may no longer
    /// exist.
    pub(crate) numbers: BTreeSet<DevNo>,
    /// The users of a disk or a partition of it, without multipath maps: `mount`, `swap`, or the
    /// kind of a block device (`dm`, `md`, `bcache`). By the kernel name of the disk. Users of
    /// device-mapper devices are left out.
    pub(crate) direct: BTreeMap<String, BTreeSet<Arc<str>>>,
}

/// The mounted and swapped devices.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mounted {
    known: bool,
    users: DeviceUsers,
    numbers: BTreeSet<DevNo>,
    /// The numbers of each device node that mountinfo names without a block device's number. They
    /// stay when the node has gone together with its device.
    nodes: BTreeMap<String, BTreeSet<DevNo>>,
    /// The kernel names of the block devices below the root file system.
    pub(crate) root: HashSet<String>,
}

/// By the kernel name of the whole device.
pub(crate) type DeviceUsers = BTreeMap<String, BTreeSet<User>>;

/// The disks below each virtual block device, by kernel names. Multipath maps are left out, as are
/// device-mapper devices on top of other ones.
pub(crate) type Stacked = BTreeMap<String, BTreeSet<String>>;

impl Usage {
    /// Combines the mounts, these holders, and the virtual devices on top of disks.
    pub(crate) fn new(mounted: &Mounted, holders: &DeviceUsers, stacked: &Stacked) -> Self {
        let mut users = mounted.users.clone();
        for (name, holders) in holders {
            users.entry(name.clone()).or_default().extend(holders.iter().cloned());
        }
        let mut direct: BTreeMap<String, BTreeSet<Arc<str>>> = BTreeMap::new();
        for (disk, users) in mounted.users.iter().filter(|(name, _)| !name.starts_with("dm-")) {
            direct.entry(disk.clone()).or_default().extend(users.iter().map(|user| user.kind().into()));
        }
        for (device, disks) in stacked {
            for disk in disks {
                direct.entry(disk.clone()).or_default().insert(kind_of(device).into());
            }
        }
        Usage { mounts_known: mounted.known, users, numbers: mounted.numbers.clone(), direct }
    }
}

impl Mounted {
    /// Reads the mounts and swaps. `last` is the previous result.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(crate) fn read(places: &Places, tables: &mut Tables, last: &Mounted) -> Result<Self, Error> {
        let mounts = tables.mounts(&places.procfs)?;
        let finder = Finder::new(places)?;
        let mut mounted = Mounted {
            known: mounts.of_first_process,
            root: root::devices(&places.sysfs, &mounts, &finder)?,
            ..Mounted::default()
        };
        let mut file = Attribute::default();
        for mount in mounts.all().filter(Mount::has_device) {
            let devices = finder.of_mount(&mount);
            let numbers = match mount.devno.major {
                0 => mounted.numbers_of(mount.source, &devices, &places.sysfs, &mut file, last)?,
                _ => [mount.devno].into(),
            };
            mounted.add(User::Mount, &numbers, &devices, &places.sysfs, &mut file)?;
        }
        for node in tables.swaps(&places.procfs)? {
            let devices: Vec<PathBuf> = finder.of_node(&node).into_iter().collect();
            let numbers = mounted.numbers_of(node, &devices, &places.sysfs, &mut file, last)?;
            mounted.add(User::Swap, &numbers, &devices, &places.sysfs, &mut file)?;
        }
        Ok(mounted)
    }

    /// Returns the numbers of the devices of a device node.
    fn numbers_of(
        &mut self,
        node: String,
        devices: &[PathBuf],
        sysfs: &Path,
        file: &mut Attribute,
        last: &Mounted,
    ) -> Result<BTreeSet<DevNo>, Error> {
        let mut numbers = BTreeSet::new();
        for device in devices {
            numbers.extend(file.parsed::<DevNo>(&sysfs.join(device), "dev")?);
        }
        if numbers.is_empty() {
            numbers = last.nodes.get(&node).cloned().unwrap_or_default();
        }
        self.nodes.insert(node, numbers.clone());
        Ok(numbers)
    }

    fn add(
        &mut self,
        user: fn(DevNo) -> User,
        numbers: &BTreeSet<DevNo>,
        devices: &[PathBuf],
        sysfs: &Path,
        file: &mut Attribute,
    ) -> Result<(), Error> {
        self.numbers.extend(numbers);
        for device in devices {
            for whole in whole(sysfs, device, file)? {
                let Some(name) = whole.file_name().and_then(|name| name.to_str()) else { continue };
                self.users.entry(name.to_owned()).or_default().extend(numbers.iter().map(|devno| user(*devno)));
            }
        }
        Ok(())
    }
}

/// Returns the whole device if this is a partition, otherwise the device itself.
fn whole(sysfs: &Path, device: &Path, file: &mut Attribute) -> Result<Vec<PathBuf>, Error> {
    let directory = sysfs.join(device);
    if exists(&directory.join("partition")) {
        return Ok(device.parent().into_iter().map(Path::to_owned).collect());
    }
    match file.bytes(&directory, "dm/uuid")? {
        Some(uuid) if partitioned(uuid).is_some() => links(sysfs, &device.join("slaves")),
        _ => Ok(vec![device.to_owned()]),
    }
}

/// Reads the disks below virtual block devices, without known multipath maps. Parts that cannot be
/// read stay as in `last`.
pub(crate) fn stacked(
    sysfs: &Path,
    is_map: impl Fn(&str) -> bool,
    last: &Stacked,
    file: &mut Attribute,
    unreadable: &mut Vec<Error>,
) -> Stacked {
    let devices = match list(&sysfs.join(VIRTUAL_DEVICES)) {
        Ok(devices) => devices.into_iter().map(|entry| entry.name),
        Err(error) => {
            unreadable.push(error);
            return last.clone();
        }
    };
    let mut stacked = Stacked::new();
    // The device of another multipath driver does not count as a direct user of its disks.
    for name in devices.filter(|name| !is_map(name) && !is_of_multipath_driver(name)) {
        let disks = or_last(disks_below(sysfs, &name, file), last.get(&name), unreadable);
        if !disks.is_empty() {
            stacked.insert(name, disks);
        }
    }
    stacked
}

/// Returns the disks below a virtual block device that is not a multipath map. A partition counts
/// as its disk.
fn disks_below(sysfs: &Path, name: &str, file: &mut Attribute) -> Result<BTreeSet<String>, Error> {
    let device = Path::new(VIRTUAL_DEVICES).join(name);
    let slaves = device.join("slaves");
    let mut disks = BTreeSet::new();
    // Most are LVM, crypt or partitions on top of multipath maps, and of no interest.
    for DirectoryEntry { name, .. } in list(&sysfs.join(&slaves))?.iter().filter(|slave| !slave.name.starts_with("dm-"))
    {
        let Some(slave) = follow(&sysfs.join(&slaves).join(name), &slaves)? else { continue };
        let whole = whole(sysfs, &slave, file)?.into_iter();
        disks.extend(whole.filter_map(|disk| Some(disk.file_name()?.to_str()?.to_owned())));
    }
    if !disks.is_empty() && name.starts_with("dm-") {
        // The device may be a map that is new or has just gone.
        let uuid = file.bytes(&sysfs.join(&device), "dm/uuid")?;
        if uuid.is_none_or(|uuid| uuid.starts_with(UUID_PREFIX.as_bytes())) {
            disks.clear();
        }
    }
    Ok(disks)
}

/// Returns the holders of a map and of its partition mappings, without these mappings.
///
/// # Errors
/// If the holders cannot be read.
pub(crate) fn holders_of_map(sysfs: &Path, map: &SysfsMap, file: &mut Attribute) -> Result<BTreeSet<User>, Error> {
    let directory = |name: &str| sysfs.join(VIRTUAL_DEVICES).join(name);
    let uuid = format!("{UUID_PREFIX}{}", map.wwid);
    let mut holders = BTreeSet::new();
    for holder in list(&directory(&map.sysfs_name).join("holders"))? {
        let holder = holder.name;
        let is_mapped = holder.starts_with("dm-")
            && file.bytes(&directory(&holder), "dm/uuid")?.and_then(partitioned) == Some(uuid.as_bytes());
        if is_mapped {
            holders.extend(holders_in(&directory(&holder))?);
        } else {
            holders.insert(User::Holder(holder));
        }
    }
    Ok(holders)
}

/// Returns the holders of an NVMe namespace and of its partitions. `None` if the namespace is gone.
///
/// # Errors
/// If the holders cannot be read.
pub(crate) fn holders_of_namespace(sysfs: &Path, name: &str) -> Result<Option<BTreeSet<User>>, Error> {
    let directory = sysfs.join("block").join(name);
    let Some(entries) = list_if_there(&directory)? else { return Ok(None) };
    let mut holders = holders_in(&directory)?;
    for entry in entries {
        if nvme::is_partition(&entry.name, name) {
            holders.extend(holders_in(&directory.join(&entry.name))?);
        }
    }
    Ok(Some(holders))
}

fn holders_in(directory: &Path) -> Result<BTreeSet<User>, Error> {
    Ok(list(&directory.join("holders"))?.into_iter().map(|entry| User::Holder(entry.name)).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const BLOCK: &str = "devices/virtual/block";

    fn read(places: &Places, last: &Mounted) -> Result<Mounted, Error> {
        Mounted::read(places, &mut Tables::default(), last)
    }

    fn devno(text: &str) -> DevNo {
        text.parse().unwrap()
    }

    /// Returns a host with these block devices: directory, number, device-mapper UUID and name.
    fn host(devices: &[(&str, &str, &str, &str)]) -> (tempfile::TempDir, Places) {
        let tree = tempfile::tempdir().unwrap();
        let sysfs = tree.path();
        for directory in ["class/block", "dev/block", "block", "proc/1"] {
            fs::create_dir_all(sysfs.join(directory)).unwrap();
        }
        for (place, number, uuid, name) in devices {
            let directory = sysfs.join(place);
            fs::create_dir_all(directory.join("dm")).unwrap();
            fs::write(directory.join("dev"), number).unwrap();
            fs::write(directory.join("dm/uuid"), uuid).unwrap();
            fs::write(directory.join("dm/name"), name).unwrap();
            let kernel_name = directory.file_name().unwrap().to_owned();
            symlink(format!("../../{place}"), sysfs.join("dev/block").join(number)).unwrap();
            symlink(format!("../../{place}"), sysfs.join("class/block").join(&kernel_name)).unwrap();
            symlink(format!("../{place}"), sysfs.join("block").join(&kernel_name)).unwrap();
        }
        let places =
            Places { sysfs: sysfs.to_owned(), procfs: sysfs.join("proc"), udev_data: "udev".into(), capture: None };
        (tree, places)
    }

    fn link(tree: &tempfile::TempDir, link: &str) {
        let link = tree.path().join(BLOCK).join(link);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(Path::new("../..").join(link.file_name().unwrap()), &link).unwrap();
    }

    #[test]
    fn mounts_and_swaps_use_the_whole_device() {
        let devices =
            ["dm-0", "dm-1", "dm-2", "dm-3", "nvme0n1", "nvme0n1/nvme0n1p2"].map(|name| format!("{BLOCK}/{name}"));
        let (tree, places) = host(&[
            (&devices[0], "254:0", "mpath-3600a", "mpatha"),
            (&devices[1], "254:1", "part1-mpath-3600a", "mpatha-part1"),
            (&devices[2], "254:2", "LVM-s", "s\\x20w"),
            (&devices[3], "254:3", "LVM-b", "b"),
            (&devices[5], "259:2", "", ""),
        ]);
        link(&tree, "dm-1/slaves/dm-0");
        fs::write(tree.path().join(&devices[5]).join("partition"), "2").unwrap();
        let btrfs = tree.path().join("fs/btrfs/uuid/devices");
        fs::create_dir_all(&btrfs).unwrap();
        symlink(format!("../../../../{}", devices[3]), btrfs.join("dm-3")).unwrap();
        let mounts = "1 0 254:1 / /a rw - ext4 /dev/mapper/mpatha-part1 rw\n\
                      2 1 259:2 / /b rw - ext4 /dev/nvme0n1p2 rw\n\
                      3 1 259:9 / /lost rw - ext4 /dev/nvme1n1 rw\n\
                      4 1 0:40 / /c rw - btrfs /dev/mapper/b rw\n";
        fs::write(tree.path().join("proc/1/mountinfo"), mounts).unwrap();
        fs::write(tree.path().join("proc/swaps"), "/dev/mapper/s\\134x20w partition 8 0 -2\n").unwrap();
        let mounted = read(&places, &Mounted::default()).unwrap();
        let usage = Usage::new(&mounted, &DeviceUsers::new(), &Stacked::new());
        let [partition, nvme, lost, swap, btrfs] = ["254:1", "259:2", "259:9", "254:2", "254:3"].map(devno);
        let expected = [
            ("dm-0", User::Mount(partition)),
            ("dm-2", User::Swap(swap)),
            ("dm-3", User::Mount(btrfs)),
            ("nvme0n1", User::Mount(nvme)),
        ];
        let expected = expected.map(|(name, user)| (name.to_owned(), [user].into()));
        assert_eq!(usage.users, BTreeMap::from(expected));
        assert_eq!(usage.numbers, [partition, nvme, lost, swap, btrfs].into());
        assert!(usage.mounts_known);
        // The devices are gone, but still mounted.
        for device in [&devices[2], &devices[3]] {
            fs::remove_dir_all(tree.path().join(device)).unwrap();
            fs::remove_file(tree.path().join("class/block").join(Path::new(device).file_name().unwrap())).unwrap();
        }
        let later = Usage::new(&read(&places, &mounted).unwrap(), &DeviceUsers::new(), &Stacked::new());
        assert_eq!((later.numbers, later.users.get("dm-3")), (usage.numbers, None));
    }

    #[test]
    fn the_exporters_own_mounts_may_be_incomplete() {
        let (tree, places) = host(&[]);
        fs::rename(tree.path().join("proc/1"), tree.path().join("proc/self")).unwrap();
        assert!(read(&places, &Mounted::default()).is_err());
        fs::write(tree.path().join("proc/self/mountinfo"), "").unwrap();
        assert!(!read(&places, &Mounted::default()).unwrap().known);
        fs::create_dir(tree.path().join("proc/swaps")).unwrap();
        assert!(read(&places, &Mounted::default()).is_err());
    }

    #[test]
    fn disks_below_virtual_block_devices() {
        let (tree, places) = host(&[
            (&format!("{BLOCK}/dm-0"), "254:0", "mpath-3600a", "mpatha"),
            (&format!("{BLOCK}/dm-1"), "254:1", "mpath-3600b", "mpathb"),
            (&format!("{BLOCK}/dm-2"), "254:2", "LVM-1", "a"),
            (&format!("{BLOCK}/dm-3"), "254:3", "", "no uuid"),
            (&format!("{BLOCK}/md127"), "9:127", "", ""),
            ("devices/pci/block/sdb/sdb1", "8:17", "", ""),
        ]);
        fs::write(tree.path().join("devices/pci/block/sdb/sdb1/partition"), "1").unwrap();
        let slave = |device: &str, place: &str| {
            let link = tree.path().join(BLOCK).join(device).join("slaves").join(Path::new(place).file_name().unwrap());
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(Path::new("../../../../..").join(place), link).unwrap();
        };
        for device in ["dm-0", "dm-1", "dm-3", "md127"] {
            slave(device, "devices/pci/block/sda");
        }
        slave("dm-2", "devices/pci/block/sdb/sdb1");
        slave("dm-2", "devices/virtual/block/dm-0");
        let disks = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let mut expected: Stacked = [("dm-2", "sdb"), ("dm-3", "sda"), ("md127", "sda")]
            .map(|(device, disk)| (device.to_owned(), disks(&[disk])))
            .into();
        let read = |last: &Stacked| {
            let mut unreadable = Vec::new();
            let is_map = |name: &str| name == "dm-0";
            (stacked(&places.sysfs, is_map, last, &mut Attribute::default(), &mut unreadable), unreadable)
        };
        let (found, unreadable) = read(&Stacked::new());
        assert_eq!((&found, unreadable.len()), (&expected, 0));
        let usage = Usage::new(&Mounted::default(), &DeviceUsers::new(), &found);
        let by = |kinds: &[&str]| kinds.iter().map(|kind| Arc::from(*kind)).collect::<BTreeSet<Arc<str>>>();
        assert_eq!(
            usage.direct,
            BTreeMap::from([("sda".to_owned(), by(&["dm", "md"])), ("sdb".to_owned(), by(&["dm"]))])
        );

        // A device that cannot be listed keeps its last state, and a device that is gone does not.
        fs::remove_dir_all(tree.path().join(BLOCK).join("md127/slaves")).unwrap();
        fs::write(tree.path().join(BLOCK).join("md127/slaves"), "").unwrap();
        fs::remove_dir_all(tree.path().join(BLOCK).join("dm-3")).unwrap();
        expected.remove("dm-3");
        let (later, unreadable) = read(&found);
        assert_eq!((&later, unreadable.len()), (&expected, 1));
        fs::remove_dir_all(tree.path().join(BLOCK)).unwrap();
        assert_eq!(read(&later).0, Stacked::new());
        fs::write(tree.path().join(BLOCK), "").unwrap();
        let (last, unreadable) = read(&later);
        assert_eq!((&last, unreadable.len()), (&expected, 1));
        for (name, kind) in [("dm-3", "dm"), ("md_home", "md"), ("bcache0", "bcache"), ("7x", "")] {
            assert_eq!(kind_of(name), kind);
        }
    }

    #[test]
    fn holders_of_partitions_count_and_the_partitions_themselves_do_not() {
        let devices = ["dm-0", "dm-1", "dm-2"].map(|name| format!("{BLOCK}/{name}"));
        let (tree, places) = host(&[
            (&devices[0], "254:0", "mpath-3600a", ""),
            (&devices[1], "254:1", "part1-mpath-3600a", ""),
            (&devices[2], "254:2", "part1-mpath-3600b", ""),
        ]);
        let holders =
            |names: &[&str]| names.iter().map(|name| User::Holder((*name).to_owned())).collect::<BTreeSet<_>>();
        let map = SysfsMap {
            wwid: "3600a".into(),
            sysfs_name: "dm-0".into(),
            devno: devno("254:0"),
            name: "mpatha".into(),
            diskseq: None,
            suspended: None,
            size_bytes: None,
            read_only: None,
            members: Vec::new(),
        };
        let of_map = || holders_of_map(&places.sysfs, &map, &mut Attribute::default()).unwrap();
        assert_eq!(of_map(), holders(&[]));
        link(&tree, "dm-0/holders/dm-1");
        assert_eq!(of_map(), holders(&[]));
        link(&tree, "dm-1/holders/dm-5");
        link(&tree, "dm-0/holders/md0");
        link(&tree, "dm-0/holders/dm-2");
        assert_eq!(of_map(), holders(&["dm-5", "md0", "dm-2"]));

        fs::create_dir_all(places.sysfs.join("block/nvme0n1/nvme0n1p1/holders/dm-6")).unwrap();
        fs::create_dir_all(places.sysfs.join("block/nvme0n1/holders/bcache0")).unwrap();
        fs::create_dir_all(places.sysfs.join("block/nvme0n1/queue/holders/no")).unwrap();
        assert_eq!(holders_of_namespace(&places.sysfs, "nvme0n1").unwrap(), Some(holders(&["bcache0", "dm-6"])));
        assert_eq!(holders_of_namespace(&places.sysfs, "nvme9n1").unwrap(), None);
    }
}
