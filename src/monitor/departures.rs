//! The order in which a map and its disks were removed. The kernel numbers its events. The numbers
//! give the order even if no reading came between the events.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::memory::Order;
use crate::topology::{DevNo, Device};
use crate::watch::Uevent;

/// How long a removal is remembered. A device that goes later than this goes for another reason.
const REMOVAL_RETENTION: Duration = Duration::from_secs(60);

const FORGET_INTERVAL: Duration = Duration::from_secs(1);

/// The latest removals.
#[derive(Debug, Default)]
pub(crate) struct Departures {
    disks: HashMap<DevNo, Departure>,
    maps: HashMap<Arc<str>, Departure>,
    /// The maps that a reading no longer shows, by kernel name, until all earlier events have been
    /// processed.
    awaited: HashMap<Arc<str>, Awaited>,
    /// True while the watcher passes events on.
    events_come: bool,
    /// When old removals were last dropped. In a storm, that is not done with each removal.
    forgot: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Departure {
    /// The event's sequence number, `SEQNUM`.
    seqnum: u64,
    at: Instant,
}

#[derive(Debug)]
struct Awaited {
    wwid: Arc<str>,
    since: Instant,
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

    /// Processes an event about a device-mapper device, which may go. `shown` is the WWID of the
    /// map that the last page shows under its device number.
    pub(crate) fn note_map(&mut self, shown: Option<&Arc<str>>, uevent: &Uevent) {
        if &*uevent.action == "remove" {
            // The kernel may already have given the number to another map.
            let awaited = self.awaited.get(&uevent.sysname).map(|awaited| &awaited.wwid);
            if let Some(wwid) = awaited.or(shown) {
                // The kernel may send two events for one removal.
                self.maps.entry(Arc::clone(wwid)).or_insert_with(|| Departure::of(uevent));
            }
        }
        self.forget(uevent.received);
    }

    /// Records that a reading no longer shows the map. If events come, those of removals before the
    /// reading are awaited.
    pub(crate) fn map_went(&mut self, map: &Device, now: Instant) {
        if self.events_come {
            let awaited = || Awaited { wwid: Arc::clone(&map.wwid), since: now };
            self.awaited.entry(Arc::clone(&map.sysfs_name)).or_insert_with(awaited);
        }
    }

    /// Forgets the earlier removals of maps that are there. The maps were listed at `listed`.
    pub(crate) fn forget_maps(&mut self, listed: Instant, is_there: impl Fn(&str) -> bool) {
        self.maps.retain(|wwid, departure| departure.at >= listed || !is_there(wwid));
    }

    /// All events up to this moment have been processed. `None` if none can be expected. Returns
    /// true if a map no longer waits for events.
    pub(crate) fn events_read_until(&mut self, moment: Option<Instant>) -> bool {
        self.events_come = moment.is_some();
        let waiting = self.awaited.len();
        self.awaited.retain(|_, awaited| moment.is_some_and(|moment| awaited.since > moment));
        self.awaited.len() < waiting
    }

