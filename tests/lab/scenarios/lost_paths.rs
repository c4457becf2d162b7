//! Path devices disappear permanently.

use std::fs::File;

use serde_json::json;

use super::Scenario;
use crate::guest::Lab;
use crate::metrics::{Host, Metrics};
use crate::multipathd::Conf;
use crate::programs::run;
use crate::san::{Lun, San};
use crate::wait::eventually_eq;

pub const ALL: &[Scenario] = &[
    Scenario::new("path_deleted", path_deleted),
    Scenario::new("path_deleted_without_daemon", path_deleted_without_daemon),
    Scenario::new("all_paths_deleted", all_paths_deleted),
    Scenario::new("all_paths_deleted_of_a_map_in_use", all_paths_deleted_of_a_map_in_use),
];

fn assert_untouched(metrics: &Metrics, lun: &Lun) {
    assert_eq!(metrics.labels("multipath_device_info", &[("wwid", &lun.wwid)])["name"], lun.name());
    for disk in &lun.paths {
        let path = [("wwid", lun.wwid.as_str()), ("path", disk.name.as_str())];
        assert_eq!(metrics.value("multipath_path_valid", &path), 1.0);
        assert_eq!(metrics.labels("multipath_path_info", &path)["hctl"], disk.hctl);
    }
}

/// multipathd removes the path from its map: the map has one member fewer, and no failed one.
fn path_deleted(lab: &Lab) {
    let san = San::start(lab, 4, 2, Conf::BLIND);
    let (lun, gone) = (&san.luns[0], &san.luns[0].paths[0]);
    let exporter = lab.exporter().start();

    gone.delete();

    exporter.wait_for_counts(&lun.wwid, 3, 0);
    let metrics = exporter.metrics();
    assert_eq!(metrics.all_paths(), san.dm.all_paths());
    assert_eq!(metrics.get("multipath_path_valid", &[("wwid", &lun.wwid), ("path", &gone.name)]), None);
    assert_eq!(metrics.host().failed_paths, 0);
    assert_untouched(&metrics, &san.luns[1]);
    let events = exporter.events(&lun.wwid, "path_removed");
    let [event] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(event["path"], gone.name.as_str());
}

/// The map stays unchanged. The dead path stays a valid member under its former name until I/O
/// reaches it.
fn path_deleted_without_daemon(lab: &Lab) {
    let San { daemon, dm, luns } = San::start(lab, 4, 2, Conf::BLIND);
    daemon.stop();
    let (lun, gone) = (&luns[0], &luns[0].paths[0]);
    let exporter = lab.exporter().flag("--resync.interval=1s").start();
    let resyncs = || exporter.metrics().value("multipath_exporter_resyncs_total", &[("reason", "timer")]);
    let info = || exporter.metrics().labels("multipath_path_info", &[("wwid", &lun.wwid), ("devno", &gone.devno)]);
    let info_before = info();
    assert_eq!(info_before["path"], gone.name);

    gone.delete();

    let resyncs_before = resyncs();
    // The first reading may have begun before.
    eventually_eq("everything is read again", true, || resyncs() >= resyncs_before + 2.0);
    exporter.wait_for_counts(&lun.wwid, 4, 0);
    assert_eq!(exporter.metrics().all_paths(), dm.all_paths());
    assert_eq!(info(), info_before);
    assert_untouched(&exporter.metrics(), &luns[1]);

    let device = format!("if=/dev/{}", lun.map.sysfs_name());
    eventually_eq("reading meets the dead path", false, || {
        run("dd", [device.as_str(), "of=/dev/null", "bs=4k", "count=4", "iflag=direct"]);
        dm.paths(&lun.map.name)[&gone.devno]
    });
    exporter.wait_for_counts(&lun.wwid, 3, 1);
    assert_eq!(exporter.metrics().all_paths(), dm.all_paths());
    assert_eq!(info(), info_before);
    assert_untouched(&exporter.metrics(), &luns[1]);
}

/// The map goes with its last member, and all its series with it.
fn all_paths_deleted(lab: &Lab) {
    let san = San::start(lab, 4, 2, Conf::BLIND);
    let lun = &san.luns[0];
    let exporter = lab.exporter().start();

    lun.paths.iter().for_each(|disk| disk.delete());

    san.dm.wait_until_gone(&lun.wwid);
    eventually_eq("the device is gone", false, || exporter.metrics().mentions(&lun.wwid));
    let metrics = exporter.metrics();
    assert_eq!(metrics.host(), Host { devices: 1, paths: 4, ..Host::default() });
    assert_eq!(metrics.all_paths(), san.dm.all_paths());
    assert_untouched(&metrics, &san.luns[1]);
    assert_eq!(exporter.events(&lun.wwid, "device_removed").len(), 1);
}

/// multipathd cannot remove a map that something holds open. It leaves a table without members.
fn all_paths_deleted_of_a_map_in_use(lab: &Lab) {
    let san = San::start(lab, 4, 2, Conf::BLIND);
    let lun = &san.luns[0];
    let exporter = lab.exporter().start();
    let holder = File::open(format!("/dev/{}", lun.map.sysfs_name())).expect("a map can be opened");

    lun.paths.iter().for_each(|disk| disk.delete());

    exporter.wait_for_counts(&lun.wwid, 0, 0);
    assert!(san.dm.paths(&lun.map.name).is_empty());
    let metrics = exporter.metrics();
    let host = Host { devices: 2, degraded: 0, without_valid_paths: 1, paths: 4, failed_paths: 0 };
    assert_eq!(metrics.host(), host);
    assert_eq!(metrics.value("multipath_device_open_count", &[("wwid", &lun.wwid)]), 1.0);
    assert_eq!(exporter.multipath_health(), json!({lun.wwid.as_str(): {"valid_paths": 0, "failed_paths": []}}));
    assert_eq!(exporter.events(&lun.wwid, "path_removed").len(), 4);
    assert_untouched(&metrics, &san.luns[1]);
    drop(holder);
}
