//! The memory: how many paths a device should have, what was lost, and whether the host has
//! recovered.
//!
//! ```text
//! mod.rs       the rules: a device appears, changes, goes; the host is in trouble, and recovers
//! record.rs    one device                    history.rs   its paths and its redundancy over time
//! ports.rs     Fibre Channel ports
//! clock.rs     a clock that no program can set
//! image.rs     the memory as text            file.rs      a process that reads and writes the file
//! ```
//!
//! Each time the monitor publishes, it shows the memory the host. The memory reads no files and no
//! clock, so a test can give it any history (model.rs).

mod clock;
pub mod file;
mod history;
mod image;
#[cfg(test)]
mod model;
mod ports;
mod record;
mod times;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::config::Config;
use crate::topology::{DevNo, Device, Health, History, Kind, LossReason, LostDevice, Remembered, Transports};
pub(crate) use clock::Boot;
pub use clock::Now;
use clock::{Clock, Moment};
pub use image::{Image, Machine};
use ports::FcPorts;
use record::{ARRIVAL_TIME, Absence, DeviceRecord, Loss};

/// The largest number of devices, and of Fibre Channel ports of each kind. Beyond it, those that
/// have been gone longest are dropped. The limit is smaller in tests, to keep them short.
const MOST_RECORDS: usize = if cfg!(test) { 2_000 } else { 100_000 };
/// A device without a valid path for this long is lost when it goes, if its disks went before it.
const PATHLESS_BEFORE_LOSS: Duration = Duration::from_secs(10);
/// A device whose disks are deleted one by one is gone within this time.
const DEPARTURE_TIME: Duration = Duration::from_secs(2);
/// How long a gone native NVMe device waits for a reading of mounts. One of them may have gone
/// before it.
const USAGE_DEADLINE: Duration = Duration::from_secs(5);
/// How long devices have to come back after a boot.
const RETURN_DEADLINE: Duration = Duration::from_secs(10 * 60);
/// How often the memory looks at facts that change with time alone.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// How often a changed memory is written. A loss or a recovery is also written at once.
const WRITE_INTERVAL: Duration = Duration::from_secs(60);
/// How often the memory is written if only times have changed.
const IDLE_WRITE_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// A device as it is now.
#[derive(Clone, Debug)]
pub struct Sighting<'a> {
    /// The device as it will be published.
    pub device: &'a Arc<Device>,
    /// True if all disks of the device are gone.
    pub has_no_disk: bool,
    /// The device numbers by which mounts and swaps name a native NVMe device or its partitions.
    /// `None` if mounts and swaps have not been read.
    pub numbers: Option<BTreeSet<DevNo>>,
}

/// The host as it is now.
pub struct HostView<'a> {
    /// All devices, sorted by WWID.
    pub devices: Vec<Sighting<'a>>,
    /// The sessions, ports and controllers of the paths that have been read so far.
    pub transports: &'a Transports,
    /// The kinds of devices whose source has answered. Nothing is known about the other kinds.
    pub listed: &'a [Kind],
    /// True if every source of devices that is switched on and permitted has answered once.
    pub is_complete: bool,
    /// True if all sources answer.
    pub all_answer: bool,
    /// True if no mount and no holder has gone since mounts and holders were read.
    pub usage_is_known: bool,
    /// The configuration, which states what is expected of the host.
    pub config: &'a Config,
    /// Returns true if a device that is gone still has disks.
    pub has_disks: &'a dyn Fn(&str) -> bool,
    /// Returns whether the disks of a map that is gone went before it.
    pub order: &'a dyn Fn(&Device) -> Order,
    /// Returns true if a mount or swap names this device number.
    pub is_named: &'a dyn Fn(DevNo) -> bool,
}

/// The order in which a map and its disks went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// All disks went before the map.
    DisksFirst,
    /// A disk went after the map.
    MapFirst,
    /// An event that shows the order may still come.
    NotKnownYet,
    /// No event shows the order.
    Unknown,
}

impl HostView<'_> {
    fn shows(&self, wwid: &str) -> bool {
        self.devices.binary_search_by(|sighting| (*sighting.device.wwid).cmp(wwid)).is_ok()
    }
}

/// A fact to log and to publish as an event.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// A device is lost.
    Lost(LostDevice),
    /// The host has recovered.
    Recovered,
}

/// How well a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wellness {
    /// Healthy, and all paths are there.
    Well,
    /// Healthy, and more paths may come. If the device was in trouble, that has not ended yet.
    Arriving,
    /// The host is in trouble because of this device.
    Ill,
}

