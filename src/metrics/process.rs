//! `process_*`: metrics of this process, as every Prometheus client library has them.
//!
//! These few reads of `/proc/self` are the only reads in a scrape. None of them waits for a device
//! or a daemon.

use std::fmt;
use std::path::{Path, PathBuf};

use procfs::process::{LimitValue, Process, Stat};
use procfs::{ProcResult, boot_time_secs, page_size, ticks_per_second};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::Families;

/// Encodes the metrics of its own process.
#[derive(Debug)]
pub struct ThisProcess {
    directory: PathBuf,
    /// Read once, because `/proc/stat`, which has it, takes milliseconds on hosts with many
    /// processors.
    boot_time: Option<u64>,
}

impl ThisProcess {
    /// `procfs` is the mount point of procfs.
    pub fn new(procfs: &Path) -> Self {
        ThisProcess { directory: procfs.join("self"), boot_time: boot_time_secs().ok() }
    }

    fn read(&self) -> ProcResult<(Process, Stat)> {
        let process = Process::new_with_root(self.directory.clone())?;
        let stat = process.stat()?;
        Ok((process, stat))
    }
}

impl Collector for ThisProcess {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut families = Families(encoder);
        // Without procfs these metrics are missing, but the page still has those of the devices.
        let Ok((process, stat)) = self.read() else { return Ok(()) };
        let seconds = |ticks: u64| ticks as f64 / ticks_per_second() as f64;
        let max_fds = process.limits().ok().and_then(|limits| match limits.max_open_files.soft_limit {
            LimitValue::Value(value) => Some(value),
            LimitValue::Unlimited => None,
        });
        families.total(
            "process_cpu_seconds",
            "Total user and system CPU time in seconds",
            seconds(stat.utime + stat.stime),
        )?;
        families.number(
            "process_resident_memory_bytes",
            "Resident memory size in bytes",
            Some(stat.rss * page_size()),
        )?;
        families.number("process_virtual_memory_bytes", "Virtual memory size in bytes", Some(stat.vsize))?;
        families.number(
            "process_start_time_seconds",
            "Start time of the process, in seconds since 1970",
            self.boot_time.map(|boot| boot as f64 + seconds(stat.starttime)),
        )?;
        families.number(
            "process_open_fds",
            "Number of open file descriptors",
            process.fd_count().ok().map(|count| count as u64),
        )?;
        families.number("process_max_fds", "Maximum number of open file descriptors", max_fds)?;
        families.number("process_threads", "Number of threads of the process", Some(stat.num_threads))
    }
}
