//! The last reading of each source, and what can be wanted from it.
//!
//! A new reading replaces the old one, as a whole or for the devices that were read. An object that
//! a source could not read keeps its last reading.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::schedule::{Reason, Want};
use super::unassembled::{self, KnownPaths, Namesakes};
use crate::source::block::strangers::Candidate;
use crate::source::block::usage::Usage;
use crate::source::block::{self, Scope, SelectedDevices, Told, disks, maps};
use crate::source::interfaces::Addresses;
use crate::source::transports::{self, Way, Ways};
use crate::source::{Error, Io, device_mapper, multipathd};
use crate::topology::{Daemon, DevNo, Transports};

#[derive(Debug, Default)]
pub(crate) struct Readings {
    /// Device mapper. `None` if it is switched off.
    pub(crate) kernel: Option<KernelFacts>,
    /// Block devices in sysfs.
    pub(crate) block: BlockFacts,
    /// Sessions, ports and controllers in sysfs. `None` before the first reading.
    pub(crate) transports: Option<transports::TransportReading>,
    /// The addresses of the network interfaces.
    pub(crate) addresses: Arc<Addresses>,
    /// multipathd. `None` if it is switched off.
    pub(crate) multipathd: Option<DaemonFacts>,
}

/// The source that lists the device-mapper devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListSource {
    Kernel,
    Block,
    Multipathd,
}

impl Readings {
    /// Returns the source that lists the device-mapper devices, and when it was asked. It is the
    /// kernel itself, or else the newest reading. `None` if no source has listed any yet, because
    /// "no devices" would be false.
    pub(crate) fn list_source(&self) -> Option<(ListSource, Instant)> {
        let kernel = self.kernel.as_ref().and_then(|kernel| Some((kernel.read_at?, kernel)));
        match (kernel, self.block.maps_read_at) {
            (Some((read, kernel)), block) if kernel.current || block.is_none_or(|block| Some(block) <= kernel.came) => {
                Some((ListSource::Kernel, read))
            }
            (_, Some(block)) => Some((ListSource::Block, block)),
            (_, None) => {
                let read = self.multipathd.as_ref().and_then(|daemon| daemon.read_at);
                read.map(|read| (ListSource::Multipathd, read))
            }
        }
    }

    /// Returns when the source that lists the device-mapper devices was asked.
    pub(crate) fn listed_as_of(&self) -> Option<Instant> {
        self.list_source().map(|(_, asked)| asked)
    }

    /// Returns the device-mapper devices, sorted, and the source of the members of each one. For a
    /// map that device mapper lists but could never read, the source is sysfs.
    pub(crate) fn wwids(&self, list_source: ListSource) -> BTreeMap<Arc<str>, ListSource> {
        let all =
            |wwids: &mut dyn Iterator<Item = &Arc<str>>| wwids.map(|wwid| (Arc::clone(wwid), list_source)).collect();
        match list_source {
            ListSource::Kernel => {
                let never_read = self.kernel.iter().flat_map(|kernel| &kernel.never_read);
                let of_block = never_read.filter_map(|devno| Some((self.block.wwid(*devno)?, ListSource::Block)));
                let mut wwids: BTreeMap<_, _> = of_block.collect();
                wwids.append(&mut all(&mut self.kernel.iter().flat_map(|kernel| kernel.maps.keys())));
                wwids
            }
            ListSource::Block => all(&mut self.block.maps.keys()),
            ListSource::Multipathd => all(&mut self.multipathd.iter().flat_map(|daemon| daemon.maps.keys())),
        }
    }

    /// Returns the number of device-mapper devices in the kernel, from device mapper or sysfs.
    pub(crate) fn number_of_maps(&self) -> Option<usize> {
        match self.list_source()?.0 {
            ListSource::Kernel => self.kernel.as_ref().map(|kernel| kernel.told.len()),
            ListSource::Block => Some(self.block.maps.len()),
            ListSource::Multipathd => None,
        }
    }

    /// Forgets what multipathd's last reply says about maps that the kernel does not have. A reply
    /// that was under way during a removal may have contained the removed map.
    pub(crate) fn forget_facts_about_gone_maps(&mut self) {
        let Some((list_source, _)) =
            self.list_source().filter(|(list_source, _)| *list_source != ListSource::Multipathd)
        else {
            return;
        };
        if !self.multipathd.as_ref().is_some_and(|daemon| daemon.is_unsifted) {
            return;
        }
        let wwids = self.wwids(list_source);
        if let Some(daemon) = &mut self.multipathd {
            daemon.is_unsifted = false;
            daemon.maps.retain(|wwid, _| wwids.contains_key(wwid));
            daemon.left_out.retain(|wwid, _| wwids.contains_key(wwid));
        }
    }

