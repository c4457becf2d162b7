//! The numbers of paths that a device has had, and the times at which it was redundant. The memory
//! expects a number of paths, or redundancy, only after it has held for [`PROOF_TIME`]. Before any
//! number has held that long, it expects the highest one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::clock::Moment;

/// A fact that held this long without a break is expected to hold.
pub(crate) const PROOF_TIME: Duration = Duration::from_secs(6 * 60 * 60);

/// The numbers of paths that a device has had.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct PathHistory {
    /// The device has had at least this many paths since this moment, without a break. Counts and
    /// moments ascend.
    running: Vec<(u32, Moment)>,
    /// The device had at least this many paths for [`PROOF_TIME`], and still had them at this
    /// moment. Counts descend, moments ascend.
    proven: Vec<(u32, Moment)>,
    /// The device last had at least this many paths at this moment. Counts descend, moments ascend.
    had: Vec<(u32, Moment)>,
}

impl PathHistory {
    /// Records that the device has this many paths now, or 0 if it is gone.
    pub(crate) fn note(&mut self, paths: u32, now: Moment) {
        let mut since = now;
        while let Some((number, began)) = self.running.pop_if(|(number, _)| *number > paths) {
            since = began;
            keep(&mut self.had, number, now);
            if now.since(began) >= PROOF_TIME {
                keep(&mut self.proven, number, now);
            }
        }
        if self.running.last().is_none_or(|(number, _)| *number < paths) && paths > 0 {
            self.running.push((paths, since));
        }
        keep(&mut self.had, paths, now);
    }

    /// Returns the highest count that the device had for [`PROOF_TIME`] within the window. If there
    /// is none, returns the highest count of all.
    pub(crate) fn expected(&self, now: Moment, window: Duration) -> u32 {
        let is_recent = |(_, until): &&(u32, Moment)| now.since(*until) <= window;
        let proven = self.proven.iter().find(is_recent);
        let running = self.running.iter().rev().find(|(_, since)| now.since(*since) >= PROOF_TIME);
        let expected = proven.into_iter().chain(running).map(|(number, _)| *number).max();
        let had = self.had.iter().find(is_recent).into_iter().chain(self.running.last());
        expected.or(had.map(|(number, _)| *number).max()).unwrap_or_default()
    }

    /// Forgets everything older than `moment`.
    pub(crate) fn forget_before(&mut self, moment: Moment) {
        self.proven.retain(|(_, until)| *until >= moment);
        self.had.retain(|(_, until)| *until >= moment);
        self.running.iter_mut().for_each(|(_, since)| *since = (*since).max(moment));
    }

    /// Forgets everything that ended before the window.
    pub(crate) fn expire(&mut self, now: Moment, window: Duration) {
        self.proven.retain(|(_, until)| now.since(*until) <= window);
        self.had.retain(|(_, until)| now.since(*until) <= window);
    }
}

/// Adds a count that the device had until now. A higher count includes all lower ones.
fn keep(numbers: &mut Vec<(u32, Moment)>, number: u32, now: Moment) {
    if numbers.last().is_some_and(|(known, until)| *known >= number && *until >= now) {
        return;
    }
    while numbers.pop_if(|(known, _)| *known <= number).is_some() {}
    numbers.push((number, now));
}

/// A condition that holds or does not hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Streak {
    since: Option<Moment>,
    /// When the condition had last held for [`PROOF_TIME`].
    proven: Option<Moment>,
}

impl Streak {
    /// Records whether the condition holds now.
    pub(crate) fn note(&mut self, holds: bool, now: Moment) {
        if holds {
            self.since.get_or_insert(now);
        } else if self.since.take().is_some_and(|since| now.since(since) >= PROOF_TIME) {
            self.proven = Some(now);
        }
    }

    /// Returns true if the condition held for [`PROOF_TIME`] within the window.
    pub(crate) fn is_proven(&self, now: Moment, window: Duration) -> bool {
        self.since.is_some_and(|since| now.since(since) >= PROOF_TIME)
            || self.proven.is_some_and(|until| now.since(until) <= window)
    }

    /// Forgets everything older than `moment`.
    pub(crate) fn forget_before(&mut self, moment: Moment) {
        self.proven = self.proven.filter(|until| *until >= moment);
        self.since = self.since.map(|since| since.max(moment));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);
    const WINDOW: Duration = Duration::from_secs(7 * 24 * 3600);

    fn at(hours: f64) -> Moment {
        Moment::default() + HOUR.mul_f64(hours)
    }

    /// The expected number of paths at `hour`, if the device has each number of paths from its hour
    /// on.
    fn expected(changes: &[(f64, u32)], hour: f64) -> u32 {
        let mut history = PathHistory::default();
        changes.iter().for_each(|(hour, paths)| history.note(*paths, at(*hour)));
        history.expected(at(hour), WINDOW)
    }

