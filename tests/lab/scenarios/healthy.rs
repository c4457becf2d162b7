//! A healthy host: every number and label, compared with the kernel and multipathd.

use std::fs;
use std::time::Duration;

use serde_json::json;

use super::Scenario;
use crate::guest::Lab;
use crate::metrics::{Counts, Host, Labels, Metrics};
use crate::multipathd::Conf;
use crate::san::San;
use crate::scsi_debug;
use crate::wait::eventually_eq;

pub const ALL: &[Scenario] = &[
    Scenario::new("healthy", healthy),
    Scenario::new("status_page_shows_what_happened", status_page_shows_what_happened),
    Scenario::new("oneshot_prints_the_state", oneshot_prints_the_state),
    Scenario::new("sigterm_ends_at_once", sigterm_ends_at_once),
];

fn labels<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Labels {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn healthy(lab: &Lab) {
    let san = San::start(lab, 4, 2, Conf::BLIND);
    let exporter = lab.exporter().start();
    let metrics = exporter.metrics();

    let host = Host { devices: 2, degraded: 0, without_valid_paths: 0, paths: 8, failed_paths: 0 };
    assert_eq!(metrics.host(), host);
    assert_eq!(metrics.value("multipath_unassembled_wwids", &[]), 0.0);
    assert_eq!(metrics.value("multipath_daemon_up", &[]), 1.0);
    let daemon_state = metrics.state("multipath_daemon_state", &[]);
    assert!(["idle", "running"].contains(&daemon_state.as_str()), "{daemon_state}");
    for source in ["dm", "multipathd", "sysfs", "uevent"] {
        assert_eq!(metrics.value("multipath_exporter_source_up", &[("source", source)]), 1.0, "{source}");
    }
    assert_eq!(metrics.value("multipath_exporter_kernel_status", &[]), 1.0);
    assert_eq!(metrics.value("multipath_exporter_resyncs_total", &[("reason", "start")]), 1.0);

    let checked = san.daemon.ask("show paths raw format \"%d %p\"").expect("multipathd answers");
    let priorities: Labels =
        checked.lines().filter_map(|line| line.split_once(' ')).map(|(k, v)| (k.into(), v.into())).collect();
    for lun in &san.luns {
        let wwid = [("wwid", lun.wwid.as_str())];
        let sysfs_name = lun.map.sysfs_name();
        let info = labels([
            wwid[0],
            ("name", lun.name()),
            ("sysfs_name", &sysfs_name),
            ("uuid", &lun.map.uuid),
            ("kind", "dm"),
            ("vendor", "Linux"),
            ("product", "scsi_debug"),
            ("revision", "0191"),
        ]);
        assert_eq!(metrics.labels("multipath_device_info", &wwid), info);
        assert_eq!(metrics.counts(&lun.wwid), Some(Counts { valid: 4, failed: 0 }));
        assert_eq!(metrics.value("multipath_device_size_bytes", &wwid), f64::from(scsi_debug::SIZE_MB << 20));
        for zero in [
            "standby_paths",
            "queueing",
            "read_only",
            "open_count",
            "root",
            "inflight_requests",
            "path_faults_total",
            "queueing_timeouts_total",
            "repeated_path_failures_total",
        ] {
            assert_eq!(metrics.value(&format!("multipath_device_{zero}"), &wwid), 0.0, "{zero}");
        }
        for fault in [
            "suspended",
            "size_mismatched_paths",
            "read_only_mismatched_paths",
            "wwid_mismatched_paths",
            "marginal_paths",
            "disagreeing_paths",
        ] {
            assert_eq!(metrics.fault(&format!("multipath_device_{fault}"), &wwid), 0.0, "{fault}");
        }
        assert_eq!(metrics.path_events(&lun.wwid), (0, 0));
        assert_eq!(metrics.value("multipath_device_expected_paths", &wwid), 4.0);
        eventually_eq("the only group is in use", "active".to_owned(), || {
            exporter.metrics().state("multipath_path_group_state", &[wwid[0], ("group", "1")])
        });

        for disk in &lun.paths {
            let path = [wwid[0], ("path", disk.name.as_str())];
            let [devno, hctl] = [("devno", disk.devno.as_str()), ("hctl", disk.hctl.as_str())];
            let none = ["initiator_port", "target", "target_port"].map(|label| (label, ""));
            let info =
                labels(path.into_iter().chain([devno, hctl, ("transport", "unknown"), ("group", "1")]).chain(none));
            assert_eq!(metrics.labels("multipath_path_info", &path), info);
            assert_eq!(metrics.value("multipath_path_valid", &path), 1.0);
            assert_eq!(metrics.value("multipath_path_failures_total", &path), 0.0);
            assert_eq!(metrics.value("multipath_path_marginal", &path), 0.0);
            assert_eq!(metrics.value("multipath_path_priority", &path).to_string(), priorities[&disk.name]);
            assert_eq!(metrics.state("multipath_path_checker_state", &path), "ready");
            assert_eq!(metrics.state("multipath_path_device_state", &path), "running");
            let access_state = fs::read_to_string(format!("/sys/block/{}/device/access_state", disk.name));
            let access_state = access_state.expect("scsi_debug speaks ALUA");
            assert_eq!(metrics.state("multipath_path_access_state", &path), access_state.trim());
        }
    }

    assert_eq!(exporter.multipath_health(), json!({}));
    assert_eq!(exporter.json("/api/v1/events"), json!({"events": []}));
    let devices = exporter.json("/api/v1/devices");
    let devices = devices["devices"].as_array().expect("devices is a list");
    assert_eq!(devices.len(), 2);
    for (device, lun) in devices.iter().zip(&san.luns) {
        assert_eq!(device["wwid"], lun.wwid.as_str());
        assert_eq!(device["name"], lun.name());
        assert_eq!(device["sysfs_name"], lun.map.sysfs_name());
        assert_eq!(device["kind"], "dm");
        assert_eq!(device["state"], "healthy");
        let paths = device["paths"].as_array().expect("paths is a list");
        let mut names: Vec<_> = paths.iter().map(|path| path["path"].as_str().expect("a path has a name")).collect();
        names.sort_unstable();
        let mut disks: Vec<_> = lun.paths.iter().map(|disk| disk.name.as_str()).collect();
        disks.sort_unstable();
        assert_eq!(names, disks);
    }
}

fn status_page_shows_what_happened(lab: &Lab) {
    let san = San::start(lab, 2, 2, Conf::BLIND);
    let (lun, disk) = (&san.luns[0], &san.luns[0].paths[0]);
    let exporter = lab.exporter().start();
    san.dm.fail_path(lun.name(), &disk.devno);
    exporter.wait_for_counts(&lun.wwid, 1, 1);
    exporter.wait_for_path_events(&lun.wwid, 1, 0);
    let events = exporter.events(&lun.wwid, "path_failed");

    let page = exporter.get_ok("/").body;

    for lun in &san.luns {
        let disks = lun.paths.iter().map(|disk| disk.name.as_str());
        for word in [lun.name(), &lun.wwid].into_iter().chain(disks) {
            assert!(page.contains(word), "no {word} in {page}");
        }
    }
    let time = events[0]["time"].as_str().expect("an event has a time");
    let time_of_day = &time["2026-11-20T".len()..][.."10:00:00".len()];
    assert!(page.contains(time_of_day), "no event of {time_of_day} in {page}");
}

/// For the textfile collector: the same state, without counters since a start.
fn oneshot_prints_the_state(lab: &Lab) {
    let san = San::start(lab, 2, 2, Conf::BLIND);
    san.dm.fail_path(san.luns[0].name(), &san.luns[0].paths[0].devno);

    let metrics = Metrics::parse(&lab.exporter().oneshot());

    let host = Host { devices: 2, degraded: 1, without_valid_paths: 0, paths: 4, failed_paths: 1 };
    assert_eq!(metrics.host(), host);
    assert_eq!(metrics.all_paths(), san.dm.all_paths());
    for counter in [
        "process_cpu_seconds_total",
        "process_start_time_seconds",
        "multipath_exporter_scrapes_total",
        "multipath_exporter_uevents_total",
        "multipath_device_path_events_total",
        "multipath_path_failures_total",
    ] {
        assert_eq!(metrics.series(counter).count(), 0, "{counter}");
    }
}

fn sigterm_ends_at_once(lab: &Lab) {
    let _san = San::start(lab, 2, 1, Conf::BLIND);
    let exporter = lab.exporter().start();
    exporter.metrics();
    let status = exporter.terminate(Duration::from_secs(1));
    assert_eq!(status.code(), Some(0));
}
