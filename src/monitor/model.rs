//! Tests of the monitor against a model of the kernel.
//!
//! Each case is a history. Maps come, go, and come back under the same number. Disks go and return.
//! Paths fail and are reinstated. The events about all this arrive late, in any order, twice, or
//! never. Each reading sees the host at some moment between its request and its arrival, or fails,
//! or hangs. Privileges and multipathd go and come back. After each step, the published state must
//! be possible. After each history everything is delivered, and the page must equal the kernel.
//!
//! Only tests compile this module, so each panic in it is a failed test.
//!
//! The readers here are fakes. They make readings of the model as the real ones make them of a
//! host.
//!
//! `MODEL_CASES=1000000 MODEL_SEED=7 cargo test --lib model` runs more cases, and different ones.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::time::SystemTime;

use proptest::prelude::*;
use proptest::test_runner::{Config as ProptestConfig, RngAlgorithm, TestRng, TestRunner};

use super::*;
use crate::event::EventType;
use crate::source::block::{HostFacts, Scope, SelectedDevices, Told, disks, maps};
use crate::source::health::Source;
use crate::source::interfaces::Addresses;
use crate::source::transports::nvme::{Head, HeadPath};
use crate::source::transports::{Way, Ways};
use crate::source::{block, device_mapper};
use crate::topology::{Device, NvmeController, PathState, Ports, Transport};
use crate::watch::{PathAction, PathEvent, Uevent};
use readings::{DaemonReply, DaemonRequest};

/// The number of histories of each of the four tests. `make test` plays 5,000.
const CASES: u32 = 1_000;
const STEPS: usize = 60;
const MAPS: u32 = 3;
const DISKS: u32 = 9;
/// Each map has its own disks.
const DISKS_OF_A_MAP: u32 = DISKS / MAPS;

/// A step of a history. The byte chooses the object.
#[derive(Clone, Copy, Debug)]
enum HistoryStep {
    Fail(u8),
    Reinstate(u8),
    CreateMap(u8),
    RemoveMap(u8),
    /// Remove the map and create it again before any reading.
    RecreateMap(u8),
    /// Show only the first members of a new map in sysfs, until the next change of the map.
    LinkSlowly(u8),
    /// Load the table again with the disks that are there.
    ReloadMap(u8),
    SuspendMap(u8),
    RemoveDisk(u8),
    ReturnDisk(u8),
    ToggleController(u8),
    DeliverFirst,
    DeliverAny(u8),
    DeliverAll,
    DeliverTwice(u8),
    Lose(u8),
    /// A reader sees the host as it is now, and answers later.
    Look(u8),
    Answer(u8),
    AnswerAll,
    FailToRead(u8),
    ToggleDaemon,
    TogglePermission,
    Wait(u8),
    WaitLong(u8),
}

fn step() -> impl Strategy<Value = HistoryStep> {
    use HistoryStep::*;
    prop_oneof![
        4 => any::<u8>().prop_map(Fail),
        3 => any::<u8>().prop_map(Reinstate),
        1 => any::<u8>().prop_map(CreateMap),
        1 => any::<u8>().prop_map(RemoveMap),
        1 => any::<u8>().prop_map(RecreateMap),
        1 => any::<u8>().prop_map(LinkSlowly),
        2 => any::<u8>().prop_map(ReloadMap),
        1 => any::<u8>().prop_map(SuspendMap),
        1 => any::<u8>().prop_map(RemoveDisk),
        2 => any::<u8>().prop_map(ReturnDisk),
        1 => any::<u8>().prop_map(ToggleController),
        4 => Just(DeliverFirst),
        2 => any::<u8>().prop_map(DeliverAny),
        2 => Just(DeliverAll),
        1 => any::<u8>().prop_map(DeliverTwice),
        1 => any::<u8>().prop_map(Lose),
        3 => any::<u8>().prop_map(Look),
        5 => any::<u8>().prop_map(Answer),
        3 => Just(AnswerAll),
        1 => any::<u8>().prop_map(FailToRead),
        1 => Just(ToggleDaemon),
        1 => Just(TogglePermission),
        4 => any::<u8>().prop_map(Wait),
        1 => any::<u8>().prop_map(WaitLong),
    ]
}

/// The start of a history, and the events that may occur in it.
#[derive(Clone, Copy, Debug)]
struct Terms {
    /// Device mapper may be asked, and may lose that right.
    privileged: bool,
    daemon: bool,
    /// Events may be lost.
    loses_events: bool,
}

#[derive(Clone, Debug)]
struct KernelMap {
    wwid: Arc<str>,
    diskseq: u64,
    dm_seqnum: u64,
    event_nr: u32,
    suspended: bool,
    members: Vec<(DevNo, bool)>,
    /// The number of members that sysfs shows, if it does not show all of them yet. The kernel
    /// links the members of a new map one after the other.
    linked: Option<usize>,
    /// How often a path of the map has failed since the map was created.
    failures: u64,
    /// True if the map was there at the start and has not been created again.
    is_first: bool,
    /// True if a path became valid without an event. The table was loaded while a path was failed.
    /// Or the disk of a failed path came back, and the SCSI layer calls it running.
    has_silent_change: bool,
}

#[derive(Clone, Debug)]
struct KernelDisk {
    session: u32,
    /// Requests that have failed since the disk came.
    errors: u64,
}

struct Kernel {
    maps: BTreeMap<u32, KernelMap>,
    disks: BTreeMap<u32, KernelDisk>,
    controllers: [bool; 2],
    next_diskseq: u64,
    next_session: u32,
    seqnum: u64,
    permitted: bool,
    daemon: bool,
    /// Events that were raised and have not arrived.
    raised: Vec<Uevent>,
    /// The moment of an event that is raised now.
    now: Instant,
}

fn disk_number(disk: u32) -> DevNo {
    DevNo { major: 8, minor: disk * 16 }
}

fn map_number(minor: u32) -> DevNo {
    DevNo { major: 254, minor }
}

fn disk_name(disk: u32) -> Arc<str> {
    format!("sd{}", char::from(b'a' + disk as u8)).into()
}

fn index_of(devno: DevNo) -> u32 {
    devno.minor / 16
}

fn session_ports(session: u32) -> Ports {
    Ports {
        initiator_port: format!("eth{session}").into(),
        target: "iqn".into(),
        target_port: format!("portal{session}").into(),
    }
}

impl Kernel {
    fn new(terms: Terms) -> Self {
        let mut kernel = Kernel {
            maps: BTreeMap::new(),
            disks: BTreeMap::new(),
            controllers: [true; 2],
            next_diskseq: 1,
            next_session: 1,
            seqnum: 0,
            permitted: terms.privileged,
            daemon: terms.daemon,
            raised: Vec::new(),
            now: Instant::now(),
        };
        (0..DISKS).for_each(|disk| kernel.return_disk(disk));
        (0..MAPS - 1).for_each(|minor| kernel.create_map(minor, 0));
        kernel.maps.values_mut().for_each(|map| map.is_first = true);
        kernel.raised.clear();
        kernel
    }

