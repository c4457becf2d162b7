//! iSCSI sessions.

mod bonds;
mod failures;
mod offload;

use std::collections::BTreeMap;

use super::{SYSFS_ERRORS, assert_errors, assert_no_errors};
use crate::harness::{Host, MPATHA, MPATHB, Page, recorded_tree};

const SESSION1: &str = "devices/platform/host6/session1/iscsi_session/session1";
const SESSION2: &str = "devices/platform/host7/session2/iscsi_session/session2";
const CONNECTION1: &str = "devices/platform/host6/session1/connection1:0/iscsi_connection/connection1:0";
const CONNECTION2: &str = "devices/platform/host7/session2/connection2:0/iscsi_connection/connection2:0";
const HOST6: &str = "devices/platform/host6/iscsi_host/host6";
const HOST7: &str = "devices/platform/host7/iscsi_host/host7";

const TARGET: &str = "iqn.2024-01.org.example:array1";

/// Each session by name: initiator port, target, target port, and state (up is 1).
fn sessions(page: &Page) -> BTreeMap<String, (String, String, String, f64)> {
    let series = page.of_metric("multipath_iscsi_session_up");
    let session = |(series, value): (&str, &str)| {
        let label = |name| page.label("multipath_iscsi_session_up", series.split_once('{').unwrap().1, name);
        let label = |name| label(name).unwrap().to_owned();
        let value = (label(",initiator_port"), label(",target"), label("target_port"), value.parse().unwrap());
        (label("session"), value)
    };
    series.into_iter().map(session).collect()
}

fn session(initiator_port: &str, target_port: &str, up: f64) -> (String, String, String, f64) {
    (initiator_port.to_owned(), TARGET.to_owned(), target_port.to_owned(), up)
}

/// The two sessions of the recorded host with these states.
fn both(first_up: f64, second_up: f64) -> BTreeMap<String, (String, String, String, f64)> {
    let first = ("session1".to_owned(), session("e1", "10.10.1.2:3260", first_up));
    let second = ("session2".to_owned(), session("e2", "10.10.2.2:3260", second_up));
    BTreeMap::from([first, second])
}

fn state_of(page: &Page, session: &str) -> Option<String> {
    let session = format!("session=\"{session}\"");
    page.label("multipath_iscsi_session_state", &session, ",state").map(str::to_owned)
}

#[test]
fn sessions_and_paths_are_called_after_what_they_go_over() {
    let page = Host::recorded("01-healthy").exporter(&[]).metrics();
    assert_eq!(sessions(&page), both(1.0, 1.0));
    assert_eq!(page.ports("sdb"), ["iscsi", "e1", TARGET, "10.10.1.2:3260"]);
    assert_eq!(page.ports("sdd"), ["iscsi", "e2", TARGET, "10.10.2.2:3260"]);
    assert_no_errors(&page);
}

#[test]
fn labels_do_not_change_when_sessions_die_and_come_back() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    let before = exporter.metrics();
    let labels = |page: &Page| -> Vec<String> {
        let info = page.of_metric("multipath_path_info");
        info.into_iter().map(|(series, _)| series.to_owned()).collect()
    };
    for (state, first, second) in
        [("02-net1-lost", 0.0, 1.0), ("03-both-lost", 0.0, 0.0), ("02-net1-lost", 0.0, 1.0), ("04-back", 1.0, 1.0)]
    {
        host.turn_into(state);
        let page = exporter.reread();
        assert_eq!(sessions(&page), both(first, second), "{state}");
        assert_eq!(labels(&page), labels(&before), "{state}");
        assert_no_errors(&page);
    }
}

