//! Which readings are due, and why.
//!
//! Each source has a [`Lane`]: one reading at a time, with a deadline. Wants add up while a reading
//! is under way, and the next reading serves them all. A [`Cadence`] decides when a timer wants the
//! next reading.

use std::time::{Duration, Instant};

/// Why a reading is due. A reading that is wanted for several reasons has the greatest one. If
/// anything else wants a reading, its results are not findings of the timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// An interval has passed.
    Timer,
    /// An event, or another reading, was about the device.
    Event,
    /// Events were lost.
    Overflow,
    /// SIGHUP.
    Signal,
    /// The exporter has started.
    Start,
}

/// The wants for one source, added up.
pub(crate) trait Want: Default {
    /// The request for one reading.
    type Request: Clone;

    /// Returns true if nothing is wanted.
    fn is_empty(&self) -> bool;

    /// Takes out the request for the next reading, if anything is wanted.
    fn next(&mut self) -> Option<(Self::Request, Reason)>;
}

/// The readings of one source: the wanted one, and the one under way.
#[derive(Debug)]
pub(crate) struct Lane<W: Want> {
    /// The wants for the next reading.
    pub(crate) want: W,
    under_way: Option<UnderWay<W::Request>>,
    deadline: Duration,
    /// True if a reading has arrived, failed, or become late.
    tried: bool,
}

/// A reading under way.
#[derive(Clone, Debug)]
pub(crate) struct UnderWay<Request> {
    pub(crate) request: Request,
    pub(crate) reason: Reason,
    /// When the reading was requested.
    pub(crate) asked: Instant,
    late: bool,
}

impl<Request> UnderWay<Request> {
    /// Returns true if the reading has taken longer than its deadline.
    pub(crate) fn is_late(&self) -> bool {
        self.late
    }
}

impl<W: Want> Lane<W> {
    /// Creates a lane. A reading that takes longer than `deadline` is late, but is accepted when it
    /// comes.
    pub(crate) fn new(deadline: Duration) -> Self {
        Lane { want: W::default(), under_way: None, deadline, tried: false }
    }

    /// Begins the next reading, if none is under way and one is wanted.
    pub(crate) fn begin(&mut self, now: Instant) -> Option<W::Request> {
        if self.under_way.is_some() {
            return None;
        }
        let (request, reason) = self.want.next()?;
        self.under_way = Some(UnderWay { request: request.clone(), reason, asked: now, late: false });
        Some(request)
    }

    /// Ends the reading under way, whether it succeeded or failed. Returns `None` if there was
    /// none.
    pub(crate) fn end(&mut self) -> Option<UnderWay<W::Request>> {
        self.tried = true;
        self.under_way.take()
    }

    /// Returns true if no reading is under way.
    pub(crate) fn is_free(&self) -> bool {
        self.under_way.is_none()
    }

    /// Returns true if no reading is under way or wanted.
    pub(crate) fn is_idle(&self) -> bool {
        self.under_way.is_none() && self.want.is_empty()
    }

    /// Returns true if a reading has arrived, failed, or become late.
    pub(crate) fn was_tried(&self) -> bool {
        self.tried
    }

    /// Returns when the reading under way becomes late, or `None` if it already is.
    pub(crate) fn late_at(&self) -> Option<Instant> {
        self.under_way.as_ref().filter(|reading| !reading.late).map(|reading| reading.asked + self.deadline)
    }

    /// Marks the reading under way as late if it is. Returns true once for each late reading.
    pub(crate) fn turns_late(&mut self, now: Instant) -> bool {
        let turns = self.late_at().is_some_and(|late| late <= now);
        if let Some(reading) = self.under_way.as_mut().filter(|_| turns) {
            (reading.late, self.tried) = (true, true);
        }
        turns
    }
}

/// The readings of a timer may use this fraction of a processor: 1/100.
const PROCESSOR_SHARE: u32 = 100;
/// The longest delay before the next reading, however long a reading takes.
pub(crate) const LONGEST_INTERVAL: Duration = Duration::from_secs(300);

