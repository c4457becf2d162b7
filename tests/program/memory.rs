//! The exporter's memory and its file: restarts, reboots, damage, and kill -9.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{Exporter, Host, MPATHA, MPATHB, PATIENCE, PROGRAM, Page, Tree, eventually, run};
use crate::storage::nvme::{FIRST, NVME, SECOND, local_disk, remove_controller};
use crate::storage::root;

const WRITTEN: &str = "multipath_exporter_memory_last_write_successful";
const IN_TROUBLE: &str = "multipath_in_trouble";
const RECOVERED: &str = "multipath_last_recovery_timestamp_seconds";
const LOST: &str = "multipath_lost_devices";
const SUBSYSTEM: &str = "devices/virtual/nvme-subsystem/nvme-subsys0";

/// The recorded host and a directory for the memory.
struct Remembering {
    host: Host,
    directory: Tree,
}

impl Remembering {
    fn new() -> Self {
        let host = Host::recorded("01-healthy");
        root::mount(&host, "8:99", "/dev/sdz1");
        let remembering = Remembering { host, directory: Tree::empty() };
        remembering.boot("1", 100_000);
        remembering
    }

    /// The host has booted with this `boot_id`, and has been up for this many seconds.
    fn boot(&self, id: &str, uptime: u64) {
        self.host.sysfs.write("proc/sys/kernel/random/boot_id", format!("{id}\n"));
        self.host.sysfs.write("proc/uptime", format!("{uptime}.00 1.00\n"));
    }

    fn file(&self) -> PathBuf {
        self.directory.path("memory.json")
    }

    fn options(&self) -> Vec<String> {
        let procfs = format!("--path.procfs={}", self.host.sysfs.path("proc").display());
        let file = format!("--memory.file={}", self.file().display());
        self.host.options_with(&[&procfs, &file, NVME])
    }

    fn exporter(&self) -> Exporter {
        let exporter = Exporter::start(&self.options());
        exporter.await_ready();
        exporter
    }

    fn image(&self) -> Option<Value> {
        serde_json::from_slice(&fs::read(self.file()).ok()?).ok()
    }

    /// Removes the native NVMe devices, mounted or not.
    fn remove_nvme(&self) {
        for entry in ["class/nvme/nvme0", "class/nvme/nvme1", "class/nvme-subsystem/nvme-subsys0", SUBSYSTEM] {
            self.host.sysfs.remove(entry);
        }
    }
}

/// Stops an exporter in order.
fn stop(mut exporter: Exporter) {
    exporter.signal(Signal::TERM);
    assert_eq!(exporter.wait().code(), Some(0));
}

fn lost(page: &Page) -> Vec<(String, String)> {
    let label = |series: &str, name: &str| {
        let (_, rest) = series.split_once(&format!("{name}=\"")).unwrap();
        rest.split('"').next().unwrap().to_owned()
    };
    let infos = page.of_metric("multipath_lost_device_info");
    infos.into_iter().map(|(series, _)| (label(series, "wwid"), label(series, "reason"))).collect()
}

/// The process that writes the file.
fn keeper(exporter: &Exporter) -> Pid {
    let pid = exporter.pid().as_raw_nonzero();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let [keeper] = children.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{children:?}") };
    Pid::from_raw(keeper.parse().unwrap()).unwrap()
}

/// The kernel keeps the head for that time. No other fact distinguishes it from a local disk that
/// was removed.
#[test]
fn a_native_nvme_device_that_lost_its_controllers_while_nobody_looked_is_still_one() {
    let remembering = Remembering::new();
    stop(remembering.exporter());
    let tree = &remembering.host.sysfs;
    for controller in ["nvme0", "nvme1"] {
        remove_controller(&remembering.host, controller);
    }
    for head in ["nvme0n1", "nvme0n2"] {
        tree.write(&format!("{SUBSYSTEM}/{head}/delayed_removal_secs"), "3600\n");
    }
    let page = remembering.exporter().metrics();
    for wwid in [FIRST, SECOND] {
        let facts = ["paths", "valid_paths", "queueing"].map(|metric| page.device(metric, wwid));
        assert_eq!(facts, [Some(0.0), Some(0.0), Some(1.0)], "{wwid}");
    }
    assert_eq!((page.value(LOST), page.value("multipath_devices_without_valid_paths")), (Some(0.0), Some(2.0)));

    // No exporter has seen them with a controller.
    fs::remove_file(remembering.file()).unwrap();
    assert!(remembering.exporter().metrics().of_device(FIRST).is_empty());
}

