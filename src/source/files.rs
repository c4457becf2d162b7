//! Small files and links of sysfs, the way all its readers read them.
//!
//! A file that is absent belongs to a device that has no such thing (a ram disk has no SCSI state) or that has just gone,
//! and one that cannot be read just now (`ENOTCONN` from a dead iSCSI connection) to one that does not know: both are
//! `None`. What else goes wrong is an error that names the file.

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

use super::{Error, Io, SECTOR, is_gone, is_unknown, witness};

/// No attribute is larger: sysfs hands out one page.
const PAGE: usize = 4096;

/// sysfs gives an attribute whole in one read, which is what makes it one state and not two.
fn read_whole(anchor: BorrowedFd, path: &OsStr, buffer: &mut [u8]) -> rustix::io::Result<usize> {
    let file = rustix::fs::openat(anchor, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut *buffer))
}

/// What was read; an error is noted, and only this one thing missing.
pub(crate) fn or_note<T>(read: Result<Option<T>, Error>, unreadable: &mut Vec<Error>) -> Option<T> {
    read.unwrap_or_else(|error| {
        unreadable.push(error);
        None
    })
}

/// What was read; an error is noted, and what was there last time stands.
pub(crate) fn or_last<T: Clone + Default>(read: Result<T, Error>, last: Option<&T>, unreadable: &mut Vec<Error>) -> T {
    read.unwrap_or_else(|error| {
        unreadable.push(error);
        last.cloned().unwrap_or_default()
    })
}

/// Where a link in the directory `here` points, both relative to the root; `None` if it is gone.
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

/// An entry of a directory. The kernel gives a new object of an old name a new inode number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    /// Its name.
    pub(crate) name: String,
    /// Its inode number.
    pub(crate) inode: u64,
}

/// What is in a directory, sorted by name; nothing if there is no such directory, as for a driver that is not loaded.
pub(crate) fn list(directory: &Path) -> Result<Vec<Entry>, Error> {
    Ok(list_if_there(directory)?.unwrap_or_default())
}

/// What is in a directory, sorted by name; `None` if there is no such directory.
pub(crate) fn list_if_there(directory: &Path) -> Result<Option<Vec<Entry>>, Error> {
    let listed = entries(directory);
    witness::directory(directory, listed.as_deref().map(|entries| entries.iter().map(|entry| entry.name.as_str())));
    match listed {
        Ok(entries) => Ok(Some(entries)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(Error::io(directory.display(), &error)),
    }
}

fn entries(directory: &Path) -> io::Result<Vec<Entry>> {
    let mut list = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        list.extend(entry.file_name().into_string().map(|name| Entry { name, inode: entry.ino() }));
    }
    list.sort();
    Ok(list)
}

/// Whether there is such a file.
pub(crate) fn exists(file: &Path) -> bool {
    let exists = file.exists();
    if exists {
        witness::file(|| file.to_owned(), Ok(&[]));
    }
    exists
}

/// The part of a file that is of interest, of any size.
pub(crate) fn essence(file: &Path, of_interest: impl FnOnce(&[u8]) -> Vec<u8>) -> io::Result<Vec<u8>> {
    let read = fs::read(file).map(|content| of_interest(&content));
    witness::file(|| file.to_owned(), read.as_deref());
    read
}

/// A table of procfs, of which a part is of interest. It may have ten thousand lines, so it is read again only when the kernel says
/// that it has changed (`proc_pid_mounts(5)`, `proc_swaps(5)`). A file elsewhere, as in a capture, is read each time.
#[derive(Debug, Default)]
pub(crate) struct Table {
    essence: Vec<u8>,
    /// What was read, and when. Its poll tells of changes since it was opened or last polled.
    open: Option<(fs::File, Instant)>,
}

/// The kernel does not tell when btrfs or bcachefs names another of its devices. Then the table stands no longer than this.
const LONGEST_STAND: Duration = Duration::from_secs(5 * 60);

impl Table {
    /// The part of interest. It is asked for in the same file each time.
    pub(crate) fn read(&mut self, file: &Path, of_interest: impl FnOnce(&[u8]) -> Vec<u8>) -> io::Result<&[u8]> {
        if !self.stands() {
            let read = self.read_anew(file).map(|content| of_interest(&content));
            witness::file(|| file.to_owned(), read.as_deref());
            self.essence = read?;
        }
        Ok(&self.essence)
    }

