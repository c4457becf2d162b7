//! Block devices in sysfs: maps, their members, and their users.
//!
//! ```text
//! maps.rs      multipath maps and their members, if device mapper does not report them
//! disks.rs     members: states, model, size, identity
//! strangers.rs disks that are members of no map, and what else holds them
//! ports.rs     the ports of SAS and virtio-scsi disks, whose own directory shows them
//! udev_db.rs   udev's database: the identity of each disk
//! mounts.rs    mounts and swaps
//! usage.rs     the users of a device: mounts, swaps, other devices
//! root.rs      the devices below the root file system
//! ```
//!
//! Each reading of [`Scope::Everything`] opens every file again, so that nothing in it is older
//! than the reading. This costs about 50 µs for each disk, so a large host is read less often (see
//! the monitor's schedule). If device mapper reports the maps, their files are not read: an ioctl
//! gives the same facts and costs no more than one file. The I/O of the maps is the exception: each
//! reading of everything and each reading of states reads it.

pub(crate) mod disks;
pub(crate) mod maps;
pub(crate) mod mounts;
mod ports;
mod root;
pub(crate) mod strangers;
pub(crate) mod udev_db;
pub(crate) mod usage;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{Attribute, DirectoryEntry, follow, list, list_if_there, or_note};
use super::transports::{Way, nvme};
use super::{Error, Io, Places, unless_exhausted};
use crate::topology::DevNo;
use disks::{Disk, Disks};
use maps::{MapReader, SysfsMap, kernel_name};
use mounts::Tables;
use strangers::{Candidate, Strangers};
use udev_db::UdevDb;
use usage::{DeviceUsers, Mounted, Stacked, Usage};

/// Says what to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockRequest {
    /// The part of sysfs to read.
    pub scope: Scope,
    /// The maps and their members as device mapper reports them. `None` to find them in sysfs.
    pub told: Option<Arc<[Told]>>,
    /// The ways that have been open for a while. If device mapper reports which paths are valid, a
    /// reading of states leaves out the SCSI states of disks behind these ways.
    pub open: Arc<HashSet<Way>>,
}

/// The part of sysfs to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything about every device.
    Everything,
    /// All values that change without an event, of the devices that are known.
    States,
    /// Selected devices only.
    Devices(SelectedDevices),
}

/// A selection of devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SelectedDevices {
    /// These device-mapper devices, and their members.
    pub(crate) maps: BTreeSet<DevNo>,
    /// Everything about these disks.
    pub(crate) disks: BTreeSet<DevNo>,
    /// The states of these disks. A disk that is not known is read as a whole.
    pub(crate) states: BTreeSet<DevNo>,
    /// The mounts and swaps, and the holders of NVMe namespaces. The holders of maps and the
    /// components of other virtual block devices keep their last state, because they are many.
    pub(crate) usage: bool,
}

impl Default for Scope {
    fn default() -> Self {
        Scope::Devices(SelectedDevices::default())
    }
}

/// A map as device mapper reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The device number.
    pub devno: DevNo,
    /// The members. `None` if device mapper cannot report them: the map then has to be read from
    /// sysfs.
    pub members: Option<Arc<[DevNo]>>,
}

/// The result of one read. An object that did not change since the last reading keeps its
/// allocation.
#[derive(Clone, Debug, Default)]
pub struct BlockReading {
    /// The maps that were read. `None` for a device that is gone or not a multipath map.
    pub(crate) maps: BTreeMap<DevNo, Option<Arc<SysfsMap>>>,
    /// The disks that were read. `None` for a disk that is gone.
    pub disks: BTreeMap<DevNo, Option<Arc<Disk>>>,
    /// The I/O of maps.
    pub io: BTreeMap<DevNo, Io>,
    /// The facts that only a reading of everything gives.
    pub(crate) host: Option<HostFacts>,
    /// The users of block devices, if they were read. It leaves out the holders of devices that
    /// device mapper reports, because device mapper also reports their open counts.
    pub(crate) usage: Option<Arc<Usage>>,
    /// Objects that exist and could not be read. They keep their last state.
    pub unreadable: Vec<Error>,
}

