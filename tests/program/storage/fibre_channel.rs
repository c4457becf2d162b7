//! Fibre Channel.
//!
//! The tests have no such hardware. The host is written by hand after the kernel's
//! `Documentation/ABI/testing/sysfs-class-{fc_host,fc_remote_ports}` and
//! `drivers/scsi/scsi_transport_fc.c`. It has two ports. Each one sees the two ports of one array,
//! its fabric's switch, and the other port of the host.

use std::collections::BTreeSet;

use super::{assert_errors, assert_no_errors};
use crate::harness::{Host, Page};

pub const WWID: &str = "3600a098000aad1e3000064e45f2c2355";
pub const HOSTS: [(&str, &str); 2] = [("host5", "0x10000090fa000005"), ("host6", "0x10000090fa000006")];
const ARRAY: &str = "0x200000a098aad1e3";
const ARRAY_PORTS: [&str; 2] = ["0x202000a098aad1e3", "0x203000a098aad1e3"];
/// The kernel's output for a name that it has cleared.
const CLEARED: &str = "0xffffffffffffffff";

fn host_directory(host: &str) -> String {
    format!("devices/pci0000:00/0000:00:02.0/0000:01:00.{}/{host}", &host[4..])
}

pub fn host_port(host: &str) -> String {
    format!("{}/fc_host/{host}", host_directory(host))
}

/// A remote port: `rport-5:0-2` is `("host5", 2)`.
pub fn remote_port(host: &str, number: usize) -> String {
    let name = format!("rport-{}:0-{number}", &host[4..]);
    format!("{}/{name}/fc_remote_ports/{name}", host_directory(host))
}

pub fn write(host: &Host, directory: &str, files: &[(&str, &str)]) {
    for (name, content) in files {
        host.sysfs.write(&format!("{directory}/{name}"), format!("{content}\n"));
    }
}

fn add_remote_port(host: &Host, scsi_host: &str, number: usize, files: &[(&str, &str)]) {
    let directory = remote_port(scsi_host, number);
    write(host, &directory, files);
    let name = directory.rsplit('/').next().unwrap();
    host.sysfs.link(&format!("class/fc_remote_ports/{name}"), &format!("../../{directory}"));
}

/// A port of the host that sees no remote port.
pub fn add_host_port(host: &Host, scsi_host: &str, port_name: &str, state: &str) {
    let directory = host_port(scsi_host);
    let node_name = port_name.replacen("0x1", "0x2", 1);
    write(host, &directory, &[("port_name", port_name), ("node_name", &node_name), ("port_state", state)]);
    host.sysfs.link(&format!("class/fc_host/{scsi_host}"), &format!("../../{directory}"));
}

/// One LUN over two host ports and two array ports: `sda` and `sdb` over `host5`, `sdc` and `sdd` over `host6`.
pub fn fabric() -> Host {
    let host = Host::bare();
    let tree = &host.sysfs;
    tree.add_map(0, "mpatha", format!("mpath-{WWID}"), &[]);
    let mut disks = ["sda", "sdb", "sdc", "sdd"].into_iter().zip(["8:0", "8:16", "8:32", "8:48"]);
    for (scsi_host, port_name) in HOSTS {
        add_host_port(&host, scsi_host, port_name, "Online");
        write(&host, &host_port(scsi_host), &[("port_type", "NPort (fabric via point-to-point)")]);
        // Other remote ports of a fabric: its name server, and the host's own other port.
        for (number, role) in [(0, "Directory Server"), (1, "FCP Initiator")] {
            let name = format!("0x2ffc00000000000{number}");
            add_remote_port(
                &host,
                scsi_host,
                number,
                &[
                    ("port_name", &name),
                    ("node_name", &name),
                    ("port_state", "Online"),
                    ("roles", role),
                    ("scsi_target_id", "-1"),
                ],
            );
        }
        for (target, target_port) in ARRAY_PORTS.into_iter().enumerate() {
            let number = target + 2;
            add_remote_port(
                &host,
                scsi_host,
                number,
                &[
                    ("port_name", target_port),
                    ("node_name", ARRAY),
                    ("port_state", "Online"),
                    ("roles", "FCP Target"),
                    ("scsi_target_id", &target.to_string()),
                ],
            );
            let bus = &scsi_host[4..];
            let scsi = format!(
                "{}/rport-{bus}:0-{number}/target{bus}:0:{target}/{bus}:0:{target}:1",
                host_directory(scsi_host)
            );
            write(&host, &scsi, &[("state", "running"), ("vendor", "NETAPP"), ("model", "INF-01-00"), ("rev", "0873")]);
            let (disk, devno) = disks.next().unwrap();
            let block = format!("{scsi}/block/{disk}");
            write(&host, &block, &[("dev", devno), ("size", "131072"), ("ro", "0")]);
            tree.link(&format!("{block}/device"), &format!("../../../{bus}:0:{target}:1"));
            tree.link(&format!("block/{disk}"), &format!("../{block}"));
            let slave = format!("devices/virtual/block/dm-0/slaves/{disk}");
            tree.link(&slave, &format!("../../../../../{block}"));
        }
    }
    host
}

