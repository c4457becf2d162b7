//! What path events said of one map, and what of it has been counted.
//!
//! Events and readings both tell of the same failures, in no fixed order: the uevent may come before the reading that
//! shows the path failed or after it, or never. Each failure is counted once: by its uevent, and if a reading still
//! disagrees with the counted state when [`PATIENCE`] has passed without an event, by the reading.
//!
//! Where the kernel's status may not be read, the ledger also corrects the last reading: by the event with the highest
//! `DM_SEQNUM` of each path, if it is newer than the reading. A reading that was asked for after an event had been
//! received includes that event, and every event of a lower number, even one that is received later.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use crate::topology::{DevNo, PathEventCounts};
use crate::watch::{PathAction, PathEvent, Uevent};

/// How long a reading's disagreement waits for its uevent.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// How long the ledger of a map is kept that no reading shows.
const MEMORY: Duration = Duration::from_secs(60);

/// One map's ledger.
#[derive(Debug, Default)]
pub struct MapLedger {
    /// Path events counted.
    pub counts: PathEventCounts,
    /// Grows with every change that a device built from this ledger must show.
    pub version: u64,
    /// The last uevent about this map.
    pub last_event: Option<Instant>,
    /// When this map came to be, if that was seen: readings asked for earlier speak of another map.
    pub born: Option<Instant>,
    /// The map's instance, as events and sysfs tell it.
    diskseq: Option<u64>,
    /// The highest `DM_SEQNUM` seen.
    highest: u64,
    kernel: Floor,
    daemon: Floor,
    paths: HashMap<DevNo, PathLedger>,
}

/// Up to which event number a source's reading includes all events.
#[derive(Debug, Default)]
struct Floor {
    asked: u64,
    read: u64,
}

#[derive(Debug, Default)]
struct PathLedger {
    failures: u64,
    /// The state that the counted events lead to.
    counted_valid: bool,
    differs_since: Option<Instant>,
    /// When the last event about it came.
    told: Option<Instant>,
    /// What the event of the highest number said.
    last: Option<(u64, bool)>,
    /// The highest number at the time of the fallback reading (see [`MapLedger::restart_fallback`]).
    fallback_floor: u64,
}

impl MapLedger {
    /// Device mapper is being asked: its reading will include all events seen by now.
    pub fn kernel_asked(&mut self) {
        self.kernel.asked = self.highest;
    }

    /// Device mapper's reading has come.
    pub fn kernel_read(&mut self) {
        self.kernel.read = self.kernel.asked;
    }

    /// Up to which event device mapper's reading includes all.
    pub fn kernel_floor(&self) -> u64 {
        self.kernel.read
    }

    /// multipathd is being asked; it reads the kernel's status before it answers.
    pub fn daemon_asked(&mut self) {
        self.daemon.asked = self.highest;
    }

    /// multipathd's reading has come.
    pub fn daemon_read(&mut self) {
        self.daemon.read = self.daemon.asked;
    }

    /// Up to which event multipathd's reading includes all.
    pub fn daemon_floor(&self) -> u64 {
        self.daemon.read
    }

    /// The map was created anew: numbers start again, and what events said of the old one no longer holds.
    pub fn reborn(&mut self, at: Instant) {
        self.born = Some(at);
        self.highest = 0;
        (self.kernel, self.daemon) = (Floor::default(), Floor::default());
        self.version += 1;
        for path in self.paths.values_mut() {
            (path.last, path.fallback_floor) = (None, 0);
        }
    }

    /// sysfs shows that the map was created anew, and no event told.
    pub fn reborn_as(&mut self, diskseq: Option<u64>) {
        if diskseq > self.diskseq {
            self.diskseq = diskseq;
            self.reborn(Instant::now());
        }
    }

    /// Whether an event about this map came at or after `then`.
    pub fn had_event_since(&self, then: Instant) -> bool {
        self.last_event.is_some_and(|last| last >= then)
    }

    /// Whether an event came so recently that the reading it led to may still be under way.
    pub fn is_recent(&self, now: Instant) -> bool {
        self.last_event.is_some_and(|last| now < last + MEMORY)
    }

