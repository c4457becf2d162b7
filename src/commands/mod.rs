//! The commands of the program, one file for each.
//!
//! ```text
//! serve.rs     the exporter: watches, reads, and answers requests until SIGTERM or SIGINT
//! oneshot.rs   --oneshot: reads once and prints the metrics page
//! capture.rs   --capture: writes what the exporter reads on this host, with all names replaced
//! check.rs     --config.check: checks the configuration files
//! start.rs     limits and checks before serve, --oneshot and --capture
//! ```

mod capture;
mod check;
mod oneshot;
mod serve;
mod start;

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use listenfd::ListenFd;

use crate::capture::{Host, places, replies};
use crate::cli::{Cli, Collectors};
use crate::config::Config;
use crate::memory::file::MemoryFile;
use crate::memory::{self, Boot, Memory};
use crate::metrics::devices::PathSeries;
use crate::metrics::own::OwnMetrics;
use crate::monitor::{Board, Monitor, Settings};
use crate::privileges::Privileged;
use crate::reload;
use crate::source::{Places, multipathd, transports};
use crate::web_config::WebConfig;

/// Reasons why the exporter ended.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The user's settings are wrong. Nothing was served.
    #[error("{0}")]
    Settings(String),
    /// The exporter cannot continue.
    #[error("{0}")]
    Fatal(String),
}

impl Failure {
    fn fatal(what: &str) -> impl Fn(io::Error) -> Failure {
        move |cause| Failure::Fatal(format!("{what}: {cause}"))
    }
}

/// Runs the command that the command line asks for.
///
/// `privileged` starts the threads that ask device mapper. `memory_file` was opened before there
/// were any threads.
///
/// # Errors
/// See [`Failure`].
pub fn run(cli: &Cli, privileged: Privileged, memory_file: Option<io::Result<MemoryFile>>) -> Result<(), Failure> {
    let config = reload::read_config(cli.general.config_file.as_deref())
        .map_err(|error| Failure::Settings(format!("--config.file: {error}")))?;
    let share = cli.web.address_share;
    let web_config = match cli.web.config_file.as_deref() {
        None => WebConfig::none(share),
        Some(file) => WebConfig::read(file, share),
    };
    let web_config = web_config.map_err(|error| Failure::Settings(format!("--web.config.file: {error}")))?;
    if cli.general.config_check {
        return check::check(cli, &web_config);
    }
    start::raise_open_files();
    // A capture holds only what was read, and has its own checks.
    if cli.sources.capture.is_none() {
        start::check_sysfs(&cli.sources.sysfs)?;
    }
    let passed = cli.web.systemd_socket.then(ListenFd::from_env);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // One thread answers requests while the other one publishes.
        .worker_threads(2)
        .max_blocking_threads(8)
        .enable_all()
        .build()
        .map_err(Failure::fatal("cannot start"))?;
    let result = runtime.block_on(async {
        match (&cli.general.capture, cli.general.oneshot) {
            (Some(file), _) => capture::capture(cli, file).await,
            (None, true) => oneshot::print_once(cli, config, privileged, memory_file).await,
            (None, false) => serve::serve(cli, config, web_config, privileged, memory_file, passed).await,
        }
    });
    // A reader may be stuck in the kernel forever. The shutdown does not wait for it.
    runtime.shutdown_background();
    result
}

/// Returns the host to read: this one, or a captured one.
fn host(cli: &Cli) -> Result<Host, Failure> {
    let timeout = cli.sources.multipathd_timeout;
    let (places, client) = match &cli.sources.capture {
        Some(capture) => {
            let places = places(capture);
            let places = places.map_err(|error| Failure::Settings(format!("--path.capture: {error}")))?;
            (places, multipathd::DaemonClient::recorded(replies(capture), timeout))
        }
        None => {
            start::warn_without_udev(&cli.sources.udev_data);
            let places = Places {
                sysfs: cli.sources.sysfs.clone(),
                procfs: cli.sources.procfs.clone(),
                udev_data: cli.sources.udev_data.clone(),
                capture: None,
            };
            let client = match cli.sources.multipathd_sockets.as_slice() {
                [] => multipathd::DaemonClient::new(timeout),
                sockets => multipathd::DaemonClient::at(sockets.to_vec(), timeout),
            };
            (places, client)
        }
    };
    Ok(Host {
        places,
        parts: transports::Parts {
            nvme: cli.collectors.nvme,
            iscsi: cli.collectors.iscsi,
            fibre_channel: cli.collectors.fibre_channel,
        },
        device_mapper: cli.collectors.device_mapper,
        multipathd: Some(client).filter(|_| cli.collectors.multipathd),
    })
}

/// Makes a monitor that resyncs and re-reads at these intervals.
fn monitor(
    cli: &Cli,
    config: Config,
    privileged: Privileged,
    memory_file: Option<io::Result<MemoryFile>>,
    (resync, reread): (Duration, Duration),
) -> Result<(Monitor, Board), Failure> {
    let Host { places, parts, device_mapper, multipathd } = host(cli)?;
    let config = Arc::new(config);
    let machine = memory_file.iter().flatten().map(MemoryFile::machine).next().unwrap_or_default();
    let boot = Boot::read(&places.procfs);
    let memory = Memory::new(boot, machine, cli.general.memory_window, Instant::now());
    let memory_file = memory_file.map(|file| file.and_then(MemoryFile::start));
    let memory_file = memory_file.map(|file| file.unwrap_or_else(|error| memory::file::Handle::broken(&error)));
    let settings =
        Settings { places, parts, device_mapper, multipathd, resync, reread, config, privileged, memory, memory_file };
    Monitor::new(settings, Arc::new(OwnMetrics::default())).map_err(Failure::fatal("cannot start a reader"))
}

/// Returns the devices that get per-path series.
fn path_series(cli: &Cli) -> PathSeries {
    match cli.collectors {
        Collectors { paths: false, .. } => PathSeries::None,
        Collectors { unhealthy_paths_only: true, .. } => PathSeries::Conspicuous,
        _ => PathSeries::All,
    }
}

fn print(text: &str) -> Result<(), Failure> {
    io::stdout().write_all(text.as_bytes()).map_err(Failure::fatal("cannot print"))
}