    fn raise(&mut self, sysname: String, devno: DevNo, action: &str, diskseq: Option<u64>, path: Option<PathEvent>) {
        self.seqnum += 1;
        self.raised.push(Uevent {
            seqnum: self.seqnum,
            action: action.into(),
            sysname: sysname.into(),
            devno: Some(devno),
            diskseq,
            synthetic: false,
            is_partition: false,
            path,
            received: self.now,
            time: SystemTime::now(),
        });
    }

    fn raise_of_map(&mut self, minor: u32, action: &str) {
        let diskseq = self.maps.get(&minor).map(|map| map.diskseq);
        self.raise(maps::kernel_name(minor), map_number(minor), action, diskseq, None);
    }

    fn create_map(&mut self, minor: u32, variant: u32) {
        if self.maps.contains_key(&minor) {
            return;
        }
        let map = KernelMap {
            wwid: format!("36000{minor}{variant}").into(),
            diskseq: self.next_diskseq,
            dm_seqnum: 0,
            event_nr: 0,
            suspended: false,
            members: Vec::new(),
            linked: None,
            failures: 0,
            is_first: false,
            has_silent_change: false,
        };
        self.next_diskseq += 1;
        self.maps.insert(minor, map);
        self.raise_of_map(minor, "add");
        self.reload_map(minor);
    }

    fn remove_map(&mut self, minor: u32) {
        if self.maps.contains_key(&minor) {
            self.raise_of_map(minor, "remove");
            self.maps.remove(&minor);
        }
    }

    fn reload_map(&mut self, minor: u32) {
        let disks = (minor * DISKS_OF_A_MAP..(minor + 1) * DISKS_OF_A_MAP).filter(|disk| self.disks.contains_key(disk));
        let members: Vec<_> = disks.map(|disk| (disk_number(disk), true)).collect();
        let Some(map) = self.maps.get_mut(&minor) else { return };
        map.has_silent_change |= map.members.iter().any(|(_, valid)| !valid);
        map.members = members;
        map.linked = None;
        map.event_nr += 1;
        map.suspended = false;
        self.raise_of_map(minor, "change");
    }

    fn link_slowly(&mut self, minor: u32, linked: usize) {
        if let Some(map) = self.maps.get_mut(&minor).filter(|map| !map.is_first && map.event_nr == 1) {
            map.linked = Some(linked);
        }
    }

    /// Links all members of all maps. The event of each resume follows.
    fn link_all(&mut self) {
        let linking = self.maps.iter_mut().filter_map(|(minor, map)| map.linked.take().map(|_| *minor));
        linking.collect::<Vec<_>>().into_iter().for_each(|minor| self.raise_of_map(minor, "change"));
    }

    /// Fails or reinstates a path.
    fn set_path(&mut self, minor: u32, path: usize, valid: bool) {
        let Some(map) = self.maps.get_mut(&minor) else { return };
        let valid_paths = map.members.iter().filter(|(_, valid)| *valid).count() as u64;
        let Some((devno, state)) = map.members.get_mut(path) else { return };
        if *state == valid || valid && !self.disks.contains_key(&index_of(*devno)) {
            return;
        }
        *state = valid;
        map.linked = None;
        map.dm_seqnum += 1;
        map.event_nr += 1;
        map.failures += u64::from(!valid);
        if let Some(disk) = self.disks.get_mut(&index_of(*devno)).filter(|_| !valid) {
            disk.errors += 1;
        }
        let (action, valid_paths) =
            if valid { (PathAction::Reinstated, valid_paths + 1) } else { (PathAction::Failed, valid_paths - 1) };
        let event = PathEvent {
            wwid: Arc::clone(&map.wwid),
            name: "mpath".into(),
            action,
            path: *devno,
            dm_seqnum: map.dm_seqnum,
            valid_paths: Some(valid_paths),
        };
        let diskseq = map.diskseq;
        self.raise(maps::kernel_name(minor), map_number(minor), "change", Some(diskseq), Some(event));
    }

    fn remove_disk(&mut self, disk: u32) {
        if self.disks.remove(&disk).is_some() {
            self.raise(disk_name(disk).to_string(), disk_number(disk), "remove", None, None);
            let minor = disk / DISKS_OF_A_MAP;
            let members = self.maps.get(&minor).map(|map| map.members.clone()).unwrap_or_default();
            if let Some(path) = members.iter().position(|(devno, _)| *devno == disk_number(disk)) {
                self.set_path(minor, path, false);
            }
        }
    }

    fn return_disk(&mut self, disk: u32) {
        if !self.disks.contains_key(&disk) {
            self.disks.insert(disk, KernelDisk { session: self.next_session, errors: 0 });
            if let Some(map) = self.maps.get_mut(&(disk / DISKS_OF_A_MAP)) {
                map.has_silent_change |= map.members.contains(&(disk_number(disk), false));
            }
            self.next_session += 1;
            self.raise(disk_name(disk).to_string(), disk_number(disk), "add", None, None);
        }
    }

    fn disk(&self, devno: DevNo) -> Option<disks::Disk> {
        let disk = self.disks.get(&index_of(devno))?;
        Some(disks::Disk {
            devno,
            name: disk_name(index_of(devno)),
            hctl: format!("{}:0:0:{}", disk.session, index_of(devno)).into(),
            transport: Transport::Iscsi,
            way: Some(Way::Iscsi(format!("session{}", disk.session).into())),
            ports: Default::default(),
            model: disks::Model::default(),
            identity: disks::DiskIdentity::default(),
            size_bytes: Some(1),
            read_only: Some(false),
            io: disks::IoCounts { errors: Some(self.disks[&index_of(devno)].errors), timeouts: None },
            stalled: None,
            states: disks::States { device: Some("running".into()), ..disks::States::default() },
        })
    }

    fn kernel_map(&self, minor: u32) -> device_mapper::Map {
        let map = &self.maps[&minor];
        let member = |(devno, valid): &(DevNo, bool)| device_mapper::StatusPath { devno: *devno, valid: *valid };
        device_mapper::Map {
            devno: map_number(minor),
            event_nr: Some(map.event_nr),
            name: "mpath".into(),
            wwid: Arc::clone(&map.wwid),
            uuid: format!("mpath-{}", map.wwid).into(),
            open_count: 1,
            closed_partitions: 1,
            read_only: false,
            suspended: map.suspended,
            // This suspend flushes.
            queueing: !map.suspended,
            size_bytes: 1,
            groups: vec![device_mapper::StatusGroup { letter: 'A', paths: map.members.iter().map(member).collect() }],
        }
    }