    fn stands(&self) -> bool {
        let is_unchanged = |open: &fs::File| {
            let at_once = Some(&Timespec { tv_sec: 0, tv_nsec: 0 });
            poll(&mut [PollFd::new(open, PollFlags::PRI)], at_once) == Ok(0)
        };
        self.open.as_ref().is_some_and(|(open, read)| read.elapsed() < LONGEST_STAND && is_unchanged(open))
    }

    fn read_anew(&mut self, file: &Path) -> io::Result<Vec<u8>> {
        /// `PROC_SUPER_MAGIC` in `include/uapi/linux/magic.h`.
        const PROC: u64 = 0x9fa0;
        self.open = None;
        let now = Instant::now();
        let mut open = fs::File::open(file)?;
        let mut content = Vec::new();
        open.read_to_end(&mut content)?;
        let is_polled = rustix::fs::fstatfs(&open).is_ok_and(|system| system.f_type as u64 == PROC);
        self.open = is_polled.then_some((open, now));
        Ok(content)
    }
}

/// Directories held open while many files below them are read: half of what opening a file costs is the way to it.
///
/// There are never more than [`MOST_ANCHORS`]: a host may have a session for each LUN, and this process has only so many
/// files.
#[derive(Debug, Default)]
pub(crate) struct Anchors {
    open: HashMap<Arc<Path>, Option<OwnedFd>>,
}

const MOST_ANCHORS: usize = 32;

impl Anchors {
    /// The directory; `None` if it is gone.
    pub(crate) fn get(&mut self, directory: &Arc<Path>) -> Result<Option<BorrowedFd<'_>>, Error> {
        if !self.open.contains_key(directory) {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = match rustix::fs::open(&**directory, flags, Mode::empty()) {
                Ok(opened) => Some(opened),
                Err(error) if is_gone(&error.into()) => None,
                Err(error) => return Err(Error::io(directory.display(), &error.into())),
            };
            if self.open.len() == MOST_ANCHORS {
                self.open.clear();
            }
            self.open.insert(Arc::clone(directory), opened);
        }
        Ok(self.open.get(directory).and_then(Option::as_ref).map(OwnedFd::as_fd))
    }

    /// Closes them all.
    pub(crate) fn close(&mut self) {
        self.open.clear();
    }
}

