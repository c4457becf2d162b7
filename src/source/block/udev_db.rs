//! udev's database: the properties of each device, among them a disk's identity and multipath's
//! mark.
//!
//! `/run/udev/data/b8:16` has a line for each property: `E:ID_SERIAL=3600…`. udevd writes a new
//! file and moves it over the old one. An entry with another inode number therefore has a new text,
//! and all others need not be read again. multipath takes a disk's WWID from this database, too
//! (`uid_attrs` in `multipath.conf(5)`): `ID_SERIAL`, for DASD `ID_UID`, for NVMe `ID_WWN`.
//!
//! multipath's udev rules ask `multipath -u` if a disk is to be a path of a map. The answer is
//! `DM_MULTIPATH_DEVICE_PATH`, 1 or 0 (`multipath/multipath.rules.in` of multipath-tools).

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::source::files::{essence, list};
use crate::source::{Error, is_gone};
use crate::topology::DevNo;

/// An upper limit for the step of the clock that sets modification times. A change older than this
/// has another time than every later change.
const CLOCK_STEP: Duration = Duration::from_secs(1);

/// The property with multipath's mark.
pub(crate) const MARK_PROPERTY: &str = "DM_MULTIPATH_DEVICE_PATH";

/// The largest entry in bytes that is read. udevd writes a few KiB for a disk.
const MAX_ENTRY_BYTES: u64 = 1 << 20;

/// Reads the identities of disks and remembers them.
#[derive(Debug)]
pub(crate) struct UdevDb {
    directory: PathBuf,
    known: HashMap<DevNo, KnownEntry>,
    /// The modification time of the directory, if all of its content has been read since.
    unchanged: Option<SystemTime>,
}

#[derive(Debug)]
struct KnownEntry {
    inode: u64,
    identity: UdevIdentity,
}

/// The identities of a device. An identity that the device does not have is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct UdevIdentity {
    serial: Arc<str>,
    dasd: Arc<str>,
    nvme: Arc<str>,
    /// True if the device is marked as a path of multipath, false if it is marked as none.
    mark: Option<bool>,
}

impl UdevDb {
    /// `directory` is the directory of udev's database.
    pub(crate) fn new(directory: &Path) -> Self {
        UdevDb { directory: directory.to_owned(), known: HashMap::new(), unchanged: None }
    }

    /// Reads the entries that changed.
    ///
    /// # Errors
    /// If the directory exists and cannot be listed. A missing directory (a container, a host
    /// without udev) is not an error.
    pub(crate) fn read(&mut self, unreadable: &mut Vec<Error>) -> Result<(), Error> {
        // Replacing an entry changes the directory's modification time. Its clock advances in steps
        // of some milliseconds.
        let now = SystemTime::now();
        let changed = std::fs::metadata(&self.directory).and_then(|directory| directory.modified()).ok();
        if changed.is_some() && changed == self.unchanged {
            return Ok(());
        }
        let entries = list(&self.directory)?;
        self.unchanged = changed.filter(|changed| now.duration_since(*changed).is_ok_and(|since| since > CLOCK_STEP));
        let mut before = std::mem::take(&mut self.known);
        for entry in entries {
            let Some(devno) = entry.name.strip_prefix('b').and_then(|devno| devno.parse::<DevNo>().ok()) else {
                continue;
            };
            let known = match before.remove(&devno) {
                Some(known) if known.inode == entry.inode => known,
                last => {
                    let file = self.directory.join(&entry.name);
                    match essence_of_entry(&file) {
                        Ok(text) => KnownEntry { inode: entry.inode, identity: UdevIdentity::parse(&text) },
                        // The entry has just been replaced, or its device has just gone.
                        Err(error) if is_gone(&error) => continue,
                        Err(error) => {
                            unreadable.push(Error::io(file.display(), &error));
                            self.unchanged = None;
                            // The entry is read again next time.
                            KnownEntry { inode: 0, identity: last.map(|last| last.identity).unwrap_or_default() }
                        }
                    }
                }
            };
            self.known.insert(devno, known);
        }
        Ok(())
    }

    /// Returns the identity of the disk of this number and kernel name. `None` if udev has none.
    pub(crate) fn wwid(&self, devno: DevNo, name: &str) -> Option<&Arc<str>> {
        let identity = &self.known.get(&devno)?.identity;
        let wwid = match name {
            name if name.starts_with("dasd") => &identity.dasd,
            name if name.starts_with("nvme") => &identity.nvme,
            _ => &identity.serial,
        };
        Some(wwid).filter(|wwid| !wwid.is_empty())
    }

    /// Returns multipath's mark of the disk of this number. `None` if it has none.
    pub(crate) fn mark(&self, devno: DevNo) -> Option<bool> {
        self.known.get(&devno)?.identity.mark
    }
}

/// Reads the lines of an entry that are of interest.
fn essence_of_entry(file: &Path) -> io::Result<Vec<u8>> {
    let size = std::fs::metadata(file)?.len();
    if size > MAX_ENTRY_BYTES {
        let cause = format!("the entry has {size} bytes, the limit is {MAX_ENTRY_BYTES}");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, cause));
    }
    essence(file, identifying_lines)
}

