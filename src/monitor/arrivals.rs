//! Readings that arrive, fail, or are late. A new reading replaces the last one of its source.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::failures::SessionOrController;
use super::readings::DaemonReply;
use super::schedule::{Lane, Reason, UnderWay};
use super::{Now, State};
use crate::source::block::{self, Scope};
use crate::source::health::SourcePart;
use crate::source::interfaces::Addresses;
use crate::source::transports::{self, Way};
use crate::source::{Error, device_mapper};
use crate::topology::Daemon;

impl State {
    /// Records that a reading has arrived. A late reading leaves its source down, because it shows
    /// the state at the time of its request.
    fn note_success<R>(&self, part: SourcePart, reading: &UnderWay<R>, unreadable: &[Error], now: Now) {
        let took = now.instant - reading.asked;
        if reading.is_late() {
            self.health.came_late(part, took, now.time, unreadable);
        } else {
            self.health.succeeded(part, took, now.time, unreadable);
        }
    }

    pub(super) fn take_kernel(&mut self, reply: Result<device_mapper::MapReading, Error>, cost: Duration, now: Now) {
        let Some(reading) = self.kernel.as_mut().and_then(Lane::end) else { return };
        self.kernel_has_answered = true;
        let maps = match reply {
            Ok(maps) => maps,
            Err(error) => return self.kernel_fails(&error),
        };
        if reading.request.all {
            self.timers.kernel.cost(cost);
            self.publish_intervals();
        }
        let unreadable: Vec<Error> = maps.unreadable.iter().map(|(_, error)| error.clone()).collect();
        self.note_success(SourcePart::DeviceMapper, &reading, &unreadable, now);
        let Some(kernel) = &mut self.readings.kernel else { return };
        // Other sources may have shown newer facts since a late reading was requested. The next
        // reading is current again.
        let (is_current, came) = if reading.is_late() { (false, reading.asked) } else { (true, now.instant) };
        if is_current {
            self.timer_found = Some(reading.asked).filter(|_| reading.reason == Reason::Timer);
        } else if let Some(lane) = &mut self.kernel {
            lane.want.all(reading.reason);
        }
        let was_read = |devno| !maps.unreadable.iter().any(|(unreadable, _)| *unreadable == devno);
        for map in &maps.maps {
            let ledger = self.ledgers.entry(Arc::clone(&map.wwid)).or_default();
            // A map that could not be read keeps the age of its last reading.
            if was_read(map.devno) {
                ledger.kernel_read(reading.asked, came);
            }
            if !kernel.maps.contains_key(&map.wwid) && !self.block.want.wants_everything() {
                self.block.want.map(map.devno);
            }
        }
        let joined = kernel.take(&maps, reading.asked, came);
        kernel.current = is_current;
        if is_current {
            self.readings.block.forget_maps_but(&kernel.never_read);
            let unread = kernel.never_read.iter().filter(|devno| self.readings.block.wwid(**devno).is_none());
            if !self.block.want.wants_everything() {
                unread.for_each(|devno| self.block.want.map(*devno));
            }
        }
        if joined.is_empty() {
            return;
        }
        for devno in joined {
            let disk = self.readings.block.disks.get(&devno);
            if self.readings.block.read_once && disk.is_none_or(|disk| disk.states.absent) {
                self.nameless.insert(devno, now.instant);
            }
            // A full reading that has not begun yet will read this disk anyway.
            if !self.block.want.wants_everything() {
                self.block.want.disk(devno);
            }
        }
        if !self.is_open {
            return;
        }
        // A new member may use a new session, and multipathd may have details about it.
        self.transports.want.look(false, Reason::Event);
        self.aftermath.follow(None, now.instant);
    }

    /// Device mapper cannot be read now. sysfs has to replace it.
    pub(super) fn kernel_fails(&mut self, error: &Error) {
        self.health.failed(SourcePart::DeviceMapper, error);
        self.is_outdated = true;
        let Some(kernel) = &mut self.readings.kernel else { return };
        kernel.not_permitted = error.is_refusal();
        if std::mem::take(&mut kernel.current) {
            self.block.want.everything(Reason::Event);
        }
    }

