//! iSCSI over two networks: sessions, shared ports, and bonds. Exporters run as root and as
//! `nobody`, who may read all of it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs;
use std::time::Duration;

use super::Scenario;
use crate::exporter::Exporter;
use crate::guest::Lab;
use crate::iscsi::{IscsiSan, TARGET, portals, sessions};
use crate::metrics::{Labels, Metrics};
use crate::multipathd::Conf;
use crate::network::Network;
use crate::programs::run;
use crate::wait::{PATIENCE, eventually, eventually_eq};

pub const ALL: &[Scenario] = &[
    Scenario::new("iscsi_networks_lost_and_back", iscsi_networks_lost_and_back),
    Scenario::new("iscsi_session_ended_and_made_again", iscsi_session_ended_and_made_again),
    Scenario::new("iscsi_session_without_its_path", iscsi_session_without_its_path),
    Scenario::new("iscsi_twin_sessions", iscsi_twin_sessions),
    Scenario::new("iscsi_bond_without_its_networks", iscsi_bond_without_its_networks),
    Scenario::new("iscsi_bond_whose_addresses_vanish", iscsi_bond_whose_addresses_vanish),
];

/// `--reread.interval`, and the time that an emulated machine needs for a reading and an answer.
const ONE_REREAD: Duration = Duration::from_secs(5 + 2);

const BONDS: [&str; 2] = ["interfaces", "addresses"];

/// Bonds without a network on this machine, and an interface that belongs to the first of them.
const ABSENT: &str = "\
- {name: absent, networks: [storage9, 203.0.113.0/24], targets: ['iqn.2003-01.org.example:*']}
- {name: empty, networks: [], targets: ['iqn.2003-01.org.example:*']}
";
const ABSENT_INTERFACE: &str = "storage9";

/// A checker that runs every second, and sessions whose disks fail after two seconds.
pub const CONF: Conf = Conf { more: &["fast_io_fail_tmo 2"], ..Conf::WATCHFUL };

struct Host {
    array: IscsiSan,
    exporters: [Exporter; 2],
}

impl Host {
    fn start(lab: &Lab) -> Self {
        Host::of(lab, CONF)
    }

    fn of(lab: &Lab, conf: Conf) -> Self {
        let array = IscsiSan::start(lab, 2, 1, conf);
        let [one, other] = &array.networks.0;
        let bond = |name, one, other| {
            format!("- {{name: {name}, networks: [{one}, {other}], targets: ['iqn.2003-01.org.example:*']}}\n")
        };
        let bonds = [bond(BONDS[0], one.interface, other.interface), bond(BONDS[1], one.cidr, other.cidr)];
        let launch = || lab.exporter().config(&format!("iscsi_bonds:\n{}{ABSENT}", bonds.concat()));
        Host { array, exporters: [launch().start(), launch().unprivileged().start()] }
    }

    fn networks(&self) -> &[Network; 2] {
        &self.array.networks.0
    }

    /// Waits until every device has these numbers of valid and failed paths.
    fn wait_for_counts(&self, valid: u64, failed: u64) {
        for exporter in &self.exporters {
            for lun in &self.array.san.luns {
                exporter.wait_for_counts(&lun.wwid, valid, failed);
            }
        }
    }

    /// Waits, at most for one re-read, until sessions and bonds show exactly these networks as up.
    fn wait_for_networks(&self, up: [bool; 2]) {
        for exporter in &self.exporters {
            eventually("sessions and bonds say which networks are up", ONE_REREAD, || {
                match networks_up(&exporter.metrics(), self.networks()) {
                    told if told == [up; 3] => Ok(()),
                    told => Err(format!("sessions, bond of interfaces, bond of addresses: {told:?}")),
                }
            });
            for bond in BONDS {
                let bond = [("bond", bond)];
                let metrics = exporter.metrics();
                assert_eq!(metrics.value("multipath_iscsi_bond_networks", &bond), 2.0);
                let count = up.into_iter().filter(|up| *up).count();
                assert_eq!(metrics.value("multipath_iscsi_bond_networks_up", &bond), count as f64);
            }
        }
    }

