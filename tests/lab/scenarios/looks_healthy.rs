//! Storage that looks healthy and is not: every path is valid, but something is wrong. Exporters
//! run as root and as `nobody`, who may read all of it.

use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Scenario;
use crate::dm::multipath_table;
use crate::exporter::Exporter;
use crate::guest::Lab;
use crate::iscsi::{IscsiSan, Sessions};
use crate::multipathd::Conf;
use crate::network::Networks;
use crate::nvme;
use crate::programs::{reap, run, try_run};
use crate::san::San;
use crate::scsi_debug;
use crate::scsi_disk::Disk;
use crate::wait::{PATIENCE, eventually, eventually_eq, try_eventually};

pub const ALL: &[Scenario] = &[
    Scenario::new("stray_disk_that_is_swapped_to", stray_disk_that_is_swapped_to),
    Scenario::new("logical_volume_over_a_path", logical_volume_over_a_path),
    Scenario::new("two_luns_in_one_map", two_luns_in_one_map),
    Scenario::new("sessions_that_block_their_disks", sessions_that_block_their_disks),
    Scenario::new("array_that_answers_nothing", array_that_answers_nothing),
    Scenario::new("nvme_array_that_answers_nothing", nvme_array_that_answers_nothing),
    Scenario::new("path_that_swallows_io", path_that_swallows_io),
    Scenario::new("healthy_paths_count_no_errors", healthy_paths_count_no_errors),
    Scenario::new("timeouts_are_counted", timeouts_are_counted),
    Scenario::new("errors_of_a_lun_are_counted", errors_of_a_lun_are_counted),
    Scenario::new("nvme_errors_are_counted", nvme_errors_are_counted).of_sid(),
];

/// The time for which a disk is no member before it counts as stray.
const STRAY_AFTER: Duration = Duration::from_secs(60);

/// The disks of these sessions wait for ten minutes, and no checker tests them.
pub const WAITING: Conf = Conf { more: &["fast_io_fail_tmo 600"], ..Conf::BLIND };

fn both(lab: &Lab) -> [Exporter; 2] {
    let launch = || lab.exporter().flag("--resync.interval=1s").flag("--reread.interval=1s");
    [launch().start(), launch().unprivileged().start()]
}

/// Waits until a series that exists only while it is above 0 has this value.
#[track_caller]
fn wait_for(exporters: &[Exporter], metric: &str, wwid: &str, value: f64) {
    for exporter in exporters {
        eventually(&format!("{metric} is {value}"), STRAY_AFTER + PATIENCE, || {
            match exporter.metrics().fault(metric, &[("wwid", wwid)]) {
                told if told == value => Ok(()),
                told => Err(format!("{told}")),
            }
        });
    }
}

/// Waits until exactly this disk, or none, is used directly.
#[track_caller]
fn wait_for_direct_use(exporters: &[Exporter], use_of: Option<[&str; 3]>) {
    for exporter in exporters {
        let direct = || {
            let metrics = exporter.metrics();
            let all = metrics.series("multipath_disk_used_directly");
            all.map(|(labels, _)| ["wwid", "disk", "by"].map(|label| labels[label].clone())).collect::<Vec<_>>()
        };
        let want: Vec<_> = use_of.iter().map(|labels| labels.map(str::to_owned)).collect();
        eventually_eq("disks that are used directly", want, direct);
    }
}

/// A path is removed from its map, and its disk stays.
fn stray_disk_that_is_swapped_to(lab: &Lab) {
    let san = San::start(lab, 4, 1, Conf::BLIND);
    let exporters = &both(lab);
    let (lun, disk) = (&san.luns[0], &san.luns[0].paths[0]);
    let (wwid, node) = (&lun.wwid, format!("/dev/{}", disk.name));
    wait_for(exporters, "multipath_device_stray_paths", wwid, 0.0);

    let removed = Instant::now();
    san.daemon.ask(&format!("del path {}", disk.name)).expect("multipathd answers");
    // multipathd would take the path back as soon as a process writes to the disk.
    san.daemon.freeze();
    exporters.iter().for_each(|exporter| exporter.wait_for_counts(wwid, 3, 0));
    wait_for(exporters, "multipath_device_stray_paths", wwid, 1.0);
    assert!(removed.elapsed() >= STRAY_AFTER, "stray after {:?}", removed.elapsed());

    run("mkswap", [&node]);
    run("swapon", [&node]);
    wait_for_direct_use(exporters, Some([wwid, &disk.name, "swap"]));
    run("swapoff", [&node]);
    wait_for_direct_use(exporters, None);

    san.daemon.thaw();
    eventually("the path is taken back", PATIENCE, || {
        san.daemon.ask(&format!("add path {}", disk.name)).map_err(|e| e.to_string())?;
        match san.dm.paths(&lun.map.name).len() {
            4 => Ok(()),
            paths => Err(format!("{paths} paths")),
        }
    });
    exporters.iter().for_each(|exporter| exporter.wait_for_counts(wwid, 4, 0));
    wait_for(exporters, "multipath_device_stray_paths", wwid, 0.0);
}

