//! Devices in use on a host where the exporter may not ask device mapper.

use super::{assert_errors, assert_no_errors, root};
use crate::harness::{Exporter, Host, MPATHA, MPATHB, Page};

const FIRST_HEAD: &str = "uuid.6ba2c62e-71c1-41c8-b9f6-d2e788c59000";
const HEAD: &str = "devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1";

fn exporter(host: &Host) -> Exporter {
    let procfs = format!("--path.procfs={}", host.sysfs.path("proc").display());
    host.exporter(&[&procfs, "--collector.nvme"])
}

fn use_of(page: &Page) -> [Option<f64>; 3] {
    [MPATHA, MPATHB, FIRST_HEAD].map(|wwid| page.device("in_use", wwid))
}

#[test]
fn mounts_swaps_and_holders() {
    let host = Host::recorded("01-healthy");
    root::add_volume(&host);
    root::mount(&host, "8:99", "/dev/sdz1");
    let exporter = exporter(&host);
    assert_eq!(use_of(&exporter.metrics()), [Some(0.0); 3]);
    // A logical volume holds it, mounted or not.
    host.sysfs.link("devices/virtual/block/dm-0/holders/dm-2", "../../dm-2");
    assert_eq!(use_of(&exporter.reread()), [Some(1.0), Some(0.0), Some(0.0)]);
    host.sysfs.link("class/block/dm-1", "../../devices/virtual/block/dm-1");
    host.sysfs.write("devices/virtual/block/dm-1/dev", "254:1\n");
    host.sysfs.write("proc/swaps", "Filename Type Size Used Priority\n/dev/dm-1 partition 8 0 -2\n");
    assert_eq!(use_of(&exporter.reread()), [Some(1.0), Some(1.0), Some(0.0)]);
    host.sysfs.write(&format!("{HEAD}/nvme0n1p2/partition"), "2\n");
    host.sysfs.link("dev/block/259:5", &format!("../../{HEAD}/nvme0n1p2"));
    root::mount(&host, "259:5", "/dev/nvme0n1p2");
    let page = exporter.reread();
    assert_eq!(use_of(&page), [Some(1.0); 3]);
    assert_no_errors(&page);
    assert_eq!(exporter.get("/api/v1/devices").json()["devices"][0]["in_use"], true);
    // An unreadable table keeps its last reading.
    host.sysfs.make_unreadable("proc/swaps");
    host.sysfs.write("proc/1/mountinfo", "");
    let page = exporter.reread();
    assert_eq!(use_of(&page), [Some(1.0); 3]);
    assert_errors("swaps", &page);
}

#[test]
fn where_not_all_mounts_are_seen_it_is_unknown_unless_it_is_used() {
    let host = Host::recorded("01-healthy");
    root::add_volume(&host);
    host.sysfs.write("proc/self/mountinfo", "");
    let exporter = exporter(&host);
    assert_eq!(use_of(&exporter.metrics()), [None; 3]);
    assert!(exporter.get("/api/v1/devices").json()["devices"][0]["in_use"].is_null());
    host.sysfs.link("devices/virtual/block/dm-0/holders/dm-2", "../../dm-2");
    assert_eq!(use_of(&exporter.reread()), [Some(1.0), None, None]);
}

#[test]
fn what_is_written_to_is_in_use() {
    let host = Host::recorded("01-healthy");
    host.sysfs.write("proc/1/mountinfo", "");
    let files = ["devices/virtual/block/dm-1", HEAD].map(|place| format!("{place}/stat"));
    let write = |writes: u32| {
        let stat = format!("9 0 9 9 {writes} 0 9 9 3 9 9 0 0 0 0 0 0\n");
        files.iter().for_each(|file| host.sysfs.write(file, &stat));
    };
    write(7);
    let exporter = exporter(&host);
    let page = exporter.metrics();
    assert_eq!(use_of(&page), [Some(0.0); 3]);
    assert_eq!([MPATHB, FIRST_HEAD].map(|wwid| page.device("inflight_requests", wwid)), [Some(3.0); 2]);
    assert_eq!(use_of(&exporter.reread()), [Some(0.0); 3]);
    write(8);
    assert_eq!(use_of(&exporter.reread()), [Some(0.0), Some(1.0), Some(1.0)]);
    host.turn_into("03-both-lost");
    assert_eq!(use_of(&exporter.reread()), [Some(0.0), Some(1.0), Some(1.0)]);
    write(9);
    assert_eq!(use_of(&exporter.reread()), [Some(0.0), Some(1.0), Some(1.0)]);
}
