//! The last reading of each source, and what can be wanted of it.
//!
//! A new reading takes the place of the old one: whole, or for the devices that were looked at. An object that a source
//! could not read stands as last read.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::schedule::{Reason, Want};
use super::unassembled::{self, KnownPaths, Namesakes};
use crate::source::block::strangers::Candidate;
use crate::source::block::usage::Usage;
use crate::source::block::{self, Devices, Scope, Told, disks, maps};
use crate::source::interfaces::Addresses;
use crate::source::transports::{self, Way, Ways};
use crate::source::{Error, Io, device_mapper, multipathd};
use crate::topology::{Daemon, DevNo, Transports};

/// The last readings.
#[derive(Debug, Default)]
pub(crate) struct Readings {
    /// Device mapper; `None` if it is switched off.
    pub(crate) kernel: Option<Kernel>,
    /// Block devices in sysfs.
    pub(crate) block: Block,
    /// Sessions, ports and controllers in sysfs; `None` before the first reading.
    pub(crate) transports: Option<transports::Reading>,
    /// Which interface has which address.
    pub(crate) addresses: Arc<Addresses>,
    /// multipathd; `None` if it is switched off.
    pub(crate) multipathd: Option<Multipathd>,
}

/// Which source says which device-mapper devices there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Teller {
    /// Device mapper.
    Kernel,
    /// sysfs.
    Block,
    /// multipathd.
    Multipathd,
}

impl Readings {
    /// The source that says which device-mapper devices there are, and when it was asked: the kernel itself, otherwise the newest
    /// reading. `None` if nobody has said so yet: "no devices" would be a lie.
    pub(crate) fn teller(&self) -> Option<(Teller, Instant)> {
        let kernel = self.kernel.as_ref().and_then(|kernel| Some((kernel.read_at?, kernel)));
        match (kernel, self.block.maps_read_at) {
            (Some((read, kernel)), block) if kernel.current || block.is_none_or(|block| Some(block) <= kernel.came) => {
                Some((Teller::Kernel, read))
            }
            (_, Some(block)) => Some((Teller::Block, block)),
            (_, None) => {
                let read = self.multipathd.as_ref().and_then(|daemon| daemon.read_at);
                read.map(|read| (Teller::Multipathd, read))
            }
        }
    }

    /// The device-mapper devices that there are, sorted, and the source of each one's members. A map that device mapper has and
    /// could never read is sysfs's.
    pub(crate) fn wwids(&self, teller: Teller) -> BTreeMap<Arc<str>, Teller> {
        let all = |wwids: &mut dyn Iterator<Item = &Arc<str>>| wwids.map(|wwid| (Arc::clone(wwid), teller)).collect();
        match teller {
            Teller::Kernel => {
                let untold = self.kernel.iter().flat_map(|kernel| &kernel.untold);
                let of_block = untold.filter_map(|devno| Some((self.block.wwid(*devno)?, Teller::Block)));
                let mut wwids: BTreeMap<_, _> = of_block.collect();
                wwids.append(&mut all(&mut self.kernel.iter().flat_map(|kernel| kernel.maps.keys())));
                wwids
            }
            Teller::Block => all(&mut self.block.maps.keys()),
            Teller::Multipathd => all(&mut self.multipathd.iter().flat_map(|daemon| daemon.maps.keys())),
        }
    }

    /// How many device-mapper devices the kernel has, by its own word or by sysfs's.
    pub(crate) fn number_of_maps(&self) -> Option<usize> {
        match self.teller()?.0 {
            Teller::Kernel => self.kernel.as_ref().map(|kernel| kernel.told.len()),
            Teller::Block => Some(self.block.maps.len()),
            Teller::Multipathd => None,
        }
    }

