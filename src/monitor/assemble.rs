//! One device out of what each source says of it.
//!
//! The kernel's own state decides. Where it may be read, members and path states are device mapper's. Where it may not,
//! members are sysfs's, and a path's state is the last reading's (multipathd; without it the SCSI state; where no source
//! knows, valid), corrected by every event newer than that reading.

use std::sync::Arc;

use super::ledger::MapLedger;
use super::names::Speakers;
use crate::source::{device_mapper, disks, maps, multipathd};
use crate::topology::{Counts, DevNo, Device, Group, Kind, Mismatches, Path, PathState};

/// What a device is built from.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Device mapper's word.
    pub kernel: Option<Arc<device_mapper::Map>>,
    /// sysfs's word.
    pub sysfs: Option<Arc<maps::Map>>,
    /// multipathd's word.
    pub daemon: Option<Arc<multipathd::Map>>,
    /// Whether multipathd answers now. If not, its words are not shown, but its last path states still serve.
    pub daemon_answers: bool,
    /// Where the path states come from.
    pub base: Base,
    /// [`MapLedger::version`].
    pub ledger_version: u64,
    /// Whether the root file system stands on it.
    pub root: bool,
}

/// Whose reading the path states are. `floor` is the highest event number that it includes: an event beyond it is newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// Device mapper's. Its reading is asked for again at each event, so an event beyond it is one of the last moment,
    /// unless reading takes long or fails.
    Kernel {
        /// See [`Base`].
        floor: u64,
    },
    /// multipathd's.
    Daemon {
        /// See [`Base`].
        floor: u64,
    },
    /// The SCSI states.
    Fallback,
}

/// A member and the kernel's word on it, where there is one.
struct Member {
    devno: DevNo,
    group: Option<u32>,
    kernel_valid: Option<bool>,
}

impl Parts {
    /// Whether these are the very same readings, so that the device built from them is the same too.
    pub fn same_as(&self, other: &Parts) -> bool {
        fn same<T>(one: &Option<Arc<T>>, other: &Option<Arc<T>>) -> bool {
            match (one, other) {
                (Some(one), Some(other)) => Arc::ptr_eq(one, other),
                (None, None) => true,
                _ => false,
            }
        }
        same(&self.kernel, &other.kernel)
            && same(&self.sysfs, &other.sysfs)
            && same(&self.daemon, &other.daemon)
            && self.daemon_answers == other.daemon_answers
            && self.base == other.base
            && self.ledger_version == other.ledger_version
            && self.root == other.root
    }

    /// The map's device number.
    pub fn devno(&self) -> Option<DevNo> {
        self.kernel.as_ref().map(|map| map.devno).or(self.sysfs.as_ref().and_then(|map| map.devno))
    }

    /// Whether some member's name is not known: sysfs has not been asked for it, and it was not shown before.
    pub fn lacks_names(&self, previous: Option<&Device>) -> bool {
        let asked = |devno| self.sysfs.as_ref().is_some_and(|map| map.asked.contains(&devno));
        let shown = |devno| previous.is_some_and(|device| device.paths.iter().any(|path| path.devno == Some(devno)));
        self.kernel.iter().flat_map(|map| map.members()).any(|devno| !asked(devno) && !shown(devno))
    }

