//! How each source fares, for everyone to see. The log line of each change is here, too: one when a source is lost, one
//! when it is back.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tracing::{info, warn};

use super::Error;

/// A source, by the word of the `source` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Device mapper's ioctls.
    Dm,
    /// multipathd's socket.
    Multipathd,
    /// sysfs.
    Sysfs,
    /// Kernel uevents.
    Uevent,
}

impl Source {
    /// All of them, in the order of their labels.
    pub const ALL: [Source; 4] = [Source::Dm, Source::Multipathd, Source::Sysfs, Source::Uevent];

    /// The word of the `source` label.
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Dm => "dm",
            Source::Multipathd => "multipathd",
            Source::Sysfs => "sysfs",
            Source::Uevent => "uevent",
        }
    }
}

/// How one source fares.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Health {
    /// Its last read worked; `None` before the first.
    pub up: Option<bool>,
    /// When a read last worked.
    pub last_success: Option<SystemTime>,
    /// How long that read took.
    pub duration: Option<Duration>,
    /// Objects that could not be read.
    pub errors: u64,
    /// What was wrong with the last read, if anything was.
    pub error: Option<String>,
}

/// How all sources fare. Written by the monitor, read by metrics and status page.
#[derive(Debug, Default)]
pub struct SourceHealth {
    sources: Mutex<[Option<Health>; Source::ALL.len()]>,
}

impl SourceHealth {
    /// The sources that are switched on.
    pub fn all(&self) -> Vec<(Source, Health)> {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        Source::ALL.into_iter().zip(sources.iter()).filter_map(|(name, health)| Some((name, health.clone()?))).collect()
    }

    /// Switches a source on.
    pub fn enable(&self, source: Source) {
        self.update(source, |_| {});
    }

    /// A read worked, but for these objects.
    pub fn succeeded(&self, source: Source, took: Duration, unreadable: &[Error]) {
        self.update(source, |health| {
            if health.up == Some(false) {
                info!(source = source.as_str(), "source is back");
            }
            health.up = Some(true);
            health.last_success = Some(SystemTime::now());
            health.duration = Some(took);
            health.errors += unreadable.len() as u64;
            let error = unreadable.first().map(Error::to_string);
            if let Some(error) = error.as_ref().filter(|error| health.error.as_ref() != Some(error)) {
                warn!(source = source.as_str(), objects = unreadable.len(), error, "not all could be read");
            }
            health.error = error;
        });
    }

    /// A read failed, and with it all objects: `up` says so. What is not permitted, or not running, fails at every read: it is logged once.
    pub fn failed(&self, source: Source, error: &Error) {
        self.update(source, |health| {
            let error = error.to_string();
            if health.up != Some(false) || health.error.as_ref() != Some(&error) {
                warn!(source = source.as_str(), error, "source cannot be read");
            }
            health.up = Some(false);
            health.error = Some(error);
        });
    }

    fn update(&self, source: Source, change: impl FnOnce(&mut Health)) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        change(sources[source as usize].get_or_insert_default());
    }
}
