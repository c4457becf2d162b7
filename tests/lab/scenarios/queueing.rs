//! What happens to I/O when no path is left: the option `no_path_retry`, over paths whose checker fails.

use super::Scenario;
use crate::exporter::Exporter;
use crate::guest::Lab;
use crate::multipathd::Conf;
use crate::san::{Lun, San};
use crate::wait::eventually_eq;

pub const ALL: &[Scenario] = &[
    Scenario::new("queueing_for_ever", queueing_for_ever),
    Scenario::new("queueing_until_retries_run_out", queueing_until_retries_run_out),
    Scenario::new("queueing_never", queueing_never),
    Scenario::new("queueing_through_a_flush", queueing_through_a_flush),
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

/// The kernel switches queueing off to flush a map, and on again to resume it. The table leaves the option out meanwhile.
/// The map is one that queues all the same.
fn queueing_through_a_flush(lab: &Lab) {
    let san = San::start(lab, 2, 2, Conf { no_path_retry: "queue", ..Conf::BLIND });
    let [queueing, failing] = san.luns.as_slice() else { panic!("there are two LUNs") };
    san.daemon.ask(&format!("disablequeueing map {}", failing.name())).expect("multipathd answers");
    let by_table = |lun: &Lun| san.dm.table(&lun.map.name).contains("queue_if_no_path");
    assert_eq!((by_table(queueing), by_table(failing)), (true, false));
    let exporter = lab.exporter().flag("--reread.interval=1s").start();

    // Every scrape must say so, whichever reading it shows.
    let suspended = || {
        let metrics = exporter.metrics();
        let value = |name, lun: &Lun| metrics.value(name, &[("wwid", &lun.wwid)]);
        let queues = [queueing, failing].map(|lun| value("multipath_device_queueing", lun));
        let suspended = [queueing, failing].map(|lun| value("multipath_device_suspended", lun));
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
