//! The path events of one map, and which of its path changes have been counted.
//!
//! Events and readings show the same failures, in no fixed order. A uevent may come before the
//! reading that shows the path failed, after it, or never. Each failure is counted once. Usually
//! its uevent counts it. If [`EVENT_DEADLINE`] passes without an event and the reading still
//! disagrees with the counted state, the reading counts it. The kernel may send the uevent even
//! later, for example under memory pressure. Then the event is owed, and is not counted again (see
//! [`Debt`]).
//!
//! If the exporter may not read the kernel's status, the ledger also corrects the last reading. It
//! uses the event of each path with the highest `DM_SEQNUM`, if that event is newer than the
//! reading. A reading that was requested after an event was received includes the event. It also
//! includes every event with a lower number, even one that is received later.
//!
//! [`Repeats`] counts a failure a second time if it is a repeated one.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant, SystemTime};

use super::repeats::Repeats;
use crate::topology::{DevNo, Path, PathEventCounts};
use crate::watch::{PathAction, PathEvent, Uevent};

/// How long a change that a reading shows waits for its uevent.
pub(crate) const EVENT_DEADLINE: Duration = Duration::from_secs(1);

/// How long the ledger of a map is kept after the map's last event, if no reading shows the map.
const LEDGER_RETENTION: Duration = Duration::from_secs(60);

/// The ledger of one map.
#[derive(Debug, Default)]
pub(crate) struct MapLedger {
    /// The counted path events.
    pub(crate) counts: PathEventCounts,
    /// Grows with each change that a device built from this ledger must show.
    pub(crate) version: u64,
    /// The last uevent about this map.
    pub(crate) last_event: Option<Instant>,
    /// How often this map was seen to be created again.
    pub(crate) instance: u64,
    /// When this map was created, if that was seen. Readings requested earlier are about another
    /// map.
    born: Option<Instant>,
    /// The map's disk sequence number from events and sysfs.
    diskseq: Option<u64>,
    /// True if only sysfs gave the number. Events of a former map may still come.
    only_sysfs_knows: bool,
    /// The highest `DM_SEQNUM` seen.
    highest: u64,
    /// The highest `SEQNUM`s of the recorded events, so that a repeated event is not counted again.
    noted: BTreeSet<u64>,
    kernel: Floor,
    /// When device mapper's last reading arrived.
    kernel_came: Option<Instant>,
    daemon: Floor,
    block: Floor,
    paths: HashMap<DevNo, PathLedger>,
    repeats: Repeats<DevNo>,
}

/// Shows which events a source's reading includes: all up to a certain `DM_SEQNUM`.
#[derive(Debug, Default)]
struct Floor {
    /// The highest `DM_SEQNUM` seen when the last reading was requested.
    asked: u64,
    /// The same for the last reading that has arrived.
    read: u64,
    /// When the reading was requested.
    at: Option<Instant>,
}

impl Floor {
    /// Accepts a reading that has arrived. A reading requested before the map was created is about
    /// another map.
    fn accept(&mut self, asked: Instant, born: Option<Instant>) {
        self.read = self.asked;
        self.at = Some(asked).filter(|asked| born.is_none_or(|born| *asked >= born));
    }
}

#[derive(Debug, Default)]
struct PathLedger {
    failures: u64,
    /// The state after the counted events.
    counted_valid: bool,
    differs_since: Option<Instant>,
    /// When the last event about this path came.
    event_came: Option<Instant>,
    /// The number and the new state of the event with the highest number.
    last: Option<(u64, bool)>,
    /// Changes that were counted without their events, oldest first.
    debts: Vec<Debt>,
    /// True if a change has been counted without its event since the last event came.
    has_settled: bool,
}

/// A change that a reading counted, and whose uevent may still come.
///
/// The number of its event lies above that of the last event that the reading included. It lies
/// below that of the next event of the opposite kind: a path does not fail twice without being
/// reinstated.
#[derive(Debug)]
struct Debt {
    valid: bool,
    above: u64,
    below: Option<u64>,
    since: Instant,
}

/// How many sequence numbers are kept to detect repeated events. The kernel sends events in batches
/// of a few.
const NOTED_EVENTS: usize = 64;

