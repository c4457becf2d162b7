//! Native NVMe multipath: namespace heads, and the controllers that their paths go through.
//!
//! ```text
//! class/nvme-subsystem/nvme-subsys0/  subsysnqn, model, firmware_rev, iopolicy; nvme0n1: a head; nvme0: a controller
//! …/nvme-subsys0/nvme0n1/             wwid, uuid, size, ro, stat, delayed_removal_secs: a head, which is used as a disk
//! class/nvme/nvme3/                   state, transport, address, subsysnqn, …: a controller
//! class/nvme/nvme3/nvme0c3n1/         ana_state, ana_grpid, size, ro, stat, diag/: the hidden path through nvme3
//! ```
//!
//! Documented in `Documentation/ABI/testing/sysfs-nvme` and `drivers/nvme/host/{sysfs,multipath}.c`
//! of the kernel. The kernel sends no event when a controller leaves `live` or an ANA group
//! changes. A path's ANA state stays `optimized` while its controller reconnects, so both states
//! count. `src_addr` disappears with the connection, so the exporter remembers a controller's
//! ports. It reads them again when the controller is live again, and at each resync while it is
//! live. Since Linux 5.3, the name of a path contains the number of its controller; before, it
//! contained the controller ID (`cntlid`).

mod controllers;
mod names;
mod subsystems;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::source::files::{Attribute, DirectoryEntry, list, or_last, or_note};
use crate::source::interfaces::Addresses;
use crate::source::inventory::Inventory;
use crate::source::{Error, Io, Stall};
use crate::topology::{NvmeController, NvmeSubsystem};
use names::head_of;
pub(crate) use names::{is_controller, is_head, is_partition};
use subsystems::Subsystem;

/// A namespace head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) wwid: Arc<str>,
    /// The kernel name, `nvme0n1`.
    pub(crate) name: Arc<str>,
    /// The namespace's UUID; empty if it has none.
    pub(crate) uuid: Arc<str>,
    /// The subsystem's model.
    pub(crate) model: Arc<str>,
    /// The subsystem's firmware revision.
    pub(crate) firmware: Arc<str>,
    pub(crate) size_bytes: Option<u64>,
    pub(crate) read_only: Option<bool>,
    /// The time for which the kernel keeps the head after its last path has gone
    /// (`delayed_removal_secs`, Linux 6.16). It is not read while a controller of the head is live,
    /// and keeps its last value.
    pub(crate) removal_delay: Duration,
    /// The paths, sorted by name.
    pub(crate) paths: Vec<HeadPath>,
}

/// A path of a head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HeadPath {
    /// The kernel name, `nvme0c3n1`.
    pub(crate) name: Arc<str>,
    /// The ANA state as the kernel prints it; `None` if the subsystem has no ANA.
    pub(crate) ana_state: Option<Arc<str>>,
    pub(crate) ana_group: Option<u32>,
    pub(crate) size_bytes: Option<u64>,
    pub(crate) read_only: Option<bool>,
    /// The time for which the same I/O had been in flight without any completion, at the last
    /// resync.
    pub(crate) stalled: Option<Duration>,
    /// The number of commands that had ended with an error at the last resync, as the driver counts
    /// them (Linux 7.2). Root may reset it to 0.
    pub(crate) io_errors: Option<u64>,
    /// The controller that the path goes through.
    pub(crate) controller: Arc<NvmeController>,
}

/// Reads heads and remembers them.
#[derive(Debug)]
pub(crate) struct Nvme {
    root: PathBuf,
    controllers: Inventory<NvmeController>,
    reader: controllers::ControllerReader,
    heads: BTreeMap<Arc<str>, KnownHead>,
    /// By their kernel names.
    subsystems: BTreeMap<String, Subsystem>,
    file: Attribute,
}

/// A controller, and the names of the paths below it, by the names of their heads.
struct PathsOf {
    controller: Arc<NvmeController>,
    directory: PathBuf,
    names: HashMap<String, Vec<String>>,
}

#[derive(Debug)]
struct KnownHead {
    /// The inode of the entry: another inode means another head of the same name.
    inode: u64,
    /// `None` for a lone local disk, also after the disk has lost its controller.
    head: Option<Arc<Head>>,
    /// The head's I/O, which changes in nearly every reading.
    io: Option<Io>,
    /// The stall of each path, by its name.
    stalls: HashMap<Arc<str>, Stall>,
}

impl Nvme {
    /// `root` is the mount point of sysfs.
    pub(crate) fn new(root: &Path) -> Self {
        Nvme {
            root: root.to_owned(),
            controllers: Inventory::new(root.join("class/nvme")),
            reader: controllers::ControllerReader::default(),
            heads: BTreeMap::new(),
            subsystems: BTreeMap::new(),
            file: Attribute::default(),
        }
    }

