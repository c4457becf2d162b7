//! What a machine runs, and how soon the exporter is ready there.

use std::time::{Duration, Instant};

use super::Scenario;
use crate::guest::Lab;
use crate::multipathd::Conf;
use crate::programs::{run, version};
use crate::san::San;

pub const ALL: &[Scenario] = &[Scenario::new("ready_soon_after_the_start", ready_soon_after_the_start)];

/// Starts of the exporter, of which the median is noted.
const STARTS: usize = 5;

/// Longer than any start on an emulated processor that is shared.
const SOON: Duration = Duration::from_secs(10);

fn ready_soon_after_the_start(lab: &Lab) {
    let san = San::start(lab, 4, 2, Conf::BLIND);
    let mut starts: Vec<_> = (0..STARTS)
        .map(|_| {
            let start = Instant::now();
            let exporter = lab.exporter().start();
            let took = start.elapsed();
            san.luns.iter().for_each(|lun| exporter.wait_for_counts(&lun.wwid, 4, 0));
            took
        })
        .collect();
    starts.sort();
    assert!(starts[STARTS - 1] < SOON, "{starts:?}");

    lab.note(format!("start to ready: {:.2} s", starts[STARTS / 2].as_secs_f64()));
    lab.note(format!("kernel: {}", run("uname", ["-r"]).trim()));
    for package in ["multipath-tools", "systemd"] {
        lab.note(format!("{package}: {}", version(package)));
    }
}