/// The kernel allows other device-mapper devices to share a disk with its map. A device over the
/// map itself is in order.
fn logical_volume_over_a_path(lab: &Lab) {
    let san = San::start(lab, 2, 1, Conf::BLIND);
    let exporters = &both(lab);
    let (lun, disk) = (&san.luns[0], &san.luns[0].paths[1]);
    let create = |name: &str, under: &str| {
        let table = format!("0 2048 linear {under} 0");
        run("dmsetup", ["create", name, "--uuid", &format!("LVM-{name}"), "--table", &table]);
    };
    create("beside", &format!("/dev/{}", disk.name));
    wait_for_direct_use(exporters, Some([&lun.wwid, &disk.name, "dm"]));
    run("dmsetup", ["remove", "--retry", "beside"]);
    wait_for_direct_use(exporters, None);

    create("above", &format!("/dev/{}", lun.map.sysfs_name()));
    let in_use = [("wwid", &*lun.wwid)];
    for exporter in exporters {
        eventually_eq("the map is in use", 1.0, || exporter.metrics().value("multipath_device_in_use", &in_use));
    }
    wait_for_direct_use(exporters, None);
    run("dmsetup", ["remove", "--retry", "above"]);
}

/// One map holds the disks of two LUNs. This occurs if an array gives both the same serial number.
fn two_luns_in_one_map(lab: &Lab) {
    let array = IscsiSan::start(lab, 2, 1, Conf::BLIND);
    let San { daemon, dm, luns } = &array.san;
    let exporters = &both(lab);
    for lun in luns {
        wait_for(exporters, "multipath_device_lun_mismatched_paths", &lun.wwid, 0.0);
        daemon.ask(&format!("del map {}", lun.name())).expect("multipathd answers");
    }
    daemon.freeze();
    let (wwid, number) = (&luns[0].wwid, |disk: &Disk| disk.devno.clone());
    let members: Vec<String> = luns[0].paths.iter().chain(&luns[1].paths[..1]).map(number).collect();
    eventually("the disks are free", PATIENCE, || match dm.multipaths().len() {
        0 => Ok(()),
        maps => Err(format!("{maps} maps")),
    });
    dm.create("mixed", &format!("mpath-{wwid}"), &multipath_table("0", &[&members]));
    wait_for(exporters, "multipath_device_lun_mismatched_paths", wwid, 1.0);
    wait_for(exporters, "multipath_device_lun_conflicts", wwid, 1.0);
    dm.remove(b"mixed").expect("nothing holds it");
}

/// Both networks are cut. The sessions' disks are blocked. The map's paths stay valid, because
/// there is no I/O.
fn sessions_that_block_their_disks(lab: &Lab) {
    let networks = Rc::new(Networks::start());
    let array = IscsiSan::with(Sessions::Patient, Rc::clone(&networks), lab, 1, 1, WAITING);
    let lun = &array.san.luns[0];
    let exporters = &both(lab);
    let blocked = "multipath_device_blocked_paths";
    wait_for(exporters, blocked, &lun.wwid, 0.0);

    networks.0.iter().for_each(|network| network.cut());
    for disk in &lun.paths {
        eventually_eq("the disk is blocked", "blocked".to_owned(), || disk.scsi_state());
    }
    wait_for(exporters, blocked, &lun.wwid, 2.0);
    exporters.iter().for_each(|exporter| exporter.wait_for_counts(&lun.wwid, 2, 0));

    networks.0[0].mend();
    wait_for(exporters, blocked, &lun.wwid, 1.0);
    networks.0[1].mend();
    wait_for(exporters, blocked, &lun.wwid, 0.0);
}

/// Reads the first block of a device without the page cache.
pub fn read(device: &str) -> Child {
    let mut dd = Command::new("dd");
    dd.args([&format!("if={device}"), "of=/dev/null", "bs=4096", "count=1", "iflag=direct", "status=none"]);
    dd.stdin(Stdio::null()).spawn().expect("dd starts")
}

#[track_caller]
pub fn wait_for_end(readers: Vec<Child>) {
    for mut reader in readers {
        let status = reap(&mut reader, PATIENCE).expect("the read ends");
        assert!(status.success(), "{status}");
    }
}

/// Disables the timeout of SCSI commands.
pub fn wait_for_ever(disks: &[Disk]) {
    disks.iter().for_each(|disk| disk.write("timeout", "3600"));
}

