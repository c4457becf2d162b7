//! Subsystems: their names, the I/O policy for their paths, and the paths that have no head.
//!
//! The kernel creates the disk of a head when the first path to it becomes usable
//! (`nvme_mpath_set_live` in `drivers/nvme/host/multipath.c`). Before, there are only hidden paths,
//! and the namespace cannot be used.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::PathsOf;
use super::names::head_of;
use crate::source::Error;
use crate::source::files::{Attribute, list_if_there, or_last, or_note};
use crate::topology::NvmeSubsystem;

/// A subsystem as last read.
#[derive(Debug, Default)]
pub(crate) struct Subsystem {
    /// The NQN; empty while it is unknown.
    target: Arc<str>,
    /// True if the subsystem has a device or a controller that could have one. Without controllers,
    /// the last value stays.
    is_watched: bool,
    /// The policy that spreads I/O over the paths. It is read only for subsystems that are watched.
    iopolicy: Option<Arc<str>>,
    /// The number of controllers that are live and could have devices.
    live_controllers: usize,
    /// The kernel names of the devices.
    devices: Vec<Arc<str>>,
    /// The number of paths that wait for a head; `None` without a controller that could have one.
    unreachable: Option<usize>,
    /// The paths that had no head at the last reading, with the names of their controllers.
    headless: BTreeMap<String, Arc<str>>,
}

/// The contents of a subsystem's directory.
pub(crate) struct SubsystemParts {
    pub(crate) directory: PathBuf,
    /// The names of the heads.
    pub(crate) names: BTreeSet<String>,
    /// The controllers with their paths.
    pub(crate) ways: Vec<PathsOf>,
    /// True if the subsystem is reached over fabrics, or has two or more controllers.
    pub(crate) is_shared: bool,
    /// The names of the heads that are devices.
    pub(crate) devices: Vec<Arc<str>>,
}

impl Subsystem {
    /// Returns the subsystem if it is watched. `None` for a lone local disk, and for a subsystem
    /// that serves only discovery.
    pub(crate) fn watched(&self) -> Option<NvmeSubsystem> {
        (self.is_watched && !self.target.is_empty()).then(|| NvmeSubsystem {
            target: Arc::clone(&self.target),
            iopolicy: self.iopolicy.clone(),
            unreachable_namespaces: self.unreachable,
            live_controllers: self.live_controllers,
            devices: self.devices.clone(),
        })
    }

    /// Returns the paths through this controller that had no head.
    pub(crate) fn headless_through(&self, controller: &str) -> impl Iterator<Item = String> {
        self.headless.iter().filter(move |(_, through)| ***through == *controller).map(|(name, _)| name.clone())
    }

    /// Returns the subsystem after the next reading. Values that cannot be read keep their last
    /// state.
    pub(crate) fn after(self, file: &mut Attribute, parts: &SubsystemParts, unreadable: &mut Vec<Error>) -> Self {
        let controllers = || parts.ways.iter().map(|way| &way.controller).filter(|one| !one.has_no_namespaces);
        let target = match file.word_or_note(&parts.directory, "subsysnqn", unreadable) {
            target if target.is_empty() => controllers().map(|one| Arc::clone(&one.ports.target)).next(),
            target => Some(target),
        };
        let has_controllers = parts.is_shared && controllers().next().is_some();
        let is_watched = has_controllers || !parts.devices.is_empty() || self.is_watched && parts.ways.is_empty();
        let iopolicy = if is_watched {
            let iopolicy = file.text(&parts.directory, "iopolicy").map(|text| text.map(Arc::from));
            let iopolicy = or_last(iopolicy, Some(&self.iopolicy), unreadable);
            // Only a kernel without NVMe multipath has no such file. Otherwise the policy is
            // unknown.
            iopolicy.or_else(|| (!parts.devices.is_empty()).then(Arc::default))
        } else {
            None
        };
        let headless: Vec<_> = if has_controllers { parts.headless().collect() } else { Vec::new() };
        let unreachable = has_controllers.then(|| self.unreachable(&headless, file, &parts.directory, unreadable));
        let headless = headless.into_iter().map(|(way, name)| (name.clone(), Arc::clone(&way.controller.name)));
        Subsystem {
            target: target.unwrap_or(self.target),
            is_watched,
            iopolicy,
            unreachable,
            live_controllers: controllers().filter(|one| one.is_live()).count(),
            devices: parts.devices.clone(),
            headless: headless.collect(),
        }
    }