    /// Builds the device. `previous` is what was last published of it: what can no longer be read keeps its last value.
    pub fn assemble(&self, wwid: &Arc<str>, ledger: &MapLedger, previous: Option<&Device>) -> Device {
        let kernel = self.kernel.as_deref().filter(|_| matches!(self.base, Base::Kernel { .. }));
        let (sysfs, daemon) = (self.sysfs.as_deref(), self.daemon.as_deref());
        let words = daemon.filter(|_| self.daemon_answers);
        let paths: Vec<Path> =
            self.members().into_iter().map(|member| self.path(&member, ledger, words, previous)).collect();
        let groups = match (kernel, daemon) {
            (Some(map), _) => numbered(map.groups.iter().map(|group| group_state(group.letter))),
            (None, Some(map)) => numbered(map.groups.iter().map(|group| Arc::clone(&group.state))),
            (None, None) => Vec::new(),
        };
        let (active_group_priority, best_group_priority) = priorities(words, &groups, &paths);
        // All members are the same LUN; one that has just come may not have said yet what it is.
        let model =
            sysfs.and_then(|map| map.members.iter().map(|disk| &disk.model).find(|model| !model.product.is_empty()));
        let read_only = (kernel.map(|map| map.read_only))
            .or(sysfs.and_then(|map| map.read_only))
            .or(previous.and_then(|device| device.read_only));
        let size_bytes = (kernel.map(|map| map.size_bytes))
            .or(sysfs.and_then(|map| map.size_bytes))
            .or(previous.and_then(|device| device.size_bytes));
        Device {
            wwid: Arc::clone(wwid),
            name: known([
                kernel.map(|map| &map.name),
                sysfs.map(|map| &map.name),
                daemon.map(|map| &map.name),
                previous.map(|device| &device.name),
            ]),
            sysfs_name: match kernel {
                Some(map) => format!("dm-{}", map.devno.minor).into(),
                None => known([
                    sysfs.map(|map| &map.sysfs_name),
                    daemon.map(|map| &map.sysfs_name),
                    previous.map(|device| &device.sysfs_name),
                ]),
            },
            uuid: format!("{}{wwid}", device_mapper::UUID_PREFIX).into(),
            kind: Kind::DeviceMapper,
            vendor: known([
                model.map(|model| &model.vendor),
                daemon.map(|map| &map.vendor),
                previous.map(|device| &device.vendor),
            ]),
            product: known([
                model.map(|model| &model.product),
                daemon.map(|map| &map.product),
                previous.map(|device| &device.product),
            ]),
            revision: known([
                model.map(|model| &model.revision),
                daemon.map(|map| &map.revision),
                previous.map(|device| &device.revision),
            ]),
            queueing: (kernel.map(|map| map.queueing))
                .or(daemon.and_then(|map| map.queueing))
                .or(previous.and_then(|device| device.queueing)),
            suspended: (kernel.map(|map| map.suspended))
                .or(sysfs.and_then(|map| map.suspended))
                .or(previous.and_then(|device| device.suspended)),
            read_only,
            size_bytes,
            open_count: kernel.map(|map| map.open_count.into()),
            inflight_requests: sysfs.and_then(|map| map.inflight_requests),
            root: self.root,
            mismatches: self.mismatches(wwid, &paths, ledger.speakers, read_only, size_bytes),
            daemon_counters: words.map(|map| map.counters),
            active_group_priority,
            best_group_priority,
            path_events: ledger.counts,
            groups,
            paths,
        }
    }

    /// The members, sorted by device number.
    fn members(&self) -> Vec<Member> {
        let mut members: Vec<Member> = match (self.base, &self.kernel, &self.sysfs, &self.daemon) {
            (Base::Kernel { .. }, Some(map), _, _) => (1..)
                .zip(&map.groups)
                .flat_map(|(index, group)| group.paths.iter().map(move |path| (index, path)))
                .map(|(index, path)| Member { devno: path.devno, group: Some(index), kernel_valid: Some(path.valid) })
                .collect(),
            (_, _, Some(map), _) => map
                .members
                .iter()
                .map(|disk| {
                    let group = self.daemon_path(disk.devno).map(|path| path.group);
                    Member { devno: disk.devno, group, kernel_valid: None }
                })
                .collect(),
            (_, _, None, Some(map)) => map
                .paths
                .iter()
                .filter_map(|path| Some(Member { devno: path.devno?, group: Some(path.group), kernel_valid: None }))
                .collect(),
            _ => Vec::new(),
        };
        members.sort_by_key(|member| member.devno);
        // A table may name a device in two path groups; as a path it is one.
        members.dedup_by(|again, member| {
            let same = again.devno == member.devno;
            if same && again.kernel_valid == Some(true) {
                member.kernel_valid = Some(true);
            }
            same
        });
        members
    }

    /// How many members differ from the device, as far as sysfs and udev know them.
    fn mismatches(
        &self,
        wwid: &str,
        paths: &[Path],
        speakers: Speakers,
        read_only: Option<bool>,
        size_bytes: Option<u64>,
    ) -> Mismatches {
        // sysfs may have been read before the kernel gave one away.
        let is_member = |disk: &&disks::Disk| paths.iter().any(|path| path.devno == Some(disk.devno));
        let disks = || self.disks().filter(is_member);
        let differ = |differs: &dyn Fn(&disks::Disk) -> bool| disks().filter(|disk| differs(disk)).count();
        Mismatches {
            // A disk that has no size any more is gone, or was never there.
            size: differ(&|disk| {
                disk.size_bytes.is_some_and(|size| size > 0 && size_bytes.is_some_and(|whole| whole != size))
            }),
            read_only: differ(&|disk| disk.read_only.is_some() && read_only.is_some() && disk.read_only != read_only),
            wwid: differ(&|disk| speakers.call_another(wwid, disk)),
        }
    }