    #[test]
    fn paths_that_should_be_there() {
        for (changes, hour, paths) in [
            // Known for less time than the proof takes: the highest count so far.
            (&[(0.0, 4)][..], 0.0, 4),
            (&[(0.0, 2), (0.1, 4), (0.2, 3)], 5.9, 4),
            (&[(0.0, 4)], 6.0, 4),
            // Four more for an hour.
            (&[(0.0, 4), (10.0, 8), (11.0, 4)], 11.0, 4),
            (&[(0.0, 4), (10.0, 8)], 15.9, 4),
            (&[(0.0, 4), (10.0, 8)], 16.0, 8),
            // Four fewer count as missing until the window ends.
            (&[(0.0, 8), (10.0, 4)], 177.9, 8),
            (&[(0.0, 8), (10.0, 4)], 178.1, 4),
            // The count passes through a number between the two.
            (&[(0.0, 4), (4.0, 8), (8.0, 6), (9.0, 4)], 10.0, 4),
            (&[(0.0, 4), (4.0, 8), (8.0, 6), (11.0, 4)], 12.0, 6),
            // The higher count decides, although the device had the lower one later.
            (&[(0.0, 8), (10.0, 4), (20.0, 2)], 21.0, 8),
            (&[(0.0, 8), (10.0, 4), (20.0, 2)], 179.0, 4),
            // Gone and back.
            (&[(0.0, 8), (10.0, 0), (20.0, 4)], 21.0, 8),
            // No count has held for long enough.
            (&[(0.0, 8), (3.0, 0), (3.1, 4)], 7.0, 8),
            (&[(0.0, 8), (3.0, 0), (3.1, 4)], 9.2, 4),
        ] {
            assert_eq!(expected(changes, hour), paths, "{changes:?} at {hour}");
        }
    }

    #[test]
    fn the_past_before_a_moment_can_be_forgotten() {
        let mut history = PathHistory::default();
        history.note(8, at(0.0));
        history.note(4, at(10.0));
        assert_eq!(history.expected(at(20.0), WINDOW), 8);
        history.forget_before(at(15.0));
        assert_eq!(history.expected(at(20.0), WINDOW), 4);
        let mut streak = Streak::default();
        streak.note(true, at(0.0));
        streak.note(false, at(10.0));
        assert!(streak.is_proven(at(20.0), WINDOW));
        streak.forget_before(at(15.0));
        assert!(!streak.is_proven(at(20.0), WINDOW));
    }

    #[test]
    fn a_condition_that_held() {
        let mut streak = Streak::default();
        streak.note(true, at(0.0));
        assert!(!streak.is_proven(at(5.9), WINDOW) && streak.is_proven(at(6.0), WINDOW));
        streak.note(false, at(7.0));
        assert!(streak.is_proven(at(7.0) + WINDOW, WINDOW) && !streak.is_proven(at(7.1) + WINDOW, WINDOW));
        let mut broken = Streak::default();
        for (hour, holds) in [(0.0, true), (5.0, false), (5.1, true), (10.0, false)] {
            broken.note(holds, at(hour));
        }
        assert!(!broken.is_proven(at(12.0), WINDOW));
    }

    /// The definition, minute by minute. It proves a count at each minute that ends six hours with
    /// at least this many paths. `late` shifts the edges by minutes.
    fn by_definition(minutes: &[u32], window: usize, late: usize) -> u32 {
        let proof = (PROOF_TIME.as_secs() / 60) as usize;
        let first = minutes.len().saturating_sub(window + 1);
        let ends = first.max(proof)..=minutes.len() - 1 + late;
        let proven = ends.filter_map(|end| minutes.get(end - proof..end)?.iter().min()).copied().max();
        proven.filter(|paths| *paths > 0).unwrap_or_else(|| minutes[first..].iter().copied().max().unwrap_or_default())
    }

    proptest! {
        #[test]
        fn the_history_follows_the_definition(
            changes in proptest::collection::vec((1usize..700, 0u32..5), 1..12),
            window in 400usize..2000,
        ) {
            let (mut history, mut minutes) = (PathHistory::default(), Vec::new());
            let length = MINUTE * window as u32;
            for (length_of_it, paths) in changes {
                let mut now = Moment::default() + MINUTE * minutes.len() as u32;
                for _ in 0..length_of_it {
                    history.note(paths, now);
                    now = now + MINUTE;
                    minutes.push(paths);
                }
                let now = Moment::default() + MINUTE * (minutes.len() as u32 - 1);
                let expected = history.expected(now, length);
                let edges = [(window, 0), (window, 1), (window + 1, 0), (window + 1, 1)];
                let defined = edges.map(|(window, late)| by_definition(&minutes, window, late));
                prop_assert!(defined.contains(&expected), "{expected}, {defined:?}");
            }
        }
    }
}
