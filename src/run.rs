//! Everything put together.

use std::fs;
use std::future::poll_fn;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use listenfd::ListenFd;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use crate::capture;
use crate::cli::{Cli, ListenAddress};
use crate::config::Config;
use crate::metrics::devices::Devices;
use crate::metrics::exposition::{self, Exposition, Format};
use crate::metrics::own::{About, ConfigReloads, OwnMetrics};
use crate::metrics::process::ThisProcess;
use crate::monitor::{Board, Command, Monitor, Settings};
use crate::source::{Places, multipathd, transports};
use crate::systemd;
use crate::web::routes::Routes;
use crate::web::server::{self, Limits};
use crate::web_config::WebConfig;

/// Why the exporter ended.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// What the user set cannot be used: nothing was served.
    #[error("{0}")]
    Settings(String),
    /// It cannot go on.
    #[error("{0}")]
    Fatal(String),
}

impl Failure {
    fn fatal(what: &str) -> impl Fn(io::Error) -> Failure {
        move |cause| Failure::Fatal(format!("{what}: {cause}"))
    }
}

/// Runs until SIGTERM or SIGINT, or prints what `--oneshot` and `--config.check` ask for.
///
/// # Errors
/// See [`Failure`].
pub fn run(cli: &Cli) -> Result<(), Failure> {
    let config_file = cli.general.config_file.as_deref();
    let config = read_config(config_file).map_err(Failure::Settings)?;
    let web_config_file = cli.web.config_file.as_deref();
    let web_config = web_config_file.map_or_else(WebConfig::none, WebConfig::read);
    let web_config = web_config.map_err(|error| Failure::Settings(error.to_string()))?;
    if cli.general.config_check {
        if let Some(file) = web_config_file {
            for warning in web_config.warnings() {
                let _ = writeln!(io::stderr(), "multipath_exporter: {}: warning: {warning}", file.display());
            }
        }
        let files = [config_file, web_config_file].into_iter().flatten();
        return print(&files.map(|file| format!("{}: correct\n", file.display())).collect::<String>());
    }
    let passed = cli.web.systemd_socket.then(ListenFd::from_env);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // One answers while the other publishes.
        .worker_threads(2)
        .max_blocking_threads(8)
        .enable_all()
        .build()
        .map_err(Failure::fatal("cannot start"))?;
    let result = runtime.block_on(async {
        match (&cli.general.capture, cli.general.oneshot) {
            (Some(file), _) => capture(cli, file).await,
            (None, true) => print_once(cli, config).await,
            (None, false) => serve(cli, config, web_config, passed).await,
        }
    });
    // A reader may be stuck in the kernel for good; the end does not wait for it.
    runtime.shutdown_background();
    result
}

fn read_config(file: Option<&Path>) -> Result<Config, String> {
    file.map_or_else(|| Ok(Config::default()), |file| Config::read(file).map_err(|error| error.to_string()))
}

/// The host that is read: this one, or one that was captured.
fn host(cli: &Cli) -> Result<capture::Host, Failure> {
    let timeout = cli.sources.multipathd_timeout;
    let (places, client) = match &cli.sources.capture {
        Some(capture) => {
            let places = capture::places(capture);
            let places = places.map_err(|error| Failure::Settings(format!("--path.capture: {error}")))?;
            (places, multipathd::Client::recorded(capture::replies(capture), timeout))
        }
        None => {
            let places = Places {
                sysfs: cli.sources.sysfs.clone(),
                procfs: cli.sources.procfs.clone(),
                udev_data: cli.sources.udev_data.clone(),
                capture: None,
            };
            let sockets = match cli.sources.multipathd_sockets.as_slice() {
                [] => multipathd::default_sockets(),
                sockets => sockets.to_vec(),
            };
            (places, multipathd::Client::new(sockets, timeout))
        }
    };
    Ok(capture::Host {
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

/// Writes a capture, to standard output if the file is called `-`.
async fn capture(cli: &Cli, file: &Path) -> Result<(), Failure> {
    let to_stdout = file == Path::new("-");
    let failed = |cause| match to_stdout {
        true => Failure::fatal("cannot print")(cause),
        false => Failure::Settings(format!("--capture: {}: {cause}", file.display())),
    };
    let stopped = stopped()?;
    // Before anything is read for nothing.
    let new = if to_stdout { None } else { Some(capture::NewFile::create(file).map_err(failed)?) };
    let system = rustix::system::uname();
    let host_name = system.nodename().to_string_lossy();
    let written = async {
        let archive = capture::take(host(cli)?, &host_name, capture::PATIENCE).await;
        let archive = archive.map_err(|error| Failure::Fatal(format!("--capture: {error}")))?;
        let bytes = archive.len();
        let content = new.as_ref().map(capture::NewFile::content).transpose().map_err(failed)?;
        // Who reads may wait, and so may a server. The new file stays out of there, or it would stay when we are stopped.
        let writing = tokio::task::spawn_blocking(move || match content {
            Some(mut content) => content.write_all(&archive).and_then(|()| content.sync_all()),
            None => io::stdout().write_all(&archive).and_then(|()| io::stdout().flush()),
        });
        writing.await.map_err(io::Error::from).flatten().map_err(failed)?;
        Ok(bytes)
    };
    let bytes = tokio::select! {
        written = written => written?,
        () = stopped => return Err(Failure::Fatal("--capture: stopped by a signal, before it was written".to_owned())),
    };
    if let Some(new) = new {
        new.keep().map_err(failed)?;
        info!(file = %file.display(), bytes, "captured");
    }
    Ok(())
}

/// The signals that we were started to ignore: a bit each, the lowest for signal 1 (`SigIgn` in `proc(5)`).
fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bits = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or_default()
}

/// Ends when a signal tells us to. From now on none ends us by itself, with something half done. Those that we were started
/// to ignore, as `nohup` does it, stay ignored.
fn stopped() -> Result<impl Future<Output = ()>, Failure> {
    let ignored = ignored_signals();
    let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].into_iter();
    let kinds = kinds.filter(|kind| ignored >> (kind.as_raw_value() - 1) & 1 == 0);
    let signals = kinds.map(signal).collect::<io::Result<Vec<_>>>();
    let mut signals = signals.map_err(Failure::fatal("cannot handle signals"))?;
    Ok(poll_fn(move |context| match signals.iter_mut().any(|signal| signal.poll_recv(context).is_ready()) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    }))
}