    /// Forgets the words of multipathd's last reply on maps that the kernel does not have, as soon as that is known. A reply that was
    /// under way when its map was removed may have brought it back.
    pub(crate) fn forget_words_about_no_map(&mut self) {
        let Some((teller, _)) = self.teller().filter(|(teller, _)| *teller != Teller::Multipathd) else { return };
        if !self.multipathd.as_ref().is_some_and(|daemon| daemon.is_unsifted) {
            return;
        }
        let wwids = self.wwids(teller);
        if let Some(daemon) = &mut self.multipathd {
            daemon.is_unsifted = false;
            daemon.maps.retain(|wwid, _| wwids.contains_key(wwid));
            daemon.left_out.retain(|wwid, _| wwids.contains_key(wwid));
        }
    }

    /// Whether some source tells of this device.
    pub(crate) fn know(&self, wwid: &Arc<str>) -> bool {
        self.kernel.as_ref().is_some_and(|kernel| kernel.maps.contains_key(wwid))
            || self.block.maps.contains_key(wwid)
            || self.multipathd.as_ref().is_some_and(|daemon| daemon.maps.contains_key(wwid))
    }

    /// Whether device mapper's last reading is the present state.
    pub(crate) fn kernel_is_current(&self) -> bool {
        self.kernel.as_ref().is_some_and(|kernel| kernel.current)
    }

    /// Whether device mapper tells the present state of the device of this number, or that it is none.
    pub(crate) fn kernel_tells_of(&self, devno: DevNo) -> bool {
        self.kernel.as_ref().is_some_and(|kernel| kernel.current && !kernel.untold.contains(&devno))
    }

    /// multipathd, as it is shown.
    pub(crate) fn daemon(&self) -> Daemon {
        self.multipathd.as_ref().map_or(Daemon::NotAsked, |daemon| daemon.state.clone())
    }

    /// Sessions and ports.
    pub(crate) fn transports(&self) -> Arc<Transports> {
        self.transports.as_ref().map(|reading| Arc::clone(&reading.transports)).unwrap_or_default()
    }

    /// The remote ports that stay blocked.
    pub(crate) fn blocked_ways(&self) -> Arc<HashSet<Way>> {
        self.transports.as_ref().map(|reading| Arc::clone(&reading.blocked)).unwrap_or_default()
    }

    /// Where the I/O of disks goes.
    pub(crate) fn ways(&self) -> Arc<Ways> {
        self.transports.as_ref().map(|reading| Arc::clone(&reading.ways)).unwrap_or_default()
    }
}

/// Device mapper's last reading.
#[derive(Debug, Default)]
pub(crate) struct Kernel {
    /// By WWID.
    pub(crate) maps: BTreeMap<Arc<str>, Arc<device_mapper::Map>>,
    /// The last reading worked, and none is late: `maps` is the present state.
    pub(crate) current: bool,
    /// This process may not ask device mapper.
    pub(crate) not_permitted: bool,
    /// When the last reading was asked for.
    pub(crate) read_at: Option<Instant>,
    /// When it came.
    came: Option<Instant>,
    /// Maps that it has and could never read. sysfs and multipathd tell of them.
    pub(crate) untold: BTreeSet<DevNo>,
    /// The maps for those who read their files.
    pub(crate) told: Arc<[Told]>,
}

impl Kernel {
    /// Takes a reading. Gives the members that a map did not have before.
    pub(crate) fn take(&mut self, reading: &device_mapper::Reading, asked: Instant, came: Instant) -> Vec<DevNo> {
        let before = std::mem::take(&mut self.maps);
        let mut joined = Vec::new();
        for map in &reading.maps {
            let last = before.get(&map.wwid).filter(|last| last.devno == map.devno);
            if !last.is_some_and(|last| Arc::ptr_eq(last, map)) {
                let had = |devno: &DevNo| last.is_some_and(|last| last.members().any(|member| member == *devno));
                joined.extend(map.members().filter(|devno| !had(devno)));
            }
            self.maps.insert(Arc::clone(&map.wwid), Arc::clone(map));
        }
        let is_told = |devno: &DevNo| reading.maps.iter().any(|map| map.devno == *devno);
        let untold = reading.unreadable.iter().map(|(devno, _)| *devno).filter(|devno| !is_told(devno)).collect();
        let untold_before = std::mem::replace(&mut self.untold, untold);
        let same = |(one, other): (&Arc<device_mapper::Map>, &Arc<device_mapper::Map>)| Arc::ptr_eq(one, other);
        if before.len() != self.maps.len()
            || untold_before != self.untold
            || !before.values().zip(self.maps.values()).all(same)
        {
            let told =
                |map: &Arc<device_mapper::Map>| Told { devno: map.devno, members: Some(map.members().collect()) };
            let untold = self.untold.iter().map(|devno| Told { devno: *devno, members: None });
            self.told = self.maps.values().map(told).chain(untold).collect();
        }
        self.not_permitted = false;
        (self.read_at, self.came) = (Some(asked), Some(came));
        joined
    }
}

