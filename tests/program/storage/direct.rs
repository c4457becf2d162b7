//! Disks that are used without their multipath device, and similar situations that are in order.

use super::unassembled::unassembled;
use super::{assert_errors, assert_no_errors};
use crate::harness::{Exporter, Host, MPATHA, MPATHB, Page, Reply, run};

const VIRTUAL: &str = "devices/virtual/block";

/// The recorded host without any mount.
fn host() -> Host {
    let host = Host::recorded("01-healthy");
    host.sysfs.write("proc/1/mountinfo", "");
    host
}

fn exporter(host: &Host) -> Exporter {
    host.exporter(&[&format!("--path.procfs={}", host.sysfs.path("proc").display())])
}

/// The directory of a disk of the recorded host.
pub fn place(disk: &str) -> String {
    let (host, lun) = match disk {
        "sda" => (6, 1),
        "sdb" => (6, 2),
        "sdc" => (7, 1),
        _ => (7, 2),
    };
    format!("devices/platform/host{host}/session{}/target{host}:0:0/{host}:0:0:{lun}/block/{disk}", host - 5)
}

/// Creates the directory of a disk or a partition, and returns it.
fn part(host: &Host, name: &str) -> String {
    let disk = name.trim_end_matches(|character: char| character.is_ascii_digit());
    if disk == name {
        return place(disk);
    }
    let part = format!("{}/{name}", place(disk));
    host.sysfs.write(&format!("{part}/partition"), &name[disk.len()..]);
    part
}

/// Links a block device by its number and its name.
pub fn announce(host: &Host, place: &str, devno: &str) {
    let name = place.rsplit('/').next().unwrap();
    host.sysfs.write(&format!("{place}/dev"), format!("{devno}\n"));
    host.sysfs.link(&format!("dev/block/{devno}"), &format!("../../{place}"));
    host.sysfs.link(&format!("class/block/{name}"), &format!("../../{place}"));
}

/// A virtual block device over disks, their partitions, or other virtual devices.
pub fn stack(host: &Host, name: &str, uuid: Option<&str>, slaves: &[&str]) {
    let directory = format!("{VIRTUAL}/{name}");
    host.sysfs.link(&format!("block/{name}"), &format!("../{directory}"));
    host.sysfs.write(&format!("{directory}/size"), "8\n");
    if let Some(uuid) = uuid {
        host.sysfs.write(&format!("{directory}/dm/uuid"), format!("{uuid}\n"));
    }
    for slave in slaves {
        let target = if slave.starts_with("sd") {
            format!("../../../../../{}", part(host, slave))
        } else {
            format!("../../{slave}")
        };
        host.sysfs.link(&format!("{directory}/slaves/{slave}"), &target);
    }
}

fn mount(host: &Host, lines: &[(&str, &str)]) {
    let line = |(devno, source): &(&str, &str)| format!("29 1 {devno} / /srv rw shared:1 - ext4 {source} rw\n");
    host.sysfs.write("proc/1/mountinfo", lines.iter().map(line).collect::<String>());
}

/// Disk and user of each series of this device, sorted.
fn uses(page: &Page, wwid: &str) -> Vec<String> {
    let series = page.of_metric("multipath_disk_used_directly");
    let of_device = series.iter().filter(|(series, _)| series.contains(wwid));
    let words = |series: &str| {
        let label = |name: &str| series.split(&format!("{name}=\"")).nth(1)?.split('"').next();
        format!("{} {}", label("disk").unwrap(), label("by").unwrap())
    };
    let mut uses: Vec<String> = of_device.map(|(series, value)| (words(series), assert_eq!(*value, "1")).0).collect();
    uses.sort();
    uses
}

fn none(page: &Page) {
    assert_eq!(page.of_metric("multipath_disk_used_directly").len(), 0, "{}", page.text());
}

