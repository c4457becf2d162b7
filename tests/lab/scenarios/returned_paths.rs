//! Paths are removed in order and return, mostly with their former device number. Exporters run as
//! root and as `nobody`.
//!
//! The exporters' resyncs are too rare to help: events alone must give a path its name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Scenario;
use super::iscsi::CONF;
use crate::dm::Paths;
use crate::exporter::Exporter;
use crate::guest::Lab;
use crate::iscsi::{self, IscsiSan, TARGET, portals};
use crate::metrics::Metrics;
use crate::multipathd::Conf;
use crate::san::{Lun, San};
use crate::scsi_debug;
use crate::scsi_disk::Disk;
use crate::wait::{PATIENCE, eventually, eventually_eq};

pub const ALL: &[Scenario] = &[
    Scenario::new("iscsi_paths_return_with_their_names", iscsi_paths_return_with_their_names),
    Scenario::new("rescanned_paths_return_with_their_names", rescanned_paths_return_with_their_names),
];

/// The number of times that paths go and return.
const ROUNDS: usize = 8;

/// Longer than any scenario.
const BY_EVENTS: &str = "--resync.interval=10m";

/// The page must show every fact about every path this soon after the kernel's maps are complete.
/// An emulated machine is slow.
const SOON: Duration = Duration::from_secs(10);

/// The types of events that name a path.
const PATH_EVENTS: [&str; 4] = ["path_added", "path_removed", "path_failed", "path_reinstated"];

/// Labels of a path.
type Told = BTreeMap<&'static str, String>;

