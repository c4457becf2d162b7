//! Native NVMe multipath: the recorded host has two namespaces over two controllers, NVMe/TCP with ANA.

use rustix::process::Signal;
use serde_json::json;

use super::{assert_errors, assert_no_errors};
use crate::harness::{Exporter, Host, Page, eventually, recorded_tree};

pub const NVME: &str = "--collector.nvme";
/// `nvme0n1`: optimized through `nvme0`, non-optimized through `nvme1`.
pub const FIRST: &str = "uuid.6ba2c62e-71c1-41c8-b9f6-d2e788c59000";
/// `nvme0n2`: the opposite.
pub const SECOND: &str = "uuid.8ec73938-af51-4c85-b5a2-8b314497996d";
pub const NQN: &str = "nqn.2024-01.org.example:nvmearray1";

pub const CONTROLLERS: &str = "devices/virtual/nvme-fabrics/ctl";
pub const SUBSYSTEM: &str = "devices/virtual/nvme-subsystem/nvme-subsys0";

/// The numbers of members, valid, standby and failed paths.
fn counts(page: &Page, wwid: &str) -> [Option<f64>; 4] {
    ["paths", "valid_paths", "standby_paths", "failed_paths"].map(|metric| page.device(metric, wwid))
}

fn some(counts: [f64; 4]) -> [Option<f64>; 4] {
    counts.map(Some)
}

/// The numbers of degraded devices and of devices without valid paths.
fn unhealthy(page: &Page) -> [Option<f64>; 2] {
    ["multipath_degraded_devices", "multipath_devices_without_valid_paths"].map(|series| page.value(series))
}

/// Type and path of each event of this device.
fn events(exporter: &Exporter, wwid: &str) -> Vec<(String, String)> {
    let document = exporter.get("/api/v1/events").json();
    let events = document["events"].as_array().unwrap().iter().filter(|event| event["wwid"] == wwid);
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    events.map(|event| (text(&event["type"]), text(&event["path"]))).collect()
}

fn event(kind: &str, path: &str) -> (String, String) {
    (kind.to_owned(), path.to_owned())
}

fn events_total(page: &Page, wwid: &str, action: &str) -> Option<f64> {
    page.value(&format!("multipath_device_path_events_total{{wwid=\"{wwid}\",action=\"{action}\"}}"))
}

/// Removes a controller with its paths, like a disconnect.
pub fn remove_controller(host: &Host, name: &str) {
    for entry in [format!("class/nvme/{name}"), format!("{SUBSYSTEM}/{name}"), format!("{CONTROLLERS}/{name}")] {
        host.sysfs.remove(&entry);
    }
}

/// Brings `nvme0` of the recorded host back under another number.
pub fn add_controller(host: &Host, number: u32) {
    let recorded = recorded_tree("01-healthy");
    let lines = recorded.lines().filter(|line| line.contains("/ctl/nvme0"));
    let renumbered: String = lines.map(|line| format!("{line}\n")).collect();
    let renumbered = renumbered
        .replace("ctl/nvme0", &format!("ctl/nvme{number}"))
        .replace("nvme0c0n", &format!("nvme0c{number}n"))
        .replace("class/nvme/nvme0 ", &format!("class/nvme/nvme{number} "))
        .replace("nvme-subsys0/nvme0 ", &format!("nvme-subsys0/nvme{number} "));
    host.sysfs.record(&renumbered);
}

#[test]
fn heads_are_devices_and_controllers_their_paths() {
    let page = Host::recorded("01-healthy").exporter(&[NVME]).metrics();
    assert_eq!((page.value("multipath_devices"), page.value("multipath_paths")), (Some(4.0), Some(8.0)));
    let head = format!("wwid=\"{FIRST}\"");
    let info = ["name", "sysfs_name", "uuid", "kind", "vendor", "product", "revision"]
        .map(|label| page.label("multipath_device_info", &head, &format!(",{label}")).unwrap());
    let uuid = "6ba2c62e-71c1-41c8-b9f6-d2e788c59000";
    assert_eq!(info, ["nvme0n1", "nvme0n1", uuid, "nvme", "", "LABNVME", "6.1.0-56"]);
    assert_eq!(counts(&page, FIRST), some([2.0, 2.0, 0.0, 0.0]));
    for (metric, value) in [
        ("queueing", 1.0),
        ("read_only", 0.0),
        ("size_bytes", 67_108_864.0),
        ("root", 0.0),
        ("path_io_errors_total", 0.0),
    ] {
        assert_eq!(page.device(metric, FIRST), Some(value), "{metric}");
    }
    assert_eq!(page.ports("nvme0c0n1"), ["nvme-tcp", "e1", NQN, "10.10.1.2:4420"]);
    assert_eq!(page.ports("nvme0c1n2"), ["nvme-tcp", "e2", NQN, "10.10.2.2:4420"]);
    assert_eq!(page.label("multipath_path_info", "path=\"nvme0c1n2\"", ",group"), Some("2"));
    assert_no_errors(&page);
}

