//! Stalled I/O of devices, and of single paths whose siblings work.

use serde_json::Value;

use super::{assert_errors, assert_no_errors};
use crate::harness::{Exporter, Host, MPATHA, MPATHB, Page};

const HEAD: &str = "devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1";
const FIRST_HEAD: &str = "uuid.6ba2c62e-71c1-41c8-b9f6-d2e788c59000";
const SDB: &str = "devices/platform/host6/session1/target6:0:0/6:0:0:2/block/sdb";
const SDD: &str = "devices/platform/host7/session2/target7:0:0/7:0:0:2/block/sdd";
const NVME_PATH: &str = "devices/virtual/nvme-fabrics/ctl/nvme0/nvme0c0n1";

/// Writes a `stat` file of 17 numbers with these numbers of requests in flight and completed
/// discards.
fn write(host: &Host, device: &str, in_flight: u64, discards: u64) {
    host.sysfs.write(&format!("{device}/stat"), format!("7 0 9 9 7 0 9 9 {in_flight} 9 9 {discards} 0 0 0 3 0\n"));
}

fn stalled(page: &Page) -> [bool; 3] {
    [MPATHA, MPATHB, FIRST_HEAD].map(|wwid| page.device("stalled_seconds", wwid) > Some(0.0))
}

const DEVICES: [&str; 3] = ["devices/virtual/block/dm-0", "devices/virtual/block/dm-1", HEAD];

#[test]
fn io_stands_still_while_some_is_in_flight_and_none_completes() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&["--collector.nvme"]);
    // Only `inflight` exists. It has no count of completions.
    host.sysfs.write(&format!("{}/inflight", DEVICES[0]), "       4        0\n");
    let page = exporter.reread();
    assert_eq!((stalled(&page), page.device("inflight_requests", MPATHA)), ([false; 3], Some(4.0)));
    DEVICES.iter().for_each(|device| write(&host, device, 2, 8));
    let page = exporter.reread_twice();
    assert_eq!(stalled(&page), [true; 3]);
    let document = exporter.get("/api/v1/devices").json();
    assert!(document["devices"].as_array().unwrap().iter().any(|device| device["stalled_seconds"].is_number()));
    write(&host, DEVICES[1], 0, 8);
    assert_eq!(stalled(&exporter.reread()), [true, false, true]);
    // The device is suspended or has no valid path. Waiting I/O may then count as in flight.
    host.sysfs.write(&format!("{}/dm/suspended", DEVICES[0]), "1\n");
    assert_eq!(stalled(&exporter.reread()), [false, false, true]);
    host.turn_into("03-both-lost");
    write(&host, DEVICES[1], 2, 9);
    let page = exporter.reread();
    assert_eq!(stalled(&page), [false; 3]);
    assert_no_errors(&page);
}

/// Kernels before 6.2 count the I/O of a native NVMe device only at its paths.
#[test]
fn the_paths_of_a_head_that_counts_nothing_tell() {
    let host = Host::recorded("01-healthy");
    let other_path = NVME_PATH.replace("nvme0/nvme0c0", "nvme1/nvme0c1");
    let exporter = host.exporter(&["--collector.nvme"]);
    host.sysfs.write(&format!("{HEAD}/stat"), "0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n");
    write(&host, NVME_PATH, 2, 8);
    let page = exporter.reread_twice();
    assert_eq!((stalled(&page), page.device("inflight_requests", FIRST_HEAD)), ([false, false, true], Some(2.0)));
    write(&host, &other_path, 1, 8);
    assert_eq!(exporter.reread().device("inflight_requests", FIRST_HEAD), Some(3.0));
    [NVME_PATH, &other_path].iter().for_each(|path| write(&host, path, 0, 9));
    let page = exporter.reread();
    assert_eq!((stalled(&page), page.device("inflight_requests", FIRST_HEAD)), ([false; 3], Some(0.0)));
    assert_no_errors(&page);
}

#[test]
fn a_stat_that_makes_no_sense_is_an_error_of_one_device() {
    for nonsense in [
        "1 2 3 4 5 6 7 8 9",
        "7 0 9 9 7 0 9 9 -2 9 9",
        "7 0 9 9 7 0 9 9 0x2 9 9",
        "7 0 9 9 7 0 9 9 4294967294 9 9",
        "many",
        "",
    ] {
        let host = Host::recorded("01-healthy");
        let exporter = host.exporter(&["--collector.nvme"]);
        DEVICES.iter().for_each(|device| write(&host, device, 2, 8));
        exporter.reread_twice();
        host.sysfs.write(&format!("{}/stat", DEVICES[0]), nonsense);
        host.sysfs.write(&format!("{SDB}/stat"), nonsense);
        let page = exporter.reread();
        assert_errors(nonsense, &page);
        assert_eq!((stalled(&page), page.device("inflight_requests", MPATHA)), ([true; 3], Some(2.0)), "{nonsense}");
        assert_eq!(page.device("valid_paths", MPATHA), Some(2.0), "{nonsense}");
    }
}

/// Each path with a series for stalled I/O, and whether its I/O stalls.
fn paths(exporter: &Exporter) -> Vec<(String, bool)> {
    let document = exporter.get("/api/v1/devices").json();
    let devices = document["devices"].as_array().unwrap();
    let paths = devices.iter().flat_map(|device| device["paths"].as_array().unwrap());
    let told = paths.filter(|path| path["stalled_seconds"] != Value::Null);
    told.map(|path| (path["path"].as_str().unwrap().to_owned(), path["stalled_seconds"].as_f64() > Some(0.0))).collect()
}

#[test]
fn a_path_that_swallows_io_is_shown_while_its_siblings_work() {
    let host = Host::recorded("01-healthy");
    write(&host, SDB, 1, 8);
    write(&host, SDD, 0, 8);
    write(&host, NVME_PATH, 1, 8);
    let exporter = host.exporter(&["--collector.nvme"]);
    let page = exporter.reread();
    let told = |path: &str| (path.to_owned(), true);
    assert_eq!(paths(&exporter), [told("sdb"), told("nvme0c0n1")]);
    assert_eq!(stalled(&page), [false; 3]);
    assert_no_errors(&page);
    write(&host, SDB, 0, 9);
    host.sysfs.remove(&format!("{NVME_PATH}/stat"));
    exporter.reread();
    assert_eq!(paths(&exporter), []);
}
