//! The fate of I/O when no path is left: the option `no_path_retry`, over paths whose checker
//! fails.

use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use super::Scenario;
use crate::exporter::Exporter;
use crate::guest::Lab;
use crate::multipathd::Conf;
use crate::programs::{reap, run};
use crate::san::{Lun, San};
use crate::wait::{PATIENCE, eventually_eq};

pub const ALL: &[Scenario] = &[
    Scenario::new("queueing_for_ever", queueing_for_ever),
    Scenario::new("queueing_until_retries_run_out", queueing_until_retries_run_out),
    Scenario::new("queueing_never", queueing_never),
    Scenario::new("queueing_through_a_flush", queueing_through_a_flush),
    Scenario::new("thin_pool_waits_for_a_queueing_map", thin_pool_waits_for_a_queueing_map),
];

struct Queueing {
    san: San,
    exporter: Exporter,
}

impl Queueing {
    fn start(lab: &Lab, no_path_retry: &'static str) -> Self {
        let san = San::start(lab, 2, 1, Conf { no_path_retry, ..Conf::WATCHFUL });
        Queueing { san, exporter: lab.exporter().start() }
    }

    fn value(&self, name: &str) -> f64 {
        self.exporter.metrics().value(name, &[("wwid", &self.san.luns[0].wwid)])
    }

    fn wait_for_queueing(&self, what: &str, want: bool) {
        eventually_eq(what, f64::from(u8::from(want)), || self.value("multipath_device_queueing"));
    }

    fn lose_all_paths(&self) {
        let lun = &self.san.luns[0];
        lun.paths.iter().for_each(|disk| disk.set_offline());
        self.exporter.wait_for_counts(&lun.wwid, 0, 2);
    }

    fn regain_all_paths(&self) {
        let lun = &self.san.luns[0];
        lun.paths.iter().for_each(|disk| disk.set_running());
        self.exporter.wait_for_counts(&lun.wwid, 2, 0);
    }
}

fn queueing_for_ever(lab: &Lab) {
    let lab = Queueing::start(lab, "queue");
    assert_eq!(lab.value("multipath_device_queueing"), 1.0);
    lab.lose_all_paths();
    assert_eq!(lab.value("multipath_device_queueing"), 1.0);
    let lun = &lab.san.luns[0];
    for disk in &lun.paths {
        let path = [("wwid", lun.wwid.as_str()), ("path", disk.name.as_str())];
        eventually_eq("the SCSI state is shown beside it", "offline".to_owned(), || {
            lab.exporter.metrics().state("multipath_path_device_state", &path)
        });
    }
    assert_eq!(lab.value("multipath_device_queueing"), 1.0);
    assert_eq!(lab.value("multipath_device_queueing_timeouts_total"), 0.0);
    lab.regain_all_paths();
    assert_eq!(lab.value("multipath_device_queueing"), 1.0);
}

fn queueing_until_retries_run_out(lab: &Lab) {
    let lab = Queueing::start(lab, "3");
    assert_eq!(lab.value("multipath_device_queueing"), 1.0);
    lab.lose_all_paths();
    lab.wait_for_queueing("the retries run out", false);
    eventually_eq("multipathd counts it", 1.0, || lab.value("multipath_device_queueing_timeouts_total"));
    assert_eq!(lab.value("multipath_device_valid_paths"), 0.0);
    lab.regain_all_paths();
    lab.wait_for_queueing("it would queue again", true);
}

fn queueing_never(lab: &Lab) {
    let lab = Queueing::start(lab, "fail");
    assert_eq!(lab.value("multipath_device_queueing"), 0.0);
    lab.lose_all_paths();
    assert_eq!(lab.value("multipath_device_queueing"), 0.0);
    lab.regain_all_paths();
    assert_eq!(lab.value("multipath_device_queueing"), 0.0);
    assert_eq!(lab.value("multipath_device_queueing_timeouts_total"), 0.0);
}

