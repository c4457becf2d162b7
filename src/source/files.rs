//! Small files and links of sysfs, as all readers of sysfs read them.
//!
//! `None` has two meanings. The file may be absent: the device does not have this property (a ram
//! disk has no SCSI state), or it has just gone. Or the kernel has no value now (`ENOTCONN` from a
//! dead iSCSI connection). Every other failure is an error that names the file.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirEntryExt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags};

use super::{Error, Io, SECTOR_SIZE, is_gone, is_unknown, witness};

/// The largest size of a sysfs attribute: sysfs returns one page.
const PAGE_SIZE: usize = 4096;

/// Reads the whole attribute in one call. sysfs then guarantees that the content is one state and
/// not a mixture of two.
fn read_whole(anchor: BorrowedFd, path: &OsStr, buffer: &mut [u8]) -> rustix::io::Result<usize> {
    let file = rustix::fs::openat(anchor, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut *buffer))
}

/// Returns the value. After an error, records the error and returns `None`.
pub(crate) fn or_note<T>(read: Result<Option<T>, Error>, unreadable: &mut Vec<Error>) -> Option<T> {
    read.unwrap_or_else(|error| {
        unreadable.push(error);
        None
    })
}

/// Returns the value. After an error, records the error and returns the last known value.
pub(crate) fn or_last<T: Clone + Default>(read: Result<T, Error>, last: Option<&T>, unreadable: &mut Vec<Error>) -> T {
    read.unwrap_or_else(|error| {
        unreadable.push(error);
        last.cloned().unwrap_or_default()
    })
}

/// Returns the target of a link in the directory `here`, both relative to the root. `None` if the
/// link is gone.
pub(crate) fn follow(link: &Path, here: &Path) -> Result<Option<PathBuf>, Error> {
    let read = fs::read_link(link);
    witness::link(link, &read);
    let target = match read {
        Ok(target) => target,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(Error::io(link.display(), &error)),
    };
    let mut place = here.to_owned();
    for part in target.components() {
        match part {
            Component::ParentDir => drop(place.pop()),
            part => place.push(part),
        }
    }
    Ok(Some(place))
}

/// An entry of a directory. If an object is replaced by a new one of the same name, the kernel
/// gives the new one another inode number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DirectoryEntry {
    pub(crate) name: String,
    pub(crate) inode: u64,
}

/// Lists a directory, sorted by name. Returns an empty list if the directory does not exist, for
/// example because the driver is not loaded.
pub(crate) fn list(directory: &Path) -> Result<Vec<DirectoryEntry>, Error> {
    Ok(list_if_there(directory)?.unwrap_or_default())
}

/// Lists a directory, sorted by name. `None` if the directory does not exist.
pub(crate) fn list_if_there(directory: &Path) -> Result<Option<Vec<DirectoryEntry>>, Error> {
    let listed = entries(directory);
    witness::directory(directory, listed.as_deref().map(|entries| entries.iter().map(|entry| entry.name.as_str())));
    match listed {
        Ok(entries) => Ok(Some(entries)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(Error::io(directory.display(), &error)),
    }
}

fn entries(directory: &Path) -> io::Result<Vec<DirectoryEntry>> {
    let mut list = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        list.extend(entry.file_name().into_string().map(|name| DirectoryEntry { name, inode: entry.ino() }));
    }
    list.sort();
    Ok(list)
}

pub(crate) fn exists(file: &Path) -> bool {
    let exists = file.exists();
    if exists {
        witness::file(|| file.to_owned(), Ok(&[]));
    }
    exists
}

/// Reads a file of any size and keeps the part of interest.
pub(crate) fn essence(file: &Path, of_interest: impl FnOnce(&[u8]) -> Vec<u8>) -> io::Result<Vec<u8>> {
    let read = fs::read(file).map(|content| of_interest(&content));
    witness::file(|| file.to_owned(), read.as_deref());
    read
}

