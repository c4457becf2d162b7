//! The snapshot as metric families. Their names are part of the project's interface. Their order is
//! fixed, so that the same state gives the same bytes.

use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelValue, LabelValueEncoder};

use super::{Families, labels, transport};
use crate::topology::{
    Counts, Daemon, DaemonCounters, DevNo, Device, Health, History, LostDevice, Path, PathState, Snapshot,
    initiator_ports, target_ports,
};

/// Encodes the devices of one snapshot.
#[derive(Debug)]
pub struct DeviceMetrics {
    /// The snapshot to encode.
    pub snapshot: Arc<Snapshot>,
    /// The devices that get per-path series.
    pub paths: PathSeries,
    /// True to encode metrics that only a running exporter can have, because they come from events.
    pub events: bool,
}

/// The devices that get per-path series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathSeries {
    /// All devices.
    All,
    /// Only devices that need attention; see [`Device::is_conspicuous`].
    Conspicuous,
    /// No device.
    None,
}

labels!(DeviceLabels {
    wwid: &'a str,
});

labels!(DeviceInfo {
    wwid: &'a str,
    name: &'a str,
    sysfs_name: &'a str,
    uuid: &'a str,
    kind: &'static str,
    vendor: &'a str,
    product: &'a str,
    revision: &'a str,
});

labels!(DeviceAction {
    wwid: &'a str,
    action: &'static str,
});

labels!(GroupState {
    wwid: &'a str,
    group: u32,
    state: &'a str,
});

labels!(PathLabels {
    wwid: &'a str,
    path: &'a str,
});

labels!(PathWord {
    wwid: &'a str,
    path: &'a str,
    state: &'a str,
});

labels!(PathInfo {
    wwid: &'a str,
    path: &'a str,
    devno: Option<DevNo>,
    hctl: &'a str,
    transport: &'static str,
    group: Option<u32>,
    initiator_port: &'a str,
    target: &'a str,
    target_port: &'a str,
});

labels!(LostInfo {
    wwid: &'a str,
    name: &'a str,
    kind: &'static str,
    vendor: &'a str,
    product: &'a str,
    reason: &'static str,
});

labels!(DaemonState {
    state: &'a str,
});

impl EncodeLabelValue for DevNo {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
        write!(encoder, "{self}")
    }
}

impl Collector for DeviceMetrics {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut families = Families(encoder);
        self.host(&mut families)?;
        self.devices(&mut families)?;
        if self.paths != PathSeries::None {
            self.paths(&mut families)?;
        }
        transport::encode(&self.snapshot, self.events, &mut families)
    }
}

impl DeviceMetrics {
    fn host(&self, families: &mut Families) -> fmt::Result {
        let devices = &self.snapshot.devices;
        let counts: Vec<Counts> = devices.iter().map(|device| device.counts()).collect();
        let with = |health| counts.iter().filter(|counts| counts.health() == health).count() as u64;
        let paths: usize = counts.iter().map(|counts| counts.paths()).sum();
        let failed: usize = counts.iter().map(|counts| counts.failed).sum();
        families.number("multipath_devices", "Multipath devices on this host", Some(devices.len() as u64))?;
        families.number(
            "multipath_degraded_devices",
            "Multipath devices with failed and valid paths",
            Some(with(Health::Degraded)),
        )?;
        families.number(
            "multipath_devices_without_valid_paths",
            "Multipath devices without a valid path",
            Some(with(Health::WithoutValidPaths)),
        )?;
        families.number("multipath_paths", "Paths of all multipath devices", Some(paths as u64))?;
        families.number("multipath_failed_paths", "Failed paths of all multipath devices", Some(failed as u64))?;
        families.number(
            "multipath_unassembled_wwids",
            "Disks on two or more paths, or marked for multipath, that no multipath device holds",
            Some(self.snapshot.unassembled.len() as u64),
        )?;
        let remembered = &self.snapshot.remembered;
        families.number(
            "multipath_lost_devices",
            "Multipath devices that disappeared without an orderly removal",
            Some(remembered.lost.len() as u64),
        )?;
        families.number(
            "multipath_missing_paths",
            "Missing paths of all multipath devices, on top of multipath_paths",
            Some(remembered.missing_paths()),
        )?;
        families.number(
            "multipath_in_trouble",
            "1 while a device is degraded, has no valid path, is lost or misses paths; stays 1 until the host recovers",
            Some(u64::from(remembered.in_trouble)),
        )?;
        families.number(
            "multipath_last_recovery_timestamp_seconds",
            "Time when all devices of this host last became well again after trouble",
            remembered.last_recovery.map(unix_seconds),
        )?;
        let (up, state) = match &self.snapshot.daemon {
            Daemon::NotAsked => (None, None),
            Daemon::Down => (Some(0u64), None),
            Daemon::Up(state) => (Some(1), Some(&**state)),
        };
        families.number("multipath_daemon_up", "1 if multipathd answers", up)?;
        families.gauge(
            "multipath_daemon_state",
            "State of multipathd while it answers",
            state.map(|state| (DaemonState { state }, 1u64)),
        )
    }

