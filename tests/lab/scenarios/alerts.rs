//! The notifications that people receive: from the kernel through the exporter, Prometheus and
//! Alertmanager to the words of a message.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::rc::Rc;
use std::thread::sleep;
use std::time::Duration;

use super::{Scenario, iscsi, looks_healthy, storms};
use crate::alerting::{ALL_GROUPS, Alerting, HOST, Notification, TROUBLE, Times};
use crate::boots::Boots;
use crate::dm::Dm;
use crate::exporter::{Exporter, Launch};
use crate::guest::Lab;
use crate::iscsi::{IscsiSan, Sessions, TARGET, portals, sessions};
use crate::memory_disks;
use crate::metrics::Metrics;
use crate::multipathd::Conf;
use crate::network::Networks;
use crate::nvme::{Array, SUBSYSTEM};
use crate::programs::run;
use crate::san::{Lun, San};
use crate::scsi_debug;
use crate::udevd;
use crate::wait::{PATIENCE, eventually_eq};

pub const ALL: &[Scenario] = &[
    Scenario::new("notifications_of_a_host", notifications_of_a_host),
    Scenario::new("notifications_of_a_lost_device", notifications_of_a_lost_device),
    Scenario::new("notifications_beside_restarts", notifications_beside_restarts),
    Scenario::new("notifications_after_a_boot", notifications_after_a_boot),
    Scenario::new("notifications_in_a_maintenance", notifications_in_a_maintenance),
    Scenario::new("one_notification_of_a_storm", one_notification_of_a_storm),
    Scenario::new("notifications_of_a_cut_network", notifications_of_a_cut_network),
    Scenario::new("notifications_of_sessions_ended", notifications_of_sessions_ended),
    Scenario::new("notifications_of_a_device_made_late", notifications_of_a_device_made_late),
    Scenario::new("notifications_of_what_looks_healthy", notifications_of_what_looks_healthy),
    Scenario::new("notifications_of_unreachable_namespaces", notifications_of_unreachable_namespaces),
    Scenario::new("notifications_of_a_flapping_session", notifications_of_a_flapping_session),
];

/// The exporter's memory file.
const MEMORY: &str = "/run/alerts-memory.json";

const MINUTE: Duration = Duration::from_secs(60);

/// A short interval, so that Alertmanager soon considers alerts ended when Prometheus has stopped.
const RESEND: Duration = Duration::from_secs(10);

/// A device without a valid path for longer than this counts as lost when its disks go.
const PATHLESS: Duration = Duration::from_secs(11);

const NETWORK_DOWN: &str = "A network of an iSCSI bond is down.";
const SESSION_DOWN: &str = "An iSCSI session is not logged in.";
const SESSION_FLAPS: &str = "An iSCSI session fails again and again.";
const NOT_ASSEMBLED: &str = "A disk with several paths is not used through multipath.";
const USED_DIRECTLY: &str = "A disk is used beside its multipath device.";
const STALLED: &str = "I/O of a multipath device stands still.";
const NOT_REDUNDANT: &str = "A multipath device has lost its redundancy.";
const UNREACHABLE: &str = "NVMe namespaces cannot be reached.";
const QUEUES: &str = "I/O waits for a device that has no valid path.";

fn faulty(wwids: &str) -> String {
    format!("Faulty multipath paths on host {HOST} on devices: [{wwids}]")
}

fn without_valid_paths(wwids: &str) -> String {
    format!("Multipath devices without valid paths on host {HOST}: [{wwids}]")
}

fn lost(wwids: &str) -> String {
    format!("Lost multipath devices on host {HOST}: [{wwids}]")
}

fn missing(wwids: &str) -> String {
    format!("Missing multipath paths on host {HOST} on devices: [{wwids}]")
}

fn recovered() -> String {
    format!("No faulty multipath paths on host {HOST}.")
}

/// A sentence about anything except the paths of a device.
fn fires(summary: &str) -> String {
    format!("Host {HOST}: {summary}")
}

