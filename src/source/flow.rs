//! The I/O of a block device: what is under way, what has completed, and how long it has stood still.

use std::time::{Duration, Instant};

/// The I/O of a block device, as the kernel counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Io {
    /// When it was read.
    pub(crate) at: Instant,
    /// Requests sent down and not completed.
    pub(crate) in_flight: u64,
    /// Requests completed since there is the device; `None` where that is not told.
    pub(crate) completed: Option<Completed>,
}

/// Completed requests. A count that passes the end of its 32 or 64 bits starts again from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Completed {
    /// Reads.
    pub(crate) reads: u64,
    /// Writes.
    pub(crate) writes: u64,
    /// Discards; 0 where the kernel does not count them.
    pub(crate) discards: u64,
    /// Flushes, likewise.
    pub(crate) flushes: u64,
}

impl Io {
    /// `stat` of a block device (`Documentation/block/stat.rst` of the kernel): 11 numbers, 4 more on discards (Linux 4.18), and 2
    /// more on flushes (5.5). `None` if it makes no sense.
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
        Some(Io { at, in_flight: sensible(*in_flight)?, completed })
    }

    /// `inflight` of a block device: reads and writes. `None` if it makes no sense.
    pub(crate) fn from_inflight(text: &str, at: Instant) -> Option<Self> {
        let (reads, writes) = text.trim_start().split_once(char::is_whitespace)?;
        let [reads, writes] = [reads, writes.trim_start()].map(|number| sensible(number.parse().ok()?));
        Some(Io { at, in_flight: reads? + writes?, completed: None })
    }

    /// Whether nothing was ever counted.
    pub(crate) fn is_nothing(&self) -> bool {
        self.in_flight == 0 && self.completed.is_none_or(|completed| completed == Completed::default())
    }

    /// The I/O of both.
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

    /// Writes completed, where that is told.
    pub(crate) fn writes_completed(&self) -> Option<u64> {
        self.completed.map(|completed| completed.writes)
    }
}

/// Older kernels may count below 0, and print that as a number of 32 bits without a sign.
fn sensible(in_flight: u64) -> Option<u64> {
    i32::try_from(in_flight).is_ok().then_some(in_flight)
}

/// How long a device's I/O has stood still: from one reading of it to the next.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stall {
    /// The last reading, and the last one at which I/O had moved or none was in flight.
    last: Option<(Io, Instant)>,
}

impl Stall {
    /// Follows a reading. One that was followed before, because there is no newer one, changes nothing. Without counts of completions
    /// nothing is known.
    pub(crate) fn follow(&mut self, io: &Io) {
        let Some(completed) = io.completed else { return *self = Stall::default() };
        let since = match self.last {
            Some((last, since)) if last.at == io.at => since,
            Some((last, since)) if io.in_flight > 0 && last.completed == Some(completed) => since,
            _ => io.at,
        };
        self.last = Some((*io, since));
    }

    /// The same after one more reading, counted from the first one at which the I/O was in flight: readings that are far apart say
    /// little of when it began.
    pub(crate) fn after(mut self, io: Option<&Io>) -> Self {
        match io.filter(|io| io.in_flight > 0) {
            Some(io) => self.follow(io),
            None => self = Stall::default(),
        }
        self
    }

    /// I/O that is in flight now waits for something else: it begins to stand still after this reading.
    pub(crate) fn excuse(&mut self) {
        self.last = self.last.map(|(io, _)| (io, io.at));
    }

    /// How long it had stood still at the last reading; `None` if it had not.
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
        // A later kernel may tell more.
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

    /// Follows readings a second apart, of requests in flight and completed, and tells how long I/O stands still after each.
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
    fn io_stands_still_from_the_last_reading_at_which_it_had_moved_or_there_was_none() {
        assert_eq!(stalled([(1, 7), (1, 7), (2, 7), (2, 8), (2, 8)]), [0, 1, 2, 0, 1]);
        assert_eq!(stalled([(0, 7), (0, 7), (3, 7), (3, 7), (0, 7)]), [0, 0, 1, 2, 0]);
        // A count that has passed its end, and another device in this one's place.
        assert_eq!(stalled([(1, u32::MAX.into()), (1, 0), (1, 0)]), [0, 0, 1]);
        assert_eq!(stalled([(1, u64::MAX), (1, 0)]), [0, 0]);
        assert_eq!(stalled([(1, 900), (1, 900), (1, 3), (1, 3)]), [0, 1, 0, 1]);
    }

    #[test]
    fn the_same_io_stands_still_from_the_first_reading_that_saw_it() {
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
            assert_eq!(after(None), None, "nobody tells");
        }
    }

    #[test]
    fn an_excuse_begins_it_anew() {
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
