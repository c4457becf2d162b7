//! Decides if the kernel keeps or fails the I/O to an NVMe head that has no usable path.
//!
//! `nvme_available_path` in `drivers/nvme/host/multipath.c` keeps the I/O in two cases. In the
//! first case, a controller of one of the head's paths is `live`, `connecting` or `resetting`,
//! whatever its ANA state. It also must not have been away for `fast_io_fail_tmo`. In the second
//! case, the head has a `delayed_removal_secs` (Linux 6.16). The kernel also keeps the head for
//! this long after its last path has gone.
//!
//! No file shows that `fast_io_fail_tmo` has passed (`NVME_CTRL_FAILFAST_EXPIRED`). The kernel's
//! clock starts when the controller begins to connect. The clock here starts at the first reading
//! in which the controller is not `live`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::source::transports::nvme::Head;
use crate::topology::NvmeController;

/// Since when controllers are away and heads are without paths.
#[derive(Debug, Default)]
pub(crate) struct Clocks {
    /// The controllers that are not live, by name.
    away: HashMap<Arc<str>, Away>,
    /// The heads without a path, by name, and since when.
    pathless: HashMap<Arc<str>, Instant>,
}

/// A controller that is not live.
#[derive(Debug)]
struct Away {
    /// The instance of the controller. The time of a new instance starts again.
    instance: u64,
    since: Instant,
    /// How long the kernel keeps I/O for the controller, or `None` if it does so forever. If the
    /// setting changes while the controller is away, the new value applies the next time.
    patience: Option<Duration>,
}

impl Clocks {
    /// Takes a reading, begun at `now`, of all controllers over fabrics and all heads. The time of
    /// a controller that was away before the first reading begins with that reading.
    pub(crate) fn follow(&mut self, controllers: &[Arc<NvmeController>], heads: &[Arc<Head>], now: Instant) {
        let away: BTreeMap<_, _> =
            controllers.iter().filter(|one| !one.is_live()).map(|controller| (&controller.name, controller)).collect();
        self.away.retain(|name, known| away.get(name).is_some_and(|one| one.instance == known.instance));
        for (name, controller) in away {
            let begin = || Away { instance: controller.instance, since: now, patience: patience(controller) };
            self.away.entry(Arc::clone(name)).or_insert_with(begin);
        }
        let pathless: BTreeSet<_> = heads.iter().filter(|head| head.paths.is_empty()).map(|head| &head.name).collect();
        self.pathless.retain(|name, _| pathless.contains(name));
        for name in pathless {
            self.pathless.entry(Arc::clone(name)).or_insert(now);
        }
    }

    /// Returns the clocks at this moment.
    pub(crate) fn at(&self, now: Instant) -> ClocksAt<'_> {
        let given_up = self.away.iter().filter(|(_, away)| away.is_over(now)).map(|(name, _)| &**name);
        ClocksAt { clocks: self, given_up: given_up.collect(), now }
    }
}

/// The clocks at one moment. A controller carries many paths, so it is judged only once.
#[derive(Debug)]
pub(crate) struct ClocksAt<'a> {
    clocks: &'a Clocks,
    /// The names of the controllers for which the kernel no longer keeps I/O.
    given_up: HashSet<&'a str>,
    now: Instant,
}

impl ClocksAt<'_> {
    /// Returns true if I/O to the head waits while no path accepts it.
    pub(crate) fn queue(&self, head: &Head) -> bool {
        head.paths.iter().any(|path| self.may_carry_io(&path.controller)) || self.keep(head)
    }

    fn may_carry_io(&self, controller: &NvmeController) -> bool {
        match &*controller.state {
            _ if controller.is_live() => true,
            "connecting" | "resetting" => !self.given_up.contains(&*controller.name),
            _ => false,
        }
    }

    /// Returns true if the `delayed_removal_secs` of the head have not passed. The kernel keeps the
    /// head and its I/O for this time without a path. This time begins when the last path goes.
    fn keep(&self, head: &Head) -> bool {
        let since = self.clocks.pathless.get(&head.name);
        let gone = since.map_or(Duration::ZERO, |since| self.now.saturating_duration_since(*since));
        gone < head.removal_delay
    }
}

impl Away {
    fn is_over(&self, now: Instant) -> bool {
        self.patience.is_some_and(|patience| now.saturating_duration_since(self.since) >= patience)
    }
}