/// The facts that a reading of everything gives beside maps and their members.
#[derive(Clone, Debug)]
pub(crate) struct HostFacts {
    /// True if every map is in the reading. `false` if device mapper reports the maps.
    pub(crate) has_maps: bool,
    /// The disks that could be members of a multipath map and are not.
    pub(crate) candidates: Arc<[Candidate]>,
    /// The ways of members. Empty unless one of the candidates has a way.
    pub(crate) member_ways: Arc<HashSet<Way>>,
    /// The kernel names of the block devices that the root file system stands on.
    pub(crate) root: Arc<HashSet<String>>,
}

/// Reads block devices. Remembers the last reading, for objects that cannot be read, and to
/// recognise objects that did not change.
#[derive(Debug)]
pub struct BlockReader {
    places: Places,
    maps: MapReader,
    disks: Disks,
    identities: UdevDb,
    /// By the number in their kernel name, which is the minor number.
    known_maps: BTreeMap<u32, Arc<SysfsMap>>,
    known_disks: BTreeMap<DevNo, disks::KnownDisk>,
    known_io: BTreeMap<DevNo, Io>,
    strangers: Strangers,
    candidates: Arc<[Candidate]>,
    tables: Tables,
    member_ways: Arc<HashSet<Way>>,
    mounted: Mounted,
    holders: DeviceUsers,
    stacked: Stacked,
    root: Arc<HashSet<String>>,
    usage: Arc<Usage>,
    file: Attribute,
}

impl BlockReader {
    /// Makes a reader for these places.
    pub fn new(places: Places) -> Self {
        BlockReader {
            maps: MapReader::new(&places.sysfs),
            disks: Disks::new(&places.sysfs),
            identities: UdevDb::new(&places.udev_data),
            known_maps: BTreeMap::new(),
            known_disks: BTreeMap::new(),
            known_io: BTreeMap::new(),
            strangers: Strangers::default(),
            candidates: Arc::default(),
            tables: Tables::default(),
            member_ways: Arc::default(),
            mounted: Mounted::default(),
            holders: DeviceUsers::new(),
            stacked: Stacked::new(),
            root: Arc::default(),
            usage: Arc::default(),
            file: Attribute::default(),
            places,
        }
    }

    /// Reads the devices that the request selects.
    ///
    /// # Errors
    /// If there is no `block` directory, or this process has no files or memory left to read with.
    /// The errors of single devices are in the reading.
    pub fn read(&mut self, request: &BlockRequest) -> Result<BlockReading, Error> {
        let mut reading = BlockReading::default();
        let identities = self.identities.read(&mut reading.unreadable);
        reading.unreadable.extend(identities.err());
        let read = match &request.scope {
            Scope::Everything => self.read_everything(request.told.as_deref(), &mut reading),
            Scope::States => self.read_states(request, &mut reading),
            Scope::Devices(devices) => {
                devices.maps.iter().for_each(|devno| self.read_map(*devno, &mut reading));
                devices.disks.iter().for_each(|devno| self.read_disk_numbered(*devno, &mut reading));
                devices.states.iter().for_each(|devno| self.read_states_of(*devno, &mut reading));
                if devices.usage { self.read_usage_alone(&mut reading) } else { Ok(()) }
            }
        };
        self.disks.end();
        read?;
        let unreadable = std::mem::take(&mut reading.unreadable);
        let reading = unless_exhausted(reading, &unreadable)?;
        Ok(BlockReading { unreadable, ..reading })
    }

