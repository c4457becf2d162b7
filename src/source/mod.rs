//! How we read: one module for each thing that is read, each turning what the kernel or a daemon says into plain values.
//!
//! A source knows no metric name and holds no opinion: it says what it read, and what it could not read.
//!
//! ```text
//! device_mapper/   the kernel's own word on every map: ioctls
//! block/           maps and disks in sysfs, udev's database, what uses them
//! transports/      what paths go over, in sysfs: iSCSI sessions, Fibre Channel ports, NVMe controllers and heads
//! flow             how the I/O of a block device fares
//! interfaces       which network interface has which address
//! multipathd/      the daemon's socket
//! ```
//!
//! Each of them is read by a thread or task of its own, so that one that waits in the kernel holds up no other.

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

/// The kernel counts sizes in these, whatever a device's own block size.
const SECTOR: u64 = 512;

/// The UUID of every multipath map starts with this: multipath-tools sets it, and the WWID follows.
pub(crate) const UUID_PREFIX: &str = "mpath-";

/// Where to read.
#[derive(Clone, Debug)]
pub struct Places {
    /// Where sysfs is mounted.
    pub sysfs: PathBuf,
    /// Where procfs is: what is mounted is told there.
    pub procfs: PathBuf,
    /// Where udev keeps its database.
    pub udev_data: PathBuf,
    /// The capture that all of these lie in, if they do: it also tells what else is asked of the kernel.
    pub capture: Option<PathBuf>,
}

/// The UUID of the map that a partition mapping stands on: kpartx and parted put `part1-` before it. `None` if this is the UUID
/// of no such mapping.
fn partitioned(uuid: &[u8]) -> Option<&[u8]> {
    let numbered = uuid.strip_prefix(b"part")?;
    let digits = numbered.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let map = numbered.get(digits..)?.strip_prefix(b"-")?;
    (digits > 0 && map.starts_with(UUID_PREFIX.as_bytes())).then_some(map)
}

/// Something could not be read. The text names the place and the cause.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {cause}")]
pub struct Error {
    place: String,
    cause: String,
    trouble: Trouble,
}

/// The owner of the trouble, where that decides what the reader does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// The object that was read.
    Object,
    /// This process: no more files may be opened, or no memory is left. Nothing is known of any object then.
    Exhausted,
    /// This process may not read it.
    NotPermitted,
}

impl Error {
    /// `place` is the file, device or socket; `cause` says what was wrong there.
    pub(crate) fn new(place: impl fmt::Display, cause: impl fmt::Display) -> Self {
        Error { place: place.to_string(), cause: cause.to_string(), trouble: Trouble::Object }
    }

    /// The kernel's error for a file or device.
    pub(crate) fn io(place: impl fmt::Display, cause: &io::Error) -> Self {
        let trouble = match cause.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => Trouble::Exhausted,
            Some(Errno::PERM | Errno::ACCESS) => Trouble::NotPermitted,
            _ => Trouble::Object,
        };
        Error { trouble, ..Error::new(place, cause) }
    }

    /// The same, and this process may not read it, whatever the kernel's word was.
    fn not_permitted(self) -> Self {
        Error { trouble: Trouble::NotPermitted, ..self }
    }

    /// What was wrong.
    pub(crate) fn cause(&self) -> &str {
        &self.cause
    }

    /// Whether this process has no files or memory left to read with.
    pub(crate) fn is_exhaustion(&self) -> bool {
        self.trouble == Trouble::Exhausted
    }

    /// Whether this process may not read it.
    pub(crate) fn is_refusal(&self) -> bool {
        self.trouble == Trouble::NotPermitted
    }
}

/// A reading in which this process ran out of files or memory says nothing about any object, so all of it failed.
fn unless_exhausted<T>(reading: T, unreadable: &[Error]) -> Result<T, Error> {
    match unreadable.iter().find(|error| error.is_exhaustion()) {
        Some(error) => Err(error.clone()),
        None => Ok(reading),
    }
}

/// Undoes libdevmapper's mangling (`\x20` for a blank), which `dmsetup` and multipathd undo when they print a name: the
/// kernel, sysfs and uevents hold the mangled form. A backslash itself is always mangled, so nothing else is touched.
pub(crate) fn dm_name(mangled: &[u8]) -> String {
    unescaped(mangled, b"\\x", 2, 16)
}

/// Undoes escapes: this prefix, and so many digits of this radix. All else stays, and bytes that are no UTF-8 are replaced.
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

/// Whether this is a number as the kernel puts it into names: `host7`, `nvme0n1`.
fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether the error says that the device is no longer there.
fn is_gone(error: &io::Error) -> bool {
    let gone = [Errno::NXIO, Errno::NODEV, Errno::NOENT].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| gone.contains(&code))
}

/// Whether the error says that the kernel cannot give a value now, as for a connection that is dead.
fn is_unknown(error: &io::Error) -> bool {
    let unknown = [Errno::INVAL, Errno::NOTCONN].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| unknown.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_whose_trouble_it_is() {
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
    fn partition_mappings_by_their_uuids() {
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
