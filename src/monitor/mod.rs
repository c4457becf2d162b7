//! The loop: wake, read, assemble, compare, publish.
//!
//! ```text
//!            ┌─► wake       events, timers, SIGHUP: what is to be read, and why       (schedule.rs, readings.rs)
//! Monitor ───┼─► ask        each lane that is free begins its next reading            (readers.rs)
//!            ├─► take       a new reading takes the place of the old one              (readings.rs, ledger.rs)
//!            └─► publish    assemble devices, compare with the last snapshot, tell    (assemble.rs, nvme.rs, compare.rs)
//! ```
//!
//! An event says "look again"; the reading says what is. [`Monitor::run`] waits for whatever comes next and hands it to
//! [`State`], which does no I/O and asks no clock: it is told what came and when. So a test can hand it any history.

mod assemble;
mod bonds;
mod compare;
mod corrections;
mod ledger;
mod log;
#[cfg(test)]
mod model;
mod names;
mod nvme;
mod readers;
mod readings;
mod schedule;
mod unassembled;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep_until, timeout_at};

use crate::config::Config;
use crate::event::{Event, EventLog, EventType};
use crate::metrics::own::{OwnMetrics, ResyncReason};
use crate::source::block::Scope;
use crate::source::health::{Part, SourceHealth};
use crate::source::{Error, Places, block, device_mapper, multipathd, transports};
use crate::topology::{Daemon, DevNo, Device, Health, Kind, Path, PathState, Snapshot};
use crate::watch::{self as watchers, PathAction, PathEvent, Uevent, Wake, Watcher};
use compare::{Change, What};
use corrections::Corrections;
use ledger::MapLedger;
use log::PathLog;
use readers::{Ask, Readers, Reply, Sources};
use readings::{
    BlockWant, DaemonReply, DaemonWant, InterfacesWant, Kernel, KernelWant, KnownPaths, Multipathd, Readings,
    TransportsWant,
};
use schedule::{Cadence, Lane, Reason};

/// How long to wait for the watchers before the first read. They need milliseconds.
const WATCHER_DEADLINE: Duration = Duration::from_secs(5);
/// A reading in the kernel that takes longer counts as failed until it comes. For a thousand maps an emulated machine needs
/// half a second of ioctls and ten of files, a real one a hundredth of that.
const IOCTL_DEADLINE: Duration = Duration::from_secs(10);
const BLOCK_DEADLINE: Duration = Duration::from_secs(30);
/// There are few sessions, ports and controllers. One of them that hangs is to be known soon.
const TRANSPORTS_DEADLINE: Duration = Duration::from_secs(10);
/// At the start sysfs waits this long for device mapper's word, which spares it the files of the maps; and transports for
/// the addresses of interfaces.
const START_ORDER: Duration = Duration::from_secs(5);
/// Nothing is published before every source of devices has answered, but for no longer than this.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// After a path event the sources that follow the kernel (the SCSI layer, multipathd) get this long before they are
/// asked what they make of it.
const AFTERMATH: Duration = Duration::from_millis(100);
/// Path events do not have them asked more often than this.
const AFTERMATH_INTERVAL: Duration = Duration::from_secs(1);
/// multipathd's words change without an event. While a device is not healthy, and this long after a path event, it is
/// asked at every re-read instead of every resync.
const CLOSE_WATCH: Duration = Duration::from_secs(60);
/// New members wait this long for their names, which sysfs knows; then they are shown without.
const NAME_PATIENCE: Duration = Duration::from_secs(5);
/// The watcher of uevents shows that it is alive at least this often: a pulse may wait behind a storm of events.
const PULSE_INTERVAL: Duration = watchers::PULSE.saturating_mul(4);
/// Wakes taken at a time.
const BATCH: usize = 1024;

/// What the monitor is to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where files are read.
    pub places: Places,
    /// Which transports are read.
    pub parts: transports::Parts,
    /// Ask device mapper.
    pub device_mapper: bool,
    /// Ask multipathd.
    pub multipathd: Option<multipathd::Client>,
    /// Read everything this often.
    pub resync: Duration,
    /// Read what has no event this often.
    pub reread: Duration,
    /// What is expected of the host.
    pub config: Arc<Config>,
}

/// What the monitor shares with those who show it.
#[derive(Clone, Debug)]
pub struct Board {
    /// The devices; `None` until the first full read.
    pub snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    /// Recent events.
    pub events: Arc<EventLog>,
    /// How each source fares.
    pub sources: Arc<SourceHealth>,
    /// The exporter's own counters.
    pub own: Arc<OwnMetrics>,
}

/// A request from outside the loop.
#[derive(Debug)]
pub enum Command {
    /// Read everything now.
    Resync,
    /// From now on with this configuration.
    Configure(Arc<Config>),
    /// Say that the loop goes round. Before each source has been tried once, it says so only then.
    Answer(oneshot::Sender<()>),
}

/// The ledgers of all device-mapper devices, by WWID.
pub type Ledgers = HashMap<Arc<str>, MapLedger>;

/// A moment, for measuring and for showing.
#[derive(Clone, Copy, Debug)]
struct Now {
    instant: Instant,
    time: SystemTime,
}

impl Now {
    fn get() -> Self {
        Now { instant: Instant::now(), time: SystemTime::now() }
    }
}

/// The loop: [`State`], and all that wakes it.
pub struct Monitor {
    state: State,
    readers: Readers,
    /// A capture has no events, and this host's events are about other devices.
    has_events: bool,
}

