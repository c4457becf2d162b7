//! The exporter's memory: lost devices, missing paths, trouble and recovery. Exporters run as root
//! and as `nobody`.

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::queueing::Cut;
use super::root::partition;
use super::{Scenario, iscsi};
use crate::boots::Boots;
use crate::exporter::Exporter;
use crate::guest::Lab;
use crate::iscsi::IscsiSan;
use crate::metrics::{Host, Past};
use crate::mounted::Mounted;
use crate::multipathd::{Conf, Multipathd};
use crate::nvme::Array;
use crate::programs::{run, try_run};
use crate::san::{Lun, San};
use crate::scsi_debug;
use crate::scsi_disk::Disk;
use crate::vm::CYCLES;
use crate::wait::{PATIENCE, eventually, eventually_eq};

pub const ALL: &[Scenario] = &[
    Scenario::new("nothing_is_lost_in_good_order", nothing_is_lost_in_good_order),
    Scenario::new("volumes_attached_and_detached", volumes_attached_and_detached),
    Scenario::new("host_put_into_maintenance", host_put_into_maintenance),
    Scenario::new("exporter_outlives_its_own_storage", exporter_outlives_its_own_storage),
    Scenario::new("nvme_device_lost_while_mounted", nvme_device_lost_while_mounted),
    Scenario::new("devices_and_paths_not_back_after_a_boot", devices_and_paths_not_back_after_a_boot),
    Scenario::new("paths_missed_and_recovered", paths_missed_and_recovered),
    Scenario::new("devices_in_use", devices_in_use),
];

/// A device that was in trouble for less than two seconds before it went was being removed. Its end
/// is no recovery.
const LONGER_THAN_A_DEPARTURE: Duration = Duration::from_secs(3);

/// A device without a valid path for longer than this is lost when its disks go.
const LONGER_THAN_PATHLESS: Duration = Duration::from_secs(11);

/// The number of times that volumes are attached and detached, unless [`CYCLES`] sets it.
const FEW_CYCLES: usize = 8;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

const WELL: Past = Past { lost_devices: 0, missing_paths: 0, in_trouble: false };
const TROUBLE: Past = Past { in_trouble: true, ..WELL };

const USERS: [&str; 2] = ["root", "nobody"];

/// An exporter as root and one as `nobody`, both with a memory file.
struct Watch<'a> {
    lab: &'a Lab,
    flags: Vec<String>,
    exporters: [Exporter; 2],
}

impl<'a> Watch<'a> {
    fn start(lab: &'a Lab, flags: &[&str]) -> Self {
        for user in USERS {
            // An earlier scenario may have left it.
            let _ = fs::remove_file(memory_file(user));
        }
        let flags: Vec<_> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Watch { lab, exporters: launch(lab, &flags), flags }
    }

    /// Stops both like a service, runs `happens`, and starts them again.
    fn restart_after(self, happens: impl FnOnce()) -> Self {
        let Watch { lab, flags, exporters } = self;
        for exporter in exporters {
            assert_eq!(exporter.terminate(PATIENCE).code(), Some(0));
        }
        happens();
        Watch { lab, exporters: launch(lab, &flags), flags }
    }

    #[track_caller]
    fn wait_for_counts(&self, lun: &Lun, valid: u64, failed: u64) {
        self.exporters.iter().for_each(|exporter| exporter.wait_for_counts(&lun.wwid, valid, failed));
    }

    /// Waits until both show this past of the host.
    #[track_caller]
    fn wait_for(&self, what: &str, past: Past) {
        for (user, exporter) in USERS.iter().zip(&self.exporters) {
            eventually_eq(&format!("{user}: {what}"), past, || exporter.metrics().past());
        }
    }