/// How urgently a change must be written to disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Unsaved {
    /// Only times have changed.
    #[default]
    Times,
    /// Facts have changed.
    Facts,
    /// There is a loss or a recovery.
    News,
}

/// The facts that the exporter remembers about the host.
#[derive(Debug)]
pub struct Memory {
    clock: Clock,
    window: Duration,
    machine: Machine,
    records: HashMap<Arc<str>, DeviceRecord>,
    present: BTreeSet<Arc<str>>,
    lost: BTreeSet<Arc<str>>,
    /// The devices whose trouble is to end in a recovery.
    troubled: BTreeSet<Arc<str>>,
    /// Devices that were there in an earlier boot and have not been seen in this one.
    awaited: BTreeSet<Arc<str>>,
    /// Configured devices that are not there, with the start of their absence.
    absent: BTreeMap<Arc<str>, Absence>,
    fc_ports: FcPorts,
    /// The host's uptime when all sources of devices had first answered in this boot.
    complete: Option<Duration>,
    /// True if all sources have answered since the start.
    is_settled: bool,
    has_looked: bool,
    was_in_trouble: bool,
    last_recovery: Option<SystemTime>,
    remembered: Arc<Remembered>,
    due: Option<Instant>,
    swept: Moment,
    unsaved: Unsaved,
    saved: Option<Instant>,
}

/// The default of `--memory.window`.
pub(crate) const DEFAULT_WINDOW: Duration = Duration::from_secs(7 * 24 * 60 * 60);

impl Default for Memory {
    fn default() -> Self {
        Memory::new(Boot::default(), Machine::default(), DEFAULT_WINDOW, Instant::now())
    }
}

impl Memory {
    pub(crate) fn new(boot: Boot, machine: Machine, window: Duration, now: Instant) -> Self {
        Memory {
            clock: Clock::new(boot, now),
            window,
            machine,
            records: HashMap::new(),
            present: BTreeSet::new(),
            lost: BTreeSet::new(),
            troubled: BTreeSet::new(),
            awaited: BTreeSet::new(),
            absent: BTreeMap::new(),
            fc_ports: FcPorts::default(),
            complete: None,
            is_settled: false,
            has_looked: false,
            was_in_trouble: false,
            last_recovery: None,
            remembered: Arc::default(),
            due: None,
            swept: Moment::default(),
            unsaved: Unsaved::default(),
            saved: None,
        }
    }

    /// Takes over what an earlier run of the exporter wrote. It may come late. Losses found since
    /// then stay, and the exporter sees everything else again.
    pub(crate) fn resume(&mut self, image: Image, now: Now) {
        let written = image.written();
        self.clock = self.clock.resumed(&written, now.time);
        self.records.retain(|_, record| record.loss.is_some());
        for loss in self.records.values_mut().filter_map(|record| record.loss.as_mut()) {
            loss.at = self.clock.at(now.instant);
        }
        self.present.clear();
        let is_same_boot = self.clock.is_of_boot(&image.boot_id);
        self.absent = image.absent;
        self.fc_ports.resume(image.fc_ports, written.clock, self.clock.at(now.instant));
        self.complete = image.complete.filter(|_| is_same_boot).map(Duration::from_millis);
        self.was_in_trouble = image.in_trouble;
        self.last_recovery = self.last_recovery.or(image.last_recovery);
        self.troubled.extend(image.troubled);
        self.awaited.extend(image.awaited);
        for (wwid, mut record) in image.devices {
            if !is_same_boot {
                // In this boot another device may have this number.
                record.numbers.clear();
                if record.is_present {
                    record.leave(written.clock);
                    self.awaited.insert(Arc::clone(&wwid));
                }
            }
            if self.records.get(&wwid).is_some_and(|known| known.loss.is_some()) {
                continue;
            }
            if record.is_present {
                self.present.insert(Arc::clone(&wwid));
            }
            if record.loss.is_some() {
                self.lost.insert(Arc::clone(&wwid));
            }
            self.records.insert(wwid, record);
        }
        self.has_looked = false;
    }

