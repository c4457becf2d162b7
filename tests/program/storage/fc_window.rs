//! Fibre Channel ports that are down: which ones the exporter reports, and for how long.
//!
//! The host is that of [`super::fibre_channel`], which is written by hand.

use rustix::process::Signal;

use super::assert_no_errors;
use super::fibre_channel::{self, HOSTS, WWID, add_host_port, fabric, host_port, lose_for_good, remote_port, write};
use super::root;
use crate::harness::{Exporter, Host, Page, Tree, eventually};

/// A third port of the host. No path uses it.
const SPARE: &str = "0x10000090fa000007";
const WEEK: u64 = 7 * 24 * 60 * 60;
const REMOTE_UP: &str = "multipath_fc_remote_port_up";

/// The host and a directory for the memory. The host has been up for this many seconds.
struct Remembering {
    host: Host,
    directory: Tree,
}

impl Remembering {
    fn new(host: Host) -> Self {
        root::mount(&host, "8:99", "/dev/sdz1");
        let remembering = Remembering { host, directory: Tree::empty() };
        remembering.up_for(100_000);
        remembering
    }

    fn up_for(&self, seconds: u64) {
        self.host.sysfs.write("proc/sys/kernel/random/boot_id", "1\n");
        self.host.sysfs.write("proc/uptime", format!("{seconds}.00 1.00\n"));
    }

    /// An exporter with a memory file. On a busy machine it may be ready before it has read the
    /// file.
    fn exporter(&self) -> Exporter {
        let procfs = format!("--path.procfs={}", self.host.sysfs.path("proc").display());
        let file = format!("--memory.file={}", self.directory.path("memory.json").display());
        self.host.exporter(&[&procfs, &file])
    }
}

fn stop(mut exporter: Exporter) {
    exporter.signal(Signal::TERM);
    assert_eq!(exporter.wait().code(), Some(0));
}

fn host_port_up(page: &Page, port_name: &str) -> Option<f64> {
    page.value(&format!("multipath_fc_host_port_up{{initiator_port=\"{port_name}\"}}"))
}

fn await_host_port(exporter: &Exporter, up: Option<f64>) {
    let is_so = || (host_port_up(&exporter.metrics(), SPARE) == up).then_some(());
    eventually(format!("the spare port is {up:?}"), is_so);
}

/// The first sentence of the status page, and its sentences about host ports.
fn told(exporter: &Exporter) -> (String, Vec<String>) {
    let page = exporter.get("/").text().to_owned();
    let (_, rest) = page.split_once("<h1>").unwrap();
    let sentence = rest.split_once("</h1>").unwrap().0.rsplit("<span>").next().unwrap().replace("</span>", "");
    let lines = page.lines().filter(|line| line.contains("MultipathFcHostPortDown"));
    let words = |line: &str| line.split("<span>").nth(1).unwrap().split(". <a").next().unwrap().to_owned();
    (sentence, lines.map(words).collect())
}

#[test]
fn a_port_that_never_had_a_cable_alerts_nobody() {
    for state in ["Linkdown", "Offline", "Unknown", "Bypassed"] {
        let host = fabric();
        add_host_port(&host, "host7", SPARE, state);
        let exporter = host.exporter(&[]);
        let page = exporter.metrics();
        assert_eq!(page.of_metric("multipath_fc_host_port_up").len(), 2, "{state}");
        let note = format!("1 Fibre Channel port of this host is down and not in use: {SPARE} ({state})");
        assert_eq!(told(&exporter), ("All paths of the only device work".to_owned(), vec![note]));
        assert_no_errors(&page);
    }
}

