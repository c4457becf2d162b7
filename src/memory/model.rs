//! Tests of the memory in situations from practice, and against a simple model.
//!
//! Only tests compile this module, so each panic in it is a failed test.

mod ports;

use std::cell::RefCell;
use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::topology::{Counts, Path, PathState, Ports, sample};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A device of the model.
#[derive(Clone, Debug, PartialEq)]
struct Thing {
    kind: Kind,
    valid: usize,
    failed: usize,
    in_use: Option<bool>,
    has_no_disk: bool,
    is_redundant: bool,
    devno: Option<DevNo>,
}

impl Thing {
    fn map(valid: usize, failed: usize) -> Self {
        Thing {
            kind: Kind::DeviceMapper,
            valid,
            failed,
            in_use: Some(true),
            has_no_disk: false,
            is_redundant: valid > 1,
            devno: None,
        }
    }

    fn nvme(valid: usize, minor: u32) -> Self {
        Thing { kind: Kind::Nvme, devno: Some(DevNo { major: 259, minor }), ..Thing::map(valid, 0) }
    }

    fn unused(self) -> Self {
        Thing { in_use: Some(false), ..self }
    }

    fn device(&self, wwid: &str) -> Arc<Device> {
        let states = [(self.valid, PathState::Valid), (self.failed, PathState::Failed)];
        let states = states.into_iter().flat_map(|(number, state)| std::iter::repeat_n(state, number));
        // Paths share their ports unless the device is redundant.
        let path = |(number, state): (usize, PathState)| {
            let port = |side: &str| Arc::from(format!("{side}{}", if self.is_redundant { number } else { 0 }));
            let ports = Ports { initiator_port: port("i"), target: Arc::default(), target_port: port("t") };
            Path { state, ports, ..sample::path() }
        };
        Arc::new(Device {
            wwid: wwid.into(),
            name: format!("name of {wwid}").into(),
            kind: self.kind,
            paths: states.enumerate().map(path).collect(),
            in_use: self.in_use,
            ..sample::device()
        })
    }
}

/// A host that runs, reboots, and has its exporter restarted.
struct SimulatedHost {
    memory: Memory,
    instant: Instant,
    time: SystemTime,
    boots: u32,
    booted: Instant,
    things: BTreeMap<String, Thing>,
    transports: Transports,
    all_answer: bool,
    usage_is_known: bool,
    listed: Vec<Kind>,
    config: Config,
    loose: BTreeSet<String>,
    order: Order,
    named: Vec<DevNo>,
    told: RefCell<Vec<News>>,
}

impl SimulatedHost {
    /// A host that has been up for a day.
    fn new() -> Self {
        let (instant, time) = (Instant::now() + DAY, SystemTime::UNIX_EPOCH + 20_000 * DAY);
        let boot = Boot { id: "1".to_owned(), uptime: DAY };
        let mut host = SimulatedHost {
            memory: Memory::new(boot, Machine::default(), DEFAULT_WINDOW, instant),
            instant,
            time,
            boots: 1,
            booted: instant - DAY,
            things: BTreeMap::new(),
            transports: Transports::default(),
            all_answer: true,
            usage_is_known: true,
            listed: Kind::ALL.to_vec(),
            config: Config::default(),
            loose: BTreeSet::new(),
            order: Order::Unknown,
            named: Vec::new(),
            told: RefCell::default(),
        };
        host.look();
        host
    }

    fn now(&self) -> Now {
        Now { instant: self.instant, time: self.time }
    }

    fn look(&mut self) {
        let devices: Vec<_> = self.things.iter().map(|(wwid, thing)| (thing.device(wwid), thing)).collect();
        let sightings = devices.iter().map(|(device, thing)| Sighting {
            device,
            has_no_disk: thing.has_no_disk,
            numbers: thing.devno.map(|number| [number].into()),
        });
        let view = HostView {
            devices: sightings.collect(),
            transports: &self.transports,
            listed: &self.listed,
            is_complete: self.listed.len() == 2,
            all_answer: self.all_answer,
            usage_is_known: self.usage_is_known,
            config: &self.config,
            has_disks: &|wwid| self.loose.contains(wwid),
            order: &|_| self.order,
            is_named: &|devno| self.named.contains(&devno),
        };
        let news = self.memory.look(&view, Now { instant: self.instant, time: self.time });
        self.told.borrow_mut().extend(news);
    }

