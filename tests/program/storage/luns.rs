//! The LUN numbers of a device's paths: two numbers at one target, and two numbers over one pair of
//! ports.

use super::assert_no_errors;
use super::fibre_channel::fabric;
use crate::harness::{Host, Page};

/// The device of [`fabric`]. Its paths `sda` to `sdd` have LUN 1.
const WWID: &str = "3600a098000aad1e3000064e45f2c2355";
const DISKS: [&str; 4] = ["sda", "sdb", "sdc", "sdd"];

/// The directory `devices/…/target5:0:1/5:0:1:1` of a disk.
fn scsi_device(host: &Host, disk: &str) -> String {
    let link = std::fs::read_link(host.sysfs.path(format!("block/{disk}"))).unwrap();
    link.to_str().unwrap().strip_prefix("../").and_then(|place| place.split_once("/block/")).unwrap().0.to_owned()
}

fn with_number(scsi_device: &str, lun: &str) -> String {
    format!("{}:{lun}", scsi_device.rsplit_once(':').unwrap().0)
}

/// A path of the map, in the directory of its SCSI device.
fn add(host: &Host, scsi_device: &str, disk: &str, devno: &str) {
    let block = format!("{scsi_device}/block/{disk}");
    for (file, content) in [("dev", devno), ("size", "131072"), ("ro", "0")] {
        host.sysfs.write(&format!("{block}/{file}"), format!("{content}\n"));
    }
    host.sysfs.write(&format!("{scsi_device}/state"), "running\n");
    host.sysfs.link(&format!("{block}/device"), &format!("../../../{}", scsi_device.rsplit('/').next().unwrap()));
    host.sysfs.link(&format!("block/{disk}"), &format!("../{block}"));
    host.sysfs.link(&format!("devices/virtual/block/dm-0/slaves/{disk}"), &format!("../../../../../{block}"));
}

/// Adds a path over the same ports as an existing path, with another number.
fn add_beside(host: &Host, beside: &str, lun: &str, disk: &str, devno: &str) {
    add(host, &with_number(&scsi_device(host, beside), lun), disk, devno);
}

/// Gives paths other numbers before an exporter starts.
fn number(host: &Host, luns: &[(&str, &str)]) {
    for (disk, lun) in luns {
        let before = scsi_device(host, disk);
        let devno = std::fs::read_to_string(host.sysfs.path(format!("{before}/block/{disk}/dev"))).unwrap();
        for link in ["block", "devices/virtual/block/dm-0/slaves"] {
            host.sysfs.remove(&format!("{link}/{disk}"));
        }
        let now = with_number(&before, lun);
        if before != now {
            host.sysfs.rename(&before, &now);
            host.sysfs.remove(&format!("{now}/block/{disk}/device"));
        }
        add(host, &now, disk, devno.trim());
    }
}

/// Gives the target of these paths another name.
fn call_target(host: &Host, disks: &[&str], node_name: &str) {
    for disk in disks {
        let scsi_device = scsi_device(host, disk);
        let port = scsi_device.split_once("/target").unwrap().0;
        let name = port.rsplit('/').next().unwrap();
        host.sysfs.write(&format!("{port}/fc_remote_ports/{name}/node_name"), format!("{node_name}\n"));
    }
}

/// A device that has a path with a 64-bit number, and a pair of ports with two numbers.
pub fn several_luns() -> Host {
    let host = fabric();
    number(&host, &[("sdd", "4611967493404098560")]);
    add_beside(&host, "sda", "7", "sde", "8:64");
    host
}

/// The number of paths with another LUN number, and of port pairs with several numbers.
fn findings(page: &Page) -> [f64; 2] {
    ["lun_mismatched_paths", "lun_conflicts"].map(|what| page.fault(what, WWID))
}

#[test]
fn paths_of_another_number_to_the_same_target_are_counted() {
    for (luns, mismatched) in [
        (["1", "1", "1", "1"], 0.0),
        (["12", "12", "12", "7"], 1.0),
        (["7", "12", "12", "12"], 1.0),
        (["12", "7", "12", "7"], 2.0),
        (["1", "2", "3", "4"], 3.0),
        (["16385", "16385", "16385", "16385"], 0.0),
        (["16385", "16385", "16385", "1"], 1.0),
        (["4611967493404098560", "4611967493404098560", "4611967493404098561", "4611967493404098560"], 1.0),
    ] {
        let host = fabric();
        let luns: Vec<_> = DISKS.into_iter().zip(luns).collect();
        number(&host, &luns);
        let page = host.exporter(&[]).metrics();
        assert_eq!(findings(&page), [mismatched, 0.0], "{luns:?}");
        assert_no_errors(&page);
    }
}

