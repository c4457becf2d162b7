#!/usr/bin/env python3
"""Measures the cost of the dashboard: the time of each of its queries, in a real Prometheus, on
made-up hosts.

It runs all variables, annotations and panels of the open rows, one query after the other, as
Grafana sends them for the last hour. It then runs each folded row as if it were opened. The
shortest time of each query in several rounds counts. Beside the times is the processor time of
Prometheus and its ratio to that of a trivial query over the same data, because machines differ and
are shared.

The hosts are those of rules.py, with the additional series that the dashboard reads. Differences
from a real installation:
- The queries run one after the other. A browser sends six at once.
- Series of devices and paths reach back as far as the open rows look: --history.
- Values are constant.
"""

import argparse
import json
import pathlib
import re
import statistics
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import rules

DASHBOARD = pathlib.Path(__file__).parent.parent / "dashboards" / "multipath.json"
STEP = 30
HOUR = 3600


def series(options):
    """Yields every series: (metric, labels, value, True if it describes the host)."""
    for host in range(options.hosts):
        cluster = host // 10
        base = {"job": "multipath", "instance": f"host{host:04}.example.org:10056"}
        trouble = options.state == "degraded"
        failed = options.paths // 2 if trouble else 0
        of_host = {"up": 1, "scrape_duration_seconds": 0.01, "process_start_time_seconds": 1, "process_resident_memory_bytes": 9e6}
        of_host |= {"process_cpu_seconds_total": 20}
        gauges = {"devices": options.devices, "degraded_devices": options.devices * trouble, "devices_without_valid_paths": 0}
        gauges |= {"paths": options.devices * options.paths, "failed_paths": options.devices * failed, "lost_devices": 0}
        gauges |= {"missing_paths": 0, "daemon_up": 1, "in_trouble": int(trouble), "unassembled_wwids": 0}
        gauges |= {"exporter_memory_last_write_successful": 1, "last_recovery_timestamp_seconds": 1}
        of_host |= {f"multipath_{name}": value for name, value in gauges.items()}
        for metric, value in of_host.items():
            yield metric, base, value, True
        yield "multipath_exporter_build_info", base | {"version": "1.0.0", "revision": "1", "rustversion": "1"}, 1, True
        for source in rules.SOURCES:
            yield "multipath_exporter_source_up", base | {"source": source}, 1, True
            yield "multipath_exporter_errors_total", base | {"source": source}, 0, True
        ports = [(f"0x2100000e1e{host:04x}{path % 2}0", f"0x500601{cluster:04x}{path:02x}") for path in range(options.paths)]
        for path, (initiator, target) in enumerate(ports):
            bad = trouble and path % 2
            on = base | {"initiator_port": initiator, "target_port": target}
            yield "multipath_fc_remote_port_up", on, int(not bad), True
            yield "multipath_fc_remote_port_state", on | {"state": "Not Present" if bad else "Online"}, 1, True
        for initiator in {one for one, _ in ports}:
            yield "multipath_fc_host_port_up", base | {"initiator_port": initiator}, int(not trouble or initiator == ports[0][0]), True
        for device in range(options.devices):
            one = base | {"wwid": f"3600a0980{cluster:04x}{device:020x}"}
            info = {"name": f"mpath{device}", "sysfs_name": f"dm-{device}", "uuid": f"mpath-{one['wwid']}", "kind": "dm"}
            yield "multipath_device_info", one | info | {"vendor": "LABARRAY", "product": "VDISK", "revision": "0001"}, 1, False
            values = {"paths": options.paths, "valid_paths": options.paths - failed, "failed_paths": failed, "standby_paths": 0}
            values |= {"expected_paths": options.paths, "missing_paths": 0, "in_use": 1, "queueing": 1, "open_count": 1}
            values |= {"redundant": int(not trouble), "redundancy_lost": int(trouble), "root": 0, "read_only": 0}
            values |= {"size_bytes": 1 << 40, "initiator_ports": 2 - trouble, "target_ports": options.paths - failed}
            values |= {"active_group_priority": 50, "best_group_priority": 50, "inflight_requests": 0}
            values |= {f"{name}_total": 0 for name in ("path_io_errors", "repeated_path_failures", "path_faults", "group_switches")}
            values |= {f"{name}_total": 0 for name in ("table_loads", "queueing_seconds", "queueing_timeouts")}
            for metric, value in values.items():
                yield f"multipath_device_{metric}", one, value, False
            for action in ("path_failed", "path_reinstated"):
                yield "multipath_device_path_events_total", one | {"action": action}, failed, False
            if trouble:
                yield "multipath_device_last_path_event_timestamp_seconds", one | {"action": "path_failed"}, time.time() - 900, False
            for path, (initiator, target) in enumerate(ports):
                bad = trouble and path % 2
                of_path = one | {"path": f"sd{device * options.paths + path}"}
                info = {"devno": f"8:{device * options.paths + path}", "hctl": f"{path}:0:0:{device}", "transport": "fc", "group": str(path // 2 + 1)}
                info |= {"initiator_port": initiator, "target": f"0x500601{cluster:04x}", "target_port": target}
                yield "multipath_path_info", of_path | info, 1, False
                yield "multipath_path_valid", of_path, int(not bad), False
                yield "multipath_path_checker_state", of_path | {"state": "faulty" if bad else "ready"}, 1, False
                yield "multipath_path_device_state", of_path | {"state": "running"}, 1, False
                yield "multipath_path_access_state", of_path | {"state": "active/optimized"}, 1, False
                for name in ("priority", "marginal", "failures_total", "io_errors_total", "io_timeouts_total"):
                    yield f"multipath_path_{name}", of_path, 0, False


def load(address, options, now):
    end, count, data = now + options.ahead, 0, []
    # a head block that holds the present takes no sample that is older than an hour
    times = {True: range(now - HOUR + STEP, end, STEP), False: range(now - options.history, end, STEP)}
    samples = {}
    for metric, labels, value, of_host in series(options):
        key = (value, of_host)
        if key not in samples:
            samples[key] = b"".join(rules.sample(at, value) for at in times[of_host])
        names = sorted(({"__name__": metric} | labels).items())
        data.append(rules.field(1, b"".join(rules.label(*pair) for pair in names) + samples[key]))
        count += 1
        if len(data) * len(data[-1]) > rules.BATCH:
            rules.write(address, b"".join(data))
            data.clear()
    rules.write(address, b"".join(data))
    return count


def ask(address, path, query, now, wide):
    parameters = {"query": query, **({"start": now - HOUR, "end": now, "step": wide} if wide else {"time": now})}
    start = time.perf_counter()
    with urllib.request.urlopen(address + path, urllib.parse.urlencode(parameters).encode(), timeout=600) as answer:
        result = json.load(answer)["data"]["result"]
    return time.perf_counter() - start, len(result)


def queries(dashboard, wwid):
    """Yields (row, title, query, step or 0 for an instant query). The open rows come first, with
    variables and annotations."""

    def filled(query):
        values = {"cluster": ".*", "job": ".+", "instance": ".+", "exporter_job": "multipath", "wwid": wwid}
        values |= {"__rate_interval": "120s", "__range": "3600s"}
        return re.sub(r"\$(\w+)", lambda found: values.get(found[1], found[0]), query)

    for one in dashboard["templating"]["list"]:
        if one["type"] == "query":
            text = one["query"]["query"]
            if asked := re.fullmatch(r"query_result\((.+)\)", text, re.S):
                yield "open", f"variable {one['name']}", filled(asked[1]), 0
            else:  # Grafana asks the index; the selector costs at least as much
                selector = re.fullmatch(r"label_values\((.+), *(\w+)\)", text)
                yield "open", f"variable {one['name']}", f"group by ({selector[2]}) ({filled(selector[1])})", 0
    for one in dashboard["annotations"]["list"]:
        yield "open", f"annotation {one['name']}", filled(one["expr"]), 60
    for panel in dashboard["panels"]:
        for inner in [panel] if panel["type"] != "row" else panel["panels"]:
            for target in inner["targets"]:
                row = "open" if panel is inner else panel["title"]
                yield row, f"{inner['title']} {target['refId']}", filled(target["expr"]), 0 if target["instant"] else 15


def measure(address, process, asked, now, rounds):
    """Returns the shortest time of each query, and the processor time of each row in one round,
    including garbage collection."""
    times, processor = {}, {}
    for row, title, query, step in asked * rounds:
        start = rules.processor_time(process)
        times.setdefault(title, []).append(ask(address, "/api/v1/query_range" if step else "/api/v1/query", query, now, step)[0])
        processor[row] = processor.get(row, 0) + (rules.processor_time(process) - start) / rounds
    return {title: min(some) for title, some in times.items()}, processor


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--hosts", type=int, default=100)
    parser.add_argument("--devices", type=int, default=50, help="of each host")
    parser.add_argument("--paths", type=int, default=4, help="of each device")
    parser.add_argument("--history", type=int, default=1200, help="seconds of samples of devices and paths")
    parser.add_argument("--ahead", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folded", action="store_true", help="measure the folded rows, too")
    parser.add_argument("--slowest", type=int, default=6)
    parser.add_argument("--prometheus", default="prometheus", metavar="PROGRAM", help="another one")
    parser.add_argument("states", nargs="*", default=["healthy", "degraded"])
    options = parser.parse_args()
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    version = subprocess.run([options.prometheus, "--version"], capture_output=True, text=True, check=True)
    print((version.stdout + version.stderr).split(" (")[0])
    for options.state in options.states:
        with rules.prometheus(options) as (address, _, process):
            now = int(time.time())
            count = load(address, options, now)
            asked = list(queries(dashboard, f"3600a0980{0:04x}{0:020x}"))
            print(f"\n{options.state}: {options.hosts * options.devices} devices, {count} series")
            rows = [row for row in dict.fromkeys(row for row, *_ in asked) if row == "open" or options.folded]
            for row in rows:
                # A trivial query runs between two others, because the machine may also serve other
                # processes.
                trivial = ("trivial", "trivial", rules.TRIVIAL, 0)
                of_row = [other for one in asked if one[0] == row for other in (one, trivial)]
                spent, processor = measure(address, process, of_row, now, options.rounds)
                least, cpu = spent.pop("trivial"), processor["trivial"] / (len(of_row) / 2)
                print(
                    f"  {row:48} {len(spent):3} queries {sum(spent.values()):7.2f} s, {sum(spent.values()) / least:6.1f} times the trivial one;"
                    f" {processor[row]:6.2f} s of processors, {processor[row] / cpu:6.1f} times; trivial: {least:.3f} s, {cpu:.3f} s"
                )
                for title, seconds in sorted(spent.items(), key=lambda pair: -pair[1])[: options.slowest]:
                    print(f"    {seconds:7.3f} s  {title}")


if __name__ == "__main__":
    sys.exit(main())
