//! Native NVMe multipath, over TCP and two networks. As root and as `nobody`, who may read all of it.

use super::Scenario;
use crate::exporter::Exporter;
use crate::guest::Lab;
use crate::metrics::{Counts, Host as Totals, Labels};
use crate::network::Network;
use crate::nvme::{Array, Namespace, SUBSYSTEM};
use crate::wait::eventually_eq;

pub const ALL: &[Scenario] = &[
    Scenario::new("nvme_ana_states", nvme_ana_states),
    Scenario::new("nvme_networks_lost_and_back", nvme_networks_lost_and_back),
    Scenario::new("nvme_controllers_and_namespaces_gone", nvme_controllers_and_namespaces_gone),
];

struct Host {
    exporters: [Exporter; 2],
    array: Array,
}

/// How many paths are valid, on standby and failed.
type States = (u64, u64, u64);

impl Host {
    fn start(lab: &Lab) -> Self {
        let array = Array::start();
        // Nothing of NVMe has an event.
        let launch = || lab.exporter().flag("--reread.interval=1s");
        let host = Host { exporters: [launch().start(), launch().unprivileged().start()], array };
        host.wait_for_states([(2, 0, 0), (2, 0, 0)]);
        host
    }

    fn namespaces(&self) -> &[Namespace; 2] {
        &self.array.namespaces
    }

    fn networks(&self) -> &[Network; 2] {
        &self.array.networks.0
    }

    /// Waits until both devices have so many paths in each state.
    fn wait_for_states(&self, states: [States; 2]) {
        for exporter in &self.exporters {
            for (namespace, states) in self.namespaces().iter().zip(states) {
                let what = format!("{} has these paths", namespace.wwid);
                eventually_eq(&what, Some(states), || {
                    let metrics = exporter.metrics();
                    let Counts { valid, failed } = metrics.counts(&namespace.wwid)?;
                    Some((valid, metrics.standby(&namespace.wwid), failed))
                });
            }
        }
    }

    /// So many path failures and reinstatements of both devices are counted.
    fn assert_path_events(&self, events: [(u64, u64); 2]) {
        for exporter in &self.exporters {
            for (namespace, (failed, reinstated)) in self.namespaces().iter().zip(events) {
                assert_eq!(exporter.metrics().path_events(&namespace.wwid), (failed, reinstated));
                for (kind, count) in [("path_failed", failed), ("path_reinstated", reinstated)] {
                    assert_eq!(exporter.events(&namespace.wwid, kind).len() as u64, count, "{kind}");
                }
            }
        }
    }
}

/// The labels of a device's path over a network.
fn path_over(exporter: &Exporter, namespace: &Namespace, network: &Network) -> Labels {
    let matching = [("wwid", namespace.wwid.as_str()), ("initiator_port", network.interface)];
    exporter.metrics().labels("multipath_path_info", &matching)
}

