//! Paths fail and return in the kernel, while their SCSI state is always `running`.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Scenario;
use crate::guest::Lab;
use crate::http::EventStream;
use crate::metrics::{Host, Metrics};
use crate::multipathd::Conf;
use crate::san::San;
use crate::wait::{PATIENCE, eventually, eventually_eq};

/// The time within which an open stream reports a failure on a shared emulated processor.
const MOMENTS: Duration = Duration::from_secs(2);

pub const ALL: &[Scenario] = &[
    Scenario::new("one_path_failed", one_path_failed),
    Scenario::new("an_open_stream_tells_of_it", an_open_stream_tells_of_it),
    Scenario::new("all_paths_failed_and_reinstated", all_paths_failed_and_reinstated),
    Scenario::new("path_failed_before_the_start", path_failed_before_the_start),
];

fn one_path_failed(lab: &Lab) {
    let san = San::start(lab, 4, 2, Conf::BLIND);
    let (lun, other) = (&san.luns[0], &san.luns[1]);
    let exporter = lab.exporter().start();
    let disk = &lun.paths[1];

    san.dm.fail_path(lun.name(), &disk.devno);

    exporter.wait_for_counts(&lun.wwid, 3, 1);
    exporter.wait_for_path_events(&lun.wwid, 1, 0);
    let metrics = exporter.metrics();
    let host = Host { devices: 2, degraded: 1, without_valid_paths: 0, paths: 8, failed_paths: 1 };
    assert_eq!(metrics.host(), host);
    assert_eq!(metrics.all_paths(), san.dm.all_paths());
    let path = [("wwid", lun.wwid.as_str()), ("path", disk.name.as_str())];
    assert_eq!(metrics.value("multipath_path_failures_total", &path), 1.0);
    assert_eq!(metrics.path_events(&lun.wwid), (1, 0));
    assert_eq!(metrics.path_events(&other.wwid), (0, 0));
    let last_event =
        |action| metrics.get("multipath_device_last_path_event_timestamp_seconds", &[path[0], ("action", action)]);
    assert!(last_event("path_failed").is_some());
    assert_eq!(last_event("path_reinstated"), None, "absent until it has happened");
    assert_eq!(disk.scsi_state(), "running");
    assert_eq!(metrics.state("multipath_path_device_state", &path), "running");

    let health = json!({lun.wwid.as_str(): {"valid_paths": 3, "failed_paths": [disk.name]}});
    assert_eq!(exporter.multipath_health(), health);
    let devices = exporter.json("/api/v1/devices");
    assert_eq!(devices["devices"][0]["state"], "degraded");
    assert_eq!(devices["devices"][1]["state"], "healthy");
    let events = exporter.events(&lun.wwid, "path_failed");
    let [event] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(event["name"], lun.name());
    assert_eq!(event["path"], disk.name.as_str());
    assert_eq!(event["devno"], disk.devno.as_str());
    assert_eq!(event["valid_paths"], 3);
    assert!(event["seqnum"].is_u64() && event["dm_seqnum"].is_u64(), "{event}");
    exporter.wait_for_log_lines("warn", "path failed", 1);
    let warnings = exporter.log_lines("warn", "path failed");
    let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
    assert!(warning.contains(&disk.name) && warning.contains(lun.name()) && warning.contains('3'), "{warning}");
}

/// A browser with the status page behaves like this client.
fn an_open_stream_tells_of_it(lab: &Lab) {
    let san = San::start(lab, 4, 1, Conf::BLIND);
    let (lun, disk) = (&san.luns[0], &san.luns[0].paths[1]);
    let exporter = lab.exporter().start();
    let mut stream = exporter.follow_events(None);
    let next = |stream: &mut EventStream| stream.next().expect("the stream goes on");

    let failed = Instant::now();
    san.dm.fail_path(lun.name(), &disk.devno);
    let event = next(&mut stream);
    let took = failed.elapsed();

    assert!(took < MOMENTS, "told after {took:?}");
    lab.note(format!("an open stream told of a failed path after {took:.1?}"));
    assert_eq!((&event["type"], &event["wwid"]), (&json!("path_failed"), &json!(lun.wwid)));
    assert_eq!((&event["path"], &event["valid_paths"]), (&json!(disk.name), &json!(3)));
    assert!(event["seqnum"].is_u64(), "the kernel's own event, not a reading: {event}");
    exporter.wait_for_counts(&lun.wwid, 3, 1);
    let page = exporter.get_ok("/").body;
    assert!(page.contains("The only device has failed paths"), "{page}");

    // The client is away during the event. Then it returns with the last id that it received.
    let last_id = stream.last_id.clone();
    drop(stream);
    san.dm.reinstate_path(lun.name(), &disk.devno);
    exporter.wait_for_path_events(&lun.wwid, 1, 1);
    let event = next(&mut exporter.follow_events(Some(&last_id)));
    assert_eq!((&event["type"], &event["path"]), (&json!("path_reinstated"), &json!(disk.name)));
}

