//! A file system on a device.

use std::path::Path;

use crate::programs::{run, try_run};
use crate::wait::{PATIENCE, eventually};

/// A directory that every Debian machine has and nothing here uses.
pub const PLACE: &str = "/srv";

/// A mounted file system. Dropping the value unmounts it.
pub struct Mounted(());

impl Mounted {
    /// Creates a file system without a journal on this device, and mounts it.
    pub fn new_on(device: &str) -> Self {
        run("mkfs.ext4", ["-q", "-F", "-O", "^has_journal", device]);
        Mounted::on(device)
    }

    /// Mounts the existing file system of this device.
    pub fn on(device: &str) -> Self {
        run("mount", [device, PLACE]);
        Mounted(())
    }

    /// A file in the file system.
    pub fn file(&self, name: &str) -> std::path::PathBuf {
        Path::new(PLACE).join(name)
    }

    /// Unmounts the file system in order. udevd or an ending process may keep it open for a moment.
    pub fn unmount(self) {
        eventually("the file system is unmounted", PATIENCE, || try_run("umount", [PLACE]).map(drop));
        std::mem::forget(self);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A device that stays in use cannot be removed, and the machine boots again.
        let _ = try_run("umount", ["--lazy", PLACE]);
    }
}
