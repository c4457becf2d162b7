//! Stray paths: disks with a device's WWID that are no members of it. multipathd needs a moment to
//! add a new disk, so a disk counts only after a while.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::unassembled::may_be_at;
use super::{Ledgers, assemble};
use crate::source::block::strangers::{Candidate, is_of_multipath_driver};
use crate::source::transports::Ways;
use crate::topology::luns::scsi_target;
use crate::topology::{DevNo, Device};

/// A disk counts after this long without a break.
const STRAY_DELAY: Duration = Duration::from_secs(60);

/// The disks beside devices, by number.
#[derive(Debug)]
pub(crate) struct Strays {
    beside: HashMap<DevNo, Beside>,
    delay: Duration,
}

impl Default for Strays {
    fn default() -> Self {
        Strays { beside: HashMap::new(), delay: STRAY_DELAY }
    }
}

#[derive(Debug)]
struct Beside {
    what: StrayIdentity,
    since: Instant,
    /// True if the disk counts.
    is_stray: bool,
}

/// A disk beside a device. For another disk, or a device that was gone, the time starts again.
#[derive(Debug, PartialEq, Eq)]
struct StrayIdentity {
    wwid: Arc<str>,
    name: Arc<str>,
    hctl: Arc<str>,
    map: Option<DevNo>,
    /// [`MapLedger::instance`](super::ledger::MapLedger::instance).
    instance: u64,
}

impl Strays {
    /// Counts each disk at once, because a single look cannot wait.
    pub(crate) fn look_once(&mut self) {
        self.delay = Duration::ZERO;
    }

    /// Processes an event about a disk that comes or goes.
    pub(crate) fn forget(&mut self, devno: DevNo) {
        self.beside.remove(&devno);
    }

    /// Returns when the next disk counts.
    pub(crate) fn due(&self) -> Option<Instant> {
        let waiting = self.beside.values().filter(|beside| !beside.is_stray);
        waiting.filter_map(|beside| beside.since.checked_add(self.delay)).min()
    }

    /// Looks at the disks that are members of no map, and sets the stray paths of each device.
    pub(crate) fn follow(
        &mut self,
        candidates: &[Candidate],
        devices: &mut assemble::DmDevices,
        ledgers: &Ledgers,
        ways: &Ways,
        now: Instant,
    ) {
        let mut before = std::mem::take(&mut self.beside);
        let mut strays: BTreeMap<Arc<str>, Vec<Arc<str>>> = BTreeMap::new();
        for candidate in candidates {
            let Some(built) = devices.get(&candidate.wwid) else { continue };
            if !belongs_to(candidate, &built.device, ways) {
                continue;
            }
            let disk = &candidate.disk;
            let what = StrayIdentity {
                wwid: Arc::clone(&candidate.wwid),
                name: Arc::clone(&disk.name),
                hctl: Arc::clone(&disk.hctl),
                map: built.devno(),
                instance: ledgers.get(&candidate.wwid).map_or(0, |ledger| ledger.instance),
            };
            let last = before.remove(&disk.devno).filter(|last| last.what == what);
            let since = last.map_or(now, |last| last.since);
            let is_stray = now.saturating_duration_since(since) >= self.delay;
            if is_stray {
                strays.entry(Arc::clone(&candidate.wwid)).or_default().push(Arc::clone(&disk.name));
            }
            self.beside.insert(disk.devno, Beside { what, since, is_stray });
        }
        strays.values_mut().for_each(|names| names.sort_unstable());
        for (wwid, built) in devices.iter_mut() {
            let stray_paths = strays.remove(wwid).unwrap_or_default();
            if built.device.stray_paths != stray_paths {
                Arc::make_mut(&mut built.device).stray_paths = stray_paths;
            }
        }
    }
}

