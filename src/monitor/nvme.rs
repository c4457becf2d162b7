//! Native NVMe multipath devices, out of what sysfs says of namespace heads.
//!
//! Nothing tells of their path failures but the difference between two readings, so that is what is counted: what was
//! last published holds the counts so far.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use super::log;
use crate::event::EventType;
use crate::source::nvme::{Head, HeadPath};
use crate::topology::{Device, Kind, Mismatches, Path, PathState};

/// The devices as last read.
#[derive(Default)]
pub struct NvmeDevices {
    built: BTreeMap<Arc<str>, Built>,
}

struct Built {
    head: Arc<Head>,
    device: Arc<Device>,
}

/// What is to be told.
pub struct News {
    /// What happened.
    pub kind: EventType,
    /// To which device.
    pub device: Arc<Device>,
    /// To which of its paths.
    pub path: Option<Path>,
}

impl NvmeDevices {
    /// Takes over a reading. `root` names what the root file system stands on. `first`: what is found now has no event.
    pub fn update(&mut self, heads: &[Arc<Head>], root: &HashSet<String>, first: bool) -> Vec<News> {
        let mut before = std::mem::take(&mut self.built);
        let mut news = Vec::new();
        // A head that has lost its paths may stay, held open, beside the one that its namespace has got since. If that one
        // loses them, too, it is still the one.
        let rank = |head: &Head| {
            let shown = before.get(&head.wwid).is_some_and(|known| known.head.name == head.name);
            (head.paths.len(), shown)
        };
        let mut chosen: BTreeMap<&Arc<str>, &Arc<Head>> = BTreeMap::new();
        for head in heads {
            let known = chosen.entry(&head.wwid).or_insert(head);
            if rank(head) > rank(known) {
                *known = head;
            }
        }
        for head in chosen.into_values() {
            let known = before.remove(&head.wwid);
            let root = root.contains(&*head.name);
            let same = |known: &&Built| Arc::ptr_eq(&known.head, head) && known.device.root == root;
            if let Some(known) = known.as_ref().filter(same) {
                let built = Built { head: Arc::clone(head), device: Arc::clone(&known.device) };
                self.built.insert(Arc::clone(&head.wwid), built);
                continue;
            }
            let previous = known.map(|known| known.device);
            let device = Arc::new(assemble(head, previous.as_deref(), root, first));
            if !first {
                tell_changes(previous.as_deref(), &device, &mut news);
            }
            self.built.insert(Arc::clone(&head.wwid), Built { head: Arc::clone(head), device });
        }
        let gone = before.into_values().map(|built| built.device);
        news.extend(gone.map(|device| News { kind: EventType::DeviceRemoved, device, path: None }));
        news
    }

    /// All of them.
    pub fn devices(&self) -> impl Iterator<Item = &Arc<Device>> {
        self.built.values().map(|built| &built.device)
    }
}

fn tell_changes(previous: Option<&Device>, device: &Arc<Device>, news: &mut Vec<News>) {
    let mut tell =
        |kind, path: Option<&Path>| news.push(News { kind, device: Arc::clone(device), path: path.cloned() });
    let Some(previous) = previous else {
        tell(EventType::DeviceAdded, None);
        device
            .paths
            .iter()
            .filter(|path| path.state == PathState::Failed)
            .for_each(|path| tell(EventType::PathFailed, Some(path)));
        return;
    };
    let named =
        |device: &'_ Device| -> BTreeSet<Arc<str>> { device.paths.iter().map(|path| Arc::clone(&path.name)).collect() };
    let (old, new) = (named(previous), named(device));
    for path in device.paths.iter().filter(|path| !old.contains(&path.name)) {
        tell(EventType::PathAdded, Some(path));
    }
    for path in previous.paths.iter().filter(|path| !new.contains(&path.name)) {
        tell(EventType::PathRemoved, Some(path));
    }
    let mut failed = false;
    for path in &device.paths {
        match change(state_before(Some(previous), &path.name), path.state) {
            Some(Change::Failed) => {
                failed = true;
                tell(EventType::PathFailed, Some(path));
            }
            Some(Change::Reinstated) => tell(EventType::PathReinstated, Some(path)),
            None => {}
        }
    }
    // No path has failed, so there is no event of it.
    if device.counts().valid == 0 && previous.counts().valid > 0 && !failed {
        log::no_valid_path(device, "by reading");
    }
}

enum Change {
    Failed,
    Reinstated,
}

fn change(before: PathState, now: PathState) -> Option<Change> {
    match (before, now) {
        (PathState::Failed, PathState::Failed) => None,
        (PathState::Failed, _) => Some(Change::Reinstated),
        (_, PathState::Failed) => Some(Change::Failed),
        _ => None,
    }
}

/// A path is born valid.
fn state_before(previous: Option<&Device>, name: &str) -> PathState {
    let path = previous.and_then(|device| device.paths.iter().find(|path| &*path.name == name));
    path.map_or(PathState::Valid, |path| path.state)
}

/// What the kernel will do with I/O for a path (`nvme_find_path` in `drivers/nvme/host/multipath.c`).
fn state(path: &HeadPath) -> PathState {
    if !path.controller.is_live() {
        return PathState::Failed;
    }
    match path.ana_state.as_deref() {
        None | Some("optimized" | "non-optimized") => PathState::Valid,
        Some("inaccessible" | "change") => PathState::Standby,
        Some(_) => PathState::Failed,
    }
}

