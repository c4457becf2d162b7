//! iSCSI bonds.

use rustix::process::Signal;

use super::super::assert_no_errors;
use super::{HOST6, HOST7, SESSION2};
use crate::harness::{Exporter, Host, Page, Tree};

const BONDS: &str = "iscsi_bonds:
  - {name: storage, networks: [e1, 10.10.2.0/24], targets: ['iqn.2024-01.org.example:*']}
  - {name: elsewhere, networks: [e1], targets: ['iqn.2024-02.*']}
";

fn bond_exporter(host: &Host, config: &str) -> (Tree, Exporter) {
    let directory = Tree::empty();
    directory.write("config.yml", config);
    let exporter = host.exporter(&[&format!("--config.file={}", directory.path("config.yml").display())]);
    (directory, exporter)
}

/// The networks of `storage` that are up: `e1`, the CIDR, and all together.
fn networks_up(page: &Page) -> [Option<f64>; 3] {
    let network = |name| format!("multipath_iscsi_bond_network_up{{bond=\"storage\",network=\"{name}\"}}");
    let all = "multipath_iscsi_bond_networks_up{bond=\"storage\"}".to_owned();
    [network("e1"), network("10.10.2.0/24"), all].map(|series| page.value(&series))
}

/// All series of this bond.
fn series_of<'a>(page: &'a Page, bond: &str) -> Vec<&'a str> {
    let bond = format!("bond=\"{bond}\"");
    page.samples().map(|(series, _)| series).filter(|series| series.contains(&bond)).collect()
}

#[test]
fn the_networks_of_a_bond_are_up_where_its_targets_are_logged_in() {
    let host = Host::recorded("01-healthy");
    let (_directory, exporter) = bond_exporter(&host, BONDS);
    for (state, up) in [
        ("01-healthy", [1.0, 1.0, 2.0]),
        ("02-net1-lost", [0.0, 1.0, 1.0]),
        ("03-both-lost", [0.0, 0.0, 0.0]),
        ("04-back", [1.0, 1.0, 2.0]),
    ] {
        host.turn_into(state);
        let page = exporter.reread();
        assert_eq!(networks_up(&page), up.map(Some), "{state}");
        assert_eq!(page.value("multipath_iscsi_bond_networks{bond=\"storage\"}"), Some(2.0), "{state}");
        // None of its targets has a session.
        assert_eq!(series_of(&page, "elsewhere"), [""; 0], "{state}");
    }
}

#[test]
fn a_bond_that_is_down_at_the_start_is_down() {
    for (state, up) in [("02-net1-lost", [0.0, 1.0, 1.0]), ("03-both-lost", [0.0, 0.0, 0.0])] {
        let host = Host::recorded(state);
        let (_directory, exporter) = bond_exporter(&host, BONDS);
        assert_eq!(networks_up(&exporter.metrics()), up.map(Some), "{state}");
    }
}

#[test]
fn a_bond_of_which_no_target_has_a_session_is_not_watched() {
    let host = Host::recorded("01-healthy");
    let (_directory, exporter) = bond_exporter(&host, BONDS);
    assert_eq!(networks_up(&exporter.metrics()), [1.0, 1.0, 2.0].map(Some));
    for session in ["class/iscsi_session/session1", "class/iscsi_session/session2"] {
        host.sysfs.remove(session);
    }
    assert_eq!(series_of(&exporter.reread(), "storage"), [""; 0]);

    let (_directory, exporter) = bond_exporter(&Host::bare(), BONDS);
    assert_eq!(series_of(&exporter.metrics(), "storage"), [""; 0]);
}

