//! The real multipathd: its configuration, its process, and its socket.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::programs;
use crate::wait::{PATIENCE, eventually};

/// The parts of the configuration that scenarios vary. Each option has a line of its own in
/// `/etc/multipath.conf`.
#[derive(Clone, Copy)]
pub struct Conf {
    /// The interval of the path checkers in seconds.
    pub polling_interval: u32,
    pub no_path_retry: &'static str,
    /// The selection of disks to assemble.
    pub find_multipaths: &'static str,
    /// How it groups paths.
    pub path_grouping_policy: &'static str,
    /// Further options of `defaults`, one line each.
    pub more: &'static [&'static str],
    /// Further sections.
    pub sections: &'static str,
}

impl Conf {
    /// Checkers with so long an interval that nothing undoes `fail_path` during a scenario.
    pub const BLIND: Conf = Conf {
        polling_interval: 3600,
        no_path_retry: "fail",
        find_multipaths: "no",
        path_grouping_policy: "multibus",
        more: &[],
        sections: "",
    };
    /// Checkers that run every second.
    pub const WATCHFUL: Conf = Conf { polling_interval: 1, ..Conf::BLIND };

    /// Writes the daemon's configuration. The daemon reads it at its start and when it
    /// reconfigures.
    pub fn write(self) {
        fs::write("/etc/multipath.conf", self.text()).expect("/etc is writable in the guest");
    }

    fn text(self) -> String {
        let Conf { polling_interval, no_path_retry, find_multipaths, path_grouping_policy, more, sections } = self;
        let options = [
            "user_friendly_names yes".to_owned(),
            format!("find_multipaths {find_multipaths}"),
            format!("path_grouping_policy {path_grouping_policy}"),
            format!("polling_interval {polling_interval}"),
            format!("max_polling_interval {polling_interval}"),
            format!("no_path_retry {no_path_retry}"),
        ];
        let options = [&options[..], &more.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>()].concat();
        format!("defaults {{\n {}\n}}\n{sections}", options.join("\n "))
    }
}

/// A running daemon. Dropping it stops the process. Its maps stay.
pub struct Multipathd(Child);

impl Multipathd {
    /// Whether the installed version precedes this one.
    pub fn is_older_than(version: &str) -> bool {
        let installed = programs::version("multipath-tools");
        programs::try_run("dpkg", ["--compare-versions", &installed, "lt", version]).is_ok()
    }

    /// Starts the daemon, and waits until it answers. Its log goes into `dir`.
    pub fn start(dir: &Path, conf: Conf) -> Self {
        conf.write();
        let log = OpenOptions::new().append(true).create(true).open(dir.join("multipathd.log"));
        let log = log.expect("the scenario's directory is writable");
        let child = Command::new("multipathd")
            .args(["-d", "-v2"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be duplicated"))
            .stderr(log)
            .spawn()
            .expect("multipathd starts");
        let daemon = Multipathd(child);
        eventually("multipathd is ready", PATIENCE, || match daemon.ask("show daemon") {
            Ok(answer) if answer.contains("idle") || answer.contains("running") => Ok(()),
            Ok(answer) => Err(answer),
            Err(e) => Err(e.to_string()),
        });
        daemon
    }

    /// Sends a command, and returns the answer.
    pub fn ask(&self, command: &str) -> io::Result<String> {
        let mut socket = UnixStream::connect_addr(&address()?)?;
        socket.set_read_timeout(Some(Duration::from_secs(30)))?;
        socket.write_all(&(command.len() + 1).to_ne_bytes())?;
        socket.write_all(format!("{command}\0").as_bytes())?;
        let mut length = [0; size_of::<usize>()];
        socket.read_exact(&mut length)?;
        let mut answer = vec![0; usize::from_ne_bytes(length)];
        socket.read_exact(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).trim_end_matches('\0').to_owned())
    }

    /// Stops all threads: the kernel still accepts connections to the socket, and the daemon does
    /// not answer.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Undoes [`Multipathd::freeze`].
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Stops the daemon like its service.
    pub fn stop(self) {}

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("our own child can be signalled");
    }
}

/// The abstract socket. Any user may take it while the daemon does not hold it.
fn address() -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name("/org/kernel/linux/storage/multipathd")
}

/// A program of user 65533 that listens on multipathd's socket and would answer like the daemon.
pub struct Impostor {
    ended: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Impostor {
    /// Starts the program with this answer to `show maps json`.
    pub fn start(maps: &str) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let asked = Arc::new(AtomicUsize::new(0));
        let (maps, is_ended, requests) = (maps.to_owned(), Arc::clone(&ended), Arc::clone(&asked));
        let (listens, listening) = mpsc::channel();
        let thread = thread::spawn(move || {
            // The kernel records the user of the thread that calls listen.
            let user = rustix::thread::Uid::from_raw(65533);
            rustix::thread::set_thread_res_uid(user, user, user).expect("root may become anybody");
            let listener = UnixListener::bind_addr(&address().expect("a name")).expect("the daemon has gone");
            listens.send(()).expect("the scenario waits");
            for stream in listener.incoming() {
                if is_ended.load(Ordering::Relaxed) {
                    break;
                }
                if stream.and_then(|stream| answer(stream, &maps)).is_ok() {
                    requests.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        listening.recv().expect("the impostor listens");
        Impostor { ended, asked, thread: Some(thread) }
    }

    /// The number of requests.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        drop(address().and_then(|address| UnixStream::connect_addr(&address)));
        drop(self.thread.take().map(JoinHandle::join));
    }
}

fn answer(mut stream: UnixStream, maps: &str) -> io::Result<()> {
    let mut length = [0; size_of::<usize>()];
    stream.read_exact(&mut length)?;
    let mut request = vec![0; usize::from_ne_bytes(length)];
    stream.read_exact(&mut request)?;
    let reply = if request == b"show maps json\0" { maps } else { "pid 1 idle\n" };
    stream.write_all(&(reply.len() + 1).to_ne_bytes())?;
    stream.write_all(format!("{reply}\0").as_bytes())
}

impl Drop for Multipathd {
    fn drop(&mut self) {
        self.thaw();
        self.signal(Signal::TERM);
        programs::reap(&mut self.0, PATIENCE);
    }
}