    /// Lets time pass, with a look at each minute and at the end.
    fn wait(&mut self, duration: Duration) {
        let end = self.instant + duration;
        while self.instant < end {
            let step = MINUTE.min(end - self.instant);
            self.instant += step;
            self.time += step;
            self.look();
        }
    }

    fn set(&mut self, wwid: &str, thing: Thing) {
        self.things.insert(wwid.to_owned(), thing);
        self.look();
    }

    fn remove(&mut self, wwid: &str) {
        self.things.remove(wwid);
        self.look();
    }

    /// Restarts the exporter.
    fn restart(&mut self) {
        let now = self.now();
        let image = self.memory.last_image(now).map(|image| image.write().unwrap());
        let uptime = self.instant - self.booted;
        let boot = Boot { id: self.boots.to_string(), uptime };
        self.memory = Memory::new(boot, Machine::default(), DEFAULT_WINDOW, self.instant);
        if let Some(text) = image {
            self.memory.resume(Image::read(&text, &Machine::default()).unwrap(), self.now());
        }
    }

    /// Reboots the host, which takes a minute.
    fn reboot(&mut self) {
        self.things.clear();
        let now = self.now();
        let text = self.memory.last_image(now).map(|image| image.write().unwrap()).unwrap();
        self.instant += MINUTE;
        self.time += MINUTE;
        self.boots += 1;
        self.booted = self.instant - 20 * SECOND;
        let boot = Boot { id: self.boots.to_string(), uptime: 20 * SECOND };
        self.memory = Memory::new(boot, Machine::default(), DEFAULT_WINDOW, self.instant);
        self.memory.resume(Image::read(&text, &Machine::default()).unwrap(), self.now());
    }

    fn shown(&self) -> Arc<Remembered> {
        self.memory.remembered()
    }

    fn lost(&self) -> Vec<(String, LossReason)> {
        self.shown().lost.iter().map(|device| (device.wwid.to_string(), device.reason)).collect()
    }

    fn missing(&self, wwid: &str) -> u32 {
        self.shown().of(wwid).map_or(0, |history| history.missing_paths)
    }

    /// Takes the news since the last call.
    fn told(&self) -> Vec<News> {
        self.told.take()
    }

    fn recoveries(&self) -> usize {
        self.told().iter().filter(|news| **news == News::Recovered).count()
    }
}

#[test]
fn a_map_that_is_flushed_in_order_is_not_lost() {
    for (valid, failed) in [(4, 0), (2, 2), (0, 4)] {
        let mut host = SimulatedHost::new();
        host.set("a", Thing::map(valid, failed));
        host.wait(HOUR);
        host.remove("a");
        assert_eq!(host.lost(), [], "{valid} {failed}");
    }
}

#[test]
fn a_map_whose_disks_were_deleted_first_is_not_lost_if_it_went_at_once() {
    let mut host = SimulatedHost::new();
    host.set("a", Thing::map(4, 0).unused());
    host.wait(HOUR);
    host.set("a", Thing { has_no_disk: true, ..Thing::map(0, 0).unused() });
    host.wait(SECOND / 2);
    host.order = Order::DisksFirst;
    host.remove("a");
    assert_eq!((host.lost(), host.shown().in_trouble, host.recoveries()), (vec![], false, 0));
}

#[test]
fn a_device_without_a_valid_path_whose_disks_go_is_lost() {
    // The first case is shown by the last reading, the second by the kernel's events.
    for has_no_disk in [true, false] {
        let mut host = SimulatedHost::new();
        host.set("a", Thing::map(4, 0));
        host.wait(HOUR);
        host.set("a", Thing::map(0, 4));
        host.wait(30 * SECOND);
        host.set("a", Thing { has_no_disk, ..Thing::map(0, 4) });
        host.order = if has_no_disk { Order::Unknown } else { Order::DisksFirst };
        host.remove("a");
        assert_eq!(host.lost(), [("a".to_owned(), LossReason::NoValidPath)]);
        let told = host.told();
        assert!(matches!(&told[..], [News::Lost(device)] if *device.name == *"name of a"), "{told:?}");
        // It stays lost through restarts and reboots until it is seen with a valid path.
        host.restart();
        host.wait(DAY);
        host.reboot();
        host.wait(DAY);
        assert_eq!(host.lost().len(), 1);
        host.set("a", Thing::map(0, 1));
        assert_eq!((host.lost().len(), host.shown().in_trouble), (1, true));
        host.set("a", Thing::map(4, 0));
        assert_eq!((host.lost().len(), host.recoveries()), (0, 1));
    }
}