#[test]
fn mounts_swaps_and_block_devices() {
    let host = host();
    let exporter = exporter(&host);
    none(&exporter.metrics());
    let partition = part(&host, "sdb1");
    announce(&host, &partition, "8:17");
    announce(&host, &place("sdc"), "8:32");
    mount(&host, &[("8:17", "/dev/sdb1"), ("8:17", "/dev/sdb1")]);
    host.sysfs.write("proc/swaps", "Filename Type Size Used Priority\n/dev/sdc partition 8 0 -2\n");
    stack(&host, "dm-5", Some("LVM-4711"), &["sdd1"]);
    stack(&host, "dm-6", Some("LVM-4712"), &["sdd"]);
    stack(&host, "dm-7", Some("part1-LVM-4711"), &["sda"]);
    stack(&host, "md127", None, &["sda", "sdc2"]);
    stack(&host, "bcache0", None, &["sdb"]);
    stack(&host, "md_home", None, &["sdb"]);
    let page = exporter.reread();
    assert_eq!(uses(&page, MPATHA), ["sdb bcache", "sdb md", "sdb mount", "sdd dm"]);
    assert_eq!(uses(&page, MPATHB), ["sda dm", "sda md", "sdc md", "sdc swap"]);
    assert_no_errors(&page);

    let document = exporter.get("/api/v1/devices").json();
    assert_eq!(document["used_directly"].as_array().unwrap().len(), 8);
    assert_eq!(document["used_directly"][0]["by"], "dm");
    let paths = document["devices"].as_array().unwrap().iter().flat_map(|device| device["paths"].as_array().unwrap());
    let sdb = paths.into_iter().find(|path| path["path"] == "sdb").unwrap();
    assert_eq!(sdb["used_by"], serde_json::json!(["bcache", "md", "mount"]));
    let status = exporter.get("/");
    let found = "4 disks are used without the multipath device: sda of <a href=\"/?q=";
    assert!(status.text().contains(found) && status.text().contains("(by bcache, md, mount)"), "{}", status.text());
    assert!(status.text().contains("disk used directly") && status.text().contains("sdd is used directly (dm)"));

    mount(&host, &[]);
    host.sysfs.remove("proc/swaps");
    for device in ["dm-5", "dm-6", "dm-7", "md127", "bcache0", "md_home"] {
        host.sysfs.remove(&format!("{VIRTUAL}/{device}"));
        host.sysfs.remove(&format!("block/{device}"));
    }
    none(&exporter.reread());
}

#[test]
fn what_stacks_on_that_counts_once_for_the_lowest() {
    let host = host();
    stack(&host, "md0", None, &["sda", "sdb"]);
    stack(&host, "dm-5", Some("LVM-4711"), &["md0"]);
    stack(&host, "dm-6", Some("CRYPT-LUKS2-1"), &["dm-5"]);
    announce(&host, &format!("{VIRTUAL}/dm-6"), "254:6");
    mount(&host, &[("254:6", "/dev/mapper/data")]);
    let page = exporter(&host).metrics();
    assert_eq!((uses(&page, MPATHA), uses(&page, MPATHB)), (vec!["sdb md".to_owned()], vec!["sda md".to_owned()]));
}

#[test]
fn all_devices_of_a_file_system() {
    for (devno, source) in [("0:40", "/dev/sda"), ("8:0", "/dev/sda:/dev/sdb")] {
        let host = host();
        for (disk, devno) in [("sda", "8:0"), ("sdb", "8:16")] {
            announce(&host, &place(disk), devno);
            if !source.contains(':') {
                host.sysfs.link(&format!("fs/btrfs/uuid/devices/{disk}"), &format!("../../../../{}", place(disk)));
            }
        }
        mount(&host, &[(devno, source)]);
        let page = exporter(&host).metrics();
        assert_eq!(
            (uses(&page, MPATHA), uses(&page, MPATHB)),
            (vec!["sdb mount".to_owned()], vec!["sda mount".to_owned()])
        );
    }
}

#[test]
fn what_stands_on_a_map_or_on_no_path_is_in_order() {
    let host = host();
    stack(&host, "dm-5", Some("LVM-4711"), &["dm-0"]);
    stack(&host, "dm-6", Some("CRYPT-LUKS2-1"), &["dm-1"]);
    stack(&host, "dm-7", Some(&format!("part1-mpath-{MPATHA}")), &["dm-0"]);
    stack(&host, "dm-8", Some("LVM-4712"), &["dm-7"]);
    stack(&host, "md0", None, &["dm-0", "dm-1"]);
    stack(&host, "loop0", None, &[]);
    for (name, devno) in [("dm-0", "254:0"), ("dm-7", "254:7"), ("dm-8", "254:8")] {
        announce(&host, &format!("{VIRTUAL}/{name}"), devno);
    }
    // Only this reading finds the first map. The second map is being removed.
    stack(&host, "dm-9", Some("mpath-3600new"), &["sda"]);
    stack(&host, "dm-10", None, &["sda"]);
    // A local disk, and the head of a native NVMe device.
    for (disk, devno) in [("devices/pci/ata1/block/sdz", "65:144"), (&format!("{VIRTUAL}/nvme0n1"), "259:9")] {
        announce(&host, disk, devno);
    }
    host.sysfs.write("devices/pci/ata1/block/sdz/sdz2/partition", "2\n");
    announce(&host, "devices/pci/ata1/block/sdz/sdz2", "65:146");
    let mounts = ["254:0", "254:7", "254:8", "65:146", "259:9"].map(|devno| (devno, "/dev/root"));
    mount(&host, &mounts);
    host.sysfs.write("proc/swaps", "/dev/sdz partition 8 0 -2\n");
    let page = exporter(&host).metrics();
    none(&page);
    assert_no_errors(&page);
}

