//! Paths of one device that fail again soon after a failure.
//!
//! A path may come back as another disk with another name. It is the same path if it connects the
//! same two ports. So the last failure of a path that has left is kept by its ports. The next path
//! between these ports continues from there. Paths that are members at the same time are different
//! paths, even if they share ports.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::topology::Path;
use crate::topology::luns::scsi_target;

/// A failure within this time after the last one is a repeated failure.
const REPEAT_WINDOW: Duration = Duration::from_secs(15 * 60);

/// The property of a path that stays when the path comes back under another name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum PathIdentity {
    /// The initiator port and the target port.
    Ports(Arc<str>, Arc<str>),
    /// The SCSI host, channel and target.
    Target(Box<str>),
    /// The kernel name.
    Name(Arc<str>),
}

impl PathIdentity {
    fn of(path: &Path) -> Self {
        let (initiator, target) = (&path.ports.initiator_port, &path.ports.target_port);
        match scsi_target(&path.hctl) {
            _ if !initiator.is_empty() && !target.is_empty() => {
                PathIdentity::Ports(Arc::clone(initiator), Arc::clone(target))
            }
            Some(target) => PathIdentity::Target(target.into()),
            None => PathIdentity::Name(Arc::clone(&path.name)),
        }
    }
}

/// The failures of one device's paths. `Key` identifies a member.
#[derive(Clone, Debug)]
pub(crate) struct Repeats<Key> {
    count: u64,
    /// Members that have failed or are new.
    members: HashMap<Key, MemberFailures>,
    /// When the paths that have left last failed.
    departed: HashMap<PathIdentity, Instant>,
    /// When the paths were lost whose removal counts as a failure. The event of that failure may
    /// still come.
    lost: HashMap<Key, Instant>,
}

#[derive(Clone, Copy, Debug, Default)]
struct MemberFailures {
    failed: Option<Instant>,
    /// True if the member's ports have not been looked up in `departed` yet.
    is_new: bool,
}

impl<Key> Default for Repeats<Key> {
    fn default() -> Self {
        Repeats { count: 0, members: HashMap::new(), departed: HashMap::new(), lost: HashMap::new() }
    }
}

impl<Key: Clone + Eq + Hash> Repeats<Key> {
    /// Returns the number of failures soon after another failure of the same path.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Records that a path fails.
    pub(crate) fn fail(&mut self, path: Key, now: Instant) {
        self.forget(now);
        if self.lost.remove(&path).is_some() {
            return;
        }
        let member = self.members.entry(path).or_default();
        self.count += u64::from(member.failed.is_some_and(|last| is_soon(last, now)));
        member.failed = member.failed.max(Some(now));
    }

    /// Records that a path becomes a member. Its ports may become known later.
    pub(crate) fn join(&mut self, path: Key) {
        self.lost.remove(&path);
        if !self.departed.is_empty() {
            self.members.entry(path).or_default().is_new = true;
        }
    }

    /// Looks up a new member by what is known about it. It may have failed before that.
    pub(crate) fn identify(&mut self, key: &Key, path: &Path) {
        let Some(member) = self.members.get_mut(key).filter(|member| member.is_new) else { return };
        let identity = PathIdentity::of(path);
        member.is_new = !matches!(identity, PathIdentity::Ports(..));
        let Some(last) = self.departed.get(&identity).copied() else { return };
        member.is_new = false;
        self.count += u64::from(member.failed.is_some_and(|failed| is_soon(last, failed)));
        member.failed = member.failed.max(Some(last));
    }

    /// Records that a working member leaves because its disk is gone, which counts as a failure.
    pub(crate) fn lose(&mut self, key: Key, path: &Path, now: Instant) {
        self.fail(key.clone(), now);
        self.leave(&key, path);
        self.lost.insert(key, now);
    }

    /// Records that a member leaves.
    pub(crate) fn leave(&mut self, key: &Key, path: &Path) {
        let failed = self.members.remove(key).and_then(|member| member.failed);
        if let Some(failed) = failed {
            let last = self.departed.entry(PathIdentity::of(path)).or_insert(failed);
            *last = failed.max(*last);
        }
    }

    /// Forgets failures that are too old to be followed by a repeated one.
    fn forget(&mut self, now: Instant) {
        self.members.retain(|_, member| member.is_new || member.failed.is_some_and(|last| is_soon(last, now)));
        self.departed.retain(|_, last| is_soon(*last, now));
        self.lost.retain(|_, last| is_soon(*last, now));
    }
}