/// The wants of device mapper, added up.
#[derive(Debug, Default)]
pub(crate) struct KernelWant {
    request: device_mapper::Request,
    reason: Option<Reason>,
}

impl KernelWant {
    /// The maps whose event number has moved, and these.
    pub(crate) fn look(&mut self, dirty: Option<DevNo>) {
        self.request.dirty.extend(dirty);
        self.reason = self.reason.max(Some(Reason::Event));
    }

    /// All maps. Where events may have been lost, it is asked again which devices are maps.
    pub(crate) fn all(&mut self, reason: Reason) {
        self.request.all = true;
        self.request.anew |= matches!(reason, Reason::Overflow | Reason::Signal | Reason::Start);
        self.reason = self.reason.max(Some(reason));
    }
}

impl Want for KernelWant {
    type Request = device_mapper::Request;

    fn is_empty(&self) -> bool {
        self.reason.is_none()
    }

    fn next(&mut self) -> Option<(device_mapper::Request, Reason)> {
        let reason = self.reason.take()?;
        Some((std::mem::take(&mut self.request), reason))
    }
}

/// The last readings of block devices in sysfs.
#[derive(Debug, Default)]
pub(crate) struct Block {
    /// Multipath maps, where device mapper does not tell them. By WWID.
    pub(crate) maps: BTreeMap<Arc<str>, Arc<maps::Map>>,
    /// Disks, by number.
    pub(crate) disks: HashMap<DevNo, Arc<disks::Disk>>,
    /// Grows with each change of a disk.
    pub(crate) disks_version: u64,
    /// The I/O of maps.
    pub(crate) io: BTreeMap<DevNo, Io>,
    /// Disks that may be unassembled.
    pub(crate) suspects: Vec<Namesakes>,
    /// The disks that are members of no map.
    pub(crate) candidates: Arc<[Candidate]>,
    /// [`block::Host::member_ways`].
    pub(crate) member_ways: Arc<HashSet<Way>>,
    /// Kernel names of what the root file system stands on.
    pub(crate) root: Arc<HashSet<String>>,
    /// The users of block devices.
    pub(crate) usage: Arc<Usage>,
    /// When the last reading was asked for that told which maps there are.
    pub(crate) maps_read_at: Option<Instant>,
    /// Everything has been read once.
    pub(crate) read_once: bool,
    wwids: HashMap<DevNo, Arc<str>>,
    by_address: HashMap<Arc<str>, DevNo>,
    /// Disks that are gone, by their last event: the reading that shows it may be yet to come.
    removed: HashSet<DevNo>,
}