/// The highest number of debts per path, because events may be lost in a storm without notice.
const MOST_DEBTS: usize = 16;

impl MapLedger {
    /// Device mapper is asked now: its reading will include all events seen so far.
    pub(crate) fn kernel_asked(&mut self) {
        self.kernel.asked = self.highest;
    }

    /// Device mapper's reading, requested at `asked`, has arrived.
    pub(crate) fn kernel_read(&mut self, asked: Instant, now: Instant) {
        self.kernel.accept(asked, self.born);
        self.kernel_came = self.kernel.at.map(|_| now);
    }

    /// multipathd is asked now. It reads the kernel's status before it answers.
    pub(crate) fn daemon_asked(&mut self) {
        self.daemon.asked = self.highest;
    }

    /// multipathd's reading, requested at `asked`, has arrived and contains this map.
    pub(crate) fn daemon_read(&mut self, asked: Instant) {
        self.daemon.accept(asked, self.born);
    }

    /// sysfs is asked for the states of disks now.
    pub(crate) fn block_asked(&mut self) {
        self.block.asked = self.highest;
    }

    /// The states of disks, requested at `asked`, have arrived.
    pub(crate) fn block_read(&mut self, asked: Instant) {
        self.block.accept(asked, self.born);
    }

    /// Returns the highest `DM_SEQNUM` of the events that sysfs's reading includes. The reading
    /// includes all events with lower numbers.
    pub(crate) fn block_floor(&self) -> u64 {
        self.block.read
    }

    /// Returns the highest `DM_SEQNUM` of the events that device mapper's reading includes. The
    /// reading includes all events with lower numbers.
    pub(crate) fn kernel_floor(&self) -> u64 {
        self.kernel.read
    }

    /// Returns the highest `DM_SEQNUM` of the events that multipathd's reading includes. The
    /// reading includes all events with lower numbers.
    pub(crate) fn daemon_floor(&self) -> u64 {
        self.daemon.read
    }

    /// Returns true if device mapper has been read since this map was created.
    pub(crate) fn has_kernel_reading(&self) -> bool {
        self.kernel.at.is_some()
    }

    /// Returns true if multipathd has been read since this map was created.
    pub(crate) fn has_daemon_reading(&self) -> bool {
        self.daemon.at.is_some()
    }

    /// Returns true if multipathd's reading of this map is certainly newer than device mapper's.
    /// multipathd must have been asked after device mapper's reading had arrived. The reason is
    /// that a source may read the map at any moment between request and arrival.
    pub(crate) fn daemon_is_newer(&self) -> bool {
        self.daemon.at.is_some_and(|asked| self.kernel_came.is_none_or(|came| came < asked))
    }

    /// Processes a uevent about the map itself. The disk sequence number shows if it is the same
    /// map. If the kernel has no such number, only the map's creation shows that it is another one.
    pub(crate) fn note_map(&mut self, uevent: &Uevent) {
        self.last_event = Some(uevent.received);
        let created = !uevent.synthetic && matches!(&*uevent.action, "add" | "remove");
        match (self.diskseq, uevent.diskseq) {
            (Some(known), Some(now)) if now > known => self.reborn(uevent.received),
            // The readings before this event may be about the former map.
            (Some(known), Some(now)) if now < known && self.only_sysfs_knows => self.reborn(uevent.received),
            (Some(_), Some(_)) => {}
            _ if created => self.reborn(uevent.received),
            _ => {}
        }
        self.diskseq = self.diskseq.max(uevent.diskseq);
        self.only_sysfs_knows = false;
    }

    /// Processes the disk sequence number that sysfs shows.
    pub(crate) fn note_diskseq(&mut self, diskseq: u64, asked: Instant) {
        match self.diskseq {
            Some(known) if known < diskseq => self.reborn(asked),
            Some(_) => {}
            None => self.only_sysfs_knows = true,
        }
        self.diskseq = self.diskseq.max(Some(diskseq));
    }

