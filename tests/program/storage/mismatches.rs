//! Paths that differ from their device: all of them should be the same LUN.

use super::{assert_errors, assert_no_errors};
use crate::harness::{Host, MPATHA, MPATHB, Page, Reply, eventually};

const DM_0: &str = "devices/virtual/block/dm-0";
/// The paths of `mpatha`.
const SDB: &str = "devices/platform/host6/session1/target6:0:0/6:0:0:2";
const SDD: &str = "devices/platform/host7/session2/target7:0:0/7:0:0:2";

/// The mismatches of `mpatha`: paths that differ in size, write protection and WWID.
fn mismatches(page: &Page) -> [f64; 3] {
    let of = |wwid| ["size", "read_only", "wwid"].map(|what| page.fault(&format!("{what}_mismatched_paths"), wwid));
    assert_eq!(of(MPATHB), [0.0; 3]);
    of(MPATHA)
}

fn scsi_says(host: &Host, disk: &str, wwid: &str) {
    host.sysfs.write(&format!("{disk}/wwid"), format!("{wwid}\n"));
}

#[test]
fn paths_of_one_lun_agree() {
    let host = Host::recorded("01-healthy");
    for (devno, wwid) in [("8:0", MPATHB), ("8:16", MPATHA), ("8:32", MPATHB), ("8:48", MPATHA)] {
        host.sysfs.udev(devno, &format!("ID_SERIAL={wwid}"));
    }
    let page = host.exporter(&[]).metrics();
    assert_eq!(mismatches(&page), [0.0; 3]);
    assert_no_errors(&page);
}

#[test]
fn a_path_of_another_size_is_counted_until_it_has_the_same() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    host.sysfs.write(&format!("{SDB}/block/sdb/size"), "262144\n");
    assert_eq!(mismatches(&exporter.reread()), [1.0, 0.0, 0.0]);
    host.sysfs.write(&format!("{DM_0}/size"), "262144\n");
    host.sysfs.write(&format!("{SDD}/block/sdd/size"), "262144\n");
    assert_eq!(mismatches(&exporter.reread()), [0.0; 3]);
}

#[test]
fn a_path_without_a_size_has_no_other_one() {
    let host = Host::recorded("01-healthy");
    host.sysfs.write(&format!("{SDB}/block/sdb/size"), "0\n");
    host.sysfs.remove(&format!("{SDD}/block/sdd/size"));
    assert_eq!(mismatches(&host.exporter(&[]).metrics()), [0.0; 3]);
}

#[test]
fn a_path_of_other_write_protection_is_counted() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    host.sysfs.write(&format!("{SDB}/block/sdb/ro"), "1\n");
    assert_eq!(mismatches(&exporter.reread()), [0.0, 1.0, 0.0]);
    host.sysfs.write(&format!("{SDD}/block/sdd/ro"), "1\n");
    assert_eq!(mismatches(&exporter.reread()), [0.0, 2.0, 0.0]);
    host.sysfs.write(&format!("{DM_0}/ro"), "1\n");
    assert_eq!(mismatches(&exporter.reread()), [0.0; 3]);
    host.sysfs.remove(&format!("{SDD}/block/sdd/ro"));
    assert_eq!(mismatches(&exporter.reread()), [0.0; 3]);
}

#[test]
fn another_lun_is_seen_by_what_the_scsi_layer_says() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    scsi_says(&host, SDB, "naa.60000000000000000e00000000010003");
    assert_eq!(mismatches(&exporter.reread()), [0.0, 0.0, 1.0]);
    scsi_says(&host, SDB, "naa.60000000000000000E00000000010002");
    assert_eq!(mismatches(&exporter.reread()), [0.0; 3]);
}

#[test]
fn another_lun_is_seen_by_what_udev_says() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    for (devno, wwid) in [("8:16", MPATHA), ("8:48", MPATHA)] {
        host.sysfs.udev(devno, &format!("ID_SERIAL={wwid}"));
    }
    assert_eq!(mismatches(&exporter.reread()), [0.0; 3]);
    host.sysfs.udev("8:16", "ID_SERIAL=360000000000000000e00000000010003");
    assert_eq!(mismatches(&exporter.reread()), [0.0, 0.0, 1.0]);
    // One path counts once, even if two sources report it.
    scsi_says(&host, SDB, "naa.60000000000000000e00000000010003");
    assert_eq!(mismatches(&exporter.reread()), [0.0, 0.0, 1.0]);
    // A udev rule that could not query the disk sets no property.
    host.sysfs.udev("8:16", "DEVTYPE=disk");
    assert_eq!(mismatches(&exporter.reread()), [0.0, 0.0, 1.0]);
}

