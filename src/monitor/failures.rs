//! Failures of iSCSI sessions and NVMe controllers, counted by the ports between which they go.
//!
//! A failure is a difference between two readings, so one that ends before the next reading is not
//! seen. Only controllers have a count of the kernel's own, which includes such failures
//! (`diag/reset_count`, Linux 7.2). A new login or connection is another object with the same
//! ports, so the count continues.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::io_errors::growth;
use crate::topology::{Failures, IscsiSession, NvmeController, Ports};

/// A session that logs out goes before it has been [`Standing::Unclear`] for this long. By then the
/// kernel has removed its disks, and only removes the session's own objects.
const LOGOUT_DEADLINE: Duration = Duration::from_secs(2);

/// How long failures are kept for ports without an object. The alerts on flapping look back 15
/// minutes. So for them it makes no difference if a count continues after this time or restarts at
/// 0.
const COUNT_RETENTION: Duration = Duration::from_secs(60 * 60);

/// How many counts are kept for ports without an object. A host has far fewer sessions and
/// controllers.
const MOST_KEPT_COUNTS: usize = if cfg!(test) { 4 } else { 10_000 };

/// The condition of a session or controller in a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It carries I/O.
    Works,
    Failed,
    /// It is being ended on request, however long that takes.
    Ending,
    /// It has failed, or it is being ended on request. If it returns or stays, it has failed.
    Unclear,
}

impl Standing {
    /// Returns the standing of a session. Its state becomes `FAILED` when its connection is lost,
    /// and `FREE` after `replacement_timeout` (`session_recovery_timedout`). During a logout it
    /// stays `LOGGED_IN` until `iscsi_remove_session` makes it `FREE` and removes it
    /// (`drivers/scsi/scsi_transport_iscsi.c` of the kernel). Only Linux 6.2 and later stable
    /// kernels show that a session is ending.
    pub(crate) fn of_session(session: &IscsiSession) -> Self {
        match &*session.state {
            _ if session.is_logged_in() => Standing::Works,
            _ if session.is_ending => Standing::Ending,
            "FREE" => Standing::Unclear,
            _ => Standing::Failed,
        }
    }

    /// Returns the standing of a controller. A controller that the kernel gives up has failed
    /// before the kernel removes it.
    pub(crate) fn of_controller(controller: &NvmeController) -> Self {
        match controller {
            _ if controller.is_live() => Standing::Works,
            _ if controller.is_deleted() => Standing::Ending,
            _ => Standing::Failed,
        }
    }
}

/// The exporter's knowledge about an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Works,
    /// It worked until this moment, and has been unclear since.
    Unclear(Instant),
    /// Its failure is counted, or it has not failed.
    Down,
}

impl Condition {
    /// Returns the knowledge after a reading that began at `now`, and true if the object has failed
    /// since the last reading.
    fn after(self, standing: Standing, now: Instant) -> (Condition, bool) {
        match (standing, self) {
            (Standing::Works, _) => (Condition::Works, matches!(self, Condition::Unclear(_))),
            (Standing::Failed, _) => (Condition::Down, self != Condition::Down),
            (Standing::Ending, _) | (Standing::Unclear, Condition::Down) => (Condition::Down, false),
            (Standing::Unclear, Condition::Works) => (Condition::Unclear(now), false),
            (Standing::Unclear, Condition::Unclear(since)) if now < since + LOGOUT_DEADLINE => (self, false),
            (Standing::Unclear, Condition::Unclear(_)) => (Condition::Down, true),
        }
    }
}

/// A session or controller as a reading shows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionOrController<'a> {
    /// The kernel's name.
    pub(crate) name: &'a Arc<str>,
    /// Distinguishes the object from an earlier one with the same name.
    pub(crate) instance: u64,
    /// The ports between which it goes.
    pub(crate) ports: &'a Ports,
    pub(crate) standing: Standing,
    /// How often it was reset according to the kernel. `None` if the kernel does not count resets.
    pub(crate) resets: Option<u64>,
}

