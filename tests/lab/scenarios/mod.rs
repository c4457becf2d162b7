//! The scenarios, each named after what happens to the storage.

mod daemon;
mod healthy;
mod lab_itself;
mod lost_paths;
mod maps;
mod path_failures;
mod queueing;
mod storms;
mod unprivileged;

use crate::guest::Lab;

/// One test.
pub struct Scenario {
    pub name: &'static str,
    pub run: fn(&Lab),
}

impl Scenario {
    const fn new(name: &'static str, run: fn(&Lab)) -> Self {
        Scenario { name, run }
    }
}

/// All of them, in the order in which they run: the longest early, so that all machines are done at the same time.
pub fn all() -> impl Iterator<Item = &'static Scenario> {
    [
        lab_itself::ALL,
        storms::ALL,
        healthy::ALL,
        path_failures::ALL,
        daemon::ALL,
        lost_paths::ALL,
        maps::ALL,
        queueing::ALL,
        unprivileged::ALL,
    ]
    .into_iter()
    .flatten()
}
