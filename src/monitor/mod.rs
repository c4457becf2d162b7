//! The main loop: ask, wait, look at the clock, publish.
//!
//! ```text
//! ┌─► ask        each free lane begins its next reading       schedule.rs (lanes, timers)
//! │                                                           readers.rs (threads)
//! │   wait for ─┬─ wakes      events cause readings           wants.rs
//! │             │             events against readings         ledger.rs
//! │             ├─ an arrival replaces the last reading       arrivals.rs, readings.rs
//! │             ├─ a command  SIGHUP, a new configuration
//! │             └─ the clock  timers, deadlines               wants.rs, start.rs,
//! │                                                           corrections.rs
//! └── publish    devices: readings, ledgers, last devices     assemble.rs, nvme.rs, bonds.rs,
//!                                                             unassembled.rs, names.rs
//!                does I/O to an NVMe device wait?             queueing.rs
//!                the use of each device, and other disks      usage.rs, strays.rs
//!                differences from the last snapshot           compare.rs
//!                events, log lines, counters, snapshot        reports.rs, log.rs
//!                comparison with the past                     past.rs, departures.rs
//! ```
//!
//! An event only says "look again". The reading gives the new state. [`Monitor::run`] waits for the
//! next input and gives it to [`State`]. `State` does no I/O and reads no clock: its callers pass
//! what came, and when. So a test can give it any history (model.rs). Its methods are here and in
//! `wants`, `arrivals`, `start` and `reports`.

mod arrivals;
mod assemble;
mod bonds;
mod compare;
mod corrections;
mod departures;
mod failures;
mod io_errors;
mod ledger;
mod log;
#[doc(hidden)]
pub mod measure;
#[cfg(test)]
mod model;
mod names;
mod nvme;
mod past;
mod queueing;
mod readers;
mod readings;
mod repeats;
mod reports;
mod schedule;
mod start;
mod strays;
mod unassembled;
mod usage;
mod wants;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep_until, timeout, timeout_at};
use tracing::warn;

use crate::config::{Config, Network};
use crate::event::EventLog;
use crate::memory::{self, Memory, Now};
use crate::metrics::own::OwnMetrics;
use crate::privileges::Privileged;
use crate::source::block::disks::Disk;
use crate::source::health::{SourceHealth, SourcePart};
use crate::source::transports::Way;
use crate::source::{Error, Io, Places, Stall, multipathd, transports};
use crate::topology::{DevNo, Device, DirectUse, Kind, Snapshot};
use crate::watch::{self as watchers, Wake, Watcher};
use bonds::Bonds;
use compare::Change;
use corrections::Corrections;
use departures::Departures;
use failures::Tally;
use ledger::MapLedger;
use log::{LoggedOnce, PathLog};
use readers::{Arrival, Ask, Readers, Reply, Sources};
use readings::{
    BlockWant, DaemonFacts, DaemonWant, InterfacesWant, KernelFacts, KernelWant, ListSource, Readings, TransportsWant,
};
use schedule::{Cadence, DaemonPace, Lane, Reason};
use start::Start;
use strays::Strays;
use unassembled::KnownPaths;
use usage::LastWrite;
use wants::{Aftermath, Timers};

/// How long to wait for the watchers before the first read. They need milliseconds.
const WATCHER_DEADLINE: Duration = Duration::from_secs(5);
/// A reading of the kernel that takes longer counts as failed until it arrives. For a thousand
/// maps, an emulated machine needs half a second for ioctls and ten seconds for files. A real
/// machine needs a hundredth of that.
const IOCTL_DEADLINE: Duration = Duration::from_secs(10);
const BLOCK_DEADLINE: Duration = Duration::from_secs(30);
/// There are few sessions, ports and controllers. One that hangs should be noticed soon.
const TRANSPORTS_DEADLINE: Duration = Duration::from_secs(10);
/// How long new members wait for their names from sysfs. Then they are shown without names.
const NAME_DEADLINE: Duration = Duration::from_secs(5);
/// The watcher of uevents shows at least this often that it is alive. A pulse may wait behind a
/// storm of events.
const PULSE_INTERVAL: Duration = watchers::PULSE.saturating_mul(4);
/// How many wakes are taken at a time.
const WAKE_BATCH: usize = 1024;

/// The settings of the monitor.
#[derive(Debug)]
pub(crate) struct Settings {
    /// The directories of the files to read.
    pub(crate) places: Places,
    /// The transports to read.
    pub(crate) parts: transports::Parts,
    /// True if device mapper is read.
    pub(crate) device_mapper: bool,
    /// The client for multipathd, if multipathd is asked.
    pub(crate) multipathd: Option<multipathd::DaemonClient>,
    /// The interval of the resync.
    pub(crate) resync: Duration,
    /// The interval of the re-reads.
    pub(crate) reread: Duration,
    pub(crate) config: Arc<Config>,
    /// Starts the threads that ask device mapper.
    pub(crate) privileged: Privileged,
    /// The facts that outlive a restart.
    pub(crate) memory: Memory,
    /// The memory's file, if there is one.
    pub(crate) memory_file: Option<memory::file::Handle>,
}

/// The state that the monitor shares with the rest of the exporter.
#[derive(Clone, Debug)]
pub struct Board {
    /// The devices. `None` until the first full read.
    pub(crate) snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    pub(crate) events: Arc<EventLog>,
    /// The state of each source.
    pub(crate) sources: Arc<SourceHealth>,
    pub(crate) own: Arc<OwnMetrics>,
    /// The state of the memory's file, if there is one.
    pub(crate) memory: Option<Arc<memory::file::FileHealth>>,
}