#[test]
fn a_path_fails_with_its_controller_and_is_called_as_before() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[NVME]);
    let labels = |page: &Page| -> Vec<String> {
        page.of_metric("multipath_path_info").into_iter().map(|(series, _)| series.to_owned()).collect()
    };
    let before = labels(&exporter.metrics());
    for (state, expected) in [
        ("02-net1-lost", [2.0, 1.0, 0.0, 1.0]),
        ("03-both-lost", [2.0, 0.0, 0.0, 2.0]),
        ("04-back", [2.0, 2.0, 0.0, 0.0]),
    ] {
        host.turn_into(state);
        let page = exporter.reread();
        for wwid in [FIRST, SECOND] {
            assert_eq!(counts(&page, wwid), some(expected), "{state}");
        }
        assert_eq!(labels(&page), before, "{state}");
        // The kernel's own state is shown beside it. The ANA state has not changed.
        let ana = page.label("multipath_path_ana_state", "path=\"nvme0c0n1\"", ",state");
        assert_eq!(ana, Some("optimized"), "{state}");
    }
}

#[test]
fn what_only_readings_show_is_counted_and_told() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[NVME, "--reread.interval=100ms"]);
    let failures = format!("multipath_path_failures_total{{wwid=\"{FIRST}\",path=\"nvme0c0n1\"}}");
    let last = format!("multipath_device_last_path_event_timestamp_seconds{{wwid=\"{FIRST}\",action=\"path_failed\"}}");
    let page = exporter.metrics();
    assert_eq!((page.value(&failures), page.value(&last)), (Some(0.0), None));
    for round in [1.0, 2.0] {
        host.turn_into("02-net1-lost");
        let page = exporter.await_values(&[(&failures, round)]);
        assert_eq!(events_total(&page, FIRST, "path_failed"), Some(round));
        assert!(page.value(&last) > Some(0.0));
        let line = exporter.await_log(&["path failed", FIRST, "nvme0c0n1"]);
        assert!(line.contains("level=warn") && line.contains("1 valid path is left"), "{line}");
        host.turn_into("04-back");
        let page = eventually("it is reinstated", || {
            let page = exporter.metrics();
            (events_total(&page, FIRST, "path_reinstated") == Some(round)).then_some(page)
        });
        assert_eq!(page.value(&failures), Some(round));
        let line = exporter.await_log(&["path reinstated", FIRST, "nvme0c0n1"]);
        assert!(line.contains("level=info") && line.contains("all paths are valid"), "{line}");
    }
    let both = [event("path_failed", "nvme0c0n1"), event("path_reinstated", "nvme0c0n1")];
    assert_eq!(events(&exporter, FIRST), [both.clone(), both].concat());
    let document = exporter.get("/api/v1/events").json();
    let told = document["events"].as_array().unwrap().iter().find(|event| event["wwid"] == FIRST).unwrap();
    for (key, value) in
        [("seqnum", json!(null)), ("devno", json!(null)), ("name", json!("nvme0n1")), ("valid_paths", json!(1))]
    {
        assert_eq!(told[key], value, "{key}");
    }
}

#[test]
fn what_is_found_failed_at_the_start_is_warned_of_and_is_no_event() {
    let host = Host::recorded("02-net1-lost");
    let exporter = host.exporter(&[NVME]);
    exporter.await_log(&["path failed", FIRST, "nvme0c0n1", "level=warn"]);
    assert_eq!(exporter.get("/api/v1/events").json(), json!({"events": []}));
    assert_eq!(events_total(&exporter.metrics(), FIRST, "path_failed"), Some(0.0));
}

#[test]
fn what_is_found_when_sysfs_can_first_be_read_is_no_event() {
    let host = Host::recorded("02-net1-lost");
    let unlistable = host.sysfs.make_unlistable("block");
    let exporter = host.unready_exporter(&[NVME]);
    exporter.await_log(&["source cannot be read", "sysfs"]);
    // The exporter can still read the controllers.
    eventually("multipathd has answered", || (!exporter.get("/-/ready").text().contains("multipathd")).then_some(()));
    assert_eq!(exporter.get("/-/ready").status, 503);
    drop(unlistable);
    exporter.signal(Signal::HUP);
    exporter.await_ready();
    let page = exporter.metrics();
    assert_eq!(page.value("multipath_devices"), Some(4.0));
    assert_eq!(events(&exporter, FIRST), []);
    assert_eq!(events_total(&page, FIRST, "path_failed"), Some(0.0));
    exporter.await_log(&["path failed", FIRST, "nvme0c0n1", "level=warn"]);
}