impl Block {
    /// Takes a reading.
    pub(crate) fn take(&mut self, reading: &block::Reading, request: &block::Request, asked: Instant) {
        let scope = &request.scope;
        if let Some(host) = &reading.host {
            self.read_once = true;
            self.root = Arc::clone(&host.root);
            self.candidates = Arc::clone(&host.candidates);
            self.member_ways = Arc::clone(&host.member_ways);
            self.suspects = unassembled::suspects(&host.candidates, &host.member_ways);
            self.forget_maps_but(&BTreeSet::new());
            self.maps_read_at = host.has_maps.then_some(asked);
        }
        if let Some(usage) = &reading.usage {
            self.usage = Arc::clone(usage);
        }
        if self.maps_read_at.is_some() {
            self.take_maps(&reading.maps);
            // A reading of states does not look for maps that are new or gone.
            if *scope != Scope::States && !reading.maps.is_empty() {
                self.maps_read_at = Some(asked);
            }
        } else {
            // Device mapper tells of the maps, but for some.
            let told = request.told.iter().flat_map(|told| told.iter());
            let untold = told.filter(|told| told.members.is_none());
            let read = untold.filter_map(|told| Some((told.devno, reading.maps.get(&told.devno)?.clone())));
            self.take_maps(&read.collect());
        }
        for (devno, disk) in &reading.disks {
            match (disk, self.disks.get_mut(devno)) {
                (Some(disk), Some(known)) if Arc::ptr_eq(disk, known) => {}
                (Some(disk), _) => {
                    self.disks_version += 1;
                    if !disk.hctl.is_empty() {
                        self.by_address.insert(Arc::clone(&disk.hctl), *devno);
                    }
                    self.disks.insert(*devno, Arc::clone(disk));
                }
                (None, Some(known)) => {
                    self.disks_version += 1;
                    *known = gone(known);
                }
                (None, None) => {}
            }
        }
        match (scope, &reading.host) {
            (Scope::Devices(_), _) => self.io.extend(&reading.io),
            _ => self.io.clone_from(&reading.io),
        }
    }

    fn take_maps(&mut self, maps: &BTreeMap<DevNo, Option<Arc<maps::Map>>>) {
        for (devno, map) in maps {
            if let Some(wwid) = self.wwids.remove(devno) {
                self.maps.remove(&wwid);
            }
            if let Some(map) = map {
                self.wwids.insert(*devno, Arc::clone(&map.wwid));
                self.maps.insert(Arc::clone(&map.wwid), Arc::clone(map));
            }
        }
    }

    /// The WWID of this map.
    pub(crate) fn wwid(&self, devno: DevNo) -> Option<Arc<str>> {
        self.wwids.get(&devno).cloned()
    }

    /// Forgets the maps: device mapper tells of them again, but for these.
    pub(crate) fn forget_maps_but(&mut self, untold: &BTreeSet<DevNo>) {
        self.wwids.retain(|devno, _| untold.contains(devno));
        let wwids = &self.wwids;
        self.maps.retain(|_, map| wwids.contains_key(&map.devno));
        self.maps_read_at = None;
    }

    /// Whether a disk of this identity may be there that is a member of no map. Without udev's word on any disk it may.
    pub(crate) fn may_have_disk(&self, wwid: &str) -> bool {
        let are_known = !self.candidates.is_empty() || self.disks.values().any(|disk| disk.identity.udev.is_some());
        !are_known || self.candidates.iter().any(|candidate| *candidate.wwid == *wwid)
    }

    /// The disk at this SCSI address.
    pub(crate) fn disk_at(&self, address: &str) -> Option<DevNo> {
        self.by_address.get(address).copied()
    }

    /// Whether a disk that was there is gone: by its event, or by the last reading.
    pub(crate) fn is_gone(&self, devno: DevNo) -> bool {
        self.removed.contains(&devno)
            || self.disks.get(&devno).is_some_and(|disk| disk.states.absent && !disk.hctl.is_empty())
    }

    /// An event tells that a disk comes or goes.
    pub(crate) fn note_event(&mut self, devno: DevNo, action: &str) {
        match action {
            "remove" if self.disks.contains_key(&devno) => drop(self.removed.insert(devno)),
            "add" => drop(self.removed.remove(&devno)),
            _ => {}
        }
    }

    /// Events were lost, so the last one of a disk may not be the last that there was.
    pub(crate) fn forget_events(&mut self) {
        self.removed.clear();
    }

