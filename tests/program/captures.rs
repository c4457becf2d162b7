//! Captures: a host and its capture give the same page except for names, and no original name is
//! left.
//!
//! The test runs every `tests/fixtures/captures/*.tar.gz` and compares its page with the file
//! beside it. A new file adds a test. `ACCEPT=1 cargo test --test program captures` writes the
//! pages.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use flate2::read::GzDecoder;
use regex::{Captures, Regex};
use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_setfl};
use rustix::io::ioctl_fionread;
use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use super::golden::assert_file;
use super::harness::{
    Exporter, Host, MPATHA, PROGRAM, Page, Reply, Tree, eventually, recorded_reply, run, run_into, settle,
    start_command,
};
use super::storage::{direct, fibre_channel, luns, nvme, root, sas, strays, unassembled};

/// An unpacked capture.
struct Capture(TempDir);

impl Capture {
    /// Captures the host that these options read.
    fn of(options: &[String]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("capture.tar.gz");
        let capture = format!("--capture={}", file.display());
        let finished = run(&[options, &[capture]].concat());
        assert_eq!((finished.status, finished.stdout.as_str()), (Some(0), ""), "{}", finished.stderr);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        Capture::unpacked(&file)
    }

    fn unpacked(file: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let content = fs::File::open(file).unwrap();
        tar::Archive::new(GzDecoder::new(content)).unpack(directory.path()).unwrap();
        Capture(directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn option(&self) -> String {
        format!("--path.capture={}", self.0.path().display())
    }

    /// Everything in the capture: names, targets of links, and contents.
    fn entries(&self) -> Vec<(String, Vec<u8>)> {
        let mut entries = Vec::new();
        let mut open = vec![self.0.path().to_owned()];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let entry = entry.unwrap();
                let (kind, path) = (entry.file_type().unwrap(), entry.path());
                let name = path.strip_prefix(self.0.path()).unwrap().display().to_string();
                if kind.is_dir() {
                    open.push(path);
                    entries.push((name, Vec::new()));
                } else if kind.is_symlink() {
                    entries.push((name, fs::read_link(path).unwrap().into_os_string().into_encoded_bytes()));
                } else {
                    entries.push((name, fs::read(path).unwrap()));
                }
            }
        }
        entries
    }

    /// A short name (`e1`) also occurs in hexadecimal digits. Such a name must not stand by itself.
    #[track_caller]
    fn assert_without(&self, name: &str) {
        let is_part = |character: Option<char>| name.len() < 4 && character.is_some_and(char::is_alphanumeric);
        for (place, content) in self.entries().into_iter().filter(|(place, _)| place != "README") {
            let text = format!("{place}\n{}", String::from_utf8_lossy(&content)).to_lowercase();
            let left = text.match_indices(&name.to_lowercase()).any(|(at, name)| {
                !is_part(text[..at].chars().next_back()) && !is_part(text[at + name.len()..].chars().next())
            });
            assert!(!left, "{name} is left in {place}: {text}");
        }
    }
}

#[track_caller]
fn oneshot(options: &[String]) -> String {
    let finished = run(&[options, &["--oneshot".to_owned()]].concat());
    assert_eq!(finished.status, Some(0), "{}", finished.stderr);
    settle(&finished.stdout)
}

/// The options of a host that select what to read, not where.
fn collectors(options: &[String]) -> Vec<String> {
    options.iter().filter(|option| option.contains("collector")).cloned().collect()
}

/// Labels whose values may be names or addresses that belong to the host's owner.
const NAMES: [&str; 6] = ["wwid", "name", "uuid", "target", "target_port", "initiator_port"];

/// Sorts the lines independently of the names: by what each name's lines say and by the names
/// beside it. New names of different forms may sort differently from the old ones.
fn ordered<'a>(page: &'a str, label: &Regex) -> Vec<&'a str> {
    let mut told = BTreeMap::<&str, u64>::new();
    let by_told = |line: &str, told: &BTreeMap<&str, u64>| {
        let known = |label: &Captures| {
            if NAMES.contains(&&label[1]) {
                format!("{}={:?}", &label[1], told.get(&label[2]))
            } else {
                label[0].to_owned()
            }
        };
        label.replace_all(line, known).into_owned()
    };
    for _ in 0..4 {
        let mut next = BTreeMap::<&str, Vec<String>>::new();
        for line in page.lines() {
            for label in label.captures_iter(line).map(|label| label.extract::<2>().1) {
                // The name itself is marked among the other names of the line.
                let marked = format!("{} {}", label[0], by_told(line, &told));
                next.entry(label[1]).or_default().push(marked);
            }
        }
        let hash = |mut lines: Vec<String>| {
            lines.sort();
            let mut hasher = DefaultHasher::new();
            lines.hash(&mut hasher);
            hasher.finish()
        };
        told = next.into_iter().map(|(name, lines)| (name, hash(lines))).collect();
    }
    let mut lines: Vec<_> = page.lines().collect();
    lines.sort_by_cached_key(|line| by_told(line, &told));
    lines
}

