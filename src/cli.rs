//! The command line. Names and defaults are the project's interface.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, ValueEnum};

use crate::shares::AddressShare;
use crate::source::multipathd::SocketName;

const ABOUT: &str = "Prometheus exporter for multipath storage: tells that this server is losing its paths to its \
                     storage, before the last one goes.

It watches device mapper, multipathd, sysfs and kernel uevents, starts no other program, and serves what it knows on \
                     /metrics. Without privileges it shows the same counts while multipathd runs, from that and from \
                     events; reading the kernel's own status needs CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH.";

/// The options, as given or by default.
#[derive(Clone, Debug, Parser)]
#[command(name = "multipath_exporter", version, about = ABOUT, max_term_width = 110)]
#[command(disable_help_flag = true, disable_version_flag = true)]
pub struct Cli {
    #[expect(missing_docs, reason = "the help text is the documentation")]
    #[command(flatten, next_help_heading = "Web")]
    pub web: WebOptions,

    #[expect(missing_docs, reason = "the help text is the documentation")]
    #[command(flatten, next_help_heading = "Sources")]
    pub sources: SourceOptions,

    #[expect(missing_docs, reason = "the help text is the documentation")]
    #[command(flatten)]
    pub collectors: Collectors,

    #[expect(missing_docs, reason = "the help text is the documentation")]
    #[command(flatten, next_help_heading = "General")]
    pub general: GeneralOptions,
}

/// Where and how to serve.
#[derive(Clone, Debug, Args)]
pub struct WebOptions {
    /// Address to serve on: [HOST]:PORT. Repeatable
    #[arg(long = "web.listen-address", value_name = "ADDRESS", default_value = ":10056")]
    pub listen_addresses: Vec<ListenAddress>,

    /// Serve on the sockets that systemd passes, not on addresses
    #[arg(long = "web.systemd-socket")]
    pub systemd_socket: bool,

    /// File of Prometheus's exporters (YAML) for TLS, basic authentication, rate limit and headers. Read again when it
    /// changes
    #[arg(id = "web_config_file", long = "web.config.file", value_name = "FILE")]
    pub config_file: Option<PathBuf>,

    /// Path of the metrics
    #[arg(long = "web.telemetry-path", value_name = "PATH", default_value = "/metrics", value_parser = telemetry_path)]
    pub telemetry_path: String,

    /// Scrapes worked on at once, 503 beyond; 0 for no limit
    #[arg(long = "web.max-requests", value_name = "N", default_value = "40", value_parser = max_requests)]
    pub max_requests: usize,

    /// Part of each limit that one client address may take, in percent; 100 behind a proxy
    #[arg(long = "web.address-share", value_name = "PERCENT", default_value_t)]
    pub address_share: AddressShare,

    /// Name by which a browser may ask for the status page, the API and the runbooks, beside addresses, localhost and this
    /// host's node name. Repeatable; 421 for others
    #[arg(long = "web.allowed-host", value_name = "NAME", value_parser = host_name)]
    pub allowed_hosts: Vec<String>,

    /// Serve only the metrics and the health, neither status page nor API nor runbooks
    #[arg(long = "web.no-status-page", overrides_with = "no_status_page")]
    pub no_status_page: bool,
}

/// Where to read and how often.
#[derive(Clone, Debug, Args)]
pub struct SourceOptions {
    /// Where sysfs is mounted
    #[arg(long = "path.sysfs", value_name = "DIR", default_value = "/sys")]
    pub sysfs: PathBuf,

    /// Where procfs is mounted
    #[arg(long = "path.procfs", value_name = "DIR", default_value = "/proc")]
    pub procfs: PathBuf,

    /// Where udev keeps its database
    #[arg(long = "path.udev.data", value_name = "DIR", default_value = "/run/udev/data")]
    pub udev_data: PathBuf,

