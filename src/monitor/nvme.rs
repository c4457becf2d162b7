//! Native NVMe multipath devices, assembled from the namespace heads in sysfs.
//!
//! The kernel sends no events about their path failures, so the differences between readings are
//! counted. The devices published last hold the counts so far.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::Now;
use super::io_errors::growth;
use super::queueing::Clocks;
use super::repeats::Repeats;
use super::usage::LastWrite;
use crate::source::transports::nvme::{Head, HeadPath};
use crate::source::{Io, Stall};
use crate::topology::{Device, Kind, Mismatches, Path, PathState, is_deleted};

/// A device, and the head it was assembled from.
#[derive(Clone, Debug)]
pub(crate) struct AssembledHead {
    head: Arc<Head>,
    /// By the names of the paths.
    repeats: Repeats<Arc<str>>,
    pub(crate) device: Arc<Device>,
    /// When the device was written to.
    pub(crate) written: LastWrite,
    /// How long its I/O has stood still.
    pub(crate) stall: Stall,
}

/// The NVMe devices by WWID.
pub(crate) type NvmeDevices = BTreeMap<Arc<str>, AssembledHead>;

/// Assembles all devices. `io` is the I/O of the heads by their names. `root` names the block
/// devices below the root file system. `clocks` decide if I/O waits. If `first`, a failed path was
/// found failed and does not count as a new failure.
pub(crate) fn devices(
    heads: &[Arc<Head>],
    io: &BTreeMap<Arc<str>, Io>,
    root: &HashSet<String>,
    clocks: &Clocks,
    last: &NvmeDevices,
    first: bool,
    now: Now,
) -> NvmeDevices {
    // A head that has lost its paths may stay open beside the new head of its namespace. If the new
    // head loses its paths, too, it is still chosen.
    let rank = |head: &Head| {
        let shown = last.get(&head.wwid).is_some_and(|known| known.head.name == head.name);
        (head.paths.len(), shown)
    };
    let mut chosen: BTreeMap<&Arc<str>, &Arc<Head>> = BTreeMap::new();
    for head in heads {
        let known = chosen.entry(&head.wwid).or_insert(head);
        if rank(head) > rank(known) {
            *known = head;
        }
    }
    let clocks = clocks.at(now.instant);
    let build = |head: &Arc<Head>| {
        let known = last.get(&head.wwid);
        let root = root.contains(&*head.name);
        let inflight_requests = io.get(&head.name).map(|io| io.in_flight);
        // The wait for a path may end by time alone.
        let queueing = Some(clocks.queue(head));
        let is_same = |device: &Device| {
            (device.root, device.inflight_requests, device.queueing) == (root, inflight_requests, queueing)
        };
        match known {
            Some(known) if Arc::ptr_eq(&known.head, head) && is_same(&known.device) => known.clone(),
            known => {
                let mut repeats = known.map(|known| known.repeats.clone()).unwrap_or_default();
                let device = assemble(head, known.map(|known| &*known.device), &mut repeats, first, now);
                let device = Arc::new(Device { root, inflight_requests, queueing, ..device });
                let (written, stall) = known.map(|known| (known.written, known.stall)).unwrap_or_default();
                AssembledHead { head: Arc::clone(head), repeats, device, written, stall }
            }
        }
    };
    chosen.into_iter().map(|(wwid, head)| (Arc::clone(wwid), build(head))).collect()
}

enum PathChange {
    Failed,
    Reinstated,
}

fn change(before: PathState, now: PathState) -> Option<PathChange> {
    match (before, now) {
        (PathState::Failed, PathState::Failed) => None,
        (PathState::Failed, _) => Some(PathChange::Reinstated),
        (_, PathState::Failed) => Some(PathChange::Failed),
        _ => None,
    }
}

/// Returns the last state of a path. A new path starts as valid.
fn state_before(previous: Option<&Device>, name: &str) -> PathState {
    let path = previous.and_then(|device| device.paths.iter().find(|path| &*path.name == name));
    path.map_or(PathState::Valid, |path| path.state)
}

/// Returns the state of a path by the kernel's rules for sending I/O (`nvme_find_path` and
/// `nvme_path_is_disabled` in `drivers/nvme/host/multipath.c`).
fn state(path: &HeadPath, head: &Head) -> PathState {
    if !path.controller.is_live() || has_another_size(path, head) {
        return PathState::Failed;
    }
    match path.ana_state.as_deref() {
        None | Some("optimized" | "non-optimized") => PathState::Valid,
        Some("inaccessible" | "change") => PathState::Standby,
        Some(_) => PathState::Failed,
    }
}