    fn sysfs_map(&self, minor: u32) -> maps::SysfsMap {
        let map = &self.maps[&minor];
        let slave = |(devno, _): &(DevNo, bool)| maps::Slave {
            devno: Some(*devno),
            name: disk_name(index_of(*devno)),
            place: "place".into(),
            gone: !self.disks.contains_key(&index_of(*devno)),
        };
        maps::SysfsMap {
            wwid: Arc::clone(&map.wwid),
            sysfs_name: maps::kernel_name(minor).into(),
            devno: map_number(minor),
            name: "mpath".into(),
            diskseq: Some(map.diskseq),
            suspended: Some(map.suspended),
            size_bytes: Some(1),
            read_only: Some(false),
            members: map.members.iter().take(map.linked.unwrap_or(usize::MAX)).map(slave).collect(),
        }
    }

    fn daemon_map(&self, minor: u32) -> multipathd::DaemonMap {
        let map = &self.maps[&minor];
        let path = |(devno, valid): &(DevNo, bool)| multipathd::DaemonPath {
            name: disk_name(index_of(*devno)),
            devno: Some(*devno),
            group: 1,
            valid: Some(*valid),
            ..multipathd::DaemonPath::default()
        };
        multipathd::DaemonMap {
            wwid: Arc::clone(&map.wwid),
            name: "mpath".into(),
            queueing: Some(!map.suspended),
            suspended: Some(map.suspended),
            paths: map.members.iter().map(path).collect(),
            ..multipathd::DaemonMap::default()
        }
    }
}

/// The readers: what they remember from one reading to the next, and what they are doing.
#[derive(Default)]
struct FakeReaders {
    asked: BTreeMap<&'static str, Asked>,
    kernel: BTreeMap<u32, Arc<device_mapper::Map>>,
    maps: BTreeMap<u32, Arc<maps::SysfsMap>>,
    disks: BTreeMap<DevNo, Arc<disks::Disk>>,
    ways: Arc<Ways>,
    heads: Vec<Arc<Head>>,
}

struct Asked {
    ask: Ask,
    at: Instant,
    seen: Option<Reply>,
}

const LANES: [&str; 5] = ["kernel", "block", "transports", "interfaces", "daemon"];

fn lane_of(ask: &Ask) -> &'static str {
    match ask {
        Ask::Kernel(_) => "kernel",
        Ask::Block(_) => "block",
        Ask::Transports(_) => "transports",
        Ask::Interfaces => "interfaces",
        Ask::Daemon(_) => "daemon",
    }
}

/// Returns the same allocation for an equal value.
fn shared<T: PartialEq>(last: Option<&Arc<T>>, now: T) -> Arc<T> {
    last.filter(|last| ***last == now).cloned().unwrap_or_else(|| Arc::new(now))
}

impl FakeReaders {
    fn look(&mut self, lane: &'static str, kernel: &Kernel) {
        let Some(asked) = self.asked.get(lane).filter(|asked| asked.seen.is_none()) else { return };
        let reply = match asked.ask.clone() {
            Ask::Kernel(request) => Reply::Kernel(self.look_at_kernel(&request, kernel)),
            Ask::Block(request) => Reply::Block(Ok(self.look_at_block(&request, kernel))),
            Ask::Transports(_) => Reply::Transports(Ok(self.look_at_transports(kernel))),
            Ask::Interfaces => Reply::Interfaces(Ok(Addresses::default())),
            Ask::Daemon(request) => Reply::Daemon(look_at_daemon(request, kernel)),
        };
        if let Some(asked) = self.asked.get_mut(lane) {
            asked.seen = Some(reply);
        }
    }

    fn look_at_kernel(
        &mut self,
        request: &device_mapper::MapRequest,
        kernel: &Kernel,
    ) -> Result<device_mapper::MapReading, Error> {
        if !kernel.permitted {
            return Err(Error::io("control", &rustix::io::Errno::ACCESS.into()));
        }
        let last = std::mem::take(&mut self.kernel);
        for minor in kernel.maps.keys() {
            let now = kernel.kernel_map(*minor);
            let known = last.get(minor).filter(|known| known.uuid == now.uuid);
            // A map whose event number has not changed is not read, unless the request asks for it.
            let stays = known
                .filter(|known| known.event_nr == now.event_nr && !request.all && !request.dirty.contains(&now.devno));
            self.kernel.insert(*minor, stays.cloned().unwrap_or_else(|| shared(known, now)));
        }
        Ok(device_mapper::MapReading { maps: self.kernel.values().cloned().collect(), unreadable: Vec::new() })
    }

    fn look_at_block(&mut self, request: &block::BlockRequest, kernel: &Kernel) -> block::BlockReading {
        let mut reading = block::BlockReading::default();
        match (&request.scope, &request.told) {
            (Scope::Everything, told) => {
                match told {
                    Some(told) => {
                        let members =
                            told.iter().flat_map(|Told { members, .. }| members.iter().flat_map(|all| &**all));
                        members.for_each(|devno| self.look_at_disk(*devno, kernel, &mut reading));
                        self.maps.clear();
                    }
                    None => {
                        self.maps.retain(|minor, _| kernel.maps.contains_key(minor));
                        let minors: Vec<u32> = kernel.maps.keys().copied().collect();
                        minors.into_iter().for_each(|minor| self.look_at_map(minor, kernel, &mut reading));
                    }
                }
                self.disks.retain(|devno, _| reading.disks.get(devno).is_some_and(Option::is_some));
                reading.host = Some(HostFacts {
                    has_maps: told.is_none(),
                    candidates: Arc::default(),
                    member_ways: Arc::default(),
                    root: Arc::default(),
                });
            }
            (Scope::States, _) => {
                let known: Vec<DevNo> = self.disks.keys().copied().collect();
                known.into_iter().for_each(|devno| self.look_at_states(devno, kernel, &mut reading));
                for map in self.maps.values() {
                    reading.maps.insert(map.devno, Some(Arc::clone(map)));
                }
            }
            (Scope::Devices(SelectedDevices { maps, disks, states, .. }), _) => {
                maps.iter().for_each(|devno| self.look_at_map(devno.minor, kernel, &mut reading));
                disks.iter().for_each(|devno| self.look_at_disk(*devno, kernel, &mut reading));
                states.iter().for_each(|devno| self.look_at_states(*devno, kernel, &mut reading));
            }
        }
        reading
    }

    fn look_at_map(&mut self, minor: u32, kernel: &Kernel, reading: &mut block::BlockReading) {
        let last = self.maps.remove(&minor);
        reading.maps.insert(map_number(minor), None);
        if !kernel.maps.contains_key(&minor) {
            return;
        }
        let map = shared(last.as_ref(), kernel.sysfs_map(minor));
        let members: Vec<DevNo> = map.members.iter().filter_map(|slave| slave.devno).collect();
        members.into_iter().for_each(|devno| self.look_at_disk(devno, kernel, reading));
        self.maps.insert(minor, Arc::clone(&map));
        reading.maps.insert(map_number(minor), Some(map));
    }