#[test]
fn a_path_that_blinks_as_the_table_is_loaded_has_not_come_back() {
    // The other disk has gone. The remaining path counts as valid until multipathd fails it. It
    // does so before the map goes, or not at all.
    for (blinks, is_failed_again, is_lost) in
        [(SECOND / 2, true, true), (SECOND / 2, false, true), (30 * SECOND, true, false), (30 * SECOND, false, false)]
    {
        let mut host = SimulatedHost::new();
        host.set("a", Thing::map(2, 0));
        host.wait(HOUR);
        host.set("a", Thing::map(0, 2));
        host.wait(30 * SECOND);
        host.set("a", Thing::map(1, 0));
        host.wait(blinks);
        if is_failed_again {
            host.set("a", Thing::map(0, 1));
            host.wait(SECOND / 2);
        }
        host.order = Order::DisksFirst;
        host.remove("a");
        assert_eq!(!host.lost().is_empty(), is_lost, "{blinks:?} {is_failed_again}");
    }
}

#[test]
fn a_map_is_judged_once_the_order_of_the_removals_is_known() {
    // The kernel counted the last path as valid for a moment. It does not matter how long the
    // events take, or if the exporter restarts meanwhile.
    for restarts in [true, false] {
        for (order, has_no_disk, lost) in [
            (Order::DisksFirst, false, 1),
            (Order::MapFirst, true, 0),
            (Order::Unknown, true, 1),
            (Order::Unknown, false, 0),
        ] {
            let mut host = SimulatedHost::new();
            host.set("a", Thing::map(2, 0));
            host.wait(HOUR);
            host.set("a", Thing::map(0, 2));
            host.wait(30 * SECOND);
            host.set("a", Thing { has_no_disk, ..Thing::map(1, 0) });
            host.order = Order::NotKnownYet;
            host.remove("a");
            host.wait(20 * SECOND);
            assert_eq!((host.lost().len(), host.shown().in_trouble, host.recoveries()), (0, true, 0));
            if restarts {
                // Afterwards, only remaining disks show the order.
                host.restart();
                host.loose.extend((lost == 0).then(|| "a".to_owned()));
            }
            host.order = order;
            host.look();
            assert_eq!((host.lost().len(), host.recoveries()), (lost, 1 - lost), "{restarts} {order:?}");
        }
    }
}

#[test]
fn a_map_that_returns_before_it_is_judged_has_gone() {
    let mut host = SimulatedHost::new();
    host.set("a", Thing::map(4, 0));
    host.wait(HOUR);
    host.set("a", Thing::map(0, 4));
    host.wait(30 * SECOND);
    host.order = Order::NotKnownYet;
    host.remove("a");
    host.set("a", Thing::map(1, 0));
    assert_eq!((host.missing("a"), host.lost().len()), (0, 0), "the other paths may still come");
    host.wait(HOUR);
    assert_eq!(host.missing("a"), 3);
}

#[test]
fn a_loss_ends_with_the_window_and_that_is_no_recovery() {
    let mut host = SimulatedHost::new();
    host.set("a", Thing { has_no_disk: true, ..Thing::map(0, 0) });
    host.wait(MINUTE);
    host.remove("a");
    host.wait(DEFAULT_WINDOW - MINUTE);
    assert_eq!(host.lost().len(), 1);
    host.wait(2 * MINUTE);
    assert_eq!((host.lost().len(), host.shown().in_trouble, host.recoveries()), (0, false, 0));
}

#[test]
fn a_native_nvme_device_in_use_is_lost_until_it_is_mounted_anew() {
    let mut host = SimulatedHost::new();
    host.set("a", Thing::nvme(2, 3));
    host.wait(HOUR);
    host.named = vec![DevNo { major: 259, minor: 3 }];
    host.remove("a");
    assert_eq!(host.lost(), [("a".to_owned(), LossReason::InUse)]);
    host.set("a", Thing::nvme(2, 4));
    host.wait(HOUR);
    assert_eq!(host.lost().len(), 1, "the mount still names the old number");
    host.wait(2 * DEFAULT_WINDOW);
    assert_eq!(host.lost().len(), 1);
    host.named = vec![DevNo { major: 259, minor: 4 }];
    host.look();
    assert_eq!((host.lost().len(), host.recoveries()), (0, 1));

    host.set("b", Thing::nvme(2, 5).unused());
    host.remove("b");
    assert_eq!(host.lost(), []);
}

