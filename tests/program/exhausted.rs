//! The process runs out of file descriptors: an array has hundreds of sessions, or the limit is
//! reached.

use std::collections::BTreeSet;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};

use super::harness::{Connection, Exporter, Host, Page, Tree, eventually};
use super::storage::nvme::NVME;

const SYSFS_UP: &str = "multipath_exporter_source_up{source=\"sysfs\"}";
const SYSFS_ERRORS: &str = "multipath_exporter_errors_total{source=\"sysfs\"}";

const MAPS: u32 = 60;
const PORTALS: u32 = 2;

/// An array with one target per LUN: every path has a session of its own.
fn target_per_lun() -> Host {
    let host = Host::bare();
    for map in 0..MAPS {
        host.sysfs.add_map(map, format!("mpath{map}"), format!("mpath-3600a{map:028x}"), &[]);
        for portal in 1..=PORTALS {
            add_session(&host.sysfs, map, portal);
        }
    }
    host
}

fn add_session(tree: &Tree, map: u32, portal: u32) {
    let number = map * PORTALS + portal;
    let disk = format!("sdx{number}");
    let adapter = format!("devices/platform/host{number}");
    let (session, connection) = (format!("session{number}"), format!("connection{number}:0"));
    let address = format!("{number}:0:0");
    let scsi = format!("{adapter}/{session}/target{address}/{address}:0");
    let of_session = format!("{adapter}/{session}/iscsi_session/{session}");
    let of_connection = format!("{adapter}/{session}/{connection}/iscsi_connection/{connection}");
    let of_host = format!("{adapter}/iscsi_host/host{number}");
    for (file, content) in [
        (format!("{scsi}/state"), "running".to_owned()),
        (format!("{scsi}/vendor"), "LIO-ORG".to_owned()),
        (format!("{scsi}/model"), format!("lun{map}")),
        (format!("{scsi}/rev"), "4.0".to_owned()),
        (format!("{scsi}/wwid"), format!("naa.600a{map:028x}")),
        (format!("{scsi}/block/{disk}/dev"), format!("8:{}", number * 16)),
        (format!("{scsi}/block/{disk}/size"), "131072".to_owned()),
        (format!("{scsi}/block/{disk}/ro"), "0".to_owned()),
        (format!("{of_session}/state"), "LOGGED_IN".to_owned()),
        (format!("{of_session}/targetname"), format!("iqn.2024-01.org.example:lun{map}")),
        (format!("{of_connection}/persistent_address"), format!("192.0.2.{portal}")),
        (format!("{of_connection}/persistent_port"), "3260".to_owned()),
        (format!("{of_host}/netdev"), format!("e{portal}")),
        (format!("{of_host}/ipaddress"), format!("192.0.2.10{portal}")),
    ] {
        tree.write(&file, format!("{content}\n"));
    }
    for (link, place) in [
        (format!("block/{disk}"), format!("../{scsi}/block/{disk}")),
        (format!("dev/block/8:{}", number * 16), format!("../../{scsi}/block/{disk}")),
        (format!("devices/virtual/block/dm-{map}/slaves/{disk}"), format!("../../../../../{scsi}/block/{disk}")),
        (format!("class/iscsi_session/{session}"), format!("../../{of_session}")),
        (format!("class/iscsi_connection/{connection}"), format!("../../{of_connection}")),
        (format!("class/iscsi_host/host{number}"), format!("../../{of_host}")),
    ] {
        tree.link(&link, &place);
    }
}

/// The page shows everything, and the exporter counts no error.
fn assert_complete(page: &Page) {
    for (series, value) in [
        ("multipath_devices", MAPS),
        ("multipath_paths", MAPS * PORTALS),
        ("multipath_failed_paths", 0),
        (SYSFS_ERRORS, 0),
        (SYSFS_UP, 1),
    ] {
        assert_eq!(page.value(series), Some(f64::from(value)), "{series}");
    }
    let series_with = |metric: &str, words: &[&str]| {
        let series = page.of_metric(metric);
        series.iter().filter(|(series, _)| words.iter().all(|word| series.contains(word))).count()
    };
    let paths = (MAPS * PORTALS) as usize;
    assert_eq!(series_with("multipath_path_device_state", &["state=\"running\""]), paths);
    assert_eq!(series_with("multipath_iscsi_session_up", &["initiator_port=\"e", "target_port=\"192.0.2."]), paths);
    let ports = ["transport=\"iscsi\"", "initiator_port=\"e", "target=\"iqn.2024-01", "target_port=\"192.0.2."];
    assert_eq!(series_with("multipath_path_info", &ports), paths);
}

