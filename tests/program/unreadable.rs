//! sysfs lists a map without a readable identity. The exporter does not drop it silently.

use super::harness::{Exporter, Host, MPATHA, MPATHB, Page};

const SYSFS_UP: &str = "multipath_exporter_source_up{source=\"sysfs\"}";
const SYSFS_ERRORS: &str = "multipath_exporter_errors_total{source=\"sysfs\"}";

/// The file that identifies `mpatha`.
const UUID: &str = "devices/virtual/block/dm-0/dm/uuid";
/// The SCSI device of `sda`, a path of `mpathb`.
const SDA: &str = "devices/platform/host6/session1/target6:0:0/6:0:0:1";

/// Requests several resyncs. The number of errors rises each time, and `check` accepts the page.
fn assert_errors_grow(exporter: &Exporter, check: impl Fn(&Page)) {
    let mut errors = None;
    for _ in 0..3 {
        let page = exporter.reread();
        assert!(page.value(SYSFS_ERRORS) > errors, "{:?} after {errors:?}", page.value(SYSFS_ERRORS));
        errors = page.value(SYSFS_ERRORS);
        assert_eq!(page.value(SYSFS_UP), Some(1.0));
        check(&page);
    }
    exporter.await_log(&["level=warn", "source=sysfs", "dm-0/dm/uuid", "Is a directory"]);
}

/// The exporter follows the other map.
fn assert_followed(host: &Host, exporter: &Exporter) {
    host.sysfs.write(&format!("{SDA}/state"), "offline\n");
    let page = exporter.reread();
    assert_eq!(page.label("multipath_path_device_state", "path=\"sda\"", ",state"), Some("offline"));
}

#[test]
fn a_known_map_stays_as_last_read() {
    for options in [&[][..], &["--no-collector.multipathd"]] {
        let host = Host::recorded("01-healthy");
        let exporter = host.exporter(options);
        let before = exporter.metrics();
        host.sysfs.make_unreadable(UUID);
        assert_errors_grow(&exporter, |page| {
            for wwid in [MPATHA, MPATHB] {
                assert_eq!(page.of_device(wwid), before.of_device(wwid));
            }
        });
        assert_followed(&host, &exporter);
    }
}

#[test]
fn an_unknown_map_is_told_of_and_found_when_it_can_be_read() {
    for options in [&[][..], &["--no-collector.multipathd"]] {
        let host = Host::recorded("01-healthy");
        let healthy = host.exporter(options).metrics();
        host.sysfs.make_unreadable(UUID);
        let exporter = host.exporter(options);
        assert!(exporter.metrics().value(SYSFS_ERRORS) > Some(0.0));
        assert_errors_grow(&exporter, |page| assert_eq!(page.of_device(MPATHB), healthy.of_device(MPATHB)));
        assert_followed(&host, &exporter);

        host.sysfs.replace(UUID, format!("mpath-{MPATHA}\n"));
        let page = exporter.reread();
        assert_eq!(page.of_device(MPATHA), healthy.of_device(MPATHA));
    }
}

/// The disk of a failed path and all links to it are gone. According to multipathd, the map still
/// holds it.
#[test]
fn a_failed_member_that_only_multipathd_tells_of_is_one_after_a_restart() {
    let host = Host::recorded("02-net1-lost");
    for gone in ["devices/virtual/block/dm-0/slaves/sdb", "block/sdb"] {
        host.sysfs.remove(gone);
    }
    let page = host.exporter(&[]).metrics();
    assert_eq!((page.device("paths", MPATHA), page.device("failed_paths", MPATHA)), (Some(2.0), Some(1.0)));
    assert_eq!(page.value(&format!("multipath_path_valid{{wwid=\"{MPATHA}\",path=\"sdb\"}}")), Some(0.0));
}
