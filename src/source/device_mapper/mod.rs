//! Device mapper: the kernel's own state of every multipath map.
//!
//! ```text
//! DeviceMapper::read ─► list: the devices, and whose event number changed             ioctl.rs
//!                    ─► the UUID of new devices, if the list has none                 ioctl.rs
//!                    ─► the status and the table of each map                          ioctl.rs, status.rs
//!                    ─► whether each of its partition mappings is open                ioctl.rs
//!                    ─► Reading: all maps, the unchanged ones shared with the reading before
//! ```

mod ioctl;
mod status;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use ioctl::{CONTROL_FILE, Control};
pub(crate) use status::{ParseError, StatusGroup, StatusPath};

use super::{Error, Places, SECTOR_SIZE, UUID_PREFIX, dm_name, is_gone, partitioned, recorded, witness};
use crate::topology::DevNo;
use ioctl::{Listed, Shown, TargetText};

/// One multipath map as the kernel holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Map {
    pub(crate) devno: DevNo,
    /// The event number from the list of devices, which counts the map's events. `None` before
    /// Linux 4.15.
    pub(crate) event_nr: Option<u32>,
    /// The alias.
    pub(crate) name: Arc<str>,
    pub(crate) wwid: Arc<str>,
    /// The UUID: [`UUID_PREFIX`] and the WWID.
    pub(crate) uuid: Arc<str>,
    /// The number of holders of the map.
    pub(crate) open_count: u32,
    /// The number of these holders that are closed partition mappings of the map. Opening a mapping
    /// causes no event, so both counts are as of the last read of the map.
    pub(crate) closed_partitions: u32,
    pub(crate) read_only: bool,
    pub(crate) suspended: bool,
    /// True if I/O waits while no path is valid.
    pub(crate) queueing: bool,
    pub(crate) size_bytes: u64,
    /// The path groups; empty if the table no longer has a multipath target (`dmsetup remove
    /// --force`).
    pub(crate) groups: Vec<StatusGroup>,
}

impl Map {
    /// Returns the device numbers of the members, in the kernel's order.
    pub(crate) fn members(&self) -> impl Iterator<Item = DevNo> {
        self.groups.iter().flat_map(|group| &group.paths).map(|path| path.devno)
    }
}

/// Says which maps to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MapRequest {
    /// Read every map. Otherwise read only maps that are new or whose event number changed.
    pub(crate) all: bool,
    /// If the list has no UUIDs, ask each device again for its own. Otherwise each device is asked
    /// once.
    pub(crate) anew: bool,
    /// Read these devices as well, and ask them again what they are.
    pub(crate) dirty: HashSet<DevNo>,
}

/// All multipath maps of the host.
#[derive(Clone, Debug, Default)]
pub(crate) struct MapReading {
    /// The maps. A map that did not change since the last reading keeps its allocation.
    pub(crate) maps: Vec<Arc<Map>>,
    /// Maps that exist and could not be read. If they were read before, their last state is in
    /// `maps`.
    pub(crate) unreadable: Vec<(DevNo, Error)>,
}

/// Reads the maps and remembers them. A map that did not change costs two ioctls and a comparison.
#[derive(Debug)]
pub(crate) struct DeviceMapper<O = Origin> {
    origin: O,
    known: BTreeMap<DevNo, KnownMap>,
    /// Devices that are not multipath maps. Filled only if the list has no UUIDs.
    others: HashMap<DevNo, OtherDevice>,
    scratch: Raw,
}

/// Device mapper's answers, from the kernel, a capture or a test.
trait KernelAnswers {
    /// Lists all device-mapper devices. Returns an empty list on a host without device mapper.
    fn list(&mut self) -> Result<Vec<Listed>, Error>;

    /// Returns the UUID of a device.
    fn uuid(&mut self, devno: DevNo) -> io::Result<Vec<u8>>;

    /// Returns true if a device is a partition mapping on the map of this UUID and has no holders.
    fn is_closed_partition(&mut self, devno: DevNo, map: &[u8]) -> io::Result<bool>;

