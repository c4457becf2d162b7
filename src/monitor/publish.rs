//! From readings to the published snapshot, and from the difference between two snapshots to events.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::watch;
use tracing::warn;

use super::assemble::{Base, Parts};
use super::bonds;
use super::ledger::{MapLedger, PATIENCE};
use super::log::{self, PathLog};
use super::nvme::{News, NvmeDevices};
use super::sources::{DaemonSource, KernelSource, KnownPaths, Ledgers, SysfsSource};
use crate::config::Config;
use crate::event::{Event, EventLog, EventType};
use crate::metrics::own::OwnMetrics;
use crate::source::{maps, sysfs};
use crate::topology::{Daemon, DevNo, Device, Health, Path, PathState, Snapshot, Transports};
use crate::watch::{PathAction, PathEvent, Uevent};

/// Holds what was last published and tells what changed.
pub struct Publisher {
    sender: watch::Sender<Option<Arc<Snapshot>>>,
    events: Arc<EventLog>,
    own: Arc<OwnMetrics>,
    config: Arc<Config>,
    log: PathLog,
    /// The first full read is done.
    open: bool,
    nvme: NvmeDevices,
    /// sysfs has said which NVMe devices there are.
    nvme_known: bool,
    /// Device-mapper devices by WWID: the device, and what it was assembled from.
    built: BTreeMap<Arc<str>, Built>,
    wwids: HashMap<DevNo, Arc<str>>,
    /// Members whose state no event has told of yet, and when that is to be counted.
    unexplained: HashMap<(Arc<str>, DevNo), Instant>,
    suspicions: Vec<Suspicion>,
    /// Some device is not shown as it is now, because its members' names are on their way.
    holds_back: bool,
    device_mapper_woke: Option<Instant>,
    /// All uevents up to this moment have been taken note of; `None` if none can be expected.
    events_read_until: Option<Instant>,
}

struct Built {
    parts: Parts,
    device: Arc<Device>,
}

/// A timed reading found a device different, and no event had told.
struct Suspicion {
    wwid: Arc<str>,
    found: Instant,
    /// Device mapper had counted an event; its poll may still wake us.
    event_nr_moved: bool,
}

impl Publisher {
    /// Publishes through `sender`.
    pub fn new(
        sender: watch::Sender<Option<Arc<Snapshot>>>,
        events: Arc<EventLog>,
        own: Arc<OwnMetrics>,
        config: Arc<Config>,
    ) -> Self {
        Publisher {
            sender,
            events,
            own,
            config,
            log: PathLog::default(),
            open: false,
            nvme: NvmeDevices::default(),
            nvme_known: false,
            built: BTreeMap::new(),
            wwids: HashMap::new(),
            unexplained: HashMap::new(),
            suspicions: Vec::new(),
            holds_back: false,
            device_mapper_woke: None,
            events_read_until: None,
        }
    }

    /// What is published next is held against this configuration.
    pub fn configure(&mut self, config: Arc<Config>) {
        self.config = config;
    }

    /// The first full read is done: what comes next may be published.
    pub fn open(&mut self) {
        self.open = true;
    }

    /// Whether the first full read is done.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Whether some device waits to be shown until sysfs has been read.
    pub fn holds_back(&self) -> bool {
        self.holds_back
    }

    /// The map behind a device number, as last read.
    pub fn wwid(&self, devno: DevNo) -> Option<&Arc<str>> {
        self.wwids.get(&devno)
    }

    /// Whether a device is shown.
    pub fn shows(&self, wwid: &Arc<str>) -> bool {
        self.built.contains_key(wwid)
    }

    /// Whether uevents are being watched.
    pub fn expects_events(&self) -> bool {
        self.events_read_until.is_some()
    }

    /// Whether some device has a failed path or no valid one.
    pub fn any_unhealthy(&self) -> bool {
        self.built.values().any(|built| built.device.counts().health() != Health::Healthy)
    }

    /// All uevents up to this moment have been taken note of; `None` if none can be expected.
    pub fn events_read_until(&mut self, moment: Option<Instant>) {
        self.events_read_until = moment;
    }

    /// Whether uevents from before this moment may still be waiting to be read: in a storm they come later than the
    /// readings that they led to.
    fn awaits_events_of(&self, moment: Instant) -> bool {
        self.events_read_until.is_some_and(|read| read < moment)
    }

    /// Device mapper's event poll woke us.
    pub fn device_mapper_woke(&mut self) {
        self.device_mapper_woke = Some(Instant::now());
    }