    pub(super) fn take_block(&mut self, reply: Result<block::BlockReading, Error>, cost: Duration, now: Now) {
        let Some(under_way) = self.block.end() else { return };
        let reading = match reply {
            Ok(reading) => reading,
            Err(error) => {
                // Only a full reading makes up for what this one should have read.
                self.block_failed = true;
                return self.health.failed(SourcePart::Block, &error);
            }
        };
        let scope = &under_way.request.scope;
        match scope {
            Scope::Everything => {
                self.block_failed = false;
                self.timers.resync.cost(cost);
            }
            Scope::States => self.timers.block.cost(cost),
            Scope::Devices(_) => {}
        }
        self.publish_intervals();
        self.note_success(SourcePart::Block, &under_way, &reading.unreadable, now);
        let is_timed = under_way.reason == Reason::Timer && !self.readings.kernel_is_current();
        self.timer_found = is_timed.then_some(under_way.asked);
        for map in reading.maps.values().flatten() {
            let ledger = self.ledgers.entry(Arc::clone(&map.wwid)).or_default();
            if let Some(diskseq) = map.diskseq {
                ledger.note_diskseq(diskseq, under_way.asked);
            }
        }
        self.ledgers.values_mut().for_each(|ledger| ledger.block_read(under_way.asked));
        self.readings.block.take(&reading, &under_way.request, under_way.asked);
        self.nameless.retain(|devno, _| !reading.disks.contains_key(devno));
        let ways = self.readings.ways();
        let leads_nowhere = |disk: &Arc<block::disks::Disk>| {
            disk.way.as_ref().is_some_and(|way| !ways.contains_key(way)) && !disk.states.absent
        };
        let is_known = self.readings.transports.is_some();
        if is_known && *scope != Scope::States && reading.disks.values().flatten().any(leads_nowhere) {
            self.transports.want.look(false, Reason::Event);
        }
        if reading.usage.is_some() {
            self.unread_usage = self.unread_usage.filter(|changed| *changed > under_way.asked);
        }
        if reading.host.is_some() {
            self.forget_strangers = true;
            // multipathd is asked for its paths only if there are disks that it may ignore.
            if !self.readings.block.suspects.is_empty() {
                self.daemon_pace.want_paths(under_way.reason);
            }
        }
    }

    pub(super) fn take_transports(
        &mut self,
        reply: Result<transports::TransportReading, Error>,
        cost: Duration,
        now: Now,
    ) {
        let Some(under_way) = self.transports.end() else { return };
        match reply {
            Ok(reading) => {
                self.timers.transports.cost(cost);
                self.publish_intervals();
                self.note_success(SourcePart::Transports, &under_way, &reading.unreadable, now);
                self.note_open_ways(Arc::clone(&reading.open));
                let transports::TransportReading { transports, heads, .. } = &reading;
                let sessions = transports.iscsi_sessions.iter().map(|session| SessionOrController::session(session));
                self.session_failures.follow(sessions, under_way.asked);
                let controllers =
                    transports.nvme_controllers.iter().map(|controller| SessionOrController::controller(controller));
                self.controller_failures.follow(controllers, under_way.asked);
                self.nvme_clocks.follow(&transports.nvme_controllers, heads, under_way.asked);
                self.interfaces.want.sources = transports.sources().map(|(source, _)| source).collect();
                let addresses = &self.readings.addresses;
                self.interfaces.want.wanted |=
                    self.interfaces.want.sources.iter().any(|source| addresses.are_older_than(source));
                self.readings.transports = Some(reading);
            }
            Err(error) => {
                self.forget_open_ways();
                self.health.failed(SourcePart::Transports, &error);
            }
        }
    }

    /// Counts a way as open after three readings, because a disk's state may lag behind its port's.
    fn note_open_ways(&mut self, open: Arc<HashSet<Way>>) {
        if open != self.open_ways[0] && self.readings.block.read_once {
            self.block.want.states();
        }
        self.open_ways.rotate_right(1);
        self.open_ways[0] = open;
        let [now, before, at_first] = &self.open_ways;
        self.block.want.open = if now == before && before == at_first {
            Arc::clone(now)
        } else {
            Arc::new(now.iter().filter(|way| before.contains(*way) && at_first.contains(*way)).cloned().collect())
        };
    }

