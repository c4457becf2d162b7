//! Disks that are there on several paths, and that no multipath device holds: an installer would show one disk twice, and
//! whoever uses one of them loses it with that path.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::source::block::Candidate;

/// The kernel names of the paths that multipathd knows, in a map or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KnownPaths {
    /// It does not answer, or not that. This holds until it tells.
    CannotTell,
    /// It is yet to be asked.
    NotAsked,
    /// These.
    These(HashSet<String>),
}

/// A disk that no multipath device holds, by each of its paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unassembled {
    /// Its identity.
    pub wwid: Arc<str>,
    /// The kernel names of its paths: two or more.
    pub paths: Vec<Arc<str>>,
}

/// Those of the candidates that have several paths, sorted by WWID.
pub fn with_several_paths(candidates: &[Candidate]) -> Vec<Unassembled> {
    let mut paths: BTreeMap<&Arc<str>, Vec<Arc<str>>> = BTreeMap::new();
    for candidate in candidates {
        paths.entry(&candidate.wwid).or_default().push(Arc::clone(&candidate.name));
    }
    let several = paths.into_iter().filter(|(_, paths)| paths.len() > 1);
    several.map(|(wwid, paths)| Unassembled { wwid: Arc::clone(wwid), paths }).collect()
}

/// How many paths each of them has, by WWID, as far as no map was made of it since, and multipathd does not leave it alone:
/// what its configuration blacklists is not among its paths. Our own configuration may name more to be ignored.
pub fn count<'a>(
    disks: &[Unassembled],
    known: &KnownPaths,
    is_ignored: impl Fn(&str) -> bool,
    members: impl Iterator<Item = (&'a str, Option<&'a str>)>,
) -> Vec<(Arc<str>, usize)> {
    // On nearly every host that is all: there are none.
    if disks.is_empty() {
        return Vec::new();
    }
    let (mut names, mut wwids) = (HashSet::new(), HashSet::new());
    for (name, wwid) in members {
        names.insert(name);
        wwids.extend(wwid);
    }
    let free = disks.iter().filter(|disk| !wwids.contains(&*disk.wwid) && !is_ignored(&disk.wwid));
    let free = free.filter(|disk| !disk.paths.iter().any(|path| names.contains(&**path)));
    let counted = free.map(|disk| {
        let paths = match known {
            KnownPaths::CannotTell => disk.paths.len(),
            KnownPaths::NotAsked => 0,
            KnownPaths::These(known) => disk.paths.iter().filter(|path| known.contains(&***path)).count(),
        };
        (Arc::clone(&disk.wwid), paths)
    });
    counted.filter(|(_, paths)| *paths > 1).collect()
}