fn monitor(cli: &Cli, config: Config, (resync, reread): (Duration, Duration)) -> Result<(Monitor, Board), Failure> {
    let capture::Host { places, parts, device_mapper, multipathd } = host(cli)?;
    let settings = Settings { places, parts, device_mapper, multipathd, resync, reread, config: Arc::new(config) };
    Monitor::new(settings, Arc::new(OwnMetrics::default())).map_err(Failure::fatal("cannot start a reader"))
}

async fn print_once(cli: &Cli, config: Config) -> Result<(), Failure> {
    // No timer: what has been read is not read again, and does not grow old.
    let (monitor, board) = monitor(cli, config, (Duration::MAX, Duration::MAX))?;
    monitor.run_once().await.map_err(|error| Failure::Fatal(format!("--oneshot: {error}")))?;
    let snapshot = board.snapshot.borrow().clone();
    let snapshot = snapshot.ok_or_else(|| Failure::Fatal("not every source of devices has answered".to_owned()))?;
    let mut registry = Registry::default();
    let paths = cli.collectors.paths;
    registry.register_collector(Box::new(Devices { snapshot, paths, events: false }));
    registry.register_collector(Box::new(About { sources: board.sources }));
    let mut text = String::new();
    exposition::encode(&registry, Format::Text, &mut text)
        .map_err(|_| Failure::Fatal("cannot encode the metrics".to_owned()))?;
    print(&text)
}

fn print(text: &str) -> Result<(), Failure> {
    io::stdout().write_all(text.as_bytes()).map_err(Failure::fatal("cannot print"))
}

async fn serve(cli: &Cli, config: Config, web_config: WebConfig, passed: Option<ListenFd>) -> Result<(), Failure> {
    let failed = Failure::fatal("cannot handle signals");
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate()).map_err(&failed)?, signal(SignalKind::interrupt()).map_err(&failed)?);
    // Before anybody can know that we run: a SIGHUP that is not handled ends the program.
    let hangup = signal(SignalKind::hangup()).map_err(&failed)?;
    let listeners = match passed {
        Some(passed) => from_systemd(passed)?,
        None => listen(&cli.web.listen_addresses).await?,
    };
    web_config.log();
    let (monitor, board) = monitor(cli, config, (cli.sources.resync_interval, cli.sources.reread_interval))?;
    let reloads = Arc::new(ConfigReloads::default());
    reloads.succeeded();

    let mut registry = Registry::default();
    registry.register_collector(Box::new(About { sources: Arc::clone(&board.sources) }));
    registry.register_collector(Box::new(Arc::clone(&reloads)));
    registry.register_collector(Box::new(Arc::clone(&board.own)));
    registry.register_collector(Box::new(ThisProcess::new(&cli.sources.procfs)));
    let exposition = Exposition::new(registry, cli.collectors.paths);
    let (events, snapshot, sources) = (Arc::clone(&board.events), board.snapshot.clone(), Arc::clone(&board.sources));
    let routes = Routes::new(board, exposition, cli.web.telemetry_path.clone(), cli.web.max_requests);
    let routes = Arc::new(routes);
    let admission = web_config.clone();
    let answer = move |request| {
        let (routes, admission) = (Arc::clone(&routes), admission.clone());
        async move {
            // From before it is let in: what changes after that ends its stream.
            let changed = admission.changed();
            admission
                .answer(request, async |request| routes.answer(&request).await.map(|body| body.until(changed)))
                .await
        }
    };

    let (commands, orders) = mpsc::channel(1);
    tokio::spawn(systemd::inform(commands.clone(), snapshot, sources));
    tokio::spawn(web_config.clone().follow());
    tokio::spawn(reload_on(hangup, cli.general.config_file.clone(), web_config.clone(), reloads, commands));
    let mut monitor = tokio::spawn(monitor.run(orders));

    let mut outcome = Ok(());
    let end = async {
        tokio::select! {
            _ = terminate.recv() => info!(signal = "SIGTERM", "stopping"),
            _ = interrupt.recv() => info!(signal = "SIGINT", "stopping"),
            ended = &mut monitor => {
                // Without it the metrics would stay as they are for ever: better none, and a restart.
                let cause = match ended {
                    Ok(Ok(())) => "it was told to".to_owned(),
                    Ok(Err(error)) => error.to_string(),
                    Err(error) => error.to_string(),
                };
                error!(cause, "the monitor has ended");
                outcome = Err(Failure::Fatal(format!("the monitor has ended: {cause}")));
            }
        }
        systemd::stopping().await;
        // Streams end now, or they would use up the time that answers under way have to finish.
        events.close();
    };
    server::serve(listeners, move || web_config.transport(), answer, limits(), end).await;
    outcome
}