/// The sentence about an ended alert of this device.
fn ended(alert: &str, wwid: &str) -> String {
    format!("No longer firing on host {HOST}: {alert}: [{wwid}]")
}

/// The sentence about an ended alert that names no device.
fn over(alert: &str) -> String {
    format!("No longer firing on host {HOST}: {alert}")
}

/// The number of recoveries in these notifications.
fn recoveries(told: &[Notification]) -> usize {
    told.iter().flat_map(|told| &told.firing).filter(|sentence| **sentence == recovered()).count()
}

/// Waits until these alerts have ended and one recovery has arrived.
#[track_caller]
fn until_recovered(alerting: &Alerting, ended: &[&str], may: &[&str]) -> Vec<Notification> {
    let told = alerting.until_told(&[&[&*recovered()], ended].concat(), may);
    assert_eq!(recoveries(&told), 1);
    told
}

/// An exporter with an empty memory.
fn forgetful(lab: &Lab) -> Launch<'_> {
    // An earlier scenario may have left it.
    let _ = fs::remove_file(MEMORY);
    remembering(lab)
}

fn remembering(lab: &Lab) -> Launch<'_> {
    lab.exporter().flag(&format!("--memory.file={MEMORY}"))
}

fn delete_disks(lun: &Lun) {
    lun.paths.iter().for_each(|disk| disk.delete());
}

/// oVirt's three messages, word for word. Removing a device in order causes no message: a healthy
/// one, and one with a missing path.
fn notifications_of_a_host(lab: &Lab) {
    let san = San::start(lab, 4, 2, Conf::WATCHFUL);
    let (lun, other) = (&san.luns[0], &san.luns[1]);
    let wwid = &lun.wwid;
    let holder = File::open(format!("/dev/{}", lun.map.sysfs_name())).expect("a map can be opened");
    let exporter = lab.exporter().start();
    let alerting = Alerting::start(lab, &exporter, TROUBLE, Times::default());
    alerting.assert_quiet();

    lun.paths[0].set_offline();
    let told = alerting.next();
    assert_eq!(told.firing, [faulty(wwid)]);
    assert_eq!(told.title, format!("[WARNING] Faulty multipath paths on host {HOST} on devices"));
    assert_eq!(told.details, [format!("{wwid} ({}): Failed paths: 1.", lun.name())]);
    alerting.assert_quiet();

    lun.paths[1..].iter().for_each(|disk| disk.set_offline());
    let told = alerting.until_firing(&[&without_valid_paths(wwid)]);
    assert_eq!(recoveries(&told), 0);
    let last = told.last().expect("it has been told");
    assert_eq!(last.title, format!("[CRITICAL] Multipath devices without valid paths on host {HOST}"));

    lun.paths[0].set_running();
    assert_eq!(recoveries(&alerting.until_firing(&[&faulty(wwid)])), 0);
    lun.paths[1..].iter().for_each(|disk| disk.set_running());
    let told = until_recovered(&alerting, &[&ended("MultipathFaultyPaths", wwid)], &[&faulty(wwid)]);
    let recovery = told.iter().find(|told| told.firing == [recovered()]).expect("it has been told by itself");
    assert_eq!(recovery.title, format!("[INFO] {}", recovered()));
    alerting.assert_over();

    other.paths[0].set_offline();
    alerting.until_firing(&[&faulty(&other.wwid)]);
    drop(holder);
    san.daemon.ask(&format!("del map {}", lun.name())).expect("multipathd answers");
    delete_disks(lun);
    san.dm.wait_until_gone(wwid);
    alerting.assert_quiet();
    san.daemon.ask(&format!("del map {}", other.name())).expect("multipathd answers");
    delete_disks(other);
    san.dm.wait_until_gone(&other.wwid);
    // No troubled device is left.
    alerting.until_told(&[&ended("MultipathFaultyPaths", &other.wwid), &recovered()], &[]);
    alerting.assert_over();
}

