//! Block devices in sysfs: device-mapper maps and their members.
//!
//! ```text
//! block/dm-N/             dm/uuid says whether it is a multipath map; dm/name, size, ro, inflight, diskseq, …
//! block/dm-N/slaves/sdb   a link to the member's directory
//! dev/block/8:16          another, by its number
//! …/6:0:0:1/block/sdb/    the member's directory: its path tells SCSI address and transport; dev, size, ro
//! …/6:0:0:1/block/sdb/device/   the SCSI device: state, access_state, vendor, model, rev, wwid
//! ```
//!
//! Documented in `Documentation/ABI/{stable,testing}/sysfs-block*` and `sysfs-class-scsi_device` of the kernel. A file
//! that is absent belongs to a device that has no such thing (a ram disk has no SCSI state) or that has just gone.
//!
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{Attribute, follow, or_note};
use super::sysfs::{Outline, Request, Scope, Way, Ways};
use super::udev_db::UdevDb;
use super::{Error, SECTOR, device_mapper::UUID_PREFIX, dm_name, is_gone};
use crate::topology::{DevNo, Ports, Transport};

/// A multipath map's files. What was not read, as device mapper had told it, is `None` or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Map {
    /// Its identity.
    pub wwid: Arc<str>,
    /// Its kernel name, `dm-3`.
    pub sysfs_name: Arc<str>,
    /// Its device number.
    pub devno: Option<DevNo>,
    /// Its name (alias).
    pub name: Arc<str>,
    /// Tells this device from an earlier one of the same number (Linux 5.15 and later).
    pub diskseq: Option<u64>,
    /// I/O is suspended.
    pub suspended: Option<bool>,
    /// Size in bytes.
    pub size_bytes: Option<u64>,
    /// Write-protected.
    pub read_only: Option<bool>,
    /// Requests sent down and not completed.
    pub inflight_requests: Option<u64>,
    /// Its members, by device number.
    pub members: Vec<Arc<Disk>>,
    /// The members that device mapper told of; those that are gone are not in `members`.
    pub asked: Arc<[DevNo]>,
}

/// SCSI INQUIRY strings, padding trimmed, empty where there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// Vendor.
    pub vendor: Arc<str>,
    /// Product.
    pub product: Arc<str>,
    /// Product revision.
    pub revision: Arc<str>,
}

/// A member's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its device number.
    pub devno: DevNo,
    /// Its kernel name, `sdb`.
    pub name: Arc<str>,
    /// SCSI host, channel, target and LUN, `6:0:0:1`; empty where it is no SCSI device.
    pub hctl: Arc<str>,
    /// What carries its I/O.
    pub transport: Transport,
    /// What it goes over. Kept when that falls silent.
    pub ports: Ports,
    /// What it says it is.
    pub model: Model,
    /// Who it says it is, as udev and the SCSI layer know it.
    pub identity: Identity,
    /// Size in bytes.
    pub size_bytes: Option<u64>,
    /// Write-protected.
    pub read_only: Option<bool>,
    /// How it fares.
    pub states: States,
}

/// Who a disk says it is. Neither source is always ahead of the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// udev's word, which is how multipath names maps.
    pub udev: Option<Arc<str>>,
    /// The SCSI layer's word (`naa.600…`), as of its last look at the disk.
    pub scsi: Option<Arc<str>>,
}

/// What a disk is and may cease to be without an event: after `blockdev --setro` there is none, nor when a path is looked
/// at again (`rescan`) and leads to another LUN now.
#[derive(Debug, Default)]
struct Facts {
    size_bytes: Option<u64>,
    read_only: Option<bool>,
    scsi: Option<Arc<str>>,
}

/// States of a SCSI device, in the kernel's words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct States {
    /// `running`, `offline`, …; `None` where it is no SCSI device, or is gone.
    pub device: Option<Arc<str>>,
    /// ALUA state, where a hardware handler is attached.
    pub access: Option<Arc<str>>,
}