    /// Waits until every exporter shows this.
    #[track_caller]
    fn wait_for<T: PartialEq + Debug>(&self, what: &str, want: &T, told: impl Fn(&Exporter) -> T) {
        for exporter in &self.exporters {
            eventually(what, PATIENCE, || match told(exporter) {
                told if told == *want => Ok(()),
                told => Err(format!("{told:?}")),
            });
        }
    }

    /// Waits until the sessions over each network have failed this number of times. A `FREE`
    /// session may be a logout, which the next re-read shows.
    #[track_caller]
    fn wait_for_failures(&self, failures: [Option<f64>; 2]) {
        let told = |exporter: &Exporter| told_failures(&exporter.metrics(), self.networks());
        self.wait_for("the failures are counted", &failures, told);
    }

    fn labels(&self) -> Vec<Vec<Labels>> {
        self.exporters.iter().map(|exporter| labels(&exporter.metrics())).collect()
    }
}

/// The states of each network according to the sessions and both bonds. A network without a session
/// is not up.
fn networks_up(metrics: &Metrics, networks: &[Network; 2]) -> [[bool; 2]; 3] {
    let session = |network: &Network| {
        metrics
            .series("multipath_iscsi_session_up")
            .any(|(labels, up)| labels["initiator_port"] == network.interface && up == 1.0)
    };
    let bond =
        |bond, name| metrics.value("multipath_iscsi_bond_network_up", &[("bond", bond), ("network", name)]) == 1.0;
    [
        networks.each_ref().map(session),
        networks.each_ref().map(|network| bond(BONDS[0], network.interface)),
        networks.each_ref().map(|network| bond(BONDS[1], network.cidr)),
    ]
}

/// The number of failures of the sessions over each network.
fn told_failures(metrics: &Metrics, networks: &[Network; 2]) -> [Option<f64>; 2] {
    networks.each_ref().map(|network| {
        let labels = [("target", TARGET), ("initiator_port", network.interface)];
        let series = metrics.series("multipath_iscsi_session_failures_total");
        let mut series = series.filter(|(has, _)| labels.iter().all(|(label, value)| has[*label] == *value));
        series.next().map(|(_, count)| count)
    })
}

/// The labels that must not change during a failure.
fn labels(metrics: &Metrics) -> Vec<Labels> {
    let families = ["multipath_device_info", "multipath_path_info", "multipath_iscsi_session_up"];
    families.into_iter().flat_map(|family| metrics.series(family).map(|(labels, _)| labels.clone())).collect()
}