#[test]
fn the_states_of_sessions_are_the_kernels() {
    let host = Host::recorded("02-net1-lost");
    let exporter = host.exporter(&[]);
    let page = exporter.metrics();
    assert_eq!(state_of(&page, "session1").as_deref(), Some("FREE"));
    assert_eq!(state_of(&page, "session2").as_deref(), Some("LOGGED_IN"));
    for state in ["FAILED", "ON HOLD"] {
        host.sysfs.write(&format!("{SESSION2}/state"), format!("{state}\n"));
        let page = exporter.reread();
        assert_eq!(state_of(&page, "session2").as_deref(), Some(state));
        assert_eq!(sessions(&page), both(0.0, 0.0));
    }
}

#[test]
fn members_are_counted_by_the_session_that_they_use() {
    let host = Host::recorded("02-net1-lost");
    let exporter = host.exporter(&["--no-collector.paths"]);
    let paths = |page: &Page| -> Vec<f64> {
        let series = page.of_metric("multipath_iscsi_session_paths");
        assert!(series.iter().all(|(series, _)| series.contains(&format!(",target=\"{TARGET}\""))), "{series:?}");
        series.into_iter().map(|(_, value)| value.parse().unwrap()).collect()
    };
    // A failed path still counts as a path.
    assert_eq!(paths(&exporter.metrics()), [2.0, 2.0]);
    host.sysfs.remove("devices/platform/host7/session2/target7:0:0/7:0:0:2");
    assert_eq!(paths(&exporter.reread()), [2.0, 1.0]);
    host.sysfs.remove("devices/virtual/block/dm-1/slaves/sdc");
    assert_eq!(paths(&exporter.reread()), [2.0, 0.0]);
}

#[test]
fn a_network_that_is_down_at_the_start_is_named_all_the_same() {
    let host = Host::recorded("03-both-lost");
    let exporter = host.exporter(&[]);
    let page = exporter.metrics();
    assert_eq!(sessions(&page), both(0.0, 0.0));
    assert_eq!(page.ports("sdb"), ["iscsi", "e1", TARGET, "10.10.1.2:3260"]);
    assert_no_errors(&page);

    host.turn_into("04-back");
    assert_eq!(sessions(&exporter.reread()), both(1.0, 1.0));
}

#[test]
fn a_session_that_is_bound_to_nothing_leaves_through_the_owner_of_its_address_or_from_that() {
    for (netdev, address, interface) in [
        ("(null)", Some("127.0.0.1"), "lo"),
        ("default", Some("127.0.0.1"), "lo"),
        ("", Some("127.0.0.1"), "lo"),
        ("(null)", Some("192.0.2.255"), "192.0.2.255"),
        ("default", Some("192.0.2.255"), "192.0.2.255"),
        ("(null)", Some("(null)"), ""),
        ("(null)", None, ""),
        ("default", None, ""),
        // An adapter's name for its own port.
        ("host7", Some("127.0.0.1"), "lo"),
        ("host7", None, ""),
        ("e9", Some("127.0.0.1"), "e9"),
        ("e9", None, "e9"),
    ] {
        let host = Host::recorded("01-healthy");
        host.sysfs.write(&format!("{HOST6}/netdev"), format!("{netdev}\n"));
        match address {
            Some(address) => host.sysfs.write(&format!("{HOST6}/ipaddress"), format!("{address}\n")),
            None => host.sysfs.remove(&format!("{HOST6}/ipaddress")),
        }
        let page = host.exporter(&[]).metrics();
        let what = format!("{netdev} {address:?}");
        assert_eq!(sessions(&page)["session1"], session(interface, "10.10.1.2:3260", 1.0), "{what}");
        assert_eq!(page.ports("sda")[1], interface, "{what}");
        assert_no_errors(&page);
    }
}