/// An unused device loses its paths, then its disks. It returns.
fn notifications_of_a_lost_device(lab: &Lab) {
    let san = San::start(lab, 2, 1, Conf::WATCHFUL);
    let lun = &san.luns[0];
    let wwid = &lun.wwid;
    let exporter = forgetful(lab).start();
    let alerting = Alerting::start(lab, &exporter, TROUBLE, Times::default());
    alerting.assert_quiet();

    lun.paths.iter().for_each(|disk| disk.set_offline());
    let told = alerting.until_firing(&[&without_valid_paths(wwid)]);
    let last = told.last().expect("it has been told");
    assert_eq!(last.title, format!("[WARNING] Multipath devices without valid paths on host {HOST}"));
    assert_eq!(last.details, [format!("{wwid} ({}): Nothing uses it.", lun.name())]);
    sleep(PATHLESS);

    delete_disks(lun);
    let told = alerting.until_firing(&[&lost(wwid)]);
    assert_eq!(
        told.last().map(|last| last.title.as_str()),
        Some(&*format!("[WARNING] Lost multipath devices on host {HOST}"))
    );
    assert_eq!(recoveries(&told), 0);
    alerting.assert_quiet();

    let address = exporter.address();
    drop(exporter);
    let _exporter = remembering(lab).at(address).start();
    alerting.wait_for_scrapes(true);
    alerting.assert_quiet();

    lun.paths.iter().for_each(|disk| disk.rescan());
    until_recovered(&alerting, &[&ended("MultipathDeviceLost", wwid)], &[]);
    alerting.assert_over();
}

/// The exporter and Prometheus are away during the trouble and at its end. One recovery is
/// announced, and never too early.
fn notifications_beside_restarts(lab: &Lab) {
    let san = San::start(lab, 2, 1, Conf::WATCHFUL);
    let lun = &san.luns[0];
    let wwid = &lun.wwid;
    let exporter = forgetful(lab).start();
    let alerting = Alerting::start(lab, &exporter, TROUBLE, Times { resend: RESEND, ..Times::default() });
    let address = exporter.address();
    let is_over = ended("MultipathFaultyPaths", wwid);
    lun.paths[0].set_offline();
    assert_eq!(alerting.next().firing, [faulty(wwid)]);

    drop(exporter);
    alerting.wait_for_scrapes(false);
    let exporter = remembering(lab).at(address).start();
    alerting.wait_for_scrapes(true);
    alerting.assert_quiet();

    alerting.stop_prometheus();
    let told = alerting.until_told(&[&is_over], &[]);
    assert_eq!(recoveries(&told), 0);
    alerting.start_prometheus();
    let told = alerting.until_firing(&[&faulty(wwid)]);
    assert_eq!(recoveries(&told), 0);

    drop(exporter);
    alerting.wait_for_scrapes(false);
    lun.paths[0].set_running();
    eventually_eq("multipathd reinstates the path", true, || san.dm.paths(&lun.map.name)[&lun.paths[0].devno]);
    let exporter = remembering(lab).at(address).start();
    until_recovered(&alerting, &[&is_over], &[]);
    drop(exporter);
    let _exporter = remembering(lab).at(address).start();
    alerting.wait_for_scrapes(true);
    alerting.assert_over();
}

/// Half of the paths are absent after a boot.
fn notifications_after_a_boot(lab: &Lab) {
    let boots = Boots::start();
    let san = San::start(lab, 2, 1, Conf::WATCHFUL);
    let lun = &san.luns[0];
    let wwid = &lun.wwid;
    let exporter = forgetful(lab).flag(&boots.flag()).start();
    let alerting = Alerting::start(lab, &exporter, TROUBLE, Times::default());
    let address = exporter.address();
    assert_eq!(exporter.terminate(PATIENCE).code(), Some(0));

    lun.paths[0].delete();
    eventually_eq("the kernel's map is without the disk", 1, || san.dm.paths(&lun.map.name).len());
    boots.tell(2, MINUTE);
    let exporter = remembering(lab).flag(&boots.flag()).at(address).start();
    alerting.wait_for_scrapes(true);
    alerting.assert_quiet();
    assert_eq!(exporter.terminate(PATIENCE).code(), Some(0));

    boots.tell(2, 7 * MINUTE);
    let _exporter = remembering(lab).flag(&boots.flag()).at(address).start();
    let told = alerting.next();
    assert_eq!(told.firing, [missing(wwid)]);
    assert_eq!(told.title, format!("[WARNING] Missing multipath paths on host {HOST} on devices"));
    assert_eq!(told.details, [format!("{wwid} ({}): Missing paths: 1.", lun.name())]);

    lun.paths[0].rescan();
    until_recovered(&alerting, &[&ended("MultipathPathsMissing", wwid)], &[]);
    alerting.assert_over();
}