#[test]
fn a_timer_notices_another_lun_without_an_event() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&["--resync.interval=100ms"]);
    let mismatched = |paths| {
        eventually("the number of paths to another LUN", || {
            let page = exporter.metrics();
            (page.fault("wwid_mismatched_paths", MPATHA) == paths).then_some(())
        });
    };
    host.sysfs.udev("8:48", &format!("ID_SERIAL={MPATHA}"));
    host.sysfs.udev("8:16", "ID_SERIAL=360000000000000000e00000000010003");
    mismatched(1.0);
    host.sysfs.udev("8:16", &format!("ID_SERIAL={MPATHA}"));
    mismatched(0.0);
    scsi_says(&host, SDD, "naa.60000000000000000e00000000010003");
    mismatched(1.0);
}

#[test]
fn when_all_paths_are_another_lun_all_are_counted() {
    let host = Host::recorded("01-healthy");
    for (disk, devno) in [(SDB, "8:16"), (SDD, "8:48")] {
        scsi_says(&host, disk, "naa.60000000000000000e00000000010003");
        host.sysfs.udev(devno, "ID_SERIAL=360000000000000000e00000000010003");
    }
    assert_eq!(mismatches(&host.exporter(&[]).metrics()), [0.0, 0.0, 2.0]);
}

/// The array gave the LUN number to another volume. The disks were rescanned, but udev received no
/// event. Then the exporter starts.
#[test]
fn what_the_kernel_alone_knows_is_seen_after_a_restart() {
    let host = Host::recorded("01-healthy");
    for devno in ["8:16", "8:48"] {
        host.sysfs.udev(devno, &format!("ID_SERIAL={MPATHA}"));
    }
    assert_eq!(mismatches(&host.exporter(&[]).metrics()), [0.0; 3]);
    for (disk, mismatched) in [(SDB, 1.0), (SDD, 2.0)] {
        scsi_says(&host, disk, "naa.60000000000000000e00000000010003");
        assert_eq!(mismatches(&host.exporter(&[]).metrics()), [0.0, 0.0, mismatched]);
    }
}

#[test]
fn a_name_that_another_vendor_gave_may_be_another_name_of_the_same_lun() {
    let host = Host::recorded("01-healthy");
    for (disk, devno) in [(SDB, "8:16"), (SDD, "8:48")] {
        scsi_says(&host, disk, "naa.600a0980000000000e00000000010002");
        host.sysfs.udev(devno, &format!("ID_SERIAL={MPATHA}"));
    }
    assert_eq!(mismatches(&host.exporter(&[]).metrics()), [0.0; 3]);
}

/// The paths change one after the other. In the end no path has the map's name.
#[test]
fn all_paths_that_become_another_lun_one_by_one_are_counted() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    scsi_says(&host, SDB, "naa.60000000000000000e00000000010003");
    assert_eq!(mismatches(&exporter.reread()), [0.0, 0.0, 1.0]);
    scsi_says(&host, SDD, "naa.60000000000000000e00000000010003");
    assert_eq!(mismatches(&exporter.reread()), [0.0, 0.0, 2.0]);
}

/// The kernel and udev use different names of one LUN.
#[test]
fn another_name_of_the_same_lun_is_not_taken_for_another_lun() {
    let host = Host::recorded("01-healthy");
    for (disk, devno) in [(SDB, "8:16"), (SDD, "8:48")] {
        scsi_says(&host, disk, "naa.5000c50012345678");
        host.sysfs.udev(devno, &format!("ID_SERIAL={MPATHA}"));
    }
    assert_eq!(mismatches(&host.exporter(&[]).metrics()), [0.0; 3]);
}