    /// Forgets the disks that are no members.
    pub(crate) fn forget_strangers(&mut self, is_member: impl Fn(DevNo) -> bool) {
        self.disks.retain(|devno, _| is_member(*devno));
        let disks = &self.disks;
        self.removed.retain(|devno| disks.contains_key(devno));
        self.by_address.retain(|address, devno| disks.get(devno).is_some_and(|disk| disk.hctl == *address));
    }
}

/// A disk that a map may still hold though it is gone. Its name stays.
fn gone(disk: &Arc<disks::Disk>) -> Arc<disks::Disk> {
    let states = disks::States { absent: true, ..disks::States::default() };
    if disk.states == states {
        return Arc::clone(disk);
    }
    Arc::new(disks::Disk { states, ..(**disk).clone() })
}

/// The wants of block devices in sysfs, added up.
#[derive(Debug, Default)]
pub(crate) struct BlockWant {
    everything: Option<Reason>,
    states: bool,
    devices: Devices,
    /// The last reading was of some devices: in a storm of events the states have their turn, too.
    devices_were_last: bool,
    /// The maps as device mapper tells them, if it does.
    pub(crate) told: Option<Arc<[Told]>>,
    /// [`block::Request::open`].
    pub(crate) open: Arc<HashSet<Way>>,
}

impl BlockWant {
    /// Everything of every device.
    pub(crate) fn everything(&mut self, reason: Reason) {
        self.everything = self.everything.max(Some(reason));
    }

    /// Whether a reading of everything is wanted and has not begun.
    pub(crate) fn wants_everything(&self) -> bool {
        self.everything.is_some()
    }

    /// All that changes without an event.
    pub(crate) fn states(&mut self) {
        self.states = true;
    }

    /// This map and its members.
    pub(crate) fn map(&mut self, devno: DevNo) {
        self.devices.maps.insert(devno);
    }

    /// Everything of this disk.
    pub(crate) fn disk(&mut self, devno: DevNo) {
        self.devices.disks.insert(devno);
    }

    /// The users of block devices.
    pub(crate) fn usage(&mut self) {
        self.devices.usage = true;
    }

    /// The states of these disks.
    pub(crate) fn states_of(&mut self, disks: impl IntoIterator<Item = DevNo>) {
        self.devices.states.extend(disks);
    }
}

impl Want for BlockWant {
    type Request = block::Request;

    fn is_empty(&self) -> bool {
        self.everything.is_none() && !self.states && self.devices == Devices::default()
    }

    fn next(&mut self) -> Option<(block::Request, Reason)> {
        let has_devices = self.devices != Devices::default();
        let (scope, reason) = if let Some(reason) = self.everything.take() {
            // It holds all that is wanted of members. Other disks are asked for again when they become members.
            (self.states, self.devices) = (false, Devices::default());
            (Scope::Everything, reason)
        } else if self.states && (self.devices_were_last || !has_devices) {
            self.states = false;
            (Scope::States, Reason::Timer)
        } else if has_devices {
            (Scope::Devices(std::mem::take(&mut self.devices)), Reason::Event)
        } else {
            return None;
        };
        self.devices_were_last = matches!(scope, Scope::Devices(_));
        Some((block::Request { scope, told: self.told.clone(), open: Arc::clone(&self.open) }, reason))
    }
}

/// The wants of sessions, ports and controllers, added up.
#[derive(Debug, Default)]
pub(crate) struct TransportsWant {
    anew: bool,
    reason: Option<Reason>,
    /// Which interface has which address.
    pub(crate) addresses: Arc<Addresses>,
    /// Interfaces to look for.
    pub(crate) interfaces: Arc<BTreeSet<Arc<str>>>,
    /// The WWIDs of NVMe heads that were devices in an earlier life.
    pub(crate) remembered: Arc<BTreeSet<Arc<str>>>,
}

impl TransportsWant {
    /// Their states; and, if `anew`, between which ports they go.
    pub(crate) fn look(&mut self, anew: bool, reason: Reason) {
        self.anew |= anew;
        self.reason = self.reason.max(Some(reason));
    }
}

