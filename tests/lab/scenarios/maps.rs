//! Maps appear, disappear, and change their names. Some have an unusual form.

use super::Scenario;
use crate::dm::{Dm, multipath_table};
use crate::guest::Lab;
use crate::memory_disks;
use crate::metrics::{Counts, Host};
use crate::multipathd::Conf;
use crate::programs::run;
use crate::san::San;
use crate::wait::{PATIENCE, eventually, eventually_eq};

pub const ALL: &[Scenario] = &[
    Scenario::new("map_flushed_and_made_again", map_flushed_and_made_again),
    Scenario::new("map_replaced_under_the_same_name", map_replaced_under_the_same_name),
    Scenario::new("map_renamed", map_renamed),
    Scenario::new("product_that_breaks_the_daemons_json", product_that_breaks_the_daemons_json),
    Scenario::new("map_suspended_and_resumed", map_suspended_and_resumed),
    Scenario::new("map_without_groups", map_without_groups),
    Scenario::new("map_over_ram_disks", map_over_ram_disks),
];

fn map_flushed_and_made_again(lab: &Lab) {
    let san = San::start(lab, 4, 2, Conf::BLIND);
    let (lun, other) = (&san.luns[0], &san.luns[1]);
    let exporter = lab.exporter().start();
    san.dm.fail_path(lun.name(), &lun.paths[0].devno);
    exporter.wait_for_counts(&lun.wwid, 3, 1);

    run("multipath", ["-f", lun.name()]);
    eventually_eq("the device is gone", false, || exporter.metrics().mentions(&lun.wwid));
    assert_eq!(exporter.metrics().host(), Host { devices: 1, paths: 4, ..Host::default() });
    assert_eq!(exporter.events(&lun.wwid, "device_removed").len(), 1);

    san.daemon.ask("reconfigure").expect("multipathd answers");
    exporter.wait_for_counts(&lun.wwid, 4, 0);
    let metrics = exporter.metrics();
    assert_eq!(metrics.labels("multipath_device_info", &[("wwid", &lun.wwid)])["name"], lun.name());
    assert_eq!(metrics.counts(&other.wwid), Some(Counts { valid: 4, failed: 0 }));
    assert_eq!(exporter.events(&lun.wwid, "device_added").len(), 1);
}

/// The name and the device number belonged to the old map. The WWID differs, so it is another
/// device.
fn map_replaced_under_the_same_name(lab: &Lab) {
    let disks = memory_disks::null_blk(4);
    let dm = Dm::open();
    dm.create_as("data", "mpath-old", &multipath_table("2 queue_mode bio", &[&disks]), 9);
    let exporter = lab.exporter().start();
    exporter.wait_for_counts("old", 4, 0);
    dm.fail_path("data", &disks[0]);
    exporter.wait_for_counts("old", 3, 1);

    eventually("udevd lets go of the map", PATIENCE, || dm.remove(b"data").map_err(|e| e.to_string()));
    dm.create_as("data", "mpath-new", &multipath_table("2 queue_mode bio", &[&disks[..3]]), 9);

    exporter.wait_for_counts("new", 3, 0);
    eventually_eq("the old device is gone", false, || exporter.metrics().mentions("old"));
    let metrics = exporter.metrics();
    assert_eq!(metrics.host(), Host { devices: 1, paths: 3, ..Host::default() });
    assert_eq!(metrics.path_events("new"), (0, 0));
    let info = metrics.labels("multipath_device_info", &[("wwid", "new")]);
    assert_eq!((info["name"].as_str(), info["sysfs_name"].as_str()), ("data", "dm-9"));
}