fn iscsi_networks_lost_and_back(lab: &Lab) {
    let host = Host::start(lab);
    let [one, other] = host.networks();
    host.wait_for_networks([true, true]);
    for exporter in &host.exporters {
        let metrics = exporter.metrics();
        for lun in &host.array.san.luns {
            let info = metrics.labels("multipath_device_info", &[("wwid", &lun.wwid)]);
            assert_eq!([&info["vendor"], &info["product"], &info["revision"]], ["EXAMPLE", "ARRAY", "0001"]);
            let mut interfaces = Vec::new();
            for disk in &lun.paths {
                let info = metrics.labels("multipath_path_info", &[("wwid", &lun.wwid), ("path", &disk.name)]);
                let network = host.networks().iter().find(|network| network.interface == info["initiator_port"]);
                let network = network.unwrap_or_else(|| panic!("no interface of ours: {info:?}"));
                interfaces.push(network.interface);
                let expected = [&disk.devno, &disk.hctl, "iscsi", "1", TARGET, &portals(network)[0]];
                let labels = ["devno", "hctl", "transport", "group", "target", "target_port"];
                assert_eq!(labels.map(|label| info[label].as_str()), expected);
                let session = metrics.labels("multipath_iscsi_session_up", &[("target_port", &portals(network)[0])]);
                assert_eq!(session["initiator_port"], network.interface);
                assert_eq!(session["target"], TARGET);
                let device = fs::canonicalize(disk.attribute("")).expect("the disk is there");
                assert!(device.components().any(|part| part.as_os_str() == session["session"].as_str()), "{session:?}");
            }
            interfaces.sort_unstable();
            assert_eq!(interfaces, [one.interface, other.interface]);
        }
        let session = [("initiator_port", one.interface)];
        assert_eq!(metrics.state("multipath_iscsi_session_state", &session), "LOGGED_IN");
    }
    let before = host.labels();

    one.cut();
    host.wait_for_counts(1, 1);
    host.wait_for_networks([false, true]);
    assert_eq!(host.labels(), before, "labels do not change at the moment of failure");

    other.lose_all();
    host.wait_for_counts(0, 2);
    host.wait_for_networks([false, false]);
    assert_eq!(host.labels(), before, "labels do not change at the moment of failure");
    for exporter in &host.exporters {
        let session = [("initiator_port", other.interface)];
        assert_ne!(exporter.metrics().state("multipath_iscsi_session_state", &session), "LOGGED_IN");
        assert_eq!(exporter.metrics().host().without_valid_paths, 2);
    }

    one.mend();
    host.wait_for_counts(1, 1);
    host.wait_for_networks([true, false]);
    other.lose_nothing();
    host.wait_for_counts(2, 0);
    host.wait_for_networks([true, true]);
    assert_eq!(host.labels(), before);
    host.wait_for_failures([Some(1.0), Some(1.0)]);
    for exporter in &host.exporters {
        for lun in &host.array.san.luns {
            exporter.wait_for_path_events(&lun.wwid, 2, 2);
        }
    }
}

/// The host logs out, so nothing has failed. The path goes with its session, and the network is no
/// longer up.
fn iscsi_session_ended_and_made_again(lab: &Lab) {
    let host = Host::start(lab);
    let [_, network] = host.networks();
    let session = |exporter: &Exporter| {
        let metrics = exporter.metrics();
        let mut sessions = metrics.series("multipath_iscsi_session_up").map(|(labels, _)| labels.clone());
        sessions.find(|labels| labels["initiator_port"] == network.interface).map(|labels| labels["session"].clone())
    };
    let before = session(&host.exporters[0]);
    let name = before.as_deref().expect("there is a session");
    let of_disks = fs::read_to_string(format!("/sys/class/iscsi_session/{name}/target_state"));
    assert_eq!(of_disks.expect("this kernel tells of a session's disks").trim(), "SCANNED");

    host.array.log_out(network);
    host.wait_for_counts(1, 0);
    host.wait_for_networks([true, false]);
    host.wait_for_failures([Some(0.0), None]);
    for exporter in &host.exporters {
        assert_eq!(session(exporter), None);
        let metrics = exporter.metrics();
        assert_eq!(metrics.host().failed_paths, 0);
        assert_eq!(metrics.host().paths, 2);
        for lun in &host.array.san.luns {
            assert_eq!(exporter.events(&lun.wwid, "path_removed").len(), 1);
        }
    }

    host.array.log_in(network);
    host.wait_for_counts(2, 0);
    host.wait_for_networks([true, true]);
    host.wait_for_failures([Some(0.0), Some(0.0)]);
    for exporter in &host.exporters {
        let session = session(exporter);
        assert!(session.is_some() && session != before, "it is another one: {session:?}, {before:?}");
    }
}

