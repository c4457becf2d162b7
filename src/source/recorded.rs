//! The file `kernel.json` of a capture: the kernel's answers that do not come from files.
//!
//! ```text
//! device_mapper   the ioctls' answer for each multipath map, or the error; absent if not asked
//! interfaces      the network interfaces that had the addresses that were looked up
//! nodes           the device numbers of the device nodes that were looked up
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use super::Error;

pub(crate) const FILE_NAME: &str = "kernel.json";

/// The version of the file's format and of the whole capture. Each change of the format gets a new
/// number.
pub(crate) const FORMAT: u32 = 1;

/// The content of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RecordedKernel {
    /// [`FORMAT`].
    pub(crate) format: u32,
    /// `None` if device mapper was not asked.
    pub(crate) device_mapper: Option<RecordedMaps>,
    /// The interface of each address.
    pub(crate) interfaces: BTreeMap<String, String>,
    /// The device number of each device node.
    pub(crate) nodes: BTreeMap<String, String>,
}

/// Device mapper's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RecordedMaps {
    /// The error, if there was no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// The multipath maps.
    pub(crate) maps: Vec<RecordedMap>,
}

/// One multipath map, as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RecordedMap {
    pub(crate) devno: String,
    /// The event number, which counts the map's events.
    pub(crate) event_nr: Option<u32>,
    /// The reason why the map could not be read. The other fields are then empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// The name as the kernel holds it, mangled.
    pub(crate) name: String,
    pub(crate) uuid: String,
    /// The number of holders of the map.
    pub(crate) open_count: u32,
    /// The number of these holders that are closed partition mappings. A capture without this field
    /// counts none.
    pub(crate) closed_partitions: u32,
    pub(crate) read_only: bool,
    pub(crate) suspended: bool,
    /// The size in sectors of 512 bytes.
    pub(crate) sectors: u64,
    /// The multipath target's status line.
    pub(crate) status: String,
    /// The multipath target's table line.
    pub(crate) table: String,
}

/// The maximum size of the file in bytes, for reading and writing. A map of two paths takes about
/// 400 bytes in the file and many times as much in memory.
pub(crate) const MAX_KERNEL_BYTES: u64 = 16 << 20;

/// Reads the file of the capture in this directory.
///
/// # Errors
/// If the file cannot be read, has other content, or has another format.
pub(crate) fn read(capture: &Path) -> Result<RecordedKernel, Error> {
    let file = capture.join(FILE_NAME);
    let failed = |cause: &dyn std::fmt::Display| Error::new(file.display(), cause);
    let text = fs::read(&file).map_err(|cause| failed(&cause))?;
    if text.len() as u64 > MAX_KERNEL_BYTES {
        return Err(failed(&format_args!("the file has {} bytes, the limit is {MAX_KERNEL_BYTES}", text.len())));
    }
    let kernel: RecordedKernel = serde_json::from_slice(&text).map_err(|cause| failed(&cause))?;
    match kernel.format {
        FORMAT => Ok(kernel),
        other => Err(failed(&format_args!("the capture has format {other}, this version reads format {FORMAT}"))),
    }
}

/// The maximum size of all files of a capture in bytes, for reading and writing. A map of two paths
/// takes about 3,000 bytes, most of them in multipathd's reply.
pub(crate) const MAX_CAPTURE_BYTES: u64 = 64 << 20;

/// Checks a capture that may come from a stranger. It must contain only files, links and
/// directories. No link may lead out of it. All its files together may have at most
/// [`MAX_CAPTURE_BYTES`].
///
/// # Errors
/// If the capture breaks one of these rules, or cannot be read.
pub(crate) fn inspect(capture: &Path) -> Result<(), Error> {
    let mut open = vec![(capture.to_owned(), 0)];
    let mut bytes = 0_u64;
    while let Some((directory, depth)) = open.pop() {
        let failed = |cause| Error::new(directory.display(), cause);
        for entry in fs::read_dir(&directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let failed = |cause: &dyn std::fmt::Display| Error::new(path.display(), cause);
            let metadata = path.symlink_metadata().map_err(|cause| failed(&cause))?;
            let kind = metadata.file_type();
            if kind.is_dir() {
                open.push((path, depth + 1));
            } else if kind.is_symlink() {
                let target = fs::read_link(&path).map_err(|cause| failed(&cause))?;
                if !stays_inside(&target, depth) {
                    return Err(failed(&format_args!("the link leads out of the capture, to {}", target.display())));
                }
            } else if kind.is_file() {
                bytes = bytes.saturating_add(metadata.len());
                if bytes > MAX_CAPTURE_BYTES {
                    return Err(failed(&format_args!(
                        "with this file, the capture has {bytes} bytes, the limit is {MAX_CAPTURE_BYTES}"
                    )));
                }
            } else {
                return Err(failed(&"expected a file, a link or a directory"));
            }
        }
    }
    Ok(())
}

/// Returns true if a link target stays inside the tree. `depth` is the number of directories above
/// the link. The target may go up only at its beginning, as the links of sysfs do. A step up behind
/// another link would start from a different directory.
fn stays_inside(target: &Path, depth: usize) -> bool {
    let up = target.components().take_while(|part| *part == Component::ParentDir).count();
    up <= depth && target.components().skip(up).all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_a_capture_names_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let error = || read(directory.path()).unwrap_err().to_string();
        let place = directory.path().join(FILE_NAME);
        assert!(error().contains("No such file"));
        for (content, why) in [
            ("", "line 1"),
            ("{\"format\": 1,\n \"surprise\": 1}", "`surprise`"),
            ("{\"format\": 2}", "format 2, this version reads format 1"),
            ("{}", "format 0"),
            (&" ".repeat(MAX_KERNEL_BYTES as usize + 1), "16777217 bytes"),
        ] {
            std::fs::write(&place, content).unwrap();
            assert!(error().contains(why) && error().starts_with(&place.display().to_string()), "{}", error());
        }
    }

    #[test]
    fn links_that_lead_out_of_the_capture() {
        for (target, depth, inside) in [
            ("../../devices/host6/sdb", 2, true),
            ("sdb", 0, true),
            ("./sdb", 0, true),
            ("../..", 2, true),
            ("../../devices", 1, false),
            ("/etc", 3, false),
            ("sdb/../../..", 2, false),
            ("./../..", 1, false),
        ] {
            assert_eq!(stays_inside(Path::new(target), depth), inside, "{target}");
        }
    }
}