    /// Run on the host that a capture was made of, from the directory where it was unpacked
    #[arg(
        long = "path.capture",
        value_name = "DIR",
        conflicts_with_all = ["sysfs", "procfs", "udev_data", "multipathd_sockets"],
    )]
    pub capture: Option<PathBuf>,

    /// Socket of multipathd, @NAME for an abstract one. Repeatable; the first that answers is used [default: both of
    /// multipathd's own]
    #[arg(long = "multipathd.socket", value_name = "SOCKET")]
    pub multipathd_sockets: Vec<SocketName>,

    /// How long to wait for an answer of multipathd. For all its maps it has five times as long
    #[arg(long = "multipathd.timeout", value_name = "DURATION", default_value = "2s", value_parser = duration)]
    pub multipathd_timeout: Duration,

    /// How often to read everything, whatever events say; less often where that takes long
    #[arg(long = "resync.interval", value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub resync_interval: Duration,

    /// How often to read what has no event: sessions, ports and controllers, ALUA states, suspended, queueing
    #[arg(long = "reread.interval", value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub reread_interval: Duration,
}

/// Everything else.
#[derive(Clone, Debug, Args)]
pub struct GeneralOptions {
    /// Configuration file (YAML). SIGHUP re-reads it
    #[arg(long = "config.file", value_name = "FILE")]
    pub config_file: Option<PathBuf>,

    /// File in which the exporter keeps what it remembers through restarts [default: it remembers only while it runs]
    #[arg(long = "memory.file", value_name = "FILE", overrides_with = "memory_file")]
    pub memory_file: Option<PathBuf>,

    /// How long it remembers what is gone
    #[arg(long = "memory.window", value_name = "DURATION", default_value = "7d", value_parser = window)]
    pub memory_window: Duration,

    /// Check the configuration files and leave
    #[arg(long = "config.check")]
    pub config_check: bool,

    /// Print the state once, in Prometheus text format, and leave
    #[arg(long)]
    pub oneshot: bool,

    /// Write what is read on this host, its names replaced, to a file (tar.gz) that is not there yet, or - for standard
    /// output, and leave
    #[arg(id = "capture_file", long = "capture", value_name = "FILE", conflicts_with = "oneshot")]
    pub capture: Option<PathBuf>,

    /// Least severe level to log
    #[arg(long = "log.level", value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,

    /// Form of the log lines
    #[arg(long = "log.format", value_name = "FORMAT", default_value = "logfmt")]
    pub log_format: LogFormat,

    /// Print help
    #[arg(long, short, action = ArgAction::Help)]
    pub help: Option<bool>,

    /// Print version
    #[arg(long, short = 'V', action = ArgAction::Version)]
    pub version: Option<bool>,
}

/// A `--log.level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "the words say it")]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

/// A `--log.format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "the words say it")]
pub enum LogFormat {
    Logfmt,
    Json,
}

/// Which sources are on: `--collector.NAME` and `--no-collector.NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collectors {
    /// Device mapper's ioctls and event poll.
    pub device_mapper: bool,
    /// Native NVMe multipath.
    pub nvme: bool,
    /// iSCSI sessions.
    pub iscsi: bool,
    /// Fibre Channel ports.
    pub fibre_channel: bool,
    /// multipathd's socket.
    pub multipathd: bool,
    /// The series of each path.
    pub paths: bool,
    /// These only for devices that are not well.
    pub unhealthy_paths_only: bool,
}

const UNHEALTHY_PATHS_ONLY: [&str; 2] = [
    "collector.paths.unhealthy-only",
    "Series for each path only for devices with failed, missing, marginal, disputed or differing paths, with new I/O errors, or \
     without redundancy",
];
const COLLECTORS_HEADING: &str = "Collectors (all are on; --collector.NAME undoes --no-collector.NAME)";

/// The two options of each collector and its help, in the order of the fields of [`Collectors`].
const COLLECTORS: [[&str; 3]; 6] = [
    [
        "collector.dm",
        "no-collector.dm",
        "No ioctls nor event poll of device mapper: its devices come from multipathd, sysfs and events",
    ],
    ["collector.nvme", "no-collector.nvme", "No native NVMe multipath devices"],
    ["collector.iscsi", "no-collector.iscsi", "No iSCSI sessions, and no ports of paths over iSCSI"],
    ["collector.fc", "no-collector.fc", "No Fibre Channel ports, neither of this host nor of paths"],
    ["collector.multipathd", "no-collector.multipathd", "Do not ask multipathd"],
    ["collector.paths", "no-collector.paths", "No series for each path"],
];