    /// Fills `raw` with the kernel's answers about a multipath map. Returns `false` if the device
    /// has no live table or is no longer a multipath map.
    fn fill(&mut self, devno: DevNo, raw: &mut Raw) -> io::Result<bool>;
}

/// The device mapper of this host, or of the host of a capture.
#[derive(Debug)]
pub(crate) enum Origin {
    /// The kernel of this host. `sysfs` shows if the kernel has no device mapper or only refuses
    /// access.
    Kernel {
        /// The mount point of sysfs.
        sysfs: PathBuf,
        /// The control file, after it has been opened.
        control: Option<Control>,
    },
    /// The recorded answers of another host's kernel.
    Capture {
        directory: PathBuf,
        /// The maps, after the capture has been read.
        maps: BTreeMap<DevNo, recorded::RecordedMap>,
    },
}

#[derive(Debug)]
struct KnownMap {
    event_nr: Option<u32>,
    raw: Raw,
    map: Arc<Map>,
}

/// A device that is not a multipath map.
#[derive(Debug)]
struct OtherDevice {
    name: Vec<u8>,
    /// The UUID of the map, if the device is a partition mapping on one.
    partitioned: Option<Vec<u8>>,
}

/// The kinds of devices that this module distinguishes.
enum DeviceKind {
    Map,
    /// A partition mapping on the map of this UUID.
    Partition(Vec<u8>),
    Other,
}

impl DeviceKind {
    fn of(uuid: &[u8]) -> Self {
        match partitioned(uuid) {
            Some(map) => DeviceKind::Partition(map.to_owned()),
            None if uuid.starts_with(UUID_PREFIX.as_bytes()) => DeviceKind::Map,
            None => DeviceKind::Other,
        }
    }
}

/// The answers of the ioctls, unparsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Raw {
    name: Vec<u8>,
    uuid: Vec<u8>,
    open_count: u32,
    closed_partitions: u32,
    read_only: bool,
    suspended: bool,
    sectors: u64,
    status: Vec<u8>,
    table: Vec<u8>,
}

impl DeviceMapper {
    /// Makes a reader for the host or capture at these places.
    pub(crate) fn new(places: &Places) -> Self {
        DeviceMapper::of(match &places.capture {
            Some(capture) => Origin::Capture { directory: capture.clone(), maps: BTreeMap::new() },
            None => Origin::Kernel { sysfs: places.sysfs.clone(), control: None },
        })
    }
}

#[expect(private_bounds, reason = "outside of this module there is one origin")]
impl<O: KernelAnswers> DeviceMapper<O> {
    fn of(origin: O) -> Self {
        DeviceMapper { origin, known: BTreeMap::new(), others: HashMap::new(), scratch: Raw::default() }
    }

    /// Reads the list, and the maps that the request selects.
    ///
    /// # Errors
    /// If the control file cannot be opened, the list cannot be read, or no map can be read. If
    /// only some maps fail, the reading holds their errors.
    pub(crate) fn read(&mut self, request: &MapRequest) -> Result<MapReading, Error> {
        let listed = self.origin.list()?;
        let mut before = std::mem::take(&mut self.known);
        let others = std::mem::take(&mut self.others);
        let (mut maps, mut partitions) = (Vec::new(), Partitions::new());
        for entry in &listed {
            // The number may now belong to another map.
            let is_it = |known: &KnownMap| entry.uuid.as_ref().is_none_or(|uuid| *uuid == known.raw.uuid);
            let known = before.remove(&entry.devno).filter(is_it);
            let is_dirty = request.anew || request.dirty.contains(&entry.devno);
            let told = (!is_dirty).then_some((known.as_ref(), others.get(&entry.devno)));
            match self.kind(entry, told) {
                Ok(DeviceKind::Other) => {}
                Ok(DeviceKind::Partition(map)) => partitions.entry(map).or_default().push(entry.devno),
                Ok(DeviceKind::Map) => maps.push((entry, known, is_dirty, None)),
                Err(error) => maps.push((entry, known, is_dirty, Some(error))),
            }
        }
        let mut reading = MapReading::default();
        let mut number = 0;
        for (entry, mut known, is_dirty, error) in maps {
            let moved = known.as_ref().is_none_or(|known| known.event_nr != entry.event_nr || known.event_nr.is_none());
            let refreshed = match error {
                Some(error) => Err(error),
                None if request.all || moved || is_dirty => self.refresh(entry, &partitions, &mut known),
                None => Ok(true),
            };
            match refreshed {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => reading.unreadable.push((entry.devno, error)),
            }
            number += 1;
            if let Some(known) = known {
                reading.maps.push(Arc::clone(&known.map));
                self.known.insert(entry.devno, known);
            }
        }
        match reading.unreadable.first() {
            Some((_, error)) if reading.unreadable.len() == number => Err(error.clone()),
            _ => Ok(reading),
        }
    }