/// Decides when a timer wants the next reading. The interval grows with the processor time of the
/// last readings.
#[derive(Debug)]
pub(crate) struct Cadence {
    interval: Duration,
    /// The costs of the last readings. The smallest one counts, because one costly reading says
    /// little about the next.
    costs: [Duration; 3],
    last: Instant,
}

impl Cadence {
    /// Creates a cadence whose first reading is due after one interval.
    pub(crate) fn new(interval: Duration, now: Instant) -> Self {
        Cadence { interval, costs: [Duration::ZERO; 3], last: now }
    }

    /// Returns when the next reading is due, or `None` if never.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.last.checked_add(self.present())
    }

    /// Returns true if the next reading is due. The one after it is then due one interval from
    /// `now`.
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.due().is_some_and(|due| due <= now);
        if is_due {
            self.last = now;
        }
        is_due
    }

    /// Records the cost of the last reading.
    pub(crate) fn cost(&mut self, cost: Duration) {
        self.costs.rotate_right(1);
        self.costs[0] = cost;
    }

    /// Returns the present interval.
    pub(crate) fn present(&self) -> Duration {
        let cost = self.costs.into_iter().min().unwrap_or_default();
        self.interval.max((cost * PROCESSOR_SHARE).min(LONGEST_INTERVAL))
    }

    /// Returns the cost of the last reading.
    pub(crate) fn last_cost(&self) -> Duration {
        self.costs[0]
    }
}

/// Decides when multipathd may be asked for its maps. For each request it reads every map from the
/// kernel, while it holds its lock.
#[derive(Debug, Default)]
pub(crate) struct DaemonPace {
    wanted: Option<Reason>,
    /// True if the names of the known paths are wanted, too.
    wants_paths: bool,
    /// When the last answer came or failed, and how long it took.
    last: Option<(Instant, Duration)>,
    /// True if no other source shows failed paths.
    pub(crate) is_only_source: bool,
}

/// How long multipathd is left alone, as a multiple of the time its last answer took.
const REST_FACTOR: u32 = 10;
const LONGEST_REST: Duration = Duration::from_secs(60);

impl DaemonPace {
    /// Wants the maps as soon as multipathd may be asked.
    pub(crate) fn want(&mut self, reason: Reason) {
        self.wanted = self.wanted.max(Some(reason));
    }

    /// Wants the maps and the names of the known paths.
    pub(crate) fn want_paths(&mut self, reason: Reason) {
        self.wants_paths = true;
        self.want(reason);
    }

    /// Takes the want if multipathd may be asked now. Returns the reason, and true if paths are
    /// wanted.
    pub(crate) fn take(&mut self, now: Instant) -> Option<(Reason, bool)> {
        let reason = self.wanted.filter(|_| self.due().is_none_or(|due| due <= now))?;
        self.wanted = None;
        Some((reason, std::mem::take(&mut self.wants_paths)))
    }

    /// Returns true if the first full read waits for multipathd.
    pub(crate) fn is_awaited(&self) -> bool {
        self.wanted == Some(Reason::Start)
    }

    /// Returns when the want can be taken. `None` if there is no want, or no answer yet.
    pub(crate) fn due(&self) -> Option<Instant> {
        let ((at, took), reason) = self.last.zip(self.wanted)?;
        let rest = match reason {
            Reason::Start | Reason::Signal => Duration::ZERO,
            Reason::Overflow => took,
            Reason::Event | Reason::Timer => self.rest(),
        };
        Some(at + rest.min(LONGEST_REST))
    }

    /// Records that an answer has come or failed, and how long it took.
    pub(crate) fn answered(&mut self, took: Duration, now: Instant) {
        self.last = Some((now, took));
    }