impl Monitor {
    /// Starts the readers.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn new(settings: Settings, own: Arc<OwnMetrics>) -> io::Result<(Self, Board)> {
        let Settings { places, parts, device_mapper, multipathd, resync, reread, config } = settings;
        let has_events = places.capture.is_none();
        let options = Options {
            device_mapper,
            multipathd: multipathd.as_ref().map(multipathd::Client::timeout),
            resync,
            reread,
            config,
        };
        let (state, board) = State::new(options, own, Now::get());
        let readers = Readers::start(Sources { places, parts, device_mapper, multipathd })?;
        Ok((Monitor { state, readers, has_events }, board))
    }

    /// Reads everything once and publishes it, unless a source of devices does not answer.
    ///
    /// # Errors
    /// If one does not, with its own words.
    pub async fn run_once(mut self) -> Result<(), Error> {
        self.state.begin(Now::get());
        while !self.state.is_settled() {
            self.ask();
            let due = self.state.next_due(Instant::now());
            tokio::select! {
                reply = self.readers.reply() => self.state.take(reply, Now::get()),
                () = until(due) => {}
            }
            self.state.look_at_clock(Now::get());
            self.state.publish_if_due(Now::get());
        }
        self.state.silent_source().map_or(Ok(()), |part| Err(self.state.health.failure(part)))
    }

    /// Watches until `commands` is closed.
    ///
    /// # Errors
    /// If a watcher's thread cannot be started.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) -> io::Result<()> {
        let (sender, mut wakes) = watchers::channel();
        if self.has_events {
            self.state.expect_events();
            watchers::uevent::watch(sender.clone())?;
            if self.state.kernel.is_some() {
                watchers::dm_event::watch(sender.clone())?;
            }
            // Subscribed first, read then: an event tells what happens in between, and waits.
            self.await_watchers(&mut wakes).await;
        }
        self.state.begin(Now::get());
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            self.ask();
            let due = self.state.next_due(Instant::now());
            // `sender` lives until the end of this function, so `wakes` is never closed.
            tokio::select! {
                _ = wakes.recv_many(&mut batch, BATCH) => self.state.wake(batch.drain(..), Now::get()),
                reply = self.readers.reply() => self.state.take(reply, Now::get()),
                command = commands.recv() => match command {
                    Some(command) => self.state.obey(command),
                    None => return Ok(()),
                },
                () = until(due) => {}
            }
            self.state.look_at_clock(Now::get());
            self.state.publish_if_due(Now::get());
        }
    }

    /// Has read what is due.
    fn ask(&mut self) {
        for ask in self.state.due(Now::get()) {
            self.readers.ask(ask);
        }
    }

    /// Waits until each watcher is watching or has said why it cannot.
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

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// What [`State`] has to know of the settings.
#[derive(Clone, Debug)]
struct Options {
    device_mapper: bool,
    /// How long each of multipathd's answers may take, if it is asked.
    multipathd: Option<Duration>,
    resync: Duration,
    reread: Duration,
    config: Arc<Config>,
}

/// All that the monitor knows between one wake and the next.
struct State {
    // What is to be read, and what is being read.
    kernel: Option<Lane<KernelWant>>,
    block: Lane<BlockWant>,
    transports: Lane<TransportsWant>,
    interfaces: Lane<InterfacesWant>,
    daemon: Option<Lane<DaemonWant>>,
    timers: Timers,
    // What was read.
    readings: Readings,
    ledgers: Ledgers,
    // What was made of it.
    dm_devices: assemble::Devices,
    nvme_devices: nvme::Devices,
    snapshot: watch::Sender<Option<Arc<Snapshot>>>,
    // What was told of it.
    events: Arc<EventLog>,
    path_log: PathLog,
    health: Arc<SourceHealth>,
    own: Arc<OwnMetrics>,
    corrections: Corrections,
    config: Arc<Config>,
    start: Start,
    /// What is published may differ from what is known by now.
    is_outdated: bool,
    /// A timer led to the reading of path states that was taken last.
    timer_found: bool,
    /// The first full read is done: what comes next is published.
    is_open: bool,
    /// Some source has said which device-mapper devices there are, and sysfs which NVMe devices: what comes later is new.
    dm_is_known: bool,
    nvme_is_known: bool,
    aftermath: Aftermath,
    /// The last reading of block devices failed.
    block_failed: bool,
    /// Device mapper has answered since the last publication.
    kernel_has_answered: bool,
    /// Disks that are no members are to be forgotten at the next publication.
    forget_strangers: bool,
    /// New members whose names are being looked up, and since when.
    nameless: BTreeMap<DevNo, Instant>,
    /// When the uevents were received whose state is not being read yet, and those for which it is.
    unread: Vec<Instant>,
    being_read: Vec<Instant>,
    /// Those who wait for the first full read.
    waiting: Vec<oneshot::Sender<()>>,
}

/// When timers want readings.
struct Timers {
    resync: Cadence,
    kernel: Cadence,
    block: Cadence,
    transports: Cadence,
    daemon: Cadence,
}

impl Timers {
    /// Tells how often each source has to answer now, and how often sysfs is read. Intervals grow with what readings cost.
    fn tell(&self, health: &SourceHealth, own: &OwnMetrics) {
        let Timers { resync, kernel, block, transports, daemon } = self;
        health.expect(Part::DeviceMapper, kernel.present());
        // While everything is read, states wait.
        health.expect(Part::Block, block.present().max(resync.last_cost()));
        health.expect(Part::Transports, transports.present());
        // Where all is well, only a resync asks multipathd for its maps.
        health.expect(Part::Multipathd, daemon.present().max(resync.present()));
        own.resync_interval.set(resync.present().as_secs_f64());
        own.reread_interval.set(block.present().as_secs_f64());
    }
}

/// What path events leave to be looked at.
#[derive(Default)]
struct Aftermath {
    devices: BTreeSet<Arc<str>>,
    due: Option<Instant>,
    last: Option<Instant>,
}