#[test]
fn a_port_that_was_online_is_missed_through_restarts_until_the_window_ends() {
    let host = fabric();
    add_host_port(&host, "host7", SPARE, "Online");
    let remembering = Remembering::new(host);
    let exporter = remembering.exporter();
    assert_eq!(host_port_up(&exporter.metrics(), SPARE), Some(1.0));
    write(&remembering.host, &host_port("host7"), &[("port_state", "Linkdown")]);
    assert_eq!(host_port_up(&exporter.reread(), SPARE), Some(0.0));
    let down = format!("1 Fibre Channel port of this host is down: {SPARE} (Linkdown)");
    let not_well = "No path of the only device has failed, but there are other problems".to_owned();
    assert_eq!(told(&exporter), (not_well.clone(), vec![down.clone()]));
    stop(exporter);

    remembering.up_for(100_000 + WEEK - 3_600);
    let exporter = remembering.exporter();
    await_host_port(&exporter, Some(0.0));
    assert_eq!(told(&exporter), (not_well, vec![down]));
    stop(exporter);

    // Without a file, the exporter knows only what it has seen itself.
    assert_eq!(host_port_up(&remembering.host.exporter(&[]).metrics(), SPARE), None);

    remembering.up_for(100_000 + WEEK + 3_600);
    let exporter = remembering.exporter();
    await_host_port(&exporter, None);
    assert_eq!(told(&exporter).0, "All paths of the only device work");
    write(&remembering.host, &host_port("host7"), &[("port_state", "Online")]);
    assert_eq!(host_port_up(&exporter.reread(), SPARE), Some(1.0));
}

#[test]
fn a_port_that_carries_paths_is_missed_though_nobody_saw_it_online() {
    let host = fabric();
    write(&host, &host_port("host5"), &[("port_state", "Linkdown")]);
    let page = host.exporter(&[]).metrics();
    assert_eq!((host_port_up(&page, HOSTS[0].1), host_port_up(&page, HOSTS[1].1)), (Some(0.0), Some(1.0)));
}

#[test]
fn a_remote_port_that_was_removed_for_good_is_missed_until_the_window_ends() {
    let remembering = Remembering::new(fabric());
    lose_for_good(&remembering.host);
    let lost = |exporter: &Exporter| {
        let page = exporter.metrics();
        assert_eq!(
            page.of_metric(REMOTE_UP).len(),
            page.of_metric("multipath_fc_remote_port_state").len(),
            "{}",
            page.text()
        );
        let lost = page.of_metric(REMOTE_UP).iter().filter(|(_, up)| *up == "0").count();
        assert_eq!(page.of_metric(REMOTE_UP).len(), 3 + lost);
        lost
    };
    let is_told = |exporter: &Exporter| {
        exporter.get("/").text().contains("1 Fibre Channel port of the storage cannot be reached")
    };
    // No exporter saw the port up. Its time starts when the first one sees it, and a restart does
    // not start it again.
    for (after, expected) in [(0, 1), (WEEK - 3_600, 1), (WEEK + 3_600, 0), (2 * WEEK, 0)] {
        remembering.up_for(100_000 + after);
        let exporter = remembering.exporter();
        eventually(format!("{expected} lost after {after} s"), || (lost(&exporter) == expected).then_some(()));
        assert_eq!(is_told(&exporter), expected > 0, "{after}");
        stop(exporter);
    }
    let back = [("port_state", "Online"), ("roles", "FCP Target"), ("node_name", "0x200000a098aad1e3")];
    write(&remembering.host, &remote_port("host5", 2), &back);
    let exporter = remembering.exporter();
    assert_eq!(exporter.metrics().of_metric(REMOTE_UP).len(), 4);
    lose_for_good(&remembering.host);
    exporter.reread();
    assert_eq!(lost(&exporter), 1);
}

#[test]
fn a_takeover_of_half_a_minute_leaves_no_trace() {
    let host = fabric();
    let exporter = host.exporter(&[]);
    let before = exporter.metrics();
    let turn = |state: &str| {
        for scsi_host in ["host5", "host6"] {
            write(&host, &remote_port(scsi_host, 2), &[("port_state", state)]);
        }
    };
    // The ports of one array controller move to the other. The kernel blocks them for less than
    // `fast_io_fail_tmo`, so no path fails.
    turn("Blocked");
    let page = exporter.reread();
    assert_eq!(page.of_metric(REMOTE_UP).iter().filter(|(_, up)| *up == "0").count(), 2);
    assert_eq!((page.device("failed_paths", WWID), page.value("multipath_in_trouble")), (Some(0.0), Some(0.0)));
    assert_eq!((host_port_up(&page, HOSTS[0].1), host_port_up(&page, HOSTS[1].1)), (Some(1.0), Some(1.0)));
    turn("Online");
    let page = exporter.reread_twice();
    for metric in [
        REMOTE_UP,
        "multipath_fc_remote_port_state",
        "multipath_fc_host_port_up",
        "multipath_path_failures_total",
        "multipath_path_info",
        "multipath_device_missing_paths",
        "multipath_last_recovery_timestamp_seconds",
    ] {
        assert_eq!(page.of_metric(metric), before.of_metric(metric));
    }
    assert_eq!(exporter.get("/api/v1/events").json()["events"], serde_json::json!([]));
    assert_eq!(told(&exporter), ("All paths of the only device work".to_owned(), vec![]));
}