    /// Returns true if a source lists this device.
    pub(crate) fn know(&self, wwid: &Arc<str>) -> bool {
        self.kernel.as_ref().is_some_and(|kernel| kernel.maps.contains_key(wwid))
            || self.block.maps.contains_key(wwid)
            || self.multipathd.as_ref().is_some_and(|daemon| daemon.maps.contains_key(wwid))
    }

    /// Returns true if device mapper's last reading is the present state.
    pub(crate) fn kernel_is_current(&self) -> bool {
        self.kernel.as_ref().is_some_and(|kernel| kernel.current)
    }

    /// Returns true if device mapper gives the present state of this device, or shows that it is no
    /// multipath device.
    pub(crate) fn kernel_describes(&self, devno: DevNo) -> bool {
        self.kernel.as_ref().is_some_and(|kernel| kernel.current && !kernel.never_read.contains(&devno))
    }

    /// Returns multipathd's state for the status page.
    pub(crate) fn daemon(&self) -> Daemon {
        self.multipathd.as_ref().map_or(Daemon::NotAsked, |daemon| daemon.state.clone())
    }

    pub(crate) fn transports(&self) -> Arc<Transports> {
        self.transports.as_ref().map(|reading| Arc::clone(&reading.transports)).unwrap_or_default()
    }

    /// Returns the remote ports that stay blocked.
    pub(crate) fn blocked_ways(&self) -> Arc<HashSet<Way>> {
        self.transports.as_ref().map(|reading| Arc::clone(&reading.blocked)).unwrap_or_default()
    }

    /// Returns the ways that lead from this host to the disks.
    pub(crate) fn ways(&self) -> Arc<Ways> {
        self.transports.as_ref().map(|reading| Arc::clone(&reading.ways)).unwrap_or_default()
    }
}

/// Device mapper's last reading.
#[derive(Debug, Default)]
pub(crate) struct KernelFacts {
    /// The maps by WWID.
    pub(crate) maps: BTreeMap<Arc<str>, Arc<device_mapper::Map>>,
    /// True if the last reading succeeded and none is late, so that `maps` is the present state.
    pub(crate) current: bool,
    /// True if this process may not ask device mapper.
    pub(crate) not_permitted: bool,
    /// When the last reading was requested.
    pub(crate) read_at: Option<Instant>,
    /// When the last reading arrived.
    came: Option<Instant>,
    /// Maps that device mapper lists and could never read. sysfs and multipathd describe them.
    pub(crate) never_read: BTreeSet<DevNo>,
    /// The maps, for the reader of their files.
    pub(crate) told: Arc<[Told]>,
}

impl KernelFacts {
    /// Takes a reading. Returns the members that their maps did not have before.
    pub(crate) fn take(&mut self, reading: &device_mapper::MapReading, asked: Instant, came: Instant) -> Vec<DevNo> {
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
        let never_read = reading.unreadable.iter().map(|(devno, _)| *devno).filter(|devno| !is_told(devno)).collect();
        let never_read_before = std::mem::replace(&mut self.never_read, never_read);
        let same = |(one, other): (&Arc<device_mapper::Map>, &Arc<device_mapper::Map>)| Arc::ptr_eq(one, other);
        if before.len() != self.maps.len()
            || never_read_before != self.never_read
            || !before.values().zip(self.maps.values()).all(same)
        {
            let told =
                |map: &Arc<device_mapper::Map>| Told { devno: map.devno, members: Some(map.members().collect()) };
            let never_read = self.never_read.iter().map(|devno| Told { devno: *devno, members: None });
            self.told = self.maps.values().map(told).chain(never_read).collect();
        }
        self.not_permitted = false;
        (self.read_at, self.came) = (Some(asked), Some(came));
        joined
    }
}

/// The wants for device mapper, added up.
#[derive(Debug, Default)]
pub(crate) struct KernelWant {
    request: device_mapper::MapRequest,
    reason: Option<Reason>,
}

impl KernelWant {
    /// Wants the maps whose event number has changed, and the map `dirty`.
    pub(crate) fn look(&mut self, dirty: Option<DevNo>) {
        self.request.dirty.extend(dirty);
        self.reason = self.reason.max(Some(Reason::Event));
    }

    /// Wants all maps. If events may have been lost, device mapper is also asked again which
    /// devices are maps.
    pub(crate) fn all(&mut self, reason: Reason) {
        self.request.all = true;
        self.request.anew |= matches!(reason, Reason::Overflow | Reason::Signal | Reason::Start);
        self.reason = self.reason.max(Some(reason));
    }
}