/// The kernel switches queueing off to flush a map, and on again when it resumes the map. The table
/// meanwhile lacks the option. The map still queues.
fn queueing_through_a_flush(lab: &Lab) {
    let san = San::start(lab, 2, 2, Conf { no_path_retry: "queue", ..Conf::BLIND });
    let [queueing, failing] = san.luns.as_slice() else { panic!("there are two LUNs") };
    san.daemon.ask(&format!("disablequeueing map {}", failing.name())).expect("multipathd answers");
    let by_table = |lun: &Lun| san.dm.table(&lun.map.name).contains("queue_if_no_path");
    assert_eq!((by_table(queueing), by_table(failing)), (true, false));
    let exporter = lab.exporter().flag("--reread.interval=1s").start();

    // Every scrape must show it, whichever reading it uses.
    let suspended = || {
        let metrics = exporter.metrics();
        let value = |name, lun: &Lun| metrics.value(name, &[("wwid", &lun.wwid)]);
        let queues = [queueing, failing].map(|lun| value("multipath_device_queueing", lun));
        let suspended =
            [queueing, failing].map(|lun| metrics.fault("multipath_device_suspended", &[("wwid", &lun.wwid)]));
        let tables = [queueing, failing].map(by_table);
        assert_eq!(queues, [1.0, 0.0], "queueing, while suspended: {suspended:?}; by the tables: {tables:?}");
        let read = [("source", "dm")];
        (suspended, metrics.value("multipath_exporter_source_last_success_timestamp_seconds", &read))
    };
    let wait_for = |what: &str, want| {
        eventually_eq(what, [want; 2], || suspended().0);
        for _ in 0..3 {
            let (_, before) = suspended();
            eventually_eq("it is read again", true, || suspended().1 > before);
        }
        assert_eq!(suspended().0, [want; 2]);
    };
    wait_for("nothing is suspended", 0.0);
    for _ in 0..2 {
        [queueing, failing].into_iter().for_each(|lun| san.dm.suspend(lun.name()));
        wait_for("both are suspended", 1.0);
        [queueing, failing].into_iter().for_each(|lun| san.dm.resume(lun.name()));
        wait_for("both are resumed", 0.0);
    }
}

fn start(program: &str, args: &[&str]) -> Child {
    Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("{program}: {e}"))
}

/// A LUN without paths. Dropping the value restores them, so that no process waits forever if the
/// scenario fails.
pub struct Cut<'a>(&'a Lun);

impl<'a> Cut<'a> {
    pub fn off(lun: &'a Lun) -> Self {
        lun.paths.iter().for_each(|disk| disk.set_offline());
        Cut(lun)
    }
}

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        self.0.paths.iter().for_each(|disk| disk.set_running());
    }
}

/// A thin pool that commits its metadata waits for the LUN below, and so does a program that asks
/// for its status. Kernels before 5.12 list no UUIDs, so a reader must find the maps without asking
/// the pool.
fn thin_pool_waits_for_a_queueing_map(lab: &Lab) {
    let san = San::start(lab, 2, 2, Conf { no_path_retry: "queue", ..Conf::WATCHFUL });
    let [metadata, data] = san.luns.as_slice() else { panic!("there are two LUNs") };
    let exporter = lab.exporter().start();
    run("modprobe", ["dm_thin_pool"]);
    let create = |name: &str, table: &str| drop(run("dmsetup", ["create", name, "--table", table]));
    // All LUNs of scsi_debug share one memory, so each uses its own part of it.
    create("metadata", &format!("0 8192 linear /dev/{} 0", metadata.map.sysfs_name()));
    create("data", &format!("0 32768 linear /dev/{} 8192", data.map.sysfs_name()));
    run("dd", ["if=/dev/zero", "of=/dev/mapper/metadata", "bs=4096", "count=1"]);
    create("pool", "0 32768 thin-pool /dev/mapper/metadata /dev/mapper/data 128 0");
    run("dmsetup", ["message", "pool", "0", "create_thin 0"]);
    create("thin", "0 32768 thin /dev/mapper/pool 0");

    let cut = Cut::off(metadata);
    exporter.wait_for_counts(&metadata.wwid, 0, 2);
    // The write takes a new block, so that the pool must commit within a second.
    let mut writer = start("dd", &["if=/dev/zero", "of=/dev/mapper/thin", "bs=64K", "count=1", "oflag=direct"]);
    sleep(Duration::from_secs(4));
    let mut asked = start("dmsetup", &["status", "--noflush", "pool"]);
    sleep(Duration::from_secs(2));
    let waits = |asked: &mut Child| asked.try_wait().expect("our own child can be waited for").is_none();
    assert!(waits(&mut asked), "the pool does not wait");

    let newcomer = lab.exporter().start();
    exporter.hang_up();
    // Longer than the deadline of a device-mapper reading.
    for _ in 0..15 {
        sleep(Duration::from_secs(1));
        for exporter in [&exporter, &newcomer] {
            let metrics = exporter.metrics();
            assert_eq!(metrics.value("multipath_exporter_source_up", &[("source", "dm")]), 1.0);
            assert_eq!(metrics.value("multipath_exporter_kernel_status", &[]), 1.0);
            assert_eq!(metrics.all_paths(), san.dm.all_paths());
        }
    }
    assert!(waits(&mut asked), "the pool waited to the end");
    drop(cut);
    exporter.wait_for_counts(&metadata.wwid, 2, 0);
    for child in [&mut writer, &mut asked] {
        assert!(reap(child, PATIENCE).is_some_and(|status| status.success()));
    }
    for name in ["thin", "pool", "data", "metadata"] {
        run("dmsetup", ["remove", "--retry", name]);
    }
}
