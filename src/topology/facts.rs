//! Facts about a device that follow from its paths. Alert rules need them also where per-path
//! series are left out.

use std::time::Duration;

use super::{Device, Health, History, Mismatches, Path, PathState};

/// Words of SCSI ALUA and NVMe ANA for a path that is not the shortest way. `lba-dependent` is not
/// among them: such a path is the shortest way for a part of the LUN. Sources: `sdev_access_states`
/// in `drivers/scsi/scsi_sysfs.c`, `nvme_ana_state_names` in `drivers/nvme/host/multipath.c`.
const NOT_OPTIMIZED: [&str; 9] = [
    "active/non-optimized",
    "standby",
    "unavailable",
    "offline",
    "transitioning",
    "non-optimized",
    "inaccessible",
    "persistent-loss",
    "change",
];

/// I/O without a completion for this time is not merely slow: a SCSI command may take 30 seconds.
const STANDSTILL: Duration = Duration::from_secs(60);

impl Device {
    /// Returns true if all valid paths are blocked, so that no I/O gets through.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked_paths > 0 && self.blocked_paths >= self.counts().valid
    }

    /// Returns true if its I/O stands still.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled.is_some_and(|stalled| stalled >= STANDSTILL)
    }

    /// Returns the paths on which I/O stands still while the I/O of the device flows.
    pub(crate) fn swallowing_paths(&self) -> impl Iterator<Item = &Path> {
        self.paths.iter().filter(|path| path.is_stalled() && !self.is_stalled())
    }

    /// Returns the number of paths that multipathd treats as marginal, or whose checker waits
    /// because they failed too often (`delayed`).
    pub(crate) fn marginal_paths(&self) -> usize {
        self.paths.iter().filter(|path| path.is_marginal()).count()
    }

    /// Returns the number of paths on which the kernel disagrees with the checker or the SCSI
    /// layer.
    pub(crate) fn disagreeing_paths(&self) -> usize {
        self.paths.iter().filter(|path| path.is_disputed()).count()
    }

    /// Returns true if I/O takes a longer way than it could. Then the path group in use is not the
    /// best one that has a valid path, or the array calls no valid path optimized. A path without a
    /// word of the array does not count. A path with an unknown word may be optimized.
    pub(crate) fn is_non_optimized(&self) -> bool {
        let priorities = self.active_group_priority.zip(self.best_group_priority);
        let valid = self.paths.iter().filter(|path| path.state == PathState::Valid);
        let mut words = valid.filter_map(|path| path.access_state.as_ref().or(path.ana_state.as_ref())).peekable();
        priorities.is_some_and(|(active, best)| active < best)
            || words.peek().is_some() && words.all(|word| NOT_OPTIMIZED.contains(&&**word))
    }

    /// Returns true if the device needs attention path by path: it is not healthy, or something
    /// about its paths is unusual.
    pub(crate) fn is_conspicuous(&self, history: Option<&History>) -> bool {
        let Mismatches { size, read_only, wwid, lun } = self.mismatches;
        let differing = size + read_only + wwid + lun + self.lun_conflicts;
        let is_odd = |history: &History| {
            history.missing_paths > 0 || history.is_redundant == Some(false) || history.has_new_errors
        };
        self.counts().health() != Health::Healthy
            || history.is_some_and(is_odd)
            || differing
                + self.marginal_paths()
                + self.disagreeing_paths()
                + self.stray_paths.len()
                + self.blocked_paths
                > 0
            || self.is_stalled()
            || self.swallowing_paths().next().is_some()
    }
}

