//! Block devices without a SCSI part, to put under maps; one may be under many at once.

use crate::dm;
use crate::programs::run;

/// Loads null_blk, whose devices swallow everything, and gives their device numbers.
pub fn null_blk(devices: usize) -> Vec<String> {
    // queue_mode=0: they take bios without a queue of requests.
    run("modprobe", ["null_blk", &format!("nr_devices={devices}"), "gb=1", "queue_mode=0", "submit_queues=1"]);
    (0..devices).map(|i| dm::devno(&format!("nullb{i}"))).collect()
}

/// Loads brd, the kernel's RAM disks of so many MiB, and gives their device numbers. They take memory for what is written.
pub fn brd(devices: usize, size_mb: usize) -> Vec<String> {
    run("modprobe", ["brd", &format!("rd_nr={devices}"), &format!("rd_size={}", size_mb << 10)]);
    (0..devices).map(|i| dm::devno(&format!("ram{i}"))).collect()
}
