//! What people are told: from the kernel through the exporter, Prometheus and Alertmanager to the words of a message.

use std::collections::BTreeSet;
use std::fs::File;
use std::time::Duration;

use super::{Scenario, storms};
use crate::alerting::{Alerting, HOST, Notification, TROUBLE};
use crate::dm::Dm;
use crate::guest::Lab;
use crate::memory_disks;
use crate::multipathd::Conf;
use crate::san::San;
use crate::udevd;
use crate::wait::{PATIENCE, eventually, eventually_eq};

pub const ALL: &[Scenario] = &[
    Scenario::new("notifications_of_a_host", notifications_of_a_host),
    Scenario::new("one_notification_of_a_storm", one_notification_of_a_storm),
];

fn faulty(wwids: &str) -> String {
    format!("Faulty multipath paths on host {HOST} on devices: [{wwids}]")
}

fn without_valid_paths(wwids: &str) -> String {
    format!("Multipath devices without valid paths on host {HOST}: [{wwids}]")
}

fn recovered() -> String {
    format!("No faulty multipath paths on host {HOST}")
}

#[track_caller]
fn assert_no_recovery(told: &[Notification]) {
    assert!(told.iter().all(|told| !told.sentences.contains(&recovered())), "{told:#?}");
}

/// Paths fail, a device is lost and comes back, the exporter is away in the middle of it: people are told once of each
/// change, and of a recovery only when all is well.
fn notifications_of_a_host(lab: &Lab) {
    let san = San::start(lab, 4, 2, Conf::WATCHFUL);
    let (lun, other) = (&san.luns[0], &san.luns[1]);
    let holder = File::open(format!("/dev/{}", lun.map.sysfs_name())).expect("a map can be opened");
    let exporter = lab.exporter().start();
    let alerting = Alerting::start(lab, &exporter, TROUBLE, Duration::ZERO);
    alerting.assert_quiet();

    lun.paths[0].set_offline();
    let told = alerting.next();
    assert_eq!(told.sentences, [faulty(&lun.wwid)]);
    assert_eq!(told.title, format!("[WARNING] Multipath devices on host {HOST}: 1 with faulty paths"));
    assert_eq!(told.details, [format!("{} ({}): 1 failed, 3 still valid.", lun.wwid, lun.name())]);
    alerting.assert_quiet();

    lun.paths[1..].iter().for_each(|disk| disk.set_offline());
    let told = alerting.next();
    assert_eq!(told.sentences, [without_valid_paths(&lun.wwid)], "no longer among the faulty");
    assert_eq!(told.title, format!("[CRITICAL] Multipath devices on host {HOST}: 1 without valid paths"));

    lun.paths[0].set_running();
    assert_eq!(alerting.next().sentences, [faulty(&lun.wwid)]);

    drop(holder);
    // The valid path first: a device that loses its failed ones first has none left when it goes.
    lun.paths.iter().for_each(|disk| disk.delete());
    eventually("the kernel has no such map", PATIENCE, || match san.dm.multipaths().get(&lun.wwid) {
        None => Ok(()),
        // multipathd tries once, and does not if udevd happens to read the map then.
        Some(map) if san.dm.paths(&map.name).is_empty() => {
            san.dm.remove(&map.name).map_err(|e| format!("without members, but {e}"))
        }
        Some(map) => Err(san.dm.status(&map.name)),
    });
    assert_no_recovery(&alerting.until(&format!("Lost multipath devices on host {HOST}: [{}]", lun.wwid)));

    let (early, late) = lun.paths.split_at(2);
    early.iter().for_each(|disk| disk.rescan());
    let missing = format!("Missing multipath paths on host {HOST} on devices: [{}]", lun.wwid);
    assert_no_recovery(&alerting.until(&missing));
    late.iter().for_each(|disk| disk.rescan());
    let back =
        format!("No longer counted as lost or missing (back, removed, or forgotten after a day): [{}]", lun.wwid);
    assert_eq!(alerting.next().sentences, [recovered(), back]);
    exporter.wait_for_counts(&lun.wwid, 4, 0);

    let recovery_fires = || alerting.firing("MultipathPathsRecovered").len();
    eventually_eq("the recovery fires", 1, recovery_fires);
    other.paths[0].set_offline();
    assert_eq!(alerting.next().sentences, [faulty(&other.wwid)]);
    eventually_eq("the recovery has ended", 0, recovery_fires);
    other.paths[0].set_running();
    assert_eq!(alerting.next().sentences, [recovered()]);
    eventually_eq("the recovery fires", 1, recovery_fires);

    let address = exporter.address();
    drop(exporter);
    alerting.wait_for_scrapes(false);
    other.paths[1].set_offline();
    alerting.assert_quiet();
    let exporter = lab.exporter().at(address).start();
    assert_eq!(alerting.next().sentences, [faulty(&other.wwid)]);

    drop(exporter);
    alerting.wait_for_scrapes(false);
    alerting.assert_quiet();
    let _exporter = lab.exporter().at(address).start();
    alerting.wait_for_scrapes(true);
    alerting.assert_quiet();
    assert_eq!(alerting.firing("MultipathFaultyPaths").len(), 1);
}

/// Paths of a hundred devices fail and come back, faster than anyone can read: one message names all devices.
fn one_notification_of_a_storm(lab: &Lab) {
    const DEVICES: usize = 100;
    const LONGER_THAN_THE_STORM: Duration = Duration::from_secs(15);
    udevd::stop();
    let disks = memory_disks::null_blk(4);
    let dm = Dm::open();
    storms::make_maps(&dm, DEVICES, &disks);
    let exporter = lab.exporter().start();
    let alerting = Alerting::start(lab, &exporter, TROUBLE, LONGER_THAN_THE_STORM);
    alerting.assert_quiet();

    // All paths fail, all come back, and once more; then half of them fail.
    storms::storm(&dm, DEVICES, 2 * (4 + 4) + 2, &disks);

    let told = alerting.next();
    let [sentence] = told.sentences.as_slice() else { panic!("{told:?}") };
    let list = sentence.split_once('[').and_then(|(_, rest)| rest.strip_suffix(']')).unwrap_or_default();
    assert_eq!(*sentence, faulty(list));
    let wwids: Vec<_> = list.split(", ").collect();
    assert_eq!(wwids.len(), DEVICES, "none twice");
    assert_eq!(wwids.into_iter().map(str::to_owned).collect::<BTreeSet<_>>(), (0..DEVICES).map(storms::wwid).collect());
    assert_eq!(told.title, format!("[WARNING] Multipath devices on host {HOST}: {DEVICES} with faulty paths"));
    alerting.assert_quiet();
}