    fn devices(&self, families: &mut Families) -> fmt::Result {
        families.gauge(
            "multipath_device_info",
            "Description of a multipath device; always 1",
            self.snapshot.devices.iter().map(|device| (device_info(device), 1u64)),
        )?;
        self.device_counts(families)?;
        self.device_state(families)?;
        if self.events {
            self.device_events(families)?;
        }
        self.device_daemon(families)?;
        self.device_quality(families)?;
        self.device_past(families)?;
        families.gauge(
            "multipath_path_group_state",
            "Current state of a path group",
            self.snapshot.devices.iter().flat_map(|device| {
                device
                    .groups
                    .iter()
                    .map(|group| (GroupState { wwid: &device.wwid, group: group.index, state: &group.state }, 1u64))
            }),
        )
    }

    fn device_counts(&self, families: &mut Families) -> fmt::Result {
        let mut gauge = |name, help, value: fn(Counts) -> usize| {
            families.gauge(name, help, self.each(|device| Some(value(device.counts()) as u64)))
        };
        gauge("multipath_device_paths", "Paths of a multipath device: valid, standby and failed", |counts| {
            counts.paths()
        })?;
        gauge("multipath_device_valid_paths", "Paths that the kernel sends I/O to", |counts| counts.valid)?;
        gauge(
            "multipath_device_standby_paths",
            "NVMe paths whose ANA state takes no I/O now; 0 for device-mapper devices",
            |counts| counts.standby,
        )?;
        gauge(
            "multipath_device_failed_paths",
            "Paths that are neither valid nor standby; they are still members of the device",
            |counts| counts.failed,
        )?;
        families.gauge(
            "multipath_device_initiator_ports",
            "Ports of this host that the device's valid and standby paths use",
            self.each(|device| Some(initiator_ports(&device.paths) as u64)),
        )?;
        families.gauge(
            "multipath_device_target_ports",
            "Ports of the storage that the device's valid and standby paths use",
            self.each(|device| Some(target_ports(&device.paths) as u64)),
        )
    }

