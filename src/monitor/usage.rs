//! Decides if a device is in use, and finds the users that bypass it. The functions depend only on
//! the device's holders and its last writes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::source::block::usage::Usage;
use crate::topology::DirectUse;

/// How long a write shows that a device is in use.
const RECENT_WRITE: Duration = Duration::from_secs(60 * 60);

/// A file system that is unmounted leaves the mount table first, and then writes its data. After
/// this long without a write, that is over.
const QUIET_AFTER_UNMOUNT: Duration = Duration::from_secs(60);

/// The last write of an unknown user to a device, since the exporter started.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LastWrite {
    completed: Option<u64>,
    /// When a mount, swap or holder was last seen, or its remaining writes.
    explained: Option<Instant>,
    last: Option<Instant>,
    /// Since when the device has had no valid path.
    pathless: Option<Instant>,
}

impl LastWrite {
    /// Follows the completed writes of a device. Writes that end without a valid path do not count,
    /// because they have failed. Writes of known users do not count either. Otherwise a file system
    /// would be in use for an hour after it was unmounted.
    pub(crate) fn follow(&mut self, completed: Option<u64>, has_users: bool, has_valid_path: bool, now: Instant) {
        let grew = completed.zip(self.completed).is_some_and(|(now, before)| now > before);
        let is_explained = self.explained.is_some_and(|explained| now < explained + QUIET_AFTER_UNMOUNT);
        if has_users {
            (self.explained, self.last) = (Some(now), None);
        } else if grew && is_explained {
            self.explained = Some(now);
        } else if grew && self.pathless.is_none() {
            self.last = Some(now);
        }
        self.completed = completed.or(self.completed);
        self.pathless = if has_valid_path { None } else { self.pathless.or(Some(now)) };
    }

    /// Returns true if the device was written to in the last hour, or in the hour before its last
    /// valid path went.
    pub(crate) fn is_recent(&self, now: Instant) -> bool {
        let until = self.pathless.unwrap_or(now);
        self.last.is_some_and(|last| until.saturating_duration_since(last) < RECENT_WRITE)
    }
}

/// Returns true if the device with this kernel name is in use, or `None` if that is unknown.
/// `is_held` decides, if it is known. It is true if device mapper counts more holders of the device
/// than its closed partition mappings.
pub(crate) fn in_use(is_held: Option<bool>, name: &str, usage: &Usage, was_written: bool) -> Option<bool> {
    is_held.or_else(|| match usage.users.get(name) {
        Some(users) if !users.is_empty() => Some(true),
        _ if was_written => Some(true),
        Some(_) if usage.mounts_known => Some(false),
        _ => None,
    })
}