#[test]
fn a_native_nvme_device_that_was_unmounted_before_it_went_is_not_lost() {
    // Nothing is reported until the mounts have been read again. A reading that never comes is not
    // awaited for long.
    for (is_named, comes, lost) in [(false, true, 0), (true, true, 1), (true, false, 1), (false, false, 0)] {
        let mut host = SimulatedHost::new();
        let number = DevNo { major: 259, minor: 3 };
        host.named = vec![number];
        host.set("a", Thing { failed: 1, ..Thing::nvme(1, 3) });
        host.wait(HOUR);
        host.usage_is_known = false;
        host.remove("a");
        host.wait(4 * SECOND);
        assert_eq!((host.lost().len(), host.shown().in_trouble, host.recoveries()), (0, true, 0));
        host.named.retain(|_| is_named);
        host.usage_is_known = comes;
        host.wait(if comes { Duration::ZERO } else { SECOND });
        host.look();
        assert_eq!((host.lost().len(), host.recoveries()), (lost, 1 - lost), "{is_named} {comes}");
    }
}

#[test]
fn a_number_of_an_earlier_boot_names_nothing() {
    let mut host = SimulatedHost::new();
    host.set("a", Thing::nvme(2, 3));
    host.wait(HOUR);
    host.named = vec![DevNo { major: 259, minor: 3 }];
    host.remove("a");
    host.reboot();
    host.set("a", Thing::nvme(2, 3));
    assert_eq!(host.lost(), []);
}

#[test]
fn a_reboot_into_a_dead_storage_is_no_recovery() {
    for in_use in [true, false] {
        let mut host = SimulatedHost::new();
        host.set("a", Thing { in_use: Some(in_use), ..Thing::map(0, 4) });
        host.wait(HOUR);
        host.reboot();
        host.look();
        assert!(host.shown().in_trouble);
        host.wait(11 * MINUTE);
        assert_eq!((host.lost().len(), host.shown().in_trouble, host.recoveries()), (usize::from(in_use), in_use, 0));
    }
}

#[test]
fn paths_that_are_expected_no_more_are_no_recovery() {
    let mut host = SimulatedHost::new();
    host.set("a", Thing::map(8, 0));
    host.wait(7 * HOUR);
    host.set("a", Thing::map(4, 0));
    host.wait(DEFAULT_WINDOW - MINUTE);
    host.restart();
    host.look();
    assert_eq!((host.missing("a"), host.shown().in_trouble), (4, true));
    host.wait(3 * MINUTE);
    assert_eq!((host.missing("a"), host.shown().in_trouble, host.recoveries()), (0, false, 0));
}

#[test]
fn a_file_that_comes_late_changes_no_age() {
    let mut host = SimulatedHost::new();
    host.set("a", Thing::map(2, 0));
    host.wait(40 * DAY);
    let now = host.now();
    let late = host.memory.last_image(now).unwrap();
    host.memory =
        Memory::new(Boot { id: "2".to_owned(), uptime: MINUTE }, Machine::default(), DEFAULT_WINDOW, host.instant);
    host.booted = host.instant - MINUTE;
    host.set("b", Thing { has_no_disk: true, ..Thing::map(0, 0) });
    host.set("c", Thing::map(2, 0));
    host.wait(MINUTE);
    host.remove("b");
    let now = host.now();
    host.memory.resume(late, now);
    host.wait(10 * MINUTE);
    assert_eq!(host.lost(), [("b".to_owned(), LossReason::NoValidPath)]);
    host.set("c", Thing { is_redundant: false, ..Thing::map(2, 0) });
    assert_eq!(host.shown().of("c").unwrap().has_lost_redundancy, Some(false));
}

#[test]
fn a_source_that_does_not_answer_says_nothing() {
    for listed in [vec![], vec![Kind::DeviceMapper], vec![Kind::Nvme], Kind::ALL.to_vec()] {
        let mut host = SimulatedHost::new();
        host.set("a", Thing { has_no_disk: true, ..Thing::map(0, 0) });
        host.set("b", Thing::nvme(2, 3));
        host.wait(HOUR);
        host.restart();
        host.listed = listed.clone();
        host.things.clear();
        host.wait(HOUR);
        let lost: Vec<Kind> = host.shown().lost.iter().map(|device| device.kind).collect();
        assert_eq!(lost, listed);
    }
}

