//! What people are told: from the kernel through the exporter, Prometheus and Alertmanager to the words of a message.

use std::collections::BTreeSet;
use std::fs::File;
use std::time::Duration;

use super::{Scenario, iscsi, storms};
use crate::alerting::{ALL_GROUPS, Alerting, HOST, Notification, TROUBLE};
use crate::dm::Dm;
use crate::exporter::Exporter;
use crate::guest::Lab;
use crate::iscsi::{IscsiSan, TARGET, portals};
use crate::memory_disks;
use crate::metrics::Metrics;
use crate::multipathd::Conf;
use crate::network::Network;
use crate::san::{Lun, San};
use crate::scsi_debug;
use crate::udevd;
use crate::wait::eventually_eq;

pub const ALL: &[Scenario] = &[
    Scenario::new("notifications_of_a_host", notifications_of_a_host),
    Scenario::new("one_notification_of_a_storm", one_notification_of_a_storm),
    Scenario::new("notifications_of_a_cut_network", notifications_of_a_cut_network),
    Scenario::new("notifications_of_sessions_ended", notifications_of_sessions_ended),
    Scenario::new("notifications_of_a_device_made_late", notifications_of_a_device_made_late),
];

const NETWORK_DOWN: &str = "A network of an iSCSI bond is down.";
const SESSION_DOWN: &str = "An iSCSI session is not logged in.";
const ONE_FABRIC: &str = "All valid paths of a multipath device share one port.";
const FEWER_THAN_EXPECTED: &str = "A multipath device has fewer paths than are expected.";
const NOT_ASSEMBLED: &str = "A disk with several paths is not used through multipath.";
const QUEUES: &str = "I/O waits for a device that has no valid path.";

fn faulty(wwids: &str) -> String {
    format!("Faulty multipath paths on host {HOST} on devices: [{wwids}]")
}

fn without_valid_paths(wwids: &str) -> String {
    format!("Multipath devices without valid paths on host {HOST}: [{wwids}]")
}

fn missing(wwids: &str) -> String {
    format!("Missing multipath paths on host {HOST} on devices: [{wwids}]")
}

fn recovered() -> String {
    format!("No faulty multipath paths on host {HOST}")
}

/// Of devices that had been lost, or whose paths had been missing.
fn back(wwids: &str) -> String {
    format!(
        "{}\nNo longer counted as lost or missing (back, removed, or forgotten after a day): [{wwids}]",
        recovered()
    )
}

/// What is said of anything but the paths of a device.
fn fires(summary: &str) -> String {
    format!("Host {HOST}: {summary}")
}

