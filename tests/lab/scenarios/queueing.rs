//! What happens to I/O when no path is left: the option `no_path_retry`, over paths whose checker fails.

use super::Scenario;
use crate::exporter::Exporter;
use crate::guest::Lab;
use crate::multipathd::Conf;
use crate::san::San;
use crate::wait::eventually_eq;

pub const ALL: &[Scenario] = &[
    Scenario::new("queueing_for_ever", queueing_for_ever),
    Scenario::new("queueing_until_retries_run_out", queueing_until_retries_run_out),
    Scenario::new("queueing_never", queueing_never),
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