    /// Finds out the kind of a device. Kernels before 5.12 list no UUIDs, so they are asked for
    /// each UUID. Only maps are asked for status and table. A thin pool on a dead LUN would not
    /// answer before the LUN is back, and the table of a LUKS device contains its key.
    ///
    /// `told` holds what is still known about this device number: a map or another device.
    fn kind(
        &mut self,
        entry: &Listed,
        told: Option<(Option<&KnownMap>, Option<&OtherDevice>)>,
    ) -> Result<DeviceKind, Error> {
        if let Some(uuid) = &entry.uuid {
            return Ok(DeviceKind::of(uuid));
        }
        let (map, other) = told.unwrap_or_default();
        if map.is_some_and(|map| map.raw.name == entry.name) {
            return Ok(DeviceKind::Map);
        }
        let partitioned = match other.filter(|other| other.name == entry.name) {
            Some(other) => other.partitioned.clone(),
            None => match self.origin.uuid(entry.devno).map(|uuid| DeviceKind::of(&uuid)) {
                Ok(DeviceKind::Map) => return Ok(DeviceKind::Map),
                Ok(DeviceKind::Partition(map)) => Some(map),
                Ok(DeviceKind::Other) => None,
                Err(error) if is_gone(&error) => return Ok(DeviceKind::Other),
                Err(error) => return Err(unread(entry, &error)),
            },
        };
        let kind = partitioned.clone().map_or(DeviceKind::Other, DeviceKind::Partition);
        self.others.insert(entry.devno, OtherDevice { name: entry.name.clone(), partitioned });
        Ok(kind)
    }

    /// Updates what is known of one map. Returns `false` if the map is gone again or has no table
    /// yet; in both cases an event follows. After an error the known state stays.
    fn refresh(
        &mut self,
        entry: &Listed,
        partitions: &Partitions,
        known: &mut Option<KnownMap>,
    ) -> Result<bool, Error> {
        let raw = &mut self.scratch;
        match self.origin.fill(entry.devno, raw) {
            Ok(true) => {
                // The map was asked before its mappings. If a mapping is opened or removed in
                // between, the map looks used, and never unused by mistake. For the same reason, a
                // mapping that cannot be asked counts as open.
                let mut closed = |devno: DevNo| self.origin.is_closed_partition(devno, &raw.uuid).unwrap_or(false);
                let mappings = partitions.get(&raw.uuid).into_iter().flatten();
                let number = mappings.filter(|devno| closed(**devno)).count() as u32;
                raw.closed_partitions = raw.closed_partitions.saturating_add(number);
                witness::map(|| raw.to_recorded(entry));
            }
            Ok(false) => return Ok(false),
            Err(error) if is_gone(&error) => return Ok(false),
            Err(error) => {
                let error_text = Some(error.to_string());
                witness::map(|| recorded::RecordedMap { error: error_text, ..Raw::default().to_recorded(entry) });
                return Err(unread(entry, &error));
            }
        }
        match known {
            Some(known) if known.raw == *raw => known.event_nr = entry.event_nr,
            _ => {
                let map = Arc::new(raw.parse(entry).map_err(|error| unread(entry, &error))?);
                *known = Some(KnownMap { event_nr: entry.event_nr, raw: raw.clone(), map });
            }
        }
        Ok(true)
    }
}

