//! Records what the readers find, for a capture. The capture therefore always contains exactly what
//! was read.
//!
//! The readers report here what they received. This has an effect only on a thread that is inside
//! [`record`].

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::block::strangers::is_of_another_driver;
use super::recorded::{RecordedKernel, RecordedMap};
use super::{is_gone, is_unknown};
use crate::topology::DevNo;

/// The number of links on the way to a file beyond which they form a circle (`ELOOP`).
const MAX_LINKS: usize = 40;

/// The recorded findings of the readers.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// The directories below which files are read, each with its name in the capture.
    roots: Vec<(PathBuf, &'static str)>,
    /// The path that was read last, shared with the task that names it if the reading hangs.
    last: Arc<Mutex<PathBuf>>,
    /// Files, links and directories at their resolved places, below the name of their root.
    pub(crate) tree: BTreeMap<PathBuf, Node>,
    /// Objects that exist and could not be read, each with the error.
    pub(crate) unread: BTreeMap<PathBuf, String>,
    /// Findings that do not come from files.
    pub(crate) kernel: RecordedKernel,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// The content of a file, or the part of it that is of interest.
    File(Vec<u8>),
    /// The target of a link.
    Link(PathBuf),
    /// A listed directory. Also stands for an object that could not be read as a file or link:
    /// reading it in the capture fails as well.
    Directory,
}

thread_local! {
    static FINDINGS: RefCell<Option<Findings>> = const { RefCell::new(None) };
}

/// Runs `read`, and returns its result with everything that it found below these roots. `last`
/// always holds the path that was read last.
pub(crate) fn record<T>(
    roots: Vec<(PathBuf, &'static str)>,
    last: Arc<Mutex<PathBuf>>,
    read: impl FnOnce() -> T,
) -> (T, Findings) {
    FINDINGS.set(Some(Findings { roots, last, ..Findings::default() }));
    let result = read();
    (result, FINDINGS.take().unwrap_or_default())
}

fn found(take_down: impl FnOnce(&mut Findings)) {
    FINDINGS.with_borrow_mut(|findings| findings.as_mut().map(take_down));
}

/// Records a file's content, or the error.
pub(crate) fn file(path: impl FnOnce() -> PathBuf, read: Result<&[u8], &io::Error>) {
    found(|findings| {
        let path = path();
        match read {
            Ok(content) => findings.add(&path, Node::File(content.to_owned())),
            // The readers treat this as an absent file.
            Err(error) if is_unknown(error) => findings.add_unread(&path, true, error, None),
            Err(error) => findings.add_unread(&path, true, error, Some(Node::Directory)),
        }
    });
}

/// Records the target of a link.
pub(crate) fn link(path: &Path, read: &io::Result<PathBuf>) {
    found(|findings| match read {
        // Resolving the link's own path records the link.
        Ok(_) => drop(findings.place(path, true)),
        Err(error) => findings.add_unread(path, false, error, Some(Node::Directory)),
    });
}

/// Records a listed directory, with the entries that the readers use.
pub(crate) fn directory<'a>(path: &Path, listed: Result<impl Iterator<Item = &'a str>, &io::Error>) {
    found(|findings| match listed {
        Ok(entries) => {
            findings.add(path, Node::Directory);
            // The readers use only block devices of these kinds. The names of others may contain
            // anything that a vendor has put there.
            let is_read = |name: &str| {
                ["dm-", "sd", "dasd", "nvme"].iter().any(|kind| name.starts_with(kind)) || is_of_another_driver(name)
            };
            let entries = entries.filter(|name| !path.ends_with("block") || is_read(name));
            // The readers look only for the interfaces below an interface.
            let is_interface = path.parent().is_some_and(|above| above.ends_with("net"));
            let entries = entries.filter(|name| !is_interface || name.starts_with("lower_"));
            for entry in entries.map(|name| path.join(name)) {
                match fs::symlink_metadata(&entry).map(|metadata| metadata.file_type()) {
                    Ok(kind) if kind.is_symlink() => drop(findings.place(&entry, true)),
                    Ok(kind) if kind.is_dir() => findings.add(&entry, Node::Directory),
                    _ => {}
                }
            }
        }
        Err(error) => findings.add_unread(path, true, error, Some(Node::File(Vec::new()))),
    });
}

/// Records device mapper's answer about a map.
pub(crate) fn map(map: impl FnOnce() -> RecordedMap) {
    found(|findings| findings.kernel.device_mapper.get_or_insert_default().maps.push(map()));
}

/// Records which interface has an address.
pub(crate) fn interface(address: IpAddr, interface: &str) {
    found(|findings| drop(findings.kernel.interfaces.insert(address.to_string(), interface.to_owned())));
}

/// Records the number of a device node.
pub(crate) fn node(path: &str, devno: DevNo) {
    found(|findings| drop(findings.kernel.nodes.insert(path.to_owned(), devno.to_string())));
}