/// How long the configuration file may take to be read.
const CONFIG_PATIENCE: Duration = Duration::from_secs(10);

/// On each SIGHUP reads the configuration again and everything else too. A bad file changes nothing.
async fn reload_on(
    mut hangup: Signal,
    file: Option<std::path::PathBuf>,
    web_config: WebConfig,
    reloads: Arc<ConfigReloads>,
    commands: mpsc::Sender<Command>,
) {
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
                    return;
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
            return;
        }
        systemd::ready(&commands).await;
    }
}

async fn listen(addresses: &[ListenAddress]) -> Result<Vec<TcpListener>, Failure> {
    let mut listeners = Vec::new();
    for address in addresses {
        let failed = |cause: io::Error| Failure::Settings(format!("cannot listen on {address}: {cause}"));
        for resolved in resolve(address).await.map_err(failed)? {
            let listener = bind(resolved).map_err(failed)?;
            let local = listener.local_addr().map_err(failed)?;
            listeners.push((listener, local));
        }
    }
    Ok(tell(listeners))
}

/// The sockets that systemd has opened for us (`sd_listen_fds(3)`).
fn from_systemd(mut passed: ListenFd) -> Result<Vec<TcpListener>, Failure> {
    let failed = |cause: io::Error| Failure::Settings(format!("--web.systemd-socket: {cause}"));
    let mut listeners = Vec::new();
    for number in 0..passed.len() {
        if let Ok(Some(_)) = passed.take_unix_listener(number) {
            let cause = "a Unix socket was passed, and only TCP is served: ListenStream= must have a port";
            return Err(failed(io::Error::other(cause)));
        }
        let Some(listener) = passed.take_tcp_listener(number).map_err(failed)? else { continue };
        if !rustix::net::sockopt::socket_acceptconn(&listener).map_err(|error| failed(error.into()))? {
            let cause = "a socket that was passed does not listen: the unit must not have Accept=yes";
            return Err(failed(io::Error::other(cause)));
        }
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        listeners.push((TcpListener::from_std(listener).map_err(failed)?, address));
    }
    match listeners.is_empty() {
        true => Err(failed(io::Error::other("systemd has passed no socket"))),
        false => Ok(tell(listeners)),
    }
}

/// Tells the log, now that all are there.
fn tell(listeners: Vec<(TcpListener, SocketAddr)>) -> Vec<TcpListener> {
    let told = listeners.into_iter().map(|(listener, address)| {
        info!(%address, "listening");
        listener
    });
    told.collect()
}

async fn resolve(address: &ListenAddress) -> io::Result<Vec<SocketAddr>> {
    let Some(host) = &address.host else { return Ok(vec![(Ipv6Addr::UNSPECIFIED, address.port).into()]) };
    tokio::net::lookup_host((host.as_str(), address.port)).await.map(Iterator::collect)
}

/// Where all addresses are wanted that is one socket for IPv6 and IPv4; a host without IPv6 has IPv4.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let all = address.ip() == Ipv6Addr::UNSPECIFIED;
    match bind_one(address) {
        Err(error) if all && error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) => {
            bind_one((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        result => result,
    }
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        // Whatever net.ipv6.bindv6only says: IPv4, too.
        rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    }
    // A restart must not wait for the old connections' last packets.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}

/// As many connections as leave half of the open files to the readers.
fn limits() -> Limits {
    let limits = Limits::default();
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let half = usize::try_from(files / 2).unwrap_or(usize::MAX).max(1);
    Limits { connections: limits.connections.min(half), ..limits }
}
