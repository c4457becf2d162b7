//! Reports of changes: events, log lines and counters.

use std::sync::Arc;
use std::time::Instant;

use super::compare::ChangeKind;
use super::{Now, State, log};
use crate::event::{Event, EventType};
use crate::topology::{DevNo, Device, Kind, LostDevice, Path, PathState};
use crate::watch::{PathAction, PathEvent, Uevent};

impl State {
    /// Compares the members' states with the states after their events.
    pub(super) fn follow_paths(&mut self, is_found: bool, now: Instant) {
        for (wwid, built) in self.dm_devices.iter().filter(|(_, built)| built.is_new) {
            let ledger = self.ledgers.entry(Arc::clone(wwid)).or_default();
            let paths = &built.device.paths;
            ledger.forget_strangers(now, |devno| paths.iter().any(|path| path.devno == Some(devno)));
            for path in paths {
                let Some(devno) = path.devno else { continue };
                let is_valid = path.state == PathState::Valid;
                // A path starts as valid. A path found failed at the start has no event to wait
                // for.
                ledger.ensure_path(devno, !is_found || is_valid);
                ledger.identify(devno, path);
                self.corrections.follow((Arc::clone(wwid), devno), ledger.compare(devno, is_valid, now));
            }
        }
    }

    pub(super) fn report_change(&mut self, device: &Arc<Device>, what: ChangeKind, is_found: bool, now: Now) {
        // The ledger counts the path events of device mapper, because it waits for the uevents.
        let is_counted_here = device.kind == Kind::Nvme;
        match what {
            ChangeKind::Added if is_found => log::found(device),
            _ if is_found => {}
            ChangeKind::Added => self.report_device(EventType::DeviceAdded, device, now),
            ChangeKind::Removed => {
                self.forget_device(device, now.instant);
                self.report_device(EventType::DeviceRemoved, device, now);
            }
            ChangeKind::PathAdded(path) => {
                self.suspect(device, now);
                if let Some((ledger, devno)) = self.ledgers.get_mut(&device.wwid).zip(path.devno) {
                    ledger.join(devno);
                }
                self.report_path(EventType::PathAdded, device, &path, now);
            }
            ChangeKind::PathRemoved(path) => {
                self.suspect(device, now);
                let asked = self.readings.listed_as_of();
                let settled = path.devno.filter(|_| !is_counted_here).and_then(|devno| {
                    let disk_is_gone = self.readings.block.is_gone(devno);
                    let ledger = self.ledgers.get_mut(&device.wwid)?;
                    ledger.leave(devno, &path, disk_is_gone, asked, (now.instant, now.time))
                });
                if let Some(action) = settled {
                    self.report_path(kind_of(action), device, &path, now);
                }
                self.report_path(EventType::PathRemoved, device, &path, now);
            }
            ChangeKind::PathFailed(path) if is_counted_here => {
                self.report_path(EventType::PathFailed, device, &path, now)
            }
            ChangeKind::PathReinstated(path) if is_counted_here => {
                self.report_path(EventType::PathReinstated, device, &path, now);
            }
            ChangeKind::PathFailed(_) | ChangeKind::PathReinstated(_) => self.suspect(device, now),
            ChangeKind::NoValidPath => log::no_valid_path(device, "by a reading"),
        }
    }

    /// Records that a device-mapper device differs from the last snapshot. If a timer found that,
    /// an event is missing.
    pub(super) fn suspect(&mut self, device: &Device, now: Now) {
        if let Some((built, asked)) = self.dm_devices.get(&device.wwid).zip(self.timer_found) {
            self.corrections.suspect(&device.wwid, built.event_nr_moved, &self.ledgers, (asked, now.instant));
        }
    }