/// Returns true if the path goes because its controller is being deleted, as by `nvme disconnect`.
/// Such a path has not failed.
pub(crate) fn is_leaving(path: &Path) -> bool {
    path.devno.is_none() && path.device_state.as_deref().is_some_and(is_deleted)
}

/// Returns true if the path has another size than its head. The kernel sends no I/O to such a path
/// (`nvme_mpath_revalidate_paths`). A path that has no size any more is going away.
fn has_another_size(path: &HeadPath, head: &Head) -> bool {
    let sizes = path.size_bytes.zip(head.size_bytes);
    sizes.is_some_and(|(size, whole)| size > 0 && size != whole)
}

/// Counts the members that have left, and looks up the members that have come.
fn follow_members(repeats: &mut Repeats<Arc<str>>, before: &[Path], paths: &[Path], now: Now) {
    let is_among = |paths: &[Path], name: &Arc<str>| paths.iter().any(|path| path.name == *name);
    for path in before.iter().filter(|path| !is_among(paths, &path.name)) {
        match path.state {
            PathState::Valid | PathState::Standby if !is_leaving(path) => {
                repeats.lose(Arc::clone(&path.name), path, now.instant);
            }
            _ => repeats.leave(&path.name, path),
        }
    }
    for path in paths.iter().filter(|path| !is_among(before, &path.name)) {
        repeats.join(Arc::clone(&path.name));
    }
    paths.iter().for_each(|path| repeats.identify(&path.name, path));
}

