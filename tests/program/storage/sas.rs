//! SAS and virtio-scsi. Their transport has no session or port objects that the exporter reads: the
//! directories of the disks show the ports.
//!
//! The tests have no SAS hardware. The host is written by hand after
//! `drivers/scsi/scsi_transport_sas.c` and a report of a shelf that lost an adapter. It has two
//! host adapters and a shelf with two expanders. Each disk has a port on each expander.

use super::assert_no_errors;
use crate::harness::{Host, Page};

const WWID: &str = "35000cca26f633000";
const FIRST: &str = "devices/pci0000:00/0000:3b:00.0/host0";
const SECOND: &str = "devices/pci0000:00/0000:af:00.0/host15";
const DISK_PORTS: [&str; 2] = ["0x5000cca26f633001", "0x5000cca26f633002"];

/// The directory of a disk's port behind an adapter and an expander.
fn end_device(adapter: &str, expander: usize) -> String {
    let number = format!("{}:{expander}", adapter.rsplit("host").next().unwrap());
    format!("{adapter}/port-{number}/expander-{number}/port-{number}:46/end_device-{number}:46")
}

/// The kernel shows a port, an expander or an adapter in a directory of the same name below its
/// own.
fn write_class(host: &Host, directory: &str, class: &str, file: &str, content: &str) {
    let name = directory.rsplit('/').next().unwrap();
    host.sysfs.write(&format!("{directory}/{class}/{name}/{file}"), format!("{content}\n"));
}

/// A disk in this directory that is a path of map 0.
fn add_path(host: &Host, directory: &str, disk: &str, devno: &str, hctl: &str) {
    let target = format!("target{}", hctl.rsplit_once(':').unwrap().0);
    let scsi = format!("{directory}/{target}/{hctl}");
    for (file, content) in [("state", "running"), ("vendor", "HGST"), ("model", "HUH721212AL4200"), ("rev", "A3D0")] {
        host.sysfs.write(&format!("{scsi}/{file}"), format!("{content}\n"));
    }
    let block = format!("{scsi}/block/{disk}");
    for (file, content) in [("dev", devno), ("size", "131072"), ("ro", "0")] {
        host.sysfs.write(&format!("{block}/{file}"), format!("{content}\n"));
    }
    host.sysfs.link(&format!("{block}/device"), &format!("../../../{hctl}"));
    host.sysfs.link(&format!("block/{disk}"), &format!("../{block}"));
    host.sysfs.link(&format!("devices/virtual/block/dm-0/slaves/{disk}"), &format!("../../../../../{block}"));
}

/// `sda` and `sdb` use the first adapter, `sdc` and `sdd` the second. The driver shows no address
/// except the disk's.
pub fn shelf() -> Host {
    let host = Host::bare();
    host.sysfs.add_map(0, "mpatha", format!("mpath-{WWID}"), &[]);
    let mut disks = [("sda", "8:0"), ("sdb", "8:16"), ("sdc", "8:32"), ("sdd", "8:48")].into_iter();
    for (adapter, bus) in [(FIRST, 0), (SECOND, 15)] {
        for (expander, disk_port) in DISK_PORTS.into_iter().enumerate() {
            let (disk, devno) = disks.next().unwrap();
            let directory = end_device(adapter, expander);
            add_path(&host, &directory, disk, devno, &format!("{bus}:0:{}:0", 46 + expander));
            write_class(&host, &directory, "sas_device", "sas_address", disk_port);
        }
    }
    host
}

/// A driver that also shows the addresses of adapters and the enclosure of a disk.
pub fn shelf_of_a_driver_that_tells() -> Host {
    let host = shelf();
    for (adapter, address) in [(FIRST, "0x500605b00aa00010"), (SECOND, "0x500605b00aa00020")] {
        write_class(&host, adapter, "scsi_host", "host_sas_address", address);
        for expander in 0..2 {
            write_class(
                &host,
                &end_device(adapter, expander),
                "sas_device",
                "enclosure_identifier",
                "0x5000ccab0405f000",
            );
        }
    }
    host
}

