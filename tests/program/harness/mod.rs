//! Tools of the tests.

mod exporter;
mod http;
mod multipathd;
mod page;
mod tree;

use std::fmt::Display;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

pub use exporter::{Exporter, PROGRAM, run, run_into, start_command};
pub use http::{Answer, Connection};
pub use multipathd::{FakeMultipathd, Reply};
pub use page::{Page, settle};
pub use tree::Tree;

/// The deadline of a wait. It is longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Calls `look` until it returns a value, and returns that.
pub fn eventually<T>(what: impl Display, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// `mpatha` of the recorded host; its paths are `sdb` and `sdd`.
pub const MPATHA: &str = "360000000000000000e00000000010002";
/// `mpathb` of the recorded host; its paths are `sda` and `sdc`.
pub const MPATHB: &str = "360000000000000000e00000000010001";

/// A host to run the exporter on.
pub struct Host {
    pub sysfs: Tree,
    pub multipathd: FakeMultipathd,
}

impl Host {
    /// The recorded host in one of its states: `01-healthy`, `02-net1-lost`, `03-both-lost`, `04-back`.
    pub fn recorded(state: &str) -> Self {
        let reply = Reply::Text(recorded_reply(state));
        Host { sysfs: Tree::recorded(&recorded_tree(state)), multipathd: FakeMultipathd::start(reply) }
    }

    /// A host without any device, whose multipathd knows none.
    pub fn bare() -> Self {
        let reply = "{\n   \"major_version\": 0,\n   \"minor_version\": 1,\n   \"maps\": []\n}\n";
        Host { sysfs: Tree::empty(), multipathd: FakeMultipathd::start(Reply::Text(reply.to_owned())) }
    }

    /// Changes the host from one recorded state to another.
    pub fn turn_into(&self, state: &str) {
        self.sysfs.record(&recorded_tree(state));
        self.multipathd.maps(Reply::Text(recorded_reply(state)));
    }

    /// The options that make the exporter read only this host, and only on request (SIGHUP), so
    /// that no timer affects a test.
    pub fn options(&self) -> Vec<String> {
        vec![
            "--no-collector.dm".to_owned(),
            // Few tests are about these two additional devices. Those tests switch them on.
            "--no-collector.nvme".to_owned(),
            format!("--path.sysfs={}", self.sysfs.root().display()),
            format!("--path.udev.data={}", self.sysfs.path("udev").display()),
            format!("--multipathd.socket={}", self.multipathd.socket().display()),
            "--multipathd.timeout=20s".to_owned(),
            "--resync.interval=1h".to_owned(),
            "--reread.interval=1h".to_owned(),
        ]
    }

    /// A ready exporter on this host. These options override those of the host.
    pub fn exporter(&self, options: &[&str]) -> Exporter {
        let exporter = self.unready_exporter(options);
        exporter.await_ready();
        exporter
    }

    /// An exporter on this host that listens but may not have read anything yet.
    pub fn unready_exporter(&self, options: &[&str]) -> Exporter {
        Exporter::start(&self.options_with(options))
    }

    /// The options of the host, overridden by these.
    pub fn options_with(&self, options: &[&str]) -> Vec<String> {
        let given = |option: &String| {
            let name = option.split('=').next();
            options.iter().any(|other| other.split('=').next() == name)
        };
        let mut all: Vec<String> = self.options().into_iter().filter(|option| !given(option)).collect();
        all.extend(options.iter().map(|option| (*option).to_owned()));
        all
    }
}

/// The recorded content of the real sysfs in this state of the host.
pub fn recorded_tree(state: &str) -> String {
    fixture(&format!("sysfs/6.1-tgt-iscsi-retry/{state}.txt"))
}

/// The recorded reply of the real multipathd in this state of the host.
pub fn recorded_reply(state: &str) -> String {
    fixture(&format!("multipathd/0.9.4-tgt-iscsi-retry/{state}.json"))
}

fn fixture(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}