    fn device_state(&self, families: &mut Families) -> fmt::Result {
        let mut gauge = |name, help, value: fn(&Device) -> Option<u64>| families.gauge(name, help, self.each(value));
        gauge("multipath_device_queueing", "1 if I/O waits instead of failing when no path is valid", |device| {
            device.queueing.map(u64::from)
        })?;
        gauge("multipath_device_suspended", "1 if the device is suspended, otherwise absent", |device| {
            fault(usize::from(device.suspended == Some(true)))
        })?;
        gauge("multipath_device_read_only", "1 if the device is write-protected", |device| {
            device.read_only.map(u64::from)
        })?;
        gauge("multipath_device_size_bytes", "Size of the device in bytes", |device| device.size_bytes)?;
        gauge("multipath_device_open_count", "Number of times the device is open", |device| device.open_count)?;
        gauge("multipath_device_in_use", "1 if something uses the device, absent if unknown", |device| {
            device.in_use.map(u64::from)
        })?;
        gauge("multipath_device_root", "1 if the root file system is on the device", |device| {
            Some(u64::from(device.root))
        })?;
        gauge("multipath_device_inflight_requests", "Requests sent to the device and not completed", |device| {
            device.inflight_requests
        })?;
        if self.events {
            gauge(
                "multipath_device_blocked_paths",
                "Valid paths on which I/O waited at two reads in a row, absent if none",
                |device| fault(device.blocked_paths),
            )?;
            families.gauge(
                "multipath_device_stalled_seconds",
                "Time without completed I/O while I/O is in flight, absent if I/O flows",
                self.each(|device| device.stalled.map(seconds)),
            )?;
        }
        let mut gauge = |name, help, value: fn(&Device) -> Option<u64>| families.gauge(name, help, self.each(value));
        gauge(
            "multipath_device_size_mismatched_paths",
            "Paths whose size differs from the device's, absent if none",
            |device| fault(device.mismatches.size),
        )?;
        gauge(
            "multipath_device_read_only_mismatched_paths",
            "Paths whose write protection differs from the device's, absent if none",
            |device| fault(device.mismatches.read_only),
        )?;
        gauge(
            "multipath_device_wwid_mismatched_paths",
            "Paths that now report another WWID, absent if none",
            |device| fault(device.mismatches.wwid),
        )?;
        gauge(
            "multipath_device_lun_mismatched_paths",
            "Paths whose LUN number differs from that of most paths to the same target, absent if none",
            |device| fault(device.mismatches.lun),
        )?;
        gauge(
            "multipath_device_lun_conflicts",
            "Pairs of initiator port and target port that lead to several LUN numbers, absent if none",
            |device| fault(device.lun_conflicts),
        )?;
        gauge(
            "multipath_device_stray_paths",
            "Working disks that are the same LUN but not paths of the device, absent if none",
            |device| fault(device.stray_paths.len()),
        )
    }

    fn device_events(&self, families: &mut Families) -> fmt::Result {
        let actions = |device: &Device| {
            let events = device.path_events;
            [
                ("path_failed", events.failed, events.last_failed),
                ("path_reinstated", events.reinstated, events.last_reinstated),
            ]
        };
        let all = || {
            self.snapshot.devices.iter().flat_map(move |device| {
                actions(device).map(|(action, count, last)| (DeviceAction { wwid: &device.wwid, action }, count, last))
            })
        };
        families.counter(
            "multipath_device_path_events",
            "Path failures and reinstatements since the exporter started, by action",
            all().map(|(labels, count, _)| (labels, count)),
        )?;
        families.gauge(
            "multipath_device_last_path_event_timestamp_seconds",
            "Time of the last path failure or reinstatement, by action",
            all().filter_map(|(labels, _, last)| Some((labels, unix_seconds(last?)))),
        )
    }

    fn device_daemon(&self, families: &mut Families) -> fmt::Result {
        let mut counter = |name, help, value: fn(&DaemonCounters) -> u64| {
            families.counter(name, help, self.each(|device| device.daemon_counters.as_ref().map(value)))
        };
        counter("multipath_device_path_faults", "Path failures, as counted by multipathd", |daemon| {
            daemon.path_faults
        })?;
        counter("multipath_device_group_switches", "Path group switches, as counted by multipathd", |daemon| {
            daemon.group_switches
        })?;
        counter("multipath_device_table_loads", "Table loads, as counted by multipathd", |daemon| daemon.table_loads)?;
        counter(
            "multipath_device_queueing_seconds",
            "Time I/O was queued because no path was valid, as counted by multipathd",
            |daemon| daemon.queueing_seconds,
        )?;
        counter(
            "multipath_device_queueing_timeouts",
            "Times no_path_retry expired, as counted by multipathd",
            |daemon| daemon.queueing_timeouts,
        )?;
        families.gauge(
            "multipath_device_active_group_priority",
            "Priority of the path group in use",
            self.each(|device| device.active_group_priority),
        )?;
        families.gauge(
            "multipath_device_best_group_priority",
            "Priority of the best path group with a valid path",
            self.each(|device| device.best_group_priority),
        )
    }