/// A device may have any bytes in its name, and no name affects another device. multipathd loses a
/// map whose name udev must mangle.
fn map_renamed(lab: &Lab) {
    let san = San::start(lab, 4, 2, Conf::BLIND);
    let (lun, other) = (&san.luns[0], &san.luns[1]);
    let exporter = lab.exporter().start();
    let current_name = || san.dm.multipaths()[&lun.wwid].name.clone();
    let assert_other_unharmed = || {
        let metrics = exporter.metrics();
        assert_eq!(metrics.labels("multipath_device_info", &[("wwid", &other.wwid)])["name"], other.name());
        assert_eq!(metrics.counts(&other.wwid), Some(Counts { valid: 4, failed: 0 }));
        for disk in &other.paths {
            let path = [("wwid", other.wwid.as_str()), ("path", disk.name.as_str())];
            assert_eq!(metrics.state("multipath_path_checker_state", &path), "ready");
        }
    };

    for (name, failed) in [("renamed", 0), ("données", 1), (r#"two words and a "quote""#, 2), (r"back\slash", 3)] {
        san.dm.rename(&current_name(), name.as_bytes());
        eventually_eq("the new name is exported", name.to_owned(), || {
            exporter.metrics().labels("multipath_device_info", &[("wwid", &lun.wwid)])["name"].clone()
        });
        exporter.wait_for_counts(&lun.wwid, 4 - failed, failed);
        san.dm.fail_path(name, &lun.paths[failed as usize].devno);
        exporter.wait_for_counts(&lun.wwid, 3 - failed, failed + 1);
        assert_other_unharmed();
    }

    san.dm.rename(&current_name(), b"latin-1: donn\xe9es");
    let is_named = || exporter.metrics().labels("multipath_device_info", &[("wwid", &lun.wwid)])["name"].clone();
    eventually_eq("a name that is no text is exported somehow", true, || is_named().starts_with("latin-1: donn"));
    exporter.wait_for_counts(&lun.wwid, 0, 4);
    assert_other_unharmed();
    assert_eq!(exporter.events(&lun.wwid, "device_removed").len(), 0, "it was the same device all along");
}

/// multipathd prints the identification of a disk without escaping, and the document is then
/// invalid JSON. `nobody` has no other source of path states.
fn product_that_breaks_the_daemons_json(lab: &Lab) {
    const PRODUCT: &str = "3.5\"disk";
    let san = San::of_product(PRODUCT, lab, 2, 2, Conf::BLIND);
    let document = san.daemon.ask("show maps json").expect("multipathd answers");
    assert!(serde_json::from_str::<serde_json::Value>(&document).is_err(), "{document}");
    let lun = &san.luns[0];

    let exporters = [lab.exporter().start(), lab.exporter().unprivileged().start()];
    for exporter in &exporters {
        assert_eq!(exporter.differences(&san.dm), Vec::<String>::new());
        let metrics = exporter.metrics();
        for lun in &san.luns {
            assert_eq!(metrics.labels("multipath_device_info", &[("wwid", &lun.wwid)])["product"], PRODUCT);
            for disk in &lun.paths {
                let path = [("wwid", lun.wwid.as_str()), ("path", disk.name.as_str())];
                assert_eq!(metrics.state("multipath_path_checker_state", &path), "ready");
                assert!(metrics.value("multipath_path_priority", &path) > 0.0);
            }
        }
    }
    san.dm.fail_path(lun.name(), &lun.paths[0].devno);
    exporters.iter().for_each(|exporter| exporter.wait_for_counts(&lun.wwid, 1, 1));
    eventually_eq("multipathd sees the kernel's state", true, || {
        let paths = san.daemon.ask("show paths raw format \"%d %t\"").expect("multipathd answers");
        paths.lines().any(|line| line == format!("{} failed", lun.paths[0].name))
    });
    let fresh = lab.exporter().unprivileged().start();
    assert_eq!(fresh.differences(&san.dm), Vec::<String>::new(), "a first reading knows of the failed path");
}

fn map_suspended_and_resumed(lab: &Lab) {
    let disks = memory_disks::null_blk(2);
    let dm = Dm::open();
    dm.create("data", "mpath-data", &multipath_table("2 queue_mode bio", &[&disks]));
    dm.create("other", "mpath-other", &multipath_table("2 queue_mode bio", &[&disks]));
    let exporter = lab.exporter().start();
    let suspended = |wwid| exporter.metrics().fault("multipath_device_suspended", &[("wwid", wwid)]);
    assert_eq!(suspended("data"), 0.0);

    dm.suspend("data");
    eventually_eq("the map is suspended", 1.0, || suspended("data"));
    assert_eq!(suspended("other"), 0.0);
    dm.fail_path("other", &disks[0]);
    exporter.wait_for_counts("other", 1, 1);
    exporter.wait_for_counts("data", 2, 0);

    dm.resume("data");
    eventually_eq("the map is resumed", 0.0, || suspended("data"));
}

fn map_without_groups(lab: &Lab) {
    let disks = memory_disks::null_blk(2);
    let dm = Dm::open();
    dm.create("empty", "mpath-empty", &multipath_table("0", &[]));
    dm.create("data", "mpath-data", &multipath_table("2 queue_mode bio", &[&disks]));

    let metrics = lab.exporter().start().metrics();

    let host = Host { devices: 2, degraded: 0, without_valid_paths: 1, paths: 2, failed_paths: 0 };
    assert_eq!(metrics.host(), host);
    assert_eq!(metrics.counts("empty"), Some(Counts { valid: 0, failed: 0 }));
    assert_eq!(metrics.counts("data"), Some(Counts { valid: 2, failed: 0 }));
}

/// A map without SCSI, without a request queue, and unknown to multipathd. A device of another kind
/// on top is not a multipath device.
fn map_over_ram_disks(lab: &Lab) {
    let disks = memory_disks::brd(2, 4);
    let dm = Dm::open();
    let table = multipath_table("2 queue_mode bio", &[&disks[..1], &disks[1..]]);
    dm.create("data", "mpath-data", &table);
    dm.create("volume", "LVM-volume", &table);
    let exporter = lab.exporter().start();

    let metrics = exporter.metrics();
    assert_eq!(metrics.host(), Host { devices: 1, paths: 2, ..Host::default() });
    assert_eq!(metrics.value("multipath_device_size_bytes", &[("wwid", "data")]), 2048.0 * 512.0);
    for (disk, (name, group)) in disks.iter().zip([("ram0", "1"), ("ram1", "2")]) {
        let info = metrics.labels("multipath_path_info", &[("wwid", "data"), ("path", name)]);
        assert_eq!(info["devno"], *disk);
        assert_eq!(info["hctl"], "");
        assert_eq!(info["group"], group);
        let state = metrics.series("multipath_path_device_state").find(|(labels, _)| labels["path"] == name);
        assert_eq!(state, None, "no SCSI state");
    }

    dm.fail_path("data", &disks[0]);
    exporter.wait_for_counts("data", 1, 1);
    dm.reinstate_path("data", &disks[0]);
    exporter.wait_for_counts("data", 2, 0);
    exporter.wait_for_path_events("data", 1, 1);
    assert_eq!(exporter.metrics().path_events("data"), (1, 1));
}
