//! Paths that differ from their device although all are the same LUN.

use super::Scenario;
use crate::exporter::Exporter;
use crate::guest::Lab;
use crate::multipathd::Conf;
use crate::programs::run;
use crate::san::{Lun, San};
use crate::scsi_debug;
use crate::wait::eventually_eq;

pub const ALL: &[Scenario] = &[
    Scenario::new("path_of_another_size", path_of_another_size),
    Scenario::new("path_that_is_read_only", path_that_is_read_only),
    Scenario::new("path_to_another_lun", path_to_another_lun),
];

/// An interval longer than any scenario.
const BY_EVENTS: &str = "1h";

struct Host {
    san: San,
    exporters: [Exporter; 2],
}

impl Host {
    fn start(lab: &Lab, resync: &str) -> Self {
        let san = San::start(lab, 4, 2, Conf::BLIND);
        let launch = || lab.exporter().flag(&format!("--resync.interval={resync}"));
        Host { san, exporters: [launch().start(), launch().unprivileged().start()] }
    }

    fn lun(&self) -> &Lun {
        &self.san.luns[0]
    }

    /// Waits until this number of the first device's paths have this mismatch, and no path has
    /// another one.
    fn wait_for(&self, differing: &str, paths: u64) {
        for exporter in &self.exporters {
            let differences = |lun: &Lun| {
                let metrics = exporter.metrics();
                ["size", "read_only", "wwid"].map(|what| {
                    let name = format!("multipath_device_{what}_mismatched_paths");
                    metrics.fault(&name, &[("wwid", &lun.wwid)])
                })
            };
            let want = ["size", "read_only", "wwid"].map(|what| if what == differing { paths as f64 } else { 0.0 });
            eventually_eq(&format!("paths that differ in {differing}"), want, || differences(self.lun()));
            assert_eq!(differences(&self.san.luns[1]), [0.0; 3]);
        }
    }
}

/// The array has enlarged the LUN, and the host has not rescanned every path.
fn path_of_another_size(lab: &Lab) {
    let host = Host::start(lab, BY_EVENTS);
    host.wait_for("size", 0);
    scsi_debug::set("virtual_gb", "1");
    for (disk, differing) in host.lun().paths.iter().zip(1..) {
        disk.write("rescan", "1");
        host.wait_for("size", differing);
    }
    host.san.daemon.ask(&format!("resize map {}", host.lun().name())).expect("multipathd answers");
    host.wait_for("size", 0);
    for exporter in &host.exporters {
        let size = exporter.metrics().value("multipath_device_size_bytes", &[("wwid", &host.lun().wwid)]);
        assert_eq!(size, f64::from(1 << 30));
    }
}

/// The kernel sends no event.
fn path_that_is_read_only(lab: &Lab) {
    let host = Host::start(lab, "1s");
    let disk = format!("/dev/{}", host.lun().paths[0].name);
    run("blockdev", ["--setro", &disk]);
    host.wait_for("read_only", 1);
    run("blockdev", ["--setrw", &disk]);
    host.wait_for("read_only", 0);
}

/// The array shows another LUN at the old address. The host notices only when it queries the disk's
/// identity.
fn path_to_another_lun(lab: &Lab) {
    let host = Host::start(lab, BY_EVENTS);
    let (lun, disk) = (host.lun(), &host.lun().paths[0]);
    host.wait_for("wwid", 0);
    host.san.daemon.freeze();
    // From now on, each host has disks of its own.
    scsi_debug::set("vpd_use_hostno", "1");
    disk.write("rescan", "1");
    // The kernel sends this event when an array reports changed INQUIRY data. This one does not
    // report it.
    disk.write("uevent", "change");
    host.wait_for("wwid", 1);
    host.exporters.iter().for_each(|exporter| exporter.wait_for_counts(&lun.wwid, 4, 0));

    // udev updates its database, too. Then multipathd removes the path.
    run("udevadm", ["trigger", "--action=change", "--settle", &format!("/dev/{}", disk.name)]);
    host.wait_for("wwid", 1);
    host.san.daemon.thaw();
    host.wait_for("wwid", 0);
    host.exporters.iter().for_each(|exporter| exporter.wait_for_counts(&lun.wwid, 3, 0));
}