    fn device_past(&self, families: &mut Families) -> fmt::Result {
        let mut gauge = |name, help, value: fn(&History) -> Option<u32>| {
            let histories = self.snapshot.remembered.devices.iter();
            let values = histories.filter_map(|(wwid, history)| Some((DeviceLabels { wwid }, value(history)?)));
            families.gauge(name, help, values.map(|(labels, value)| (labels, u64::from(value))))
        };
        gauge(
            "multipath_device_expected_paths",
            "Paths that the device should have: as configured, or as it had for six hours",
            |history| Some(history.expected_paths),
        )?;
        gauge(
            "multipath_device_missing_paths",
            "Expected paths that are not there; no other count includes them",
            |history| Some(history.missing_paths),
        )?;
        gauge(
            "multipath_device_redundant",
            "1 if the device keeps a path when any single port or fabric fails",
            |history| history.is_redundant.map(u32::from),
        )?;
        gauge(
            "multipath_device_redundancy_lost",
            "1 if the device is not redundant now but was for six hours",
            |history| history.has_lost_redundancy.map(u32::from),
        )?;
        let lost = || self.snapshot.remembered.lost.iter();
        families.gauge(
            "multipath_lost_device_info",
            "Description of a lost multipath device and why it counts as lost; always 1",
            lost().map(|device| (lost_info(device), 1u64)),
        )?;
        families.gauge(
            "multipath_lost_device_timestamp_seconds",
            "Time when the multipath device was lost",
            lost().map(|device| (DeviceLabels { wwid: &device.wwid }, unix_seconds(device.time))),
        )
    }

    fn device_quality(&self, families: &mut Families) -> fmt::Result {
        let mut gauge = |name, help, value: fn(&Device) -> Option<u64>| families.gauge(name, help, self.each(value));
        gauge(
            "multipath_device_marginal_paths",
            "Paths that multipathd treats as marginal or delays, absent if none",
            |device| fault(device.marginal_paths()),
        )?;
        gauge(
            "multipath_device_disagreeing_paths",
            "Paths on which the kernel disagrees with the checker or the SCSI layer, absent if none",
            |device| fault(device.disagreeing_paths()),
        )?;
        gauge(
            "multipath_device_non_optimized",
            "1 if a better path group has a valid path, or the array reports no valid path as optimized, otherwise absent",
            |device| fault(usize::from(device.is_non_optimized())),
        )?;
        families.counter(
            "multipath_device_path_io_errors",
            "I/O errors and timeouts of all present and former paths of the device",
            self.each(|device| Some(device.path_io_errors)),
        )?;
        if self.events {
            families.counter(
                "multipath_device_repeated_path_failures",
                "Failures and disorderly removals of a path within 15 minutes after its previous one",
                self.each(|device| Some(device.repeated_path_failures)),
            )?;
        }
        Ok(())
    }

