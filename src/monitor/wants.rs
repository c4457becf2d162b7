//! Wants: events and timers decide what is to be read, and so does the aftermath of a path event.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::schedule::{Cadence, Reason};
use super::{State, assemble};
use crate::metrics::own::{OwnMetrics, ResyncReason};
use crate::source::health::{SourceHealth, SourcePart};
use crate::topology::{DevNo, Health};
use crate::watch::Uevent;

/// After a path event, the sources that follow the kernel (the SCSI layer, multipathd) get this
/// long before they are read.
const AFTERMATH_DELAY: Duration = Duration::from_millis(100);
/// The shortest time between two such readings.
const AFTERMATH_INTERVAL: Duration = Duration::from_secs(1);
/// multipathd's facts change without an event. It is asked at every re-read, instead of every
/// resync, while a device is not healthy. The same holds for this long after a path event.
const CLOSE_WATCH: Duration = Duration::from_secs(60);

/// When timers want readings.
pub(crate) struct Timers {
    pub(crate) resync: Cadence,
    pub(crate) kernel: Cadence,
    pub(crate) block: Cadence,
    pub(crate) transports: Cadence,
    pub(crate) daemon: Cadence,
}

impl Timers {
    /// Publishes how often each source has to answer now, and how often sysfs is read. The
    /// intervals grow with the cost of the readings.
    pub(super) fn publish(&self, daemon_rest: Duration, health: &SourceHealth, own: &OwnMetrics) {
        let Timers { resync, kernel, block, transports, daemon } = self;
        health.expect(SourcePart::DeviceMapper, kernel.present());
        // The states wait while everything is read.
        health.expect(SourcePart::Block, block.present().max(resync.last_cost()));
        health.expect(SourcePart::Transports, transports.present());
        // If all is well, only a resync asks multipathd for its maps.
        health.expect(SourcePart::Multipathd, daemon.present().max(resync.present()).max(daemon_rest));
        own.resync_interval.set(resync.present().as_secs_f64());
        own.reread_interval.set(block.present().as_secs_f64());
    }
}

/// The devices to look at after path events.
#[derive(Default)]
pub(crate) struct Aftermath {
    pub(crate) devices: BTreeSet<Arc<str>>,
    pub(crate) due: Option<Instant>,
    pub(crate) last: Option<Instant>,
}

impl Aftermath {
    pub(super) fn follow(&mut self, device: Option<&Arc<str>>, now: Instant) {
        self.devices.extend(device.cloned());
        let earliest = self.last.map_or(now, |last| last + AFTERMATH_INTERVAL);
        self.due.get_or_insert(earliest.max(now + AFTERMATH_DELAY));
    }

    pub(super) fn take(&mut self, now: Instant) -> Option<BTreeSet<Arc<str>>> {
        self.due.take_if(|due| *due <= now)?;
        self.last = Some(now);
        Some(std::mem::take(&mut self.devices))
    }
}

impl State {
    /// Publishes how often each source is read now.
    pub(super) fn publish_intervals(&self) {
        self.timers.publish(self.daemon_pace.rest(), &self.health, &self.own);
    }

    pub(super) fn uevent(&mut self, uevent: &Uevent) {
        self.own.count_uevent(&uevent.action);
        let Some(devno) = uevent.devno else { return };
        if !uevent.sysname.starts_with("dm-") {
            // A partition is not read on its own. It is covered by its disk.
            if uevent.is_partition {
                return;
            }
            self.block.want.disk(devno);
            if !uevent.synthetic {
                self.readings.block.note_event(devno, &uevent.action);
                self.departures.note_disk(devno, uevent);
            }
            if matches!(&*uevent.action, "add" | "remove") && !uevent.synthetic {
                self.strays.forget(devno);
            }
            // A new disk may use a new session. An NVMe namespace may be a path of a head.
            if uevent.sysname.starts_with("nvme") || &*uevent.action == "add" {
                self.transports.want.look(false, Reason::Event);
            }
            return;
        }
        // Device mapper's list shows at little cost if an unknown device is a multipath map.
        self.look_at_kernel(Some(devno));
        if let Some(event) = &uevent.path {
            self.unread.push(uevent.received);
            if self.ledgers.entry(Arc::clone(&event.wwid)).or_default().note(uevent, event) {
                self.report_path_event(uevent, event);
            }
            self.aftermath.follow(Some(&event.wwid), uevent.received);
            if !self.dm_devices.contains_key(&event.wwid) && !self.readings.kernel_describes(devno) {
                self.block.want.map(devno);
            }
            return;
        }
        if !self.readings.kernel_describes(devno) {
            self.block.want.map(devno);
        }
        if !uevent.synthetic {
            self.departures.note_map(self.wwids.get(&devno), uevent);
        }
        match self.wwids.get(&devno).and_then(|wwid| self.ledgers.get_mut(wwid)) {
            Some(ledger) => {
                ledger.note_map(uevent);
                self.unread.push(uevent.received);
                // multipathd is not asked about other devices. Most device-mapper devices are not
                // multipath maps (LVM, containers).
                self.aftermath.follow(None, uevent.received);
            }
            None if &*uevent.action == "remove" => self.users_changed(uevent.received),
            None => {}
        }
    }

    /// Wants the users of devices, which may have changed. Device mapper's open count covers its
    /// own devices, if it may be asked.
    pub(super) fn users_changed(&mut self, now: Instant) {
        if !self.nvme_devices.is_empty() || !self.readings.kernel_is_current() {
            self.unread_usage = Some(now);
            self.block.want.usage();
        }
    }