    /// The members as sysfs knows them.
    pub fn disks(&self) -> impl Iterator<Item = &disks::Disk> {
        self.sysfs.iter().flat_map(|map| &map.members).map(|disk| &**disk)
    }

    fn disk(&self, devno: DevNo) -> Option<&disks::Disk> {
        self.disks().find(|disk| disk.devno == devno)
    }

    fn daemon_path(&self, devno: DevNo) -> Option<&multipathd::Path> {
        self.daemon.as_ref()?.paths.iter().find(|path| path.devno == Some(devno))
    }

    fn valid(&self, member: &Member, ledger: &MapLedger) -> bool {
        let devno = member.devno;
        let daemon_valid = self.daemon_path(devno).and_then(|path| path.valid);
        match (self.base, member.kernel_valid, daemon_valid) {
            (Base::Kernel { floor }, Some(valid), _) | (Base::Daemon { floor }, _, Some(valid)) => {
                ledger.correction(devno, floor).unwrap_or(valid)
            }
            _ => {
                let fails = self.disk(devno).is_some_and(scsi_fails);
                ledger.correction_of_fallback(devno).unwrap_or(!fails)
            }
        }
    }

    fn path(
        &self,
        member: &Member,
        ledger: &MapLedger,
        words: Option<&multipathd::Map>,
        previous: Option<&Device>,
    ) -> Path {
        let devno = member.devno;
        let disk = self.disk(devno);
        let daemon = self.daemon_path(devno);
        let previous = previous.and_then(|device| device.paths.iter().find(|path| path.devno == Some(devno)));
        let words = words.and(daemon);
        let name = known([disk.map(|disk| &disk.name), previous.map(|path| &path.name), daemon.map(|path| &path.name)]);
        Path {
            name: if name.is_empty() { devno.to_string().into() } else { name },
            devno: Some(devno),
            hctl: known([disk.map(|disk| &disk.hctl), previous.map(|path| &path.hctl)]),
            transport: disk.map(|disk| disk.transport).or(previous.map(|path| path.transport)).unwrap_or_default(),
            ports: disk.map(|disk| disk.ports.clone()).or(previous.map(|path| path.ports.clone())).unwrap_or_default(),
            group: member.group,
            state: if self.valid(member, ledger) { PathState::Valid } else { PathState::Failed },
            failures: ledger.failures(devno),
            priority: words.and_then(|path| path.priority),
            checker_state: words.and_then(|path| path.checker_state.clone()),
            device_state: disk.and_then(|disk| disk.states.device.clone()),
            access_state: disk.and_then(|disk| disk.states.access.clone()),
            ana_state: None,
            marginal: words.and_then(|path| path.marginal),
        }
    }
}

/// Whether I/O to the disk fails at once: in these SCSI states (`blocked` and `quiesce` make it wait), and where the SCSI
/// device is gone while the map still holds it.
fn scsi_fails(disk: &disks::Disk) -> bool {
    match disk.states.device.as_deref() {
        Some(state) => matches!(state, "offline" | "transport-offline" | "cancel" | "deleted"),
        None => disk.states.absent && !disk.hctl.is_empty(),
    }
}

fn group_state(letter: char) -> Arc<str> {
    match letter {
        'A' => "active".into(),
        'E' => "enabled".into(),
        'D' => "disabled".into(),
        other => other.to_string().into(),
    }
}

fn numbered(states: impl Iterator<Item = Arc<str>>) -> Vec<Group> {
    (1..).zip(states).map(|(index, state)| Group { index, state }).collect()
}

/// The first that says something.
fn known<const N: usize>(choices: [Option<&Arc<str>>; N]) -> Arc<str> {
    choices.into_iter().flatten().find(|choice| !choice.is_empty()).cloned().unwrap_or_default()
}

/// Priority of the group in use, and of the best group with a valid path.
fn priorities(words: Option<&multipathd::Map>, groups: &[Group], paths: &[Path]) -> (Option<i64>, Option<i64>) {
    let Some(words) = words else { return (None, None) };
    let priority = |index| words.groups.iter().find(|group| group.index == index).and_then(|group| group.priority);
    let active = groups.iter().find(|group| &*group.state == "active").and_then(|group| priority(group.index));
    let has_valid = |group: &Group| {
        let states = paths.iter().filter(|path| path.group == Some(group.index)).map(|path| path.state);
        Counts::of(states).valid > 0
    };
    let best = groups.iter().filter(|group| has_valid(group)).filter_map(|group| priority(group.index)).max();
    (active, best)
}
