//! The sources: each module reads one of them and turns the answer of the kernel or of multipathd
//! into plain values.
//!
//! A source knows no metric names and judges nothing. It reports what it read and what it could not
//! read.
//!
//! ```text
//! device_mapper/   the kernel's own state of each map: ioctls
//! block/           maps and disks in sysfs, udev's database, what uses them
//! transports/      what connects the paths, in sysfs: iSCSI sessions, FC ports, NVMe controllers
//! flow             the I/O counters of block devices
//! interfaces       which network interface has which address
//! multipathd/      multipathd's socket
//! ```
//!
//! Each source is read by a thread or task of its own. A source that waits in the kernel therefore
//! delays no other source.

pub mod block;
pub(crate) mod device_mapper;
mod files;
mod flow;
pub(crate) mod health;
pub(crate) mod interfaces;
mod inventory;
pub(crate) mod multipathd;
pub(crate) mod recorded;
pub mod transports;
pub(crate) mod witness;

use std::borrow::Cow;
use std::path::PathBuf;
use std::{fmt, io};

pub(crate) use flow::{Io, Stall};
use rustix::io::Errno;

/// The unit of sizes in the kernel, in bytes. It does not depend on the device's own block size.
const SECTOR_SIZE: u64 = 512;

/// The prefix that multipath-tools gives the UUID of every multipath map. The WWID follows it.
pub(crate) const UUID_PREFIX: &str = "mpath-";

/// The directories that the sources read.
#[derive(Clone, Debug)]
pub struct Places {
    /// The mount point of sysfs.
    pub sysfs: PathBuf,
    /// The mount point of procfs, which has the tables of mounts and swaps.
    pub procfs: PathBuf,
    /// The directory of udev's database.
    pub udev_data: PathBuf,
    /// The capture that contains all of these directories, if they belong to one. It also holds the
    /// recorded answers of the kernel to other queries.
    pub capture: Option<PathBuf>,
}

/// Returns the UUID of the map below a partition mapping: kpartx and parted put `part1-` before it.
/// `None` if this is not the UUID of a partition mapping.
fn partitioned(uuid: &[u8]) -> Option<&[u8]> {
    let numbered = uuid.strip_prefix(b"part")?;
    let digits = numbered.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let map = numbered.get(digits..)?.strip_prefix(b"-")?;
    (digits > 0 && map.starts_with(UUID_PREFIX.as_bytes())).then_some(map)
}

/// A failed read. The text names the place and the cause.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {cause}")]
pub struct Error {
    place: String,
    cause: String,
    trouble: Subject,
}

/// The subject of the failure. The reader's reaction depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    /// The object that was read.
    Object,
    /// This process: it can open no more files, or no memory is left. The reading then says nothing
    /// about any object.
    Exhausted,
    /// This process has no permission to read the object.
    NotPermitted,
}

impl Error {
    /// `place` is the file, device or socket. `cause` says what went wrong there.
    pub(crate) fn new(place: impl fmt::Display, cause: impl fmt::Display) -> Self {
        Error { place: place.to_string(), cause: cause.to_string(), trouble: Subject::Object }
    }

    /// Makes an error from the kernel's error for a file or device.
    pub(crate) fn io(place: impl fmt::Display, cause: &io::Error) -> Self {
        let trouble = match cause.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => Subject::Exhausted,
            Some(Errno::PERM | Errno::ACCESS) => Subject::NotPermitted,
            _ => Subject::Object,
        };
        Error { trouble, ..Error::new(place, cause) }
    }

    /// Returns the same error as one of missing permission, whatever error code the kernel gave.
    fn not_permitted(self) -> Self {
        Error { trouble: Subject::NotPermitted, ..self }
    }

    pub(crate) fn cause(&self) -> &str {
        &self.cause
    }

    /// Returns true if this process has no files or memory left to read with.
    pub(crate) fn is_exhaustion(&self) -> bool {
        self.trouble == Subject::Exhausted
    }

    /// Returns true if this process has no permission to read the object.
    pub(crate) fn is_refusal(&self) -> bool {
        self.trouble == Subject::NotPermitted
    }
}