#[test]
fn a_device_in_use_before_a_boot_that_does_not_return_is_lost() {
    let mut host = SimulatedHost::new();
    host.set("a", Thing::map(4, 0));
    host.set("b", Thing::map(4, 0).unused());
    host.set("c", Thing::map(4, 0));
    host.set("d", Thing::map(4, 0));
    host.wait(HOUR);
    host.remove("d");
    host.reboot();
    host.look();
    host.wait(9 * MINUTE);
    assert_eq!(host.lost(), []);
    // The ten minutes continue across restarts of the exporter.
    host.restart();
    host.set("c", Thing::map(4, 0));
    host.wait(90 * SECOND);
    assert_eq!(host.lost(), [("a".to_owned(), LossReason::NotBackAfterBoot)]);
    host.reboot();
    host.set("a", Thing::map(4, 0));
    assert_eq!(host.lost(), []);
}

#[test]
fn a_device_that_went_while_nobody_looked() {
    let mut host = SimulatedHost::new();
    for wwid in ["a", "b", "c"] {
        host.set(wwid, Thing::map(0, 4));
    }
    host.set("d", Thing::map(4, 0));
    host.set("e", Thing::nvme(1, 1));
    host.wait(HOUR);
    host.restart();
    host.things.retain(|wwid, _| wwid == "c");
    host.loose.insert("b".to_owned());
    host.look();
    assert_eq!(host.lost(), [("a".to_owned(), LossReason::NoValidPath), ("e".to_owned(), LossReason::InUse)]);
}

#[test]
fn paths_that_stay_away_after_a_reboot_are_missing() {
    let mut host = SimulatedHost::new();
    host.set("a", Thing::map(8, 0));
    host.wait(7 * HOUR);
    host.reboot();
    host.set("a", Thing::map(4, 0));
    assert_eq!((host.missing("a"), host.shown().in_trouble), (0, false));
    host.wait(4 * MINUTE);
    host.restart();
    host.look();
    assert_eq!(host.missing("a"), 0);
    host.wait(MINUTE);
    assert_eq!((host.missing("a"), host.shown().in_trouble, host.recoveries()), (4, true, 0));
    // One more boot: the paths that were missing before may still come. The host is in trouble
    // until they do.
    host.reboot();
    host.set("a", Thing::map(4, 0));
    assert_eq!((host.missing("a"), host.shown().in_trouble, host.recoveries()), (0, true, 0));
    host.set("a", Thing::map(8, 0));
    assert_eq!((host.missing("a"), host.shown().in_trouble, host.recoveries()), (0, false, 1));
}

#[test]
fn deleted_paths_are_missing_and_more_paths_for_an_hour_are_not() {
    let mut host = SimulatedHost::new();
    host.set("a", Thing::map(4, 0));
    host.wait(12 * HOUR);
    host.set("a", Thing::map(8, 0));
    host.wait(HOUR);
    host.set("a", Thing::map(4, 0));
    assert_eq!((host.missing("a"), host.shown().in_trouble), (0, false));
    host.set("a", Thing::map(2, 0));
    assert_eq!(host.missing("a"), 2);
    let since = host.shown().of("a").unwrap().missing_since;
    host.wait(DAY);
    host.restart();
    host.look();
    assert_eq!((host.missing("a"), host.shown().of("a").unwrap().missing_since), (2, since));
}

#[test]
fn an_attach_is_neither_missing_paths_nor_a_recovery() {
    let mut host = SimulatedHost::new();
    host.set("a", Thing::map(4, 0));
    host.wait(7 * HOUR);
    host.remove("a");
    host.wait(HOUR);
    host.set("a", Thing::map(0, 0));
    host.set("a", Thing::map(1, 1));
    for valid in 2..5 {
        host.set("a", Thing::map(valid, 0));
        host.wait(30 * SECOND);
        assert_eq!(host.missing("a"), 0);
    }
    assert_eq!((host.recoveries(), host.shown().last_recovery), (0, None));
    // A device that stays broken is trouble.
    host.set("b", Thing::map(1, 1));
    host.wait(6 * MINUTE);
    host.set("b", Thing::map(2, 0));
    assert_eq!(host.recoveries(), 1);
}