impl Args for Collectors {
    fn augment_args(command: clap::Command) -> clap::Command {
        let flag = |name, other| {
            clap::Arg::new(name)
                .long(name)
                .overrides_with(other)
                .action(ArgAction::SetTrue)
                .help_heading(COLLECTORS_HEADING)
        };
        let command = COLLECTORS.into_iter().fold(command, |command, [on, off, help]| {
            command.arg(flag(off, on).help(help)).arg(flag(on, off).hide(true))
        });
        let [name, help] = UNHEALTHY_PATHS_ONLY;
        command.arg(flag(name, name).help(help))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Collectors {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let [device_mapper, nvme, iscsi, fibre_channel, multipathd, paths] =
            COLLECTORS.map(|[_, off, _]| !matches.get_flag(off));
        let unhealthy_paths_only = matches.get_flag(UNHEALTHY_PATHS_ONLY[0]);
        Ok(Collectors { device_mapper, nvme, iscsi, fibre_channel, multipathd, paths, unhealthy_paths_only })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// `HOST:PORT`; without a host all addresses of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    /// Name or address; `None` for all.
    pub host: Option<String>,
    /// Port; 0 for any that is free.
    pub port: u16,
}

impl std::str::FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const WANTED: &str = "wanted is [HOST]:PORT, such as :10056, 192.0.2.1:10056 or [::1]:10056";
        match text.split_once("://") {
            Some(("vsock", _)) => return Err(format!("vsock is not supported: {WANTED}")),
            Some(_) => return Err(format!("an address has no scheme: {WANTED}")),
            None => {}
        }
        let (host, port) =
            text.rsplit_once(':').filter(|_| !text.ends_with(']')).ok_or_else(|| format!("no port: {WANTED}"))?;
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| digits).ok_or_else(|| format!("{port:?} is no port: {WANTED}"))?;
        let host = match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
            Some(Some(address)) => address,
            Some(None) => return Err("the bracket is not closed".to_owned()),
            None if host.contains(':') => return Err("an IPv6 address stands in brackets: [::1]:10056".to_owned()),
            None => host,
        };
        Ok(ListenAddress { host: Some(host.to_owned()).filter(|host| !host.is_empty()), port })
    }
}

impl std::fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.host {
            Some(host) if host.contains(':') => write!(f, "[{host}]:{}", self.port),
            host => write!(f, "{}:{}", host.as_deref().unwrap_or_default(), self.port),
        }
    }
}

/// Longer than anybody's, and far below what a request's head may have.
const LONGEST_PATH: usize = 255;

/// Refuses what clients would ask for otherwise than it stands here (RFC 3986, 5.2.4 and 6.2), so that nobody found it.
fn telemetry_path(text: &str) -> Result<String, String> {
    let refused = |cause: &str| {
        Err(format!(
            "{cause}: wanted is a path such as /metrics, of at most {LONGEST_PATH} letters, digits and -._~!$&'()*+,;=:@ \
             between single slashes, and no / at its end"
        ))
    };
    let mut parts = text.split('/').skip(1);
    match text {
        "/" | "/-/healthy" | "/-/ready" => Err("something else is served there".to_owned()),
        _ if text.starts_with("/api/") => Err("the API is served there".to_owned()),
        _ if text.starts_with("/runbooks/") => Err("the runbooks are served there".to_owned()),
        _ if !text.starts_with('/') => refused("a path begins with /"),
        // A browser takes it for the name of a host.
        _ if text.starts_with("//") => refused("a path begins with one /"),
        _ if text.ends_with('/') => refused("it ends with /"),
        _ if parts.any(|part| matches!(part, "" | "." | "..")) => refused("clients leave out //, . and .."),
        _ if text.contains('%') => refused("clients decode what begins with %"),
        _ if text.len() > LONGEST_PATH => refused("it is too long"),
        _ if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&byte)) => {
            refused("no request could have this path")
        }
        _ => Ok(text.to_owned()),
    }
}

fn max_requests(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("wanted is a whole number from 1 to {}, or 0 for no limit", usize::MAX))
}

