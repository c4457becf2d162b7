//! Assembles devices from what each source says about them: a pure function of readings, ledgers
//! and the devices built last.
//!
//! The kernel's own state decides. If device mapper may be read, it gives members and path states.
//! If not, sysfs gives the members, and the last reading gives the path states. They are
//! multipathd's, or the SCSI states if multipathd gives none. A path that no source knows counts as
//! valid. Every event newer than the reading corrects it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::Ledgers;
use super::io_errors::IoErrors;
use super::ledger::MapLedger;
use super::names::Speakers;
use super::readings::{ListSource, Readings};
use super::usage::LastWrite;
use crate::config::Config;
use crate::source::block::{disks, maps};
use crate::source::transports::{Way, Ways};
use crate::source::{Stall, UUID_PREFIX, device_mapper, multipathd};
use crate::topology::{Counts, DevNo, Device, Group, Kind, Mismatches, Path, PathState, luns};

/// A device, and the facts it was assembled from.
#[derive(Debug)]
pub(crate) struct AssembledMap {
    inputs: Inputs,
    carried: Carried,
    pub(crate) device: Arc<Device>,
    /// When the device was written to.
    pub(crate) written: LastWrite,
    /// How long its I/O has stood still.
    pub(crate) stall: Stall,
    /// True if the device was assembled in the last round, because its inputs had changed.
    pub(crate) is_new: bool,
    /// True if device mapper counted events of the map between the last two readings used for the
    /// device.
    pub(crate) event_nr_moved: bool,
}

impl AssembledMap {
    pub(crate) fn devno(&self) -> Option<DevNo> {
        self.inputs.devno()
    }

    /// Returns true if the device has more holders than its closed partition mappings. `None` if
    /// device mapper gives no open count.
    pub(crate) fn is_held(&self) -> Option<bool> {
        let closed = self.inputs.kernel.as_ref()?.closed_partitions;
        self.device.open_count.map(|open| open > closed.into())
    }

    /// Returns the same device for the next round.
    fn again(self) -> Self {
        AssembledMap { is_new: false, event_nr_moved: false, ..self }
    }

    fn event_nr(&self) -> Option<u32> {
        self.inputs.kernel.as_ref()?.event_nr
    }
}

/// The inputs that all devices share.
#[derive(Clone, Debug)]
struct Common {
    ways: Arc<Ways>,
    /// Remote ports whose disks wait with them.
    blocked_ways: Arc<HashSet<Way>>,
    /// Gives the arrays whose LUN numbers may differ.
    config: Arc<Config>,
}

impl Common {
    fn is_the_same(&self, other: &Common) -> bool {
        Arc::ptr_eq(&self.ways, &other.ways)
            && Arc::ptr_eq(&self.blocked_ways, &other.blocked_ways)
            && Arc::ptr_eq(&self.config, &other.config)
    }
}

/// The device-mapper devices by WWID.
pub(crate) type DmDevices = BTreeMap<Arc<str>, AssembledMap>;

/// Assembles all device-mapper devices. A device whose inputs are the same as in `last` is taken
/// over. For 1,000 devices with 8 paths, taking over needs a fifth of the time of assembling.
///
/// `withheld` returns true if a member's name is being looked up. A new device waits for the names
/// of all its members. In a known device only the member itself waits, unless no valid path would
/// be left without it.
pub(crate) fn devices(
    readings: &Readings,
    ledgers: &Ledgers,
    config: &Arc<Config>,
    mut last: DmDevices,
    withheld: impl Fn(DevNo) -> bool,
) -> DmDevices {
    let Some((list_source, _)) = readings.list_source() else { return DmDevices::new() };
    let empty = MapLedger::default();
    let common = Common { ways: readings.ways(), blocked_ways: readings.blocked_ways(), config: Arc::clone(config) };
    let mut devices = DmDevices::new();
    for (wwid, list_source) in readings.wwids(list_source) {
        let ledger = ledgers.get(&wwid).unwrap_or(&empty);
        let known = last.remove(&wwid);
        let mut inputs = Inputs::gather(readings, list_source, &wwid, ledger, &common);
        let known = match known {
            Some(known) if known.inputs.have_the_same_sources(&inputs) => {
                devices.insert(wwid, known.again());
                continue;
            }
            known => known,
        };
        let previous = known.as_ref().map(|known| &*known.device);
        inputs.find_members(&readings.block.disks, previous);
        if !inputs.withhold(previous, &withheld) {
            continue;
        }
        let built = match known {
            // Disks of other devices have changed.
            Some(known) if known.inputs.are_the_same(&inputs) => AssembledMap { inputs, ..known.again() },
            known => {
                let carried = Carried::after(known.as_ref(), &wwid, &inputs, ledger);
                let previous = known.as_ref().map(|known| &*known.device);
                let device = inputs.assemble(&wwid, ledger, &carried, previous);
                let event_nr = inputs.kernel.as_ref().and_then(|map| map.event_nr);
                let event_nr_moved = known.as_ref().is_some_and(|known| known.event_nr() != event_nr);
                let (written, stall) = known.as_ref().map(|known| (known.written, known.stall)).unwrap_or_default();
                // A device whose facts are unchanged is not published again.
                let device = match known {
                    Some(known) if *known.device == device => known.device,
                    _ => Arc::new(device),
                };
                AssembledMap { inputs, carried, device, written, stall, is_new: true, event_nr_moved }
            }
        };
        devices.insert(wwid, built);
    }
    devices
}