fn stalled(exporter: &Exporter, wwid: &str) -> f64 {
    exporter.metrics().fault("multipath_device_stalled_seconds", &[("wwid", wwid)])
}

/// The array stops but keeps its connections. All paths are valid, no session has failed, and no
/// I/O completes.
fn array_that_answers_nothing(lab: &Lab) {
    let networks = Rc::new(Networks::start());
    let array = IscsiSan::with(Sessions::Trusting, networks, lab, 2, 1, WAITING);
    let [lun, other] = array.san.luns.as_slice() else { panic!("there are two") };
    wait_for_ever(&lun.paths);
    let exporters = &both(lab);
    let device = format!("/dev/{}", lun.map.sysfs_name());
    wait_for_end(vec![read(&device)]);
    exporters.iter().for_each(|exporter| assert_eq!(stalled(exporter, &lun.wwid), 0.0));

    array.freeze();
    let reader = read(&device);
    for exporter in exporters {
        for seconds in [5.0, 10.0] {
            eventually("I/O stands still", PATIENCE, || match stalled(exporter, &lun.wwid) {
                told if told >= seconds => Ok(()),
                told => Err(format!("{told} s")),
            });
        }
        assert_eq!(stalled(exporter, &other.wwid), 0.0, "nobody waits for it");
        exporter.wait_for_counts(&lun.wwid, 2, 0);
    }
    array.thaw();
    wait_for_end(vec![reader]);
    wait_for(exporters, "multipath_device_stalled_seconds", &lun.wwid, 0.0);
}

/// Both networks lose every packet. The controllers stay live until a command times out, after half
/// a minute.
fn nvme_array_that_answers_nothing(lab: &Lab) {
    let array = nvme::Array::of_the_trusting();
    let [used, other] = &array.namespaces;
    let exporters = &both(lab);
    let device = format!("/dev/{}", array.head(used).expect("the kernel has the namespace"));
    wait_for_end(vec![read(&device)]);
    exporters.iter().for_each(|exporter| assert_eq!(stalled(exporter, &used.wwid), 0.0));

    array.networks.0.iter().for_each(|network| network.lose_all());
    let reader = read(&device);
    for exporter in exporters {
        eventually("I/O stands still", PATIENCE, || match stalled(exporter, &used.wwid) {
            told if told >= 5.0 => Ok(()),
            told => Err(format!("{told} s")),
        });
        assert_eq!(stalled(exporter, &other.wwid), 0.0, "nobody waits for it");
    }
    array.networks.0.iter().for_each(|network| network.lose_nothing());
    wait_for_end(vec![reader]);
    wait_for(exporters, "multipath_device_stalled_seconds", &used.wwid, 0.0);
}

