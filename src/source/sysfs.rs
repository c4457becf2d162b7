//! sysfs: what stands in files for everyone to read.
//!
//! ```text
//! block/dm-N/                dm/uuid says whether it is a multipath map; dm/name, size, ro, inflight, diskseq
//! block/dm-N/slaves/sdb      a link to the member: …/6:0:0:1/block/sdb, whose path tells address and transport
//! …/6:0:0:1/block/sdb/dev    the member's device number, the one join key of all sources
//! …/6:0:0:1/state            the SCSI device: state, access_state, vendor, model, rev
//! ```
//!
//! Documented in `Documentation/ABI/{stable,testing}/sysfs-block*` and `sysfs-class-scsi_device` of the kernel. A file
//! that is absent belongs to a device that has no such thing (a ram disk has no SCSI state) or that has just gone.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use super::{Error, device_mapper::UUID_PREFIX, dm_name, is_gone};
use crate::topology::{DevNo, Transport};

/// sysfs counts sizes in these, whatever the device's own block size.
const SECTOR: u64 = 512;
/// No attribute is larger: sysfs hands out one page.
const PAGE: u64 = 4096;

/// A multipath map's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    /// Its device number.
    pub devno: DevNo,
    /// Its kernel name, `dm-3`.
    pub sysfs_name: Arc<str>,
    /// Its name (alias).
    pub name: Arc<str>,
    /// Its identity.
    pub wwid: Arc<str>,
    /// Its UUID: [`UUID_PREFIX`] and the WWID.
    pub uuid: Arc<str>,
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
    /// What its first SCSI member says it is.
    pub model: Model,
    /// Its members.
    pub members: Vec<Arc<Disk>>,
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
    /// State of the SCSI device.
    pub device_state: Option<Arc<str>>,
    /// ALUA state, where a hardware handler is attached.
    pub access_state: Option<Arc<str>>,
}

/// All multipath maps of the host.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// A map whose files did not change since the last reading is the same allocation.
    pub maps: Vec<Arc<Map>>,
    /// What exists and could not be read; maps seen before stand in `maps` as last read.
    pub unreadable: Vec<Error>,
}

/// What to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every file of every device.
    Everything,
    /// Of the known maps what changes without an event: suspended, in-flight requests, their members' SCSI states.
    States,
    /// Every file of these devices.
    Devices(HashSet<DevNo>),
}

/// Reads the maps and remembers them.
#[derive(Debug)]
pub struct Sysfs {
    root: PathBuf,
    /// By kernel name.
    maps: BTreeMap<OsString, Arc<Map>>,
    /// By the target of the link in `slaves`, which names the member's directory. Maps may share members.
    disks: Disks,
    file: Attribute,
}

type Disks = HashMap<PathBuf, Arc<Disk>>;

impl Sysfs {
    /// `root` is where sysfs is mounted.
    pub fn new(root: &Path) -> Self {
        let (maps, disks) = (BTreeMap::new(), HashMap::new());
        Sysfs { root: root.to_owned(), maps, disks, file: Attribute::default() }
    }

    /// Reads what `scope` says and gives all maps.
    ///
    /// # Errors
    /// If `block` cannot be listed. A single device's trouble is in the reading.
    pub fn read(&mut self, scope: &Scope) -> Result<Reading, Error> {
        let mut unreadable = Vec::new();
        match scope {
            Scope::Everything => {
                let names = self.device_mapper_names()?;
                let mut maps = std::mem::take(&mut self.maps);
                let disks = std::mem::take(&mut self.disks);
                for name in names {
                    let known = maps.remove(&name);
                    self.look(name, known, &disks, &mut unreadable);
                }
            }
            Scope::Devices(devices) => {
                let disks = std::mem::take(&mut self.disks);
                for devno in devices {
                    let name = OsString::from(format!("dm-{}", devno.minor));
                    let known = self.maps.remove(&name);
                    self.look(name, known, &disks, &mut unreadable);
                }
                for (place, disk) in disks {
                    self.disks.entry(place).or_insert(disk);
                }
            }
            Scope::States => self.look_at_states(&mut unreadable),
        }
        Ok(Reading { maps: self.maps.values().cloned().collect(), unreadable })
    }