    /// Waits until both show these lost devices with their reasons, in every output.
    #[track_caller]
    fn wait_for_lost(&self, what: &str, lost: &[(&str, &str)]) {
        for (user, exporter) in USERS.iter().zip(&self.exporters) {
            let lost: Vec<_> = lost.iter().map(|(wwid, reason)| ((*wwid).to_owned(), (*reason).to_owned())).collect();
            eventually_eq(&format!("{user}: {what}"), lost.clone(), || exporter.metrics().lost());
            assert_eq!(exporter.metrics().past().lost_devices, lost.len() as u64);
            let devices = exporter.json("/api/v1/devices");
            let listed = devices["lost_devices"].as_array().expect("lost_devices is a list");
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            let listed: Vec<_> = listed.iter().map(|device| (text(&device["wwid"]), text(&device["reason"]))).collect();
            assert_eq!(listed, lost, "{user}");
        }
    }

    /// Checks that both have reported this number of losses of this device since their start.
    #[track_caller]
    fn assert_told_lost(&self, wwid: &str, times: usize) {
        for exporter in &self.exporters {
            assert_eq!(exporter.events(wwid, "device_lost").len(), times);
            exporter.wait_for_log_lines("warn", "device lost", times);
        }
    }

    /// Checks that both have reported this number of recoveries since their start.
    #[track_caller]
    fn wait_for_recoveries(&self, what: &str, times: usize) {
        for (user, exporter) in USERS.iter().zip(&self.exporters) {
            eventually_eq(&format!("{user}: {what}"), times, || exporter.events_of_type("recovered").len());
        }
    }

    fn last_recoveries(&self) -> [Option<f64>; 2] {
        self.exporters
            .each_ref()
            .map(|exporter| exporter.metrics().get("multipath_last_recovery_timestamp_seconds", &[]))
    }

    /// Waits until all is well. Checks that no device has ever been lost.
    #[track_caller]
    fn assert_nothing_was_lost(&self, what: &str) {
        self.wait_for(what, WELL);
        for exporter in &self.exporters {
            assert_eq!(exporter.events_of_type("device_lost").len(), 0, "{what}");
            assert_eq!(exporter.log_lines("warn", "device lost"), Vec::<String>::new(), "{what}");
        }
    }

    #[track_caller]
    fn wait_until_gone(&self, wwid: &str) {
        for exporter in &self.exporters {
            eventually_eq("the device is gone", false, || exporter.metrics().mentions(wwid));
        }
    }

    /// Waits until both show whether a device is in use. Each has its own way to know.
    #[track_caller]
    fn wait_for_use(&self, what: &str, wwid: &str, in_use: [u8; 2]) {
        for ((user, exporter), in_use) in USERS.iter().zip(&self.exporters).zip(in_use) {
            let labels = [("wwid", wwid)];
            eventually_eq(&format!("{user}: {what}"), Some(f64::from(in_use)), || {
                exporter.metrics().get("multipath_device_in_use", &labels)
            });
        }
    }

    fn expected_paths(&self, wwid: &str) -> [f64; 2] {
        let expected =
            |exporter: &Exporter| exporter.metrics().value("multipath_device_expected_paths", &[("wwid", wwid)]);
        self.exporters.each_ref().map(expected)
    }
}

fn launch(lab: &Lab, flags: &[String]) -> [Exporter; 2] {
    let launch = |user| {
        let launch = lab.exporter().flag(&format!("--memory.file={}", memory_file(user)));
        flags.iter().fold(launch, |launch, flag| launch.flag(flag))
    };
    let [root, nobody] = USERS.map(launch);
    [root.start(), nobody.unprivileged().start()]
}

/// A directory where any user may write.
fn memory_file(user: &str) -> String {
    format!("/tmp/memory-of-{user}.json")
}

/// Flushes a map like an administrator. udevd may keep it open for a moment.
fn flush(name: &str) {
    eventually("the map is flushed", PATIENCE, || try_run("multipath", ["-f", name]).map(drop));
}

/// Attaches a new LUN to the SCSI hosts of these disks.
fn attach(san: &San, hosts: &[Disk], number: usize) -> Lun {
    for disk in hosts {
        let host = disk.hctl.split(':').next().unwrap_or_default();
        let file = format!("/sys/class/scsi_host/host{host}/scan");
        fs::write(&file, format!("0 0 {number}")).unwrap_or_else(|e| panic!("{file}: {e}"));
    }
    eventually("multipathd makes a map of the new LUN", PATIENCE, || {
        let disks = scsi_debug::disks();
        let disks = disks.into_iter().filter(|disk| disk.hctl.ends_with(&format!(":{number}"))).collect();
        let luns = san.luns_over(&disks);
        let is_whole = |lun: &Lun| lun.paths.len() == hosts.len();
        luns.into_iter().find(is_whole).ok_or_else(|| format!("{disks:?}"))
    })
}