/// In this case oVirt uses the default network.
#[test]
fn a_bond_is_not_watched_on_a_host_that_has_none_of_its_networks() {
    let config =
        |networks| format!("iscsi_bonds:\n  - {{name: storage, networks: {networks}, targets: ['*:array1']}}\n");
    let host = Host::recorded("01-healthy");
    let line = "This host has no network of 1 iSCSI bond, so the exporter does not watch it: storage.";
    let (directory, exporter) = bond_exporter(&host, &config("[e3, 10.10.3.0/24]"));
    let page = exporter.metrics();
    assert_eq!(series_of(&page, "storage"), [""; 0]);
    assert!(exporter.get("/").text().contains(line));
    assert_no_errors(&page);

    // The interface appears, but no session uses it.
    host.sysfs.write("class/net/e3/operstate", "down\n");
    let page = exporter.reread();
    assert_eq!(page.value("multipath_iscsi_bond_networks{bond=\"storage\"}"), Some(2.0));
    assert_eq!(page.value("multipath_iscsi_bond_networks_up{bond=\"storage\"}"), Some(0.0));
    assert!(!exporter.get("/").text().contains(line));
    // The bond misses a removed interface until the host logs out of the targets or the
    // configuration changes.
    host.sysfs.remove("class/net/e3");
    let page = exporter.reread();
    assert_eq!(page.value("multipath_iscsi_bond_networks_up{bond=\"storage\"}"), Some(0.0));
    directory.write("config.yml", config("[10.10.3.0/24, e3]"));
    exporter.signal(Signal::HUP);
    crate::harness::eventually("the bond is not watched", || {
        series_of(&exporter.metrics(), "storage").is_empty().then_some(())
    });

    // This interface has an address of the network. The other network is an interface of its own.
    for (networks, number, up) in [("[e3, 127.0.0.0/8]", 2.0, 0.0), ("[e3, e2]", 2.0, 1.0)] {
        directory.write("config.yml", config(networks));
        exporter.signal(Signal::HUP);
        exporter.await_values(&[
            ("multipath_iscsi_bond_networks{bond=\"storage\"}", number),
            ("multipath_iscsi_bond_networks_up{bond=\"storage\"}", up),
        ]);
    }

    // oVirt allows a bond without networks.
    directory.write("config.yml", config("[]"));
    exporter.signal(Signal::HUP);
    let line = "1 iSCSI bond has no networks in the configuration, so the exporter does not watch it: storage.";
    crate::harness::eventually("the page says so", || exporter.get("/").text().contains(line).then_some(()));
    assert_eq!(series_of(&exporter.metrics(), "storage"), [""; 0]);
}

/// The kernel no longer shows the source address of the sessions, and the interface addresses may
/// be gone.
#[test]
fn a_bond_of_sessions_that_are_down_at_the_start_is_watched() {
    let host = Host::recorded("03-both-lost");
    for place in [HOST6, HOST7] {
        host.sysfs.write(&format!("{place}/netdev"), "default\n");
    }
    let config = "iscsi_bonds: [{name: storage, networks: [10.10.1.0/24, 10.10.2.0/24], targets: ['*:array1']}]\n";
    let (_directory, exporter) = bond_exporter(&host, config);
    let page = exporter.metrics();
    assert_eq!(page.value("multipath_iscsi_bond_networks{bond=\"storage\"}"), Some(2.0));
    assert_eq!(page.value("multipath_iscsi_bond_networks_up{bond=\"storage\"}"), Some(0.0));
}

#[test]
fn a_network_that_misses_one_of_the_targets_is_down() {
    let host = Host::recorded("01-healthy");
    host.sysfs.write(&format!("{SESSION2}/targetname"), "iqn.2024-01.org.example:array2\n");
    let (_directory, exporter) = bond_exporter(&host, BONDS);
    assert_eq!(networks_up(&exporter.metrics()), [Some(0.0); 3]);
}

#[test]
fn hangup_takes_over_other_bonds() {
    let host = Host::recorded("02-net1-lost");
    let (directory, exporter) = bond_exporter(&host, BONDS);
    directory.write("config.yml", "iscsi_bonds:\n  - {name: other, networks: [e2, e3], targets: ['*:array1']}\n");
    exporter.signal(Signal::HUP);
    let page = exporter.await_values(&[
        ("multipath_iscsi_bond_networks{bond=\"other\"}", 2.0),
        ("multipath_iscsi_bond_networks_up{bond=\"other\"}", 1.0),
        ("multipath_iscsi_bond_network_up{bond=\"other\",network=\"e2\"}", 1.0),
        ("multipath_iscsi_bond_network_up{bond=\"other\",network=\"e3\"}", 0.0),
    ]);
    assert_eq!(networks_up(&page), [None; 3]);

    directory.write("config.yml", "");
    exporter.signal(Signal::HUP);
    exporter.await_values(&[("multipath_exporter_config_last_reload_successful", 1.0)]);
    crate::harness::eventually("no bond is left", || {
        let page = exporter.metrics();
        page.of_metric("multipath_iscsi_bond_networks").is_empty().then_some(())
    });
}
