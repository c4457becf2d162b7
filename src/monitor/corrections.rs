//! Changes that a reading showed before any event did. Each waits for its event, and counts as a
//! correction if none comes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tracing::warn;

use super::Ledgers;
use super::ledger::EVENT_DEADLINE;
use crate::metrics::own::OwnMetrics;
use crate::topology::DevNo;
use crate::watch::PathAction;

/// A device and the number of one of its members.
pub(crate) type MemberKey = (Arc<str>, DevNo);

#[derive(Debug, Default)]
pub(crate) struct Corrections {
    /// Members whose published state has no event yet, and when the change is to be counted.
    unexplained: HashMap<MemberKey, Instant>,
    suspicions: Vec<Suspicion>,
    device_mapper_woke: Option<Instant>,
    /// All uevents up to this moment have been processed. `None` if none can be expected.
    events_read_until: Option<Instant>,
}

/// A device that a timed reading found changed without an event.
#[derive(Debug)]
struct Suspicion {
    wwid: Arc<str>,
    asked: Instant,
    found: Instant,
    /// True if device mapper had counted an event. Its event poll may still wake the monitor.
    event_nr_moved: bool,
}

impl Corrections {
    /// Device mapper's event poll has woken the monitor.
    pub(crate) fn device_mapper_woke(&mut self, now: Instant) {
        self.device_mapper_woke = Some(now);
    }

    /// All uevents up to this moment have been processed. `None` if none can be expected.
    pub(crate) fn events_read_until(&mut self, moment: Option<Instant>) {
        self.events_read_until = moment;
    }

    /// Returns true if a change of a member still waits for its event.
    pub(crate) fn wait(&self) -> bool {
        !self.unexplained.is_empty()
    }

    /// Records until when a member waits for the event that explains its state. `None` if no event
    /// is missing.
    pub(crate) fn follow(&mut self, member: MemberKey, due: Option<Instant>) {
        match due {
            Some(due) => drop(self.unexplained.insert(member, due)),
            None => drop(self.unexplained.remove(&member)),
        }
    }

    /// Records that a timed reading, requested at `asked`, found this device changed.
    pub(crate) fn suspect(
        &mut self,
        wwid: &Arc<str>,
        event_nr_moved: bool,
        ledgers: &Ledgers,
        (asked, now): (Instant, Instant),
    ) {
        let had_event = ledgers.get(wwid).is_some_and(|ledger| ledger.had_event_within(EVENT_DEADLINE, asked));
        let woke = event_nr_moved && self.device_mapper_woke.is_some_and(|woke| asked < woke + EVENT_DEADLINE);
        let is_known = self.suspicions.iter().any(|known| known.found == now && known.wwid == *wwid);
        if !had_event && !woke && !is_known {
            self.suspicions.push(Suspicion { wwid: Arc::clone(wwid), asked, found: now, event_nr_moved });
        }
    }

    /// The moment up to which changes are due now. In a storm, uevents arrive later than the
    /// readings that they caused, and the changes wait for them.
    fn until(&self, now: Instant) -> Instant {
        self.events_read_until.map_or(now, |read| read.min(now))
    }

    /// Returns the next moment at which something is due. A change that waits for events is due
    /// with them.
    pub(crate) fn next_due(&self, now: Instant) -> Option<Instant> {
        let suspicions = self.suspicions.iter().map(|suspicion| suspicion.found + EVENT_DEADLINE);
        let until = self.until(now);
        let waits = |due: &Instant| *due <= now && *due > until;
        self.unexplained.values().copied().chain(suspicions).filter(|due| !waits(due)).min()
    }

    /// Counts the changes that have waited long enough for an event. Returns the changes of
    /// members.
    pub(crate) fn settle(
        &mut self,
        ledgers: &mut Ledgers,
        own: &OwnMetrics,
        now: super::Now,
    ) -> Vec<(MemberKey, PathAction)> {
        let until = self.until(now.instant);
        self.settle_suspicions(ledgers, own, until);
        let due: Vec<MemberKey> =
            self.unexplained.extract_if(|_, due| *due <= until).map(|(member, _)| member).collect();
        let mut counted = Vec::new();
        for member in due {
            // If an event has come meanwhile, there is nothing to settle. The next assembly
            // compares again.
            let ledger = ledgers.get_mut(&member.0);
            let action = ledger.and_then(|ledger| ledger.settle(member.1, now.instant, now.time));
            counted.extend(action.map(|action| (member, action)));
        }
        counted
    }

    fn settle_suspicions(&mut self, ledgers: &Ledgers, own: &OwnMetrics, until: Instant) {
        let woke = self.device_mapper_woke;
        for Suspicion { wwid, asked, event_nr_moved, .. } in
            self.suspicions.extract_if(.., |suspicion| suspicion.found + EVENT_DEADLINE <= until)
        {
            let had_event = |ledger: &super::MapLedger| ledger.had_event_within(EVENT_DEADLINE, asked);
            let has_event =
                ledgers.get(&wwid).is_none_or(had_event) || event_nr_moved && woke.is_some_and(|woke| woke >= asked);
            if !has_event {
                own.resync_corrections.inc();
                warn!(wwid = &*wwid, "resync found a change without a kernel event");
            }
        }
    }
}
