//! NVMe controllers over fabrics, I/O that waits for them, and facts about subsystems.

use super::nvme::{CONTROLLERS, FIRST, NQN, NVME, SECOND, SUBSYSTEM, add_controller, remove_controller};
use super::{assert_errors, assert_no_errors};
use crate::harness::{Exporter, Host, Page, eventually};

/// The labels of connections between the ports of `nvme0` of the recorded host.
fn ports() -> String {
    format!("target=\"{NQN}\",target_port=\"10.10.1.2:4420\",initiator_port=\"e1\"")
}

/// The state (up is 1) of this controller, if it exists.
fn up(page: &Page, controller: &str) -> Option<f64> {
    let ours = |series: &&(&str, &str)| series.0.contains(&format!("controller=\"{controller}\""));
    page.of_metric("multipath_nvme_controller_up").iter().find(ours).map(|(_, value)| value.parse().unwrap())
}

fn set_state(host: &Host, controller: &str, state: &str) {
    host.sysfs.write(&format!("{CONTROLLERS}/{controller}/state"), format!("{state}\n"));
}

fn queueing(page: &Page) -> [Option<f64>; 2] {
    [FIRST, SECOND].map(|wwid| page.device("queueing", wwid))
}

fn await_queueing(exporter: &Exporter, expected: f64) {
    let series = [FIRST, SECOND].map(|wwid| format!("multipath_device_queueing{{wwid=\"{wwid}\"}}"));
    exporter.await_values(&[(&series[0], expected), (&series[1], expected)]);
}

#[test]
fn each_controller_has_a_state_and_the_times_that_the_kernel_waits_for_it() {
    let page = Host::recorded("02-net1-lost").exporter(&[NVME]).metrics();
    let labels = format!("controller=\"nvme0\",{}", ports());
    assert_eq!(page.value(&format!("multipath_nvme_controller_up{{{labels}}}")), Some(0.0));
    assert_eq!(page.value(&format!("multipath_nvme_controller_state{{{labels},state=\"connecting\"}}")), Some(1.0));
    let times = "ctrl_loss_tmo=\"600\",fast_io_fail_tmo=\"off\",reconnect_delay=\"2\"";
    assert_eq!(page.value(&format!("multipath_nvme_controller_info{{{labels},{times}}}")), Some(1.0));
    assert_eq!(up(&page, "nvme1"), Some(1.0));
    assert_eq!(page.value(&format!("multipath_nvme_controller_failures_total{{{}}}", ports())), Some(0.0));
    assert_no_errors(&page);
}

/// Before Linux 5.13 there is no `fast_io_fail_tmo`.
#[test]
fn a_time_that_the_kernel_does_not_have_is_empty() {
    let host = Host::recorded("03-both-lost");
    for controller in ["nvme0", "nvme1"] {
        host.sysfs.remove(&format!("{CONTROLLERS}/{controller}/fast_io_fail_tmo"));
    }
    let page = host.exporter(&[NVME]).metrics();
    let info = page.label("multipath_nvme_controller_info", "controller=\"nvme0\"", ",fast_io_fail_tmo");
    assert_eq!((info, queueing(&page)), (Some(""), [Some(1.0); 2]));
    assert_no_errors(&page);
}

#[test]
fn a_controller_that_reconnects_has_failed_once_and_one_that_is_removed_in_order_has_not() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[NVME]);
    let failures = |page: &Page| page.value(&format!("multipath_nvme_controller_failures_total{{{}}}", ports()));
    let after = |state: &str| {
        set_state(&host, "nvme0", state);
        let page = exporter.reread();
        (up(&page, "nvme0").unwrap(), failures(&page).unwrap())
    };
    for (state, expected) in [
        ("resetting", (0.0, 1.0)),
        ("connecting", (0.0, 1.0)),
        ("live", (1.0, 1.0)),
        ("connecting", (0.0, 2.0)),
        // The kernel gives up the controller.
        ("deleting", (0.0, 2.0)),
    ] {
        assert_eq!(after(state), expected, "{state}");
    }
    remove_controller(&host, "nvme0");
    let page = exporter.reread();
    assert_eq!((up(&page, "nvme0"), failures(&page)), (None, None));
    // Another connection between the same ports.
    add_controller(&host, 5);
    let page = exporter.reread();
    assert_eq!((up(&page, "nvme5"), failures(&page)), (Some(1.0), Some(2.0)));
    set_state(&host, "nvme5", "deleting (no IO)");
    assert_eq!(failures(&exporter.reread()), Some(2.0));
}

