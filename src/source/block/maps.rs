//! Multipath maps in sysfs.
//!
//! ```text
//! block/dm-N/             dm/uuid shows if the device is a multipath map; dm/name, size, ro, diskseq, …
//! block/dm-N/slaves/sdb   a link to the member's directory: see disks.rs
//! ```
//!
//! Documented in `Documentation/ABI/stable/sysfs-block` and `testing/sysfs-block-dm` of the kernel.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::source::files::{Attribute, follow, list_if_there, or_last, or_note};
use crate::source::{Error, Io, UUID_PREFIX, dm_name};
use crate::topology::DevNo;

/// The kernel's directory of all virtual block devices, among them the device-mapper devices. The
/// links in `block` lead there.
pub(crate) const VIRTUAL_DEVICES: &str = "devices/virtual/block";

/// A multipath map, as its files in sysfs describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SysfsMap {
    pub(crate) wwid: Arc<str>,
    /// The kernel name, `dm-3`.
    pub(crate) sysfs_name: Arc<str>,
    pub(crate) devno: DevNo,
    /// The alias.
    pub(crate) name: Arc<str>,
    /// A number that distinguishes this device from an earlier one of the same device number (Linux
    /// 5.15 and later).
    pub(crate) diskseq: Option<u64>,
    pub(crate) suspended: Option<bool>,
    pub(crate) size_bytes: Option<u64>,
    pub(crate) read_only: Option<bool>,
    /// The members, sorted by device number.
    pub(crate) members: Vec<Slave>,
}

/// A member, from its link in `slaves`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slave {
    /// The device number. A disk that is gone keeps its last number while the map holds it. `None`
    /// if the number was never known.
    pub(crate) devno: Option<DevNo>,
    pub(crate) name: Arc<str>,
    /// The disk's directory, relative to the root of sysfs.
    pub(crate) place: PathBuf,
    /// True if the directory is gone.
    pub(crate) gone: bool,
}

#[derive(Debug)]
pub(crate) struct MapReader {
    root: PathBuf,
    file: Attribute,
}

impl MapReader {
    /// `root` is the mount point of sysfs.
    pub(crate) fn new(root: &Path) -> Self {
        MapReader { root: root.to_owned(), file: Attribute::default() }
    }

    /// Reads a device-mapper device. `None` if it is not a multipath map. `last` is the last state
    /// of the map of this kernel name.
    ///
    /// # Errors
    /// If the identity of the map cannot be read. Errors of other values go to `unreadable`, and
    /// these values stay as last read.
    pub(crate) fn read(
        &mut self,
        minor: u32,
        last: Option<&Arc<SysfsMap>>,
        unreadable: &mut Vec<Error>,
    ) -> Result<Option<Arc<SysfsMap>>, Error> {
        let directory = self.directory(minor);
        let Some(uuid) = self.file.text(&directory, "dm/uuid")? else {
            return match self.file.text(&directory, "dev")? {
                // A device without UUID has an empty file. If the file is missing, the identity of
                // the device is unknown.
                Some(_) if directory.join("dm").is_dir() => {
                    Err(Error::new(directory.join("dm/uuid").display(), "the device exists, but this file is missing"))
                }
                _ => Ok(None),
            };
        };
        let Some(wwid) = uuid.strip_prefix(UUID_PREFIX).map(Arc::<str>::from) else { return Ok(None) };
        let Some(devno) = self.file.parsed(&directory, "dev")? else { return Ok(None) };
        let last = last.filter(|last| last.wwid == wwid);
        let Some(members) = self.members(minor, last.map(|last| &**last), unreadable)? else { return Ok(None) };
        let name = dm_name(self.file.bytes(&directory, "dm/name")?.unwrap_or_default()).into();
        let diskseq = or_last(self.file.parsed(&directory, "diskseq"), last.map(|map| &map.diskseq), unreadable);
        let suspended = or_last(self.suspended(minor), last.map(|map| &map.suspended), unreadable);
        let size_bytes = or_last(self.file.size_bytes(&directory), last.map(|map| &map.size_bytes), unreadable);
        let read_only = or_last(self.file.flag(&directory, "ro"), last.map(|map| &map.read_only), unreadable);
        let sysfs_name = kernel_name(minor).into();
        let map = SysfsMap { wwid, sysfs_name, devno, name, diskseq, suspended, size_bytes, read_only, members };
        Ok(Some(last.filter(|last| ***last == map).cloned().unwrap_or_else(|| Arc::new(map))))
    }

    /// Returns true if I/O to the map is suspended.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn suspended(&mut self, minor: u32) -> Result<Option<bool>, Error> {
        self.file.flag(&self.directory(minor), "dm/suspended")
    }

    /// Returns the I/O of the map.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn io(&mut self, minor: u32) -> Result<Option<Io>, Error> {
        self.file.io(&self.directory(minor))
    }

    fn directory(&self, minor: u32) -> PathBuf {
        self.root.join(VIRTUAL_DEVICES).join(kernel_name(minor))
    }

    /// Returns the members, from their links. `None` if the map is gone.
    fn members(
        &mut self,
        minor: u32,
        last: Option<&SysfsMap>,
        unreadable: &mut Vec<Error>,
    ) -> Result<Option<Vec<Slave>>, Error> {
        let here = Path::new(VIRTUAL_DEVICES).join(kernel_name(minor)).join("slaves");
        let directory = self.root.join(&here);
        let Some(entries) = list_if_there(&directory)? else { return Ok(None) };
        let mut members = Vec::with_capacity(entries.len());
        for entry in entries {
            let known = last.and_then(|last| last.members.iter().find(|known| *known.name == *entry.name));
            let place = match follow(&directory.join(&entry.name), &here) {
                Ok(place) => place,
                Err(error) => {
                    unreadable.push(error);
                    known.map(|known| known.place.clone())
                }
            };
            let Some(place) = place else { continue };
            let errors = unreadable.len();
            let now = or_note(self.file.parsed(&self.root.join(&place), "dev"), unreadable);
            let gone = now.is_none() && unreadable.len() == errors;
            let devno = now.or(known.and_then(|known| known.devno));
            members.push(Slave { devno, name: entry.name.into(), place, gone });
        }
        members.sort();
        Ok(Some(members))
    }
}

/// Returns the kernel name, `dm-3`.
pub(crate) fn kernel_name(minor: u32) -> String {
    format!("dm-{minor}")
}