/// Keeps the lines of an entry that identify the device.
fn identifying_lines(text: &[u8]) -> Vec<u8> {
    let keys = ["ID_SERIAL", "ID_UID", "ID_WWN", MARK_PROPERTY];
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    lines.filter(|line| property(line).is_some_and(|(key, _)| keys.contains(&key))).flatten().copied().collect()
}

fn property(line: &[u8]) -> Option<(&str, &str)> {
    std::str::from_utf8(line).ok()?.trim_end_matches('\n').strip_prefix("E:")?.split_once('=')
}

impl UdevIdentity {
    fn parse(text: &[u8]) -> Self {
        let mut identity = UdevIdentity::default();
        let mut marks = Vec::new();
        for (key, value) in text.split(|byte| *byte == b'\n').filter_map(property) {
            match key {
                "ID_SERIAL" => identity.serial = value.into(),
                "ID_UID" => identity.dasd = value.into(),
                "ID_WWN" => identity.nvme = value.into(),
                MARK_PROPERTY => marks.push(match value {
                    "1" => Some(true),
                    "0" => Some(false),
                    _ => None,
                }),
                _ => {}
            }
        }
        // A malformed mark, or two contradicting marks, count as no mark.
        let first = marks.first().copied().flatten();
        identity.mark = first.filter(|_| marks.iter().all(|mark| *mark == first));
        identity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_entry_is_read_again_and_a_removed_one_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            // udevd replaces entries in this way.
            let new = directory.path().join(".new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(new, directory.path().join(name)).unwrap();
        };
        write("b8:16", "S:disk/by-id/x\nE:ID_SERIAL=3600a\nE:ID_SERIAL_SHORT=600a\nE:ID_WWN=0x600a\nV:1\n");
        write("b259:1", "E:ID_WWN=uuid.1\n");
        write("b94:0", "E:ID_UID=IBM.75000\nE:ID_SERIAL=0X1234\n");
        write("c10:1", "E:ID_SERIAL=3600b\n");
        write("b8:32", "G:systemd\n");
        let mut db = UdevDb::new(directory.path());
        db.read(&mut Vec::new()).unwrap();
        let wwid = |db: &UdevDb, devno: &str, name| db.wwid(devno.parse().unwrap(), name).map(ToString::to_string);
        assert_eq!(wwid(&db, "8:16", "sdb").as_deref(), Some("3600a"));
        assert_eq!(wwid(&db, "259:1", "nvme0n1").as_deref(), Some("uuid.1"));
        assert_eq!(wwid(&db, "94:0", "dasda").as_deref(), Some("IBM.75000"));
        assert_eq!(wwid(&db, "8:32", "sdc"), None);
        assert_eq!(wwid(&db, "10:1", "sdz"), None);

        write("b8:16", "E:ID_SERIAL=3600c\n");
        std::fs::remove_file(directory.path().join("b259:1")).unwrap();
        db.read(&mut Vec::new()).unwrap();
        assert_eq!(wwid(&db, "8:16", "sdb").as_deref(), Some("3600c"));
        assert_eq!(wwid(&db, "259:1", "nvme0n1"), None);
    }

    #[test]
    fn malformed_marks_count_as_none() {
        for (text, mark) in [
            ("E:DM_MULTIPATH_DEVICE_PATH=1\n", Some(true)),
            ("E:DM_MULTIPATH_DEVICE_PATH=0\n", Some(false)),
            ("E:DM_MULTIPATH_DEVICE_PATH=1\nE:DM_MULTIPATH_DEVICE_PATH=1\n", Some(true)),
            ("E:DM_MULTIPATH_DEVICE_PATH=1\nE:DM_MULTIPATH_DEVICE_PATH=0\n", None),
            ("E:DM_MULTIPATH_DEVICE_PATH=2\n", None),
            ("E:DM_MULTIPATH_DEVICE_PATH=\n", None),
            ("E:DM_MULTIPATH_DEVICE_PATH\n", None),
            ("E:NOT_DM_MULTIPATH_DEVICE_PATH=1\n", None),
            ("", None),
        ] {
            assert_eq!(UdevIdentity::parse(text.as_bytes()).mark, mark, "{text:?}");
        }
    }

    #[test]
    fn only_the_entry_that_is_too_large_is_unreadable() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("b8:0"), "E:ID_SERIAL=3600a\n".repeat(100_000)).unwrap();
        std::fs::write(directory.path().join("b8:16"), "E:ID_SERIAL=3600b\n").unwrap();
        let (mut db, mut unreadable) = (UdevDb::new(directory.path()), Vec::new());
        db.read(&mut unreadable).unwrap();
        assert_eq!(db.wwid("8:0".parse().unwrap(), "sda"), None);
        assert_eq!(db.wwid("8:16".parse().unwrap(), "sdb").map(|wwid| &**wwid), Some("3600b"));
        let [error] = &unreadable[..] else { panic!("{unreadable:?}") };
        assert!(error.to_string().contains("b8:0"), "{error}");
    }

    #[test]
    fn without_a_database_no_identity_is_known() {
        let mut db = UdevDb::new(Path::new("/nonexistent"));
        assert_eq!(db.read(&mut Vec::new()), Ok(()));
        assert_eq!(db.wwid("8:0".parse().unwrap(), "sda"), None);
    }
}
