//! The loop: wake, read, compare, publish.
//!
//! ```text
//! wake      watchers, timers, SIGHUP: mark what must be looked at                     mod.rs
//! dispatch  one read at a time of each source, of all that is marked by then          sources.rs, lane.rs
//! reply     the source's new reading takes the place of the old one                   mod.rs
//! publish   assemble the devices whose readings changed, compare, publish, tell       publish.rs, assemble.rs
//! ```
//!
//! An event says "look again"; the reading says what is. Only this module holds state between one wake and the next.

mod assemble;
mod bonds;
mod lane;
mod ledger;
mod log;
mod names;
mod nvme;
mod publish;
mod sources;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval_at, sleep_until, timeout_at};

use crate::config::Config;
use crate::event::EventLog;
use crate::metrics::own::{OwnMetrics, ResyncReason};
use crate::source::health::{Source, SourceHealth};
use crate::source::{Error, device_mapper, multipathd, sysfs};
use crate::topology::{Daemon, DevNo, Snapshot};
use crate::watch::{self as watchers, PathEvent, Uevent, Wake, Watcher};
use lane::Lane;
use publish::Publisher;
use sources::{DaemonReply, DaemonSource, KernelSource, Ledgers, SysfsSource};

/// How long to wait for the watchers before the first read. They need milliseconds.
const WATCHER_DEADLINE: Duration = Duration::from_secs(5);
/// After a path event the sources that follow the kernel (the SCSI layer, multipathd) get this long before they are
/// asked what they make of it.
const AFTERMATH: Duration = Duration::from_millis(100);
/// Path events do not have them asked more often than this.
const AFTERMATH_INTERVAL: Duration = Duration::from_secs(1);
/// multipathd's words change without an event. While a device is not healthy, and this long after a path event, it is
/// asked at every re-read instead of every resync.
const CLOSE_WATCH: Duration = Duration::from_secs(60);
/// Wakes taken at a time.
const BATCH: usize = 1024;

/// What the monitor is to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where files are read.
    pub places: sysfs::Places,
    /// What to read there besides device mapper's maps.
    pub parts: sysfs::Parts,
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
    /// Say that the loop goes round.
    Answer(oneshot::Sender<()>),
}

/// The loop's state.
pub struct Monitor {
    settings: Settings,
    health: Arc<SourceHealth>,
    own: Arc<OwnMetrics>,
    kernel: Option<KernelSource>,
    sysfs: SysfsSource,
    daemon: Option<DaemonSource>,
    ledgers: Ledgers,
    publisher: Publisher,
    aftermath: Aftermath,
    /// Every source has been read once, or is late.
    read_once: bool,
    /// When the uevents were received whose state is not being read yet, and those for which it is.
    unread: Vec<Instant>,
    being_read: Vec<Instant>,
}

/// What path events leave to be looked at.
#[derive(Default)]
struct Aftermath {
    devices: Vec<DevNo>,
    due: Option<Instant>,
    last: Option<Instant>,
}

