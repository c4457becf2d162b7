#!/usr/bin/env python3
"""Checks the golden pages as their readers do. `make test` runs it. It needs prometheus-client from
PyPI.

Prometheus' own Python client parses both pages, the OpenMetrics page strictly. No series may be on
a page twice, both pages must hold the same samples, and the names and labels must be exactly those
of the interface.
"""

import collections
import pathlib
import sys

from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser

GOLDEN = pathlib.Path(__file__).parent / "golden"

DEVICE = "wwid"
PATH = "wwid path"
SESSION = "session target target_port initiator_port"
CONTROLLER = "controller target target_port initiator_port"
PORT = "initiator_port target_port"

# Every metric and its labels, in the groups and the order of the interface.
INTERFACE = {
    "host": {
        "multipath_devices": "",
        "multipath_degraded_devices": "",
        "multipath_devices_without_valid_paths": "",
        "multipath_paths": "",
        "multipath_failed_paths": "",
        "multipath_unassembled_wwids": "",
        "multipath_lost_devices": "",
        "multipath_missing_paths": "",
        "multipath_daemon_up": "",
        "multipath_daemon_state": "state",
        "multipath_in_trouble": "",
        "multipath_last_recovery_timestamp_seconds": "",
    },
    "device": {
        "multipath_device_info": f"{DEVICE} name sysfs_name uuid kind vendor product revision",
        "multipath_device_paths": DEVICE,
        "multipath_device_valid_paths": DEVICE,
        "multipath_device_standby_paths": DEVICE,
        "multipath_device_failed_paths": DEVICE,
        "multipath_device_queueing": DEVICE,
        "multipath_device_suspended": DEVICE,
        "multipath_device_read_only": DEVICE,
        "multipath_device_size_bytes": DEVICE,
        "multipath_device_open_count": DEVICE,
        "multipath_device_root": DEVICE,
        "multipath_device_inflight_requests": DEVICE,
        "multipath_device_blocked_paths": DEVICE,
        "multipath_device_stalled_seconds": DEVICE,
        "multipath_device_size_mismatched_paths": DEVICE,
        "multipath_device_read_only_mismatched_paths": DEVICE,
        "multipath_device_wwid_mismatched_paths": DEVICE,
        "multipath_device_lun_mismatched_paths": DEVICE,
        "multipath_device_lun_conflicts": DEVICE,
        "multipath_device_stray_paths": DEVICE,
        "multipath_device_path_events_total": f"{DEVICE} action",
        "multipath_device_last_path_event_timestamp_seconds": f"{DEVICE} action",
        "multipath_device_path_faults_total": DEVICE,
        "multipath_device_group_switches_total": DEVICE,
        "multipath_device_table_loads_total": DEVICE,
        "multipath_device_queueing_seconds_total": DEVICE,
        "multipath_device_queueing_timeouts_total": DEVICE,
        "multipath_device_active_group_priority": DEVICE,
        "multipath_device_best_group_priority": DEVICE,
        "multipath_device_marginal_paths": DEVICE,
        "multipath_device_disagreeing_paths": DEVICE,
        "multipath_device_non_optimized": DEVICE,
        "multipath_device_path_io_errors_total": DEVICE,
        "multipath_device_repeated_path_failures_total": DEVICE,
        "multipath_device_expected_paths": DEVICE,
        "multipath_device_missing_paths": DEVICE,
        "multipath_device_initiator_ports": DEVICE,
        "multipath_device_target_ports": DEVICE,
        "multipath_device_redundant": DEVICE,
        "multipath_device_redundancy_lost": DEVICE,
        "multipath_device_in_use": DEVICE,
        "multipath_lost_device_info": f"{DEVICE} name kind vendor product reason",
        "multipath_lost_device_timestamp_seconds": DEVICE,
        "multipath_path_group_state": f"{DEVICE} group state",
    },
    "path": {
        "multipath_path_info": f"{PATH} devno hctl transport group initiator_port target target_port",
        "multipath_path_valid": PATH,
        "multipath_path_failures_total": PATH,
        "multipath_path_priority": PATH,
        "multipath_path_checker_state": f"{PATH} state",
        "multipath_path_device_state": f"{PATH} state",
        "multipath_path_access_state": f"{PATH} state",
        "multipath_path_ana_state": f"{PATH} state",
        "multipath_path_marginal": PATH,
        "multipath_path_io_errors_total": PATH,
        "multipath_path_io_timeouts_total": PATH,
    },
    "transport": {
        "multipath_iscsi_session_up": SESSION,
        "multipath_iscsi_session_state": f"{SESSION} state",
        "multipath_iscsi_session_paths": SESSION,
        "multipath_iscsi_session_failures_total": "target target_port initiator_port",
        "multipath_nvme_controller_up": CONTROLLER,
        "multipath_nvme_controller_state": f"{CONTROLLER} state",
        "multipath_nvme_controller_failures_total": "target target_port initiator_port",
        "multipath_nvme_controller_info": f"{CONTROLLER} ctrl_loss_tmo fast_io_fail_tmo reconnect_delay",
        "multipath_nvme_subsystem_info": "target iopolicy",
        "multipath_nvme_unreachable_namespaces": "target",
        "multipath_fc_host_port_up": "initiator_port",
        "multipath_fc_remote_port_up": PORT,
        "multipath_fc_remote_port_state": f"{PORT} state",
        "multipath_iscsi_bond_network_up": "bond network",
        "multipath_iscsi_bond_networks": "bond",
        "multipath_iscsi_bond_networks_up": "bond",
        "multipath_unassembled_paths": DEVICE,
        "multipath_disk_used_directly": f"{DEVICE} disk by",
    },
    "exporter": {
        "multipath_exporter_build_info": "version revision rustversion",
        "multipath_exporter_source_up": "source",
        "multipath_exporter_kernel_status": "",
        "multipath_exporter_source_last_success_timestamp_seconds": "source",
        "multipath_exporter_source_duration_seconds": "source",
        "multipath_exporter_uevents_total": "action",
        "multipath_exporter_uevent_overflows_total": "",
        "multipath_exporter_resyncs_total": "reason",
        "multipath_exporter_resync_corrections_total": "",
        "multipath_exporter_resync_interval_seconds": "",
        "multipath_exporter_reread_interval_seconds": "",
        "multipath_exporter_event_to_metric_seconds_bucket": "le",
        "multipath_exporter_event_to_metric_seconds_sum": "",
        "multipath_exporter_event_to_metric_seconds_count": "",
        "multipath_exporter_errors_total": "source",
        "multipath_exporter_config_last_reload_successful": "",
        "multipath_exporter_config_last_reload_success_timestamp_seconds": "",
        "multipath_exporter_scrapes_total": "",
        "multipath_exporter_http_responses_total": "code",
        "multipath_exporter_http_connections_closed_total": "reason",
    },
    "process": {
        "process_cpu_seconds_total": "",
        "process_resident_memory_bytes": "",
        "process_virtual_memory_bytes": "",
        "process_start_time_seconds": "",
        "process_open_fds": "",
        "process_max_fds": "",
        "process_threads": "",
    },
}