    fn look_at_disk(&mut self, devno: DevNo, kernel: &Kernel, reading: &mut block::BlockReading) {
        if reading.disks.contains_key(&devno) {
            return;
        }
        let last = self.disks.remove(&devno);
        let disk = kernel.disk(devno).map(|disk| shared(last.as_ref(), disk));
        self.disks.extend(disk.clone().map(|disk| (devno, disk)));
        reading.disks.insert(devno, disk);
    }

    fn look_at_states(&mut self, devno: DevNo, kernel: &Kernel, reading: &mut block::BlockReading) {
        let Some(last) = self.disks.get(&devno).cloned() else {
            return self.look_at_disk(devno, kernel, reading);
        };
        // The files of the directory in which the disk was found. Another session has other
        // directories.
        let there = kernel.disk(devno).filter(|disk| disk.hctl == last.hctl);
        let states = there.map_or(disks::States { absent: true, ..Default::default() }, |disk| disk.states);
        let disk = shared(Some(&last), disks::Disk { states, ..(*last).clone() });
        self.disks.insert(devno, Arc::clone(&disk));
        reading.disks.insert(devno, Some(disk));
    }

    fn look_at_transports(&mut self, kernel: &Kernel) -> transports::TransportReading {
        let ways = kernel.disks.values().map(|disk| {
            let session = Way::Iscsi(format!("session{}", disk.session).into());
            (session, (Transport::Iscsi, session_ports(disk.session)))
        });
        self.ways = shared(Some(&self.ways), ways.collect());
        let path = |(index, is_live): (usize, &bool)| HeadPath {
            name: format!("nvme0c{index}n1").into(),
            controller: Arc::new(NvmeController {
                state: if *is_live { "live" } else { "connecting" }.into(),
                ..NvmeController::default()
            }),
            ..HeadPath::default()
        };
        let head = Head {
            wwid: "uuid.1".into(),
            name: "nvme0n1".into(),
            paths: kernel.controllers.iter().enumerate().map(path).collect(),
            ..Head::default()
        };
        self.heads = vec![shared(self.heads.first(), head)];
        transports::TransportReading {
            ways: Arc::clone(&self.ways),
            heads: self.heads.clone(),
            ..transports::TransportReading::default()
        }
    }
}

fn look_at_daemon(request: DaemonRequest, kernel: &Kernel) -> Result<DaemonReply, Error> {
    if !kernel.daemon {
        return Err(Error::new("multipathd", "is not running"));
    }
    let maps = kernel.maps.keys().map(|minor| Arc::new(kernel.daemon_map(*minor))).collect();
    Ok(DaemonReply {
        state: "idle".into(),
        maps: request.maps.then_some(Ok(multipathd::DaemonMaps { maps, unreadable: Vec::new() })),
        paths: request.paths.then(|| Ok(Default::default())),
    })
}

/// The host, the monitor, and everything between them.
struct Game {
    terms: Terms,
    kernel: Kernel,
    readers: FakeReaders,
    state: State,
    board: Board,
    now: Now,
    lost_events: bool,
    /// True if an event came so late that it is taken for another one.
    was_very_late: bool,
    /// True if device mapper could not be asked at some time.
    was_refused: bool,
    last: Option<Arc<Snapshot>>,
}

type CaseResult = Result<(), TestCaseError>;

impl Game {
    fn new(terms: Terms) -> Self {
        let options = Options { device_mapper: true, multipathd: Some(Duration::from_secs(2)), ..Options::default() };
        let now = Now::get();
        let (mut state, board) = State::new(options, Memory::default(), Arc::default(), now);
        state.expect_events();
        state.wake([Wake::Watching(Watcher::Uevent)].into_iter(), now);
        state.begin(now);
        Game {
            terms,
            kernel: Kernel::new(terms),
            readers: FakeReaders::default(),
            state,
            board,
            now,
            lost_events: false,
            was_very_late: false,
            was_refused: !terms.privileged,
            last: None,
        }
    }

    fn take(&mut self, step: HistoryStep) -> CaseResult {
        let map = |byte: u8| u32::from(byte) % MAPS;
        match step {
            HistoryStep::Fail(byte) => self.kernel.set_path(map(byte), usize::from(byte) / 3 % 3, false),
            HistoryStep::Reinstate(byte) => self.kernel.set_path(map(byte), usize::from(byte) / 3 % 3, true),
            HistoryStep::CreateMap(byte) => self.make_map(map(byte), u32::from(byte) / 3 % 2),
            HistoryStep::RemoveMap(byte) => self.kernel.remove_map(map(byte)),
            HistoryStep::RecreateMap(byte) => {
                self.kernel.remove_map(map(byte));
                self.make_map(map(byte), u32::from(byte) / 3 % 2);
            }
            HistoryStep::LinkSlowly(byte) => self.kernel.link_slowly(map(byte), usize::from(byte) / 3 % 3),
            HistoryStep::ReloadMap(byte) => self.kernel.reload_map(map(byte)),
            HistoryStep::SuspendMap(byte) => {
                if let Some(map) = self.kernel.maps.get_mut(&map(byte)) {
                    map.suspended = !map.suspended;
                }
            }
            HistoryStep::RemoveDisk(byte) => self.kernel.remove_disk(u32::from(byte) % DISKS),
            HistoryStep::ReturnDisk(byte) => self.kernel.return_disk(u32::from(byte) % DISKS),
            HistoryStep::ToggleController(byte) => {
                let controller = &mut self.kernel.controllers[usize::from(byte) % 2];
                *controller = !*controller;
            }
            HistoryStep::DeliverFirst => self.deliver(0, true),
            HistoryStep::DeliverAny(byte) => self.deliver(byte.into(), true),
            HistoryStep::DeliverTwice(byte) => self.deliver(byte.into(), false),
            HistoryStep::DeliverAll => self.deliver_all(),
            HistoryStep::Lose(byte) => self.lose(byte.into()),
            HistoryStep::Look(byte) => self.readers.look(LANES[usize::from(byte) % LANES.len()], &self.kernel),
            HistoryStep::Answer(byte) => self.answer(LANES[usize::from(byte) % LANES.len()]),
            HistoryStep::AnswerAll => {
                for lane in LANES {
                    self.answer(lane);
                    self.go_round()?;
                }
            }
            HistoryStep::FailToRead(byte) => self.fail_to_read(LANES[usize::from(byte) % LANES.len()]),
            HistoryStep::ToggleDaemon => self.kernel.daemon = !self.kernel.daemon,
            HistoryStep::TogglePermission => self.kernel.permitted = !self.kernel.permitted && self.terms.privileged,
            HistoryStep::Wait(byte) => self.wait(Duration::from_millis(u64::from(byte) * 8)),
            HistoryStep::WaitLong(byte) => self.wait(Duration::from_millis(u64::from(byte) * 250)),
        }
        self.go_round()
    }