    /// Returns how long multipathd is left alone now.
    pub(crate) fn rest(&self) -> Duration {
        let times = if self.is_only_source { 1 } else { REST_FACTOR };
        self.last.map_or(Duration::ZERO, |(_, took)| (took * times).min(LONGEST_REST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[derive(Default)]
    struct Numbers(Vec<u32>);

    impl Want for Numbers {
        type Request = Vec<u32>;

        fn is_empty(&self) -> bool {
            self.0.is_empty()
        }

        fn next(&mut self) -> Option<(Vec<u32>, Reason)> {
            let wanted = std::mem::take(&mut self.0);
            (!wanted.is_empty()).then_some((wanted, Reason::Event))
        }
    }

    #[test]
    fn wants_add_up_while_a_reading_is_under_way() {
        let now = Instant::now();
        let mut lane = Lane::<Numbers>::new(SECOND);
        assert_eq!(lane.begin(now), None);
        lane.want.0.push(1);
        assert_eq!(lane.begin(now), Some(vec![1]));
        lane.want.0.extend([2, 3]);
        assert_eq!(lane.begin(now), None);
        assert_eq!(lane.end().map(|reading| reading.request), Some(vec![1]));
        assert_eq!(lane.begin(now), Some(vec![2, 3]));
    }

    #[test]
    fn a_reading_turns_late_once() {
        let now = Instant::now();
        let mut lane = Lane::<Numbers>::new(SECOND);
        lane.want.0.push(1);
        lane.begin(now);
        assert!(!lane.turns_late(now) && !lane.was_tried());
        assert!(lane.turns_late(now + SECOND) && lane.was_tried());
        assert!(!lane.turns_late(now + SECOND) && lane.late_at().is_none());
        assert_eq!(lane.end().map(|reading| reading.is_late()), Some(true));
    }

    #[test]
    fn an_interval_grows_with_the_cost_up_to_a_bound() {
        let now = Instant::now();
        let mut cadence = Cadence::new(5 * SECOND, now);
        for (cost, present) in [(SECOND / 100, 5), (SECOND / 10, 10), (60 * SECOND, 300)] {
            cadence.cost(60 * SECOND);
            (0..2).for_each(|_| cadence.cost(cost));
            assert!(cadence.present() == 5 * SECOND || present > 5, "one slow reading is no reason");
            cadence.cost(cost);
            assert_eq!(cadence.present(), present * SECOND);
        }
        assert!(!cadence.is_due(now + 299 * SECOND) && cadence.is_due(now + 300 * SECOND));
        assert_eq!(cadence.due(), Some(now + 600 * SECOND));
        assert_eq!(Cadence::new(Duration::MAX, now).due(), None);
    }

    #[test]
    fn multipathd_rests_after_it_has_answered() {
        let now = Instant::now();
        let mut pace = DaemonPace::default();
        assert_eq!((pace.take(now), pace.due()), (None, None));
        pace.want(Reason::Timer);
        assert_eq!(pace.take(now), Some((Reason::Timer, false)));
        pace.answered(2 * SECOND, now);
        pace.want_paths(Reason::Event);
        pace.want(Reason::Timer);
        assert_eq!((pace.take(now + 19 * SECOND), pace.due()), (None, Some(now + 20 * SECOND)));
        assert_eq!(pace.take(now + 20 * SECOND), Some((Reason::Event, true)));
        assert_eq!(pace.take(now + 60 * SECOND), None);
        for (reason, rest) in [(Reason::Overflow, 2), (Reason::Signal, 0), (Reason::Start, 0)] {
            pace.want(reason);
            assert_eq!(pace.due(), Some(now + rest * SECOND), "{reason:?}");
        }
        assert!(pace.take(now).is_some());
        pace.answered(60 * SECOND, now);
        pace.want(Reason::Timer);
        assert_eq!(pace.due(), Some(now + LONGEST_REST));
        pace.answered(2 * SECOND, now);
        pace.is_only_source = true;
        assert_eq!((pace.due(), pace.rest()), (Some(now + 2 * SECOND), 2 * SECOND));
    }
}