# The golden page describes these metrics without a sample, because its host has none.
WITHOUT_SAMPLE = {
    "multipath_device_suspended": "no device is suspended",
    "multipath_device_blocked_paths": "no path is blocked",
    "multipath_device_stalled_seconds": "no I/O stands still",
    "multipath_device_open_count": "only device mapper's ioctls know it",
    "multipath_device_size_mismatched_paths": "no path differs",
    "multipath_device_read_only_mismatched_paths": "no path differs",
    "multipath_device_wwid_mismatched_paths": "no path differs",
    "multipath_device_lun_mismatched_paths": "no path differs",
    "multipath_device_lun_conflicts": "no path differs",
    "multipath_device_stray_paths": "no disk is beside its device",
    "multipath_device_marginal_paths": "no path is marginal",
    "multipath_device_disagreeing_paths": "nobody disagrees",
    "multipath_device_last_path_event_timestamp_seconds": "nothing has happened",
    "multipath_last_recovery_timestamp_seconds": "it has not recovered from anything",
    "multipath_lost_device_info": "no device is lost",
    "multipath_lost_device_timestamp_seconds": "no device is lost",
    "multipath_path_access_state": "its array has no ALUA",
    "multipath_path_io_errors_total": "its recording has no such files",
    "multipath_path_io_timeouts_total": "its recording has no such files",
    "multipath_fc_host_port_up": "it has no Fibre Channel",
    "multipath_fc_remote_port_up": "it has no Fibre Channel",
    "multipath_fc_remote_port_state": "it has no Fibre Channel",
    "multipath_unassembled_paths": "its disks are assembled",
    "multipath_disk_used_directly": "its disks are used through their devices",
}