/// Lets the driver show more LUNs than it was loaded with, to a scan that names them.
fn allow_more_luns() {
    scsi_debug::set("max_luns", "256");
}

fn delete_disks(lun: &Lun) {
    lun.paths.iter().for_each(|disk| disk.delete());
}

fn device(lun: &Lun) -> String {
    format!("/dev/{}", lun.map.sysfs_name())
}

/// The work of administrators: they migrate a LUN, rename an alias, restart multipathd, flush a map
/// whose paths failed, and remove the disks of an unused map.
fn nothing_is_lost_in_good_order(lab: &Lab) {
    let San { daemon, dm, luns } = San::start(lab, 2, 2, Conf::WATCHFUL);
    let mut san = San { daemon, dm, luns };
    allow_more_luns();
    let watch = Watch::start(lab, &[]);

    let successor = attach(&san, &san.luns[0].paths, 2);
    watch.wait_for_counts(&successor, 2, 0);
    let old = san.luns.remove(1);
    flush(old.name());
    delete_disks(&old);
    watch.wait_until_gone(&old.wwid);
    watch.assert_nothing_was_lost("a LUN was migrated");

    let lun = &san.luns[0];
    let alias = format!("multipaths {{\n multipath {{\n  wwid {}\n  alias renamed\n }}\n}}\n", lun.wwid);
    let conf = Conf { sections: alias.leak(), ..Conf::WATCHFUL };
    conf.write();
    san.daemon.ask("reconfigure").expect("multipathd answers");
    for exporter in &watch.exporters {
        eventually_eq("the alias is another one", "renamed".to_owned(), || {
            exporter.metrics().labels("multipath_device_info", &[("wwid", &lun.wwid)])["name"].clone()
        });
    }
    watch.assert_nothing_was_lost("an alias was renamed");
    san.daemon.stop();
    san.daemon = Multipathd::start(lab.dir(), conf);
    watch.assert_nothing_was_lost("multipathd was restarted");

    successor.paths.iter().for_each(|disk| disk.set_offline());
    watch.wait_for_counts(&successor, 0, 2);
    watch.wait_for("a device has no valid path", TROUBLE);
    sleep(LONGER_THAN_PATHLESS);
    flush(successor.name());
    watch.wait_until_gone(&successor.wwid);
    watch.assert_nothing_was_lost("a map was flushed that had no valid path");
    delete_disks(&successor);
    delete_disks(&san.luns[0]);
    san.dm.wait_until_gone(&san.luns[0].wwid);
    watch.wait_until_gone(&san.luns[0].wwid);
    watch.assert_nothing_was_lost("the disks of an unused map were taken away");
    for exporter in &watch.exporters {
        assert_eq!(exporter.metrics().host(), Host::default());
    }
}

