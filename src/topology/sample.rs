//! A sample path and device. Tests set the fields that matter to them and take the rest from here.

use std::sync::Arc;

use super::{Device, Kind, Mismatches, Path, PathEventCounts, PathState, Ports, Transport};

/// A path that is valid by the kernel's own word. Nothing else about it is known.
pub(crate) fn path() -> Path {
    Path {
        name: "sda".into(),
        devno: None,
        hctl: Arc::default(),
        transport: Transport::Unknown,
        ports: Ports::default(),
        group: None,
        state: PathState::Valid,
        is_told: true,
        failures: 0,
        priority: None,
        checker_state: None,
        device_state: None,
        access_state: None,
        ana_state: None,
        marginal: None,
        io_errors: None,
        io_timeouts: None,
        stalled: None,
    }
}

/// A device-mapper device without paths. Only its names are known.
pub(crate) fn device() -> Device {
    Device {
        wwid: "3600".into(),
        name: "mpatha".into(),
        sysfs_name: "dm-0".into(),
        uuid: "mpath-3600".into(),
        kind: Kind::DeviceMapper,
        vendor: Arc::default(),
        product: Arc::default(),
        revision: Arc::default(),
        paths: Vec::new(),
        groups: Vec::new(),
        queueing: None,
        suspended: None,
        read_only: None,
        size_bytes: None,
        open_count: None,
        in_use: None,
        inflight_requests: None,
        blocked_paths: 0,
        stalled: None,
        root: false,
        stray_paths: Vec::new(),
        mismatches: Mismatches::default(),
        lun_conflicts: 0,
        daemon_counters: None,
        active_group_priority: None,
        best_group_priority: None,
        path_events: PathEventCounts::default(),
        repeated_path_failures: 0,
        path_io_errors: 0,
    }
}