/// A table of procfs, of which a part is of interest. The table may have ten thousand lines, so it
/// is read again only after the kernel has reported a change (`proc_pid_mounts(5)`,
/// `proc_swaps(5)`). A file outside procfs, as in a capture, is read each time.
#[derive(Debug, Default)]
pub(crate) struct Table {
    essence: Vec<u8>,
    /// The open file and the time of the read. Polling it reports changes since it was opened or
    /// last polled.
    open: Option<(fs::File, Instant)>,
}

/// The longest time for which a table is not read again. The kernel reports no change when btrfs or
/// bcachefs names another of its devices as the source of a mount.
const MAX_TABLE_AGE: Duration = Duration::from_secs(5 * 60);

impl Table {
    /// Returns the part of interest. The caller must pass the same file each time.
    pub(crate) fn read(&mut self, file: &Path, of_interest: impl FnOnce(&[u8]) -> Vec<u8>) -> io::Result<&[u8]> {
        if !self.is_current() {
            let read = self.read_file(file).map(|content| of_interest(&content));
            witness::file(|| file.to_owned(), read.as_deref());
            self.essence = read?;
        }
        Ok(&self.essence)
    }

    fn is_current(&self) -> bool {
        let is_unchanged = |open: &fs::File| {
            let at_once = Some(&Timespec { tv_sec: 0, tv_nsec: 0 });
            poll(&mut [PollFd::new(open, PollFlags::PRI)], at_once) == Ok(0)
        };
        self.open.as_ref().is_some_and(|(open, read)| read.elapsed() < MAX_TABLE_AGE && is_unchanged(open))
    }

    fn read_file(&mut self, file: &Path) -> io::Result<Vec<u8>> {
        /// `PROC_SUPER_MAGIC` in `include/uapi/linux/magic.h`.
        const PROC_MAGIC: u64 = 0x9fa0;
        self.open = None;
        let now = Instant::now();
        let mut open = fs::File::open(file)?;
        let mut content = Vec::new();
        open.read_to_end(&mut content)?;
        let is_polled = rustix::fs::fstatfs(&open).is_ok_and(|system| system.f_type as u64 == PROC_MAGIC);
        self.open = is_polled.then_some((open, now));
        Ok(content)
    }
}

/// Directories that stay open while many files below them are read. Looking up the directory is
/// half the cost of opening a file.
///
/// At most [`MAX_ANCHORS`] are open, because a host may have one session for each LUN, and this
/// process has a limited number of files.
#[derive(Debug, Default)]
pub(crate) struct Anchors {
    open: HashMap<Arc<Path>, Option<OwnedFd>>,
}

const MAX_ANCHORS: usize = 32;

impl Anchors {
    /// Returns the directory. `None` if it is gone.
    pub(crate) fn get(&mut self, directory: &Arc<Path>) -> Result<Option<BorrowedFd<'_>>, Error> {
        if !self.open.contains_key(directory) {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = match rustix::fs::open(&**directory, flags, Mode::empty()) {
                Ok(opened) => Some(opened),
                Err(error) if is_gone(&error.into()) => None,
                Err(error) => return Err(Error::io(directory.display(), &error.into())),
            };
            if self.open.len() == MAX_ANCHORS {
                self.open.clear();
            }
            self.open.insert(Arc::clone(directory), opened);
        }
        Ok(self.open.get(directory).and_then(Option::as_ref).map(OwnedFd::as_fd))
    }

    pub(crate) fn close(&mut self) {
        self.open.clear();
    }
}