    /// Compares the host with the memory. Returns the news.
    pub fn look(&mut self, view: &HostView<'_>, now: Now) -> Vec<News> {
        let moment = self.clock.at(now.instant);
        let mut news = Vec::new();
        if view.is_complete {
            self.complete.get_or_insert(self.clock.uptime(now.instant));
        }
        self.is_settled |= view.all_answer;
        for sighting in &view.devices {
            self.see(sighting, view, moment);
        }
        let are_judged = self.notice_gone(view, now, moment, &mut news);
        self.notice_not_back(view, now, moment, &mut news);
        self.fc_ports.note(view.transports, view.devices.iter().map(|sighting| &**sighting.device), moment);
        if moment.since(self.swept) >= LOOK_INTERVAL {
            self.sweep(view, moment);
        }
        let devices = self.histories(view, now, moment);
        let is_troubled = !self.lost.is_empty() || devices.iter().any(|(_, _, state)| *state == Wellness::Ill);
        let lacks = |(wwid, _, state): &(Arc<str>, History, Wellness)| {
            *state == Wellness::Arriving && self.troubled.contains(wwid)
        };
        let is_judged = view.all_answer && are_judged && self.troubled.is_disjoint(&self.awaited);
        if is_judged && !is_troubled && !devices.iter().any(lacks) && !self.troubled.is_empty() {
            self.troubled.clear();
            self.last_recovery = Some(now.time);
            news.push(News::Recovered);
        }
        if !news.is_empty() {
            self.unsaved = Unsaved::News;
        }
        let in_trouble = is_troubled || !self.troubled.is_empty() || self.was_in_trouble && !self.is_settled;
        let lost = self.lost.iter().filter_map(|wwid| self.records.get(wwid)?.lost(wwid)).collect();
        let devices = devices.into_iter().map(|(wwid, history, _)| (wwid, history)).collect();
        let remembered = Remembered {
            devices,
            lost,
            fc_host_ports: self.fc_ports.hosts(view.transports, moment, self.window),
            fc_remote_ports: self.fc_ports.remote(view.transports, moment, self.window),
            in_trouble,
            last_recovery: self.last_recovery,
        };
        if *self.remembered != remembered {
            self.unsaved = self.unsaved.max(Unsaved::Facts);
            self.remembered = Arc::new(remembered);
        }
        self.has_looked = true;
        self.set_due(now.instant, moment);
        news
    }

    /// Returns the facts about the past as of the last look. It is the same allocation until one
    /// changes.
    pub(crate) fn remembered(&self) -> Arc<Remembered> {
        Arc::clone(&self.remembered)
    }

    /// Returns the NVMe devices that were there when last seen, and those that are lost.
    pub(crate) fn nvme_devices(&self) -> BTreeSet<Arc<str>> {
        let is_nvme = |wwid: &&Arc<str>| self.records.get(*wwid).is_some_and(|record| record.kind == Kind::Nvme);
        self.present.iter().chain(&self.awaited).chain(&self.lost).filter(is_nvme).cloned().collect()
    }

    /// Returns when the next look is due if nothing happens before.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Forgets the configured devices' history before the configured times. This is no recovery.
    pub(crate) fn forget(&mut self, config: &Config, now: Now) {
        let moment = self.clock.at(now.instant);
        let was_troubled = !self.troubled.is_empty();
        for forget in &config.forget {
            let Some((wwid, record)) = self.records.get_key_value(&*forget.wwid) else { continue };
            let wwid = Arc::clone(wwid);
            let before = moment.before(now.time.duration_since(forget.before).unwrap_or_default());
            let is_old = record.loss.as_ref().is_none_or(|loss| loss.time < forget.before);
            if !record.is_present && record.seen < before && is_old {
                self.drop_record(&wwid);
            } else if self
                .records
                .get_mut(&wwid)
                .is_some_and(|record| record.forget(before, is_old, (moment, self.window)))
            {
                self.lost.remove(&wwid);
                self.troubled.remove(&wwid);
                self.unsaved = self.unsaved.max(Unsaved::Facts);
            }
        }
        if was_troubled && self.troubled.is_empty() {
            self.was_in_trouble = false;
        }
    }

    /// Returns the image if it is due to be written now.
    pub(crate) fn due_image(&mut self, now: Now) -> Option<Image> {
        let interval = match self.unsaved {
            Unsaved::News => Duration::ZERO,
            Unsaved::Facts => WRITE_INTERVAL,
            Unsaved::Times => IDLE_WRITE_INTERVAL,
        };
        if self.saved.is_some_and(|saved| now.instant < saved + interval) {
            return None;
        }
        self.last_image(now)
    }

