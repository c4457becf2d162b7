//! The I/O of a block device: requests in flight, requests completed, and the time without
//! progress.

use std::time::{Duration, Instant};

/// The I/O of a block device, as the kernel counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Io {
    /// The time of the read.
    pub(crate) at: Instant,
    /// Requests that were sent to the device and have not completed.
    pub(crate) in_flight: u64,
    /// Requests completed since the device appeared; `None` if the kernel gives no counts.
    pub(crate) completed: Option<Completed>,
}

/// Completed requests. A count wraps to 0 after its 32 or 64 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Completed {
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    /// 0 if the kernel does not count discards.
    pub(crate) discards: u64,
    /// 0 if the kernel does not count flushes.
    pub(crate) flushes: u64,
}

impl Io {
    /// Parses `stat` of a block device (`Documentation/block/stat.rst` of the kernel). The file has
    /// 11 numbers, 4 more for discards (Linux 4.18), and 2 more for flushes (5.5). `None` if the
    /// text has another form.
    pub(crate) fn from_stat(text: &str, at: Instant) -> Option<Self> {
        const WITH_DISCARDS: usize = 15;
        const WITH_FLUSHES: usize = 17;
        let numbers = text.split_ascii_whitespace().map(str::parse::<u64>);
        let numbers = numbers.collect::<Result<Vec<_>, _>>().ok()?;
        let [reads, _, _, _, writes, _, _, _, in_flight, _, _, rest @ ..] = &numbers[..] else { return None };
        let later = |index: usize, fields: usize| if numbers.len() < fields { 0 } else { rest[index] };
        let discards = later(0, WITH_DISCARDS);
        let flushes = later(4, WITH_FLUSHES);
        let completed = Some(Completed { reads: *reads, writes: *writes, discards, flushes });
        Some(Io { at, in_flight: non_negative(*in_flight)?, completed })
    }

    /// Parses `inflight` of a block device, which has the numbers of reads and writes. `None` if
    /// the text has another form.
    pub(crate) fn from_inflight(text: &str, at: Instant) -> Option<Self> {
        let (reads, writes) = text.trim_start().split_once(char::is_whitespace)?;
        let [reads, writes] = [reads, writes.trim_start()].map(|number| non_negative(number.parse().ok()?));
        Some(Io { at, in_flight: reads? + writes?, completed: None })
    }

    /// Returns true if the device has never had I/O.
    pub(crate) fn is_nothing(&self) -> bool {
        self.in_flight == 0 && self.completed.is_none_or(|completed| completed == Completed::default())
    }

    /// Returns the sum of both.
    pub(crate) fn plus(&self, other: &Io) -> Self {
        let sum = |one: Completed, other: Completed| Completed {
            reads: one.reads.saturating_add(other.reads),
            writes: one.writes.saturating_add(other.writes),
            discards: one.discards.saturating_add(other.discards),
            flushes: one.flushes.saturating_add(other.flushes),
        };
        Io {
            at: self.at.max(other.at),
            in_flight: self.in_flight.saturating_add(other.in_flight),
            completed: self.completed.zip(other.completed).map(|(one, other)| sum(one, other)),
        }
    }

    pub(crate) fn writes_completed(&self) -> Option<u64> {
        self.completed.map(|completed| completed.writes)
    }
}

/// Rejects counts below 0. Older kernels can count below 0 and print the result as an unsigned
/// number of 32 bits.
fn non_negative(in_flight: u64) -> Option<u64> {
    i32::try_from(in_flight).is_ok().then_some(in_flight)
}

/// Measures for how long a device's I/O has made no progress, from one reading to the next.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stall {
    /// The last reading, and the time of the last reading that showed progress or no I/O in flight.
    last: Option<(Io, Instant)>,
}

impl Stall {
    /// Takes the next reading into account. The same reading again changes nothing. Without counts
    /// of completions, progress is unknown.
    pub(crate) fn follow(&mut self, io: &Io) {
        let Some(completed) = io.completed else { return *self = Stall::default() };
        let since = match self.last {
            Some((last, since)) if last.at == io.at => since,
            Some((last, since)) if io.in_flight > 0 && last.completed == Some(completed) => since,
            _ => io.at,
        };
        self.last = Some((*io, since));
    }

    /// Returns the stall after one more reading, counted from the first reading that saw the I/O in
    /// flight. Readings that are far apart say little about when the I/O began.
    pub(crate) fn after(mut self, io: Option<&Io>) -> Self {
        match io.filter(|io| io.in_flight > 0) {
            Some(io) => self.follow(io),
            None => self = Stall::default(),
        }
        self
    }

    /// Restarts the measurement at the last reading, because the I/O in flight waits for something
    /// else.
    pub(crate) fn excuse(&mut self) {
        self.last = self.last.map(|(io, _)| (io, io.at));
    }

