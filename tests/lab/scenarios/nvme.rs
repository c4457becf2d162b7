//! Native NVMe multipath over TCP and two networks. Exporters run as root and as `nobody`, who may
//! read all of it.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Scenario;
use super::looks_healthy::{read, wait_for_end};
use crate::exporter::Exporter;
use crate::guest::Lab;
use crate::metrics::{Counts, Host as Totals, Labels, Metrics, count};
use crate::network::{Network, Networks};
use crate::nvme::{Array, DISCOVERY, Namespace, SUBSYSTEM};
use crate::wait::{eventually_eq, pause};

pub const ALL: &[Scenario] = &[
    Scenario::new("nvme_ana_states", nvme_ana_states),
    Scenario::new("nvme_networks_lost_and_back", nvme_networks_lost_and_back),
    Scenario::new("nvme_controllers_and_namespaces_gone", nvme_controllers_and_namespaces_gone),
    Scenario::new("nvme_controllers_that_reconnect", nvme_controllers_that_reconnect),
    Scenario::new("nvme_takeover_is_quiet", nvme_takeover_is_quiet),
    Scenario::new("nvme_namespace_without_a_device", nvme_namespace_without_a_device),
];

/// The time that an array may need to move its namespaces to another controller.
const TAKEOVER: Duration = Duration::from_secs(30);

/// The part of that time with the state `change`. The kernel resets a controller that keeps this
/// state for longer than twice the array's ANATT, which is 10 seconds in nvmet.
const CHANGE: Duration = Duration::from_secs(10);

pub struct Host {
    pub exporters: [Exporter; 2],
    pub array: Array,
}

/// The numbers of valid, standby and failed paths.
type States = (u64, u64, u64);

impl Host {
    pub fn start(lab: &Lab) -> Self {
        let host = Host::of(lab, Array::start());
        host.wait_for_states([(2, 0, 0), (2, 0, 0)]);
        host
    }

    fn of(lab: &Lab, array: Array) -> Self {
        // The kernel sends no event about NVMe.
        let launch = || lab.exporter().flag("--reread.interval=1s");
        Host { exporters: [launch().start(), launch().unprivileged().start()], array }
    }

    pub fn namespaces(&self) -> &[Namespace; 2] {
        &self.array.namespaces
    }

    pub fn networks(&self) -> &[Network; 2] {
        &self.array.networks.0
    }

    /// The node of a namespace's head.
    pub fn device(&self, namespace: &Namespace) -> String {
        format!("/dev/{}", self.array.head(namespace).expect("the kernel has the namespace"))
    }

    /// Waits until both devices have these numbers of paths in each state.
    pub fn wait_for_states(&self, states: [States; 2]) {
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

    /// Waits until both exporters show exactly this of the controller over a network.
    #[track_caller]
    fn wait_for_controller(&self, network: &Network, said: Option<Controller>) {
        for exporter in &self.exporters {
            eventually_eq(&format!("the controller over {}", network.interface), said, || {
                controller_over(&exporter.metrics(), network)
            });
        }
    }

    /// Waits until this number of paths has no device.
    #[track_caller]
    fn wait_for_unreachable(&self, paths: f64) {
        for exporter in &self.exporters {
            eventually_eq("paths without a device", paths, || unreachable(&exporter.metrics()));
        }
    }

    /// Checks that both devices have these numbers of path failures and reinstatements.
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

/// The facts in the metrics about a controller over fabrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Controller {
    up: bool,
    state: &'static str,
    failures: u64,
}

/// A state that [`Controller`] may name.
fn known(state: &str) -> &'static str {
    ["live", "resetting", "connecting"].into_iter().find(|known| *known == state).unwrap_or("another")
}

/// The controller over a network, if there is one. Discovery controllers never appear.
fn controller_over(metrics: &Metrics, network: &Network) -> Option<Controller> {
    let one = |name: &str| {
        let is_over = |labels: &Labels| {
            assert_eq!(labels["target"], SUBSYSTEM, "{name}");
            labels["initiator_port"] == network.interface
        };
        let mut found = metrics.series(name).filter(|(labels, _)| is_over(labels));
        let one = found.next();
        assert!(found.next().is_none(), "{name}: there are two over {}", network.interface);
        one
    };
    let (_, up) = one("multipath_nvme_controller_up")?;
    let (state, _) = one("multipath_nvme_controller_state").expect("it has a state");
    let (_, failures) = one("multipath_nvme_controller_failures_total").expect("its failures are counted");
    Some(Controller { up: up == 1.0, state: known(&state["state"]), failures: count(failures) })
}

fn live(failures: u64) -> Option<Controller> {
    Some(Controller { up: true, state: "live", failures })
}

/// The number of the array's paths without a device.
fn unreachable(metrics: &Metrics) -> f64 {
    metrics.get("multipath_nvme_unreachable_namespaces", &[("target", SUBSYSTEM)]).unwrap_or_default()
}

/// The ANA states of groups change without an event: paths are valid, standby or failed.
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

/// A controller reconnects, and the ANA states of its paths stay unchanged.
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

    // The next controller gets the number of a removed one, whatever its target.
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
    // The returned controller has another number.
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