#[test]
fn a_controller_comes_back_under_another_number() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[NVME]);
    host.turn_into("02-net1-lost");
    assert_eq!(counts(&exporter.reread(), FIRST), some([2.0, 1.0, 0.0, 1.0]));
    remove_controller(&host, "nvme0");
    let page = exporter.reread();
    assert_eq!(counts(&page, FIRST), some([1.0, 1.0, 0.0, 0.0]));
    assert_eq!(unhealthy(&page), [Some(2.0), Some(0.0)], "the device-mapper devices");
    add_controller(&host, 5);
    let page = exporter.reread();
    assert_eq!(counts(&page, FIRST), some([2.0, 2.0, 0.0, 0.0]));
    assert_eq!(page.ports("nvme0c5n1"), ["nvme-tcp", "e1", NQN, "10.10.1.2:4420"]);
    assert_eq!(page.ports("nvme0c0n1")[0], "no such path");
    let told =
        [event("path_failed", "nvme0c0n1"), event("path_removed", "nvme0c0n1"), event("path_added", "nvme0c5n1")];
    assert_eq!(events(&exporter, FIRST), told);
    assert_eq!(events_total(&page, FIRST, "path_failed"), Some(1.0));
    let failures = |path| format!("multipath_path_failures_total{{wwid=\"{FIRST}\",path=\"{path}\"}}");
    assert_eq!((page.value(&failures("nvme0c5n1")), page.value(&failures("nvme0c0n1"))), (Some(0.0), None));
    assert_no_errors(&page);
}

#[test]
fn a_name_that_another_controller_has_got_says_where_that_one_goes() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[NVME]);
    let address = format!("{CONTROLLERS}/nvme0/address");
    host.sysfs.write(&format!("{CONTROLLERS}/nvme0/state"), "connecting\n");
    host.sysfs.write(&address, "traddr=10.10.3.2,trsvcid=4420,host_iface=e3\n");
    assert_eq!(exporter.reread().ports("nvme0c0n1"), ["nvme-tcp", "e1", NQN, "10.10.1.2:4420"]);
    host.sysfs.write(&format!("{CONTROLLERS}/nvme0/state"), "live\n");
    assert_eq!(exporter.reread().ports("nvme0c0n1"), ["nvme-tcp", "e3", NQN, "10.10.3.2:4420"]);
}

#[test]
fn a_head_without_controllers_has_no_valid_path_and_is_there_until_it_goes() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[NVME]);
    remove_controller(&host, "nvme0");
    remove_controller(&host, "nvme1");
    let page = exporter.reread();
    for wwid in [FIRST, SECOND] {
        assert_eq!(counts(&page, wwid), some([0.0; 4]));
    }
    assert_eq!(unhealthy(&page), [Some(0.0), Some(2.0)]);
    assert_eq!(page.value("multipath_devices"), Some(4.0));
    assert_no_errors(&page);

    host.sysfs.remove(&format!("{SUBSYSTEM}/nvme0n1"));
    host.sysfs.remove("block/nvme0n1");
    let page = exporter.reread();
    assert!(page.of_device(FIRST).is_empty(), "{:?}", page.of_device(FIRST));
    assert_eq!(counts(&page, SECOND), some([0.0; 4]));
    exporter.await_log(&["device removed", FIRST]);

    host.sysfs.remove("class/nvme-subsystem/nvme-subsys0");
    let page = exporter.reread();
    assert_eq!((page.value("multipath_devices"), unhealthy(&page)), (Some(2.0), [Some(0.0), Some(0.0)]));
}

#[test]
fn each_ana_state_makes_a_path_valid_standby_or_failed() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[NVME]);
    for (state, expected) in [
        ("non-optimized", [2.0, 2.0, 0.0, 0.0]),
        ("inaccessible", [2.0, 1.0, 1.0, 0.0]),
        ("change", [2.0, 1.0, 1.0, 0.0]),
        ("persistent-loss", [2.0, 1.0, 0.0, 1.0]),
        ("optimized", [2.0, 2.0, 0.0, 0.0]),
    ] {
        host.sysfs.write(&format!("{CONTROLLERS}/nvme0/nvme0c0n1/ana_state"), format!("{state}\n"));
        let page = exporter.reread();
        assert_eq!(counts(&page, FIRST), some(expected), "{state}");
        let shown = page.label("multipath_path_ana_state", "path=\"nvme0c0n1\"", ",state");
        assert_eq!(shown, Some(state));
        assert_eq!(counts(&page, SECOND), some([2.0, 2.0, 0.0, 0.0]), "{state}");
    }
}