    /// Takes note of what sysfs shows of path states where no source knows the kernel's, and of maps created anew.
    pub fn notice_sysfs(
        &self,
        before: &HashMap<Arc<str>, Arc<maps::Map>>,
        reading: &sysfs::Reading,
        asked: Instant,
        ledgers: &mut Ledgers,
    ) {
        for map in &reading.maps {
            let old = before.get(&map.wwid);
            if old.is_some_and(|old| Arc::ptr_eq(old, map)) {
                continue;
            }
            let Some(ledger) = ledgers.get_mut(&map.wwid) else { continue };
            if let Some(diskseq) = map.diskseq {
                ledger.note_diskseq(diskseq, asked);
            }
            for disk in &map.members {
                let known = old.and_then(|old| old.members.iter().find(|known| known.devno == disk.devno));
                // A disk that is gone has no state: that is not a better one.
                if disk.states.device.is_some() && known.is_some_and(|known| known.states.device != disk.states.device)
                {
                    ledger.restart_fallback(disk.devno);
                }
            }
        }
    }

    /// A path event from the kernel: told at once.
    pub fn path_event(&mut self, uevent: &Uevent, event: &PathEvent) {
        let device = self.built.get(&event.wwid).map(|built| &built.device);
        let path = device.and_then(|device| device.paths.iter().find(|path| path.devno == Some(event.path)));
        let paths = device.map_or(0, |device| device.paths.len());
        let valid_paths = event.valid_paths.or(device.map(|device| device.counts().valid as u64));
        let told = Event {
            id: 0,
            seqnum: Some(uevent.seqnum),
            dm_seqnum: Some(event.dm_seqnum),
            time: uevent.time,
            kind: kind_of(event.action),
            wwid: Arc::clone(&event.wwid),
            name: Arc::clone(&event.name),
            path: Some(path.map_or_else(|| event.path.to_string().into(), |path| Arc::clone(&path.name))),
            devno: Some(event.path),
            valid_paths,
        };
        self.tell(told, paths);
    }

    /// Assembles the devices whose readings changed, and publishes if that changed anything.
    ///
    /// `timed` says that a timer, not an event, led to the reading. Gives the devices that are gone.
    pub fn publish(
        &mut self,
        kernel: Option<&KernelSource>,
        sysfs: &SysfsSource,
        daemon: Option<&DaemonSource>,
        ledgers: &mut Ledgers,
        timed: bool,
    ) -> Vec<Arc<str>> {
        if !self.open {
            return Vec::new();
        }
        let first = self.sender.borrow().is_none();
        let now = Instant::now();
        let readings = Readings { kernel, sysfs, daemon };
        let mut before = std::mem::take(&mut self.built);
        self.wwids.clear();
        self.holds_back = false;
        let (wwids, as_of) = readings.wwids();
        for wwid in wwids {
            let ledger = ledgers.entry(Arc::clone(wwid)).or_default();
            let parts = readings.parts(wwid, ledger);
            if let Some(devno) = parts.devno() {
                self.wwids.insert(devno, Arc::clone(wwid));
            }
            let known = before.remove(wwid);
            let unchanged = known.as_ref().is_some_and(|known| known.parts.same_as(&parts));
            let previous = known.as_ref().map(|known| &*known.device);
            let nameless = parts.devno().is_some_and(|devno| sysfs.awaits(devno)) && parts.lacks_names(previous);
            self.holds_back |= nameless && !unchanged;
            let built = match known {
                Some(known) if unchanged || nameless => Some(known),
                None if nameless => None,
                known => {
                    ledger.speakers.hear(wwid, parts.disks());
                    let device = parts.assemble(wwid, ledger, known.as_ref().map(|known| &*known.device));
                    let built = Built { parts, device: Arc::new(device) };
                    Some(match known {
                        Some(known) => self.changed(known, built, ledger, timed, now),
                        None => self.appeared(built, ledger, first, now),
                    })
                }
            };
            self.built.extend(built.map(|built| (Arc::clone(wwid), built)));
        }
        let gone: Vec<Arc<str>> = before.keys().cloned().collect();
        for Built { device, .. } in before.into_values() {
            // If it comes back it is a new one, of which events may have told already.
            if !ledgers.get_mut(&device.wwid).is_some_and(|ledger| ledger.outlives_map(as_of)) {
                ledgers.remove(&device.wwid);
            }
            self.tell_device(EventType::DeviceRemoved, &device);
        }
        ledgers.retain(|wwid, ledger| self.built.contains_key(wwid) || ledger.is_recent(now));

        let found = !std::mem::replace(&mut self.nvme_known, sysfs.read_at.is_some());
        for News { kind, device, path } in self.nvme.update(&sysfs.heads, &sysfs.root, found) {
            match path {
                Some(path) => self.tell_path(kind, &device, &path),
                None => self.tell_device(kind, &device),
            }
        }
        if found {
            self.nvme.devices().for_each(|device| warn_of_what_was_found(device));
        }
        let state = daemon.map_or(Daemon::NotAsked, |daemon| daemon.state.clone());
        self.send(state, &sysfs.transports, self.unassembled(sysfs, daemon));
        gone
    }