    /// Returns the whole memory, to be written before the exporter ends. It counts as written.
    /// `None` if no host has been seen yet.
    pub fn last_image(&mut self, now: Now) -> Option<Image> {
        if !self.has_looked {
            return None;
        }
        (self.unsaved, self.saved) = (Unsaved::Times, Some(now.instant));
        let boot = Boot { id: self.clock.boot_id().to_owned(), uptime: self.clock.uptime(now.instant) };
        let mut image = Image::new(self.machine.clone(), now.time, self.clock.at(now.instant), boot);
        image.complete = self.complete.map(|complete| u64::try_from(complete.as_millis()).unwrap_or(u64::MAX));
        image.in_trouble = self.remembered.in_trouble;
        image.last_recovery = self.last_recovery;
        image.troubled.clone_from(&self.troubled);
        image.awaited.clone_from(&self.awaited);
        image.absent.clone_from(&self.absent);
        image.fc_ports.clone_from(&self.fc_ports);
        image.devices = self.records.iter().map(|(wwid, record)| (Arc::clone(wwid), record.clone())).collect();
        Some(image)
    }

    /// Records a device that is there.
    fn see(&mut self, sighting: &Sighting<'_>, view: &HostView<'_>, now: Moment) {
        let device = sighting.device;
        // A device that the exporter finds at its first look has not just appeared. It counts as
        // there since boot.
        let is_found = !self.has_looked;
        let record = self.records.entry(Arc::clone(&device.wwid)).or_insert_with(|| {
            if is_found {
                DeviceRecord::found(device, now.before(self.clock.uptime_at(now)))
            } else {
                DeviceRecord::new(device, now)
            }
        });
        let facts = |record: &DeviceRecord| {
            (record.is_present && record.went.is_none(), record.in_use, record.valid_since.is_some())
        };
        let before = facts(record);
        if record.went.take().is_some() || !record.is_present {
            record.is_present = true;
            self.awaited.remove(&device.wwid);
            (record.appeared, record.was_well) = (now, false);
            (record.pathless_since, record.valid_since, record.missing_since) = (None, None, None);
        }
        record.has_no_disk = sighting.has_no_disk;
        // On nearly every host, nothing has changed nearly every time.
        if record.differs_from(device, &view.transports.adapters) {
            record.take(device, &view.transports.adapters, now);
            self.present.insert(Arc::clone(&device.wwid));
        }
        if record.loss.is_some() && record.valid_since.is_some() && !record.is_still_named(view.is_named) {
            record.loss = None;
            self.lost.remove(&device.wwid);
        }
        // A lost device keeps the numbers that mounts still name.
        if let Some(numbers) = sighting.numbers.as_ref().filter(|_| record.loss.is_none()) {
            record.numbers.clone_from(numbers);
        }
        if before != facts(record) {
            self.unsaved = self.unsaved.max(Unsaved::Facts);
        }
    }

    /// Judges the devices that their source no longer lists. Returns true if none of them waits for
    /// its verdict.
    fn notice_gone(&mut self, view: &HostView<'_>, now: Now, moment: Moment, news: &mut Vec<News>) -> bool {
        if self.present.len() == view.devices.len() {
            return true;
        }
        let mut are_judged = true;
        let gone: Vec<_> = self.present.iter().filter(|wwid| !view.shows(wwid)).cloned().collect();
        for wwid in gone {
            let Some(record) = self.records.get_mut(&wwid).filter(|record| view.listed.contains(&record.kind)) else {
                continue;
            };
            let went = *record.went.get_or_insert(moment);
            let was_pathless = record.is_pathless(PATHLESS_BEFORE_LOSS, went);
            let is_lost = match (record.kind, record.device()) {
                // A mount outlives its device. If the mount has gone, it was unmounted first.
                (Kind::Nvme, _) => {
                    let was_unmounted =
                        self.has_looked && !record.numbers.is_empty() && !record.is_still_named(view.is_named);
                    let is_read = view.usage_is_known || moment.since(went) >= USAGE_DEADLINE;
                    is_read.then_some(record.in_use == Some(true) && !was_unmounted)
                }
                (Kind::DeviceMapper, _) if !was_pathless => Some(false),
                // The device went while no exporter was running, so only its remaining disks can
                // show how.
                (Kind::DeviceMapper, None) => Some(!(view.has_disks)(&wwid)),
                (Kind::DeviceMapper, Some(device)) => match (view.order)(device) {
                    Order::DisksFirst => Some(true),
                    Order::MapFirst => Some(false),
                    Order::Unknown => Some(record.has_no_disk),
                    Order::NotKnownYet => None,
                },
            };
            let Some(is_lost) = is_lost else {
                are_judged = false;
                continue;
            };
            let reason = match record.kind {
                Kind::Nvme => LossReason::InUse,
                Kind::DeviceMapper => LossReason::NoValidPath,
            };
            self.present.remove(&wwid);
            record.leave(went);
            self.unsaved = self.unsaved.max(Unsaved::Facts);
            // The device lost its disks while it was being removed. No administrator could have
            // ended that trouble.
            let was_on_its_way = record.ill_since.take().is_some_and(|since| went.since(since) < DEPARTURE_TIME);
            if is_lost {
                self.lose(&wwid, reason, now, moment, news);
            } else if was_on_its_way {
                self.troubled.remove(&wwid);
            }
        }
        are_judged
    }