/// Reads maps and disks and remembers them.
#[derive(Debug)]
pub struct Block {
    root: PathBuf,
    /// By the number in their kernel name, which is the device's minor number.
    maps: Maps,
    /// Maps may share members, so these are read once.
    disks: HashMap<DevNo, Known>,
    numbers: HashMap<PathBuf, DevNo>,
    /// Counts the readings.
    reading: u64,
    /// In this one known disks are asked anew what they are, too.
    thorough: bool,
    file: Attribute,
}

type Maps = BTreeMap<u32, Arc<Map>>;

#[derive(Debug)]
struct Known {
    /// Its directory, relative to the root.
    place: PathBuf,
    way: Option<Way>,
    disk: Arc<Disk>,
    /// The last reading it was read in.
    read: u64,
}

impl Block {
    /// `root` is where sysfs is mounted.
    pub fn new(root: &Path) -> Self {
        Block {
            root: root.to_owned(),
            maps: BTreeMap::new(),
            disks: HashMap::new(),
            numbers: HashMap::new(),
            reading: 0,
            thorough: false,
            file: Attribute::default(),
        }
    }

    /// Reads what is asked for and gives all maps.
    ///
    /// # Errors
    /// If there is no `block`. A single device's trouble is noted, and it stands as last read.
    pub fn read(
        &mut self,
        request: &Request,
        ways: &Ways,
        identities: &UdevDb,
        unreadable: &mut Vec<Error>,
    ) -> Result<Vec<Arc<Map>>, Error> {
        let block = self.root.join("block");
        fs::metadata(&block).map_err(|cause| Error::new(block.display(), cause))?;
        self.reading += 1;
        self.thorough = request.scope == Scope::Everything;
        self.disks.retain(|devno, _| !request.forget_all && !request.forget.contains(devno));
        match (&request.scope, &request.outlines) {
            (Scope::Others, _) => {}
            (Scope::States, _) => self.look_at_states(ways, identities, unreadable),
            (Scope::Everything, Some(outlines)) => {
                let mut before = std::mem::take(&mut self.maps);
                for outline in outlines.iter() {
                    self.fill_in(outline, &mut before, ways, identities, unreadable);
                }
            }
            (Scope::Everything, None) => {
                let minors = self.device_mapper_devices()?;
                let mut before = std::mem::take(&mut self.maps);
                for minor in minors {
                    self.discover(minor, &mut before, ways, identities, unreadable);
                }
            }
            (Scope::Devices(devices), Some(outlines)) => {
                let mut before = self.take_maps(devices);
                for outline in outlines.iter().filter(|outline| devices.contains(&outline.devno)) {
                    self.fill_in(outline, &mut before, ways, identities, unreadable);
                }
            }
            (Scope::Devices(devices), None) => {
                let mut before = self.take_maps(devices);
                for devno in devices {
                    self.discover(devno.minor, &mut before, ways, identities, unreadable);
                }
            }
        }
        if request.scope == Scope::Everything {
            let (disks, reading) = (&mut self.disks, self.reading);
            disks.retain(|_, known| known.read == reading);
            self.numbers.retain(|place, devno| disks.get(devno).is_some_and(|known| known.place == *place));
        }
        Ok(self.maps.values().cloned().collect())
    }

    fn take_maps(&mut self, devices: &HashSet<DevNo>) -> Maps {
        devices.iter().filter_map(|devno| self.maps.remove_entry(&devno.minor)).collect()
    }

    fn device_mapper_devices(&self) -> Result<Vec<u32>, Error> {
        let directory = self.root.join("block");
        let failed = |cause| Error::new(directory.display(), cause);
        let mut minors = Vec::new();
        for entry in fs::read_dir(&directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            minors.extend(name.to_str().and_then(|name| name.strip_prefix("dm-")?.parse::<u32>().ok()));
        }
        Ok(minors)
    }

    fn directory(&self, minor: u32) -> PathBuf {
        self.root.join("block").join(kernel_name(minor))
    }