/// The documented silence: it hides alerts that the work causes. It shows the alerts that the work
/// must not cause, and the recovery.
fn notifications_in_a_maintenance(lab: &Lab) {
    let san = San::start(lab, 2, 1, Conf::WATCHFUL);
    let lun = &san.luns[0];
    let wwid = &lun.wwid;
    let _holder = File::open(format!("/dev/{}", lun.map.sysfs_name())).expect("a map can be opened");
    let exporter = lab.exporter().start();
    let alerting = Alerting::start(lab, &exporter, TROUBLE, Times::default());
    alerting.silence_for_maintenance();

    lun.paths[0].set_offline();
    eventually_eq("the alert fires", 1, || alerting.firing("MultipathFaultyPaths").len());
    alerting.assert_quiet();

    lun.paths[1].set_offline();
    let told = alerting.next();
    assert_eq!(told.firing, [without_valid_paths(wwid)]);

    lun.paths.iter().for_each(|disk| disk.set_running());
    until_recovered(&alerting, &[&ended("MultipathNoValidPaths", wwid)], &[]);
    alerting.assert_over();
}

/// The paths of a hundred devices fail and return faster than a person can read. One message names
/// all devices.
fn one_notification_of_a_storm(lab: &Lab) {
    const DEVICES: usize = 100;
    // Long enough for Prometheus to see the end of the storm, beside other machines on the same
    // processors.
    const LONGER_THAN_THE_STORM: Duration = Duration::from_secs(45);
    udevd::stop();
    let disks = memory_disks::null_blk(4);
    let dm = Dm::open();
    storms::make_maps(&dm, DEVICES, &disks);
    let exporter = lab.exporter().start();
    let alerting =
        Alerting::start(lab, &exporter, TROUBLE, Times { group_wait: LONGER_THAN_THE_STORM, ..Times::default() });
    alerting.assert_quiet();

    // All paths fail and return twice. Then half of them fail.
    storms::storm(&dm, DEVICES, 2 * (4 + 4) + 2, &disks);

    let is_of_paths = |sentence: &&String| sentence.starts_with("Faulty multipath paths");
    let told = loop {
        let told = alerting.next();
        // All paths were valid twice in between, and a scrape may have seen that.
        if told.firing.iter().any(|sentence| is_of_paths(&sentence)) {
            break told;
        }
        assert_eq!(told.firing, [recovered()]);
    };
    let [sentence] = told.firing.as_slice() else { panic!("{told:?}") };
    let list = sentence.split_once('[').and_then(|(_, rest)| rest.strip_suffix(']')).unwrap_or_default();
    assert_eq!(*sentence, faulty(list));
    let wwids: Vec<_> = list.split(", ").collect();
    assert_eq!(wwids.len(), DEVICES, "none twice");
    assert_eq!(wwids.into_iter().map(str::to_owned).collect::<BTreeSet<_>>(), (0..DEVICES).map(storms::wwid).collect());
    alerting.assert_quiet();
}

/// One device over two networks with two ports of the array in each. The exporter knows its number
/// of paths.
struct Bond {
    // Paths of a device that has existed for long count as missing immediately.
    _boots: Boots,
    array: IscsiSan,
    exporter: Exporter,
    alerting: Alerting,
}