    /// Forgets a device. If it comes back it is a new device, and its events may have come already.
    pub(super) fn forget_device(&mut self, device: &Device, now: Instant) {
        if device.kind == Kind::Nvme {
            return;
        }
        self.departures.map_went(device, now);
        let as_of = self.readings.listed_as_of();
        if !self.ledgers.get_mut(&device.wwid).is_some_and(|ledger| ledger.outlives_map(as_of)) {
            self.ledgers.remove(&device.wwid);
        }
        if let Some(daemon) = &mut self.readings.multipathd {
            daemon.forget(&device.wwid);
        }
    }

    /// Reports a path event from the kernel at once.
    pub(super) fn report_path_event(&mut self, uevent: &Uevent, event: &PathEvent) {
        let device = self.dm_devices.get(&event.wwid).map(|built| &built.device);
        let path = device.and_then(|device| device.paths.iter().find(|path| path.devno == Some(event.path)));
        let disk = self.readings.block.disks.get(&event.path);
        let name = path.map(|path| &path.name).or(disk.map(|disk| &disk.name)).cloned();
        let paths = device.map_or(0, |device| device.paths.len());
        let reported = Event {
            id: 0,
            seqnum: Some(uevent.seqnum),
            dm_seqnum: Some(event.dm_seqnum),
            time: uevent.time,
            kind: kind_of(event.action),
            wwid: Some(Arc::clone(&event.wwid)),
            name: Some(Arc::clone(&event.name)),
            path: Some(name.unwrap_or_else(|| event.path.to_string().into())),
            devno: Some(event.path),
            valid_paths: event.valid_paths.or(device.map(|device| device.counts().valid as u64)),
        };
        self.report(reported, paths, uevent.received);
    }

    pub(super) fn report_settled(&mut self, wwid: &Arc<str>, devno: DevNo, action: PathAction, now: Now) {
        let Some(device) = self.dm_devices.get(wwid).map(|built| Arc::clone(&built.device)) else { return };
        if let Some(path) = device.paths.iter().find(|path| path.devno == Some(devno)) {
            self.report_path(kind_of(action), &device, path, now);
        }
    }

    pub(super) fn report_path(&mut self, kind: EventType, device: &Device, path: &Path, now: Now) {
        let event = Event { path: Some(Arc::clone(&path.name)), devno: path.devno, ..read_event(kind, device, now) };
        self.report(event, device.paths.len(), now.instant);
    }

    pub(super) fn report_device(&mut self, kind: EventType, device: &Device, now: Now) {
        self.report(read_event(kind, device, now), device.paths.len(), now.instant);
    }

    pub(super) fn report_loss(&mut self, device: &LostDevice, now: Now) {
        let (wwid, name) = (Some(Arc::clone(&device.wwid)), Some(Arc::clone(&device.name)));
        log::lost(device);
        self.events.add(Event { wwid, name, ..event_of_host(EventType::DeviceLost, now) });
    }

    pub(super) fn report_recovery(&mut self, now: Now) {
        log::recovered();
        self.events.add(event_of_host(EventType::Recovered, now));
    }

    pub(super) fn report(&mut self, event: Event, paths: usize, now: Instant) {
        let event = self.events.add(event);
        self.path_log.write(&event, paths, now);
    }
}

/// An event from a reading.
fn read_event(kind: EventType, device: &Device, now: Now) -> Event {
    Event {
        wwid: Some(Arc::clone(&device.wwid)),
        name: Some(Arc::clone(&device.name)),
        valid_paths: Some(device.counts().valid as u64),
        ..event_of_host(kind, now)
    }
}

/// An event without a device.
fn event_of_host(kind: EventType, now: Now) -> Event {
    Event {
        id: 0,
        seqnum: None,
        dm_seqnum: None,
        time: now.time,
        kind,
        wwid: None,
        name: None,
        path: None,
        devno: None,
        valid_paths: None,
    }
}

fn kind_of(action: PathAction) -> EventType {
    match action {
        PathAction::Failed => EventType::PathFailed,
        PathAction::Reinstated => EventType::PathReinstated,
    }
}