fn host_name(text: &str) -> Result<String, String> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_name = |name: &str| name.split('.').all(|part| !part.is_empty() && part.bytes().all(is_part));
    match is_name(text.strip_suffix('.').unwrap_or(text)) {
        true => Ok(text.to_owned()),
        false => Err("wanted is a name such as storage.example.org, without scheme and port".to_owned()),
    }
}

/// A memory shorter than the longest alert's `for` would forget before it is told, and years serve nobody.
fn window(text: &str) -> Result<Duration, String> {
    const SHORTEST: Duration = Duration::from_secs(60 * 60);
    const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);
    match humantime::parse_duration(text) {
        Ok(window) if window < SHORTEST => Err("must be an hour at least".to_owned()),
        Ok(window) if window > LONGEST => Err("must be 366 days at most".to_owned()),
        Ok(window) => Ok(window),
        Err(error) => Err(format!("{error}, wanted is a duration such as 7d, 36h")),
    }
}

/// Longer than anybody waits, and short enough to be added to any time.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("must be more than 0".to_owned()),
        Ok(duration) if duration > LONGEST => Err("must be a day at most".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}, wanted is a duration such as 30s, 500ms, 1m30s")),
    }
}

impl Cli {
    /// Reads the command line.
    ///
    /// # Errors
    /// For help and version the text to print; otherwise one line that names the option that is wrong.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, Leave> {
        let cli = Cli::try_parse_from(arguments).map_err(|error| match error.use_stderr() {
            true => Leave::Wrong(one_line(&error)),
            false => Leave::Print(error.render().to_string()),
        })?;
        match cli.general.config_check && cli.general.config_file.is_none() && cli.web.config_file.is_none() {
            true => {
                Err(Leave::Wrong("--config.check needs --config.file <FILE> or --web.config.file <FILE>".to_owned()))
            }
            false => Ok(cli),
        }
    }

    /// The whole help.
    pub fn help() -> String {
        Cli::command().render_long_help().to_string()
    }
}

/// Why there is nothing to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leave {
    /// Something was asked for that is to be printed.
    Print(String),
    /// The command line is wrong.
    Wrong(String),
}