/// The knowledge about a device that is carried from round to round.
#[derive(Clone, Debug, Default)]
struct Carried {
    /// The sources whose names of members can be compared with the map's name.
    speakers: Speakers,
    /// For SCSI states as path states: the event number up to which the state of each disk includes
    /// all events. An unchanged state shows nothing new, because a failed path often still says
    /// `running`. A state that changes is newer than every event before it.
    floors: HashMap<DevNo, u64>,
    /// [`MapLedger::instance`].
    instance: u64,
    /// The I/O errors of its disks.
    io_errors: IoErrors,
}

impl Carried {
    fn after(known: Option<&AssembledMap>, wwid: &str, inputs: &Inputs, ledger: &MapLedger) -> Self {
        let mut carried = known.map(|known| known.carried.clone()).unwrap_or_default();
        carried.speakers.hear(wwid, inputs.disks());
        carried.io_errors.follow(inputs.disks(), |disk| {
            inputs.daemon_path(disk.devno).is_some_and(|path| path.checker_state.as_deref() == Some("ghost"))
        });
        if carried.instance != ledger.instance {
            carried.floors.clear();
            carried.instance = ledger.instance;
        }
        for disk in inputs.disks() {
            let last = known.and_then(|known| known.inputs.disk(disk.devno));
            // A disk that is gone has no state. A lost state is no improvement.
            if disk.states.device.is_some() && last.is_some_and(|last| last.states.device != disk.states.device) {
                carried.floors.insert(disk.devno, ledger.block_floor());
            }
        }
        carried
    }
}

/// All inputs of one device.
#[derive(Debug)]
struct Inputs {
    /// The source of the members.
    list_source: ListSource,
    /// The map in device mapper.
    kernel: Option<Arc<device_mapper::Map>>,
    /// The map in sysfs.
    block: Option<Arc<maps::SysfsMap>>,
    /// The map in multipathd.
    daemon: Option<Arc<multipathd::DaemonMap>>,
    /// True if multipathd answers now. If not, its facts are not shown, but its last path states
    /// are still used.
    daemon_answers: bool,
    /// The source of the path states.
    base: Base,
    members: Vec<MemberInputs>,
    /// True if some members wait for their names and are left out.
    withholds: bool,
    /// [`readings::BlockFacts::disks_version`](super::readings::BlockFacts::disks_version).
    disks_version: u64,
    inflight_requests: Option<u64>,
    common: Common,
    /// [`MapLedger::version`].
    ledger_version: u64,
    /// True if the root file system uses the device.
    root: bool,
}

/// The reading that gives the path states. `floor` is the highest event number that it includes.
/// Events with higher numbers are newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    /// Device mapper's reading. Each event triggers a new one. So an event above the floor is very
    /// recent, unless reading takes long or fails.
    Kernel { floor: u64 },
    /// multipathd's reading.
    Daemon { floor: u64 },
    /// The SCSI states of the disks.
    Fallback,
}