#[test]
fn a_session_bound_to_nothing_is_named_once_its_network_is_there() {
    let host = Host::recorded("02-net1-lost");
    host.sysfs.write(&format!("{HOST6}/netdev"), "default\n");
    let exporter = host.exporter(&[]);
    assert_eq!(sessions(&exporter.metrics())["session1"], session("", "10.10.1.2:3260", 0.0));
    host.sysfs.write(&format!("{HOST6}/ipaddress"), "127.0.0.1\n");
    host.sysfs.write(&format!("{SESSION1}/state"), "LOGGED_IN\n");
    assert_eq!(sessions(&exporter.reread())["session1"], session("lo", "10.10.1.2:3260", 1.0));

    // The label remains when the session dies again.
    host.sysfs.remove(&format!("{HOST6}/ipaddress"));
    host.sysfs.write(&format!("{SESSION1}/state"), "FAILED\n");
    let page = exporter.reread();
    assert_eq!(sessions(&page)["session1"], session("lo", "10.10.1.2:3260", 0.0));
    assert_eq!(page.ports("sdb")[1], "lo");
}

#[test]
fn an_address_that_moves_to_another_interface_takes_its_session_along() {
    let host = Host::recorded("01-healthy");
    host.sysfs.write(&format!("{HOST6}/netdev"), "default\n");
    let exporter = host.exporter(&[]);
    assert_eq!(sessions(&exporter.metrics())["session1"], session("10.10.1.1", "10.10.1.2:3260", 1.0));
    host.sysfs.write(&format!("{HOST6}/ipaddress"), "127.0.0.1\n");
    assert_eq!(sessions(&exporter.reread())["session1"], session("lo", "10.10.1.2:3260", 1.0));
    // The interface has lost its address. Such a loss may be the cause of the failure.
    host.sysfs.write(&format!("{HOST6}/ipaddress"), "192.0.2.255\n");
    assert_eq!(sessions(&exporter.reread())["session1"], session("lo", "10.10.1.2:3260", 1.0));
    host.sysfs.write(&format!("{HOST6}/netdev"), "bridge0\n");
    let page = exporter.reread();
    assert_eq!(sessions(&page)["session1"], session("bridge0", "10.10.1.2:3260", 1.0));
    assert_eq!(page.ports("sdb")[1], "bridge0");
}

/// Removes the first session with its disks, like a logout.
fn log_out_of_the_first(host: &Host) {
    for gone in [
        "class/iscsi_session/session1",
        "class/iscsi_connection/connection1:0",
        "class/iscsi_host/host6",
        "devices/platform/host6",
        "devices/virtual/block/dm-0/slaves/sdb",
        "devices/virtual/block/dm-1/slaves/sda",
        "block/sda",
        "block/sdb",
    ] {
        host.sysfs.remove(gone);
    }
}

/// The host with another number and portal for the first session.
fn renumbered_tree() -> String {
    recorded_tree("01-healthy")
        .replace("session1", "session3")
        .replace("connection1:0", "connection3:0")
        .replace("host6", "host8")
        .replace("= 10.10.1.2", "= 10.10.1.3")
}

#[test]
fn a_login_under_another_number_takes_the_old_ones_place() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    log_out_of_the_first(&host);
    host.sysfs.record(&renumbered_tree());
    let page = exporter.reread();
    let names: Vec<_> = sessions(&page).into_iter().collect();
    let third = ("session3".to_owned(), session("e1", "10.10.1.3:3260", 1.0));
    let second = ("session2".to_owned(), session("e2", "10.10.2.2:3260", 1.0));
    assert_eq!(names, [second, third]);
    assert_eq!(page.ports("sdb"), ["iscsi", "e1", TARGET, "10.10.1.3:3260"]);
    assert_eq!(page.ports("sdd"), ["iscsi", "e2", TARGET, "10.10.2.2:3260"]);
    assert_no_errors(&page);
}

