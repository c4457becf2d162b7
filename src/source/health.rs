//! The health of each source, for the metrics, the status page and systemd. This module also logs
//! each change: one line when a source is lost, one when it is back.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tracing::{info, warn};

use super::Error;

/// A source, as the `source` label names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Device mapper's ioctls.
    Dm,
    Multipathd,
    Sysfs,
    /// Kernel events.
    Uevent,
}

impl Source {
    /// All sources, in the order of the label values.
    pub(crate) const ALL: [Source; 4] = [Source::Dm, Source::Multipathd, Source::Sysfs, Source::Uevent];

    /// Returns the name for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Source::Dm => "device mapper",
            Source::Multipathd => "multipathd",
            Source::Sysfs => "sysfs",
            Source::Uevent => "kernel events",
        }
    }

    /// Returns the value of the `source` label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Source::Dm => "dm",
            Source::Multipathd => "multipathd",
            Source::Sysfs => "sysfs",
            Source::Uevent => "uevent",
        }
    }
}

/// A part of a source that is read by itself. Block devices and transports are two parts of sysfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum SourcePart {
    /// Device mapper's ioctls.
    DeviceMapper,
    Multipathd,
    /// Block devices in sysfs.
    Block,
    /// Sessions, ports and controllers in sysfs.
    Transports,
    /// Kernel events.
    Uevent,
}

impl SourcePart {
    const ALL: [SourcePart; 5] = [
        SourcePart::DeviceMapper,
        SourcePart::Multipathd,
        SourcePart::Block,
        SourcePart::Transports,
        SourcePart::Uevent,
    ];

    pub(crate) fn source(self) -> Source {
        match self {
            SourcePart::DeviceMapper => Source::Dm,
            SourcePart::Multipathd => Source::Multipathd,
            SourcePart::Block | SourcePart::Transports => Source::Sysfs,
            SourcePart::Uevent => Source::Uevent,
        }
    }
}

/// The number of intervals for which a successful read counts as current.
const FRESH_INTERVALS: u32 = 3;
/// The shortest time for which a successful read counts as current. A thread may wait this long for
/// a processor, even if the interval is shorter.
const MIN_FRESHNESS: Duration = Duration::from_secs(1);

/// The health of one source.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SourceState {
    /// True if the last read worked and is recent enough; `None` before the first read.
    pub(crate) up: Option<bool>,
    /// True if this process may not read the source. This is not a fault.
    pub(crate) not_permitted: bool,
    /// The time of the last successful read.
    pub(crate) last_success: Option<SystemTime>,
    /// The parts of the source that have not answered since the start.
    pub(crate) unanswered: Vec<SourcePart>,
    /// The duration of the last successful read.
    pub(crate) duration: Option<Duration>,
    /// The number of objects that could not be read, since the start.
    pub(crate) errors: u64,
    /// The error of the last read, if it had one.
    pub(crate) error: Option<String>,
    /// A property of this host that makes the source report less than elsewhere.
    pub(crate) remark: Option<&'static str>,
}

impl SourceState {
    /// Returns true if the source cannot be read and this is a fault.
    pub(crate) fn is_down(&self) -> bool {
        self.up == Some(false) && !self.not_permitted
    }

    /// Returns true if a part of the source has not answered for the first time.
    pub(crate) fn is_awaited(&self) -> bool {
        !self.unanswered.is_empty() && !self.not_permitted
    }

    /// Combines two parts: the result has the worse health and the older age.
    fn and(self, other: SourceState) -> SourceState {
        SourceState {
            up: match (self.up, other.up) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            },
            not_permitted: self.not_permitted || other.not_permitted,
            unanswered: self.unanswered.into_iter().chain(other.unanswered).collect(),
            last_success: self.last_success.zip(other.last_success).map(|(one, other)| one.min(other)),
            duration: self.duration.max(other.duration),
            errors: self.errors + other.errors,
            remark: self.remark.or(other.remark),
            error: match (self.up, other.up) {
                // A part that failed as a whole matters more than one that was read in part.
                (_, Some(false)) if self.up != Some(false) => other.error.or(self.error),
                _ => self.error.or(other.error),
            },
        }
    }
}

/// Returns the sources of devices that fail and have never answered. The devices that they would
/// report are unknown.
pub(crate) fn unknown_sources(sources: &[(Source, SourceState)]) -> impl Iterator<Item = &(Source, SourceState)> {
    let tell_devices = sources.iter().filter(|(source, _)| matches!(source, Source::Dm | Source::Sysfs));
    tell_devices.filter(|(_, health)| health.is_down() && health.is_awaited())
}