impl State {
    fn new(options: Options, own: Arc<OwnMetrics>, now: Now) -> (Self, Board) {
        let Options { device_mapper, multipathd, resync, reread, config } = options;
        let health = Arc::new(SourceHealth::default());
        let events = Arc::new(EventLog::default());
        let (sender, snapshot) = watch::channel(None);
        health.enable(Part::Block);
        health.enable(Part::Transports);
        if device_mapper {
            health.enable(Part::DeviceMapper);
        }
        if multipathd.is_some() {
            health.enable(Part::Multipathd);
        }
        let reread = || Cadence::new(reread, now.instant);
        let state = State {
            kernel: device_mapper.then(|| Lane::new(IOCTL_DEADLINE)),
            block: Lane::new(BLOCK_DEADLINE),
            transports: Lane::new(TRANSPORTS_DEADLINE),
            interfaces: Lane::new(TRANSPORTS_DEADLINE),
            // Three exchanges, each of them bounded.
            daemon: multipathd.map(|timeout| Lane::new(timeout * 3 + Duration::from_secs(1))),
            timers: Timers {
                resync: Cadence::new(resync, now.instant),
                kernel: reread(),
                block: reread(),
                transports: reread(),
                daemon: reread(),
            },
            readings: Readings {
                kernel: device_mapper.then(Kernel::default),
                multipathd: multipathd.map(|_| Multipathd::default()),
                ..Readings::default()
            },
            ledgers: Ledgers::new(),
            dm_devices: assemble::Devices::new(),
            nvme_devices: nvme::Devices::new(),
            snapshot: sender,
            events: Arc::clone(&events),
            path_log: PathLog::default(),
            health: Arc::clone(&health),
            own: Arc::clone(&own),
            corrections: Corrections::default(),
            config,
            start: Start::default(),
            is_outdated: false,
            timer_found: false,
            is_open: false,
            dm_is_known: false,
            nvme_is_known: false,
            aftermath: Aftermath::default(),
            block_failed: false,
            kernel_has_answered: false,
            forget_strangers: false,
            nameless: BTreeMap::new(),
            unread: Vec::new(),
            being_read: Vec::new(),
            waiting: Vec::new(),
        };
        state.timers.tell(&state.health, &state.own);
        (state, Board { snapshot, events, sources: health, own })
    }

    // ---- What wakes us, and what is to be read then ----

    /// Uevents are going to be watched.
    fn expect_events(&self) {
        self.health.enable(Part::Uevent);
        self.health.expect(Part::Uevent, PULSE_INTERVAL);
    }

