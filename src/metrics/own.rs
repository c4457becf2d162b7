//! The exporter's own metrics.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::devices::unix_seconds;
use super::{Families, labels};
use crate::memory::file::FileHealth;
use crate::source::health::{Source, SourceHealth, SourceState};

/// Actions of kernel events (`lib/kobject_uevent.c`). The set is closed, so each action has its
/// series from the start.
const ACTIONS: [&str; 8] = ["add", "bind", "change", "move", "offline", "online", "remove", "unbind"];
const RESYNC_REASONS: [&str; 4] = ["start", "timer", "overflow", "signal"];

/// The reasons for a resync, in the order of [`RESYNC_REASONS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResyncReason {
    /// The exporter started.
    Start,
    /// The resync interval has passed.
    Timer,
    /// Kernel events were lost.
    Overflow,
    /// The exporter received SIGHUP.
    Signal,
}

labels!(ResyncLabels { reason: &'a str });
labels!(ActionLabels { action: &'a str });
labels!(SourceLabels { source: &'a str });
labels!(BuildInfo { version: &'a str, revision: &'a str, rustversion: &'a str });

/// A gauge in seconds.
type Seconds = Gauge<f64, AtomicU64>;

/// Metrics of the running exporter. The code that each one is about counts or sets it.
#[derive(Debug)]
pub struct OwnMetrics {
    uevents: [Counter; ACTIONS.len()],
    resyncs: [Counter; RESYNC_REASONS.len()],
    /// Times the kernel dropped events before the exporter read them.
    pub uevent_overflows: Counter,
    /// Devices whose state a timed resync found changed without a kernel event.
    pub resync_corrections: Counter,
    /// Seconds from receiving a kernel event to publishing the new state.
    pub event_to_metric: Histogram,
    /// The current interval of resyncs.
    pub resync_interval: Seconds,
    /// The current interval of re-reads of block device states.
    pub reread_interval: Seconds,
    /// Scrapes answered.
    pub scrapes: Counter,
}

impl Default for OwnMetrics {
    fn default() -> Self {
        OwnMetrics {
            uevents: Default::default(),
            resyncs: Default::default(),
            uevent_overflows: Counter::default(),
            resync_corrections: Counter::default(),
            // The buckets reach from one quick ioctl to a kernel that is busy with thousands of
            // maps.
            event_to_metric: Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0]),
            resync_interval: Seconds::default(),
            reread_interval: Seconds::default(),
            scrapes: Counter::default(),
        }
    }
}

impl OwnMetrics {
    /// Counts a kernel event.
    pub fn count_uevent(&self, action: &str) {
        if let Some(index) = ACTIONS.iter().position(|known| *known == action) {
            self.uevents[index].inc();
        }
    }

    /// Counts a resync.
    pub fn count_resync(&self, reason: ResyncReason) {
        self.resyncs[reason as usize].inc();
    }
}

impl Collector for OwnMetrics {
    fn encode(&self, encoder: DescriptorEncoder) -> std::fmt::Result {
        let mut families = Families(encoder);
        families.counter(
            "multipath_exporter_uevents",
            "Kernel events of block devices, by action",
            ACTIONS.iter().zip(&self.uevents).map(|(action, counter)| (ActionLabels { action }, counter.get())),
        )?;
        families.total(
            "multipath_exporter_uevent_overflows",
            "Times the kernel dropped events before the exporter read them",
            self.uevent_overflows.get(),
        )?;
        families.counter(
            "multipath_exporter_resyncs",
            "Full reads of all sources, by reason",
            RESYNC_REASONS.iter().zip(&self.resyncs).map(|(reason, counter)| (ResyncLabels { reason }, counter.get())),
        )?;
        families.total(
            "multipath_exporter_resync_corrections",
            "Devices whose state a timed resync found changed without a kernel event; should stay 0",
            self.resync_corrections.get(),
        )?;
        families.metric(
            "multipath_exporter_event_to_metric_seconds",
            "Time from receiving a kernel event to publishing the new state",
            &self.event_to_metric,
        )?;
        families.number(
            "multipath_exporter_resync_interval_seconds",
            "Current interval of resyncs, which grows with their cost",
            Some(self.resync_interval.get()),
        )?;
        families.number(
            "multipath_exporter_reread_interval_seconds",
            "Current interval of re-reads of block device states, which grows with their cost",
            Some(self.reread_interval.get()),
        )?;
        families.total("multipath_exporter_scrapes", "Scrapes answered", self.scrapes.get())
    }
}

/// The metrics about the build, the sources and the memory file.
#[derive(Debug)]
pub struct About {
    /// The health of the sources.
    pub sources: Arc<SourceHealth>,
    /// The health of the memory file; `None` without one.
    pub memory: Option<Arc<FileHealth>>,
}

impl Collector for About {
    fn encode(&self, encoder: DescriptorEncoder) -> std::fmt::Result {
        let mut families = Families(encoder);
        let build = BuildInfo {
            version: env!("CARGO_PKG_VERSION"),
            revision: env!("BUILD_REVISION"),
            rustversion: env!("BUILD_RUST_VERSION"),
        };
        families.gauge(
            "multipath_exporter_build_info",
            "Version, revision and compiler of this exporter; always 1",
            [(build, 1u64)],
        )?;
        let sources = self.sources.all();
        let permitted = || sources.iter().filter(|(_, health)| !health.not_permitted);
        let each = |value: fn(&SourceState) -> Option<f64>| {
            permitted().filter_map(move |(source, health)| Some((labels_of(*source), value(health)?)))
        };
        families.gauge(
            "multipath_exporter_source_up",
            "1 if the last read of the source succeeded and is not older than three intervals, absent if not permitted or switched off",
            permitted().map(|(source, health)| (labels_of(*source), u64::from(health.up == Some(true)))),
        )?;
        let is_kernels = sources.iter().any(|(source, health)| *source == Source::Dm && health.up == Some(true));
        families.number(
            "multipath_exporter_kernel_status",
            "1 if path states are the kernel's own, 0 if device mapper is not permitted, switched off or not readable",
            Some(u64::from(is_kernels)),
        )?;
        families.gauge(
            "multipath_exporter_source_last_success_timestamp_seconds",
            "Time of the last successful read of the source",
            each(|health| health.last_success.map(unix_seconds)),
        )?;
        families.gauge(
            "multipath_exporter_source_duration_seconds",
            "Duration of the last successful read of the source",
            each(|health| health.duration.map(|duration| duration.as_secs_f64())),
        )?;
        families.counter(
            "multipath_exporter_errors",
            "Failed reads of single objects; a broken object counts at every read",
            sources.iter().map(|(source, health)| (labels_of(*source), health.errors)),
        )?;
        let Some(memory) = &self.memory else { return Ok(()) };
        families.number(
            "multipath_exporter_memory_last_write_successful",
            "1 if the last write of the memory file succeeded, absent without a memory file",
            Some(u64::from(memory.is_written())),
        )
    }
}

/// The outcome of loads of the configuration file.
#[derive(Debug, Default)]
pub struct ConfigReloads {
    last: Mutex<(bool, Option<SystemTime>)>,
}

impl ConfigReloads {
    /// Records that the file was loaded and is in use.
    pub fn succeeded(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = (true, Some(SystemTime::now()));
    }

    /// Records that the file cannot be used. The previous configuration stays in use.
    pub fn failed(&self) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).0 = false;
    }
}

impl Collector for ConfigReloads {
    fn encode(&self, encoder: DescriptorEncoder) -> std::fmt::Result {
        let (successful, last_success) = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let mut families = Families(encoder);
        families.number(
            "multipath_exporter_config_last_reload_successful",
            "1 if the last load of the configuration file succeeded",
            Some(u64::from(successful)),
        )?;
        families.number(
            "multipath_exporter_config_last_reload_success_timestamp_seconds",
            "Time of the last successful load of the configuration file",
            last_success.map(unix_seconds),
        )
    }
}

fn labels_of(source: Source) -> SourceLabels<'static> {
    SourceLabels { source: source.as_str() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::registry::Registry;
    use rustix::io::Errno;

    use super::*;
    use crate::source::Error;
    use crate::source::health::SourcePart;

    #[test]
    fn a_source_is_up_by_the_age_that_its_last_read_has_at_the_scrape() {
        const SECOND: Duration = Duration::from_secs(1);
        let sources = Arc::new(SourceHealth::default());
        let mut registry = Registry::default();
        registry.register_collector(Box::new(About { sources: Arc::clone(&sources), memory: None }));
        sources.enable(SourcePart::Multipathd);
        sources.succeeded(SourcePart::Multipathd, 14 * SECOND, SystemTime::now(), &[]);
        for (interval, up) in [(5 * SECOND, 1), (4 * SECOND, 0), (5 * SECOND, 1)] {
            sources.expect(SourcePart::Multipathd, interval);
            let mut page = String::new();
            prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
            assert!(page.contains(&format!("multipath_exporter_source_up{{source=\"multipathd\"}} {up}\n")), "{page}");
        }
    }

    #[test]
    fn device_mapper_that_is_not_permitted_is_no_source_that_is_down() {
        let sources = Arc::new(SourceHealth::default());
        let mut registry = Registry::default();
        registry.register_collector(Box::new(About { sources: Arc::clone(&sources), memory: None }));
        let read = || sources.succeeded(SourcePart::DeviceMapper, Duration::from_secs(1), SystemTime::UNIX_EPOCH, &[]);
        let refused = |errno: Errno| sources.failed(SourcePart::DeviceMapper, &Error::io("control", &errno.into()));
        // The values of `kernel_status` and of device mapper's `source_up`, and the number of
        // series about device mapper.
        let shown = || {
            let mut page = String::new();
            prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
            let value = |series: &str| {
                let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
                line.map(|value| value.parse::<u8>().unwrap())
            };
            let status = value("multipath_exporter_kernel_status");
            let up = value("multipath_exporter_source_up{source=\"dm\"}");
            (status, up, page.matches("{source=\"dm\"}").count())
        };
        // The source is switched off.
        assert_eq!(shown(), (Some(0), None, 0));
        sources.enable(SourcePart::DeviceMapper);
        assert_eq!(shown(), (Some(0), Some(0), 2));
        read();
        assert_eq!(shown(), (Some(1), Some(1), 4));
        refused(Errno::ACCESS);
        assert_eq!(shown(), (Some(0), None, 1), "only its errors are shown");
        refused(Errno::IO);
        assert_eq!(shown(), (Some(0), Some(0), 4));
    }
}
