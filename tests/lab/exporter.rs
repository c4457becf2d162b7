//! The exporter under test as a process of its own.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::dm::{self, Dm};
use crate::http::{self, EventStream, Response};
use crate::metrics::{Counts, Metrics};
use crate::programs;
use crate::wait::{PATIENCE, eventually, eventually_eq};

/// The privileges of a process.
#[derive(Clone, Copy)]
enum Rights {
    Root,
    /// Root's user id without CAP_NET_ADMIN.
    RootWithoutNetAdmin,
    /// `nobody` without any capability.
    Nobody,
}

/// A way to start the exporter.
pub struct Launch<'a> {
    dir: &'a Path,
    program: &'a Path,
    rights: Rights,
    address: Option<SocketAddr>,
    args: Vec<String>,
}

impl<'a> Launch<'a> {
    /// Starts `program` as root with default flags. Its log goes into `dir`.
    pub fn new(program: &'a Path, dir: &'a Path) -> Self {
        Launch { dir, program, rights: Rights::Root, address: None, args: Vec::new() }
    }

    /// Starts it as `nobody` without any capability.
    pub fn unprivileged(self) -> Self {
        Launch { rights: Rights::Nobody, ..self }
    }

    /// Starts it as root without CAP_NET_ADMIN. `net.core.rmem_max` then limits its socket buffer.
    pub fn without_net_admin(self) -> Self {
        Launch { rights: Rights::RootWithoutNetAdmin, ..self }
    }

    /// Starts another copy of the program.
    pub fn program(self, program: &'a Path) -> Self {
        Launch { program, ..self }
    }

    /// Adds a flag.
    pub fn flag(mut self, flag: &str) -> Self {
        self.args.push(flag.to_owned());
        self
    }

    /// Adds a configuration file with this text.
    pub fn config(self, text: &str) -> Self {
        let file = self.dir.join("config.yml");
        fs::write(&file, text).expect("the scenario's directory is writable");
        self.flag(&format!("--config.file={}", file.display()))
    }

    /// Listens on this address: that of a former exporter, or one that others than the scenario can
    /// reach.
    pub fn at(self, address: SocketAddr) -> Self {
        Launch { address: Some(address), ..self }
    }

    /// Starts it and waits until it is ready.
    pub fn start(self) -> Exporter {
        let mut exporter = self.spawn();
        eventually("the exporter is ready", PATIENCE, || match exporter.get("/-/ready") {
            Ok(answer) if answer.status == 200 => Ok(()),
            Ok(answer) => Err(format!("/-/ready: {} {}", answer.status, answer.body)),
            Err(e) => {
                let ended = exporter.child.try_wait().expect("our own child can be waited for");
                assert_eq!(ended, None, "the exporter ended");
                Err(format!("/-/ready: {e}"))
            }
        });
        exporter
    }

    /// Starts it.
    pub fn spawn(mut self) -> Exporter {
        static NEXT_PORT: AtomicU16 = AtomicU16::new(10056);
        let next = || SocketAddr::from((Ipv4Addr::LOCALHOST, NEXT_PORT.fetch_add(1, Ordering::Relaxed)));
        let address = self.address.unwrap_or_else(next);
        let log = self.dir.join(format!("exporter-{}.log", address.port()));
        let sink =
            OpenOptions::new().append(true).create(true).open(&log).expect("the scenario's directory is writable");
        self.args.push(format!("--web.listen-address={address}"));
        let child = self
            .command()
            .stdout(sink.try_clone().expect("a file can be duplicated"))
            .stderr(sink)
            .spawn()
            .expect("the exporter starts");
        Exporter { child, address, log }
    }

    /// Runs `--oneshot` to its end, and returns its output.
    pub fn oneshot(self) -> String {
        let (status, printed) = self.spawn_oneshot().end(PATIENCE);
        assert!(status.success(), "--oneshot: {status}");
        printed
    }

    /// Starts `--oneshot`.
    pub fn spawn_oneshot(mut self) -> Oneshot {
        self.args.push("--oneshot".to_owned());
        let create = |path: &Path| File::create(path).expect("the scenario's directory is writable");
        let printed = self.dir.join("oneshot.txt");
        let mut command = self.command();
        command.stdout(create(&printed)).stderr(create(&self.dir.join("oneshot.log")));
        Oneshot { child: command.spawn().expect("the exporter starts"), printed }
    }

    fn command(&self) -> Command {
        let setpriv: &[&str] = match self.rights {
            Rights::Root => &[],
            Rights::RootWithoutNetAdmin => &["--bounding-set=-net_admin", "--inh-caps=-net_admin"],
            Rights::Nobody => {
                &["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]
            }
        };
        let mut command = Command::new("setpriv");
        command.args(setpriv).arg("--").arg(self.program).args(&self.args).stdin(Stdio::null());
        command
    }
}

/// A running `--oneshot`. Dropping it kills the process.
pub struct Oneshot {
    child: Child,
    printed: PathBuf,
}

impl Oneshot {
    /// Waits for its end, and returns the status and the output.
    #[track_caller]
    pub fn end(mut self, within: Duration) -> (ExitStatus, String) {
        let status = programs::reap(&mut self.child, within);
        let status = status.unwrap_or_else(|| panic!("--oneshot did not end within {within:?}"));
        (status, fs::read_to_string(&self.printed).expect("an exposition is UTF-8"))
    }
}

impl Drop for Oneshot {
    fn drop(&mut self) {
        kill(&mut self.child);
    }
}

/// A running exporter. Dropping it kills the process.
pub struct Exporter {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Exporter {
    /// Requests a path.
    pub fn get(&self, path: &str) -> io::Result<Response> {
        http::get(self.address, path, PATIENCE)
    }