impl Monitor {
    /// Starts the readers.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn new(settings: Settings, own: Arc<OwnMetrics>) -> io::Result<(Self, Board)> {
        let health = Arc::new(SourceHealth::default());
        let events = Arc::new(EventLog::default());
        let (sender, snapshot) = watch::channel(None);
        let kernel = match settings.device_mapper {
            true => {
                health.enable(Source::Dm);
                Some(KernelSource::start(device_mapper::DeviceMapper::new(&settings.places))?)
            }
            false => None,
        };
        let daemon = settings.multipathd.clone().map(|client| {
            health.enable(Source::Multipathd);
            DaemonSource::new(client)
        });
        health.enable(Source::Sysfs);
        let monitor = Monitor {
            sysfs: SysfsSource::start(sysfs::Sysfs::new(settings.places.clone(), settings.parts))?,
            publisher: Publisher::new(sender, Arc::clone(&events), Arc::clone(&own), Arc::clone(&settings.config)),
            health: Arc::clone(&health),
            own: Arc::clone(&own),
            settings,
            kernel,
            daemon,
            ledgers: Ledgers::new(),
            aftermath: Aftermath::default(),
            read_once: false,
            unread: Vec::new(),
            being_read: Vec::new(),
        };
        Ok((monitor, Board { snapshot, events, sources: health, own }))
    }

    /// Reads everything once and publishes it.
    pub async fn run_once(mut self) {
        self.read_first().await;
    }

    /// Watches until `commands` is closed.
    ///
    /// # Errors
    /// If a watcher's thread cannot be started.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) -> io::Result<()> {
        let (sender, mut wakes) = watchers::channel();
        // Of a host that was captured no events come, and this one's are of other devices.
        if self.settings.places.capture.is_none() {
            self.health.enable(Source::Uevent);
            watchers::uevent::watch(sender.clone())?;
            if self.kernel.is_some() {
                watchers::dm_event::watch(sender.clone())?;
            }
            // Subscribed first, read then: what happens in between is told by an event that waits.
            self.await_watchers(&mut wakes).await;
        }
        self.read_first().await;

        let now = tokio::time::Instant::now();
        let mut resync = interval_at(now + self.settings.resync, self.settings.resync);
        let mut reread = interval_at(now + self.settings.reread, self.settings.reread);
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        reread.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let due = self.next_due();
            tokio::select! {
                _ = wakes.recv_many(&mut batch, BATCH) => self.wake_up(batch.drain(..)),
                (reply, asked) = reply_of(&mut self.kernel, |source| &mut source.lane) => self.kernel_said(reply, asked),
                (reply, asked) = self.sysfs.lane.reply() => self.sysfs_said(reply, asked),
                (reply, asked) = reply_of(&mut self.daemon, |source| &mut source.lane) => self.daemon_said(reply, asked),
                _ = resync.tick() => self.want_everything(ResyncReason::Timer),
                _ = reread.tick() => self.want_states(),
                command = commands.recv() => match command {
                    Some(Command::Resync) => self.want_everything(ResyncReason::Signal),
                    Some(Command::Configure(config)) => {
                        self.publisher.configure(config);
                        self.publish(false);
                    }
                    // Who asked may have left.
                    Some(Command::Answer(answer)) => drop(answer.send(())),
                    None => return Ok(()),
                },
                () = until(due) => self.look_at_clock(),
            }
            self.dispatch();
        }
    }

    /// Waits until each watcher is watching or has said why it cannot.
    async fn await_watchers(&mut self, wakes: &mut mpsc::Receiver<Wake>) {
        let mut awaited = vec![Watcher::Uevent];
        awaited.extend(self.kernel.as_ref().map(|_| Watcher::DeviceMapper));
        let deadline = tokio::time::Instant::now() + WATCHER_DEADLINE;
        while !awaited.is_empty() {
            let Ok(Some(wake)) = timeout_at(deadline, wakes.recv()).await else { break };
            if let Wake::Watching(watcher) | Wake::Lost(watcher, _) = &wake {
                awaited.retain(|awaited| awaited != watcher);
            }
            self.wake(wake);
        }
    }

    /// Reads every source once, waits for each no longer than its deadline, and publishes.
    async fn read_first(&mut self) {
        self.want_everything(ResyncReason::Start);
        // sysfs after device mapper: it need not find out again what that tells.
        let everything = std::mem::take(&mut self.sysfs.wanted.everything);
        self.dispatch();
        self.await_replies().await;
        self.sysfs.wanted.everything = everything;
        self.dispatch();
        self.await_replies().await;
        // multipathd last: what it leaves alone is asked where sysfs has shown disks that it might.
        self.dispatch();
        self.await_replies().await;
        self.read_once = true;
        self.publish(false);
    }

    async fn await_replies(&mut self) {
        while self.awaits_replies() {
            let due = self.next_due();
            tokio::select! {
                (reply, asked) = reply_of(&mut self.kernel, |source| &mut source.lane) => self.kernel_said(reply, asked),
                (reply, asked) = self.sysfs.lane.reply() => self.sysfs_said(reply, asked),
                (reply, asked) = reply_of(&mut self.daemon, |source| &mut source.lane) => self.daemon_said(reply, asked),
                () = until(due) => self.look_at_clock(),
            }
        }
    }

    fn awaits_replies(&self) -> bool {
        self.sysfs.lane.in_time()
            || self.kernel.as_ref().is_some_and(|kernel| kernel.lane.in_time())
            || self.daemon.as_ref().is_some_and(|daemon| daemon.lane.in_time())
    }

    fn wake_up(&mut self, wakes: impl Iterator<Item = Wake>) {
        wakes.for_each(|wake| self.wake(wake));
        // Where the kernel's status may not be read, events themselves change the state.
        if !self.kernel_is_current() && !self.unread.is_empty() {
            self.being_read.append(&mut self.unread);
            self.publish(false);
            self.observe_latency();
        }
    }

    fn wake(&mut self, wake: Wake) {
        match wake {
            Wake::Uevent(uevent) => self.uevent(&uevent),
            Wake::ScsiDevice(address) => {
                let disks = self.sysfs.want_holders_of(|disk| disk.hctl == address);
                self.sysfs.wanted.forget.extend(disks);
            }
            Wake::Overflow => {
                self.own.uevent_overflows.inc();
                self.want_everything(ResyncReason::Overflow);
            }
            Wake::DeviceMapper => {
                self.publisher.device_mapper_woke();
                if let Some(kernel) = &mut self.kernel {
                    kernel.wanted.look = true;
                }
            }
            Wake::Drained { at, took } => {
                self.health.succeeded(Source::Uevent, took, &[]);
                self.publisher.events_read_until(Some(at));
            }
            Wake::Watching(Watcher::Uevent) => {
                self.health.succeeded(Source::Uevent, Duration::ZERO, &[]);
                self.publisher.events_read_until(Some(Instant::now()));
                if self.publisher.is_open() {
                    // It was lost before, and events with it.
                    self.want_everything(ResyncReason::Overflow);
                }
            }
            Wake::Watching(Watcher::DeviceMapper) => {
                if let Some(kernel) = &mut self.kernel {
                    kernel.wanted.look = true;
                }
            }
            Wake::Lost(Watcher::Uevent, error) => {
                self.health.failed(Source::Uevent, &error);
                self.publisher.events_read_until(None);
            }
            // The ioctls fail for the same reason and say so.
            Wake::Lost(Watcher::DeviceMapper, error) => tracing::debug!(%error, "no device-mapper event poll"),
        }
    }

    fn uevent(&mut self, uevent: &Uevent) {
        self.own.count_uevent(&uevent.action);
        let Some(devno) = uevent.devno else { return };
        if uevent.sysname.starts_with("nvme") {
            self.sysfs.wanted.others = true;
        }
        if !uevent.sysname.starts_with("dm-") {
            self.sysfs.want_holders_of(|disk| disk.devno == devno);
            // Of one that is gone, what was known stays: a map may still hold it.
            match &*uevent.action {
                "remove" => self.sysfs.wanted.forget.remove(&devno),
                _ => self.sysfs.wanted.forget.insert(devno),
            };
            return;
        }
        // Device mapper's list tells at little cost whether an unknown device is a multipath map.
        if let Some(kernel) = &mut self.kernel {
            kernel.wanted.dirty.insert(devno);
        }
        if let Some(event) = &uevent.path {
            self.unread.push(uevent.received);
            self.path_event(uevent, event, devno);
            return;
        }
        let wwid = self.publisher.wwid(devno);
        if wwid.is_some() || !self.kernel_is_current() {
            self.sysfs.wanted.devices.insert(devno);
        }
        // Most device-mapper devices of a host are no maps (LVM, containers): they are none of multipathd's business.
        if let Some(ledger) = wwid.and_then(|wwid| self.ledgers.get_mut(wwid)) {
            ledger.note_map(uevent);
            self.unread.push(uevent.received);
            self.aftermath.follow(None);
        }
    }

    fn path_event(&mut self, uevent: &Uevent, event: &PathEvent, devno: DevNo) {
        let ledger = self.ledgers.entry(Arc::clone(&event.wwid)).or_default();
        ledger.note(uevent, event);
        self.publisher.path_event(uevent, event);
        self.aftermath.follow(Some(devno));
    }

    fn want_everything(&mut self, reason: ResyncReason) {
        // Of several in a row that find it not yet begun, as overflows in a storm, one is made.
        if !self.sysfs.wanted.everything {
            self.own.count_resync(reason);
        }
        let timed = reason == ResyncReason::Timer;
        if let Some(kernel) = &mut self.kernel {
            kernel.wanted.all = true;
            kernel.wanted.timed = timed;
        }
        self.sysfs.wanted.everything = true;
        self.sysfs.wanted.timed = timed;
        // Without events nobody has told of a disk that was replaced by another of its name.
        self.sysfs.wanted.forget_all |= !timed || !self.publisher.expects_events();
        if let Some(daemon) = &mut self.daemon {
            daemon.wanted.maps = true;
            // Its configuration may say by now that these are to be left alone.
            daemon.wanted.paths |= !self.sysfs.unassembled.is_empty();
            daemon.wanted.timed = timed;
        }
    }

    /// The re-read: what has no event.
    fn want_states(&mut self) {
        let current = self.kernel_is_current();
        let close_watch = !current
            || self.publisher.any_unhealthy()
            || self.aftermath.last.is_some_and(|last| last.elapsed() < CLOSE_WATCH);
        if let Some(kernel) = &mut self.kernel {
            // What something else wants to be read is not the timer's finding.
            kernel.wanted.timed |= !kernel.wanted.all;
            kernel.wanted.all = true;
        }
        self.sysfs.wanted.timed |= !self.sysfs.wanted.everything;
        self.sysfs.wanted.states = true;
        if self.sysfs.failed {
            self.sysfs.wanted.everything = true;
            self.sysfs.wanted.forget_all = true;
        }
        if let Some(daemon) = &mut self.daemon {
            daemon.wanted.state = true;
            daemon.wanted.maps |= close_watch || daemon.failed;
            daemon.wanted.timed = true;
        }
    }

    fn dispatch(&mut self) {
        if let Some(kernel) = &mut self.kernel
            && kernel.dispatch(&mut self.ledgers)
        {
            self.being_read.append(&mut self.unread);
        }
        self.sysfs.dispatch(self.kernel.as_ref());
        if let Some(daemon) = &mut self.daemon {
            daemon.dispatch(&mut self.ledgers);
        }
    }

    fn kernel_said(&mut self, reply: Result<device_mapper::Reading, Error>, asked: Instant) {
        let Some(kernel) = &mut self.kernel else { return };
        let timed = kernel.timed;
        let changed = match reply {
            Ok(reading) => {
                let unreadable: Vec<Error> = reading.unreadable.iter().map(|(_, error)| error.clone()).collect();
                self.health.succeeded(Source::Dm, asked.elapsed(), &unreadable);
                let changed = kernel.accept(reading, asked, &mut self.ledgers);
                if changed {
                    // New maps have files, new members have names, and multipathd has words for them.
                    let news = kernel.maps.values().filter(|map| !self.sysfs.covers(map));
                    let news: Vec<DevNo> = news.map(|map| map.devno).collect();
                    if !news.is_empty() {
                        self.sysfs.wanted.devices.extend(news);
                        self.aftermath.follow(None);
                    }
                    let gone = self.sysfs.maps.values().filter(|map| !kernel.maps.contains_key(&map.wwid));
                    self.sysfs.wanted.devices.extend(gone.filter_map(|map| map.devno));
                }
                changed
            }
            Err(error) => self.kernel_fails(&error),
        };
        // Events are counted even where the state is the same again.
        if changed || !self.being_read.is_empty() {
            self.publish(timed);
        }
        self.observe_latency();
    }

    /// Device mapper cannot be read now. `true` if it could until now.
    fn kernel_fails(&mut self, error: &Error) -> bool {
        self.health.failed(Source::Dm, error);
        let lost = self.kernel.as_mut().is_some_and(|kernel| std::mem::take(&mut kernel.current));
        // What it told of the maps is to be found in sysfs from now on.
        self.sysfs.wanted.everything |= lost;
        lost
    }

    fn sysfs_said(&mut self, reply: Result<sysfs::Reading, Error>, asked: Instant) {
        self.sysfs.ended();
        self.sysfs.failed = reply.is_err();
        let changed = match reply {
            Ok(reading) => {
                self.health.succeeded(Source::Sysfs, asked.elapsed(), &reading.unreadable);
                self.publisher.notice_sysfs(&self.sysfs.maps, &reading, asked, &mut self.ledgers);
                self.sysfs.accept(reading, asked)
            }
            Err(error) => {
                self.health.failed(Source::Sysfs, &error);
                false
            }
        };
        if let Some(daemon) = &mut self.daemon {
            // Which of them it leaves alone is asked only where there are some.
            daemon.wanted.paths |= changed && !self.sysfs.unassembled.is_empty();
        }
        if changed || self.publisher.holds_back() {
            self.publish(self.sysfs.timed && !self.kernel_is_current());
        }
    }

    fn daemon_said(&mut self, reply: Result<DaemonReply, Error>, asked: Instant) {
        let Some(daemon) = &mut self.daemon else { return };
        let timed = daemon.timed;
        let (state, maps, paths) = match reply {
            Ok(DaemonReply { state, maps, paths }) => (Daemon::Up(state), maps, paths),
            Err(error) => {
                self.health.failed(Source::Multipathd, &error);
                (Daemon::Down, None, None)
            }
        };
        let mut changed = daemon.state != state;
        // It has just come up, or is done with its configuration.
        daemon.wanted.maps |= changed && state != Daemon::Down && maps.is_none();
        let paths_error = paths.as_ref().and_then(|paths| paths.as_ref().err().cloned());
        changed |= daemon.know_paths(&state, paths, !self.sysfs.unassembled.is_empty());
        daemon.state = state;
        match maps {
            Some(Ok(maps)) => {
                let objects = maps.unreadable.iter().map(|object| Error::new("multipathd", object));
                let unreadable: Vec<Error> = objects.chain(paths_error).collect();
                self.health.succeeded(Source::Multipathd, asked.elapsed(), &unreadable);
                changed |= daemon.accept(maps, asked, &mut self.ledgers);
            }
            Some(Err(error)) => {
                daemon.failed = true;
                self.health.failed(Source::Multipathd, &error);
            }
            None => {}
        }
        // Where multipathd's path states serve, an unchanged reading, too, is newer than the events before it.
        if changed || !self.kernel_is_current() {
            self.publish(timed && !self.kernel_is_current());
        }
        if let Some(daemon) = self.daemon.as_mut().filter(|_| self.publisher.is_open()) {
            daemon.left_out.retain(|wwid, _| self.publisher.shows(wwid));
        }
    }

    fn kernel_is_current(&self) -> bool {
        self.kernel.as_ref().is_some_and(|kernel| kernel.current)
    }

    fn publish(&mut self, timed: bool) {
        if self.read_once && self.knows_devices() {
            self.publisher.open();
        }
        let (kernel, daemon) = (self.kernel.as_ref(), self.daemon.as_ref());
        let gone = self.publisher.publish(kernel, &self.sysfs, daemon, &mut self.ledgers, timed);
        if let Some(daemon) = self.daemon.as_mut().filter(|_| !gone.is_empty()) {
            // Should one of them come back, multipathd's words on the old one must not stand for it.
            daemon.left_out.retain(|wwid, _| !gone.contains(wwid));
            daemon.maps.retain(|wwid, _| !gone.contains(wwid));
        }
    }

    /// Whether some source has said which devices there are. If none has, "no devices" would be a lie.
    fn knows_devices(&self) -> bool {
        self.kernel_is_current()
            || self.sysfs.read_at.is_some()
            || self.daemon.as_ref().is_some_and(|daemon| matches!(daemon.state, Daemon::Up(_)) && !daemon.failed)
    }

    /// The state that these uevents told of is published.
    fn observe_latency(&mut self) {
        for received in self.being_read.drain(..) {
            self.own.event_to_metric.observe(received.elapsed().as_secs_f64());
        }
    }

    /// The next moment at which something is to be done that nothing wakes us for.
    fn next_due(&self) -> Option<Instant> {
        let due = [
            self.kernel.as_ref().and_then(|kernel| kernel.lane.late_at()),
            self.sysfs.lane.late_at(),
            self.daemon.as_ref().and_then(|daemon| daemon.lane.late_at()),
            self.aftermath.due,
            self.publisher.next_due(),
            self.sysfs.names_due().filter(|_| self.publisher.holds_back()),
        ];
        due.into_iter().flatten().min()
    }

    fn look_at_clock(&mut self) {
        let now = Instant::now();
        let late = |place| Error::new(place, "has not answered in time");
        if let Some(kernel) = &mut self.kernel
            && kernel.lane.turns_late(now)
        {
            self.kernel_fails(&late("device mapper"));
            self.publish(false);
        }
        if self.sysfs.lane.turns_late(now) {
            self.health.failed(Source::Sysfs, &late("sysfs"));
        }
        if let Some(daemon) = &mut self.daemon
            && daemon.lane.turns_late(now)
        {
            self.health.failed(Source::Multipathd, &late("multipathd"));
            daemon.state = Daemon::Down;
            self.publish(false);
        }
        if let Some(devices) = self.aftermath.take(now) {
            self.sysfs.wanted.devices.extend(devices);
            if let Some(daemon) = &mut self.daemon {
                daemon.wanted.maps = true;
            }
        }
        let names_overdue = self.publisher.holds_back() && self.sysfs.names_due().is_some_and(|due| due <= now);
        if self.publisher.look_at_clock(now, &mut self.ledgers) || names_overdue {
            self.publish(false);
        }
    }
}

