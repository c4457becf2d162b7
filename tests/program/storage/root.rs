//! The device that carries the root file system.

use super::{assert_errors, assert_no_errors};
use crate::harness::{Exporter, Host, MPATHA, MPATHB, Page};

const FIRST_HEAD: &str = "uuid.6ba2c62e-71c1-41c8-b9f6-d2e788c59000";

fn exporter(host: &Host) -> Exporter {
    let procfs = format!("--path.procfs={}", host.sysfs.path("proc").display());
    host.exporter(&[&procfs, "--collector.nvme"])
}

pub fn mount(host: &Host, devno: &str, source: &str) {
    host.sysfs.write(
        "proc/1/mountinfo",
        format!(
            "22 29 0:21 / /proc rw,nosuid shared:12 - proc proc rw\n\
             29 1 {devno} / / rw,relatime shared:1 - ext4 {source} rw,errors=remount-ro\n\
             36 29 254:9 / /mnt rw shared:9 - ext4 /dev/mapper/other rw\n"
        ),
    );
}

/// `dm-2`, a logical volume on `mpatha`.
pub fn add_volume(host: &Host) {
    host.sysfs.write("devices/virtual/block/dm-2/dm/uuid", "LVM-4711\n");
    host.sysfs.link("devices/virtual/block/dm-2/slaves/dm-0", "../../dm-0");
    host.sysfs.link("block/dm-2", "../devices/virtual/block/dm-2");
    host.sysfs.link("dev/block/254:2", "../../devices/virtual/block/dm-2");
}

/// The devices that carry the root.
fn roots(exporter: &Exporter) -> Vec<&'static str> {
    let page = exporter.metrics();
    assert_no_errors(&page);
    roots_on(&page)
}

fn roots_on(page: &Page) -> Vec<&'static str> {
    let known = [MPATHA, MPATHB, FIRST_HEAD];
    known.into_iter().filter(|wwid| page.device("root", wwid).unwrap() == 1.0).collect()
}

#[test]
fn a_root_on_a_logical_volume_stands_on_its_map() {
    let host = Host::recorded("01-healthy");
    add_volume(&host);
    mount(&host, "254:2", "/dev/mapper/vg-root");
    let exporter = exporter(&host);
    assert_eq!(roots(&exporter), [MPATHA]);
    let devices = exporter.get("/api/v1/devices").json();
    let api: Vec<_> = devices["devices"].as_array().unwrap().iter().filter(|device| device["root"] == true).collect();
    assert_eq!(api.len(), 1);
    assert_eq!(api[0]["wwid"], MPATHA);

    mount(&host, "254:7", "/dev/mapper/elsewhere");
    exporter.reread();
    assert_eq!(roots(&exporter), Vec::<&str>::new());
}

#[test]
fn a_root_on_a_partition_of_a_map_stands_on_it() {
    let host = Host::recorded("01-healthy");
    host.sysfs.write("devices/virtual/block/dm-3/dm/uuid", "part2-mpath-3600\n");
    host.sysfs.link("devices/virtual/block/dm-3/slaves/dm-1", "../../dm-1");
    host.sysfs.link("dev/block/254:3", "../../devices/virtual/block/dm-3");
    mount(&host, "254:3", "/dev/mapper/mpathb-part2");
    assert_eq!(roots(&exporter(&host)), [MPATHB]);
}

#[test]
fn a_root_on_a_partition_of_a_head_stands_on_it() {
    let host = Host::recorded("01-healthy");
    let partition = "devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1/nvme0n1p2";
    host.sysfs.write(&format!("{partition}/partition"), "2\n");
    host.sysfs.link("dev/block/259:5", &format!("../../{partition}"));
    mount(&host, "259:5", "/dev/nvme0n1p2");
    assert_eq!(roots(&exporter(&host)), [FIRST_HEAD]);
}

#[test]
fn a_btrfs_root_stands_on_all_its_devices() {
    let host = Host::recorded("01-healthy");
    add_volume(&host);
    // The node's device number decides. This node is the one of a device that every machine has.
    mount(&host, "0:29", "/dev/null");
    host.sysfs.link("dev/block/1:3", "../../devices/virtual/block/dm-2");
    let exporter = exporter(&host);
    assert_eq!(roots(&exporter), [MPATHA]);

    for (file_system, device) in [("other", "dm-9"), ("root", "dm-2"), ("root", "dm-1")] {
        let target = format!("../../../../devices/virtual/block/{device}");
        host.sysfs.link(&format!("fs/btrfs/{file_system}/devices/{device}"), &target);
    }
    exporter.reread();
    assert_eq!(roots(&exporter), [MPATHA, MPATHB]);
}

#[test]
fn a_root_on_a_path_alone_is_on_no_device() {
    let host = Host::recorded("01-healthy");
    host.sysfs.link("dev/block/8:16", "../../devices/platform/host6/session1/target6:0:0/6:0:0:2/block/sdb");
    mount(&host, "8:16", "/dev/sdb");
    assert_eq!(roots(&exporter(&host)), Vec::<&str>::new());
}

#[test]
fn the_root_is_what_is_on_top_that_stands_on_a_device() {
    for table in [
        "1 0 0:1 / / rw - rootfs rootfs rw\n29 1 254:2 / / rw - xfs /dev/mapper/vg-root rw\n",
        // A mount point that is not UTF-8.
        "29 1 254:2 / / rw - xfs /dev/mapper/vg-root rw\n30 29 8:99 / /media/caf\u{e9} rw - vfat /dev/sdz rw\n",
        // An overlay over the root, one over an image on it, and a root with another number than
        // its device.
        "29 1 254:2 / / rw - xfs /dev/mapper/vg-root rw\n30 1 0:30 / / rw - overlay overlayroot rw\n",
        "29 1 0:30 / / ro - overlay composefs ro\n30 29 254:2 / /sysroot ro - xfs /dev/mapper/vg-root rw\n",
        "29 1 0:30 /root / rw - btrfs /dev/mapper/vg-root rw\n",
        "29 1 0:30 /root / rw - btrfs /dev/dm-2 rw\n",
    ] {
        let host = Host::recorded("01-healthy");
        add_volume(&host);
        host.sysfs.write("devices/virtual/block/dm-2/dm/name", "vg-root\n");
        host.sysfs.link("class/block/dm-2", "../../devices/virtual/block/dm-2");
        let table: Vec<u8> = table.chars().map(|c| c as u8).collect();
        host.sysfs.write("proc/1/mountinfo", &table);
        assert_eq!(roots(&exporter(&host)), [MPATHA], "{}", table.escape_ascii());
    }
}

#[test]
fn while_it_cannot_be_told_it_is_what_it_was() {
    let host = Host::recorded("01-healthy");
    add_volume(&host);
    mount(&host, "254:2", "/dev/mapper/vg-root");
    let exporter = exporter(&host);
    for what in ["unreadable", "missing"] {
        match what {
            "unreadable" => host.sysfs.make_unreadable("proc/1/mountinfo"),
            _ => host.sysfs.remove("proc"),
        }
        let page = exporter.reread();
        assert_eq!(roots_on(&page), [MPATHA], "{what}");
        assert_errors(what, &page);
    }
}

#[test]
fn without_procfs_it_is_on_none_and_that_is_an_error() {
    let page = exporter(&Host::recorded("01-healthy")).metrics();
    assert_eq!(roots_on(&page), Vec::<&str>::new());
    assert_errors("no procfs", &page);
}
