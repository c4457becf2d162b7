#!/usr/bin/env python3
"""Runs deploy/prometheus in real servers: the scrape jobs find hosts, and only the right series are
sent on.

Two made-up hosts serve the golden page. A Prometheus at each of two sites scrapes them with both
jobs, under the same names. It evaluates the rules of alerts/ and of the fleet, and sends the series
that remote_write.yml selects to a third one. A fourth one federates both sites, as federation.yml
describes. Then the hosts heal, and the central ones must agree. Debian's Prometheus has no
Kubernetes discovery, so its pods are configured with the labels that this discovery would give
them.
"""
import contextlib
import functools
import http.server
import json
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy/prometheus"
PATIENCE = 180
# A stale series that is not marked so stays for five minutes. A marked series is gone after the
# next scrape.
INTERVAL = 5
SITES = ("fra1", "ams1")
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
POD = {
    "__meta_kubernetes_pod_label_app_kubernetes_io_name": "multipath-exporter",
    "__meta_kubernetes_pod_container_port_name": "metrics",
    "__meta_kubernetes_pod_node_name": "node1",
    "__meta_kubernetes_pod_name": "multipath-exporter-x7k2p",
}
# Names of the series that are sent on.
ALWAYS = {
    "up", "multipath_devices", "multipath_degraded_devices", "multipath_devices_without_valid_paths",
    "multipath_lost_devices", "multipath_paths", "multipath_failed_paths", "multipath_missing_paths",
    "multipath_in_trouble", "multipath_last_recovery_timestamp_seconds", "multipath_unassembled_wwids",
    "multipath_daemon_up", "multipath_exporter_build_info", "multipath_exporter_source_up",
    "multipath_lost_device_info", "job:multipath_hosts:count", "job:multipath_devices:sum",
    "job:multipath_degraded_devices:sum", "job:multipath_devices_without_valid_paths:sum",
    "job:multipath_lost_devices:sum", "job:multipath_paths:sum", "job:multipath_failed_paths:sum",
    "job:multipath_missing_paths:sum", "job:multipath_unassembled_wwids:sum", "job:multipath_daemons_down:count",
    "job:multipath_hosts_down:count", "ALERTS",
}  # fmt: skip
# Names of the series that may be sent on: pending alerts.
SOMETIMES = {"ALERTS_FOR_STATE"}
LOST = "multipath_lost_device_info"
FAULTY = 'ALERTS{alertname="MultipathFaultyPaths",alertstate="firing"}'
RECOVERY = "multipath_last_recovery_timestamp_seconds"
HEALED = f"multipath_in_trouble == 0 unless on (site, job, instance) ({FAULTY} or {LOST})"
RECOVERED = 'ALERTS{alertname="MultipathPathsRecovered",alertstate="firing"}'
OF_A_HOST = f'{{__name__=~"up|multipath_.+",__name__!="{LOST}",job=~"multipath|multipath-kubernetes"}}'


def load(name):
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