/// The kernel has these counters since Linux 7.2.
#[test]
fn a_controller_that_was_away_between_two_readings_has_failed() {
    let host = Host::recorded("01-healthy");
    let count = |count: u32| {
        host.sysfs.write(&format!("{CONTROLLERS}/nvme0/diag/reset_count"), format!("{count}\n"));
    };
    count(2);
    let exporter = host.exporter(&[NVME]);
    let failures = format!("multipath_nvme_controller_failures_total{{{}}}", ports());
    assert_eq!(exporter.metrics().value(&failures), Some(0.0));
    count(4);
    assert_eq!(exporter.reread_twice().value(&failures), Some(2.0));
    host.sysfs.make_unreadable(&format!("{CONTROLLERS}/nvme0/diag/reset_count"));
    let page = exporter.reread_twice();
    assert_eq!(page.value(&failures), Some(2.0));
    assert_errors("reset_count", &page);
}

/// The kernel immediately reuses the name for the next controller, which cannot connect.
#[test]
fn a_controller_that_is_removed_in_order_has_not_failed_with_its_successor() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[NVME]);
    let successor = "devices/virtual/successor";
    let set = |state: &str| host.sysfs.write(&format!("{successor}/state"), format!("{state}\n"));
    let address = "traddr=10.10.1.2,trsvcid=4420,host_iface=e1";
    for (file, content) in [("transport", "tcp"), ("subsysnqn", NQN), ("address", address)] {
        host.sysfs.write(&format!("{successor}/{file}"), format!("{content}\n"));
    }
    set("connecting");
    host.sysfs.link("class/successor", &format!("../../{successor}"));
    host.sysfs.rename("class/successor", "class/nvme/nvme0");
    let failures = format!("multipath_nvme_controller_failures_total{{{}}}", ports());
    let page = exporter.reread_twice();
    assert_eq!((up(&page, "nvme0"), page.value(&failures)), (Some(0.0), Some(0.0)));
    set("live");
    exporter.reread_twice();
    set("connecting");
    assert_eq!(exporter.reread_twice().value(&failures), Some(1.0));
}

#[test]
fn a_controller_without_namespaces_is_none_to_miss() {
    let host = Host::recorded("01-healthy");
    for (name, nqn, kind) in [
        ("nvme5", "nqn.2014-08.org.nvmexpress.discovery", None),
        ("nvme6", "nqn.2024-01.org.example:discovery", Some("discovery")),
        ("nvme7", "nqn.2024-01.org.example:management", Some("admin")),
    ] {
        let directory = format!("{CONTROLLERS}/{name}");
        host.sysfs.link(&format!("class/nvme/{name}"), &format!("../../{directory}"));
        let address = "traddr=10.10.1.2,trsvcid=8009,host_iface=e1";
        for (file, content) in [("state", "connecting"), ("transport", "tcp"), ("subsysnqn", nqn), ("address", address)]
        {
            host.sysfs.write(&format!("{directory}/{file}"), format!("{content}\n"));
        }
        if let Some(kind) = kind {
            host.sysfs.write(&format!("{directory}/cntrltype"), format!("{kind}\n"));
        }
    }
    let page = host.exporter(&[NVME]).metrics();
    let names = ["nvme0", "nvme1", "nvme5", "nvme6", "nvme7"].map(|name| up(&page, name));
    assert_eq!(names, [Some(1.0), Some(1.0), None, None, None]);
    assert!(!page.text().contains("10.10.1.2:8009"), "{}", page.text());
}

#[test]
fn a_local_controller_is_no_connection() {
    let page = super::nvme::local_disk(2).exporter(&[NVME]).metrics();
    assert!(page.of_metric("multipath_nvme_controller_up").is_empty());
    assert_eq!(page.device("queueing", "eui.0025385a81b0a001"), Some(1.0));
}

#[test]
fn what_cannot_be_read_of_a_controller_stays_as_last_read() {
    let info = |page: &Page| -> Vec<String> {
        page.of_metric("multipath_nvme_controller_info").into_iter().map(|(series, _)| series.to_owned()).collect()
    };
    for file in ["ctrl_loss_tmo", "fast_io_fail_tmo", "reconnect_delay", "cntrltype"] {
        let host = Host::recorded("01-healthy");
        let exporter = host.exporter(&[NVME]);
        let before = info(&exporter.metrics());
        host.sysfs.make_unreadable(&format!("{CONTROLLERS}/nvme0/{file}"));
        let page = exporter.reread();
        assert_eq!(info(&page), before, "{file}");
        assert_errors(file, &page);
    }
}