    /// Takes note of a path event and counts it.
    pub fn note(&mut self, uevent: &Uevent, event: &PathEvent) {
        match (self.diskseq, uevent.diskseq) {
            (Some(known), Some(now)) if now > known => self.reborn(uevent.received),
            _ => {}
        }
        self.diskseq = self.diskseq.max(uevent.diskseq);
        self.last_event = Some(uevent.received);
        let valid = event.action == PathAction::Reinstated;
        let from_this_map = uevent.diskseq == self.diskseq;
        let path = self.paths.entry(event.path).or_insert_with(|| PathLedger::new(true));
        path.told = Some(uevent.received);
        if from_this_map && path.last.is_none_or(|(seqnum, _)| seqnum < event.dm_seqnum) {
            path.last = Some((event.dm_seqnum, valid));
            path.counted_valid = valid;
            path.differs_since = None;
        }
        if from_this_map {
            self.highest = self.highest.max(event.dm_seqnum);
        }
        self.count(event.path, valid, uevent.time);
    }

    /// A member seen for the first time. It starts as counted `valid`, so that one which is not gets an event.
    pub fn ensure_path(&mut self, path: DevNo, counted_valid: bool) {
        self.paths.entry(path).or_insert_with(|| PathLedger::new(counted_valid));
    }

    /// Forgets a member that is no longer one. If it comes back it is a new one, and born valid.
    pub fn forget_path(&mut self, path: DevNo) {
        self.paths.remove(&path);
    }

    /// Forgets what is no member, except what an event has just told of: the reading that shows it is yet to come.
    pub fn forget_strangers(&mut self, now: Instant, is_member: impl Fn(DevNo) -> bool) {
        self.paths.retain(|devno, path| is_member(*devno) || path.told.is_some_and(|told| now < told + MEMORY));
    }

    /// What events newer than a reading say of a path. `floor` is that of the reading.
    pub fn correction(&self, path: DevNo, floor: u64) -> Option<bool> {
        let (seqnum, valid) = self.paths.get(&path)?.last?;
        (seqnum > floor).then_some(valid)
    }

    /// As [`MapLedger::correction`], over the fallback where no source knows the kernel's state.
    pub fn correction_of_fallback(&self, path: DevNo) -> Option<bool> {
        let floor = self.paths.get(&path)?.fallback_floor;
        self.correction(path, floor)
    }

    /// The fallback's own state (SCSI) changed: that is newer than every event so far. As long as it stays the same it
    /// says nothing new, since a failed path often still says `running`.
    pub fn restart_fallback(&mut self, path: DevNo) {
        let highest = self.highest;
        if let Some(path) = self.paths.get_mut(&path) {
            path.fallback_floor = highest;
            self.version += 1;
        }
    }

    /// Times the path failed.
    pub fn failures(&self, path: DevNo) -> u64 {
        self.paths.get(&path).map_or(0, |path| path.failures)
    }

    /// Compares a member's state as published with the counted one. Gives when to look again, if they differ.
    pub fn compare(&mut self, path: DevNo, valid: bool, now: Instant) -> Option<Instant> {
        let path = self.paths.get_mut(&path)?;
        if path.counted_valid == valid {
            path.differs_since = None;
            return None;
        }
        Some(*path.differs_since.get_or_insert(now) + PATIENCE)
    }

    /// Counts the change that only a reading showed, if it has waited long enough for its uevent.
    pub fn settle(&mut self, path: DevNo, now: Instant, time: SystemTime) -> Option<PathAction> {
        let ledger = self.paths.get_mut(&path)?;
        let since = ledger.differs_since?;
        if now < since + PATIENCE {
            return None;
        }
        ledger.differs_since = None;
        ledger.counted_valid = !ledger.counted_valid;
        let valid = ledger.counted_valid;
        self.count(path, valid, time);
        Some(if valid { PathAction::Reinstated } else { PathAction::Failed })
    }

    fn count(&mut self, path: DevNo, valid: bool, time: SystemTime) {
        self.version += 1;
        match valid {
            true => {
                self.counts.reinstated += 1;
                self.counts.last_reinstated = Some(time);
            }
            false => {
                self.counts.failed += 1;
                self.counts.last_failed = Some(time);
                if let Some(path) = self.paths.get_mut(&path) {
                    path.failures += 1;
                }
            }
        }
    }
}

impl PathLedger {
    fn new(counted_valid: bool) -> Self {
        PathLedger { counted_valid, ..PathLedger::default() }
    }
}