    /// Reads what device mapper does not tell of a map. In-flight requests of a known map are left to [`Scope::States`]:
    /// they change all the time, and a file for each map is a third of what a full reading costs.
    fn fill_in(
        &mut self,
        outline: &Outline,
        before: &mut Maps,
        ways: &Ways,
        identities: &UdevDb,
        unreadable: &mut Vec<Error>,
    ) {
        let minor = outline.devno.minor;
        let known = before.remove(&minor).filter(|known| known.wwid == outline.wwid);
        let inflight_requests = match &known {
            Some(known) => known.inflight_requests,
            None => or_note(self.read_inflight(&self.directory(minor)), unreadable),
        };
        let members: Vec<_> = outline
            .members
            .iter()
            .filter_map(|devno| self.disk_numbered(*devno, ways, identities, unreadable))
            .collect();
        let same = known.filter(|known| known.asked == outline.members && known.members == members);
        let map = same.unwrap_or_else(|| {
            Arc::new(Map {
                wwid: Arc::clone(&outline.wwid),
                sysfs_name: kernel_name(minor).into(),
                devno: Some(outline.devno),
                inflight_requests,
                members,
                asked: Arc::clone(&outline.members),
                ..Map::default()
            })
        });
        self.maps.insert(minor, map);
    }

    /// Reads all of a device-mapper device, if it is a multipath map. After an error what was known stands.
    fn discover(
        &mut self,
        minor: u32,
        before: &mut Maps,
        ways: &Ways,
        identities: &UdevDb,
        unreadable: &mut Vec<Error>,
    ) {
        let known = before.remove(&minor);
        let map = match self.read_map(minor, ways, identities, unreadable) {
            Ok(map) => map.map(|map| known.filter(|known| **known == map).unwrap_or_else(|| Arc::new(map))),
            Err(error) => {
                unreadable.push(error);
                known
            }
        };
        self.maps.extend(map.map(|map| (minor, map)));
    }

    /// Reads a device-mapper device; `None` if it is no multipath map. An error if it cannot be told which one it is:
    /// what else cannot be read leaves only itself out.
    fn read_map(
        &mut self,
        minor: u32,
        ways: &Ways,
        identities: &UdevDb,
        unreadable: &mut Vec<Error>,
    ) -> Result<Option<Map>, Error> {
        let directory = self.directory(minor);
        let Some(uuid) = self.file.text(&directory, "dm/uuid")? else { return Ok(None) };
        let Some(wwid) = uuid.strip_prefix(UUID_PREFIX).map(Arc::from) else { return Ok(None) };
        let Some(devno) = self.file.parsed(&directory, "dev")? else { return Ok(None) };
        let Some(members) = self.read_members(minor, ways, identities, unreadable)? else { return Ok(None) };
        let sectors: Option<u64> = or_note(self.file.parsed(&directory, "size"), unreadable);
        Ok(Some(Map {
            wwid,
            sysfs_name: kernel_name(minor).into(),
            devno: Some(devno),
            name: dm_name(self.file.bytes(&directory, "dm/name")?.unwrap_or_default()).into(),
            diskseq: or_note(self.file.parsed(&directory, "diskseq"), unreadable),
            suspended: or_note(self.file.flag(&directory, "dm/suspended"), unreadable),
            size_bytes: sectors.map(|sectors| sectors.saturating_mul(SECTOR)),
            read_only: or_note(self.file.flag(&directory, "ro"), unreadable),
            inflight_requests: or_note(self.read_inflight(&directory), unreadable),
            members,
            asked: Arc::default(),
        }))
    }