/// The work of a container platform's driver: a volume appears and disappears repeatedly, in order
/// or not, with any setting of multipathd for maps without disks.
fn volumes_attached_and_detached(lab: &Lab) {
    const CONFS: [&[&str]; 4] = [
        &["flush_on_last_del no", "deferred_remove no"],
        &["flush_on_last_del yes", "deferred_remove no"],
        &["flush_on_last_del no", "deferred_remove yes"],
        &["flush_on_last_del yes", "deferred_remove yes"],
    ];
    let cycles = env::var(CYCLES).map_or(FEW_CYCLES, |cycles| cycles.parse().expect("a number"));
    let san = San::start(lab, 2, 1, Conf::WATCHFUL);
    allow_more_luns();
    let watch = Watch::start(lab, &[]);
    let memory = || watch.exporters.each_ref().map(|exporter| exporter.resident_kb().0);
    let before = memory();
    let mut numbers = (1..256).cycle();
    let start = Instant::now();
    for is_clean in [true, false] {
        for more in CONFS {
            Conf { more, ..Conf::WATCHFUL }.write();
            san.daemon.ask("reconfigure").expect("multipathd answers");
            for number in numbers.by_ref().take(cycles / 2 / CONFS.len()) {
                let lun = attach(&san, &san.luns[0].paths, number);
                watch.wait_for_counts(&lun, 2, 0);
                if is_clean {
                    flush(lun.name());
                    delete_disks(&lun);
                } else {
                    // The disks go while a process holds the map open.
                    let holder = File::open(device(&lun)).expect("a map can be opened");
                    delete_disks(&lun);
                    drop(holder);
                    san.dm.wait_until_gone(&lun.wwid);
                }
            }
            watch.assert_nothing_was_lost(&format!("volumes came and went, {more:?}, in good order: {is_clean}"));
        }
        if is_clean {
            assert_eq!(watch.last_recoveries(), [None; 2], "nothing was wrong");
        }
    }
    let (took, after) = (start.elapsed(), memory());
    lab.note(format!(
        "{cycles} cycles took {took:.0?}; VmRSS of root and nobody was {before:?} kB and is {after:?} kB"
    ));
    for exporter in &watch.exporters {
        assert_eq!(exporter.metrics().host(), Host { devices: 1, paths: 2, ..Host::default() });
    }
}

/// Its file systems are unmounted and its sessions logged out while a network is broken.
fn host_put_into_maintenance(lab: &Lab) {
    let array = IscsiSan::start(lab, 2, 1, iscsi::CONF);
    let lun = &array.san.luns[0];
    let mounted = Mounted::new_on(&device(lun));
    let watch = Watch::start(lab, &["--resync.interval=1s"]);
    watch.wait_for_use("it is mounted", &lun.wwid, [1, 1]);
    let [broken, _] = &array.networks.0;
    broken.cut();
    array.san.luns.iter().for_each(|lun| watch.wait_for_counts(lun, 1, 1));
    watch.wait_for("its devices are degraded", TROUBLE);

    sleep(LONGER_THAN_A_DEPARTURE);
    mounted.unmount();
    run("iscsiadm", ["-m", "node", "--logoutall=all"]);
    for exporter in &watch.exporters {
        eventually_eq("no device is left", Host::default(), || exporter.metrics().host());
    }
    watch.assert_nothing_was_lost("the host is in maintenance");
    watch.wait_for_recoveries("no device is in trouble any more", 1);

    broken.mend();
    array.networks.0.iter().for_each(|network| array.log_in(network));
    array.san.luns.iter().for_each(|lun| watch.wait_for_counts(lun, 2, 0));
    watch.assert_nothing_was_lost("the host is back");
    watch.wait_for_recoveries("devices that come are no recovery", 1);
}