/// A member, and what is known about it.
#[derive(Clone, Debug)]
struct MemberInputs {
    devno: Option<DevNo>,
    group: Option<u32>,
    /// The path state in device mapper.
    kernel_valid: Option<bool>,
    /// The name of the member's link, if sysfs gives the members.
    name: Arc<str>,
    /// True if the member's link leads nowhere.
    gone: bool,
    disk: Option<Arc<disks::Disk>>,
}

impl MemberInputs {
    fn is_the_same(&self, other: &MemberInputs) -> bool {
        let key = |member: &MemberInputs| (member.devno, member.group, member.kernel_valid, member.gone);
        key(self) == key(other) && same(&self.disk, &other.disk) && self.name == other.name
    }
}

fn same<T>(one: &Option<Arc<T>>, other: &Option<Arc<T>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

impl Inputs {
    fn gather(
        readings: &Readings,
        list_source: ListSource,
        wwid: &Arc<str>,
        ledger: &MapLedger,
        common: &Common,
    ) -> Self {
        let block = readings.block.maps.get(wwid).cloned();
        let kernel = readings.kernel.as_ref().and_then(|kernel| kernel.maps.get(wwid).cloned());
        // If sysfs has newer facts, those of device mapper may be about an earlier map.
        let is_it = |map: &Arc<device_mapper::Map>| {
            list_source != ListSource::Block || block.as_ref().is_some_and(|block| block.devno == map.devno)
        };
        let kernel = kernel.filter(is_it);
        let daemon = readings.multipathd.as_ref().and_then(|daemon| daemon.map(wwid));
        let answers = readings.multipathd.as_ref().is_some_and(|daemon| daemon.is_up());
        let daemon_answers = answers && daemon.is_some_and(|(_, stands)| stands);
        let daemon = daemon.map(|(map, _)| Arc::clone(map));
        let mut inputs = Inputs {
            list_source,
            base: base(readings, kernel.is_some(), daemon.is_some(), ledger),
            kernel,
            block,
            daemon,
            daemon_answers,
            members: Vec::new(),
            withholds: false,
            disks_version: readings.block.disks_version,
            inflight_requests: None,
            common: common.clone(),
            ledger_version: ledger.version,
            root: false,
        };
        if let Some(devno) = inputs.devno() {
            inputs.inflight_requests = readings.block.io.get(&devno).map(|io| io.in_flight);
            // The number in a device-mapper device's name is its minor number.
            inputs.root = readings.block.root.contains(&*maps::kernel_name(devno.minor));
        }
        inputs
    }

    /// Finds the members, sorted by device number.
    fn find_members(&mut self, disks: &HashMap<DevNo, Arc<disks::Disk>>, previous: Option<&Device>) {
        let member = |devno: Option<DevNo>| MemberInputs {
            devno,
            group: devno.and_then(|devno| self.daemon_path(devno)).map(|path| path.group),
            kernel_valid: None,
            name: Arc::default(),
            gone: false,
            disk: devno.and_then(|devno| disks.get(&devno).cloned()),
        };
        let by_kernel = || {
            let groups = (1..).zip(self.kernel.iter().flat_map(|map| &map.groups));
            groups.flat_map(|(index, group)| group.paths.iter().map(move |path| (index, path)))
        };
        let in_kernel = matches!(self.base, Base::Kernel { .. });
        let mut members: Vec<MemberInputs> = match self.list_source {
            ListSource::Kernel => by_kernel()
                .map(|(index, path)| MemberInputs {
                    group: Some(index),
                    kernel_valid: Some(path.valid),
                    ..member(Some(path.devno))
                })
                .collect(),
            ListSource::Block => {
                let slaves = self.block.iter().flat_map(|map| &map.members);
                let slaves = slaves.map(|slave| {
                    let devno = slave.devno.or_else(|| self.number_of(&slave.name, previous));
                    let known = by_kernel().find(|(_, path)| in_kernel && Some(path.devno) == devno);
                    let member = MemberInputs { name: Arc::clone(&slave.name), gone: slave.gone, ..member(devno) };
                    match known {
                        Some((index, path)) => {
                            MemberInputs { group: Some(index), kernel_valid: Some(path.valid), ..member }
                        }
                        None => member,
                    }
                });
                let mut members: Vec<MemberInputs> = slaves.collect();
                // sysfs may no longer link to a member whose disk is gone, although the map still
                // holds the member. Only failed paths are added. A valid path may have been removed
                // since multipathd's reading, and any path once multipathd is down.
                let daemon_now = self.daemon.iter().filter(|_| self.daemon_answers);
                let held = daemon_now.flat_map(|map| &map.paths).filter(|path| path.valid == Some(false));
                for devno in held.filter_map(|path| path.devno) {
                    if members.iter().all(|member| member.devno != Some(devno)) {
                        members.push(member(Some(devno)));
                    }
                }
                members
            }
            ListSource::Multipathd => {
                let paths = self.daemon.iter().flat_map(|map| &map.paths);
                paths.filter(|path| path.devno.is_some()).map(|path| member(path.devno)).collect()
            }
        };
        members.sort_by_key(|member| member.devno);
        // A table may contain a disk in two path groups. It is one path.
        members.dedup_by(|again, member| {
            let same = again.devno == member.devno && again.devno.is_some();
            if same && again.kernel_valid == Some(true) {
                member.kernel_valid = Some(true);
            }
            same
        });
        self.members = members;
    }

    /// Returns the number of a member whose link leads nowhere. sysfs may not have seen the member
    /// while it was there.
    fn number_of(&self, name: &str, previous: Option<&Device>) -> Option<DevNo> {
        let mut shown = previous.into_iter().flat_map(|device| &device.paths);
        let mut known = self.daemon.iter().flat_map(|map| &map.paths);
        shown
            .find(|path| *path.name == *name)
            .and_then(|path| path.devno)
            .or_else(|| known.find(|path| *path.name == *name).and_then(|path| path.devno))
    }

    /// Leaves out members whose names are being looked up. Returns false if the whole device has to
    /// wait for them.
    fn withhold(&mut self, previous: Option<&Device>, withheld: &impl Fn(DevNo) -> bool) -> bool {
        let was_shown =
            |devno| previous.is_some_and(|device| device.paths.iter().any(|path| path.devno == Some(devno)));
        let waits = |member: &MemberInputs| {
            let nameless = member.disk.as_ref().is_none_or(|disk| disk.states.absent) && member.name.is_empty();
            nameless && member.devno.is_some_and(|devno| !was_shown(devno) && withheld(devno))
        };
        if !self.members.iter().any(waits) {
            return true;
        }
        if previous.is_none() {
            return false;
        }
        let is_valid = |member: &&MemberInputs| member.kernel_valid != Some(false);
        if self.members.iter().filter(|member| !waits(member)).any(|member| is_valid(&member)) {
            self.members.retain(|member| !waits(member));
            self.withholds = true;
        }
        true
    }

    /// Returns true if these are the same readings, so that the device built from them is the same
    /// too. `other` has not found its members yet. On a large host this saves the look-up of many
    /// thousand disks in each round.
    fn have_the_same_sources(&self, other: &Inputs) -> bool {
        !self.withholds && self.disks_version == other.disks_version && self.have_the_same_facts(other)
    }

    /// Returns true if these inputs are the same, although other disks may have changed.
    fn are_the_same(&self, other: &Inputs) -> bool {
        self.have_the_same_facts(other)
            && self.withholds == other.withholds
            && self.members.len() == other.members.len()
            && self.members.iter().zip(&other.members).all(|(one, other)| one.is_the_same(other))
    }

    fn have_the_same_facts(&self, other: &Inputs) -> bool {
        same(&self.kernel, &other.kernel)
            && same(&self.block, &other.block)
            && same(&self.daemon, &other.daemon)
            && self.common.is_the_same(&other.common)
            && self.daemon_answers == other.daemon_answers
            && self.base == other.base
            && self.ledger_version == other.ledger_version
            && (self.root, self.inflight_requests) == (other.root, other.inflight_requests)
            && self.list_source == other.list_source
    }

    fn devno(&self) -> Option<DevNo> {
        self.kernel.as_ref().map(|map| map.devno).or(self.block.as_ref().map(|map| map.devno))
    }

    fn assemble(&self, wwid: &Arc<str>, ledger: &MapLedger, carried: &Carried, previous: Option<&Device>) -> Device {
        let kernel = self.kernel.as_deref().filter(|_| matches!(self.base, Base::Kernel { .. }));
        let (block, daemon) = (self.block.as_deref(), self.daemon.as_deref());
        let daemon_now = daemon.filter(|_| self.daemon_answers);
        let paths: Vec<Path> =
            self.members.iter().map(|member| self.path(member, ledger, carried, daemon_now, previous)).collect();
        let groups = match (kernel, daemon) {
            (Some(map), _) => numbered(map.groups.iter().map(|group| group_state(group.letter))),
            (None, Some(map)) => numbered(map.groups.iter().map(|group| Arc::clone(&group.state))),
            (None, None) => Vec::new(),
        };
        let (active_group_priority, best_group_priority) = priorities(daemon_now, &groups, &paths);
        // All members are the same LUN. The vendor and model of a new member may not be known yet.
        let model = self.disks().map(|disk| &disk.model).find(|model| !model.product.is_empty());
        let vendor = known([
            model.map(|model| &model.vendor),
            daemon.map(|map| &map.vendor),
            previous.map(|device| &device.vendor),
        ]);
        let product = known([
            model.map(|model| &model.product),
            daemon.map(|map| &map.product),
            previous.map(|device| &device.product),
        ]);
        let read_only = (kernel.map(|map| map.read_only))
            .or(block.and_then(|map| map.read_only))
            .or(previous.and_then(|device| device.read_only));
        let size_bytes = (kernel.map(|map| map.size_bytes))
            .or(block.and_then(|map| map.size_bytes))
            .or(previous.and_then(|device| device.size_bytes));
        let suspended = (kernel.map(|map| map.suspended))
            .or(block.and_then(|map| map.suspended))
            .or(previous.and_then(|device| device.suspended));
        let lun = self.lun_mismatches(wwid, &vendor, &product, &paths);
        let mismatches = self.mismatches(wwid, &paths, carried.speakers, read_only, size_bytes, lun);
        Device {
            wwid: Arc::clone(wwid),
            name: known([
                kernel.map(|map| &map.name),
                block.map(|map| &map.name),
                daemon.map(|map| &map.name),
                previous.map(|device| &device.name),
            ]),
            sysfs_name: match kernel {
                Some(map) => maps::kernel_name(map.devno.minor).into(),
                None => known([
                    block.map(|map| &map.sysfs_name),
                    daemon.map(|map| &map.sysfs_name),
                    previous.map(|device| &device.sysfs_name),
                ]),
            },
            uuid: format!("{UUID_PREFIX}{wwid}").into(),
            kind: Kind::DeviceMapper,
            vendor,
            product,
            revision: known([
                model.map(|model| &model.revision),
                daemon.map(|map| &map.revision),
                previous.map(|device| &device.revision),
            ]),
            queueing: self.queueing(kernel, daemon, previous),
            suspended,
            read_only,
            size_bytes,
            open_count: kernel.map(|map| map.open_count.into()),
            // Decided once everything that may use the device is known.
            in_use: previous.and_then(|device| device.in_use),
            inflight_requests: self.inflight_requests,
            blocked_paths: self.blocked_paths(&paths),
            // Decided after each reading, even after one that changes nothing else.
            stalled: previous.and_then(|device| device.stalled),
            root: self.root,
            stray_paths: previous.map(|device| device.stray_paths.clone()).unwrap_or_default(),
            mismatches,
            lun_conflicts: luns::conflicts(&paths),
            daemon_counters: daemon_now.map(|map| map.counters),
            active_group_priority,
            best_group_priority,
            path_events: ledger.counts,
            repeated_path_failures: ledger.repeated_failures(),
            path_io_errors: carried.io_errors.total(),
            groups,
            paths,
        }
    }

    /// Returns true if I/O waits when no path is valid. A suspend that flushes removes
    /// `queue_if_no_path` from the table until the map is resumed (`multipath_presuspend` in
    /// `drivers/md/dm-mpath.c`). Meanwhile I/O waits as before, so the last value before the
    /// suspend holds.
    fn queueing(
        &self,
        kernel: Option<&device_mapper::Map>,
        daemon: Option<&multipathd::DaemonMap>,
        previous: Option<&Device>,
    ) -> Option<bool> {
        let before = previous.and_then(|device| device.queueing);
        let (queueing, suspended) = match (kernel, daemon) {
            (Some(map), _) => (Some(map.queueing), map.suspended),
            (None, Some(map)) => (map.queueing, map.suspended == Some(true)),
            (None, None) => (None, false),
        };
        if suspended && queueing == Some(false) { before } else { queueing.or(before) }
    }

    /// Counts the members that differ from the device, as far as sysfs and udev know them. `lun` is
    /// the number of members with another LUN number.
    fn mismatches(
        &self,
        wwid: &str,
        paths: &[Path],
        speakers: Speakers,
        read_only: Option<bool>,
        size_bytes: Option<u64>,
        lun: usize,
    ) -> Mismatches {
        let is_member = |disk: &&disks::Disk| paths.iter().any(|path| path.devno == Some(disk.devno));
        let disks = || self.disks().filter(is_member);
        let differ = |differs: &dyn Fn(&disks::Disk) -> bool| disks().filter(|disk| differs(disk)).count();
        Mismatches {
            // A disk without a size is gone, or was never there.
            size: differ(&|disk| {
                disk.size_bytes.is_some_and(|size| size > 0 && size_bytes.is_some_and(|whole| whole != size))
            }),
            read_only: differ(&|disk| disk.read_only.is_some() && read_only.is_some() && disk.read_only != read_only),
            wwid: differ(&|disk| speakers.call_another(wwid, disk)),
            lun,
        }
    }

    /// Counts the paths with another LUN number, unless the array is configured to number its LUNs
    /// by port.
    fn lun_mismatches(&self, wwid: &str, vendor: &str, product: &str, paths: &[Path]) -> usize {
        let mismatched = luns::mismatched_paths(paths);
        // The count is nearly always 0, and then no pattern has to be tried.
        let is_right = || self.common.config.expectation_of(wwid, vendor, product).is_some_and(|rule| !rule.same_lun);
        if mismatched > 0 && is_right() { 0 } else { mismatched }
    }

    /// Counts the valid paths that are blocked: I/O is sent there, and waits. A disk behind a
    /// blocked port fails I/O at once after `fast_io_fail_tmo`.
    fn blocked_paths(&self, paths: &[Path]) -> usize {
        let is_blocked = |disk: &disks::Disk| {
            let behind_port = disk.way.as_ref().is_some_and(|way| self.common.blocked_ways.contains(way));
            disk.states.stays_blocked || behind_port && !scsi_fails(disk)
        };
        let members = self.members.iter().zip(paths).filter(|(_, path)| path.state == PathState::Valid);
        members.filter(|(member, _)| member.disk.as_deref().is_some_and(is_blocked)).count()
    }

    /// The members' disks in sysfs.
    fn disks(&self) -> impl Iterator<Item = &disks::Disk> {
        self.members.iter().filter_map(|member| member.disk.as_deref())
    }

    fn disk(&self, devno: DevNo) -> Option<&disks::Disk> {
        self.disks().find(|disk| disk.devno == devno)
    }

    fn daemon_path(&self, devno: DevNo) -> Option<&multipathd::DaemonPath> {
        self.daemon.as_ref()?.paths.iter().find(|path| path.devno == Some(devno))
    }

    /// Returns true if the member is valid, and true if the kernel itself says so. multipathd also
    /// reports the kernel's status, beside its checker's state.
    fn valid(&self, member: &MemberInputs, ledger: &MapLedger, carried: &Carried) -> (bool, bool) {
        let Some(devno) = member.devno else { return (!member.gone, false) };
        let daemon_valid = self.daemon_path(devno).and_then(|path| path.valid);
        match (self.base, member.kernel_valid, daemon_valid) {
            (Base::Kernel { floor }, Some(valid), _) | (Base::Daemon { floor }, _, Some(valid)) => {
                (ledger.correction(devno, floor).unwrap_or(valid), true)
            }
            _ => {
                let fails = member.disk.as_deref().map_or(member.gone, scsi_fails);
                let floor = carried.floors.get(&devno).copied().unwrap_or_default();
                ledger.correction(devno, floor).map_or((!fails, false), |valid| (valid, true))
            }
        }
    }

    fn path(
        &self,
        member: &MemberInputs,
        ledger: &MapLedger,
        carried: &Carried,
        daemon_now: Option<&multipathd::DaemonMap>,
        previous: Option<&Device>,
    ) -> Path {
        let MemberInputs { devno, disk, .. } = member;
        let disk = disk.as_deref();
        let daemon = devno.and_then(|devno| self.daemon_path(devno));
        let previous = previous.and_then(|device| {
            let is_it = |path: &&Path| path.devno == *devno && (devno.is_some() || path.name == member.name);
            device.paths.iter().find(is_it)
        });
        let daemon_now = daemon_now.and(daemon);
        let number: Arc<str> = devno.map(|devno| devno.to_string()).unwrap_or_default().into();
        let name = known([
            disk.map(|disk| &disk.name),
            Some(&member.name),
            previous.map(|path| &path.name).filter(|name| **name != number),
            daemon.map(|path| &path.name),
            Some(&number),
        ]);
        let way = disk.and_then(|disk| self.common.ways.get(disk.way.as_ref()?));
        let last = previous.filter(|previous| disk.is_none_or(|disk| disk.hctl == previous.hctl));
        let ports = way.map(|(_, ports)| ports).or(disk.map(|disk| &disk.ports)).cloned().unwrap_or_default();
        let (is_valid, is_told) = self.valid(member, ledger, carried);
        Path {
            name,
            devno: *devno,
            hctl: known([disk.map(|disk| &disk.hctl), previous.map(|path| &path.hctl)]),
            transport: (way.map(|(transport, _)| *transport))
                .or(last.map(|path| path.transport).filter(|_| disk.is_none_or(|disk| disk.way.is_some())))
                .or(disk.map(|disk| disk.transport))
                .unwrap_or_default(),
            ports: match last {
                Some(last) => ports.or(&last.ports),
                None => ports,
            },
            group: member.group,
            state: if is_valid { PathState::Valid } else { PathState::Failed },
            is_told,
            failures: devno.map_or(0, |devno| ledger.failures(devno)),
            priority: daemon_now.and_then(|path| path.priority),
            checker_state: daemon_now.and_then(|path| path.checker_state.clone()),
            device_state: disk.and_then(|disk| disk.states.device.clone()),
            access_state: disk.and_then(|disk| disk.states.access.clone()),
            ana_state: None,
            marginal: daemon_now.and_then(|path| path.marginal),
            io_errors: disk.and_then(|disk| disk.io.errors),
            io_timeouts: disk.and_then(|disk| disk.io.timeouts),
            stalled: disk.and_then(|disk| disk.stalled),
        }
    }
}

/// Chooses the reading that gives the path states: device mapper's if it is current, otherwise the
/// newest one.
fn base(readings: &Readings, kernel_has_it: bool, daemon_has_it: bool, ledger: &MapLedger) -> Base {
    let kernel = Base::Kernel { floor: ledger.kernel_floor() };
    if kernel_has_it && readings.kernel_is_current() {
        return kernel;
    }
    let has_kernel_reading = kernel_has_it && ledger.has_kernel_reading();
    let has_daemon_reading = daemon_has_it && ledger.has_daemon_reading();
    match (has_kernel_reading, has_daemon_reading) {
        (true, false) => kernel,
        (true, true) if !ledger.daemon_is_newer() => kernel,
        (_, true) => Base::Daemon { floor: ledger.daemon_floor() },
        (false, false) => Base::Fallback,
    }
}

/// Returns true if I/O to the disk fails at once. It does so in these SCSI states, and if the SCSI
/// device is gone while the map still holds it. In the states `blocked` and `quiesce` I/O waits.
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

/// Returns the first choice that is not empty.
fn known<const N: usize>(choices: [Option<&Arc<str>>; N]) -> Arc<str> {
    choices.into_iter().flatten().find(|choice| !choice.is_empty()).cloned().unwrap_or_default()
}

/// Returns the priorities of the group in use and of the best group with a valid path.
fn priorities(
    daemon_now: Option<&multipathd::DaemonMap>,
    groups: &[Group],
    paths: &[Path],
) -> (Option<i64>, Option<i64>) {
    let Some(daemon_now) = daemon_now else { return (None, None) };
    let priority = |index| daemon_now.groups.iter().find(|group| group.index == index).and_then(|group| group.priority);
    let active = groups.iter().find(|group| &*group.state == "active").and_then(|group| priority(group.index));
    let has_valid = |group: &Group| {
        let states = paths.iter().filter(|path| path.group == Some(group.index)).map(|path| path.state);
        Counts::of(states).valid > 0
    };
    let best = groups.iter().filter(|group| has_valid(group)).filter_map(|group| priority(group.index)).max();
    (active, best)
}
