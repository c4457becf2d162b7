//! The machine's own root file system, which can be put on another device while the machine runs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::mount::{UnmountFlags, mount_bind_recursive, unmount};
use rustix::process::pivot_root;

use crate::programs::run;

/// A directory of every Debian machine that nothing here uses.
const ASIDE: &str = "/media";

/// A root file system on another device; the machine's own comes back when dropped.
pub struct MovedRoot(());

impl MovedRoot {
    /// For every process, the first one and the running ones included. Below `/` all of them see what they saw, each
    /// directory as a mount of its own.
    pub fn onto(device: &str) -> Self {
        run("mount", [device, ASIDE]);
        for entry in fs::read_dir("/").expect("/ can be listed") {
            let entry = entry.expect("/ can be listed");
            let (path, place) = (entry.path(), Path::new(ASIDE).join(entry.file_name()));
            let file_type = entry.file_type().expect("an entry of / has a type");
            if file_type.is_symlink() {
                let target = fs::read_link(&path).expect("a link can be read");
                symlink(target, &place).expect("the new root is empty");
            } else if file_type.is_dir() {
                fs::create_dir_all(&place).expect("the new root is writable");
                if path != Path::new(ASIDE) {
                    mount_bind_recursive(&path, &place).unwrap_or_else(|e| panic!("{path:?} on {place:?}: {e}"));
                }
            }
        }
        exchange().expect("the new root takes the place of the old one");
        MovedRoot(())
    }
}

impl Drop for MovedRoot {
    fn drop(&mut self) {
        // A device that stays mounted cannot be removed, and the machine is booted anew.
        let _ = exchange().and_then(|()| unmount(ASIDE, UnmountFlags::DETACH));
    }
}

/// What is aside becomes the root, and what was the root is aside.
fn exchange() -> rustix::io::Result<()> {
    pivot_root(ASIDE, format!("{ASIDE}{ASIDE}"))
}