    /// Judges the devices that were in use before the boot and have had time to come back.
    fn notice_not_back(&mut self, view: &HostView<'_>, now: Now, moment: Moment, news: &mut Vec<News>) {
        if self.complete.is_none_or(|complete| self.clock.uptime(now.instant) < complete + RETURN_DEADLINE) {
            return;
        }
        let is_listed =
            |wwid: &Arc<str>| self.records.get(wwid).is_none_or(|record| view.listed.contains(&record.kind));
        let (not_back, awaited) = std::mem::take(&mut self.awaited).into_iter().partition(is_listed);
        self.awaited = awaited;
        for wwid in BTreeSet::into_iter(not_back) {
            if self.records.get(&wwid).is_some_and(|record| record.in_use == Some(true)) {
                self.lose(&wwid, LossReason::NotBackAfterBoot, now, moment, news);
            } else {
                // The device has not been seen well since, so its end is no recovery.
                self.troubled.remove(&wwid);
            }
        }
    }

    fn lose(&mut self, wwid: &Arc<str>, reason: LossReason, now: Now, moment: Moment, news: &mut Vec<News>) {
        let Some(record) = self.records.get_mut(wwid) else { return };
        if record.loss.is_none() {
            record.loss = Some(Loss { reason, time: now.time, at: moment });
            news.extend(record.lost(wwid).map(News::Lost));
        }
        self.lost.insert(Arc::clone(wwid));
        self.troubled.insert(Arc::clone(wwid));
    }

    /// Returns the history and the wellness of each device that is there or configured, sorted by
    /// WWID.
    fn histories(&mut self, view: &HostView<'_>, now: Now, moment: Moment) -> Vec<(Arc<str>, History, Wellness)> {
        let mut histories = Vec::with_capacity(view.devices.len());
        for sighting in &view.devices {
            let device = sighting.device;
            let Some(record) = self.records.get_mut(&device.wwid) else { continue };
            let (history, state) = history(record, sighting, view.config, (now.time, moment), self.window);
            record.was_well |= state == Wellness::Well;
            record.ill_since = if state == Wellness::Ill { record.ill_since.or(Some(moment)) } else { None };
            if record.has_ceased_to_miss(history.missing_paths, device.paths.len()) && state == Wellness::Well {
                // The paths are not back. They are no longer expected, which is no recovery.
                self.troubled.remove(&device.wwid);
            }
            if state == Wellness::Ill && (record.was_well || !record.is_arriving(moment)) {
                self.troubled.insert(Arc::clone(&device.wwid));
            }
            histories.push((Arc::clone(&device.wwid), history, state));
        }
        self.add_absent(view, now, moment, &mut histories);
        histories
    }

    /// Adds the configured devices that are not there.
    fn add_absent(
        &mut self,
        view: &HostView<'_>,
        now: Now,
        moment: Moment,
        histories: &mut Vec<(Arc<str>, History, Wellness)>,
    ) {
        let absent: BTreeMap<&str, u32> = view
            .config
            .expected_wwids()
            .filter(|wwid| !view.shows(wwid))
            .filter_map(|wwid| Some((wwid, view.config.expectation_of(wwid, "", "")?.paths)))
            .collect();
        self.absent.retain(|wwid, _| absent.contains_key(&**wwid));
        if absent.is_empty() {
            return;
        }
        for (wwid, expected_paths) in absent {
            let wwid = Arc::from(wwid);
            let Absence { since, time } =
                *self.absent.entry(Arc::clone(&wwid)).or_insert(Absence { since: moment, time: now.time });
            if moment.since(since) >= ARRIVAL_TIME {
                self.troubled.insert(Arc::clone(&wwid));
            }
            let missing_since = Some(time);
            let history =
                History { expected_paths, missing_paths: expected_paths, missing_since, ..History::default() };
            histories.push((wwid, history, Wellness::Ill));
        }
        histories.sort_by(|(one, ..), (other, ..)| one.cmp(other));
    }

