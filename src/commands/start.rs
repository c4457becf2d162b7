//! Preparations of the process, and checks of the host, for all commands but `--config.check`.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use rustix::process::{Resource, getrlimit, setrlimit};
use tracing::warn;

use super::Failure;

/// Raises the limit of open files to the hard limit. systemd and shells start programs with 1,024,
/// for programs that call `select(2)`. A host with a thousand iSCSI sessions needs more.
pub fn raise_open_files() {
    let mut files = getrlimit(Resource::Nofile);
    if files.current == files.maximum {
        return;
    }
    files.current = files.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, files) {
        warn!(%error, "cannot raise the limit of open files; on large hosts some objects may not be readable");
    }
}

/// Warns if udev's database is missing, as in many containers.
pub fn warn_without_udev(directory: &Path) {
    if !directory.is_dir() {
        warn!(
            path = %directory.display(),
            "--path.udev.data is not a directory: disk identities are unknown, so unassembled disks are not found and WWID \
             mismatches may be missed"
        );
    }
}

/// Directories of sysfs that every host has and that the exporter reads.
const SYSFS: [&str; 3] = ["block", "class", "devices"];

/// Checks that this directory is sysfs.
///
/// # Errors
/// If it is not. Otherwise the readers would find no devices, and the page would show a healthy
/// host.
pub fn check_sysfs(sysfs: &Path) -> Result<(), Failure> {
    let mut missing = Vec::new();
    for name in SYSFS {
        let directory = sysfs.join(name);
        match fs::metadata(&directory) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => missing.push(name),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => missing.push(name),
            Err(error) => {
                return Err(Failure::Settings(format!("--path.sysfs: {}: {error}", directory.display())));
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let missing = missing.join(", ");
    Err(Failure::Settings(format!("--path.sysfs: {} is not sysfs: missing directories: {missing}", sysfs.display())))
}