fn assemble(head: &Head, previous: Option<&Device>, root: bool, first: bool) -> Device {
    let mut path_events = previous.map(|device| device.path_events).unwrap_or_default();
    let now = SystemTime::now();
    let mut paths = Vec::with_capacity(head.paths.len());
    for path in &head.paths {
        let last = previous.and_then(|device| device.paths.iter().find(|last| last.name == path.name));
        let mut failures = last.map_or(0, |last| last.failures);
        let state = state(path);
        match change(state_before(previous, &path.name), state).filter(|_| !first) {
            Some(Change::Failed) => {
                failures += 1;
                path_events.failed += 1;
                path_events.last_failed = Some(now);
            }
            Some(Change::Reinstated) => {
                path_events.reinstated += 1;
                path_events.last_reinstated = Some(now);
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
            failures,
            priority: None,
            checker_state: None,
            device_state: Some(Arc::clone(&path.controller.state)),
            access_state: None,
            ana_state: path.ana_state.clone(),
            marginal: None,
        });
    }
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
        // A head requeues what finds no path while a controller of its may come back (`nvme_available_path`); that the
        // kernel gave one up (`fast_io_fail_tmo`) no file tells.
        queueing: Some(true),
        suspended: Some(false),
        read_only: head.read_only,
        size_bytes: head.size_bytes,
        open_count: None,
        inflight_requests: head.inflight_requests,
        root,
        mismatches: Mismatches {
            // A path that has no size any more is going away.
            size: differ(&|path| match (path.size_bytes, head.size_bytes) {
                (Some(size), Some(whole)) => size > 0 && size != whole,
                _ => false,
            }),
            read_only: differ(&|path| match (path.read_only, head.read_only) {
                (Some(read_only), Some(whole)) => read_only != whole,
                _ => false,
            }),
            // The kernel puts no path below a head of another identity.
            wwid: 0,
        },
        daemon_counters: None,
        active_group_priority: None,
        best_group_priority: None,
        path_events,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::nvme::Controller;

    fn head(paths: &[(&str, &str, Option<&str>)]) -> Arc<Head> {
        let path = |(name, controller, ana): &(&str, &str, Option<&str>)| HeadPath {
            name: (*name).into(),
            ana_state: ana.map(Arc::from),
            controller: Arc::new(Controller { state: (*controller).into(), ..Controller::default() }),
            ..HeadPath::default()
        };
        Arc::new(Head { wwid: "uuid.1".into(), paths: paths.iter().map(path).collect(), ..Head::default() })
    }

    fn told(news: &[News]) -> Vec<(EventType, String)> {
        news.iter()
            .map(|news| (news.kind, news.path.as_ref().map(|path| path.name.to_string()).unwrap_or_default()))
            .collect()
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
            assert_eq!(state(&head.paths[0]), expected, "{controller} {ana:?}");
        }
    }

    #[test]
    fn what_is_found_at_the_start_has_no_event_and_each_change_has_one() {
        let mut devices = NvmeDevices::default();
        let start = [head(&[("a", "live", None), ("b", "connecting", None)])];
        assert_eq!(told(&devices.update(&start, &HashSet::new(), true)), []);
        let failed = [head(&[("a", "connecting", None), ("b", "connecting", None)])];
        assert_eq!(told(&devices.update(&failed, &HashSet::new(), false)), [(EventType::PathFailed, "a".to_owned())]);
        assert_eq!(told(&devices.update(&failed, &HashSet::new(), false)), []);
        let back = [head(&[("a", "live", Some("inaccessible")), ("b", "live", Some("optimized"))])];
        let both = [(EventType::PathReinstated, "a".to_owned()), (EventType::PathReinstated, "b".to_owned())];
        assert_eq!(told(&devices.update(&back, &HashSet::new(), false)), both);
        let device = devices.devices().next().unwrap();
        assert_eq!((device.path_events.failed, device.path_events.reinstated), (1, 2));
        assert_eq!(device.paths.iter().map(|path| path.failures).collect::<Vec<_>>(), [1, 0]);
        // From standby to valid is neither.
        let active = [head(&[("a", "live", Some("optimized")), ("b", "live", Some("optimized"))])];
        assert_eq!(told(&devices.update(&active, &HashSet::new(), false)), []);
    }

    #[test]
    fn what_comes_and_goes_is_told() {
        let mut devices = NvmeDevices::default();
        devices.update(&[], &HashSet::new(), true);
        let one = [head(&[("a", "live", None)])];
        assert_eq!(told(&devices.update(&one, &HashSet::new(), false)), [(EventType::DeviceAdded, String::new())]);
        let two = [head(&[("a", "live", None), ("b", "connecting", None)])];
        let born = [(EventType::PathAdded, "b".to_owned()), (EventType::PathFailed, "b".to_owned())];
        assert_eq!(told(&devices.update(&two, &HashSet::new(), false)), born);
        assert_eq!(told(&devices.update(&one, &HashSet::new(), false)), [(EventType::PathRemoved, "b".to_owned())]);
        assert_eq!(told(&devices.update(&[], &HashSet::new(), false)), [(EventType::DeviceRemoved, String::new())]);
        assert_eq!(devices.devices().count(), 0);
    }
}
