//! Formats of states, counts, durations and sizes.

use std::fmt::{self, Display};
use std::time::{Duration, SystemTime};

use crate::topology::{PathState, Transport};

/// The severity of a finding. The page never shows it by colour alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    /// No problem.
    Well,
    /// Nothing needs to be done, or the state is unknown.
    Note,
    /// Something is broken, but the storage works.
    Warning,
    /// The storage is lost, or about to be.
    Critical,
}

impl Severity {
    /// The class in the style sheet.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Severity::Well => "well",
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }

    /// The sign before the words.
    pub(crate) fn mark(self) -> char {
        match self {
            Severity::Well => '✓',
            Severity::Note => 'i',
            Severity::Warning => '!',
            Severity::Critical => '✕',
        }
    }
}

/// A number with a noun in singular or plural.
pub(crate) struct Count(pub(crate) usize, pub(crate) &'static str);

impl Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Count(number, thing) = *self;
        write!(f, "{number} {thing}{}", if number == 1 { "" } else { "s" })
    }
}

/// `has` or `have`.
pub(crate) fn have(number: usize) -> &'static str {
    if number == 1 { "has" } else { "have" }
}

/// `is` or `are`.
pub(crate) fn are(number: usize) -> &'static str {
    if number == 1 { "is" } else { "are" }
}

/// `it` or `them`.
pub(crate) fn it(number: usize) -> &'static str {
    if number == 1 { "it" } else { "them" }
}

pub(crate) fn state_word(state: PathState) -> &'static str {
    match state {
        PathState::Valid => "valid",
        PathState::Standby => "standby",
        PathState::Failed => "FAILED",
    }
}

/// The word for a path's group.
pub(crate) fn group_word(transport: Transport) -> &'static str {
    match transport {
        Transport::NvmeTcp | Transport::NvmeFc | Transport::NvmeRdma | Transport::NvmePcie => "ANA group",
        Transport::Fc | Transport::Iscsi | Transport::Sas | Transport::VirtioScsi | Transport::Unknown => "group",
    }
}

/// A duration in one unit.
pub(crate) struct While(pub(crate) Duration);

impl Display for While {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            seconds @ 0..100 => write!(f, "{seconds} s"),
            seconds @ 100..5400 => write!(f, "{} min", seconds / 60),
            seconds @ 5400..172_800 => write!(f, "{} h", seconds / 3600),
            seconds => write!(f, "{} days", seconds / 86_400),
        }
    }
}

/// The time since an event: the event's time, then the current time.
pub(crate) struct Ago(pub(crate) SystemTime, pub(crate) SystemTime);

impl Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ago(time, now) = *self;
        // The clock may have been set back.
        write!(f, "{} ago", While(now.duration_since(time).unwrap_or_default()))
    }
}

/// A size in binary units, as multipath-tools prints it.
pub(crate) struct Size(pub(crate) u64);

impl Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut size, mut unit) = (self.0 as f64, "B");
        for larger in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
            if size < 1024.0 {
                break;
            }
            (size, unit) = (size / 1024.0, larger);
        }
        let digits = usize::from(size < 10.0 && size.fract() >= 0.05);
        write!(f, "{size:.digits$} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_while_ago() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10_000_000);
        for (seconds, words) in [
            (0, "0 s ago"),
            (99, "99 s ago"),
            (100, "1 min ago"),
            (5399, "89 min ago"),
            (5400, "1 h ago"),
            (172_799, "47 h ago"),
            (172_800, "2 days ago"),
        ] {
            assert_eq!(Ago(now - Duration::from_secs(seconds), now).to_string(), words);
        }
        assert_eq!(Ago(now + Duration::from_secs(5), now).to_string(), "0 s ago");
    }

    #[test]
    fn sizes() {
        for (bytes, words) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (67_108_864, "64 MiB"),
            (1_649_267_441_664, "1.5 TiB"),
            (u64::MAX, "16384 PiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), words);
        }
    }
}
