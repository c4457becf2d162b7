//! multipathd's state of a path, beside the kernel's state.

use super::Scenario;
use crate::exporter::Exporter;
use crate::guest::Lab;
use crate::lio::{Alua, Lio};
use crate::multipathd::{Conf, Multipathd};
use crate::san::San;
use crate::scsi_debug;
use crate::scsi_disk::Disk;
use crate::wait::{PATIENCE, compare, eventually_eq, try_eventually};

pub const ALL: &[Scenario] = &[
    Scenario::new("checker_follows_alua", checker_follows_alua),
    Scenario::new("checker_delays_an_unsteady_path", checker_delays_an_unsteady_path),
    Scenario::new("path_held_marginal", path_held_marginal),
    Scenario::new("checker_times_out", checker_times_out),
];

/// multipathd since 0.9.5 checks LIO's paths with `directio`. That checker reads, so it calls a
/// standby path faulty. `tur` tells the two apart.
const BY_PRIORITY: Conf =
    Conf { path_grouping_policy: "group_by_prio", sections: "overrides {\n path_checker tur\n}", ..Conf::WATCHFUL };

/// Validity, the checker's state, and the kernel's ALUA state of the path.
type Words = (bool, String, Option<String>);

fn words(exporter: &Exporter, wwid: &str, disk: &Disk) -> Words {
    let metrics = exporter.metrics();
    let path = [("wwid", wwid), ("path", disk.name.as_str())];
    let access = metrics.series("multipath_path_access_state").map(|(labels, _)| labels);
    let access = access.filter(|labels| labels["path"] == disk.name).map(|labels| labels["state"].clone()).next();
    let valid = metrics.value("multipath_path_valid", &path) == 1.0;
    (valid, metrics.state("multipath_path_checker_state", &path), access)
}

/// A standby path is valid: the kernel would send I/O to it. multipathd calls it a ghost.
fn checker_follows_alua(lab: &Lab) {
    let lio = Lio::start(lab, 3, BY_PRIORITY);
    // A later multipathd waits for the end of the transition, and keeps the former state. There only
    // the kernel's state changes.
    let transitioning = if Multipathd::is_older_than("0.9.5") { (false, "faulty") } else { (true, "ready") };
    let (lun, disk) = (&lio.san.luns[0], &lio.disks[1]);
    let exporter = lab.exporter().start();
    for (state, (valid, checker), access) in [
        (Alua::Standby, (true, "ghost"), "standby"),
        (Alua::Unavailable, (false, "faulty"), "unavailable"),
        (Alua::NonOptimized, (true, "ready"), "active/non-optimized"),
        (Alua::Transitioning, transitioning, "transitioning"),
        (Alua::Optimized, (true, "ready"), "active/optimized"),
    ] {
        lio.set_alua(1, state);
        // The kernel asks the array for the new state once the array has reported the change. If an
        // answer to I/O tells of the transition first, the kernel waits for its end, and shows the
        // former state (`alua_rtpg_work` in `drivers/scsi/device_handler/scsi_dh_alua.c`).
        let asked = try_eventually(PATIENCE / 3, || compare(&access.to_owned(), disk.access_state()));
        if let Err(kept) = asked {
            assert!(matches!(state, Alua::Transitioning), "{kept}");
            lab.note(format!("the kernel kept the state {} during the transition", disk.access_state()));
        }
        let want = (valid, checker.to_owned(), Some(disk.access_state()));
        eventually_eq(&format!("{access} is shown"), want, || words(&exporter, &lun.wwid, disk));
        assert_eq!(exporter.differences(&lio.san.dm), Vec::<String>::new());
    }
}

/// multipathd's state of a path. The request does not change it, unlike a request for maps.
fn own_word(daemon: &Multipathd, disk: &Disk) -> String {
    let paths = daemon.ask("show paths raw format \"%d %T\"").expect("multipathd answers");
    let word = paths.lines().find_map(|line| line.strip_prefix(&format!("{} ", disk.name)));
    word.unwrap_or_else(|| panic!("no {} in {paths}", disk.name)).to_owned()
}

/// The path works again, and multipathd delays its reinstatement. A request for maps makes
/// multipathd before 0.9.8 forget the reason until the next check.
fn checker_delays_an_unsteady_path(lab: &Lab) {
    let options = &["san_path_err_threshold 1", "san_path_err_forget_rate 30", "san_path_err_recovery_time 600"];
    let San { daemon, dm, luns } = San::start(lab, 2, 1, Conf { more: options, ..Conf::WATCHFUL });
    let (lun, disk) = (&luns[0], &luns[0].paths[0]);
    let exporter = lab.exporter().start();
    let active = || dm.paths(&lun.map.name)[&disk.devno];
    let delayed = || own_word(&daemon, disk) == "delayed";
    for _ in 0..5 {
        disk.set_offline();
        eventually_eq("the checker fails the path", false, active);
        disk.set_running();
        eventually_eq("the path works again, or waits", true, || active() || delayed());
        if !active() {
            break;
        }
    }
    exporter.wait_for_counts(&lun.wwid, 1, 1);
    let path = [("wwid", lun.wwid.as_str()), ("path", disk.name.as_str())];
    eventually_eq("the SCSI layer has nothing against it", "running".to_owned(), || {
        exporter.metrics().state("multipath_path_device_state", &path)
    });
    eventually_eq("multipathd waits", true, delayed);
    let word = exporter.metrics().state("multipath_path_checker_state", &path);
    assert!(["faulty", "delayed"].contains(&word.as_str()), "{word}");
    assert_eq!(exporter.differences(&dm), Vec::<String>::new());
}

fn path_held_marginal(lab: &Lab) {
    let san = San::start(lab, 2, 1, Conf { more: &["marginal_pathgroups on"], ..Conf::BLIND });
    let (lun, disk) = (&san.luns[0], &san.luns[0].paths[0]);
    let exporters = [lab.exporter().start(), lab.exporter().unprivileged().start()];
    let marginal = |exporter: &Exporter, disk: &Disk| {
        let path = [("wwid", lun.wwid.as_str()), ("path", disk.name.as_str())];
        exporter.metrics().value("multipath_path_marginal", &path)
    };
    for (command, value) in [("setmarginal", 1.0), ("unsetmarginal", 0.0)] {
        san.daemon.ask(&format!("{command} path {}", disk.name)).expect("multipathd answers");
        for exporter in &exporters {
            eventually_eq(&format!("{command} is shown"), value, || marginal(exporter, disk));
            assert_eq!(marginal(exporter, &lun.paths[1]), 0.0);
            exporter.wait_for_counts(&lun.wwid, 2, 0);
        }
    }
}

/// As with a delay, the state lasts until a client requests the maps.
fn checker_times_out(lab: &Lab) {
    let san = San::start(lab, 2, 1, Conf { more: &["checker_timeout 2"], ..Conf::WATCHFUL });
    let lun = &san.luns[0];
    let exporter = lab.exporter().flag("--reread.interval=1s").start();
    let mute = scsi_debug::Mute::start();
    exporter.wait_for_counts(&lun.wwid, 0, 2);
    for disk in &lun.paths {
        let what = "the checker had no answer in time";
        eventually_eq(what, "i/o timeout".to_owned(), || own_word(&san.daemon, disk));
        let (valid, word, _) = words(&exporter, &lun.wwid, disk);
        assert!(!valid && ["faulty", "i/o timeout"].contains(&word.as_str()), "{word}");
    }
    exporter.wait_for_path_events(&lun.wwid, 2, 0);
    drop(mute);
    exporter.wait_for_counts(&lun.wwid, 2, 0);
}
