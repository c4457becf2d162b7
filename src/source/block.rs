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

use super::files::{Anchors, Attribute, follow, or_last, or_note};
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

/// States of a SCSI device, in the kernel's words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct States {
    /// `running`, `offline`, …; `None` where it is no SCSI device, or is gone.
    pub device: Option<Arc<str>>,
    /// ALUA state, where a hardware handler is attached.
    pub access: Option<Arc<str>>,
    /// There is none to be read.
    pub absent: bool,
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
    /// Counts those of everything.
    resyncs: u64,
    /// States have been read by themselves since the last reading of everything.
    states_read: bool,
    /// The reading under way leaves them as they are.
    leave_states: bool,
    anchors: Anchors,
    file: Attribute,
}

type Maps = BTreeMap<u32, Arc<Map>>;

#[derive(Debug)]
struct Known {
    /// Its directory, relative to the root.
    place: PathBuf,
    scsi: Option<ScsiDevice>,
    way: Option<Way>,
    disk: Arc<Disk>,
    /// The last reading it was read in.
    read: u64,
    /// What does not change without an event has been read since the last one.
    fresh: bool,
}

/// Where the kernel keeps all device-mapper devices, and `block` links to.
const VIRTUAL: &str = "devices/virtual/block";

/// Where a SCSI disk's own device lies: neither by way of a link nor all the way down, as it is read all the time.
#[derive(Debug)]
struct ScsiDevice {
    /// The directory of its session, port or host.
    anchor: Arc<Path>,
    /// `target6:0:0/6:0:0:1`
    below: String,
}

/// In how many readings of everything each disk is read anew, though no event has told of it: that there is another LUN
/// behind it the kernel tells nobody.
const TURNS: u64 = 20;

