//! The differences between two snapshots: a pure comparison.

use std::cmp::Ordering;
use std::sync::Arc;

use super::nvme;
use crate::topology::{Device, Path, PathState};

/// One difference.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    /// The device as it is now; one that is gone as it was.
    pub(crate) device: Arc<Device>,
    /// The change.
    pub(crate) what: What,
}

/// A change of a device.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum What {
    /// It is new. Its paths are born valid: those that are failed have a change of their own.
    Added,
    /// It is gone.
    Removed,
    /// It has a new member.
    PathAdded(Path),
    /// It has lost a member.
    PathRemoved(Path),
    /// A member is failed, and was not.
    PathFailed(Path),
    /// A member was failed, and is not.
    PathReinstated(Path),
    /// It had a valid path and has none, though no path has failed.
    NoValidPath,
}

/// Compares two lists of devices, each sorted by WWID.
pub(crate) fn changes(before: &[Arc<Device>], now: &[Arc<Device>]) -> Vec<Change> {
    let mut changes = Vec::new();
    let (mut before, mut now) = (before.iter().peekable(), now.iter().peekable());
    loop {
        let order = match (before.peek(), now.peek()) {
            (Some(old), Some(new)) => old.wwid.cmp(&new.wwid),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return changes,
        };
        let old = if order.is_le() { before.next() } else { None };
        let new = if order.is_ge() { now.next() } else { None };
        match (old, new) {
            (Some(old), Some(new)) if Arc::ptr_eq(old, new) => {}
            (old, Some(new)) => compare(old.map(|old| &**old), new, &mut changes),
            (Some(old), None) => changes.push(Change { device: Arc::clone(old), what: What::Removed }),
            (None, None) => {}
        }
    }
}

fn compare(before: Option<&Device>, now: &Arc<Device>, changes: &mut Vec<Change>) {
    let mut add = |what| changes.push(Change { device: Arc::clone(now), what });
    let old_paths = before.map(|before| before.paths.as_slice()).unwrap_or_default();
    match before {
        None => add(What::Added),
        Some(_) => {
            let added = now.paths.iter().filter(|path| find(old_paths, path).is_none());
            added.for_each(|path| add(What::PathAdded(path.clone())));
            let removed = old_paths.iter().filter(|path| find(&now.paths, path).is_none());
            removed.for_each(|path| add(What::PathRemoved(path.clone())));
        }
    }
    let mut has_failed = false;
    for path in &now.paths {
        let was_failed = find(old_paths, path).is_some_and(|old| old.state == PathState::Failed);
        match (was_failed, path.state == PathState::Failed) {
            // It goes by order, and its removal is told.
            (false, true) if nvme::is_leaving(path) => has_failed = true,
            (false, true) => {
                has_failed = true;
                add(What::PathFailed(path.clone()));
            }
            (true, false) => add(What::PathReinstated(path.clone())),
            _ => {}
        }
    }
    let had_valid = before.is_some_and(|before| before.counts().valid > 0);
    if had_valid && now.counts().valid == 0 && !has_failed {
        add(What::NoValidPath);
    }
}

/// A path is the same by its device number; where it has none, by its name.
fn find<'a>(paths: &'a [Path], path: &Path) -> Option<&'a Path> {
    let same = |other: &&Path| match (other.devno, path.devno) {
        (None, None) => other.name == path.name,
        (one, other) => one == other,
    };
    paths.iter().find(same)
}