    /// Starts again for a map that was removed and created again. The event numbers of the new map
    /// start again. Events and readings of the old map say nothing about the new one.
    fn reborn(&mut self, at: Instant) {
        self.born = Some(at);
        self.highest = 0;
        (self.kernel, self.daemon, self.block) = (Floor::default(), Floor::default(), Floor::default());
        self.kernel_came = None;
        self.version += 1;
        self.instance += 1;
        for path in self.paths.values_mut() {
            path.last = None;
            path.debts.clear();
        }
    }

    /// Returns true if the ledger is kept although a reading requested at `asked` does not show its
    /// map. This is so if a map with this WWID was created after `asked` and has had path events.
    /// These events remain valid. The counters continue, as they do if no reading shows that the
    /// map was gone.
    pub(crate) fn outlives_map(&mut self, asked: Option<Instant>) -> bool {
        let Some(born) = self.born.filter(|born| asked.is_some_and(|asked| *born > asked)) else { return false };
        self.paths.retain(|_, path| path.event_came.is_some_and(|at| at >= born));
        !self.paths.is_empty()
    }

    /// Returns true if an event about this map came at or after `then`.
    pub(crate) fn had_event_since(&self, then: Instant) -> bool {
        self.last_event.is_some_and(|last| last >= then)
    }

    /// Returns true if an event about this map came within `time` before `then`, or later.
    pub(crate) fn had_event_within(&self, time: Duration, then: Instant) -> bool {
        self.last_event.is_some_and(|last| last + time >= then)
    }

    /// Returns true if an event came so recently that the reading it caused may still be under way.
    pub(crate) fn is_recent(&self, now: Instant) -> bool {
        self.last_event.is_some_and(|last| now < last + LEDGER_RETENTION)
    }

    /// Records a path event and counts it. Returns false if the event is a repeated one.
    pub(crate) fn note(&mut self, uevent: &Uevent, event: &PathEvent) -> bool {
        self.note_map(uevent);
        let valid = event.action == PathAction::Reinstated;
        let from_this_map = uevent.diskseq == self.diskseq;
        if !self.is_first(uevent.seqnum) {
            return false;
        }
        let path = self.paths.entry(event.path).or_insert_with(|| PathLedger::new(true));
        path.event_came = Some(uevent.received);
        let was_owed = from_this_map && path.pay(event.dm_seqnum, valid, uevent.received);
        path.has_settled = false;
        if from_this_map && path.last.is_none_or(|(seqnum, _)| seqnum < event.dm_seqnum) {
            path.last = Some((event.dm_seqnum, valid));
            // An owed event is already counted, and later changes may be counted too.
            if !was_owed {
                path.counted_valid = valid;
                path.differs_since = None;
            }
        }
        if from_this_map {
            self.highest = self.highest.max(event.dm_seqnum);
        }
        if was_owed {
            self.version += 1;
        } else {
            self.count(event.path, valid, uevent.received, uevent.time);
        }
        true
    }

    fn is_first(&mut self, seqnum: u64) -> bool {
        let is_first = self.noted.insert(seqnum);
        if self.noted.len() > NOTED_EVENTS {
            self.noted.pop_first();
        }
        is_first
    }

    /// Records that a path becomes a member.
    pub(crate) fn join(&mut self, path: DevNo) {
        self.repeats.join(path);
    }

    /// Records what is known about a member by now.
    pub(crate) fn identify(&mut self, devno: DevNo, path: &Path) {
        let before = self.repeats.count();
        self.repeats.identify(&devno, path);
        self.version += self.repeats.count() - before;
    }

    /// Records that a member leaves. If its disk is gone, the map has lost it. The removal then
    /// counts as a failure, unless the path had failed already. Returns the change that still
    /// waited for its event; it counts now. The reading that no longer shows the member was
    /// requested at `asked`.
    pub(crate) fn leave(
        &mut self,
        devno: DevNo,
        path: &Path,
        disk_is_gone: bool,
        asked: Option<Instant>,
        (now, time): (Instant, SystemTime),
    ) -> Option<PathAction> {
        let settled = self.settle_now(devno, now, time);
        if disk_is_gone && self.paths.get(&devno).is_some_and(|path| path.counted_valid) {
            self.repeats.lose(devno, path, now);
            self.version += 1;
        } else {
            self.repeats.leave(&devno, path);
        }
        self.forget_path(devno, asked.filter(|_| !disk_is_gone), now);
        settled
    }