fn all_ports(page: &Page) -> [[&str; 4]; 4] {
    ["sda", "sdb", "sdc", "sdd"].map(|disk| page.ports(disk))
}

#[test]
fn paths_are_called_after_adapter_expander_and_port() {
    let [first, second] = DISK_PORTS;
    let page = shelf().exporter(&[]).metrics();
    let ports = [
        ["sas", "0000:3b:00.0", "expander-0:0", first],
        ["sas", "0000:3b:00.0", "expander-0:1", second],
        ["sas", "0000:af:00.0", "expander-15:0", first],
        ["sas", "0000:af:00.0", "expander-15:1", second],
    ];
    assert_eq!(all_ports(&page), ports);
    assert_no_errors(&page);

    let page = shelf_of_a_driver_that_tells().exporter(&[]).metrics();
    let enclosure = "0x5000ccab0405f000";
    let ports = [
        ["sas", "0x500605b00aa00010", enclosure, first],
        ["sas", "0x500605b00aa00010", enclosure, second],
        ["sas", "0x500605b00aa00020", enclosure, first],
        ["sas", "0x500605b00aa00020", enclosure, second],
    ];
    assert_eq!(all_ports(&page), ports);
    assert_no_errors(&page);
}

#[test]
fn labels_do_not_change_when_an_adapter_is_lost() {
    for host in [shelf(), shelf_of_a_driver_that_tells()] {
        let exporter = host.exporter(&[]);
        let before = exporter.metrics();
        // First the disks report the failure. Then the adapter loses its attributes, and finally it
        // is gone.
        for (expander, target) in [(0, 46), (1, 47)] {
            let disk = format!("{}/target15:0:{target}/15:0:{target}:0/state", end_device(SECOND, expander));
            host.sysfs.write(&disk, "offline\n");
        }
        let page = exporter.reread();
        assert_eq!(all_ports(&page), all_ports(&before));
        assert_eq!((page.device("valid_paths", WWID), page.device("failed_paths", WWID)), (Some(2.0), Some(2.0)));
        for expander in 0..2 {
            host.sysfs.remove(&format!("{}/sas_device", end_device(SECOND, expander)));
        }
        host.sysfs.write(&format!("{SECOND}/scsi_host/host15/host_sas_address"), "0x0000000000000000\n");
        assert_eq!(all_ports(&exporter.reread()), all_ports(&before));
        host.sysfs.remove(SECOND);
        let page = exporter.reread();
        assert_eq!(all_ports(&page), all_ports(&before));
        assert_no_errors(&page);
    }
}

#[test]
fn the_page_says_which_adapter_is_lost() {
    let host = shelf();
    for (expander, target) in [(0, 46), (1, 47)] {
        let disk = format!("{}/target15:0:{target}/15:0:{target}:0/state", end_device(SECOND, expander));
        host.sysfs.write(&disk, "offline\n");
    }
    let page = host.exporter(&[]).get("/");
    let words = "Both failed paths leave this host through <b>0000:af:00.0</b>: no path through it is left.";
    assert!(page.text().contains(words), "{}", page.text());
}

#[test]
fn a_virtio_scsi_path_leaves_by_its_controller() {
    let host = Host::bare();
    host.sysfs.add_map(0, "mpatha", format!("mpath-{WWID}"), &[]);
    add_path(&host, "devices/pci0000:00/0000:00:05.0/virtio2/host2", "sda", "8:0", "2:0:0:1");
    add_path(&host, "devices/platform/a003e00.virtio_mmio/virtio3/host3", "sdb", "8:16", "3:0:0:1");
    let exporter = host.exporter(&[]);
    let page = exporter.metrics();
    assert_eq!(page.ports("sda"), ["unknown", "0000:00:05.0", "", ""]);
    assert_eq!(page.ports("sdb"), ["unknown", "a003e00.virtio_mmio", "", ""]);
    host.sysfs.remove("devices/pci0000:00/0000:00:05.0");
    let page = exporter.reread();
    assert_eq!(page.ports("sda"), ["unknown", "0000:00:05.0", "", ""]);
    assert_no_errors(&page);
}
