//! The kernel's scsi_debug driver: disks that several hosts see, like LUNs of a SAN.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::programs::run;
use crate::scsi_disk::{self, Disk};
use crate::wait::{PATIENCE, eventually};

/// The product name of the driver's disks.
pub const PRODUCT: &str = "scsi_debug";

/// The size of the disks in MiB. It leaves room for file systems.
pub const SIZE_MB: u32 = 48;

/// Loads the driver with `hosts` paths, an even number, to each of `luns` disks of this product
/// name. All paths of a disk share its data.
///
/// The driver gives its hosts the ALUA states optimized, non-optimized and standby in turn
/// (`host_no % 3` in `resp_report_tgtpgs`). A stray read over a standby path would fail that path.
/// Therefore the function removes the disks of every third host.
pub fn load(hosts: usize, luns: usize, product: &str) -> BTreeSet<Disk> {
    load_of_size(SIZE_MB, hosts, luns, product)
}

/// Like [`load`], with disks of this size.
pub fn load_of_size(size_mb: u32, hosts: usize, luns: usize, product: &str) -> BTreeSet<Disk> {
    assert_eq!(hosts % 2, 0, "two of three hosts can be used");
    let all_hosts = hosts / 2 * 3;
    // Without vpd_use_hostno=0, each host would have disks of its own.
    let size = format!("dev_size_mb={size_mb}");
    let common = ["scsi_debug", "vpd_use_hostno=0", "num_tgts=1", &size].map(str::to_owned);
    // The product comes last, because the kernel takes all text after a quotation mark for part of
    // it.
    let own = [format!("add_host={all_hosts}"), format!("max_luns={luns}"), format!("inq_product={product}")];
    run("modprobe", common.iter().chain(&own));
    let disks = eventually("scsi_debug shows its disks", PATIENCE, || {
        let disks = disks();
        if disks.len() == all_hosts * luns { Ok(disks) } else { Err(format!("{disks:?}")) }
    });
    let (standby, usable): (Vec<_>, _) = disks.into_iter().partition(is_on_standby);
    standby.iter().for_each(Disk::delete);
    usable.into_iter().collect()
}

/// The driver's present disks.
pub fn disks() -> BTreeSet<Disk> {
    scsi_disk::below(|device| device.starts_with("/sys/devices/pseudo_0"))
}

fn is_on_standby(disk: &Disk) -> bool {
    let host = disk.hctl.split(':').next().and_then(|host| host.parse::<u32>().ok());
    host.expect("a host has a number") % 3 == 2
}

/// Makes every disk silent until the value is dropped.
pub struct Mute(());

impl Mute {
    /// Makes the disks silent.
    pub fn start() -> Self {
        // The driver swallows every command (SDEBUG_OPT_TIMEOUT).
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

/// Sets a parameter of the driver for all disks.
pub fn set(parameter: &str, value: &str) {
    let file = Path::new("/sys/bus/pseudo/drivers/scsi_debug").join(parameter);
    fs::write(&file, value).unwrap_or_else(|e| panic!("{file:?}: {value}: {e}"));
}