#[test]
fn io_waits_until_the_kernel_gives_the_last_controller_up() {
    let host = Host::recorded("01-healthy");
    host.sysfs.write(&format!("{CONTROLLERS}/nvme1/fast_io_fail_tmo"), "1\n");
    let exporter = host.exporter(&[NVME, "--reread.interval=100ms"]);
    assert_eq!(queueing(&exporter.metrics()), [Some(1.0); 2]);
    for controller in ["nvme0", "nvme1"] {
        host.sysfs.write(&format!("{CONTROLLERS}/{controller}/fast_io_fail_tmo"), "1\n");
        set_state(&host, controller, "connecting");
    }
    // From here on, nothing in sysfs changes.
    await_queueing(&exporter, 0.0);
    set_state(&host, "nvme1", "live");
    await_queueing(&exporter, 1.0);
}

#[test]
fn an_inaccessible_path_makes_io_wait_while_its_controller_lives() {
    let host = Host::recorded("01-healthy");
    for controller in [0, 1] {
        host.sysfs.write(&format!("{CONTROLLERS}/nvme{controller}/fast_io_fail_tmo"), "0\n");
    }
    host.sysfs.write(&format!("{CONTROLLERS}/nvme0/nvme0c0n1/ana_state"), "inaccessible\n");
    set_state(&host, "nvme1", "connecting");
    let exporter = host.exporter(&[NVME]);
    assert_eq!(queueing(&exporter.metrics()), [Some(1.0); 2]);
    set_state(&host, "nvme0", "connecting");
    assert_eq!(queueing(&exporter.reread()), [Some(0.0); 2]);
}

#[test]
fn a_head_without_a_controller_fails_io_unless_the_kernel_keeps_it() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[NVME, "--reread.interval=100ms"]);
    remove_controller(&host, "nvme0");
    remove_controller(&host, "nvme1");
    await_queueing(&exporter, 0.0);
    for (head, seconds) in [("nvme0n1", 3600), ("nvme0n2", 1)] {
        host.sysfs.write(&format!("{SUBSYSTEM}/{head}/delayed_removal_secs"), format!("{seconds}\n"));
    }
    eventually("one is kept", || (queueing(&exporter.metrics()) == [Some(1.0), Some(0.0)]).then_some(()));
}

/// The kernel reads this attribute under a lock. A command like `nvme format` holds the lock until
/// its controller has finished.
#[test]
fn how_long_a_head_is_kept_is_asked_only_when_none_of_its_controllers_is_live() {
    let host = Host::recorded("01-healthy");
    let file = |head| format!("{SUBSYSTEM}/{head}/delayed_removal_secs");
    host.sysfs.write(&file("nvme0n1"), "0\n");
    host.sysfs.make_unreadable(&file("nvme0n1"));
    host.sysfs.write(&file("nvme0n2"), "3600\n");
    let exporter = host.exporter(&[NVME]);
    set_state(&host, "nvme0", "connecting");
    assert_no_errors(&exporter.reread_twice());
    for controller in ["nvme0", "nvme1"] {
        set_state(&host, controller, "dead");
    }
    let page = exporter.reread_twice();
    assert_eq!(queueing(&page), [Some(0.0), Some(1.0)]);
    assert_errors("delayed_removal_secs", &page);
}

/// The number of paths without a head in the recorded subsystem.
fn unreachable(page: &Page) -> Option<f64> {
    page.value(&format!("multipath_nvme_unreachable_namespaces{{target=\"{NQN}\"}}"))
}

fn policy(page: &Page, policy: &str) -> Option<f64> {
    page.value(&format!("multipath_nvme_subsystem_info{{target=\"{NQN}\",iopolicy=\"{policy}\"}}"))
}

#[test]
fn a_subsystem_says_how_io_is_spread_over_its_paths() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[NVME]);
    let page = exporter.metrics();
    assert_eq!((policy(&page, "numa"), unreachable(&page)), (Some(1.0), Some(0.0)));
    host.sysfs.write(&format!("{SUBSYSTEM}/iopolicy"), "round-robin\n");
    let page = exporter.reread();
    assert_eq!((policy(&page, "numa"), policy(&page, "round-robin")), (None, Some(1.0)));
    host.sysfs.make_unreadable(&format!("{SUBSYSTEM}/iopolicy"));
    let page = exporter.reread();
    assert_eq!(policy(&page, "round-robin"), Some(1.0));
    assert_errors("iopolicy", &page);
}