    /// Returns whether the disks of a map that is gone went before it, as far as events show that.
    pub(crate) fn order(&self, map: &Device) -> Order {
        let went = self.maps.get(&map.wwid);
        let mut order = if map.paths.is_empty() { None } else { Some(Order::DisksFirst) };
        for path in &map.paths {
            let disk = path.devno.and_then(|devno| self.disks.get(&devno));
            match (disk, went) {
                (Some(disk), Some(map)) if disk.seqnum > map.seqnum => return Order::MapFirst,
                (Some(_), _) => {}
                (None, _) => order = None,
            }
        }
        let awaited = self.awaited.get(&map.sysfs_name).filter(|awaited| awaited.wwid == map.wwid);
        order.unwrap_or(if awaited.is_some() { Order::NotKnownYet } else { Order::Unknown })
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
    use crate::topology::{Path, sample};

    fn disk(minor: u32) -> DevNo {
        DevNo { major: 8, minor }
    }

    fn uevent(action: &str, seqnum: u64, received: Instant) -> Uevent {
        Uevent {
            seqnum,
            action: action.into(),
            sysname: "dm-0".into(),
            devno: None,
            diskseq: None,
            synthetic: false,
            is_partition: false,
            path: None,
            received,
            time: SystemTime::now(),
        }
    }

    fn order(departures: &Departures, disks: &[u32]) -> Order {
        let paths = disks.iter().map(|minor| Path { devno: Some(disk(*minor)), ..sample::path() }).collect();
        departures.order(&map(paths))
    }

    fn map(paths: Vec<Path>) -> Device {
        Device { wwid: "3600".into(), sysfs_name: "dm-0".into(), paths, ..sample::device() }
    }

    #[test]
    fn the_order_of_removals() {
        let (now, wwid) = (Instant::now(), Arc::from("3600"));
        let mut departures = Departures::default();
        departures.note_disk(disk(0), &uevent("remove", 1, now));
        assert_eq!((order(&departures, &[0]), order(&departures, &[0, 1])), (Order::DisksFirst, Order::Unknown));
        departures.note_map(Some(&wwid), &uevent("change", 4, now));
        departures.note_map(Some(&wwid), &uevent("remove", 5, now));
        departures.note_disk(disk(1), &uevent("remove", 7, now));
        departures.note_map(Some(&wwid), &uevent("remove", 8, now));
        assert_eq!((order(&departures, &[0]), order(&departures, &[0, 1])), (Order::DisksFirst, Order::MapFirst));
        assert_eq!((order(&departures, &[2, 1]), order(&departures, &[])), (Order::MapFirst, Order::Unknown));
        departures.forget_maps(now, |_| true);
        assert_eq!(order(&departures, &[0, 1]), Order::MapFirst);
        departures.forget_maps(now + Duration::from_secs(1), |_| true);
        assert_eq!(order(&departures, &[0, 1]), Order::DisksFirst);
        departures.note_disk(disk(0), &uevent("add", 9, now));
        assert_eq!(order(&departures, &[0]), Order::Unknown);
        departures.note_disk(disk(2), &uevent("remove", 10, now + REMOVAL_RETENTION));
        assert_eq!((order(&departures, &[1]), order(&departures, &[2])), (Order::Unknown, Order::DisksFirst));
    }

    #[test]
    fn a_reading_shows_a_removal_before_its_event_comes() {
        let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        let wait = |events_come: Option<Instant>| {
            let mut departures = Departures::default();
            departures.events_read_until(events_come);
            departures.note_disk(disk(0), &uevent("remove", 1, now));
            departures.map_went(&map(Vec::new()), later);
            departures
        };
        let departures = wait(Some(now));
        assert_eq!((order(&departures, &[0]), order(&departures, &[0, 1])), (Order::DisksFirst, Order::NotKnownYet));

        let mut departures = wait(Some(now));
        // Another map has the number by now.
        departures.note_map(Some(&"3601".into()), &uevent("remove", 2, later));
        departures.note_map(Some(&"3601".into()), &uevent("add", 3, later));
        assert_eq!(order(&departures, &[0, 1]), Order::NotKnownYet);
        departures.note_disk(disk(1), &uevent("remove", 4, later));
        departures.note_map(Some(&"3601".into()), &uevent("remove", 5, later));
        assert_eq!((order(&departures, &[0]), order(&departures, &[0, 1])), (Order::DisksFirst, Order::MapFirst));

        let mut departures = wait(Some(now));
        assert!(!departures.events_read_until(Some(now)));
        assert_eq!(order(&departures, &[1]), Order::NotKnownYet);
        assert!(departures.events_read_until(Some(later)));
        assert_eq!(order(&departures, &[1]), Order::Unknown);

        let mut departures = wait(Some(now));
        assert!(departures.events_read_until(None));
        assert_eq!((order(&departures, &[1]), order(&wait(None), &[1])), (Order::Unknown, Order::Unknown));
    }
}