impl Want for TransportsWant {
    type Request = transports::Request;

    fn is_empty(&self) -> bool {
        self.reason.is_none()
    }

    fn next(&mut self) -> Option<(transports::Request, Reason)> {
        let reason = self.reason.take()?;
        let (addresses, wanted) = (Arc::clone(&self.addresses), Arc::clone(&self.interfaces));
        let (anew, remembered) = (std::mem::take(&mut self.anew), Arc::clone(&self.remembered));
        Some((transports::Request { anew, addresses, wanted, remembered }, reason))
    }
}

/// Whether the interfaces are to be read.
#[derive(Debug, Default)]
pub(crate) struct InterfacesWant {
    /// They are.
    pub(crate) wanted: bool,
    /// The addresses that connections come from of which no interface is known.
    pub(crate) sources: BTreeSet<IpAddr>,
}

impl Want for InterfacesWant {
    type Request = BTreeSet<IpAddr>;

    fn is_empty(&self) -> bool {
        !self.wanted
    }

    fn next(&mut self) -> Option<(BTreeSet<IpAddr>, Reason)> {
        std::mem::take(&mut self.wanted).then(|| (self.sources.clone(), Reason::Timer))
    }
}

/// multipathd's last reply.
#[derive(Debug)]
pub(crate) struct Multipathd {
    /// Whether it answers.
    pub(crate) state: Daemon,
    /// By WWID.
    pub(crate) maps: BTreeMap<Arc<str>, Arc<multipathd::Map>>,
    /// Maps that its last reply left out. A daemon that has just started knows none: that says nothing of their paths,
    /// so their last reading still serves, as long as they exist.
    pub(crate) left_out: BTreeMap<Arc<str>, Arc<multipathd::Map>>,
    /// The last time it was asked for the maps it gave none.
    pub(crate) failed: bool,
    /// When it was asked for the maps that it gave last.
    pub(crate) read_at: Option<Instant>,
    /// The paths that it knows, for telling what it leaves alone.
    pub(crate) known_paths: KnownPaths,
    /// Its last reply may have words on maps that the kernel does not have.
    is_unsifted: bool,
}

impl Default for Multipathd {
    fn default() -> Self {
        Multipathd {
            state: Daemon::Down,
            maps: BTreeMap::new(),
            left_out: BTreeMap::new(),
            failed: false,
            read_at: None,
            known_paths: KnownPaths::NotAsked,
            is_unsifted: false,
        }
    }
}

impl Multipathd {
    /// Takes a reading of its maps. A map that could not be read keeps its last one, and one that did not change its
    /// allocation.
    pub(crate) fn take(&mut self, reading: multipathd::Maps, asked: Instant) {
        let mut before = std::mem::take(&mut self.maps);
        for map in reading.maps {
            self.left_out.remove(&map.wwid);
            let known = before.remove(&map.wwid).filter(|known| *known == map);
            self.maps.insert(Arc::clone(&map.wwid), known.unwrap_or(map));
        }
        if reading.unreadable.is_empty() {
            self.left_out.append(&mut before);
        } else {
            self.maps.append(&mut before);
        }
        (self.failed, self.read_at, self.is_unsifted) = (false, Some(asked), true);
    }

    /// Takes note of the paths that it knows. `paths` is `None` if it was not asked for them; `needed` says whether there
    /// are disks that it may leave alone. Gives whether it is to be asked.
    pub(crate) fn know_paths(&mut self, up: bool, paths: Option<Result<HashSet<String>, Error>>, needed: bool) -> bool {
        let (known, ask) = match (paths, &self.known_paths) {
            _ if !up => (KnownPaths::CannotTell, false),
            (Some(Ok(paths)), _) => (KnownPaths::These(paths), false),
            (_, KnownPaths::These(paths)) if needed => (KnownPaths::These(paths.clone()), false),
            (Some(Err(_)), _) => (KnownPaths::CannotTell, false),
            // Disks that are shown stay so until it tells: its restart alone makes none of them well.
            (None, KnownPaths::CannotTell) => (KnownPaths::CannotTell, needed),
            (None, _) => (KnownPaths::NotAsked, needed),
        };
        self.known_paths = known;
        ask
    }