impl Bond {
    fn start(lab: &Lab) -> Self {
        let boots = Boots::start();
        let array = IscsiSan::start(lab, 1, 2, iscsi::CONF);
        let [one, other] = array.networks.0.each_ref().map(|network| network.interface);
        let config = format!(
            "expected_paths: [{{vendor: EXAMPLE, product: ARRAY, paths: 4}}]\n\
             iscsi_bonds: [{{name: storage, networks: [{one}, {other}], targets: ['{TARGET}']}}]\n"
        );
        let exporter = lab.exporter().config(&config).flag(&boots.flag()).start();
        let alerting = Alerting::start(lab, &exporter, ALL_GROUPS, Times::default());
        eventually_eq("both networks are seen", 1, || alerting.query("multipath_device_initiator_ports == 2").len());
        Bond { _boots: boots, array, exporter, alerting }
    }
}

/// A cut network is reported for the device, the bond and the sessions. Then the kernel removes the
/// disks, and later everything returns.
fn notifications_of_a_cut_network(lab: &Lab) {
    let Bond { array, exporter, alerting, .. } = &Bond::start(lab);
    let lun = &array.san.luns[0];
    let (wwid, [network, _]) = (&lun.wwid, &array.networks.0);
    let interface = network.interface;

    network.cut();
    let told = alerting.until_told(&[&faulty(wwid), &fires(NETWORK_DOWN), &fires(SESSION_DOWN)], &[]);
    let said = |detail: &str| told.iter().any(|told| told.details.iter().any(|said| said.contains(detail)));
    assert!(said(&format!("Network {interface} of iSCSI bond storage on host {HOST} does not reach all targets.")));
    for portal in portals(network) {
        let session = format!("on host {HOST} to {TARGET} at {portal} over {interface} is down.");
        assert!(said(&session) || alerting.next().details.iter().any(|said| said.contains(&session)), "{told:#?}");
    }

    let valid = array.san.dm.paths(&lun.map.name);
    let failed: Vec<_> = lun.paths.iter().filter(|disk| !valid[&disk.devno]).collect();
    assert_eq!(failed.len(), 2);
    failed.iter().for_each(|disk| disk.delete());
    let told = alerting.until_told(
        &[&missing(wwid)],
        &[&ended("MultipathFaultyPaths", wwid), &faulty(wwid), &fires(SESSION_DOWN), &fires(NETWORK_DOWN)],
    );
    assert_eq!(recoveries(&told), 0);
    assert_eq!(told.last().expect("it was told").details, [format!("{wwid} ({}): Missing paths: 2.", lun.name())]);

    network.mend();
    exporter.wait_for_sessions(4);
    failed.iter().for_each(|disk| disk.rescan());
    // One alert may end sooner, and a scrape may see a returning path as failed.
    let may = [fires(SESSION_DOWN), fires(NETWORK_DOWN), faulty(wwid), ended("MultipathFaultyPaths", wwid)];
    let may = may.each_ref().map(String::as_str);
    until_recovered(
        alerting,
        &[
            &ended("MultipathPathsMissing", wwid),
            &over("MultipathIscsiBondNetworkDown"),
            &over("MultipathIscsiSessionDown"),
        ],
        &may,
    );
    alerting.assert_over_but(&may);
}

/// The host logs out of sessions, so nothing has failed. Only the comparison with the expected
/// state shows that something is missing.
fn notifications_of_sessions_ended(lab: &Lab) {
    let Bond { array, alerting, .. } = &Bond::start(lab);
    let lun = &array.san.luns[0];
    let (wwid, [_, network]) = (&lun.wwid, &array.networks.0);

    array.log_out(network);
    alerting
        .until_told(&[&fires(NETWORK_DOWN), &missing(wwid)], &[&faulty(wwid), &ended("MultipathFaultyPaths", wwid)]);
    alerting.assert_quiet();

    array.log_in(network);
    until_recovered(alerting, &[&ended("MultipathPathsMissing", wwid), &over("MultipathIscsiBondNetworkDown")], &[]);
    alerting.assert_over();
}