#[test]
fn the_host_recovers_when_all_are_seen_well() {
    let mut host = SimulatedHost::new();
    host.set("a", Thing::map(2, 0));
    host.set("b", Thing::map(2, 0));
    host.wait(HOUR);
    host.set("a", Thing::map(1, 1));
    host.set("b", Thing::map(0, 2));
    assert!(host.shown().in_trouble);
    host.restart();
    // The remembered value is shown until all sources have answered.
    host.all_answer = false;
    host.set("a", Thing::map(2, 0));
    host.set("b", Thing::map(2, 0));
    assert_eq!((host.shown().in_trouble, host.recoveries()), (true, 0));
    host.all_answer = true;
    host.look();
    assert_eq!((host.shown().in_trouble, host.recoveries()), (false, 1));
    assert_eq!(host.shown().last_recovery, Some(host.time));
    // A troubled device that was removed in order is no longer trouble.
    host.set("a", Thing::map(1, 1));
    host.wait(10 * SECOND);
    host.remove("a");
    assert_eq!(host.recoveries(), 1);
}

#[test]
fn a_configured_device_that_is_not_there_is_trouble() {
    let mut host = SimulatedHost::new();
    host.config = Config::parse("expected_paths: [{wwid: a, paths: 4}]").unwrap();
    host.look();
    assert_eq!((host.missing("a"), host.shown().in_trouble), (4, true));
    // The device arrives at a boot, which is no recovery.
    host.set("a", Thing::map(4, 0));
    assert_eq!((host.missing("a"), host.shown().in_trouble, host.recoveries()), (0, false, 0));
    host.remove("a");
    let since = host.shown().of("a").unwrap().missing_since;
    for _ in 0..3 {
        host.wait(2 * MINUTE);
        host.restart();
        host.look();
    }
    assert_eq!(host.shown().of("a").unwrap().missing_since, since);
    host.set("a", Thing::map(4, 0));
    assert_eq!(host.recoveries(), 1);
}

#[test]
fn forgetting_is_no_recovery() {
    let mut host = SimulatedHost::new();
    host.set("a", Thing { has_no_disk: true, ..Thing::map(0, 0) });
    host.set("b", Thing::map(8, 0));
    host.wait(10 * HOUR);
    host.remove("a");
    host.set("b", Thing::map(4, 0));
    assert_eq!((host.lost().len(), host.missing("b")), (1, 4));
    host.wait(MINUTE);
    let before = humantime::format_rfc3339(host.time - SECOND);
    host.config =
        Config::parse(&format!("forget: [{{wwid: a, before: {before}}}, {{wwid: b, before: {before}}}]")).unwrap();
    let (config, now) = (host.config.clone(), host.now());
    host.memory.forget(&config, now);
    host.look();
    assert_eq!((host.lost().len(), host.missing("b"), host.shown().in_trouble, host.recoveries()), (0, 0, false, 0));
    // Later facts are remembered, however often the same configuration is read again.
    host.set("b", Thing::map(2, 0));
    host.memory.forget(&config, now);
    host.look();
    assert_eq!((host.missing("b"), host.shown().in_trouble), (2, true));
    host.set("b", Thing::map(4, 0));
    assert_eq!(host.recoveries(), 1);
}

#[test]
fn redundancy_and_its_loss() {
    let mut host = SimulatedHost::new();
    let redundancy = |host: &SimulatedHost| {
        let history = *host.shown().of("a").unwrap();
        (history.is_redundant, history.has_lost_redundancy)
    };
    host.set("a", Thing::map(4, 0));
    assert_eq!(redundancy(&host), (Some(true), Some(false)));
    host.set("a", Thing { is_redundant: false, ..Thing::map(4, 0) });
    assert_eq!(redundancy(&host), (Some(false), Some(false)), "it was for no six hours");
    host.set("a", Thing::map(4, 0));
    host.wait(7 * HOUR);
    host.set("a", Thing { is_redundant: false, ..Thing::map(4, 0) });
    assert_eq!(redundancy(&host), (Some(false), Some(true)));
    host.restart();
    host.wait(DEFAULT_WINDOW - HOUR);
    assert_eq!(redundancy(&host), (Some(false), Some(true)));
    host.wait(2 * HOUR);
    assert_eq!(redundancy(&host), (Some(false), Some(false)));
    host.set("a", Thing::map(0, 4));
    assert_eq!(redundancy(&host), (None, None));
    host.config = Config::parse("expected_paths: [{wwid: a, paths: 4, redundant: false}]").unwrap();
    host.set("a", Thing::map(4, 0));
    assert_eq!(redundancy(&host), (None, None));
    host.set("one", Thing::map(1, 0));
    assert_eq!(host.shown().of("one").unwrap().is_redundant, None);
}

