//! Paths that the kernel holds valid while I/O to them waits.

use super::assert_no_errors;
use super::fibre_channel::{self, fabric};
use crate::harness::{Exporter, Host, MPATHA, MPATHB, Page};

/// The four paths of the fabric: their SCSI host and the number of their remote port.
const PATHS: [(&str, usize); 4] = [("host5", 2), ("host5", 3), ("host6", 2), ("host6", 3)];

/// Sets the kernel's state of a port, and of the disk behind it.
fn turn(host: &Host, (scsi_host, number): (&str, usize), port: &str, disk: &str) {
    let remote = fibre_channel::remote_port(scsi_host, number);
    host.sysfs.write(&format!("{remote}/port_state"), format!("{port}\n"));
    let (bus, target) = (&scsi_host[4..], number - 2);
    let (rport, _) = remote.split_once("/fc_remote_ports").unwrap();
    let scsi = format!("{rport}/target{bus}:0:{target}/{bus}:0:{target}:1");
    host.sysfs.write(&format!("{scsi}/state"), format!("{disk}\n"));
}

fn blocked(page: &Page) -> Option<f64> {
    page.device("blocked_paths", fibre_channel::WWID)
}

/// The first sentence of the status page.
fn sentence(exporter: &Exporter) -> String {
    let page = exporter.get("/").text().to_owned();
    let (_, rest) = page.split_once("<h1>").unwrap();
    rest.split_once("</h1>").unwrap().0.rsplit("<span>").next().unwrap().replace("</span>", "")
}

#[test]
fn nothing_gets_through_where_all_ports_are_blocked() {
    let host = fabric();
    let exporter = host.exporter(&[]);
    assert_eq!(blocked(&exporter.metrics()), None);
    PATHS.iter().for_each(|path| turn(&host, *path, "Blocked", "blocked"));
    let page = exporter.reread_twice();
    assert_eq!((blocked(&page), page.device("valid_paths", fibre_channel::WWID)), (Some(4.0), Some(4.0)));
    assert_eq!(sentence(&exporter), "All valid paths of 1 device are blocked: no I/O completes");
    assert_eq!(exporter.get("/api/v1/devices").json()["devices"][0]["blocked_paths"], 4);
    assert_no_errors(&page);
    PATHS.iter().for_each(|path| turn(&host, *path, "Online", "running"));
    assert_eq!(blocked(&exporter.reread_twice()), None);
    assert_eq!(sentence(&exporter), "All paths of the only device work");
}

#[test]
fn either_the_port_or_the_disk_says_so() {
    let host = fabric();
    let exporter = host.exporter(&[]);
    let [first, second, third, fourth] = PATHS;
    // A disk's state may lag behind its port's.
    turn(&host, first, "Blocked", "running");
    turn(&host, second, "Online", "quiesce");
    turn(&host, third, "Online", "created-blocked");
    turn(&host, fourth, "Marginal", "running");
    let page = exporter.reread_twice();
    assert_eq!(blocked(&page), Some(3.0));
    assert_eq!(sentence(&exporter), "No path of the only device has failed, but there are other problems");
    assert!(exporter.get("/").text().contains("1 device has blocked paths"));
}

#[test]
fn a_path_on_which_io_fails_is_not_blocked() {
    let host = fabric();
    let exporter = host.exporter(&[]);
    let [first, second, third, _] = PATHS;
    // `fast_io_fail_tmo` and `dev_loss_tmo` have run out.
    turn(&host, first, "Blocked", "transport-offline");
    turn(&host, second, "Not Present", "transport-offline");
    turn(&host, third, "Online", "offline");
    let page = exporter.reread_twice();
    assert_eq!((blocked(&page), page.device("failed_paths", fibre_channel::WWID)), (None, Some(3.0)));
}

#[test]
fn a_session_that_is_down_blocks_its_disks_until_they_fail() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&["--collector.nvme"]);
    let turn = |session: usize, state: &str, disk: &str| {
        let directory = format!("devices/platform/host{}/session{session}", session + 5);
        host.sysfs.write(&format!("{directory}/iscsi_session/session{session}/state"), format!("{state}\n"));
        for lun in [1, 2] {
            let bus = session + 5;
            host.sysfs.write(&format!("{directory}/target{bus}:0:0/{bus}:0:0:{lun}/state"), format!("{disk}\n"));
        }
    };
    let blocked = |page: &Page| [MPATHA, MPATHB].map(|wwid| page.device("blocked_paths", wwid));
    turn(1, "FAILED", "blocked");
    let page = exporter.reread_twice();
    assert_eq!(blocked(&page), [Some(1.0); 2]);
    assert!(exporter.get("/").text().contains("2 devices have blocked paths"));
    turn(2, "FAILED", "blocked");
    assert_eq!(blocked(&exporter.reread_twice()), [Some(2.0); 2]);
    // `recovery_tmo` has run out: the kernel has failed the paths over the first session.
    host.turn_into("02-net1-lost");
    turn(1, "FAILED", "blocked");
    turn(2, "LOGGED_IN", "running");
    assert_eq!(blocked(&exporter.reread_twice()), [None; 2], "they have failed");
    // NVMe controllers never block paths.
    host.sysfs.write("devices/virtual/nvme-fabrics/ctl/nvme0/state", "connecting\n");
    let page = exporter.reread_twice();
    assert_eq!(page.of_metric("multipath_device_blocked_paths").len(), 0);
}

#[test]
fn one_reading_cannot_tell() {
    let host = fabric();
    PATHS.iter().for_each(|path| turn(&host, *path, "Blocked", "blocked"));
    let mut options = host.options();
    options.push("--oneshot".to_owned());
    let printed = crate::harness::run(&options);
    assert_eq!(printed.status, Some(0), "{}", printed.stderr);
    assert!(!printed.stdout.contains("blocked_paths") && !printed.stdout.contains("stalled"), "{}", printed.stdout);
}
