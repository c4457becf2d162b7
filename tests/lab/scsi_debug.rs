//! The kernel's scsi_debug driver: disks that are seen on several hosts, as a SAN's LUNs are.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::programs::run;
use crate::scsi_disk::{self, Disk};
use crate::wait::{PATIENCE, eventually};

/// What the driver calls its disks.
pub const PRODUCT: &str = "scsi_debug";

/// How large they are, in MiB: each has room for file systems.
pub const SIZE_MB: u32 = 48;

/// Loads the driver: `hosts` paths, an even number, to each of `luns` disks that say they are this product. What is
/// written to one of them is on all.
///
/// Sharing its disks between hosts, the driver gives the hosts the ALUA states optimized, non-optimized and standby in
/// turn (`host_no % 3` in `resp_report_tgtpgs`). The first stray read over a standby path would fail it, so the disks of
/// every third host are taken away again.
pub fn load(hosts: usize, luns: usize, product: &str) -> BTreeSet<Disk> {
    load_of_size(SIZE_MB, hosts, luns, product)
}

/// The same, with disks of so many MiB.
pub fn load_of_size(size_mb: u32, hosts: usize, luns: usize, product: &str) -> BTreeSet<Disk> {
    assert_eq!(hosts % 2, 0, "two of three hosts can be used");
    let all_hosts = hosts / 2 * 3;
    // Without vpd_use_hostno=0 each host would show disks of its own.
    let size = format!("dev_size_mb={size_mb}");
    let common = ["scsi_debug", "vpd_use_hostno=0", "num_tgts=1", &size].map(str::to_owned);
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
    let (standby, usable): (Vec<_>, _) = disks.into_iter().partition(is_on_standby);
    standby.iter().for_each(Disk::delete);
    usable.into_iter().collect()
}

/// The disks that the driver shows now.
pub fn disks() -> BTreeSet<Disk> {
    scsi_disk::below(|device| device.starts_with("/sys/devices/pseudo_0"))
}

fn is_on_standby(disk: &Disk) -> bool {
    let host = disk.hctl.split(':').next().and_then(|host| host.parse::<u32>().ok());
    host.expect("a host has a number") % 3 == 2
}

/// Until dropped, no disk answers.
pub struct Mute(());

impl Mute {
    /// From now on.
    pub fn start() -> Self {
        // Every command is swallowed (SDEBUG_OPT_TIMEOUT).
        set("opts", "4");
        set("every_nth", "1");
        Mute(())
    }
}

impl Drop for Mute {
    fn drop(&mut self) {
        set("every_nth", "0");
        set("opts", "0");
    }
}

/// Sets a parameter of the driver, which all disks go by from now on.
pub fn set(parameter: &str, value: &str) {
    let file = Path::new("/sys/bus/pseudo/drivers/scsi_debug").join(parameter);
    fs::write(&file, value).unwrap_or_else(|e| panic!("{file:?}: {value}: {e}"));
}
