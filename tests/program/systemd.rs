//! Messages to systemd. A socket of the test takes systemd's place.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::harness::{Exporter, Host, Reply, eventually, recorded_reply};

/// The receiver of the messages, in systemd's place.
struct Manager {
    socket: UnixDatagram,
    directory: TempDir,
}

impl Manager {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        Manager { socket, directory }
    }

    /// An exporter that sends its messages to the test. These options override those of the host.
    fn start(&self, host: &Host, options: &[&str]) -> Exporter {
        self.start_in(&[], host, options)
    }

    fn start_in(&self, environment: &[(&str, &str)], host: &Host, options: &[&str]) -> Exporter {
        let socket = self.directory.path().join("notify");
        let environment = [&[("NOTIFY_SOCKET", socket.to_str().unwrap())], environment].concat();
        let name = |option: &str| option.split('=').next().map(str::to_owned);
        let mut all = host.options();
        all.retain(|option| !options.iter().any(|given| name(given) == name(option)));
        all.extend(options.iter().map(|option| (*option).to_owned()));
        Exporter::start_in(&environment, &all)
    }

    /// The next message, if one has arrived.
    fn hear(&self) -> Option<String> {
        let mut message = [0; 4096];
        match self.socket.recv(&mut message) {
            Ok(length) => Some(String::from_utf8(message[..length].to_vec()).unwrap()),
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
                None
            }
        }
    }

    /// All messages up to the first one with this beginning.
    fn hear_until(&self, beginning: &str) -> Vec<String> {
        let mut heard: Vec<String> = Vec::new();
        eventually(format!("systemd is told {beginning}"), || {
            heard.extend(self.hear());
            heard.last().is_some_and(|message| message.starts_with(beginning)).then_some(())
        });
        heard
    }
}

/// A multipathd timeout that is longer than a test.
const PATIENT: &str = "--multipathd.timeout=10m";

#[test]
fn ready_after_the_first_full_read_and_not_before() {
    let (manager, host) = (Manager::new(), Host::recorded("02-net1-lost"));
    host.multipathd.daemon(Reply::Hold);
    let exporter = manager.start(&host, &[PATIENT]);
    assert_eq!(manager.hear_until("STATUS="), ["STATUS=reading for the first time\n"]);
    assert_eq!(exporter.get("/-/ready").status, 503);
    assert_eq!(manager.hear(), None);
    host.multipathd.daemon(Reply::Text("pid 4711 idle\n".to_owned()));
    manager.hear_until("READY=1");
    assert_eq!(exporter.get("/-/ready").status, 200);
}

#[test]
fn a_daemon_that_hangs_does_not_hold_up_the_start() {
    let (manager, host) = (Manager::new(), Host::recorded("02-net1-lost"));
    host.multipathd.daemon(Reply::Hold);
    let exporter = manager.start(&host, &["--multipathd.timeout=100ms"]);
    manager.hear_until("READY=1");
    assert_eq!(exporter.get("/-/ready").status, 200);
}

#[test]
fn a_line_for_people_that_follows_the_host() {
    let (manager, host) = (Manager::new(), Host::recorded("01-healthy"));
    let exporter = manager.start(&host, &[]);
    manager.hear_until("STATUS=2 devices, no failed path");
    for (state, line) in [
        ("02-net1-lost", "STATUS=2 devices, 2 with failed paths"),
        ("03-both-lost", "STATUS=2 devices, 2 with no valid path"),
        ("04-back", "STATUS=2 devices, no failed path"),
    ] {
        host.turn_into(state);
        exporter.signal(Signal::HUP);
        manager.hear_until(line);
    }
}