/// clap's message and hints, without the usage: log collectors and people at night read one line.
fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty())
        .collect();
    lines.join(" ").trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<Cli, Leave> {
        Cli::read(std::iter::once("multipath_exporter").chain(arguments.iter().copied()).map(OsString::from))
    }

    #[test]
    fn the_command_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults() {
        let cli = read(&[]).unwrap();
        assert_eq!(cli.web.listen_addresses, [ListenAddress { host: None, port: 10056 }]);
        assert_eq!((cli.web.telemetry_path.as_str(), cli.web.max_requests), ("/metrics", 40));
        assert_eq!(cli.sources.resync_interval, Duration::from_secs(30));
        assert_eq!(cli.sources.reread_interval, Duration::from_secs(5));
        assert_eq!(cli.sources.multipathd_timeout, Duration::from_secs(2));
        assert!(cli.sources.multipathd_sockets.is_empty());
        assert!(cli.collectors.device_mapper && cli.collectors.multipathd && cli.collectors.paths);
    }

    #[test]
    fn paths_that_every_client_asks_for_as_they_stand() {
        let longest = format!("/{}", "a".repeat(LONGEST_PATH - 1));
        for path in ["/metrics", "/a/b", "/-/other", "/'x", "/.well-known/metrics", "/...", "/a;b=c", &longest] {
            assert_eq!(read(&[&format!("--web.telemetry-path={path}")]).unwrap().web.telemetry_path, path);
        }
    }

    #[test]
    fn hosts_are_names() {
        let cli = read(&["--web.allowed-host=storage.example.org", "--web.allowed-host=a_b-1."]).unwrap();
        assert_eq!(cli.web.allowed_hosts, ["storage.example.org", "a_b-1."]);
    }

    #[test]
    fn the_last_switch_of_a_collector_counts() {
        assert!(!read(&["--no-collector.dm"]).unwrap().collectors.device_mapper);
        assert!(read(&["--no-collector.dm", "--collector.dm"]).unwrap().collectors.device_mapper);
        assert!(!read(&["--collector.dm", "--no-collector.dm"]).unwrap().collectors.device_mapper);
    }

    #[test]
    fn addresses() {
        for (text, host, port) in [
            (":10056", None, 10056),
            ("localhost:0", Some("localhost"), 0),
            ("192.0.2.1:80", Some("192.0.2.1"), 80),
            ("[::1]:10056", Some("::1"), 10056),
        ] {
            let address: ListenAddress = text.parse().unwrap();
            assert_eq!((address.host.as_deref(), address.port), (host, port));
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line_that_names_it() {
        for (arguments, said) in [
            (
                &["--web.listen-address=10056"][..],
                "invalid value '10056' for '--web.listen-address <ADDRESS>': no port",
            ),
            (&["--web.listen-address=:http"], "\"http\" is no port"),
            (&["--web.listen-address=127.0.0.1:+80"], "\"+80\" is no port: wanted is [HOST]:PORT"),
            (&["--web.listen-address=:"], "\"\" is no port"),
            (&["--web.listen-address=:65536"], "\"65536\" is no port"),
            (&["--web.listen-address=[::1]"], "no port: wanted is [HOST]:PORT"),
            (&["--web.listen-address=vsock://:10056"], "vsock is not supported: wanted is [HOST]:PORT"),
            (&["--web.listen-address=http://127.0.0.1:0"], "an address has no scheme: wanted is [HOST]:PORT"),
            (&["--web.listen-address=::1:80"], "an IPv6 address stands in brackets"),
            (&["--web.listen-address=[::1:80"], "the bracket is not closed"),
            (&["--web.telemetry-path=metrics"], "'--web.telemetry-path <PATH>': a path begins with /"),
            (&["--web.telemetry-path=/"], "something else is served there"),
            (&["--web.telemetry-path=/a b"], "no request could have this path: wanted is a path such as /metrics"),
            (&["--web.telemetry-path=/metrics/"], "it ends with /: wanted is a path"),
            (&["--web.telemetry-path=/a//b"], "clients leave out //, . and ..: wanted is a path"),
            (&["--web.telemetry-path=/."], "clients leave out"),
            (&["--web.telemetry-path=/./m"], "clients leave out"),
            (&["--web.telemetry-path=/../x"], "clients leave out"),
            (&["--web.telemetry-path=/m%"], "clients decode what begins with %"),
            (&["--web.telemetry-path=/%6detrics"], "clients decode"),
            (&["--web.telemetry-path=/api/x"], "the API is served there"),
            (&[&format!("--web.telemetry-path=/{}", "a".repeat(255))], "it is too long: wanted is"),
            (&["--web.max-requests=many"], "'many' for '--web.max-requests <N>': wanted is a whole number from 1 to"),
            (&["--web.max-requests=-1"], "wanted is a whole number from 1 to"),
            (&["--web.allowed-host=https://a"], "'--web.allowed-host <NAME>': wanted is a name such as"),
            (&["--web.allowed-host=a:80"], "without scheme and port"),
            (&["--web.allowed-host="], "--web.allowed-host <NAME>"),
            (&["--resync.interval=0s"], "'--resync.interval <DURATION>': must be more than 0"),
            (&["--multipathd.timeout=10000000000000000000s"], "must be a day at most"),
            (&["--reread.interval=soon"], "'soon' for '--reread.interval <DURATION>'"),
            (&["--multipathd.socket=@"], "--multipathd.socket"),
            (&["--log.level=loud"], "invalid value 'loud' for '--log.level <LEVEL>' [possible values: debug"),
            (&["--log.format=xml"], "'xml' for '--log.format <FORMAT>'"),
            (&["--config.check"], "--config.file <FILE>"),
            (&["--web.listen-adress=:1"], "unexpected argument '--web.listen-adress' found"),
            (&["serve"], "unexpected argument 'serve' found"),
        ] {
            let Err(Leave::Wrong(line)) = read(arguments) else { panic!("{arguments:?} was taken") };
            assert!(line.contains(said), "{arguments:?}: {line}");
            assert!(!line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn help_names_every_option() {
        let Err(Leave::Print(help)) = read(&["--help"]) else { panic!("no help") };
        for option in ["--web.listen-address", "--path.udev.data", "--no-collector.multipathd", "--oneshot"] {
            assert!(help.contains(option), "{option}");
        }
    }
}
