//! A small storage network: SCSI disks of scsi_debug or others under a real multipathd.

use std::collections::BTreeSet;

use crate::dm::{Dm, Map};
use crate::guest::Lab;
use crate::multipathd::{Conf, Multipathd};
use crate::scsi_debug;
use crate::scsi_disk::Disk;
use crate::udevd;
use crate::wait::{PATIENCE, eventually};

/// A multipath device that multipathd created.
pub struct Lun {
    pub wwid: String,
    pub map: Map,
    pub paths: Vec<Disk>,
}

impl Lun {
    /// multipathd's name of the device.
    pub fn name(&self) -> &str {
        self.map.alias()
    }
}

/// The network. Dropping the value stops multipathd.
pub struct San {
    pub daemon: Multipathd,
    pub dm: Dm,
    pub luns: Vec<Lun>,
}

impl San {
    /// Starts the network. Each LUN is one device with a valid path over each host.
    pub fn start(lab: &Lab, hosts: usize, luns: usize, conf: Conf) -> Self {
        San::of_product(scsi_debug::PRODUCT, lab, hosts, luns, conf)
    }

    /// Like [`San::start`], with disks of this product name.
    pub fn of_product(product: &str, lab: &Lab, hosts: usize, luns: usize, conf: Conf) -> Self {
        San::over(&scsi_debug::load(hosts, luns, product), luns, lab, conf)
    }

    /// Starts multipathd over these disks. Every LUN has the same number of paths, and all are
    /// valid.
    pub fn over(disks: &BTreeSet<Disk>, luns: usize, lab: &Lab, conf: Conf) -> Self {
        udevd::settle().expect("udevd keeps up");
        let daemon = Multipathd::start(lab.dir(), conf);
        let dm = Dm::open();
        let luns = eventually("multipathd makes its maps", PATIENCE, || {
            let found = lun_list(&dm, disks);
            let checked = daemon.ask("show paths raw format \"%d %t %T %C\"").map_err(|e| e.to_string())?;
            let ready = checked.lines().filter(|line| line.contains(" active ready ") && was_checked(line)).count();
            if found.len() == luns
                && found.iter().all(|lun| luns * lun.paths.len() == disks.len())
                && ready == disks.len()
            {
                Ok(found)
            } else {
                Err(format!("{} maps; paths by multipathd:\n{checked}", found.len()))
            }
        });
        udevd::settle().expect("udevd keeps up");
        San { daemon, dm, luns }
    }

    /// The devices that have these disks as valid paths.
    pub fn luns_over(&self, disks: &BTreeSet<Disk>) -> Vec<Lun> {
        let mut luns = lun_list(&self.dm, disks);
        luns.retain(|lun| !lun.paths.is_empty());
        luns
    }
}

/// Returns true if the checker has tested this path. The first test comes within a second for any
/// polling interval, and would undo a `fail_path`. The line ends with the seconds until the next
/// test, a slash, and the interval in seconds.
fn was_checked(line: &str) -> bool {
    let seconds = line.rsplit(' ').next().and_then(|last| last.split_once('/'));
    seconds.is_some_and(|(left, between)| left != "1" || between == "1")
}

fn lun_list(dm: &Dm, disks: &BTreeSet<Disk>) -> Vec<Lun> {
    let maps = dm.multipaths().into_iter();
    maps.map(|(wwid, map)| {
        let members = dm.paths(&map.name);
        let paths = disks.iter().filter(|disk| members.get(&disk.devno) == Some(&true)).cloned().collect();
        Lun { wwid, map, paths }
    })
    .collect()
}