    fn device_mapper_names(&self) -> Result<Vec<OsString>, Error> {
        let directory = self.root.join("block");
        let failed = |cause| Error::new(directory.display(), cause);
        let mut names = Vec::new();
        for entry in fs::read_dir(&directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if name.as_bytes().starts_with(b"dm-") {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Brings one device up to date. After an error what was known stands.
    fn look(&mut self, name: OsString, known: Option<Arc<Map>>, disks: &Disks, unreadable: &mut Vec<Error>) {
        let map = match self.read_map(&name, disks) {
            Ok(Some(map)) => Some(known.filter(|known| **known == map).unwrap_or_else(|| Arc::new(map))),
            Ok(None) => None,
            Err(error) => {
                unreadable.push(error);
                known
            }
        };
        if let Some(map) = map {
            self.maps.insert(name, map);
        }
    }

    /// Reads one device-mapper device; `None` if it is no multipath map, or is gone.
    fn read_map(&mut self, name: &OsStr, disks: &Disks) -> Result<Option<Map>, Error> {
        let directory = self.root.join("block").join(name);
        let Some(uuid) = self.file.text(&directory, "dm/uuid")? else { return Ok(None) };
        let Some(wwid) = uuid.strip_prefix(UUID_PREFIX).map(Arc::from) else { return Ok(None) };
        let uuid = Arc::from(uuid);
        let Some(devno) = self.file.parsed(&directory, "dev")? else { return Ok(None) };
        let Some(members) = self.read_members(&directory.join("slaves"), disks)? else { return Ok(None) };
        let name_of_map = dm_name(self.file.bytes(&directory, "dm/name")?.unwrap_or_default()).into();
        Ok(Some(Map {
            devno,
            sysfs_name: name.to_string_lossy().into(),
            name: name_of_map,
            wwid,
            uuid,
            diskseq: self.file.parsed(&directory, "diskseq")?,
            suspended: self.file.flag(&directory, "dm/suspended")?,
            size_bytes: self.file.parsed::<u64>(&directory, "size")?.map(|sectors| sectors.saturating_mul(SECTOR)),
            read_only: self.file.flag(&directory, "ro")?,
            inflight_requests: self.read_inflight(&directory)?,
            model: self.read_model(&directory.join("slaves"), &members)?,
            members,
        }))
    }

    /// Reads the members from the links in `slaves`; `None` if the map is gone.
    fn read_members(&mut self, slaves: &Path, disks: &Disks) -> Result<Option<Vec<Arc<Disk>>>, Error> {
        let failed = |cause| Error::new(slaves.display(), cause);
        let entries = match fs::read_dir(slaves) {
            Ok(entries) => entries,
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut members = Vec::new();
        for entry in entries {
            let link = entry.map_err(failed)?.path();
            let place = match fs::read_link(&link) {
                Ok(place) => place,
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(Error::new(link.display(), error)),
            };
            let read = match self.disks.get(&place) {
                Some(disk) => Some(Arc::clone(disk)),
                None => self.read_disk(&place)?.map(|disk| {
                    let same = disks.get(&place).filter(|before| ***before == disk).cloned();
                    same.unwrap_or_else(|| Arc::new(disk))
                }),
            };
            if let Some(disk) = read {
                self.disks.insert(place, Arc::clone(&disk));
                members.push(disk);
            }
        }
        members.sort_by_key(|disk| disk.devno);
        Ok(Some(members))
    }

    fn read_disk(&mut self, place: &Path) -> Result<Option<Disk>, Error> {
        let directory = self.directory(place);
        let Some(devno) = self.file.parsed(&directory, "dev")? else { return Ok(None) };
        let (hctl, transport) = address(place);
        let (device_state, access_state) = self.read_states(&directory)?;
        let name = place.file_name().unwrap_or_default().to_string_lossy().into();
        Ok(Some(Disk { devno, name, hctl: hctl.into(), transport, device_state, access_state }))
    }

    /// A member's directory. The kernel links to it relative to `devices/virtual/block/dm-N/slaves`.
    fn directory(&self, place: &Path) -> PathBuf {
        let mut below = place.components();
        while below.clone().next() == Some(Component::ParentDir) {
            below.next();
        }
        self.root.join("devices").join(below.as_path())
    }

    fn read_states(&mut self, directory: &Path) -> Result<(Option<Arc<str>>, Option<Arc<str>>), Error> {
        let device_state = self.file.text(directory, "device/state")?.map(Arc::from);
        let access_state = match &device_state {
            Some(_) => self.file.text(directory, "device/access_state")?.map(Arc::from),
            None => None,
        };
        Ok((device_state, access_state))
    }

    fn read_inflight(&mut self, directory: &Path) -> Result<Option<u64>, Error> {
        // Two numbers: reads and writes.
        let text = self.file.text(directory, "inflight")?;
        Ok(text.and_then(|text| text.split_ascii_whitespace().map(|number| number.parse::<u64>().ok()).sum()))
    }

    fn read_model(&mut self, slaves: &Path, members: &[Arc<Disk>]) -> Result<Model, Error> {
        let Some(first) = members.iter().find(|disk| disk.device_state.is_some()) else {
            return Ok(Model::default());
        };
        let device = slaves.join(&*first.name).join("device");
        let mut text = |name| Ok(self.file.text(&device, name)?.map(Arc::from).unwrap_or_default());
        Ok(Model { vendor: text("vendor")?, product: text("model")?, revision: text("rev")? })
    }

    fn look_at_states(&mut self, unreadable: &mut Vec<Error>) {
        let mut changed = HashMap::new();
        let mut disks = std::mem::take(&mut self.disks);
        for (place, disk) in &mut disks {
            match self.read_states(&self.directory(place)) {
                // Gone: its removal has an event of its own.
                Ok((None, _)) => {}
                Ok((device_state, access_state)) => {
                    if (&device_state, &access_state) != (&disk.device_state, &disk.access_state) {
                        *disk = Arc::new(Disk { device_state, access_state, ..(**disk).clone() });
                        changed.insert(disk.devno, Arc::clone(disk));
                    }
                }
                Err(error) => unreadable.push(error),
            }
        }
        self.disks = disks;
        let mut maps = std::mem::take(&mut self.maps);
        for (name, map) in &mut maps {
            match self.read_map_states(name, map, &changed) {
                Ok(Some(now)) => *map = Arc::new(now),
                Ok(None) => {}
                Err(error) => unreadable.push(error),
            }
        }
        self.maps = maps;
    }

    /// The map with its states as they are now; `None` if nothing changed.
    fn read_map_states(
        &mut self,
        name: &OsStr,
        map: &Map,
        changed: &HashMap<DevNo, Arc<Disk>>,
    ) -> Result<Option<Map>, Error> {
        let directory = self.root.join("block").join(name);
        let suspended = self.file.flag(&directory, "dm/suspended")?.or(map.suspended);
        let inflight_requests = self.read_inflight(&directory)?.or(map.inflight_requests);
        let stale = |disk: &Arc<Disk>| changed.contains_key(&disk.devno);
        if (suspended, inflight_requests) == (map.suspended, map.inflight_requests) && !map.members.iter().any(stale) {
            return Ok(None);
        }
        let members = map.members.iter().map(|disk| changed.get(&disk.devno).unwrap_or(disk).clone()).collect();
        Ok(Some(Map { suspended, inflight_requests, members, ..map.clone() }))
    }
}

/// SCSI address and transport, from the directories that the member's own directory lies in.
fn address(place: &Path) -> (&str, Transport) {
    let mut hctl = "";
    let mut transport = Transport::Unknown;
    for part in place.components().filter_map(|part| part.as_os_str().to_str()) {
        let numbered =
            |prefix| part.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        if part.split(':').count() == 4 && part.bytes().all(|byte| byte == b':' || byte.is_ascii_digit()) {
            hctl = part;
        } else if numbered("session") {
            transport = Transport::Iscsi;
        } else if numbered("rport-") {
            transport = Transport::Fc;
        } else if numbered("end_device-") {
            transport = Transport::Sas;
        }
    }
    (hctl, transport)
}

/// Reads small files into one buffer.
#[derive(Debug, Default)]
struct Attribute {
    path: OsString,
    content: Vec<u8>,
}

impl Attribute {
    /// The file's content without the newline at its end; `None` if there is no such file or its device is gone.
    fn bytes(&mut self, directory: &Path, name: &str) -> Result<Option<&[u8]>, Error> {
        self.path.clear();
        self.path.push(directory);
        self.path.push("/");
        self.path.push(name);
        self.content.clear();
        match File::open(&self.path).and_then(|file| file.take(PAGE).read_to_end(&mut self.content)) {
            Ok(_) => Ok(Some(self.content.strip_suffix(b"\n").unwrap_or(&self.content))),
            Err(error) if is_gone(&error) || error.kind() == io::ErrorKind::InvalidInput => Ok(None),
            Err(error) => Err(Error::new(Path::new(&self.path).display(), error)),
        }
    }

    /// As text, padding trimmed.
    fn text(&mut self, directory: &Path, name: &str) -> Result<Option<&str>, Error> {
        if self.bytes(directory, name)?.is_none() {
            return Ok(None);
        }
        if let Cow::Owned(lossy) = String::from_utf8_lossy(&self.content) {
            self.content = lossy.into_bytes();
        }
        Ok(str::from_utf8(&self.content).ok().map(str::trim))
    }

    fn parsed<T: FromStr>(&mut self, directory: &Path, name: &str) -> Result<Option<T>, Error> {
        let Some(text) = self.text(directory, name)? else { return Ok(None) };
        match text.parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => {
                let cause = format!("cannot make sense of {text:?}");
                Err(Error::new(Path::new(&self.path).display(), cause))
            }
        }
    }

    fn flag(&mut self, directory: &Path, name: &str) -> Result<Option<bool>, Error> {
        Ok(self.parsed::<u8>(directory, name)?.map(|value| value != 0))
    }
}
