//! multipathd hangs or is gone. The exporter still shows the kernel's state immediately.

use std::time::{Duration, Instant};

use super::Scenario;
use crate::guest::Lab;
use crate::multipathd::{Conf, Impostor, Multipathd};
use crate::san::San;
use crate::wait::{PATIENCE, eventually, eventually_eq};

pub const ALL: &[Scenario] = &[
    Scenario::new("daemon_frozen", daemon_frozen),
    Scenario::new("daemon_stopped", daemon_stopped),
    Scenario::new("another_users_daemon_is_not_believed", another_users_daemon_is_not_believed),
];

/// A scrape takes some hundredths of a second here, and never waits for multipathd's timeout.
const SCRAPE: Duration = Duration::from_secs(2);

fn daemon_frozen(lab: &Lab) {
    let san = San::start(lab, 4, 2, Conf::BLIND);
    let lun = &san.luns[0];
    let exporter = lab.exporter().start();
    let daemon_up = || exporter.metrics().value("multipath_daemon_up", &[]);
    assert_eq!(daemon_up(), 1.0);

    san.daemon.freeze();
    let mut slowest = Duration::ZERO;
    for (disk, failed) in lun.paths.iter().zip(1..) {
        san.dm.fail_path(lun.name(), &disk.devno);
        let start = Instant::now();
        exporter.get_ok("/metrics");
        slowest = slowest.max(start.elapsed());
        exporter.wait_for_counts(&lun.wwid, 4 - failed, failed);
    }
    eventually_eq("the daemon is seen to hang", 0.0, daemon_up);
    let start = Instant::now();
    let metrics = exporter.metrics();
    slowest = slowest.max(start.elapsed());
    assert!(slowest < SCRAPE, "a scrape took {slowest:?}");
    lab.note(format!("slowest scrape while multipathd hung: {slowest:.3?}"));
    assert_eq!(metrics.all_paths(), san.dm.all_paths());
    assert_eq!(metrics.value("multipath_exporter_source_up", &[("source", "multipathd")]), 0.0);
    assert_eq!(metrics.labels("multipath_device_info", &[("wwid", &lun.wwid)])["name"], lun.name());
    san.dm.reinstate_path(lun.name(), &lun.paths[0].devno);
    exporter.wait_for_counts(&lun.wwid, 1, 3);

    san.daemon.thaw();
    eventually_eq("the daemon answers again", 1.0, daemon_up);
    eventually_eq("everything is as the kernel says", Vec::new(), || exporter.differences(&san.dm));
}

fn daemon_stopped(lab: &Lab) {
    let San { daemon, dm, luns } = San::start(lab, 4, 2, Conf::BLIND);
    let lun = &luns[0];
    let exporter = lab.exporter().start();
    let daemon_up = || exporter.metrics().value("multipath_daemon_up", &[]);
    let info = || exporter.metrics().labels("multipath_device_info", &[("wwid", &lun.wwid)]);
    let info_before = info();

    daemon.stop();
    eventually_eq("the daemon is seen to be gone", 0.0, daemon_up);
    let metrics = exporter.metrics();
    assert_eq!(metrics.series("multipath_daemon_state").count(), 0);
    assert_eq!(metrics.value("multipath_exporter_source_up", &[("source", "multipathd")]), 0.0);
    dm.fail_path(lun.name(), &lun.paths[0].devno);
    exporter.wait_for_counts(&lun.wwid, 3, 1);
    assert_eq!(info(), info_before, "labels do not change at the moment of failure");

    let _daemon = Multipathd::start(lab.dir(), Conf::BLIND);
    eventually_eq("the daemon is back", 1.0, daemon_up);
    eventually_eq("everything is as the kernel says", Vec::new(), || exporter.differences(&dm));
}

/// multipathd is gone. Another user listens on its abstract socket and claims that no path has
/// failed.
fn another_users_daemon_is_not_believed(lab: &Lab) {
    let San { daemon, dm, luns } = San::start(lab, 4, 2, Conf::BLIND);
    let lun = &luns[0];
    let all_well = daemon.ask("show maps json").expect("multipathd answers");
    let exporter = lab.exporter().unprivileged().start();
    dm.fail_path(lun.name(), &lun.paths[0].devno);
    exporter.wait_for_counts(&lun.wwid, 3, 1);

    daemon.stop();
    let impostor = Impostor::start(&all_well);
    eventually("the exporter names the user", PATIENCE, || {
        let lines = exporter.log_lines("warn", "a program of user 65533 listens at @/org/kernel");
        if lines.is_empty() { Err("no such line".to_owned()) } else { Ok(()) }
    });
    let metrics = exporter.metrics();
    assert_eq!(metrics.value("multipath_daemon_up", &[]), 0.0);
    assert_eq!(metrics.value("multipath_exporter_source_up", &[("source", "multipathd")]), 0.0);
    exporter.wait_for_counts(&lun.wwid, 3, 1);
    assert_eq!(impostor.asked(), 0, "nothing is asked there");
    drop(impostor);

    let _daemon = Multipathd::start(lab.dir(), Conf::BLIND);
    eventually_eq("root's daemon is believed", 1.0, || exporter.metrics().value("multipath_daemon_up", &[]));
}