/// Returns true if two failures are close together. Events may come in any order.
fn is_soon(one: Instant, other: Instant) -> bool {
    one.max(other) - one.min(other) <= REPEAT_WINDOW
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::topology::{PathState, Ports, sample};

    const MINUTE: Duration = Duration::from_secs(60);

    /// A path with these ports and this SCSI address.
    pub(crate) fn path(name: &str, initiator_port: &str, hctl: &str) -> Path {
        let target_port = if initiator_port.is_empty() { "" } else { "10.0.0.1:3260" };
        let ports =
            Ports { initiator_port: initiator_port.into(), target: "iqn".into(), target_port: target_port.into() };
        Path { name: name.into(), hctl: hctl.into(), ports, state: PathState::Failed, ..sample::path() }
    }

    #[test]
    fn a_failure_within_fifteen_minutes_after_the_last_one_is_a_repeated_one() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        for (path, minute, count) in [(1, 0, 0), (2, 1, 0), (1, 15, 1), (1, 30, 2), (1, 46, 2), (2, 46, 2), (1, 47, 3)]
        {
            repeats.fail(path, start + minute * MINUTE);
            assert_eq!(repeats.count(), count, "{path} {minute}");
        }
    }

    #[test]
    fn the_order_in_which_failures_arrive_does_not_matter() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        for minute in [1, 0, 16] {
            repeats.fail(1, start + minute * MINUTE);
        }
        assert_eq!(repeats.count(), 2);
    }

    /// Returns how many of two failures are repeated. The path leaves after the first and comes
    /// back as another disk.
    fn after_return(before: &Path, after: &Path) -> u64 {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        repeats.fail(1, start);
        repeats.leave(&1, before);
        repeats.join(2);
        repeats.identify(&2, after);
        repeats.fail(2, start + MINUTE);
        repeats.count()
    }

    #[test]
    fn a_path_that_comes_back_is_known_by_its_ports_then_by_its_target_then_by_its_name() {
        for (before, after, count) in [
            (path("sdb", "eth1", "1:0:0:1"), path("sdf", "eth1", "9:0:0:1"), 1),
            (path("sdb", "eth1", "1:0:0:1"), path("sdb", "eth2", "1:0:0:1"), 0),
            (path("sdb", "", "1:0:0:1"), path("sdf", "", "1:0:0:2"), 1),
            (path("sdb", "", "1:0:0:1"), path("sdb", "", "1:0:1:1"), 0),
            (path("sdb", "", ""), path("sdb", "", ""), 1),
            (path("sdb", "", ""), path("sdc", "", ""), 0),
        ] {
            assert_eq!(after_return(&before, &after), count, "{before:?} {after:?}");
        }
    }

    #[test]
    fn ports_that_are_found_out_late_are_looked_up_then() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        repeats.fail(1, start);
        repeats.leave(&1, &path("sdb", "eth1", "1:0:0:1"));
        repeats.join(2);
        repeats.identify(&2, &path("sdf", "", "9:0:0:1"));
        repeats.fail(2, start + MINUTE);
        assert_eq!(repeats.count(), 0);
        for _ in 0..2 {
            repeats.identify(&2, &path("sdf", "eth1", "9:0:0:1"));
            assert_eq!(repeats.count(), 1);
        }
    }

    #[test]
    fn members_that_share_their_ports_are_different_paths() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let [first, second] = ["sdb", "sdc"].map(|name| path(name, "eth1", "1:0:0:1"));
        for (key, path) in [(1, &first), (2, &second)] {
            repeats.fail(key, start);
            repeats.leave(&key, path);
        }
        assert_eq!(repeats.count(), 0);
        // A third path that has been there all the time.
        repeats.fail(3, start);
        assert_eq!(repeats.count(), 0);
        for key in [4, 5] {
            repeats.join(key);
            repeats.identify(&key, &first);
            repeats.fail(key, start + MINUTE);
        }
        assert_eq!(repeats.count(), 2);
    }

    #[test]
    fn a_path_that_is_lost_has_failed_once_whatever_its_event_says_later() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let path = path("sdb", "eth1", "1:0:0:1");
        for (minute, count) in [(0, 0), (1, 1), (20, 1)] {
            repeats.join(1);
            repeats.identify(&1, &path);
            repeats.lose(1, &path, start + minute * MINUTE);
            repeats.fail(1, start + minute * MINUTE);
            assert_eq!(repeats.count(), count, "{minute}");
        }
    }

    #[test]
    fn failures_too_old_to_matter_are_forgotten() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        for key in 0..100 {
            repeats.fail(key, start);
            let path = path(&format!("sd{key}"), "", "");
            match key % 3 {
                0 => repeats.leave(&key, &path),
                1 => repeats.lose(key, &path, start),
                _ => {}
            }
        }
        repeats.fail(1000, start + 16 * MINUTE);
        assert_eq!((repeats.members.len(), repeats.departed.len(), repeats.lost.len()), (1, 0, 0));
    }
}