def read(file, parse):
    """Returns the samples by series, the described names, and the errors."""
    wrong = []
    with open(file, encoding="utf-8") as text:
        try:
            families = list(parse(text))
        except ValueError as error:
            return {}, set(), [f"cannot be parsed: {error}"]
    described = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    samples = [sample for family in families for sample in family.samples]
    series = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in samples]
    # This compares lines, because the parser ignores a sample that repeats the one before.
    lines = [line.rpartition(" ")[0] for line in file.read_text(encoding="utf-8").splitlines() if line[0] != "#"]
    wrong.extend(f"{times} times: {line}" for line, times in collections.Counter(lines).items() if times > 1)
    if not len(lines) == len(samples) == len(set(series)):
        wrong.append(f"{len(lines)} lines make {len(samples)} samples of {len(set(series))} series")
    twice = [name for name, times in collections.Counter(family.name for family in families).items() if times > 1]
    wrong.extend(f"described twice: {name}" for name in twice)
    wrong.extend(f"without help: {family.name}" for family in families if not family.documentation)
    return dict(zip(series, (sample.value for sample in samples))), described, wrong


def hold_against_interface(samples, described):
    """Yields each difference in names and labels from the interface."""
    interface = {name: set(labels.split()) for group in INTERFACE.values() for name, labels in group.items()}
    for name in WITHOUT_SAMPLE.keys() - interface.keys():
        yield f"an exception for what the interface does not have: {name}"
    present = {name for name, _ in samples}
    for group, metrics in INTERFACE.items():
        for name in metrics:
            if name in WITHOUT_SAMPLE and name in present:
                yield f"has samples now, so it needs no exception: {name}"
            elif name not in present | (described & WITHOUT_SAMPLE.keys()):
                yield f"missing in group {group}: {name}"
    for name in sorted(present - interface.keys()):
        yield f"not in the interface: {name}"
    for name, labels in sorted(samples):
        given = {label for label, _ in labels}
        if name in interface and given != interface[name]:
            yield f"labels of {name}: {sorted(given)}, the interface has {sorted(interface[name])}"


def main():
    om_samples, om_described, om_wrong = read(GOLDEN / "metrics.om", openmetrics_parser.text_fd_to_metric_families)
    samples, described, wrong = read(GOLDEN / "metrics.txt", parser.text_fd_to_metric_families)
    wrong = [f"metrics.om: {line}" for line in om_wrong] + [f"metrics.txt: {line}" for line in wrong]
    for series in sorted(om_samples.keys() ^ samples.keys()):
        wrong.append(f"only in metrics.{'om' if series in om_samples else 'txt'}: {series}")
    for series in sorted(om_samples.keys() & samples.keys()):
        if om_samples[series] != samples[series]:
            wrong.append(f"{series} is {om_samples[series]} in metrics.om and {samples[series]} in metrics.txt")
    wrong.extend(hold_against_interface(om_samples, om_described & described))
    for line in wrong:
        print(f"check_exposition: {line}", file=sys.stderr)
    if wrong:
        return 1
    print(f"check_exposition: {len(samples)} samples, as the interface has them, the same in both formats")
    return 0


if __name__ == "__main__":
    sys.exit(main())