/// Each remote port by its names, with its state.
fn remote_ports(page: &Page) -> BTreeSet<(String, String, String, String)> {
    let label = |series: &str, name: &str| {
        let (_, rest) = series.split_once(&format!("{name}=\"")).unwrap();
        rest.split('"').next().unwrap().to_owned()
    };
    let states = page.of_metric("multipath_fc_remote_port_state");
    let port = |(series, _): (&str, &str)| {
        let (initiator_port, target_port) = (label(series, "initiator_port"), label(series, "target_port"));
        let up =
            format!("multipath_fc_remote_port_up{{initiator_port=\"{initiator_port}\",target_port=\"{target_port}\"}}");
        let up = page.value(&up).map(|up| up.to_string()).unwrap_or_default();
        (initiator_port, target_port, label(series, ",state"), up)
    };
    assert_eq!(states.len(), page.of_metric("multipath_fc_remote_port_up").len());
    states.into_iter().map(port).collect()
}

/// The four array ports, all online except the first one of `host5`.
fn all_online_but_one(state: &str, up: &str) -> BTreeSet<(String, String, String, String)> {
    let ports = HOSTS.iter().flat_map(|(_, host)| ARRAY_PORTS.map(|port| (*host, port)));
    let state = |(host, port): (&str, &str)| {
        let (state, up) = if (host, port) == (HOSTS[0].1, ARRAY_PORTS[0]) { (state, up) } else { ("Online", "1") };
        (host.to_owned(), port.to_owned(), state.to_owned(), up.to_owned())
    };
    ports.map(state).collect()
}

fn host_port_up(page: &Page, index: usize) -> Option<f64> {
    page.value(&format!("multipath_fc_host_port_up{{initiator_port=\"{}\"}}", HOSTS[index].1))
}

#[test]
fn ports_and_paths_are_called_by_their_world_wide_names() {
    let page = fabric().exporter(&[]).metrics();
    assert_eq!((host_port_up(&page, 0), host_port_up(&page, 1)), (Some(1.0), Some(1.0)));
    assert_eq!(page.of_metric("multipath_fc_host_port_up").len(), 2);
    // The page shows neither the switch nor an initiator.
    assert_eq!(remote_ports(&page), all_online_but_one("Online", "1"));
    let [(_, first), (_, second)] = HOSTS;
    assert_eq!(page.ports("sda"), ["fc", first, ARRAY, ARRAY_PORTS[0]]);
    assert_eq!(page.ports("sdb"), ["fc", first, ARRAY, ARRAY_PORTS[1]]);
    assert_eq!(page.ports("sdc"), ["fc", second, ARRAY, ARRAY_PORTS[0]]);
    assert_eq!(page.ports("sdd"), ["fc", second, ARRAY, ARRAY_PORTS[1]]);
    assert_eq!(page.device("valid_paths", WWID), Some(4.0));
    assert_no_errors(&page);
}

#[test]
fn a_remote_port_is_up_while_it_is_online_or_marginal() {
    let host = fabric();
    let exporter = host.exporter(&[]);
    for (state, up) in
        [("Blocked", "0"), ("Not Present", "0"), ("Marginal", "1"), ("Something New", "0"), ("Online", "1")]
    {
        write(&host, &remote_port("host5", 2), &[("port_state", state)]);
        assert_eq!(remote_ports(&exporter.reread()), all_online_but_one(state, up), "{state}");
    }
}