    /// Ports cannot be read now, so the states of all disks are read instead.
    fn forget_open_ways(&mut self) {
        self.open_ways = Default::default();
        self.block.want.open = Arc::default();
    }

    pub(super) fn take_interfaces(&mut self, reply: Result<Addresses, Error>) {
        let Some(under_way) = self.interfaces.end() else { return };
        match reply.map(|addresses| addresses.beside(&under_way.request)) {
            Ok(addresses) if addresses == *self.readings.addresses => {}
            Ok(addresses) => {
                self.readings.addresses = Arc::new(addresses);
                self.transports.want.look(true, Reason::Event);
            }
            Err(error) => self.logged_once.interfaces(&error),
        }
    }

    pub(super) fn take_daemon(&mut self, reply: Result<DaemonReply, Error>, cost: Duration, now: Now) {
        let Some(under_way) = self.daemon.as_mut().and_then(Lane::end) else { return };
        let DaemonReply { state, maps, paths } = match reply {
            Ok(reply) => reply,
            Err(error) => return self.daemon_fails(&error),
        };
        if maps.is_some() {
            self.daemon_pace.answered(cost, now.instant);
            self.publish_intervals();
        }
        let is_timed = under_way.reason == Reason::Timer && !self.readings.kernel_is_current();
        self.timer_found = is_timed.then_some(under_way.asked);
        let Some(daemon) = &mut self.readings.multipathd else { return };
        // multipathd has just started, or has just finished its configuration. Between its other
        // states it alternates all the time.
        let was_busy = !matches!(&daemon.state, Daemon::Up(word) if matches!(&**word, "idle" | "running"));
        let state = Daemon::Up(state);
        let may_leave_alone = !self.readings.block.suspects.is_empty();
        if was_busy && daemon.state != state {
            if may_leave_alone && paths.is_none() {
                // Before it was ready, it may have answered that it knows no path.
                self.daemon_pace.want_paths(Reason::Overflow);
            } else if maps.is_none() {
                self.daemon_pace.want(Reason::Overflow);
            }
        }
        let paths_error = paths.as_ref().and_then(|paths| paths.as_ref().err().cloned());
        if daemon.know_paths(true, paths, may_leave_alone) {
            // Unassembled disks are shown only once the paths are known. So the request waits no
            // longer than after lost events.
            self.daemon_pace.want_paths(if self.is_open { Reason::Overflow } else { Reason::Start });
        }
        daemon.state = state;
        match maps {
            Some(Ok(maps)) => {
                let objects = maps.unreadable.iter().map(|object| Error::new("multipathd", object));
                let unreadable: Vec<Error> = objects.chain(paths_error).collect();
                self.health.succeeded(SourcePart::Multipathd, now.instant - under_way.asked, now.time, &unreadable);
                for map in &maps.maps {
                    self.ledgers.entry(Arc::clone(&map.wwid)).or_default().daemon_read(under_way.asked);
                }
                daemon.take(maps, under_way.asked);
            }
            Some(Err(error)) => {
                daemon.failed = true;
                self.health.failed(SourcePart::Multipathd, &error);
            }
            None => {}
        }
    }

    pub(super) fn daemon_fails(&mut self, error: &Error) {
        self.health.failed(SourcePart::Multipathd, error);
        self.is_outdated = true;
        if let Some(daemon) = &mut self.readings.multipathd {
            daemon.know_paths(false, None, false);
            daemon.state = Daemon::Down;
        }
    }

