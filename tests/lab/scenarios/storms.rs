//! Storms of events, and large numbers of devices.

use std::fs;
use std::time::Instant;

use super::Scenario;
use crate::dm::{Dm, multipath_table};
use crate::exporter::Exporter;
use crate::guest::Lab;
use crate::memory_disks;
use crate::metrics::{Host, count};
use crate::udevd;
use crate::wait::{PATIENCE, eventually, eventually_eq};

pub const ALL: &[Scenario] = &[
    Scenario::new("events_lost_on_purpose", events_lost_on_purpose),
    Scenario::new("a_thousand_devices_in_a_storm", a_thousand_devices_in_a_storm).then_power_off(),
    Scenario::new("five_hundred_devices", five_hundred_devices).then_power_off(),
];

/// Creates this number of devices over the same disks. Each has two groups with half of the disks.
pub fn make_maps(dm: &Dm, maps: usize, disks: &[String]) {
    let (one, other) = disks.split_at(disks.len() / 2);
    let table = multipath_table("2 queue_mode bio", &[one, other]);
    for i in 0..maps {
        dm.create(&name(i), &format!("mpath-{}", wwid(i)), &table);
    }
}

pub fn name(map: usize) -> String {
    format!("map{map}")
}

pub fn wwid(map: usize) -> String {
    format!("36000000000000000000000000000{map:04}")
}

/// Sends one path event to each map in turn, as fast as ioctls allow: all paths fail one after the
/// other, then all return. Every message changes a state and so causes one event.
pub fn storm(dm: &Dm, maps: usize, events_per_map: usize, disks: &[String]) {
    for step in 0..events_per_map {
        let verb = if (step / disks.len()).is_multiple_of(2) { "fail_path" } else { "reinstate_path" };
        let message = format!("{verb} {}", disks[step % disks.len()]);
        (0..maps).for_each(|map| dm.message(&name(map), &message));
    }
}

/// A kernel parameter. Dropping the value restores it.
struct Parameter {
    path: String,
    before: String,
}

impl Parameter {
    fn set(name: &str, value: &str) -> Self {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        let before = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        fs::write(&path, value).unwrap_or_else(|e| panic!("{path}: {e}"));
        Parameter { path, before }
    }
}

impl Drop for Parameter {
    fn drop(&mut self) {
        // The next reader of the parameter checks it itself.
        let _ = fs::write(&self.path, &self.before);
    }
}

/// The socket holds two events. The exporter is stopped while 2,000 occur.
fn events_lost_on_purpose(lab: &Lab) {
    udevd::stop();
    let disks = memory_disks::null_blk(8);
    let dm = Dm::open();
    make_maps(&dm, 20, &disks);
    let tiny = ["net.core.rmem_max", "net.core.rmem_default"].map(|name| Parameter::set(name, "2304"));
    let exporter = lab.exporter().without_net_admin().start();
    drop(tiny);
    let overflow_resyncs = || exporter.metrics().value("multipath_exporter_resyncs_total", &[("reason", "overflow")]);
    assert_eq!(exporter.metrics().value("multipath_exporter_source_up", &[("source", "dm")]), 1.0);
    assert_eq!(overflow_resyncs(), 0.0);

    exporter.freeze();
    storm(&dm, 20, 100, &disks);
    exporter.thaw();

    eventually_eq("the overflow is answered", true, || overflow_resyncs() >= 1.0);
    eventually_eq("every path is as the kernel says", Vec::new(), || exporter.differences(&dm));
    assert!(exporter.metrics().value("multipath_exporter_uevent_overflows_total", &[]) >= 1.0);
    assert_eq!(
        exporter.metrics().host(),
        Host { devices: 20, degraded: 20, without_valid_paths: 0, paths: 160, failed_paths: 80 }
    );
}

fn note_memory(lab: &Lab, exporter: &Exporter, when: &str) {
    let (resident, anonymous) = exporter.resident_kb();
    lab.note(format!("{when}: VmRSS {resident} kB, RssAnon {anonymous} kB"));
}

fn a_thousand_devices_in_a_storm(lab: &Lab) {
    const EVENTS: u64 = 50_000;
    const STORMY: u64 = 100;
    udevd::stop();
    let disks = memory_disks::null_blk(8);
    let dm = Dm::open();
    make_maps(&dm, 1000, &disks);

    let start = Instant::now();
    let exporter = lab.exporter().start();
    lab.note(format!("1,000 devices of 8 paths: ready after {:.1?}", start.elapsed()));
    let start = Instant::now();
    let metrics = exporter.metrics();
    lab.note(format!("a scrape takes {:.1?}", start.elapsed()));
    assert_eq!(metrics.host(), Host { devices: 1000, paths: 8000, ..Host::default() });
    note_memory(lab, &exporter, "before the storm");

    let start = Instant::now();
    storm(&dm, STORMY as usize, (EVENTS / STORMY) as usize, &disks);
    lab.note(format!("{EVENTS} events raised in {:.1?}", start.elapsed()));

    // A scrape takes seconds here, and half a minute beside other machines.
    let patience = 8 * PATIENCE;
    eventually("every path is as the kernel says", patience, || match exporter.differences(&dm) {
        differences if differences.is_empty() => Ok(()),
        differences => Err(format!("{} devices differ, such as {}", differences.len(), differences[0])),
    });
    lab.note(format!("every path right after {:.1?}", start.elapsed()));
    // The exporter reads states from the kernel. Events that it only counts may still wait.
    let counted = eventually("all events are counted, or some are known to be lost", patience, || {
        let metrics = exporter.metrics();
        let overflows = count(metrics.value("multipath_exporter_uevent_overflows_total", &[]));
        let counted: u64 = metrics.series("multipath_device_path_events_total").map(|(_, value)| count(value)).sum();
        if counted == EVENTS || overflows > 0 {
            Ok(format!("{counted} events counted, {overflows} overflows"))
        } else {
            Err(format!("{counted} events of {EVENTS}, {overflows} overflows"))
        }
    });
    lab.note(format!("{counted} after {:.1?}", start.elapsed()));
    note_memory(lab, &exporter, "after the storm");

    let resyncs = || exporter.metrics().value("multipath_exporter_resyncs_total", &[("reason", "timer")]);
    let resyncs_before = resyncs();
    // The first resync may have begun during the storm. They are 30 s apart.
    eventually("two timed resyncs", patience, || {
        if resyncs() >= resyncs_before + 2.0 {
            Ok(())
        } else {
            Err(format!("{resyncs_before} of them before the wait, {} now", resyncs()))
        }
    });
    let corrections = exporter.metrics().value("multipath_exporter_resync_corrections_total", &[]);
    assert_eq!(corrections, 0.0, "devices whose events had not told the truth");
    assert_eq!(exporter.differences(&dm), Vec::<String>::new());
}

fn five_hundred_devices(lab: &Lab) {
    udevd::stop();
    let disks = memory_disks::null_blk(4);
    let dm = Dm::open();
    make_maps(&dm, 500, &disks);
    let exporter = lab.exporter().start();
    assert_eq!(exporter.metrics().host(), Host { devices: 500, paths: 2000, ..Host::default() });
    assert_eq!(exporter.differences(&dm), Vec::<String>::new());
    note_memory(lab, &exporter, "500 devices of 4 paths");
}
