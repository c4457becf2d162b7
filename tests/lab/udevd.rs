//! systemd-udevd in the machine. With it, the machine handles events like a server. Without it,
//! thousands of maps take seconds.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;

use crate::programs::{run, try_run};
use crate::wait::{PATIENCE, eventually};

/// Rules of sg3-utils. They give disks another WWID, and take half of a disk's time.
const MASKED_RULES: [&str; 2] = ["55-scsi-sg3_id.rules", "58-scsi-sg3_symlink.rules"];

/// Makes udevd use the identifiers that the scenarios expect.
pub fn mask_rules() -> io::Result<()> {
    fs::create_dir_all("/etc/udev/rules.d")?;
    MASKED_RULES.iter().try_for_each(|rules| symlink("/dev/null", format!("/etc/udev/rules.d/{rules}")))?;
    run("udevadm", ["control", "--reload"]);
    Ok(())
}

fn is_running() -> bool {
    let processes = fs::read_dir("/proc").expect("/proc is there");
    let names = processes.filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("comm")).ok());
    names.into_iter().any(|name| name.trim() == "systemd-udevd")
}

/// Stops udevd. Nothing creates nodes in `/dev/mapper` then.
pub fn stop() {
    run("udevadm", ["control", "--exit"]);
    eventually("udevd leaves", PATIENCE, || if is_running() { Err("it still runs".to_owned()) } else { Ok(()) });
}

/// Starts udevd unless it runs.
pub fn start() -> Result<(), String> {
    if is_running() {
        return Ok(());
    }
    try_run("/lib/systemd/systemd-udevd", ["--daemon"]).map(drop)
}

/// Waits until udevd is idle.
pub fn settle() -> Result<(), String> {
    try_run("udevadm", ["settle", "--timeout=120"]).map(drop)
}