    /// Delivers an event now. The watcher does not know about the events that still come.
    fn deliver(&mut self, index: usize, once: bool) {
        let Some(last) = self.kernel.raised.len().checked_sub(1) else { return };
        let wanted = &self.kernel.raised[index.min(last)];
        // Only path events overtake each other. The events about a device itself arrive in order.
        let is_before = |event: &Uevent| event.path.is_none() && event.devno == wanted.devno;
        let first = self.kernel.raised.iter().position(is_before).filter(|_| wanted.path.is_none());
        let index = first.unwrap_or(index.min(last));
        let uevent = if once { self.kernel.raised.remove(index) } else { self.kernel.raised[index].clone() };
        self.was_very_late |= uevent.received + Duration::from_secs(60) < self.now.instant;
        self.tick();
        let uevent = Uevent { received: self.now.instant, time: self.now.time, ..uevent };
        // Device mapper's own event poll reports the same event.
        let woke = uevent.sysname.starts_with("dm-").then_some(Wake::DeviceMapper);
        self.state.wake([Wake::Uevent(Box::new(uevent))].into_iter().chain(woke), self.now);
    }

    fn deliver_all(&mut self) {
        while !self.kernel.raised.is_empty() {
            self.deliver(0, true);
        }
    }

    fn lose(&mut self, index: usize) {
        if !self.terms.loses_events || self.kernel.raised.is_empty() {
            return;
        }
        self.kernel.raised.remove(index % self.kernel.raised.len());
        self.lost_events = true;
        self.state.wake([Wake::Overflow].into_iter(), self.now);
    }

    /// Advances the clock, because no two things happen at the same moment.
    fn tick(&mut self) {
        self.now.instant += Duration::from_nanos(1);
    }

    fn answer(&mut self, lane: &'static str) {
        self.tick();
        self.readers.look(lane, &self.kernel);
        if let Some(reply) = self.readers.asked.remove(lane).and_then(|asked| asked.seen) {
            self.state.take((reply, Duration::ZERO), self.now);
        }
    }

    fn fail_to_read(&mut self, lane: &'static str) {
        let broken = || Error::new(lane, "broken");
        let reply = match self.readers.asked.remove(lane).map(|asked| asked.ask) {
            Some(Ask::Kernel(_)) => Reply::Kernel(Err(broken())),
            Some(Ask::Block(_)) => Reply::Block(Err(broken())),
            Some(Ask::Transports(_)) => Reply::Transports(Err(broken())),
            Some(Ask::Interfaces) => Reply::Interfaces(Err(broken())),
            Some(Ask::Daemon(_)) => Reply::Daemon(Err(broken())),
            None => return,
        };
        self.state.take((reply, Duration::ZERO), self.now);
    }

    fn wait(&mut self, time: Duration) {
        self.now = Now { instant: self.now.instant + time, time: self.now.time + time };
        self.kernel.now = self.now.instant;
        let drained = Wake::Drained { at: self.now.instant, took: Duration::ZERO };
        self.state.wake([drained].into_iter(), self.now);
    }

    /// Creates a map. Before the first page it may be taken for the previous map, which a reading
    /// showed.
    fn make_map(&mut self, minor: u32, variant: u32) {
        self.kernel.create_map(minor, variant);
        if let Some(map) = self.kernel.maps.get_mut(&minor).filter(|_| !self.state.is_open) {
            map.has_silent_change = true;
        }
    }

    /// Does the work that the loop does after each step, and checks the rules that must hold then.
    fn go_round(&mut self) -> CaseResult {
        self.tick();
        self.was_refused |= !self.kernel.permitted || !self.state.readings.kernel_is_current() && self.state.is_open;
        self.state.look_at_clock(self.now);
        self.state.publish_if_due(self.now);
        for ask in self.state.due(self.now) {
            let asked = Asked { ask, at: self.now.instant, seen: None };
            let before = self.readers.asked.insert(lane_of(&asked.ask), asked);
            prop_assert!(before.is_none(), "a lane reads twice at once");
        }
        if let Some(due) = self.state.next_due(self.now.instant) {
            prop_assert!(due > self.now.instant, "the loop would not come to rest");
        }
        self.sources_that_are_late_are_down()?;
        self.the_page_is_possible()
    }

    fn sources_that_are_late_are_down(&self) -> CaseResult {
        let is_anybody_late =
            self.readers.asked.values().any(|asked| asked.at + TRANSPORTS_DEADLINE / 2 <= self.now.instant);
        let sources = if is_anybody_late { self.board.sources.all() } else { return Ok(()) };
        for (lane, source, deadline) in [
            ("kernel", Source::Dm, IOCTL_DEADLINE),
            ("block", Source::Sysfs, BLOCK_DEADLINE),
            ("transports", Source::Sysfs, TRANSPORTS_DEADLINE),
            ("daemon", Source::Multipathd, Duration::from_secs(7)),
        ] {
            let is_late = self.readers.asked.get(lane).is_some_and(|asked| asked.at + deadline <= self.now.instant);
            let up = sources.iter().find(|(one, _)| *one == source).and_then(|(_, health)| health.up);
            prop_assert!(!is_late || up == Some(false), "{lane} is late, and {source:?} is not down");
        }
        Ok(())
    }

    fn the_page_is_possible(&mut self) -> CaseResult {
        let now = self.board.snapshot.borrow().clone();
        let Some(snapshot) = &now else { return Ok(()) };
        let wwids: BTreeSet<_> = snapshot.devices.iter().map(|device| &device.wwid).collect();
        prop_assert_eq!(wwids.len(), snapshot.devices.len(), "a device appears twice");
        for device in &snapshot.devices {
            let paths: BTreeSet<_> = device.paths.iter().map(|path| &path.name).collect();
            prop_assert_eq!(paths.len(), device.paths.len(), "a path appears twice: {:?}", device.paths);
            let last = self.last.as_ref().and_then(|last| last.devices.iter().find(|old| old.wwid == device.wwid));
            let Some(last) = last else { continue };
            let counts = |device: &Device| (device.path_events.failed, device.path_events.reinstated);
            let ((old_failed, old_reinstated), (failed, reinstated)) = (counts(last), counts(device));
            prop_assert!(old_failed <= failed && old_reinstated <= reinstated, "a counter of {} fell", device.wwid);
            let others = |device: &Device| (device.path_io_errors, device.repeated_path_failures);
            let ((old_errors, old_repeated), (errors, repeated)) = (others(last), others(device));
            prop_assert!(old_errors <= errors && old_repeated <= repeated, "a counter of {} fell", device.wwid);
            for path in &device.paths {
                let old = last.paths.iter().find(|old| old.name == path.name).map_or(0, |old| old.failures);
                prop_assert!(old <= path.failures, "failures of {} fell", path.name);
            }
        }
        self.last = now;
        Ok(())
    }

