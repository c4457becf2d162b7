//! The lab's own assumptions, without the exporter. Each way to break a path affects the kernel as
//! the other scenarios assume. If one of these fails, look here before you blame the exporter.

use super::Scenario;
use crate::dm::{self, multipath_table};
use crate::guest::Lab;
use crate::memory_disks;
use crate::multipathd::Conf;
use crate::san::San;
use crate::wait::eventually_eq;

pub const ALL: &[Scenario] = &[
    Scenario::new("lab_fail_path_hides_from_scsi", fail_path_hides_from_scsi),
    Scenario::new("lab_checker_fails_offline_paths", checker_fails_offline_paths),
    Scenario::new("lab_maps_of_every_shape", maps_of_every_shape),
];

/// `fail_path` fails the path only in the kernel, and a checker with a long interval leaves it so.
fn fail_path_hides_from_scsi(lab: &Lab) {
    let san = San::start(lab, 4, 2, Conf::BLIND);
    let (lun, other) = (&san.luns[0], &san.luns[1]);
    assert_ne!(lun.name(), lun.wwid, "user friendly names tell names and WWIDs apart");

    san.dm.fail_path(lun.name(), &lun.paths[0].devno);
    let failed: Vec<_> = san.dm.paths(&lun.map.name).into_iter().filter(|(_, active)| !active).collect();
    assert_eq!(failed, [(lun.paths[0].devno.clone(), false)]);
    assert!(san.dm.paths(&other.map.name).values().all(|active| *active));
    assert_eq!(lun.paths[0].scsi_state(), "running");
    let show = || san.daemon.ask("show paths raw format \"%d %t %T\"").expect("multipathd answers");
    let line = |states: &str| format!("{} {states}", lun.paths[0].name);
    eventually_eq("multipathd sees the kernel's state", true, || show().contains(&line("failed")));
    assert!(!san.dm.paths(&lun.map.name)[&lun.paths[0].devno], "nothing reinstates it");

    san.dm.reinstate_path(lun.name(), &lun.paths[0].devno);
    assert!(san.dm.paths(&lun.map.name).values().all(|active| *active));
}

/// A fault that the checker sees lasts until it is removed. Queueing ends when the retries have run
/// out.
fn checker_fails_offline_paths(lab: &Lab) {
    let san = San::start(lab, 2, 1, Conf { no_path_retry: "3", ..Conf::WATCHFUL });
    let lun = &san.luns[0];
    let queues = || san.dm.table(&lun.map.name).contains("queue_if_no_path");
    let active = || san.dm.paths(&lun.map.name).values().filter(|active| **active).count();
    assert!(queues());

    lun.paths.iter().for_each(|path| path.set_offline());
    eventually_eq("the checker fails both paths", 0, active);
    eventually_eq("the retries run out", false, queues);
    lun.paths.iter().for_each(|path| path.set_running());
    eventually_eq("the checker reinstates both paths", 2, active);
    eventually_eq("it queues again", true, queues);

    lun.paths[0].delete();
    eventually_eq("the deleted path leaves the table", 1, || san.dm.paths(&lun.map.name).len());
}

/// Maps without multipathd: over null_blk and brd, without a group, with any name.
fn maps_of_every_shape(_: &Lab) {
    let disks = memory_disks::null_blk(4);
    let dm = dm::Dm::open();
    dm.create("shared1", "mpath-shared1", &multipath_table("2 queue_mode bio", &[&disks[..2], &disks[2..]]));
    dm.create_as("shared2", "mpath-shared2", &multipath_table("2 queue_mode bio", &[&disks]), 77);
    dm.create("empty", "mpath-empty", &multipath_table("0", &[]));
    dm.create("other", "LVM-other", &multipath_table("2 queue_mode bio", &[&disks]));

    let maps = dm.multipaths();
    assert_eq!(maps.keys().collect::<Vec<_>>(), ["empty", "shared1", "shared2"]);
    assert_eq!(maps["shared2"].minor, 77);
    assert_eq!(maps["shared1"].size_bytes(), 2048 * 512);
    assert!(dm.paths(b"empty").is_empty());
    assert_eq!(dm.paths(b"shared1").len(), 4);

    for (i, name) in [&b"donn\xc3\xa9es"[..], b"two words \"quoted\"", b"latin-1 \xe9"].iter().enumerate() {
        let old = &dm.multipaths()["shared1"].name;
        dm.rename(old, name);
        assert_eq!(dm.multipaths()["shared1"].name, *name, "rename {i}");
    }

    dm.suspend("shared2");
    let suspended = || std::fs::read_to_string("/sys/block/dm-77/dm/suspended").expect("dm-77 is there");
    assert_eq!(suspended().trim(), "1");
    dm.resume("shared2");
    assert_eq!(suspended().trim(), "0");
}