impl Findings {
    fn add(&mut self, path: &Path, node: Node) {
        let Some(place) = self.place(path, true) else { return };
        match node {
            Node::Directory => drop(self.tree.entry(place).or_insert(node)),
            node => drop(self.tree.insert(place, node)),
        }
    }

    /// Records an object that could not be read. `instead` stands in its place and cannot be read
    /// either.
    fn add_unread(&mut self, path: &Path, follow_last: bool, error: &io::Error, instead: Option<Node>) {
        if is_gone(error) {
            return;
        }
        let Some(place) = self.place(path, follow_last) else { return };
        if let Some(instead) = instead {
            self.tree.insert(place.clone(), instead);
        }
        self.unread.insert(place, error.to_string());
    }

    /// Returns the place where a path leads, and records the links on the way. `None` if the place
    /// is below none of the roots.
    fn place(&mut self, path: &Path, follow_last: bool) -> Option<PathBuf> {
        let roots = self.roots.iter().filter(|(root, _)| path.starts_with(root));
        let (root, name) = roots.max_by_key(|(root, _)| root.components().count())?.clone();
        path.clone_into(&mut self.last.lock().unwrap_or_else(PoisonError::into_inner));
        let mut way: Vec<OsString> = parts(path.strip_prefix(&root).ok()?);
        let (mut place, mut links) = (PathBuf::new(), 0);
        while let Some(part) = way.pop() {
            if part == ".." {
                place.pop().then_some(())?;
                continue;
            }
            let here = place.join(part);
            if way.is_empty() && !follow_last {
                return Some(Path::new(name).join(here));
            }
            match fs::read_link(root.join(&here)) {
                Ok(target) if target.is_relative() && links < MAX_LINKS => {
                    links += 1;
                    way.extend(parts(&target));
                    self.tree.insert(Path::new(name).join(here), Node::Link(target));
                }
                _ => place = here,
            }
        }
        Some(Path::new(name).join(place))
    }
}

/// Returns the components of a path in reverse order.
fn parts(path: &Path) -> Vec<OsString> {
    let parts = path.components().rev().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    parts.map(|part| part.as_os_str().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::files::{Attribute, exists, follow, list};
    use super::*;

    #[test]
    fn a_recording_has_everything_that_is_read_and_nothing_else() {
        let tree = tempfile::tempdir().unwrap();
        let root = tree.path();
        fs::create_dir_all(root.join("devices/host6/sdb/queue")).unwrap();
        fs::create_dir_all(root.join("devices/host6/wwid")).unwrap();
        fs::create_dir_all(root.join("class/disk")).unwrap();
        for name in ["sdb", "pxd!pxd857203948573920485"] {
            fs::create_dir_all(root.join("block").join(name)).unwrap();
        }
        symlink("../../devices/host6/sdb", root.join("class/disk/sdb")).unwrap();
        for file in ["state", "serial", "partition"] {
            fs::write(root.join("devices/host6/sdb").join(file), "x\n").unwrap();
        }
        let read = || {
            let mut file = Attribute::default();
            assert_eq!(list(&root.join("class/disk")).unwrap().len(), 1);
            assert_eq!(list(&root.join("block")).unwrap().len(), 2);
            assert_eq!(file.text(&root.join("class/disk/sdb"), "state"), Ok(Some("x")));
            assert_eq!(file.text(&root.join("class/disk/sdb"), "model"), Ok(None));
            assert!(file.text(&root.join("class/disk/sdb/.."), "wwid").is_err());
            assert!(list(&root.join("class/disk/sdb/state")).is_err());
            assert!(follow(&root.join("devices"), Path::new("")).is_err());
            assert!(exists(&root.join("devices/host6/sdb/partition")));
            assert!(list(&root.join("class/none")).unwrap().is_empty());
        };
        let ((), findings) = record(vec![(root.to_owned(), "sys")], Arc::default(), read);
        let place = PathBuf::from;
        let expected = [
            (place("sys/block"), Node::Directory),
            (place("sys/block/sdb"), Node::Directory),
            (place("sys/class/disk"), Node::Directory),
            (place("sys/class/disk/sdb"), Node::Link(place("../../devices/host6/sdb"))),
            (place("sys/devices"), Node::Directory),
            (place("sys/devices/host6/sdb/partition"), Node::File(Vec::new())),
            // The later of two findings counts: this file cannot be listed.
            (place("sys/devices/host6/sdb/state"), Node::File(Vec::new())),
            (place("sys/devices/host6/wwid"), Node::Directory),
        ];
        assert_eq!(findings.tree, BTreeMap::from(expected));
        let unread: Vec<_> = findings.unread.keys().map(|path| path.display().to_string()).collect();
        assert_eq!(unread, ["sys/devices", "sys/devices/host6/sdb/state", "sys/devices/host6/wwid"]);
        read();
        assert_eq!(record(Vec::new(), Arc::default(), read).1.tree, BTreeMap::new());
    }
}