    /// Returns the time without progress up to the last reading. `None` if there was progress.
    pub(crate) fn duration(&self) -> Option<Duration> {
        let (io, since) = self.last?;
        Some(io.at.saturating_duration_since(since)).filter(|duration| !duration.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17";

    #[test]
    fn stat_has_11_15_or_17_numbers() {
        let now = Instant::now();
        let fields = |number: usize| STAT.split(' ').take(number).collect::<Vec<_>>().join("    ");
        for (number, discards, flushes) in [(11, 0, 0), (12, 0, 0), (15, 12, 0), (16, 12, 0), (17, 12, 16)] {
            let completed = Some(Completed { reads: 1, writes: 5, discards, flushes });
            let expected = Io { at: now, in_flight: 9, completed };
            assert_eq!(Io::from_stat(&fields(number), now), Some(expected), "{number}");
        }
        // A later kernel may print more numbers.
        assert_eq!(Io::from_stat(&format!("{STAT} 18"), now), Io::from_stat(STAT, now));
        for text in [
            "",
            &fields(9),
            &fields(10),
            &STAT.replacen('5', "-5", 1),
            &STAT.replacen('5', "0x5", 1),
            &STAT.replacen('5', "99999999999999999999", 1),
            // The in-flight count has gone below 0.
            &STAT.replacen('9', "-1", 1),
            &STAT.replacen('9', "4294967295", 1),
        ] {
            assert_eq!(Io::from_stat(text, now), None, "{text:?}");
        }
    }

    #[test]
    fn the_paths_of_a_device_add_up() {
        let now = Instant::now();
        let io = |text: &str| Io::from_stat(text, now).unwrap();
        let nothing = io("0 0 0 0 0 0 0 0 0 7 7 0 0 0 0 0 0");
        let one = io(STAT);
        assert!(nothing.is_nothing() && !one.is_nothing());
        assert!(!io("0 0 0 0 0 0 0 0 1 0 0").is_nothing() && !io("1 0 0 0 0 0 0 0 0 0 0").is_nothing());
        assert_eq!(nothing.plus(&one), one);
        let both = Completed { reads: 2, writes: 10, discards: 24, flushes: 32 };
        assert_eq!(one.plus(&one), Io { at: now, in_flight: 18, completed: Some(both) });
        let unknown = Io::from_inflight("0 1", now).unwrap();
        assert_eq!(one.plus(&unknown), Io { at: now, in_flight: 10, completed: None });
    }

    #[test]
    fn inflight_has_two_numbers() {
        let now = Instant::now();
        let in_flight = |text| Io::from_inflight(text, now).map(|io| io.in_flight);
        assert_eq!((in_flight("       2        3"), in_flight("2\t3")), (Some(5), Some(5)));
        for text in ["", "2", "2 -3", "0x2 3", "2 4294967295", "2 3 4"] {
            assert_eq!(in_flight(text), None, "{text:?}");
        }
    }

    /// Follows readings that are one second apart, each with the requests in flight and completed.
    /// Returns the stall in seconds after each.
    fn stalled<const N: usize>(readings: [(u64, u64); N]) -> [u64; N] {
        let start = Instant::now();
        let mut stall = Stall::default();
        let mut seconds = 0;
        readings.map(|(in_flight, reads)| {
            seconds += 1;
            let completed = Some(Completed { reads, ..Completed::default() });
            let io = Io { at: start + Duration::from_secs(seconds), in_flight, completed };
            stall.follow(&io);
            // The same reading again.
            stall.follow(&io);
            stall.duration().unwrap_or_default().as_secs()
        })
    }

    #[test]
    fn a_stall_begins_at_the_last_reading_with_progress_or_without_io() {
        assert_eq!(stalled([(1, 7), (1, 7), (2, 7), (2, 8), (2, 8)]), [0, 1, 2, 0, 1]);
        assert_eq!(stalled([(0, 7), (0, 7), (3, 7), (3, 7), (0, 7)]), [0, 0, 1, 2, 0]);
        // A count that has wrapped, and another device in the place of this one.
        assert_eq!(stalled([(1, u32::MAX.into()), (1, 0), (1, 0)]), [0, 0, 1]);
        assert_eq!(stalled([(1, u64::MAX), (1, 0)]), [0, 0]);
        assert_eq!(stalled([(1, 900), (1, 900), (1, 3), (1, 3)]), [0, 1, 0, 1]);
    }

    #[test]
    fn a_stall_may_begin_at_the_first_reading_that_saw_the_io() {
        let start = Instant::now();
        let mut stall = Stall::default();
        let mut seconds = 0;
        let mut after = |in_flight, reads| {
            seconds += 30;
            let completed = Some(Completed { reads, ..Completed::default() });
            stall = stall.after(Some(&Io { at: start + Duration::from_secs(seconds), in_flight, completed }));
            stall.duration().unwrap_or_default().as_secs()
        };
        assert_eq!([after(0, 7), after(1, 7), after(1, 7), after(2, 7)], [0, 0, 30, 60]);
        assert_eq!([after(2, 8), after(1, 8), after(0, 8), after(1, 8)], [0, 30, 0, 0]);
        assert!(stall.after(None).duration().is_none());
    }

    #[test]
    fn each_kind_of_completion_counts() {
        let (start, none) = (Instant::now(), Completed::default());
        for moved in [
            Completed { reads: 1, ..none },
            Completed { writes: 1, ..none },
            Completed { discards: 1, ..none },
            Completed { flushes: 1, ..none },
        ] {
            let mut stall = Stall::default();
            let mut at = start;
            let mut after = |completed| {
                at += Duration::from_secs(1);
                stall.follow(&Io { at, in_flight: 1, completed });
                stall.duration()
            };
            assert_eq!((after(Some(none)), after(Some(none))), (None, Some(Duration::from_secs(1))));
            assert_eq!((after(Some(moved)), after(Some(moved))), (None, Some(Duration::from_secs(1))));
            assert_eq!(after(None), None, "without counts, nothing is known");
        }
    }

    #[test]
    fn an_excuse_restarts_the_measurement() {
        let start = Instant::now();
        let io = |seconds| Io {
            at: start + Duration::from_secs(seconds),
            in_flight: 1,
            completed: Some(Completed::default()),
        };
        let mut stall = Stall::default();
        stall.excuse();
        assert_eq!(stall.duration(), None);
        stall.follow(&io(0));
        stall.follow(&io(60));
        stall.excuse();
        assert_eq!(stall.duration(), None);
        stall.follow(&io(70));
        assert_eq!(stall.duration(), Some(Duration::from_secs(10)));
    }
}