impl<'a> SessionOrController<'a> {
    /// Creates the object of a session. The kernel never reuses a session's name
    /// (`iscsi_session_nr` in `drivers/scsi/scsi_transport_iscsi.c`).
    pub(crate) fn session(session: &'a IscsiSession) -> Self {
        let (name, ports, standing) = (&session.name, &session.ports, Standing::of_session(session));
        SessionOrController { name, instance: 0, ports, standing, resets: None }
    }

    pub(crate) fn controller(controller: &'a NvmeController) -> Self {
        let NvmeController { name, instance, ports, resets, .. } = controller;
        SessionOrController {
            name,
            instance: *instance,
            ports,
            standing: Standing::of_controller(controller),
            resets: *resets,
        }
    }
}

#[derive(Debug)]
struct FailureCount {
    failures: u64,
    /// When an object last had these ports.
    seen: Instant,
}

/// An object since its first reading.
#[derive(Clone, Copy, Debug)]
struct Tracked {
    condition: Condition,
    /// The failures that its standing has shown.
    falls: u64,
    /// The kernel's own count, and how much it has grown.
    resets: Option<u64>,
    growth: u64,
}

impl Tracked {
    const NEW: Tracked = Tracked { condition: Condition::Down, falls: 0, resets: None, growth: 0 };

    /// Returns the object after a reading that began at `now`.
    fn after(self, standing: Standing, resets: Option<u64>, now: Instant) -> Self {
        let (condition, has_failed) = self.condition.after(standing, now);
        let growth = self.resets.map_or(0, |last| growth(Some(last), resets));
        Tracked {
            condition,
            falls: self.falls + u64::from(has_failed),
            resets: resets.or(self.resets),
            growth: self.growth.saturating_add(growth),
        }
    }

    /// Returns the number of failures. Both counts are about the same failures.
    fn failures(&self) -> u64 {
        self.falls.max(self.growth)
    }
}

/// Counts failures from reading to reading.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// The objects of the last reading, by kernel name and instance.
    known: HashMap<(Arc<str>, u64), Tracked>,
    counts: BTreeMap<Ports, FailureCount>,
    present: Arc<Failures>,
}

impl Tally {
    /// Takes a reading of all objects, which began at `now`.
    pub(crate) fn follow<'a>(&mut self, objects: impl Iterator<Item = SessionOrController<'a>>, now: Instant) {
        let (mut known, mut present) = (HashMap::new(), Failures::new());
        for SessionOrController { name, instance, ports, standing, resets } in objects {
            let object = (Arc::clone(name), instance);
            let before = self.known.get(&object).copied().unwrap_or(Tracked::NEW);
            let after = before.after(standing, resets, now);
            known.insert(object, after);
            let count = match self.counts.get_mut(ports) {
                Some(count) => count,
                None => self.counts.entry(ports.clone()).or_insert(FailureCount { failures: 0, seen: now }),
            };
            count.seen = now;
            count.failures = count.failures.saturating_add(after.failures() - before.failures());
            present.insert(ports.clone(), count.failures);
        }
        self.known = known;
        self.forget_all_but(&present, now);
        if *self.present != present {
            self.present = Arc::new(present);
        }
    }

    /// Drops old counts. Otherwise each address that a host has ever connected to would keep one.
    fn forget_all_but(&mut self, present: &Failures, now: Instant) {
        let is_kept =
            |count: &FailureCount| count.failures > 0 && now.saturating_duration_since(count.seen) < COUNT_RETENTION;
        self.counts.retain(|ports, count| present.contains_key(ports) || is_kept(count));
        let absent = self.counts.iter().filter(|(ports, _)| !present.contains_key(*ports));
        let mut times: Vec<Instant> = absent.map(|(_, count)| count.seen).collect();
        if let Some(excess) = times.len().checked_sub(MOST_KEPT_COUNTS + 1) {
            let (_, limit, _) = times.select_nth_unstable(excess);
            let limit = *limit;
            self.counts.retain(|ports, count| present.contains_key(ports) || count.seen > limit);
        }
    }

    /// Returns the failures for each pair of ports that an object of the last reading has.
    pub(crate) fn present(&self) -> &Arc<Failures> {
        &self.present
    }
}