#[test]
fn an_array_with_one_optimized_controller_is_healthy() {
    let host = Host::recorded("01-healthy");
    host.sysfs.write(&format!("{CONTROLLERS}/nvme1/nvme0c1n1/ana_state"), "inaccessible\n");
    host.sysfs.write(&format!("{CONTROLLERS}/nvme0/nvme0c0n2/ana_state"), "change\n");
    let exporter = host.exporter(&[NVME]);
    let page = exporter.metrics();
    assert_eq!(counts(&page, FIRST), some([2.0, 1.0, 1.0, 0.0]));
    assert_eq!((unhealthy(&page), page.value("multipath_failed_paths")), ([Some(0.0); 2], Some(0.0)));
    assert_eq!(exporter.get("/api/v1/multipath-health").json(), json!({"multipathHealth": {}}));

    // Without this controller, no path takes I/O.
    host.sysfs.write(&format!("{CONTROLLERS}/nvme0/state"), "connecting\n");
    let page = exporter.reread();
    assert_eq!(counts(&page, FIRST), some([2.0, 0.0, 1.0, 1.0]));
    assert_eq!(unhealthy(&page), [Some(1.0), Some(1.0)]);
}

/// No path fails, so the kernel sends no event.
#[test]
fn the_log_tells_when_an_array_puts_the_last_path_on_standby() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[NVME]);
    for controller in [0, 1] {
        host.sysfs.write(&format!("{CONTROLLERS}/nvme{controller}/nvme0c{controller}n1/ana_state"), "inaccessible\n");
    }
    let page = exporter.reread();
    assert_eq!((counts(&page, FIRST), unhealthy(&page)), (some([2.0, 0.0, 2.0, 0.0]), [Some(0.0), Some(1.0)]));
    assert_eq!(events(&exporter, FIRST), []);
    exporter.await_log(&["warn", "device without valid path", FIRST, "by a reading"]);
    host.exporter(&[NVME]).await_log(&["warn", "device without valid path", FIRST, "at start"]);
}

#[test]
fn without_ana_every_live_controller_is_a_valid_path() {
    let host = Host::recorded("01-healthy");
    for path in ["nvme0/nvme0c0n1", "nvme1/nvme0c1n1"] {
        host.sysfs.remove(&format!("{CONTROLLERS}/{path}/ana_state"));
        host.sysfs.remove(&format!("{CONTROLLERS}/{path}/ana_grpid"));
    }
    let page = host.exporter(&[NVME]).metrics();
    assert_eq!(counts(&page, FIRST), some([2.0, 2.0, 0.0, 0.0]));
    assert_eq!(page.label("multipath_path_ana_state", "path=\"nvme0c0n1\"", ",state"), None);
    assert_eq!(page.label("multipath_path_info", "path=\"nvme0c0n1\"", ",group"), Some(""));
}

/// A local disk that could be shared (CMIC), with this number of controllers.
pub fn local_disk(controllers: u32) -> Host {
    let host = Host::bare();
    let tree = &host.sysfs;
    let subsystem = "devices/virtual/nvme-subsystem/nvme-subsys7";
    tree.link("class/nvme-subsystem/nvme-subsys7", &format!("../../{subsystem}"));
    tree.write(&format!("{subsystem}/nvme7n1/wwid"), "eui.0025385a81b0a001\n");
    tree.write(&format!("{subsystem}/nvme7n1/size"), "131072\n");
    for number in 0..controllers {
        let directory = format!("devices/pci0000:00/0000:00:0{number}.0/nvme/nvme{number}");
        tree.link(&format!("class/nvme/nvme{number}"), &format!("../../{directory}"));
        tree.link(&format!("{subsystem}/nvme{number}"), &format!("../../../../{directory}"));
        for (file, content) in [
            ("state", "live".to_owned()),
            ("transport", "pcie".to_owned()),
            ("address", format!("0000:00:0{number}.0")),
            ("subsysnqn", "nqn.2014.08.org.example:disk".to_owned()),
            (&format!("nvme7c{number}n1/size"), "131072".to_owned()),
        ] {
            tree.write(&format!("{directory}/{file}"), format!("{content}\n"));
        }
    }
    host
}