    /// Reads all controllers. The ports of controllers that are live and known are read only if
    /// `anew`.
    ///
    /// # Errors
    /// If the controllers cannot be listed. A host without NVMe is not an error.
    pub(crate) fn read_controllers(
        &mut self,
        anew: bool,
        addresses: &Addresses,
        unreadable: &mut Vec<Error>,
    ) -> Result<(), Error> {
        let reader = &mut self.reader;
        self.controllers.read(unreadable, |directory, name, last, unreadable| {
            reader.controller(directory, name, last, anew, addresses, unreadable)
        })
    }

    /// Returns all controllers as last read.
    pub(crate) fn controllers(&self) -> &Inventory<NvmeController> {
        &self.controllers
    }

    /// Returns the controllers over fabrics whose namespaces are paths. A controller without a known
    /// subsystem may still turn out to be a discovery controller.
    pub(crate) fn watched_controllers(&self) -> Vec<Arc<NvmeController>> {
        let is_watched = |controller: &NvmeController| {
            controller.over_fabrics && !controller.has_no_namespaces && !controller.ports.target.is_empty()
        };
        self.controllers.all().into_iter().filter(|controller| is_watched(controller)).collect()
    }

    /// Returns the subsystems that have devices, or controllers that could have some, by NQN.
    pub(crate) fn watched_subsystems(&self) -> Vec<NvmeSubsystem> {
        let watched = self.subsystems.values().filter_map(Subsystem::watched);
        let by_target: BTreeMap<_, _> = watched.map(|subsystem| (Arc::clone(&subsystem.target), subsystem)).collect();
        by_target.into_values().collect()
    }

    /// Reads all multipath heads: those whose subsystem is reached over fabrics or has two or more
    /// controllers. A local disk with one controller counts only if its WWID is among the
    /// `remembered` ones. Such a disk has lost controllers while the exporter did not run. Heads
    /// that cannot be listed keep their last state. The I/O of their paths is read only if `anew`.
    pub(crate) fn read_heads(&mut self, anew: bool, remembered: &BTreeSet<Arc<str>>, unreadable: &mut Vec<Error>) {
        if let Err(error) = self.look_for_heads(anew, remembered, unreadable) {
            unreadable.push(error);
        }
    }

    /// Returns all heads as last read. A head that did not change keeps its allocation.
    pub(crate) fn heads(&self) -> Vec<Arc<Head>> {
        self.heads.values().filter_map(|known| known.head.clone()).collect()
    }

    /// Returns the I/O of each head, by its name.
    pub(crate) fn io(&self) -> BTreeMap<Arc<str>, Io> {
        self.heads.iter().filter_map(|(name, known)| Some((Arc::clone(name), known.io?))).collect()
    }

    fn look_for_heads(
        &mut self,
        anew: bool,
        remembered: &BTreeSet<Arc<str>>,
        unreadable: &mut Vec<Error>,
    ) -> Result<(), Error> {
        let subsystems = self.root.join("class/nvme-subsystem");
        let listed = list(&subsystems)?;
        let mut before = std::mem::take(&mut self.heads);
        let mut subsystems_before = std::mem::take(&mut self.subsystems);
        for subsystem in listed {
            let directory = subsystems.join(&subsystem.name);
            let known = subsystems_before.remove(&subsystem.name).unwrap_or_default();
            let entries = match list(&directory) {
                Ok(entries) => entries,
                Err(error) => {
                    unreadable.push(error);
                    // The heads of nvme-subsys0 are nvme0n1, nvme0n2, ….
                    let start = subsystem.name.replacen("-subsys", "", 1) + "n";
                    let names: Vec<_> = before.keys().filter(|name| name.starts_with(&start)).cloned().collect();
                    self.heads.extend(names.iter().filter_map(|name| before.remove_entry(name)));
                    self.subsystems.insert(subsystem.name, known);
                    continue;
                }
            };
            let controllers = entries.iter().filter_map(|entry| self.controllers.get(&entry.name));
            let controllers: Vec<Arc<NvmeController>> = controllers.cloned().collect();
            let paths_of = |controller| self.paths_of(controller, &before, &known, unreadable);
            let ways: Vec<PathsOf> = controllers.iter().map(paths_of).collect();
            let is_shared = controllers.len() > 1 || controllers.iter().any(|controller| controller.over_fabrics);
            let has_none = !entries.iter().any(|entry| is_controller(&entry.name));
            let heads: Vec<DirectoryEntry> = entries.into_iter().filter(|entry| is_head(&entry.name)).collect();
            let names: BTreeSet<String> = heads.iter().map(|head| head.name.clone()).collect();
            for DirectoryEntry { name, inode } in heads {
                let last = before.remove(name.as_str()).filter(|known| known.inode == inode);
                let path = directory.join(&name);
                // A head that has lost controllers stays a device.
                let is_device = is_shared
                    || last.as_ref().is_some_and(|known| known.head.is_some())
                    || last.is_none() && has_none && !self.waits_for_removal(&path, unreadable)
                    || self.is_among(remembered, &path, unreadable);
                if !is_device {
                    self.heads.insert(name.into(), KnownHead { inode, head: None, io: None, stalls: HashMap::new() });
                    continue;
                }
                let (known, io, mut stalls) = last.map(|last| (last.head, last.io, last.stalls)).unwrap_or_default();
                let head = match self.head(&directory, &name, &ways, known.as_deref(), unreadable) {
                    Ok(head) => head.map(|mut head| {
                        if anew {
                            stalls = self.follow_paths(&mut head, &stalls, unreadable);
                        }
                        known.filter(|known| **known == head).unwrap_or_else(|| Arc::new(head))
                    }),
                    Err(error) => {
                        unreadable.push(error);
                        known
                    }
                };
                let Some(head) = head else { continue };
                let io = or_note(self.io_of(&path, &head), unreadable).or(io);
                self.heads.insert(name.into(), KnownHead { inode, head: Some(head), io, stalls });
            }
            let device_named = |name: &String| self.heads.get(name.as_str())?.head.as_ref();
            let devices = names.iter().filter_map(device_named).map(|head| Arc::clone(&head.name)).collect();
            let parts = subsystems::SubsystemParts { directory, names, ways, is_shared, devices };
            self.subsystems.insert(subsystem.name, known.after(&mut self.file, &parts, unreadable));
        }
        Ok(())
    }