fn all_paths_failed_and_reinstated(lab: &Lab) {
    let san = San::start(lab, 4, 2, Conf::BLIND);
    let lun = &san.luns[0];
    let exporter = lab.exporter().start();

    for (disk, failed) in lun.paths.iter().zip(1..) {
        san.dm.fail_path(lun.name(), &disk.devno);
        exporter.wait_for_counts(&lun.wwid, 4 - failed, failed);
    }

    let host = Host { devices: 2, degraded: 0, without_valid_paths: 1, paths: 8, failed_paths: 4 };
    assert_eq!(exporter.metrics().host(), host);
    let mut names: Vec<_> = lun.paths.iter().map(|disk| disk.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(exporter.multipath_health(), json!({lun.wwid.as_str(): {"valid_paths": 0, "failed_paths": names}}));
    assert_eq!(exporter.json("/api/v1/devices")["devices"][0]["state"], "without_valid_paths");

    for (disk, valid) in lun.paths.iter().zip(1..) {
        san.dm.reinstate_path(lun.name(), &disk.devno);
        exporter.wait_for_counts(&lun.wwid, valid, 4 - valid);
    }

    exporter.wait_for_path_events(&lun.wwid, 4, 4);
    let metrics = exporter.metrics();
    assert_eq!(metrics.host(), Host { devices: 2, paths: 8, ..Host::default() });
    assert_eq!(metrics.path_events(&lun.wwid), (4, 4));
    for disk in &lun.paths {
        let path = [("wwid", lun.wwid.as_str()), ("path", disk.name.as_str())];
        assert_eq!(metrics.value("multipath_path_failures_total", &path), 1.0);
    }
    assert_eq!(exporter.multipath_health(), json!({}));
    for (kind, left) in [("path_failed", [3, 2, 1, 0]), ("path_reinstated", [1, 2, 3, 4])] {
        let events = exporter.events(&lun.wwid, kind);
        let valid_paths: Vec<_> = events.iter().map(|event| event["valid_paths"].clone()).collect();
        assert_eq!(valid_paths, left.map(Value::from), "{kind}");
    }
    exporter.wait_for_log_lines("info", "path reinstated", 4);
    assert_eq!(exporter.log_lines("warn", "path failed").len(), 4);
    assert_eq!(exporter.log_lines("info", "path reinstated").len(), 4);
}

/// oVirt's flow: the daemon is down while a path fails. It must know of the failure as soon as it
/// is back.
fn path_failed_before_the_start(lab: &Lab) {
    let san = San::start(lab, 4, 2, Conf::BLIND);
    let (lun, disk) = (&san.luns[0], &san.luns[0].paths[0]);
    let before = lab.exporter().start();
    before.wait_for_counts(&lun.wwid, 4, 0);
    drop(before);
    san.dm.fail_path(lun.name(), &disk.devno);

    let exporter = lab.exporter().spawn();
    let first = eventually("a scrape is answered", PATIENCE, || match exporter.get("/metrics") {
        Ok(answer) if answer.status == 200 => Ok(answer.body),
        Ok(answer) => {
            assert_eq!(answer.status, 503, "{}", answer.body);
            Err("not ready".to_owned())
        }
        Err(e) => Err(e.to_string()),
    });

    let metrics = Metrics::parse(&first);
    assert_eq!(metrics.all_paths(), san.dm.all_paths());
    assert_eq!(metrics.host().failed_paths, 1);
    let path = [("wwid", lun.wwid.as_str()), ("path", disk.name.as_str())];
    assert_eq!(metrics.value("multipath_path_failures_total", &path), 0.0, "it did not fail since the start");
    assert_eq!(metrics.path_events(&lun.wwid), (0, 0));
    let warned = || exporter.log_lines("warn", &format!("path={}", disk.name)).len();
    eventually_eq("the log tells of it", 1, warned);

    san.dm.reinstate_path(lun.name(), &disk.devno);
    exporter.wait_for_counts(&lun.wwid, 4, 0);
    exporter.wait_for_path_events(&lun.wwid, 0, 1);
    assert_eq!(exporter.events(&lun.wwid, "path_failed").len(), 0);
    assert_eq!(exporter.events(&lun.wwid, "path_reinstated").len(), 1);
    assert_eq!(warned(), 1, "not told twice");
}
