//! One reading of sysfs, as a resync makes it: how long, and how many files.
//!
//! A made-up host of 500 devices × 4 paths over 16 iSCSI sessions, in memory, with udev's database. A file there costs
//! about what one of a real sysfs does, which is in memory too, so these are figures to compare with each other, and with
//! the bare loop that opens, reads and closes the files that no reading can do without. A host without device mapper's word
//! has everything to find out from files; with it, only what device mapper does not tell.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run should say where")]

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use multipath_exporter::source::sysfs::{Outline, Parts, Places, Request, Scope, Sysfs};
use multipath_exporter::topology::DevNo;
use rustix::time::ClockId;

const DEVICES: usize = 500;
const PATHS: usize = 4;
const SESSIONS: usize = 16;
const ROUNDS: usize = 21;

fn main() {
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let root = directory.path();
    make_host(root);
    let (sysfs, udev_data) = (root.to_owned(), root.join("udev"));
    let places = Places { sysfs, procfs: PathBuf::from("/proc"), udev_data, capture: None };
    println!("{DEVICES} devices × {PATHS} paths over {SESSIONS} sessions; medians of {ROUNDS}\n");
    println!("{:52} {:>10} {:>10} {:>12}", "", "time", "CPU", "files read");

    let states = state_files(root);
    let mut buffer = [0; 4096];
    let mut read_whole = |file: &PathBuf| assert!(File::open(file).unwrap().read(&mut buffer).unwrap() > 0);
    let mut bare = || states.iter().for_each(&mut read_whole);
    show("bare loop over the states of all disks", (0..ROUNDS).map(|_| measure(&mut bare)).collect());
    for (name, outlines) in [("with device mapper's word", Some(outlines())), ("by files alone", None)] {
        let request = |scope: Scope| Request { scope, outlines: outlines.clone(), ..Request::default() };
        let reader = || Sysfs::new(places.clone(), Parts { nvme: true, iscsi: true, fibre_channel: true });
        let first = || {
            let mut reader = reader();
            move || read(&mut reader, &request(Scope::Everything))
        };
        show(&format!("{name}: first"), (0..ROUNDS).map(|_| measure(first())).collect());

        let mut known = reader();
        read(&mut known, &request(Scope::Everything));
        let mut again = |what: &str, request: Request| {
            let rounds = (0..ROUNDS).map(|_| measure(|| read(&mut known, &request))).collect();
            show(&format!("{name}: {what}"), rounds);
        };
        again("resync without re-reads", request(Scope::Everything));
        again("resync after lost events", Request { forget_all: true, ..request(Scope::Everything) });
        again("re-read of states", request(Scope::States));
        let mut after_states = || {
            read(&mut known, &request(Scope::States));
            measure(|| read(&mut known, &request(Scope::Everything)))
        };
        show(&format!("{name}: resync between re-reads"), (0..ROUNDS).map(|_| after_states()).collect());
    }
}

fn read(reader: &mut Sysfs, request: &Request) {
    let reading = reader.read(request).unwrap();
    assert_eq!(reading.unreadable, []);
    assert_eq!(reading.maps.iter().map(|map| map.members.len()).sum::<usize>(), DEVICES * PATHS);
    assert_eq!(reading.transports.iscsi_sessions.len(), SESSIONS);
}

/// What one reading took.
struct Round {
    time: Duration,
    cpu: Duration,
    reads: u64,
}

fn measure(action: impl FnOnce()) -> Round {
    let (start, cpu, before) = (Instant::now(), cpu_time(), reads());
    action();
    Round { time: start.elapsed(), cpu: cpu_time() - cpu, reads: reads() - before - 1 }
}

/// Time on a processor, of this thread.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The process's own count of reads, this one included.
fn reads() -> u64 {
    let text = fs::read_to_string("/proc/self/io").unwrap();
    text.lines().find_map(|line| line.strip_prefix("syscr: ")).unwrap().parse().unwrap()
}

fn show(name: &str, rounds: Vec<Round>) {
    let millis = |value: fn(&Round) -> Duration| {
        let mut values: Vec<_> = rounds.iter().map(value).collect();
        values.sort();
        values[ROUNDS / 2].as_secs_f64() * 1e3
    };
    let (time, cpu) = (millis(|round| round.time), millis(|round| round.cpu));
    let mut reads: Vec<_> = rounds.iter().map(|round| round.reads).collect();
    reads.sort_unstable();
    println!("{name:52} {time:>7.2} ms {cpu:>7.2} ms {:>12}", reads[ROUNDS / 2]);
}

/// What a resync has to read at the least: two files of each disk.
fn state_files(root: &Path) -> Vec<PathBuf> {
    let disks = (0..DEVICES).flat_map(|device| (0..PATHS).map(move |path| scsi_device(device, path)));
    disks.flat_map(|disk| ["state", "access_state"].map(|name| root.join(&disk).join(name))).collect()
}

fn outlines() -> Arc<[Outline]> {
    let members = |device| (0..PATHS).map(|path| devno(disk(device, path)).parse().unwrap()).collect();
    let outline = |device| Outline {
        wwid: wwid(device).into(),
        devno: DevNo { major: 254, minor: device as u32 },
        members: members(device),
    };
    (0..DEVICES).map(outline).collect()
}

