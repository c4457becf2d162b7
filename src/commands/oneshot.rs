//! `--oneshot`: prints the metrics page once.

use std::io;
use std::time::Duration;

use prometheus_client::registry::Registry;

use super::{Failure, monitor, path_series, print};
use crate::cli::Cli;
use crate::config::Config;
use crate::memory::file::MemoryFile;
use crate::metrics::devices::DeviceMetrics;
use crate::metrics::exposition::{self, Format};
use crate::metrics::own::About;
use crate::privileges::Privileged;

/// Reads everything once and prints it. Prints nothing if a source of devices does not answer: a
/// page without the source's devices would suggest that there are none.
pub async fn print_once(
    cli: &Cli,
    config: Config,
    privileged: Privileged,
    memory_file: Option<io::Result<MemoryFile>>,
) -> Result<(), Failure> {
    // No timers: nothing is read twice, and no reading becomes too old.
    let (monitor, board) = monitor(cli, config, privileged, memory_file, (Duration::MAX, Duration::MAX))?;
    monitor.run_once().await.map_err(|error| Failure::Fatal(format!("--oneshot: {error}")))?;
    let snapshot = board.snapshot.borrow().clone();
    let snapshot = snapshot.ok_or_else(|| Failure::Fatal("--oneshot: nothing was read".to_owned()))?;
    let mut registry = Registry::default();
    let paths = path_series(cli);
    registry.register_collector(Box::new(DeviceMetrics { snapshot, paths, events: false }));
    registry.register_collector(Box::new(About { sources: board.sources, memory: board.memory }));
    let mut text = String::new();
    exposition::encode(&registry, Format::Text, &mut text)
        .map_err(|_| Failure::Fatal("cannot encode the metrics".to_owned()))?;
    print(&text)
}
