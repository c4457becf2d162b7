//! The order in which a map and its disks were removed. The kernel numbers its events. The numbers
//! give the order even if no reading came between the events.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::topology::DevNo;
use crate::watch::Uevent;

/// How long a removal is remembered. A device that goes later than this goes for another reason.
const REMOVAL_RETENTION: Duration = Duration::from_secs(60);

const FORGET_INTERVAL: Duration = Duration::from_secs(1);

/// The latest removals.
#[derive(Debug, Default)]
pub(crate) struct Departures {
    disks: HashMap<DevNo, Departure>,
    maps: HashMap<Arc<str>, Departure>,
    /// When old removals were last dropped. In a storm, that is not done with each removal.
    forgot: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Departure {
    /// The event's sequence number, `SEQNUM`.
    seqnum: u64,
    at: Instant,
}

impl Departure {
    fn of(uevent: &Uevent) -> Self {
        Departure { seqnum: uevent.seqnum, at: uevent.received }
    }
}

impl Departures {
    /// Processes an event about a disk that comes or goes.
    pub(crate) fn note_disk(&mut self, devno: DevNo, uevent: &Uevent) {
        match &*uevent.action {
            "remove" => drop(self.disks.insert(devno, Departure::of(uevent))),
            "add" => drop(self.disks.remove(&devno)),
            _ => {}
        }
        self.forget(uevent.received);
    }

    /// Processes an event about a map, which may go.
    pub(crate) fn note_map(&mut self, wwid: &Arc<str>, uevent: &Uevent) {
        if &*uevent.action == "remove" {
            // The kernel may send two events for one removal.
            self.maps.entry(Arc::clone(wwid)).or_insert_with(|| Departure::of(uevent));
        }
        self.forget(uevent.received);
    }

    /// Records that the map is there again.
    pub(crate) fn map_came(&mut self, wwid: &str) {
        self.maps.remove(wwid);
    }

    /// Returns true if all of these disks are known to have gone before their map. For a disk
    /// without a device number, the order is not known.
    pub(crate) fn went_first(&self, mut disks: impl Iterator<Item = Option<DevNo>>, wwid: &str) -> bool {
        let map = self.maps.get(wwid);
        disks.all(|disk| {
            let disk = disk.and_then(|disk| self.disks.get(&disk));
            disk.is_some_and(|disk| map.is_none_or(|map| disk.seqnum < map.seqnum))
        })
    }

    fn forget(&mut self, now: Instant) {
        if self.forgot.is_some_and(|forgot| now < forgot + FORGET_INTERVAL) {
            return;
        }
        self.forgot = Some(now);
        self.disks.retain(|_, departure| now < departure.at + REMOVAL_RETENTION);
        self.maps.retain(|_, departure| now < departure.at + REMOVAL_RETENTION);
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn disk(minor: u32) -> DevNo {
        DevNo { major: 8, minor }
    }

    fn uevent(action: &str, seqnum: u64, received: Instant) -> Uevent {
        Uevent {
            seqnum,
            action: action.into(),
            sysname: "sda".into(),
            devno: None,
            diskseq: None,
            synthetic: false,
            is_partition: false,
            path: None,
            received,
            time: SystemTime::now(),
        }
    }

    #[test]
    fn the_order_of_removals() {
        let (now, map) = (Instant::now(), Arc::from("3600"));
        let mut departures = Departures::default();
        departures.note_disk(disk(0), &uevent("remove", 1, now));
        let went_first = |departures: &Departures, disks: &[u32]| {
            departures.went_first(disks.iter().map(|minor| Some(disk(*minor))), "3600")
        };
        assert!(went_first(&departures, &[0]) && !went_first(&departures, &[0, 1]));
        departures.note_map(&map, &uevent("change", 4, now));
        departures.note_map(&map, &uevent("remove", 5, now));
        departures.note_disk(disk(1), &uevent("remove", 7, now));
        departures.note_map(&map, &uevent("remove", 8, now));
        assert!(went_first(&departures, &[0]) && !went_first(&departures, &[0, 1]));
        departures.map_came("3600");
        assert!(went_first(&departures, &[0, 1]));
        departures.note_disk(disk(0), &uevent("add", 9, now));
        assert!(!went_first(&departures, &[0]));
        departures.note_disk(disk(2), &uevent("remove", 10, now + REMOVAL_RETENTION));
        assert!(!went_first(&departures, &[1]) && went_first(&departures, &[2]));
    }
}