impl Aftermath {
    fn follow(&mut self, device: Option<DevNo>) {
        let now = Instant::now();
        self.devices.extend(device.filter(|device| !self.devices.contains(device)));
        let earliest = self.last.map_or(now, |last| last + AFTERMATH_INTERVAL);
        self.due.get_or_insert(earliest.max(now + AFTERMATH));
    }

    fn take(&mut self, now: Instant) -> Option<Vec<DevNo>> {
        self.due.take_if(|due| *due <= now)?;
        self.last = Some(now);
        Some(std::mem::take(&mut self.devices))
    }
}

async fn reply_of<Owner, Request, Reply>(
    source: &mut Option<Owner>,
    lane: impl Fn(&mut Owner) -> &mut Lane<Request, Reply>,
) -> (Result<Reply, Error>, Instant)
where
    Request: Send + 'static,
    Reply: Send + 'static,
{
    match source {
        Some(source) => lane(source).reply().await,
        None => std::future::pending().await,
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::time::SystemTime;

    use super::*;
    use crate::watch::PathAction;

    const DM: &str = "devices/virtual/block/dm-0";

    /// A map of one disk, in sysfs.
    fn make_map(sysfs: &Path) {
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

    fn remove_map(sysfs: &Path) {
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

    #[tokio::test]
    async fn a_failure_outlives_the_reading_that_saw_its_map_between_removal_and_creation() {
        let tree = tempfile::tempdir().unwrap();
        let sysfs = tree.path();
        make_map(sysfs);
        let places = sysfs::Places {
            sysfs: sysfs.to_owned(),
            procfs: "/proc".into(),
            udev_data: sysfs.join("udev"),
            capture: None,
        };
        let settings = Settings {
            places,
            parts: sysfs::Parts { nvme: true, iscsi: true, fibre_channel: true },
            device_mapper: false,
            multipathd: None,
            resync: Duration::MAX,
            reread: Duration::MAX,
            config: Arc::default(),
        };
        let (mut monitor, board) = Monitor::new(settings, Arc::default()).unwrap();
        monitor.read_first().await;
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
        monitor.wake_up([told(failed, 1, 7), told(reinstated, 2, 7)].into_iter());
        assert_eq!(counts(), [(1, 0, 1)]);

        remove_map(sysfs);
        monitor.wake_up([uevent("remove", 7, None)].into_iter());
        monitor.dispatch();
        let (reading, asked) = monitor.sysfs.lane.reply().await;
        make_map(sysfs);
        monitor.wake_up([uevent("add", 8, None), told(failed, 1, 8)].into_iter());
        assert_eq!(counts(), [(0, 1, 2)]);
        monitor.sysfs_said(reading, asked);
        assert_eq!(counts(), []);
        monitor.dispatch();
        let (reading, asked) = monitor.sysfs.lane.reply().await;
        monitor.sysfs_said(reading, asked);
        assert_eq!(counts(), [(0, 1, 2)]);
    }
}