/// A disk with two ports has lost one of them. It is still the same disk.
#[test]
fn a_local_disk_that_lost_a_port_while_nobody_looked_is_still_a_device() {
    let remembering = Remembering { host: local_disk(2), directory: Tree::empty() };
    remembering.boot("1", 100_000);
    stop(remembering.exporter());
    for entry in ["class/nvme/nvme1", "devices/virtual/nvme-subsystem/nvme-subsys7/nvme1"] {
        remembering.host.sysfs.remove(entry);
    }
    let page = remembering.exporter().metrics();
    assert_eq!(page.device("paths", "eui.0025385a81b0a001"), Some(1.0));
    assert_eq!(page.value(LOST), Some(0.0));
}

#[test]
fn it_is_written_at_the_start_for_its_owner_alone() {
    let remembering = Remembering::new();
    let exporter = remembering.exporter();
    exporter.await_values(&[(WRITTEN, 1.0)]);
    let image = eventually("the file is written", || remembering.image());
    assert_eq!((&image["version"], &image["boot_id"]), (&Value::from(1), &Value::from("1")));
    assert_eq!(image["devices"].as_object().unwrap().len(), 4);
    assert_eq!(fs::metadata(remembering.file()).unwrap().permissions().mode() & 0o777, 0o600);
    // The machine's own id is confidential.
    let machine = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    assert!(machine.trim().is_empty() || !fs::read_to_string(remembering.file()).unwrap().contains(machine.trim()));
}

#[test]
fn without_a_file_nothing_is_said_of_it() {
    let page = Host::recorded("01-healthy").exporter(&[]).metrics();
    assert_eq!((page.value(WRITTEN), page.value(LOST), page.value(IN_TROUBLE)), (None, Some(0.0), Some(0.0)));
    assert_eq!(page.device("expected_paths", MPATHA), Some(2.0));
    assert_eq!(page.device("missing_paths", MPATHA), Some(0.0));
}

#[test]
fn trouble_and_recovery_outlive_a_restart() {
    let remembering = Remembering::new();
    let exporter = remembering.exporter();
    remembering.host.turn_into("02-net1-lost");
    exporter.reread();
    let page = exporter.await_values(&[(IN_TROUBLE, 1.0)]);
    assert_eq!(page.value(RECOVERED), None);
    stop(exporter);

    // The paths return before the exporter starts again.
    remembering.host.turn_into("01-healthy");
    let exporter = remembering.exporter();
    let recovered = exporter.await_values(&[(IN_TROUBLE, 0.0)]).value(RECOVERED);
    assert!(recovered > Some(0.0));
    exporter.await_log(&["recovered", "level=info"]);
    let events = exporter.get("/api/v1/events").json();
    let [event] = &events["events"].as_array().unwrap()[..] else { panic!("{events}") };
    assert_eq!((&event["type"], &event["wwid"], &event["name"]), (&"recovered".into(), &Value::Null, &Value::Null));
    assert!(exporter.get("/").text().contains("Recovered at "));
    stop(exporter);

    let exporter = remembering.exporter();
    assert_eq!(exporter.metrics().value(RECOVERED), recovered, "it is told once");
    assert_eq!(exporter.get("/api/v1/events").json()["events"].as_array().unwrap().len(), 0);
}

