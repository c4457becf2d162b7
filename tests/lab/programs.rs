//! Programs that the lab drives.

use std::ffi::OsStr;
use std::fs;
use std::process::{self, Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::wait::try_eventually;

/// Runs a program that must succeed, and gives its standard output.
#[track_caller]
pub fn run<A: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = A>) -> String {
    try_run(program, args).unwrap_or_else(|failure| panic!("{failure}"))
}

/// Runs a program; a failure carries the command line and what it said.
pub fn try_run<A: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = A>) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim_end())),
    }
}

/// Waits for a program that was told to end, and kills it if it does not: `None`.
pub fn reap(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let ended = try_eventually(patience, || match child.try_wait() {
        Ok(Some(status)) => Ok(status),
        Ok(None) => Err("it still runs".to_owned()),
        Err(e) => Err(e.to_string()),
    });
    if ended.is_err() {
        // It may be gone by now, and a process that cannot be killed cannot be waited for either.
        let _ = child.kill();
    }
    ended.ok()
}

/// Keeps everything else from the machine's only processor while this program has something to do, until dropped.
///
/// The kernel hands uevents of device mapper to a worker. It cannot run between two ioctls then, finds both events when
/// it does, and sends the last one first.
pub struct Uninterrupted(());

impl Uninterrupted {
    /// From now on.
    pub fn start() -> Self {
        run("chrt", ["--fifo", "--pid", "50", &process::id().to_string()]);
        Uninterrupted(())
    }
}

impl Drop for Uninterrupted {
    fn drop(&mut self) {
        // The next scenario only gets slower if this fails.
        let _ = try_run("chrt", ["--other", "--pid", "0", &process::id().to_string()]);
    }
}

/// Time that the threads in this `task` directory of procfs have had on a processor.
pub fn cpu_time(tasks: &str) -> Duration {
    let threads = fs::read_dir(tasks).unwrap_or_else(|e| panic!("{tasks}: {e}"));
    let nanos = threads.filter_map(|thread| {
        let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}