impl Want for KernelWant {
    type Request = device_mapper::MapRequest;

    fn is_empty(&self) -> bool {
        self.reason.is_none()
    }

    fn next(&mut self) -> Option<(device_mapper::MapRequest, Reason)> {
        let reason = self.reason.take()?;
        Some((std::mem::take(&mut self.request), reason))
    }
}

/// The last readings of block devices in sysfs.
#[derive(Debug, Default)]
pub(crate) struct BlockFacts {
    /// The multipath maps by WWID, if device mapper does not give them.
    pub(crate) maps: BTreeMap<Arc<str>, Arc<maps::SysfsMap>>,
    /// The disks by number.
    pub(crate) disks: HashMap<DevNo, Arc<disks::Disk>>,
    /// Grows with each change of a disk.
    pub(crate) disks_version: u64,
    /// The I/O of maps.
    pub(crate) io: BTreeMap<DevNo, Io>,
    /// Disks that may be unassembled.
    pub(crate) suspects: Vec<Namesakes>,
    /// The disks that are members of no map.
    pub(crate) candidates: Arc<[Candidate]>,
    /// [`block::HostFacts::member_ways`].
    pub(crate) member_ways: Arc<HashSet<Way>>,
    /// The kernel names of the block devices below the root file system.
    pub(crate) root: Arc<HashSet<String>>,
    pub(crate) usage: Arc<Usage>,
    /// When the last reading that listed the maps was requested.
    pub(crate) maps_read_at: Option<Instant>,
    /// True if everything has been read once.
    pub(crate) read_once: bool,
    wwids: HashMap<DevNo, Arc<str>>,
    by_address: HashMap<Arc<str>, DevNo>,
    /// Disks that are gone according to their last event. The reading that shows it may still come.
    removed: HashSet<DevNo>,
}