#[derive(Debug)]
pub(crate) enum Command {
    /// Resync now.
    Resync,
    /// Use this configuration from now on.
    Configure(Arc<Config>),
    /// Answer, to show that the loop is running. The first answer waits until each source has been
    /// tried once.
    Answer(oneshot::Sender<()>),
    /// Write the memory, and notify when it is written or cannot be.
    Write(oneshot::Sender<()>),
}

/// The ledgers of all device-mapper devices, by WWID.
pub(crate) type Ledgers = HashMap<Arc<str>, MapLedger>;

/// The loop: [`State`], and everything that wakes it.
pub(crate) struct Monitor {
    state: State,
    readers: Readers,
    /// False for a capture. It has no events, and this host's events are about other devices.
    has_events: bool,
    procfs: PathBuf,
    privileged: Privileged,
    memory_file: Option<memory::file::Handle>,
}

impl Monitor {
    /// Starts the readers.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub(crate) fn new(settings: Settings, own: Arc<OwnMetrics>) -> io::Result<(Self, Board)> {
        let Settings {
            places,
            parts,
            device_mapper,
            multipathd,
            resync,
            reread,
            config,
            privileged,
            memory,
            memory_file,
        } = settings;
        let has_events = places.capture.is_none();
        let procfs = places.procfs.clone();
        let options = Options {
            device_mapper,
            multipathd: multipathd.as_ref().map(multipathd::DaemonClient::longest),
            nvme: parts.nvme,
            resync,
            reread,
            config,
        };
        let (state, mut board) = State::new(options, memory, own, Now::get());
        board.memory = memory_file.as_ref().map(|file| Arc::clone(&file.health));
        let readers = Readers::start(Sources { places, parts, device_mapper, multipathd }, &privileged)?;
        Ok((Monitor { state, readers, has_events, procfs, privileged, memory_file }, board))
    }

    /// Reads everything once and publishes it.
    ///
    /// # Errors
    /// If a source of devices does not answer: the error of that source.
    pub(crate) async fn run_once(mut self) -> Result<(), Error> {
        self.state.strays.look_once();
        self.await_memory().await;
        self.state.begin(Now::get());
        while !self.state.is_settled() {
            self.ask();
            let due = self.state.next_due(Instant::now());
            tokio::select! {
                arrival = self.readers.reply() => self.state.take(arrival, Now::get()),
                () = until(due) => {}
            }
            self.state.look_at_clock(Now::get());
            self.state.publish_if_due(Now::get());
        }
        let (done, written) = oneshot::channel();
        self.write(done);
        let _ = timeout(memory::file::FILE_DEADLINE, written).await;
        self.state.silent_source().map_or(Ok(()), |part| Err(self.state.health.failure(part)))
    }

    /// Runs until `commands` is closed.
    ///
    /// # Errors
    /// If a watcher's thread cannot be started.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) -> io::Result<()> {
        let (sender, mut wakes) = watchers::channel();
        if self.has_events {
            self.state.expect_events();
            watchers::uevent::watch(sender.clone())?;
            watchers::path_events::look(sender.clone(), &self.procfs)?;
            watchers::mounts::watch(sender.clone(), &self.procfs)?;
            if self.state.kernel.is_some() {
                watchers::dm_event::watch(sender.clone(), &self.privileged)?;
            }
            // Subscribe first, then read. Events about changes in between wait in the channel.
            self.await_watchers(&mut wakes).await;
        }
        // The last privileged thread is started, so the thread that starts them may end.
        self.privileged = Privileged::default();
        self.await_memory().await;
        self.state.begin(Now::get());
        let mut batch = Vec::with_capacity(WAKE_BATCH);
        loop {
            self.ask();
            let due = self.state.next_due(Instant::now());
            // `sender` lives until the end of this function, so `wakes` is never closed.
            tokio::select! {
                _ = wakes.recv_many(&mut batch, WAKE_BATCH) => self.state.wake(batch.drain(..), Now::get()),
                arrival = self.readers.reply() => self.state.take(arrival, Now::get()),
                image = loaded(self.memory_file.as_mut()) => self.resume(image),
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return Ok(()),
                },
                () = until(due) => {}
            }
            self.state.look_at_clock(Now::get());
            self.state.publish_if_due(Now::get());
            self.write_what_is_due();
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Resync => self.state.want_everything(Reason::Signal),
            Command::Configure(config) => self.state.configure(config, Now::get()),
            Command::Write(done) => self.write(done),
            Command::Answer(answer) => self.state.waiting.push(answer),
        }
        self.state.answer_those_who_wait();
    }

    /// Waits for the memory from an earlier run. If the disk is slow, the memory is also accepted
    /// later.
    async fn await_memory(&mut self) {
        let Some(file) = &mut self.memory_file else { return };
        if let Ok(image) = timeout(memory::file::FILE_DEADLINE, file.loaded()).await {
            self.resume(image);
        }
    }

    fn resume(&mut self, image: Option<memory::Image>) {
        if let Some(image) = image {
            self.state.resume(image, Now::get());
        }
    }

    fn write_what_is_due(&mut self) {
        let Some(file) = self.memory_file.as_ref().filter(|file| file.is_loaded()) else { return };
        if let Some(image) = self.state.memory.due_image(Now::get()) {
            file.write(image, None);
        }
    }

    /// Writes the whole memory now. Drops `done` if there is nothing to write, or no file.
    fn write(&mut self, done: oneshot::Sender<()>) {
        let Some(file) = self.memory_file.as_ref().filter(|file| file.is_loaded()) else { return };
        if let Some(image) = self.state.memory.last_image(Now::get()) {
            file.write(image, Some(done));
        }
    }

    /// Starts the readings that are due.
    fn ask(&mut self) {
        for ask in self.state.due(Now::get()) {
            self.readers.ask(ask);
        }
    }

    /// Waits until each watcher is watching or has reported why it cannot.
    async fn await_watchers(&mut self, wakes: &mut mpsc::Receiver<Wake>) {
        let mut awaited = vec![Watcher::Uevent];
        awaited.extend(self.state.kernel.as_ref().map(|_| Watcher::DeviceMapper));
        let deadline = tokio::time::Instant::now() + WATCHER_DEADLINE;
        while !awaited.is_empty() {
            let Ok(Some(wake)) = timeout_at(deadline, wakes.recv()).await else { break };
            if let Wake::Watching(watcher) | Wake::Lost(watcher, _) = &wake {
                awaited.retain(|awaited| awaited != watcher);
            }
            self.state.wake([wake].into_iter(), Now::get());
        }
    }
}