/// Each controller of an active/active array is a target of its own, and may number its LUNs
/// independently.
#[test]
fn each_target_has_its_own_numbers() {
    let host = fabric();
    call_target(&host, &["sdb", "sdd"], "0x200100a098aad1e3");
    number(&host, &[("sdb", "5"), ("sdd", "5")]);
    assert_eq!(findings(&host.exporter(&[]).metrics()), [0.0; 2]);
    number(&host, &[("sdd", "6")]);
    assert_eq!(findings(&host.exporter(&[]).metrics()), [1.0, 0.0]);
}

#[test]
fn paths_to_an_unknown_target_do_not_count() {
    let host = fabric();
    number(&host, &[("sdd", "7")]);
    call_target(&host, &DISKS, "0xffffffffffffffff");
    let exporter = host.exporter(&[]);
    assert_eq!(findings(&exporter.metrics()), [0.0; 2]);
    call_target(&host, &DISKS, "0x200000a098aad1e3");
    assert_eq!(findings(&exporter.reread()), [1.0, 0.0]);
}

#[test]
fn a_pair_of_ports_with_two_numbers_is_a_conflict() {
    let host = fabric();
    let exporter = host.exporter(&[]);
    assert_eq!(findings(&exporter.metrics()), [0.0; 2]);
    add_beside(&host, "sda", "7", "sde", "8:64");
    assert_eq!(findings(&exporter.reread()), [1.0, 1.0]);
    add_beside(&host, "sdd", "7", "sdf", "8:80");
    add_beside(&host, "sdd", "8", "sdg", "8:96");
    assert_eq!(findings(&exporter.reread()), [3.0, 2.0]);
    let device = exporter.get("/api/v1/devices").json()["devices"][0].clone();
    assert_eq!([&device["lun_mismatched_paths"], &device["lun_conflicts"]], [3, 2]);
    let page = exporter.get("/").text().to_owned();
    for words in ["stop using it, data is at risk", "/runbooks/MultipathLunConflict", "LUN 8</span>"] {
        assert!(page.contains(words), "{words}: {page}");
    }
    // The path is gone, and the finding with it.
    for disk in ["sde", "sdf", "sdg"] {
        host.sysfs.remove(&format!("devices/virtual/block/dm-0/slaves/{disk}"));
    }
    assert_eq!(findings(&exporter.reread()), [0.0; 2]);
}

/// Some arrays number a LUN per port. That is no conflict.
#[test]
fn an_array_that_numbers_by_port_has_no_mismatch() {
    let host = fabric();
    number(&host, &[("sdb", "5"), ("sdd", "5")]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yml");
    let configure = |same_lun: &str| {
        let rule = format!("{{vendor: NETAPP, product: 'INF-.*', paths: 4{same_lun}}}");
        std::fs::write(&file, format!("expected_paths:\n  - {rule}\n")).unwrap();
    };
    configure(", same_lun: false");
    let exporter = host.exporter(&[&format!("--config.file={}", file.display())]);
    assert_eq!(findings(&exporter.metrics()), [0.0; 2]);
    for (same_lun, mismatched) in [("", 2.0), (", same_lun: true", 2.0), (", same_lun: false", 0.0)] {
        configure(same_lun);
        assert_eq!(findings(&exporter.reread()), [mismatched, 0.0], "{same_lun}");
    }
    add_beside(&host, "sda", "7", "sde", "8:64");
    assert_eq!(findings(&exporter.reread()), [0.0, 1.0]);
}

/// The findings do not depend on the series that the options leave out.
#[test]
fn findings_stay_where_paths_have_no_series() {
    let host = fabric();
    number(&host, &[("sdd", "7")]);
    let page = host.exporter(&["--no-collector.paths"]).metrics();
    assert_eq!(findings(&page), [1.0, 0.0]);
    let page = host.exporter(&["--collector.paths.unhealthy-only"]).metrics();
    assert_eq!(page.of_metric("multipath_path_info").len(), 4);
}