    /// Delivers all events, and lets all readers answer.
    fn come_to_rest(&mut self) -> CaseResult {
        self.kernel.link_all();
        for _ in 0..8 {
            self.deliver_all();
            self.go_round()?;
            for _ in 0..3 {
                for lane in LANES {
                    self.answer(lane);
                    self.go_round()?;
                }
            }
            self.wait(Duration::from_secs(6));
            self.go_round()?;
        }
        Ok(())
    }

    fn the_page_equals_the_kernel(&self) -> CaseResult {
        let snapshot = self.board.snapshot.borrow().clone();
        let Some(snapshot) = snapshot else { return Err(TestCaseError::fail("there is no page")) };
        let shown: BTreeMap<_, _> = snapshot.devices.iter().map(|device| (&*device.wwid, device)).collect();
        let wwids: BTreeSet<&str> = self.kernel.maps.values().map(|map| &*map.wwid).chain(["uuid.1"]).collect();
        prop_assert_eq!(shown.keys().copied().collect::<BTreeSet<_>>(), wwids);
        for map in self.kernel.maps.values() {
            let device = shown[&*map.wwid];
            // Without device mapper and multipathd, only events show path states.
            let knows_states =
                self.kernel.permitted || self.kernel.daemon || !self.lost_events && !map.has_silent_change;
            let members: Vec<_> = map.members.iter().map(|(devno, _)| Some(*devno)).collect();
            let paths: Vec<_> = device.paths.iter().map(|path| path.devno).collect();
            prop_assert_eq!(&paths, &members, "members of {}", map.wwid);
            for (path, (devno, valid)) in device.paths.iter().zip(&map.members) {
                // A disk that went before any reading has only its number as a name.
                let has_gone = !self.kernel.disks.contains_key(&index_of(*devno));
                prop_assert!(path.name == disk_name(index_of(*devno)) || has_gone, "{} has no name", path.name);
                if knows_states {
                    prop_assert_eq!(path.state == PathState::Valid, *valid, "{} of {}", path.name, map.wwid);
                }
                let Some(disk) = self.kernel.disk(*devno) else { continue };
                prop_assert_eq!(&path.hctl, &disk.hctl);
                prop_assert_eq!(&path.device_state, &disk.states.device);
                let session = self.kernel.disks[&index_of(*devno)].session;
                prop_assert_eq!(&path.ports, &session_ports(session), "ports of {}", path.name);
            }
            if self.kernel.permitted {
                prop_assert_eq!(device.suspended, Some(map.suspended));
                prop_assert_eq!(device.in_use, Some(false), "nothing but a closed partition holds it");
                // Nothing shows if a map queues that was suspended in every reading.
                prop_assert_ne!(device.queueing, Some(false));
            }
            // While other sources replace device mapper, a silent change may count as a failure.
            if map.is_first && !(map.has_silent_change && self.was_refused) && !self.was_very_late {
                let counted = device.path_events.failed;
                let expected = map.failures;
                prop_assert!(counted <= expected, "{} counted {counted} failures of {expected}", map.wwid);
                prop_assert!(self.lost_events || counted == expected, "{}: {counted} of {expected}", map.wwid);
            }
        }
        self.each_event_is_reported_once()?;
        let head = shown["uuid.1"];
        let live: Vec<bool> = head.paths.iter().map(|path| path.state == PathState::Valid).collect();
        prop_assert_eq!(live, self.kernel.controllers);
        for (source, health) in self.board.sources.all() {
            let expected = match source {
                Source::Dm => self.kernel.permitted,
                Source::Multipathd => self.kernel.daemon,
                Source::Sysfs | Source::Uevent => true,
            };
            prop_assert_eq!(health.up, Some(expected), "{:?}", source);
        }
        Ok(())
    }
}

impl Game {
    fn each_event_is_reported_once(&self) -> CaseResult {
        let events = self.board.events.recent();
        for map in self.kernel.maps.values().filter(|map| map.is_first) {
            let mut seqnums = BTreeSet::new();
            for event in events.iter().filter(|event| event.wwid.as_ref() == Some(&map.wwid)) {
                prop_assert!(event.seqnum.is_none_or(|seqnum| seqnums.insert(seqnum)), "reported twice: {event:?}");
                // A map that stayed has neither gone nor come.
                let is_wrong = matches!(event.kind, EventType::DeviceAdded | EventType::DeviceRemoved);
                prop_assert!(!is_wrong, "{event:?}");
            }
        }
        Ok(())
    }
}

fn play(terms: Terms, seed: u8) {
    let number = |name: &str, default: u32| {
        env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
    };
    let config =
        ProptestConfig { cases: number("MODEL_CASES", CASES), failure_persistence: None, ..Default::default() };
    let mut bytes = [seed; 16];
    bytes[..4].copy_from_slice(&number("MODEL_SEED", 0).to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::XorShift, &bytes);
    let histories = prop::collection::vec(step(), 0..STEPS);
    let played = TestRunner::new_with_rng(config, rng).run(&histories, |history| {
        let mut game = Game::new(terms);
        game.go_round()?;
        for step in history {
            game.take(step)?;
        }
        game.come_to_rest()?;
        game.the_page_equals_the_kernel()
    });
    if let Err(failure) = played {
        panic!("{failure}");
    }
}

#[test]
fn with_the_kernels_status() {
    play(Terms { privileged: true, daemon: true, loses_events: false }, 1);
}

#[test]
fn with_the_kernels_status_and_lost_events() {
    play(Terms { privileged: true, daemon: false, loses_events: true }, 2);
}

#[test]
fn by_multipathd_and_events() {
    play(Terms { privileged: false, daemon: true, loses_events: true }, 3);
}

#[test]
fn by_events_alone() {
    play(Terms { privileged: false, daemon: false, loses_events: false }, 4);
}

/// Creates a host whose readers have all answered.
fn settled(privileged: bool, daemon: bool) -> Game {
    let mut game = Game::new(Terms { privileged, daemon, loses_events: false });
    game.go_round().unwrap();
    game.come_to_rest().unwrap();
    game
}

impl Game {
    fn answer_all(&mut self) {
        (0..3).for_each(|_| self.take(HistoryStep::AnswerAll).unwrap());
    }

    fn device(&self, wwid: &str) -> Option<Arc<Device>> {
        let snapshot = self.board.snapshot.borrow().clone();
        snapshot?.devices.iter().find(|device| &*device.wwid == wwid).cloned()
    }

