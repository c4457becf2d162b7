#!/usr/bin/env python3
"""Measures the cost of the alert rules: the time per evaluation of each rule group, in a real
Prometheus, on made-up hosts.

It evaluates the real rules file on the series that the rules read, in three states of the fleet:
healthy; a share of all devices degraded, because one of their two fabrics failed; all devices
degraded. Each state gets a fresh Prometheus, in a temporary directory and on loopback. The samples
are sent by remote write, so they are where a scrape would have put them. Every series has the
samples of the longest range that a rule reads. Groups are evaluated one after the other, so that no
group waits for another.

Machines differ and are shared. Therefore each time is accompanied by the processor time that
Prometheus spent per evaluation, including garbage collection, and by its ratio to that of a trivial
query over the same data. On a busy machine times mean little, and only processor times count. The
processor time of a group is higher than its time, because garbage collection runs in parallel.

Differences from a real installation:
- Nothing is scraped while the rules are evaluated: the samples were written before.
- Series that no rule reads are missing, so labels have shorter postings.
- No two groups are evaluated at once, and each group is evaluated again as soon as possible.
- All devices are SCSI over iSCSI. Ten hosts share their devices. Nothing else is wrong, and no path
  flaps.
- Values are constant, and timestamps have no jitter: these are the cheapest samples to decode.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import functools
import json
import os
import pathlib
import re
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

RULES = pathlib.Path(__file__).parent.parent / "alerts" / "multipath.rules.yml"
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LOOKBACK = 300
HOUR = 3600
BATCH = 8_000_000
HOSTS_PER_CLUSTER = 10
REFERENCES = 5
SOURCES = ["dm", "multipathd", "sysfs", "uevent"]
TRIVIAL = "count(multipath_path_valid)"
# Series that exist only if something is wrong that is not wrong here, or over another transport.
NOT_LOADED = re.compile(
    r"multipath_(device_\w+_mismatched_paths|device_(lun_conflicts|blocked_paths|stalled_seconds|stray_paths|marginal_paths"
    r"|disagreeing_paths|non_optimized|suspended)|lost_device_info|disk_used_directly|unassembled_paths"
    r"|nvme_\w+|fc_host_port_up|fc_remote_port_up)"
)


def series(options, state, last_success):
    """Yields every series that the rules read: metric, labels, value now, value before the trouble
    began."""
    trouble = 0
    for host in range(options.hosts):
        cluster = host // HOSTS_PER_CLUSTER
        target = f"iqn.2003-01.org.example:storage{cluster}"
        base = {"job": "multipath", "instance": f"host{host:04}.example.org:10056"}
        of_host = [("up", {}, 1), ("multipath_devices", {}, options.devices), ("multipath_daemon_up", {}, 1)]
        of_host += [("multipath_in_trouble", {}, int(state != "healthy"))]
        # The exact count does not matter: the rules only compare it with 0.
        of_host += [("multipath_degraded_devices", {}, int(state != "healthy"))]
        of_host += [("multipath_devices_without_valid_paths", {}, 0), ("multipath_missing_paths", {}, 0)]
        of_host += [("multipath_last_recovery_timestamp_seconds", {}, last_success - 86400)]
        of_host += [("multipath_exporter_memory_last_write_successful", {}, 1)]
        for source in SOURCES:
            of_host += [("multipath_exporter_source_up", {"source": source}, 1)]
            of_host += [("multipath_exporter_errors_total", {"source": source}, 0)]
        for network in range(2):
            bond = {"bond": "storage", "network": f"eth{network + 1}"}
            of_host += [("multipath_iscsi_bond_network_up", bond, 1)]
        of_host += [("multipath_iscsi_bond_networks_up", {"bond": "storage"}, 2)]
        for path in range(options.paths):
            ports = {"initiator_port": f"eth{path % 2 + 1}", "target_port": f"192.0.2.{path + 1}:3260"}
            session = {"session": f"session{path + 1}", "target": target, **ports}
            of_host += [("multipath_iscsi_session_up", session, 1)]
            of_host += [("multipath_iscsi_session_paths", session, options.devices)]
            of_host += [("multipath_iscsi_session_failures_total", {"target": target, **ports}, 0)]
        for metric, labels, value in of_host:
            yield metric, base | labels, value, value

        for device in range(options.devices):
            trouble += {"healthy": 0, "degraded": options.degraded, "all-degraded": 100}[state]
            degraded, trouble = trouble >= 100, trouble % 100
            failed = [degraded and path % 2 == 1 for path in range(options.paths)]
            valid = failed.count(False)
            wwid = f"3600a0980{cluster:04x}{device:020x}"
            one = base | {"wwid": wwid}
            info = {"name": f"mpath{device}", "sysfs_name": f"dm-{device}", "uuid": f"mpath-{wwid}", "kind": "dm"}
            info |= {"vendor": "LABARRAY", "product": "VDISK", "revision": "0001"}
            yield "multipath_device_info", one | info, 1, 1
            values = {"paths": options.paths, "valid_paths": valid, "failed_paths": options.paths - valid}
            values |= {"standby_paths": 0, "expected_paths": options.paths, "missing_paths": 0, "queueing": 1, "in_use": 1}
            values |= {"redundant": int(not degraded), "redundancy_lost": int(degraded)}
            values |= {"path_io_errors_total": 0, "repeated_path_failures_total": 0}
            for metric, value in values.items():
                yield f"multipath_device_{metric}", one, value, value
            for path, bad in enumerate(failed):
                yield "multipath_path_valid", one | {"path": f"sd{device * options.paths + path}"}, int(not bad), 1


# Remote write: https://prometheus.io/docs/concepts/remote_write_spec/. Protocol buffers, as one
# literal of snappy.


def varint(number):
    data = bytearray()
    while number > 127:
        data.append(number & 127 | 128)
        number >>= 7
    return bytes(data) + bytes([number])


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


@functools.lru_cache(100_000)
def label(name, value):
    return field(1, field(1, name.encode()) + field(2, value.encode()))


def sample(seconds, value):
    return field(2, b"\x09" + struct.pack("<d", value) + b"\x10" + varint(int(seconds * 1000)))


def write(address, data):
    length = len(data)
    body = varint(length) + b"\xfc" + struct.pack("<I", length - 1) + data
    headers = {"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf"}
    headers["X-Prometheus-Remote-Write-Version"] = "0.1.0"
    urllib.request.urlopen(urllib.request.Request(f"{address}/api/v1/write", body, headers), timeout=600).close()


def load(address, options, state, rules, now):
    """Writes every sample up to `options.ahead` seconds from now, an hour at a time, because the
    head block takes no older ones."""
    ranges = collections.defaultdict(lambda: LOOKBACK)
    for metric, number, unit in re.findall(r"([\w:]+)(?:\{[^}]*\})?(?:\[| offset )(\d+)([smhd])", rules):
        ranges[metric] = max(ranges[metric], int(number) * UNITS[unit] + LOOKBACK)
    alike = collections.defaultdict(list)
    for metric, labels, value, before in series(options, state, now + options.ahead):
        names = sorted(labels.items())
        alike[metric, value, before].append(label("__name__", metric) + b"".join(label(*pair) for pair in names))
    expressions = re.sub(r"(?m)^\s*(#|-? ?(alert|summary)|.*://).*", "", rules)
    missing = set(re.findall(r"\b(?:\w+:)?multipath_[\w:]+", expressions)) - {metric for metric, _, _ in alike}
    if missing := sorted(metric for metric in missing if not NOT_LOADED.fullmatch(metric)):
        sys.exit(f"the rules read what is not loaded: {' '.join(missing)}")

    def batches(start, end):
        data = []
        for (metric, value, before), names in alike.items():
            step = options.scrape_interval
            first = max(start, now - ranges[metric])
            times = (-(-first // step) * step + step * i for i in range(int(end - first) // step + 1))
            values = ((t, before if t < now - LOOKBACK or value is None else value) for t in times)
            keep = ((t, v) for t, v in values if t < end and (value is not None or t < now))
            if samples := b"".join(sample(t, v) for t, v in keep):
                for name in names:
                    data.append(field(1, name + samples))
                    if len(data) * len(data[-1]) > BATCH:
                        yield b"".join(data)
                        data.clear()
        if data:
            yield b"".join(data)

    end = now + options.ahead
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        start = now - HOUR
        while start < end:
            waiting = collections.deque()
            for batch in batches(start, min(start + HOUR, end)):
                waiting.append(threads.submit(write, address, batch))
                while len(waiting) > 4:
                    waiting.popleft().result()
            for sent in waiting:
                sent.result()
            start += HOUR


# A Prometheus.


@contextlib.contextmanager
def prometheus(options):
    with tempfile.TemporaryDirectory(prefix="multipath-rules-") as directory, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        free.close()
        directory = pathlib.Path(directory)
        (directory / "prometheus.yml").write_text("{}")
        command = [options.prometheus, f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data"]
        command += [f"--web.listen-address={address}", "--web.enable-remote-write-receiver", "--log.level=warn"]
        with (directory / "log").open("w") as log, subprocess.Popen(command, stderr=log) as process:
            try:
                until(lambda: ask(f"http://{address}", "/-/ready"))
                yield f"http://{address}", directory, process
            finally:
                process.kill()
                print((directory / "log").read_text(), end="", file=sys.stderr)


def ask(address, path):
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}{path}", timeout=120) as answer:
        return answer.read()


def until(condition):
    deadline = time.monotonic() + 60
    while not (result := condition()):
        if time.monotonic() > deadline:
            sys.exit("Prometheus does not answer")
        time.sleep(0.2)
    return result


def query(address, expression):
    """Returns the time that the query took."""
    start = time.perf_counter()
    answer = ask(address, "/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
    assert json.loads(answer)["data"]["result"], expression
    return time.perf_counter() - start


def reload(directory, process, text, active):
    """Makes Prometheus evaluate this group repeatedly, and keep the recordings of the other
    groups."""
    text = re.sub(r"(?m)^    interval: .*\n", "", text)

    def every(name):
        return f"{name[0]}\n    interval: {'1s' if name[1] == active else '30d'}"

    (directory / "rules.yml").write_text(re.sub(r"(?m)^  - name: (.*)", every, text))
    (directory / "prometheus.yml").write_text(json.dumps({"rule_files": ["rules.yml"]}))
    process.send_signal(signal.SIGHUP)


def processor_time(process):
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(") ")[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def evaluations(address, process, group, count):
    """Returns the time of each evaluation, and the processor time per evaluation, including garbage
    collection."""
    metric = r'^prometheus_rule_group_%s_seconds\{rule_group="[^"]*;' + group + r'"\} (.*)'
    times, last, start = [], None, processor_time(process)
    while len(times) < count:
        time.sleep(0.1)
        page = ask(address, "/metrics").decode()
        if at := re.search(metric % "last_evaluation_timestamp", page, re.M):
            if float(at[1]) > 0 and at[1] != last:
                last = at[1]
                times.append(float(re.search(metric % "last_duration", page, re.M)[1]))
    return times, (processor_time(process) - start) / count


def show(name, times, processor, trivial, end=""):
    ratio = processor / trivial
    median = statistics.median(times)
    print(f"  {name:32}{median:>8.3f} s{max(times):>10.3f} s{processor:>10.3f} s{ratio:>8.1f}{end}", flush=True)


def run(options, state):
    text = options.rules.read_text()
    with prometheus(options) as (address, directory, process):
        now = int(time.time())
        load(address, options, state, text, now)
        print(f"\n{state}: loaded in {time.time() - now:.0f} s")
        print(f"  {'':32}{'median':>10}{'maximum':>12}{'processor':>12}{'ratio':>8}")
        query(address, TRIVIAL)
        start = processor_time(process)
        times = [query(address, TRIVIAL) for _ in range(REFERENCES)]
        trivial, trivial_time = (processor_time(process) - start) / REFERENCES, statistics.median(times)
        show("trivial query", times, trivial, trivial)
        total = 0
        slowest = []
        for name in re.findall(r"(?m)^  - name: (.*)", text):
            reload(directory, process, text, name)
            times, processor = evaluations(address, process, name, options.evaluations)
            total += statistics.median(times)
            groups = json.loads(ask(address, "/api/v1/rules"))["data"]["groups"]
            rules = next(group["rules"] for group in groups if group["name"] == name)
            if failed := [rule for rule in rules if rule["health"] == "err"]:
                sys.exit(f"{failed[0]['name']}: {failed[0]['lastError']}")
            alerts = sum(len(rule.get("alerts", [])) for rule in rules)
            show(name, times, processor, trivial, f"{alerts:>8,} alerts")
            slowest += [(rule["evaluationTime"], rule["name"], len(rule.get("alerts", []))) for rule in rules]
        print(f"  all groups: {total:.3f} s, {total / trivial_time:.1f} times the trivial query")
        number = re.search(r"^prometheus_tsdb_head_series (.*)", ask(address, "/metrics").decode(), re.M)[1]
        if time.time() > now + options.ahead:
            sys.exit("the samples ended before the measurement: --ahead must be larger")
    print(f"  {float(number):,.0f} series; the slowest rules, the last time:")
    for duration, name, alerts in sorted(slowest, reverse=True)[: options.slowest]:
        print(f"    {name:40}{duration:>8.3f} s{alerts:>8,} alerts")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = functools.partial(parser.add_argument, type=int, metavar="N")
    add("--hosts", default=500)
    add("--devices", default=50, help="of each host")
    add("--paths", default=4, help="of each device")
    add("--degraded", default=10, help="percent of all devices, in the state `degraded`")
    add("--scrape-interval", default=30, help="seconds")
    add("--evaluations", default=3, help="of each group")
    add("--ahead", default=300, help="seconds of samples that are loaded ahead: loading and measuring must take less")
    add("--slowest", default=8, help="rules to print")
    states = ["healthy", "degraded", "all-degraded"]
    parser.add_argument("states", nargs="*", default=states, metavar="STATE", help=f"of {' '.join(states)}; default all")
    parser.add_argument("--prometheus", default="prometheus", metavar="PROGRAM", help="another one")
    parser.add_argument("--rules", type=pathlib.Path, default=RULES, metavar="FILE", help="to measure others")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    version = subprocess.run([options.prometheus, "--version"], capture_output=True, text=True, check=True)
    print((version.stdout + version.stderr).split(" (")[0])
    size = f"{options.hosts} hosts × {options.devices} devices × {options.paths} paths"
    print(f"{size}, scraped every {options.scrape_interval} s")
    for state in options.states:
        run(options, state)


if __name__ == "__main__":
    main()
