//! The three sources that are read: what is wanted of each, what is being read, and the last reading.
//!
//! Wants add up while a read is under way; the next read serves them all.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lane::Lane;
use super::ledger::MapLedger;
use crate::source::disks::Disk;
use crate::source::unassembled::Unassembled;
use crate::source::{Error, device_mapper, maps, multipathd, nvme, sysfs};
use crate::topology::{Daemon, DevNo, Transports};

/// A read in the kernel that takes longer is given up for the present. For a thousand maps an emulated machine needs half
/// a second of ioctls and ten of files, a real one a hundredth of that.
const IOCTL_DEADLINE: Duration = Duration::from_secs(10);
const FILE_DEADLINE: Duration = Duration::from_secs(30);
/// New devices and members wait this long for their names, which sysfs knows; then they are shown without.
const NAME_PATIENCE: Duration = Duration::from_secs(5);

fn ledger<'a>(ledgers: &'a mut Ledgers, wwid: &Arc<str>) -> &'a mut MapLedger {
    ledgers.entry(Arc::clone(wwid)).or_default()
}

/// The ledgers of all maps, by WWID.
pub type Ledgers = HashMap<Arc<str>, MapLedger>;

/// Device mapper.
pub struct KernelSource {
    /// Its reads.
    pub lane: Lane<KernelWanted, device_mapper::Reading>,
    /// To be read next.
    pub wanted: KernelWanted,
    /// The read under way was wanted by a timer.
    pub timed: bool,
    /// The last read worked and none is late: `maps` is the present state.
    pub current: bool,
    /// When the last reading was asked for.
    pub read_at: Option<Instant>,
    /// By WWID.
    pub maps: HashMap<Arc<str>, Arc<device_mapper::Map>>,
    last: Vec<Arc<device_mapper::Map>>,
    /// The last reading lacked something.
    incomplete: bool,
    outlines: Arc<[sysfs::Outline]>,
}

/// What to read of device mapper.
#[derive(Default)]
pub struct KernelWanted {
    /// The list, and the maps whose event number moved.
    pub look: bool,
    /// Every map.
    pub all: bool,
    /// A timer wants it.
    pub timed: bool,
    /// These maps.
    pub dirty: HashSet<DevNo>,
}

impl KernelSource {
    /// Starts its thread.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(mut reader: device_mapper::DeviceMapper) -> io::Result<Self> {
        let read = move |wanted: KernelWanted| reader.read(&wanted.dirty, wanted.all);
        Ok(KernelSource {
            lane: Lane::on_thread("device-mapper", IOCTL_DEADLINE, read)?,
            wanted: KernelWanted::default(),
            timed: false,
            current: false,
            read_at: None,
            maps: HashMap::new(),
            last: Vec::new(),
            incomplete: false,
            outlines: Arc::default(),
        })
    }

    /// Reads what is wanted, if anything is and no read is under way.
    pub fn dispatch(&mut self, ledgers: &mut Ledgers) -> bool {
        let wanted = &self.wanted;
        if self.lane.busy() || !(wanted.look || wanted.all || !wanted.dirty.is_empty()) {
            return false;
        }
        let wanted = std::mem::take(&mut self.wanted);
        self.timed = wanted.timed;
        ledgers.values_mut().for_each(MapLedger::kernel_asked);
        self.lane.ask(wanted);
        true
    }

    /// Takes the new reading, asked for at `asked`. `false` if it shows what the last one showed.
    pub fn accept(&mut self, reading: device_mapper::Reading, asked: Instant, ledgers: &mut Ledgers) -> bool {
        let changed = !same(&self.last, &reading.maps);
        if changed {
            self.maps = by_wwid(&reading.maps, |map| &map.wwid);
            self.outlines = reading.maps.iter().map(outline).collect();
            self.last = reading.maps;
            for wwid in self.maps.keys() {
                ledger(ledgers, wwid);
            }
        }
        let incomplete = !reading.unreadable.is_empty();
        if incomplete {
            // A map that could not be read is as old as before.
            let failed = |devno| reading.unreadable.iter().any(|(failed, _)| *failed == devno);
            for map in self.last.iter().filter(|map| !failed(map.devno)) {
                ledger(ledgers, &map.wwid).kernel_read(asked);
            }
        } else {
            ledgers.values_mut().for_each(|ledger| ledger.kernel_read(asked));
        }
        self.read_at = Some(asked);
        let was_incomplete = std::mem::replace(&mut self.incomplete, incomplete);
        !std::mem::replace(&mut self.current, true) || changed || was_incomplete
    }
}