    pub(super) fn notice_late_readings(&mut self, now: Instant) {
        let late = |place| Error::new(place, "has not answered in time");
        if self.kernel.as_mut().is_some_and(|lane| lane.turns_late(now)) {
            self.kernel_fails(&late("device mapper"));
        }
        if self.block.turns_late(now) {
            self.health.failed(SourcePart::Block, &late("block devices in sysfs"));
        }
        if self.transports.turns_late(now) {
            self.forget_open_ways();
            self.health.failed(SourcePart::Transports, &late("sessions, ports and controllers in sysfs"));
        }
        if self.interfaces.turns_late(now) {
            self.logged_once.interfaces(&late("network interfaces"));
        }
        if self.daemon.as_mut().is_some_and(|lane| lane.turns_late(now)) {
            self.daemon_fails(&late("multipathd"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::Options;
    use super::super::readers::{Ask, Reply};
    use super::*;
    use crate::memory::Memory;
    use crate::topology::{IscsiSession, NvmeController, Transports};

    /// The source addresses of two connections. The first connection comes up after [`LOGIN`]
    /// seconds, the other one a second later.
    const SOURCES: [&str; 2] = ["192.0.2.7", "192.0.2.8"];
    const LOGIN: u64 = 33;

    /// The names of the initiator ports of a session and of a controller in each second, and the
    /// number of requests for interfaces. `eth1` has both addresses, or no interface has them.
    fn follow(have_addresses: bool, seconds: u64) -> (Vec<[String; 2]>, usize) {
        let start = Instant::now();
        let options = Options::default();
        let (mut state, _board) =
            State::new(options, Memory::default(), Arc::default(), Now { instant: start, time: SystemTime::now() });
        let (mut seen, mut asked, mut last) = (Vec::new(), 0, [Arc::<str>::default(), Arc::default()]);
        state.begin(Now { instant: start, time: SystemTime::now() });
        for second in 0..seconds {
            let now = Now { instant: start + Duration::from_secs(second), time: SystemTime::now() };
            state.look_at_clock(now);
            // Each answer comes at once, and may cause another request.
            for _ in 0..10 {
                for ask in state.due(now) {
                    let reply = match ask {
                        Ask::Block(_) => Reply::Block(Ok(Default::default())),
                        Ask::Interfaces => {
                            asked += 1;
                            let own = SOURCES.map(|source| (source.parse().unwrap(), "eth1".into()));
                            let own = own.into_iter().filter(|_| have_addresses && second >= LOGIN);
                            Reply::Interfaces(Ok(Addresses::from(own.collect::<Vec<_>>())))
                        }
                        Ask::Transports(request) => {
                            let [session, controller] = &mut last;
                            let mut transports = Transports::default();
                            let come = |source: &str, last: &mut Arc<str>| {
                                let source = source.parse().unwrap();
                                let port = request.addresses.leave_from(source, last);
                                *last = if port.is_empty() { Arc::clone(last) } else { port };
                                (
                                    Some(source),
                                    crate::topology::Ports { initiator_port: Arc::clone(last), ..Default::default() },
                                )
                            };
                            if second >= LOGIN {
                                let (source, ports) = come(SOURCES[0], session);
                                let session = IscsiSession { source, ports, ..IscsiSession::default() };
                                transports.iscsi_sessions.push(session.into());
                            }
                            if second > LOGIN {
                                let (source, ports) = come(SOURCES[1], controller);
                                let controller = NvmeController { source, ports, ..NvmeController::default() };
                                transports.nvme_controllers.push(controller.into());
                            }
                            Reply::Transports(Ok(transports::TransportReading {
                                transports: transports.into(),
                                ..transports::TransportReading::default()
                            }))
                        }
                        ask => panic!("{ask:?} is switched off"),
                    };
                    state.take((reply, Duration::ZERO), now);
                }
            }
            seen.push(last.each_ref().map(|port| port.to_string()));
        }
        (seen, asked)
    }

    #[test]
    fn an_interface_that_has_just_got_its_address_is_asked_for_at_once() {
        let (seen, _) = follow(true, LOGIN + 8);
        assert!(seen.iter().flatten().all(|port| ["", "eth1"].contains(&&**port)), "{seen:?}");
        assert_eq!(seen.last(), Some(&["eth1", "eth1"].map(str::to_owned)));
    }

    #[test]
    fn an_address_that_no_interface_has_is_asked_for_once_and_at_each_resync() {
        let (seen, asked) = follow(false, LOGIN + 300);
        assert_eq!(seen[LOGIN as usize + 8], SOURCES.map(str::to_owned));
        assert_eq!(asked, 1 + (LOGIN as usize + 300) / 30 + 1);
    }
}
