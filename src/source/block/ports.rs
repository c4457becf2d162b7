//! The ports of SAS and virtio-scsi disks, whose own directory shows them.
//!
//! ```text
//! …/0000:3b:00.0/host0/                      a host adapter
//! …/host0/scsi_host/host0/                   host_sas_address: its SAS address, from some drivers (mpt3sas, pm8001)
//! …/host0/port-0:2/expander-0:2/             an expander of an enclosure; there may be none, or several in a row
//! …/expander-0:2/sas_device/expander-0:2/    sas_address
//! …/port-0:2:139/end_device-0:2:139/         the port of a target; its disks lie below it
//! …/sas_device/end_device-0:2:139/           sas_address, and enclosure_identifier from some drivers
//!
//! …/0000:00:05.0/virtio2/host2/              a virtio-scsi controller
//! ```
//!
//! Documented in `drivers/scsi/scsi_transport_sas.c`, `drivers/scsi/mpt3sas/mpt3sas_ctl.c` and
//! `drivers/scsi/virtio_scsi.c` of the kernel. The names of a SAS target disappear together with
//! it, and reading an address needs no I/O, because the driver has it in memory. The ports are
//! therefore read with the disk, and no session or port needs to be watched.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use super::disks::is_numbered;
use crate::source::Error;
use crate::source::files::Attribute;
use crate::topology::{Ports, Transport};

/// Reads the ports of the disk in this directory below the root. Names that sysfs does not show
/// stay as they were, otherwise they are empty.
pub(crate) fn read(
    root: &Path,
    place: &Path,
    last: &Ports,
    file: &mut Attribute,
    unreadable: &mut Vec<Error>,
) -> Ports {
    match transport(place) {
        Transport::Sas => read_sas(root, place, last, file, unreadable),
        Transport::VirtioScsi => Ports { initiator_port: adapter(place), ..Ports::default() },
        _ => Ports::default(),
    }
}

fn read_sas(root: &Path, place: &Path, last: &Ports, file: &mut Attribute, unreadable: &mut Vec<Error>) -> Ports {
    let [host, expander, end_device] = ["host", "expander-", "end_device-"].map(|kind| nearest(place, kind));
    let mut address = |directory: Option<&Path>, class, attribute| {
        let Some(directory) = directory else { return Arc::default() };
        let directory = root.join(directory).join(class).join(name(directory));
        unless_zero(file.word_or_note(&directory, attribute, unreadable))
    };
    let told = Ports {
        initiator_port: address(host, "scsi_host", "host_sas_address"),
        target: address(end_device, "sas_device", "enclosure_identifier"),
        target_port: address(end_device, "sas_device", "sas_address"),
    };
    let known = told.or(last);
    if known.are_known() {
        return known;
    }
    let expander_name = Ports { target: expander.map(name).unwrap_or_default().into(), ..Ports::default() };
    let instead = Ports {
        initiator_port: adapter(place),
        target: address(expander, "sas_device", "sas_address"),
        target_port: Arc::default(),
    };
    known.or(&instead).or(&expander_name)
}

/// Returns the transport of the disk in this directory, if it is SAS or virtio-scsi.
pub(crate) fn transport(place: &Path) -> Transport {
    if nearest(place, "end_device-").is_some() {
        Transport::Sas
    } else if virtio_device(place).is_some() {
        Transport::VirtioScsi
    } else {
        Transport::Unknown
    }
}

/// Returns the name of the adapter's device: its PCI address, unless it is on another bus.
fn adapter(place: &Path) -> Arc<str> {
    let device = virtio_device(place).or(nearest(place, "host"));
    device.and_then(Path::parent).map(name).unwrap_or_default().into()
}

/// Returns the virtio device of the disk. Its driver creates the SCSI host directly below it.
fn virtio_device(place: &Path) -> Option<&Path> {
    nearest(place, "host")?.parent().filter(|device| is_numbered(name(device), "virtio"))
}

/// Returns the directory of this kind (`host0`) above the disk, the nearest if there are several.
fn nearest<'a>(place: &'a Path, kind: &str) -> Option<&'a Path> {
    place.ancestors().find(|directory| is_numbered(name(directory), kind))
}

fn name(directory: &Path) -> &str {
    directory.file_name().and_then(OsStr::to_str).unwrap_or_default()
}