fn assemble(head: &Head, previous: Option<&Device>, repeats: &mut Repeats<Arc<str>>, first: bool, now: Now) -> Device {
    let mut path_events = previous.map(|device| device.path_events).unwrap_or_default();
    let mut path_io_errors = previous.map_or(0, |device| device.path_io_errors);
    let mut has_failed = Vec::new();
    let mut paths = Vec::with_capacity(head.paths.len());
    for path in &head.paths {
        let last = previous.and_then(|device| device.paths.iter().find(|last| last.name == path.name));
        let mut failures = last.map_or(0, |last| last.failures);
        // The kernel creates a path again each time, so no path comes back with an old count.
        let grown = growth(last.and_then(|last| last.io_errors), path.io_errors);
        path_io_errors = path_io_errors.saturating_add(grown);
        let state = state(path, head);
        match change(state_before(previous, &path.name), state).filter(|_| !first) {
            Some(PathChange::Failed) if path.controller.is_deleted() => {}
            Some(PathChange::Failed) => {
                failures += 1;
                path_events.failed += 1;
                path_events.last_failed = Some(now.time);
                has_failed.push(Arc::clone(&path.name));
            }
            Some(PathChange::Reinstated) => {
                path_events.reinstated += 1;
                path_events.last_reinstated = Some(now.time);
            }
            None => {}
        }
        paths.push(Path {
            name: Arc::clone(&path.name),
            devno: None,
            hctl: Arc::default(),
            transport: path.controller.transport,
            ports: path.controller.ports.clone(),
            group: path.ana_group,
            state,
            is_told: true,
            failures,
            priority: None,
            checker_state: None,
            device_state: Some(Arc::clone(&path.controller.state)),
            access_state: None,
            ana_state: path.ana_state.clone(),
            marginal: None,
            io_errors: path.io_errors,
            io_timeouts: None,
            stalled: path.stalled,
        });
    }
    follow_members(repeats, previous.map(|device| &*device.paths).unwrap_or_default(), &paths, now);
    has_failed.into_iter().for_each(|path| repeats.fail(path, now.instant));
    let differ = |differs: &dyn Fn(&HeadPath) -> bool| head.paths.iter().filter(|path| differs(path)).count();
    Device {
        wwid: Arc::clone(&head.wwid),
        name: Arc::clone(&head.name),
        sysfs_name: Arc::clone(&head.name),
        uuid: Arc::clone(&head.uuid),
        kind: Kind::Nvme,
        vendor: Arc::default(),
        product: Arc::clone(&head.model),
        revision: Arc::clone(&head.firmware),
        paths,
        groups: Vec::new(),
        queueing: None,
        suspended: Some(false),
        read_only: head.read_only,
        size_bytes: head.size_bytes,
        open_count: None,
        in_use: previous.and_then(|device| device.in_use),
        inflight_requests: None,
        // The kernel blocks only SCSI devices.
        blocked_paths: 0,
        stalled: previous.and_then(|device| device.stalled),
        root: false,
        stray_paths: Vec::new(),
        mismatches: Mismatches {
            size: differ(&|path| has_another_size(path, head)),
            read_only: differ(&|path| match (path.read_only, head.read_only) {
                (Some(read_only), Some(whole)) => read_only != whole,
                _ => false,
            }),
            // The kernel never puts a path below a head with another identity.
            wwid: 0,
            // The paths have no LUN numbers of their own.
            lun: 0,
        },
        lun_conflicts: 0,
        daemon_counters: None,
        active_group_priority: None,
        best_group_priority: None,
        path_events,
        repeated_path_failures: repeats.count(),
        path_io_errors,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::compare::{ChangeKind, changes};
    use crate::topology::{NvmeController, Ports};

    fn head(paths: &[(&str, &str, Option<&str>)]) -> Arc<Head> {
        let path = |(name, controller, ana): &(&str, &str, Option<&str>)| HeadPath {
            name: (*name).into(),
            ana_state: ana.map(Arc::from),
            controller: Arc::new(NvmeController { state: (*controller).into(), ..NvmeController::default() }),
            ..HeadPath::default()
        };
        Arc::new(Head { wwid: "uuid.1".into(), paths: paths.iter().map(path).collect(), ..Head::default() })
    }

    /// Follows readings as the monitor does. Gives the changes of each, and the devices after the
    /// last.
    #[derive(Default)]
    struct Followed {
        clocks: Clocks,
        devices: NvmeDevices,
        is_known: bool,
    }

    impl Followed {
        fn read(&mut self, heads: &[Arc<Head>]) -> Vec<(What, String)> {
            let before: Vec<_> = self.devices.values().map(|built| Arc::clone(&built.device)).collect();
            let (io, root, now) = (BTreeMap::new(), HashSet::new(), Now::get());
            self.clocks.follow(&[], heads, now.instant);
            self.devices = devices(heads, &io, &root, &self.clocks, &self.devices, !self.is_known, now);
            let now: Vec<_> = self.devices.values().map(|built| Arc::clone(&built.device)).collect();
            let is_found = !std::mem::replace(&mut self.is_known, true);
            let changes = changes(&before, &now).into_iter().filter(|_| !is_found);
            changes.map(|change| told(change.what)).collect()
        }

        fn device(&self) -> &Device {
            &self.devices.values().next().unwrap().device
        }
    }

    #[derive(Debug, PartialEq)]
    enum What {
        Added,
        Removed,
        PathAdded,
        PathRemoved,
        PathFailed,
        PathReinstated,
        NoValidPath,
    }

    fn told(what: ChangeKind) -> (What, String) {
        let (what, path) = match what {
            ChangeKind::Added => (What::Added, None),
            ChangeKind::Removed => (What::Removed, None),
            ChangeKind::PathAdded(path) => (What::PathAdded, Some(path)),
            ChangeKind::PathRemoved(path) => (What::PathRemoved, Some(path)),
            ChangeKind::PathFailed(path) => (What::PathFailed, Some(path)),
            ChangeKind::PathReinstated(path) => (What::PathReinstated, Some(path)),
            ChangeKind::NoValidPath => (What::NoValidPath, None),
        };
        (what, path.map(|path| path.name.to_string()).unwrap_or_default())
    }

    #[test]
    fn a_path_is_valid_if_its_controller_lives_and_its_ana_group_takes_io() {
        use PathState::*;
        for (controller, ana, expected) in [
            ("live", None, Valid),
            ("live", Some("optimized"), Valid),
            ("live", Some("non-optimized"), Valid),
            ("live", Some("inaccessible"), Standby),
            ("live", Some("change"), Standby),
            ("live", Some("persistent-loss"), Failed),
            ("connecting", Some("optimized"), Failed),
            ("resetting", None, Failed),
            ("deleting", Some("inaccessible"), Failed),
        ] {
            let head = head(&[("nvme0c0n1", controller, ana)]);
            assert_eq!(state(&head.paths[0], &head), expected, "{controller} {ana:?}");
        }
    }

    #[test]
    fn a_path_found_failed_at_the_start_is_no_failure_and_each_change_is_one() {
        let mut followed = Followed::default();
        let start = [head(&[("a", "live", None), ("b", "connecting", None)])];
        assert_eq!(followed.read(&start), []);
        let failed = [head(&[("a", "connecting", None), ("b", "connecting", None)])];
        assert_eq!(followed.read(&failed), [(What::PathFailed, "a".to_owned())]);
        assert_eq!(followed.read(&failed), []);
        let back = [head(&[("a", "live", Some("inaccessible")), ("b", "live", Some("optimized"))])];
        let both = [(What::PathReinstated, "a".to_owned()), (What::PathReinstated, "b".to_owned())];
        assert_eq!(followed.read(&back), both);
        let device = followed.device();
        assert_eq!((device.path_events.failed, device.path_events.reinstated), (1, 2));
        assert_eq!(device.paths.iter().map(|path| path.failures).collect::<Vec<_>>(), [1, 0]);
        // A change from standby to valid is neither a failure nor a reinstatement.
        let active = [head(&[("a", "live", Some("optimized")), ("b", "live", Some("optimized"))])];
        assert_eq!(followed.read(&active), []);
        let standby = [head(&[("a", "live", Some("inaccessible")), ("b", "live", Some("change"))])];
        assert_eq!(followed.read(&standby), [(What::NoValidPath, String::new())]);
    }

    #[test]
    fn a_path_fails_again_also_under_another_name() {
        let path = |name: &str, controller: &str| HeadPath {
            name: name.into(),
            controller: Arc::new(NvmeController {
                state: controller.into(),
                ports: Ports {
                    initiator_port: "eth1".into(),
                    target: "nqn".into(),
                    target_port: "1.2.3.4:4420".into(),
                },
                ..NvmeController::default()
            }),
            ..HeadPath::default()
        };
        let head =
            |paths: &[HeadPath]| Arc::new(Head { wwid: "uuid.1".into(), paths: paths.to_vec(), ..Head::default() });
        let mut followed = Followed::default();
        let mut repeated = |paths: &[HeadPath]| {
            followed.read(&[head(paths)]);
            followed.device().repeated_path_failures
        };
        assert_eq!(repeated(&[path("a", "live")]), 0);
        assert_eq!(repeated(&[path("a", "connecting")]), 0);
        assert_eq!(repeated(&[path("a", "live")]), 0);
        assert_eq!(repeated(&[path("a", "connecting")]), 1);
        // The kernel gives up the path, and the path comes back.
        assert_eq!(repeated(&[path("a", "deleting")]), 1);
        assert_eq!(repeated(&[]), 1);
        assert_eq!(repeated(&[path("b", "live")]), 1);
        assert_eq!(repeated(&[path("b", "connecting")]), 2);
        // The path leaves on request, and then without one.
        assert_eq!(repeated(&[path("b", "live")]), 2);
        assert_eq!(repeated(&[path("b", "deleting (no IO)")]), 2);
        assert_eq!(repeated(&[]), 2);
        assert_eq!(repeated(&[path("c", "live")]), 2);
        assert_eq!(repeated(&[]), 3);
    }

    #[test]
    fn errors_of_all_paths_are_added_up_and_a_new_path_counts_from_0() {
        let head = |paths: &[(&str, Option<u64>)]| {
            let path = |(name, io_errors): &(&str, Option<u64>)| HeadPath {
                name: (*name).into(),
                io_errors: *io_errors,
                ..HeadPath::default()
            };
            Arc::new(Head { wwid: "uuid.1".into(), paths: paths.iter().map(path).collect(), ..Head::default() })
        };
        let mut followed = Followed::default();
        let mut errors = |paths: &[(&str, Option<u64>)]| {
            followed.read(&[head(paths)]);
            followed.device().path_io_errors
        };
        assert_eq!(errors(&[("a", None)]), 0);
        assert_eq!(errors(&[("a", Some(3)), ("b", Some(4))]), 7);
        assert_eq!(errors(&[("a", Some(5)), ("b", Some(4))]), 9);
        assert_eq!(errors(&[("b", Some(4))]), 9);
        assert_eq!(errors(&[("a", Some(2)), ("b", Some(4))]), 11);
        // Root has set the count to 0.
        assert_eq!(errors(&[("a", Some(0)), ("b", Some(4))]), 11);
        assert_eq!(errors(&[("a", Some(1)), ("b", Some(4))]), 12);
    }

    #[test]
    fn devices_and_paths_that_come_and_go_are_reported() {
        let mut followed = Followed::default();
        followed.read(&[]);
        let one = [head(&[("a", "live", None)])];
        assert_eq!(followed.read(&one), [(What::Added, String::new())]);
        let two = [head(&[("a", "live", None), ("b", "connecting", None)])];
        let born = [(What::PathAdded, "b".to_owned()), (What::PathFailed, "b".to_owned())];
        assert_eq!(followed.read(&two), born);
        assert_eq!(followed.read(&one), [(What::PathRemoved, "b".to_owned())]);
        assert_eq!(followed.read(&[]), [(What::Removed, String::new())]);
        assert_eq!(followed.devices.len(), 0);
    }
}