    fn read_everything(&mut self, told: Option<&[Told]>, reading: &mut BlockReading) -> Result<(), Error> {
        let block = self.places.sysfs.join("block");
        let no_directory = || Error::io(block.display(), &rustix::io::Errno::NOENT.into());
        let entries = list_if_there(&block)?.ok_or_else(no_directory)?;
        match told {
            Some(told) => {
                let mut untold = BTreeMap::new();
                for Told { devno, members } in told {
                    let Some(members) = members else {
                        self.discover(devno.minor, reading);
                        untold.extend(self.known_maps.remove_entry(&devno.minor));
                        continue;
                    };
                    members.iter().for_each(|member| self.read_disk_numbered(*member, reading));
                    self.read_io(*devno, reading);
                }
                self.known_maps = untold;
            }
            None => {
                let minors: BTreeSet<u32> = entries.iter().filter_map(|entry| minor_of(&entry.name)).collect();
                self.known_maps.retain(|minor, _| minors.contains(minor));
                minors.into_iter().for_each(|minor| self.discover(minor, reading));
            }
        }
        self.known_disks.retain(|devno, _| reading.disks.get(devno).is_some_and(Option::is_some));
        self.known_io.clone_from(&reading.io);
        self.read_strangers(&entries, reading);
        self.read_stacked(told, reading);
        self.read_usage(&entries, true, reading);
        reading.host = Some(HostFacts {
            has_maps: told.is_none(),
            candidates: Arc::clone(&self.candidates),
            member_ways: Arc::clone(&self.member_ways),
            root: Arc::clone(&self.root),
        });
        Ok(())
    }

    fn read_usage_alone(&mut self, reading: &mut BlockReading) -> Result<(), Error> {
        let entries = list(&self.places.sysfs.join("block"))?;
        self.read_usage(&entries, false, reading);
        Ok(())
    }

    /// Reads the components of virtual block devices that are not maps.
    fn read_stacked(&mut self, told: Option<&[Told]>, reading: &mut BlockReading) {
        let told: HashSet<u32> = told.unwrap_or_default().iter().map(|told| told.devno.minor).collect();
        let known = &self.known_maps;
        let is_map =
            |name: &str| minor_of(name).is_some_and(|minor| told.contains(&minor) || known.contains_key(&minor));
        let (sysfs, file) = (&self.places.sysfs, &mut self.file);
        self.stacked = usage::stacked(sysfs, is_map, &self.stacked, file, &mut reading.unreadable);
    }

    /// Reads the users of the devices, and the devices below the root file system. Parts that
    /// cannot be read keep their last state.
    fn read_usage(&mut self, block: &[DirectoryEntry], of_maps: bool, reading: &mut BlockReading) {
        match Mounted::read(&self.places, &mut self.tables, &self.mounted) {
            Ok(mounted) => self.mounted = mounted,
            Err(error) => reading.unreadable.push(error),
        }
        let (sysfs, file) = (&self.places.sysfs, &mut self.file);
        let maps = self.known_maps.values().filter(|_| of_maps);
        let maps = maps.map(|map| (map.sysfs_name.to_string(), usage::holders_of_map(sysfs, map, file).map(Some)));
        let heads = block.iter().map(|entry| &entry.name).filter(|name| nvme::is_head(name));
        let heads = heads.map(|name| (name.clone(), usage::holders_of_namespace(sysfs, name)));
        let last = if of_maps { std::mem::take(&mut self.holders) } else { self.holders.clone() };
        for (name, holders) in maps.chain(heads) {
            let holders = holders.unwrap_or_else(|error| {
                reading.unreadable.push(error);
                last.get(&name).cloned()
            });
            self.holders.extend(holders.map(|holders| (name, holders)));
        }
        let usage = Usage::new(&self.mounted, &self.holders, &self.stacked);
        if usage != *self.usage {
            self.usage = Arc::new(usage);
        }
        reading.usage = Some(Arc::clone(&self.usage));
        if self.mounted.root != *self.root {
            self.root = Arc::new(self.mounted.root.clone());
        }
    }