    /// Returns the number of paths that stay without a head. A new namespace gets its path before
    /// its head, and both may come between the listing of heads and that of paths. A path therefore
    /// counts if it had no head at the last reading either. It also counts if its ANA state keeps
    /// the kernel from creating a head, and there is still none.
    fn unreachable(
        &self,
        headless: &[(&PathsOf, &String)],
        file: &mut Attribute,
        directory: &Path,
        unreadable: &mut Vec<Error>,
    ) -> usize {
        let (old, new): (Vec<_>, Vec<_>) = headless.iter().partition(|(_, name)| self.headless.contains_key(*name));
        let mut prevents_head = |way: &PathsOf, name: &str| {
            let state = file.word_or_note(&way.directory.join(name), "ana_state", unreadable);
            matches!(&*state, "inaccessible" | "persistent-loss" | "change")
        };
        let without_head: Vec<_> = new.into_iter().filter(|(way, name)| prevents_head(way, name)).collect();
        if without_head.is_empty() {
            return old.len();
        }
        let Some(entries) = or_note(list_if_there(directory), unreadable) else { return old.len() };
        let has_head = |name: &str| head_of(name).is_some_and(|head| entries.iter().any(|entry| entry.name == head));
        old.len() + without_head.iter().filter(|(_, name)| !has_head(name)).count()
    }
}

