//! A file system on a device.

use std::path::Path;

use crate::programs::{run, try_run};
use crate::wait::{PATIENCE, eventually};

/// A directory of every Debian machine that nothing here uses.
pub const PLACE: &str = "/srv";

/// A mounted file system; unmounted when dropped.
pub struct Mounted(());

impl Mounted {
    /// A new one on this device, without a journal.
    pub fn new_on(device: &str) -> Self {
        run("mkfs.ext4", ["-q", "-F", "-O", "^has_journal", device]);
        Mounted::on(device)
    }

    /// The one that is there.
    pub fn on(device: &str) -> Self {
        run("mount", [device, PLACE]);
        Mounted(())
    }

    /// A file below it.
    pub fn file(&self, name: &str) -> std::path::PathBuf {
        Path::new(PLACE).join(name)
    }

    /// Unmounts it in good order. udevd or a process that ends may still have it open for a moment.
    pub fn unmount(self) {
        eventually("the file system is unmounted", PATIENCE, || try_run("umount", [PLACE]).map(drop));
        std::mem::forget(self);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A device that stays in use cannot be removed, and the machine is booted anew.
        let _ = try_run("umount", ["--lazy", PLACE]);
    }
}