/// Unassembled disks and an expected device that is absent are reported. Then the device appears
/// and loses all its paths, and its reader hangs.
fn notifications_of_a_device_made_late(lab: &Lab) {
    let boots = Boots::start();
    let disks = scsi_debug::load(4, 1, scsi_debug::PRODUCT);
    udevd::settle().expect("udevd keeps up");
    let seen = Metrics::parse(&lab.exporter().oneshot());
    let wwid = &seen.labels("multipath_unassembled_paths", &[])["wwid"];
    let config = format!("expected_paths: [{{wwid: {wwid}, paths: 4}}]\n");
    let exporter = lab.exporter().config(&config).flag(&boots.flag()).start();
    let alerting = Alerting::start(lab, &exporter, ALL_GROUPS, Times::default());

    let told = alerting.until_told(&[&missing(wwid), &fires(NOT_ASSEMBLED)], &[]);
    let said = |detail: &str| told.iter().any(|told| told.details.iter().any(|said| said.as_str() == detail));
    assert!(said(&format!("{wwid}: Missing paths: 4.")), "{told:#?}");
    assert!(said(&format!("Disk {wwid} on host {HOST} has 4 paths, and no multipath device holds it.")), "{told:#?}");

    let san = San::over(&disks, 1, lab, Conf { no_path_retry: "queue", ..Conf::WATCHFUL });
    let lun = &san.luns[0];
    assert_eq!(&lun.wwid, wwid);
    // The first appearance of a device is no recovery.
    alerting.until_told(&[&ended("MultipathPathsMissing", wwid), &ended("MultipathNotAssembled", wwid)], &[]);

    let _holder = File::open(format!("/dev/{}", lun.map.sysfs_name())).expect("a map can be opened");
    lun.paths.iter().for_each(|disk| disk.set_offline());
    // A scrape may see the first of them fail.
    let may = [faulty(wwid), ended("MultipathFaultyPaths", wwid)];
    let may = may.each_ref().map(String::as_str);
    let told = alerting.until_told(&[&without_valid_paths(wwid), &fires(QUEUES)], &may);
    let queues = format!("Device {wwid} on host {HOST} has no valid path and queues. Programs that use it hang.");
    assert!(told.iter().any(|told| told.details.contains(&queues)), "{told:#?}");

    lun.paths.iter().for_each(|disk| disk.set_running());
    // A scrape may also see some of them valid. The message about it repeats what has not ended yet.
    let still = without_valid_paths(wwid);
    until_recovered(
        &alerting,
        &[&ended("MultipathNoValidPaths", wwid), &ended("MultipathQueueingWithoutPaths", wwid)],
        &[&may[..], &[&still]].concat(),
    );
    alerting.assert_over_but(&may);
}

