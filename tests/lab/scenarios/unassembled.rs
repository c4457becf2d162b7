//! Disks with several paths that no multipath device holds. Exporters run as root and as `nobody`,
//! who may read all of it.

use std::collections::BTreeMap;
use std::fs;

use super::Scenario;
use crate::dm::Dm;
use crate::exporter::Exporter;
use crate::guest::Lab;
use crate::metrics::{Metrics, count};
use crate::multipathd::{Conf, Multipathd};
use crate::scsi_debug;
use crate::udevd;
use crate::wait::{PATIENCE, eventually, eventually_eq};

pub const ALL: &[Scenario] = &[
    Scenario::new("disks_that_nothing_assembles", disks_that_nothing_assembles),
    Scenario::new("disks_that_the_configuration_leaves_alone", disks_that_the_configuration_leaves_alone),
];

/// The disks that multipathd has assembled before. `find_multipaths strict` uses this list.
const KNOWN_WWIDS: &str = "/etc/multipath/wwids";

fn unassembled(metrics: &Metrics) -> BTreeMap<String, u64> {
    let series = metrics.series("multipath_unassembled_paths");
    let disks: BTreeMap<_, _> = series.map(|(labels, paths)| (labels["wwid"].clone(), count(paths))).collect();
    assert_eq!(count(metrics.value("multipath_unassembled_wwids", &[])), disks.len() as u64);
    disks
}

struct Host {
    exporters: [Exporter; 2],
    /// The unassembled disks and their numbers of paths.
    disks: BTreeMap<String, u64>,
}

impl Host {
    /// Starts two LUNs over four paths each, without multipathd.
    fn start(lab: &Lab) -> Self {
        scsi_debug::load(4, 2, scsi_debug::PRODUCT);
        udevd::settle().expect("udevd keeps up");
        // Earlier scenarios may have left the file. Without maps it does not exist.
        let _ = fs::remove_file(KNOWN_WWIDS);
        // No event reports that multipathd ignored a disk.
        let launch = || lab.exporter().flag("--resync.interval=1s");
        let exporters = [launch().start(), launch().unprivileged().start()];
        let disks = unassembled(&exporters[0].metrics());
        assert_eq!(disks.values().collect::<Vec<_>>(), [&4, &4]);
        let host = Host { exporters, disks };
        host.wait_for_all("there is no multipathd");
        host
    }

    fn wait_for_all(&self, why: &str) {
        for exporter in &self.exporters {
            eventually_eq(why, &self.disks, || match unassembled(&exporter.metrics()) {
                disks if disks == self.disks => &self.disks,
                _ => const { &BTreeMap::new() },
            });
        }
    }

    fn wait_for_none(&self, why: &str) {
        for exporter in &self.exporters {
            eventually_eq(why, BTreeMap::new(), || unassembled(&exporter.metrics()));
        }
    }

    /// Waits for a number of resyncs, and checks that each shows the same.
    fn assert_lasts(&self) {
        for exporter in &self.exporters {
            let resyncs =
                || count(exporter.metrics().value("multipath_exporter_resyncs_total", &[("reason", "timer")]));
            let (before, told) = (resyncs(), unassembled(&exporter.metrics()));
            eventually("everything is read again", PATIENCE, || {
                let now = exporter.metrics();
                assert_eq!(unassembled(&now), told);
                if resyncs() > before + 3 { Ok(()) } else { Err("not yet".to_owned()) }
            });
        }
    }
}

fn disks_that_nothing_assembles(lab: &Lab) {
    let host = Host::start(lab);
    let dm = Dm::open();
    host.assert_lasts();

    let daemon = Multipathd::start(lab.dir(), Conf::BLIND);
    for exporter in &host.exporters {
        eventually("multipathd makes its maps", PATIENCE, || {
            let metrics = exporter.metrics();
            let left = unassembled(&metrics);
            assert!(metrics.devices().keys().all(|wwid| !left.contains_key(wwid)), "each is the one or the other");
            if metrics.devices().len() == 2 { Ok(()) } else { Err(format!("unassembled: {left:?}")) }
        });
    }
    host.wait_for_none("multipathd has made its maps");
    let maps = dm.multipaths();
    assert_eq!(maps.keys().collect::<Vec<_>>(), host.disks.keys().collect::<Vec<_>>(), "they are called the same");
    host.assert_lasts();

    daemon.stop();
    host.assert_lasts();
    eventually("the maps go", PATIENCE, || dm.clear());
    host.wait_for_all("the maps are gone");

    // multipathd sees the disks, but assembles none that it does not know.
    fs::remove_file(KNOWN_WWIDS).expect("multipathd has left it");
    let _daemon = Multipathd::start(lab.dir(), Conf { find_multipaths: "strict", ..Conf::BLIND });
    for exporter in &host.exporters {
        eventually_eq("multipathd answers", 1, || count(exporter.metrics().value("multipath_daemon_up", &[])));
    }
    host.wait_for_all("multipathd is strict");
    host.assert_lasts();
    assert!(dm.multipaths().is_empty());
}

/// multipathd's list of paths lacks every blacklisted disk. The blacklist is an administrator's
/// statement that these disks are in order, so the exporter must respect it.
fn disks_that_the_configuration_leaves_alone(lab: &Lab) {
    let host = Host::start(lab);
    let strict = Conf { find_multipaths: "strict", ..Conf::BLIND };
    let daemon = Multipathd::start(lab.dir(), strict);
    let configure = |conf: Conf| {
        conf.write();
        daemon.ask("reconfigure").expect("multipathd answers");
    };
    for sections in [
        "blacklist {\n devnode \".*\"\n}\n",
        "blacklist {\n wwid \".*\"\n}\n",
        "blacklist {\n device {\n vendor \".*\"\n product \".*\"\n }\n}\n",
        "blacklist {\n property \".*\"\n}\n",
        "blacklist {\n protocol \".*\"\n}\n",
    ] {
        host.wait_for_all("nothing is blacklisted");
        configure(Conf { sections, ..strict });
        host.wait_for_none(sections);
        host.assert_lasts();
        configure(strict);
    }
    host.wait_for_all("nothing is blacklisted");
    assert!(Dm::open().multipaths().is_empty());
}
