//! systemd-udevd in the machine. With it, the machine handles events like a server. Without it,
//! thousands of maps take seconds.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;

use crate::programs::try_run;
use crate::wait::{PATIENCE, eventually};

/// Rules of sg3-utils. They give disks another WWID, and take half of a disk's time.
const MASKED_RULES: [&str; 2] = ["55-scsi-sg3_id.rules", "58-scsi-sg3_symlink.rules"];

/// Makes udevd use the identifiers that the scenarios expect.
pub fn mask_rules() -> io::Result<()> {
    fs::create_dir_all("/etc/udev/rules.d")?;
    MASKED_RULES.iter().try_for_each(|rules| symlink("/dev/null", format!("/etc/udev/rules.d/{rules}")))?;
    // On a busy machine udevd may end the connection before the client has said its last word.
    eventually("udevd reads its rules", PATIENCE, || control("--reload"));
    Ok(())
}

fn control(request: &str) -> Result<(), String> {
    try_run("udevadm", ["control", "--timeout=10", request]).map(drop)
}

/// The state of each process of udevd (`proc_pid_stat(5)`). Before systemd 252 the workers have the
/// name of the daemon.
fn processes() -> Vec<String> {
    let processes = fs::read_dir("/proc").expect("/proc is there");
    let states = processes.filter_map(|entry| {
        let stat = fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
        let (name, rest) = stat.split_once(") ")?;
        name.ends_with("(systemd-udevd").then(|| format!("{name}) {}", &rest[..1]))
    });
    states.collect()
}

/// Stops udevd. Nothing creates nodes in `/dev/mapper` then.
pub fn stop() {
    // udevd waits for its workers, which wait for processors on a busy machine.
    eventually("udevd leaves", 3 * PATIENCE, || {
        let processes = processes();
        if processes.is_empty() {
            return Ok(());
        }
        // The request fails while udevd is on its way out.
        let answer = control("--exit");
        Err(format!("{processes:?} still run: {answer:?}"))
    });
}

/// Starts udevd unless it runs.
pub fn start() -> Result<(), String> {
    if !processes().is_empty() {
        return Ok(());
    }
    try_run("/lib/systemd/systemd-udevd", ["--daemon"]).map(drop)
}

/// Waits until udevd is idle.
pub fn settle() -> Result<(), String> {
    try_run("udevadm", ["settle", "--timeout=120"]).map(drop)
}