    /// Returns the number of failures and disorderly removals of a path soon after its last one.
    pub(crate) fn repeated_failures(&self) -> u64 {
        self.repeats.count()
    }

    /// Adds a member that is seen for the first time. It starts as valid, so that a member that is
    /// not valid gets an event.
    pub(crate) fn ensure_path(&mut self, path: DevNo, counted_valid: bool) {
        self.paths.entry(path).or_insert_with(|| PathLedger::new(counted_valid));
    }

    /// Forgets a former member. If it comes back, it is a new member and starts as valid. The event
    /// of a change that was just counted may still come.
    ///
    /// A member whose event came after `asked` may not have left at all, and is kept. The kernel
    /// links the members of a new map one after the other, and the reading may show only the first
    /// ones.
    fn forget_path(&mut self, path: DevNo, asked: Option<Instant>, now: Instant) {
        let has_newer_event = |path: &PathLedger| {
            // `last` is not an event of a former map.
            path.last.is_some() && path.event_came.zip(asked).is_some_and(|(came, asked)| came >= asked)
        };
        if self.paths.get(&path).is_some_and(has_newer_event) {
            return;
        }
        if let Some(debts) = self.paths.remove(&path).map(|path| path.debts).filter(|debts| !debts.is_empty()) {
            self.paths.insert(path, PathLedger { debts, event_came: Some(now), ..PathLedger::new(true) });
        }
    }

    /// Forgets all paths that are no members, except those with a recent event. The reading that
    /// shows such a path may still come.
    pub(crate) fn forget_strangers(&mut self, now: Instant, is_member: impl Fn(DevNo) -> bool) {
        self.paths
            .retain(|devno, path| is_member(*devno) || path.event_came.is_some_and(|at| now < at + LEDGER_RETENTION));
    }

    /// Returns the state of a path after the events newer than a reading, or `None` if there are
    /// none. `floor` is the floor of the reading.
    pub(crate) fn correction(&self, path: DevNo, floor: u64) -> Option<bool> {
        let (seqnum, valid) = self.paths.get(&path)?.last?;
        (seqnum > floor).then_some(valid)
    }

    pub(crate) fn failures(&self, path: DevNo) -> u64 {
        self.paths.get(&path).map_or(0, |path| path.failures)
    }

    /// Compares a member's published state with the counted one. If they differ, returns when to
    /// look again.
    pub(crate) fn compare(&mut self, path: DevNo, valid: bool, now: Instant) -> Option<Instant> {
        let path = self.paths.get_mut(&path)?;
        if path.counted_valid == valid {
            path.differs_since = None;
            return None;
        }
        Some(*path.differs_since.get_or_insert(now) + EVENT_DEADLINE)
    }

    /// Counts a change that only a reading showed, if the change has waited long enough for its
    /// uevent.
    pub(crate) fn settle(&mut self, path: DevNo, now: Instant, time: SystemTime) -> Option<PathAction> {
        let since = self.paths.get(&path)?.differs_since?;
        if now < since + EVENT_DEADLINE { None } else { self.settle_now(path, now, time) }
    }

    fn settle_now(&mut self, path: DevNo, now: Instant, time: SystemTime) -> Option<PathAction> {
        let ledger = self.paths.get_mut(&path)?;
        ledger.differs_since.take()?;
        ledger.counted_valid = !ledger.counted_valid;
        let valid = ledger.counted_valid;
        // The last event may have been the event of this change, although it was taken for an owed
        // one.
        let has_come = ledger.last.is_some_and(|(_, last)| last == valid) && !ledger.has_settled;
        if !has_come {
            let above = ledger.last.map_or(0, |(seqnum, _)| seqnum);
            ledger.owe(Debt { valid, above, below: None, since: now });
        }
        ledger.has_settled = true;
        self.count(path, valid, now, time);
        Some(if valid { PathAction::Reinstated } else { PathAction::Failed })
    }

