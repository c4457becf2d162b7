//! The exporter as `nobody`, who may not read the kernel's status. It uses multipathd's answers,
//! and uevents where multipathd is silent.
//!
//! Uevents of one map that occur together arrive in reverse order (`DM_SEQNUM` shows it). A new map
//! counts them from 1 again.

use serde_json::Value;

use super::Scenario;
use crate::exporter::Exporter;
use crate::guest::Lab;
use crate::multipathd::Conf;
use crate::programs::Uninterrupted;
use crate::san::San;
use crate::wait::{PATIENCE, eventually, eventually_eq};

pub const ALL: &[Scenario] = &[
    Scenario::new("unprivileged_counts_as_root_does", unprivileged_counts_as_root_does),
    Scenario::new("unprivileged_follows_events_alone", unprivileged_follows_events_alone),
    Scenario::new("unprivileged_sees_a_map_made_anew", unprivileged_sees_a_map_made_anew),
];

#[track_caller]
fn assert_same_counts(san: &San, root: &Exporter, nobody: &Exporter) {
    for (who, exporter) in [("root", root), ("nobody", nobody)] {
        eventually_eq(&format!("{who} has the kernel's state"), Vec::new(), || exporter.differences(&san.dm));
    }
    let (root, nobody) = (root.metrics(), nobody.metrics());
    assert_eq!(nobody.host(), root.host());
    assert_eq!(nobody.devices(), root.devices());
}

fn unprivileged_counts_as_root_does(lab: &Lab) {
    let san = San::start(lab, 4, 2, Conf::BLIND);
    let lun = &san.luns[0];
    let root = lab.exporter().start();
    let nobody = lab.exporter().unprivileged().start();
    let metrics = nobody.metrics();
    assert_eq!(metrics.value("multipath_exporter_kernel_status", &[]), 0.0);
    // A source without permission is not faulty.
    for (source, up) in [("dm", None), ("multipathd", Some(1.0)), ("sysfs", Some(1.0)), ("uevent", Some(1.0))] {
        assert_eq!(metrics.get("multipath_exporter_source_up", &[("source", source)]), up, "{source}");
    }
    assert_same_counts(&san, &root, &nobody);

    for disk in &lun.paths {
        san.dm.fail_path(lun.name(), &disk.devno);
        assert_same_counts(&san, &root, &nobody);
    }
    assert_eq!(nobody.metrics().host().without_valid_paths, 1);
    for disk in &lun.paths[1..] {
        san.dm.reinstate_path(lun.name(), &disk.devno);
        assert_same_counts(&san, &root, &nobody);
    }
    for exporter in [&root, &nobody] {
        exporter.wait_for_path_events(&lun.wwid, 4, 3);
        assert_eq!(exporter.metrics().path_events(&lun.wwid), (4, 3));
    }

    drop(nobody);
    let nobody = lab.exporter().unprivileged().start();
    assert_eq!(nobody.metrics().all_paths(), san.dm.all_paths(), "the first reading knows of the failed path");
    assert_eq!(nobody.metrics().path_events(&lun.wwid), (0, 0));
}

fn unprivileged_follows_events_alone(lab: &Lab) {
    let san = San::start(lab, 4, 2, Conf::BLIND);
    let (lun, disk) = (&san.luns[0], &san.luns[0].paths[0]);
    let exporter = lab.exporter().unprivileged().start();
    san.daemon.freeze();
    eventually_eq("the daemon is seen to hang", 0.0, || exporter.metrics().value("multipath_daemon_up", &[]));

    let uninterrupted = Uninterrupted::start();
    for round in 1..=50_u64 {
        let ends_failed = round % 2 == 1;
        for fails in [ends_failed, !ends_failed, ends_failed] {
            if fails {
                san.dm.fail_path(lun.name(), &disk.devno)
            } else {
                san.dm.reinstate_path(lun.name(), &disk.devno)
            }
        }
        // Each round causes two events of its final kind and one of the other.
        let events = (round + round.div_ceil(2), round + round / 2);
        eventually_eq(
            &format!("all events of round {round} are counted, and the last one holds"),
            (events, Vec::new()),
            || (exporter.metrics().path_events(&lun.wwid), exporter.differences(&san.dm)),
        );
    }
    drop(uninterrupted);

    let mut events = exporter.events(&lun.wwid, "path_failed");
    events.extend(exporter.events(&lun.wwid, "path_reinstated"));
    events.sort_by_key(|event| event["seqnum"].as_u64());
    let is_late = |pair: &[Value]| pair[0]["dm_seqnum"].as_u64() > pair[1]["dm_seqnum"].as_u64();
    let late = events.windows(2).filter(|pair| is_late(pair)).count();
    lab.note(format!("of {} events, {late} came behind a later one", events.len()));
    assert!(late > 0, "the order of events was not put to the test");

    for disk in &lun.paths {
        san.dm.fail_path(lun.name(), &disk.devno);
    }
    exporter.wait_for_counts(&lun.wwid, 0, 4);
    for disk in &lun.paths {
        san.dm.reinstate_path(lun.name(), &disk.devno);
    }
    exporter.wait_for_counts(&lun.wwid, 4, 0);
}

/// The new map has the same name, number and UUID, and a path fails again. Facts about the old map
/// do not apply to it, and its events have lower numbers.
fn unprivileged_sees_a_map_made_anew(lab: &Lab) {
    let san = San::start(lab, 4, 2, Conf::BLIND);
    let (lun, disk) = (&san.luns[0], &san.luns[0].paths[0]);
    let exporter = lab.exporter().unprivileged().start();
    san.daemon.freeze();
    for _ in 0..5 {
        san.dm.fail_path(lun.name(), &disk.devno);
        san.dm.reinstate_path(lun.name(), &disk.devno);
    }
    san.dm.fail_path(lun.name(), &disk.devno);
    exporter.wait_for_counts(&lun.wwid, 3, 1);
    let table = san.dm.table(&lun.map.name);
    let make_anew = || {
        eventually("udevd lets go of the map", PATIENCE, || san.dm.remove(&lun.map.name).map_err(|e| e.to_string()));
        san.dm.create_as(lun.name(), &lun.map.uuid, &table, lun.map.minor);
    };

    make_anew();
    exporter.wait_for_counts(&lun.wwid, 4, 0);
    assert_eq!(exporter.differences(&san.dm), Vec::<String>::new());

    let _uninterrupted = Uninterrupted::start();
    for disk in lun.paths.iter().cycle().take(10) {
        make_anew();
        san.dm.fail_path(lun.name(), &disk.devno);
        eventually_eq(&format!("only {} has failed", disk.name), Vec::new(), || exporter.differences(&san.dm));
        exporter.wait_for_counts(&lun.wwid, 3, 1);
    }
}
