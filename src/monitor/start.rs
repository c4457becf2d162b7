//! The start. The first snapshot waits until every source of devices has answered, because
//! "unknown" is not "none".

use std::time::{Duration, Instant};

use super::State;
use super::schedule::Lane;
use super::unassembled::KnownPaths;
use crate::source::health::SourcePart;

/// How long sysfs waits for device mapper, whose answer saves the reading of the maps' files.
/// Transports wait as long for the addresses of interfaces.
const ORDER_DEADLINE: Duration = Duration::from_secs(5);
/// How long the first snapshot waits for a source that does not answer. Then the snapshot is
/// published without it.
const SOURCE_DEADLINE: Duration = Duration::from_secs(60);

/// The progress of the start.
#[derive(Debug, Default)]
pub(crate) struct Start {
    pub(crate) began: Option<Instant>,
    pub(crate) order_is_over: bool,
    pub(crate) deadline_is_over: bool,
}

impl Start {
    pub(super) fn has_begun(&self) -> bool {
        self.began.is_some()
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        let began = self.began?;
        match (self.order_is_over, self.deadline_is_over) {
            (false, _) => Some(began + ORDER_DEADLINE),
            (true, false) => Some(began + SOURCE_DEADLINE),
            (true, true) => None,
        }
    }

    pub(super) fn look_at_clock(&mut self, now: Instant) {
        self.order_is_over |= self.began.is_some_and(|began| began + ORDER_DEADLINE <= now);
        self.deadline_is_over |= self.began.is_some_and(|began| began + SOURCE_DEADLINE <= now);
    }
}

impl State {
    /// Returns true if each source of devices has answered.
    pub(super) fn have_answered(&self) -> bool {
        self.silent_source().is_none()
    }

    /// Returns a source of devices that is switched on and permitted, but has not answered yet.
    pub(super) fn silent_source(&self) -> Option<SourcePart> {
        let kernel = self.readings.kernel.as_ref().filter(|kernel| kernel.read_at.is_none() && !kernel.not_permitted);
        let block = Some(SourcePart::Block).filter(|_| !self.readings.block.read_once);
        let transports = Some(SourcePart::Transports).filter(|_| self.readings.transports.is_none());
        kernel.map(|_| SourcePart::DeviceMapper).or(block).or(transports)
    }

    /// Returns true if each lane has been tried once.
    pub(super) fn was_tried(&self) -> bool {
        self.kernel.as_ref().is_none_or(Lane::was_tried)
            && self.block.was_tried()
            && self.transports.was_tried()
            && self.daemon.as_ref().is_none_or(Lane::was_tried)
    }

    /// Returns true if it is known, or no longer awaited, which interface each connection uses.
    fn knows_interfaces(&self) -> bool {
        self.start.order_is_over || !self.readings.transports().sources().any(|(_, port)| port.is_empty())
    }

    /// Returns true if the first snapshot may be published. Every source of devices must have
    /// answered. multipathd must have been asked, too, because it may give the path states. After
    /// [`SOURCE_DEADLINE`], the facts of the other sources are enough.
    pub(super) fn may_open(&self) -> bool {
        let knows_paths = self.readings.block.suspects.is_empty()
            || self.readings.multipathd.as_ref().is_none_or(|daemon| daemon.known_paths != KnownPaths::NotAsked);
        let daemon_was_tried = self.daemon.as_ref().is_none_or(Lane::was_tried);
        // A device that waits for a name counts as found. It does not appear later.
        self.have_answered() && daemon_was_tried && knows_paths && self.nameless.is_empty() && self.knows_interfaces()
            || self.start.deadline_is_over
                && (self.readings.list_source().is_some() || self.readings.transports.is_some())
    }

    /// Returns true if all readings are complete, or no longer awaited.
    pub(super) fn is_settled(&self) -> bool {
        let is_idle = self.kernel.as_ref().is_none_or(Lane::is_idle)
            && self.block.is_idle()
            && self.transports.is_idle()
            && self.knows_interfaces()
            && self.daemon.as_ref().is_none_or(|lane| lane.is_idle() && !self.daemon_pace.is_awaited());
        self.start.deadline_is_over || self.start.has_begun() && is_idle && !(self.is_open && self.is_outdated)
    }
}