/// Checks that the pages are the same except for names, and that each name has one replacement.
/// Returns the replacements.
#[track_caller]
fn assert_same_but_for_names(page: &str, replayed: &str) -> BTreeMap<String, String> {
    let label = Regex::new(r#"([a-z_]+)="((?:[^"\\]|\\.)*)""#).unwrap();
    let (mut there, mut back) = (BTreeMap::new(), BTreeMap::new());
    let (lines, new_lines) = (ordered(page, &label), ordered(replayed, &label));
    for (line, new_line) in lines.iter().zip(&new_lines) {
        let bare = |line| label.replace_all(line, "$1").into_owned();
        assert_eq!(bare(line), bare(new_line), "{line}\n{new_line}");
        for (old, new) in label.captures_iter(line).zip(label.captures_iter(new_line)) {
            let (key, old, new) = (&old[1], old[2].to_owned(), new[2].to_owned());
            if !NAMES.contains(&key) {
                assert_eq!(old, new, "{key}: {line}\n{new_line}");
            }
            let known = there.entry(old.clone()).or_insert_with(|| new.clone());
            assert_eq!(*known, new, "{old} has two: {line}\n{new_line}");
            let known = back.entry(new.clone()).or_insert_with(|| old.clone());
            assert_eq!(*known, old, "{new} stands for two: {line}\n{new_line}");
        }
    }
    assert_eq!(lines.len(), new_lines.len());
    there.into_iter().filter(|(old, new)| old != new).collect()
}

/// Captures the host that these options read. Checks that its page is the same except for names,
/// and that no original name is left. Returns the capture and the names.
#[track_caller]
fn assert_captured(options: &[String]) -> (Capture, BTreeMap<String, String>) {
    let page = oneshot(options);
    let capture = Capture::of(options);
    let replay = [collectors(options), vec![capture.option()]].concat();
    let names = assert_same_but_for_names(&page, &oneshot(&replay));
    names.keys().for_each(|name| capture.assert_without(name));
    (capture, names)
}

/// The options that read everything of a host.
fn all_of(host: &Host) -> Vec<String> {
    let mut options: Vec<_> = host.options().into_iter().filter(|option| option != "--no-collector.nvme").collect();
    options.push(format!("--path.procfs={}", host.sysfs.path("proc").display()));
    options
}

#[test]
fn the_recorded_host_in_each_state() {
    for state in ["01-healthy", "02-net1-lost", "03-both-lost", "04-back"] {
        let host = Host::recorded(state);
        let (capture, names) = assert_captured(&all_of(&host));
        for name in [MPATHA, "mpatha", "uuid.6ba2c62e-71c1-41c8-b9f6-d2e788c59000", "iqn.2024-01.org.example:array1"] {
            assert!(names.contains_key(name), "{name} stays: {names:?}");
        }
        for name in [&MPATHA[1..], "10.10.1.1", "10.10.2.1", "org.example", "6ba2c62e"] {
            capture.assert_without(name);
        }
        // The replacement has the same form.
        assert!(names[MPATHA].starts_with("36") && names[MPATHA].len() == MPATHA.len(), "{names:?}");
        assert!(names["iqn.2024-01.org.example:array1"].starts_with("iqn.2024-01."), "{names:?}");
        assert_eq!(names["10.10.1.2:3260"].split_once(':').unwrap().1, "3260");
    }
}

#[test]
fn fibre_channel_ports() {
    let (_, names) = assert_captured(&all_of(&fibre_channel::fabric()));
    let ports = names.keys().filter(|name| name.starts_with("0x")).count();
    assert_eq!(ports, 5, "{names:?}");
}

#[test]
fn the_numbers_of_luns_stay() {
    let (capture, _) = assert_captured(&all_of(&luns::several_luns()));
    let page = oneshot(&[capture.option()]);
    assert!(page.contains("hctl=\"6:0:1:4611967493404098560\""), "{page}");
    let value =
        |metric| Page::new(&page).of_metric(metric).iter().map(|(_, value)| (*value).to_owned()).collect::<Vec<_>>();
    assert_eq!(value("multipath_device_lun_mismatched_paths"), ["2"]);
    assert_eq!(value("multipath_device_lun_conflicts"), ["1"]);
}

#[test]
fn sas_addresses() {
    let (_, names) = assert_captured(&all_of(&sas::shelf_of_a_driver_that_tells()));
    assert_eq!(names.keys().filter(|name| name.starts_with("0x")).count(), 5, "{names:?}");
}

#[test]
fn interfaces_below_the_one_that_a_session_leaves_by() {
    let host = Host::recorded("01-healthy");
    let tree = &host.sysfs;
    let (device, driver) = ("devices/pci0000:00/0000:01:00.0", "bus/pci/drivers/mlx5_core");
    tree.write(&format!("{driver}/bind"), "");
    tree.link(&format!("{device}/driver"), &format!("../../../{driver}"));
    for (name, place) in [
        ("e1", "devices/virtual/net/e1"),
        ("acme-ledger", "devices/pci0000:00/0000:01:00.0/net/acme-ledger"),
        ("vnet0", "devices/virtual/net/vnet0"),
    ] {
        tree.write(&format!("{place}/operstate"), "up\n");
        tree.write(&format!("{place}/address"), "52:54:00:aa:bb:cc\n");
        tree.link(&format!("class/net/{name}"), &format!("../../{place}"));
    }
    tree.write("devices/virtual/net/vnet0/tun_flags", "0x1002\n");
    tree.link(&format!("{device}/net/acme-ledger/device"), "../../../0000:01:00.0");
    tree.link("devices/virtual/net/e1/lower_acme-ledger", &format!("../../../../{device}/net/acme-ledger"));
    tree.link("devices/virtual/net/e1/lower_vnet0", "../vnet0");
    tree.link("devices/virtual/net/e1/upper_acme-vlan", "../acme-vlan");
    let (capture, _) = assert_captured(&all_of(&host));
    ["ledger", "vlan", "52:54:00"].iter().for_each(|name| capture.assert_without(name));
    let entries = capture.entries();
    let text = |content: &[u8]| String::from_utf8_lossy(content).into_owned();
    let below: Vec<_> =
        entries.iter().filter_map(|(name, to)| Some((name.split_once("/lower_")?.1, text(to)))).collect();
    assert!(below.len() == 2 && below.iter().all(|(name, to)| to.ends_with(&format!("/{name}"))), "{below:?}");
    let ports: Vec<_> = entries.iter().filter(|(name, _)| name.ends_with("/operstate")).collect();
    let [(port, state)] = ports.as_slice() else { panic!("{ports:?}") };
    assert_eq!((port.starts_with(&format!("sys/{device}/net/")), &**state), (true, &b"up\n"[..]), "{port}");
    assert!(fs::read_link(capture.path(&format!("sys/{device}/driver"))).unwrap().ends_with("mlx5_core"));
}

#[test]
fn offload_adapters() {
    let host = Host::recorded("02-net1-lost");
    for number in ["6", "7"] {
        host.sysfs.remove(&format!("devices/platform/host{number}/iscsi_host/host{number}/netdev"));
    }
    // The session over the first adapter is down.
    host.sysfs.write("devices/platform/host6/iscsi_host/host6/ipaddress", "192.0.2.251\n");
    host.sysfs.remove("devices/platform/host7/iscsi_host/host7/ipaddress");
    let address = "2001:0db8:0000:0000:0000:0000:0000:0252\n";
    host.sysfs.write("class/iscsi_iface/ipv4-iface-7-0/ipaddress", address);
    host.sysfs.write("devices/platform/host6/session1/iscsi_session/session1/target_state", "UNBOUND\n");
    let (capture, names) = assert_captured(&all_of(&host));
    for address in ["192.0.2.251", "2001:db8::252"] {
        assert!(names.contains_key(address), "{names:?}");
    }
    let entries = capture.entries();
    let state = entries.iter().find(|(name, _)| name.ends_with("/target_state")).map(|(_, text)| &**text);
    assert_eq!(state, Some(&b"UNBOUND\n"[..]));
}

#[test]
fn disks_never_assembled() {
    let (_, names) = assert_captured(&all_of(&unassembled::unassembled()));
    assert!(!names.is_empty());
}

#[test]
fn disks_used_directly() {
    let host = Host::recorded("01-healthy");
    host.sysfs.write("proc/1/mountinfo", "29 1 254:6 / /acme rw - bcachefs /dev/mapper/acmevolume:/dev/sda rw\n");
    direct::stack(&host, "dm-5", Some("LVM-4711"), &["sdb1"]);
    direct::stack(&host, "dm-6", Some("LVM-4712"), &["sdd"]);
    direct::announce(&host, "devices/virtual/block/dm-6", "254:6");
    direct::announce(&host, &direct::place("sda"), "8:0");
    host.sysfs.write("devices/virtual/block/dm-6/dm/name", "acmevolume\n");
    direct::stack(&host, "md_acmeledger", None, &["sda"]);
    direct::stack(&host, "bcache3", None, &["sdc1", "md_acmeledger"]);
    direct::stack(&host, "acmedisk!acmedisk7", None, &["md_acmeledger"]);
    let (capture, _) = assert_captured(&all_of(&host));
    ["acmeledger", "acmedisk", "acmevolume"].iter().for_each(|name| capture.assert_without(name));
    let page = oneshot(&[capture.option()]);
    for user in [
        "disk=\"sda\",by=\"mount\"",
        "disk=\"sda\",by=\"md\"",
        "disk=\"sdb\",by=\"dm\"",
        "disk=\"sdc\",by=\"bcache\"",
        "disk=\"sdd\",by=\"dm\"",
    ] {
        assert!(page.contains(user), "{page}");
    }
}

#[test]
fn disks_beside_their_maps_and_what_holds_others() {
    // multipathd's recorded reply has the path.
    let all_of = |host: &Host| [all_of(host), vec!["--no-collector.multipathd".to_owned()]].concat();
    let host = strays::beside();
    for (mark, is_stray) in [("1", true), ("0", false)] {
        host.sysfs.udev("8:48", &format!("ID_SERIAL={MPATHA}\nE:DM_MULTIPATH_DEVICE_PATH={mark}"));
        assert_eq!(oneshot(&all_of(&host)).contains("multipath_device_stray_paths{"), is_stray, "{mark}");
        assert_captured(&all_of(&host));
    }

    let host = unassembled::unassembled();
    host.sysfs.write("devices/virtual/block/VxDMP3/size", "131072\n");
    host.sysfs.link("block/VxDMP3", "../devices/virtual/block/VxDMP3");
    assert!(!oneshot(&all_of(&host)).contains("multipath_unassembled_paths{"));
    assert_captured(&all_of(&host));
    host.sysfs.write("devices/virtual/block/VxDMP3/slaves/sdx/x", "");
    assert!(oneshot(&all_of(&host)).contains("multipath_unassembled_paths{"));
    assert_captured(&all_of(&host));
}

#[test]
fn devices_stay_in_order_whatever_their_names_are_like() {
    let host = Host::bare();
    let wwids = ["18", "1a", "2f", "a0", "ab"].map(|unit| format!("IBM.750000000DXF11.1000.{unit}"));
    let others = ["1ATA_HARDDISK_QM00001", "1QEMU_QM1", "eui.0025388b710116a1", "eui.00000000000000000025388b710116a1"]
        .map(str::to_owned);
    for (minor, wwid) in (0..).zip(wwids.into_iter().chain(others)) {
        host.sysfs.add_map(minor, format!("disk{minor}"), format!("mpath-{wwid}"), &[]);
    }
    let (_, names) = assert_captured(&all_of(&host));
    assert_eq!(names.keys().filter(|name| name.starts_with("mpath-")).count(), 9, "{names:?}");
}

#[test]
fn devices_of_names_of_different_forms_may_come_in_another_order() {
    let host = Host::bare();
    for (minor, word) in (0..).zip(["bzz01", "bbbb0001", "czz01", "cccc0001", "dzz01", "dddd0001", "ezz01", "eeee0001"])
    {
        host.sysfs.add_map(minor, word, format!("mpath-{word}"), &[]);
    }
    let (_, names) = assert_captured(&all_of(&host));
    assert!(names["eeee0001"].starts_with('e'), "{names:?}");
}

#[test]
fn the_root_by_its_number_and_by_its_name() {
    let by_number = ("254:2", "/dev/mapper/vg-root");
    for (devno, source) in [by_number, ("0:25", "/dev/mapper/vg-root"), ("0:25", "/dev/dm-2")] {
        let host = Host::recorded("01-healthy");
        root::add_volume(&host);
        host.sysfs.write("devices/virtual/block/dm-2/dm/name", "vg-root\n");
        host.sysfs.link("class/block/dm-2", "../../devices/virtual/block/dm-2");
        root::mount(&host, devno, source);
        let (capture, _) = assert_captured(&all_of(&host));
        assert_eq!(oneshot(&[capture.option()]).matches("multipath_device_root{").count(), 4);
        assert!(
            oneshot(&[capture.option()])
                .lines()
                .any(|line| line.starts_with("multipath_device_root{") && line.ends_with(" 1"))
        );
        capture.assert_without("vg-root");
        // A capture shows only the device number of a mount elsewhere.
        let mounts = fs::read_to_string(capture.path("proc/1/mountinfo")).unwrap();
        assert_eq!(mounts.lines().skip(1).collect::<Vec<_>>(), ["1 0 254:9 / none rw - none none rw"]);
    }
}

#[test]
fn a_local_disk_and_its_nqn() {
    let host = nvme::local_disk(2);
    host.sysfs.write("devices/virtual/nvme-subsystem/nvme-subsys7/model", "KCM61VUL3T20      \n");
    host.sysfs.udev("259:0", "ID_SERIAL=KCM61VUL3T20_Y1A0A0EEFM18");
    let (capture, _) = assert_captured(&all_of(&host));
    assert!(oneshot(&[capture.option()]).contains("\"KCM61VUL3T20\""));
    capture.assert_without("Y1A0A0EEFM18");
}

#[test]
fn an_nvme_subsystem_with_a_path_that_has_no_head() {
    let host = Host::recorded("01-healthy");
    let (controller, subsystem) = (format!("{}/nvme0", nvme::CONTROLLERS), nvme::SUBSYSTEM);
    for (file, content) in [
        (format!("{controller}/nvme0c0n3/ana_state"), "inaccessible"),
        (format!("{controller}/nvme0c0n1/diag/command_error_count"), "7"),
        (format!("{controller}/diag/reset_count"), "3"),
        (format!("{controller}/fast_io_fail_tmo"), "15"),
        (format!("{subsystem}/nvme0n1/delayed_removal_secs"), "30"),
        (format!("{subsystem}/iopolicy"), "queue-depth"),
    ] {
        host.sysfs.write(&file, format!("{content}\n"));
    }
    let (capture, _) = assert_captured(&all_of(&host));
    let page = oneshot(&[capture.option()]);
    for part in [
        "iopolicy=\"queue-depth\"} 1\n",
        "ctrl_loss_tmo=\"600\",fast_io_fail_tmo=\"15\",reconnect_delay=\"2\"} 1\n",
        "path=\"nvme0c0n1\"} 7\n",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let unreachable = page.lines().find(|line| line.starts_with("multipath_nvme_unreachable_namespaces{"));
    assert!(unreachable.is_some_and(|line| line.ends_with("} 1")), "{unreachable:?}");
    capture.assert_without("nvmearray1");
}

#[test]
fn a_host_with_nothing() {
    let host = Host::bare();
    let (_, names) = assert_captured(&all_of(&host));
    assert_eq!(names, BTreeMap::new());
}

#[test]
fn what_cannot_be_read_cannot_be_read_again() {
    let host = Host::recorded("01-healthy");
    let session = "devices/platform/host6/session1";
    for file in ["target6:0:0/6:0:0:1/wwid", "target6:0:0/6:0:0:2/block/sdb/size", "iscsi_session/session1/targetname"]
    {
        host.sysfs.make_unreadable(&format!("{session}/{file}"));
    }
    host.sysfs.remove("class/nvme-subsystem");
    host.sysfs.write("class/nvme-subsystem", "");
    let page = oneshot(&all_of(&host));
    assert!(page.contains("multipath_exporter_errors_total{source=\"sysfs\"} 5\n"), "{page}");
    let (capture, _) = assert_captured(&all_of(&host));
    let unread = fs::read_to_string(capture.path("unread.txt")).unwrap();
    assert!(unread.contains("6:0:0:1/wwid: Is a directory"), "{unread}");
    assert_eq!(unread.lines().count(), 4, "{unread}");
}

#[test]
fn a_daemon_that_refuses_or_is_down() {
    let host = Host::recorded("01-healthy");
    host.multipathd.maps(Reply::Text("fail\n".to_owned()));
    assert_captured(&all_of(&host));
    let mut options = all_of(&host);
    options.retain(|option| !option.starts_with("--multipathd.socket"));
    options.push("--multipathd.socket=/nonexistent".to_owned());
    let (capture, _) = assert_captured(&options);
    assert!(!capture.path("multipathd").exists());
}

/// The lab captures hosts whose maps device mapper reports. Here the test writes that part of a
/// capture by hand.
#[test]
fn device_mapper_and_names_that_nobody_should_give() {
    let host = Host::recorded("02-net1-lost");
    let capture = Capture::of(&all_of(&host));
    let uuids: Vec<_> = ["dm-0", "dm-1"]
        .map(|map| fs::read_to_string(capture.path(&format!("sys/devices/virtual/block/{map}/dm/uuid"))).unwrap())
        .to_vec();
    let map = |minor: usize, name: &str, members: [&str; 2]| {
        serde_json::json!({
            "devno": format!("254:{minor}"), "event_nr": 7, "name": name, "uuid": uuids[minor].trim_end(),
            "open_count": 3, "sectors": 131_072, "suspended": minor == 1,
            "status": format!("2 0 0 0 1 1 A 0 2 2 {} A 0 0 1 {} F 1 0 1 ", members[0], members[1]),
            "table": format!("1 queue_if_no_path 0 1 1 service-time 0 2 2 {} 1 1 {} 1 1 ", members[0], members[1]),
        })
    };
    let broken = serde_json::json!({"devno": "254:9", "error": "Input/output error"});
    let mut kernel: serde_json::Value =
        serde_json::from_slice(&fs::read(capture.path("kernel.json")).unwrap()).unwrap();
    kernel["device_mapper"] = serde_json::json!({"maps": [
        map(0, "Kunde\\x20\\xc3\\xa9t\\xc3\\xa9_42", ["8:16", "8:48"]), map(1, "db\\x22x", ["8:0", "8:32"]), broken,
    ]});
    // Older captures do not have this count.
    kernel["device_mapper"]["maps"][1]["closed_partitions"] = 3.into();
    fs::write(capture.path("kernel.json"), kernel.to_string()).unwrap();
    let daemon = fs::read_to_string(capture.path("multipathd/show-maps.json")).unwrap();
    let name = Regex::new(r#""name" : "[a-z]+""#).unwrap();
    let daemon = name.replacen(&daemon, 1, "\"name\" : \"Kunde été_42\"");
    fs::write(capture.path("multipathd/show-maps.json"), daemon.as_bytes()).unwrap();

    fs::write(capture.path("sys/devices/virtual/block/dm-0/dm/name"), "Kunde\\x20\\xc3\\xa9t\\xc3\\xa9_42\n").unwrap();

    let options = [capture.option()];
    let page = oneshot(&options);
    for (uuid, in_use) in uuids.iter().zip([1, 0]) {
        let wwid = uuid.trim_end().trim_start_matches("mpath-");
        assert!(page.contains(&format!("multipath_device_in_use{{wwid=\"{wwid}\"}} {in_use}\n")), "{page}");
    }
    assert!(page.contains("name=\"Kunde été_42\"") && page.contains("name=\"db\\\"x\""), "{page}");
    assert!(page.contains("multipath_exporter_errors_total{source=\"dm\"} 1\n"), "{page}");
    assert!(page.contains("multipath_failed_paths 4\n"), "{page}");
    let again = Capture::of(&options);
    let names = assert_same_but_for_names(&page, &oneshot(&[again.option()]));
    let is_like = |new: &str| Regex::new("^[A-Z][a-z]{4} [Ā-ǿ][a-z][Ā-ǿ]_[0-9]{2}$").unwrap().is_match(new);
    assert!(is_like(&names["Kunde été_42"]), "{names:?}");
    // The other sources use the same replacement for it.
    let without = |capture: &Capture| oneshot(&["--no-collector.dm".to_owned(), capture.option()]);
    let names_without = assert_same_but_for_names(&without(&capture), &without(&again));
    assert_eq!(names_without["Kunde été_42"], names["Kunde été_42"]);
    let daemon = fs::read_to_string(again.path("multipathd/show-maps.json")).unwrap();
    assert!(daemon.contains(&format!("\"name\" : \"{}\"", names["Kunde été_42"])), "{daemon}");
    ["Kunde", "été"].into_iter().for_each(|name| again.assert_without(name));
}

#[test]
fn a_running_exporter_shows_a_capture() {
    let host = Host::recorded("02-net1-lost");
    let capture = Capture::of(&all_of(&host));
    let exporter =
        Exporter::start(&[capture.option(), "--reread.interval=1s".to_owned(), "--resync.interval=1s".to_owned()]);
    exporter.await_ready();
    // Every kind of reading runs. None shows the devices of this machine.
    let page = exporter.await_values(&[("multipath_exporter_resyncs_total{reason=\"timer\"}", 3.0)]);
    assert_eq!(page.value("multipath_failed_paths"), Some(4.0));
    assert_eq!(page.value("multipath_exporter_resync_corrections_total"), Some(0.0));
    assert!(!page.text().contains("source=\"uevent\""), "{}", page.text());
}

const ALIAS: &str = "devices/virtual/block/dm-0/dm/name";
const MODEL: &str = "devices/platform/host6/session1/target6:0:0/6:0:0:1/model";
const NETDEV: &str = "devices/platform/host6/iscsi_host/host6/netdev";

#[test]
fn a_model_that_holds_a_name_is_replaced() {
    let wwid = format!("DISK {MPATHA}");
    for (alias, serial, model, name) in [
        ("mpatha", "", wwid.as_str(), &MPATHA[1..]),
        ("ledger", "", "LEDGER", "ledger"),
        ("mpatha", "QEMU_DISK_QM00001", "DISK QM00001", "qm00001"),
        ("active", "DISK_QM00001_QM00001", "DISK QM00001", "qm00001"),
        ("powerstore", "", "PowerStore", "powerstore"),
    ] {
        let host = Host::recorded("01-healthy");
        host.sysfs.write(ALIAS, format!("{alias}\n"));
        host.sysfs.udev("8:0", &format!("ID_SERIAL={serial}"));
        host.sysfs.write(MODEL, format!("{model}\n"));
        let reply = recorded_reply("01-healthy").replace("\"VDISK\"", &format!("\"{model}\""));
        host.multipathd.maps(Reply::Text(reply));
        let capture = Capture::of(&all_of(&host));
        capture.assert_without(name);
        let new = fs::read_to_string(capture.path("sys").join(MODEL)).unwrap();
        let reply = fs::read_to_string(capture.path("multipathd/show-maps.json")).unwrap();
        assert!(reply.contains(&format!("\"prod\" : \"{}\"", new.trim())), "{new}: {reply}");
    }
}

#[test]
fn a_model_that_only_resembles_a_name_stays() {
    let host = Host::recorded("01-healthy");
    host.sysfs.write(ALIAS, "hsv300_vol1\n");
    host.sysfs.write(
        "devices/platform/host6/session1/iscsi_session/session1/targetname",
        "iqn.2000-05.com.3pardata:20220002ac00a3e5\n",
    );
    host.sysfs.write(MODEL, "HSV300\n");
    host.sysfs.write(&MODEL.replace("/model", "/vendor"), "3PARdata\n");
    let capture = Capture::of(&all_of(&host));
    assert_eq!(fs::read_to_string(capture.path("sys").join(MODEL)).unwrap(), "HSV300\n");
    ["hsv300_vol1", "20220002ac00a3e5", "com.3pardata"].into_iter().for_each(|name| capture.assert_without(name));
}

/// A final search finds names that no rule recognises.
#[test]
fn a_name_in_what_stays_is_not_given_away() {
    let host = Host::recorded("01-healthy");
    host.sysfs.write(ALIAS, "ledger\n");
    let state = "devices/platform/host6/session1/target6:0:0/6:0:0:1/state";
    host.sysfs.write(state, "ledger\n");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("capture.tar.gz");
    let finished = run(&[all_of(&host), vec![format!("--capture={}", file.display())]].concat());
    assert_eq!(finished.status, Some(1), "{}", finished.stderr);
    let line = finished.stderr.lines().last().unwrap();
    assert!(line.contains(state) && line.contains("\"ledger\""), "{line}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn names_in_the_places_of_the_kernel_s() {
    let host = Host::recorded("01-healthy");
    host.sysfs.write(ALIAS, "\\x6c\\x65\\x64\\x67\\x65\\x72\n");
    host.multipathd.maps(Reply::Text(recorded_reply("01-healthy").replace("\"mpatha\"", "\"ledger\"")));
    host.sysfs.write(NETDEV, "acmebank-san\n");
    host.sysfs.link("block/pxd!pxd857203948573920485", "../devices/virtual/block/pxd!pxd857203948573920485");
    host.sysfs.write("devices/virtual/block/pxd!pxd857203948573920485/size", "8\n");
    root::mount(&host, "0:25", "/dev/acmeledger");
    let (capture, names) = assert_captured(&all_of(&host));
    assert!(names.contains_key("ledger") && names.contains_key("acmebank-san"), "{names:?}");
    for name in ["ledger", "\\x6c\\x65\\x64", "acmebank", "857203948573920485"] {
        capture.assert_without(name);
    }
}

#[test]
fn a_capture_of_a_capture_does_not_say_where_that_was() {
    let capture = Capture::of(&all_of(&Host::recorded("01-healthy")));
    let again = Capture::of(&[capture.option()]);
    let kernel = fs::read_to_string(again.path("kernel.json")).unwrap();
    assert!(kernel.contains("device mapper was not captured"), "{kernel}");
    again.assert_without(&capture.0.path().display().to_string());
}

#[test]
fn names_that_every_capture_has_words_for() {
    for name in ["kernel", "json", "txt", "unread", "multipathd", "sda", "disk"] {
        let host = Host::recorded("01-healthy");
        host.sysfs.write(ALIAS, format!("{name}\n"));
        let capture = Capture::of(&all_of(&host));
        let alias = fs::read_to_string(capture.path("sys").join(ALIAS)).unwrap();
        assert!(alias.trim() != name && alias.trim().len() == name.len(), "{alias}");
    }
}

#[test]
fn a_capture_that_leads_elsewhere_is_not_run() {
    let whole = Capture::of(&all_of(&Host::recorded("01-healthy")));
    oneshot(&[whole.option()]);
    type Change = fn(&Path);
    let changes: [(Change, &str); 6] = [
        (|root| symlink("/etc", root.join("sys/block/sdx")).unwrap(), "sys/block/sdx: the link leads out"),
        (|root| symlink("../../../etc", root.join("sys/block/sdx")).unwrap(), "sys/block/sdx: the link leads out"),
        (
            |root| {
                fs::remove_file(root.join("kernel.json")).unwrap();
                symlink("/dev/zero", root.join("kernel.json")).unwrap();
            },
            "kernel.json: the link leads out",
        ),
        (
            |root| rustix::fs::mknodat(CWD, root.join("sys/f"), FileType::Fifo, Mode::from(0o600), 0).unwrap(),
            "sys/f: expected a file",
        ),
        (
            |root| fs::File::create(root.join("multipathd/show-maps.json")).unwrap().set_len((64 << 20) + 1).unwrap(),
            "show-maps.json: with this file",
        ),
        (
            |root| {
                for name in ["b8:0", "b8:16"] {
                    fs::create_dir_all(root.join("udev/data")).unwrap();
                    fs::File::create(root.join("udev/data").join(name)).unwrap().set_len(33 << 20).unwrap();
                }
            },
            "the limit is 67108864",
        ),
    ];
    for (change, words) in changes {
        let capture = Capture::of(&[whole.option()]);
        change(capture.0.path());
        let finished = run(&[capture.option(), "--oneshot".to_owned()]);
        assert_eq!((finished.status, finished.stdout.as_str()), (Some(2), ""), "{}", finished.stderr);
        assert!(finished.stderr.contains(words), "{words}: {}", finished.stderr);
    }
}

#[test]
fn a_place_that_cannot_be_written_is_noticed_before_anything_is_read() {
    let host = Host::recorded("01-healthy");
    host.sysfs.remove(ALIAS);
    // The reader of this file blocks.
    host.sysfs.fifo(ALIAS);
    let finished = run(&[all_of(&host), vec!["--capture=/nonexistent/file".to_owned()]].concat());
    assert_eq!(finished.status, Some(2), "{}", finished.stderr);
}

/// The program as a terminal starts it. A shell starts background jobs with SIGINT ignored.
fn interruptible() -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal=INT,HUP,TERM", PROGRAM]).stdin(Stdio::null());
    command
}

#[test]
fn who_is_stopped_leaves_nothing_behind() {
    let host = Host::recorded("01-healthy");
    host.sysfs.remove(ALIAS);
    // The reader of this file blocks.
    host.sysfs.fifo(ALIAS);
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let directory = tempfile::tempdir().unwrap();
        let files = || fs::read_dir(directory.path()).unwrap().count();
        let capture = format!("--capture={}", directory.path().join("capture.tar.gz").display());
        let mut command = interruptible();
        command.args(all_of(&host)).arg(capture);
        let (pid, finished) = start_command(command);
        eventually("the file is begun", || (files() == 1).then_some(()));
        kill_process(pid, signal).unwrap();
        let finished = finished();
        assert_eq!(finished.status, Some(1), "{}", finished.stderr);
        assert!(finished.stderr.lines().last().unwrap().contains("stopped by a signal"), "{}", finished.stderr);
        assert_eq!(files(), 0);
    }
}

/// A host whose capture is larger than a memory page.
fn large() -> Host {
    let host = Host::bare();
    (0..70).for_each(|map| host.sysfs.add_map(map, format!("disk{map}"), format!("mpath-36{map:031x}"), &[]));
    host
}

/// The room in a narrow pipe: a memory page.
const ROOM: usize = 4096;

/// A pipe with less room than a capture needs, and the number of bytes in it. A write that does not
/// fit into the rest of the page waits, so the page need not become full.
fn narrow_pipe() -> (PipeReader, PipeWriter, u64) {
    let (mut reader, mut writer) = io::pipe().unwrap();
    fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    while writer.write(&[0; ROOM]).is_ok() {}
    fcntl_setfl(&writer, OFlags::empty()).unwrap();
    reader.read_exact(&mut [0; ROOM]).unwrap();
    let size = ioctl_fionread(&reader).unwrap();
    (reader, writer, size)
}

#[test]
fn who_waits_for_a_reader_can_be_stopped() {
    let host = large();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let (reader, writer, size) = narrow_pipe();
        let mut command = interruptible();
        command.args(all_of(&host)).arg("--capture=-").stdout(writer);
        let (pid, finished) = start_command(command);
        eventually("the capture is begun", || (ioctl_fionread(&reader).unwrap() > size).then_some(()));
        kill_process(pid, signal).unwrap();
        let finished = finished();
        assert_eq!(finished.status, Some(1), "{}", finished.stderr);
        assert!(finished.stderr.lines().last().unwrap().contains("stopped by a signal"), "{}", finished.stderr);
    }
}

#[test]
fn nohup_keeps_a_hangup_away() {
    let host = large();
    let (mut reader, writer, size) = narrow_pipe();
    let mut command = Command::new("nohup");
    command.arg(PROGRAM).args(all_of(&host)).arg("--capture=-").stdin(Stdio::null()).stdout(writer);
    let (pid, finished) = start_command(command);
    eventually("the capture is begun", || (ioctl_fionread(&reader).unwrap() > size).then_some(()));
    kill_process(pid, Signal::HUP).unwrap();
    // A hangup that is not ignored ends the program within this time.
    sleep(Duration::from_millis(300));
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    let finished = finished();
    assert_eq!(finished.status, Some(0), "{}", finished.stderr);
    assert!(all.len() > size as usize + ROOM, "the capture fits into the pipe, so nothing waited");
}

#[test]
fn two_captures_of_a_host_have_no_name_in_common() {
    let host = Host::recorded("01-healthy");
    let names = || {
        let (_, names) = assert_captured(&all_of(&host));
        // Few replacements exist for names of two characters (`e1`).
        names.into_values().filter(|name| name.len() > 2).collect::<BTreeSet<_>>()
    };
    assert!(names().is_disjoint(&names()));
}

#[test]
fn standard_output() {
    let host = Host::recorded("01-healthy");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("capture.tar.gz");
    let stdout = fs::File::create(&file).unwrap();
    let finished = run_into(stdout, &[all_of(&host), vec!["--capture=-".to_owned()]].concat());
    assert_eq!(finished.status, Some(0), "{}", finished.stderr);
    let capture = Capture::unpacked(&file);
    let mut readme = String::new();
    fs::File::open(capture.path("README")).unwrap().read_to_string(&mut readme).unwrap();
    assert!(readme.contains(env!("CARGO_PKG_VERSION")) && readme.contains("--path.capture"), "{readme}");
}

#[test]
fn what_cannot_be_done_is_said_in_one_line() {
    let host = Host::recorded("01-healthy");
    let directory = tempfile::tempdir().unwrap();
    let there = directory.path().join("there");
    fs::write(&there, "mine").unwrap();
    let empty = Tree::empty();
    let option = |name: &str, path: &Path| format!("--{name}={}", path.display());
    let nothing = |name: &str| format!("--{name}=/nonexistent");
    for (options, status, words) in [
        (vec![option("capture", &there)], 2, ["--capture", "exists"]),
        (vec![option("capture", &directory.path().join("none/file"))], 2, ["none/file", "No such file"]),
        (vec![option("path.capture", empty.root())], 2, ["--path.capture", "kernel.json"]),
        (vec![nothing("path.capture"), nothing("path.sysfs")], 2, ["--path.capture", "--path.sysfs"]),
        (vec![option("capture", &there), "--oneshot".to_owned()], 2, ["--capture", "--oneshot"]),
    ] {
        let names_a_place = options.iter().any(|option| option.starts_with("--path.capture"));
        let all = if names_a_place { options } else { [all_of(&host), options].concat() };
        let finished = run(&all);
        assert_eq!((finished.status, finished.stdout.as_str()), (Some(status), ""), "{}", finished.stderr);
        let line = finished.stderr.lines().last().unwrap_or_default();
        assert!(words.iter().all(|word| line.contains(word)), "{words:?}: {}", finished.stderr);
    }
    assert_eq!(fs::read_to_string(&there).unwrap(), "mine");
    let file = option("capture", &directory.path().join("new"));
    let _unlistable = empty.make_unlistable("block");
    let blind = ["path.procfs", "multipathd.socket"].map(nothing);
    let sysfs = option("path.sysfs", empty.root());
    let finished = run(&[&blind[..], &["--no-collector.dm".to_owned(), sysfs, file]].concat());
    assert_eq!(finished.status, Some(1));
    assert_eq!(finished.stderr.matches("source=multipathd").count(), 1, "{}", finished.stderr);
    assert!(
        finished.stderr.lines().last().unwrap().contains("the multipath devices are unknown: no source can be read")
    );
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn those_that_were_donated() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/captures");
    let files = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let captures: Vec<_> = files.filter(|file| file.to_string_lossy().ends_with(".tar.gz")).collect();
    assert!(!captures.is_empty());
    for file in captures {
        let capture = Capture::unpacked(&file);
        let page = oneshot(&[capture.option()]);
        assert_file(&file.with_extension("").with_extension("txt").to_string_lossy(), &page);
        // The capture holds all of its input: another capture of it shows the same.
        assert_captured(&[capture.option()]);
    }
}

/// Gives these maps of the recorded host a device-mapper status that no parser knows.
fn make_status_unknown(capture: &Capture, maps: &[usize]) {
    let file = capture.path("kernel.json");
    let mut kernel: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    for map in maps {
        let status = &mut kernel["device_mapper"]["maps"][map]["status"];
        assert!(status.is_string());
        *status = "two 0 0 0".into();
    }
    fs::write(&file, kernel.to_string()).unwrap();
}

/// The devices of a page with their paths and states.
fn devices(page: &Page) -> Vec<&str> {
    let wanted = ["multipath_device_info{", "multipath_device_valid_paths{", "multipath_path_valid{"];
    page.text().lines().filter(|line| wanted.iter().any(|wanted| line.starts_with(wanted))).collect()
}

#[test]
fn a_map_whose_status_is_not_understood_is_told_by_sysfs_and_multipathd() {
    let capture = Capture::unpacked(Path::new("tests/fixtures/captures/6.1-tgt-iscsi-nvme-tcp.tar.gz"));
    let page = || Page::new(&oneshot(&[capture.option()]));
    let understood = page();
    make_status_unknown(&capture, &[1]);
    let page = page();
    assert_eq!(devices(&page), devices(&understood));
    let errors = "multipath_exporter_errors_total{source=\"dm\"}";
    assert_eq!((understood.value(errors), page.value(errors)), (Some(0.0), Some(1.0)));
    assert_eq!(page.value("multipath_exporter_source_up{source=\"dm\"}"), Some(1.0));
}

#[test]
fn device_mapper_is_down_if_no_status_is_understood() {
    let capture = Capture::unpacked(Path::new("tests/fixtures/captures/6.1-tgt-iscsi-nvme-tcp.tar.gz"));
    let exporter = Exporter::start(&[capture.option()]);
    exporter.await_ready();
    let understood = exporter.metrics();
    make_status_unknown(&capture, &[0, 1]);
    let page = exporter.reread();
    assert_eq!(devices(&page), devices(&understood));
    assert_eq!(page.value("multipath_exporter_source_up{source=\"dm\"}"), Some(0.0));
    assert_eq!(page.value("multipath_exporter_kernel_status"), Some(0.0));
    exporter.await_log(&["device-mapper device 254:0", "two"]);
}