fn outline(map: &Arc<device_mapper::Map>) -> sysfs::Outline {
    sysfs::Outline { wwid: Arc::clone(&map.wwid), devno: map.devno, members: map.members().collect() }
}

/// Whether these are the very same maps: on an idle host, nearly always.
fn same<T>(one: &[Arc<T>], other: &[Arc<T>]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| Arc::ptr_eq(one, other))
}

fn by_wwid<T>(maps: &[Arc<T>], wwid: impl Fn(&T) -> &Arc<str>) -> HashMap<Arc<str>, Arc<T>> {
    maps.iter().map(|map| (Arc::clone(wwid(map)), Arc::clone(map))).collect()
}

/// sysfs.
pub struct SysfsSource {
    /// Its reads.
    pub lane: Lane<sysfs::Request, sysfs::Reading>,
    /// To be read next.
    pub wanted: SysfsWanted,
    /// The read under way was wanted by a timer.
    pub timed: bool,
    /// By WWID.
    pub maps: HashMap<Arc<str>, Arc<maps::Map>>,
    last: Vec<Arc<maps::Map>>,
    /// NVMe multipath heads.
    pub heads: Vec<Arc<nvme::Head>>,
    /// What paths go over.
    pub transports: Arc<Transports>,
    /// Disks with several paths that no map holds.
    pub unassembled: Arc<[Unassembled]>,
    /// Kernel names of what the root file system stands on.
    pub root: Arc<HashSet<String>>,
    /// When the last reading was asked for; `None` before the first.
    pub read_at: Option<Instant>,
    /// The last read failed, and with it what it was to read.
    pub failed: bool,
    being_read: Option<sysfs::Scope>,
}

/// What to read of sysfs.
#[derive(Default)]
pub struct SysfsWanted {
    /// Every device.
    pub everything: bool,
    /// States only.
    pub states: bool,
    /// Only what is no block device.
    pub others: bool,
    /// A timer wants it.
    pub timed: bool,
    /// Everything of these devices.
    pub devices: HashSet<DevNo>,
    /// Of these disks and maps nothing is known any more.
    pub forget: HashSet<DevNo>,
    /// Of none.
    pub forget_all: bool,
}

