//! Device mapper: the kernel's own word on every multipath map.
//!
//! ```text
//! DeviceMapper::read ─► list: which maps are there, whose event number moved    ioctl.rs
//!                    ─► status and table of those                               ioctl.rs, status.rs
//!                    ─► Reading: all maps, the unchanged ones shared with the reading before
//! ```

mod ioctl;
mod status;

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use ioctl::{CONTROL, Control};
pub use status::{Group, Member, ParseError};

use super::{Error, Places, SECTOR, UUID_PREFIX, dm_name, is_gone, recorded, witness};
use crate::topology::DevNo;
use ioctl::{Ask, Listed, Shown};

/// One multipath map as the kernel holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    /// Its device number.
    pub devno: DevNo,
    /// Counts its events, as the list of devices shows it; `None` before Linux 4.13.
    pub event_nr: Option<u32>,
    /// Its name (alias).
    pub name: Arc<str>,
    /// Its identity.
    pub wwid: Arc<str>,
    /// Its UUID: [`UUID_PREFIX`] and the WWID.
    pub uuid: Arc<str>,
    /// Holders of the device.
    pub open_count: u32,
    /// Write-protected.
    pub read_only: bool,
    /// I/O is suspended.
    pub suspended: bool,
    /// I/O waits when no path is valid.
    pub queueing: bool,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Its path groups; none if its table has no multipath target any more (`dmsetup remove --force`).
    pub groups: Vec<Group>,
}

impl Map {
    /// Device numbers of its members, in the kernel's order.
    pub fn members(&self) -> impl Iterator<Item = DevNo> {
        self.groups.iter().flat_map(|group| &group.paths).map(|path| path.devno)
    }
}

/// All multipath maps of the host.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// A map that did not change since the last reading is the same allocation.
    pub maps: Vec<Arc<Map>>,
    /// Maps that exist and could not be read; those seen before stand in `maps` as last read.
    pub unreadable: Vec<(DevNo, Error)>,
}

/// Reads the maps and remembers them, so that one that did not change costs two ioctls and a comparison.
#[derive(Debug)]
pub struct DeviceMapper {
    origin: Origin,
    known: BTreeMap<DevNo, Known>,
    scratch: Raw,
}

/// Who tells of the maps.
#[derive(Debug)]
enum Origin {
    /// The kernel of this host. `sysfs` tells one without device mapper from one where it may not be asked.
    Kernel { sysfs: PathBuf, control: Option<Control> },
    /// What that of another host said, in a capture.
    Capture { directory: PathBuf, maps: BTreeMap<DevNo, recorded::Map> },
}

#[derive(Debug)]
struct Known {
    event_nr: Option<u32>,
    raw: Raw,
    /// `None` for a device that is no multipath map.
    map: Option<Arc<Map>>,
}

/// What the ioctls said, as they said it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Raw {
    name: Vec<u8>,
    uuid: Vec<u8>,
    open_count: u32,
    read_only: bool,
    suspended: bool,
    sectors: u64,
    status: Vec<u8>,
    table: Vec<u8>,
}

impl DeviceMapper {
    /// That of these places.
    pub fn new(places: &Places) -> Self {
        let origin = match &places.capture {
            Some(capture) => Origin::Capture { directory: capture.clone(), maps: BTreeMap::new() },
            None => Origin::Kernel { sysfs: places.sysfs.clone(), control: None },
        };
        DeviceMapper { origin, known: BTreeMap::new(), scratch: Raw::default() }
    }

    /// Reads the list, and of it the maps that are `dirty`, new, or whose event number moved; every map if `all`.
    ///
    /// # Errors
    /// If the control file cannot be opened or the list not be read. A single map's trouble is in the reading.
    pub fn read(&mut self, dirty: &HashSet<DevNo>, all: bool) -> Result<Reading, Error> {
        let listed = self.origin.list()?;
        let mut before = std::mem::take(&mut self.known);
        let mut reading = Reading::default();
        for entry in listed.iter().filter(|entry| may_be_multipath(entry)) {
            let mut known = before.remove(&entry.devno);
            let moved = known.as_ref().is_none_or(|known| known.event_nr != entry.event_nr || known.event_nr.is_none());
            if all || moved || dirty.contains(&entry.devno) {
                match look(&mut self.origin, entry, &mut known, &mut self.scratch) {
                    Ok(true) => {}
                    Ok(false) => continue,
                    Err(error) => reading.unreadable.push((entry.devno, error)),
                }
            }
            let Some(known) = known else { continue };
            if let Some(map) = &known.map {
                reading.maps.push(Arc::clone(map));
            }
            self.known.insert(entry.devno, known);
        }
        Ok(reading)
    }
}

