//! The command line. Names and defaults of the options are part of the project's interface.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, ArgMatches, Args, FromArgMatches, Parser, ValueEnum};

use crate::shares::AddressShare;
use crate::source::multipathd::SocketName;

const ABOUT: &str = "Prometheus exporter for multipath storage. It shows that a server loses paths to its storage, \
                     before the last path fails.

It watches device mapper, multipathd, sysfs and kernel events, starts no other program, and serves metrics on \
                     /metrics. Without privileges it takes path states from multipathd and from kernel events: the \
                     counts are the same while multipathd runs. Reading the kernel's own path states needs \
                     CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH.";

/// The parsed options.
#[derive(Clone, Debug, Parser)]
#[command(name = "multipath_exporter", version, about = ABOUT, max_term_width = 110)]
#[command(disable_help_flag = true, disable_version_flag = true)]
pub struct Cli {
    #[command(flatten, next_help_heading = "Web")]
    pub(crate) web: WebOptions,

    #[command(flatten, next_help_heading = "Sources")]
    pub(crate) sources: SourceOptions,

    #[command(flatten)]
    pub(crate) collectors: Collectors,

    #[expect(missing_docs, reason = "the help text is the documentation")]
    #[command(flatten, next_help_heading = "General")]
    pub general: GeneralOptions,
}

/// Options of the web server.
#[derive(Clone, Debug, Args)]
pub(crate) struct WebOptions {
    /// Address to listen on, as [HOST]:PORT. Repeatable
    #[arg(long = "web.listen-address", value_name = "ADDRESS", default_value = ":10056")]
    pub listen_addresses: Vec<ListenAddress>,

    /// Listen on the sockets that systemd passes, not on addresses
    #[arg(long = "web.systemd-socket")]
    pub systemd_socket: bool,

    /// Web configuration file (YAML) of Prometheus's exporter-toolkit: TLS, basic authentication,
    /// rate limit, headers. The exporter reloads it when it changes
    #[arg(id = "web_config_file", long = "web.config.file", value_name = "FILE")]
    pub config_file: Option<PathBuf>,

    /// Path of the metrics page
    #[arg(long = "web.telemetry-path", value_name = "PATH", default_value = "/metrics", value_parser = telemetry_path)]
    pub telemetry_path: String,

    /// Number of scrapes that are served at once; further ones get status 503. 0 for no limit
    #[arg(long = "web.max-requests", value_name = "N", default_value = "40", value_parser = max_requests)]
    pub max_requests: usize,

    /// Share of each limit that one client address may use, in percent. Use 100 behind a proxy
    #[arg(long = "web.address-share", value_name = "PERCENT", default_value_t)]
    pub address_share: AddressShare,

    /// Host name that browsers may use for the status page, the API and the runbooks, besides
    /// addresses, localhost and this host's node name. Other names get status 421. Repeatable
    #[arg(long = "web.allowed-host", value_name = "NAME", value_parser = host_name)]
    pub allowed_hosts: Vec<String>,

    /// Serve only the metrics and the health checks: no status page, no API, no runbooks
    #[arg(long = "web.no-status-page", overrides_with = "no_status_page")]
    pub no_status_page: bool,
}

/// Options of the sources.
#[derive(Clone, Debug, Args)]
pub(crate) struct SourceOptions {
    /// Mount point of sysfs
    #[arg(long = "path.sysfs", value_name = "DIR", default_value = "/sys")]
    pub sysfs: PathBuf,

    /// Mount point of procfs
    #[arg(long = "path.procfs", value_name = "DIR", default_value = "/proc")]
    pub procfs: PathBuf,

    /// Directory of udev's database
    #[arg(long = "path.udev.data", value_name = "DIR", default_value = "/run/udev/data")]
    pub udev_data: PathBuf,