    fn count(&mut self, path: DevNo, valid: bool, now: Instant, time: SystemTime) {
        self.version += 1;
        if valid {
            self.counts.reinstated += 1;
            self.counts.last_reinstated = Some(time);
        } else {
            self.counts.failed += 1;
            self.counts.last_failed = Some(time);
            self.repeats.fail(path, now);
            if let Some(path) = self.paths.get_mut(&path) {
                path.failures += 1;
            }
        }
    }
}

impl PathLedger {
    fn new(counted_valid: bool) -> Self {
        PathLedger { counted_valid, ..PathLedger::default() }
    }

    fn owe(&mut self, debt: Debt) {
        if self.debts.len() == MOST_DEBTS {
            self.debts.remove(0);
        }
        self.debts.push(debt);
    }

    /// Returns true if an event with this number and kind was owed, and settles the debt.
    fn pay(&mut self, seqnum: u64, valid: bool, now: Instant) -> bool {
        // An event that has not come by then is lost.
        self.debts.retain(|debt| now < debt.since + LEDGER_RETENTION);
        let owed = self.debts.iter().position(|debt| {
            debt.valid == valid && debt.above < seqnum && debt.below.is_none_or(|below| seqnum < below)
        });
        // Changes of the other kind happened before this event. Those that were counted after the
        // owed change happened after it.
        for (index, debt) in self.debts.iter_mut().enumerate().filter(|(_, debt)| debt.valid != valid) {
            if owed.is_some_and(|owed| index > owed) {
                debt.above = debt.above.max(seqnum);
            } else {
                debt.below = Some(debt.below.map_or(seqnum, |below| below.min(seqnum)));
            }
        }
        if let Some(owed) = owed {
            self.debts.remove(owed);
        }
        owed.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::repeats::tests::path;
    use super::*;

    const PATH: DevNo = DevNo { major: 8, minor: 16 };
    const FAILED: PathAction = PathAction::Failed;
    const REINSTATED: PathAction = PathAction::Reinstated;

    fn uevent(action: &str, diskseq: Option<u64>, synthetic: bool) -> Uevent {
        Uevent {
            seqnum: 0,
            action: Arc::from(action),
            sysname: Arc::from("dm-0"),
            devno: None,
            diskseq,
            synthetic,
            is_partition: false,
            path: None,
            received: Instant::now(),
            time: SystemTime::now(),
        }
    }

    fn note(ledger: &mut MapLedger, action: PathAction, dm_seqnum: u64, diskseq: Option<u64>) {
        let event = PathEvent {
            wwid: Arc::from("3600"),
            name: Arc::from("mpatha"),
            action,
            path: PATH,
            dm_seqnum,
            valid_paths: None,
        };
        let uevent = Uevent { seqnum: dm_seqnum, ..uevent("change", diskseq, false) };
        ledger.note(&uevent, &event);
    }

    fn now() -> (Instant, SystemTime) {
        (Instant::now(), SystemTime::now())
    }

    fn ledger() -> MapLedger {
        let mut ledger = MapLedger::default();
        ledger.ensure_path(PATH, true);
        ledger
    }

    #[test]
    fn the_highest_number_counts_not_the_last_to_come() {
        let mut ledger = ledger();
        note(&mut ledger, FAILED, 3, Some(7));
        note(&mut ledger, REINSTATED, 2, Some(7));
        note(&mut ledger, FAILED, 1, Some(7));
        assert_eq!(ledger.correction(PATH, 0), Some(false));
        assert_eq!((ledger.counts.failed, ledger.counts.reinstated, ledger.failures(PATH)), (2, 1, 2));
        assert_eq!(ledger.compare(PATH, false, Instant::now()), None);
    }

    #[test]
    fn a_reading_includes_the_events_received_before_it_was_asked_for_and_those_of_lower_number() {
        let mut ledger = ledger();
        note(&mut ledger, REINSTATED, 5, None);
        ledger.daemon_asked();
        ledger.daemon_read(Instant::now());
        note(&mut ledger, FAILED, 4, None);
        assert_eq!(ledger.correction(PATH, ledger.daemon_floor()), None);
        note(&mut ledger, FAILED, 6, None);
        assert_eq!(ledger.correction(PATH, ledger.daemon_floor()), Some(false));
    }

    #[test]
    fn an_event_received_while_a_reading_is_under_way_is_newer() {
        let mut ledger = ledger();
        ledger.daemon_asked();
        note(&mut ledger, FAILED, 1, None);
        ledger.daemon_read(Instant::now());
        assert_eq!(ledger.correction(PATH, ledger.daemon_floor()), Some(false));
    }

    #[test]
    fn a_map_created_anew_counts_from_1_again() {
        let mut ledger = ledger();
        note(&mut ledger, FAILED, 9, Some(7));
        note(&mut ledger, REINSTATED, 1, Some(8));
        assert_eq!(ledger.correction(PATH, 0), Some(true));
        note(&mut ledger, FAILED, 10, Some(7));
        assert_eq!(ledger.correction(PATH, 0), Some(true), "the old map's last event says nothing of the new one");
        assert_eq!(ledger.counts.failed, 2);
    }

    #[test]
    fn readings_of_the_old_map_do_not_hold_for_the_new_one() {
        let mut ledger = ledger();
        ledger.note_diskseq(7, Instant::now());
        ledger.daemon_asked();
        ledger.daemon_read(Instant::now());
        assert!(ledger.has_daemon_reading());
        ledger.note_map(&uevent("add", Some(7), true));
        assert!(ledger.has_daemon_reading(), "udevadm trigger creates nothing");
        ledger.note_map(&uevent("add", Some(8), false));
        assert!(!ledger.has_daemon_reading());
    }

    #[test]
    fn sysfs_may_show_the_new_map_before_the_end_of_the_old_one_is_known() {
        let mut ledger = ledger();
        ledger.kernel_asked();
        ledger.kernel_read(Instant::now(), Instant::now());
        ledger.note_diskseq(8, Instant::now());
        assert!(ledger.has_kernel_reading());
        ledger.note_map(&uevent("remove", Some(7), false));
        assert!(!ledger.has_kernel_reading(), "the reading was about map 7");
        ledger.kernel_read(Instant::now(), Instant::now());
        ledger.note_map(&uevent("remove", Some(7), false));
        assert!(ledger.has_kernel_reading());
    }

    #[test]
    fn without_diskseq_the_uevent_of_the_creation_decides() {
        let mut ledger = ledger();
        note(&mut ledger, FAILED, 9, None);
        ledger.note_map(&uevent("add", None, true));
        assert_eq!(ledger.correction(PATH, 0), Some(false));
        ledger.note_map(&uevent("add", None, false));
        assert_eq!(ledger.correction(PATH, 0), None);
        note(&mut ledger, FAILED, 1, None);
        assert_eq!(ledger.correction(PATH, 0), Some(false));
    }

    #[test]
    fn the_reading_first_and_then_its_uevent_is_one_failure() {
        let mut ledger = ledger();
        let now = Instant::now();
        assert_eq!(ledger.compare(PATH, false, now), Some(now + EVENT_DEADLINE));
        note(&mut ledger, FAILED, 1, None);
        assert_eq!(ledger.settle(PATH, now + EVENT_DEADLINE, SystemTime::now()), None);
        assert_eq!((ledger.counts.failed, ledger.failures(PATH)), (1, 1));
    }

    #[test]
    fn a_failure_without_uevent_is_counted_once_and_late() {
        let mut ledger = ledger();
        let now = Instant::now();
        ledger.compare(PATH, false, now);
        assert_eq!(ledger.settle(PATH, now, SystemTime::now()), None);
        assert_eq!(ledger.settle(PATH, now + EVENT_DEADLINE, SystemTime::now()), Some(FAILED));
        assert_eq!(ledger.compare(PATH, false, now + EVENT_DEADLINE), None);
        assert_eq!(ledger.settle(PATH, now + 3 * EVENT_DEADLINE, SystemTime::now()), None);
        assert_eq!((ledger.counts.failed, ledger.failures(PATH)), (1, 1));
    }

    #[test]
    fn a_failure_that_waits_is_counted_when_the_path_goes() {
        let mut ledger = ledger();
        ledger.compare(PATH, false, Instant::now());
        assert_eq!(ledger.leave(PATH, &path("sdb", "eth1", "1:0:0:1"), false, None, now()), Some(FAILED));
        assert_eq!(ledger.counts.failed, 1);
    }

    #[test]
    fn a_difference_for_only_a_moment_is_not_counted() {
        let mut ledger = ledger();
        let now = Instant::now();
        ledger.compare(PATH, false, now);
        ledger.compare(PATH, true, now + EVENT_DEADLINE / 2);
        assert_eq!(ledger.settle(PATH, now + EVENT_DEADLINE, SystemTime::now()), None);
        assert_eq!(ledger.counts.failed, 0);
    }

    #[test]
    fn a_path_found_failed_at_the_start_has_no_event() {
        let mut ledger = MapLedger::default();
        ledger.ensure_path(PATH, false);
        assert_eq!(ledger.compare(PATH, false, Instant::now()), None);
        assert_eq!(ledger.counts.failed, 0);
    }

    #[test]
    fn a_uevent_that_comes_after_its_change_was_counted_is_not_counted_again() {
        let mut ledger = ledger();
        let now = Instant::now();
        ledger.compare(PATH, false, now);
        assert_eq!(ledger.settle(PATH, now + EVENT_DEADLINE, SystemTime::now()), Some(FAILED));
        note(&mut ledger, FAILED, 1, None);
        assert_eq!((ledger.counts.failed, ledger.failures(PATH)), (1, 1));
        assert_eq!(ledger.compare(PATH, false, now + EVENT_DEADLINE), None);
        note(&mut ledger, REINSTATED, 2, None);
        note(&mut ledger, FAILED, 3, None);
        assert_eq!((ledger.counts.failed, ledger.counts.reinstated, ledger.failures(PATH)), (2, 1, 2));
    }

    #[test]
    fn a_pair_of_lost_uevents_disturbs_no_more_than_the_next_pair() {
        let mut ledger = ledger();
        let mut now = Instant::now();
        let read = |ledger: &mut MapLedger, valid, now: &mut Instant| {
            ledger.compare(PATH, valid, *now);
            *now += EVENT_DEADLINE;
            ledger.settle(PATH, *now, SystemTime::now());
        };
        for valid in [false, true] {
            read(&mut ledger, valid, &mut now);
        }
        // Events 1 and 2 were lost.
        for seqnum in 3..23 {
            let valid = seqnum % 2 == 0;
            note(&mut ledger, if valid { REINSTATED } else { FAILED }, seqnum, None);
            read(&mut ledger, valid, &mut now);
            let (failed, reinstated) = (seqnum.div_ceil(2), seqnum / 2);
            assert_eq!((ledger.counts.failed, ledger.counts.reinstated), (failed, reinstated), "{seqnum}");
            assert!(seqnum < 5 || ledger.paths[&PATH].debts.is_empty(), "{:?}", ledger.paths[&PATH]);
        }
    }

    #[test]
    fn an_event_that_comes_twice_is_counted_once() {
        let mut ledger = ledger();
        for seqnum in [2, 1, 2, 1] {
            note(&mut ledger, if seqnum == 2 { FAILED } else { REINSTATED }, seqnum, Some(7));
        }
        assert_eq!((ledger.counts.failed, ledger.counts.reinstated), (1, 1));
    }

    #[test]
    fn a_uevent_that_never_comes_owes_nothing_to_the_next_failure() {
        let mut ledger = ledger();
        let now = Instant::now();
        ledger.compare(PATH, false, now);
        ledger.settle(PATH, now + EVENT_DEADLINE, SystemTime::now());
        note(&mut ledger, REINSTATED, 2, None);
        note(&mut ledger, FAILED, 3, None);
        assert_eq!((ledger.counts.failed, ledger.counts.reinstated), (2, 1));
    }

    #[test]
    fn an_event_about_a_member_yet_unread_is_not_forgotten_and_a_removed_member_is() {
        let mut ledger = MapLedger::default();
        note(&mut ledger, FAILED, 1, None);
        ledger.forget_strangers(Instant::now(), |_| false);
        assert_eq!(ledger.failures(PATH), 1);
        ledger.leave(PATH, &path("sdb", "eth1", "1:0:0:1"), false, None, now());
        assert_eq!(ledger.failures(PATH), 0);
    }

    #[test]
    fn a_reading_of_some_members_does_not_undo_a_newer_event() {
        let mut ledger = ledger();
        let path = path("sdb", "eth1", "1:0:0:1");
        ledger.block_asked();
        let asked = Instant::now();
        note(&mut ledger, FAILED, 1, Some(7));
        ledger.block_read(asked);
        ledger.leave(PATH, &path, false, Some(asked), now());
        ledger.join(PATH);
        ledger.ensure_path(PATH, true);
        assert_eq!(ledger.correction(PATH, ledger.block_floor()), Some(false));
        assert_eq!((ledger.counts.failed, ledger.failures(PATH)), (1, 1));
        // A reading that was requested after the event knows better.
        ledger.leave(PATH, &path, false, Some(Instant::now() + EVENT_DEADLINE), now());
        assert_eq!((ledger.correction(PATH, 0), ledger.failures(PATH)), (None, 0));
    }

    #[test]
    fn a_failure_is_repeated_once_whether_its_event_or_a_reading_comes_first() {
        let mut ledger = ledger();
        let now = Instant::now();
        // The last two of three events come first, and the first one comes last.
        note(&mut ledger, REINSTATED, 2, Some(7));
        note(&mut ledger, FAILED, 3, Some(7));
        note(&mut ledger, FAILED, 1, Some(7));
        assert_eq!((ledger.counts.failed, ledger.repeated_failures()), (2, 1));
        note(&mut ledger, REINSTATED, 4, Some(7));
        // The reading counts the failure, then its event comes.
        ledger.compare(PATH, false, now);
        ledger.settle(PATH, now + EVENT_DEADLINE, SystemTime::now());
        assert_eq!((ledger.counts.failed, ledger.repeated_failures()), (3, 2));
        note(&mut ledger, FAILED, 5, Some(7));
        note(&mut ledger, FAILED, 5, Some(7));
        assert_eq!((ledger.counts.failed, ledger.repeated_failures()), (3, 2));
    }

    /// The number of repeated failures when a path that has failed before leaves. `before` happens
    /// first.
    fn repeated_after_removal(disk_is_gone: bool, before: impl FnOnce(&mut MapLedger)) -> (u64, u64) {
        let mut ledger = ledger();
        note(&mut ledger, FAILED, 1, Some(7));
        note(&mut ledger, REINSTATED, 2, Some(7));
        before(&mut ledger);
        let version = ledger.version;
        ledger.leave(PATH, &path("sdb", "eth1", "1:0:0:1"), disk_is_gone, None, now());
        assert_eq!(ledger.repeated_failures() > 0, ledger.version > version || ledger.counts.failed > 1);
        (ledger.counts.failed, ledger.repeated_failures())
    }

    #[test]
    fn a_path_that_works_and_leaves_because_its_disk_is_gone_has_failed() {
        assert_eq!(repeated_after_removal(true, |_| ()), (1, 1));
        assert_eq!(repeated_after_removal(false, |_| ()), (1, 0));
        // The path had failed before: by its event, or by a reading that still waits for the event.
        for disk_is_gone in [false, true] {
            assert_eq!(repeated_after_removal(disk_is_gone, |ledger| note(ledger, FAILED, 3, Some(7))), (2, 1));
            let by_reading = |ledger: &mut MapLedger| {
                assert!(ledger.compare(PATH, false, Instant::now()).is_some());
            };
            assert_eq!(repeated_after_removal(disk_is_gone, by_reading), (2, 1));
        }
    }

    #[test]
    fn the_event_of_a_path_that_was_lost_is_of_the_same_outage() {
        let mut ledger = ledger();
        let path = path("sdb", "eth1", "1:0:0:1");
        ledger.leave(PATH, &path, true, None, now());
        note(&mut ledger, FAILED, 1, Some(7));
        ledger.join(PATH);
        ledger.ensure_path(PATH, true);
        ledger.identify(PATH, &path);
        assert_eq!((ledger.counts.failed, ledger.repeated_failures()), (1, 0));
        note(&mut ledger, FAILED, 3, Some(7));
        assert_eq!((ledger.counts.failed, ledger.repeated_failures()), (2, 1));
    }
}