#[test]
fn a_lost_device_stays_lost() {
    let remembering = Remembering::new();
    let head = format!("{SUBSYSTEM}/nvme0n1");
    remembering.host.sysfs.write(&format!("{head}/dev"), "259:7\n");
    remembering.host.sysfs.link("dev/block/259:7", &format!("../../{head}"));
    root::mount(&remembering.host, "259:7", "/dev/nvme0n1");
    let exporter = remembering.exporter();
    assert_eq!(exporter.metrics().device("in_use", FIRST), Some(1.0));
    assert_eq!(exporter.metrics().device("in_use", SECOND), Some(0.0));
    remembering.remove_nvme();
    exporter.reread();
    let page = exporter.await_values(&[(LOST, 1.0), (IN_TROUBLE, 1.0)]);
    assert_eq!(lost(&page), [(FIRST.to_owned(), "in_use".to_owned())]);
    let time =
        page.device("", FIRST).or(page.value(&format!("multipath_lost_device_timestamp_seconds{{wwid=\"{FIRST}\"}}")));
    assert!(time > Some(0.0));
    exporter.await_log(&["device lost", "level=warn", FIRST, "reason=in_use"]);
    let document = exporter.get("/api/v1/devices").json();
    assert_eq!(document["lost_devices"][0]["wwid"], FIRST);
    assert!(exporter.get("/").text().contains("1 device was lost while in use"));
    // The exporter writes a loss immediately.
    eventually("the loss is on disk", || {
        remembering.image().filter(|image| !image["devices"][FIRST]["loss"].is_null())
    });
    drop(exporter);

    let exporter = remembering.exporter();
    assert_eq!(lost(&exporter.metrics()), [(FIRST.to_owned(), "in_use".to_owned())]);
    // The mount still names the device number of the removed head.
    remembering.host.turn_into("01-healthy");
    remembering.host.sysfs.write(&format!("{head}/dev"), "259:9\n");
    exporter.reread();
    exporter.await_values(&[(LOST, 1.0), ("multipath_devices", 4.0)]);
    remembering.host.sysfs.link("dev/block/259:9", &format!("../../{head}"));
    root::mount(&remembering.host, "259:9", "/dev/nvme0n1");
    exporter.reread();
    exporter.await_values(&[(LOST, 0.0), (IN_TROUBLE, 0.0)]);
    exporter.await_log(&["recovered"]);
}

#[test]
fn what_was_in_use_before_a_boot_and_does_not_return_is_lost() {
    let remembering = Remembering::new();
    let head = format!("{SUBSYSTEM}/nvme0n1");
    remembering.host.sysfs.link("dev/block/259:7", &format!("../../{head}"));
    root::mount(&remembering.host, "259:7", "/dev/nvme0n1");
    stop(remembering.exporter());
    remembering.remove_nvme();
    root::mount(&remembering.host, "8:99", "/dev/sdz1");
    remembering.boot("2", 30);
    let exporter = remembering.exporter();
    assert_eq!(exporter.metrics().value(LOST), Some(0.0));
    stop(exporter);
    remembering.boot("2", 640);
    let exporter = remembering.exporter();
    let page = exporter.await_values(&[(LOST, 1.0)]);
    assert_eq!(lost(&page), [(FIRST.to_owned(), "not_back_after_boot".to_owned())]);
    exporter.await_log(&["device lost", "did not come back"]);
}

#[test]
fn missing_paths_are_remembered() {
    let remembering = Remembering::new();
    stop(remembering.exporter());
    // One path of mpatha is gone.
    let slaves = remembering.host.sysfs.path("devices/virtual/block/dm-0/slaves");
    let slave = fs::read_dir(&slaves).unwrap().next().unwrap().unwrap().path();
    let place = fs::read_link(&slave).unwrap();
    fs::remove_file(&slave).unwrap();
    let exporter = remembering.exporter();
    let wwid = [MPATHA, MPATHB].into_iter().find(|wwid| exporter.metrics().device("paths", wwid) == Some(1.0)).unwrap();
    let page = exporter.metrics();
    assert_eq!([page.device("expected_paths", wwid), page.device("missing_paths", wwid)], [Some(2.0), Some(1.0)]);
    assert_eq!((page.value("multipath_missing_paths"), page.value(IN_TROUBLE)), (Some(1.0), Some(1.0)));
    assert!(exporter.get("/").text().contains("1 of 2 paths, 1 missing since "));
    stop(exporter);

    // After a boot, paths arrive one after the other.
    remembering.boot("2", 30);
    let exporter = remembering.exporter();
    assert_eq!(exporter.metrics().device("missing_paths", wwid), Some(0.0));
    stop(exporter);
    remembering.boot("2", 400);
    let exporter = remembering.exporter();
    assert_eq!(exporter.metrics().device("missing_paths", wwid), Some(1.0));

    let file = remembering.directory.path("config.yml");
    fs::write(&file, format!("forget: [{{wwid: '{wwid}', before: 2100-01-01T00:00:00Z}}]\n")).unwrap();
    stop(exporter);
    let mut options = remembering.options();
    options.push(format!("--config.file={}", file.display()));
    let exporter = Exporter::start(&options);
    exporter.await_ready();
    let page = exporter.await_values(&[("multipath_missing_paths", 0.0), (IN_TROUBLE, 0.0)]);
    assert_eq!(page.value(RECOVERED), None, "to forget is no recovery");
    symlink(place, slave).unwrap();
}