#[test]
fn a_local_disk_that_takes_the_name_of_an_array_s_is_no_device() {
    let host = local_disk(2);
    let exporter = host.exporter(&[NVME]);
    let subsystem = "devices/virtual/nvme-subsystem/nvme-subsys7";
    for gone in [format!("{subsystem}/nvme7n1"), format!("{subsystem}/nvme1"), "class/nvme/nvme1".to_owned()] {
        host.sysfs.remove(&gone);
    }
    // Another object has another inode in sysfs.
    host.sysfs.write("elsewhere/wwid", "eui.0025385a81b0a002\n");
    host.sysfs.write(&format!("{subsystem}/nvme7n1/wwid"), "eui.0025385a81b0a002\n");
    assert_eq!(exporter.reread().value("multipath_devices"), Some(0.0));
}

#[test]
fn a_local_disk_is_no_device_whatever_becomes_of_its_controller() {
    let class = "class/nvme/nvme0";
    let host = local_disk(1);
    // The head is listed, but not readable yet.
    host.sysfs.remove(class);
    let exporter = host.exporter(&[NVME]);
    assert_eq!(exporter.metrics().value("multipath_devices"), Some(0.0));
    host.sysfs.link(class, "../../devices/pci0000:00/0000:00:00.0/nvme/nvme0");
    assert_eq!(exporter.reread().value("multipath_devices"), Some(0.0));
    // The disk was removed while a process holds it open.
    host.sysfs.remove(class);
    host.sysfs.remove("devices/virtual/nvme-subsystem/nvme-subsys7/nvme0");
    assert_eq!(exporter.reread().value("multipath_devices"), Some(0.0));
}

#[test]
fn a_local_disk_of_another_bus_is_no_device() {
    let host = local_disk(1);
    host.sysfs.write("devices/pci0000:00/0000:00:00.0/nvme/nvme0/transport", "apple-nvme\n");
    assert_eq!(host.exporter(&[NVME]).metrics().value("multipath_devices"), Some(0.0));
}

/// A restart after the head is gone: only the memory knows what it was.
#[test]
fn a_head_found_without_controllers_has_no_valid_path() {
    let host = Host::recorded("01-healthy");
    for name in ["nvme0", "nvme1"] {
        remove_controller(&host, name);
    }
    let page = host.exporter(&[NVME]).metrics();
    assert_eq!((counts(&page, FIRST), counts(&page, SECOND)), (some([0.0; 4]), some([0.0; 4])));
}

/// `nvme_core.multipath=N`: device mapper assembles the namespaces.
#[test]
fn a_map_over_namespaces_goes_over_their_controllers() {
    let host = Host::recorded("01-healthy");
    let namespace = format!("{CONTROLLERS}/nvme0/nvme0n1");
    for (file, content) in [("dev", "259:7"), ("size", "131072"), ("ro", "0"), ("wwid", "uuid.1")] {
        host.sysfs.write(&format!("{namespace}/{file}"), format!("{content}\n"));
    }
    host.sysfs.link(&format!("{namespace}/device"), "../../nvme0");
    host.sysfs.link("dev/block/259:7", &format!("../../{namespace}"));
    host.sysfs.add_map(9, "mpathn", "mpath-uuid.1", &[]);
    host.sysfs.link("devices/virtual/block/dm-9/slaves/nvme0n1", &format!("../../../../../{namespace}"));
    let exporter = host.exporter(&[NVME]);
    let page = exporter.metrics();
    assert_eq!(page.ports("nvme0n1"), ["nvme-tcp", "e1", NQN, "10.10.1.2:4420"]);
    assert_eq!(page.label("multipath_path_device_state", "path=\"nvme0n1\"", ",state"), Some("live"));
    assert_eq!(page.fault("wwid_mismatched_paths", "uuid.1"), 0.0);
    host.sysfs.write(&format!("{CONTROLLERS}/nvme0/state"), "connecting\n");
    let page = exporter.reread();
    assert_eq!(page.ports("nvme0n1"), ["nvme-tcp", "e1", NQN, "10.10.1.2:4420"]);
    assert_eq!(page.label("multipath_path_device_state", "path=\"nvme0n1\"", ",state"), Some("connecting"));
}

#[test]
fn a_lone_local_disk_is_no_device_and_one_with_two_ports_is() {
    let page = local_disk(1).exporter(&[NVME]).metrics();
    assert_eq!(page.value("multipath_devices"), Some(0.0));
    assert_no_errors(&page);

    let host = local_disk(2);
    let exporter = host.exporter(&[NVME]);
    let page = exporter.metrics();
    assert_eq!(counts(&page, "eui.0025385a81b0a001"), some([2.0, 2.0, 0.0, 0.0]));
    assert_eq!(page.ports("nvme7c1n1"), ["nvme-pcie", "", "nqn.2014.08.org.example:disk", "0000:00:01.0"]);

    // The disk remains a device when it loses a port.
    host.sysfs.remove("class/nvme/nvme1");
    host.sysfs.remove("devices/virtual/nvme-subsystem/nvme-subsys7/nvme1");
    assert_eq!(counts(&exporter.reread(), "eui.0025385a81b0a001"), some([1.0, 1.0, 0.0, 0.0]));
}