#[test]
fn names_of_other_kinds_are_not_taken_for_other_luns() {
    for (wwid, scsi, serial, mismatched) in [
        // udev and the SCSI layer write a T10 name differently.
        ("1LABARRAY_0002", "t10.LABARRAY 0002", "1LABARRAY_0002", 0.0),
        ("SLABARRAY_VDISK_beaf12", "t10.LABARRAY", "SLABARRAY_VDISK_beaf12", 0.0),
        ("20123456789abcdef", "eui.0123456789ABCDEF", "20123456789abcdef", 0.0),
        // `uid_attribute` is another property, or the site has a udev rule of its own.
        ("0x60000000000000000e00000000010002", "naa.60000000000000000e00000000010002", MPATHA, 0.0),
        ("60000000000000000e00000000010002", "naa.60000000000000000e00000000010002", MPATHA, 0.0),
        ("IBM.750000000N8392.6900.5f", "naa.60000000000000000e00000000010002", MPATHA, 0.0),
        ("my-database", "naa.60000000000000000e00000000010002", MPATHA, 0.0),
        // The other path still has the device's name.
        ("1LABARRAY_0002", "t10.LABARRAY 0002", "1LABARRAY_0003", 1.0),
        ("20123456789abcdef", "eui.0123456789abcd00", "20123456789abcd00", 1.0),
    ] {
        let host = Host::recorded("01-healthy");
        host.multipathd.daemon(Reply::closed());
        host.sysfs.write(&format!("{DM_0}/dm/uuid"), format!("mpath-{wwid}\n"));
        for (disk, devno) in [(SDB, "8:16"), (SDD, "8:48")] {
            scsi_says(&host, disk, scsi);
            host.sysfs.udev(devno, &format!("ID_SERIAL={serial}"));
        }
        if mismatched > 0.0 {
            host.sysfs.udev("8:48", &format!("ID_SERIAL={wwid}"));
            scsi_says(&host, SDD, if wwid.starts_with('2') { "eui.0123456789abcdef" } else { scsi });
        }
        let page = host.exporter(&[]).metrics();
        assert_eq!(page.fault("wwid_mismatched_paths", wwid), mismatched, "{wwid} {serial}");
    }
}

/// The array gave the LUN number to another of its volumes. The kernel's name is new for none, one
/// or all of the paths, and udev's is old. A running exporter and a new one report the same.
#[test]
fn whoever_made_the_names_another_lun_is_seen_with_history_and_without() {
    for (wwid, own, other) in [
        // IBM, NetApp, Pure Storage, 3PAR, EMC, Dell.
        (
            "36005076380808aaaaaa000000000007f",
            "naa.6005076380808aaaaaa000000000007f",
            "naa.6005076380808aaaaaa0000000000080",
        ),
        (
            "3600a098038304437415d4b6a59684a52",
            "naa.600A098038304437415D4B6A59684A52",
            "naa.600a098038304437415d4b6a59684a53",
        ),
        (
            "3624a9370bd452205599f42d600011a01",
            "naa.624a9370bd452205599f42d600011a01",
            "naa.624a9370bd452205599f42d600011a02",
        ),
        (
            "360002ac0000000000000000a0001eb2f",
            "naa.60002ac0000000000000000a0001eb2f",
            "naa.60002ac0000000000000000b0001eb2f",
        ),
        (
            "360060160a1b2c3d4e5f6071829304150",
            "naa.60060160a1b2c3d4e5f6071829304150",
            "naa.60060160A1B2C3D4E5F6071829304151",
        ),
        (
            "3600c0ff000aaaaaa0000000000000001",
            "naa.600c0ff000aaaaaa0000000000000001",
            "naa.600c0ff000aaaaaa0000000000000002",
        ),
        ("35000c500a1b2c3d4", "naa.5000c500a1b2c3d4", "naa.5000c500a1b2c3d8"),
        (
            "25e5a8f96e2c5c4a46c9ce9008e6bb5d7",
            "eui.5e5a8f96e2c5c4a46c9ce9008e6bb5d7",
            "eui.4c5a8f96e2c5c4a56c9ce9008e6bb5d8",
        ),
        ("1IET_00010001", "t10.IET     00010001", "t10.IET     00010002"),
        (
            "1ATA_QEMU_HARDDISK_QM00001",
            "t10.ATA     QEMU HARDDISK                           QM00001",
            "t10.ATA     QEMU HARDDISK                           QM00002",
        ),
        (
            "uuid.1b4e28ba-2fa1-11d2-883f-0016d3cca427",
            "uuid.1b4e28ba-2fa1-11d2-883f-0016d3cca427",
            "uuid.1b4e28ba-2fa1-11d2-883f-0016d3cca428",
        ),
        // The site names its maps by another property.
        (
            "600a098038304437415d4b6a59684a52",
            "naa.600a098038304437415d4b6a59684a52",
            "naa.600a098038304437415d4b6a59684a53",
        ),
    ] {
        let host = Host::recorded("01-healthy");
        host.multipathd.daemon(Reply::closed());
        host.sysfs.write(&format!("{DM_0}/dm/uuid"), format!("mpath-{wwid}\n"));
        for (disk, devno) in [(SDB, "8:16"), (SDD, "8:48")] {
            scsi_says(&host, disk, own);
            host.sysfs.udev(devno, &format!("ID_SERIAL={wwid}"));
        }
        let exporter = host.exporter(&[]);
        let mismatched = |page: Page| page.fault("wwid_mismatched_paths", wwid);
        assert_eq!(mismatched(exporter.metrics()), 0.0, "{wwid}");
        for (disk, paths) in [(SDB, 1.0), (SDD, 2.0)] {
            scsi_says(&host, disk, other);
            assert_eq!(mismatched(exporter.reread()), paths, "{wwid}");
            assert_eq!(mismatched(host.exporter(&[]).metrics()), paths, "{wwid}, after a restart");
        }
    }
}

