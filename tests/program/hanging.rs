//! A system call does not return. It delays only the facts that it should deliver.

use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use rustix::fs::{Mode, OFlags};
use tempfile::TempDir;

use super::harness::{Exporter, Host, MPATHA, Page, Tree, eventually};
use super::storage::nvme::{CONTROLLERS, FIRST, NVME, SECOND};

const SYSFS_UP: &str = "multipath_exporter_source_up{source=\"sysfs\"}";
const WITHOUT_VALID_PATHS: &str = "multipath_devices_without_valid_paths";

const REREAD: &str = "--reread.interval=100ms";
const RESYNC: &str = "--resync.interval=300ms";

const HOST6: &str = "devices/platform/host6/iscsi_host/host6";
const SESSION1: &str = "devices/platform/host6/session1/iscsi_session/session1";
/// The SCSI device of `sdb`, a path of `mpatha`.
const SDB: &str = "devices/platform/host6/session1/target6:0:0/6:0:0:2";

fn valid_paths(wwid: &str) -> String {
    format!("multipath_device_valid_paths{{wwid=\"{wwid}\"}}")
}

fn path_valid(wwid: &str, path: &str) -> String {
    format!("multipath_path_valid{{wwid=\"{wwid}\",path=\"{path}\"}}")
}

/// Sets the state of both controllers.
fn set_controllers(tree: &Tree, state: &str) {
    for controller in ["nvme0", "nvme1"] {
        tree.write(&format!("{CONTROLLERS}/{controller}/state"), format!("{state}\n"));
    }
}

/// Waits until all paths over both controllers have failed and `series` have these values.
fn await_both_failed(exporter: &Exporter, series: &[(&str, f64)]) -> Page {
    let mut wanted = Vec::new();
    for (wwid, namespace) in [(FIRST, 1), (SECOND, 2)] {
        wanted.push((valid_paths(wwid), 0.0));
        wanted.extend((0..2).map(|controller| (path_valid(wwid, &format!("nvme0c{controller}n{namespace}")), 0.0)));
    }
    let wanted = wanted.iter().map(|(series, value)| (series.as_str(), *value));
    exporter.await_values(&wanted.chain(series.iter().copied()).collect::<Vec<_>>())
}

/// The C library's list of network interfaces. The test decides when a call returns.
struct Interfaces {
    directory: TempDir,
}

impl Interfaces {
    fn new() -> Self {
        let interfaces = Interfaces { directory: tempfile::tempdir().unwrap() };
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/program/hang.c");
        // cargo-zigbuild names the compiler of another architecture in this variable. `cc` compiles
        // for this machine.
        let variable = format!("CC_{}_unknown_linux_gnu", env::consts::ARCH);
        let mut cc = Command::new(env::var_os(variable).unwrap_or_else(|| "cc".into()));
        cc.args(["-shared", "-fPIC", "-o"]).arg(interfaces.path("hang.so")).arg(source).arg("-ldl");
        assert!(cc.status().unwrap().success());
        interfaces
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// From now on the call does not return.
    fn hang(&self) {
        File::create(self.path("flag")).unwrap();
    }

    /// Waits until the exporter waits for the list.
    fn await_question(&self) {
        let asked = self.path("flag.asked");
        eventually("the exporter asks for the interfaces", || Path::new(&asked).exists().then_some(()));
    }

    /// Answers all waiting calls.
    fn answer(&self) {
        fs::remove_file(self.path("flag")).unwrap();
    }

    /// Starts an exporter that repeatedly asks for the list. It need not be ready.
    fn exporter(&self, host: &Host) -> Exporter {
        for (controller, array) in [("nvme0", "10.10.1.2"), ("nvme1", "10.10.2.2")] {
            let address = format!("traddr={array},trsvcid=4420,src_addr=127.0.0.1\n");
            host.sysfs.write(&format!("{CONTROLLERS}/{controller}/address"), address);
        }
        host.sysfs.write(&format!("{HOST6}/netdev"), "default\n");
        host.sysfs.write(&format!("{HOST6}/ipaddress"), "127.0.0.1\n");
        let environment = [("LD_PRELOAD", &*self.path("hang.so")), ("HANG", &*self.path("flag"))];
        Exporter::start_in(&environment, &host.options_with(&[NVME, REREAD, RESYNC]))
    }
}

#[test]
fn paths_fail_while_the_interfaces_cannot_be_listed() {
    let (interfaces, host) = (Interfaces::new(), Host::recorded("01-healthy"));
    let exporter = interfaces.exporter(&host);
    exporter.await_ready();
    let named = |page: &Page| ["nvme0c0n1", "nvme0c1n2", "sdb"].iter().all(|path| page.ports(path)[1] == "lo");
    eventually("the interface is known", || named(&exporter.metrics()).then_some(()));

    interfaces.hang();
    interfaces.await_question();
    set_controllers(&host.sysfs, "connecting");
    let page = await_both_failed(&exporter, &[(SYSFS_UP, 1.0), (WITHOUT_VALID_PATHS, 2.0)]);
    assert!(named(&page), "{}", page.text());
    // multipathd reports the paths. Only sysfs reports their session.
    host.sysfs.write(&format!("{SESSION1}/state"), "FAILED\n");
    let state = |page: &Page| {
        let state = page.label("multipath_iscsi_session_state", "session=\"session1\"", ",state");
        state.map(str::to_owned)
    };
    eventually("the session fails", || (state(&exporter.metrics()).as_deref() == Some("FAILED")).then_some(()));

    interfaces.answer();
    set_controllers(&host.sysfs, "live");
    let page = exporter.await_values(&[(&valid_paths(FIRST), 2.0), (&valid_paths(SECOND), 2.0), (SYSFS_UP, 1.0)]);
    assert!(named(&page), "{}", page.text());
}

#[test]
fn devices_are_there_though_the_interfaces_were_never_listed() {
    let (interfaces, host) = (Interfaces::new(), Host::recorded("01-healthy"));
    interfaces.hang();
    let exporter = interfaces.exporter(&host);
    interfaces.await_question();
    exporter.await_ready();
    exporter.await_values(&[
        ("multipath_devices", 4.0),
        ("multipath_paths", 8.0),
        (&valid_paths(FIRST), 2.0),
        (&valid_paths(SECOND), 2.0),
        (SYSFS_UP, 1.0),
    ]);
    set_controllers(&host.sysfs, "connecting");
    await_both_failed(&exporter, &[(SYSFS_UP, 1.0)]);

    set_controllers(&host.sysfs, "live");
    interfaces.answer();
    let named = |page: &Page| ["nvme0c0n1", "nvme0c1n2", "sdb"].iter().all(|path| page.ports(path)[1] == "lo");
    eventually("the interface is known", || named(&exporter.metrics()).then_some(()));
}

/// A FIFO in a file's place.
struct Fifo<'a> {
    tree: &'a Tree,
    name: String,
    content: Vec<u8>,
    /// The reader blocks while this is open and empty. It is `None` until a process opens the FIFO
    /// for reading.
    writer: Option<File>,
}