    /// Reads the members from the links in `slaves`; `None` if the map is gone.
    fn read_members(
        &mut self,
        minor: u32,
        ways: &Ways,
        identities: &UdevDb,
        unreadable: &mut Vec<Error>,
    ) -> Result<Option<Vec<Arc<Disk>>>, Error> {
        let slaves = self.directory(minor).join("slaves");
        let failed = |cause| Error::new(slaves.display(), cause);
        let entries = match fs::read_dir(&slaves) {
            Ok(entries) => entries,
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        // Where the kernel keeps all device-mapper devices, and `block` links to.
        let here = Path::new("devices/virtual/block").join(kernel_name(minor)).join("slaves");
        let mut members = Vec::new();
        for entry in entries {
            let link = entry.map_err(failed)?.path();
            if let Some(place) = or_note(follow(&link, &here), unreadable) {
                members.extend(self.disk_at(place, ways, identities, unreadable));
            }
        }
        members.sort_by_key(|disk| disk.devno);
        Ok(Some(members))
    }

    /// The disk of this number; `None` if it is gone.
    fn disk_numbered(
        &mut self,
        devno: DevNo,
        ways: &Ways,
        identities: &UdevDb,
        unreadable: &mut Vec<Error>,
    ) -> Option<Arc<Disk>> {
        if let Some(known) = self.disks.get(&devno).filter(|known| known.read == self.reading) {
            return Some(Arc::clone(&known.disk));
        }
        let link = self.root.join("dev/block").join(devno.to_string());
        let place = or_note(follow(&link, Path::new("dev/block")), unreadable)?;
        Some(self.disk(devno, place, ways, identities, unreadable))
    }

    /// The disk in this directory. One that is gone, but that a map still holds, is still known by its last number.
    fn disk_at(
        &mut self,
        place: PathBuf,
        ways: &Ways,
        identities: &UdevDb,
        unreadable: &mut Vec<Error>,
    ) -> Option<Arc<Disk>> {
        let devno = or_note(self.file.parsed(&self.root.join(&place), "dev"), unreadable);
        let devno = devno.or_else(|| self.numbers.get(&place).copied())?;
        self.numbers.insert(place.clone(), devno);
        Some(self.disk(devno, place, ways, identities, unreadable))
    }

    /// The disk of this number in this directory. What cannot be read of it stays as last read.
    fn disk(
        &mut self,
        devno: DevNo,
        place: PathBuf,
        ways: &Ways,
        identities: &UdevDb,
        unreadable: &mut Vec<Error>,
    ) -> Arc<Disk> {
        let known = self.disks.get(&devno).filter(|known| known.place == place);
        if let Some(known) = known.filter(|known| known.read == self.reading) {
            return Arc::clone(&known.disk);
        }
        let (known, way) = match known {
            Some(known) => (Some(Arc::clone(&known.disk)), known.way.clone()),
            None => (None, way_of(&place)),
        };
        let directory = self.root.join(&place);
        let last = known.as_ref().map(|disk| disk.states.clone());
        let states = self.read_states(&directory).unwrap_or_else(|error| {
            unreadable.push(error);
            last.unwrap_or_default()
        });
        let ports = way.as_ref().and_then(|way| ways.ports(way)).cloned().unwrap_or_default();
        let disk = match known {
            Some(disk) => {
                let ports = ports.or(&disk.ports);
                let udev = identities.wwid(devno, &disk.name).or(disk.identity.udev.as_ref()).cloned();
                let facts = if self.thorough { self.read_facts(&directory, unreadable) } else { Facts::default() };
                let now = Disk {
                    states,
                    ports,
                    size_bytes: facts.size_bytes.or(disk.size_bytes),
                    read_only: facts.read_only.or(disk.read_only),
                    identity: Identity { udev, scsi: facts.scsi.or_else(|| disk.identity.scsi.clone()) },
                    ..(*disk).clone()
                };
                if now == *disk { disk } else { Arc::new(now) }
            }
            None => {
                let name: Arc<str> = place.file_name().unwrap_or_default().to_string_lossy().into();
                let udev = identities.wwid(devno, &name).cloned();
                let facts = self.read_facts(&directory, unreadable);
                Arc::new(Disk {
                    devno,
                    name,
                    hctl: hctl_of(&place).into(),
                    transport: transport_of(&place),
                    ports,
                    model: self.read_model(&directory, unreadable),
                    identity: Identity { udev, scsi: facts.scsi },
                    size_bytes: facts.size_bytes,
                    read_only: facts.read_only,
                    states,
                })
            }
        };
        self.disks.insert(devno, Known { place, way, disk: Arc::clone(&disk), read: self.reading });
        disk
    }

    fn read_facts(&mut self, disk: &Path, unreadable: &mut Vec<Error>) -> Facts {
        let sectors: Option<u64> = or_note(self.file.parsed(disk, "size"), unreadable);
        let scsi = self.file.text(disk, "device/wwid").map(|text| text.map(Arc::from));
        Facts {
            size_bytes: sectors.map(|sectors| sectors.saturating_mul(SECTOR)),
            read_only: or_note(self.file.flag(disk, "ro"), unreadable),
            scsi: or_note(scsi, unreadable),
        }
    }

    fn read_states(&mut self, directory: &Path) -> Result<States, Error> {
        let Some(device) = self.file.text(directory, "device/state")?.map(Arc::from) else {
            return Ok(States::default());
        };
        Ok(States { device: Some(device), access: self.file.text(directory, "device/access_state")?.map(Arc::from) })
    }

    fn read_model(&mut self, directory: &Path, unreadable: &mut Vec<Error>) -> Model {
        let mut text = |name| {
            let text = self.file.text(directory, name).map(|text| text.map(Arc::from));
            or_note(text, unreadable).unwrap_or_default()
        };
        Model { vendor: text("device/vendor"), product: text("device/model"), revision: text("device/rev") }
    }

    fn read_inflight(&mut self, map: &Path) -> Result<Option<u64>, Error> {
        let text = self.file.text(map, "inflight")?;
        // Two numbers: reads and writes.
        Ok(text.and_then(|text| text.split_ascii_whitespace().map(|number| number.parse::<u64>().ok()).sum()))
    }

    fn look_at_states(&mut self, ways: &Ways, identities: &UdevDb, unreadable: &mut Vec<Error>) {
        let places: Vec<_> = self.disks.iter().map(|(devno, known)| (*devno, known.place.clone())).collect();
        for (devno, place) in places {
            self.disk(devno, place, ways, identities, unreadable);
        }
        let mut maps = std::mem::take(&mut self.maps);
        for (minor, map) in &mut maps {
            match self.read_map_states(*minor, map) {
                Ok(Some(now)) => *map = Arc::new(now),
                Ok(None) => {}
                Err(error) => unreadable.push(error),
            }
        }
        self.maps = maps;
    }

    /// The map with its states as they are now; `None` if nothing changed.
    fn read_map_states(&mut self, minor: u32, map: &Map) -> Result<Option<Map>, Error> {
        let directory = self.directory(minor);
        let suspended = match map.suspended {
            Some(last) => self.file.flag(&directory, "dm/suspended")?.or(Some(last)),
            None => None,
        };
        let inflight_requests = self.read_inflight(&directory)?.or(map.inflight_requests);
        let now =
            |disk: &Arc<Disk>| self.disks.get(&disk.devno).map_or(Arc::clone(disk), |known| Arc::clone(&known.disk));
        let same = |disk: &Arc<Disk>| Arc::ptr_eq(disk, &now(disk));
        if (suspended, inflight_requests) == (map.suspended, map.inflight_requests) && map.members.iter().all(same) {
            return Ok(None);
        }
        let members = map.members.iter().map(now).collect();
        Ok(Some(Map { suspended, inflight_requests, members, ..map.clone() }))
    }
}

fn kernel_name(minor: u32) -> String {
    format!("dm-{minor}")
}

/// The names of the directories that the member's own lies in: they tell its SCSI address and what it goes over.
fn lineage(place: &Path) -> impl Iterator<Item = &str> {
    place.components().filter_map(|part| part.as_os_str().to_str())
}

fn hctl_of(place: &Path) -> &str {
    let is_address =
        |part: &&str| part.split(':').count() == 4 && part.bytes().all(|byte| byte == b':' || byte.is_ascii_digit());
    lineage(place).filter(is_address).last().unwrap_or_default()
}

fn is_numbered(part: &str, prefix: &str) -> bool {
    part.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
}

fn way_of(place: &Path) -> Option<Way> {
    lineage(place).find_map(|part| match part {
        session if is_numbered(session, "session") => Some(Way::Iscsi(session.into())),
        port if is_numbered(port, "rport-") => Some(Way::FibreChannel(port.into())),
        _ => None,
    })
}

fn transport_of(place: &Path) -> Transport {
    match way_of(place) {
        Some(Way::Iscsi(_)) => Transport::Iscsi,
        Some(Way::FibreChannel(_)) => Transport::Fc,
        None if lineage(place).any(|part| is_numbered(part, "end_device-")) => Transport::Sas,
        None => Transport::Unknown,
    }
}