#[cfg(test)]
mod tests {
    use super::Standing::{Ending, Failed, Unclear, Works};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ports(port: &str) -> Ports {
        Ports { initiator_port: "eth1".into(), target: "iqn.2003-01.org.example:a".into(), target_port: port.into() }
    }

    /// The counts after each reading. There is one reading per second.
    fn counts(readings: &[&[(&str, &str, Standing)]]) -> Vec<Vec<u64>> {
        let (mut tally, mut now) = (Tally::default(), Instant::now());
        let mut take = |reading: &&[(&str, &str, Standing)]| {
            let objects: Vec<(Arc<str>, Ports, Standing)> =
                reading.iter().map(|(name, port, standing)| ((*name).into(), ports(port), *standing)).collect();
            let of = |(name, ports, standing)| SessionOrController { name, instance: 0, ports, standing, resets: None };
            tally.follow(objects.iter().map(|(name, ports, standing)| of((name, ports, *standing))), now);
            now += SECOND;
            tally.present().values().copied().collect()
        };
        readings.iter().map(&mut take).collect()
    }

    /// The count of one session after each reading.
    fn count(standings: &[Standing]) -> Vec<u64> {
        let readings: Vec<_> = standings.iter().map(|standing| [("session1", "1", *standing)]).collect();
        let readings: Vec<&[_]> = readings.iter().map(|reading| &reading[..]).collect();
        counts(&readings).concat()
    }

    #[test]
    fn each_fall_counts_once() {
        assert_eq!(count(&[Works, Failed, Failed, Works, Failed]), [0, 1, 1, 1, 2]);
        // The kernel stops waiting for the session.
        assert_eq!(count(&[Works, Failed, Unclear, Unclear, Unclear, Unclear, Works]), [0, 1, 1, 1, 1, 1, 1]);
    }

    #[test]
    fn an_end_that_does_not_come_or_is_taken_back_was_a_fall() {
        assert_eq!(count(&[Works, Unclear, Unclear, Unclear, Unclear, Works]), [0, 0, 0, 1, 1, 1]);
        assert_eq!(count(&[Works, Unclear, Works, Works, Unclear, Works]), [0, 0, 1, 1, 1, 2]);
        assert_eq!(count(&[Works, Unclear, Failed, Unclear, Works]), [0, 0, 1, 1, 1]);
    }

    #[test]
    fn an_object_found_failed_or_ended_on_request_is_no_failure() {
        assert_eq!(count(&[Failed, Unclear, Unclear, Unclear, Works]), [0; 5]);
        // The kernel creates a session in this state.
        assert_eq!(count(&[Unclear, Unclear, Unclear, Works]), [0; 4]);
        assert_eq!(count(&[Works, Ending, Ending, Ending, Ending, Failed]), [0; 6]);
        for last in [Unclear, Ending] {
            let readings: [&[_]; 3] = [&[("session1", "1", Works)], &[("session1", "1", last)], &[]];
            assert_eq!(counts(&readings), [vec![0], vec![0], vec![]]);
            let again: &[_] = &[("session2", "1", Works)];
            assert_eq!(counts(&[&readings[..], &[again]].concat()).last(), Some(&vec![0]));
        }
    }

    #[test]
    fn readings_in_quick_succession_do_not_make_a_fall_of_a_logout() {
        let (mut tally, now, name, ports) = (Tally::default(), Instant::now(), Arc::from("session1"), ports("1"));
        let mut at = |after: Duration, standing| {
            let object = SessionOrController { name: &name, instance: 0, ports: &ports, standing, resets: None };
            tally.follow([object].into_iter(), now + after);
            tally.present()[&ports]
        };
        assert_eq!(at(Duration::ZERO, Works), 0);
        for millisecond in 1..100 {
            assert_eq!(at(Duration::from_millis(millisecond), Unclear), 0);
        }
    }