#[test]
fn errors_are_new_for_a_quarter_of_an_hour() {
    let mut record = DeviceRecord::new(&Thing::map(2, 0).device("a"), Moment::default());
    let at = |minutes| Moment::default() + MINUTE * minutes;
    // The errors that a path already had are not new.
    for (minutes, errors, are_new) in [(0, 7, false), (1, 7, false), (2, 8, true), (16, 8, true), (17, 8, false)] {
        record.count_errors(errors, at(minutes));
        assert_eq!(record.has_new_errors(at(minutes)), are_new, "{minutes}");
    }
}

#[test]
fn attaching_and_detaching_leaves_a_bounded_memory() {
    let mut host = SimulatedHost::new();
    for number in 0..MOST_RECORDS + 500 {
        let wwid = format!("{number:08}");
        host.things.insert(wwid.clone(), Thing::map(1, 0));
        host.look();
        host.remove(&wwid);
        if number % 400 == 0 {
            host.wait(MINUTE);
        }
    }
    host.wait(2 * MINUTE);
    assert_eq!(host.memory.records.len(), MOST_RECORDS);
    assert!(!host.memory.records.contains_key("00000000"));
    host.instant += DEFAULT_WINDOW;
    host.wait(2 * MINUTE);
    assert_eq!((host.memory.records.len(), host.lost().len()), (0, 0));
}

#[test]
fn it_is_written_at_once_after_news_then_each_minute_then_each_hour() {
    let mut host = SimulatedHost::new();
    let write = |host: &mut SimulatedHost| {
        let now = host.now();
        host.memory.due_image(now).is_some()
    };
    assert!(write(&mut host) && !write(&mut host));
    host.set("a", Thing { has_no_disk: true, ..Thing::map(0, 1) });
    host.wait(59 * SECOND);
    assert!(!write(&mut host));
    host.wait(SECOND);
    assert!(write(&mut host));
    host.wait(20 * SECOND);
    assert!(!write(&mut host));
    host.remove("a");
    assert!(write(&mut host));
    host.wait(59 * MINUTE);
    assert!(!write(&mut host));
    host.wait(MINUTE);
    assert!(write(&mut host));
}

/// A step of a history.
#[derive(Clone, Copy, Debug)]
enum HostStep {
    /// A device has this many valid and failed paths.
    Set(u8, u8, u8),
    Use(u8, Option<bool>),
    /// The disks of a device go.
    LoseDisks(u8),
    Remove(u8),
    Wait(u32),
    Restart,
    Reboot,
    /// The wall clock is set by this many minutes.
    SetClock(i32),
    /// The file is damaged, and the exporter restarts without it.
    Damage,
    ToggleAnswer,
}

fn step() -> impl Strategy<Value = HostStep> {
    use HostStep::*;
    prop_oneof![
        6 => (0u8..4, 0u8..4, 0u8..4).prop_map(|(device, valid, failed)| Set(device, valid, failed)),
        2 => (0u8..4, proptest::option::of(any::<bool>())).prop_map(|(device, is_used)| Use(device, is_used)),
        1 => (0u8..4).prop_map(LoseDisks),
        2 => (0u8..4).prop_map(Remove),
        6 => (1u32..400).prop_map(Wait),
        2 => Just(Restart),
        1 => Just(Reboot),
        1 => (-100_000i32..100_000).prop_map(SetClock),
        1 => Just(Damage),
        1 => Just(ToggleAnswer),
    ]
}

