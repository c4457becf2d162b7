//! The device that the root file system stands on. A machine of the lab has its root elsewhere, so what is mounted where is
//! made up; the devices are real.

use std::fs;
use std::path::Path;

use super::Scenario;
use crate::dm::Dm;
use crate::exporter::Exporter;
use crate::guest::Lab;
use crate::multipathd::Conf;
use crate::programs::run;
use crate::san::{Lun, San};
use crate::wait::eventually_eq;

pub const ALL: &[Scenario] = &[Scenario::new("root_on_stacked_devices", root_on_stacked_devices)];

/// Makes a device over another, as LVM and crypt do, and gives its number.
fn stack(dm: &Dm, name: &str, below: &str) -> u32 {
    run("dmsetup", ["create", name, "--table", &format!("0 2048 linear {below} 0")]);
    let made = dm.list().into_iter().find(|device| device.name == name.as_bytes());
    made.expect("it was just made").minor
}

fn mount_root(procfs: &Path, device: &str, source: &str) {
    let init = procfs.join("1");
    fs::create_dir_all(&init).expect("the scenario's directory is writable");
    let table =
        format!("21 1 0:2 / / rw - rootfs rootfs rw\n22 21 {device} / / rw,relatime shared:1 - ext4 {source} rw\n");
    fs::write(init.join("mountinfo"), table).expect("the scenario's directory is writable");
}

fn root_on_stacked_devices(lab: &Lab) {
    let san = San::start(lab, 2, 2, Conf::BLIND);
    let major = fs::read_to_string("/sys/block/dm-0/dev").expect("there are maps");
    let major = major.split(':').next().expect("a number has a major part").to_owned();
    let [one, other] = san.luns.as_slice() else { panic!("there are two LUNs") };
    let volume = stack(&san.dm, "volume", &format!("/dev/{}", one.map.sysfs_name()));
    let root = stack(&san.dm, "root", &format!("/dev/dm-{volume}"));
    let procfs = lab.dir().join("proc");
    mount_root(&procfs, &format!("{major}:{root}"), "/dev/mapper/root");
    let launch = || lab.exporter().flag("--resync.interval=1s").flag(&format!("--path.procfs={}", procfs.display()));
    let exporters = [launch().start(), launch().unprivileged().start()];
    let is_root = |exporter: &Exporter, lun: &Lun| {
        exporter.metrics().value("multipath_device_root", &[("wwid", &lun.wwid)]) == 1.0
    };
    let wait_for = |on_one, on_other| {
        for exporter in &exporters {
            eventually_eq("the root's device is known", (on_one, on_other), || {
                (is_root(exporter, one), is_root(exporter, other))
            });
        }
    };
    wait_for(true, false);
    assert_eq!(exporters[0].metrics().value("multipath_device_open_count", &[("wwid", &one.wwid)]), 1.0);

    mount_root(&procfs, &format!("{major}:{}", other.map.minor), "/dev/sda");
    wait_for(false, true);
    // btrfs has a number of its own.
    mount_root(&procfs, "0:29", "/dev/mapper/root");
    wait_for(true, false);
    mount_root(&procfs, "0:29", "overlay");
    wait_for(false, false);
}
