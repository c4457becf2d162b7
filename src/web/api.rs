//! The JSON documents of the API. Keys are the names of labels and metrics, without
//! `multipath_device_` and `multipath_path_`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::event::Event;
use crate::topology::{
    Counts, Device, DirectUse, LostDevice, Path, PathState, Snapshot, fabric_of, initiator_ports, target_ports,
};

/// `/api/v1/multipath-health`, in oVirt's format.
#[derive(Serialize)]
pub(crate) struct MultipathHealthDocument<'a> {
    #[serde(rename = "multipathHealth")]
    devices: BTreeMap<&'a str, DeviceHealth<'a>>,
}

#[derive(Serialize)]
struct DeviceHealth<'a> {
    valid_paths: usize,
    failed_paths: Vec<&'a str>,
}

impl<'a> From<&'a Snapshot> for MultipathHealthDocument<'a> {
    fn from(snapshot: &'a Snapshot) -> Self {
        let devices = snapshot.devices.iter().filter_map(|device| {
            let counts = device.counts();
            if counts.failed == 0 && counts.valid > 0 {
                return None;
            }
            let failed = device.paths.iter().filter(|path| path.state == PathState::Failed);
            let failed_paths = failed.map(|path| &*path.name).collect();
            Some((&*device.wwid, DeviceHealth { valid_paths: counts.valid, failed_paths }))
        });
        MultipathHealthDocument { devices: devices.collect() }
    }
}

/// `/api/v1/devices`: all devices with their paths.
#[derive(Serialize)]
pub(crate) struct DevicesDocument<'a> {
    devices: Vec<DeviceDocument<'a>>,
    lost_devices: Vec<LostDocument<'a>>,
    used_directly: Vec<DirectUseDocument<'a>>,
    unassembled: Vec<UnassembledDocument<'a>>,
    in_trouble: bool,
    last_recovery_timestamp_seconds: Option<f64>,
}

#[derive(Serialize)]
struct UnassembledDocument<'a> {
    wwid: &'a str,
    disks: &'a [Arc<str>],
    held_by: Option<&'a str>,
}

#[derive(Serialize)]
struct LostDocument<'a> {
    wwid: &'a str,
    name: &'a str,
    kind: &'static str,
    vendor: &'a str,
    product: &'a str,
    reason: &'static str,
    timestamp_seconds: f64,
}

impl<'a> From<&'a LostDevice> for LostDocument<'a> {
    fn from(device: &'a LostDevice) -> Self {
        LostDocument {
            wwid: &device.wwid,
            name: &device.name,
            kind: device.kind.as_str(),
            vendor: &device.vendor,
            product: &device.product,
            reason: device.reason.as_str(),
            timestamp_seconds: seconds(device.time),
        }
    }
}

#[derive(Serialize)]
struct DirectUseDocument<'a> {
    wwid: &'a str,
    disk: &'a str,
    by: &'a str,
}

impl<'a> From<&'a DirectUse> for DirectUseDocument<'a> {
    fn from(DirectUse { wwid, disk, by }: &'a DirectUse) -> Self {
        DirectUseDocument { wwid, disk, by }
    }
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

impl<'a> From<&'a Snapshot> for DevicesDocument<'a> {
    fn from(snapshot: &'a Snapshot) -> Self {
        let remembered = &snapshot.remembered;
        let document = |device: &'a Arc<Device>| {
            let history = remembered.of(&device.wwid).copied().unwrap_or_default();
            let path = |path: &'a Path| PathDocument {
                fabric: fabric_of(path, &snapshot.transports.adapters),
                used_by: snapshot.users_of(&device.wwid, &path.name).collect(),
                ..PathDocument::from(path)
            };
            DeviceDocument {
                paths: device.paths.iter().map(path).collect(),
                expected_paths: history.expected_paths,
                missing_paths: history.missing_paths,
                redundant: history.is_redundant,
                redundancy_lost: history.has_lost_redundancy,
                ..DeviceDocument::from(&**device)
            }
        };
        DevicesDocument {
            devices: snapshot.devices.iter().map(document).collect(),
            lost_devices: remembered.lost.iter().map(LostDocument::from).collect(),
            used_directly: snapshot.used_directly.iter().map(DirectUseDocument::from).collect(),
            unassembled: snapshot
                .unassembled
                .iter()
                .map(|disk| UnassembledDocument {
                    wwid: &disk.wwid,
                    disks: &disk.paths,
                    held_by: disk.held_by.as_deref(),
                })
                .collect(),
            in_trouble: remembered.in_trouble,
            last_recovery_timestamp_seconds: remembered.last_recovery.map(seconds),
        }
    }
}

#[derive(Serialize)]
struct DeviceDocument<'a> {
    wwid: &'a str,
    name: &'a str,
    sysfs_name: &'a str,
    uuid: &'a str,
    kind: &'static str,
    vendor: &'a str,
    product: &'a str,
    revision: &'a str,
    state: &'static str,
    valid_paths: usize,
    standby_paths: usize,
    failed_paths: usize,
    initiator_ports: usize,
    target_ports: usize,
    expected_paths: u32,
    missing_paths: u32,
    redundant: Option<bool>,
    redundancy_lost: Option<bool>,
    queueing: Option<bool>,
    suspended: Option<bool>,
    read_only: Option<bool>,
    size_bytes: Option<u64>,
    open_count: Option<u64>,
    in_use: Option<bool>,
    root: bool,
    stray_paths: usize,
    stray_disks: &'a [Arc<str>],
    inflight_requests: Option<u64>,
    blocked_paths: usize,
    stalled_seconds: Option<f64>,
    size_mismatched_paths: usize,
    read_only_mismatched_paths: usize,
    wwid_mismatched_paths: usize,
    lun_mismatched_paths: usize,
    lun_conflicts: usize,
    path_events_total: ByAction<u64>,
    last_path_event_timestamp_seconds: ByAction<Option<f64>>,
    path_faults_total: Option<u64>,
    group_switches_total: Option<u64>,
    table_loads_total: Option<u64>,
    queueing_seconds_total: Option<u64>,
    queueing_timeouts_total: Option<u64>,
    active_group_priority: Option<i64>,
    best_group_priority: Option<i64>,
    marginal_paths: usize,
    disagreeing_paths: usize,
    non_optimized: bool,
    path_io_errors_total: u64,
    repeated_path_failures_total: u64,
    path_groups: Vec<GroupDocument<'a>>,
    paths: Vec<PathDocument<'a>>,
}