#[test]
fn over_fibre_channel_ports_are_called_by_their_world_wide_names() {
    let host = Host::recorded("01-healthy");
    host.sysfs.write(&format!("{CONTROLLERS}/nvme0/transport"), "fc\n");
    host.sysfs.write(
        &format!("{CONTROLLERS}/nvme0/address"),
        "traddr=nn-0x200900a098aad2dc:pn-0x200a00a098aad2dc,host_traddr=nn-0x20000090fadcc545:pn-0x10000090fadcc545\n",
    );
    let page = host.exporter(&[NVME]).metrics();
    assert_eq!(page.ports("nvme0c0n1"), ["nvme-fc", "0x10000090fadcc545", NQN, "0x200a00a098aad2dc"]);
}

#[test]
fn a_connection_bound_to_nothing_leaves_through_the_owner_of_its_address() {
    for (address, interface, portal) in [
        ("traddr=10.10.1.2,trsvcid=4420,src_addr=127.0.0.1", "lo", "10.10.1.2:4420"),
        ("traddr=10.10.1.2,trsvcid=4420,host_traddr=127.0.0.1", "lo", "10.10.1.2:4420"),
        ("traddr=2001:db8::2,trsvcid=4420,src_addr=192.0.2.255", "192.0.2.255", "[2001:db8::2]:4420"),
        ("traddr=10.10.1.2,trsvcid=4420", "", "10.10.1.2:4420"),
    ] {
        let host = Host::recorded("01-healthy");
        host.sysfs.write(&format!("{CONTROLLERS}/nvme0/address"), format!("{address}\n"));
        let exporter = host.exporter(&[NVME]);
        assert_eq!(exporter.metrics().ports("nvme0c0n1"), ["nvme-tcp", interface, NQN, portal], "{address}");
        // An interface may lose the address before the controller notices. The port keeps its name.
        if interface == "lo" {
            let moved = address.replace("127.0.0.1", "192.0.2.255");
            host.sysfs.write(&format!("{CONTROLLERS}/nvme0/address"), format!("{moved}\n"));
            assert_eq!(exporter.reread().ports("nvme0c0n1")[1], interface, "{address}");
        }
        // The source address disappears with the connection.
        host.sysfs.write(&format!("{CONTROLLERS}/nvme0/state"), "connecting\n");
        host.sysfs.write(&format!("{CONTROLLERS}/nvme0/address"), "traddr=10.10.1.2,trsvcid=4420\n");
        assert_eq!(exporter.reread().ports("nvme0c0n1")[1], interface, "{address}");
    }
}

#[test]
fn what_cannot_be_read_stays_as_last_read_and_nothing_else() {
    let head = format!("{SUBSYSTEM}/nvme0n1");
    let (controller, path) = (format!("{CONTROLLERS}/nvme0"), format!("{CONTROLLERS}/nvme0/nvme0c0n1"));
    for (file, shown_at_start) in [
        (format!("{head}/wwid"), false),
        (format!("{head}/size"), true),
        (format!("{head}/ro"), true),
        (format!("{head}/inflight"), true),
        (format!("{head}/uuid"), true),
        (format!("{SUBSYSTEM}/firmware_rev"), true),
        (format!("{SUBSYSTEM}/model"), true),
        (format!("{path}/size"), true),
        (format!("{path}/ro"), true),
        (format!("{path}/ana_state"), true),
        (format!("{path}/ana_grpid"), true),
        (format!("{controller}/address"), true),
        (format!("{controller}/transport"), true),
        (format!("{controller}/subsysnqn"), true),
    ] {
        let host = Host::recorded("01-healthy");
        let exporter = host.exporter(&[NVME]);
        let before = exporter.metrics();
        host.sysfs.make_unreadable(&file);
        let page = exporter.reread();
        assert_eq!(page.of_device(FIRST), before.of_device(FIRST), "{file}");

        // The exporter still follows its states.
        host.sysfs.write(&format!("{controller}/state"), "connecting\n");
        host.sysfs.write(&format!("{CONTROLLERS}/nvme1/nvme0c1n1/ana_state"), "inaccessible\n");
        let page = exporter.reread();
        assert_eq!(counts(&page, FIRST), some([2.0, 0.0, 1.0, 1.0]), "{file}");
        host.sysfs.write(&format!("{controller}/state"), "live\n");
        let page = exporter.reread();
        assert_eq!(page.ports("nvme0c0n1"), before.ports("nvme0c0n1"), "{file}");
        assert_eq!(page.device("size_bytes", FIRST), before.device("size_bytes", FIRST), "{file}");

        let page = host.exporter(&[NVME]).metrics();
        assert_errors(&file, &page);
        assert_eq!(counts(&page, FIRST)[0], shown_at_start.then_some(2.0), "{file}");
        assert_eq!(counts(&page, SECOND), some([2.0, 2.0, 0.0, 0.0]), "{file}");
    }
}

