//! The configuration file: read at startup, and again on each SIGHUP.

use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::config::Config;
use crate::metrics::own::ConfigReloads;
use crate::monitor::Command;
use crate::systemd;
use crate::web_config::WebConfig;

/// The time within which the configuration file must be read.
const READ_DEADLINE: Duration = Duration::from_secs(10);

/// Reads the configuration file. Returns the default configuration if there is none.
///
/// # Errors
/// If the file cannot be read or is invalid: one line that names it.
pub(crate) fn read_config(file: Option<&Path>) -> Result<Config, String> {
    file.map_or_else(|| Ok(Config::default()), |file| Config::read(file).map_err(|error| error.to_string()))
}

/// On each SIGHUP, reads the configuration file again and requests a resync. An invalid file
/// changes nothing.
///
/// Returns only if no more SIGHUPs can be received. If the monitor has ended, this waits forever,
/// because the caller that runs the monitor reports its end.
pub(crate) async fn reload_on(
    mut hangup: Signal,
    file: Option<PathBuf>,
    web_config: WebConfig,
    reloads: Arc<ConfigReloads>,
    commands: mpsc::Sender<Command>,
) -> &'static str {
    // Reading a file on an unreachable NFS server can block forever. At most one thread does so.
    let mut reading = None;
    while hangup.recv().await.is_some() {
        systemd::reloading().await;
        web_config.reread();
        let stuck = reading.take().filter(|read: &JoinHandle<_>| !read.is_finished());
        let mut read = stuck.unwrap_or_else(|| {
            let file = file.clone();
            tokio::task::spawn_blocking(move || read_config(file.as_deref()))
        });
        let config = match tokio::time::timeout(READ_DEADLINE, &mut read).await {
            Ok(config) => config.unwrap_or_else(|error| Err(error.to_string())),
            Err(_) => {
                reading = Some(read);
                Err(format!("the file could not be read within {READ_DEADLINE:?}"))
            }
        };
        match config {
            Ok(config) => {
                if commands.send(Command::Configure(Arc::new(config))).await.is_err() {
                    return pending().await;
                }
                reloads.succeeded();
                info!("configuration reloaded");
            }
            Err(error) => {
                reloads.failed();
                warn!(error, "cannot reload the configuration: the previous one stays in use");
            }
        }
        if commands.send(Command::Resync).await.is_err() {
            return pending().await;
        }
        systemd::ready(&commands).await;
    }
    "SIGHUP can no longer be received"
}