    /// Disks with several paths that no map holds. A map may have been made since they were read, and multipathd leaves out
    /// of its paths what its configuration blacklists.
    fn unassembled(&self, sysfs: &SysfsSource, daemon: Option<&DaemonSource>) -> Vec<(Arc<str>, usize)> {
        let members = || self.built.values().flat_map(|built| &built.device.paths);
        let disks = sysfs.unassembled.iter();
        let disks = disks.filter(|disk| !members().any(|member| disk.paths.contains(&member.name)));
        let known = daemon.map_or(&KnownPaths::CannotTell, |daemon| &daemon.known_paths);
        let counted = disks.map(|disk| {
            let paths = match known {
                KnownPaths::CannotTell => disk.paths.len(),
                KnownPaths::NotAsked => 0,
                KnownPaths::These(known) => disk.paths.iter().filter(|path| known.contains(&***path)).count(),
            };
            (Arc::clone(&disk.wwid), paths)
        });
        counted.filter(|(_, paths)| *paths > 1).collect()
    }

    /// Publishes the devices as built, if any of them is another one than last time.
    fn send(&self, daemon: Daemon, transports: &Arc<Transports>, unassembled: Vec<(Arc<str>, usize)>) {
        let nvme = self.nvme.devices().map(|device| (&device.wwid, device));
        let mapped = self.built.values().map(|built| (&built.device.wwid, &built.device));
        // Sorted, and each WWID once: a map over a head of the same name is what is used.
        let devices: BTreeMap<_, _> = nvme.chain(mapped).collect();
        let devices: Vec<_> = devices.into_values().cloned().collect();
        let expected_paths = expected_paths(&self.config, &devices);
        let iscsi_bonds = bonds::look(&self.config.iscsi_bonds, &transports.iscsi_sessions);
        self.sender.send_if_modified(|published| {
            let same = published.as_ref().is_some_and(|last| {
                last.daemon == daemon
                    && Arc::ptr_eq(&last.transports, transports)
                    && last.iscsi_bonds == iscsi_bonds
                    && last.unassembled == unassembled
                    && last.expected_paths == expected_paths
                    && last.devices.len() == devices.len()
                    && last.devices.iter().zip(&devices).all(|(one, other)| Arc::ptr_eq(one, other))
            });
            if !same {
                *published = Some(Arc::new(Snapshot {
                    devices,
                    daemon,
                    transports: Arc::clone(transports),
                    iscsi_bonds,
                    unassembled,
                    expected_paths,
                }));
            }
            !same
        });
    }

    fn appeared(&mut self, built: Built, ledger: &mut MapLedger, first: bool, now: Instant) -> Built {
        let device = &built.device;
        if first {
            warn_of_what_was_found(device);
        } else {
            self.tell_device(EventType::DeviceAdded, device);
        }
        self.follow_paths(device, ledger, first, now);
        built
    }

    fn changed(&mut self, before: Built, built: Built, ledger: &mut MapLedger, timed: bool, now: Instant) -> Built {
        let (old, new) = (Arc::clone(&before.device), &built.device);
        if *old == **new {
            self.follow_paths(new, ledger, false, now);
            return Built { parts: built.parts, device: old };
        }
        let has = |device: &Device, path: &Path| device.paths.iter().any(|other| other.devno == path.devno);
        for path in new.paths.iter().filter(|path| !has(&old, path)) {
            self.tell_path(EventType::PathAdded, new, path);
        }
        for path in old.paths.iter().filter(|path| !has(new, path)) {
            if let Some(action) = path.devno.and_then(|devno| ledger.forget_path(devno, SystemTime::now())) {
                self.tell_path(kind_of(action), new, path);
            }
            self.tell_path(EventType::PathRemoved, new, path);
        }
        let states = |device: &Device| -> Vec<_> { device.paths.iter().map(|path| (path.devno, path.state)).collect() };
        if timed && states(&old) != states(new) && !ledger.had_event_since(now - PATIENCE) {
            let event_nr = |built: &Built| built.parts.kernel.as_ref().and_then(|map| map.event_nr);
            let event_nr_moved = event_nr(&before) != event_nr(&built);
            if !(event_nr_moved && self.device_mapper_woke.is_some_and(|woke| now < woke + PATIENCE)) {
                self.suspicions.push(Suspicion { wwid: Arc::clone(&new.wwid), found: now, event_nr_moved });
            }
        }
        self.follow_paths(new, ledger, false, now);
        built
    }