#[derive(Serialize)]
struct ByAction<T> {
    path_failed: T,
    path_reinstated: T,
}

#[derive(Serialize)]
struct GroupDocument<'a> {
    group: u32,
    state: &'a str,
}

#[derive(Serialize)]
struct PathDocument<'a> {
    path: &'a str,
    valid: bool,
    devno: Option<String>,
    hctl: &'a str,
    transport: &'static str,
    group: Option<u32>,
    initiator_port: &'a str,
    target: &'a str,
    target_port: &'a str,
    fabric: Option<&'a str>,
    failures_total: u64,
    priority: Option<i64>,
    checker_state: Option<&'a str>,
    device_state: Option<&'a str>,
    access_state: Option<&'a str>,
    ana_state: Option<&'a str>,
    marginal: Option<bool>,
    io_errors_total: Option<u64>,
    io_timeouts_total: Option<u64>,
    stalled_seconds: Option<f64>,
    used_by: Vec<&'a str>,
}

impl<'a> From<&'a Device> for DeviceDocument<'a> {
    fn from(device: &'a Device) -> Self {
        let counts @ Counts { valid, standby, failed } = device.counts();
        let (daemon, events) = (device.daemon_counters, device.path_events);
        DeviceDocument {
            wwid: &device.wwid,
            name: &device.name,
            sysfs_name: &device.sysfs_name,
            uuid: &device.uuid,
            kind: device.kind.as_str(),
            vendor: &device.vendor,
            product: &device.product,
            revision: &device.revision,
            state: counts.health().as_str(),
            valid_paths: valid,
            standby_paths: standby,
            failed_paths: failed,
            initiator_ports: initiator_ports(&device.paths),
            target_ports: target_ports(&device.paths),
            expected_paths: 0,
            missing_paths: 0,
            redundant: None,
            redundancy_lost: None,
            queueing: device.queueing,
            suspended: device.suspended,
            read_only: device.read_only,
            size_bytes: device.size_bytes,
            open_count: device.open_count,
            in_use: device.in_use,
            root: device.root,
            stray_paths: device.stray_paths.len(),
            stray_disks: &device.stray_paths,
            inflight_requests: device.inflight_requests,
            blocked_paths: device.blocked_paths,
            stalled_seconds: device.stalled.map(|stalled| stalled.as_secs_f64()),
            size_mismatched_paths: device.mismatches.size,
            read_only_mismatched_paths: device.mismatches.read_only,
            wwid_mismatched_paths: device.mismatches.wwid,
            lun_mismatched_paths: device.mismatches.lun,
            lun_conflicts: device.lun_conflicts,
            path_events_total: ByAction { path_failed: events.failed, path_reinstated: events.reinstated },
            last_path_event_timestamp_seconds: ByAction {
                path_failed: events.last_failed.map(seconds),
                path_reinstated: events.last_reinstated.map(seconds),
            },
            path_faults_total: daemon.map(|counters| counters.path_faults),
            group_switches_total: daemon.map(|counters| counters.group_switches),
            table_loads_total: daemon.map(|counters| counters.table_loads),
            queueing_seconds_total: daemon.map(|counters| counters.queueing_seconds),
            queueing_timeouts_total: daemon.map(|counters| counters.queueing_timeouts),
            active_group_priority: device.active_group_priority,
            best_group_priority: device.best_group_priority,
            marginal_paths: device.marginal_paths(),
            disagreeing_paths: device.disagreeing_paths(),
            non_optimized: device.is_non_optimized(),
            path_io_errors_total: device.path_io_errors,
            repeated_path_failures_total: device.repeated_path_failures,
            path_groups: device
                .groups
                .iter()
                .map(|group| GroupDocument { group: group.index, state: &group.state })
                .collect(),
            paths: Vec::new(),
        }
    }
}

impl<'a> From<&'a Path> for PathDocument<'a> {
    fn from(path: &'a Path) -> Self {
        PathDocument {
            path: &path.name,
            valid: path.state == PathState::Valid,
            devno: path.devno.map(|devno| devno.to_string()),
            hctl: &path.hctl,
            transport: path.transport.as_str(),
            group: path.group,
            initiator_port: &path.ports.initiator_port,
            target: &path.ports.target,
            target_port: &path.ports.target_port,
            fabric: None,
            failures_total: path.failures,
            priority: path.priority,
            checker_state: path.checker_state.as_deref(),
            device_state: path.device_state.as_deref(),
            access_state: path.access_state.as_deref(),
            ana_state: path.ana_state.as_deref(),
            marginal: path.marginal,
            io_errors_total: path.io_errors,
            io_timeouts_total: path.io_timeouts,
            stalled_seconds: path.stalled.map(|stalled| stalled.as_secs_f64()),
            used_by: Vec::new(),
        }
    }
}

/// `/api/v1/events`: the recent events, newest last.
#[derive(Serialize)]
pub(crate) struct EventsDocument {
    pub(crate) events: Vec<Arc<Event>>,
}