#[test]
fn a_file_that_is_of_no_use_is_set_aside() {
    let written = {
        let remembering = Remembering::new();
        let exporter = remembering.exporter();
        exporter.await_values(&[(WRITTEN, 1.0)]);
        eventually("the file is written", || fs::read_to_string(remembering.file()).ok())
    };
    for (content, words) in [
        (String::new(), "the file is damaged"),
        (written[..written.len() / 2].to_owned(), "the file is damaged"),
        (written.replace("\"version\":1", "\"version\":2"), "the file's version is 2"),
        (written.replace("\"machine\":{\"host\":\"", "\"machine\":{\"id\":\"0\",\"host\":\"x"), "the file is damaged"),
    ] {
        let remembering = Remembering::new();
        fs::write(remembering.file(), &content).unwrap();
        let exporter = remembering.exporter();
        let line = exporter.await_log(&["level=warn", words, "memory.json.unusable"]);
        assert_eq!(exporter.log().iter().filter(|line| line.contains("unusable")).count(), 1, "{line}");
        exporter.await_values(&[(WRITTEN, 1.0)]);
        assert_eq!(fs::read_to_string(remembering.directory.path("memory.json.unusable")).unwrap(), content);
        eventually("a new one is written", || remembering.image());
    }
}

#[test]
fn a_directory_in_its_place_is_set_aside_too() {
    let remembering = Remembering::new();
    fs::create_dir(remembering.file()).unwrap();
    let exporter = remembering.exporter();
    exporter.await_log(&["level=warn", "the file cannot be read", "memory.json.unusable"]);
    exporter.await_values(&[(WRITTEN, 1.0)]);
}

#[test]
fn a_file_that_cannot_be_written_is_told_once() {
    let remembering = Remembering::new();
    let file = format!("--memory.file={}", remembering.directory.path("none/memory.json").display());
    let exporter = remembering.host.exporter(&[&file]);
    exporter.await_values(&[(WRITTEN, 0.0), ("multipath_devices", 2.0)]);
    exporter.await_log(&["level=warn", "the memory is not on disk", "No such file"]);
    exporter.reread();
    assert_eq!(exporter.log().iter().filter(|line| line.contains("not on disk")).count(), 1);
    stop(exporter);
}

#[test]
fn a_file_has_one_writer() {
    let remembering = Remembering::new();
    let first = remembering.exporter();
    first.await_values(&[(WRITTEN, 1.0)]);
    let second = remembering.exporter();
    second.await_log(&["level=warn", "another exporter holds the file"]);
    second.await_values(&[(WRITTEN, 0.0), ("multipath_devices", 4.0)]);
    // The second exporter reads what the first one wrote.
    assert_eq!(second.metrics().device("expected_paths", FIRST), Some(2.0));
    let finished = run(&[remembering.options(), vec!["--oneshot".to_owned()]].concat());
    assert!(finished.stdout.contains(&format!("{WRITTEN} 0")), "{}", finished.stderr);
    stop(first);
    drop(second);
    let third = remembering.exporter();
    third.await_values(&[(WRITTEN, 1.0)]);
}