impl Path {
    /// Returns true if its I/O stands still.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled.is_some_and(|stalled| stalled >= STANDSTILL)
    }

    fn is_marginal(&self) -> bool {
        self.marginal == Some(true) || self.checker_state.as_deref() == Some("delayed")
    }

    /// Returns true if the kernel uses the path although its checker or the SCSI layer calls it
    /// broken. Also true if the kernel does not use a path that its checker calls good. A state
    /// that the exporter concluded from the SCSI state, or assumed, contradicts nothing.
    fn is_disputed(&self) -> bool {
        let checker = self.checker_state.as_deref();
        let is_disputed = match self.state {
            PathState::Valid => checker == Some("faulty") || self.device_state.as_deref() == Some("offline"),
            PathState::Failed => matches!(checker, Some("ready" | "ghost")),
            PathState::Standby => false,
        };
        self.is_told && is_disputed
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use PathState::*;

    use super::*;
    use crate::topology::sample;

    fn path(state: PathState) -> Path {
        Path { state, group: Some(1), ..sample::path() }
    }

    fn device(paths: Vec<Path>) -> Device {
        Device { paths, ..sample::device() }
    }

    #[test]
    fn a_device_is_conspicuous_if_somebody_may_want_to_look_at_its_paths() {
        let well = || device(vec![path(Valid), path(Valid)]);
        let remembered = History { expected_paths: 2, is_redundant: Some(true), ..History::default() };
        assert!(!well().is_conspicuous(None) && !well().is_conspicuous(Some(&remembered)));
        for history in [
            History { missing_paths: 1, ..remembered },
            History { is_redundant: Some(false), ..remembered },
            History { has_new_errors: true, ..remembered },
        ] {
            assert!(well().is_conspicuous(Some(&history)), "{history:?}");
        }
        let marginal = Path { marginal: Some(true), ..path(Valid) };
        let disputed = Path { checker_state: Some("faulty".into()), ..path(Valid) };
        for device in [
            device(vec![path(Valid), path(Failed)]),
            device(Vec::new()),
            device(vec![path(Valid), marginal]),
            device(vec![path(Valid), disputed]),
            Device { mismatches: Mismatches { read_only: 1, ..Mismatches::default() }, ..well() },
            Device { mismatches: Mismatches { lun: 1, ..Mismatches::default() }, ..well() },
            Device { lun_conflicts: 1, ..well() },
            Device { stray_paths: vec!["sdc".into()], ..well() },
            Device { blocked_paths: 1, ..well() },
            Device { stalled: Some(STANDSTILL), ..well() },
            device(vec![path(Valid), Path { stalled: Some(STANDSTILL), ..path(Valid) }]),
        ] {
            assert!(device.is_conspicuous(Some(&remembered)), "{device:?}");
        }
    }

    #[test]
    fn no_io_gets_through_if_all_valid_paths_are_blocked() {
        for (states, blocked_paths, expected) in [
            (&[Valid, Valid][..], 0, false),
            (&[Valid, Valid], 1, false),
            (&[Valid, Valid], 2, true),
            (&[Valid, Failed], 1, true),
            (&[Failed, Failed], 0, false),
        ] {
            let device = Device { blocked_paths, ..device(states.iter().map(|state| path(*state)).collect()) };
            assert_eq!(device.is_blocked(), expected, "{states:?} {blocked_paths}");
        }
    }

    #[test]
    fn a_path_swallows_io_if_that_of_its_device_flows() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for (of_device, of_path, is_stalled, swallowing) in [
            (None, None, false, 0),
            (None, seconds(59), false, 0),
            (None, seconds(60), false, 1),
            (seconds(59), seconds(600), false, 1),
            (seconds(60), seconds(600), true, 0),
        ] {
            let paths = vec![path(Valid), Path { stalled: of_path, ..path(Valid) }];
            let device = Device { stalled: of_device, ..device(paths) };
            assert_eq!(device.is_stalled(), is_stalled, "{of_device:?}");
            assert_eq!(device.swallowing_paths().count(), swallowing, "{of_device:?} {of_path:?}");
        }
    }

    #[test]
    fn marginal_is_what_multipathd_holds_so_or_delays() {
        for (marginal, checker, expected) in [
            (None, None, 0),
            (Some(false), Some("ready"), 0),
            (Some(true), Some("ready"), 1),
            (Some(true), Some("delayed"), 1),
            (Some(false), Some("delayed"), 1),
            (None, Some("delayed"), 1),
            (Some(false), Some("shaky"), 0),
        ] {
            let path = Path { marginal, checker_state: checker.map(Arc::from), ..path(Failed) };
            assert_eq!(device(vec![path]).marginal_paths(), expected, "{marginal:?} {checker:?}");
        }
    }

    #[test]
    fn the_kernel_and_those_who_should_know_disagree() {
        for (state, checker, scsi, expected) in [
            (Valid, Some("ready"), Some("running"), 0),
            (Valid, Some("ghost"), Some("running"), 0),
            (Valid, Some("faulty"), Some("running"), 1),
            (Valid, Some("ready"), Some("offline"), 1),
            (Valid, None, Some("offline"), 1),
            (Valid, Some("faulty"), Some("offline"), 1),
            (Valid, Some("i/o pending"), Some("blocked"), 0),
            (Failed, Some("ready"), Some("running"), 1),
            (Failed, Some("ghost"), Some("running"), 1),
            // Ordinary failures, on which all agree.
            (Failed, Some("faulty"), Some("running"), 0),
            (Failed, None, Some("offline"), 0),
            (Failed, Some("shaky"), Some("running"), 0),
            (Standby, None, Some("live"), 0),
        ] {
            let words =
                Path { checker_state: checker.map(Arc::from), device_state: scsi.map(Arc::from), ..path(state) };
            let assumed = Path { is_told: false, ..words.clone() };
            let what = format!("{state:?} {checker:?} {scsi:?}");
            assert_eq!(device(vec![words]).disagreeing_paths(), expected, "{what}");
            assert_eq!(device(vec![assumed]).disagreeing_paths(), 0, "{what}, assumed");
        }
    }

    #[test]
    fn io_takes_a_longer_way_if_no_valid_path_is_optimized() {
        let far = "active/non-optimized";
        for (paths, expected) in [
            (&[][..], false),
            (&[(Valid, None)], false),
            (&[(Valid, Some("active/optimized"))], false),
            (&[(Valid, Some(far))], true),
            (&[(Valid, Some(far)), (Valid, Some("active/optimized"))], false),
            (&[(Valid, Some(far)), (Failed, Some("active/optimized"))], true),
            (&[(Failed, Some(far))], false),
            (&[(Valid, None), (Failed, Some(far))], false),
            (&[(Valid, Some(far)), (Valid, None)], true),
            (&[(Valid, Some("standby")), (Valid, Some("transitioning"))], true),
            (&[(Valid, Some("lba-dependent"))], false),
            (&[(Valid, Some("warp"))], false),
            (&[(Valid, Some(far)), (Valid, Some("warp"))], false),
        ] {
            let alua =
                |&(state, word): &(PathState, Option<&str>)| Path { access_state: word.map(Arc::from), ..path(state) };
            let ana = |path: &(PathState, Option<&str>)| {
                let word = alua(path).access_state.map(|word| word.trim_start_matches("active/").into());
                Path { access_state: None, ana_state: word, ..alua(path) }
            };
            assert_eq!(device(paths.iter().map(alua).collect()).is_non_optimized(), expected, "{paths:?}");
            assert_eq!(device(paths.iter().map(ana).collect()).is_non_optimized(), expected, "ANA: {paths:?}");
        }
    }

    #[test]
    fn io_takes_a_longer_way_if_a_better_group_has_a_valid_path() {
        for (active, best, expected) in [
            (Some(50), Some(50), false),
            (Some(10), Some(50), true),
            (Some(-1), Some(0), true),
            (Some(50), Some(10), false),
            (None, Some(50), false),
            (Some(10), None, false),
        ] {
            let optimized = Path { access_state: Some("active/optimized".into()), ..path(Valid) };
            let device = Device { active_group_priority: active, best_group_priority: best, ..device(vec![optimized]) };
            assert_eq!(device.is_non_optimized(), expected, "{active:?} {best:?}");
        }
    }
}