/// The program and its memory lie on a device that loses all its paths and queues. Every process
/// that touches it waits. Meanwhile the exporter must report and record the loss of another device.
fn exporter_outlives_its_own_storage(lab: &Lab) {
    // The program may not be stripped, so the disks are larger.
    let disks = scsi_debug::load_of_size(160, 2, 2, scsi_debug::PRODUCT);
    let san = San::over(&disks, 2, lab, Conf { no_path_retry: "queue", ..Conf::WATCHFUL });
    let [own, other] = san.luns.as_slice() else { panic!("there are two LUNs") };
    let storage = Mounted::new_on(&device(own));
    let program = storage.file("multipath_exporter");
    fs::copy(lab.exporter_program(), &program).expect("there is room");
    let start = |user: &str| {
        let directory = storage.file(user);
        fs::create_dir(&directory).expect("there is room");
        let launch = lab.exporter().program(&program).flag(&format!("--memory.file={}/memory", directory.display()));
        match user {
            "nobody" => {
                chown(&directory, Some(65534), Some(65534)).expect("root may give it away");
                launch.unprivileged().start()
            }
            _ => launch.start(),
        }
    };
    let [root, nobody] = USERS.map(start);
    let written =
        |exporter: &Exporter| exporter.metrics().value("multipath_exporter_memory_last_write_successful", &[]);
    for exporter in [&root, &nobody] {
        eventually_eq("the memory is written", 1.0, || written(exporter));
    }
    // The parts of the program that have not run yet are only on the device.
    run("sync", [""; 0]);
    fs::write("/proc/sys/vm/drop_caches", "3").expect("root may drop caches");

    let cut = Cut::off(own);
    other.paths.iter().for_each(|disk| disk.set_offline());
    for exporter in [&root, &nobody] {
        exporter.wait_for_counts(&own.wwid, 0, 2);
        exporter.wait_for_counts(&other.wwid, 0, 2);
    }
    let without_paths = Instant::now();
    while without_paths.elapsed() < LONGER_THAN_PATHLESS {
        for exporter in [&root, &nobody] {
            for page in ["/metrics", "/", "/api/v1/devices", "/api/v1/events", "/api/v1/multipath-health"] {
                exporter.get_ok(page);
            }
        }
    }
    delete_disks(other);
    san.dm.wait_until_gone(&other.wwid);
    for exporter in [&root, &nobody] {
        let lost = [(other.wwid.clone(), "no_valid_path".to_owned())];
        eventually_eq("the device is lost", lost.to_vec(), || exporter.metrics().lost());
        assert_eq!(exporter.json("/api/v1/devices")["lost_devices"][0]["wwid"], other.wwid.as_str());
        assert_eq!(exporter.events(&other.wwid, "device_lost").len(), 1);
        exporter.wait_for_log_lines("warn", "device lost: its paths failed, then its disks disappeared", 1);
        eventually_eq("the memory cannot be written", 0.0, || written(exporter));
    }

    // A rescan finds its LUN number again.
    other.paths.iter().for_each(|disk| disk.rescan());
    for exporter in [&root, &nobody] {
        exporter.wait_for_counts(&other.wwid, 2, 0);
        let past = exporter.metrics().past();
        assert_eq!((past, exporter.events_of_type("recovered").len()), (TROUBLE, 0), "its own device is still dead");
    }
    assert_eq!(root.terminate(Duration::from_secs(5)).code(), Some(0));

    drop(cut);
    nobody.wait_for_counts(&own.wwid, 2, 0);
    eventually_eq("all is well", WELL, || nobody.metrics().past());
    assert_eq!(nobody.events_of_type("recovered").len(), 1);
    eventually_eq("the memory is written", 1.0, || written(&nobody));
    assert_eq!(nobody.terminate(Duration::from_secs(5)).code(), Some(0));
    storage.unmount();
}

/// A namespace goes with its last controller although it is mounted. The mount stays as it is when
/// the namespace returns. Another namespace goes after it was unmounted.
fn nvme_device_lost_while_mounted(lab: &Lab) {
    let array = Array::start();
    let [used, unused] = &array.namespaces;
    let [used_wwid, unused_wwid] = [used, unused].map(|namespace| namespace.wwid.as_str());
    let node = |namespace| format!("/dev/{}", array.head(namespace).expect("the kernel has the namespace"));
    Mounted::new_on(&node(unused)).unmount();
    let mounted = Mounted::new_on(&node(used));
    let old_head = node(used);
    let watch = Watch::start(lab, &["--reread.interval=1s", "--resync.interval=1s"]);
    watch.wait_for_use("it is mounted", used_wwid, [1; 2]);
    watch.wait_for_use("it is not mounted", unused_wwid, [0; 2]);

    array.give_up_after(2);
    [1, 2].into_iter().for_each(|port| array.close_port(port));
    watch.wait_for_lost("a mounted namespace has gone", &[(used_wwid, "in_use")]);
    watch.wait_until_gone(unused_wwid);
    watch.assert_told_lost(used_wwid, 1);

    let watch = watch.restart_after(|| {});
    watch.wait_for_lost("it is remembered", &[(used_wwid, "in_use")]);
    [1, 2].into_iter().for_each(|port| array.open_port(port));
    array.networks.0.iter().for_each(|network| drop(array.connect(network, "")));
    for exporter in &watch.exporters {
        eventually_eq("the namespace is back", Some(2), || Some(exporter.metrics().counts(used_wwid)?.valid));
    }
    assert_ne!(node(used), old_head);
    watch.wait_for("the mount is still that of the device that went", Past { lost_devices: 1, ..TROUBLE });
    watch.wait_for_lost("it is the same loss", &[(used_wwid, "in_use")]);
    watch.assert_told_lost(used_wwid, 0);
    watch.wait_for_recoveries("nothing has recovered", 0);

    mounted.unmount();
    watch.wait_for("nothing is lost", WELL);
    watch.wait_for_recoveries("the host has recovered", 1);
    let mounted = Mounted::on(&node(used));
    watch.wait_for_use("it is mounted anew", used_wwid, [1; 2]);

    mounted.unmount();
    array.disconnect_all();
    watch.wait_until_gone(used_wwid);
    watch.wait_for("it was unmounted before it went", WELL);
    watch.assert_told_lost(used_wwid, 0);
}

