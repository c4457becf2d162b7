//! Waiting for conditions. No other place of the lab lets time pass.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, poll};

/// Longer than any working operation on a shared emulated processor.
pub const PATIENCE: Duration = Duration::from_secs(60);

const INTERVAL: Duration = Duration::from_millis(100);

/// Yields to other processes before the next look.
pub fn pause() {
    let interval = Timespec::try_from(INTERVAL).expect("the interval is a valid time");
    // The call watches nothing. A signal may end it early, and then the next look only comes
    // sooner.
    let _ = poll(&mut [], Some(&interval));
}

/// Calls `probe` until it succeeds. Panics with its last error after `within`.
#[track_caller]
pub fn eventually<T>(what: &str, within: Duration, probe: impl FnMut() -> Result<T, String>) -> T {
    try_eventually(within, probe).unwrap_or_else(|excuse| panic!("not within {within:?}: {what}\n{excuse}"))
}

/// Like [`eventually`], without a panic.
pub fn try_eventually<T>(within: Duration, mut probe: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let start = Instant::now();
    loop {
        match probe() {
            Err(_) if start.elapsed() < within => pause(),
            verdict => return verdict,
        }
    }
}

/// Calls `probe` until it returns `want`. Panics with its last value after [`PATIENCE`].
#[track_caller]
pub fn eventually_eq<T: PartialEq + Debug>(what: &str, want: T, mut probe: impl FnMut() -> T) {
    eventually(what, PATIENCE, || compare(&want, probe()));
}

/// Returns an error that shows both values, if they differ.
pub fn compare<T: PartialEq + Debug>(want: &T, got: T) -> Result<(), String> {
    if got == *want { Ok(()) } else { Err(format!("  last: {got:?}\n  want: {want:?}")) }
}