    /// Replay a capture: the directory where the archive of --capture was unpacked
    #[arg(
        long = "path.capture",
        value_name = "DIR",
        conflicts_with_all = ["sysfs", "procfs", "udev_data", "multipathd_sockets"],
    )]
    pub capture: Option<PathBuf>,

    /// Socket of multipathd; @NAME for an abstract one. Repeatable; the first one that answers is
    /// used [default: both standard sockets of multipathd]
    #[arg(long = "multipathd.socket", value_name = "SOCKET")]
    pub multipathd_sockets: Vec<SocketName>,

    /// Time limit for a reply of multipathd; five times as long for the list of all maps
    #[arg(long = "multipathd.timeout", value_name = "DURATION", default_value = "2s", value_parser = duration)]
    pub multipathd_timeout: Duration,

    /// Interval of resyncs, which read everything independently of events; longer where they take
    /// long
    #[arg(long = "resync.interval", value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub resync_interval: Duration,

    /// Interval of re-reads of state that has no events: sessions, ports, controllers, ALUA states,
    /// suspended, queueing
    #[arg(long = "reread.interval", value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub reread_interval: Duration,
}

/// All other options.
#[derive(Clone, Debug, Args)]
pub struct GeneralOptions {
    /// Configuration file (YAML). SIGHUP reloads it
    #[arg(long = "config.file", value_name = "FILE")]
    pub config_file: Option<PathBuf>,

    /// File that keeps the exporter's memory across restarts [default: none; the memory ends with
    /// the process]
    #[arg(long = "memory.file", value_name = "FILE", overrides_with = "memory_file")]
    pub memory_file: Option<PathBuf>,

    /// How long the exporter remembers devices and paths that are gone
    #[arg(long = "memory.window", value_name = "DURATION", default_value = "7d", value_parser = window)]
    pub memory_window: Duration,

    /// Check the configuration files and exit
    #[arg(long = "config.check")]
    pub config_check: bool,

    /// Print the metrics once, in Prometheus text format, and exit
    #[arg(long)]
    pub oneshot: bool,

    /// Write what the exporter reads on this host, with all names replaced, to a new file (tar.gz)
    /// and exit; - stands for standard output
    #[arg(id = "capture_file", long = "capture", value_name = "FILE", conflicts_with = "oneshot")]
    pub capture: Option<PathBuf>,

    /// Lowest level to log
    #[arg(long = "log.level", value_name = "LEVEL", default_value = "info", ignore_case = true)]
    pub log_level: LogLevel,

    /// Format of the log lines
    #[arg(long = "log.format", value_name = "FORMAT", default_value = "logfmt", ignore_case = true)]
    pub log_format: LogFormat,

    /// Print help
    #[arg(long, short, action = ArgAction::Help)]
    pub help: Option<bool>,

    /// Print version
    #[arg(long, short = 'V', action = ArgAction::Version)]
    pub version: Option<bool>,
}

/// The values of `--log.level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "the words say it")]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

/// The values of `--log.format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "the words say it")]
pub enum LogFormat {
    Logfmt,
    Json,
}

/// Which collectors are on: `--collector.NAME` and `--no-collector.NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Collectors {
    /// Device mapper's ioctls and its event poll.
    pub device_mapper: bool,
    /// Native NVMe multipath.
    pub nvme: bool,
    /// iSCSI sessions.
    pub iscsi: bool,
    /// Fibre Channel ports.
    pub fibre_channel: bool,
    /// multipathd's socket.
    pub multipathd: bool,
    /// Per-path series.
    pub paths: bool,
    /// Per-path series only for devices that need attention.
    pub unhealthy_paths_only: bool,
}

const UNHEALTHY_PATHS_ONLY: [&str; 2] = [
    "collector.paths.unhealthy-only",
    "Export per-path series only for devices that need attention. These have failed, missing, marginal, blocked, stray, \
     disagreeing or mismatched paths, new I/O errors, stalled I/O, or no redundancy",
];
const COLLECTORS_HEADING: &str = "Collectors (all are on by default; --collector.NAME undoes --no-collector.NAME)";