    /// The paths of a device: their names, and true for each valid one.
    fn paths(&self, wwid: &str) -> Vec<(String, bool)> {
        let paths = self.device(wwid).map(|device| device.paths.clone()).unwrap_or_default();
        paths.iter().map(|path| (path.name.to_string(), path.state == PathState::Valid)).collect()
    }
}

const FIRST: &str = "3600000";

fn named(paths: &[(&str, bool)]) -> Vec<(String, bool)> {
    paths.iter().map(|(name, valid)| ((*name).to_owned(), *valid)).collect()
}

#[test]
fn a_disk_that_returns_under_its_number_is_shown_whole() {
    for privileged in [true, false] {
        let mut game = settled(privileged, false);
        for round in 0..8 {
            for step in [HistoryStep::RemoveDisk(0), HistoryStep::ReloadMap(0), HistoryStep::DeliverAll] {
                game.take(step).unwrap();
            }
            game.answer_all();
            assert_eq!(game.paths(FIRST), named(&[("sdb", true), ("sdc", true)]), "{round}");
            // No timer helps, because the clock stands still.
            for step in [HistoryStep::ReturnDisk(0), HistoryStep::ReloadMap(0), HistoryStep::DeliverAll] {
                game.take(step).unwrap();
            }
            game.answer_all();
            game.the_page_equals_the_kernel().unwrap();
        }
        let is_number = |name: &Arc<str>| name.contains(':');
        let nameless = game.board.events.recent().into_iter().find(|event| event.path.as_ref().is_some_and(is_number));
        assert_eq!(nameless, None);
    }
}

#[test]
fn the_event_of_a_member_that_sysfs_did_not_show_yet_is_not_lost() {
    let mut game = settled(false, false);
    for step in [
        HistoryStep::RecreateMap(0),
        HistoryStep::LinkSlowly(3),
        HistoryStep::DeliverAll,
        HistoryStep::Look(1),
        HistoryStep::Fail(3),
        HistoryStep::DeliverAll,
    ] {
        game.take(step).unwrap();
    }
    game.answer_all();
    assert_eq!(game.paths(FIRST), named(&[("sda", true), ("sdb", false), ("sdc", true)]));
}

#[test]
fn a_map_whose_removal_is_read_before_the_events_waits_for_them_to_be_judged() {
    for disks_go_first in [true, false] {
        let mut game = settled(true, false);
        for step in [HistoryStep::Fail(0), HistoryStep::Fail(3), HistoryStep::Fail(6), HistoryStep::DeliverAll] {
            game.take(step).unwrap();
        }
        game.answer_all();
        game.wait(Duration::from_secs(15));
        game.come_to_rest().unwrap();
        game.kernel.raised.clear();
        // Another table counts the last path as valid for a moment.
        game.kernel.remove_disk(0);
        game.kernel.remove_disk(1);
        game.kernel.reload_map(0);
        game.deliver_all();
        game.answer_all();
        assert_eq!(game.paths(FIRST), named(&[("sdc", true)]));
        if disks_go_first {
            game.kernel.remove_disk(2);
        }
        game.kernel.remove_map(0);
        game.kernel.remove_disk(2);
        game.state.wake([Wake::DeviceMapper].into_iter(), game.now);
        game.go_round().unwrap();
        game.take(HistoryStep::Answer(0)).unwrap();
        assert!(game.device(FIRST).is_none());
        let told = |game: &Game| {
            let events = game.board.events.recent().into_iter();
            let kinds = events.map(|event| event.kind);
            kinds.filter(|kind| matches!(kind, EventType::DeviceLost | EventType::Recovered)).collect::<Vec<_>>()
        };
        assert_eq!(told(&game), [], "the order is not known yet");
        game.take(HistoryStep::DeliverAll).unwrap();
        game.take(HistoryStep::Wait(1)).unwrap();
        let end = if disks_go_first { EventType::DeviceLost } else { EventType::Recovered };
        game.come_to_rest().unwrap();
        assert_eq!(told(&game), [end]);
    }
}

#[test]
fn states_of_known_members_do_not_wait_for_the_name_of_a_new_one() {
    let mut game = settled(true, false);
    for step in [HistoryStep::RemoveDisk(0), HistoryStep::ReloadMap(0), HistoryStep::DeliverAll] {
        game.take(step).unwrap();
    }
    game.answer_all();
    game.come_to_rest().unwrap();
    game.wait(2 * NAME_DEADLINE);
    game.answer_all();
    // From here on, readings of block devices hang.
    for step in [
        HistoryStep::ReturnDisk(0),
        HistoryStep::ReloadMap(0),
        HistoryStep::DeliverAll,
        HistoryStep::Answer(0),
        HistoryStep::Answer(0),
    ] {
        game.take(step).unwrap();
    }
    assert_eq!(game.paths(FIRST), named(&[("sdb", true), ("sdc", true)]), "sda has no name yet");
    for step in [HistoryStep::Fail(3), HistoryStep::DeliverAll, HistoryStep::Answer(0), HistoryStep::Answer(0)] {
        game.take(step).unwrap();
    }
    assert_eq!(game.paths(FIRST), named(&[("sdb", false), ("sdc", true)]));
    game.wait(NAME_DEADLINE);
    game.go_round().unwrap();
    assert_eq!(game.paths(FIRST), named(&[("8:0", true), ("sdb", false), ("sdc", true)]));
    game.answer_all();
    assert_eq!(game.paths(FIRST), named(&[("sda", true), ("sdb", false), ("sdc", true)]));
}

#[test]
fn a_device_does_not_wait_for_a_name_where_that_would_leave_no_valid_path() {
    let mut game = settled(true, false);
    for step in [HistoryStep::RemoveDisk(0), HistoryStep::ReloadMap(0), HistoryStep::DeliverAll] {
        game.take(step).unwrap();
    }
    game.answer_all();
    game.come_to_rest().unwrap();
    for step in [
        HistoryStep::ReturnDisk(0),
        HistoryStep::ReloadMap(0),
        HistoryStep::Fail(3),
        HistoryStep::Fail(6),
        HistoryStep::DeliverAll,
    ] {
        game.take(step).unwrap();
    }
    (0..2).for_each(|_| game.take(HistoryStep::Answer(0)).unwrap());
    assert_eq!(game.paths(FIRST), named(&[("8:0", true), ("sdb", false), ("sdc", false)]));
}

#[test]
fn a_map_that_is_flushed_still_queues() {
    let mut game = settled(true, false);
    for suspended in [true, false] {
        game.take(HistoryStep::SuspendMap(0)).unwrap();
        game.come_to_rest().unwrap();
        let device = game.device(FIRST).unwrap();
        assert_eq!((device.suspended, device.queueing), (Some(suspended), Some(true)));
    }
}