/// One network loses every packet. Its commands hang, and the device continues over the other one.
fn path_that_swallows_io(lab: &Lab) {
    let networks = Rc::new(Networks::start());
    let array = IscsiSan::with(Sessions::Trusting, Rc::clone(&networks), lab, 1, 1, WAITING);
    let lun = &array.san.luns[0];
    wait_for_ever(&lun.paths);
    let exporters = &both(lab);
    let device = format!("/dev/{}", lun.map.sysfs_name());
    let bad = exporters[0].metrics().labels("multipath_path_info", &[("initiator_port", networks.0[0].interface)]);
    let stalled_paths = |exporter: &Exporter| -> Vec<(String, f64)> {
        let answer = exporter.json("/api/v1/devices");
        let paths = answer["devices"][0]["paths"].as_array().expect("it has paths").clone();
        let seconds = |path: &Value| Some((path["path"].as_str()?.to_owned(), path["stalled_seconds"].as_f64()?));
        paths.iter().filter_map(seconds).filter(|(_, seconds)| *seconds > 0.0).collect()
    };

    networks.0[0].lose_all();
    // One after the other. Each uses the path with fewer requests.
    let mut hanging = Vec::new();
    eventually("the path swallows I/O", PATIENCE, || {
        let mut reader = read(&device);
        let ends = || match reader.try_wait() {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        };
        if try_eventually(Duration::from_secs(2), ends).is_ok() {
            return Err("every read has ended".to_owned());
        }
        hanging.push(reader);
        Ok(())
    });
    for exporter in exporters {
        eventually("the path is shown", 2 * PATIENCE, || {
            wait_for_end(vec![read(&device)]);
            match stalled_paths(exporter).as_slice() {
                [(path, seconds)] if *path == bad["path"] && *seconds >= 5.0 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        assert!(stalled(exporter, &lun.wwid) < 5.0, "the device itself goes on");
    }
    networks.0[0].lose_nothing();
    wait_for_end(hanging);
    for exporter in exporters {
        eventually_eq("no path is shown", Vec::new(), || stalled_paths(exporter));
    }
}

fn io_errors(exporter: &Exporter, wwid: &str) -> f64 {
    exporter.metrics().value("multipath_device_path_io_errors_total", &[("wwid", wwid)])
}

/// A checker that runs every second, readers, and programs that query a disk's identity: none of
/// them causes an error.
fn healthy_paths_count_no_errors(lab: &Lab) {
    let san = San::start(lab, 4, 1, Conf::WATCHFUL);
    let exporters = &both(lab);
    let lun = &san.luns[0];
    let before = exporters.each_ref().map(|exporter| io_errors(exporter, &lun.wwid));
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(20) {
        wait_for_end(vec![read(&format!("/dev/{}", lun.map.sysfs_name()))]);
        for disk in &lun.paths {
            run("udevadm", ["trigger", "--action=change", "--settle", &format!("/dev/{}", disk.name)]);
        }
    }
    let after = exporters.each_ref().map(|exporter| io_errors(exporter, &lun.wwid));
    assert_eq!(after, before);
}

fn timeouts_are_counted(lab: &Lab) {
    let array = IscsiSan::with(Sessions::Trusting, Rc::new(Networks::start()), lab, 1, 1, WAITING);
    let lun = &array.san.luns[0];
    let exporters = &both(lab);
    let disk = &lun.paths[0];
    let node = format!("/dev/{}", disk.name);
    let path = [("wwid", &*lun.wwid), ("path", &disk.name)];
    let counts = |exporter: &Exporter| {
        let timeouts = exporter.metrics().value("multipath_path_io_timeouts_total", &path);
        [timeouts, io_errors(exporter, &lun.wwid)]
    };
    let before = exporters.each_ref().map(counts);

    disk.write("timeout", "2");
    array.freeze();
    let mut reader = read(&node);
    for (exporter, before) in exporters.iter().zip(before) {
        eventually("the timeout is counted", PATIENCE, || match counts(exporter) {
            [timeouts, device] if timeouts > before[0] && device > before[1] => Ok(()),
            other => Err(format!("{before:?}, {other:?}")),
        });
    }
    array.thaw();
    // The read may have failed by now.
    reap(&mut reader, 2 * PATIENCE).expect("the read ends");
}

/// A block of the LUN is unreadable over any path. No path has failed.
fn errors_of_a_lun_are_counted(lab: &Lab) {
    let san = San::start(lab, 2, 1, Conf::BLIND);
    let exporters = &both(lab);
    let lun = &san.luns[0];
    let before = exporters.each_ref().map(|exporter| io_errors(exporter, &lun.wwid));
    // Sectors 0x1234 to 0x123d (SDEBUG_OPT_MEDIUM_ERR).
    scsi_debug::set("opts", "2");
    assert!(!reads(&format!("/dev/{}", lun.map.sysfs_name()), 4660));
    scsi_debug::set("opts", "0");
    wait_for_more_errors(exporters, before, &lun.wwid);
}

/// The same for a namespace. The driver counts errors since Linux 7.2.
fn nvme_errors_are_counted(lab: &Lab) {
    let array = nvme::Array::start();
    let namespace = &array.namespaces[1];
    let table = "0 2048 linear /dev/ram1 0\n2048 8 error\n2056 2048 linear /dev/ram1 2056\n";
    run("dmsetup", ["create", "flawed", "--table", table]);
    namespace.move_to("/dev/mapper/flawed");
    let exporters = &both(lab);
    exporters.iter().for_each(|exporter| exporter.wait_for_counts(&namespace.wwid, 2, 0));
    let before = exporters.each_ref().map(|exporter| io_errors(exporter, &namespace.wwid));
    let device = format!("/dev/{}", array.head(namespace).expect("the kernel has the namespace"));
    assert!(!reads(&device, 2048));
    wait_for_more_errors(exporters, before, &namespace.wwid);
    namespace.enable(false);
    run("dmsetup", ["remove", "--retry", "flawed"]);
}

/// Returns true if a sector is readable without the page cache.
fn reads(device: &str, sector: u64) -> bool {
    let (input, skip) = (format!("if={device}"), format!("skip={sector}"));
    try_run("dd", [&*input, &skip, "of=/dev/null", "bs=512", "count=1", "iflag=direct", "status=none"]).is_ok()
}

/// Checks that errors are counted and no path has failed.
#[track_caller]
fn wait_for_more_errors(exporters: &[Exporter; 2], before: [f64; 2], wwid: &str) {
    for (exporter, before) in exporters.iter().zip(before) {
        eventually("the error is counted", PATIENCE, || match io_errors(exporter, wwid) {
            told if told > before => Ok(()),
            told => Err(format!("{told}")),
        });
        exporter.wait_for_counts(wwid, 2, 0);
    }
}