impl SysfsSource {
    /// Starts its thread.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(mut reader: sysfs::Sysfs) -> io::Result<Self> {
        Ok(SysfsSource {
            lane: Lane::on_thread("sysfs", FILE_DEADLINE, move |request| reader.read(&request))?,
            wanted: SysfsWanted::default(),
            timed: false,
            maps: HashMap::new(),
            last: Vec::new(),
            heads: Vec::new(),
            transports: Arc::default(),
            unassembled: Arc::default(),
            root: Arc::default(),
            read_at: None,
            failed: false,
            being_read: None,
        })
    }

    /// Wants the maps to be read that have members like these, and gives the members' numbers.
    pub fn want_holders_of(&mut self, is_meant: impl Fn(&Disk) -> bool) -> Vec<DevNo> {
        let mut meant = Vec::new();
        for map in self.maps.values() {
            let members = map.members.iter().filter(|disk| is_meant(disk)).map(|disk| disk.devno);
            let before = meant.len();
            meant.extend(members);
            self.wanted.devices.extend(map.devno.filter(|_| meant.len() > before));
        }
        meant
    }

    /// Reads what is wanted most, if anything is and no read is under way. What the kernel tells of the maps is not
    /// looked for again.
    pub fn dispatch(&mut self, kernel: Option<&KernelSource>) {
        if self.lane.busy() {
            return;
        }
        let wanted = &mut self.wanted;
        let scope = if std::mem::take(&mut wanted.everything) {
            wanted.forget.extend(wanted.devices.drain());
            sysfs::Scope::Everything
        } else if !wanted.devices.is_empty() {
            sysfs::Scope::Devices(std::mem::take(&mut wanted.devices))
        } else if std::mem::take(&mut wanted.states) {
            sysfs::Scope::States
        } else if wanted.others {
            sysfs::Scope::Others
        } else {
            return;
        };
        wanted.others &= matches!(scope, sysfs::Scope::Devices(_));
        self.timed = match scope {
            sysfs::Scope::Devices(_) | sysfs::Scope::Others => false,
            _ => std::mem::take(&mut wanted.timed),
        };
        let request = match scope {
            sysfs::Scope::States | sysfs::Scope::Others => sysfs::Request { scope, ..sysfs::Request::default() },
            scope => sysfs::Request {
                scope,
                outlines: kernel.filter(|kernel| kernel.current).map(|kernel| Arc::clone(&kernel.outlines)),
                forget: std::mem::take(&mut wanted.forget),
                forget_all: std::mem::take(&mut wanted.forget_all),
            },
        };
        self.being_read = Some(request.scope.clone());
        self.lane.ask(request);
    }

    /// Takes the new reading, asked for at `asked`. `false` if it shows what the last one showed.
    pub fn accept(&mut self, reading: sysfs::Reading, asked: Instant) -> bool {
        let mut changed = !same(&self.last, &reading.maps);
        if changed {
            self.maps = by_wwid(&reading.maps, |map| &map.wwid);
            self.last = reading.maps;
        }
        changed |= !same(&self.heads, &reading.heads) || !Arc::ptr_eq(&self.transports, &reading.transports);
        self.heads = reading.heads;
        changed |= !Arc::ptr_eq(&self.unassembled, &reading.unassembled) || !Arc::ptr_eq(&self.root, &reading.root);
        self.transports = reading.transports;
        self.unassembled = reading.unassembled;
        self.root = reading.root;
        self.read_at.replace(asked).is_none() || changed
    }

    /// The read under way has ended, well or not.
    pub fn ended(&mut self) {
        self.being_read = None;
    }

    /// Whether this device is about to be read.
    pub fn awaits(&self, devno: DevNo) -> bool {
        let being_read = match &self.being_read {
            Some(sysfs::Scope::Everything) => true,
            Some(sysfs::Scope::Devices(devices)) => devices.contains(&devno),
            Some(sysfs::Scope::States | sysfs::Scope::Others) | None => false,
        };
        let wanted = self.wanted.everything || self.wanted.devices.contains(&devno);
        (being_read || wanted) && self.names_due().is_none_or(|due| Instant::now() < due)
    }

    /// Whether what the kernel tells of this map has been looked up here.
    pub fn covers(&self, map: &device_mapper::Map) -> bool {
        let known = self.maps.get(&map.wwid);
        known.is_some_and(|known| {
            known.devno == Some(map.devno) && map.members().all(|devno| known.asked.contains(&devno))
        })
    }

    /// Until when a new member waits for its name, while sysfs is being read.
    pub fn names_due(&self) -> Option<Instant> {
        self.lane.asked().map(|asked| asked + NAME_PATIENCE)
    }
}

/// multipathd.
pub struct DaemonSource {
    /// Its reads.
    pub lane: Lane<DaemonWanted, DaemonReply>,
    /// To be asked next.
    pub wanted: DaemonWanted,
    /// The read under way was wanted by a timer.
    pub timed: bool,
    /// Whether it answers.
    pub state: Daemon,
    /// By WWID.
    pub maps: HashMap<Arc<str>, Arc<multipathd::Map>>,
    /// Maps that its last reply left out. A daemon that has just started knows none: that says nothing of their paths,
    /// so their last reading still serves, as long as they exist.
    pub left_out: HashMap<Arc<str>, Arc<multipathd::Map>>,
    /// The last time it was asked for the maps it gave none.
    pub failed: bool,
    /// When it was asked for the maps that it gave last.
    pub read_at: Option<Instant>,
    /// The paths that it knows, for telling what it leaves alone.
    pub known_paths: KnownPaths,
}

/// The kernel names of the paths that multipathd knows, in a map or not.
#[derive(Debug, Default, PartialEq, Eq)]
pub enum KnownPaths {
    /// It does not answer, or not that.
    #[default]
    CannotTell,
    /// It answers, and is yet to be asked.
    NotAsked,
    /// These.
    These(HashSet<String>),
}

/// What to ask multipathd.
#[derive(Clone, Copy, Default)]
pub struct DaemonWanted {
    /// Its own state.
    pub state: bool,
    /// The maps, too.
    pub maps: bool,
    /// The maps, and the names of all paths that it knows.
    pub paths: bool,
    /// A timer wants it.
    pub timed: bool,
}

/// multipathd's answer: its state, and the maps if they were asked for and came.
pub struct DaemonReply {
    /// Its state, in its own word.
    pub state: Arc<str>,
    /// `None` if they were not asked for.
    pub maps: Option<Result<multipathd::Maps, Error>>,
    /// Likewise.
    pub paths: Option<Result<HashSet<String>, Error>>,
}