/// Firmware without an address prints 0.
fn unless_zero(address: Arc<str>) -> Arc<str> {
    let digits = address.strip_prefix("0x").unwrap_or(&address);
    if digits.bytes().all(|digit| digit == b'0') { Arc::default() } else { address }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const EXPANDER: &str = "devices/pci0000:00/0000:3b:00.0/host0/port-0:2/expander-0:2";

    fn end_device() -> String {
        format!("{EXPANDER}/port-0:2:139/end_device-0:2:139")
    }

    fn disk(of: &str) -> String {
        format!("{of}/target0:0:139/0:0:139:0/block/sdb")
    }

    fn ports(initiator_port: &str, target: &str, target_port: &str) -> Ports {
        Ports { initiator_port: initiator_port.into(), target: target.into(), target_port: target_port.into() }
    }

    /// Returns the ports of a disk in this place, on a host that has these files.
    fn read_from(files: &[(String, &str)], place: &str, last: &Ports) -> (Ports, Vec<Error>) {
        let root = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let file = root.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            match *content {
                "unreadable" => fs::create_dir(file).unwrap(),
                content => fs::write(file, format!("{content}\n")).unwrap(),
            }
        }
        let mut unreadable = Vec::new();
        let ports = read(root.path(), Path::new(place), last, &mut Attribute::default(), &mut unreadable);
        (ports, unreadable)
    }

    #[test]
    fn the_names_of_a_sas_disk() {
        let host = "devices/pci0000:00/0000:3b:00.0/host0/scsi_host/host0/host_sas_address".to_owned();
        let expander = format!("{EXPANDER}/sas_device/expander-0:2/sas_address");
        let of_end_device = |file: &str| format!("{}/sas_device/end_device-0:2:139/{file}", end_device());
        let (enclosure, port) = (of_end_device("enclosure_identifier"), of_end_device("sas_address"));
        let unknown = Ports::default();
        let last = ports("0x500605b00000aaa0", "0x500605b00000bbb0", "0x5000cca26f633001");
        let [h, e, x, p] = ["0x500605b000000001", "0x50080e5000000001", "0x500c04f000000001", "0x5000cca26f633002"];
        let zero = "0x0000000000000000";
        for (files, last, expected) in [
            (vec![(&host, h), (&enclosure, e), (&expander, x), (&port, p)], &unknown, ports(h, e, p)),
            (vec![(&host, h), (&expander, x), (&port, p)], &unknown, ports(h, x, p)),
            (vec![(&port, p)], &unknown, ports("0000:3b:00.0", "expander-0:2", p)),
            (
                vec![(&host, zero), (&enclosure, "0x0"), (&port, zero)],
                &unknown,
                ports("0000:3b:00.0", "expander-0:2", ""),
            ),
            // A known name is not replaced by another name for the same port.
            (vec![(&expander, x)], &last, last.clone()),
            (vec![(&host, h), (&enclosure, e), (&port, p)], &last, ports(h, e, p)),
        ] {
            let files: Vec<_> = files.into_iter().map(|(name, content)| (name.clone(), content)).collect();
            assert_eq!(read_from(&files, &disk(&end_device()), last), (expected, Vec::new()), "{files:?}");
        }
        let (found, unreadable) = read_from(&[(host, "unreadable"), (port, p)], &disk(&end_device()), &unknown);
        assert_eq!((found, unreadable.len()), (ports("0000:3b:00.0", "expander-0:2", p), 1));
    }

    #[test]
    fn adapters_are_recognised_by_their_places() {
        for (place, transport, initiator_port, target) in [
            ("pci0000:00/0000:3b:00.0/host0/port-0:0/end_device-0:0", Transport::Sas, "0000:3b:00.0", ""),
            (
                "pci0000:00/0000:3b:00.0/host0/port-0:0/expander-0:0/port-0:0:9/expander-0:1/port-0:1:4/end_device-0:1:4",
                Transport::Sas,
                "0000:3b:00.0",
                "expander-0:1",
            ),
            ("platform/soc/HISI0162:01/host0/port-0:0/end_device-0:0", Transport::Sas, "HISI0162:01", ""),
            ("pci0000:00/0000:00:02.5/0000:06:00.0/virtio2/host2", Transport::VirtioScsi, "0000:06:00.0", ""),
            ("platform/a003e00.virtio_mmio/virtio0/host0", Transport::VirtioScsi, "a003e00.virtio_mmio", ""),
            ("css0/0.0.0003/0.0.0004/virtio3/host0", Transport::VirtioScsi, "0.0.0004", ""),
            ("pci0000:00/0000:00:1f.2/ata1/host0", Transport::Unknown, "", ""),
            ("pci0000:00/0000:00:03.0/virtio0/nothost", Transport::Unknown, "", ""),
        ] {
            let place = disk(&format!("devices/{place}"));
            assert_eq!(super::transport(Path::new(&place)), transport, "{place}");
            assert_eq!(read_from(&[], &place, &Ports::default()), (ports(initiator_port, target, ""), Vec::new()));
        }
    }
}