/// One device by the definitions, kept as simple as possible.
#[derive(Clone, Debug, Default)]
struct Plain {
    is_present: bool,
    age: u32,
    pathless: u32,
    in_use: Option<bool>,
    is_awaited: bool,
    is_lost: bool,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Minute by minute: which devices are lost, and how many paths are missing.
    #[test]
    fn the_memory_follows_the_definitions(steps in proptest::collection::vec(step(), 1..60)) {
        let mut host = SimulatedHost::new();
        let mut plain: BTreeMap<String, Plain> = BTreeMap::new();
        let mut minutes_up = 24 * 60u32;
        // True if the next look is the exporter's first one.
        let mut is_first = false;
        for step in steps {
            let name = |device: u8| format!("{device}");
            match step {
                HostStep::Set(device, valid, failed) => {
                    let before = host.things.get(&name(device)).cloned();
                    let mut thing = Thing { in_use: None, ..Thing::map(valid.into(), failed.into()) };
                    thing.in_use = before.and_then(|before| before.in_use);
                    host.things.insert(name(device), thing);
                }
                HostStep::Use(device, in_use) => {
                    if let Some(thing) = host.things.get_mut(&name(device)) {
                        thing.in_use = in_use;
                    }
                }
                HostStep::LoseDisks(device) => {
                    if let Some(thing) = host.things.get_mut(&name(device)) {
                        (thing.failed, thing.valid, thing.has_no_disk) = (thing.failed + thing.valid, 0, true);
                    }
                }
                HostStep::Remove(device) => {
                    let gone = host.things.remove(&name(device));
                    if let (Some(gone), Some(plain)) = (gone, plain.get_mut(&name(device))) {
                        // The last look saw it, so it lasted until then.
                        plain.is_lost |= plain.is_present && gone.has_no_disk && plain.pathless > 0;
                    }
                }
                HostStep::Restart => {
                    host.restart();
                    is_first = true;
                }
                HostStep::Damage => {
                    is_first = true;
                    // The exporter restarts without a memory and takes each device as it finds it.
                    let boot = Boot { id: host.boots.to_string(), uptime: host.instant - host.booted };
                    host.memory = Memory::new(boot, Machine::default(), DEFAULT_WINDOW, host.instant);
                    plain.clear();
                }
                HostStep::Reboot => {
                    host.look();
                    for thing in plain.values_mut().filter(|thing| thing.is_present) {
                        (thing.is_present, thing.is_awaited) = (false, true);
                    }
                    host.reboot();
                    (minutes_up, is_first) = (0, true);
                }
                HostStep::SetClock(minutes) => {
                    let step = MINUTE * minutes.unsigned_abs();
                    host.time = if minutes < 0 { host.time - step } else { host.time + step };
                }
                HostStep::ToggleAnswer => host.all_answer = !host.all_answer,
                HostStep::Wait(_) => {}
            }
            let waits = if let HostStep::Wait(minutes) = step { minutes } else { 0 };
            for minute in 0..=waits {
                if minute > 0 {
                    host.instant += MINUTE;
                    host.time += MINUTE;
                    minutes_up += 1;
                }
                host.look();
                for (wwid, thing) in &host.things {
                    let known = plain.contains_key(wwid);
                    let plain = plain.entry(wwid.clone()).or_default();
                    if !plain.is_present {
                        // An unknown device that the exporter finds at its start counts as there
                        // since boot.
                        plain.age = if is_first && !known { minutes_up } else { 0 };
                        (plain.is_present, plain.is_awaited, plain.pathless) = (true, false, 0);
                    } else if minute > 0 {
                        plain.age += 1;
                    }
                    plain.in_use = thing.in_use;
                    plain.is_lost &= thing.valid == 0;
                    // A path that was valid for less than a minute may only have blinked.
                    if thing.valid > 0 && minute > 0 {
                        plain.pathless = 0;
                    } else if minute > 0 {
                        plain.pathless += 1;
                    }
                }
                is_first = false;
                for (wwid, plain) in &mut plain {
                    if !host.things.contains_key(wwid) {
                        plain.is_present = false;
                    }
                    if plain.is_awaited && minutes_up >= 10 {
                        plain.is_awaited = false;
                        plain.is_lost |= plain.in_use == Some(true);
                    }
                }
            }
            let lost: Vec<&String> = plain.iter().filter(|(_, plain)| plain.is_lost).map(|(wwid, _)| wwid).collect();
            let shown = host.shown();
            let shown_lost: Vec<String> = shown.lost.iter().map(|device| device.wwid.to_string()).collect();
            prop_assert_eq!(&shown_lost.iter().collect::<Vec<_>>(), &lost, "{:?}", step);
            // The host is in trouble whenever a device is not well.
            let is_troubled = |wwid: &String, thing: &Thing| {
                let counts = Counts { valid: thing.valid, failed: thing.failed, standby: 0 };
                counts.health() != Health::Healthy || host.missing(wwid) > 0
            };
            if !lost.is_empty() || host.things.iter().any(|(wwid, thing)| is_troubled(wwid, thing)) {
                prop_assert!(shown.in_trouble);
            }
            for (wwid, plain) in plain.iter().filter(|(_, plain)| plain.is_present) {
                if plain.age < 5 {
                    prop_assert_eq!(host.missing(wwid), 0);
                }
                prop_assert!(shown.of(wwid).is_some());
            }
            prop_assert!(shown.in_trouble || !host.all_answer || host.memory.troubled.is_empty());
            // A recovery is reported only if all is well.
            if host.recoveries() > 0 {
                prop_assert!(host.all_answer && !shown.in_trouble && lost.is_empty());
            }
        }
    }
}