    #[test]
    fn twins_share_a_count_and_a_successor_goes_on() {
        let readings: [&[_]; 4] = [
            &[("session1", "1", Works), ("session2", "1", Works)],
            &[("session1", "1", Failed), ("session2", "1", Failed)],
            &[],
            &[("session3", "1", Works)],
        ];
        assert_eq!(counts(&readings), [vec![0], vec![2], vec![], vec![2]]);
    }

    #[test]
    fn an_object_that_got_the_name_of_another_has_not_failed_with_it() {
        let (mut tally, now, name, ports) = (Tally::default(), Instant::now(), Arc::from("nvme3"), ports("1"));
        let mut at = |second, instance, standing| {
            let object = SessionOrController { name: &name, instance, ports: &ports, standing, resets: None };
            tally.follow([object].into_iter(), now + SECOND * second);
            tally.present()[&ports]
        };
        assert_eq!((at(0, 1, Works), at(1, 2, Failed), at(2, 2, Works), at(3, 2, Failed)), (0, 0, 0, 1));
    }

    #[test]
    fn failures_between_two_readings_are_those_that_the_kernel_counts() {
        let (mut tally, mut now, name, ports) = (Tally::default(), Instant::now(), Arc::from("nvme3"), ports("1"));
        let mut after = |standing, resets| {
            now += SECOND;
            tally.follow(
                [SessionOrController { name: &name, instance: 1, ports: &ports, standing, resets }].into_iter(),
                now,
            );
            tally.present()[&ports]
        };
        // Resets before the first reading do not count.
        assert_eq!(after(Works, Some(7)), 0);
        assert_eq!(after(Works, Some(9)), 2);
        assert_eq!(after(Failed, Some(10)), 3);
        assert_eq!(after(Works, Some(10)), 3);
        // The two files are read one after the other.
        assert_eq!((after(Works, Some(11)), after(Failed, Some(11))), (4, 4));
        assert_eq!(after(Works, None), 4);
        // Root has set the count to 0.
        assert_eq!((after(Works, Some(0)), after(Works, Some(1))), (4, 5));
    }

    /// Returns a tally after one failure at each of these ports, one per second, and the last
    /// second.
    fn failed_at(ports_of: &[&str]) -> (Tally, Instant) {
        let (mut tally, mut now, name) = (Tally::default(), Instant::now(), Arc::from("session1"));
        for port in ports_of {
            now += SECOND;
            for standing in [Works, Failed] {
                let object =
                    SessionOrController { name: &name, instance: 0, ports: &ports(port), standing, resets: None };
                tally.follow([object].into_iter(), now);
            }
        }
        (tally, now)
    }

    #[test]
    fn failures_at_ports_without_an_object_are_forgotten_after_an_hour() {
        for (later, expected) in [(COUNT_RETENTION - SECOND, 1), (COUNT_RETENTION, 0)] {
            let (mut tally, now) = failed_at(&["1"]);
            tally.follow([].into_iter(), now + later);
            assert_eq!(tally.counts.len(), expected, "{later:?}");
        }
    }

    #[test]
    fn ports_without_an_object_are_kept_only_with_failures_and_the_latest_of_them() {
        let (name, new) = (Arc::from("session2"), ports("9"));
        let (mut tally, now) = failed_at(&["1", "2", "3", "4", "5", "6"]);
        let object = SessionOrController { name: &name, instance: 0, ports: &new, standing: Works, resets: None };
        tally.follow([object].into_iter(), now);
        let kept = |tally: &Tally| tally.counts.keys().map(|ports| ports.target_port.to_string()).collect::<String>();
        assert_eq!(kept(&tally), "34569");
        tally.follow([].into_iter(), now);
        assert_eq!(kept(&tally), "3456");
    }
}