    /// Whether it answers.
    pub(crate) fn is_up(&self) -> bool {
        matches!(self.state, Daemon::Up(_))
    }

    /// Its last word on a map, and whether it still stands.
    pub(crate) fn map(&self, wwid: &Arc<str>) -> Option<(&Arc<multipathd::Map>, bool)> {
        let stands = self.maps.get(wwid).map(|map| (map, true));
        stands.or_else(|| self.left_out.get(wwid).map(|map| (map, false)))
    }

    /// Should a map come back that is gone, these words must not stand for it.
    pub(crate) fn forget(&mut self, wwid: &Arc<str>) {
        self.maps.remove(wwid);
        self.left_out.remove(wwid);
    }
}

/// A request to multipathd, besides its own state.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DaemonRequest {
    /// The maps.
    pub(crate) maps: bool,
    /// The maps, and the names of all paths that it knows.
    pub(crate) paths: bool,
    /// How many maps there are, if that is known.
    pub(crate) known: Option<usize>,
}

/// multipathd's answer: its state, and the rest if it was asked for.
#[derive(Debug)]
pub(crate) struct DaemonReply {
    /// Its state, in its own word.
    pub(crate) state: Arc<str>,
    /// The maps.
    pub(crate) maps: Option<Result<multipathd::Maps, Error>>,
    /// The names of the paths that it knows.
    pub(crate) paths: Option<Result<HashSet<String>, Error>>,
}

impl DaemonRequest {
    /// Asks it.
    ///
    /// # Errors
    /// If it does not tell its state. The reply says what else it does not tell.
    pub(crate) async fn ask(self, client: &multipathd::Client) -> Result<DaemonReply, Error> {
        let state = client.show_daemon().await.map_err(|error| Error::new("multipathd", error))?.state;
        let maps = if self.maps || self.paths { Some(show_maps(client, self.known).await) } else { None };
        let paths = if self.paths {
            Some(client.show_path_names().await.map_err(|error| Error::new("multipathd, show paths", error)))
        } else {
            None
        };
        Ok(DaemonReply { state, maps, paths })
    }
}

async fn show_maps(client: &multipathd::Client, known: Option<usize>) -> Result<multipathd::Maps, Error> {
    let failed = |cause: &dyn std::error::Error| Error::new("multipathd, show maps json", cause);
    let reply = client.show_maps(known).await.map_err(|error| failed(&error))?;
    // Milliseconds for a large host: off the threads that answer scrapes.
    let parsed = tokio::task::spawn_blocking(move || multipathd::parse_maps(&reply)).await;
    parsed.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
}

/// The wants of multipathd, added up.
#[derive(Debug, Default)]
pub(crate) struct DaemonWant {
    request: DaemonRequest,
    reason: Option<Reason>,
    /// How many maps there are, if that is known.
    pub(crate) known: Option<usize>,
}

impl DaemonWant {
    /// Its state.
    pub(crate) fn state(&mut self, reason: Reason) {
        self.reason = self.reason.max(Some(reason));
    }

    /// Its state and its maps.
    pub(crate) fn maps(&mut self, reason: Reason) {
        self.request.maps = true;
        self.state(reason);
    }

    /// Its state, its maps, and the names of the paths that it knows.
    pub(crate) fn paths(&mut self, reason: Reason) {
        self.request.paths = true;
        self.state(reason);
    }
}

impl Want for DaemonWant {
    type Request = DaemonRequest;

    fn is_empty(&self) -> bool {
        self.reason.is_none()
    }

    fn next(&mut self) -> Option<(DaemonRequest, Reason)> {
        let reason = self.reason.take()?;
        let request = std::mem::take(&mut self.request);
        Some((DaemonRequest { known: self.known, ..request }, reason))
    }
}