#[test]
fn numbers_that_make_no_sense_are_counted_and_nothing_is_lost() {
    for file in [
        format!("{SUBSYSTEM}/nvme0n1/size"),
        format!("{SUBSYSTEM}/nvme0n1/ro"),
        format!("{CONTROLLERS}/nvme0/nvme0c0n1/size"),
        format!("{CONTROLLERS}/nvme0/nvme0c0n1/ana_grpid"),
    ] {
        for content in ["", "many\n", "-1\n"] {
            let host = Host::recorded("01-healthy");
            let exporter = host.exporter(&[NVME]);
            let before = exporter.metrics();
            host.sysfs.write(&file, content);
            let page = exporter.reread();
            assert_eq!(page.of_device(FIRST), before.of_device(FIRST), "{file} {content:?}");
            assert_errors(&file, &page);
        }
    }
}

#[test]
fn a_controller_whose_state_cannot_be_read_stays_as_last_read() {
    let host = Host::recorded("02-net1-lost");
    let exporter = host.exporter(&[NVME]);
    for controller in ["nvme0", "nvme1"] {
        host.sysfs.make_unreadable(&format!("{CONTROLLERS}/{controller}/state"));
    }
    let page = exporter.reread();
    assert_eq!(counts(&page, FIRST), some([2.0, 1.0, 0.0, 1.0]));
    assert_eq!(page.ports("nvme0c0n1"), ["nvme-tcp", "e1", NQN, "10.10.1.2:4420"]);
    assert_errors("two states", &page);
}

#[test]
fn what_cannot_be_listed_stays_as_last_read() {
    for directory in ["class/nvme", "class/nvme-subsystem", "class/nvme-subsystem/nvme-subsys0"] {
        let host = Host::recorded("02-net1-lost");
        let exporter = host.exporter(&[NVME]);
        let before = exporter.metrics();
        host.sysfs.replace(directory, "");
        let page = exporter.reread();
        for wwid in [FIRST, SECOND] {
            assert_eq!(page.of_device(wwid), before.of_device(wwid), "{directory}");
        }
        assert_errors(directory, &page);
    }
}

#[test]
fn two_heads_of_one_wwid_are_one_device() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[NVME]);
    // Former heads that something still holds open.
    for stale in ["nvme0n0", "nvme0n9"] {
        host.sysfs.write(&format!("{SUBSYSTEM}/{stale}/wwid"), format!("{FIRST}\n"));
    }
    for _ in 0..3 {
        let page = exporter.reread();
        assert_eq!(counts(&page, FIRST), some([2.0, 2.0, 0.0, 0.0]));
        assert_eq!(page.value("multipath_devices"), Some(4.0));
    }
    assert_eq!(events(&exporter, FIRST), []);

    for name in ["nvme0", "nvme1"] {
        remove_controller(&host, name);
    }
    let page = exporter.reread();
    assert_eq!(counts(&page, FIRST), some([0.0; 4]));
    assert_eq!(page.label("multipath_device_info", &format!("wwid=\"{FIRST}\""), ",name"), Some("nvme0n1"));
}

#[test]
fn paths_that_differ_from_their_head_are_counted() {
    let host = Host::recorded("01-healthy");
    host.sysfs.write(&format!("{CONTROLLERS}/nvme0/nvme0c0n1/size"), "262144\n");
    host.sysfs.write(&format!("{CONTROLLERS}/nvme1/nvme0c1n1/ro"), "1\n");
    let page = host.exporter(&[NVME]).metrics();
    let mismatches = |page: &Page, wwid| {
        ["size", "read_only", "wwid"].map(|what| page.fault(&format!("{what}_mismatched_paths"), wwid))
    };
    assert_eq!(mismatches(&page, FIRST), [1.0, 1.0, 0.0]);
    assert_eq!(mismatches(&page, SECOND), [0.0; 3]);

    // The kernel clears the size of a path before it removes the path.
    host.sysfs.write(&format!("{CONTROLLERS}/nvme0/nvme0c0n1/size"), "0\n");
    assert_eq!(mismatches(&host.exporter(&[NVME]).metrics(), FIRST), [0.0, 1.0, 0.0]);
}