/// The kernel gives a free number to the next disk.
#[test]
fn a_disk_that_comes_under_the_number_of_one_that_went_is_shown_as_it_is() {
    for name in ["sdb", "sde"] {
        let host = Host::recorded("01-healthy");
        let exporter = host.exporter(&["--no-collector.multipathd"]);
        let number = |page: &Page| page.label("multipath_path_info", "devno=\"8:16\"", "path").map(str::to_owned);
        assert_eq!(number(&exporter.metrics()).as_deref(), Some("sdb"));
        log_out_of_the_first(&host);
        let page = exporter.reread();
        assert_eq!((page.value("multipath_paths"), number(&page)), (Some(2.0), None));

        let renumbered = renumbered_tree().replace("6:0:0", "8:0:0").replace("/sdb", &format!("/{name}"));
        host.sysfs.record(&renumbered);
        host.sysfs.write("devices/platform/host8/session3/target8:0:0/8:0:0:2/state", "blocked\n");
        let page = exporter.reread();
        assert_eq!((page.value("multipath_paths"), number(&page).as_deref()), (Some(4.0), Some(name)));
        let path = format!("path=\"{name}\"");
        assert_eq!(page.label("multipath_path_info", &path, ",hctl"), Some("8:0:0:2"), "{name}");
        assert_eq!(page.ports(name), ["iscsi", "e1", TARGET, "10.10.1.3:3260"]);
        assert_eq!(page.label("multipath_path_device_state", &path, ",state"), Some("blocked"), "{name}");
        assert_no_errors(&page);
    }
}

#[test]
fn a_portal_of_ipv6_has_brackets() {
    let host = Host::recorded("01-healthy");
    host.sysfs.write(&format!("{CONNECTION1}/persistent_address"), "2001:db8::1\n");
    let page = host.exporter(&[]).metrics();
    assert_eq!(sessions(&page)["session1"], session("e1", "[2001:db8::1]:3260", 1.0));
    assert_eq!(page.ports("sdb")[3], "[2001:db8::1]:3260");
}

#[test]
fn a_session_that_cannot_be_read_stays_as_last_read() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    host.sysfs.make_unreadable(&format!("{SESSION1}/state"));
    host.sysfs.write(&format!("{SESSION2}/state"), "FAILED\n");
    let page = exporter.reread();
    assert_eq!(sessions(&page), both(1.0, 0.0));
    assert_eq!(page.ports("sdb"), ["iscsi", "e1", TARGET, "10.10.1.2:3260"]);
    assert_errors("its state", &page);
}

#[test]
fn what_cannot_be_read_of_a_session_is_all_that_is_missing() {
    for (what, file) in [
        ("its target", format!("{SESSION1}/targetname")),
        ("its portal's address", format!("{CONNECTION1}/persistent_address")),
        ("its portal's port", format!("{CONNECTION1}/persistent_port")),
        ("its interface", format!("{HOST6}/netdev")),
        ("its address", format!("{HOST6}/ipaddress")),
    ] {
        let host = Host::recorded("01-healthy");
        let before = host.exporter(&[]);
        host.sysfs.make_unreadable(&file);
        host.sysfs.write(&format!("{SESSION1}/state"), "FAILED\n");
        assert_eq!(sessions(&before.reread()), both(0.0, 1.0), "{what}");
        // A login causes a new reading.
        host.sysfs.write(&format!("{SESSION1}/state"), "LOGGED_IN\n");
        let page = before.reread();
        assert_eq!(sessions(&page), both(1.0, 1.0), "{what}");
        assert_errors(what, &page);

        let page = host.exporter(&[]).metrics();
        assert_eq!(sessions(&page).len(), 2, "{what}");
        assert_eq!(sessions(&page)["session1"].3, 1.0, "{what}");
        assert_errors(what, &page);
    }
}

#[test]
fn sessions_that_cannot_be_listed_stay_and_are_counted_as_an_error() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    host.sysfs.replace("class/iscsi_session", "");
    let page = exporter.reread();
    assert_eq!(sessions(&page), both(1.0, 1.0));
    assert_eq!(page.ports("sdb"), ["iscsi", "e1", TARGET, "10.10.1.2:3260"]);
    assert_errors("no list", &page);
}