/// Returns the users that use these disks directly, beside their multipath device. `disks` gives
/// kernel names and WWIDs. The result is sorted and has no duplicates.
pub(crate) fn used_directly<'a>(usage: &Usage, disks: impl Iterator<Item = (&'a str, &'a Arc<str>)>) -> Vec<DirectUse> {
    if usage.direct.is_empty() {
        return Vec::new();
    }
    let used = disks.filter_map(|(disk, wwid)| Some((disk, wwid, usage.direct.get(disk)?)));
    let used = used.flat_map(|(disk, wwid, kinds)| {
        kinds.iter().map(|by| DirectUse { wwid: Arc::clone(wwid), disk: disk.into(), by: Arc::clone(by) })
    });
    used.collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::block::usage::User;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn device_mapper_decides_then_users_then_writes() {
        let (used, unused) = ("dm-0".to_owned(), "dm-1".to_owned());
        let mount = User::Mount("254:0".parse().unwrap());
        let users = [(used, [mount].into()), (unused, [].into())].into();
        let usage = Usage { mounts_known: true, users, ..Usage::default() };
        let partly = Usage { mounts_known: false, ..usage.clone() };
        for (is_held, name, mounts_known, was_written, expected) in [
            (Some(false), "dm-0", true, true, Some(false)),
            (Some(true), "dm-1", true, false, Some(true)),
            (None, "dm-0", true, false, Some(true)),
            (None, "dm-0", false, false, Some(true)),
            (None, "dm-1", true, false, Some(false)),
            (None, "dm-1", true, true, Some(true)),
            (None, "dm-1", false, false, None),
            (None, "dm-1", false, true, Some(true)),
            // Its holders were not read.
            (None, "dm-2", true, false, None),
            (None, "dm-2", true, true, Some(true)),
        ] {
            let usage = if mounts_known { &usage } else { &partly };
            assert_eq!(in_use(is_held, name, usage, was_written), expected, "{is_held:?} {name} {was_written}");
        }
    }

    #[test]
    fn users_of_disks_are_listed_once_for_each_device_disk_and_kind() {
        let kinds = |kinds: &[&str]| kinds.iter().map(|kind| Arc::from(*kind)).collect();
        let direct = [("sdb".to_owned(), kinds(&["mount", "dm"])), ("sdz".to_owned(), kinds(&["mount"]))].into();
        let usage = Usage { direct, ..Usage::default() };
        let wwids: [Arc<str>; 2] = ["3600b".into(), "3600a".into()];
        let disks = [("sdb", &wwids[0]), ("sdb", &wwids[0]), ("sdb", &wwids[1]), ("sdc", &wwids[1])];
        let used = used_directly(&usage, disks.into_iter());
        let told: Vec<_> = used.iter().map(|one| (&*one.wwid, &*one.disk, &*one.by)).collect();
        let expected = [("3600a", "dm"), ("3600a", "mount"), ("3600b", "dm"), ("3600b", "mount")];
        assert_eq!(told, expected.map(|(wwid, by)| (wwid, "sdb", by)));
        assert_eq!(used_directly(&Usage::default(), disks.into_iter()), []);
    }

    #[test]
    fn a_write_counts_for_an_hour_or_until_the_last_path_is_back() {
        let start = Instant::now();
        let after = |minutes: u32| start + minutes * MINUTE;
        let mut written = LastWrite::default();
        written.follow(Some(7), false, true, start);
        assert!(!written.is_recent(start), "it may have been written to at any time");
        written.follow(Some(8), false, true, after(1));
        written.follow(Some(8), false, true, after(60));
        assert!(written.is_recent(after(60)) && !written.is_recent(after(61)));
        // The last path goes. A count that cannot be read shows nothing.
        written.follow(None, false, false, after(60));
        written.follow(Some(99), false, false, after(90));
        assert!(written.is_recent(after(1000)));
        written.follow(Some(99), false, true, after(1000));
        assert!(!written.is_recent(after(1000)), "those writes failed");
        // Another device has the number.
        written.follow(Some(3), false, true, after(1001));
        assert!(!written.is_recent(after(1001)));
        written.follow(Some(4), false, true, after(1002));
        assert!(written.is_recent(after(1002)));
        // The last path goes an hour after the last write.
        written.follow(Some(4), false, false, after(1062));
        assert!(!written.is_recent(after(1062)));
    }

    #[test]
    fn writes_of_a_mount_end_with_it() {
        let start = Instant::now();
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        let mut written = LastWrite::default();
        written.follow(Some(1), false, true, start);
        written.follow(Some(2), false, true, start);
        assert!(written.is_recent(start), "it is being formatted");
        written.follow(Some(2), true, true, after(1));
        written.follow(Some(3), true, true, after(2));
        assert!(!written.is_recent(after(2)));
        // The file system is unmounted, and its last writes take a while.
        for (completed, seconds) in [(3, 3), (4, 60), (5, 110), (5, 160)] {
            written.follow(Some(completed), false, true, after(seconds));
            assert!(!written.is_recent(after(seconds)), "{seconds}");
        }
        written.follow(Some(6), false, true, after(170));
        assert!(written.is_recent(after(170)), "somebody else writes");
    }
}