    /// The first full read is to be made.
    fn begin(&mut self, now: Now) {
        self.start.began = Some(now.instant);
        self.want_everything(Reason::Start);
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
                Wake::DeviceMapper => {
                    self.corrections.device_mapper_woke(now.instant);
                    self.look_at_kernel(None);
                }
                Wake::Drained { at, took } => {
                    self.health.succeeded(Part::Uevent, took, now.time, &[]);
                    self.corrections.events_read_until(Some(at));
                }
                Wake::Watching(Watcher::Uevent) => {
                    self.health.succeeded(Part::Uevent, Duration::ZERO, now.time, &[]);
                    self.corrections.events_read_until(Some(now.instant));
                    if self.start.has_begun() {
                        // The watcher was lost before, and events with it.
                        self.events_were_lost();
                    }
                }
                Wake::Watching(Watcher::DeviceMapper) => self.look_at_kernel(None),
                Wake::Lost(Watcher::Uevent, error) => {
                    self.health.failed(Part::Uevent, &error);
                    self.corrections.events_read_until(None);
                }
                Wake::Lost(Watcher::DeviceMapper, error) => log::no_event_poll(&error),
            }
        }
        // Where the kernel's status may not be read, events themselves change the state.
        if !self.readings.kernel_is_current() && !self.unread.is_empty() {
            self.being_read.append(&mut self.unread);
            self.is_outdated = true;
        }
    }

    fn uevent(&mut self, uevent: &Uevent) {
        self.own.count_uevent(&uevent.action);
        let Some(devno) = uevent.devno else { return };
        if !uevent.sysname.starts_with("dm-") {
            self.block.want.disk(devno);
            // A new disk may go over a new session, and a namespace is what a head has as a path.
            if uevent.sysname.starts_with("nvme") || &*uevent.action == "add" {
                self.transports.want.look(false, Reason::Event);
            }
            return;
        }
        // Device mapper's list tells at little cost whether an unknown device is a multipath map.
        self.look_at_kernel(Some(devno));
        if let Some(event) = &uevent.path {
            self.unread.push(uevent.received);
            self.ledgers.entry(Arc::clone(&event.wwid)).or_default().note(uevent, event);
            self.tell_path_event(uevent, event);
            self.aftermath.follow(Some(&event.wwid), uevent.received);
            return;
        }
        let wwid = self.dm_devices.iter().find(|(_, built)| built.devno() == Some(devno)).map(|(wwid, _)| wwid);
        if !self.readings.kernel_is_current() {
            self.block.want.map(devno);
        }
        // Most device-mapper devices of a host are no maps (LVM, containers): they are none of multipathd's business.
        if let Some(ledger) = wwid.and_then(|wwid| self.ledgers.get_mut(wwid)) {
            ledger.note_map(uevent);
            self.unread.push(uevent.received);
            self.aftermath.follow(None, uevent.received);
        }
    }

    fn look_at_kernel(&mut self, dirty: Option<DevNo>) {
        if let Some(kernel) = &mut self.kernel {
            kernel.want.look(dirty);
        }
    }

    fn events_were_lost(&mut self) {
        self.ledgers.values_mut().for_each(MapLedger::forgive);
        if self.start.has_begun() {
            self.want_everything(Reason::Overflow);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Resync => self.want_everything(Reason::Signal),
            Command::Configure(config) => {
                self.config = config;
                self.is_outdated = true;
            }
            Command::Answer(answer) => self.waiting.push(answer),
        }
        self.answer_those_who_wait();
    }

    /// The requester may have disconnected, so nobody may be there to answer.
    fn answer_those_who_wait(&mut self) {
        if self.was_tried() {
            for answer in self.waiting.drain(..) {
                let _ = answer.send(());
            }
        }
    }

    /// A resync: every source is read whole.
    fn want_everything(&mut self, reason: Reason) {
        // Several in a row that find it not yet begun, as overflows in a storm, are made as one.
        if !self.block.want.wants_everything() {
            self.own.count_resync(match reason {
                Reason::Timer | Reason::Event => ResyncReason::Timer,
                Reason::Overflow => ResyncReason::Overflow,
                Reason::Signal => ResyncReason::Signal,
                Reason::Start => ResyncReason::Start,
            });
        }
        if let Some(kernel) = &mut self.kernel {
            kernel.want.all(reason);
        }
        self.block.want.everything(reason);
        self.transports.want.look(true, reason);
        self.interfaces.want.0 = true;
        if let Some(daemon) = &mut self.daemon {
            daemon.want.maps(reason);
            if !self.readings.block.unassembled.is_empty() {
                // Its configuration may say by now that these are to be left alone.
                daemon.want.paths(reason);
            }
        }
    }

    /// The timers: what is wanted because an interval has passed.
    fn want_what_is_due(&mut self, now: Instant) {
        if self.timers.resync.is_due(now) {
            self.want_everything(Reason::Timer);
        }
        if let Some(kernel) = self.kernel.as_mut().filter(|_| self.timers.kernel.is_due(now)) {
            kernel.want.all(Reason::Timer);
        }
        if self.timers.block.is_due(now) {
            self.block.want.states();
            if !self.readings.block.read_once || self.block_failed {
                self.block.want.everything(Reason::Timer);
            }
        }
        if self.timers.transports.is_due(now) {
            self.transports.want.look(false, Reason::Timer);
        }
        if self.timers.daemon.is_due(now) {
            self.want_daemon(now);
        }
    }

    fn want_daemon(&mut self, now: Instant) {
        let Some(daemon) = &mut self.daemon else { return };
        let unhealthy = |built: &assemble::Built| built.device.counts().health() != Health::Healthy;
        let close_watch = !self.readings.kernel_is_current()
            || self.aftermath.last.is_some_and(|last| now < last + CLOSE_WATCH)
            || self.readings.multipathd.as_ref().is_some_and(|daemon| daemon.failed)
            || self.dm_devices.values().any(unhealthy);
        if close_watch {
            daemon.want.maps(Reason::Timer);
        } else {
            daemon.want.state(Reason::Timer);
        }
    }

    /// The next moment at which something is to be done that nothing wakes us for.
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
            self.nameless.values().min().map(|since| *since + NAME_PATIENCE),
            self.start.next_due(),
        ];
        kernel.chain(daemon).chain(others).flatten().min()
    }

    /// Does what is due by now.
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
        self.nameless.retain(|_, since| now.instant < *since + NAME_PATIENCE);
        self.is_outdated |= self.nameless.len() < nameless;
        self.path_log.look_at_clock(now.instant);
        for ((wwid, devno), action) in self.corrections.settle(&mut self.ledgers, &self.own, now) {
            self.is_outdated = true;
            self.tell_settled(&wwid, devno, action, now);
        }
        self.answer_those_who_wait();
    }

    fn notice_late_readings(&mut self, now: Instant) {
        let late = |place| Error::new(place, "has not answered in time");
        if self.kernel.as_mut().is_some_and(|lane| lane.turns_late(now)) {
            self.kernel_fails(&late("device mapper"));
        }
        if self.block.turns_late(now) {
            self.health.failed(Part::Block, &late("block devices in sysfs"));
        }
        if self.transports.turns_late(now) {
            self.health.failed(Part::Transports, &late("sessions, ports and controllers in sysfs"));
        }
        if self.interfaces.turns_late(now) {
            log::no_interfaces(&late("network interfaces"));
        }
        if self.daemon.as_mut().is_some_and(|lane| lane.turns_late(now)) {
            self.daemon_fails(&late("multipathd"));
        }
    }

    /// What follows the kernel is asked what it makes of path events.
    fn want_aftermath(&mut self, wwids: BTreeSet<Arc<str>>) {
        for built in wwids.iter().filter_map(|wwid| self.dm_devices.get(wwid)) {
            self.block.want.states_of(built.device.paths.iter().filter_map(|path| path.devno));
            if !self.readings.kernel_is_current() {
                built.devno().into_iter().for_each(|devno| self.block.want.map(devno));
            }
        }
        self.transports.want.look(false, Reason::Event);
        if let Some(daemon) = &mut self.daemon {
            daemon.want.maps(Reason::Event);
        }
    }

    // ---- Readings begin and end ----

    /// The readings that begin now: one of each lane that is free and has something to read.
    fn due(&mut self, now: Now) -> Vec<Ask> {
        let mut asks = Vec::new();
        if let Some(lane) = &mut self.kernel
            && let Some(request) = lane.begin(now.instant)
        {
            self.ledgers.values_mut().for_each(MapLedger::kernel_asked);
            self.being_read.append(&mut self.unread);
            asks.push(Ask::Kernel(request));
        }
        asks.extend(self.interfaces.begin(now.instant).map(|()| Ask::Interfaces));
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
        if let Some(lane) = &mut self.daemon
            && let Some(request) = lane.begin(now.instant)
        {
            self.ledgers.values_mut().for_each(MapLedger::daemon_asked);
            asks.push(Ask::Daemon(request));
        }
        asks
    }

    /// Takes a reading: it takes the place of the last one.
    fn take(&mut self, reply: Reply, now: Now) {
        self.is_outdated = true;
        match reply {
            Reply::Kernel(reply) => self.take_kernel(reply, now),
            Reply::Block(reply) => self.take_block(reply, now),
            Reply::Transports(reply) => self.take_transports(reply, now),
            Reply::Interfaces(reply) => self.take_interfaces(reply),
            Reply::Daemon(reply) => self.take_daemon(reply, now),
        }
    }

    fn take_kernel(&mut self, reply: Result<device_mapper::Reading, Error>, now: Now) {
        let Some(reading) = self.kernel.as_mut().and_then(Lane::end) else { return };
        let Some(kernel) = &mut self.readings.kernel else { return };
        self.kernel_has_answered = true;
        let maps = match reply {
            Ok(maps) => maps,
            Err(error) => return self.kernel_fails(&error),
        };
        if let Some(cost) = reading.cost(now.instant).filter(|_| reading.request.all) {
            self.timers.kernel.cost(cost);
            self.timers.tell(&self.health, &self.own);
        }
        let unreadable: Vec<Error> = maps.unreadable.iter().map(|(_, error)| error.clone()).collect();
        self.health.succeeded(Part::DeviceMapper, now.instant - reading.asked, now.time, &unreadable);
        self.timer_found = reading.reason == Reason::Timer;
        let was_read = |devno| !maps.unreadable.iter().any(|(unreadable, _)| *unreadable == devno);
        for map in &maps.maps {
            let ledger = self.ledgers.entry(Arc::clone(&map.wwid)).or_default();
            // A map that could not be read is as old as before.
            if was_read(map.devno) {
                ledger.kernel_read(reading.asked);
            }
            if !kernel.maps.contains_key(&map.wwid) {
                self.block.want.map(map.devno);
            }
        }
        let joined = kernel.take(&maps, reading.asked);
        if joined.is_empty() {
            return;
        }
        for devno in joined {
            let disk = self.readings.block.disks.get(&devno);
            if self.readings.block.read_once && disk.is_none_or(|disk| disk.states.absent) {
                self.nameless.insert(devno, now.instant);
            }
            self.block.want.disk(devno);
        }
        // A new member may go over a new session, and multipathd has words for it.
        self.transports.want.look(false, Reason::Event);
        self.aftermath.follow(None, now.instant);
    }

    /// Device mapper cannot be read now. Who could read it until now has to find out elsewhere what it told.
    fn kernel_fails(&mut self, error: &Error) {
        self.health.failed(Part::DeviceMapper, error);
        self.is_outdated = true;
        let Some(kernel) = &mut self.readings.kernel else { return };
        kernel.not_permitted = error.is_refusal();
        if std::mem::take(&mut kernel.current) {
            self.block.want.everything(Reason::Event);
        }
    }

    fn take_block(&mut self, reply: Result<block::Reading, Error>, now: Now) {
        let Some(under_way) = self.block.end() else { return };
        self.block_failed = reply.is_err();
        let reading = match reply {
            Ok(reading) => reading,
            Err(error) => return self.health.failed(Part::Block, &error),
        };
        let scope = &under_way.request.scope;
        if let Some(cost) = under_way.cost(now.instant) {
            match scope {
                Scope::Everything => self.timers.resync.cost(cost),
                Scope::States => self.timers.block.cost(cost),
                Scope::Devices(_) => {}
            }
            self.timers.tell(&self.health, &self.own);
        }
        self.health.succeeded(Part::Block, now.instant - under_way.asked, now.time, &reading.unreadable);
        self.timer_found = under_way.reason == Reason::Timer && !self.readings.kernel_is_current();
        for map in reading.maps.values().flatten() {
            let ledger = self.ledgers.entry(Arc::clone(&map.wwid)).or_default();
            if let Some(diskseq) = map.diskseq {
                ledger.note_diskseq(diskseq, under_way.asked);
            }
        }
        self.ledgers.values_mut().for_each(|ledger| ledger.block_read(under_way.asked));
        self.readings.block.take(&reading, scope, under_way.asked);
        self.nameless.retain(|devno, _| !reading.disks.contains_key(devno));
        let ways = self.readings.ways();
        let leads_nowhere = |disk: &Arc<block::disks::Disk>| {
            disk.way.as_ref().is_some_and(|way| !ways.contains_key(way)) && !disk.states.absent
        };
        if *scope != Scope::States && reading.disks.values().flatten().any(leads_nowhere) {
            self.transports.want.look(false, Reason::Event);
        }
        if reading.host.is_some() {
            self.forget_strangers = true;
            // Whether multipathd leaves some of them alone is asked only where there are some.
            if let Some(daemon) = self.daemon.as_mut().filter(|_| !self.readings.block.unassembled.is_empty()) {
                daemon.want.paths(under_way.reason);
            }
        }
    }

    fn take_transports(&mut self, reply: Result<transports::Reading, Error>, now: Now) {
        let Some(under_way) = self.transports.end() else { return };
        match reply {
            Ok(reading) => {
                if let Some(cost) = under_way.cost(now.instant) {
                    self.timers.transports.cost(cost);
                    self.timers.tell(&self.health, &self.own);
                }
                self.health.succeeded(Part::Transports, now.instant - under_way.asked, now.time, &reading.unreadable);
                self.readings.transports = Some(reading);
            }
            Err(error) => self.health.failed(Part::Transports, &error),
        }
    }

    fn take_interfaces(&mut self, reply: Result<crate::source::interfaces::Addresses, Error>) {
        self.interfaces.end();
        match reply {
            Ok(addresses) if addresses == *self.readings.addresses => {}
            Ok(addresses) => {
                self.readings.addresses = Arc::new(addresses);
                self.transports.want.look(true, Reason::Event);
            }
            Err(error) => log::no_interfaces(&error),
        }
    }

    fn take_daemon(&mut self, reply: Result<DaemonReply, Error>, now: Now) {
        let Some(under_way) = self.daemon.as_mut().and_then(Lane::end) else { return };
        let DaemonReply { state, maps, paths } = match reply {
            Ok(reply) => reply,
            Err(error) => return self.daemon_fails(&error),
        };
        let Some(lane) = &mut self.daemon else { return };
        let Some(daemon) = &mut self.readings.multipathd else { return };
        if let Some(cost) = under_way.cost(now.instant).filter(|_| under_way.request.maps) {
            self.timers.daemon.cost(cost);
            self.timers.tell(&self.health, &self.own);
        }
        self.timer_found =
            under_way.reason == Reason::Timer && !self.readings.kernel.as_ref().is_some_and(|kernel| kernel.current);
        let state = Daemon::Up(state);
        if daemon.state != state && maps.is_none() {
            // It has just come up, or is done with its configuration.
            lane.want.maps(Reason::Event);
        }
        let paths_error = paths.as_ref().and_then(|paths| paths.as_ref().err().cloned());
        if daemon.know_paths(true, paths, !self.readings.block.unassembled.is_empty()) {
            lane.want.paths(Reason::Event);
        }
        daemon.state = state;
        match maps {
            Some(Ok(maps)) => {
                let objects = maps.unreadable.iter().map(|object| Error::new("multipathd", object));
                let unreadable: Vec<Error> = objects.chain(paths_error).collect();
                self.health.succeeded(Part::Multipathd, now.instant - under_way.asked, now.time, &unreadable);
                for map in &maps.maps {
                    self.ledgers.entry(Arc::clone(&map.wwid)).or_default().daemon_read(under_way.asked);
                }
                daemon.take(maps, under_way.asked);
            }
            Some(Err(error)) => {
                daemon.failed = true;
                self.health.failed(Part::Multipathd, &error);
            }
            None => {}
        }
    }

    fn daemon_fails(&mut self, error: &Error) {
        self.health.failed(Part::Multipathd, error);
        self.is_outdated = true;
        if let Some(daemon) = &mut self.readings.multipathd {
            daemon.know_paths(false, None, false);
            daemon.state = Daemon::Down;
        }
    }

    // ---- The start ----

    /// Whether each source of devices has answered.
    fn have_answered(&self) -> bool {
        self.silent_source().is_none()
    }

    /// A source of devices that has not answered yet, though it is switched on and permitted.
    fn silent_source(&self) -> Option<Part> {
        let kernel = self.readings.kernel.as_ref().filter(|kernel| kernel.read_at.is_none() && !kernel.not_permitted);
        let block = Some(Part::Block).filter(|_| !self.readings.block.read_once);
        let transports = Some(Part::Transports).filter(|_| self.readings.transports.is_none());
        kernel.map(|_| Part::DeviceMapper).or(block).or(transports)
    }

    /// Whether each lane has been tried once.
    fn was_tried(&self) -> bool {
        self.kernel.as_ref().is_none_or(Lane::was_tried)
            && self.block.was_tried()
            && self.transports.was_tried()
            && self.daemon.as_ref().is_none_or(Lane::was_tried)
    }

    /// Whether what is known may be published: every source of devices has answered, and multipathd has been asked, too,
    /// since path states may be its. After [`START_PATIENCE`] what the others know has to do.
    fn may_open(&self) -> bool {
        let knows_paths = self.readings.block.unassembled.is_empty()
            || self.readings.multipathd.as_ref().is_none_or(|daemon| daemon.known_paths != KnownPaths::NotAsked);
        let daemon_was_tried = self.daemon.as_ref().is_none_or(Lane::was_tried);
        self.have_answered() && daemon_was_tried && knows_paths
            || self.start.patience_is_over && (self.readings.teller().is_some() || self.readings.transports.is_some())
    }

    /// Whether nothing is left to be read, or nobody waits any longer for what is.
    fn is_settled(&self) -> bool {
        let is_idle = self.kernel.as_ref().is_none_or(Lane::is_idle)
            && self.block.is_idle()
            && self.transports.is_idle()
            && self.daemon.as_ref().is_none_or(Lane::is_idle);
        self.start.patience_is_over || self.start.has_begun() && is_idle && !(self.is_open && self.is_outdated)
    }

    // ---- Publication ----

    /// Assembles, compares and publishes, if anything was taken since the last time.
    fn publish_if_due(&mut self, now: Now) {
        self.is_open |= self.may_open();
        if !self.is_open || !std::mem::take(&mut self.is_outdated) {
            return;
        }
        let (dm_is_new, nvme_is_new) = (!self.dm_is_known, !self.nvme_is_known);
        self.dm_is_known |= self.readings.teller().is_some();
        self.nvme_is_known |= self.readings.transports.is_some();

        let nameless = &self.nameless;
        let last = std::mem::take(&mut self.dm_devices);
        self.dm_devices = assemble::devices(&self.readings, &self.ledgers, last, |devno| nameless.contains_key(&devno));
        let heads = self.readings.transports.as_ref().map(|reading| &*reading.heads).unwrap_or_default();
        self.nvme_devices = nvme::devices(heads, &self.readings.block.root, &self.nvme_devices, nvme_is_new, now.time);
        let snapshot = self.snapshot_of_devices();
        let before = self.snapshot.borrow().clone().unwrap_or_default();
        let changes = compare::changes(&before.devices, &snapshot.devices);

        for Change { device, what } in changes {
            let is_found = if device.kind == Kind::Nvme { nvme_is_new } else { dm_is_new };
            self.tell_change(&device, what, is_found, now);
        }
        self.follow_paths(dm_is_new, now.instant);
        self.forget_what_is_gone(now.instant);
        self.send(snapshot);
        self.timer_found = false;
        if std::mem::take(&mut self.kernel_has_answered) || !self.readings.kernel_is_current() {
            // The state that these uevents told of is published.
            for received in self.being_read.drain(..) {
                self.own.event_to_metric.observe((now.instant - received).as_secs_f64());
            }
        }
    }

    fn snapshot_of_devices(&self) -> Snapshot {
        let nvme = self.nvme_devices.iter().map(|(wwid, built)| (wwid, &built.device));
        let mapped = self.dm_devices.iter().map(|(wwid, built)| (wwid, &built.device));
        // Sorted, and each WWID once: a map over a head of the same name is what is used.
        let devices: BTreeMap<_, _> = nvme.chain(mapped).collect();
        let devices: Vec<_> = devices.into_values().cloned().collect();
        let transports = self.readings.transports();
        let disks = &self.readings.block.disks;
        let members = devices.iter().flat_map(|device| &device.paths).map(|path| {
            let disk = path.devno.and_then(|devno| disks.get(&devno));
            (&*path.name, disk.and_then(|disk| disk.identity.udev.as_deref()))
        });
        let known_paths =
            self.readings.multipathd.as_ref().map_or(&KnownPaths::CannotTell, |daemon| &daemon.known_paths);
        Snapshot {
            daemon: self.readings.daemon(),
            iscsi_bonds: bonds::look(&self.config.iscsi_bonds, &transports.iscsi_sessions),
            unassembled: unassembled::count(&self.readings.block.unassembled, known_paths, members),
            expected_paths: expected_paths(&self.config, &devices),
            transports,
            devices,
        }
    }

    /// Publishes the snapshot, if any of it is another one than last time.
    fn send(&self, now: Snapshot) {
        self.snapshot.send_if_modified(|published| {
            let same = published.as_ref().is_some_and(|last| {
                last.daemon == now.daemon
                    && Arc::ptr_eq(&last.transports, &now.transports)
                    && last.iscsi_bonds == now.iscsi_bonds
                    && last.unassembled == now.unassembled
                    && last.expected_paths == now.expected_paths
                    && last.devices.len() == now.devices.len()
                    && last.devices.iter().zip(&now.devices).all(|(one, other)| Arc::ptr_eq(one, other))
            });
            if !same {
                *published = Some(Arc::new(now));
            }
            !same
        });
    }

    /// Holds the members' states against those that events led to.
    fn follow_paths(&mut self, is_found: bool, now: Instant) {
        for (wwid, built) in self.dm_devices.iter().filter(|(_, built)| built.is_new) {
            let ledger = self.ledgers.entry(Arc::clone(wwid)).or_default();
            let paths = &built.device.paths;
            ledger.forget_strangers(now, |devno| paths.iter().any(|path| path.devno == Some(devno)));
            for path in paths {
                let Some(devno) = path.devno else { continue };
                let is_valid = path.state == PathState::Valid;
                // A path is born valid; one that is found failed at the start has no event to be waited for.
                ledger.ensure_path(devno, !is_found || is_valid);
                self.corrections.follow((Arc::clone(wwid), devno), ledger.compare(devno, is_valid, now));
            }
        }
    }

    fn forget_what_is_gone(&mut self, now: Instant) {
        let (readings, devices) = (&self.readings, &self.dm_devices);
        self.ledgers.retain(|wwid, ledger| devices.contains_key(wwid) || readings.know(wwid) || ledger.is_recent(now));
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

    // ---- What is told ----

    fn tell_change(&mut self, device: &Arc<Device>, what: What, is_found: bool, now: Now) {
        // Path events of device mapper are counted by their ledger, which waits for the uevent.
        let is_counted_here = device.kind == Kind::Nvme;
        match what {
            What::Added if is_found => log::found(device),
            _ if is_found => {}
            What::Added => self.tell_device(EventType::DeviceAdded, device, now),
            What::Removed => {
                self.forget_device(device);
                self.tell_device(EventType::DeviceRemoved, device, now);
            }
            What::PathAdded(path) => {
                self.suspect(device, now);
                self.tell_path(EventType::PathAdded, device, &path, now);
            }
            What::PathRemoved(path) => {
                self.suspect(device, now);
                let ledger = self.ledgers.get_mut(&device.wwid).filter(|_| !is_counted_here);
                let settled =
                    ledger.zip(path.devno).and_then(|(ledger, devno)| ledger.forget_path(devno, now.instant, now.time));
                if let Some(action) = settled {
                    self.tell_path(kind_of(action), device, &path, now);
                }
                self.tell_path(EventType::PathRemoved, device, &path, now);
            }
            What::PathFailed(path) if is_counted_here => self.tell_path(EventType::PathFailed, device, &path, now),
            What::PathReinstated(path) if is_counted_here => {
                self.tell_path(EventType::PathReinstated, device, &path, now);
            }
            What::PathFailed(_) | What::PathReinstated(_) => self.suspect(device, now),
            What::NoValidPath => log::no_valid_path(device, "by reading"),
        }
    }

    /// A device-mapper device differs from the last snapshot: if a timer found that out, an event should have told of it.
    fn suspect(&mut self, device: &Device, now: Now) {
        if let Some(built) = self.dm_devices.get(&device.wwid).filter(|_| self.timer_found) {
            self.corrections.suspect(&device.wwid, built.event_nr_moved, &self.ledgers, now.instant);
        }
    }

    /// If it comes back it is a new one, of which events may have told already.
    fn forget_device(&mut self, device: &Device) {
        if device.kind == Kind::Nvme {
            return;
        }
        let as_of = self.readings.teller().map(|(_, asked)| asked);
        if !self.ledgers.get_mut(&device.wwid).is_some_and(|ledger| ledger.outlives_map(as_of)) {
            self.ledgers.remove(&device.wwid);
        }
        if let Some(daemon) = &mut self.readings.multipathd {
            daemon.forget(&device.wwid);
        }
    }

    /// A path event from the kernel is told at once.
    fn tell_path_event(&mut self, uevent: &Uevent, event: &PathEvent) {
        let device = self.dm_devices.get(&event.wwid).map(|built| &built.device);
        let path = device.and_then(|device| device.paths.iter().find(|path| path.devno == Some(event.path)));
        let disk = self.readings.block.disks.get(&event.path);
        let name = path.map(|path| &path.name).or(disk.map(|disk| &disk.name)).cloned();
        let paths = device.map_or(0, |device| device.paths.len());
        let told = Event {
            id: 0,
            seqnum: Some(uevent.seqnum),
            dm_seqnum: Some(event.dm_seqnum),
            time: uevent.time,
            kind: kind_of(event.action),
            wwid: Arc::clone(&event.wwid),
            name: Arc::clone(&event.name),
            path: Some(name.unwrap_or_else(|| event.path.to_string().into())),
            devno: Some(event.path),
            valid_paths: event.valid_paths.or(device.map(|device| device.counts().valid as u64)),
        };
        self.tell(told, paths, uevent.received);
    }

    fn tell_settled(&mut self, wwid: &Arc<str>, devno: DevNo, action: PathAction, now: Now) {
        let Some(device) = self.dm_devices.get(wwid).map(|built| Arc::clone(&built.device)) else { return };
        if let Some(path) = device.paths.iter().find(|path| path.devno == Some(devno)) {
            self.tell_path(kind_of(action), &device, path, now);
        }
    }

    fn tell_path(&mut self, kind: EventType, device: &Device, path: &Path, now: Now) {
        let event = Event { path: Some(Arc::clone(&path.name)), devno: path.devno, ..read_event(kind, device, now) };
        self.tell(event, device.paths.len(), now.instant);
    }

    fn tell_device(&mut self, kind: EventType, device: &Device, now: Now) {
        self.tell(read_event(kind, device, now), device.paths.len(), now.instant);
    }

    fn tell(&mut self, event: Event, paths: usize, now: Instant) {
        let event = self.events.add(event);
        self.path_log.write(&event, paths, now);
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
fn read_event(kind: EventType, device: &Device, now: Now) -> Event {
    Event {
        id: 0,
        seqnum: None,
        dm_seqnum: None,
        time: now.time,
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

impl Aftermath {
    fn follow(&mut self, device: Option<&Arc<str>>, now: Instant) {
        self.devices.extend(device.cloned());
        let earliest = self.last.map_or(now, |last| last + AFTERMATH_INTERVAL);
        self.due.get_or_insert(earliest.max(now + AFTERMATH));
    }

    fn take(&mut self, now: Instant) -> Option<BTreeSet<Arc<str>>> {
        self.due.take_if(|due| *due <= now)?;
        self.last = Some(now);
        Some(std::mem::take(&mut self.devices))
    }
}

/// How far the start has got.
#[derive(Debug, Default)]
struct Start {
    began: Option<Instant>,
    order_is_over: bool,
    patience_is_over: bool,
}

impl Start {
    fn has_begun(&self) -> bool {
        self.began.is_some()
    }

    fn next_due(&self) -> Option<Instant> {
        let began = self.began?;
        match (self.order_is_over, self.patience_is_over) {
            (false, _) => Some(began + START_ORDER),
            (true, false) => Some(began + START_PATIENCE),
            (true, true) => None,
        }
    }

    fn look_at_clock(&mut self, now: Instant) {
        self.order_is_over |= self.began.is_some_and(|began| began + START_ORDER <= now);
        self.patience_is_over |= self.began.is_some_and(|began| began + START_PATIENCE <= now);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::time::SystemTime;

    use super::*;
    use crate::watch::PathAction;

    const DM: &str = "devices/virtual/block/dm-0";

    /// A map of one disk, in sysfs.
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
            seqnum: 1,
            action: Arc::from(action),
            sysname: Arc::from("dm-0"),
            devno: Some("254:0".parse().unwrap()),
            diskseq: Some(diskseq),
            synthetic: false,
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
        let mut reader = block::Block::new(places);
        let options = Options {
            device_mapper: false,
            multipathd: None,
            resync: Duration::MAX,
            reread: Duration::MAX,
            config: Arc::default(),
        };
        let (mut state, board) = State::new(options, Arc::default(), Now::get());
        let wake = |state: &mut State, wakes: Vec<Wake>| {
            state.wake(wakes.into_iter(), Now::get());
            state.publish_if_due(Now::get());
        };
        let mut begin = |state: &mut State| {
            let mut block = None;
            for ask in state.due(Now::get()) {
                match ask {
                    Ask::Block(request) => block = Some(Reply::Block(reader.read(&request))),
                    Ask::Interfaces => state.take(Reply::Interfaces(Ok(Default::default())), Now::get()),
                    Ask::Transports(_) => state.take(Reply::Transports(Ok(Default::default())), Now::get()),
                    ask => panic!("{ask:?} is switched off"),
                }
            }
            block
        };
        let end = |state: &mut State, reply: Option<Reply>| {
            state.take(reply.unwrap(), Now::get());
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
