//! What a host said otherwise than through files, in a file: a capture's `kernel.json`.
//!
//! ```text
//! device_mapper   what the ioctls gave of each multipath map, or why they gave nothing; absent if not asked
//! interfaces      the network interfaces that have the addresses which were looked for
//! nodes           the numbers of device nodes that were looked at
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use super::Error;

/// The file's name.
pub(crate) const FILE: &str = "kernel.json";

/// The form of the file and of all that lies beside it. Another one is another number.
pub(crate) const FORMAT: u32 = 1;

/// The content of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Kernel {
    /// [`FORMAT`].
    pub(crate) format: u32,
    /// Device mapper; `None` if it was not asked.
    pub(crate) device_mapper: Option<Maps>,
    /// Address and interface.
    pub(crate) interfaces: BTreeMap<String, String>,
    /// Path and device number.
    pub(crate) nodes: BTreeMap<String, String>,
}

/// Device mapper's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Maps {
    /// Why it gave none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// The multipath maps.
    pub(crate) maps: Vec<Map>,
}

/// One map, in the kernel's own words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Map {
    /// Its device number.
    pub(crate) devno: String,
    /// Counts its events.
    pub(crate) event_nr: Option<u32>,
    /// Why it could not be read. Then the rest is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// Its name, mangled as the kernel holds it.
    pub(crate) name: String,
    /// Its UUID.
    pub(crate) uuid: String,
    /// Holders of the device.
    pub(crate) open_count: u32,
    /// Those of them that are partition mappings which nobody holds; none in a capture that does not say so.
    pub(crate) closed_partitions: u32,
    /// Write-protected.
    pub(crate) read_only: bool,
    /// I/O is suspended.
    pub(crate) suspended: bool,
    /// Size in sectors of 512 bytes.
    pub(crate) sectors: u64,
    /// The multipath target's state.
    pub(crate) status: String,
    /// The multipath target's configuration.
    pub(crate) table: String,
}

/// The file has so many bytes at most: a map of two paths takes some 400, and in memory many times as much. No larger one
/// is written.
pub(crate) const MOST_KERNEL: u64 = 16 << 20;

/// Reads the file of the capture in this directory.
///
/// # Errors
/// If it cannot be read, is not what it should be, or has another form.
pub(crate) fn read(capture: &Path) -> Result<Kernel, Error> {
    let file = capture.join(FILE);
    let failed = |cause: &dyn std::fmt::Display| Error::new(file.display(), cause);
    let text = fs::read(&file).map_err(|cause| failed(&cause))?;
    if text.len() as u64 > MOST_KERNEL {
        return Err(failed(&format_args!("{} bytes, more than {MOST_KERNEL}", text.len())));
    }
    let kernel: Kernel = serde_json::from_slice(&text).map_err(|cause| failed(&cause))?;
    match kernel.format {
        FORMAT => Ok(kernel),
        other => Err(failed(&format_args!("the capture has format {other}, and this version reads {FORMAT}"))),
    }
}

/// All files of a capture have so many bytes at most: a map of two paths takes some 3,000, most of them in multipathd's reply.
/// No larger one is written.
pub(crate) const MOST: u64 = 64 << 20;

/// Looks through the directory, which may be a stranger's: nothing in it leads out of it, or is no file, and all files
/// together are no larger than a capture's are.
///
/// # Errors
/// If something is, or cannot be looked at.
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
                if bytes > MOST {
                    return Err(failed(&format_args!("with it, the capture has {bytes} bytes, more than {MOST}")));
                }
            } else {
                return Err(failed(&"neither a file nor a link nor a directory"));
            }
        }
    }
    Ok(())
}

/// Whether this target of a link stays in the tree, so many directories deep. It may go up only at its beginning, as
/// those of sysfs do: behind another link the way up leads from somewhere else.
fn stays_inside(target: &Path, depth: usize) -> bool {
    let up = target.components().take_while(|part| *part == Component::ParentDir).count();
    up <= depth && target.components().skip(up).all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_such_file_is_an_error_that_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let error = || read(directory.path()).unwrap_err().to_string();
        let place = directory.path().join(FILE);
        assert!(error().contains("No such file"));
        for (content, why) in [
            ("", "line 1"),
            ("{\"format\": 1,\n \"surprise\": 1}", "`surprise`"),
            ("{\"format\": 2}", "format 2, and this version reads 1"),
            ("{}", "format 0"),
            (&" ".repeat(MOST_KERNEL as usize + 1), "16777217 bytes"),
        ] {
            std::fs::write(&place, content).unwrap();
            assert!(error().contains(why) && error().starts_with(&place.display().to_string()), "{}", error());
        }
    }

    #[test]
    fn links_that_lead_out() {
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