    fn read_states(
        &mut self,
        BlockRequest { told, open, .. }: &BlockRequest,
        reading: &mut BlockReading,
    ) -> Result<(), Error> {
        let found_here: HashSet<DevNo> =
            self.known_maps.values().flat_map(|map| &map.members).filter_map(|member| member.devno).collect();
        for (devno, known) in &mut self.known_disks {
            let (identities, unreadable) = (&self.identities, &mut reading.unreadable);
            let is_well = matches!(known.disk.states.device.as_deref(), Some("running" | "live"));
            let is_open = known.disk.way.as_ref().is_some_and(|way| open.contains(way));
            if told.is_some() && is_well && is_open && !found_here.contains(devno) {
                self.disks.read_access(known, identities, unreadable);
            } else {
                self.disks.read_states(known, identities, unreadable);
            }
            reading.disks.insert(*devno, Some(Arc::clone(&known.disk)));
        }
        for (minor, map) in &mut self.known_maps {
            let suspended = or_note(self.maps.suspended(*minor), &mut reading.unreadable).or(map.suspended);
            if map.suspended != suspended {
                *map = Arc::new(SysfsMap { suspended, ..(**map).clone() });
            }
            reading.maps.insert(map.devno, Some(Arc::clone(map)));
        }
        let maps: Vec<DevNo> = match told {
            Some(told) => told.iter().map(|map| map.devno).collect(),
            None => self.known_maps.values().map(|map| map.devno).collect(),
        };
        maps.into_iter().for_each(|devno| self.read_io(devno, reading));
        self.known_io.clone_from(&reading.io);
        Ok(())
    }

    /// Reads the map of this number, which may be gone or not a map.
    fn read_map(&mut self, devno: DevNo, reading: &mut BlockReading) {
        reading.maps.insert(devno, None);
        self.discover(devno.minor, reading);
    }

    /// Reads a device-mapper device and, if it is a multipath map, its members. After an error the
    /// known state stays.
    fn discover(&mut self, minor: u32, reading: &mut BlockReading) {
        let known = self.known_maps.remove(&minor);
        let map = self.maps.read(minor, known.as_ref(), &mut reading.unreadable).unwrap_or_else(|error| {
            reading.unreadable.push(error);
            known
        });
        let Some(map) = map else { return };
        for member in &map.members {
            match member.devno {
                Some(devno) if member.gone => drop(reading.disks.insert(devno, None)),
                Some(devno) => self.read_disk(devno, &member.place, reading),
                None => {}
            }
        }
        self.known_maps.insert(minor, Arc::clone(&map));
        self.read_io(map.devno, reading);
        reading.maps.insert(map.devno, Some(map));
    }

    /// Reads the disk of this number. If its place in sysfs cannot be read, the last state stays.
    fn read_disk_numbered(&mut self, devno: DevNo, reading: &mut BlockReading) {
        if reading.disks.contains_key(&devno) {
            return;
        }
        match self.place_of(devno) {
            Ok(Some(place)) => self.read_disk(devno, &place, reading),
            Ok(None) => {
                self.known_disks.remove(&devno);
                reading.disks.insert(devno, None);
            }
            Err(error) => {
                reading.unreadable.push(error);
                let known = self.known_disks.get(&devno).map(|known| Some(Arc::clone(&known.disk)));
                reading.disks.extend(known.map(|known| (devno, known)));
            }
        }
    }

    /// Maps may share members, so each reading reads a disk only once.
    fn read_disk(&mut self, devno: DevNo, place: &Path, reading: &mut BlockReading) {
        if reading.disks.contains_key(&devno) {
            return;
        }
        let last = self.known_disks.remove(&devno);
        let known = self.disks.read(devno, place, last, &self.identities, &mut reading.unreadable);
        reading.disks.insert(devno, Some(Arc::clone(&known.disk)));
        self.known_disks.insert(devno, known);
    }

    fn read_states_of(&mut self, devno: DevNo, reading: &mut BlockReading) {
        if reading.disks.contains_key(&devno) {
            return;
        }
        match self.known_disks.get_mut(&devno) {
            Some(known) => {
                self.disks.read_states(known, &self.identities, &mut reading.unreadable);
                reading.disks.insert(devno, Some(Arc::clone(&known.disk)));
            }
            None => self.read_disk_numbered(devno, reading),
        }
    }

    fn read_io(&mut self, devno: DevNo, reading: &mut BlockReading) {
        let last = self.known_io.get(&devno).copied();
        let io = or_note(self.maps.io(devno.minor), &mut reading.unreadable).or(last);
        reading.io.extend(io.map(|io| (devno, io)));
    }