#[derive(Debug, Default)]
struct PartState {
    health: SourceState,
    /// The time of the last successful read, by the monotonic clock.
    read_at: Option<Instant>,
    /// The time within which each read has to succeed; `None` if one successful read is enough.
    interval: Option<Duration>,
}

impl PartState {
    /// Returns the health at this time. A read that is too old counts as failed.
    fn at(&self, part: SourcePart, now: Instant) -> SourceState {
        let mut health = self.health.clone();
        if self.read_at.is_none() {
            health.unanswered.push(part);
        }
        let Some((read_at, interval)) = self.read_at.zip(self.interval) else { return health };
        let limit = interval.saturating_mul(FRESH_INTERVALS).max(MIN_FRESHNESS);
        if health.up == Some(true) && now.saturating_duration_since(read_at) > limit {
            health.up = Some(false);
            health.error = Some(format!("the last read is more than {} seconds old", limit.as_secs()));
        }
        health
    }
}

/// The health of all sources. The monitor writes it; metrics, status page and systemd read it.
#[derive(Debug, Default)]
pub(crate) struct SourceHealth {
    parts: Mutex<[Option<PartState>; SourcePart::ALL.len()]>,
}

impl SourceHealth {
    /// Returns the present health of the sources that are switched on.
    pub(crate) fn all(&self) -> Vec<(Source, SourceState)> {
        self.all_at(Instant::now())
    }

    fn all_at(&self, now: Instant) -> Vec<(Source, SourceState)> {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |source| {
            let parts = SourcePart::ALL.into_iter().zip(parts.iter()).filter(|(part, _)| part.source() == source);
            parts.filter_map(|(part, record)| Some(record.as_ref()?.at(part, now))).reduce(SourceState::and)
        };
        Source::ALL.into_iter().filter_map(|source| Some((source, of(source)?))).collect()
    }

    /// Returns true if the last read of this part worked and is recent enough.
    pub(crate) fn answers(&self, part: SourcePart) -> bool {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts[part as usize].as_ref().is_some_and(|record| record.at(part, Instant::now()).up == Some(true))
    }

    /// Returns the reason why this part has not been read.
    pub(crate) fn failure(&self, part: SourcePart) -> Error {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let error = parts[part as usize].as_ref().and_then(|record| record.health.error.clone());
        let place = format_args!("the source {} has not answered", part.source().as_str()).to_string();
        Error::new(place, error.unwrap_or_else(|| "still being read".to_owned()))
    }

    pub(crate) fn enable(&self, part: SourcePart) {
        self.update(part, |_| {});
    }

