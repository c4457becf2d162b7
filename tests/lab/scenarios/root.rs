//! The device that carries the root file system.

use std::fs;
use std::path::Path;

use super::Scenario;
use crate::exporter::Exporter;
use crate::guest::Lab;
use crate::multipathd::Conf;
use crate::programs::run;
use crate::root_fs::MovedRoot;
use crate::san::{Lun, San};
use crate::wait::eventually_eq;

pub const ALL: &[Scenario] = &[Scenario::new("root_on_stacked_devices", root_on_stacked_devices)];

/// Creates a partition like kpartx between two offsets in MiB, and returns its node.
pub fn partition(lun: &Lun, number: u32, from: u32, to: u32) -> String {
    let name = format!("{}-part{number}", lun.name());
    let (start, sectors) = (2048 * from, 2048 * (to - from));
    let table = format!("0 {sectors} linear /dev/{} {start}", lun.map.sysfs_name());
    run("dmsetup", ["create", &name, "--uuid", &format!("part{number}-{}", lun.map.uuid), "--table", &table]);
    format!("/dev/mapper/{name}")
}

/// Creates an encrypted device there, and returns its node. It uses LUKS 1, because the header of
/// LUKS 2 takes 16 MiB.
fn encrypt(device: &str, dir: &Path) -> String {
    let key = dir.join("key");
    fs::write(&key, "not a secret").expect("the scenario's directory is writable");
    let key = format!("--key-file={}", key.display());
    // Key derivation is slow by design.
    let hasty = "--pbkdf-force-iterations=1000";
    run("cryptsetup", ["luksFormat", "--batch-mode", "--type=luks1", hasty, &key, device]);
    run("cryptsetup", ["open", &key, device, "sealed"]);
    "/dev/mapper/sealed".to_owned()
}

/// Creates a logical volume there, and returns its node.
fn volume(device: &str) -> String {
    run("vgcreate", ["storage", device]);
    run("lvcreate", ["--extents=100%FREE", "--name=root", "storage"]);
    "/dev/mapper/storage-root".to_owned()
}

fn root_on_stacked_devices(lab: &Lab) {
    let san = San::start(lab, 2, 2, Conf::BLIND);
    let [one, other] = san.luns.as_slice() else { panic!("there are two LUNs") };
    // All LUNs of scsi_debug share one memory, so each uses its own part of it.
    let volume = volume(&encrypt(&partition(one, 1, 1, 15), lab.dir()));
    let halves = [partition(one, 2, 15, 31), partition(other, 1, 31, 47)];
    run("mkfs.ext4", ["-q", &volume]);
    // btrfs has a device number of its own that is not that of a block device. mkfs reports all its
    // devices to the kernel.
    run("modprobe", ["btrfs"]);
    run("mkfs.btrfs", ["-q", "--mixed", "--data=single", "--metadata=single", &halves[0], &halves[1]]);

    let launch = || lab.exporter().flag("--resync.interval=1s");
    let exporters = [launch().start(), launch().unprivileged().start()];
    let is_root = |exporter: &Exporter, lun: &Lun| {
        exporter.metrics().value("multipath_device_root", &[("wwid", &lun.wwid)]) == 1.0
    };
    let wait_for = |what, on_one, on_other| {
        for exporter in &exporters {
            eventually_eq(what, (on_one, on_other), || (is_root(exporter, one), is_root(exporter, other)));
        }
    };
    wait_for("the root is a share of the host's", false, false);
    let root = MovedRoot::onto(&volume);
    wait_for("the root is ext4 on LVM on crypt on a partition", true, false);
    drop(root);
    wait_for("the root is where it was", false, false);
    let _root = MovedRoot::onto(&halves[1]);
    wait_for("the root is btrfs on partitions of both", true, true);
}