/// Removes a port as the kernel does when `dev_loss_tmo` has passed.
pub fn lose_for_good(host: &Host) {
    let names =
        [("port_state", "Not Present"), ("roles", "unknown"), ("node_name", CLEARED), ("port_id", "0xffffffff")];
    write(host, &remote_port("host5", 2), &names);
}

#[test]
fn labels_do_not_change_when_a_port_is_lost() {
    let host = fabric();
    let exporter = host.exporter(&[]);
    let paths = exporter.metrics().of_metric("multipath_path_info").len();
    lose_for_good(&host);
    let page = exporter.reread();
    assert_eq!(remote_ports(&page), all_online_but_one("Not Present", "0"));
    assert_eq!(page.ports("sda"), ["fc", HOSTS[0].1, ARRAY, ARRAY_PORTS[0]]);
    assert_eq!(page.of_metric("multipath_path_info").len(), paths);
    assert_no_errors(&page);

    // An exporter that starts after the loss knows it from the kernel's remains.
    let page = host.exporter(&[]).metrics();
    assert_eq!(remote_ports(&page), all_online_but_one("Not Present", "0"));
    assert_eq!(page.ports("sda"), ["fc", HOSTS[0].1, "", ARRAY_PORTS[0]]);
}

#[test]
fn a_port_that_was_lost_before_the_start_gets_its_names_when_it_is_back() {
    let host = fabric();
    lose_for_good(&host);
    let exporter = host.exporter(&[]);
    write(&host, &remote_port("host5", 2), &[("port_state", "Online"), ("roles", "FCP Target"), ("node_name", ARRAY)]);
    let page = exporter.reread();
    assert_eq!(remote_ports(&page), all_online_but_one("Online", "1"));
    assert_eq!(page.ports("sda"), ["fc", HOSTS[0].1, ARRAY, ARRAY_PORTS[0]]);
}

#[test]
fn another_port_in_a_lost_ones_place_has_its_own_names() {
    // Where target ids are bound to port ids (`tgtid_bind_type`), the kernel clears both names.
    let host = fabric();
    let exporter = host.exporter(&[]);
    let port = remote_port("host5", 2);
    write(&host, &port, &[("port_state", "Not Present"), ("node_name", CLEARED), ("port_name", CLEARED)]);
    assert_eq!(remote_ports(&exporter.reread()), all_online_but_one("Not Present", "0"));
    let other = "0x204000a098aad1e3";
    write(&host, &port, &[("port_state", "Online"), ("node_name", ARRAY), ("port_name", other)]);
    let page = exporter.reread();
    assert_eq!(page.ports("sda"), ["fc", HOSTS[0].1, ARRAY, other]);
}

#[test]
fn a_remote_port_that_becomes_a_target_is_shown_from_then_on() {
    let host = fabric();
    let port = remote_port("host5", 2);
    write(&host, &port, &[("scsi_target_id", "-1"), ("roles", "unknown")]);
    let exporter = host.exporter(&[]);
    assert_eq!(remote_ports(&exporter.metrics()).len(), 3);
    write(&host, &port, &[("scsi_target_id", "0"), ("roles", "FCP Target")]);
    assert_eq!(remote_ports(&exporter.reread()), all_online_but_one("Online", "1"));
}

#[test]
fn a_remote_port_that_is_gone_is_not_shown() {
    let host = fabric();
    let exporter = host.exporter(&[]);
    host.sysfs.remove("class/fc_remote_ports/rport-5:0-2");
    assert_eq!(remote_ports(&exporter.reread()).len(), 3);
}

#[test]
fn a_port_that_the_kernel_knows_twice_is_up_if_either_is() {
    let host = fabric();
    lose_for_good(&host);
    let again = [
        ("port_name", ARRAY_PORTS[0]),
        ("node_name", ARRAY),
        ("port_state", "Online"),
        ("roles", "FCP Target"),
        ("scsi_target_id", "7"),
    ];
    add_remote_port(&host, "host5", 9, &again);
    let exporter = host.exporter(&[]);
    assert_eq!(remote_ports(&exporter.metrics()), all_online_but_one("Online", "1"));
    // Neither port is up, but one still exists.
    write(&host, &remote_port("host5", 9), &[("port_state", "Blocked")]);
    assert_eq!(remote_ports(&exporter.reread()), all_online_but_one("Blocked", "0"));
}