/// Opens a file of sysfs to be read again and again; `None` if it is none, or cannot be opened. To read an open file costs a
/// fifth of what opening it costs, and the kernel says `ENODEV` once its device is gone. A file elsewhere may be replaced by
/// another of its name.
pub(crate) fn open_in_sysfs(file: &Path) -> Option<OwnedFd> {
    /// `SYSFS_MAGIC` in `include/uapi/linux/magic.h`.
    const SYSFS: u64 = 0x6265_6572;
    let open = rustix::fs::open(file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let file_system = rustix::fs::fstatfs(&open).ok()?;
    (file_system.f_type as u64 == SYSFS).then_some(open)
}

/// Reads small files into one buffer.
#[derive(Debug, Default)]
pub(crate) struct Attribute {
    path: OsString,
    content: Vec<u8>,
}

impl Attribute {
    /// The file's content without the newline at its end; `None` if there is no such file or its device is gone.
    pub(crate) fn bytes(&mut self, directory: &Path, name: &str) -> Result<Option<&[u8]>, Error> {
        self.path.clear();
        self.path.push(directory);
        self.path.push("/");
        self.path.push(name);
        self.read(CWD, Path::new(""))
    }

    /// As text, padding trimmed, of a file below a directory that is open. `anchor` is where that is.
    pub(crate) fn text_below(&mut self, open: BorrowedFd, anchor: &Path, file: &[&str]) -> Result<Option<&str>, Error> {
        self.path.clear();
        for (index, part) in file.iter().enumerate() {
            self.path.push(if index == 0 { "" } else { "/" });
            self.path.push(part);
        }
        match self.read(open, anchor)?.is_some() {
            true => Ok(self.as_text()),
            false => Ok(None),
        }
    }

    /// Whether an open file still says this, padding trimmed.
    pub(crate) fn still_says(&mut self, open: &OwnedFd, text: &str) -> bool {
        self.content.resize(PAGE, 0);
        let read = rustix::io::retry_on_intr(|| rustix::io::pread(open, self.content.as_mut_slice(), 0));
        self.content.truncate(read.unwrap_or(0));
        read.is_ok() && self.as_text() == Some(text)
    }

    fn read(&mut self, open: BorrowedFd, anchor: &Path) -> Result<Option<&[u8]>, Error> {
        self.content.resize(PAGE, 0);
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

    /// As text, padding trimmed.
    pub(crate) fn text(&mut self, directory: &Path, name: &str) -> Result<Option<&str>, Error> {
        match self.bytes(directory, name)?.is_some() {
            true => Ok(self.as_text()),
            false => Ok(None),
        }
    }

    fn as_text(&mut self) -> Option<&str> {
        if let Cow::Owned(lossy) = String::from_utf8_lossy(&self.content) {
            self.content = lossy.into_bytes();
        }
        str::from_utf8(&self.content).ok().map(str::trim)
    }

    /// As text to keep; empty for what the kernel does not know or has not been told, which it prints as `(null)`.
    pub(crate) fn word(&mut self, directory: &Path, name: &str) -> Result<Arc<str>, Error> {
        Ok(self.text(directory, name)?.filter(|text| *text != "(null)").map(Arc::from).unwrap_or_default())
    }

    /// The same where it can be read, otherwise empty, and the error noted.
    pub(crate) fn word_or_note(&mut self, directory: &Path, name: &str, unreadable: &mut Vec<Error>) -> Arc<str> {
        or_note(self.word(directory, name).map(Some), unreadable).unwrap_or_default()
    }

    /// As a value that prints like this; an error if it does not.
    pub(crate) fn parsed<T: FromStr>(&mut self, directory: &Path, name: &str) -> Result<Option<T>, Error> {
        self.made_of(directory, name, |text| text.parse().ok())
    }

    fn made_of<T>(
        &mut self,
        directory: &Path,
        name: &str,
        make: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(text) = self.text(directory, name)? else { return Ok(None) };
        match make(text) {
            Some(value) => Ok(Some(value)),
            None => {
                let cause = format!("cannot make sense of {text:?}");
                Err(Error::new(Path::new(&self.path).display(), cause))
            }
        }
    }

    /// The size of a block device in bytes. The kernel counts in sectors, whatever the device's own blocks are.
    pub(crate) fn size_bytes(&mut self, device: &Path) -> Result<Option<u64>, Error> {
        let sectors: Option<u64> = self.parsed(device, "size")?;
        Ok(sectors.map(|sectors| sectors.saturating_mul(SECTOR)))
    }

    /// The I/O of a block device. Where there is no `stat`, `inflight` tells at least what is in flight.
    pub(crate) fn io(&mut self, device: &Path) -> Result<Option<Io>, Error> {
        match self.stat(device)? {
            Some(io) => Ok(Some(io)),
            None => self.made_of(device, "inflight", |text| Io::from_inflight(text, Instant::now())),
        }
    }

    /// The I/O of a block device by its `stat`.
    pub(crate) fn stat(&mut self, device: &Path) -> Result<Option<Io>, Error> {
        self.made_of(device, "stat", |text| Io::from_stat(text, Instant::now()))
    }

    /// As `0` or another number.
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
        assert!(io().unwrap_err().to_string().ends_with("/stat: cannot make sense of \"1 2 3 4 5 6 7 8 9 10\""));
    }

    #[test]
    fn a_table_of_procfs_is_read_again_only_when_it_changes() {
        let whole = |content: &[u8]| content.to_owned();
        let mut table = Table::default();
        let mounts = Path::new("/proc/self/mountinfo");
        assert!(!table.read(mounts, whole).unwrap().is_empty());
        // What is mounted changes seldom while this runs.
        let stood = (0..100).any(|_| {
            let before = table.open.as_ref().map(|(_, read)| *read);
            table.read(mounts, whole).unwrap();
            table.open.as_ref().map(|(_, read)| *read) == before
        });
        assert!(stood);
        table.open.as_mut().unwrap().1 -= LONGEST_STAND;
        assert!(!table.stands());
        assert!(table.read(Path::new("/proc/self/none"), whole).is_err());
        assert!(!table.stands());
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