impl DaemonSource {
    /// Prepares to ask it.
    pub fn new(client: multipathd::Client) -> Self {
        // Three exchanges, each bounded by the client itself.
        let deadline = client.timeout() * 3 + Duration::from_secs(1);
        let client = Arc::new(client);
        let ask = move |wanted: DaemonWanted| {
            let client = Arc::clone(&client);
            async move { ask(&client, wanted).await }
        };
        DaemonSource {
            lane: Lane::on_tasks(deadline, ask),
            wanted: DaemonWanted::default(),
            timed: false,
            state: Daemon::Down,
            maps: HashMap::new(),
            left_out: HashMap::new(),
            failed: false,
            read_at: None,
            known_paths: KnownPaths::default(),
        }
    }

    /// Asks what is wanted, if anything is and nothing is being asked.
    pub fn dispatch(&mut self, ledgers: &mut Ledgers) {
        if self.lane.busy() || !(self.wanted.state || self.wanted.maps || self.wanted.paths) {
            return;
        }
        let wanted = std::mem::take(&mut self.wanted);
        self.timed = wanted.timed;
        ledgers.values_mut().for_each(MapLedger::daemon_asked);
        self.lane.ask(wanted);
    }

    /// Takes the new reading, asked for at `asked`. A map that could not be read keeps its last one, and one that did
    /// not change its allocation. `false` if it shows what the last one showed.
    pub fn accept(&mut self, reading: multipathd::Maps, asked: Instant, ledgers: &mut Ledgers) -> bool {
        let mut before = std::mem::take(&mut self.maps);
        let mut changed = false;
        for map in reading.maps {
            ledger(ledgers, &map.wwid).daemon_read(asked);
            self.left_out.remove(&map.wwid);
            let known = before.remove(&map.wwid).filter(|known| *known == map);
            changed |= known.is_none();
            self.maps.insert(Arc::clone(&map.wwid), known.unwrap_or(map));
        }
        changed |= !before.is_empty();
        match reading.unreadable.is_empty() {
            true => self.left_out.extend(before),
            false => self.maps.extend(before),
        }
        self.failed = false;
        self.read_at = Some(asked);
        changed
    }

    /// Takes note of the paths that it knows, if it was asked for them. `true` if that changed anything.
    pub fn know_paths(&mut self, state: &Daemon, paths: Option<Result<HashSet<String>, Error>>, needed: bool) -> bool {
        let (up, was_up) = [state, &self.state].map(|state| matches!(state, Daemon::Up(_))).into();
        let known = match (paths, &self.known_paths) {
            _ if !up => KnownPaths::CannotTell,
            (Some(Ok(paths)), _) => KnownPaths::These(paths),
            (_, KnownPaths::These(paths)) if needed => KnownPaths::These(paths.clone()),
            (Some(Err(_)), _) => KnownPaths::CannotTell,
            // It did not tell when it was last asked, and is asked again now.
            (None, KnownPaths::CannotTell) if was_up => {
                self.wanted.paths |= needed;
                KnownPaths::CannotTell
            }
            (None, _) => {
                self.wanted.paths |= needed;
                KnownPaths::NotAsked
            }
        };
        let changed = self.known_paths != known;
        self.known_paths = known;
        changed && needed
    }

    /// Its last word on a map, and whether it still stands.
    pub fn map(&self, wwid: &Arc<str>) -> Option<(&Arc<multipathd::Map>, bool)> {
        let stands = self.maps.get(wwid).map(|map| (map, true));
        stands.or_else(|| self.left_out.get(wwid).map(|map| (map, false)))
    }
}

async fn ask(client: &multipathd::Client, wanted: DaemonWanted) -> Result<DaemonReply, Error> {
    let state = client.show_daemon().await.map_err(|error| Error::new("multipathd", error))?.state;
    let maps = match wanted.maps || wanted.paths {
        true => Some(show_maps(client).await),
        false => None,
    };
    let paths = match wanted.paths {
        true => Some(client.show_path_names().await.map_err(|error| Error::new("multipathd, show paths", error))),
        false => None,
    };
    Ok(DaemonReply { state, maps, paths })
}

async fn show_maps(client: &multipathd::Client) -> Result<multipathd::Maps, Error> {
    let failed = |cause: &dyn std::error::Error| Error::new("multipathd, show maps json", cause);
    let reply = client.show_maps().await.map_err(|error| failed(&error))?;
    // Milliseconds for a large host: off the threads that answer scrapes.
    let parsed = tokio::task::spawn_blocking(move || multipathd::parse_maps(&reply)).await;
    parsed.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
}
