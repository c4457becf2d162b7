//! Takes down what the readers find, for a capture: what is read and what is captured cannot disagree.
//!
//! The readers say here what they were given. Nothing comes of that but on a thread that is inside [`record`].

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::block::strangers::is_of_another_driver;
use super::recorded::{Kernel, Map};
use super::{is_gone, is_unknown};
use crate::topology::DevNo;

/// More links than this on the way to a file lead in a circle (`ELOOP`).
const MOST_LINKS: usize = 40;

/// What the readers found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Each directory that files are read below, and what it is called here.
    roots: Vec<(PathBuf, &'static str)>,
    /// Where somebody else sees what was read last.
    last: Arc<Mutex<PathBuf>>,
    /// Files, links and directories, each where it really lies, below the name of its root.
    pub(crate) tree: BTreeMap<PathBuf, Node>,
    /// What was there and could not be read, and why.
    pub(crate) unread: BTreeMap<PathBuf, String>,
    /// What was not found in files.
    pub(crate) kernel: Kernel,
}

/// One of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// A file and its content, or as much of it as was of interest.
    File(Vec<u8>),
    /// Where it points.
    Link(PathBuf),
    /// One that was listed, or is not what a reader expects there: it cannot be read as a file or a link.
    Directory,
}

thread_local! {
    static FINDINGS: RefCell<Option<Findings>> = const { RefCell::new(None) };
}

/// Reads, and gives what was found on the way below these roots. `last` is where it was found last.
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

/// A file's content, or why there is none.
pub(crate) fn file(path: impl FnOnce() -> PathBuf, read: Result<&[u8], &io::Error>) {
    found(|findings| {
        let path = path();
        match read {
            Ok(content) => findings.add(&path, Node::File(content.to_owned())),
            // The readers take it for one that is not there.
            Err(error) if is_unknown(error) => findings.add_unread(&path, true, error, None),
            Err(error) => findings.add_unread(&path, true, error, Some(Node::Directory)),
        }
    });
}

/// Where a link points.
pub(crate) fn link(path: &Path, read: &io::Result<PathBuf>) {
    found(|findings| match read {
        // It lies on the way to itself.
        Ok(_) => drop(findings.place(path, true)),
        Err(error) => findings.add_unread(path, false, error, Some(Node::Directory)),
    });
}

/// What is in a directory. Of that the files are taken down that are read.
pub(crate) fn directory<'a>(path: &Path, listed: Result<impl Iterator<Item = &'a str>, &io::Error>) {
    found(|findings| match listed {
        Ok(entries) => {
            findings.add(path, Node::Directory);
            // Of all block devices nobody looks at others, and a vendor may have put anything into their names.
            let is_read = |name: &str| {
                ["dm-", "sd", "dasd", "nvme"].iter().any(|kind| name.starts_with(kind)) || is_of_another_driver(name)
            };
            let entries = entries.filter(|name| !path.ends_with("block") || is_read(name));
            // The readers look at an interface only for what lies below it.
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

/// What device mapper gave of a map.
pub(crate) fn map(map: impl FnOnce() -> Map) {
    found(|findings| findings.kernel.device_mapper.get_or_insert_default().maps.push(map()));
}

/// Who has an address.
pub(crate) fn interface(address: IpAddr, interface: &str) {
    found(|findings| drop(findings.kernel.interfaces.insert(address.to_string(), interface.to_owned())));
}

/// The number of a device node.
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

    /// `instead` cannot be read in its place, either.
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

    /// Where a path really leads, with the links on the way taken down; `None` if that is below none of the roots.
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
                Ok(target) if target.is_relative() && links < MOST_LINKS => {
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

/// The last one first.
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
    fn everything_that_is_read_and_nothing_else() {
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
            // Of two findings the later one stands: it cannot be listed.
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