    /// Reads the I/O of a head. Before Linux 6.2, the kernel counts only the I/O of its paths
    /// (`nvme_mpath_start_request` in `drivers/nvme/host/multipath.c`).
    fn io_of(&mut self, directory: &Path, head: &Head) -> Result<Option<Io>, Error> {
        let Some(mut io) = self.file.io(directory)? else { return Ok(None) };
        if io.is_nothing() {
            for path in &head.paths {
                io = self.file.stat(&self.directory_of(path))?.map_or(io, |of_path| io.plus(&of_path));
            }
        }
        Ok(Some(io))
    }

    fn directory_of(&self, path: &HeadPath) -> PathBuf {
        self.root.join("class/nvme").join(&*path.controller.name).join(&*path.name)
    }

    /// Reads the I/O and the errors of a head's paths, and returns the stall of each path.
    fn follow_paths(
        &mut self,
        head: &mut Head,
        last: &HashMap<Arc<str>, Stall>,
        unreadable: &mut Vec<Error>,
    ) -> HashMap<Arc<str>, Stall> {
        let mut stalls = HashMap::new();
        for path in &mut head.paths {
            let last = last.get(&path.name).copied().unwrap_or_default();
            let directory = self.directory_of(path);
            let errors = self.file.parsed(&directory, "diag/command_error_count");
            path.io_errors = or_last(errors, Some(&path.io_errors), unreadable);
            let io = self.file.stat(&directory);
            let stall = or_last(io.map(|io| last.after(io.as_ref())), Some(&last), unreadable);
            path.stalled = stall.duration();
            stalls.insert(Arc::clone(&path.name), stall);
        }
        stalls
    }

    /// Returns the paths below a controller. If they cannot be listed, the known paths are
    /// returned.
    fn paths_of(
        &self,
        controller: &Arc<NvmeController>,
        known: &BTreeMap<Arc<str>, KnownHead>,
        subsystem: &Subsystem,
        unreadable: &mut Vec<Error>,
    ) -> PathsOf {
        let directory = self.root.join("class/nvme").join(&*controller.name);
        let listed: Vec<String> = match list(&directory) {
            Ok(entries) => entries.into_iter().map(|entry| entry.name).collect(),
            Err(error) => {
                unreadable.push(error);
                let heads = known.values().filter_map(|known| known.head.as_ref());
                let paths = heads.flat_map(|head| &head.paths).filter(|path| path.controller.name == controller.name);
                let paths = paths.map(|path| path.name.to_string());
                paths.chain(subsystem.headless_through(&controller.name)).collect()
            }
        };
        let mut names: HashMap<String, Vec<String>> = HashMap::new();
        for name in listed {
            if let Some(head) = head_of(&name) {
                names.entry(head).or_default().push(name);
            }
        }
        PathsOf { controller: Arc::clone(controller), directory, names }
    }

