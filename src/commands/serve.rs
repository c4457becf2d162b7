//! The exporter itself: it watches, reads, and answers requests until a signal ends it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use listenfd::ListenFd;
use prometheus_client::registry::Registry;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::{error, info};

use super::{Failure, monitor, path_series};
use crate::cli::Cli;
use crate::config::Config;
use crate::listen::{from_systemd, listen};
use crate::memory::file::MemoryFile;
use crate::metrics::exposition::Exposition;
use crate::metrics::http::HttpMetrics;
use crate::metrics::own::{About, ConfigReloads};
use crate::metrics::process::ThisProcess;
use crate::monitor::Command;
use crate::pages;
use crate::privileges::Privileged;
use crate::reload::reload_on;
use crate::shares::AddressShare;
use crate::systemd;
use crate::tasks::Tasks;
use crate::web::hosts::AllowedHosts;
use crate::web::routes::Routes;
use crate::web::server::{self, Limits, Notice};
use crate::web_config::WebConfig;

/// How long the shutdown waits for the memory to be written. A healthy disk needs a tenth of it.
const LAST_WRITE: Duration = Duration::from_millis(500);

/// Serves until SIGTERM or SIGINT.
pub async fn serve(
    cli: &Cli,
    config: Config,
    web_config: WebConfig,
    privileged: Privileged,
    memory_file: Option<io::Result<MemoryFile>>,
    passed: Option<ListenFd>,
) -> Result<(), Failure> {
    pages::keep();
    let failed = Failure::fatal("cannot handle signals");
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate()).map_err(&failed)?, signal(SignalKind::interrupt()).map_err(&failed)?);
    // This comes before anybody can know that the exporter runs: an unhandled SIGHUP ends the
    // program.
    let hangup = signal(SignalKind::hangup()).map_err(&failed)?;
    let listeners = match passed {
        Some(passed) => from_systemd(passed),
        None => listen(&cli.web.listen_addresses).await,
    };
    let listeners = listeners.map_err(Failure::Settings)?;
    web_config.log();
    let (monitor, board) =
        monitor(cli, config, privileged, memory_file, (cli.sources.resync_interval, cli.sources.reread_interval))?;
    let reloads = Arc::new(ConfigReloads::default());
    reloads.succeeded();

    let mut registry = Registry::default();
    registry.register_collector(Box::new(About { sources: Arc::clone(&board.sources), memory: board.memory.clone() }));
    registry.register_collector(Box::new(Arc::clone(&reloads)));
    registry.register_collector(Box::new(Arc::clone(&board.own)));
    let http = Arc::new(HttpMetrics::default());
    registry.register_collector(Box::new(Arc::clone(&http)));
    let notice = Notice::new(http);
    registry.register_collector(Box::new(ThisProcess::new(&cli.sources.procfs)));
    let exposition = Exposition::new(registry, path_series(cli));
    let (events, snapshot, sources) = (Arc::clone(&board.events), board.snapshot.clone(), Arc::clone(&board.sources));
    let status_page = (!cli.web.no_status_page).then(|| AllowedHosts::new(cli.web.allowed_hosts.clone()));
    let routes = Routes::new(
        board,
        exposition,
        cli.web.telemetry_path.clone(),
        status_page,
        cli.web.max_requests,
        cli.web.address_share,
        notice.clone(),
    );
    let routes = Arc::new(routes);
    let admission = web_config.clone();
    let answer = move |client, request| {
        let (routes, admission) = (Arc::clone(&routes), admission.clone());
        async move {
            // Taken before the request is admitted: a later change ends its stream.
            let changed = admission.changed();
            admission
                .respond(client, request, async |request| {
                    routes.respond(client, &request).await.map(|body| body.until(changed))
                })
                .await
        }
    };

    let (commands, orders) = mpsc::channel(1);
    let at_end = commands.clone();
    let mut tasks = Tasks::default();
    let reloading = reload_on(hangup, cli.general.config_file.clone(), web_config.clone(), reloads, commands.clone());
    tasks.spawn("reload", reloading);
    tasks.spawn("systemd", systemd::inform(commands, snapshot, sources));
    tasks.spawn("web_config", web_config.clone().follow());
    tasks.spawn("memory", pages::give_back());
    tasks.spawn("monitor", async {
        match monitor.run(orders).await {
            Ok(()) => "its command channel is closed".to_owned(),
            Err(error) => error.to_string(),
        }
    });

    let mut outcome = Ok(());
    let end = async {
        tokio::select! {
            _ = terminate.recv() => info!(signal = "SIGTERM", "stopping"),
            _ = interrupt.recv() => info!(signal = "SIGINT", "stopping"),
            ended = tasks.ended() => {
                // Without the task a part of the served state would never change again. A restart
                // is better.
                error!(task = ended.task, cause = ended.cause, "a task has ended");
                outcome = Err(Failure::Fatal(ended.to_string()));
            }
        }
        systemd::stopping().await;
        write_memory(at_end).await;
        // Event streams end now. Otherwise they would use up the time in which other responses may
        // finish.
        events.close();
    };
    server::serve(listeners, move || web_config.tls_mode(), answer, limits(cli.web.address_share), notice, end).await;
    outcome
}

/// Writes the memory. The disk may be dead, so the shutdown waits only for a moment.
async fn write_memory(commands: mpsc::Sender<Command>) {
    let written = async {
        let (done, written) = oneshot::channel();
        if commands.send(Command::Write(done)).await.is_ok() {
            let _ = written.await;
        }
    };
    let _ = timeout(LAST_WRITE, written).await;
}

/// Limits connections so that half of the open files are left for the readers.
fn limits(share: AddressShare) -> Limits {
    let limits = Limits::default();
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let half = usize::try_from(files / 2).unwrap_or(usize::MAX).max(1);
    Limits { connections: limits.connections.min(half), share, ..limits }
}
