//! Offload adapters. The tests have no such hardware, so the files follow the drivers in the kernel
//! (`*_host_get_param` and `*_attr_is_visible` of
//! `drivers/scsi/{qla4xxx,be2iscsi,bnx2i,cxgbi,qedi}`).

use super::super::assert_no_errors;
use super::{CONNECTION1, CONNECTION2, HOST6, HOST7, SESSION1, SESSION2, session, sessions};
use crate::harness::{Host, MPATHA};

/// A host whose two sessions use two ports of an adapter. The arguments are the attributes of both
/// SCSI hosts, and their interfaces.
fn adapter(hosts: [&[(&str, &str)]; 2], interfaces: &[(&str, &str)]) -> Host {
    let host = Host::recorded("01-healthy");
    for (place, attributes) in [HOST6, HOST7].into_iter().zip(hosts) {
        host.sysfs.remove(&format!("{place}/netdev"));
        host.sysfs.remove(&format!("{place}/ipaddress"));
        for (name, content) in [("hwaddress", "00:c0:dd:00:00:01"), ("port_state", "Link Up")].iter().chain(attributes)
        {
            host.sysfs.write(&format!("{place}/{name}"), format!("{content}\n"));
        }
    }
    for (interface, address) in interfaces {
        host.sysfs.write(&format!("class/iscsi_iface/{interface}/ipaddress"), format!("{address}\n"));
    }
    host
}

#[test]
fn an_adapter_is_named_by_its_own_address() {
    for (driver, hosts, interfaces, ports) in [
        (
            "qla4xxx",
            [&[("ipaddress", "192.0.2.251")][..], &[("ipaddress", "192.0.2.252")]],
            &[("ipv4-iface-6-0", "192.0.2.251"), ("ipv4-iface-7-0", "192.0.2.252")][..],
            ["192.0.2.251", "192.0.2.252"],
        ),
        (
            "be2iscsi",
            [&[], &[]],
            &[("ipv4-iface-6-0", "192.0.2.251"), ("ipv4-iface-7-0", "192.0.2.252")],
            ["192.0.2.251", "192.0.2.252"],
        ),
        (
            "qedi",
            [
                &[("ipaddress", "192.0.2.251"), ("netdev", "host6")],
                &[("ipaddress", "2001:0db8:0000:0000:0000:0000:0000:0252"), ("netdev", "host7")],
            ],
            &[],
            ["192.0.2.251", "2001:db8::252"],
        ),
        // These adapters share the port of a network interface.
        (
            "bnx2i, cxgb4i",
            [&[("ipaddress", "192.0.2.251"), ("netdev", "e5")], &[("ipaddress", "192.0.2.252"), ("netdev", "e6")]],
            &[],
            ["e5", "e6"],
        ),
        (
            "an adapter without an address",
            [&[("ipaddress", "0.0.0.0")], &[]],
            &[("ipv4-iface-6-0", "0.0.0.0")],
            ["", ""],
        ),
    ] {
        let page = adapter(hosts, interfaces).exporter(&[]).metrics();
        let [first, second] = ports;
        assert_eq!(sessions(&page)["session1"], session(first, "10.10.1.2:3260", 1.0), "{driver}");
        assert_eq!(sessions(&page)["session2"], session(second, "10.10.2.2:3260", 1.0), "{driver}");
        assert_eq!([page.ports("sda")[1], page.ports("sdc")[1]], ports, "{driver}");
        assert_eq!(page.device("redundant", MPATHA), Some(1.0), "{driver}");
        assert_eq!(page.device("initiator_ports", MPATHA), Some(2.0), "{driver}");
        assert_no_errors(&page);
    }
}

#[test]
fn an_adapter_that_speaks_ipv6_is_named_by_that_address() {
    let interfaces = [("ipv4-iface-6-0", "0.0.0.0"), ("ipv6-iface-6-0", "2001:0db8:0000:0000:0000:0000:0000:0251")];
    let host = adapter([&[("ipaddress", "0.0.0.0")], &[]], &interfaces);
    host.sysfs.write(&format!("{CONNECTION1}/persistent_address"), "2001:db8::1\n");
    let page = host.exporter(&[]).metrics();
    assert_eq!(sessions(&page)["session1"], session("2001:db8::251", "[2001:db8::1]:3260", 1.0));
}

/// One port of an adapter is one port of the host, for any number of sessions.
#[test]
fn two_sessions_of_one_adapter_are_not_redundant() {
    let address = [("ipaddress", "192.0.2.251")];
    let host = adapter([&address, &address], &[]);
    host.sysfs.write(&format!("{CONNECTION2}/persistent_address"), "10.10.1.3\n");
    let page = host.exporter(&[]).metrics();
    assert_eq!(page.device("redundant", MPATHA), Some(0.0));
    assert_eq!(page.device("initiator_ports", MPATHA), Some(1.0));
}

/// be2iscsi asks its firmware, which may take minutes.
#[test]
fn an_adapter_is_asked_for_its_address_only_when_a_session_has_logged_in() {
    let interfaces = [("ipv4-iface-6-0", "192.0.2.251"), ("ipv4-iface-7-0", "192.0.2.252")];
    let host = adapter([&[], &[]], &interfaces);
    host.sysfs.write(&format!("{SESSION1}/state"), "FAILED\n");
    let exporter = host.exporter(&[]);
    let page = exporter.metrics();
    assert_eq!(sessions(&page)["session1"], session("", "10.10.1.2:3260", 0.0));
    assert_eq!(sessions(&page)["session2"], session("192.0.2.252", "10.10.2.2:3260", 1.0));

    // The exporter does not ask again, so it does not see that the adapter gives no answer.
    host.sysfs.make_unreadable("class/iscsi_iface/ipv4-iface-6-0/ipaddress");
    host.sysfs.make_unreadable("class/iscsi_iface/ipv4-iface-7-0/ipaddress");
    let page = exporter.reread();
    assert_eq!(sessions(&page)["session2"], session("192.0.2.252", "10.10.2.2:3260", 1.0));
    assert_no_errors(&page);

    host.sysfs.remove("class/iscsi_iface/ipv4-iface-6-0/ipaddress");
    host.sysfs.write("class/iscsi_iface/ipv4-iface-6-0/ipaddress", "192.0.2.250\n");
    host.sysfs.write(&format!("{SESSION1}/state"), "LOGGED_IN\n");
    let page = exporter.reread_twice();
    assert_eq!(sessions(&page)["session1"], session("192.0.2.250", "10.10.1.2:3260", 1.0));
    assert_eq!(sessions(&page)["session2"], session("192.0.2.252", "10.10.2.2:3260", 1.0));
}

/// An adapter may keep a session for discovery. qla4xxx and iSER mark it (`*_attr_is_visible`).
#[test]
fn a_session_for_discovery_is_none_that_anybody_misses() {
    for (file, count) in [(None, 2), (Some("0\n"), 2), (Some("1\n"), 1)] {
        let host = Host::recorded("01-healthy");
        if let Some(content) = file {
            host.sysfs.write(&format!("{SESSION2}/discovery_session"), content);
        }
        host.sysfs.write(&format!("{SESSION2}/state"), "FREE\n");
        let exporter = host.exporter(&[]);
        assert_eq!(sessions(&exporter.metrics()).len(), count, "{file:?}");
        assert_eq!(sessions(&exporter.reread()).len(), count, "{file:?}");
        assert_no_errors(&exporter.metrics());
    }
}