/// For each collector its two options and its help, in the order of the fields of [`Collectors`].
const COLLECTORS: [[&str; 3]; 6] = [
    [
        "collector.dm",
        "no-collector.dm",
        "Do not ask device mapper: no ioctls, no event poll. Its devices come from multipathd, sysfs and events",
    ],
    ["collector.nvme", "no-collector.nvme", "Do not read native NVMe multipath devices"],
    ["collector.iscsi", "no-collector.iscsi", "Do not read iSCSI sessions; the ports of paths over iSCSI stay empty"],
    [
        "collector.fc",
        "no-collector.fc",
        "Do not read Fibre Channel ports; the ports of paths over Fibre Channel stay empty",
    ],
    ["collector.multipathd", "no-collector.multipathd", "Do not ask multipathd"],
    ["collector.paths", "no-collector.paths", "Do not export per-path series"],
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

/// `HOST:PORT`. Without a host it stands for all addresses of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenAddress {
    /// Name or address; `None` for all addresses.
    pub host: Option<String>,
    /// Port; 0 lets the kernel choose a free one.
    pub port: u16,
}

impl std::str::FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected [HOST]:PORT, such as :10056, 192.0.2.1:10056 or [::1]:10056";
        if text.starts_with("unix:/") {
            return Err(format!("Unix sockets are not supported: {EXPECTED}"));
        }
        match text.split_once("://") {
            Some(("vsock", _)) => return Err(format!("vsock is not supported: {EXPECTED}")),
            Some((scheme, _)) => return Err(format!("an address has no scheme such as {scheme}://: {EXPECTED}")),
            None => {}
        }
        let (host, port) = text
            .rsplit_once(':')
            .filter(|_| !text.ends_with(']'))
            .ok_or_else(|| format!("the port is missing: {EXPECTED}"))?;
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| digits).ok_or_else(|| format!("invalid port {port:?}: {EXPECTED}"))?;
        let host = match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
            Some(Some(address)) => address,
            Some(None) => return Err(format!("the bracket is not closed: {EXPECTED}")),
            None if host.contains(':') => return Err(format!("an IPv6 address needs brackets: {EXPECTED}")),
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

/// In bytes. Far above any path in use, and far below the size limit of a request's head.
const LONGEST_PATH: usize = 255;

/// Refuses paths that clients rewrite before they send them (RFC 3986, 5.2.4 and 6.2): no client
/// could reach such a path.
fn telemetry_path(text: &str) -> Result<String, String> {
    let refused = |cause: &str| {
        Err(format!(
            "{cause}: expected a path such as /metrics, of at most {LONGEST_PATH} letters, digits and -._~!$&'()*+,;=:@ \
             between single slashes, without a slash at the end"
        ))
    };
    let mut parts = text.split('/').skip(1);
    match text {
        "/" => Err("/ is the status page".to_owned()),
        "/-/healthy" | "/-/ready" => Err(format!("{text} is a health check of the exporter")),
        _ if text.starts_with("/api/") => Err("/api/ is reserved for the API".to_owned()),
        _ if text.starts_with("/runbooks/") => Err("/runbooks/ is reserved for the runbooks".to_owned()),
        _ if !text.starts_with('/') => refused("the path does not start with /"),
        // A browser takes the part behind `//` for a host name.
        _ if text.starts_with("//") => refused("the path does not start with a single /"),
        _ if text.ends_with('/') => refused("the path ends with /"),
        _ if parts.any(|part| matches!(part, "" | "." | "..")) => refused("clients remove //, . and .. from a path"),
        _ if text.contains('%') => refused("clients decode % in a path"),
        _ if text.len() > LONGEST_PATH => refused("the path is too long"),
        _ if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&byte)) => {
            refused("the path has a character that no request can carry")
        }
        _ => Ok(text.to_owned()),
    }
}

fn max_requests(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| "expected a whole number, or 0 for no limit".to_owned())
}