class Hosts:
    """Serves `page` to each scrape."""

    def __init__(self, page):
        self.page = page
        hosts = self

        class Page(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write(hosts.page.encode())

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.address = f"127.0.0.1:{server.server_address[1]}"


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Prometheus:
    def __init__(self, directory, config, *flags):
        self.port = free_port()
        directory.mkdir(exist_ok=True)
        hurry = {f"{what}_interval": f"{INTERVAL}s" for what in ("scrape", "evaluation")}
        config["global"] = {**config.get("global", {}), **hurry}
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
        self.log = directory / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["prometheus", f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data",
                 f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn", *flags],
                stdout=log, stderr=log)  # fmt: skip

    def ask(self, path, **parameters):
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with OPENER.open(url, timeout=30) as answer:
            return json.load(answer)["data"]

    def query(self, expression):
        return self.ask("query", query=expression)["result"]

    def hosts(self):
        labels = [target["labels"] for target in self.ask("targets", state="active")["activeTargets"]]
        return {(one["job"], one["instance"], one.get("rack")) for one in labels}

    def names(self):
        """Returns the names of the series that came from both sites, without the server's own
        series."""
        sites = [
            {one["metric"]["__name__"] for one in self.query(f'{{__name__!="",site="{site}"}}')} - SOMETIMES
            for site in SITES
        ]
        return sites[0] if sites[0] == sites[1] else sites

    def counts(self, expression):
        """Returns the number of series of each host in the result."""
        return {
            tuple(one["metric"].get(label) for label in ("site", "job", "instance")): int(one["value"][1])
            for one in self.query(f"count by (site, job, instance) ({expression})")
        }

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def expect(what, wanted, find, servers):
    """Waits until `find` returns the wanted value."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            found = find()
        except OSError as error:
            found = error
        if found == wanted:
            return
        if time.monotonic() > end:
            logs = "\n".join(server.log.read_text() for server in servers)
            sys.exit(f"FAIL {what}: {found!r}\n{logs}")
        time.sleep(0.3)


def scrape_jobs(there):
    files, pods = load("file-sd.yml")["scrape_configs"], load("kubernetes-sd.yml")["scrape_configs"]
    assert len(files) == len(pods) == 1
    del pods[0]["kubernetes_sd_configs"]
    other = {**POD, "__meta_kubernetes_pod_container_port_name": "http", "__meta_kubernetes_pod_node_name": "other"}
    pods[0]["static_configs"] = [{"targets": [there], "labels": POD}, {"targets": [there], "labels": other}]
    files[0]["file_sd_configs"][0]["files"] = ["targets/*.yml"]
    return [*files, *pods]


def edge(scratch, site, hosts, written):
    """Starts the Prometheus of one site, with the configuration of both files. It sends to
    `written`."""
    (remote_write,) = load("remote_write.yml")["remote_write"]
    remote_write["url"] = f"http://127.0.0.1:{written.port}/api/v1/write"
    (scratch / site / "targets").mkdir(parents=True)
    targets = [{"targets": [hosts.address], "labels": {"rack": "b4"}}]
    (scratch / site / "targets/hosts.yml").write_text(yaml.safe_dump(targets), encoding="utf-8")
    (external,) = load("remote_write.yml")["global"]["external_labels"]
    config = {
        "global": {"external_labels": {external: site}},
        "scrape_configs": scrape_jobs(hosts.address),
        "rule_files": [str(ROOT / "alerts/multipath.rules.yml"), str(DEPLOY / "multipath-fleet.rules.yml")],
        "remote_write": [remote_write],
    }
    return Prometheus(scratch / site, config, "--storage.remote.flush-deadline=1s")


def golden_page():
    """Returns the golden page with all four sources (the host of the golden page could not be asked
    for device mapper's), an old recovery, and a lost device."""
    page = (ROOT / "tests/golden/metrics.txt").read_text(encoding="utf-8")
    source = 'multipath_exporter_source_up{source="multipathd"} 1\n'
    assert page.count(source) == 1 and 'source_up{source="dm"}' not in page
    assert f"\n{RECOVERY} " not in page and f"\n{LOST}{{" not in page
    page = page.replace(source, source.replace("multipathd", "dm") + source)
    lost = f'{LOST}{{wwid="3600a1",name="mpatha",kind="dm",vendor="V",product="P",reason="in_use"}} 1\n'
    return f"{page}{RECOVERY} 0\n{lost}"


def healed(page):
    """Returns the same page with all paths valid, and nothing lost."""
    page = re.sub(rf"^{LOST}{{.*\n", "", page, flags=re.M)
    page = re.sub(r"^(multipath_device_valid_paths{.*}) 1$", r"\1 2", page, flags=re.M)
    page = re.sub(
        r"^(multipath_(?:device_(?:failed|missing)_paths{.*}|(?:failed|missing)_paths|degraded_devices|in_trouble)) \d+$",
        r"\1 0", page, flags=re.M)  # fmt: skip
    return page.replace(f"\n{RECOVERY} 0\n", f"\n{RECOVERY} {time.time()}\n")


def main():
    page = golden_page()
    with contextlib.ExitStack() as end:
        scratch = pathlib.Path(end.enter_context(tempfile.TemporaryDirectory(prefix="fleet.")))
        hosts, servers = Hosts(page), []

        def started(server):
            # The last server stops first, because a sender needs its receiver until the end.
            end.callback(server.stop)
            servers.append(server)
            return server

        written = started(Prometheus(scratch / "written", {}, "--web.enable-remote-write-receiver"))
        edges = [started(edge(scratch, site, hosts, written)) for site in SITES]
        federation = load("federation.yml")
        targets = [{"targets": [f"127.0.0.1:{one.port}" for one in edges]}]
        federation["scrape_configs"][0]["static_configs"] = targets
        federated = started(Prometheus(scratch / "federated", {"scrape_configs": federation["scrape_configs"]}))

        wanted = {("multipath", "127.0.0.1", "b4"), ("multipath-kubernetes", "node1", None)}
        for one in edges:
            expect("the hosts that are found", wanted, one.hosts, servers)

        def each(number):
            return {(site, job, instance): number for site in SITES for job, instance, _ in wanted}

        (said,) = map(int, re.findall(r"(\d+) series for each host", (DEPLOY / "README.md").read_text(encoding="utf-8")))
        for what, above in (("sent", written), ("federated", federated)):
            expect(f"what is {what}", ALWAYS, above.names, servers)
            for number, series in ((said, OF_A_HOST), (page.count("multipath_device_info{"), FAULTY), (1, LOST)):
                expect(f"{series} {what}", each(number), functools.partial(above.counts, series), servers)
            print(f"ok    {said} series of each host, its lost devices, and what fires, are {what}")

        hosts.page = healed(page)
        begin = time.monotonic()
        for what, above in (("sent", written), ("federated", federated)):
            for series in (HEALED, RECOVERED):
                expect(f"the end of trouble {what}", each(1), functools.partial(above.counts, series), servers)
            print(f"ok    its end is {what} after {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