/// Returns how long the kernel keeps I/O for the controller. The kernel writes `off` for a
/// controller that it never gives up in this way, and has no such file for a local one. Linux 5.11
/// and 5.12 may give up, but have no file with the time. There, I/O counts as waiting until the
/// controller goes.
fn patience(controller: &NvmeController) -> Option<Duration> {
    controller.timeouts.fast_io_fail.parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::transports::nvme::HeadPath;
    use crate::topology::NvmeTimeouts;

    /// A head whose controllers have these states and these values of `fast_io_fail_tmo`.
    fn head(controllers: &[(&str, &str)], removal_delay: u64) -> Arc<Head> {
        let path = |(number, (state, fast_io_fail)): (usize, &(&str, &str))| HeadPath {
            controller: Arc::new(NvmeController {
                name: format!("nvme{number}").into(),
                state: (*state).into(),
                timeouts: NvmeTimeouts { fast_io_fail: (*fast_io_fail).into(), ..NvmeTimeouts::default() },
                ..NvmeController::default()
            }),
            ..HeadPath::default()
        };
        Arc::new(Head {
            name: "nvme0n1".into(),
            removal_delay: Duration::from_secs(removal_delay),
            paths: controllers.iter().enumerate().map(path).collect(),
            ..Head::default()
        })
    }

    /// True for each reading after which the head queues. A reading is a second and a head.
    fn queues<const N: usize>(readings: [(u64, Arc<Head>); N]) -> [bool; N] {
        let (mut clocks, start) = (Clocks::default(), Instant::now());
        readings.map(|(second, head)| {
            let now = start + Duration::from_secs(second);
            let controllers: Vec<_> = head.paths.iter().map(|path| Arc::clone(&path.controller)).collect();
            clocks.follow(&controllers, std::slice::from_ref(&head), now);
            clocks.at(now).queue(&head)
        })
    }

    #[test]
    fn a_controller_that_lives_or_may_come_back_makes_it_wait() {
        for (state, expected) in [
            ("live", true),
            ("connecting", true),
            ("resetting", true),
            ("new", false),
            ("deleting", false),
            ("deleting (no IO)", false),
            ("dead", false),
            ("unknown state", false),
        ] {
            for patience in ["off", "", "-1", "600"] {
                assert_eq!(queues([(0, head(&[(state, patience)], 0))]), [expected], "{state} {patience}");
            }
            assert_eq!(queues([(0, head(&[("dead", "off"), (state, "off")], 0))]), [expected], "{state}");
        }
    }

    #[test]
    fn the_time_of_a_controller_runs_from_its_leaving_to_its_coming_back() {
        let of = |state| head(&[(state, "10")], 0);
        let readings = [
            (0, of("live")),
            (100, of("live")),
            (105, of("resetting")),
            (114, of("connecting")),
            (115, of("connecting")),
            (900, of("connecting")),
            (905, of("live")),
            (910, of("connecting")),
            (919, of("connecting")),
            (920, of("connecting")),
        ];
        assert_eq!(queues(readings), [true, true, true, true, false, false, true, true, true, false]);
    }

    #[test]
    fn a_controller_found_away_is_away_since_then_and_time_0_is_over_at_once() {
        let of = |patience| head(&[("connecting", patience)], 0);
        assert_eq!(queues([(0, of("10")), (9, of("10")), (10, of("10"))]), [true, true, false]);
        assert_eq!(queues([(0, of("0"))]), [false]);
        assert_eq!(queues([(0, of("off")), (u32::MAX.into(), of("off"))]), [true, true]);
    }

    #[test]
    fn the_kernel_goes_by_the_time_that_it_began_with() {
        let of = |patience| head(&[("connecting", patience)], 0);
        assert_eq!(queues([(0, of("10")), (5, of("off")), (10, of("off"))]), [true, true, false]);
        assert_eq!(queues([(0, of("off")), (5, of("1")), (10, of("1"))]), [true, true, true]);
    }

    #[test]
    fn one_controller_that_is_not_given_up_is_enough() {
        let of = |first, second| head(&[(first, "10"), (second, "60")], 0);
        let readings = [
            (0, of("connecting", "connecting")),
            (10, of("connecting", "connecting")),
            (60, of("connecting", "connecting")),
            (61, of("connecting", "live")),
            (62, of("connecting", "deleting")),
        ];
        assert_eq!(queues(readings), [true, true, false, true, false]);
    }

    #[test]
    fn a_head_without_a_path_waits_as_long_as_the_kernel_keeps_it() {
        let without = |seconds| head(&[], seconds);
        assert_eq!(queues([(0, without(0))]), [false]);
        let back = || head(&[("live", "off")], 30);
        let readings = [
            (0, back()),
            (5, without(30)),
            (34, without(30)),
            (35, without(30)),
            (40, back()),
            (50, without(30)),
            (79, without(30)),
            (80, without(30)),
        ];
        assert_eq!(queues(readings), [true, true, true, false, true, true, true, false]);
        assert_eq!(queues([(0, without(u64::MAX)), (1 << 40, without(u64::MAX))]), [true, true]);
    }

    #[test]
    fn a_head_that_is_kept_waits_while_it_has_paths_whatever_becomes_of_them() {
        let of = |state| head(&[(state, "1")], 30);
        assert_eq!(queues([(0, of("connecting")), (100, of("connecting")), (200, of("deleting"))]), [true; 3]);
    }

    #[test]
    fn the_time_of_a_controller_is_its_own_and_not_that_of_an_earlier_one_of_its_name() {
        let of = |instance| {
            let mut head = head(&[("connecting", "10")], 0);
            Arc::make_mut(&mut Arc::make_mut(&mut head).paths[0].controller).instance = instance;
            head
        };
        let readings = [(0, of(1)), (10, of(1)), (12, of(2)), (21, of(2)), (22, of(2))];
        assert_eq!(queues(readings), [true, false, true, true, false]);
    }
}