    pub(super) fn look_at_kernel(&mut self, dirty: Option<DevNo>) {
        if let Some(kernel) = &mut self.kernel {
            kernel.want.look(dirty);
        }
    }

    pub(super) fn events_were_lost(&mut self) {
        self.readings.block.forget_events();
        if self.start.has_begun() {
            self.want_everything(Reason::Overflow);
        }
    }

    /// Begins a resync: every source is read in full.
    pub(super) fn want_everything(&mut self, reason: Reason) {
        // Requests that arrive before the resync has started, such as overflows in a storm, are
        // merged into one.
        if !self.block.want.wants_everything() {
            self.own.count_resync(match reason {
                Reason::Timer | Reason::Event => ResyncReason::Timer,
                Reason::Overflow => ResyncReason::Overflow,
                Reason::Signal => ResyncReason::Signal,
                Reason::Start => ResyncReason::Start,
            });
        }
        if let Some(kernel) = &mut self.kernel {
            kernel.want.all(reason);
        }
        self.block.want.everything(reason);
        self.transports.want.look(true, reason);
        self.interfaces.want.wanted = true;
        if self.readings.block.suspects.is_empty() {
            self.daemon_pace.want(reason);
        } else {
            // multipathd's configuration may ignore these disks by now.
            self.daemon_pace.want_paths(reason);
        }
    }

    /// Wants the readings whose interval has passed.
    pub(super) fn want_what_is_due(&mut self, now: Instant) {
        if self.timers.resync.is_due(now) {
            self.want_everything(Reason::Timer);
        }
        if let Some(kernel) = self.kernel.as_mut().filter(|_| self.timers.kernel.is_due(now)) {
            kernel.want.all(Reason::Timer);
        }
        if self.timers.block.is_due(now) {
            self.block.want.states();
            if !self.readings.block.read_once || self.block_failed {
                self.block.want.everything(Reason::Timer);
            }
        }
        if self.timers.transports.is_due(now) {
            self.transports.want.look(false, Reason::Timer);
        }
        if self.timers.daemon.is_due(now) {
            self.want_daemon(now);
        }
    }

    pub(super) fn want_daemon(&mut self, now: Instant) {
        let Some(daemon) = &mut self.daemon else { return };
        let unhealthy = |built: &assemble::AssembledMap| built.device.counts().health() != Health::Healthy;
        let kernel_describes_all =
            self.readings.kernel.as_ref().is_some_and(|kernel| kernel.current && kernel.never_read.is_empty());
        let close_watch = !kernel_describes_all
            || self.aftermath.last.is_some_and(|last| now < last + CLOSE_WATCH)
            || self.readings.multipathd.as_ref().is_some_and(|daemon| daemon.failed)
            || self.dm_devices.values().any(unhealthy);
        daemon.want.state(Reason::Timer);
        if close_watch {
            self.daemon_pace.want(Reason::Timer);
        }
    }

    /// Wants readings of the sources that follow the kernel after path events.
    pub(super) fn want_aftermath(&mut self, wwids: BTreeSet<Arc<str>>) {
        for built in wwids.iter().filter_map(|wwid| self.dm_devices.get(wwid)) {
            self.block.want.states_of(built.device.paths.iter().filter_map(|path| path.devno));
            let undescribed = built.devno().into_iter().filter(|devno| !self.readings.kernel_describes(*devno));
            undescribed.for_each(|devno| self.block.want.map(devno));
        }
        self.transports.want.look(false, Reason::Event);
        self.daemon_pace.want(Reason::Event);
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::readers::{Ask, Reply};
    use super::super::readings::DaemonReply;
    use super::super::{Now, Options};
    use super::*;
    use crate::memory::Memory;

    /// How often multipathd is asked for anything, and how often for its maps, in the last five of
    /// ten minutes. `cost` is the time that each answer takes.
    fn asked(cost: Duration) -> (usize, usize) {
        let start = Instant::now();
        let options = Options { multipathd: Some(Duration::from_secs(60)), ..Options::default() };
        let (mut state, _board) =
            State::new(options, Memory::default(), Arc::default(), Now { instant: start, time: SystemTime::now() });
        let mut asked = (0, 0);
        for second in 0..600 {
            let now = Now { instant: start + Duration::from_secs(second), time: SystemTime::now() };
            if second == 0 {
                state.begin(now);
            }
            state.look_at_clock(now);
            for ask in state.due(now) {
                let cost = if matches!(ask, Ask::Daemon(_)) { cost } else { Duration::ZERO };
                let reply = match ask {
                    Ask::Block(_) => Reply::Block(Ok(Default::default())),
                    Ask::Transports(_) => Reply::Transports(Ok(Default::default())),
                    Ask::Interfaces => Reply::Interfaces(Ok(Default::default())),
                    Ask::Kernel(_) => panic!("it is switched off"),
                    Ask::Daemon(request) => {
                        if second >= 300 {
                            asked = (asked.0 + 1, asked.1 + usize::from(request.maps));
                        }
                        let maps = request.maps.then(|| Ok(Default::default()));
                        Reply::Daemon(Ok(DaemonReply { state: "idle".into(), maps, paths: None }))
                    }
                };
                state.take((reply, cost), now);
            }
        }
        asked
    }

    #[test]
    fn a_daemon_that_needs_long_for_its_maps_is_asked_for_them_less_often() {
        assert_eq!(asked(Duration::from_millis(1)), (60, 60));
        // A tenth of its time.
        assert_eq!(asked(Duration::from_secs(2)).1, 15);
    }
}