#[test]
fn a_virtual_port_is_a_port_of_its_own() {
    // NPIV: the kernel makes another SCSI host with another name on the same physical port.
    let host = fabric();
    add_host_port(&host, "host7", SPARE, "Online");
    write(&host, &host_port("host7"), &[("port_type", "NPIV VPORT")]);
    let exporter = host.exporter(&[]);
    write(&host, &host_port("host7"), &[("port_state", "Offline")]);
    let page = exporter.reread();
    assert_eq!((host_port_up(&page, SPARE), host_port_up(&page, HOSTS[0].1)), (Some(0.0), Some(1.0)));
    // The virtual port is deleted.
    host.sysfs.remove("class/fc_host/host7");
    assert_eq!(host_port_up(&exporter.reread(), SPARE), None);
    // The virtual machine starts here again, and the fabric refuses its port.
    add_host_port(&host, "host8", SPARE, "Linkdown");
    assert_eq!(host_port_up(&exporter.reread(), SPARE), Some(0.0));
}

#[test]
fn two_ports_of_one_name_are_up_if_either_is() {
    let host = fabric();
    for scsi_host in ["host7", "host8"] {
        add_host_port(&host, scsi_host, SPARE, "Online");
    }
    let exporter = host.exporter(&[]);
    for (first, second, up) in [("Linkdown", "Online", 1.0), ("Online", "Linkdown", 1.0), ("Linkdown", "Offline", 0.0)]
    {
        write(&host, &host_port("host7"), &[("port_state", first)]);
        write(&host, &host_port("host8"), &[("port_state", second)]);
        let page = exporter.reread();
        assert_eq!(host_port_up(&page, SPARE), Some(up), "{first} {second}");
        assert_eq!(told(&exporter).1.len(), usize::from(up == 0.0), "{first} {second}");
    }
}

#[test]
fn the_fabric_of_each_path_is_told() {
    let host = fabric();
    let fabrics = ["0x100000051e0a1b2c", "0x100000051e0a1b2d"];
    for ((scsi_host, _), fabric) in HOSTS.iter().zip(fabrics) {
        write(&host, &host_port(scsi_host), &[("fabric_name", fabric)]);
    }
    let exporter = host.exporter(&[]);
    let paths = |exporter: &Exporter| {
        let document = exporter.get("/api/v1/devices").json();
        let paths = document["devices"][0]["paths"].as_array().unwrap().clone();
        paths.into_iter().map(|path| path["fabric"].as_str().unwrap_or("none").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(paths(&exporter), [fabrics[0], fabrics[0], fabrics[1], fabrics[1]]);
    let page = exporter.get("/").text().to_owned();
    for ((_, port), fabric) in HOSTS.iter().zip(fabrics) {
        let cell = format!("<td>{port} <span class=\"words\">fabric {fabric}</span></td>");
        assert_eq!(page.matches(&cell).count(), 2, "{page}");
    }
    // A port that is down does not name its fabric. The former name must not remain.
    write(&host, &host_port("host5"), &[("port_state", "Linkdown"), ("fabric_name", "0xffffffffffffffff")]);
    exporter.reread();
    assert_eq!(paths(&exporter), [fabrics[0], fabrics[0], fabrics[1], fabrics[1]]);

    let exporter = fabric().exporter(&[]);
    assert_eq!(paths(&exporter), ["none"; 4]);
    assert!(!exporter.get("/").text().contains("fabric 0x"));
}

#[test]
fn what_is_told_of_fibre_channel_is_described() {
    crate::openapi::assert_described(&fibre_channel::fabric().exporter(&[]), "Fibre Channel");
}
