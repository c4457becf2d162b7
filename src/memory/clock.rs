//! The memory's own clock. It continues across restarts, and no program can set it.
//!
//! Within one boot of the host, it follows the kernel's uptime. Between two boots, it has to rely
//! on the wall clock, which may be wrong by years until a time server is reached. So that gap
//! counts as one day at most, and as the present uptime at least.

use std::fs;
use std::ops::Add;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

/// The longest gap between two boots that counts.
const LONGEST_GAP: Duration = Duration::from_secs(24 * 60 * 60);

/// A moment by the memory's clock, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(transparent)]
pub(crate) struct Moment(u64);

impl Moment {
    /// Returns the time that has passed since `earlier`, or zero if `earlier` is in the future.
    pub(crate) fn since(self, earlier: Moment) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Returns the moment that was `ago` earlier, but not one before the clock's start.
    pub(crate) fn before(self, ago: Duration) -> Moment {
        Moment(self.0.saturating_sub(millis(ago)))
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, later: Duration) -> Moment {
        Moment(self.0.saturating_add(millis(later)))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The present moment, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For measuring.
    pub(crate) instant: Instant,
    /// For showing.
    pub(crate) time: SystemTime,
}

impl Now {
    /// Reads both clocks.
    pub fn get() -> Self {
        Now { instant: Instant::now(), time: SystemTime::now() }
    }
}

/// One boot of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Boot {
    /// The kernel's `boot_id`, or empty if it cannot be read.
    pub(crate) id: String,
    /// The host's uptime when this was read.
    pub(crate) uptime: Duration,
}

/// The assumed uptime of a host whose uptime cannot be read.
const ASSUMED_UPTIME: Duration = Duration::from_secs(24 * 60 * 60);

impl Default for Boot {
    fn default() -> Self {
        Boot { id: String::new(), uptime: ASSUMED_UPTIME }
    }
}

impl Boot {
    /// Reads the present boot from `sys/kernel/random/boot_id` and `uptime` (`proc(5)`).
    pub(crate) fn read(procfs: &Path) -> Self {
        let read = |file| fs::read_to_string(procfs.join(file)).unwrap_or_default();
        let seconds = read("uptime").split_whitespace().next().and_then(|seconds| seconds.parse().ok());
        let uptime = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        Boot { id: read("sys/kernel/random/boot_id").trim().to_owned(), uptime: uptime.unwrap_or(ASSUMED_UPTIME) }
    }
}

/// When a memory was written, as recorded in it.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    /// By the memory's own clock.
    pub(crate) clock: Moment,
    /// By the wall clock.
    pub(crate) time: SystemTime,
    /// The boot, with the uptime at that time.
    pub(crate) boot: Boot,
}

#[derive(Clone, Debug)]
pub(crate) struct Clock {
    started: Instant,
    at_start: Moment,
    boot: Boot,
}

impl Clock {
    /// Creates a clock that began with this boot of the host.
    pub(crate) fn new(boot: Boot, now: Instant) -> Self {
        Clock { started: now, at_start: Moment::default() + boot.uptime, boot }
    }

    /// Continues the clock of a memory that was written earlier.
    pub(crate) fn resumed(&self, written: &Written, time: SystemTime) -> Self {
        let gap = if self.is_of_boot(&written.boot.id) {
            self.boot.uptime.saturating_sub(written.boot.uptime)
        } else {
            let gap = time.duration_since(written.time).unwrap_or_default();
            gap.min(LONGEST_GAP).max(self.boot.uptime)
        };
        Clock { at_start: written.clock + gap, ..self.clone() }
    }

    /// Returns true if the host has not rebooted since the boot with this `boot_id`.
    pub(crate) fn is_of_boot(&self, id: &str) -> bool {
        !id.is_empty() && self.boot.id == id
    }

    pub(crate) fn boot_id(&self) -> &str {
        &self.boot.id
    }

    pub(crate) fn at(&self, now: Instant) -> Moment {
        self.at_start + now.saturating_duration_since(self.started)
    }

    /// Returns the host's uptime at a moment of the present boot.
    pub(crate) fn uptime_at(&self, moment: Moment) -> Duration {
        self.boot.uptime + moment.since(self.at_start)
    }

    /// Returns the host's uptime now.
    pub(crate) fn uptime(&self, now: Instant) -> Duration {
        self.boot.uptime + now.saturating_duration_since(self.started)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn boot(id: &str, uptime: Duration) -> Boot {
        Boot { id: id.to_owned(), uptime }
    }

    #[test]
    fn the_gap_between_two_lives() {
        let (instant, time) = (Instant::now(), SystemTime::UNIX_EPOCH + 1_000_000 * HOUR);
        let written = Written { clock: Moment::default() + HOUR, time, boot: boot("a", 5 * HOUR) };
        for (now, wall, gap) in [
            // The same boot: the wall clock does not matter.
            (boot("a", 7 * HOUR), time, 2 * HOUR),
            (boot("a", 7 * HOUR), time - 900_000 * HOUR, 2 * HOUR),
            (boot("a", 7 * HOUR), time + 900_000 * HOUR, 2 * HOUR),
            (boot("a", 4 * HOUR), time, Duration::ZERO),
            // Another boot.
            (boot("b", HOUR), time + 3 * HOUR, 3 * HOUR),
            (boot("b", HOUR), time - 3 * HOUR, HOUR),
            (boot("b", HOUR), time + 900_000 * HOUR, 24 * HOUR),
            (boot("b", 48 * HOUR), time + 3 * HOUR, 48 * HOUR),
            // A kernel that does not give its `boot_id`.
            (boot("", 7 * HOUR), time + 8 * HOUR, 8 * HOUR),
        ] {
            let clock = Clock::new(now.clone(), instant).resumed(&written, wall);
            assert_eq!(clock.at(instant).since(written.clock), gap, "{now:?}");
            assert_eq!(clock.at(instant + HOUR).since(written.clock), gap + HOUR, "{now:?}");
        }
    }
}