/// Returns true if the disk is a LUN of the device, works, and is not excluded from multipath by
/// udev or by another driver.
fn belongs_to(candidate: &Candidate, device: &Device, ways: &Ways) -> bool {
    let disk = &candidate.disk;
    let is_member = device.paths.iter().any(|path| path.devno == Some(disk.devno) || path.name == disk.name);
    // Two LUNs of one target are different, even if they have the same name.
    let is_another_lun = device.paths.iter().any(|path| {
        let target = scsi_target(&path.hctl);
        target.is_some() && target == disk.target() && path.hctl != disk.hctl
    });
    let has_its_size = device.size_bytes.is_some_and(|size| size > 0 && disk.size_bytes == Some(size));
    let is_of_another_driver = candidate.held_by.as_ref().is_some_and(|holder| is_of_multipath_driver(holder));
    has_its_size
        && disk.states.device.as_deref() == Some("running")
        && candidate.mark != Some(false)
        && !is_member
        && !is_another_lun
        && !is_of_another_driver
        && may_be_at(candidate, device.paths.iter().map(|path| Arc::clone(&path.ports.target)), ways)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::SystemTime;

    use super::*;
    use crate::memory::{Memory, Now};
    use crate::monitor::readers::{Ask, Reply};
    use crate::monitor::{Options, State};
    use crate::source::block::disks::Disk;
    use crate::source::block::maps::{Slave, SysfsMap};
    use crate::source::block::strangers::tests::candidate;
    use crate::source::block::{self, HostFacts};
    use crate::topology::{Path, Ports, sample};

    const WWID: &str = "3600a098000aad1e3";

    fn device() -> Device {
        let ports = Ports { target: "iqn.a".into(), ..Ports::default() };
        let path = Path {
            name: "sda".into(),
            devno: Some(DevNo { major: 8, minor: 0 }),
            hctl: "6:0:0:1".into(),
            ports,
            ..sample::path()
        };
        Device { wwid: WWID.into(), size_bytes: Some(1 << 30), paths: vec![path], ..sample::device() }
    }

    #[test]
    fn which_disks_belong_to_a_device() {
        type Edit = fn(&mut Candidate);
        fn disk(candidate: &mut Candidate) -> &mut Disk {
            Arc::make_mut(&mut candidate.disk)
        }
        let edits: [(&str, Edit, bool); 12] = [
            ("as it is", |_| {}, true),
            ("marked as multipath's", |disk| disk.mark = Some(true), true),
            ("marked as none of it", |disk| disk.mark = Some(false), false),
            ("held by PowerPath", |disk| disk.held_by = Some("emcpowera".into()), false),
            ("held by HDLM", |disk| disk.held_by = Some("sddlmaa".into()), false),
            ("held by md, which is its direct use", |disk| disk.held_by = Some("md0".into()), true),
            ("of another size", |candidate| disk(candidate).size_bytes = Some(7), false),
            ("of no size", |candidate| disk(candidate).size_bytes = None, false),
            ("offline", |candidate| disk(candidate).states.device = Some("offline".into()), false),
            ("of no state", |candidate| disk(candidate).states.device = None, false),
            ("another LUN of a member's target", |candidate| disk(candidate).hctl = "6:0:0:2".into(), false),
            ("a member", |candidate| disk(candidate).name = "sda".into(), false),
        ];
        for (what, edit, expected) in edits {
            let mut candidate = candidate("sdb", WWID, "7:0:0:1");
            edit(&mut candidate);
            assert_eq!(belongs_to(&candidate, &device(), &Ways::new()), expected, "{what}");
        }
        let sizeless = Device { size_bytes: None, ..device() };
        assert!(!belongs_to(&candidate("sdb", WWID, "7:0:0:1"), &sizeless, &Ways::new()));
    }

    /// A monitor with one map over `sda` that only sysfs shows, and the time.
    struct Fixture {
        state: State,
        start: Instant,
        members: Vec<&'static str>,
        map_is_there: bool,
        diskseq: u64,
        stray: Option<Candidate>,
    }

    impl Fixture {
        fn new() -> Self {
            let start = Instant::now();
            let options = Options { nvme: false, reread: Duration::from_secs(3600), ..Options::default() };
            let now = Now { instant: start, time: SystemTime::now() };
            let (mut state, _board) = State::new(options, Memory::default(), Arc::default(), now);
            state.begin(now);
            let stray = Some(candidate("sdb", WWID, "7:0:0:1"));
            Fixture { state, start, members: vec!["sda"], map_is_there: true, diskseq: 1, stray }
        }

        fn reading(&self) -> block::BlockReading {
            let disks = self.members.iter().map(|name| candidate(name, WWID, "6:0:0:1").disk);
            let disks: BTreeMap<_, _> = disks.map(|disk| (disk.devno, Some(disk))).collect();
            let members = disks.values().flatten().map(|disk| Slave {
                devno: Some(disk.devno),
                name: Arc::clone(&disk.name),
                place: Default::default(),
                gone: false,
            });
            let devno = DevNo { major: 254, minor: 0 };
            let map = self.map_is_there.then(|| {
                Arc::new(SysfsMap {
                    wwid: WWID.into(),
                    sysfs_name: "dm-0".into(),
                    devno,
                    name: "mpatha".into(),
                    diskseq: Some(self.diskseq),
                    suspended: Some(false),
                    size_bytes: Some(1 << 30),
                    read_only: Some(false),
                    members: members.collect(),
                })
            });
            let candidates = self.stray.iter().filter(|stray| !self.members.contains(&&*stray.disk.name)).cloned();
            let host = HostFacts {
                has_maps: true,
                candidates: candidates.collect(),
                member_ways: Arc::new(HashSet::new()),
                root: Arc::default(),
            };
            block::BlockReading { maps: [(devno, map)].into(), disks, host: Some(host), ..Default::default() }
        }

        /// The number of strays after this many seconds.
        fn at(&mut self, second: u64) -> usize {
            let now = Now { instant: self.start + Duration::from_secs(second), time: SystemTime::now() };
            self.state.look_at_clock(now);
            // Transports wait for the addresses of interfaces.
            for _ in 0..2 {
                for ask in self.state.due(now) {
                    let reply = match ask {
                        Ask::Block(_) => Reply::Block(Ok(self.reading())),
                        Ask::Transports(_) => Reply::Transports(Ok(Default::default())),
                        Ask::Interfaces => Reply::Interfaces(Ok(Default::default())),
                        ask => panic!("{ask:?} is switched off"),
                    };
                    self.state.take((reply, Duration::ZERO), now);
                }
            }
            self.state.publish_if_due(now);
            let snapshot = self.state.snapshot.borrow().clone();
            let devices = snapshot.iter().flat_map(|snapshot| &snapshot.devices);
            devices.map(|device| device.stray_paths.len()).sum()
        }
    }

    #[test]
    fn a_disk_counts_after_a_minute_without_a_break() {
        let mut host = Fixture::new();
        let found: Vec<_> = [0, 30, 59, 60, 90].iter().map(|second| host.at(*second)).collect();
        assert_eq!(found, [0, 0, 0, 1, 1]);
        // The disk joins the map and leaves it.
        host.members.push("sdb");
        assert_eq!(host.at(120), 0);
        host.members.pop();
        let found: Vec<_> = [150, 209, 210].iter().map(|second| host.at(*second)).collect();
        assert_eq!(found, [0, 0, 1]);
        // The disk goes.
        host.stray = None;
        assert_eq!(host.at(240), 0);
    }

    #[test]
    fn nothing_else_has_to_happen_for_it_to_count() {
        let mut host = Fixture::new();
        host.state.timers.resync = crate::monitor::schedule::Cadence::new(Duration::from_secs(300), host.start);
        assert_eq!(host.at(0), 0);
        assert_eq!(host.state.strays.due(), Some(host.start + STRAY_DELAY));
        assert_eq!((host.at(60), host.state.strays.due()), (1, None));
    }

    #[test]
    fn every_break_begins_anew() {
        type Break = fn(&mut Fixture);
        let breaks: [(&str, Break, Break); 4] = [
            ("the map is gone for a reading", |host| host.map_is_there = false, |host| host.map_is_there = true),
            ("the map was created again", |host| host.diskseq = 2, |_| {}),
            (
                "the disk fails for a reading",
                |host| Arc::make_mut(&mut host.stray.as_mut().unwrap().disk).states.device = Some("blocked".into()),
                |host| host.stray = Fixture::new().stray,
            ),
            (
                "another disk has its number",
                |host| Arc::make_mut(&mut host.stray.as_mut().unwrap().disk).hctl = "8:0:0:1".into(),
                |_| {},
            ),
        ];
        for (what, begin, end) in breaks {
            let mut host = Fixture::new();
            assert_eq!(host.at(0), 0);
            begin(&mut host);
            assert_eq!(host.at(30), 0);
            end(&mut host);
            let found: Vec<_> = [60, 89, 120].iter().map(|second| host.at(*second)).collect();
            assert_eq!(found, [0, 0, 1], "{what}");
        }
        let mut host = Fixture::new();
        host.at(0);
        host.state.strays.forget(DevNo { major: 8, minor: 16 });
        assert_eq!((host.at(30), host.at(60), host.at(90)), (0, 0, 1));
    }
}
