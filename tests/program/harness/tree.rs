//! A sysfs tree in a temporary directory.
//!
//! A recorded one is a text file, a line for each file and link, as the recorder printed them:
//!
//! ```text
//! L /sys/block/dm-0 -> ../devices/virtual/block/dm-0
//! F 0444 /sys/devices/virtual/block/dm-0/dm/name = mpatha
//! F 0444 /sys/devices/platform/host6/…/access_state = <read: Invalid argument>
//! ```
//!
//! A file that could not be read on the real host is left out: no file of ours fails that way.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use rustix::fs::{FileType, Mode};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use tempfile::TempDir;

/// The tree. Dropping it deletes the directory.
pub struct Tree {
    directory: TempDir,
}

/// A directory that cannot be listed.
pub struct Unlistable<'a> {
    tree: &'a Tree,
    name: &'a str,
    child: Child,
}

impl Drop for Unlistable<'_> {
    fn drop(&mut self) {
        self.tree.remove(self.name);
        self.tree.rename(&format!("{}.away", self.name), self.name);
        self.child.wait().unwrap();
    }
}

impl Tree {
    /// A host without any block device. It has the directories that every host has.
    pub fn empty() -> Self {
        // The tree has thousands of small files. A file system in memory saves most of the time of
        // the tests.
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let tree = Tree { directory };
        for name in ["block", "class", "devices", "udev"] {
            fs::create_dir(tree.path(name)).unwrap();
        }
        tree
    }

    /// The tree that this text records.
    pub fn recorded(text: &str) -> Self {
        let tree = Tree::empty();
        tree.record(text);
        tree
    }

    /// Writes everything in the text over the existing files.
    pub fn record(&self, text: &str) {
        for line in text.lines() {
            if let Some((link, target)) = line.strip_prefix("L /sys/").and_then(|rest| rest.split_once(" -> ")) {
                self.link(link, target);
            } else {
                let file = line.strip_prefix("F ").and_then(|rest| rest.split_once(" /sys/"));
                let (name, content) = file.and_then(|(_mode, rest)| rest.split_once(" = ")).expect(line);
                if content.starts_with('<') {
                    drop(fs::remove_file(self.path(name)))
                } else {
                    self.write(name, format!("{content}\n"))
                }
            }
        }
    }

    /// The tree's root, as if it were mounted there.
    pub fn root(&self) -> &Path {
        self.directory.path()
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root().join(name)
    }

    /// Writes a file and creates its directories.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let file = self.path(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
    }

    /// Makes a link and creates its directories.
    pub fn link(&self, name: &str, target: &str) {
        let link = self.path(name);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        match symlink(target, link) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => panic!("{name}: {error}"),
            _ => {}
        }
    }

    /// Makes a FIFO. A reader that opens it waits for a writer.
    pub fn fifo(&self, name: &str) {
        rustix::fs::mknodat(rustix::fs::CWD, self.path(name), FileType::Fifo, Mode::from(0o600), 0).unwrap();
    }

    /// Removes a file, a link, or a directory with all that is in it.
    pub fn remove(&self, name: &str) {
        let path = self.path(name);
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            fs::remove_dir_all(path).unwrap()
        } else {
            fs::remove_file(path).unwrap()
        }
    }

    /// Gives a file, link or directory another name.
    pub fn rename(&self, name: &str, new: &str) {
        fs::rename(self.path(name), self.path(new)).unwrap();
    }

    /// Puts a directory in a file's place. Reading it fails, even for root.
    pub fn make_unreadable(&self, name: &str) {
        let file = self.path(name);
        fs::remove_file(&file).unwrap();
        fs::create_dir(file).unwrap();
    }

    /// Puts another directory in a directory's place. Nobody can list it until the result is
    /// dropped.
    #[must_use]
    pub fn make_unlistable<'a>(&'a self, name: &'a str) -> Unlistable<'a> {
        let child = Command::new("true").spawn().unwrap();
        // The process has ended but has not been waited for. The kernel still shows its
        // directories, but not its network.
        let pid = WaitId::Pid(Pid::from_child(&child));
        waitid(pid, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
        self.rename(name, &format!("{name}.away"));
        self.link(name, &format!("/proc/{}/net", child.id()));
        assert!(self.path(name).is_dir() && fs::read_dir(self.path(name)).unwrap().any(|entry| entry.is_err()));
        Unlistable { tree: self, name, child }
    }

    /// udev's entry for a device below `udev`. Like udevd, it writes a new file and moves it over
    /// the old one.
    pub fn udev(&self, devno: &str, property: &str) {
        self.write("udev/.#new", format!("I:4711\nE:{property}\nG:systemd\nV:1\n"));
        self.rename("udev/.#new", &format!("udev/b{devno}"));
    }

    /// Empties a file or replaces its content. A directory and its contents disappear.
    pub fn replace(&self, name: &str, content: impl AsRef<[u8]>) {
        self.remove(name);
        self.write(name, content);
    }

    /// A SCSI disk without a transport.
    pub fn add_disk(&self, name: &str, devno: &str) {
        let device = "devices/pci0000:00/host9/target9:0:0/9:0:0:0";
        self.write(&format!("{device}/block/{name}/dev"), format!("{devno}\n"));
        self.link(&format!("{device}/block/{name}/device"), "../../../9:0:0:0");
        self.write(&format!("{device}/state"), "running\n");
    }

    /// A multipath map over disks of [`Tree::add_disk`].
    pub fn add_map(&self, minor: u32, name: impl AsRef<[u8]>, uuid: impl AsRef<[u8]>, disks: &[String]) {
        let directory = format!("devices/virtual/block/dm-{minor}");
        self.link(&format!("block/dm-{minor}"), &format!("../{directory}"));
        self.write(&format!("{directory}/dev"), format!("254:{minor}\n"));
        self.write(&format!("{directory}/size"), "131072\n");
        self.write(&format!("{directory}/dm/name"), [name.as_ref(), b"\n"].concat());
        self.write(&format!("{directory}/dm/uuid"), [uuid.as_ref(), b"\n"].concat());
        fs::create_dir(self.path(format!("{directory}/slaves"))).unwrap();
        for disk in disks {
            let target = format!("../../../../pci0000:00/host9/target9:0:0/9:0:0:0/block/{disk}");
            symlink(target, self.path(format!("{directory}/slaves/{disk}"))).unwrap();
        }
    }
}