/// Three devices before a boot. Afterwards, one that was in use and one that was not are absent,
/// and the third has half of its paths.
fn devices_and_paths_not_back_after_a_boot(lab: &Lab) {
    let boots = Boots::start();
    let san = San::start(lab, 2, 3, Conf::WATCHFUL);
    let [used, unused, halved] = san.luns.as_slice() else { panic!("there are three LUNs") };
    let mounted = Mounted::new_on(&device(used));
    let watch = Watch::start(lab, &[&boots.flag(), "--resync.interval=1s"]);
    watch.wait_for_use("it is mounted", &used.wwid, [1; 2]);
    let before = watch.last_recoveries();

    let watch = watch.restart_after(|| {
        mounted.unmount();
        for lun in [used, unused] {
            flush(lun.name());
            delete_disks(lun);
        }
        halved.paths[0].delete();
        eventually_eq("the kernel's map is without the disk", 1, || san.dm.paths(&halved.map.name).len());
        boots.tell(2, MINUTE);
    });
    watch.wait_for_counts(halved, 1, 0);
    assert_eq!(watch.expected_paths(&halved.wwid), [2.0; 2]);
    watch.assert_nothing_was_lost("devices and paths may still come");

    let watch = watch.restart_after(|| boots.tell(2, 7 * MINUTE));
    watch.wait_for("a path did not come", Past { missing_paths: 1, ..TROUBLE });
    watch.wait_for_lost("devices may still come", &[]);

    let watch = watch.restart_after(|| boots.tell(2, 12 * MINUTE));
    watch.wait_for_lost("a device in use did not come", &[(&used.wwid, "not_back_after_boot")]);
    watch.assert_told_lost(&used.wwid, 1);
    watch.wait_for("a path is missing beside it", Past { lost_devices: 1, missing_paths: 1, in_trouble: true });

    for disk in used.paths.iter().chain(&halved.paths[..1]) {
        disk.rescan();
    }
    watch.wait_for_counts(used, 2, 0);
    watch.wait_for("all are back", WELL);
    watch.wait_for_recoveries("the host has recovered", 1);
    assert_eq!(before, [None; 2], "a boot is no recovery");
}