/// A map has one of the other names of its LUN. A firmware update adds a name that udev prefers.
#[test]
fn a_name_of_another_type_is_no_other_lun_with_history_or_without() {
    for (wwid, udev, own, later) in [
        (
            "3600a098038304437415d4b6a59684a52",
            "3600a098038304437415d4b6a59684a52",
            "t10.NETAPP  LUN C",
            "t10.NETAPP  LUN-C 8R1",
        ),
        (
            "3600a098038304437415d4b6a59684a52",
            "3600a098038304437415d4b6a59684a52",
            "t10.NETAPP  LUN C",
            "naa.600a098038304437415d4b6a59684a52",
        ),
        ("1NETAPP_LUN_C", "1NETAPP_LUN_C", "t10.NETAPP  LUN C", "naa.600a098038304437415d4b6a59684a52"),
        (
            "1NETAPP_LUN_C",
            "3600a098038304437415d4b6a59684a52",
            "naa.600a098038304437415d4b6a59684a52",
            "iqn.1992-08.com.netapp:a,L,0x1",
        ),
        (
            "my-database",
            "3600a098038304437415d4b6a59684a52",
            "naa.600a098038304437415d4b6a59684a52",
            "t10.NETAPP  LUN C",
        ),
        (
            "0x600a098038304437",
            "3600a098038304437415d4b6a59684a52",
            "naa.600a098038304437415d4b6a59684a52",
            "t10.NETAPP  LUN C",
        ),
        (
            "eui.0025385a01234567",
            "eui.0025385a01234567",
            "eui.0025385a01234567",
            "uuid.1b4e28ba-2fa1-11d2-883f-0016d3cca427",
        ),
    ] {
        let host = Host::recorded("01-healthy");
        host.multipathd.daemon(Reply::closed());
        host.sysfs.write(&format!("{DM_0}/dm/uuid"), format!("mpath-{wwid}\n"));
        for (disk, devno) in [(SDB, "8:16"), (SDD, "8:48")] {
            scsi_says(&host, disk, own);
            host.sysfs.udev(devno, &format!("ID_SERIAL={udev}"));
        }
        let exporter = host.exporter(&[]);
        let mismatched = |page: Page| page.fault("wwid_mismatched_paths", wwid);
        assert_eq!(mismatched(exporter.metrics()), 0.0, "{wwid}, {own}");
        for disk in [SDB, SDD] {
            scsi_says(&host, disk, later);
            assert_eq!(mismatched(exporter.reread()), 0.0, "{wwid}, {own}, {later}");
            assert_eq!(mismatched(host.exporter(&[]).metrics()), 0.0, "{wwid}, {own}, {later}, after a restart");
        }
    }
}

#[test]
fn what_cannot_be_read_stays_as_last_read() {
    for file in ["wwid", "block/sdb/size", "block/sdb/ro", "vendor", "model", "rev", "state"] {
        let host = Host::recorded("01-healthy");
        // No other source knows the states.
        host.multipathd.daemon(Reply::closed());
        scsi_says(&host, SDB, "naa.60000000000000000e00000000010003");
        host.sysfs.write(&format!("{SDB}/block/sdb/size"), "262144\n");
        host.sysfs.write(&format!("{SDB}/block/sdb/ro"), "1\n");
        let exporter = host.exporter(&[]);
        let before = exporter.metrics();
        assert_eq!(mismatches(&before), [1.0; 3]);
        host.sysfs.make_unreadable(&format!("{SDB}/{file}"));
        let page = exporter.reread();
        assert_eq!(page.of_device(MPATHA), before.of_device(MPATHA), "{file}");
        assert_errors(file, &page);

        let page = host.exporter(&[]).metrics();
        assert_eq!(page.device("valid_paths", MPATHA), Some(2.0), "{file}");
        assert_errors(file, &page);
    }
}