/// Opens a file of sysfs for repeated reading. `None` if it cannot be opened or does not belong to
/// sysfs. Reading an open file costs a fifth of opening it, and the kernel returns `ENODEV` after
/// the device is gone. A file elsewhere could be replaced by another one of the same name.
pub(crate) fn open_in_sysfs(file: &Path) -> Option<OwnedFd> {
    /// `SYSFS_MAGIC` in `include/uapi/linux/magic.h`.
    const SYSFS_MAGIC: u64 = 0x6265_6572;
    let open = rustix::fs::open(file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let file_system = rustix::fs::fstatfs(&open).ok()?;
    (file_system.f_type as u64 == SYSFS_MAGIC).then_some(open)
}

/// Reads small files into one buffer.
#[derive(Debug, Default)]
pub(crate) struct Attribute {
    path: OsString,
    content: Vec<u8>,
}

impl Attribute {
    /// Returns the file's content without the final newline. `None` if the file or its device is
    /// gone.
    pub(crate) fn bytes(&mut self, directory: &Path, name: &str) -> Result<Option<&[u8]>, Error> {
        self.path.clear();
        self.path.push(directory);
        self.path.push("/");
        self.path.push(name);
        self.read(CWD, Path::new(""))
    }

    /// Returns the trimmed text of a file below an open directory. `anchor` is the path of that
    /// directory.
    pub(crate) fn text_below(&mut self, open: BorrowedFd, anchor: &Path, file: &[&str]) -> Result<Option<&str>, Error> {
        self.path.clear();
        for (index, part) in file.iter().enumerate() {
            self.path.push(if index == 0 { "" } else { "/" });
            self.path.push(part);
        }
        let exists = self.read(open, anchor)?.is_some();
        Ok(if exists { self.as_text() } else { None })
    }

    /// Returns true if an open file still has this trimmed content.
    pub(crate) fn still_says(&mut self, open: &OwnedFd, text: &str) -> bool {
        self.content.resize(PAGE_SIZE, 0);
        let read = rustix::io::retry_on_intr(|| rustix::io::pread(open, self.content.as_mut_slice(), 0));
        self.content.truncate(read.unwrap_or(0));
        read.is_ok() && self.as_text() == Some(text)
    }

    fn read(&mut self, open: BorrowedFd, anchor: &Path) -> Result<Option<&[u8]>, Error> {
        self.content.resize(PAGE_SIZE, 0);
        let read = read_whole(open, &self.path, &mut self.content).map_err(io::Error::from);
        self.content.truncate(*read.as_ref().unwrap_or(&0));
        witness::file(|| anchor.join(&self.path), read.as_ref().map(|_| self.content.as_slice()));
        match read {
            Ok(_) => {}
            Err(error) if is_unknown(&error) || is_gone(&error) => return Ok(None),
            Err(error) => return Err(Error::io(anchor.join(&self.path).display(), &error)),
        }
        if self.content.last() == Some(&b'\n') {
            self.content.pop();
        }
        Ok(Some(&self.content))
    }

    /// Returns the trimmed text.
    pub(crate) fn text(&mut self, directory: &Path, name: &str) -> Result<Option<&str>, Error> {
        let exists = self.bytes(directory, name)?.is_some();
        Ok(if exists { self.as_text() } else { None })
    }

    fn as_text(&mut self) -> Option<&str> {
        if let Cow::Owned(lossy) = String::from_utf8_lossy(&self.content) {
            self.content = lossy.into_bytes();
        }
        str::from_utf8(&self.content).ok().map(str::trim)
    }

    /// Returns the text as a value to keep. It is empty if the kernel prints `(null)`: the value is
    /// unknown or was never set.
    pub(crate) fn word(&mut self, directory: &Path, name: &str) -> Result<Arc<str>, Error> {
        Ok(self.text(directory, name)?.filter(|text| *text != "(null)").map(Arc::from).unwrap_or_default())
    }

    /// Does the same as [`Self::word`], but records an error and returns an empty text after it.
    pub(crate) fn word_or_note(&mut self, directory: &Path, name: &str, unreadable: &mut Vec<Error>) -> Arc<str> {
        or_note(self.word(directory, name).map(Some), unreadable).unwrap_or_default()
    }

    /// Returns the parsed value. Text of another form is an error.
    pub(crate) fn parsed<T: FromStr>(&mut self, directory: &Path, name: &str) -> Result<Option<T>, Error> {
        self.made_of(directory, name, "a number", |text| text.parse().ok())
    }

    fn made_of<T>(
        &mut self,
        directory: &Path,
        name: &str,
        wanted: &str,
        make: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(text) = self.text(directory, name)? else { return Ok(None) };
        match make(text) {
            Some(value) => Ok(Some(value)),
            None => {
                let cause = format!("found {text:?}, expected {wanted}");
                Err(Error::new(Path::new(&self.path).display(), cause))
            }
        }
    }

    /// Returns the size of a block device in bytes.
    pub(crate) fn size_bytes(&mut self, device: &Path) -> Result<Option<u64>, Error> {
        let sectors: Option<u64> = self.parsed(device, "size")?;
        Ok(sectors.map(|sectors| sectors.saturating_mul(SECTOR_SIZE)))
    }

    /// Returns the I/O of a block device. Without a `stat` file, `inflight` still gives the number
    /// of requests in flight.
    pub(crate) fn io(&mut self, device: &Path) -> Result<Option<Io>, Error> {
        match self.stat(device)? {
            Some(io) => Ok(Some(io)),
            None => self.made_of(device, "inflight", "two numbers", |text| Io::from_inflight(text, Instant::now())),
        }
    }

    /// Returns the I/O of a block device from its `stat` file.
    pub(crate) fn stat(&mut self, device: &Path) -> Result<Option<Io>, Error> {
        self.made_of(device, "stat", "11 numbers or more", |text| Io::from_stat(text, Instant::now()))
    }

    /// Returns false for `0` and true for any other number.
    pub(crate) fn flag(&mut self, directory: &Path, name: &str) -> Result<Option<bool>, Error> {
        Ok(self.parsed::<u8>(directory, name)?.map(|value| value != 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_io_of_a_device() {
        let device = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(device.path().join(name), text).unwrap();
        let io = || {
            let io = Attribute::default().io(device.path())?;
            Ok::<_, Error>(io.map(|io| (io.in_flight, io.writes_completed())))
        };
        assert_eq!(io(), Ok(None));
        write("inflight", "       2        3\n");
        assert_eq!(io(), Ok(Some((5, None))));
        write("stat", "       1 2 3 4 5 6 7 8 9 10 11\n");
        assert_eq!(io(), Ok(Some((9, Some(5)))));
        write("stat", "1 2 3 4 5 6 7 8 9 10\n");
        assert!(
            io().unwrap_err()
                .to_string()
                .ends_with("/stat: found \"1 2 3 4 5 6 7 8 9 10\", expected 11 numbers or more")
        );
    }

    #[test]
    fn a_table_of_procfs_is_read_again_only_when_it_changes() {
        let whole = |content: &[u8]| content.to_owned();
        let mut table = Table::default();
        let mounts = Path::new("/proc/self/mountinfo");
        assert!(!table.read(mounts, whole).unwrap().is_empty());
        // The mounts rarely change during this test.
        let stood = (0..100).any(|_| {
            let before = table.open.as_ref().map(|(_, read)| *read);
            table.read(mounts, whole).unwrap();
            table.open.as_ref().map(|(_, read)| *read) == before
        });
        assert!(stood);
        table.open.as_mut().unwrap().1 -= MAX_TABLE_AGE;
        assert!(!table.is_current());
        assert!(table.read(Path::new("/proc/self/none"), whole).is_err());
        assert!(!table.is_current());
    }

    #[test]
    fn a_table_that_cannot_be_polled_is_read_each_time() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut table = Table::default();
        for content in ["a", "b"] {
            fs::write(file.path(), content).unwrap();
            assert_eq!(table.read(file.path(), <[u8]>::to_vec).unwrap(), content.as_bytes());
        }
    }

    #[test]
    fn only_a_file_of_sysfs_stays_open() {
        let mut file = Attribute::default();
        let open = open_in_sysfs(Path::new("/sys/class/net/lo/ifindex")).unwrap();
        assert!(file.still_says(&open, "1") && file.still_says(&open, "1"));
        assert!(!file.still_says(&open, "11"));
        let elsewhere = tempfile::NamedTempFile::new().unwrap();
        assert!(open_in_sysfs(elsewhere.path()).is_none());
        assert!(open_in_sysfs(Path::new("/sys/class/net/lo/none")).is_none());
    }
}