/// All paths are valid, but a disk is used directly. Then the array answers nothing. Finally half
/// of the paths are removed in order.
fn notifications_of_what_looks_healthy(lab: &Lab) {
    let boots = Boots::start();
    let array = IscsiSan::with(Sessions::Trusting, Rc::new(Networks::start()), lab, 1, 2, looks_healthy::WAITING);
    let lun = &array.san.luns[0];
    let (wwid, disk) = (&lun.wwid, &lun.paths[0]);
    looks_healthy::wait_for_ever(&lun.paths);
    // Two paths are enough, so none is missing when two of four are left.
    let config = "expected_paths: [{vendor: EXAMPLE, product: ARRAY, paths: 2}]\n";
    let start = |launch: Launch<'_>| launch.config(config).flag("--resync.interval=1s").flag(&boots.flag()).start();
    let first = start(forgetful(lab));
    let address = first.address();
    assert_eq!(first.metrics().value("multipath_device_redundant", &[("wwid", wwid)]), 1.0);
    assert!(first.terminate(PATIENCE).success());
    // Redundancy counts after six hours.
    boots.tell(1, Duration::from_secs(31 * 60 * 60));
    let exporter = start(remembering(lab).at(address));
    let alerting = Alerting::start(lab, &exporter, &["multipath", "multipath-devices"], Times::default());
    alerting.assert_quiet();

    let table = format!("0 2048 linear /dev/{} 0", disk.name);
    run("dmsetup", ["create", "beside", "--uuid", "LVM-beside", "--table", &table]);
    let told = alerting.until_told(&[&fires(USED_DIRECTLY)], &[]);
    let last = told.last().expect("it has been told");
    assert_eq!(last.details, [format!("Disk {} of {wwid} on host {HOST} is used directly (by dm).", disk.name)]);
    run("dmsetup", ["remove", "--retry", "beside"]);
    alerting.until_told(&[&ended("MultipathDiskUsedDirectly", wwid)], &[]);

    array.freeze();
    let reader = looks_healthy::read(&format!("/dev/{}", lun.map.sysfs_name()));
    alerting.until_told(&[&fires(STALLED)], &[]);
    array.thaw();
    looks_healthy::wait_for_end(vec![reader]);
    alerting.until_told(&[&ended("MultipathIoStalled", wwid)], &[]);

    array.log_out(&array.networks.0[1]);
    alerting.until_told(&[&fires(NOT_REDUNDANT)], &[]);
}

/// Namespaces have been inaccessible since the connect. Then the array makes them accessible.
fn notifications_of_unreachable_namespaces(lab: &Lab) {
    let array = Array::unconnected(Rc::new(Networks::start()));
    let set_ana = |state| [1, 2].into_iter().for_each(|port| array.set_ana(port, 2, state));
    set_ana("inaccessible");
    array.connect_all("");
    let exporter = lab.exporter().flag("--reread.interval=1s").start();
    let alerting = Alerting::start(lab, &exporter, &["multipath", "multipath-transport"], Times::default());

    let told = alerting.until_told(&[&fires(UNREACHABLE)], &[]);
    let last = told.last().expect("it has been told");
    assert_eq!(last.title, format!("[WARNING] Host {HOST}: {UNREACHABLE}"));
    assert_eq!(last.details, [format!("2 paths on host {HOST} to namespaces of {SUBSYSTEM} have no device.")]);
    alerting.assert_quiet();

    set_ana("optimized");
    alerting.until_told(&[&over("MultipathNvmeNamespaceUnreachable")], &[]);
    alerting.assert_over();
}

/// A session that fails three times is reported, although it is never down for long. Its logout is
/// not.
fn notifications_of_a_flapping_session(lab: &Lab) {
    let array = IscsiSan::start(lab, 1, 1, iscsi::CONF);
    let [network, other] = &array.networks.0;
    let exporter = lab.exporter().flag("--reread.interval=1s").start();
    // Three failures take ten seconds, and longer on a busy processor. All of them belong to the
    // same fifteen minutes.
    let times = Times { minute: Duration::from_secs(4), ..Times::default() };
    // If the checker sees the path before it is deleted, the rules on paths report the logout, too.
    let alerting = Alerting::start(lab, &exporter, &["multipath-transport"], times);
    alerting.assert_quiet();
    array.log_out(other);
    exporter.wait_for_sessions(1);
    array.log_in(other);
    exporter.wait_for_sessions(2);
    alerting.assert_quiet();

    let session = sessions(network).pop_first().expect("there is one");
    for _ in 0..3 {
        array.disconnect(&session);
        exporter.wait_for_sessions(1);
        array.reconnect();
        exporter.wait_for_sessions(2);
    }
    let beside = [&fires(SESSION_DOWN), &over("MultipathIscsiSessionDown")];
    let told = alerting.until_told(&[&fires(SESSION_FLAPS)], &beside.map(String::as_str));
    let portal = &portals(network)[0];
    let detail = format!("The session on host {HOST} to {TARGET} at {portal} failed 3 times within 15 minutes.");
    assert!(told.iter().any(|told| told.details.contains(&detail)), "{told:#?}");
}