    /// Reads for how long the kernel keeps the head after its last controller has gone. Reading
    /// this takes the lock of the subsystem, which a command like `nvme format` holds until its
    /// controller is done.
    fn removal_delay(&mut self, head: &Path) -> Result<Duration, Error> {
        Ok(Duration::from_secs(self.file.parsed(head, "delayed_removal_secs")?.unwrap_or_default()))
    }

    /// Returns true if the kernel waits for a controller of the head. Meanwhile, a head over
    /// fabrics and a local disk that was pulled look the same.
    fn waits_for_removal(&mut self, head: &Path, unreadable: &mut Vec<Error>) -> bool {
        !or_last(self.removal_delay(head), None, unreadable).is_zero()
    }

    /// Returns true if the head has one of these WWIDs.
    fn is_among(&mut self, wwids: &BTreeSet<Arc<str>>, head: &Path, unreadable: &mut Vec<Error>) -> bool {
        !wwids.is_empty() && wwids.contains(&self.file.word_or_note(head, "wwid", unreadable))
    }

    /// Reads a head and its paths. `None` if the head is gone. An error if its identity cannot be
    /// read; other values that cannot be read keep their last state.
    fn head(
        &mut self,
        subsystem: &Path,
        name: &str,
        ways: &[PathsOf],
        last: Option<&Head>,
        unreadable: &mut Vec<Error>,
    ) -> Result<Option<Head>, Error> {
        let directory = subsystem.join(name);
        let wwid = match (self.file.word(&directory, "wwid"), last) {
            (Ok(wwid), _) if wwid.is_empty() => return Ok(None),
            (Ok(wwid), _) => wwid,
            (Err(error), Some(last)) => {
                unreadable.push(error);
                Arc::clone(&last.wwid)
            }
            (Err(error), None) => return Err(error),
        };
        let known = last.filter(|last| last.wwid == wwid);
        let mut paths = Vec::new();
        for PathsOf { controller, directory, names } in ways {
            for path_name in names.get(name).into_iter().flatten() {
                let last = known.and_then(|head| head.paths.iter().find(|path| *path.name == **path_name));
                paths.extend(self.path(&directory.join(path_name), path_name, controller, last, unreadable));
            }
        }
        paths.sort_by(|one, other| one.name.cmp(&other.name));
        let removal_delay = known.map(|head| head.removal_delay).unwrap_or_default();
        let is_live = paths.iter().any(|path: &HeadPath| path.controller.is_live());
        let removal_delay = if is_live {
            removal_delay
        } else {
            or_last(self.removal_delay(&directory), Some(&removal_delay), unreadable)
        };
        let mut word = |directory: &Path, name, last: Option<&Arc<str>>| match last {
            Some(last) if !last.is_empty() => Arc::clone(last),
            _ => self.file.word_or_note(directory, name, unreadable),
        };
        let uuid = word(&directory, "uuid", known.map(|head| &head.uuid));
        let model = word(subsystem, "model", known.map(|head| &head.model));
        let firmware = match word(subsystem, "firmware_rev", None) {
            firmware if firmware.is_empty() => known.map(|head| Arc::clone(&head.firmware)).unwrap_or_default(),
            firmware => firmware,
        };
        Ok(Some(Head {
            wwid,
            name: name.into(),
            uuid,
            model,
            firmware,
            size_bytes: or_note(self.file.size_bytes(&directory), unreadable)
                .or(known.and_then(|head| head.size_bytes)),
            read_only: or_note(self.file.flag(&directory, "ro"), unreadable).or(known.and_then(|head| head.read_only)),
            removal_delay,
            paths,
        }))
    }

    /// Reads the path of a head through a controller. `None` if there is none. Values that cannot
    /// be read keep their last state.
    fn path(
        &mut self,
        directory: &Path,
        name: &str,
        controller: &Arc<NvmeController>,
        last: Option<&HeadPath>,
        unreadable: &mut Vec<Error>,
    ) -> Option<HeadPath> {
        let mut path = last.cloned().unwrap_or_else(|| HeadPath { name: name.into(), ..HeadPath::default() });
        path.controller = Arc::clone(controller);
        let mut keep = |read: Result<(), Error>| unreadable.extend(read.err());
        match self.file.size_bytes(directory) {
            Ok(None) => return None,
            size => keep(size.map(|size| path.size_bytes = size)),
        }
        let ana_state = self.file.text(directory, "ana_state");
        keep(ana_state.map(|state| path.ana_state = state.map(Arc::from)));
        keep(self.file.parsed(directory, "ana_grpid").map(|group| path.ana_group = group));
        keep(self.file.flag(directory, "ro").map(|read_only| path.read_only = read_only));
        Some(path)
    }
}