impl BlockFacts {
    pub(crate) fn take(&mut self, reading: &block::BlockReading, request: &block::BlockRequest, asked: Instant) {
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
            // Device mapper gives the maps, except a few.
            let told = request.told.iter().flat_map(|told| told.iter());
            let never_read = told.filter(|told| told.members.is_none());
            let read = never_read.filter_map(|told| Some((told.devno, reading.maps.get(&told.devno)?.clone())));
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

    fn take_maps(&mut self, maps: &BTreeMap<DevNo, Option<Arc<maps::SysfsMap>>>) {
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

    pub(crate) fn wwid(&self, devno: DevNo) -> Option<Arc<str>> {
        self.wwids.get(&devno).cloned()
    }

    /// Forgets all maps except `never_read`, because device mapper gives them again.
    pub(crate) fn forget_maps_but(&mut self, never_read: &BTreeSet<DevNo>) {
        self.wwids.retain(|devno, _| never_read.contains(devno));
        let wwids = &self.wwids;
        self.maps.retain(|_, map| wwids.contains_key(&map.devno));
        self.maps_read_at = None;
    }

    /// Returns true if a disk with this WWID may exist that is a member of no map. Without udev's
    /// name for any disk, it may exist.
    pub(crate) fn may_have_disk(&self, wwid: &str) -> bool {
        let are_known = !self.candidates.is_empty() || self.disks.values().any(|disk| disk.identity.udev.is_some());
        !are_known || self.candidates.iter().any(|candidate| *candidate.wwid == *wwid)
    }

    /// Returns the disk at this SCSI address.
    pub(crate) fn disk_at(&self, address: &str) -> Option<DevNo> {
        self.by_address.get(address).copied()
    }

    /// Returns true if a disk that was there is gone, according to its last event or the last
    /// reading.
    pub(crate) fn is_gone(&self, devno: DevNo) -> bool {
        self.removed.contains(&devno)
            || self.disks.get(&devno).is_some_and(|disk| disk.states.absent && !disk.hctl.is_empty())
    }

    /// Processes an event about a disk that comes or goes.
    pub(crate) fn note_event(&mut self, devno: DevNo, action: &str) {
        match action {
            "remove" if self.disks.contains_key(&devno) => drop(self.removed.insert(devno)),
            "add" => drop(self.removed.remove(&devno)),
            _ => {}
        }
    }

    /// Forgets the events of disks, because later events may have been lost.
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

/// Marks a disk as gone. A map may still hold it, so its name stays.
fn gone(disk: &Arc<disks::Disk>) -> Arc<disks::Disk> {
    let states = disks::States { absent: true, ..disks::States::default() };
    if disk.states == states {
        return Arc::clone(disk);
    }
    Arc::new(disks::Disk { states, ..(**disk).clone() })
}

/// The wants for block devices in sysfs, added up.
#[derive(Debug, Default)]
pub(crate) struct BlockWant {
    everything: Option<Reason>,
    states: bool,
    devices: SelectedDevices,
    /// True if the last reading was of single devices. In a storm of events, this gives the states
    /// a turn.
    devices_were_last: bool,
    /// The maps from device mapper, if it gives them.
    pub(crate) told: Option<Arc<[Told]>>,
    /// [`block::BlockRequest::open`].
    pub(crate) open: Arc<HashSet<Way>>,
}

impl BlockWant {
    /// Wants everything about every device.
    pub(crate) fn everything(&mut self, reason: Reason) {
        self.everything = self.everything.max(Some(reason));
    }

    /// Returns true if a full reading is wanted and has not begun.
    pub(crate) fn wants_everything(&self) -> bool {
        self.everything.is_some()
    }

    /// Wants everything that changes without an event.
    pub(crate) fn states(&mut self) {
        self.states = true;
    }

    /// Wants this map and its members.
    pub(crate) fn map(&mut self, devno: DevNo) {
        self.devices.maps.insert(devno);
    }

    /// Wants everything about this disk.
    pub(crate) fn disk(&mut self, devno: DevNo) {
        self.devices.disks.insert(devno);
    }

    /// Wants the users of block devices.
    pub(crate) fn usage(&mut self) {
        self.devices.usage = true;
    }

    /// Wants the states of these disks.
    pub(crate) fn states_of(&mut self, disks: impl IntoIterator<Item = DevNo>) {
        self.devices.states.extend(disks);
    }
}

impl Want for BlockWant {
    type Request = block::BlockRequest;

    fn is_empty(&self) -> bool {
        self.everything.is_none() && !self.states && self.devices == SelectedDevices::default()
    }

    fn next(&mut self) -> Option<(block::BlockRequest, Reason)> {
        let has_devices = self.devices != SelectedDevices::default();
        let (scope, reason) = if let Some(reason) = self.everything.take() {
            // A full reading includes everything wanted about members. Other disks are requested
            // again when they become members.
            (self.states, self.devices) = (false, SelectedDevices::default());
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
        Some((block::BlockRequest { scope, told: self.told.clone(), open: Arc::clone(&self.open) }, reason))
    }
}

/// The wants for sessions, ports and controllers, added up.
#[derive(Debug, Default)]
pub(crate) struct TransportsWant {
    anew: bool,
    reason: Option<Reason>,
    /// The addresses of the network interfaces.
    pub(crate) addresses: Arc<Addresses>,
    /// The interfaces to look for.
    pub(crate) interfaces: Arc<BTreeSet<Arc<str>>>,
    /// The WWIDs of NVMe heads that were devices in an earlier run.
    pub(crate) remembered: Arc<BTreeSet<Arc<str>>>,
}

impl TransportsWant {
    /// Wants the states. With `anew`, also wants the ports again.
    pub(crate) fn look(&mut self, anew: bool, reason: Reason) {
        self.anew |= anew;
        self.reason = self.reason.max(Some(reason));
    }
}

impl Want for TransportsWant {
    type Request = transports::TransportRequest;

    fn is_empty(&self) -> bool {
        self.reason.is_none()
    }

    fn next(&mut self) -> Option<(transports::TransportRequest, Reason)> {
        let reason = self.reason.take()?;
        let (addresses, wanted) = (Arc::clone(&self.addresses), Arc::clone(&self.interfaces));
        let (anew, remembered) = (std::mem::take(&mut self.anew), Arc::clone(&self.remembered));
        Some((transports::TransportRequest { anew, addresses, wanted, remembered }, reason))
    }
}

/// The want for the network interfaces.
#[derive(Debug, Default)]
pub(crate) struct InterfacesWant {
    /// True if the interfaces are to be read.
    pub(crate) wanted: bool,
    /// The source addresses of connections whose interface is not known.
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
pub(crate) struct DaemonFacts {
    pub(crate) state: Daemon,
    /// The maps by WWID.
    pub(crate) maps: BTreeMap<Arc<str>, Arc<multipathd::DaemonMap>>,
    /// Maps that the last reply left out. A multipathd that has just started knows none, which says
    /// nothing about their paths. So their last reading is still used as long as they exist.
    pub(crate) left_out: BTreeMap<Arc<str>, Arc<multipathd::DaemonMap>>,
    /// True if multipathd failed to give the maps when last asked.
    pub(crate) failed: bool,
    /// When the maps were requested that multipathd gave last.
    pub(crate) read_at: Option<Instant>,
    /// The paths that multipathd knows. The others are the ones that it ignores.
    pub(crate) known_paths: KnownPaths,
    /// True if the last reply may describe maps that the kernel does not have.
    is_unsifted: bool,
}

impl Default for DaemonFacts {
    fn default() -> Self {
        DaemonFacts {
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

impl DaemonFacts {
    /// Takes a reading of the maps. A map that could not be read keeps its last reading. A map that
    /// did not change keeps its allocation.
    pub(crate) fn take(&mut self, reading: multipathd::DaemonMaps, asked: Instant) {
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

    /// Records the paths that multipathd knows. `paths` is `None` if multipathd was not asked.
    /// `needed` is true if there are disks that multipathd may ignore. Returns true if multipathd
    /// is to be asked.
    pub(crate) fn know_paths(&mut self, up: bool, paths: Option<Result<HashSet<String>, Error>>, needed: bool) -> bool {
        let (known, ask) = match (paths, &self.known_paths) {
            _ if !up => (KnownPaths::CannotTell, false),
            (Some(Ok(paths)), _) => (KnownPaths::These(paths), false),
            (_, KnownPaths::These(paths)) if needed => (KnownPaths::These(paths.clone()), false),
            (Some(Err(_)), _) => (KnownPaths::CannotTell, false),
            // A restart of multipathd repairs no disk. So the disks shown stay until it answers.
            (None, KnownPaths::CannotTell) => (KnownPaths::CannotTell, needed),
            (None, _) => (KnownPaths::NotAsked, needed),
        };
        self.known_paths = known;
        ask
    }

    pub(crate) fn is_up(&self) -> bool {
        matches!(self.state, Daemon::Up(_))
    }

    /// Returns the last facts about a map, and true if they are still current.
    pub(crate) fn map(&self, wwid: &Arc<str>) -> Option<(&Arc<multipathd::DaemonMap>, bool)> {
        let stands = self.maps.get(wwid).map(|map| (map, true));
        stands.or_else(|| self.left_out.get(wwid).map(|map| (map, false)))
    }

    /// Forgets a map that is gone, so that the facts do not apply to a map that comes back.
    pub(crate) fn forget(&mut self, wwid: &Arc<str>) {
        self.maps.remove(wwid);
        self.left_out.remove(wwid);
    }
}

/// A request to multipathd. Its state is always included.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DaemonRequest {
    /// True if the maps are wanted.
    pub(crate) maps: bool,
    /// True if the maps and the names of all known paths are wanted.
    pub(crate) paths: bool,
    /// The number of maps, if it is known.
    pub(crate) known: Option<usize>,
}

/// multipathd's answer: its state, and the other facts that were requested.
#[derive(Debug)]
pub(crate) struct DaemonReply {
    /// The state, in multipathd's own word.
    pub(crate) state: Arc<str>,
    /// The maps, if they were requested.
    pub(crate) maps: Option<Result<multipathd::DaemonMaps, Error>>,
    /// The names of the known paths, if they were requested.
    pub(crate) paths: Option<Result<HashSet<String>, Error>>,
}

impl DaemonRequest {
    /// Sends the request.
    ///
    /// # Errors
    /// If multipathd does not give its state. The reply contains the errors about the other facts.
    pub(crate) async fn ask(self, client: &multipathd::DaemonClient) -> Result<DaemonReply, Error> {
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

async fn show_maps(client: &multipathd::DaemonClient, known: Option<usize>) -> Result<multipathd::DaemonMaps, Error> {
    let failed = |cause: &dyn std::error::Error| Error::new("multipathd, show maps json", cause);
    let reply = client.show_maps(known).await.map_err(|error| failed(&error))?;
    // Takes milliseconds on a large host, so it runs off the threads that answer scrapes.
    let parsed = tokio::task::spawn_blocking(move || multipathd::parse_maps(&reply)).await;
    parsed.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
}

/// The wants for multipathd, added up.
#[derive(Debug, Default)]
pub(crate) struct DaemonWant {
    request: DaemonRequest,
    reason: Option<Reason>,
    /// The number of maps, if it is known.
    pub(crate) known: Option<usize>,
}

impl DaemonWant {
    /// Wants the state.
    pub(crate) fn state(&mut self, reason: Reason) {
        self.reason = self.reason.max(Some(reason));
    }

    /// Wants the state and the maps.
    pub(crate) fn maps(&mut self, reason: Reason) {
        self.request.maps = true;
        self.state(reason);
    }

    /// Wants the state, the maps, and the names of the known paths.
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