/// Waits for the memory from an earlier run. It never comes if no file is configured. Cancel safe.
async fn loaded(file: Option<&mut memory::file::Handle>) -> Option<memory::Image> {
    match file {
        Some(file) => file.loaded().await,
        None => std::future::pending().await,
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// The settings that [`State`] needs.
#[derive(Clone, Debug)]
struct Options {
    device_mapper: bool,
    /// The time limit for multipathd's answers, if multipathd is asked.
    multipathd: Option<Duration>,
    /// True if NVMe devices are read.
    nvme: bool,
    resync: Duration,
    reread: Duration,
    config: Arc<Config>,
}

/// Only sysfs is read, at the default intervals.
#[cfg(test)]
impl Default for Options {
    fn default() -> Self {
        Options {
            device_mapper: false,
            multipathd: None,
            nvme: true,
            resync: Duration::from_secs(30),
            reread: Duration::from_secs(5),
            config: Arc::default(),
        }
    }
}

/// Everything the monitor knows between one wake and the next.
struct State {
    // Readings: wanted, and under way.
    kernel: Option<Lane<KernelWant>>,
    block: Lane<BlockWant>,
    transports: Lane<TransportsWant>,
    interfaces: Lane<InterfacesWant>,
    daemon: Option<Lane<DaemonWant>>,
    daemon_pace: DaemonPace,
    /// True if the kernel sends no event when a path fails.
    lacks_path_events: bool,
    timers: Timers,
    session_failures: Tally,
    controller_failures: Tally,
    nvme_clocks: queueing::Clocks,
    bonds: Bonds,
    /// The ways that were open in the last three readings, newest first.
    open_ways: [Arc<HashSet<Way>>; 3],
    // The last readings.
    readings: Readings,
    ledgers: Ledgers,
    // The devices assembled from the readings.
    dm_devices: assemble::DmDevices,
    /// The WWID of each map by its number. A udev trigger sends an event for every device of the
    /// host, so a search for each event would be too slow.
    wwids: HashMap<DevNo, Arc<str>>,
    nvme_devices: nvme::NvmeDevices,
    snapshot: watch::Sender<Option<Arc<Snapshot>>>,
    // Events, log lines and counters.
    events: Arc<EventLog>,
    path_log: PathLog,
    logged_once: LoggedOnce,
    health: Arc<SourceHealth>,
    own: Arc<OwnMetrics>,
    corrections: Corrections,
    departures: Departures,
    strays: Strays,
    /// Since when a device may have lost a user that no reading shows yet.
    unread_usage: Option<Instant>,
    memory: Memory,
    config: Arc<Config>,
    start: Start,
    /// True if the published snapshot may be outdated.
    is_outdated: bool,
    /// When the last reading of path states was requested, if a timer caused it.
    timer_found: Option<Instant>,
    /// True once the first full read is done. From then on, snapshots are published.
    is_open: bool,
    /// True once device mapper or sysfs has listed the device-mapper devices, and sysfs the NVMe
    /// devices. A device that comes later is new.
    dm_is_known: bool,
    nvme_is_known: bool,
    /// True if NVMe devices are read.
    reads_nvme: bool,
    aftermath: Aftermath,
    /// True if the last reading of block devices failed.
    block_failed: bool,
    /// True if device mapper has answered since the last publication.
    kernel_has_answered: bool,
    /// True if the next publication has to forget the disks that are no members.
    forget_strangers: bool,
    /// New members whose names are being looked up, and since when.
    nameless: BTreeMap<DevNo, Instant>,
    /// When the uevents were received whose state is not being read yet, and those whose state is
    /// being read.
    unread: Vec<Instant>,
    being_read: Vec<Instant>,
    /// The requesters that wait for the first full read.
    waiting: Vec<oneshot::Sender<()>>,
}

impl State {
    fn new(options: Options, memory: Memory, own: Arc<OwnMetrics>, now: Now) -> (Self, Board) {
        let Options { device_mapper, multipathd, nvme, resync, reread, config } = options;
        let health = Arc::new(SourceHealth::default());
        let events = Arc::new(EventLog::default());
        let (sender, snapshot) = watch::channel(None);
        health.enable(SourcePart::Block);
        health.enable(SourcePart::Transports);
        if device_mapper {
            health.enable(SourcePart::DeviceMapper);
        }
        if multipathd.is_some() {
            health.enable(SourcePart::Multipathd);
        }
        let reread = || Cadence::new(reread, now.instant);
        let state = State {
            kernel: device_mapper.then(|| Lane::new(IOCTL_DEADLINE)),
            block: Lane::new(BLOCK_DEADLINE),
            transports: Lane::new(TRANSPORTS_DEADLINE),
            interfaces: Lane::new(TRANSPORTS_DEADLINE),
            // Each exchange has its own time limit.
            daemon: multipathd.map(|longest| Lane::new(longest + Duration::from_secs(1))),
            daemon_pace: DaemonPace::default(),
            lacks_path_events: false,
            session_failures: Tally::default(),
            controller_failures: Tally::default(),
            nvme_clocks: queueing::Clocks::default(),
            bonds: Bonds::default(),
            open_ways: Default::default(),
            timers: Timers {
                resync: Cadence::new(resync, now.instant),
                kernel: reread(),
                block: reread(),
                transports: reread(),
                daemon: reread(),
            },
            readings: Readings {
                kernel: device_mapper.then(KernelFacts::default),
                multipathd: multipathd.map(|_| DaemonFacts::default()),
                ..Readings::default()
            },
            ledgers: Ledgers::new(),
            dm_devices: assemble::DmDevices::new(),
            wwids: HashMap::new(),
            nvme_devices: nvme::NvmeDevices::new(),
            snapshot: sender,
            events: Arc::clone(&events),
            path_log: PathLog::default(),
            logged_once: LoggedOnce::default(),
            health: Arc::clone(&health),
            own: Arc::clone(&own),
            corrections: Corrections::default(),
            departures: Departures::default(),
            strays: Strays::default(),
            unread_usage: None,
            memory,
            config,
            start: Start::default(),
            is_outdated: false,
            timer_found: None,
            is_open: false,
            dm_is_known: false,
            nvme_is_known: false,
            reads_nvme: nvme,
            aftermath: Aftermath::default(),
            block_failed: false,
            kernel_has_answered: false,
            forget_strangers: false,
            nameless: BTreeMap::new(),
            unread: Vec::new(),
            being_read: Vec::new(),
            waiting: Vec::new(),
        };
        state.publish_intervals();
        (state, Board { snapshot, events, sources: health, own, memory: None })
    }

    /// Called before uevents are watched.
    fn expect_events(&self) {
        self.health.enable(SourcePart::Uevent);
        self.health.expect(SourcePart::Uevent, PULSE_INTERVAL);
    }

    /// Begins the first full read.
    fn begin(&mut self, now: Now) {
        self.start.began = Some(now.instant);
        self.look_for_networks();
        self.want_everything(Reason::Start);
    }

    /// Reads the interfaces of the configured bonds, too, from now on.
    fn look_for_networks(&mut self) {
        let networks = self.config.iscsi_bonds.iter().flat_map(|bond| &bond.networks);
        self.transports.want.interfaces = Arc::new(networks.filter_map(Network::interface).collect());
    }

    /// Uses this configuration from now on.
    fn configure(&mut self, config: Arc<Config>, now: Now) {
        if config.iscsi_bonds != self.config.iscsi_bonds {
            self.bonds = Bonds::default();
        }
        self.config = config;
        self.look_for_networks();
        self.transports.want.look(true, Reason::Signal);
        self.memory.forget(&self.config, now);
        self.is_outdated = true;
    }

    /// Takes over the memory of an earlier run. It may come late.
    fn resume(&mut self, image: memory::Image, now: Now) {
        self.memory.resume(image, now);
        self.memory.forget(&self.config, now);
        self.transports.want.remembered = Arc::new(self.memory.nvme_devices());
        self.transports.want.look(false, Reason::Start);
        self.is_outdated = true;
    }

    fn wake(&mut self, wakes: impl Iterator<Item = Wake>, now: Now) {
        for wake in wakes {
            match wake {
                Wake::Uevent(uevent) => self.uevent(&uevent),
                Wake::ScsiDevice(address) => {
                    if let Some(devno) = self.readings.block.disk_at(&address) {
                        self.block.want.disk(devno);
                    }
                }
                Wake::Overflow => {
                    self.own.uevent_overflows.inc();
                    self.events_were_lost();
                }
                Wake::NoPathEvents(file) => {
                    warn!(
                        file = %file.display(),
                        "this kernel is built without CONFIG_DM_UEVENT and sends no path events. Unless device mapper may be \
                         read, a path failure shows only at the next re-read"
                    );
                    self.lacks_path_events = true;
                    self.health.remark(SourcePart::Uevent, "this kernel sends no path events (CONFIG_DM_UEVENT)");
                }
                Wake::DeviceMapper => {
                    self.corrections.device_mapper_woke(now.instant);
                    self.look_at_kernel(None);
                }
                Wake::Drained { at, took } => {
                    self.health.succeeded(SourcePart::Uevent, took, now.time, &[]);
                    self.events_read_until(Some(at));
                }
                Wake::Watching(Watcher::Uevent) => {
                    self.health.succeeded(SourcePart::Uevent, Duration::ZERO, now.time, &[]);
                    self.events_read_until(Some(now.instant));
                    if self.start.has_begun() {
                        // The watcher had been lost, and events with it.
                        self.events_were_lost();
                    }
                }
                Wake::Mounts => self.users_changed(now.instant),
                Wake::Watching(Watcher::DeviceMapper) => self.look_at_kernel(None),
                Wake::Lost(Watcher::Uevent, error) => {
                    self.health.failed(SourcePart::Uevent, &error);
                    self.events_read_until(None);
                }
                Wake::Lost(Watcher::DeviceMapper, error) => self.logged_once.event_poll(&error),
            }
        }
        // If the kernel's status may not be read, the events themselves change the state.
        if !self.readings.kernel_is_current() && !self.unread.is_empty() {
            self.being_read.append(&mut self.unread);
            self.is_outdated = true;
        }
    }

    /// All uevents up to this moment have been processed. `None` if none can be expected.
    fn events_read_until(&mut self, moment: Option<Instant>) {
        self.corrections.events_read_until(moment);
        self.is_outdated |= self.departures.events_read_until(moment);
    }

    /// Answers the waiting requests, if all sources have been tried. A requester may have
    /// disconnected.
    fn answer_those_who_wait(&mut self) {
        if self.was_tried() {
            for answer in self.waiting.drain(..) {
                let _ = answer.send(());
            }
        }
    }

    /// Returns the next moment at which something is due without a wake.
    fn next_due(&self, now: Instant) -> Option<Instant> {
        let timers = &self.timers;
        let kernel = self.kernel.iter().flat_map(|lane| [lane.late_at(), timers.kernel.due()]);
        let daemon = self.daemon.iter().flat_map(|lane| [lane.late_at(), timers.daemon.due()]);
        let others = [
            self.block.late_at(),
            timers.block.due(),
            self.transports.late_at(),
            timers.transports.due(),
            self.interfaces.late_at(),
            timers.resync.due(),
            self.aftermath.due,
            self.corrections.next_due(now),
            self.path_log.due(),
            self.nameless.values().min().map(|since| *since + NAME_DEADLINE),
            self.start.next_due(),
            self.memory.due(),
            self.strays.due(),
            self.daemon.as_ref().filter(|lane| lane.is_free()).and_then(|_| self.daemon_pace.due()),
        ];
        kernel.chain(daemon).chain(others).flatten().min()
    }

    /// Does everything that is due by now.
    fn look_at_clock(&mut self, now: Now) {
        self.start.look_at_clock(now.instant);
        self.notice_late_readings(now.instant);
        if self.start.has_begun() {
            self.want_what_is_due(now.instant);
        }
        if let Some(wwids) = self.aftermath.take(now.instant) {
            self.want_aftermath(wwids);
        }
        let nameless = self.nameless.len();
        self.nameless.retain(|_, since| now.instant < *since + NAME_DEADLINE);
        self.is_outdated |= self.nameless.len() < nameless;
        self.path_log.look_at_clock(now.instant);
        self.is_outdated |= [self.memory.due(), self.strays.due()].iter().flatten().any(|due| *due <= now.instant);
        for ((wwid, devno), action) in self.corrections.settle(&mut self.ledgers, &self.own, now) {
            self.is_outdated = true;
            self.report_settled(&wwid, devno, action, now);
        }
        self.answer_those_who_wait();
    }

    /// Returns the readings that begin now: one for each free lane that has something to read.
    fn due(&mut self, now: Now) -> Vec<Ask> {
        let mut asks = Vec::new();
        if let Some(lane) = &mut self.kernel
            && let Some(request) = lane.begin(now.instant)
        {
            self.ledgers.values_mut().for_each(MapLedger::kernel_asked);
            self.being_read.append(&mut self.unread);
            asks.push(Ask::Kernel(request));
        }
        asks.extend(self.interfaces.begin(now.instant).map(|_| Ask::Interfaces));
        let kernel_was_tried = self.kernel.as_ref().is_none_or(Lane::was_tried);
        if kernel_was_tried || self.start.order_is_over {
            let kernel = self.readings.kernel.as_ref().filter(|kernel| kernel.current);
            self.block.want.told = kernel.map(|kernel| Arc::clone(&kernel.told));
            if let Some(request) = self.block.begin(now.instant) {
                self.ledgers.values_mut().for_each(MapLedger::block_asked);
                asks.push(Ask::Block(request));
            }
        }
        if self.interfaces.was_tried() || self.start.order_is_over {
            self.transports.want.addresses = Arc::clone(&self.readings.addresses);
            asks.extend(self.transports.begin(now.instant).map(Ask::Transports));
        }
        self.daemon_pace.is_only_source = self.lacks_path_events && !self.readings.kernel_is_current();
        // The permitted length of multipathd's reply depends on the number of maps.
        let maps_are_counted = self.block.was_tried() || self.start.order_is_over;
        if let Some(lane) = self.daemon.as_mut().filter(|lane| maps_are_counted && lane.is_free()) {
            match self.daemon_pace.take(now.instant) {
                Some((reason, true)) => lane.want.paths(reason),
                Some((reason, false)) => lane.want.maps(reason),
                None => {}
            }
            lane.want.known = self.readings.number_of_maps();
            if let Some(request) = lane.begin(now.instant) {
                self.ledgers.values_mut().for_each(MapLedger::daemon_asked);
                asks.push(Ask::Daemon(request));
            }
        }
        asks
    }

    /// Takes a reading, which replaces the last one of its source.
    fn take(&mut self, (reply, cost): Arrival, now: Now) {
        self.is_outdated = true;
        match reply {
            Reply::Kernel(reply) => self.take_kernel(reply, cost, now),
            Reply::Block(reply) => self.take_block(reply, cost, now),
            Reply::Transports(reply) => self.take_transports(reply, cost, now),
            Reply::Interfaces(reply) => self.take_interfaces(reply),
            Reply::Daemon(reply) => self.take_daemon(reply, cost, now),
        }
    }

    /// Assembles, compares and publishes, if anything has changed since the last time.
    fn publish_if_due(&mut self, now: Now) {
        self.is_open |= self.may_open();
        if !self.is_open || !std::mem::take(&mut self.is_outdated) {
            return;
        }
        let (dm_is_new, nvme_is_new) = (!self.dm_is_known, !self.nvme_is_known);
        self.dm_is_known |=
            self.readings.list_source().is_some_and(|(list_source, _)| list_source != ListSource::Multipathd);
        self.nvme_is_known |= self.readings.transports.is_some();

        let nameless = &self.nameless;
        let last = std::mem::take(&mut self.dm_devices);
        self.dm_devices =
            assemble::devices(&self.readings, &self.ledgers, &self.config, last, |devno| nameless.contains_key(&devno));
        if self.wwids.len() != self.dm_devices.len() || self.dm_devices.values().any(|built| built.is_new) {
            let numbered = self.dm_devices.iter().filter_map(|(wwid, built)| Some((built.devno()?, Arc::clone(wwid))));
            self.wwids = numbered.collect();
        }
        if let Some(transports::TransportReading { heads, io, .. }) = &self.readings.transports {
            let (root, last, clocks) = (&self.readings.block.root, &self.nvme_devices, &self.nvme_clocks);
            self.nvme_devices = nvme::devices(heads, io, root, clocks, last, nvme_is_new, now);
        }
        self.find_use(now.instant);
        let ways = self.readings.ways();
        let candidates = &self.readings.block.candidates;
        self.strays.follow(candidates, &mut self.dm_devices, &self.ledgers, &ways, now.instant);
        let mut snapshot = self.snapshot_of_devices();
        let (bonds, addresses) = (&self.config.iscsi_bonds, &self.readings.addresses);
        snapshot.iscsi_bonds = self.bonds.look(bonds, &snapshot.transports, addresses);
        let before = self.snapshot.borrow().clone().unwrap_or_default();
        let changes = compare::changes(&before.devices, &snapshot.devices);

        for Change { device, what } in changes {
            let is_found = if device.kind == Kind::Nvme { nvme_is_new } else { dm_is_new };
            self.report_change(&device, what, is_found, now);
        }
        self.follow_paths(dm_is_new, now.instant);
        self.look_back(&mut snapshot, now);
        self.forget_what_is_gone(now.instant);
        self.send(snapshot);
        self.timer_found = None;
        if std::mem::take(&mut self.kernel_has_answered) || !self.readings.kernel_is_current() {
            // The state after these uevents is published.
            for received in self.being_read.drain(..) {
                self.own.event_to_metric.observe((now.instant - received).as_secs_f64());
            }
        }
    }

    /// Finds out which devices are in use, and whose I/O stands still. An unchanged device stays
    /// the same allocation.
    fn find_use(&mut self, now: Instant) {
        let block = &self.readings.block;
        let find = |device: &mut Arc<Device>, written: &mut LastWrite, stall: &mut Stall, is_held, io: Option<&Io>| {
            let has_users = block.usage.users.get(&*device.sysfs_name).is_some_and(|users| !users.is_empty());
            let has_valid_path = device.counts().valid > 0;
            written.follow(io.and_then(Io::writes_completed), has_users, has_valid_path, now);
            let in_use = usage::in_use(is_held, &device.sysfs_name, &block.usage, written.is_recent(now));
            // A device that has just gone from sysfs stays in use until its own source no longer
            // lists it.
            let is_seen = device.kind != Kind::Nvme || block.usage.users.contains_key(&*device.sysfs_name);
            let in_use = if is_seen { in_use } else { in_use.or(device.in_use) };
            let stalled = stalled(stall, io, has_valid_path && device.suspended != Some(true));
            if (device.in_use, device.stalled) != (in_use, stalled) {
                let device = Arc::make_mut(device);
                (device.in_use, device.stalled) = (in_use, stalled);
            }
        };
        for built in self.dm_devices.values_mut() {
            let (is_held, devno) = (built.is_held(), built.devno());
            let io = devno.and_then(|devno| block.io.get(&devno));
            find(&mut built.device, &mut built.written, &mut built.stall, is_held, io);
        }
        for built in self.nvme_devices.values_mut() {
            let io = self.readings.transports.as_ref().and_then(|reading| reading.io.get(&built.device.sysfs_name));
            find(&mut built.device, &mut built.written, &mut built.stall, None, io);
        }
    }

    fn snapshot_of_devices(&self) -> Snapshot {
        let nvme = self.nvme_devices.iter().map(|(wwid, built)| (wwid, &built.device));
        let mapped = self.dm_devices.iter().map(|(wwid, built)| (wwid, &built.device));
        // Sorted, each WWID once. If a map lies over a head with the same WWID, the map is the one
        // in use.
        let by_wwid: BTreeMap<_, _> = nvme.chain(mapped).collect();
        let devices: Vec<_> = by_wwid.values().map(|device| Arc::clone(device)).collect();
        let transports = self.readings.transports();
        let disks = &self.readings.block.disks;
        let members = devices.iter().flat_map(|device| &device.paths).map(|path| {
            let disk = path.devno.and_then(|devno| disks.get(&devno));
            (&*path.name, disk.and_then(|disk| disk.identity.udev.as_deref()))
        });
        let iscsi_session_paths =
            if transports.iscsi_sessions.is_empty() { BTreeMap::new() } else { session_paths(&devices, disks) };
        let known_paths =
            self.readings.multipathd.as_ref().map_or(&KnownPaths::CannotTell, |daemon| &daemon.known_paths);
        let context = unassembled::Context {
            ways: &self.readings.ways(),
            member_ways: &self.readings.block.member_ways,
            known: known_paths,
            is_ignored: &|wwid| self.config.ignores(wwid),
            devices: &by_wwid,
        };
        let mut snapshot = Snapshot {
            daemon: self.readings.daemon(),
            iscsi_bonds: Vec::new(),
            unassembled: context.look(&self.readings.block.suspects, members),
            used_directly: Vec::new(),
            iscsi_session_paths,
            iscsi_session_failures: Arc::clone(self.session_failures.present()),
            nvme_controller_failures: Arc::clone(self.controller_failures.present()),
            remembered: self.memory.remembered(),
            transports,
            devices,
        };
        snapshot.used_directly = self.used_directly(&snapshot);
        snapshot
    }

    /// Returns the users that use disks directly, beside their device. A native NVMe device has no
    /// disks below it. Disks that are gone are left out, because another disk may have their name.
    fn used_directly(&self, snapshot: &Snapshot) -> Vec<DirectUse> {
        let block = &self.readings.block;
        let is_gone = |devno: Option<DevNo>| {
            devno.and_then(|devno| block.disks.get(&devno)).is_some_and(|disk| disk.states.absent)
        };
        let mapped = snapshot.devices.iter().filter(|device| device.kind == Kind::DeviceMapper);
        let members = mapped.flat_map(|device| device.paths.iter().map(|path| (path, &device.wwid)));
        let members = members.filter(|(path, _)| !is_gone(path.devno)).map(|(path, wwid)| (&*path.name, wwid));
        let beside = snapshot.disks_beside().map(|(wwid, disk)| (&**disk, wwid));
        usage::used_directly(&block.usage, members.chain(beside))
    }

    /// Publishes the snapshot, if it differs from the last one.
    fn send(&self, now: Snapshot) {
        self.snapshot.send_if_modified(|published| {
            let same = published.as_ref().is_some_and(|last| {
                last.daemon == now.daemon
                    && Arc::ptr_eq(&last.transports, &now.transports)
                    && last.iscsi_session_paths == now.iscsi_session_paths
                    && Arc::ptr_eq(&last.iscsi_session_failures, &now.iscsi_session_failures)
                    && Arc::ptr_eq(&last.nvme_controller_failures, &now.nvme_controller_failures)
                    && last.iscsi_bonds == now.iscsi_bonds
                    && last.unassembled == now.unassembled
                    && last.used_directly == now.used_directly
                    && Arc::ptr_eq(&last.remembered, &now.remembered)
                    && last.devices.len() == now.devices.len()
                    && last.devices.iter().zip(&now.devices).all(|(one, other)| Arc::ptr_eq(one, other))
            });
            if !same {
                *published = Some(Arc::new(now));
            }
            !same
        });
    }

    fn forget_what_is_gone(&mut self, now: Instant) {
        self.readings.forget_facts_about_gone_maps();
        let (readings, devices) = (&self.readings, &self.dm_devices);
        let as_of = readings.listed_as_of();
        let block_failed = self.block_failed && !readings.kernel_is_current();
        self.ledgers.retain(|wwid, ledger| {
            // The reading that shows the map of an event may still come. That reading may also have
            // failed.
            let is_awaited =
                block_failed || as_of.is_none_or(|as_of| ledger.had_event_since(as_of)) || ledger.is_recent(now);
            is_awaited || devices.contains_key(wwid) || readings.know(wwid)
        });
        if let Some(as_of) = as_of {
            self.departures.forget_maps(as_of, |wwid| devices.contains_key(wwid));
        }
        if std::mem::take(&mut self.forget_strangers) {
            let members: HashSet<DevNo> = devices
                .values()
                .flat_map(|built| &built.device.paths)
                .filter_map(|path| path.devno)
                .chain(self.nameless.keys().copied())
                .collect();
            self.readings.block.forget_strangers(|devno| members.contains(&devno));
        }
    }
}

/// Returns how long a device's I/O has stood still. Some drivers count I/O as in flight while it
/// waits for a path or for the end of a suspension. Those cases have findings of their own.
fn stalled(stall: &mut Stall, io: Option<&Io>, could_flow: bool) -> Option<Duration> {
    match io {
        Some(io) => stall.follow(io),
        None => *stall = Stall::default(),
    }
    if !could_flow {
        stall.excuse();
    }
    stall.duration()
}

/// Counts the members of devices that use each iSCSI session. A member whose disk is gone uses
/// none.
fn session_paths(devices: &[Arc<Device>], disks: &HashMap<DevNo, Arc<Disk>>) -> BTreeMap<Arc<str>, usize> {
    let mut sessions = BTreeMap::new();
    let members = devices.iter().flat_map(|device| &device.paths).filter_map(|path| disks.get(&path.devno?));
    for disk in members.filter(|disk| !disk.states.absent) {
        if let Some(Way::Iscsi(session)) = &disk.way {
            *sessions.entry(Arc::clone(session)).or_default() += 1;
        }
    }
    sessions
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::time::SystemTime;

    use super::*;
    use crate::source::block;
    use crate::watch::{PathAction, PathEvent, Uevent};

    const DM: &str = "devices/virtual/block/dm-0";

    /// Creates a map of one disk in sysfs.
    fn make_map(sysfs: &std::path::Path) {
        let (map, disk) = (sysfs.join(DM), sysfs.join("devices/virtual/block/sdb"));
        fs::create_dir_all(map.join("dm")).unwrap();
        fs::create_dir_all(map.join("slaves")).unwrap();
        fs::create_dir_all(sysfs.join("block")).unwrap();
        fs::create_dir_all(&disk).unwrap();
        for (file, content) in [("dev", "254:0"), ("dm/uuid", "mpath-3600a"), ("dm/name", "mpatha")] {
            fs::write(map.join(file), content).unwrap();
        }
        fs::write(disk.join("dev"), "8:16").unwrap();
        symlink("../../sdb", map.join("slaves/sdb")).unwrap();
        symlink(format!("../{DM}"), sysfs.join("block/dm-0")).unwrap();
    }

    fn remove_map(sysfs: &std::path::Path) {
        fs::remove_file(sysfs.join("block/dm-0")).unwrap();
        fs::remove_dir_all(sysfs.join(DM)).unwrap();
    }

    fn uevent(action: &str, diskseq: u64, path: Option<PathEvent>) -> Wake {
        Wake::Uevent(Box::new(Uevent {
            // A different number for each event.
            seqnum: diskseq * 1000 + path.as_ref().map_or(0, |path| path.dm_seqnum),
            action: Arc::from(action),
            sysname: Arc::from("dm-0"),
            devno: Some("254:0".parse().unwrap()),
            diskseq: Some(diskseq),
            synthetic: false,
            is_partition: false,
            path,
            received: Instant::now(),
            time: SystemTime::now(),
        }))
    }

    #[test]
    fn a_failure_outlives_the_reading_that_saw_its_map_between_removal_and_creation() {
        let tree = tempfile::tempdir().unwrap();
        let sysfs = tree.path();
        make_map(sysfs);
        let places =
            Places { sysfs: sysfs.to_owned(), procfs: "/proc".into(), udev_data: sysfs.join("udev"), capture: None };
        let mut reader = block::BlockReader::new(places);
        let options = Options { resync: Duration::MAX, reread: Duration::MAX, ..Options::default() };
        let (mut state, board) = State::new(options, Memory::default(), Arc::default(), Now::get());
        let wake = |state: &mut State, wakes: Vec<Wake>| {
            state.wake(wakes.into_iter(), Now::get());
            state.publish_if_due(Now::get());
        };
        let mut begin = |state: &mut State| {
            let mut block = None;
            for ask in state.due(Now::get()) {
                match ask {
                    Ask::Block(request) => block = Some(Reply::Block(reader.read(&request))),
                    Ask::Interfaces => {
                        state.take((Reply::Interfaces(Ok(Default::default())), Duration::ZERO), Now::get());
                    }
                    Ask::Transports(_) => {
                        state.take((Reply::Transports(Ok(Default::default())), Duration::ZERO), Now::get());
                    }
                    ask => panic!("{ask:?} is switched off"),
                }
            }
            block
        };
        let end = |state: &mut State, reply: Option<Reply>| {
            state.take((reply.unwrap(), Duration::ZERO), Now::get());
            state.publish_if_due(Now::get());
        };
        state.begin(Now::get());
        let first = begin(&mut state);
        end(&mut state, first);
        begin(&mut state);
        state.publish_if_due(Now::get());
        let counts = || {
            board
                .snapshot
                .borrow()
                .iter()
                .flat_map(|snapshot| snapshot.devices.clone())
                .map(|device| (device.counts().valid, device.counts().failed, device.path_events.failed))
                .collect::<Vec<_>>()
        };
        let told = |action, dm_seqnum, diskseq| {
            let path = "8:16".parse().unwrap();
            let (wwid, name) = (Arc::from("3600a"), Arc::from("mpatha"));
            uevent("change", diskseq, Some(PathEvent { wwid, name, action, path, dm_seqnum, valid_paths: None }))
        };
        let (failed, reinstated) = (PathAction::Failed, PathAction::Reinstated);
        wake(&mut state, vec![told(failed, 1, 7), told(reinstated, 2, 7)]);
        assert_eq!(counts(), [(1, 0, 1)]);

        remove_map(sysfs);
        wake(&mut state, vec![uevent("remove", 7, None)]);
        let reading = begin(&mut state);
        make_map(sysfs);
        wake(&mut state, vec![uevent("add", 8, None), told(failed, 1, 8)]);
        assert_eq!(counts(), [(0, 1, 2)]);
        end(&mut state, reading);
        assert_eq!(counts(), []);
        let reading = begin(&mut state);
        end(&mut state, reading);
        assert_eq!(counts(), [(0, 1, 2)]);
    }
}