/// A network is cut and returns, a controller is reset, and another one is disconnected. A
/// discovery controller exists beside them.
fn nvme_controllers_that_reconnect(lab: &Lab) {
    let host = Host::start(lab);
    let [one, other] = host.networks();
    let discovery = host.array.connect_to_discovery(one);
    host.wait_for_controller(one, live(0));
    host.wait_for_controller(other, live(0));
    let names = [one, other].map(|network| {
        let over = [("initiator_port", network.interface)];
        let info = host.exporters[1].metrics().labels("multipath_nvme_controller_info", &over);
        assert_eq!(info["target_port"], format!("{}:4420", network.address));
        let fast_io_fail_tmo = if host.array.can_fail_io(&info["controller"]) { "off" } else { "" };
        let expected = [SUBSYSTEM, "600", fast_io_fail_tmo, "1"];
        let labels = ["target", "ctrl_loss_tmo", "fast_io_fail_tmo", "reconnect_delay"];
        assert_eq!(labels.map(|label| info[label].as_str()), expected);
        info["controller"].clone()
    });

    one.cut();
    host.wait_for_controller(one, Some(Controller { up: false, state: "connecting", failures: 1 }));
    host.wait_for_controller(other, live(0));
    eventually_eq("the discovery controller reconnects, too", "connecting", || known(&host.array.state(&discovery)));
    one.mend();
    host.wait_for_controller(one, live(1));
    eventually_eq("so does it", "live", || known(&host.array.state(&discovery)));
    host.wait_for_states([(2, 0, 0); 2]);
    host.wait_for_controller(one, live(1));

    host.array.reset(&names[0]);
    host.array.disconnect(&names[1]);
    host.wait_for_controller(other, None);
    if host.array.counts_resets(&names[0]) {
        host.wait_for_controller(one, live(2));
    }
    for exporter in &host.exporters {
        let reset = controller_over(&exporter.metrics(), one);
        // The controller was away for so short a time that a reading may have missed it. The kernel
        // counts resets since Linux 7.2.
        assert!([live(1), live(2)].contains(&reset), "{reset:?}");
    }
    host.array.connect(other, "");
    host.wait_for_controller(other, live(0));
    host.array.disconnect(&discovery);
    host.wait_for_states([(2, 0, 0); 2]);
    for exporter in &host.exporters {
        let subsystem = [("target", SUBSYSTEM), ("iopolicy", "numa")];
        assert_eq!(exporter.metrics().value("multipath_nvme_subsystem_info", &subsystem), 1.0);
        assert!(!exporter.get_ok("/metrics").body.contains(DISCOVERY));
        assert_eq!(exporter.metrics().past().lost_devices, 0);
    }
}

/// One side of the array owns the namespace, and the other takes it over within 30 seconds. I/O
/// waits, and nothing has failed.
fn nvme_takeover_is_quiet(lab: &Lab) {
    let host = Host::start(lab);
    let [namespace, _] = host.namespaces();
    host.array.set_ana(2, 1, "inaccessible");
    host.wait_for_states([(1, 1, 0), (2, 0, 0)]);

    let start = Instant::now();
    [1, 2].into_iter().for_each(|port| host.array.set_ana(port, 1, "change"));
    host.wait_for_states([(0, 2, 0), (2, 0, 0)]);
    let reader = read(&host.device(namespace));
    let mut changes = true;
    while start.elapsed() < TAKEOVER {
        if changes && start.elapsed() > CHANGE {
            [1, 2].into_iter().for_each(|port| host.array.set_ana(port, 1, "inaccessible"));
            changes = false;
        }
        for exporter in &host.exporters {
            let metrics = exporter.metrics();
            host.networks().iter().for_each(|network| assert_eq!(controller_over(&metrics, network), live(0)));
            assert_eq!(unreachable(&metrics), 0.0);
            assert_eq!(metrics.host(), Totals { devices: 2, without_valid_paths: 1, paths: 4, ..Totals::default() });
            assert_eq!(metrics.value("multipath_device_queueing", &[("wwid", &namespace.wwid)]), 1.0);
        }
        pause();
    }
    host.array.set_ana(2, 1, "optimized");
    host.wait_for_states([(1, 1, 0), (2, 0, 0)]);
    wait_for_end(vec![reader]);
    host.assert_path_events([(0, 0); 2]);
    host.networks().iter().for_each(|network| host.wait_for_controller(network, live(0)));
}

/// No controller has been able to reach a namespace since the connect. The kernel has its paths,
/// and creates the head when one is usable.
fn nvme_namespace_without_a_device(lab: &Lab) {
    let array = Array::unconnected(Rc::new(Networks::start()));
    let [_, inaccessible] = &array.namespaces;
    [1, 2].into_iter().for_each(|port| array.set_ana(port, 2, "inaccessible"));
    array.connect_all("");
    eventually_eq("the kernel has paths", 2, || array.paths(inaccessible).len());
    assert_eq!(array.head(inaccessible), None);

    let host = Host::of(lab, array);
    let [_, inaccessible] = host.namespaces();
    host.wait_for_unreachable(2.0);
    for exporter in &host.exporters {
        let metrics = exporter.metrics();
        assert_eq!(metrics.host(), Totals { devices: 1, paths: 2, ..Totals::default() });
        assert!(!metrics.mentions(&inaccessible.wwid));
    }

    host.array.set_ana(1, 2, "optimized");
    host.wait_for_states([(2, 0, 0), (1, 1, 0)]);
    host.wait_for_unreachable(0.0);
    wait_for_end(vec![read(&host.device(inaccessible))]);
    host.array.set_ana(2, 2, "optimized");
    host.wait_for_states([(2, 0, 0); 2]);
    host.assert_path_events([(0, 0); 2]);
    host.exporters.iter().for_each(|exporter| assert_eq!(exporter.multipath_health(), serde_json::json!({})));
}
