//! Block devices without a SCSI part for use below maps. Many maps may share one.

use crate::dm;
use crate::programs::run;

/// Loads null_blk, whose devices discard everything, and returns their device numbers.
pub fn null_blk(devices: usize) -> Vec<String> {
    // queue_mode=0: the devices take bios and have no request queue.
    run("modprobe", ["null_blk", &format!("nr_devices={devices}"), "gb=1", "queue_mode=0", "submit_queues=1"]);
    (0..devices).map(|i| dm::devno(&format!("nullb{i}"))).collect()
}

/// Loads brd with RAM disks of this size, and returns their device numbers. Only written data takes
/// memory.
pub fn brd(devices: usize, size_mb: usize) -> Vec<String> {
    run("modprobe", ["brd", &format!("rd_nr={devices}"), &format!("rd_size={}", size_mb << 10)]);
    (0..devices).map(|i| dm::devno(&format!("ram{i}"))).collect()
}
