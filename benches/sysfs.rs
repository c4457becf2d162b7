//! One reading of sysfs in a resync or a re-read: its time and the number of files.
//!
//! The two artificial hosts have 16 iSCSI sessions and udev's database, all in memory: 500 devices
//! × 4 paths, and 10,000 × 8. A file there costs about as much as in a real sysfs, which is also in
//! memory. Compare the figures with each other, and with the bare loop that opens, reads and closes
//! the files that every reading needs. Without device mapper's status, the exporter must learn
//! everything from files. With it, the files add only what device mapper does not report.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run should say where")]

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use multipath_exporter::source::Places;
use multipath_exporter::source::block::{BlockReader, BlockRequest, Scope, Told};
use multipath_exporter::source::transports::{self, Parts, TransportReader};
use multipath_exporter::topology::DevNo;
use rustix::time::ClockId;

const SESSIONS: usize = 16;
/// The `stat` of an idle device.
const STAT: &str = "    1234        0    56789      100     4321        0    98765      200        0      300      300";

fn main() {
    for (devices, paths, rounds) in [(500, 4, 21), (10_000, 8, 3)] {
        Host { devices, paths, rounds }.measure();
    }
}

/// An artificial host, and the number of its readings.
struct Host {
    devices: usize,
    paths: usize,
    rounds: usize,
}

impl Host {
    fn measure(&self) {
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let root = directory.path();
        self.make(root);
        let (sysfs, udev_data) = (root.to_owned(), root.join("udev"));
        let places = Places { sysfs, procfs: PathBuf::from("/proc"), udev_data, capture: None };
        let Host { devices, paths, rounds } = self;
        println!("{devices} devices × {paths} paths over {SESSIONS} sessions; medians of {rounds}\n");
        println!("{:52} {:>11} {:>11} {:>14} {:>12}", "", "time", "CPU", "CPU per disk", "files read");

        let states = self.state_files(root);
        let mut buffer = [0; 4096];
        let mut read_whole = |file: &PathBuf| assert!(File::open(file).unwrap().read(&mut buffer).unwrap() > 0);
        self.show("bare loop over the states of all disks", || measure(|| states.iter().for_each(&mut read_whole)));
        // A re-read of a real sysfs reads ALUA states this way. It omits the other states where
        // device mapper reports the maps.
        let open = File::open("/sys/class/net/lo/ifindex").unwrap();
        let mut again = |_| assert!(open.read_at(&mut buffer, 0).unwrap() > 0);
        self.show("an open file of a real sysfs, once for each disk", || {
            measure(|| (0..self.disks()).for_each(&mut again))
        });
        let mut anew = |_| assert!(File::open("/sys/class/net/lo/ifindex").unwrap().read(&mut [0; 4096]).unwrap() > 0);
        self.show("the same, opened for each map", || measure(|| (0..self.devices).for_each(&mut anew)));
        for (name, told) in [("with device mapper's word", Some(self.told())), ("by files alone", None)] {
            let request = |scope: Scope| BlockRequest { scope, told: told.clone(), ..BlockRequest::default() };
            self.show(&format!("{name}: first"), || {
                let mut reader = BlockReader::new(places.clone());
                measure(|| self.read(&mut reader, &request(Scope::Everything)))
            });
            let mut known = BlockReader::new(places.clone());
            self.read(&mut known, &request(Scope::Everything));
            for (what, scope) in [("resync of everything", Scope::Everything), ("re-read of states", Scope::States)] {
                let request = request(scope);
                self.show(&format!("{name}: {what}"), || measure(|| self.read(&mut known, &request)));
            }
        }
        let mut reader = TransportReader::new(root, Parts { nvme: true, iscsi: true, fibre_channel: true });
        for (name, anew) in [("transports: resync", true), ("transports: re-read", false)] {
            let request = transports::TransportRequest { anew, ..transports::TransportRequest::default() };
            self.show(name, || measure(|| read_transports(&mut reader, &request)));
        }
        println!();
    }

    fn read(&self, reader: &mut BlockReader, request: &BlockRequest) {
        let reading = reader.read(request).unwrap();
        assert_eq!(reading.unreadable, []);
        assert_eq!(reading.disks.values().flatten().count(), self.disks());
        assert_eq!(reading.io.len(), self.devices);
    }

    fn disks(&self) -> usize {
        self.devices * self.paths
    }

    fn show(&self, name: &str, round: impl FnMut() -> Round) {
        let rounds: Vec<Round> = std::iter::repeat_with(round).take(self.rounds).collect();
        let millis = |value: fn(&Round) -> Duration| {
            let mut values: Vec<_> = rounds.iter().map(value).collect();
            values.sort();
            values[self.rounds / 2].as_secs_f64() * 1e3
        };
        let (time, cpu) = (millis(|round| round.time), millis(|round| round.cpu));
        let mut reads: Vec<_> = rounds.iter().map(|round| round.reads).collect();
        reads.sort_unstable();
        let (each, reads) = (cpu * 1e3 / self.disks() as f64, reads[self.rounds / 2]);
        println!("{name:52} {time:>8.2} ms {cpu:>8.2} ms {each:>11.2} µs {reads:>12}");
    }