    /// Sets the interval in which reads of this part have to succeed, if the part is switched on.
    pub(crate) fn expect(&self, part: SourcePart, interval: Duration) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(record) = &mut parts[part as usize] {
            record.interval = Some(interval);
        }
    }

    /// Records a successful read that was requested `took` ago. Its facts are that old. These
    /// objects could not be read.
    pub(crate) fn succeeded(&self, part: SourcePart, took: Duration, time: SystemTime, unreadable: &[Error]) {
        let source = part.source().as_str();
        self.update(part, |PartState { health, read_at, .. }| {
            *read_at = Instant::now().checked_sub(took);
            if health.up == Some(false) {
                info!(source, "source is back");
            }
            let error = unreadable.first().map(Error::to_string);
            if let Some(error) = error.as_ref().filter(|error| health.error.as_ref() != Some(error)) {
                warn!(source, objects = unreadable.len(), error, "some objects could not be read");
            }
            let errors = health.errors + unreadable.len() as u64;
            *health = SourceState {
                up: Some(true),
                not_permitted: false,
                last_success: Some(time),
                unanswered: Vec::new(),
                duration: Some(took),
                errors,
                error,
                remark: health.remark,
            };
        });
    }

    /// Records a successful read that took longer than allowed. The source stays down.
    pub(crate) fn came_late(&self, part: SourcePart, took: Duration, time: SystemTime, unreadable: &[Error]) {
        self.update(part, |PartState { health, read_at, .. }| {
            *read_at = Instant::now().checked_sub(took);
            (health.last_success, health.duration) = (Some(time), Some(took));
            health.unanswered.clear();
            health.errors += unreadable.len() as u64;
        });
    }

    /// Records a failed read. `source_up` shows it, so the objects are not counted as errors. A
    /// source that is not permitted or not running fails at every read; the same error is logged
    /// once.
    pub(crate) fn failed(&self, part: SourcePart, error: &Error) {
        self.update(part, |PartState { health, .. }| {
            let not_permitted = error.is_refusal() && part == SourcePart::DeviceMapper;
            let error = error.to_string();
            if health.up != Some(false) || health.error.as_ref() != Some(&error) {
                warn!(source = part.source().as_str(), error, "source cannot be read");
            }
            health.up = Some(false);
            health.not_permitted = not_permitted;
            health.error = Some(error);
        });
    }

    /// Records why this part reports less on this host than elsewhere.
    pub(crate) fn remark(&self, part: SourcePart, remark: &'static str) {
        self.update(part, |record| record.health.remark = Some(remark));
    }

    fn update(&self, part: SourcePart, change: impl FnOnce(&mut PartState)) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        change(parts[part as usize].get_or_insert_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysfs_has_the_health_of_its_worst_part() {
        let health = SourceHealth::default();
        let sysfs = || health.all().into_iter().find(|(source, _)| *source == Source::Sysfs).map(|(_, health)| health);
        let (early, late) = (SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + Duration::from_secs(9));
        health.enable(SourcePart::Block);
        health.enable(SourcePart::Transports);
        health.succeeded(SourcePart::Block, Duration::from_secs(2), late, &[Error::new("dm-0", "broken")]);
        assert_eq!(sysfs().unwrap().up, None);
        assert_eq!(sysfs().unwrap().unanswered, [SourcePart::Transports]);
        health.succeeded(SourcePart::Transports, Duration::from_secs(1), early, &[]);
        let both = sysfs().unwrap();
        assert_eq!((both.up, both.last_success, both.errors), (Some(true), Some(early), 1));
        assert!(!both.is_awaited());
        assert_eq!((both.duration, both.error.as_deref()), (Some(Duration::from_secs(2)), Some("dm-0: broken")));
        health.failed(SourcePart::Transports, &Error::new("transports", "has not answered in time"));
        let both = sysfs().unwrap();
        assert_eq!((both.up, both.error.as_deref()), (Some(false), Some("transports: has not answered in time")));
    }

    #[test]
    fn an_old_read_counts_as_down_regardless_of_the_wall_clock() {
        const SECOND: Duration = Duration::from_secs(1);
        let sources = SourceHealth::default();
        let (part, now) = (SourcePart::Multipathd, Instant::now());
        let after = |seconds| {
            let all = sources.all_at(now + seconds * SECOND);
            let [(Source::Multipathd, health)] = &all[..] else { panic!("{all:?}") };
            (health.up, health.error.clone())
        };
        // A source that is switched off has no interval.
        sources.expect(SourcePart::Uevent, SECOND);
        sources.enable(part);
        sources.expect(part, 5 * SECOND);
        assert_eq!(after(60), (None, None));
        // An administrator has set the clock back.
        sources.succeeded(part, Duration::ZERO, SystemTime::UNIX_EPOCH, &[]);
        assert_eq!(after(14), (Some(true), None));
        assert_eq!(after(60), (Some(false), Some("the last read is more than 15 seconds old".to_owned())));
        sources.expect(part, 300 * SECOND);
        assert_eq!(after(890), (Some(true), None));
        assert_eq!(after(910).0, Some(false));
        sources.expect(part, Duration::MAX);
        assert_eq!(after(1_000_000), (Some(true), None));
        // The cause of a failure says more than its age.
        sources.expect(part, SECOND);
        sources.failed(part, &Error::new("multipathd", "refused"));
        assert_eq!(after(60), (Some(false), Some("multipathd: refused".to_owned())));
    }

    #[test]
    fn a_source_without_permission_is_neither_down_nor_awaited() {
        let sources = SourceHealth::default();
        sources.enable(SourcePart::DeviceMapper);
        let health = || sources.all().remove(0).1;
        assert!(health().is_awaited());
        for (errno, is_down) in [(rustix::io::Errno::ACCESS, false), (rustix::io::Errno::IO, true)] {
            sources.failed(SourcePart::DeviceMapper, &Error::io("control", &errno.into()));
            assert_eq!((health().up, health().is_down(), health().is_awaited()), (Some(false), is_down, is_down));
        }
    }

    #[test]
    fn a_source_that_is_read_once_does_not_age() {
        let sources = SourceHealth::default();
        sources.succeeded(SourcePart::Multipathd, Duration::ZERO, SystemTime::now(), &[]);
        let all = sources.all_at(Instant::now() + Duration::from_secs(1_000_000));
        assert_eq!(all[0].1.up, Some(true));
    }
}