/// The session returns, but its paths are not checked again. That is multipathd's task.
fn iscsi_session_without_its_path(lab: &Lab) {
    let host = Host::of(lab, Conf { polling_interval: 3600, ..CONF });
    let [network, _] = host.networks();
    let dm = &host.array.san.dm;

    network.cut();
    for lun in &host.array.san.luns {
        let device = format!("if=/dev/{}", lun.map.sysfs_name());
        eventually_eq("reading meets the dead path", 1, || {
            run("dd", [device.as_str(), "of=/dev/null", "bs=4k", "count=4", "iflag=direct"]);
            dm.paths(&lun.map.name).values().filter(|active| **active).count()
        });
    }
    host.wait_for_counts(1, 1);
    host.wait_for_networks([false, true]);

    network.mend();
    for exporter in &host.exporters {
        eventually_eq("the session is back", [[true, true]; 3], || networks_up(&exporter.metrics(), host.networks()));
    }
    host.wait_for_counts(1, 1);
    for exporter in &host.exporters {
        for lun in &host.array.san.luns {
            let metrics = exporter.metrics();
            let path =
                metrics.labels("multipath_path_info", &[("wwid", &lun.wwid), ("initiator_port", network.interface)]);
            let path = [("wwid", lun.wwid.as_str()), ("path", &path["path"])];
            assert_eq!(metrics.value("multipath_path_valid", &path), 0.0);
            assert_eq!(metrics.state("multipath_path_device_state", &path), "running");
        }
    }
}

/// Two sessions have the same interface, target and portal. One of them dies, and later the other
/// one, repeatedly. Each failure counts once, and logouts do not count.
fn iscsi_twin_sessions(lab: &Lab) {
    let host = Host::start(lab);
    let [network, _] = host.networks();
    let array = &host.array;
    let only = |sessions: Vec<String>| <[String; 1]>::try_from(sessions).expect("there is one");
    let [first] = only(sessions(network).into_iter().collect());
    array.log_in_again(&first);
    let [twin] = only(sessions(network).into_iter().filter(|session| *session != first).collect());
    host.wait_for_counts(3, 0);

    let twins = |exporter: &Exporter| -> BTreeMap<String, [f64; 2]> {
        let metrics = exporter.metrics();
        let of_twins = |name| {
            let series = metrics.series(name);
            series.filter(|(labels, _)| labels["initiator_port"] == network.interface)
        };
        of_twins("multipath_iscsi_session_up")
            .zip(of_twins("multipath_iscsi_session_paths"))
            .map(|((labels, up), (_, paths))| {
                assert_eq!([&labels["target"], &labels["target_port"]], [TARGET, &*portals(network)[0]]);
                (labels["session"].clone(), [up, paths])
            })
            .collect()
    };
    let told = |up: [f64; 2]| BTreeMap::from([(first.clone(), [up[0], 2.0]), (twin.clone(), [up[1], 2.0])]);
    host.wait_for("both are up", &told([1.0, 1.0]), twins);

    array.disconnect(&twin);
    host.wait_for("the twin is down", &told([1.0, 0.0]), twins);
    host.wait_for_counts(2, 1);
    host.wait_for_failures([Some(1.0), Some(0.0)]);
    for exporter in &host.exporters {
        let page = exporter.get_ok("/").body;
        let down =
            format!("1 of 3 iSCSI sessions is down: {} through {} ({twin}, ", portals(network)[0], network.interface);
        assert!(page.contains(&down), "{page}");
        let session = [("session", twin.as_str())];
        assert_ne!(exporter.metrics().state("multipath_iscsi_session_state", &session), "LOGGED_IN");
    }
    array.reconnect();
    host.wait_for("the twin is back", &told([1.0, 1.0]), twins);
    host.wait_for_counts(3, 0);

    array.end_session(&twin);
    host.wait_for_counts(2, 0);
    host.wait_for_failures([Some(1.0), Some(0.0)]);
    let told_first = |up: f64| BTreeMap::from([(first.clone(), [up, 2.0])]);
    for count in [2.0, 3.0] {
        array.disconnect(&first);
        host.wait_for("the other one is down", &told_first(0.0), twins);
        host.wait_for_failures([Some(count), Some(0.0)]);
        array.reconnect();
        host.wait_for("the other one is back", &told_first(1.0), twins);
    }
    host.wait_for_counts(2, 0);
    array.log_out(network);
    host.wait_for_failures([None, Some(0.0)]);
    array.log_in(network);
    host.wait_for_failures([Some(3.0), Some(0.0)]);
}