impl Origin {
    /// All device-mapper devices; none where there is no device mapper.
    fn list(&mut self) -> Result<Vec<Listed>, Error> {
        let control = match self {
            Origin::Kernel { control: Some(control), .. } => control,
            Origin::Kernel { sysfs, control } => match Control::open() {
                Ok(opened) => control.insert(opened),
                Err(error) if error.kind() == io::ErrorKind::NotFound && !loaded(sysfs) => return Ok(Vec::new()),
                // A container has the kernel's device mapper without its node, unless it is given to it.
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                    return Err(Error::io(CONTROL, &cause).not_permitted());
                }
                Err(cause) => return Err(Error::io(CONTROL, &cause)),
            },
            Origin::Capture { directory, maps } => {
                let failed =
                    |cause: &dyn std::fmt::Display| Error::new(directory.join(recorded::FILE).display(), cause);
                let said = recorded::read(directory)?.device_mapper;
                // A source that was not captured then will not tell anything later.
                let said = said.ok_or_else(|| failed(&"device mapper was not captured").not_permitted())?;
                if let Some(error) = said.error {
                    return Err(failed(&error).not_permitted());
                }
                let numbered = |map: recorded::Map| Ok((map.devno.parse().map_err(|error| failed(&error))?, map));
                *maps = said.maps.into_iter().map(numbered).collect::<Result<_, _>>()?;
                let listed = |(devno, map): (&DevNo, &recorded::Map)| Listed {
                    devno: *devno,
                    event_nr: map.event_nr,
                    uuid: None,
                };
                return Ok(maps.iter().map(listed).collect());
            }
        };
        control.list().map_err(|cause| Error::io(CONTROL, &cause))
    }

    /// Fills `raw`; `false` if the device has no live table.
    fn fill(&mut self, devno: DevNo, raw: &mut Raw) -> io::Result<bool> {
        match self {
            Origin::Kernel { control: Some(control), .. } => read_raw(control, devno, raw),
            Origin::Kernel { control: None, .. } => Ok(false),
            Origin::Capture { maps, .. } => match maps.get(&devno) {
                Some(recorded::Map { error: Some(error), .. }) => Err(io::Error::other(error.clone())),
                Some(map) => {
                    *raw = Raw::said(map);
                    Ok(true)
                }
                None => Ok(false),
            },
        }
    }
}

/// Whether the kernel has device mapper. A host without it has no maps, which is no error.
fn loaded(sysfs: &Path) -> bool {
    sysfs.join("class/misc/device-mapper").exists()
}

fn may_be_multipath(entry: &Listed) -> bool {
    entry.uuid.as_ref().is_none_or(|uuid| uuid.starts_with(UUID_PREFIX.as_bytes()))
}

/// Brings what is known of one device up to date. `false` if the device is gone again, or has no table yet: either has
/// an event of its own to come. After an error what was known stands.
fn look(origin: &mut Origin, entry: &Listed, known: &mut Option<Known>, raw: &mut Raw) -> Result<bool, Error> {
    let devno = entry.devno;
    let failed = |cause: &dyn std::error::Error| Error::new(format_args!("device-mapper device {devno}"), cause);
    match origin.fill(devno, raw) {
        Ok(true) if raw.uuid.starts_with(UUID_PREFIX.as_bytes()) => witness::map(|| raw.say(entry)),
        Ok(true) => {}
        Ok(false) => return Ok(false),
        Err(error) if is_gone(&error) => return Ok(false),
        Err(error) => {
            let error_text = Some(error.to_string());
            witness::map(|| recorded::Map { error: error_text, ..Raw::default().say(entry) });
            return Err(failed(&error));
        }
    }
    match known {
        Some(known) if known.raw == *raw => known.event_nr = entry.event_nr,
        _ => {
            let map = raw.parse(entry).map_err(|error| failed(&error))?.map(Arc::new);
            *known = Some(Known { event_nr: entry.event_nr, raw: raw.clone(), map });
        }
    }
    Ok(true)
}