/// Exporters over a SAN whose paths return.
struct Watch<'a> {
    san: &'a San,
    exporters: [(&'static str, Exporter); 2],
    /// The present disks.
    disks: fn() -> BTreeSet<Disk>,
    /// The labels that the page must show beside name, number and SCSI address.
    way: &'a dyn Fn(&Disk) -> Told,
    /// The numbers of removed disks, and how often a disk returned with one of them.
    numbers: BTreeSet<String>,
    came_back: usize,
    /// The longest time that each exporter took.
    slowest: [Duration; 2],
}

impl<'a> Watch<'a> {
    fn start(lab: &Lab, san: &'a San, disks: fn() -> BTreeSet<Disk>, way: &'a dyn Fn(&Disk) -> Told) -> Self {
        let launch = || lab.exporter().flag(BY_EVENTS);
        let exporters = [("root", launch().start()), ("nobody", launch().unprivileged().start())];
        let (numbers, came_back, slowest) = (BTreeSet::new(), 0, [Duration::ZERO; 2]);
        let mut watch = Watch { san, exporters, disks, way, numbers, came_back, slowest };
        watch.wait_for_names("at the start");
        watch
    }

    /// Removes disks, and waits until each map has lost this number of members. With `seen`, the
    /// exporters must show that, too.
    fn lose(&mut self, paths: &[usize], seen: bool, take_away: impl FnOnce()) {
        let before = (self.disks)();
        take_away();
        let left = || self.san.luns.iter().zip(paths).map(|(lun, lost)| (lun, lun.paths.len() - lost));
        for (lun, left) in left() {
            eventually_eq("the kernel's map is without the disk", left, || self.san.dm.paths(&lun.map.name).len());
        }
        for (lun, left) in left().filter(|_| seen) {
            self.exporters.iter().for_each(|(_, exporter)| exporter.wait_for_counts(&lun.wwid, left as u64, 0));
        }
        self.numbers = before.difference(&(self.disks)()).map(|disk| disk.devno.clone()).collect();
    }

    /// Waits until the kernel's maps are complete, and then briefly until the page shows all of
    /// their paths.
    fn wait_for_names(&mut self, when: &str) {
        let members = eventually("the kernel's maps are whole", PATIENCE, || self.members());
        let start = Instant::now();
        let what = format!("the page tells all of every path, {when}");
        let mut took = [None; 2];
        eventually(&what, SOON, || {
            let mut lacking = Vec::new();
            for ((who, exporter), took) in self.exporters.iter().zip(&mut took) {
                let before = lacking.len();
                let metrics = exporter.metrics();
                for (lun, members) in &members {
                    let want: BTreeSet<_> = members.iter().map(|disk| self.to_be_told(disk)).collect();
                    let told = told(&metrics, lun, &want);
                    if told != want {
                        lacking.push(format!("{who}, {}\n  page: {told:?}\n  want: {want:?}", lun.name()));
                    }
                }
                if lacking.len() == before {
                    took.get_or_insert_with(|| start.elapsed());
                }
            }
            if lacking.is_empty() { Ok(()) } else { Err(lacking.join("\n")) }
        });
        for (slowest, took) in self.slowest.iter_mut().zip(took) {
            *slowest = took.map_or(*slowest, |took| took.max(*slowest));
        }
        let returned =
            members.iter().flat_map(|(_, members)| members).filter(|disk| self.numbers.contains(&disk.devno));
        self.came_back += returned.count();
    }

    /// The members of each map, if all of them exist and are valid.
    fn members(&self) -> Result<Vec<(&'a Lun, Vec<Disk>)>, String> {
        let san: &'a San = self.san;
        let maps: Vec<_> = san.luns.iter().map(|lun| (lun, san.dm.paths(&lun.map.name))).collect();
        let is_whole =
            |(lun, paths): &(&Lun, Paths)| paths.len() == lun.paths.len() && paths.values().all(|active| *active);
        if !maps.iter().all(is_whole) {
            return Err(format!("{:?}", maps.into_iter().map(|(lun, paths)| (lun.name(), paths)).collect::<Vec<_>>()));
        }
        // A disk may be incomplete before its map holds it.
        let disks = (self.disks)();
        let members = |paths: &Paths| disks.iter().filter(|disk| paths.contains_key(&disk.devno)).cloned().collect();
        Ok(maps.iter().map(|(lun, paths)| (*lun, members(paths))).collect())
    }

    fn to_be_told(&self, disk: &Disk) -> Told {
        let own = [("path", &disk.name), ("devno", &disk.devno), ("hctl", &disk.hctl)];
        let own = own.into_iter().map(|(label, value)| (label, value.clone()));
        own.chain((self.way)(disk)).chain([("state", "running".to_owned())]).collect()
    }

    /// Checks that no event and no log line names a path by its number.
    fn conclude(self, lab: &Lab) {
        let Watch { san, exporters, came_back, slowest, .. } = self;
        let [root, nobody] = slowest;
        lab.note(format!("{came_back} disks came back under their number"));
        lab.note(format!("the page took at most {root:.1?} as root, {nobody:.1?} as nobody"));
        assert!(came_back > 0, "no disk came back under the number that it had");
        let mut nameless = Vec::new();
        for (who, exporter) in &exporters {
            let events = |lun: &Lun, kind| exporter.events(&lun.wwid, kind).into_iter();
            let of_paths =
                || PATH_EVENTS.into_iter().flat_map(|kind| san.luns.iter().flat_map(move |lun| events(lun, kind)));
            let is_nameless = |event: &Value| !event["path"].as_str().is_some_and(|path| path.starts_with("sd"));
            assert!(of_paths().any(|event| event["type"] == "path_added"), "{who}: no path was told to have come");
            let events = of_paths().filter(is_nameless).map(|event| event.to_string());
            let lines = exporter.log_lines_of_nameless_paths();
            nameless.extend(events.chain(lines).map(|text| format!("{who}: {text}")));
        }
        assert!(nameless.is_empty(), "a path is called by its number\n{}", nameless.join("\n"));
    }
}

/// The labels of interest that the page shows for each path of a device. `state` is its SCSI state.
fn told(metrics: &Metrics, lun: &Lun, of_interest: &BTreeSet<Told>) -> BTreeSet<Told> {
    let labels: BTreeSet<_> = of_interest.iter().flat_map(BTreeMap::keys).copied().collect();
    let infos = metrics.series("multipath_path_info").map(|(info, _)| info).filter(|info| info["wwid"] == lun.wwid);
    let told = infos.map(|info| {
        let mut states = metrics.series("multipath_path_device_state").map(|(labels, _)| labels);
        let state = states.find(|state| state["wwid"] == lun.wwid && state["path"] == info["path"]);
        let value = |label: &str| state.filter(|_| label == "state").or(Some(info))?.get(label).cloned();
        labels.iter().map(|label| (*label, value(label).unwrap_or_default())).collect()
    });
    told.collect()
}

/// A session ends and is created again. Its disks go and return, and each map meanwhile runs
/// without them.
fn iscsi_paths_return_with_their_names(lab: &Lab) {
    let array = IscsiSan::start(lab, 2, 1, CONF);
    let way = |disk: &Disk| {
        let device = fs::canonicalize(disk.attribute("")).expect("the disk is there");
        let mut parts = device.iter().filter_map(|part| part.to_str());
        let session = parts.find(|part| part.starts_with("session")).expect("the disk belongs to a session");
        let file = format!("/sys/class/iscsi_session/{session}/ifacename");
        let interface = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file}: {e}"));
        let network = array.networks.0.iter().find(|network| network.interface == interface.trim());
        let network = network.expect("sessions go over the networks");
        let ports = [("initiator_port", network.interface), ("target", TARGET), ("target_port", &portals(network)[0])];
        [("transport", "iscsi")].into_iter().chain(ports).map(|(label, value)| (label, value.to_owned())).collect()
    };
    let mut watch = Watch::start(lab, &array.san, iscsi::disks, &way);
    for round in 0..ROUNDS {
        let network = &array.networks.0[round / 2 % 2];
        watch.lose(&[1, 1], round % 2 == 1, || array.log_out(network));
        array.log_in(network);
        watch.wait_for_names(&format!("round {round}"));
    }
    watch.conclude(lab);
}

/// A disk is deleted, and its host rescans.
fn rescanned_paths_return_with_their_names(lab: &Lab) {
    // multipathd 0.11 takes a path only at the next check if udev does not know its WWID yet.
    let san = San::start(lab, 4, 2, Conf { polling_interval: 5, ..Conf::BLIND });
    let way = |_: &Disk| Told::from([("transport", "unknown".to_owned())]);
    let mut watch = Watch::start(lab, &san, scsi_debug::disks, &way);
    for round in 0..ROUNDS {
        let lun = round / 2 % 2;
        let address = &san.luns[lun].paths[0].hctl;
        let disk = scsi_debug::disks().into_iter().find(|disk| disk.hctl == *address).expect("the disk is there");
        let lost = [usize::from(lun == 0), usize::from(lun == 1)];
        watch.lose(&lost, round % 2 == 1, || disk.delete());
        disk.rescan_host();
        watch.wait_for_names(&format!("round {round}"));
    }
    watch.conclude(lab);
}