    /// A resync must read at least these two files of each disk.
    fn state_files(&self, root: &Path) -> Vec<PathBuf> {
        let places = |device| (0..self.paths).map(move |path| self.scsi_device(device, path));
        let disks = (0..self.devices).flat_map(places);
        disks.flat_map(|disk| ["state", "access_state"].map(|name| root.join(&disk).join(name))).collect()
    }

    fn told(&self) -> Arc<[Told]> {
        let member = |device, path| devno(self.disk(device, path)).parse().unwrap();
        let map = |device| Told {
            devno: DevNo { major: 254, minor: device as u32 },
            members: Some((0..self.paths).map(|path| member(device, path)).collect()),
        };
        (0..self.devices).map(map).collect()
    }

    /// Writes the host's files: maps `dm-N` over disks `sdX`. Each path of a device has a session
    /// of its own.
    fn make(&self, root: &Path) {
        let mut written: HashMap<String, PathBuf> = HashMap::new();
        let mut write = |directory: &Path, files: &[(&str, String)]| {
            fs::create_dir_all(directory).unwrap();
            for (name, content) in files {
                let file = directory.join(name);
                // Files with equal content are hard links. A page of memory for each would take 4
                // GB.
                if written.get(content).is_none_or(|same| fs::hard_link(same, &file).is_err()) {
                    fs::write(&file, format!("{content}\n")).unwrap();
                    written.insert(content.clone(), file);
                }
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
        for device in 0..self.devices {
            let map = format!("devices/virtual/block/dm-{device}");
            let directory = root.join(&map);
            let dm = [("name", format!("mpath{device}")), ("uuid", format!("mpath-{}", wwid(device)))];
            write(&directory.join("dm"), &dm);
            write(&directory.join("dm"), &[("suspended", "0".into())]);
            let files = [("dev", format!("254:{device}")), ("size", "2097152".into()), ("ro", "0".into())];
            write(&directory, &files);
            write(&directory, &[("stat", STAT.into()), ("diskseq", (device + 10_000).to_string())]);
            link(format!("block/dm-{device}"), format!("../{map}"));
            let properties = format!("N:dm-{device}\nE:DM_NAME=mpath{device}\nE:ID_SERIAL={}", wwid(device));
            write(&root.join("udev"), &[(&format!("b254:{device}"), properties)]);
            for path in 0..self.paths {
                let disk = self.disk(device, path);
                let (devno, name) = (devno(disk), format!("sd{}", letters(disk)));
                let scsi = self.scsi_device(device, path);
                let hctl = scsi.rsplit('/').next().unwrap();
                let place = format!("{scsi}/block/{name}");
                let states = [("state", "running".into()), ("access_state", "active/optimized".into())];
                write(&root.join(&scsi), &states);
                let model =
                    [("vendor", "LABARRAY".into()), ("model", "VDISK           ".into()), ("rev", "0001".into())];
                write(&root.join(&scsi), &model);
                write(&root.join(&scsi), &[("wwid", format!("naa.{}", &wwid(device)[1..]))]);
                let files = [("dev", devno.clone()), ("size", "2097152".into()), ("ro", "0".into())];
                write(&root.join(&place), &files);
                write(&root.join(&place), &[("stat", STAT.into())]);
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

    /// The directory of a path's SCSI device, below its session.
    fn scsi_device(&self, device: usize, path: usize) -> String {
        let session = device % (SESSIONS / self.paths) * self.paths + path;
        let hctl = format!("{session}:0:0:{device}");
        format!("devices/platform/host{session}/session{session}/target{session}:0:0/{hctl}")
    }

    fn disk(&self, device: usize, path: usize) -> usize {
        device * self.paths + path
    }
}

fn read_transports(reader: &mut TransportReader, request: &transports::TransportRequest) {
    let reading = reader.read(request).unwrap();
    assert_eq!(reading.unreadable, []);
    assert_eq!(reading.transports.iscsi_sessions.len(), SESSIONS);
}

/// The cost of one reading.
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

/// Processor time of this thread.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The number of reads of this process, including this one.
fn reads() -> u64 {
    let text = fs::read_to_string("/proc/self/io").unwrap();
    text.lines().find_map(|line| line.strip_prefix("syscr: ")).unwrap().parse().unwrap()
}

fn wwid(device: usize) -> String {
    format!("3600a0980{device:024x}")
}

/// Each disk has 16 minor numbers. The first 256 disks use the 16 old majors, and the others follow
/// above.
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