/// The partition mappings of each map, by the map's UUID.
type Partitions = HashMap<Vec<u8>, Vec<DevNo>>;

fn unread(entry: &Listed, cause: &dyn std::error::Error) -> Error {
    Error::new(format_args!("device-mapper device {}", entry.devno), cause)
}

impl KernelAnswers for Origin {
    fn list(&mut self) -> Result<Vec<Listed>, Error> {
        let control = match self {
            Origin::Kernel { control: Some(control), .. } => control,
            Origin::Kernel { sysfs, control } => match Control::open() {
                Ok(opened) => control.insert(opened),
                Err(error) if error.kind() == io::ErrorKind::NotFound && !loaded(sysfs) => return Ok(Vec::new()),
                // A container shares the kernel's device mapper. It has the device node only if the
                // node was passed in.
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                    return Err(Error::io(CONTROL_FILE, &cause).not_permitted());
                }
                Err(cause) => return Err(Error::io(CONTROL_FILE, &cause)),
            },
            Origin::Capture { directory, maps } => {
                let failed =
                    |cause: &dyn std::fmt::Display| Error::new(directory.join(recorded::FILE_NAME).display(), cause);
                let said = recorded::read(directory)?.device_mapper;
                // A source that is missing in the capture stays missing.
                let said = said.ok_or_else(|| failed(&"device mapper was not captured").not_permitted())?;
                if let Some(error) = said.error {
                    return Err(failed(&error).not_permitted());
                }
                let numbered =
                    |map: recorded::RecordedMap| Ok((map.devno.parse().map_err(|error| failed(&error))?, map));
                *maps = said.maps.into_iter().map(numbered).collect::<Result<_, _>>()?;
                let listed = |(devno, map): (&DevNo, &recorded::RecordedMap)| Listed {
                    devno: *devno,
                    name: map.name.clone().into(),
                    event_nr: map.event_nr,
                    uuid: Some(map.uuid.clone().into()).filter(|uuid: &Vec<u8>| !uuid.is_empty()),
                };
                return Ok(maps.iter().map(listed).collect());
            }
        };
        control.list().map_err(|cause| Error::io(CONTROL_FILE, &cause))
    }

    fn uuid(&mut self, devno: DevNo) -> io::Result<Vec<u8>> {
        match self {
            Origin::Kernel { control: Some(control), .. } => Ok(control.glance(devno)?.uuid.to_vec()),
            Origin::Kernel { control: None, .. } => Ok(Vec::new()),
            // A capture has only maps, and no UUIDs of maps that could not be read.
            Origin::Capture { .. } => Ok(UUID_PREFIX.into()),
        }
    }

    fn is_closed_partition(&mut self, devno: DevNo, map: &[u8]) -> io::Result<bool> {
        let Origin::Kernel { control: Some(control), .. } = self else { return Ok(false) };
        let shown = control.glance(devno)?;
        // A mapping without a table holds nothing.
        Ok(shown.live && shown.open_count == 0 && partitioned(shown.uuid) == Some(map))
    }

    fn fill(&mut self, devno: DevNo, raw: &mut Raw) -> io::Result<bool> {
        match self {
            Origin::Kernel { control: Some(control), .. } => read_raw(control, devno, raw),
            Origin::Kernel { control: None, .. } => Ok(false),
            Origin::Capture { maps, .. } => match maps.get(&devno) {
                Some(recorded::RecordedMap { error: Some(error), .. }) => Err(io::Error::other(error.clone())),
                Some(map) => {
                    *raw = Raw::from_recorded(map);
                    Ok(true)
                }
                None => Ok(false),
            },
        }
    }
}

/// Returns true if the kernel has device mapper. A host without it has no maps, which is not an
/// error.
fn loaded(sysfs: &Path) -> bool {
    sysfs.join("class/misc/device-mapper").exists()
}