impl SubsystemParts {
    /// Returns the paths that have no head.
    fn headless(&self) -> impl Iterator<Item = (&PathsOf, &String)> {
        self.ways.iter().flat_map(|way| {
            let without = way.names.iter().filter(|(head, _)| !self.names.contains(*head));
            without.flat_map(move |(_, names)| names.iter().map(move |name| (way, name)))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::Nvme;
    use super::*;
    use crate::source::interfaces::Addresses;

    /// A subsystem with one controller, whose path has this ANA state.
    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new(transport: &str, ana_state: &str) -> Self {
            let tree = Tree(tempfile::tempdir().unwrap());
            let target = "nqn.2024-01.org.example:a";
            tree.write("class/nvme-subsystem/nvme-subsys0/subsysnqn", target);
            tree.write("class/nvme-subsystem/nvme-subsys0/iopolicy", "round-robin");
            for (file, content) in [
                ("state", "live"),
                ("transport", transport),
                ("address", "traddr=192.0.2.2,trsvcid=4420"),
                ("subsysnqn", target),
                ("nvme0c3n1/ana_state", ana_state),
                ("nvme0c3n1/size", "8"),
            ] {
                tree.write(&format!("class/nvme/nvme3/{file}"), content);
            }
            symlink("../../nvme/nvme3", tree.0.path().join("class/nvme-subsystem/nvme-subsys0/nvme3")).unwrap();
            tree
        }

        fn write(&self, file: &str, content: &str) {
            let file = self.0.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, format!("{content}\n")).unwrap();
        }

        fn make_head(&self) {
            self.write("class/nvme-subsystem/nvme-subsys0/nvme0n1/wwid", "uuid.1");
        }

        fn remove(&self, directory: &str) {
            fs::remove_dir_all(self.0.path().join(directory)).unwrap();
        }
    }

    /// Returns the I/O policies and the numbers of unreachable paths of all subsystems after the
    /// next reading.
    fn read(nvme: &mut Nvme) -> Vec<(Option<Arc<str>>, Option<usize>)> {
        let mut unreadable = Vec::new();
        nvme.read_controllers(false, &Addresses::default(), &mut unreadable).unwrap();
        nvme.read_heads(false, &BTreeSet::new(), &mut unreadable);
        let all = nvme.watched_subsystems().into_iter();
        all.map(|subsystem| (subsystem.iopolicy, subsystem.unreachable_namespaces)).collect()
    }

    /// Linux 6.1 said `(efault)` in the lab while it made a controller.
    #[test]
    fn a_controller_counts_when_it_has_joined_its_subsystem() {
        for text in ["(efault)", "(null)"] {
            let tree = Tree::new("tcp", "optimized");
            let mut nvme = Nvme::new(tree.0.path());
            tree.write("class/nvme/nvme3/state", "connecting");
            tree.write("class/nvme/nvme3/subsysnqn", text);
            read(&mut nvme);
            assert!(nvme.watched_controllers().is_empty(), "{text}");

            tree.write("class/nvme/nvme3/state", "live");
            tree.write("class/nvme/nvme3/subsysnqn", "nqn.2024-01.org.example:a");
            read(&mut nvme);
            let [controller] = &nvme.watched_controllers()[..] else { panic!("{text}: there is one") };
            assert_eq!(&*controller.ports.target, "nqn.2024-01.org.example:a");
        }
    }

    fn policy() -> Option<Arc<str>> {
        Some("round-robin".into())
    }

    #[test]
    fn a_path_whose_ana_state_prevents_a_head_counts_at_once() {
        for state in ["inaccessible", "persistent-loss", "change"] {
            let tree = Tree::new("tcp", state);
            let mut nvme = Nvme::new(tree.0.path());
            assert_eq!(read(&mut nvme), [(policy(), Some(1))], "{state}");
            assert_eq!(read(&mut nvme), [(policy(), Some(1))], "{state}");
            tree.make_head();
            assert_eq!(read(&mut nvme), [(policy(), Some(0))], "{state}");
        }
    }

    /// The kernel creates the path first, then the head.
    #[test]
    fn a_path_whose_head_may_still_come_counts_at_the_second_reading() {
        for state in ["optimized", "non-optimized", "invalid state"] {
            let tree = Tree::new("tcp", state);
            let mut nvme = Nvme::new(tree.0.path());
            assert_eq!(read(&mut nvme), [(policy(), Some(0))], "{state}");
            assert_eq!(read(&mut nvme), [(policy(), Some(1))], "{state}");
        }
    }

    #[test]
    fn a_head_that_came_after_the_listing_counts() {
        let tree = Tree::new("tcp", "inaccessible");
        tree.make_head();
        let subsystem = tree.0.path().join("class/nvme-subsystem/nvme-subsys0");
        let way = PathsOf {
            controller: Arc::default(),
            directory: subsystem.join("nvme3"),
            names: [("nvme0n1".to_owned(), vec!["nvme0c3n1".to_owned()])].into(),
        };
        let parts = SubsystemParts {
            directory: subsystem,
            names: BTreeSet::new(),
            ways: vec![way],
            is_shared: true,
            devices: Vec::new(),
        };
        let now = Subsystem::default().after(&mut Attribute::default(), &parts, &mut Vec::new());
        assert_eq!(now.unreachable, Some(0));
    }

    #[test]
    fn a_subsystem_that_cannot_be_listed_keeps_its_state() {
        for directory in ["class/nvme-subsystem/nvme-subsys0", "class/nvme/nvme3"] {
            let tree = Tree::new("tcp", "inaccessible");
            let mut nvme = Nvme::new(tree.0.path());
            read(&mut nvme);
            let mut unreadable = Vec::new();
            nvme.read_controllers(false, &Addresses::default(), &mut unreadable).unwrap();
            tree.remove(directory);
            fs::write(tree.0.path().join(directory), "").unwrap();
            nvme.read_heads(false, &BTreeSet::new(), &mut unreadable);
            assert_eq!(nvme.watched_subsystems()[0].unreachable_namespaces, Some(1), "{directory}");
            assert_eq!(unreadable.len(), 1, "{directory}: {unreadable:?}");
        }
    }

    #[test]
    fn the_subsystem_of_a_lone_local_disk_is_not_watched() {
        let tree = Tree::new("pcie", "optimized");
        tree.make_head();
        assert_eq!(read(&mut Nvme::new(tree.0.path())), []);
    }

    #[test]
    fn a_discovery_subsystem_is_not_watched() {
        let tree = Tree::new("tcp", "optimized");
        tree.remove("class/nvme/nvme3/nvme0c3n1");
        tree.write("class/nvme/nvme3/cntrltype", "discovery");
        assert_eq!(read(&mut Nvme::new(tree.0.path())), []);
    }

    #[test]
    fn a_subsystem_without_a_controller_has_a_policy_while_it_is_there() {
        let tree = Tree::new("tcp", "optimized");
        tree.make_head();
        let mut nvme = Nvme::new(tree.0.path());
        assert_eq!(read(&mut nvme), [(policy(), Some(0))]);
        tree.remove("class/nvme/nvme3");
        fs::remove_file(tree.0.path().join("class/nvme-subsystem/nvme-subsys0/nvme3")).unwrap();
        assert_eq!(read(&mut nvme), [(policy(), None)]);
        tree.remove("class/nvme-subsystem/nvme-subsys0/nvme0n1");
        assert_eq!(read(&mut nvme), [(policy(), None)]);
        tree.remove("class/nvme-subsystem/nvme-subsys0");
        assert_eq!(read(&mut nvme), []);
    }

    #[test]
    fn a_kernel_without_multipath_has_no_policy() {
        let tree = Tree::new("tcp", "optimized");
        tree.remove("class/nvme/nvme3/nvme0c3n1");
        fs::remove_file(tree.0.path().join("class/nvme-subsystem/nvme-subsys0/iopolicy")).unwrap();
        assert_eq!(read(&mut Nvme::new(tree.0.path())), [(None, Some(0))]);
    }
}