/// The states of an array's groups, which change with no event: valid, standby or failed.
fn nvme_ana_states(lab: &Lab) {
    let host = Host::start(lab);
    for exporter in &host.exporters {
        let metrics = exporter.metrics();
        assert_eq!(metrics.host(), Totals { devices: 2, paths: 4, ..Totals::default() });
        for (group, namespace) in ["1", "2"].into_iter().zip(host.namespaces()) {
            let wwid = [("wwid", namespace.wwid.as_str())];
            let head = host.array.head(namespace).expect("the kernel has the namespace");
            let info = metrics.labels("multipath_device_info", &wwid);
            let uuid = namespace.wwid.trim_start_matches("uuid.");
            let expected = [head.as_str(), &head, uuid, "nvme", "", "EXAMPLE"];
            let labels = ["name", "sysfs_name", "uuid", "kind", "vendor", "product"];
            assert_eq!(labels.map(|label| info[label].as_str()), expected);
            assert!(!info["revision"].is_empty(), "{info:?}");
            assert_eq!(metrics.value("multipath_device_size_bytes", &wwid), f64::from(1 << 30));
            assert_eq!(metrics.value("multipath_device_queueing", &wwid), 1.0);
            assert_eq!(metrics.get("multipath_device_open_count", &wwid), None);
            for zero in ["read_only", "root", "path_io_errors_total", "repeated_path_failures_total"] {
                assert_eq!(metrics.value(&format!("multipath_device_{zero}"), &wwid), 0.0, "{zero}");
            }
            for fault in ["suspended", "size_mismatched_paths", "read_only_mismatched_paths", "non_optimized"] {
                assert_eq!(metrics.fault(&format!("multipath_device_{fault}"), &wwid), 0.0, "{fault}");
            }
            for network in host.networks() {
                let info = path_over(exporter, namespace, network);
                let target_port = format!("{}:4420", network.address);
                let expected = ["", "", "nvme-tcp", group, SUBSYSTEM, &target_port];
                let labels = ["devno", "hctl", "transport", "group", "target", "target_port"];
                assert_eq!(labels.map(|label| info[label].as_str()), expected);
                let path = [wwid[0], ("path", info["path"].as_str())];
                assert_eq!(metrics.value("multipath_path_valid", &path), 1.0);
                assert_eq!(metrics.state("multipath_path_device_state", &path), "live");
                assert_eq!(metrics.state("multipath_path_ana_state", &path), "optimized");
                assert_eq!(metrics.value("multipath_path_failures_total", &path), 0.0);
            }
        }
    }

    for (state, states) in [
        ("non-optimized", (2, 0, 0)),
        ("inaccessible", (1, 1, 0)),
        ("change", (1, 1, 0)),
        ("persistent-loss", (1, 0, 1)),
        ("optimized", (2, 0, 0)),
    ] {
        host.array.set_ana(1, 1, state);
        for exporter in &host.exporters {
            let namespace = &host.namespaces()[0];
            let path = path_over(exporter, namespace, &host.networks()[0])["path"].clone();
            let path = [("wwid", namespace.wwid.as_str()), ("path", path.as_str())];
            eventually_eq("the state is shown", state, || {
                let shown = exporter.metrics().state("multipath_path_ana_state", &path);
                if shown == state { state } else { "another" }
            });
        }
        host.wait_for_states([states, (2, 0, 0)]);
    }
    host.assert_path_events([(1, 1), (0, 0)]);

    host.array.set_ana(1, 1, "inaccessible");
    host.array.set_ana(2, 1, "inaccessible");
    host.wait_for_states([(0, 2, 0), (2, 0, 0)]);
    for exporter in &host.exporters {
        let totals = Totals { devices: 2, without_valid_paths: 1, paths: 4, ..Totals::default() };
        assert_eq!(exporter.metrics().host(), totals);
        let health = exporter.multipath_health();
        assert_eq!(health[&host.namespaces()[0].wwid]["valid_paths"], 0);
        assert_eq!(health[&host.namespaces()[0].wwid]["failed_paths"], serde_json::json!([]));
    }
    host.array.set_ana(2, 1, "optimized");
    host.wait_for_states([(1, 1, 0), (2, 0, 0)]);
    host.assert_path_events([(1, 1), (0, 0)]);
}

