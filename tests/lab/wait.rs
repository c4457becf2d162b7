//! Waiting for conditions: the only place where the lab lets time pass.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, poll};

/// Long enough for anything that works, on an emulated processor that is shared.
pub const PATIENCE: Duration = Duration::from_secs(60);

const INTERVAL: Duration = Duration::from_millis(100);

/// Gives way to others until it is worth looking again.
pub fn pause() {
    let interval = Timespec::try_from(INTERVAL).expect("the interval is a valid time");
    // Nothing to watch: a timeout that a signal may cut short, which only makes the next look come earlier.
    let _ = poll(&mut [], Some(&interval));
}

/// Looks until `probe` answers, and fails with its last excuse after `within`.
#[track_caller]
pub fn eventually<T>(what: &str, within: Duration, probe: impl FnMut() -> Result<T, String>) -> T {
    try_eventually(within, probe).unwrap_or_else(|excuse| panic!("not within {within:?}: {what}\n{excuse}"))
}

/// As [`eventually`], for where a panic has no place.
pub fn try_eventually<T>(within: Duration, mut probe: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let start = Instant::now();
    loop {
        match probe() {
            Err(_) if start.elapsed() < within => pause(),
            verdict => return verdict,
        }
    }
}

/// Looks until `probe` gives `want`, and fails with what it gave last after [`PATIENCE`].
#[track_caller]
pub fn eventually_eq<T: PartialEq + Debug>(what: &str, want: T, mut probe: impl FnMut() -> T) {
    eventually(what, PATIENCE, || match probe() {
        got if got == want => Ok(()),
        got => Err(format!("  last: {got:?}\n  want: {want:?}")),
    });
}
