//! The running program.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};

use super::{Answer, Connection, Page, eventually};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_multipath_exporter");
const LISTEN: &str = "--web.listen-address";

/// A running exporter. Dropping it kills the process.
pub struct Exporter {
    child: Running,
    addresses: Vec<SocketAddr>,
    log: Arc<Mutex<Vec<String>>>,
}

impl Exporter {
    /// Starts the exporter with these options, by default on a free port of 127.0.0.1, and waits
    /// until it listens.
    pub fn start(options: &[impl AsRef<str>]) -> Self {
        Exporter::start_and(Command::new(PROGRAM), options, |_| true)
    }

    /// Like [`Exporter::start`], but a shell starts it after these words.
    pub fn start_after(words: &str, options: &[impl AsRef<str>]) -> Self {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &format!("{words}; exec \"$@\""), "sh", PROGRAM]);
        Exporter::start_and(shell, options, |_| true)
    }

    /// Like [`Exporter::start`], with these environment variables.
    pub fn start_in(environment: &[(&str, &str)], options: &[impl AsRef<str>]) -> Self {
        let mut command = Command::new(PROGRAM);
        command.envs(environment.iter().copied());
        Exporter::start_and(command, options, |_| true)
    }

    /// Like [`Exporter::start`], and sends a signal as soon as the log says that the exporter
    /// listens.
    pub fn start_and_signal(options: &[impl AsRef<str>], signal: Signal) -> Self {
        let send = move |pid| {
            kill_process(pid, signal).unwrap();
            true
        };
        Exporter::start_and(Command::new(PROGRAM), options, send)
    }

    /// Like [`Exporter::start`], but reads no more of the log after the exporter listens, and keeps
    /// the pipe open.
    pub fn start_and_ignore(options: &[impl AsRef<str>]) -> Self {
        Exporter::start_and(Command::new(PROGRAM), options, |_| false)
    }

    /// `program` takes the options. `listening` runs when the exporter listens, and returns true if
    /// the log should be read further.
    fn start_and(
        mut program: Command,
        options: &[impl AsRef<str>],
        listening: impl Fn(Pid) -> bool + Send + 'static,
    ) -> Self {
        let mut options: Vec<&str> = options.iter().map(AsRef::as_ref).collect();
        if !options.iter().any(|option| option.starts_with(LISTEN)) {
            options.push("--web.listen-address=127.0.0.1:0");
        }
        let mut child = program.args(&options).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_child(&child);
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let ours = Arc::clone(&log);
        thread::spawn(move || {
            for line in stderr.by_ref().split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8(line).expect("the log is UTF-8");
                let go_on = address(&line).is_none() || listening(pid);
                ours.lock().unwrap().push(line);
                if !go_on {
                    std::mem::forget(stderr);
                    return;
                }
            }
        });
        let mut exporter = Exporter { child: Running(child), addresses: Vec::new(), log };
        let wanted = options.iter().filter(|option| option.starts_with(LISTEN)).count();
        exporter.addresses = eventually("it listens", || {
            let ended = exporter.child.0.try_wait().unwrap();
            assert!(ended.is_none(), "it has ended: {:?}", exporter.log());
            let addresses: Vec<_> = exporter.log().iter().filter_map(|line| address(line)).collect();
            (addresses.len() == wanted).then_some(addresses)
        });
        exporter
    }

    /// Waits for the first full reading.
    pub fn await_ready(&self) {
        eventually("it is ready", || (self.get("/-/ready").status == 200).then_some(()));
    }

    /// The addresses that it listens on, in the order of the options.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub fn connect(&self) -> Connection {
        Connection::open(self.addresses[0])
    }

    /// Sends one request on a connection of its own.
    pub fn get(&self, path: &str) -> Answer {
        self.connect().request("GET", path, &[])
    }

    /// Scrapes once.
    pub fn metrics(&self) -> Page {
        let answer = self.get("/metrics");
        assert_eq!(answer.status, 200, "{}", answer.text());
        Page::new(answer.text())
    }

    /// Scrapes until the series have these values.
    pub fn await_values(&self, wanted: &[(&str, f64)]) -> Page {
        let mut seen = Vec::new();
        let what = format!("{wanted:?}");
        let look = || {
            let page = self.metrics();
            seen = wanted.iter().map(|(series, _)| page.value(series)).collect();
            let all = wanted.iter().zip(&seen).all(|((_, value), seen)| *seen == Some(*value));
            all.then_some(page)
        };
        eventually(what, look)
    }

    /// Requests a resync. Waits until the exporter has read sysfs and multipathd, with or without
    /// success, unless they are switched off.
    ///
    /// The page may show the time of a reading a moment before its result. After a second reading,
    /// the first result is published.
    pub fn reread(&self) -> Page {
        self.read_once_more();
        self.read_once_more();
        self.metrics()
    }

    /// Like [`Exporter::reread`], twice: the page certainly shows a single reading after each.
    pub fn reread_twice(&self) -> Page {
        self.reread();
        self.reread()
    }

    fn read_once_more(&self) {
        // The page counts milliseconds. Readings before and after the signal must not fall in the
        // same one.
        thread::sleep(Duration::from_millis(2));
        let signalled = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as f64 / 1000.0;
        self.signal(Signal::HUP);
        eventually("everything is read", || {
            let page = self.metrics();
            let of = |name, source| page.value(&format!("multipath_exporter_{name}{{source=\"{source}\"}}"));
            let is_read = |source| {
                of("source_up", source) != Some(1.0)
                    || of("source_last_success_timestamp_seconds", source) >= Some(signalled)
            };
            ["sysfs", "multipathd"].into_iter().all(is_read).then_some(())
        });
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child.0)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// The lines of the log so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Waits for a log line that contains all these words.
    pub fn await_log(&self, words: &[&str]) -> String {
        eventually(format!("a line of the log with {words:?}"), || {
            self.log().into_iter().find(|line| words.iter().all(|word| line.contains(word)))
        })
    }

    /// Waits until the process ends.
    pub fn wait(&mut self) -> ExitStatus {
        eventually("it ends", || self.child.0.try_wait().unwrap())
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("The exporter's log:\n{}", self.log().join("\n"));
        }
    }
}