    fn paths(&self, families: &mut Families) -> fmt::Result {
        families.gauge(
            "multipath_path_info",
            "Description of a path; always 1",
            self.each_path(|device, path| Some((path_info(device, path), 1u64))),
        )?;
        families.gauge(
            "multipath_path_valid",
            "1 if the kernel sends I/O to the path",
            self.each_path(|device, path| Some((path_labels(device, path), u64::from(path.state == PathState::Valid)))),
        )?;
        if self.events {
            families.counter(
                "multipath_path_failures",
                "Times the path failed since the exporter started",
                self.each_path(|device, path| Some((path_labels(device, path), path.failures))),
            )?;
        }
        families.gauge(
            "multipath_path_priority",
            "Priority of the path in multipathd",
            self.each_path(|device, path| Some((path_labels(device, path), path.priority?))),
        )?;
        let mut word = |name, help, value: fn(&Path) -> Option<&str>| {
            let word = move |device, path| {
                let PathLabels { wwid, path: name } = path_labels(device, path);
                Some((PathWord { wwid, path: name, state: value(path)? }, 1u64))
            };
            families.gauge(name, help, self.each_path(word))
        };
        word("multipath_path_checker_state", "Current checker state of the path, in multipathd's words", |path| {
            path.checker_state.as_deref()
        })?;
        word("multipath_path_device_state", "Current state of the path's SCSI device or NVMe controller", |path| {
            path.device_state.as_deref()
        })?;
        word("multipath_path_access_state", "Current SCSI ALUA access state of the path", |path| {
            path.access_state.as_deref()
        })?;
        word("multipath_path_ana_state", "Current NVMe ANA state of the path", |path| path.ana_state.as_deref())?;
        families.gauge(
            "multipath_path_marginal",
            "1 if multipathd treats the path as marginal",
            self.each_path(|device, path| Some((path_labels(device, path), u64::from(path.marginal?)))),
        )?;
        families.counter(
            "multipath_path_io_errors",
            "Requests to the path that failed, as counted by the kernel",
            self.each_path(|device, path| Some((path_labels(device, path), path.io_errors?))),
        )?;
        families.counter(
            "multipath_path_io_timeouts",
            "Requests to the path that timed out, as counted by the kernel",
            self.each_path(|device, path| Some((path_labels(device, path), path.io_timeouts?))),
        )
    }

    fn each<V>(&self, value: impl Fn(&Device) -> Option<V>) -> impl Iterator<Item = (DeviceLabels<'_>, V)> {
        self.snapshot
            .devices
            .iter()
            .filter_map(move |device| Some((DeviceLabels { wwid: &device.wwid }, value(device)?)))
    }

    fn each_path<'a, S>(
        &'a self,
        sample: impl Fn(&'a Device, &'a Path) -> Option<S> + Copy,
    ) -> impl Iterator<Item = S> {
        let devices = self.snapshot.devices.iter().filter(|device| {
            self.paths == PathSeries::All || device.is_conspicuous(self.snapshot.remembered.of(&device.wwid))
        });
        devices.flat_map(move |device| device.paths.iter().filter_map(move |path| sample(device, path)))
    }
}

/// The value of a gauge that exists only while it is above 0. Nearly all of these are 0 nearly
/// always, so leaving them out saves many series.
fn fault(value: usize) -> Option<u64> {
    Some(value as u64).filter(|value| *value > 0)
}

fn device_info(device: &Device) -> DeviceInfo<'_> {
    DeviceInfo {
        wwid: &device.wwid,
        name: &device.name,
        sysfs_name: &device.sysfs_name,
        uuid: &device.uuid,
        kind: device.kind.as_str(),
        vendor: &device.vendor,
        product: &device.product,
        revision: &device.revision,
    }
}

fn lost_info(device: &LostDevice) -> LostInfo<'_> {
    LostInfo {
        wwid: &device.wwid,
        name: &device.name,
        kind: device.kind.as_str(),
        vendor: &device.vendor,
        product: &device.product,
        reason: device.reason.as_str(),
    }
}

fn path_labels<'a>(device: &'a Device, path: &'a Path) -> PathLabels<'a> {
    PathLabels { wwid: &device.wwid, path: &path.name }
}

fn path_info<'a>(device: &'a Device, path: &'a Path) -> PathInfo<'a> {
    PathInfo {
        wwid: &device.wwid,
        path: &path.name,
        devno: path.devno,
        hctl: &path.hctl,
        transport: path.transport.as_str(),
        group: path.group,
        initiator_port: &path.ports.initiator_port,
        target: &path.ports.target,
        target_port: &path.ports.target_port,
    }
}

/// Returns seconds since 1970.
pub(super) fn unix_seconds(time: SystemTime) -> f64 {
    seconds(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// Rounds down to milliseconds.
fn seconds(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1000.0
}
