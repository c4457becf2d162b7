//! Disks that are LUNs of a device but not its paths.

use super::{SYSFS_ERRORS, assert_errors, assert_no_errors};
use crate::harness::{Host, MPATHA, MPATHB, Page, run};

const SDD: &str = "devices/platform/host7/session2/target7:0:0/7:0:0:2";

/// The recorded host after `sdd` has left its map. `--oneshot` does not wait for a minute before it
/// reports a stray path.
pub fn beside() -> Host {
    let host = Host::recorded("01-healthy");
    for (devno, wwid) in [("8:0", MPATHB), ("8:16", MPATHA), ("8:32", MPATHB), ("8:48", MPATHA)] {
        host.sysfs.udev(devno, &format!("ID_SERIAL={wwid}"));
    }
    host.sysfs.remove("devices/virtual/block/dm-0/slaves/sdd");
    host
}

fn look(host: &Host) -> Page {
    let options = [host.options(), vec!["--oneshot".to_owned(), "--no-collector.multipathd".to_owned()]].concat();
    Page::new(&run(&options).stdout)
}

fn strays(page: &Page) -> f64 {
    assert_eq!(page.device("paths", MPATHA), Some(1.0));
    assert_eq!(page.fault("stray_paths", MPATHB), 0.0);
    page.fault("stray_paths", MPATHA)
}

#[test]
fn a_disk_beside_its_map_is_a_stray() {
    let host = beside();
    let page = look(&host);
    assert_eq!((strays(&page), page.value("multipath_unassembled_wwids")), (1.0, Some(0.0)));
    // A running exporter waits for one minute.
    let exporter = host.exporter(&["--no-collector.multipathd"]);
    assert_eq!(strays(&exporter.metrics()), 0.0);
    let device = &exporter.get("/api/v1/devices").json()["devices"][0];
    assert_eq!((&device["stray_paths"], &device["stray_disks"]), (&0.into(), &serde_json::json!([])));
}

#[test]
fn what_is_left_to_others_or_does_not_work_is_none() {
    type Edit = fn(&Host);
    let edits: [(&str, Edit, f64); 11] = [
        ("marked as multipath's", |host| mark(host, "1"), 1.0),
        ("marked as none of it", |host| mark(host, "0"), 0.0),
        ("marked by nonsense", |host| mark(host, "2"), 1.0),
        ("marked twice", |host| mark(host, "0\nE:DM_MULTIPATH_DEVICE_PATH=1"), 1.0),
        ("of another name", |host| host.sysfs.udev("8:48", "ID_SERIAL=3600a098000aad1e3"), 0.0),
        ("of no name", |host| host.sysfs.remove("udev/b8:48"), 0.0),
        ("of another size", |host| host.sysfs.replace(&format!("{SDD}/block/sdd/size"), "8\n"), 0.0),
        ("offline", |host| host.sysfs.replace(&format!("{SDD}/state"), "offline\n"), 0.0),
        ("held by PowerPath", |host| host.sysfs.write(&format!("{SDD}/block/sdd/holders/emcpowera/x"), ""), 0.0),
        ("held by VxVM", |host| host.sysfs.write(&format!("{SDD}/block/sdd/holders/VxDMP1/x"), ""), 0.0),
        ("held by md", |host| host.sysfs.write(&format!("{SDD}/block/sdd/holders/md0/x"), ""), 1.0),
    ];
    for (what, edit, expected) in edits {
        let host = beside();
        edit(&host);
        let page = look(&host);
        assert_eq!(strays(&page), expected, "{what}");
        assert_no_errors(&page);
    }
}

fn mark(host: &Host, marks: &str) {
    host.sysfs.udev("8:48", &format!("ID_SERIAL={MPATHA}\nE:DM_MULTIPATH_DEVICE_PATH={marks}"));
}

#[test]
fn what_cannot_be_read_of_a_disk_stays_and_is_its_own_trouble() {
    let host = beside();
    host.sysfs.udev("8:32", "ID_SERIAL=3600a098000aad1e3");
    host.sysfs.replace("udev/b8:32", [b"\xff\xfe=\n".repeat(1 << 19), b"E:".to_vec()].concat());
    let page = look(&host);
    assert_eq!(strays(&page), 1.0);
    let exporter = host.exporter(&["--no-collector.multipathd"]);
    let errors = exporter.metrics().value(SYSFS_ERRORS);
    host.sysfs.make_unreadable(&format!("{SDD}/state"));
    let page = exporter.reread();
    assert_errors("a disk's state", &page);
    assert!(page.value(SYSFS_ERRORS) > errors);
}