/// A child process that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A program that has ended.
pub struct Finished {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs the program to its end.
pub fn run(options: &[impl AsRef<OsStr>]) -> Finished {
    run_into(Stdio::piped(), options)
}

/// Runs the program to its end with this as its standard output.
pub fn run_into(stdout: impl Into<Stdio>, options: &[impl AsRef<OsStr>]) -> Finished {
    let mut command = command(options);
    command.stdout(stdout);
    start_command(command).1()
}

/// Starts a program, and gives what waits for its end.
pub fn start_command(mut command: Command) -> (Pid, impl FnOnce() -> Finished) {
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_child(&child);
    let stdout = child.stdout.take().map(read_all);
    let stderr = read_all(child.stderr.take().unwrap());
    let mut child = Running(child);
    let finish = move || Finished {
        status: eventually("it ends", || child.0.try_wait().unwrap()).code(),
        stdout: stdout.map(|stdout| stdout.join().unwrap()).unwrap_or_default(),
        stderr: stderr.join().unwrap(),
    };
    (pid, finish)
}

fn command(options: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(options).stdin(Stdio::null());
    command
}

fn read_all(mut stream: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    })
}

/// The address in a line `listening`, in either format of the log. To connect to all addresses is to connect to
/// loopback.
fn address(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("address").filter(|_| line.contains("listening"))?;
    let text = rest.trim_start_matches(['"', ':', '=']).split(['"', ' ', ',']).next()?;
    let mut address: SocketAddr = text.parse().unwrap_or_else(|error| panic!("{error}: {line}"));
    match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        _ => {}
    }
    Some(address)
}