impl Block {
    /// `root` is where sysfs is mounted.
    pub fn new(root: &Path) -> Self {
        Block {
            root: root.to_owned(),
            maps: BTreeMap::new(),
            disks: HashMap::new(),
            numbers: HashMap::new(),
            reading: 0,
            resyncs: 0,
            states_read: false,
            leave_states: false,
            anchors: Anchors::default(),
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
        let turn = (request.scope == Scope::Everything).then_some(self.resyncs % TURNS);
        self.resyncs += u64::from(turn.is_some());
        self.leave_states = turn.is_some() && self.states_read && request.outlines.is_some();
        self.states_read = request.scope == Scope::States || self.states_read && turn.is_none();
        for (devno, known) in &mut self.disks {
            // The numbers of whole disks are sixteen apart.
            let its_turn = turn == Some(u64::from(devno.major + devno.minor / 16 + devno.minor % 16) % TURNS);
            known.fresh &= !request.forget_all && !its_turn && !request.forget.contains(devno);
        }
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
        self.anchors.close();
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
            None => {
                let directory = self.directory(minor);
                or_note(self.file.inflight(&directory), unreadable)
            }
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
            inflight_requests: or_note(self.file.inflight(&directory), unreadable),
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
        let here = Path::new(VIRTUAL).join(kernel_name(minor)).join("slaves");
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
        if let Some(disk) = self.known_disk(devno, ways, identities, unreadable).filter(|disk| !disk.states.absent) {
            return Some(disk);
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
        let known = self.numbers.get(&place).copied();
        let is_fresh = |devno: &DevNo| self.disks.get(devno).is_some_and(|known| known.fresh && known.place == place);
        let devno = match known.filter(is_fresh) {
            Some(devno) => devno,
            None => {
                let devno = or_note(self.file.parsed(&self.root.join(&place), "dev"), unreadable).or(known)?;
                self.numbers.insert(place.clone(), devno);
                devno
            }
        };
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
        let known = self.disks.remove(&devno).filter(|known| known.place == place);
        let mut known = match known {
            Some(known) if known.fresh => {
                let disk = Arc::clone(&known.disk);
                self.disks.insert(devno, known);
                return self.known_disk(devno, ways, identities, unreadable).unwrap_or(disk);
            }
            Some(known) => known,
            None => Known {
                way: way_of(&place),
                scsi: scsi_device(&self.root, &place),
                disk: Arc::new(Disk::at(devno, &place)),
                place,
                read: 0,
                fresh: false,
            },
        };
        let disk = self.whole_disk(&known, ways, identities, unreadable);
        if *known.disk != disk {
            known.disk = Arc::new(disk);
        }
        (known.read, known.fresh) = (self.reading, true);
        let disk = Arc::clone(&known.disk);
        self.disks.insert(devno, known);
        disk
    }

    /// The disk of this number, if nothing has to be read of it but what changes without an event.
    fn known_disk(
        &mut self,
        devno: DevNo,
        ways: &Ways,
        identities: &UdevDb,
        unreadable: &mut Vec<Error>,
    ) -> Option<Arc<Disk>> {
        let known = self.disks.get_mut(&devno).filter(|known| known.fresh)?;
        if known.read == self.reading {
            return Some(Arc::clone(&known.disk));
        }
        known.read = self.reading;
        let states = match self.leave_states {
            true => Ok(known.disk.states.clone()),
            false => read_states(&mut self.file, &mut self.anchors, &self.root, known),
        };
        let states = or_last(states, Some(&known.disk.states), unreadable);
        let disk = &known.disk;
        let ports = known.way.as_ref().and_then(|way| ways.ports(way)).filter(|ports| **ports != disk.ports);
        let ports = ports.map(|ports| ports.clone().or(&disk.ports));
        let udev = identities.wwid(devno, &disk.name).filter(|wwid| disk.identity.udev.as_ref() != Some(*wwid));
        if disk.states != states || ports.as_ref().is_some_and(|ports| *ports != disk.ports) || udev.is_some() {
            let mut now = (**disk).clone();
            now.states = states;
            now.ports = ports.unwrap_or(now.ports);
            now.identity.udev = udev.cloned().or(now.identity.udev);
            known.disk = Arc::new(now);
        }
        Some(Arc::clone(&known.disk))
    }

    /// Reads all of a disk. What cannot be read stays as last read.
    fn whole_disk(&mut self, known: &Known, ways: &Ways, identities: &UdevDb, unreadable: &mut Vec<Error>) -> Disk {
        let last = &*known.disk;
        let states = read_states(&mut self.file, &mut self.anchors, &self.root, known);
        let states = or_last(states, Some(&last.states), unreadable);
        let directory = self.root.join(&known.place);
        let ports = known.way.as_ref().and_then(|way| ways.ports(way)).cloned().unwrap_or_default();
        let scsi = self.file.text(&directory, "device/wwid").map(|text| text.map(Arc::from));
        let size = self.file.parsed::<u64>(&directory, "size");
        let size_bytes = size.map(|sectors| sectors.map(|sectors| sectors.saturating_mul(SECTOR)));
        let read_only = self.file.flag(&directory, "ro");
        Disk {
            devno: last.devno,
            name: Arc::clone(&last.name),
            hctl: Arc::clone(&last.hctl),
            transport: last.transport,
            ports: ports.or(&last.ports),
            model: self.read_model(&directory, &last.model, unreadable),
            identity: Identity {
                udev: identities.wwid(last.devno, &last.name).cloned(),
                scsi: or_last(scsi, Some(&last.identity.scsi), unreadable),
            },
            size_bytes: or_last(size_bytes, Some(&last.size_bytes), unreadable),
            read_only: or_last(read_only, Some(&last.read_only), unreadable),
            states,
        }
    }

    fn read_model(&mut self, directory: &Path, last: &Model, unreadable: &mut Vec<Error>) -> Model {
        let mut text = |name, last| {
            let text = self.file.text(directory, name).map(|text| text.map(Arc::from).unwrap_or_default());
            or_last(text, Some(last), unreadable)
        };
        Model {
            vendor: text("device/vendor", &last.vendor),
            product: text("device/model", &last.product),
            revision: text("device/rev", &last.revision),
        }
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
        let directory = self.root.join(VIRTUAL).join(kernel_name(minor));
        let suspended = match map.suspended {
            Some(last) => self.file.flag(&directory, "dm/suspended")?.or(Some(last)),
            None => None,
        };
        let inflight_requests = self.file.inflight(&directory)?.or(map.inflight_requests);
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

impl Disk {
    /// A disk of which nothing is known but where it is.
    fn at(devno: DevNo, place: &Path) -> Self {
        Disk {
            devno,
            name: place.file_name().unwrap_or_default().to_string_lossy().into(),
            hctl: hctl_of(place).into(),
            transport: transport_of(place),
            ports: Ports::default(),
            model: Model::default(),
            identity: Identity::default(),
            size_bytes: None,
            read_only: None,
            states: States::default(),
        }
    }
}

fn read_states(file: &mut Attribute, anchors: &mut Anchors, root: &Path, known: &Known) -> Result<States, Error> {
    let last = &known.disk.states;
    // As a rule it says what it said.
    let keep = |text: Option<&str>, last: &Option<Arc<str>>| match (text, last) {
        (Some(text), Some(last)) if *text == **last => Some(Arc::clone(last)),
        (text, _) => text.map(Arc::from),
    };
    let mut read = |name, last| match &known.scsi {
        Some(ScsiDevice { anchor, below }) => match anchors.get(anchor)? {
            Some(open) => Ok(keep(file.text_below(open, anchor, &[below, name])?, last)),
            None => Ok(None),
        },
        None => Ok(keep(file.text(&root.join(&known.place).join("device"), name)?, last)),
    };
    match read("state", &last.device)? {
        None => Ok(States { absent: true, ..States::default() }),
        device => Ok(States { device, access: read("access_state", &last.access)?, absent: false }),
    }
}

/// `…/target6:0:0/6:0:0:1/block/sdb` lies in its device.
fn scsi_device(root: &Path, place: &Path) -> Option<ScsiDevice> {
    let device = place.parent().filter(|block| block.ends_with("block"))?.parent()?;
    let (hctl, target) = (device.file_name()?.to_str()?, device.parent()?);
    let anchor = target.parent().filter(|_| hctl == hctl_of(place))?;
    let below = format!("{}/{hctl}", target.file_name()?.to_str()?);
    Some(ScsiDevice { anchor: root.join(anchor).into(), below })
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::sysfs::{Parts, Places, Sysfs};
    use super::*;

    const SCSI: &str = "devices/pci/host6/target6:0:0/6:0:0:1";

    /// A host with one disk, a reader that has read it once by device mapper's word, and what to ask it.
    fn host() -> (tempfile::TempDir, Sysfs, impl Fn(Scope) -> Request) {
        let tree = tempfile::tempdir().unwrap();
        let root = tree.path();
        for directory in [&format!("{SCSI}/block/sdb"), "block", "dev/block"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        for (file, content) in [("state", "running"), ("wwid", "naa.1"), ("block/sdb/dev", "8:16")] {
            fs::write(root.join(SCSI).join(file), content).unwrap();
        }
        symlink("../../../6:0:0:1", root.join(SCSI).join("block/sdb/device")).unwrap();
        symlink(format!("../../{SCSI}/block/sdb"), root.join("dev/block/8:16")).unwrap();
        let devno = |text: &str| text.parse().unwrap();
        let outline = Outline { wwid: "3600a".into(), devno: devno("254:0"), members: [devno("8:16")].into() };
        let outlines: Arc<[Outline]> = [outline].into();
        let request = move |scope| Request { scope, outlines: Some(Arc::clone(&outlines)), ..Request::default() };
        let places = Places { sysfs: root.to_owned(), procfs: root.join("proc"), udev_data: root.join("udev") };
        let mut reader = Sysfs::new(places, Parts { nvme: true, iscsi: true, fibre_channel: true });
        reader.read(&request(Scope::Everything)).unwrap();
        (tree, reader, request)
    }

    fn disk(reader: &mut Sysfs, request: Request) -> Option<Arc<Disk>> {
        let reading = reader.read(&request).unwrap();
        assert_eq!(reading.unreadable, []);
        reading.maps[0].members.first().cloned()
    }

    fn state(reader: &mut Sysfs, request: Request) -> Option<String> {
        disk(reader, request)?.states.device.as_deref().map(str::to_owned)
    }

    #[test]
    fn states_are_left_to_readings_of_their_own_where_there_are_some() {
        let (tree, mut reader, request) = host();
        let file = tree.path().join(SCSI).join("state");
        for word in ["offline", "blocked"] {
            fs::write(&file, word).unwrap();
            assert_eq!(state(&mut reader, request(Scope::Everything)).as_deref(), Some(word));
        }
        fs::write(&file, "running").unwrap();
        assert_eq!(state(&mut reader, request(Scope::States)).as_deref(), Some("running"));
        fs::write(&file, "offline").unwrap();
        assert_eq!(state(&mut reader, request(Scope::Everything)).as_deref(), Some("running"));
        assert_eq!(state(&mut reader, request(Scope::Everything)).as_deref(), Some("offline"));
    }

    #[test]
    fn without_an_event_a_disk_is_read_anew_in_its_turn() {
        let (tree, mut reader, request) = host();
        fs::write(tree.path().join(SCSI).join("wwid"), "naa.2").unwrap();
        let seen = (0..TURNS).any(|_| {
            let disk = disk(&mut reader, request(Scope::Everything)).unwrap();
            disk.identity.scsi.as_deref() == Some("naa.2")
        });
        assert!(seen);
    }

    #[test]
    fn a_disk_that_is_gone_is_no_member_once_its_state_is() {
        let (tree, mut reader, request) = host();
        fs::remove_file(tree.path().join("dev/block/8:16")).unwrap();
        fs::remove_dir_all(tree.path().join(SCSI)).unwrap();
        assert_eq!(disk(&mut reader, request(Scope::Everything)), None);
    }
}
