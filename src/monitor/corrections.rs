//! Changes that a reading showed before any event told of them. Each waits for its event, and is counted if none comes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tracing::warn;

use super::Ledgers;
use super::ledger::PATIENCE;
use crate::metrics::own::OwnMetrics;
use crate::topology::DevNo;
use crate::watch::PathAction;

/// A member of a device.
pub(crate) type Member = (Arc<str>, DevNo);

/// The changes that wait for events.
#[derive(Debug, Default)]
pub(crate) struct Corrections {
    /// Members whose state no event has told of yet, and when that is to be counted.
    unexplained: HashMap<Member, Instant>,
    suspicions: Vec<Suspicion>,
    device_mapper_woke: Option<Instant>,
    /// All uevents up to this moment have been taken note of; `None` if none can be expected.
    events_read_until: Option<Instant>,
}

/// A timed reading found a device different, and no event had told.
#[derive(Debug)]
struct Suspicion {
    wwid: Arc<str>,
    asked: Instant,
    found: Instant,
    /// Device mapper had counted an event; its poll may still wake us.
    event_nr_moved: bool,
}

impl Corrections {
    /// Device mapper's event poll woke us.
    pub(crate) fn device_mapper_woke(&mut self, now: Instant) {
        self.device_mapper_woke = Some(now);
    }

    /// All uevents up to this moment have been taken note of; `None` if none can be expected.
    pub(crate) fn events_read_until(&mut self, moment: Option<Instant>) {
        self.events_read_until = moment;
    }

    /// Whether a change of a member is yet to be told.
    pub(crate) fn wait(&self) -> bool {
        !self.unexplained.is_empty()
    }

    /// A member's state differs from the one that its events led to until `due`; `None` if it does not.
    pub(crate) fn follow(&mut self, member: Member, due: Option<Instant>) {
        match due {
            Some(due) => drop(self.unexplained.insert(member, due)),
            None => drop(self.unexplained.remove(&member)),
        }
    }

    /// A timed reading, asked for at `asked`, found this device different.
    pub(crate) fn suspect(
        &mut self,
        wwid: &Arc<str>,
        event_nr_moved: bool,
        ledgers: &Ledgers,
        (asked, now): (Instant, Instant),
    ) {
        let had_event = ledgers.get(wwid).is_some_and(|ledger| ledger.had_event_within(PATIENCE, asked));
        let woke = event_nr_moved && self.device_mapper_woke.is_some_and(|woke| asked < woke + PATIENCE);
        let is_known = self.suspicions.iter().any(|known| known.found == now && known.wwid == *wwid);
        if !had_event && !woke && !is_known {
            self.suspicions.push(Suspicion { wwid: Arc::clone(wwid), asked, found: now, event_nr_moved });
        }
    }

    /// Until when all is due that is due by now: in a storm uevents come later than the readings that they led to, and what
    /// waits for them waits as long.
    fn until(&self, now: Instant) -> Instant {
        self.events_read_until.map_or(now, |read| read.min(now))
    }

    /// The next moment at which something is due. A change that waits for events is due with them.
    pub(crate) fn next_due(&self, now: Instant) -> Option<Instant> {
        let suspicions = self.suspicions.iter().map(|suspicion| suspicion.found + PATIENCE);
        let until = self.until(now);
        let waits = |due: &Instant| *due <= now && *due > until;
        self.unexplained.values().copied().chain(suspicions).filter(|due| !waits(due)).min()
    }

    /// Counts what has waited long enough for an event, and gives the changes of members that were counted.
    pub(crate) fn settle(
        &mut self,
        ledgers: &mut Ledgers,
        own: &OwnMetrics,
        now: super::Now,
    ) -> Vec<(Member, PathAction)> {
        let until = self.until(now.instant);
        self.settle_suspicions(ledgers, own, until);
        let due: Vec<Member> = self.unexplained.extract_if(|_, due| *due <= until).map(|(member, _)| member).collect();
        let mut counted = Vec::new();
        for member in due {
            // There is nothing to settle if an event has come in the meantime: the next assembly compares once more.
            let ledger = ledgers.get_mut(&member.0);
            let action = ledger.and_then(|ledger| ledger.settle(member.1, now.instant, now.time));
            counted.extend(action.map(|action| (member, action)));
        }
        counted
    }

    fn settle_suspicions(&mut self, ledgers: &Ledgers, own: &OwnMetrics, until: Instant) {
        let woke = self.device_mapper_woke;
        for Suspicion { wwid, asked, event_nr_moved, .. } in
            self.suspicions.extract_if(.., |suspicion| suspicion.found + PATIENCE <= until)
        {
            let had_event = |ledger: &super::MapLedger| ledger.had_event_within(PATIENCE, asked);
            let told =
                ledgers.get(&wwid).is_none_or(had_event) || event_nr_moved && woke.is_some_and(|woke| woke >= asked);
            if !told {
                own.resync_corrections.inc();
                warn!(wwid = &*wwid, "a resync found a change that no event told of");
            }
        }
    }
}