    /// Requests a path that must answer 200.
    #[track_caller]
    pub fn get_ok(&self, path: &str) -> Response {
        let response = self.get(path).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert_eq!(response.status, 200, "{path}: {}", response.body);
        response
    }

    /// Scrapes once.
    #[track_caller]
    pub fn metrics(&self) -> Metrics {
        let response = self.get_ok("/metrics");
        let content_type = response.header("content-type").unwrap_or_default();
        assert!(content_type.starts_with("text/plain; version=0.0.4"), "{content_type}");
        Metrics::parse(&response.body)
    }

    /// An answer of the API.
    #[track_caller]
    pub fn json(&self, path: &str) -> Value {
        let body = self.get_ok(path).body;
        serde_json::from_str(&body).unwrap_or_else(|e| panic!("{path}: {e}: {body}"))
    }

    /// oVirt's view: the unhealthy devices.
    #[track_caller]
    pub fn multipath_health(&self) -> Value {
        self.json("/api/v1/multipath-health")["multipathHealth"].take()
    }

    /// The events of one type about a device, oldest first.
    #[track_caller]
    pub fn events(&self, wwid: &str, kind: &str) -> Vec<Value> {
        let mut events = self.events_of_type(kind);
        events.retain(|event| event["wwid"] == wwid);
        events
    }

    /// The events of one type, oldest first.
    #[track_caller]
    pub fn events_of_type(&self, kind: &str) -> Vec<Value> {
        let Value::Array(mut events) = self.json("/api/v1/events")["events"].take() else {
            panic!("/api/v1/events holds no list");
        };
        events.retain(|event| event["type"] == kind);
        events
    }

    /// The events after the one with this id, or future events.
    #[track_caller]
    pub fn follow_events(&self, after: Option<&str>) -> EventStream {
        EventStream::open(self.address, after, PATIENCE).unwrap_or_else(|e| panic!("the event stream: {e}"))
    }

    /// The lines of the log at a level that hold a text.
    pub fn log_lines(&self, level: &str, text: &str) -> Vec<String> {
        let log = fs::read_to_string(&self.log).expect("the log is there");
        let level = format!("level={level}");
        log.lines().filter(|line| line.contains(&level) && line.contains(text)).map(str::to_owned).collect()
    }

    /// The lines of the log that tell of a path and call it by its device number instead of its name.
    pub fn log_lines_of_nameless_paths(&self) -> Vec<String> {
        let log = fs::read_to_string(&self.log).expect("the log is there");
        let path = |line: &str| Some(line.split_once(" path=")?.1.split(' ').next()?.trim_matches('"').contains(':'));
        log.lines().filter(|line| path(line) == Some(true)).map(str::to_owned).collect()
    }

    /// Waits until a device has these numbers of paths in each state.
    #[track_caller]
    pub fn wait_for_counts(&self, wwid: &str, valid: u64, failed: u64) {
        let what = format!("{wwid} is exported with these paths");
        eventually_eq(&what, Some(Counts { valid, failed }), || self.metrics().counts(wwid));
    }

    /// Waits until this number of iSCSI sessions is up.
    #[track_caller]
    pub fn wait_for_sessions(&self, up: usize) {
        let count = || self.metrics().series("multipath_iscsi_session_up").filter(|(_, up)| *up == 1.0).count();
        eventually_eq("so many sessions are up", up, count);
    }

    /// Waits until this number of failed and reinstated paths has been counted for a device. Device
    /// mapper's event poll may show a state before the exporter reads the uevent that counts.
    #[track_caller]
    pub fn wait_for_path_events(&self, wwid: &str, failed: u64, reinstated: u64) {
        let what = format!("the path events of {wwid} are counted");
        eventually_eq(&what, (failed, reinstated), || self.metrics().path_events(wwid));
    }

    /// Waits until the log has this number of such lines. A thread of its own writes the log.
    #[track_caller]
    pub fn wait_for_log_lines(&self, level: &str, text: &str, lines: usize) {
        eventually_eq(&format!("the log tells: {text}"), lines, || self.log_lines(level, text).len());
    }

    /// The present differences between its path states and the kernel's.
    #[track_caller]
    pub fn differences(&self, dm: &Dm) -> Vec<String> {
        dm::differences(&self.metrics().all_paths(), &dm.all_paths())
    }

    /// Stops the process with SIGSTOP.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Undoes [`Exporter::freeze`].
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Sends SIGTERM, and waits for the end.
    #[track_caller]
    pub fn terminate(mut self, within: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        programs::reap(&mut self.child, within).unwrap_or_else(|| panic!("SIGTERM did not end it within {within:?}"))
    }

    /// The processor time of its threads.
    pub fn cpu_time(&self) -> Duration {
        programs::cpu_time(&format!("/proc/{}/task", self.child.id()))
    }

    /// Requests a resync (SIGHUP).
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resident memory and its anonymous part, in kB.
    pub fn resident_kb(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("the exporter runs");
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_suffix("kB"));
            value.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("no {name} in {status}"))
        };
        (field("VmRSS:"), field("RssAnon:"))
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("our own child can be signalled");
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        kill(&mut self.child);
    }
}

fn kill(child: &mut Child) {
    // The process may have ended already.
    let _ = child.kill();
    let _ = child.wait();
}