/// The host's files: maps `dm-N` over disks `sdX`, each path of a device through a session of its own.
fn make_host(root: &Path) {
    let write = |directory: &Path, files: &[(&str, String)]| {
        fs::create_dir_all(directory).unwrap();
        for (name, content) in files {
            fs::write(directory.join(name), format!("{content}\n")).unwrap();
        }
    };
    let link = |link: String, target: String| {
        let link = root.join(link);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(target, link).unwrap();
    };
    for session in 0..SESSIONS {
        let host = format!("devices/platform/host{session}");
        let place = format!("{host}/session{session}/iscsi_session/session{session}");
        let connection =
            format!("{host}/session{session}/connection{session}:0/iscsi_connection/connection{session}:0");
        let iscsi_host = format!("{host}/iscsi_host/host{session}");
        let target = format!("iqn.2024-01.org.example:array{}", session / 4);
        write(&root.join(&place), &[("state", "LOGGED_IN".into()), ("targetname", target)]);
        let portal = [("persistent_address", format!("10.0.{session}.2")), ("persistent_port", "3260".into())];
        write(&root.join(&connection), &portal);
        let ends = [("netdev", format!("eth{session}")), ("ipaddress", format!("10.0.{session}.1"))];
        write(&root.join(&iscsi_host), &ends);
        link(format!("class/iscsi_session/session{session}"), format!("../../{place}"));
        link(format!("class/iscsi_connection/connection{session}:0"), format!("../../{connection}"));
        link(format!("class/iscsi_host/host{session}"), format!("../../{iscsi_host}"));
    }
    for device in 0..DEVICES {
        let map = format!("devices/virtual/block/dm-{device}");
        let directory = root.join(&map);
        let dm = [("name", format!("mpath{device}")), ("uuid", format!("mpath-{}", wwid(device)))];
        write(&directory.join("dm"), &dm);
        write(&directory.join("dm"), &[("suspended", "0".into())]);
        let files = [("dev", format!("254:{device}")), ("size", "2097152".into()), ("ro", "0".into())];
        write(&directory, &files);
        write(&directory, &[("inflight", "       0        0".into()), ("diskseq", (device + 10_000).to_string())]);
        link(format!("block/dm-{device}"), format!("../{map}"));
        let properties = format!("N:dm-{device}\nE:DM_NAME=mpath{device}\nE:ID_SERIAL={}", wwid(device));
        write(&root.join("udev"), &[(&format!("b254:{device}"), properties)]);
        for path in 0..PATHS {
            let disk = disk(device, path);
            let (devno, name) = (devno(disk), format!("sd{}", letters(disk)));
            let scsi = scsi_device(device, path);
            let hctl = scsi.rsplit('/').next().unwrap();
            let place = format!("{scsi}/block/{name}");
            let states = [("state", "running".into()), ("access_state", "active/optimized".into())];
            write(&root.join(&scsi), &states);
            let model = [("vendor", "LABARRAY".into()), ("model", "VDISK           ".into()), ("rev", "0001".into())];
            write(&root.join(&scsi), &model);
            write(&root.join(&scsi), &[("wwid", format!("naa.{}", &wwid(device)[1..]))]);
            let files = [("dev", devno.clone()), ("size", "2097152".into()), ("ro", "0".into())];
            write(&root.join(&place), &files);
            link(format!("{place}/device"), format!("../../../{hctl}"));
            link(format!("{map}/slaves/{name}"), format!("../../../../../{place}"));
            link(format!("block/{name}"), format!("../{place}"));
            link(format!("dev/block/{devno}"), format!("../../{place}"));
            let serial = wwid(device);
            let properties = format!("S:disk/by-path/x\nN:{name}\nE:ID_VENDOR=LABARRAY\nE:ID_SERIAL={serial}\nV:1");
            write(&root.join("udev"), &[(&format!("b{devno}"), properties)]);
        }
    }
}

/// Where a path's SCSI device lies: below the session that it goes through.
fn scsi_device(device: usize, path: usize) -> String {
    let session = (device % PATHS) * PATHS + path;
    let hctl = format!("{session}:0:0:{device}");
    format!("devices/platform/host{session}/session{session}/target{session}:0:0/{hctl}")
}

fn wwid(device: usize) -> String {
    format!("3600a0980{device:024x}")
}

fn disk(device: usize, path: usize) -> usize {
    device * PATHS + path
}

/// Disks have sixteen numbers each, and 16 majors: the first 256 have the old ones, more follow above.
fn devno(disk: usize) -> String {
    let major = match disk / 16 % 16 {
        0 => 8,
        other => 64 + other,
    };
    format!("{major}:{}", disk / 256 * 256 + disk % 16 * 16)
}

/// `a`, …, `z`, `aa`, …
fn letters(mut disk: usize) -> String {
    let mut letters = Vec::new();
    loop {
        letters.push(char::from(b'a' + (disk % 26) as u8));
        if disk < 26 {
            return letters.iter().rev().collect();
        }
        disk = disk / 26 - 1;
    }
}
