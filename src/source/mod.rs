//! How we read: one module per source, each turning what the kernel or a daemon says into plain values.
//!
//! A source knows no metric name and holds no opinion: it says what it read, and what it could not read.

pub mod device_mapper;
pub mod disks;
pub mod fibre_channel;
mod files;
pub mod health;
mod interfaces;
mod inventory;
pub mod iscsi;
pub mod maps;
pub mod multipathd;
pub mod nvme;
pub mod recorded;
mod root;
pub mod sysfs;
mod udev_db;
pub mod unassembled;
pub mod witness;

use std::borrow::Cow;
use std::{fmt, io};

/// The kernel counts sizes in these, whatever a device's own block size.
const SECTOR: u64 = 512;

/// Something could not be read. The text names the place and the cause.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {cause}")]
pub struct Error {
    place: String,
    cause: String,
}

impl Error {
    /// `place` is the file, device or socket; `cause` says what was wrong there.
    pub fn new(place: impl fmt::Display, cause: impl fmt::Display) -> Self {
        Error { place: place.to_string(), cause: cause.to_string() }
    }

    /// What was wrong.
    pub fn cause(&self) -> &str {
        &self.cause
    }
}

/// Undoes libdevmapper's mangling (`\x20` for a blank), which `dmsetup` and multipathd undo when they print a name: the
/// kernel, sysfs and uevents hold the mangled form. A backslash itself is always mangled, so nothing else is touched.
pub fn dm_name(mangled: &[u8]) -> String {
    let mut name = Vec::with_capacity(mangled.len());
    let mut rest = mangled;
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = tail.strip_prefix(b"x").and_then(|hex| std::str::from_utf8(hex.get(..2)?).ok());
        match hex.filter(|_| byte == b'\\').and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(unmangled) => {
                name.push(unmangled);
                rest = &rest[4..];
            }
            None => {
                name.push(byte);
                rest = tail;
            }
        }
    }
    match String::from_utf8_lossy(&name) {
        Cow::Borrowed(_) => String::from_utf8(name).unwrap_or_default(),
        Cow::Owned(lossy) => lossy,
    }
}

/// Whether this is a number as the kernel puts it into names: `host7`, `nvme0n1`.
fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether the error says that the device is no longer there.
fn is_gone(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let gone = [Errno::NXIO, Errno::NODEV, Errno::NOENT].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| gone.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

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