fn assert_read_whole_under(soft: u64, hard: u64) {
    let host = target_per_lun();
    let exporter = Exporter::start_after(&format!("ulimit -S -n {soft}; ulimit -H -n {hard}"), &host.options());
    exporter.await_ready();
    assert_complete(&exporter.metrics());
    assert_complete(&exporter.reread());
}

#[test]
fn a_low_limit_that_may_be_raised_is_none() {
    assert_read_whole_under(40, 1024);
}

/// The limit is lower than the number of sessions.
#[test]
fn reading_many_sessions_takes_few_open_files() {
    assert_read_whole_under(64, 64);
}

/// Scrapes once over an open connection.
fn scrape(connection: &mut Connection) -> Page {
    let answer = connection.request("GET", "/metrics", &[]);
    assert_eq!(answer.status, 200, "{}", answer.text());
    Page::new(answer.text())
}

/// Scrapes until the source is up, or down.
fn await_sysfs(connection: &mut Connection, up: f64) -> Page {
    eventually(format!("{SYSFS_UP} {up}"), || {
        let page = scrape(connection);
        (page.value(SYSFS_UP) == Some(up)).then_some(page)
    })
}

/// The number that the next file gets. Files that are open only briefly do not count.
fn next_file(pid: Pid) -> u64 {
    let next = || {
        let entries = fs::read_dir(format!("/proc/{}/fd", pid.as_raw_pid())).unwrap();
        let open: BTreeSet<u64> =
            entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
        (0..).find(|number| !open.contains(number)).unwrap()
    };
    // The start may keep a file open for some hundredths of a second.
    let later = || {
        sleep(Duration::from_millis(3));
        next()
    };
    (0..100).map(|_| later()).min().unwrap()
}

/// The series of devices, paths and sessions as the page writes them.
fn known(page: &Page) -> Vec<(&str, &str)> {
    let metrics = [
        "multipath_devices",
        "multipath_paths",
        "multipath_failed_paths",
        "multipath_device_info",
        "multipath_device_paths",
        "multipath_device_valid_paths",
        "multipath_device_failed_paths",
        "multipath_device_size_bytes",
        "multipath_path_info",
        "multipath_path_valid",
        "multipath_path_device_state",
        "multipath_path_ana_state",
        "multipath_iscsi_session_up",
    ];
    metrics.into_iter().flat_map(|metric| page.of_metric(metric)).collect()
}

/// Takes all file descriptors from an exporter that has read a host, and returns them. `again`
/// requests another reading.
fn exhaust(options: &[&str], again: impl Fn(&Exporter)) {
    let host = Host::recorded("02-net1-lost");
    let exporter = host.unready_exporter(&[&[NVME, "--no-collector.multipathd"], options].concat());
    // This is the only connection. A connection that closes frees a file, and a new one would evict
    // this one.
    let mut connection = exporter.connect();
    eventually("it is ready", || (connection.request("GET", "/-/ready", &[]).status == 200).then_some(()));
    let before = await_sysfs(&mut connection, 1.0);
    assert_eq!(before.value("multipath_devices"), Some(4.0));

    let pid = exporter.pid();
    // An unprivileged process cannot raise a lowered hard limit.
    let none = Rlimit { current: Some(next_file(pid)), ..getrlimit(Resource::Nofile) };
    let limit = prlimit(Some(pid), Resource::Nofile, none).unwrap();
    host.turn_into("03-both-lost");
    again(&exporter);
    for _ in 0..3 {
        let page = await_sysfs(&mut connection, 0.0);
        assert_eq!(known(&page), known(&before));
    }
    exporter.await_log(&["source=sysfs", "level=warn", "Too many open files"]);

    prlimit(Some(pid), Resource::Nofile, limit).unwrap();
    again(&exporter);
    let page = await_sysfs(&mut connection, 1.0);
    assert_eq!((page.value("multipath_devices"), page.value("multipath_paths")), (Some(4.0), Some(8.0)));
    eventually("what has changed is seen", || {
        (scrape(&mut connection).value("multipath_failed_paths") == Some(8.0)).then_some(())
    });
    assert_eq!(exporter.get("/metrics").status, 200);
}

#[test]
fn a_reread_without_files_to_open_fails_and_changes_nothing() {
    exhaust(&["--reread.interval=100ms"], |_| {});
}

#[test]
fn a_hangup_without_files_to_open_changes_nothing() {
    exhaust(&[], |exporter| exporter.signal(Signal::HUP));
}