/// Paths that appear only briefly are not missed. Paths that go are. Each trouble ends with one
/// recovery, even if the exporter was away.
fn paths_missed_and_recovered(lab: &Lab) {
    let boots = Boots::start();
    let san = San::start(lab, 8, 1, Conf::BLIND);
    let lun = &san.luns[0];
    let (always, for_a_time) = lun.paths.split_at(4);
    let members = |members: usize| {
        eventually_eq("the kernel's map has so many members", members, || san.dm.paths(&lun.map.name).len());
    };
    for_a_time.iter().for_each(|disk| disk.delete());
    members(4);

    let watch = Watch::start(lab, &[&boots.flag()]);
    let watch = watch.restart_after(|| boots.tell(1, 31 * HOUR));
    for_a_time.iter().for_each(|disk| disk.rescan());
    watch.wait_for_counts(lun, 8, 0);
    assert_eq!(watch.expected_paths(&lun.wwid), [4.0; 2]);
    let disks = scsi_debug::disks();
    let to_go = || disks.iter().filter(|disk| for_a_time.iter().any(|old| old.hctl == disk.hctl));
    // A path whose disk disappears would fail first, so the lab removes it in order.
    for disk in to_go() {
        san.daemon.ask(&format!("remove path {}", disk.name)).expect("multipathd answers");
    }
    watch.wait_for_counts(lun, 4, 0);
    to_go().for_each(|disk| disk.delete());
    assert_eq!(watch.expected_paths(&lun.wwid), [4.0; 2]);
    watch.assert_nothing_was_lost("paths were there for a time");
    watch.wait_for_recoveries("nothing was wrong", 0);

    always[0].delete();
    watch.wait_for_counts(lun, 3, 0);
    watch.wait_for("a path is missing", Past { missing_paths: 1, ..TROUBLE });
    assert_eq!(watch.last_recoveries(), [None; 2]);
    always[0].rescan();
    watch.wait_for_counts(lun, 4, 0);
    watch.wait_for("it is back", WELL);
    watch.wait_for_recoveries("the host has recovered", 1);
    let first = watch.last_recoveries();

    let devno = &always[1].devno;
    san.dm.fail_path(lun.name(), devno);
    watch.wait_for("a path has failed", TROUBLE);
    san.dm.reinstate_path(lun.name(), devno);
    watch.wait_for("it works again", WELL);
    watch.wait_for_recoveries("the host has recovered again", 2);
    let second = watch.last_recoveries();
    assert!(first.iter().zip(&second).all(|(first, second)| first.is_some() && first < second));

    san.dm.fail_path(lun.name(), devno);
    watch.wait_for("a path has failed", TROUBLE);
    let watch = watch.restart_after(|| {});
    watch.wait_for("it is still in trouble", TROUBLE);
    watch.wait_for_recoveries("nothing has recovered", 0);
    let watch = watch.restart_after(|| san.dm.reinstate_path(lun.name(), devno));
    watch.wait_for("it works again", WELL);
    watch.wait_for_recoveries("the host has recovered while nobody looked", 1);
    for exporter in &watch.exporters {
        exporter.wait_for_log_lines("info", "recovered", 1);
    }
    let third = watch.last_recoveries();
    assert!(second.iter().zip(&third).all(|(second, third)| second < third));
    let watch = watch.restart_after(|| {});
    watch.wait_for("all is still well", WELL);
    assert_eq!(watch.last_recoveries(), third);

    allow_more_luns();
    let new = attach(&san, &always[2..], 1);
    watch.wait_for_counts(&new, 2, 0);
    san.daemon.ask(&format!("remove path {}", new.paths[0].name)).expect("multipathd answers");
    watch.wait_for_counts(&new, 1, 0);
    assert_eq!(watch.expected_paths(&new.wwid), [2.0; 2]);
    watch.assert_nothing_was_lost("its paths may still come");
    watch.wait_for_recoveries("nothing was wrong", 0);
}

/// Root asks the kernel for the open count. `nobody` reads the mounts, and so does not see a
/// process that only opens the device.
fn devices_in_use(lab: &Lab) {
    let san = San::start(lab, 2, 1, Conf::BLIND);
    let lun = &san.luns[0];
    let part = partition(lun, 1, 1, 31);
    Mounted::new_on(&part).unmount();
    let watch = Watch::start(lab, &["--resync.interval=1s", "--reread.interval=1s"]);
    watch.wait_for_use("its partition is mapped and nothing else", &lun.wwid, [0, 0]);
    let open = File::open(&part).expect("a partition can be opened");
    watch.wait_for_use("its partition is open", &lun.wwid, [1, 0]);
    drop(open);
    watch.wait_for_use("its partition is closed", &lun.wwid, [0, 0]);
    let mounted = Mounted::on(&part);
    watch.wait_for_use("its partition is mounted", &lun.wwid, [1, 1]);
    fs::write(mounted.file("written"), "anything").expect("there is room");
    run("sync", [""; 0]);
    mounted.unmount();
    watch.wait_for_use("its partition is unmounted", &lun.wwid, [0, 0]);
    run("dmsetup", ["remove", "--retry", &part]);

    let mounted = Mounted::new_on(&device(lun));
    watch.wait_for_use("all of it is mounted", &lun.wwid, [1, 1]);
    mounted.unmount();
    watch.wait_for_use("all of it is unmounted", &lun.wwid, [0, 0]);
}
