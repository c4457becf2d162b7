//! The kernel's scsi_debug driver: disks that are seen on several hosts, as a SAN's LUNs are.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::dm;
use crate::programs::run;
use crate::wait::{PATIENCE, eventually};

/// What the driver calls its disks.
pub const PRODUCT: &str = "scsi_debug";

/// One SCSI disk: one path to a LUN.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Disk {
    pub name: String,
    pub devno: String,
    /// Host, channel, target and LUN.
    pub hctl: String,
}

impl Disk {
    fn attribute(&self, name: &str) -> PathBuf {
        Path::new("/sys/block").join(&self.name).join("device").join(name)
    }

    /// The SCSI layer's state of the device.
    pub fn scsi_state(&self) -> String {
        let path = self.attribute("state");
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}")).trim().to_owned()
    }

    /// Makes every command fail, which multipathd's checker then sees.
    pub fn set_offline(&self) {
        self.write("state", "offline");
    }

    /// Undoes [`Disk::set_offline`].
    pub fn set_running(&self) {
        self.write("state", "running");
    }

    /// Takes the disk away for good.
    pub fn delete(&self) {
        self.write("delete", "1");
        let name = Path::new("/sys/block").join(&self.name);
        eventually("the disk goes", PATIENCE, || match name.exists() {
            true => Err(format!("{name:?} is still there")),
            false => Ok(()),
        });
    }

    /// Has the driver's host look for the disk that it showed before, which will be another one with the same identity.
    pub fn rescan(&self) {
        let (host, address) = self.hctl.split_once(':').expect("an address begins with its host");
        let path = format!("/sys/class/scsi_host/host{host}/scan");
        fs::write(&path, address.replace(':', " ")).unwrap_or_else(|e| panic!("{path}: {e}"));
    }

    fn is_on_standby(&self) -> bool {
        let host = self.hctl.split(':').next().and_then(|host| host.parse::<u32>().ok());
        host.expect("a host has a number") % 3 == 2
    }

    fn write(&self, attribute: &str, value: &str) {
        let path = self.attribute(attribute);
        fs::write(&path, format!("{value}\n")).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    }
}

/// Loads the driver: `hosts` paths, an even number, to each of `luns` disks that say they are this product.
///
/// Sharing its disks between hosts, the driver gives the hosts the ALUA states optimized, non-optimized and standby in
/// turn (`host_no % 3` in `resp_report_tgtpgs`). The first stray read over a standby path would fail it, so the disks of
/// every third host are taken away again.
pub fn load(hosts: usize, luns: usize, product: &str) -> BTreeSet<Disk> {
    assert_eq!(hosts % 2, 0, "two of three hosts can be used");
    let all_hosts = hosts / 2 * 3;
    // Without vpd_use_hostno=0 each host would show disks of its own.
    let common = ["scsi_debug", "vpd_use_hostno=0", "num_tgts=1", "dev_size_mb=8"].map(str::to_owned);
    // The product comes last: the kernel takes all that follows a quotation mark for part of it.
    let own = [format!("add_host={all_hosts}"), format!("max_luns={luns}"), format!("inq_product={product}")];
    run("modprobe", common.iter().chain(&own));
    let disks = eventually("scsi_debug shows its disks", PATIENCE, || {
        let disks = disks();
        match disks.len() == all_hosts * luns {
            true => Ok(disks),
            false => Err(format!("{disks:?}")),
        }
    });
    let (standby, usable): (Vec<_>, _) = disks.into_iter().partition(Disk::is_on_standby);
    standby.iter().for_each(Disk::delete);
    usable.into_iter().collect()
}

fn disks() -> BTreeSet<Disk> {
    let entries = fs::read_dir("/sys/block").expect("/sys/block is there");
    entries.filter_map(|entry| disk(&entry.ok()?.file_name().into_string().ok()?)).collect()
}

fn disk(name: &str) -> Option<Disk> {
    let device = fs::canonicalize(format!("/sys/block/{name}/device")).ok()?;
    device.starts_with("/sys/devices/pseudo_0").then(|| Disk {
        name: name.to_owned(),
        devno: dm::devno(name),
        hctl: device.file_name().unwrap_or_default().to_string_lossy().into_owned(),
    })
}