#[test]
fn a_session_that_is_empty_is_there() {
    let host = Host::recorded("01-healthy");
    for file in [format!("{SESSION1}/targetname"), format!("{CONNECTION1}/persistent_port"), format!("{HOST6}/netdev")]
    {
        host.sysfs.write(&file, "");
    }
    host.sysfs.write(&format!("{HOST6}/ipaddress"), "not an address\n");
    let page = host.exporter(&[]).metrics();
    assert_eq!(sessions(&page)["session1"], (String::new(), String::new(), String::new(), 1.0));
    assert_eq!(sessions(&page)["session2"], both(1.0, 1.0)["session2"]);
}

#[test]
fn without_iscsi_there_is_nothing_and_no_error() {
    let host = Host::recorded("01-healthy");
    for class in ["class/iscsi_session", "class/iscsi_connection", "class/iscsi_host"] {
        host.sysfs.remove(class);
    }
    let page = host.exporter(&[]).metrics();
    assert_eq!(sessions(&page), BTreeMap::new());
    assert_no_errors(&page);
}

#[test]
fn switched_off_nothing_is_read() {
    let host = Host::recorded("01-healthy");
    host.sysfs.make_unreadable(&format!("{SESSION1}/state"));
    let page = host.exporter(&["--no-collector.iscsi"]).metrics();
    assert_eq!(sessions(&page), BTreeMap::new());
    assert_eq!(page.ports("sdb"), ["iscsi", "", "", ""]);
    assert_no_errors(&page);
}

#[test]
fn sessions_are_read_again_without_an_event() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&["--reread.interval=100ms"]);
    host.sysfs.write(&format!("{SESSION1}/state"), "FAILED\n");
    let labels =
        format!("session=\"session1\",target=\"{TARGET}\",target_port=\"10.10.1.2:3260\",initiator_port=\"e1\"");
    exporter.await_values(&[
        (&format!("multipath_iscsi_session_up{{{labels}}}"), 0.0),
        (&format!("multipath_iscsi_session_state{{{labels},state=\"FAILED\"}}"), 1.0),
        (SYSFS_ERRORS, 0.0),
    ]);
}

/// `nr_sessions=2`, or two logins.
#[test]
fn of_two_sessions_that_are_equal_in_all_but_their_name_each_is_told_by_itself() {
    let host = Host::recorded("01-healthy");
    host.sysfs.write(&format!("{CONNECTION2}/persistent_address"), "10.10.1.2\n");
    host.sysfs.write(&format!("{HOST7}/netdev"), "e1\n");
    let exporter = host.exporter(&[]);
    let twin = |up| session("e1", "10.10.1.2:3260", up);
    let twins =
        |first, second| BTreeMap::from([("session1".to_owned(), twin(first)), ("session2".to_owned(), twin(second))]);
    let page = exporter.metrics();
    assert_eq!(sessions(&page), twins(1.0, 1.0));

    host.sysfs.write(&format!("{SESSION2}/state"), "FAILED\n");
    let page = exporter.reread();
    assert_eq!(sessions(&page), twins(1.0, 0.0));
    assert_eq!(state_of(&page, "session1").as_deref(), Some("LOGGED_IN"));
    assert_eq!(state_of(&page, "session2").as_deref(), Some("FAILED"));
    let ports = format!("target=\"{TARGET}\",target_port=\"10.10.1.2:3260\",initiator_port=\"e1\"");
    for session in ["session1", "session2"] {
        let paths = format!("multipath_iscsi_session_paths{{session=\"{session}\",{ports}}}");
        assert_eq!(page.value(&paths), Some(2.0), "{session}");
    }
    // The sessions share both ports, so each device depends on one port of each side.
    for wwid in [MPATHA, MPATHB] {
        for (metric, value) in [("paths", 2.0), ("redundant", 0.0), ("initiator_ports", 1.0), ("target_ports", 1.0)] {
            assert_eq!(page.device(metric, wwid), Some(value), "{metric}");
        }
    }
    let status = exporter.get("/");
    let down = "1 of 2 iSCSI sessions is down: 10.10.1.2:3260 through e1 (session2, FAILED)";
    assert!(status.text().contains(down), "{}", status.text());
}