    /// Drops what is older than the window, and what exceeds the limit.
    fn sweep(&mut self, view: &HostView<'_>, now: Moment) {
        self.swept = now;
        let window = self.window;
        // Before then, a port that exists may be missing from the view.
        if view.is_complete {
            self.fc_ports.expire(view.transports, now, window);
        }
        self.records.values_mut().for_each(|record| record.paths.expire(now, window));
        let is_old = |record: &DeviceRecord| match &record.loss {
            Some(loss) => now.since(loss.at) > window && !record.is_still_named(view.is_named),
            None => !record.is_present && now.since(record.seen) > window,
        };
        let old = self.records.iter().filter(|(_, record)| is_old(record));
        let old: Vec<_> = old.map(|(wwid, _)| Arc::clone(wwid)).collect();
        old.iter().for_each(|wwid| self.drop_record(wwid));
        if self.records.len() > MOST_RECORDS {
            let gone = self.records.iter().filter(|(_, record)| !record.is_present && record.loss.is_none());
            let mut gone: Vec<_> = gone.map(|(wwid, record)| (record.seen, Arc::clone(wwid))).collect();
            gone.sort();
            gone.truncate(self.records.len() - MOST_RECORDS);
            gone.iter().for_each(|(_, wwid)| self.drop_record(wwid));
        }
    }

    fn drop_record(&mut self, wwid: &Arc<str>) {
        let is_present = self.present.contains(wwid);
        self.lost.remove(wwid);
        self.troubled.remove(wwid);
        self.awaited.remove(wwid);
        if is_present {
            if let Some(record) = self.records.get_mut(wwid) {
                record.loss = None;
            }
        } else {
            self.records.remove(wwid);
        }
        self.unsaved = self.unsaved.max(Unsaved::Facts);
    }

    fn set_due(&mut self, now: Instant, moment: Moment) {
        let left = |time: Duration, since: Moment| time.saturating_sub(moment.since(since));
        let of_devices = self.present.iter().filter_map(|wwid| self.records.get(wwid)).flat_map(|record| {
            let gone = record.went.filter(|_| record.kind == Kind::Nvme);
            [Some(left(ARRIVAL_TIME, record.appeared)), gone.map(|went| left(USAGE_DEADLINE, went))]
        });
        let returned =
            self.complete.map(|complete| (complete + RETURN_DEADLINE).saturating_sub(self.clock.uptime(now)));
        let next = of_devices.flatten().chain(returned).filter(|left| !left.is_zero());
        let next = next.fold(LOOK_INTERVAL, Duration::min);
        self.due = Some(now + next);
    }
}

/// Returns the history to show for a device that is there, and how well it is.
fn history(
    record: &mut DeviceRecord,
    sighting: &Sighting<'_>,
    config: &Config,
    (time, now): (SystemTime, Moment),
    window: Duration,
) -> (History, Wellness) {
    let Device { wwid, vendor, product, .. } = &**sighting.device;
    let counts = sighting.device.counts();
    let configured = config.expectation_of(wwid, vendor, product);
    let expected_paths = configured.map_or_else(|| record.paths.expected(now, window), |rule| rule.paths);
    let present = u32::try_from(counts.paths()).unwrap_or(u32::MAX);
    let missing_paths = if record.is_arriving(now) { 0 } else { expected_paths.saturating_sub(present) };
    if missing_paths == 0 {
        record.missing_since = None;
    } else {
        record.missing_since.get_or_insert(time);
    }
    let expects_redundancy = configured.is_none_or(|rule| rule.redundant);
    let shows_redundancy = expected_paths > 1 && counts.valid + counts.standby > 0 && expects_redundancy;
    let has_lost = !record.is_redundant && record.redundancy.is_proven(now, window);
    let history = History {
        expected_paths,
        missing_paths,
        missing_since: record.missing_since,
        is_redundant: shows_redundancy.then_some(record.is_redundant),
        has_lost_redundancy: shows_redundancy.then_some(has_lost),
        has_new_errors: record.has_new_errors(now),
    };
    let is_ill = counts.health() != Health::Healthy || missing_paths > 0 || record.loss.is_some();
    let state = match (is_ill, expected_paths > present) {
        (true, _) => Wellness::Ill,
        (false, true) => Wellness::Arriving,
        (false, false) => Wellness::Well,
    };
    (history, state)
}
