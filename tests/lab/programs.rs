//! Programs that the lab runs.

use std::ffi::OsStr;
use std::fs;
use std::process::{self, Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::wait::try_eventually;

/// Runs a program, and returns its standard output. It must succeed.
#[track_caller]
pub fn run<A: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = A>) -> String {
    try_run(program, args).unwrap_or_else(|failure| panic!("{failure}"))
}

/// Runs a program. The error contains the command line and the output.
pub fn try_run<A: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = A>) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim_end()))
    }
}

/// The version of an installed package of Debian.
pub fn version(package: &str) -> String {
    run("dpkg-query", ["--show", "--showformat=${Version}", package])
}

/// Waits until a program has ended that was asked to. Kills it after `patience`, and then returns
/// `None`.
pub fn reap(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let ended = try_eventually(patience, || match child.try_wait() {
        Ok(Some(status)) => Ok(status),
        Ok(None) => Err("it still runs".to_owned()),
        Err(e) => Err(e.to_string()),
    });
    if ended.is_err() {
        // The process may have ended already. A process that cannot be killed cannot be waited for
        // either.
        let _ = child.kill();
    }
    ended.ok()
}

/// Keeps other processes off the machine's only processor while this program runs. Dropping the
/// value ends that.
///
/// The kernel's worker sends device mapper's uevents. It then cannot run between two ioctls, finds
/// both events later, and sends the last one first.
pub struct Uninterrupted(());

impl Uninterrupted {
    /// Starts the real-time priority.
    pub fn start() -> Self {
        run("chrt", ["--fifo", "--pid", "50", &process::id().to_string()]);
        Uninterrupted(())
    }
}

impl Drop for Uninterrupted {
    fn drop(&mut self) {
        // A failure only slows the next scenario.
        let _ = try_run("chrt", ["--other", "--pid", "0", &process::id().to_string()]);
    }
}

/// The processor time of the threads in this `task` directory of procfs.
pub fn cpu_time(tasks: &str) -> Duration {
    let threads = fs::read_dir(tasks).unwrap_or_else(|e| panic!("{tasks}: {e}"));
    let nanos = threads.filter_map(|thread| {
        let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}