#[test]
fn an_unassembled_disk_that_carries_the_root() {
    let host = unassembled();
    host.multipathd.paths(Reply::Text("sda\nsdb\nsdc\nsdd\n".to_owned()));
    let partition = part(&host, "sdb2");
    announce(&host, &partition, "8:18");
    host.sysfs.write("proc/1/mountinfo", "29 1 8:18 / / rw,relatime shared:1 - ext4 /dev/sdb2 rw\n");
    let exporter = exporter(&host);
    let page = exporter.metrics();
    assert_eq!((uses(&page, MPATHA), uses(&page, MPATHB)), (vec!["sdb mount".to_owned()], Vec::new()));
    assert!(exporter.get("/").text().contains(&format!("sdb of {MPATHA} (by mount)")));
    // A disk that multipathd ignores belongs to other software.
    host.multipathd.paths(Reply::Text("\n".to_owned()));
    let options = [host.options(), vec![format!("--path.procfs={}", host.sysfs.path("proc").display())]].concat();
    none(&Page::new(&run(&[options, vec!["--oneshot".to_owned()]].concat()).stdout));
}

#[test]
fn what_cannot_be_read_stays_as_last_read() {
    let host = host();
    stack(&host, "md0", None, &["sda"]);
    stack(&host, "md1", None, &["sdb"]);
    let partition = part(&host, "sdd1");
    announce(&host, &partition, "8:49");
    mount(&host, &[("8:49", "/dev/sdd1")]);
    let exporter = exporter(&host);
    let all = |page: &Page| [uses(page, MPATHA), uses(page, MPATHB)].concat();
    let wanted = ["sdb md", "sdd mount", "sda md"];
    assert_eq!(all(&exporter.metrics()), wanted);
    host.sysfs.remove(&format!("{VIRTUAL}/md0/slaves"));
    host.sysfs.write(&format!("{VIRTUAL}/md0/slaves"), "garbage");
    // The exporter's own mount table shows less.
    host.sysfs.write("proc/self/mountinfo", "");
    host.sysfs.make_unreadable("proc/1/mountinfo");
    let page = exporter.reread();
    assert_eq!(all(&page), wanted);
    assert_errors("slaves", &page);
    host.sysfs.remove(&format!("{VIRTUAL}/md1"));
    assert_eq!(all(&exporter.reread()), ["sdd mount", "sda md"]);
    host.sysfs.remove("proc/1/mountinfo");
    mount(&host, &[]);
    assert_eq!(all(&exporter.reread()), ["sda md"]);
}

#[test]
fn a_large_table_with_names_garbage_and_links_that_lead_nowhere() {
    let host = host();
    let partition = part(&host, "sdb1");
    announce(&host, &partition, "8:17");
    let mut table: Vec<u8> = b"\n - \n29 1 8:17\ngarbage \xff\n36 35 8:x / / rw - ext4 /dev/sdd rw\n".to_vec();
    for number in 0..10_000 {
        table.extend(format!(r"{number} 1 0:{number} / /var/lib/a\040{number} rw - overlay overlay rw").bytes());
        table.push(b'\n');
    }
    // The mount table names the node, with an escaped name.
    table.extend(br"7 1 0:99 / /srv/a\040b\134 rw shared:1 - btrfs /dev/mapper/s\040w\134x20 rw");
    table.push(b'\n');
    host.sysfs.write("proc/1/mountinfo", &table);
    host.sysfs.link("class/block/sdb1", &format!("../../{partition}"));
    stack(&host, "dm-5", Some("LVM-1"), &["sdd"]);
    host.sysfs.write(&format!("{VIRTUAL}/dm-5/dm/name"), "s\\x20w\\x20\n");
    announce(&host, &format!("{VIRTUAL}/dm-5"), "254:5");
    // One link forms a circle, and one has no target.
    stack(&host, "md0", None, &["md1"]);
    stack(&host, "md1", None, &["md0", "md1"]);
    host.sysfs.link(&format!("{VIRTUAL}/md1/slaves/sdx"), "../../../../gone/block/sdx");
    let exporter = exporter(&host);
    let page = exporter.metrics();
    assert_eq!(uses(&page, MPATHA), ["sdd dm"]);
    assert_no_errors(&page);
    // A link to itself is an error of that device only.
    host.sysfs.link(&format!("{VIRTUAL}/md1/slaves/sdy"), "sdy");
    table.extend(b"8 1 8:17 / /data rw - ext4 /dev/disk/by-label/a\\040b rw");
    host.sysfs.write("proc/1/mountinfo", &table);
    let page = exporter.reread();
    assert_eq!(uses(&page, MPATHA), ["sdb mount", "sdd dm"]);
    assert_errors("a link to itself", &page);
}
