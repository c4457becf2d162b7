//! I/O errors and timeouts of paths, as the SCSI layer counts them, and their sums per device.

use super::{assert_errors, assert_no_errors};
use crate::harness::{Host, MPATHA, MPATHB, Page};

/// The paths of `mpatha`.
const SDB: &str = "devices/platform/host6/session1/target6:0:0/6:0:0:2";
const SDD: &str = "devices/platform/host7/session2/target7:0:0/7:0:0:2";

fn write(host: &Host, disk: &str, errors: &str, timeouts: &str) {
    host.sysfs.write(&format!("{disk}/ioerr_cnt"), format!("{errors}\n"));
    host.sysfs.write(&format!("{disk}/iotmo_cnt"), format!("{timeouts}\n"));
}

/// Errors and timeouts of a path of `mpatha`.
fn of_path(page: &Page, path: &str) -> [Option<f64>; 2] {
    let series = |what| format!("multipath_path_io_{what}_total{{wwid=\"{MPATHA}\",path=\"{path}\"}}");
    ["errors", "timeouts"].map(|what| page.value(&series(what)))
}

fn of_device(page: &Page) -> Option<f64> {
    page.device("path_io_errors_total", MPATHA)
}

#[test]
fn a_device_has_had_the_errors_of_all_its_paths() {
    let host = Host::recorded("01-healthy");
    write(&host, SDB, "0x1a", "0x0");
    host.sysfs.write(&format!("{SDD}/ioerr_cnt"), "0x2\n");
    let exporter = host.exporter(&[]);
    let page = exporter.metrics();
    assert_eq!(of_path(&page, "sdb"), [Some(26.0), Some(0.0)]);
    assert_eq!(of_path(&page, "sdd"), [Some(2.0), None], "an older kernel counts no timeouts");
    assert_eq!((of_device(&page), page.device("path_io_errors_total", MPATHB)), (Some(28.0), Some(0.0)));
    write(&host, SDB, "0x1b", "0x2");
    assert_eq!(of_device(&exporter.reread()), Some(31.0));
    let page = host.exporter(&["--no-collector.paths"]).metrics();
    assert_eq!((of_device(&page), of_path(&page, "sdb")), (Some(31.0), [None; 2]));
    assert_no_errors(&page);
}

#[test]
fn errors_stay_when_their_disk_goes_and_another_takes_its_place() {
    let host = Host::recorded("01-healthy");
    write(&host, SDB, "0x10", "0x0");
    let exporter = host.exporter(&[]);
    assert_eq!(of_device(&exporter.metrics()), Some(16.0));
    let link = "devices/virtual/block/dm-0/slaves/sdb";
    host.sysfs.remove(link);
    assert_eq!(of_device(&exporter.reread()), Some(16.0));
    write(&host, SDB, "0x3", "0x0");
    host.sysfs.link(link, &format!("../../../../../{SDB}/block/sdb"));
    assert_eq!(of_device(&exporter.reread()), Some(19.0));
}

#[test]
fn a_count_goes_on_where_the_kernel_prints_it_as_negative() {
    let host = Host::recorded("01-healthy");
    write(&host, SDB, "0x7fffffff", "0x0");
    let exporter = host.exporter(&[]);
    let end = f64::from(i32::MAX);
    assert_eq!(of_path(&exporter.metrics(), "sdb")[0], Some(end));
    write(&host, SDB, "0xffffffff80000000", "0x0");
    let page = exporter.reread();
    assert_eq!((of_path(&page, "sdb")[0], of_device(&page)), (Some(end + 1.0), Some(end + 1.0)));
    // The counter has wrapped at 32 bits.
    write(&host, SDB, "0x2", "0x0");
    let page = exporter.reread();
    assert_eq!((of_path(&page, "sdb")[0], of_device(&page)), (Some(2.0), Some(end + 3.0)));
    assert_no_errors(&page);
}

#[test]
fn a_count_that_makes_no_sense_is_an_error_and_stands_as_last_read() {
    for nonsense in ["-1", "0xffffffff7fffffff", "many"] {
        let host = Host::recorded("01-healthy");
        write(&host, SDB, "0x10", "0x1");
        let exporter = host.exporter(&[]);
        write(&host, SDB, nonsense, "0x2");
        let page = exporter.reread();
        assert_errors(nonsense, &page);
        assert_eq!(of_path(&page, "sdb"), [Some(16.0), Some(2.0)], "{nonsense}");
        assert_eq!(of_device(&page), Some(18.0), "{nonsense}");
        // A counter that was never read is absent.
        assert_eq!(of_path(&host.exporter(&[]).metrics(), "sdb"), [None, Some(2.0)], "{nonsense}");
    }
}