/// Such a bond is no outage. It is one as soon as the host has the interface and does not use it.
fn iscsi_bond_without_its_networks(lab: &Lab) {
    let host = Host::start(lab);
    host.wait_for_networks([true, true]);
    let series = |exporter: &Exporter| -> Vec<(String, f64)> {
        let metrics = exporter.metrics();
        let names = ["network_up", "networks", "networks_up"].map(|name| format!("multipath_iscsi_bond_{name}"));
        let of_bonds = names.iter().flat_map(|name| metrics.series(name).map(move |series| (name, series)));
        let of_absent = of_bonds.filter(|(_, (labels, _))| ["absent", "empty"].contains(&labels["bond"].as_str()));
        of_absent.map(|(name, (_, value))| (name.clone(), value)).collect()
    };
    let note = |exporter: &Exporter, text: &str| exporter.get_ok("/").body.contains(text);
    let elsewhere = "This host has no network of 1 iSCSI bond, so the exporter does not watch it: absent.";
    let empty = "1 iSCSI bond has no networks in the configuration, so the exporter does not watch it: empty.";
    host.wait_for("neither is watched", &Vec::new(), series);
    host.wait_for("the page says so", &[true; 2], |exporter| [elsewhere, empty].map(|text| note(exporter, text)));

    run("ip", ["link", "add", ABSENT_INTERFACE, "type", "veth", "peer", "name", "storage9a"]);
    host.exporters.iter().for_each(Exporter::hang_up);
    let down = [("network_up", 0.0), ("network_up", 0.0), ("networks", 2.0), ("networks_up", 0.0)];
    let down = down.map(|(name, value)| (format!("multipath_iscsi_bond_{name}"), value));
    host.wait_for("one is watched", &down.to_vec(), series);
    host.wait_for("the page says so", &[false, true], |exporter| [elsewhere, empty].map(|text| note(exporter, text)));

    // An interface that vanishes is missed until the host goes into maintenance.
    run("ip", ["link", "del", ABSENT_INTERFACE]);
    host.exporters.iter().for_each(Exporter::hang_up);
    host.wait_for("it is still watched after a re-read", &down.to_vec(), series);
    let [one, other] = host.networks();
    host.array.log_out(one);
    host.array.log_out(other);
    host.wait_for("no bond is watched", &0, |exporter| {
        exporter.metrics().series("multipath_iscsi_bond_networks").count()
    });
    host.array.log_in(one);
    host.wait_for("the page says so", &true, |exporter| note(exporter, elsewhere));
    host.wait_for("neither is watched again", &Vec::new(), series);
}

/// An outage may remove the addresses. An unbound session may return over another interface.
fn iscsi_bond_whose_addresses_vanish(lab: &Lab) {
    let host = Host::start(lab);
    host.wait_for_networks([true, true]);
    for network in host.networks() {
        network.cut();
        run("ip", ["address", "flush", "dev", network.interface]);
    }
    host.wait_for_networks([false, false]);
    host.exporters.iter().for_each(Exporter::hang_up);
    host.wait_for_networks([false, false]);
    // The exporter has no past, as after a restart.
    let bond = |network: &Network| network.cidr.to_owned();
    let [one, other] = host.networks().each_ref().map(bond);
    let config = format!("iscsi_bonds:\n- {{name: {}, networks: [{one}, {other}], targets: ['*']}}\n", BONDS[1]);
    for exporter in [lab.exporter().config(&config).start(), lab.exporter().config(&config).unprivileged().start()] {
        let metrics = exporter.metrics();
        let bond = [("bond", BONDS[1])];
        assert_eq!(metrics.value("multipath_iscsi_bond_networks", &bond), 2.0);
        assert_eq!(metrics.value("multipath_iscsi_bond_networks_up", &bond), 0.0);
    }
}