/// Fails the whole reading if this process ran out of files or memory: the reading then says
/// nothing about any object.
fn unless_exhausted<T>(reading: T, unreadable: &[Error]) -> Result<T, Error> {
    match unreadable.iter().find(|error| error.is_exhaustion()) {
        Some(error) => Err(error.clone()),
        None => Ok(reading),
    }
}

/// Undoes libdevmapper's mangling (`\x20` for a blank). The kernel, sysfs and uevents hold the
/// mangled form; `dmsetup` and multipathd undo it when they print a name. libdevmapper always
/// mangles a backslash, so other backslashes stay as they are.
pub(crate) fn dm_name(mangled: &[u8]) -> String {
    unescaped(mangled, b"\\x", 2, 16)
}

/// Undoes escapes that consist of this prefix and a fixed number of digits in this radix.
/// Everything else stays, except that invalid UTF-8 is replaced.
fn unescaped(escaped: &[u8], prefix: &[u8], digits: usize, radix: u32) -> String {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((&byte, tail)) = rest.split_first() {
        let code = rest.strip_prefix(prefix).and_then(|code| str::from_utf8(code.get(..digits)?).ok());
        match code.and_then(|code| u8::from_str_radix(code, radix).ok()) {
            Some(code) => {
                bytes.push(code);
                rest = &rest[prefix.len() + digits..];
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    match String::from_utf8_lossy(&bytes) {
        Cow::Borrowed(_) => String::from_utf8(bytes).unwrap_or_default(),
        Cow::Owned(lossy) => lossy,
    }
}

/// Returns true for a number as the kernel puts it into names such as `host7` and `nvme0n1`.
fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns true if the error means that the device no longer exists.
fn is_gone(error: &io::Error) -> bool {
    let gone = [Errno::NXIO, Errno::NODEV, Errno::NOENT].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| gone.contains(&code))
}

/// Returns true if the error means that the kernel has no value now, for example for a dead
/// connection.
fn is_unknown(error: &io::Error) -> bool {
    let unknown = [Errno::INVAL, Errno::NOTCONN].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| unknown.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_knows_its_subject() {
        for (errno, exhaustion, refusal) in [
            (Errno::MFILE, true, false),
            (Errno::NFILE, true, false),
            (Errno::NOMEM, true, false),
            (Errno::ACCESS, false, true),
            (Errno::PERM, false, true),
            (Errno::IO, false, false),
        ] {
            let error = Error::io("file", &errno.into());
            assert_eq!((error.is_exhaustion(), error.is_refusal()), (exhaustion, refusal), "{errno}");
        }
    }

    #[test]
    fn partition_mappings_are_recognised_by_their_uuids() {
        for (uuid, map) in [
            ("part1-mpath-3600a", Some("mpath-3600a")),
            ("part12-mpath-3600a", Some("mpath-3600a")),
            ("part-mpath-3600a", None),
            ("part1-LVM-x", None),
            ("partx-mpath-3600a", None),
            ("mpath-3600a", None),
            ("", None),
        ] {
            assert_eq!(partitioned(uuid.as_bytes()), map.map(str::as_bytes), "{uuid}");
        }
    }

    #[test]
    fn names_are_shown_as_dmsetup_shows_them() {
        for (mangled, name) in [
            (&b"mpatha"[..], "mpatha"),
            (b"a\\x20\\x22b\\x22", "a \"b\""),
            (b"a \"b\"", "a \"b\""),
            ("données".as_bytes(), "données"),
            (b"donn\\xc3\\xa9es", "données"),
            (b"cut\\x2", "cut\\x2"),
            (b"no\\xzz", "no\\xzz"),
            (b"\\", "\\"),
            (b"\xff", "\u{fffd}"),
            (b"", ""),
        ] {
            assert_eq!(dm_name(mangled), name);
        }
    }
}