/// No source of devices can be read. Then multipathd becomes readable, and sysfs last.
#[test]
fn the_line_says_what_is_wrong_while_not_every_source_can_be_read() {
    let (manager, host) = (Manager::new(), Host::recorded("01-healthy"));
    let unlistable = host.sysfs.make_unlistable("block");
    host.multipathd.maps(Reply::closed());
    let exporter = manager.start(&host, &[]);
    let heard = manager.hear_until("STATUS=waiting for the first reading of: multipathd: ");
    assert_eq!(heard.first().unwrap(), "STATUS=reading for the first time\n");
    let line = heard.last().unwrap();
    assert!(line.contains("; sysfs: ") && line.contains("block"), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
    assert_eq!(exporter.get("/-/ready").status, 503);

    host.multipathd.maps(Reply::Text(recorded_reply("01-healthy")));
    exporter.signal(Signal::HUP);
    let heard = manager.hear_until("STATUS=waiting for the first reading of: sysfs: ");
    assert!(!heard.last().unwrap().contains("multipathd"), "{heard:?}");
    assert_eq!(exporter.get("/-/ready").status, 503);

    drop(unlistable);
    exporter.signal(Signal::HUP);
    manager.hear_until("STATUS=2 devices, no failed path\n");
    assert_eq!(exporter.get("/-/ready").status, 200);
}

#[test]
fn what_was_read_before_everything_was_lost_is_called_so() {
    let (manager, host) = (Manager::new(), Host::recorded("02-net1-lost"));
    let exporter = manager.start(&host, &[]);
    manager.hear_until("STATUS=2 devices, 2 with failed paths");
    host.sysfs.rename("block", "away");
    host.multipathd.maps(Reply::closed());
    exporter.signal(Signal::HUP);
    let beginning = "STATUS=last read: 2 devices, 2 with failed paths; no source can be read now: multipathd: ";
    let heard = manager.hear_until(beginning);
    let line = heard.last().unwrap();
    assert!(line.contains("; sysfs: ") && line.contains("block"), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");

    // One source is enough.
    host.multipathd.maps(Reply::Text(recorded_reply("02-net1-lost")));
    exporter.signal(Signal::HUP);
    manager.hear_until("STATUS=2 devices, 2 with failed paths");
}

#[test]
fn a_reload_begins_and_ends() {
    let (manager, host) = (Manager::new(), Host::recorded("01-healthy"));
    let exporter = manager.start(&host, &[]);
    manager.hear_until("READY=1");
    exporter.signal(Signal::HUP);
    let heard = manager.hear_until("RELOADING=1");
    // `Type=notify-reload` requires this timestamp.
    let time = heard.last().unwrap().lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    assert!(time.unwrap().parse::<u64>().unwrap() > 0);
    manager.hear_until("READY=1");
}

#[test]
fn the_end_is_told() {
    let (manager, host) = (Manager::new(), Host::recorded("01-healthy"));
    let mut exporter = manager.start(&host, &[]);
    manager.hear_until("READY=1");
    exporter.signal(Signal::TERM);
    manager.hear_until("STOPPING=1");
    assert_eq!(exporter.wait().code(), Some(0));
}

#[test]
fn pings_go_on_while_a_reader_hangs_and_none_without_a_watchdog() {
    let (manager, host) = (Manager::new(), Host::recorded("01-healthy"));
    let exporter = manager.start_in(&[("WATCHDOG_USEC", "200000")], &host, &[PATIENT]);
    manager.hear_until("READY=1");
    host.multipathd.daemon(Reply::Hold);
    host.multipathd.asked_after(|| exporter.signal(Signal::HUP));
    for _ in 0..5 {
        manager.hear_until("WATCHDOG=1");
    }

    let (unwatched, host) = (Manager::new(), Host::recorded("01-healthy"));
    let mut exporter = unwatched.start(&host, &[]);
    unwatched.hear_until("READY=1");
    exporter.signal(Signal::TERM);
    let heard = unwatched.hear_until("STOPPING=1");
    assert_eq!(exporter.wait().code(), Some(0));
    assert!(!heard.iter().any(|message| message.contains("WATCHDOG")), "{heard:?}");
}

#[test]
fn nobody_to_be_told_is_no_reason_to_end() {
    let host = Host::recorded("01-healthy");
    let directory = tempfile::tempdir().unwrap();
    let gone = directory.path().join("gone");
    let exporter = Exporter::start_in(&[("NOTIFY_SOCKET", gone.to_str().unwrap())], &host.options());
    exporter.await_ready();
    exporter.signal(Signal::HUP);
    exporter.await_values(&[("multipath_exporter_resyncs_total{reason=\"signal\"}", 1.0)]);
    let warnings = exporter.log().iter().filter(|line| line.contains("cannot notify systemd")).count();
    assert_eq!(warnings, 1, "{:?}", exporter.log());
}