/// A controller that reconnects, while the ANA state of its paths stays what it was.
fn nvme_networks_lost_and_back(lab: &Lab) {
    let host = Host::start(lab);
    let [one, other] = host.networks();
    let [namespace, _] = host.namespaces();
    let labels = || {
        host.exporters.each_ref().map(|exporter| [one, other].map(|network| path_over(exporter, namespace, network)))
    };
    let before = labels();

    host.array.close_port(1);
    host.wait_for_states([(1, 0, 1), (1, 0, 1)]);
    for exporter in &host.exporters {
        let metrics = exporter.metrics();
        let totals = Totals { devices: 2, degraded: 2, paths: 4, failed_paths: 2, ..Totals::default() };
        assert_eq!(metrics.host(), totals);
        let info = path_over(exporter, namespace, one);
        let path = [("wwid", namespace.wwid.as_str()), ("path", info["path"].as_str())];
        assert_eq!(metrics.value("multipath_path_valid", &path), 0.0);
        assert_eq!(metrics.state("multipath_path_device_state", &path), "connecting");
        assert_eq!(metrics.state("multipath_path_ana_state", &path), "optimized");
        assert_eq!(metrics.value("multipath_path_failures_total", &path), 1.0);
    }
    host.assert_path_events([(1, 0); 2]);

    other.lose_all();
    host.wait_for_states([(0, 0, 2); 2]);
    assert_eq!(labels(), before, "labels do not change at the moment of failure");
    host.assert_path_events([(2, 0); 2]);
    for exporter in &host.exporters {
        assert_eq!(exporter.metrics().host().without_valid_paths, 2);
        let events = exporter.events(&namespace.wwid, "path_failed");
        assert_eq!(events.iter().map(|event| event["valid_paths"].clone()).collect::<Vec<_>>(), [1, 0]);
        assert!(events.iter().all(|event| event["seqnum"].is_null()), "a reading showed it: {events:?}");
        exporter.wait_for_log_lines("warn", "path failed", 4);
    }

    other.lose_nothing();
    host.wait_for_states([(1, 0, 1); 2]);
    host.array.open_port(1);
    host.wait_for_states([(2, 0, 0); 2]);
    assert_eq!(labels(), before);
    host.assert_path_events([(2, 2); 2]);
    host.exporters.iter().for_each(|exporter| exporter.wait_for_log_lines("info", "path reinstated", 4));
}

fn nvme_controllers_and_namespaces_gone(lab: &Lab) {
    let host = Host::start(lab);
    let [one, other] = host.networks();
    let [namespace, removed] = host.namespaces();
    let events = |kind| host.exporters.each_ref().map(|exporter| exporter.events(&namespace.wwid, kind).len());
    let [first, old] = [one, other].map(|network| {
        let path = path_over(&host.exporters[0], namespace, network);
        host.array.controller(namespace, &path["path"])
    });

    // The number of a controller that is gone is the next one's, whatever that one leads to.
    host.array.close_port(2);
    host.wait_for_states([(1, 0, 1); 2]);
    let old_path = path_over(&host.exporters[0], namespace, other)["path"].clone();
    host.array.disconnect(&old);
    let again = host.array.connect(one, ",duplicate_connect");
    assert_eq!(again, old);
    host.wait_for_states([(2, 0, 0); 2]);
    for exporter in &host.exporters {
        let path = [("wwid", namespace.wwid.as_str()), ("path", old_path.as_str())];
        let info = exporter.metrics().labels("multipath_path_info", &path);
        assert_eq!(info["initiator_port"], one.interface);
        assert_eq!(info["target_port"], format!("{}:4420", one.address));
    }
    // And the one that is back has another number.
    host.array.open_port(2);
    let new = host.array.connect(other, "");
    assert_ne!(new, old);
    host.wait_for_states([(3, 0, 0); 2]);
    for exporter in &host.exporters {
        assert_ne!(path_over(exporter, namespace, other)["path"], old_path);
    }
    host.array.disconnect(&again);
    host.wait_for_states([(2, 0, 0); 2]);
    assert_eq!(events("path_removed").map(|removed| removed > 0), [true; 2]);

    removed.enable(false);
    for exporter in &host.exporters {
        eventually_eq("the namespace's device is gone", false, || exporter.metrics().mentions(&removed.wwid));
        assert_eq!(exporter.metrics().host(), Totals { devices: 1, paths: 2, ..Totals::default() });
        assert_eq!(exporter.events(&removed.wwid, "device_removed").len(), 1);
    }
    removed.enable(true);
    host.wait_for_states([(2, 0, 0); 2]);

    host.array.disconnect(&new);
    host.wait_for_states([(1, 0, 0); 2]);
    host.array.disconnect(&first);
    for exporter in &host.exporters {
        eventually_eq("no device is left", Totals::default(), || exporter.metrics().host());
    }
    assert_eq!(events("device_removed"), [1, 1]);
    host.array.connect(one, "");
    host.wait_for_states([(1, 0, 0); 2]);
    assert_eq!(events("device_added"), [1, 1]);
}