#[test]
fn a_port_of_the_host_is_up_while_it_is_online() {
    let host = fabric();
    let exporter = host.exporter(&[]);
    for (state, up) in [("Linkdown", 0.0), ("Offline", 0.0), ("Online", 1.0)] {
        write(&host, &host_port("host5"), &[("port_state", state)]);
        let page = exporter.reread();
        assert_eq!((host_port_up(&page, 0), host_port_up(&page, 1)), (Some(up), Some(1.0)), "{state}");
    }
}

#[test]
fn a_port_of_the_host_without_a_name_yet_gets_it_later() {
    // A driver sets the name when the port is up. Until then the kernel has no name.
    let host = fabric();
    for (scsi_host, _) in HOSTS {
        write(&host, &host_port(scsi_host), &[("port_name", CLEARED), ("port_state", "Linkdown")]);
    }
    let exporter = host.exporter(&[]);
    let page = exporter.metrics();
    assert_eq!(page.of_metric("multipath_fc_host_port_up").len(), 0, "{}", page.text());
    assert!(!page.text().contains(CLEARED), "{}", page.text());
    for (scsi_host, port_name) in HOSTS {
        write(&host, &host_port(scsi_host), &[("port_name", port_name), ("port_state", "Online")]);
    }
    let page = exporter.reread();
    assert_eq!((host_port_up(&page, 0), host_port_up(&page, 1)), (Some(1.0), Some(1.0)));
    assert_eq!(remote_ports(&page), all_online_but_one("Online", "1"));
    assert_eq!(page.ports("sdc"), ["fc", HOSTS[1].1, ARRAY, ARRAY_PORTS[0]]);
}

#[test]
fn what_cannot_be_read_stays_as_last_read() {
    let host = fabric();
    let exporter = host.exporter(&[]);
    host.sysfs.make_unreadable(&format!("{}/port_state", remote_port("host5", 2)));
    host.sysfs.make_unreadable(&format!("{}/port_state", host_port("host6")));
    write(&host, &host_port("host5"), &[("port_state", "Linkdown")]);
    let page = exporter.reread();
    assert_eq!(remote_ports(&page), all_online_but_one("Online", "1"));
    assert_eq!((host_port_up(&page, 0), host_port_up(&page, 1)), (Some(0.0), Some(1.0)));
    assert_errors("two states", &page);
}

#[test]
fn what_cannot_be_read_of_a_port_is_all_that_is_missing() {
    for file in ["node_name", "port_name"] {
        let host = fabric();
        host.sysfs.make_unreadable(&format!("{}/{file}", remote_port("host5", 2)));
        let page = host.exporter(&[]).metrics();
        assert_eq!(remote_ports(&page).len(), 4, "{file}");
        assert_errors(file, &page);
    }
    let host = fabric();
    host.sysfs.make_unreadable(&format!("{}/port_name", host_port("host5")));
    let page = host.exporter(&[]).metrics();
    assert_eq!(remote_ports(&page).len(), 4);
    assert_eq!(host_port_up(&page, 1), Some(1.0));
    assert_errors("its name", &page);
}

#[test]
fn host_ports_that_cannot_be_listed_stop_no_remote_port() {
    let host = fabric();
    let exporter = host.exporter(&[]);
    host.sysfs.replace("class/fc_host", "");
    write(&host, &remote_port("host5", 2), &[("port_state", "Blocked")]);
    let page = exporter.reread();
    assert_eq!(remote_ports(&page), all_online_but_one("Blocked", "0"));
    assert_eq!(host_port_up(&page, 0), Some(1.0));
    assert_errors("no list", &page);
}

#[test]
fn switched_off_nothing_is_read() {
    let page = fabric().exporter(&["--no-collector.fc"]).metrics();
    assert_eq!(remote_ports(&page), BTreeSet::new());
    assert_eq!(host_port_up(&page, 0), None);
    assert_eq!(page.ports("sda"), ["fc", "", "", ""]);
    assert_eq!(page.device("valid_paths", WWID), Some(4.0));
    assert_no_errors(&page);
}
