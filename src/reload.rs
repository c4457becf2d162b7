//! The configuration file: read at the start, and again on each SIGHUP.

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

/// How long the configuration file may take to be read.
const CONFIG_PATIENCE: Duration = Duration::from_secs(10);

/// Reads the configuration file, if there is one.
///
/// # Errors
/// If it cannot be read or is wrong: one line that names it.
pub fn read_config(file: Option<&Path>) -> Result<Config, String> {
    file.map_or_else(|| Ok(Config::default()), |file| Config::read(file).map_err(|error| error.to_string()))
}

/// On each SIGHUP reads the configuration again and everything else too. A bad file changes nothing.
///
/// It returns only if no SIGHUP can come any more. The monitor's end is reported by whoever runs the monitor, so this
/// waits for good then.
pub async fn reload_on(
    mut hangup: Signal,
    file: Option<PathBuf>,
    web_config: WebConfig,
    reloads: Arc<ConfigReloads>,
    commands: mpsc::Sender<Command>,
) -> &'static str {
    // A file of a server that is away may be waited for in the kernel for good: by one thread, not by one more each time.
    let mut reading = None;
    while hangup.recv().await.is_some() {
        systemd::reloading().await;
        web_config.reread();
        let stuck = reading.take().filter(|read: &JoinHandle<_>| !read.is_finished());
        let mut read = stuck.unwrap_or_else(|| {
            let file = file.clone();
            tokio::task::spawn_blocking(move || read_config(file.as_deref()))
        });
        let config = match tokio::time::timeout(CONFIG_PATIENCE, &mut read).await {
            Ok(config) => config.unwrap_or_else(|error| Err(error.to_string())),
            Err(_) => {
                reading = Some(read);
                Err(format!("it could not be read within {CONFIG_PATIENCE:?}"))
            }
        };
        match config {
            Ok(config) => {
                if commands.send(Command::Configure(Arc::new(config))).await.is_err() {
                    return pending().await;
                }
                reloads.succeeded();
                info!("configuration read again");
            }
            Err(error) => {
                reloads.failed();
                warn!(error, "configuration not changed");
            }
        }
        if commands.send(Command::Resync).await.is_err() {
            return pending().await;
        }
        systemd::ready(&commands).await;
    }
    "SIGHUP can be received no more"
}