#[test]
fn a_head_of_which_one_wwid_goes_and_another_comes_is_another_device() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[NVME]);
    host.sysfs.write(&format!("{SUBSYSTEM}/nvme0n1/wwid"), "uuid.other\n");
    host.sysfs.write(&format!("{SUBSYSTEM}/nvme0n1/uuid"), "other\n");
    let page = exporter.reread();
    assert!(page.of_device(FIRST).is_empty());
    assert_eq!(counts(&page, "uuid.other"), some([2.0, 2.0, 0.0, 0.0]));
    assert_eq!(page.label("multipath_device_info", "wwid=\"uuid.other\"", ",uuid"), Some("other"));
    assert_eq!(events(&exporter, FIRST), [event("device_removed", "")]);
    assert_eq!(events(&exporter, "uuid.other"), [event("device_added", "")]);
}

#[test]
fn switched_off_nothing_is_read() {
    let host = Host::recorded("03-both-lost");
    host.sysfs.make_unreadable(&format!("{CONTROLLERS}/nvme0/state"));
    let page = host.exporter(&["--no-collector.nvme"]).metrics();
    assert_eq!((page.value("multipath_devices"), page.value("multipath_paths")), (Some(2.0), Some(4.0)));
    assert!(!page.samples().any(|(series, _)| series.contains("nvme")), "{}", page.text());
    assert_no_errors(&page);
}

#[test]
fn without_nvme_there_is_nothing_and_no_error() {
    let host = Host::recorded("01-healthy");
    host.sysfs.remove("class/nvme");
    host.sysfs.remove("class/nvme-subsystem");
    let page = host.exporter(&[NVME]).metrics();
    assert_eq!(page.value("multipath_devices"), Some(2.0));
    assert_no_errors(&page);
}

/// The head of a removed local disk. The kernel waits for its return.
#[test]
fn a_pulled_local_disk_is_no_device_while_its_removal_is_delayed() {
    let host = local_disk(1);
    let head = "devices/virtual/nvme-subsystem/nvme-subsys7/nvme7n1";
    host.sysfs.write(&format!("{head}/delayed_removal_secs"), "3600\n");
    for controller in ["class/nvme/nvme0", "devices/virtual/nvme-subsystem/nvme-subsys7/nvme0"] {
        host.sysfs.remove(controller);
    }
    let page = host.exporter(&[NVME]).metrics();
    assert_eq!(page.value("multipath_devices"), Some(0.0));
    assert_no_errors(&page);
}

/// Before Linux 5.3, a path's name contains the controller's ID instead of the controller's number.
#[test]
fn paths_are_found_by_whatever_number_is_in_their_names() {
    let host = Host::recorded("01-healthy");
    for (controller, number, id) in [("nvme0", 0, 257), ("nvme1", 1, 513)] {
        for namespace in [1, 2] {
            let path = |number| format!("{CONTROLLERS}/{controller}/nvme0c{number}n{namespace}");
            host.sysfs.rename(&path(number), &path(id));
        }
    }
    let page = host.exporter(&[NVME]).metrics();
    assert_eq!(counts(&page, FIRST), some([2.0, 2.0, 0.0, 0.0]));
    assert_eq!(page.ports("nvme0c513n2"), ["nvme-tcp", "e2", NQN, "10.10.2.2:4420"]);
    assert_no_errors(&page);
}

#[test]
fn a_path_of_another_size_than_its_head_is_failed() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[NVME]);
    let size = format!("{CONTROLLERS}/nvme0/nvme0c0n1/size");
    host.sysfs.write(&size, "262144\n");
    let page = exporter.reread();
    assert_eq!(counts(&page, FIRST), some([2.0, 1.0, 0.0, 1.0]));
    assert_eq!(page.device("size_mismatched_paths", FIRST), Some(1.0));
    // The kernel is removing the namespace.
    host.sysfs.write(&size, "0\n");
    assert_eq!(counts(&exporter.reread(), FIRST), some([2.0, 2.0, 0.0, 0.0]));
}

#[test]
fn a_controller_that_is_deleted_by_order_is_no_failure() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[NVME]);
    for controller in ["nvme0", "nvme1"] {
        host.sysfs.write(&format!("{CONTROLLERS}/{controller}/state"), "deleting\n");
        exporter.reread();
    }
    for controller in ["nvme0", "nvme1"] {
        remove_controller(&host, controller);
    }
    host.sysfs.remove("class/nvme-subsystem/nvme-subsys0");
    let page = exporter.reread();
    assert!(page.of_device(FIRST).is_empty());
    let told: Vec<_> = events(&exporter, FIRST).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(told, ["device_removed"]);
    let log = exporter.log();
    assert!(!log.iter().any(|line| line.contains("level=warn") && line.contains(FIRST)), "{log:?}");
}