    /// Holds the members' states against those that events led to.
    fn follow_paths(&mut self, device: &Device, ledger: &mut MapLedger, first: bool, now: Instant) {
        ledger.forget_strangers(now, |devno| device.paths.iter().any(|path| path.devno == Some(devno)));
        for path in &device.paths {
            let Some(devno) = path.devno else { continue };
            let valid = path.state == PathState::Valid;
            // A path is born valid; what is found failed at the start has no event to be waited for.
            ledger.ensure_path(devno, if first { valid } else { true });
            let key = (Arc::clone(&device.wwid), devno);
            match ledger.compare(devno, valid, now) {
                Some(due) => self.unexplained.insert(key, due),
                None => self.unexplained.remove(&key),
            };
        }
    }

    /// The next moment at which something is to be counted or logged. What waits for events is due with them.
    pub fn next_due(&self) -> Option<Instant> {
        let suspicions = self.suspicions.iter().map(|suspicion| suspicion.found + PATIENCE);
        let now = Instant::now();
        let waits = |due: &Instant| *due <= now && self.awaits_events_of(*due);
        self.unexplained.values().copied().chain(suspicions).filter(|due| !waits(due)).chain(self.log.due()).min()
    }

    /// Counts what has waited long enough for an event. `true` if a device must be assembled anew.
    pub fn look_at_clock(&mut self, now: Instant, ledgers: &mut Ledgers) -> bool {
        self.log.look_at_clock(now);
        // What is due, but for what waits for events.
        let until = self.events_read_until.map_or(now, |read| read.min(now));
        self.settle_suspicions(until, ledgers);
        let due: Vec<_> = self.unexplained.extract_if(|_, due| *due <= until).map(|(key, _)| key).collect();
        let mut counted = false;
        for (wwid, devno) in due {
            let time = SystemTime::now();
            let Some(ledger) = ledgers.get_mut(&wwid) else { continue };
            // Nothing to settle if an event has come in the meantime: the next assembly compares once more.
            if let Some(action) = ledger.settle(devno, now, time) {
                counted = true;
                self.tell_unexplained(&wwid, devno, action);
            }
        }
        counted
    }

    fn settle_suspicions(&mut self, until: Instant, ledgers: &Ledgers) {
        let woke = self.device_mapper_woke;
        let due = self.suspicions.extract_if(.., |suspicion| suspicion.found + PATIENCE <= until);
        for Suspicion { wwid, found, event_nr_moved } in due {
            let told = ledgers.get(&wwid).is_none_or(|ledger| ledger.had_event_since(found - PATIENCE))
                || event_nr_moved && woke.is_some_and(|woke| woke >= found);
            if !told {
                self.own.resync_corrections.inc();
                warn!(wwid = &*wwid, "a resync found a change that no event told of");
            }
        }
    }

    fn tell_unexplained(&mut self, wwid: &Arc<str>, devno: DevNo, action: PathAction) {
        let Some(device) = self.built.get(wwid).map(|built| Arc::clone(&built.device)) else { return };
        if let Some(path) = device.paths.iter().find(|path| path.devno == Some(devno)) {
            self.tell_path(kind_of(action), &device, path);
        }
    }

    fn tell_path(&mut self, kind: EventType, device: &Device, path: &Path) {
        let event = Event { path: Some(Arc::clone(&path.name)), devno: path.devno, ..read_event(kind, device) };
        self.tell(event, device.paths.len());
    }

    fn tell_device(&mut self, kind: EventType, device: &Device) {
        self.tell(read_event(kind, device), device.paths.len());
    }

    fn tell(&mut self, event: Event, paths: usize) {
        let event = self.events.add(event);
        self.log.write(&event, paths, Instant::now());
    }
}