    /// Returns the device's directory, relative to the root. `None` if the device is gone.
    fn place_of(&self, devno: DevNo) -> Result<Option<PathBuf>, Error> {
        let numbers = Path::new("dev/block");
        follow(&self.places.sysfs.join(numbers).join(devno.to_string()), numbers)
    }

    /// Reads the disks that are not members. `reading` already has the members.
    fn read_strangers(&mut self, block: &[DirectoryEntry], reading: &mut BlockReading) {
        let BlockReader { strangers, places, disks, identities, .. } = self;
        let members: Vec<&Disk> = reading.disks.values().flatten().map(|disk| &**disk).collect();
        let unreadable = &mut reading.unreadable;
        let candidates = strangers.read(&places.sysfs, block, &members, disks, identities, unreadable);
        let with_ways = candidates.iter().any(|candidate| candidate.disk.way.is_some());
        let ways: HashSet<&Way> = members.iter().filter(|_| with_ways).filter_map(|disk| disk.way.as_ref()).collect();
        if *candidates != *self.candidates {
            self.candidates = candidates.into();
        }
        let ways: HashSet<Way> = ways.into_iter().cloned().collect();
        if ways != *self.member_ways {
            self.member_ways = Arc::new(ways);
        }
    }
}

fn minor_of(name: &str) -> Option<u32> {
    let minor = name.strip_prefix("dm-")?.parse().ok()?;
    Some(minor).filter(|minor| kernel_name(*minor) == name)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::disks::IoCounts;
    use super::maps::Slave;
    use super::usage::User;
    use super::*;

    const DM: &str = "devices/virtual/block/dm-0";
    const SCSI: &str = "devices/pci/host6/target6:0:0/6:0:0:1";

    fn devno(text: &str) -> DevNo {
        text.parse().unwrap()
    }

    fn write(root: &Path, directory: &str, files: &[(&str, &str)]) {
        for (name, content) in files {
            let file = root.join(directory).join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, content).unwrap();
        }
    }

    fn link(root: &Path, link: &str, target: &str) {
        let link = root.join(link);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(target, link).unwrap();
    }

    /// Returns a host with one map of one SCSI disk, and a reader.
    fn host() -> (tempfile::TempDir, BlockReader) {
        let tree = tempfile::tempdir().unwrap();
        let root = tree.path();
        write(root, DM, &[("dev", "254:0"), ("dm/uuid", "mpath-3600a"), ("dm/name", "mpatha"), ("size", "8")]);
        write(root, DM, &[("dm/suspended", "0"), ("inflight", "0 0")]);
        link(root, "block/dm-0", &format!("../{DM}"));
        write(root, SCSI, &[("state", "running"), ("wwid", "naa.1"), ("block/sdb/dev", "8:16")]);
        link(root, &format!("{SCSI}/block/sdb/device"), "../../../6:0:0:1");
        link(root, "dev/block/8:16", &format!("../../{SCSI}/block/sdb"));
        link(root, &format!("{DM}/slaves/sdb"), &format!("../../../../../{SCSI}/block/sdb"));
        write(root, "proc", &[("1/mountinfo", "")]);
        let places =
            Places { sysfs: root.to_owned(), procfs: root.join("proc"), udev_data: root.join("udev"), capture: None };
        (tree, BlockReader::new(places))
    }

    fn read(reader: &mut BlockReader, scope: Scope, told: bool) -> BlockReading {
        let told = told.then(|| [Told { devno: devno("254:0"), members: Some([devno("8:16")].into()) }].into());
        let reading = reader.read(&BlockRequest { scope, told, ..BlockRequest::default() }).unwrap();
        assert_eq!(reading.unreadable, []);
        reading
    }

    fn map(reading: &BlockReading) -> Arc<SysfsMap> {
        Arc::clone(reading.maps[&devno("254:0")].as_ref().unwrap())
    }

    fn disk(reading: &BlockReading) -> Option<Arc<Disk>> {
        reading.disks[&devno("8:16")].clone()
    }

    #[test]
    fn every_file_is_read_again_each_time() {
        let (tree, mut reader) = host();
        read(&mut reader, Scope::Everything, false);
        write(tree.path(), DM, &[("dm/name", "mpathb")]);
        write(tree.path(), SCSI, &[("state", "offline"), ("wwid", "naa.2"), ("rev", "2")]);
        for told in [true, false] {
            let reading = read(&mut reader, Scope::Everything, told);
            let disk = disk(&reading).unwrap();
            assert_eq!(disk.states.device.as_deref(), Some("offline"));
            assert_eq!((disk.identity.kernel.as_deref(), &*disk.model.revision), (Some("naa.2"), "2"));
            assert_eq!(reading.maps.is_empty(), told);
        }
        assert_eq!(&*map(&read(&mut reader, Scope::Everything, false)).name, "mpathb");
    }

    #[test]
    fn an_unchanged_object_keeps_its_allocation() {
        let (_tree, mut reader) = host();
        let (one, other) = (read(&mut reader, Scope::Everything, false), read(&mut reader, Scope::Everything, false));
        assert!(Arc::ptr_eq(&map(&one), &map(&other)));
        assert!(Arc::ptr_eq(&disk(&one).unwrap(), &disk(&other).unwrap()));
    }

    #[test]
    fn a_reading_of_states_updates_known_devices() {
        let (tree, mut reader) = host();
        read(&mut reader, Scope::Everything, false);
        write(tree.path(), SCSI, &[("state", "blocked"), ("rev", "2")]);
        write(tree.path(), DM, &[("dm/suspended", "1"), ("inflight", "2 3"), ("dm/name", "mpathb")]);
        let reading = read(&mut reader, Scope::States, false);
        let disk = disk(&reading).unwrap();
        assert_eq!((disk.states.device.as_deref(), &*disk.model.revision), (Some("blocked"), ""));
        assert_eq!((map(&reading).suspended, &*map(&reading).name), (Some(true), "mpatha"));
        assert_eq!(reading.io[&devno("254:0")].in_flight, 5);
    }

    #[test]
    fn readings_of_everything_count_errors_and_malformed_counts_keep_the_last_value() {
        let (tree, mut reader) = host();
        let io = |reading: &BlockReading| disk(reading).unwrap().io;
        assert_eq!(io(&read(&mut reader, Scope::Everything, false)), IoCounts::default());
        write(tree.path(), SCSI, &[("ioerr_cnt", "0x1a\n"), ("iotmo_cnt", "0x2\n")]);
        assert_eq!(io(&read(&mut reader, Scope::States, false)), IoCounts::default());
        let counted = IoCounts { errors: Some(26), timeouts: Some(2) };
        assert_eq!(io(&read(&mut reader, Scope::Everything, false)), counted);
        for nonsense in ["-1", "0xffffffff7fffffff", "many", ""] {
            write(tree.path(), SCSI, &[("ioerr_cnt", nonsense), ("iotmo_cnt", "0x3")]);
            let reading = reader.read(&BlockRequest { scope: Scope::Everything, ..BlockRequest::default() }).unwrap();
            assert_eq!(io(&reading), IoCounts { timeouts: Some(3), ..counted });
            let [error] = &reading.unreadable[..] else { panic!("{:?}", reading.unreadable) };
            assert!(error.to_string().contains("sdb/device/ioerr_cnt"), "{error}");
        }
    }

    #[test]
    fn a_disk_stays_blocked_if_two_readings_in_a_row_find_it_so() {
        let (tree, mut reader) = host();
        let mut stays = |state: &str, scope| {
            write(tree.path(), SCSI, &[("state", state)]);
            disk(&read(&mut reader, scope, true)).unwrap().states.stays_blocked
        };
        let one = || Scope::Devices(SelectedDevices { states: [devno("8:16")].into(), ..SelectedDevices::default() });
        assert!(!stays("blocked", Scope::Everything));
        assert!(stays("quiesce", Scope::States));
        assert!(!stays("running", one()));
        assert!(!stays("created-blocked", one()));
        assert!(stays("blocked", Scope::Everything));
        assert!(!stays("transport-offline", Scope::States));
        assert!(!stays("blocked", Scope::States));
        assert!(stays("blocked", Scope::States));
    }

    #[test]
    fn a_failed_read_of_a_state_does_not_count_as_a_second_reading() {
        let (tree, mut reader) = host();
        write(tree.path(), SCSI, &[("state", "blocked")]);
        read(&mut reader, Scope::Everything, false);
        let state = tree.path().join(SCSI).join("state");
        fs::remove_file(&state).unwrap();
        fs::create_dir(&state).unwrap();
        let reading = reader.read(&BlockRequest { scope: Scope::States, ..BlockRequest::default() }).unwrap();
        assert_eq!(reading.unreadable.len(), 1);
        assert!(!disk(&reading).unwrap().states.stays_blocked);
    }

    #[test]
    fn readings_of_everything_read_the_io_of_a_disk() {
        let (tree, mut reader) = host();
        let mut stalled = |stat: &str, scope| {
            std::thread::sleep(std::time::Duration::from_millis(2));
            write(tree.path(), SCSI, &[("block/sdb/stat", stat)]);
            let reading = reader.read(&BlockRequest { scope, ..BlockRequest::default() }).unwrap();
            (disk(&reading).unwrap().stalled.is_some(), reading.unreadable.len())
        };
        let (moves, moved) = ("7 0 0 0 0 0 0 0 1 0 0", "8 0 0 0 0 0 0 0 1 0 0");
        assert_eq!(stalled(moves, Scope::Everything), (false, 0));
        assert_eq!(stalled(moves, Scope::States), (false, 0));
        assert_eq!(stalled(moves, Scope::Everything), (true, 0));
        assert_eq!(stalled(moved, Scope::States), (true, 0));
        // Malformed values leave the stall unchanged.
        assert_eq!(stalled("7 0 0 0 0 0 0 0 1", Scope::Everything), (true, 1));
        assert_eq!(stalled(moved, Scope::Everything), (false, 0));
        assert_eq!(stalled(moved, Scope::Everything), (true, 0));
        assert_eq!(stalled("8 0 0 0 0 0 0 0 0 0 0", Scope::Everything), (false, 0));
    }

    #[test]
    fn a_member_appears_and_disappears() {
        let (tree, mut reader) = host();
        read(&mut reader, Scope::Everything, false);
        write(tree.path(), "devices/virtual/block/sdc", &[("dev", "8:32")]);
        link(tree.path(), &format!("{DM}/slaves/sdc"), "../../sdc");
        let names = |map: Arc<SysfsMap>| map.members.iter().map(|slave| slave.name.to_string()).collect::<Vec<_>>();
        assert_eq!(names(map(&read(&mut reader, Scope::Everything, false))), ["sdb", "sdc"]);
        fs::remove_file(tree.path().join(DM).join("slaves/sdc")).unwrap();
        assert_eq!(names(map(&read(&mut reader, Scope::Everything, false))), ["sdb"]);
    }

    #[test]
    fn a_disk_that_is_gone_keeps_its_number_while_a_map_holds_it() {
        let (tree, mut reader) = host();
        read(&mut reader, Scope::Everything, false);
        fs::remove_dir_all(tree.path().join(SCSI)).unwrap();
        fs::remove_file(tree.path().join("dev/block/8:16")).unwrap();
        let reading = read(&mut reader, Scope::Everything, false);
        let Slave { devno: number, gone, .. } = &map(&reading).members[0];
        assert_eq!((*number, *gone, disk(&reading)), (Some(devno("8:16")), true, None));
        assert_eq!(disk(&read(&mut reader, Scope::Everything, true)), None);
        // A reader that finds a disk gone at its start has never seen it.
        let mut new = BlockReader::new(reader.places.clone());
        let Slave { devno: number, gone, name, .. } = &map(&read(&mut new, Scope::Everything, false)).members[0];
        assert_eq!((*number, *gone, &**name), (None, true, "sdb"));
    }

    #[test]
    fn holders_are_read_if_device_mapper_does_not_report_the_open_count() {
        let (tree, mut reader) = host();
        link(tree.path(), &format!("{DM}/holders/dm-4"), "../../dm-4");
        let head = "devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1";
        write(tree.path(), head, &[("dev", "259:0")]);
        link(tree.path(), "block/nvme0n1", &format!("../{head}"));
        let users = |reading: BlockReading| reading.usage.unwrap().users.clone();
        let of = |name: &str| User::Holder(name.to_owned());
        let with_map = users(read(&mut reader, Scope::Everything, false));
        assert_eq!((&with_map["dm-0"], &with_map["nvme0n1"]), (&[of("dm-4")].into(), &[].into()));
        let told = users(read(&mut reader, Scope::Everything, true));
        assert_eq!((told.get("dm-0"), told.get("nvme0n1")), (None, Some(&[].into())));
        link(tree.path(), &format!("{head}/holders/dm-5"), "../../dm-5");
        let alone =
            read(&mut reader, Scope::Devices(SelectedDevices { usage: true, ..SelectedDevices::default() }), true);
        assert!(alone.host.is_none());
        assert_eq!(users(alone)["nvme0n1"], [of("dm-5")].into());
        fs::remove_file(tree.path().join(head).join("holders/dm-5")).unwrap();
        // A directory that cannot be listed keeps its last state.
        read(&mut reader, Scope::Everything, false);
        fs::remove_dir_all(tree.path().join(DM).join("holders")).unwrap();
        write(tree.path(), DM, &[("holders", "")]);
        let reading = reader.read(&BlockRequest { scope: Scope::Everything, ..BlockRequest::default() }).unwrap();
        assert!(reading.unreadable[0].to_string().contains("dm-0/holders"), "{:?}", reading.unreadable);
        assert_eq!(users(reading), with_map);
    }

    #[test]
    fn a_device_by_its_number() {
        let (tree, mut reader) = host();
        let one = |maps: &[&str], disks: &[&str]| {
            let numbers = |numbers: &[&str]| numbers.iter().map(|number| devno(number)).collect();
            Scope::Devices(SelectedDevices { maps: numbers(maps), disks: numbers(disks), ..SelectedDevices::default() })
        };
        assert_eq!(&*disk(&read(&mut reader, one(&[], &["8:16"]), false)).unwrap().name, "sdb");
        let reading = read(&mut reader, one(&["254:0", "254:9"], &["8:99"]), false);
        assert_eq!(&*map(&reading).wwid, "3600a");
        assert_eq!((&reading.maps[&devno("254:9")], &reading.disks[&devno("8:99")]), (&None, &None));
        write(tree.path(), DM, &[("dm/uuid", "LVM-x")]);
        assert_eq!(read(&mut reader, one(&["254:0"], &[]), false).maps[&devno("254:0")], None);
    }

    #[test]
    fn a_map_whose_identity_cannot_be_read_stays_and_is_an_error() {
        let (tree, mut reader) = host();
        read(&mut reader, Scope::Everything, false);
        let uuid = tree.path().join(DM).join("dm/uuid");
        fs::remove_file(&uuid).unwrap();
        for round in 0..2 {
            let reading = reader.read(&BlockRequest { scope: Scope::Everything, ..BlockRequest::default() }).unwrap();
            assert_eq!(&*map(&reading).wwid, "3600a", "{round}");
            assert!(reading.unreadable[0].to_string().contains("dm/uuid"), "{:?}", reading.unreadable);
            if round == 0 {
                fs::create_dir(&uuid).unwrap();
            }
        }
    }

    #[test]
    fn maps_are_recognised_by_their_names() {
        for (name, minor) in [("dm-0", Some(0)), ("dm-17", Some(17)), ("dm-", None), ("dm-017", None), ("sda", None)] {
            assert_eq!(minor_of(name), minor, "{name}");
        }
    }
}