fn read_raw(control: &mut Control, devno: DevNo, raw: &mut Raw) -> io::Result<bool> {
    let shown = control.show(devno, TargetText::Status)?;
    // The number may now belong to another device.
    if !shown.live || !shown.uuid.starts_with(UUID_PREFIX.as_bytes()) {
        return Ok(false);
    }
    replace(&mut raw.name, shown.name);
    replace(&mut raw.uuid, shown.uuid);
    raw.open_count = shown.open_count;
    raw.closed_partitions = 0;
    raw.read_only = shown.read_only;
    raw.suspended = shown.suspended;
    raw.sectors = shown.targets().map(|(sectors, ..)| sectors).fold(0, u64::saturating_add);
    replace(&mut raw.status, multipath_line(&shown));
    replace(&mut raw.table, multipath_line(&control.show(devno, TargetText::Table)?));
    Ok(true)
}

fn replace(buffer: &mut Vec<u8>, bytes: &[u8]) {
    buffer.clear();
    buffer.extend_from_slice(bytes);
}

/// Returns the text of the map's multipath target. It is empty if there is no such target.
fn multipath_line<'a>(shown: &Shown<'a>) -> &'a [u8] {
    shown.targets().find(|(_, kind, _)| *kind == b"multipath").map_or(&[], |(.., line)| line)
}

impl Raw {
    /// Converts the answers to the form of a capture.
    fn to_recorded(&self, entry: &Listed) -> recorded::RecordedMap {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        recorded::RecordedMap {
            devno: entry.devno.to_string(),
            event_nr: entry.event_nr,
            error: None,
            name: text(&self.name),
            uuid: text(&self.uuid),
            open_count: self.open_count,
            closed_partitions: self.closed_partitions,
            read_only: self.read_only,
            suspended: self.suspended,
            sectors: self.sectors,
            status: text(&self.status),
            table: text(&self.table),
        }
    }

    /// Converts the answers from the form of a capture.
    fn from_recorded(map: &recorded::RecordedMap) -> Self {
        Raw {
            name: map.name.clone().into(),
            uuid: map.uuid.clone().into(),
            open_count: map.open_count,
            closed_partitions: map.closed_partitions,
            read_only: map.read_only,
            suspended: map.suspended,
            sectors: map.sectors,
            status: map.status.clone().into(),
            table: map.table.clone().into(),
        }
    }