fn host_name(text: &str) -> Result<String, String> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_name = |name: &str| name.split('.').all(|part| !part.is_empty() && part.bytes().all(is_part));
    if is_name(text.strip_suffix('.').unwrap_or(text)) {
        Ok(text.to_owned())
    } else {
        Err("expected a name such as storage.example.org, without scheme and port".to_owned())
    }
}

/// The shortest window is above the longest `for` of an alert. Otherwise the exporter would forget
/// a device before the alert fires. A window of years has no use.
fn window(text: &str) -> Result<Duration, String> {
    const SHORTEST: Duration = Duration::from_secs(60 * 60);
    const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);
    match humantime::parse_duration(text) {
        Ok(window) if window < SHORTEST => Err("must be at least an hour".to_owned()),
        Ok(window) if window > LONGEST => Err("must be at most 366 days".to_owned()),
        Ok(window) => Ok(window),
        Err(_) => Err("expected a positive duration with its unit, such as 7d or 36h".to_owned()),
    }
}

/// Longer than any useful interval, and short enough to be added to any time without an overflow.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("must be more than 0".to_owned()),
        Ok(duration) if duration > LONGEST => Err("must be at most a day".to_owned()),
        Ok(duration) => Ok(duration),
        Err(_) => Err("expected a positive duration with its unit, such as 30s, 500ms or 1m30s".to_owned()),
    }
}

impl Cli {
    /// Parses the command line.
    ///
    /// # Errors
    /// For help and version the text to print. For a wrong option one line that names it.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, Leave> {
        let arguments: Vec<OsString> = arguments.into_iter().collect();
        let cli = Cli::try_parse_from(&arguments).map_err(|error| {
            if error.use_stderr() {
                Leave::Wrong(unknown_option(&error, &arguments).unwrap_or_else(|| one_line(&error)))
            } else {
                Leave::Print(error.render().to_string())
            }
        })?;
        if cli.general.config_check && cli.general.config_file.is_none() && cli.web.config_file.is_none() {
            return Err(Leave::Wrong(
                "--config.check needs --config.file <FILE> or --web.config.file <FILE>".to_owned(),
            ));
        }
        Ok(cli)
    }
}

/// Why the program ends without running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leave {
    /// Help or version was requested; this is the text to print.
    Print(String),
    /// The command line is wrong; this is the error in one line.
    Wrong(String),
}

/// A message for habits from other exporters, where clap would name only one letter of the option,
/// or suggest an unrelated option.
fn unknown_option(error: &clap::Error, arguments: &[OsString]) -> Option<String> {
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else { return None };
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    if option.contains("collector.") {
        let collectors = COLLECTORS.map(|[on, ..]| on.trim_start_matches("collector.")).join(", ");
        return Some(format!("unexpected argument '{option}' found; the collectors are {collectors}"));
    }
    // Go programs accept one dash or two. clap takes each letter behind a single dash for an
    // option.
    let written = arguments.iter().filter_map(|argument| argument.to_str());
    let mut words = written.filter(|argument| argument.starts_with('-') && !argument.starts_with("--"));
    let word = words.find(|argument| argument.len() > 2 && argument.starts_with(option.as_str()))?;
    Some(format!("unexpected argument '{word}' found; a long option has two dashes: '-{word}'"))
}