#[test]
fn a_failure_whose_uevent_is_late_is_counted_once() {
    let mut game = settled(true, false);
    game.take(HistoryStep::Fail(0)).unwrap();
    game.wait(Duration::from_secs(6));
    game.take(HistoryStep::AnswerAll).unwrap();
    game.take(HistoryStep::Wait(250)).unwrap();
    assert_eq!(game.device(FIRST).unwrap().path_events.failed, 1, "by reading");
    game.take(HistoryStep::DeliverAll).unwrap();
    game.come_to_rest().unwrap();
    assert_eq!(game.device(FIRST).unwrap().path_events.failed, 1, "the uevent has come, too");
}

#[test]
fn controllers_fail_while_block_devices_and_interfaces_hang() {
    let mut game = settled(true, true);
    for step in [HistoryStep::ToggleController(0), HistoryStep::WaitLong(24), HistoryStep::Answer(2)] {
        game.take(step).unwrap();
    }
    assert_eq!(game.paths("uuid.1"), named(&[("nvme0c0n1", false), ("nvme0c1n1", true)]));
}

#[test]
fn nothing_is_published_before_every_source_of_devices_has_answered_or_a_minute_has_passed() {
    let mut game = Game::new(Terms { privileged: true, daemon: true, loses_events: false });
    game.go_round().unwrap();
    for lane in [0, 3, 4] {
        game.take(HistoryStep::Answer(lane)).unwrap();
    }
    game.take(HistoryStep::Answer(1)).unwrap();
    assert!(game.board.snapshot.borrow().is_none(), "transports hang");
    for _ in 0..59 {
        game.take(HistoryStep::Wait(125)).unwrap();
        [0, 1, 3, 4].into_iter().for_each(|lane| game.take(HistoryStep::Answer(lane)).unwrap());
        assert!(game.board.snapshot.borrow().is_none());
    }
    game.take(HistoryStep::Wait(125)).unwrap();
    assert_eq!(game.paths(FIRST), named(&[("sda", true), ("sdb", true), ("sdc", true)]));
    let sysfs = game.board.sources.all().into_iter().find(|(source, _)| *source == Source::Sysfs).unwrap().1;
    assert_eq!(sysfs.up, Some(false));
    // Devices from a late source count as found. They have not appeared.
    game.take(HistoryStep::Answer(2)).unwrap();
    assert_eq!(game.paths("uuid.1").len(), 2);
    assert_eq!(game.board.events.recent(), []);
}

impl Game {
    fn repeated_failures(&mut self) -> u64 {
        self.come_to_rest().unwrap();
        self.device(FIRST).unwrap().repeated_path_failures
    }

    /// Removes the disk of the first map's first path. The kernel has not noticed by failed I/O.
    fn lose_disk(&mut self) {
        self.kernel.disks.remove(&0);
        self.kernel.raise(disk_name(0).to_string(), disk_number(0), "remove", None, None);
    }
}

#[test]
fn a_path_that_goes_with_its_disk_has_failed_and_one_that_is_taken_out_has_not() {
    for privileged in [true, false] {
        let mut game = settled(privileged, true);
        for (round, repeated) in [(0, 0), (1, 1)] {
            game.lose_disk();
            game.take(HistoryStep::ReloadMap(0)).unwrap();
            assert_eq!(game.repeated_failures(), repeated, "{privileged} {round}");
            // The model gives each disk that comes a new session, and so new ports.
            game.kernel.next_session = 1;
            game.take(HistoryStep::ReturnDisk(0)).unwrap();
            game.take(HistoryStep::ReloadMap(0)).unwrap();
            assert_eq!(game.repeated_failures(), repeated, "{privileged} {round}");
        }
        // The disk goes after it has stopped being a member.
        game.kernel.maps.get_mut(&0).unwrap().members.remove(0);
        game.kernel.maps.get_mut(&0).unwrap().event_nr += 1;
        game.kernel.raise_of_map(0, "change");
        assert_eq!(game.repeated_failures(), 1, "{privileged}");
        game.lose_disk();
        assert_eq!(game.repeated_failures(), 1, "{privileged}");
    }
}

#[test]
fn a_path_whose_disk_goes_and_whose_io_fails_has_failed_once() {
    for privileged in [true, false] {
        let mut game = settled(privileged, true);
        for (round, repeated) in [(0, 0), (1, 1)] {
            game.take(HistoryStep::RemoveDisk(0)).unwrap();
            game.take(HistoryStep::ReloadMap(0)).unwrap();
            assert_eq!(game.repeated_failures(), repeated, "{privileged} {round}");
            game.kernel.next_session = 1;
            game.take(HistoryStep::ReturnDisk(0)).unwrap();
            game.take(HistoryStep::ReloadMap(0)).unwrap();
            assert_eq!(game.repeated_failures(), repeated, "{privileged} {round}");
        }
        // After fifteen minutes the failure is forgotten.
        game.wait(Duration::from_secs(16 * 60));
        game.take(HistoryStep::Fail(0)).unwrap();
        assert_eq!(game.repeated_failures(), 1, "{privileged}");
        game.take(HistoryStep::Reinstate(0)).unwrap();
        game.take(HistoryStep::Fail(0)).unwrap();
        assert_eq!(game.repeated_failures(), 2, "{privileged}");
    }
}

#[test]
fn errors_of_disks_that_are_gone_stay_counted() {
    let mut game = settled(true, false);
    let errors = |game: &mut Game| {
        game.wait(Duration::from_secs(30));
        game.come_to_rest().unwrap();
        game.device(FIRST).unwrap().path_io_errors
    };
    assert_eq!(errors(&mut game), 0);
    for step in [HistoryStep::Fail(0), HistoryStep::Reinstate(0), HistoryStep::Fail(0)] {
        game.take(step).unwrap();
    }
    assert_eq!(errors(&mut game), 2);
    for step in [HistoryStep::RemoveDisk(0), HistoryStep::ReloadMap(0), HistoryStep::DeliverAll] {
        game.take(step).unwrap();
    }
    assert_eq!(errors(&mut game), 2);
    for step in [HistoryStep::ReturnDisk(0), HistoryStep::ReloadMap(0), HistoryStep::DeliverAll, HistoryStep::Fail(0)] {
        game.take(step).unwrap();
    }
    assert_eq!(errors(&mut game), 3);
}

#[test]
fn a_state_is_known_from_the_kernels_status_or_events_and_is_otherwise_concluded() {
    for (privileged, daemon, is_told) in [(true, false, true), (false, true, true), (false, false, false)] {
        let mut game = settled(privileged, daemon);
        let told =
            |game: &Game| game.device(FIRST).unwrap().paths.iter().map(|path| path.is_told).collect::<Vec<bool>>();
        assert_eq!(told(&game), [is_told; 3], "{privileged} {daemon}");
        for step in [HistoryStep::Fail(0), HistoryStep::DeliverAll] {
            game.take(step).unwrap();
        }
        assert_eq!(told(&game), [true, is_told, is_told], "{privileged} {daemon}");
    }
}