    fn parse(&self, entry: &Listed) -> Result<Map, ParseError> {
        let lossy = |bytes| String::from_utf8_lossy(bytes);
        let uuid = lossy(&self.uuid);
        let has_target = !self.table.is_empty();
        Ok(Map {
            devno: entry.devno,
            event_nr: entry.event_nr,
            name: dm_name(&self.name).into(),
            wwid: uuid.strip_prefix(UUID_PREFIX).unwrap_or_default().into(),
            uuid: uuid.as_ref().into(),
            open_count: self.open_count,
            closed_partitions: self.closed_partitions,
            read_only: self.read_only,
            suspended: self.suspended,
            size_bytes: self.sectors.saturating_mul(SECTOR_SIZE),
            queueing: has_target && status::parse_queueing(&lossy(&self.table))?,
            groups: if has_target { status::parse_status(&lossy(&self.status))? } else { Vec::new() },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(status: &str, table: &str) -> Raw {
        Raw {
            name: b"mpatha".to_vec(),
            uuid: b"mpath-3600".to_vec(),
            open_count: 1,
            status: status.into(),
            table: table.into(),
            ..Raw::default()
        }
    }

    fn entry() -> Listed {
        Listed { devno: DevNo { major: 254, minor: 0 }, name: b"mpatha".to_vec(), event_nr: Some(0), uuid: None }
    }

    #[test]
    fn a_map_is_parsed_from_its_status_and_its_table() {
        let map = raw("2 0 0 0 1 1 A 0 1 2 8:0 F 1 0 1 ", "1 queue_if_no_path 0 1 1 service-time 0 1 2 8:0 1 1 ");
        let map = map.parse(&entry()).unwrap();
        assert!(map.queueing);
        assert_eq!((&*map.name, &*map.uuid), ("mpatha", "mpath-3600"));
        let paths = vec![StatusPath { devno: "8:0".parse().unwrap(), valid: false }];
        assert_eq!(map.groups, [StatusGroup { letter: 'A', paths }]);
    }

    #[test]
    fn a_map_whose_multipath_target_is_gone_has_no_paths() {
        let map = raw("", "").parse(&entry()).unwrap();
        assert!(map.groups.is_empty() && !map.queueing);
    }

    #[test]
    fn a_truncated_status_is_an_error() {
        let cut = raw("2 0 0 0 1 1 A 0 1 2 8:0", "0 0 1 1 service-time 0 1 2 8:0 1 1");
        assert!(cut.parse(&entry()).is_err());
    }

    /// A kernel that records what it was asked. Each device has a minor number, a name, a UUID and
    /// a status.
    #[derive(Default)]
    struct FakeKernel {
        lists_uuids: bool,
        /// Devices that have holders. Those in `silent` do not answer.
        open: HashSet<u32>,
        silent: HashSet<u32>,
        devices: Vec<(u32, &'static str, &'static str, &'static str)>,
        asked: Vec<(&'static str, u32)>,
    }

    const GOOD: &str = "2 0 0 0 1 1 A 0 1 2 8:0 A 0 0 1 ";

    impl FakeKernel {
        fn device(&self, devno: DevNo) -> io::Result<(u32, &'static str, &'static str, &'static str)> {
            let found = self.devices.iter().find(|(minor, ..)| *minor == devno.minor);
            found.copied().ok_or_else(|| rustix::io::Errno::NXIO.into())
        }
    }

    impl KernelAnswers for FakeKernel {
        fn list(&mut self) -> Result<Vec<Listed>, Error> {
            let listed = |(minor, name, uuid, _): &(u32, &str, &str, &str)| Listed {
                devno: DevNo { major: 254, minor: *minor },
                name: (*name).into(),
                event_nr: Some(0),
                uuid: self.lists_uuids.then(|| (*uuid).into()),
            };
            Ok(self.devices.iter().map(listed).collect())
        }

        fn uuid(&mut self, devno: DevNo) -> io::Result<Vec<u8>> {
            self.asked.push(("uuid", devno.minor));
            Ok(self.device(devno)?.2.into())
        }

        fn is_closed_partition(&mut self, devno: DevNo, map: &[u8]) -> io::Result<bool> {
            self.asked.push(("partition", devno.minor));
            if self.silent.contains(&devno.minor) {
                return Err(rustix::io::Errno::IO.into());
            }
            let (minor, _, uuid, _) = self.device(devno)?;
            Ok(partitioned(uuid.as_bytes()) == Some(map) && !self.open.contains(&minor))
        }

        fn fill(&mut self, devno: DevNo, out: &mut Raw) -> io::Result<bool> {
            self.asked.push(("status", devno.minor));
            let (_, name, uuid, status) = self.device(devno)?;
            let table = "0 0 1 1 service-time 0 1 2 8:0 1 1 ";
            *out = Raw { name: name.into(), uuid: uuid.into(), ..raw(status, table) };
            Ok(true)
        }
    }

    fn asked(reader: &mut DeviceMapper<FakeKernel>, request: &MapRequest) -> Vec<(&'static str, u32)> {
        reader.read(request).unwrap();
        std::mem::take(&mut reader.origin.asked)
    }

    #[test]
    fn only_maps_are_asked_for_their_status_on_a_kernel_that_lists_no_uuids() {
        let devices = vec![(0, "mpatha", "mpath-3600", GOOD), (1, "data-pool", "LVM-pool", ""), (2, "home", "", "")];
        let mut reader = DeviceMapper::of(FakeKernel { devices, ..FakeKernel::default() });
        let all = MapRequest { all: true, ..MapRequest::default() };
        assert_eq!(asked(&mut reader, &all), [("uuid", 0), ("uuid", 1), ("uuid", 2), ("status", 0)]);
        assert_eq!(asked(&mut reader, &all), [("status", 0)]);
        assert_eq!(asked(&mut reader, &MapRequest::default()), []);
        let dirty = [DevNo { major: 254, minor: 1 }].into();
        assert_eq!(asked(&mut reader, &MapRequest { dirty, ..MapRequest::default() }), [("uuid", 1)]);
        // Kernel events were lost.
        let anew = MapRequest { all: true, anew: true, ..MapRequest::default() };
        assert_eq!(asked(&mut reader, &anew), [("uuid", 0), ("uuid", 1), ("uuid", 2), ("status", 0)]);
        // Another device has this number, and its event has not come yet.
        reader.origin.devices[1] = (1, "mpathb", "mpath-3601", GOOD);
        reader.origin.devices[0] = (0, "root", "LVM-root", "");
        assert_eq!(asked(&mut reader, &all), [("uuid", 0), ("uuid", 1), ("status", 1)]);
        assert_eq!(asked(&mut reader, &all), [("status", 1)]);
    }

    #[test]
    fn a_kernel_that_lists_uuids_is_not_asked_for_them() {
        let devices = vec![(0, "mpatha", "mpath-3600", GOOD), (1, "data-pool", "LVM-pool", "")];
        let mut reader = DeviceMapper::of(FakeKernel { lists_uuids: true, devices, ..FakeKernel::default() });
        let all = MapRequest { all: true, ..MapRequest::default() };
        assert_eq!(asked(&mut reader, &all), [("status", 0)]);
    }

    #[test]
    fn each_read_counts_the_closed_partition_mappings() {
        for lists_uuids in [true, false] {
            let devices = vec![
                (0, "mpatha-part1", "part1-mpath-3600", ""),
                (1, "mpatha", "mpath-3600", GOOD),
                (2, "mpatha-part2", "part2-mpath-3600", ""),
                (3, "mpathb", "mpath-3601", GOOD),
                (4, "mpathb-part1", "part1-mpath-3601", ""),
            ];
            let mut reader = DeviceMapper::of(FakeKernel { lists_uuids, devices, ..FakeKernel::default() });
            let closed = |reader: &mut DeviceMapper<FakeKernel>, request: &MapRequest| {
                let maps = reader.read(request).unwrap().maps;
                maps.iter().map(|map| map.closed_partitions).collect::<Vec<_>>()
            };
            let all = MapRequest { all: true, ..MapRequest::default() };
            assert_eq!(closed(&mut reader, &all), [2, 1]);
            reader.origin.open = [2].into();
            assert_eq!(closed(&mut reader, &MapRequest::default()), [2, 1], "opening a mapping causes no event");
            assert_eq!(closed(&mut reader, &all), [1, 1]);
            reader.origin.silent = [0].into();
            assert_eq!(closed(&mut reader, &all), [0, 1], "a mapping that does not answer may be open");
            reader.origin.silent.clear();
            reader.origin.asked.clear();
            let expected = [("status", 1), ("partition", 0), ("partition", 2), ("status", 3), ("partition", 4)];
            assert_eq!(asked(&mut reader, &all), expected);
            reader.origin.devices.remove(4);
            assert_eq!(closed(&mut reader, &all), [1, 0]);
        }
    }

    #[test]
    fn the_source_fails_if_no_map_can_be_read() {
        let devices =
            vec![(0, "mpatha", "mpath-3600", GOOD), (1, "mpathb", "mpath-3601", "two 0 0 0"), (2, "root", "", "")];
        let mut reader = DeviceMapper::of(FakeKernel { devices, ..FakeKernel::default() });
        let all = MapRequest { all: true, ..MapRequest::default() };
        let reading = reader.read(&all).unwrap();
        assert_eq!(reading.maps.iter().map(|map| &*map.wwid).collect::<Vec<_>>(), ["3600"]);
        assert_eq!(reading.unreadable.iter().map(|(devno, _)| devno.minor).collect::<Vec<_>>(), [1]);
        reader.origin.devices[0].3 = "two 0 0 0";
        let error = reader.read(&all).unwrap_err().to_string();
        assert!(error.starts_with("device-mapper device 254:0: "), "{error}");
        // A host without maps has no map that cannot be read.
        reader.origin.devices.truncate(0);
        assert!(reader.read(&all).unwrap().maps.is_empty());
    }
}