#[test]
fn oneshot_reads_and_writes_it() {
    let remembering = Remembering::new();
    let oneshot = || {
        let finished = run(&[remembering.options(), vec!["--oneshot".to_owned()]].concat());
        assert_eq!(finished.status, Some(0), "{}", finished.stderr);
        Page::new(&finished.stdout)
    };
    assert_eq!(oneshot().value(WRITTEN), Some(1.0));
    remembering.host.turn_into("02-net1-lost");
    assert_eq!(oneshot().value(IN_TROUBLE), Some(1.0));
    remembering.host.turn_into("01-healthy");
    let recovered = oneshot().value(RECOVERED);
    assert!(recovered > Some(0.0));
    assert_eq!(oneshot().value(RECOVERED), recovered);
}

#[test]
fn a_disk_that_hangs_holds_up_neither_scrapes_nor_the_end() {
    let remembering = Remembering::new();
    let mut exporter = remembering.exporter();
    exporter.await_values(&[(WRITTEN, 1.0)]);
    let keeper = keeper(&exporter);
    kill_process(keeper, Signal::STOP).unwrap();
    // The exporter would write a loss immediately.
    let head = format!("{SUBSYSTEM}/nvme0n1");
    remembering.host.sysfs.link("dev/block/259:7", &format!("../../{head}"));
    root::mount(&remembering.host, "259:7", "/dev/nvme0n1");
    exporter.reread();
    remembering.remove_nvme();
    exporter.reread();
    exporter.await_values(&[(LOST, 1.0), (WRITTEN, 0.0)]);
    exporter.await_log(&["level=warn", "the memory is not on disk", "within 5s"]);
    let told = Instant::now();
    exporter.signal(Signal::TERM);
    assert_eq!(exporter.wait().code(), Some(0));
    let took = told.elapsed();
    assert!(took < Duration::from_secs(3), "it took {took:?}");
    kill_process(keeper, Signal::CONT).unwrap();
    // The process writes what it received, and ends by itself.
    eventually("it ends", || (!Path::new(&format!("/proc/{}", keeper.as_raw_nonzero())).exists()).then_some(()));
    assert!(!remembering.image().unwrap()["devices"][FIRST]["loss"].is_null());
}

/// The number of times that the test kills the exporter while it writes. `KILLS=1000 cargo test
/// kill_9` raises it.
const KILLS: u32 = 50;

#[test]
fn kill_9_leaves_the_old_file_or_the_new_one() {
    let kills = std::env::var("KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let remembering = Remembering::new();
    // The file is large enough for a write to take a while.
    stop(remembering.exporter());
    let mut image = remembering.image().unwrap();
    let record = image["devices"][FIRST].clone();
    let devices = image["devices"].as_object_mut().unwrap();
    for number in 0..500 {
        devices.insert(format!("3600{number:08}"), record.clone());
    }
    fs::write(remembering.file(), image.to_string()).unwrap();
    let mut clocks = BTreeSet::new();
    let new = remembering.directory.path("memory.json.new");
    for kill in 0..kills {
        let _ = fs::remove_file(&new);
        let mut command = Command::new(PROGRAM);
        let mut child = command
            .args(remembering.options())
            .arg("--web.listen-address=127.0.0.1:0")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pid = child.id();
        let began = Instant::now();
        // The write is under way or has just finished.
        let number = || fs::metadata(remembering.file()).unwrap().ino();
        let before = number();
        while !new.exists() && number() == before && began.elapsed() < PATIENCE {
            std::hint::spin_loop();
        }
        sleep(Duration::from_micros(u64::from(kill % 20) * 100));
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        for process in children.split_whitespace().filter_map(|child| Pid::from_raw(child.parse().ok()?)) {
            let _ = kill_process(process, Signal::KILL);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let image = remembering.image().unwrap_or_else(|| panic!("kill {kill} left no whole file"));
        assert!(image["devices"].as_object().unwrap().len() > 500);
        clocks.insert(image["clock"].as_u64().unwrap());
    }
    assert!(clocks.len() > 1, "no write was ever finished");
}