impl<'a> Fifo<'a> {
    fn in_place_of(tree: &'a Tree, name: &str) -> Self {
        let content = fs::read(tree.path(name)).unwrap();
        tree.fifo("fifo");
        tree.rename("fifo", name);
        Fifo { tree, name: name.to_owned(), content, writer: None }
    }

    /// Waits until the exporter has begun to read it.
    fn await_reader(&mut self) {
        // Without a reader, this open fails.
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = || rustix::fs::open(self.tree.path(&self.name), flags, Mode::empty()).ok();
        self.writer = Some(eventually(format!("{} is read", self.name), open).into());
    }

    /// Puts the file back and lets its reader read the former content.
    fn answer(mut self) {
        self.tree.write("file", &self.content);
        self.tree.rename("file", &self.name);
        self.writer.take().unwrap().write_all(&self.content).unwrap();
    }
}

fn device_state<'a>(page: &'a Page, path: &str) -> Option<&'a str> {
    page.label("multipath_path_device_state", &format!("path=\"{path}\""), ",state")
}

fn await_device_state(exporter: &Exporter, path: &str, state: &str) {
    eventually(format!("{path} is {state}"), || (device_state(&exporter.metrics(), path) == Some(state)).then_some(()));
}

#[test]
fn maps_are_followed_while_a_controller_cannot_be_read() {
    for file in ["state", "address"] {
        let host = Host::recorded("01-healthy");
        let exporter = host.exporter(&[NVME, REREAD, RESYNC]);
        let mut fifo = Fifo::in_place_of(&host.sysfs, &format!("{CONTROLLERS}/nvme0/{file}"));
        fifo.await_reader();
        host.sysfs.write(&format!("{SDB}/state"), "offline\n");
        await_device_state(&exporter, "sdb", "offline");
        host.sysfs.remove("block/dm-1");
        // The heads keep their last reading.
        exporter.await_values(&[("multipath_devices", 3.0), (&valid_paths(FIRST), 2.0)]);

        fifo.answer();
        set_controllers(&host.sysfs, "connecting");
        await_both_failed(&exporter, &[("multipath_devices", 3.0), (SYSFS_UP, 1.0)]);
    }
}

#[test]
fn controllers_and_sessions_are_followed_while_a_disk_cannot_be_read() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[NVME, REREAD, RESYNC]);
    let mut fifo = Fifo::in_place_of(&host.sysfs, &format!("{SDB}/state"));
    fifo.await_reader();
    set_controllers(&host.sysfs, "connecting");
    await_both_failed(&exporter, &[(&valid_paths(MPATHA), 2.0)]);
    host.sysfs.write(&format!("{SESSION1}/state"), "FAILED\n");
    eventually("the session fails", || {
        let page = exporter.metrics();
        let up = page.of_metric("multipath_iscsi_session_up");
        up.iter().any(|(series, up)| series.contains("session=\"session1\"") && *up == "0").then_some(())
    });

    fifo.answer();
    host.sysfs.write(&format!("{SDB}/state"), "offline\n");
    await_device_state(&exporter, "sdb", "offline");
}

/// A page without the namespaces would claim that the host has none.
#[test]
fn nothing_is_claimed_before_the_controllers_could_be_read() {
    for file in ["state", "address"] {
        let host = Host::recorded("01-healthy");
        let mut fifo = Fifo::in_place_of(&host.sysfs, &format!("{CONTROLLERS}/nvme0/{file}"));
        let exporter = host.unready_exporter(&[NVME, REREAD, RESYNC]);
        fifo.await_reader();
        // The exporter can still read the block devices.
        for _ in 0..50 {
            for (path, status) in [("/metrics", 503), ("/-/ready", 503), ("/api/v1/devices", 503), ("/", 200)] {
                assert_eq!(exporter.get(path).status, status, "{file}: {path}");
            }
        }

        fifo.answer();
        exporter.await_ready();
        exporter.await_values(&[("multipath_devices", 4.0), (&valid_paths(FIRST), 2.0), (SYSFS_UP, 1.0)]);
    }
}
