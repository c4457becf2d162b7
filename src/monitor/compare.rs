//! The differences between two snapshots, as a pure function.

use std::cmp::Ordering;
use std::sync::Arc;

use super::nvme;
use crate::topology::{Device, Path, PathState};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    /// The device as it is now. For a device that is gone: as it was last.
    pub(crate) device: Arc<Device>,
    pub(crate) what: ChangeKind,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ChangeKind {
    /// The device is new. Its paths start as valid: each failed one has a change of its own.
    Added,
    /// The device is gone.
    Removed,
    /// The device has a new member.
    PathAdded(Path),
    /// The device has lost a member.
    PathRemoved(Path),
    /// A member has become failed.
    PathFailed(Path),
    /// A member has stopped being failed.
    PathReinstated(Path),
    /// The device has lost its last valid path although no path has failed.
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
            (Some(old), None) => changes.push(Change { device: Arc::clone(old), what: ChangeKind::Removed }),
            (None, None) => {}
        }
    }
}

fn compare(before: Option<&Device>, now: &Arc<Device>, changes: &mut Vec<Change>) {
    let mut add = |what| changes.push(Change { device: Arc::clone(now), what });
    let old_paths = before.map(|before| before.paths.as_slice()).unwrap_or_default();
    match before {
        None => add(ChangeKind::Added),
        Some(_) => {
            let added = now.paths.iter().filter(|path| find(old_paths, path).is_none());
            added.for_each(|path| add(ChangeKind::PathAdded(path.clone())));
            let removed = old_paths.iter().filter(|path| find(&now.paths, path).is_none());
            removed.for_each(|path| add(ChangeKind::PathRemoved(path.clone())));
        }
    }
    let mut has_failed = false;
    for path in &now.paths {
        let was_failed = find(old_paths, path).is_some_and(|old| old.state == PathState::Failed);
        match (was_failed, path.state == PathState::Failed) {
            // The path is being removed on request. Its removal is reported.
            (false, true) if nvme::is_leaving(path) => has_failed = true,
            (false, true) => {
                has_failed = true;
                add(ChangeKind::PathFailed(path.clone()));
            }
            (true, false) => add(ChangeKind::PathReinstated(path.clone())),
            _ => {}
        }
    }
    let had_valid = before.is_some_and(|before| before.counts().valid > 0);
    if had_valid && now.counts().valid == 0 && !has_failed {
        add(ChangeKind::NoValidPath);
    }
}

/// Finds the same path by its device number, or by its name if it has no number.
fn find<'a>(paths: &'a [Path], path: &Path) -> Option<&'a Path> {
    let same = |other: &&Path| match (other.devno, path.devno) {
        (None, None) => other.name == path.name,
        (one, other) => one == other,
    };
    paths.iter().find(same)
}