/// That it is over.
fn resolved(summary: &str) -> String {
    format!("Resolved on host {HOST}: {summary}")
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
    san.dm.wait_until_gone(&lun.wwid);
    assert_no_recovery(&alerting.until(&format!("Lost multipath devices on host {HOST}: [{}]", lun.wwid)));

    let (early, late) = lun.paths.split_at(2);
    early.iter().for_each(|disk| disk.rescan());
    assert_no_recovery(&alerting.until(&missing(&lun.wwid)));
    late.iter().for_each(|disk| disk.rescan());
    assert_eq!(alerting.next().sentences, back(&lun.wwid).lines().collect::<Vec<_>>());
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
    // Until Prometheus has seen the end of it, too, beside other machines on the same processors.
    const LONGER_THAN_THE_STORM: Duration = Duration::from_secs(45);
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

/// One device over two networks with two ports of the array in each, and an exporter that knows that it has these.
struct Bond {
    array: IscsiSan,
    exporter: Exporter,
    alerting: Alerting,
}

impl Bond {
    fn start(lab: &Lab) -> Self {
        let array = IscsiSan::start(lab, 1, 2, iscsi::CONF);
        let [one, other] = array.networks.0.each_ref().map(|network| network.interface);
        let config = format!(
            "expected_paths: [{{vendor: EXAMPLE, product: ARRAY, paths: 4}}]\n\
             iscsi_bonds: [{{name: storage, networks: [{one}, {other}], targets: ['{TARGET}']}}]\n"
        );
        let exporter = lab.exporter().config(&config).start();
        let alerting = Alerting::start(lab, &exporter, ALL_GROUPS, Duration::ZERO);
        let both = r#"wwid_end:multipath_valid_ports:count{end="initiator"} == 2"#;
        eventually_eq("the rules have seen both networks", 1, || alerting.query(both).len());
        Bond { array, exporter, alerting }
    }
}

/// What is said of the bond, of the device and of its fabric without one of the networks.
struct HalfABond {
    network: String,
    missing: String,
    one_fabric: String,
}

impl HalfABond {
    fn of(lun: &Lun, down: &Network) -> Self {
        let (wwid, name, interface) = (&lun.wwid, lun.name(), down.interface);
        HalfABond {
            network: format!("Network {interface} of iSCSI bond storage on host {HOST} does not reach all targets."),
            missing: format!(
                "{wwid} ({name}): It has 2 paths, none of them failed, and had 4 in the last day. A day after they were \
                 last there this is forgotten; expected_paths in the exporter's configuration never forgets."
            ),
            one_fabric: format!(
                "All valid paths of device {wwid} ({name}) on host {HOST} go through one initiator port, and went \
                 through more in the last day."
            ),
        }
    }
}

/// A cut network is told as what it is to the device, to the bond, to the sessions, and once it has lasted to the fabric.
/// Then its disks are given up, and later all is back.
fn notifications_of_a_cut_network(lab: &Lab) {
    let Bond { array, exporter, alerting } = &Bond::start(lab);
    let lun = &array.san.luns[0];
    let (wwid, [network, _]) = (&lun.wwid, &array.networks.0);
    let details = HalfABond::of(lun, network);

    network.cut();
    let [device, bond, sessions, fabric] = alerting.each(
        [&faulty(wwid), &fires(NETWORK_DOWN), &fires(SESSION_DOWN), &fires(ONE_FABRIC)],
        // One of them may be lost sooner.
        &[&fires(SESSION_DOWN)],
    );
    assert_eq!(device.title, format!("[WARNING] Multipath devices on host {HOST}: 1 with faulty paths"));
    assert_eq!(bond.title, format!("[WARNING] Host {HOST}: {NETWORK_DOWN}"));
    assert_eq!(bond.details, [details.network]);
    assert_eq!(sessions.title, format!("[WARNING] Host {HOST}: {SESSION_DOWN}"));
    let over = network.interface;
    let session = |portal| format!("Host {HOST} has no session logged in to {TARGET} at {portal} over {over}.");
    assert_eq!(sessions.details, portals(network).map(session));
    assert_eq!(fabric.title, format!("[WARNING] Host {HOST}: {ONE_FABRIC}"));
    assert_eq!(fabric.details, [details.one_fabric]);

    let valid = array.san.dm.paths(&lun.map.name);
    let failed: Vec<_> = lun.paths.iter().filter(|disk| !valid[&disk.devno]).collect();
    assert_eq!(failed.len(), 2);
    failed.iter().for_each(|disk| disk.delete());
    let [device] = alerting.each([&missing(wwid)], &[]);
    assert_eq!(device.title, format!("[WARNING] Multipath devices on host {HOST}: 1 with missing paths"));
    assert_eq!(device.details, [details.missing]);

    network.mend();
    exporter.wait_for_sessions(4);
    failed.iter().for_each(|disk| disk.rescan());
    let told = alerting.each(
        [&back(wwid), &resolved(NETWORK_DOWN), &resolved(SESSION_DOWN), &resolved(ONE_FABRIC)],
        // One of them may be made sooner.
        &[&fires(SESSION_DOWN)],
    );
    let titles = [NETWORK_DOWN, SESSION_DOWN, ONE_FABRIC].map(|summary| format!("[RESOLVED] Host {HOST}: {summary}"));
    assert_eq!(told[0].title, format!("[RESOLVED] No faulty multipath paths on host {HOST}"));
    assert_eq!(told[1..].iter().map(|told| told.title.as_str()).collect::<Vec<_>>(), titles);
    alerting.assert_over();
}

/// In good order, so nothing has failed: that something is missing shows only beside what there was before. That it is less
/// than what is expected, too, need not be said beside it.
fn notifications_of_sessions_ended(lab: &Lab) {
    let Bond { array, alerting, .. } = &Bond::start(lab);
    let lun = &array.san.luns[0];
    let (wwid, [_, network]) = (&lun.wwid, &array.networks.0);
    let details = HalfABond::of(lun, network);

    array.log_out(network);
    let [bond, device, fabric] = alerting.each([&fires(NETWORK_DOWN), &missing(wwid), &fires(ONE_FABRIC)], &[]);
    assert_eq!(bond.details, [details.network]);
    assert_eq!(device.details, [details.missing]);
    assert_eq!(fabric.details, [details.one_fabric]);
    eventually_eq("fewer than expected, too", 1, || alerting.firing("MultipathExpectedPathsMissing").len());
    alerting.assert_quiet();

    array.log_in(network);
    alerting.each([&back(wwid), &resolved(NETWORK_DOWN), &resolved(ONE_FABRIC)], &[]);
    alerting.assert_over();
}

/// Disks that nothing assembles are told, and that a device is expected. Once it is there it loses all its paths, and what
/// reads it hangs.
fn notifications_of_a_device_made_late(lab: &Lab) {
    let disks = scsi_debug::load(4, 1, scsi_debug::PRODUCT);
    udevd::settle().expect("udevd keeps up");
    let seen = Metrics::parse(&lab.exporter().oneshot());
    let wwid = &seen.labels("multipath_unassembled_paths", &[])["wwid"];
    let exporter = lab.exporter().config(&format!("expected_paths: [{{wwid: {wwid}, paths: 4}}]\n")).start();
    let alerting = Alerting::start(lab, &exporter, ALL_GROUPS, Duration::ZERO);

    let [none, disk] = alerting.each([&fires(FEWER_THAN_EXPECTED), &fires(NOT_ASSEMBLED)], &[]);
    assert_eq!(none.title, format!("[WARNING] Host {HOST}: {FEWER_THAN_EXPECTED}"));
    let expected = format!("Device {wwid} on host {HOST} is expected to have 4 paths, and has none");
    assert_eq!(none.details, [format!("{expected}: there is no such device.")]);
    assert_eq!(disk.title, format!("[WARNING] Host {HOST}: {NOT_ASSEMBLED}"));
    let there = format!("Disk {wwid} on host {HOST} is there on 4 paths, and no multipath device holds it.");
    assert_eq!(disk.details, [there]);

    let san = San::over(&disks, 1, lab, Conf { no_path_retry: "queue", ..Conf::WATCHFUL });
    let lun = &san.luns[0];
    assert_eq!(&lun.wwid, wwid);
    let told = alerting.each([&resolved(FEWER_THAN_EXPECTED), &resolved(NOT_ASSEMBLED)], &[]);
    let titles = [FEWER_THAN_EXPECTED, NOT_ASSEMBLED].map(|summary| format!("[RESOLVED] Host {HOST}: {summary}"));
    assert_eq!(told.map(|told| told.title), titles);

    let _holder = File::open(format!("/dev/{}", lun.map.sysfs_name())).expect("a map can be opened");
    lun.paths.iter().for_each(|disk| disk.set_offline());
    // A scrape may see the first of them fail.
    let [device, io] = alerting.each([&without_valid_paths(wwid), &fires(QUEUES)], &[&faulty(wwid)]);
    assert_eq!(device.title, format!("[CRITICAL] Multipath devices on host {HOST}: 1 without valid paths"));
    assert_eq!(io.title, format!("[CRITICAL] Host {HOST}: {QUEUES}"));
    let device = format!("Device {wwid} ({}) on host {HOST}", lun.name());
    assert_eq!(io.details, [format!("{device} has no valid path and queues: whoever reads or writes it hangs.")]);

    lun.paths.iter().for_each(|disk| disk.set_running());
    // A scrape may see the last of them failed.
    let [_, io] = alerting.each([&recovered(), &resolved(QUEUES)], &[&faulty(wwid)]);
    assert_eq!(io.title, format!("[RESOLVED] Host {HOST}: {QUEUES}"));
    alerting.assert_over();
}