/// How many paths devices should have, by WWID: those that are there, and those that the configuration names.
fn expected_paths(config: &Config, devices: &[Arc<Device>]) -> Vec<(Arc<str>, u32)> {
    if config.expected_paths.is_empty() {
        return Vec::new();
    }
    let absent = config.expected_wwids().map(|wwid| (Arc::from(wwid), config.expected_paths_of(wwid, "", "")));
    let present = devices.iter().map(|device| {
        (Arc::clone(&device.wwid), config.expected_paths_of(&device.wwid, &device.vendor, &device.product))
    });
    let all: BTreeMap<Arc<str>, Option<u32>> = absent.chain(present).collect();
    all.into_iter().filter_map(|(wwid, paths)| Some((wwid, paths?))).collect()
}

/// An event that a reading showed.
fn read_event(kind: EventType, device: &Device) -> Event {
    Event {
        id: 0,
        seqnum: None,
        dm_seqnum: None,
        time: SystemTime::now(),
        kind,
        wwid: Arc::clone(&device.wwid),
        name: Arc::clone(&device.name),
        path: None,
        devno: None,
        valid_paths: Some(device.counts().valid as u64),
    }
}

fn kind_of(action: PathAction) -> EventType {
    match action {
        PathAction::Failed => EventType::PathFailed,
        PathAction::Reinstated => EventType::PathReinstated,
    }
}

fn warn_of_what_was_found(device: &Device) {
    let (wwid, name, valid_paths) = (&*device.wwid, &*device.name, device.counts().valid as u64);
    let (left, found) = (log::left(valid_paths), "at start");
    for path in device.paths.iter().filter(|path| path.state == PathState::Failed) {
        let devno = path.devno.map(|devno| devno.to_string()).unwrap_or_default();
        warn!(wwid, name, path = &*path.name, devno, valid_paths, left, found, "path failed");
    }
    let counts = device.counts();
    if counts.valid == 0 && counts.failed == 0 {
        log::no_valid_path(device, found);
    }
}

/// The readings that a snapshot is assembled from.
struct Readings<'a> {
    kernel: Option<&'a KernelSource>,
    sysfs: &'a SysfsSource,
    daemon: Option<&'a DaemonSource>,
}

impl<'a> Readings<'a> {
    /// The devices there are, in the word of the best source that has one, and when it was asked.
    fn wwids(&self) -> (Vec<&'a Arc<str>>, Option<Instant>) {
        let (mut wwids, as_of): (Vec<_>, _) = match (self.kernel, self.daemon) {
            (Some(kernel), _) if kernel.current => (kernel.maps.keys().collect(), kernel.read_at),
            _ if self.sysfs.read_at.is_some() => (self.sysfs.maps.keys().collect(), self.sysfs.read_at),
            (_, Some(daemon)) => (daemon.maps.keys().collect(), daemon.read_at),
            _ => (Vec::new(), None),
        };
        wwids.sort_unstable();
        (wwids, as_of)
    }

    fn parts(&self, wwid: &Arc<str>, ledger: &MapLedger) -> Parts {
        let kernel = self.kernel.and_then(|source| source.maps.get(wwid));
        let daemon = self.daemon.and_then(|source| source.map(wwid));
        let answers = self.daemon.is_some_and(|source| matches!(source.state, Daemon::Up(_)));
        Parts {
            kernel: kernel.cloned(),
            sysfs: self.sysfs.maps.get(wwid).cloned(),
            daemon: daemon.map(|(map, _)| Arc::clone(map)),
            daemon_answers: answers && daemon.is_some_and(|(_, stands)| stands),
            base: self.base(kernel.is_some(), daemon.is_some(), ledger),
            ledger_version: ledger.version,
            root: self.sysfs.maps.get(wwid).is_some_and(|map| self.sysfs.root.contains(&*map.sysfs_name)),
        }
    }

    /// Whose reading the path states are taken from: device mapper's if it is the present one, otherwise the last.
    fn base(&self, kernel_has_it: bool, daemon_has_it: bool, ledger: &MapLedger) -> Base {
        let kernel = Base::Kernel { floor: ledger.kernel_floor() };
        if kernel_has_it && self.kernel.is_some_and(|source| source.current) {
            return kernel;
        }
        let kernel_read = ledger.kernel_read_at().filter(|_| kernel_has_it);
        let daemon_read = ledger.daemon_read_at().filter(|_| daemon_has_it);
        match (kernel_read, daemon_read) {
            (Some(one), other) if other.is_none_or(|other| other <= one) => kernel,
            (_, Some(_)) => Base::Daemon { floor: ledger.daemon_floor() },
            _ => Base::Fallback,
        }
    }
}
