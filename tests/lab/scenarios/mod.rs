//! The scenarios, each named after the event in the storage.

mod alerts;
mod capture;
mod checker_states;
mod container;
mod daemon;
mod first_reading;
mod healthy;
mod iscsi;
mod lab_itself;
mod looks_healthy;
mod lost_paths;
mod maps;
mod measure;
pub mod memory;
mod mismatches;
mod nvme;
mod nvme_queueing;
mod path_failures;
mod platform;
mod queueing;
mod returned_paths;
mod root;
mod stages;
mod storms;
mod unassembled;
mod unprivileged;

use crate::guest::Lab;

/// One test.
pub struct Scenario {
    pub name: &'static str,
    pub run: fn(&Lab),
    pub afterwards: Afterwards,
    /// The only suite whose kernel it is for; `None`: this machine's.
    pub suite: Option<&'static str>,
}

/// The state of the machine after a scenario.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    /// The lab removes its devices, and the machine continues.
    TearDown,
    /// The lab turns the machine off, because removing the devices takes longer than a boot.
    PowerOff,
}

impl Scenario {
    const fn new(name: &'static str, run: fn(&Lab)) -> Self {
        Scenario { name, run, afterwards: Afterwards::TearDown, suite: None }
    }

    /// A scenario for facts that only Debian's newest kernel has.
    const fn of_sid(self) -> Self {
        Scenario { suite: Some("sid"), ..self }
    }

    const fn then_power_off(self) -> Self {
        Scenario { afterwards: Afterwards::PowerOff, ..self }
    }
}

/// All tests, measurements and stages.
pub fn all() -> impl Iterator<Item = &'static Scenario> {
    tests().chain(measurements()).chain(stages())
}

/// The scenarios of `--bench`. They measure and judge nothing.
pub fn measurements() -> impl Iterator<Item = &'static Scenario> {
    measure::ALL.iter()
}

/// The scenarios of `--stage`. The machine stays up.
pub fn stages() -> impl Iterator<Item = &'static Scenario> {
    stages::ALL.iter()
}

/// The tests in their order. The longest run early, so that all machines finish at the same time.
pub fn tests() -> impl Iterator<Item = &'static Scenario> {
    [
        lab_itself::ALL,
        alerts::ALL,
        storms::ALL,
        healthy::ALL,
        platform::ALL,
        path_failures::ALL,
        daemon::ALL,
        first_reading::ALL,
        looks_healthy::ALL,
        lost_paths::ALL,
        memory::ALL,
        returned_paths::ALL,
        maps::ALL,
        queueing::ALL,
        iscsi::ALL,
        nvme::ALL,
        nvme_queueing::ALL,
        capture::ALL,
        unassembled::ALL,
        mismatches::ALL,
        root::ALL,
        checker_states::ALL,
        unprivileged::ALL,
        container::ALL,
    ]
    .into_iter()
    .flatten()
}