/// clap's message and hints in one line, without the usage. Log collectors read lines, and so do
/// people at night.
fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty())
        .collect();
    lines.join(" ").replace(" tip: ", "; tip: ").trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

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
                "invalid value '10056' for '--web.listen-address <ADDRESS>': the port is missing",
            ),
            (&["--web.listen-address=:http"], "invalid port \"http\""),
            (&["--web.listen-address=127.0.0.1:+80"], "invalid port \"+80\": expected [HOST]:PORT"),
            (&["--web.listen-address=:"], "invalid port \"\""),
            (&["--web.listen-address=:65536"], "invalid port \"65536\""),
            (&["--web.listen-address=[::1]"], "the port is missing: expected [HOST]:PORT"),
            (&["--web.listen-address=vsock://:10056"], "vsock is not supported: expected [HOST]:PORT"),
            (&["--web.listen-address=http://127.0.0.1:0"], "no scheme such as http://: expected [HOST]:PORT"),
            (&["--web.listen-address=unix:/run/x"], "Unix sockets are not supported: expected [HOST]:PORT"),
            (&["--web.listen-address=::1:80"], "an IPv6 address needs brackets: expected [HOST]:PORT"),
            (&["--web.listen-address=[::1:80"], "the bracket is not closed: expected [HOST]:PORT"),
            (&["--web.telemetry-path=metrics"], "'--web.telemetry-path <PATH>': the path does not start with /"),
            (&["--web.telemetry-path=/"], "/ is the status page"),
            (&["--web.telemetry-path=/-/ready"], "/-/ready is a health check"),
            (&["--web.telemetry-path=//a"], "does not start with a single /: expected a path"),
            (&["--web.telemetry-path=/a b"], "no request can carry: expected a path such as /metrics"),
            (&["--web.telemetry-path=/metrics/"], "the path ends with /: expected a path"),
            (&["--web.telemetry-path=/a//b"], "clients remove //, . and .. from a path: expected a path"),
            (&["--web.telemetry-path=/."], "clients remove"),
            (&["--web.telemetry-path=/./m"], "clients remove"),
            (&["--web.telemetry-path=/../x"], "clients remove"),
            (&["--web.telemetry-path=/m%"], "clients decode % in a path"),
            (&["--web.telemetry-path=/%6detrics"], "clients decode"),
            (&["--web.telemetry-path=/api/x"], "/api/ is reserved for the API"),
            (&[&format!("--web.telemetry-path=/{}", "a".repeat(255))], "the path is too long: expected"),
            (&["--web.max-requests=many"], "'many' for '--web.max-requests <N>': expected a whole number, or 0"),
            (&["--web.max-requests=-1"], "expected a whole number, or 0 for no limit"),
            (&["--web.allowed-host=https://a"], "'--web.allowed-host <NAME>': expected a name such as"),
            (&["--web.allowed-host=a:80"], "without scheme and port"),
            (&["--web.allowed-host="], "--web.allowed-host <NAME>"),
            (&["--resync.interval=0s"], "'--resync.interval <DURATION>': must be more than 0"),
            (&["--multipathd.timeout=10000000000000000000s"], "must be at most a day"),
            (&["--memory.window=59m"], "must be at least an hour"),
            (&["--memory.window=367d"], "must be at most 366 days"),
            (&["--memory.window=7"], "'--memory.window <DURATION>': expected a positive duration with its unit"),
            (&["--resync.interval=-5s"], "expected a positive duration with its unit, such as 30s"),
            (&["--reread.interval=soon"], "'soon' for '--reread.interval <DURATION>'"),
            (&["--multipathd.socket=@"], "--multipathd.socket"),
            (&["--log.level=loud"], "invalid value 'loud' for '--log.level <LEVEL>' [possible values: debug"),
            (&["--log.format=xml"], "'xml' for '--log.format <FORMAT>'"),
            (&["--config.check"], "--config.file <FILE>"),
            (
                &["--web.listen-adress=:1"],
                "unexpected argument '--web.listen-adress' found; tip: a similar argument exists: '--web.listen-address'",
            ),
            (
                &["-web.listen-address", ":1"],
                "'-web.listen-address' found; a long option has two dashes: '--web.listen-",
            ),
            (&["-oneshot"], "unexpected argument '-oneshot' found; a long option has two dashes: '--oneshot'"),
            (&["-x"], "unexpected argument '-x' found"),
            (&["--collector.disable-defaults"], "found; the collectors are dm, nvme, iscsi, fc, multipathd, paths"),
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
