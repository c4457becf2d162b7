//! The machine's root file system, which the lab can move to another device while the machine runs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::mount::{UnmountFlags, mount_bind_recursive, unmount};
use rustix::process::pivot_root;

use crate::programs::run;

/// A directory that every Debian machine has and nothing here uses.
const ASIDE: &str = "/media";

/// A root file system on another device. Dropping the value restores the machine's own.
pub struct MovedRoot(());

impl MovedRoot {
    /// Moves the root of every process, including running ones and the first one. All other mounts
    /// stay visible: each directory below `/` is a mount of its own.
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
        // A device that stays mounted cannot be removed, and the machine boots again.
        let _ = exchange().and_then(|()| unmount(ASIDE, UnmountFlags::DETACH));
    }
}

/// Exchanges the root and the file system at [`ASIDE`].
fn exchange() -> rustix::io::Result<()> {
    pivot_root(ASIDE, format!("{ASIDE}{ASIDE}"))
}