/// Fills `raw`; `false` if the device has no live table.
fn read_raw(control: &mut Control, devno: DevNo, raw: &mut Raw) -> io::Result<bool> {
    let shown = control.show(devno, Ask::Status)?;
    if !shown.live {
        return Ok(false);
    }
    replace(&mut raw.name, shown.name);
    replace(&mut raw.uuid, shown.uuid);
    raw.open_count = shown.open_count;
    raw.read_only = shown.read_only;
    raw.suspended = shown.suspended;
    raw.sectors = shown.targets().map(|(sectors, ..)| sectors).fold(0, u64::saturating_add);
    replace(&mut raw.status, multipath_line(&shown));
    replace(&mut raw.table, multipath_line(&control.show(devno, Ask::Table)?));
    Ok(true)
}

fn replace(buffer: &mut Vec<u8>, bytes: &[u8]) {
    buffer.clear();
    buffer.extend_from_slice(bytes);
}

/// The text of the map's multipath target, empty if it has none.
fn multipath_line<'a>(shown: &Shown<'a>) -> &'a [u8] {
    shown.targets().find(|(_, kind, _)| *kind == b"multipath").map_or(&[], |(.., line)| line)
}

impl Raw {
    /// As a capture holds it.
    fn say(&self, entry: &Listed) -> recorded::Map {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        recorded::Map {
            devno: entry.devno.to_string(),
            event_nr: entry.event_nr,
            error: None,
            name: text(&self.name),
            uuid: text(&self.uuid),
            open_count: self.open_count,
            read_only: self.read_only,
            suspended: self.suspended,
            sectors: self.sectors,
            status: text(&self.status),
            table: text(&self.table),
        }
    }

    /// From a capture.
    fn said(map: &recorded::Map) -> Self {
        Raw {
            name: map.name.clone().into(),
            uuid: map.uuid.clone().into(),
            open_count: map.open_count,
            read_only: map.read_only,
            suspended: map.suspended,
            sectors: map.sectors,
            status: map.status.clone().into(),
            table: map.table.clone().into(),
        }
    }

    /// `None` if the device is no multipath map.
    fn parse(&self, entry: &Listed) -> Result<Option<Map>, ParseError> {
        let lossy = |bytes| String::from_utf8_lossy(bytes);
        let uuid = lossy(&self.uuid);
        let Some(wwid) = uuid.strip_prefix(UUID_PREFIX) else { return Ok(None) };
        let has_target = !self.table.is_empty();
        Ok(Some(Map {
            devno: entry.devno,
            event_nr: entry.event_nr,
            name: dm_name(&self.name).into(),
            wwid: wwid.into(),
            uuid: uuid.as_ref().into(),
            open_count: self.open_count,
            read_only: self.read_only,
            suspended: self.suspended,
            size_bytes: self.sectors.saturating_mul(SECTOR),
            queueing: has_target && status::parse_queueing(&lossy(&self.table))?,
            groups: if has_target { status::parse_status(&lossy(&self.status))? } else { Vec::new() },
        }))
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
        Listed { devno: DevNo { major: 254, minor: 0 }, event_nr: Some(0), uuid: None }
    }

    #[test]
    fn a_map_is_its_status_and_its_table() {
        let map = raw("2 0 0 0 1 1 A 0 1 2 8:0 F 1 0 1 ", "1 queue_if_no_path 0 1 1 service-time 0 1 2 8:0 1 1 ");
        let map = map.parse(&entry()).unwrap().unwrap();
        assert!(map.queueing);
        assert_eq!((&*map.name, &*map.uuid), ("mpatha", "mpath-3600"));
        let paths = vec![Member { devno: "8:0".parse().unwrap(), valid: false }];
        assert_eq!(map.groups, [Group { letter: 'A', paths }]);
    }

    #[test]
    fn a_map_whose_multipath_target_is_gone_has_no_paths() {
        let map = raw("", "").parse(&entry()).unwrap().unwrap();
        assert!(map.groups.is_empty() && !map.queueing);
    }

    #[test]
    fn a_truncated_status_is_an_error() {
        let cut = raw("2 0 0 0 1 1 A 0 1 2 8:0", "0 0 1 1 service-time 0 1 2 8:0 1 1");
        assert!(cut.parse(&entry()).is_err());
    }
}