/// First all namespaces are inaccessible, then the subsystem has none yet, and finally it has lost
/// all.
#[test]
fn a_subsystem_without_a_device_says_so_too() {
    let host = Host::recorded("01-healthy");
    for namespace in [1, 2] {
        host.sysfs.remove(&format!("{SUBSYSTEM}/nvme0n{namespace}"));
    }
    let exporter = host.exporter(&[NVME]);
    assert_eq!(policy(&exporter.metrics(), "numa"), Some(1.0));
    for controller in ["nvme0", "nvme1"] {
        remove_controller(&host, controller);
    }
    let page = exporter.reread();
    assert_eq!((policy(&page, "numa"), unreachable(&page)), (Some(1.0), None));
    host.sysfs.remove("class/nvme-subsystem/nvme-subsys0");
    assert_eq!(policy(&exporter.reread(), "numa"), None);
}

/// The namespace has been inaccessible since the connect.
#[test]
fn hidden_paths_without_a_head_are_counted_until_it_comes() {
    let host = Host::recorded("01-healthy");
    for controller in [0, 1] {
        let path = format!("{CONTROLLERS}/nvme{controller}/nvme0c{controller}n3");
        for (file, content) in [("ana_state", "inaccessible"), ("ana_grpid", "3"), ("size", "131072"), ("ro", "0")] {
            host.sysfs.write(&format!("{path}/{file}"), format!("{content}\n"));
        }
    }
    let exporter = host.exporter(&[NVME]);
    let page = exporter.metrics();
    assert_eq!((unreachable(&page), page.value("multipath_devices")), (Some(2.0), Some(4.0)));
    let status = exporter.get("/");
    assert!(status.text().contains("1 NVMe subsystem has namespaces that cannot be reached"), "{}", status.text());
    // Only the path's state has changed.
    host.sysfs.write(&format!("{CONTROLLERS}/nvme0/nvme0c0n3/ana_state"), "optimized\n");
    host.sysfs.write(&format!("{SUBSYSTEM}/nvme0n3/wwid"), "uuid.3\n");
    let page = exporter.reread();
    assert_eq!((unreachable(&page), page.device("paths", "uuid.3")), (Some(0.0), Some(2.0)));
    assert_no_errors(&page);
    for controller in ["nvme0", "nvme1"] {
        remove_controller(&host, controller);
    }
    assert_eq!(unreachable(&exporter.reread()), None);
}

/// `nvme_core.multipath=N`: each namespace is a disk of its own, and no path is hidden.
#[test]
fn without_native_multipath_nothing_waits_for_a_head() {
    let host = Host::recorded("01-healthy");
    for namespace in [1, 2] {
        host.sysfs.remove(&format!("{SUBSYSTEM}/nvme0n{namespace}"));
        for controller in [0, 1] {
            let path = format!("{CONTROLLERS}/nvme{controller}/nvme0c{controller}n{namespace}");
            host.sysfs.rename(&path, &format!("{CONTROLLERS}/nvme{controller}/nvme{controller}n{namespace}"));
        }
    }
    let page = host.exporter(&[NVME]).reread_twice();
    assert_eq!((unreachable(&page), policy(&page, "numa")), (Some(0.0), Some(1.0)));
}

/// The driver has these counters since Linux 7.2.
#[test]
fn errors_are_those_that_the_driver_counts() {
    let host = Host::recorded("01-healthy");
    let errors =
        |controller: u32| format!("{CONTROLLERS}/nvme{controller}/nvme0c{controller}n1/diag/command_error_count");
    host.sysfs.write(&errors(0), "3\n");
    let exporter = host.exporter(&[NVME]);
    let shown = |page: &Page| {
        let path = |path| page.value(&format!("multipath_path_io_errors_total{{wwid=\"{FIRST}\",path=\"{path}\"}}"));
        (path("nvme0c0n1"), path("nvme0c1n1"), page.device("path_io_errors_total", FIRST))
    };
    assert_eq!(shown(&exporter.metrics()), (Some(3.0), None, Some(3.0)));
    host.sysfs.write(&errors(0), "5\n");
    host.sysfs.write(&errors(1), "1\n");
    assert_eq!(shown(&exporter.reread()), (Some(5.0), Some(1.0), Some(6.0)));
    host.sysfs.make_unreadable(&errors(0));
    let page = exporter.reread();
    assert_eq!(shown(&page), (Some(5.0), Some(1.0), Some(6.0)));
    assert_errors("command_error_count", &page);
    remove_controller(&host, "nvme0");
    assert_eq!(shown(&exporter.reread()), (None, Some(1.0), Some(6.0)));
}
