#!/usr/bin/env python3
"""Measures how many of 25,000 alerts reach Alertmanager, with a real Prometheus that has its
default queue or the documented one.

An array fails that 500 hosts use, with 50 devices each. One small server answers for all exporters.
The rules and routes are the real ones. The test fails unless the default queue drops alerts and the
queue of alerts/README.md drops none. `make bench` runs it, because it needs two free processors for
a minute.
"""

import collections
import http.server
import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

from notifications import ALERTS, EXAMPLE, Alertmanager, free_port, program, serve

HOSTS, DEVICES = 500, 50
PATIENCE = 180


def page():
    """Returns what the exporters of all hosts would serve, as far as MultipathFaultyPaths reads
    it."""
    for host in range(HOSTS):
        for device in range(DEVICES):
            labels = f'instance="host{host:03}",wwid="3600a098000aad1e3{host:06}{device:010}"'
            yield f"multipath_device_failed_paths{{{labels}}} 2\n"
            yield f"multipath_device_valid_paths{{{labels}}} 2\n"
            yield f'multipath_device_info{{{labels},name="mpath{device}",kind="dm"}} 1\n'


PAGE = "".join(page()).encode()


class Exporter(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_):
        pass


class Prometheus:
    def __init__(self, scratch, name, alertmanager, exporter, *flags):
        directory = scratch / f"prometheus-{name}"
        directory.mkdir()
        config = {
            "global": {"scrape_interval": "10s", "evaluation_interval": "10s"},
            "rule_files": [str(ALERTS / "multipath.rules.yml")],
            "scrape_configs": [
                {"job_name": "multipath", "honor_labels": True,
                 "static_configs": [{"targets": [f"127.0.0.1:{exporter}"]}]}
            ],
            "alerting": {
                "alertmanagers": [{"static_configs": [{"targets": [alertmanager.removeprefix("http://")]}]}]
            },
        }  # fmt: skip
        (directory / "prometheus.yml").write_text(json.dumps(config))
        self.log = directory / "log"
        self.url = f"http://127.0.0.1:{free_port()}"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [program("prometheus"), f"--config.file={directory}/prometheus.yml",
                 f"--storage.tsdb.path={directory}/data", f"--web.listen-address={self.url.removeprefix('http://')}",
                 "--scrape.discovery-reload-interval=100ms", "--log.level=warn", *flags],
                stdout=log, stderr=log)  # fmt: skip

    def number(self, metric):
        """Returns one of Prometheus' own metrics, or None until it exists."""
        try:
            with urllib.request.urlopen(f"{self.url}/metrics", timeout=PATIENCE) as answer:
                found = re.search(rf"^{metric}(?:{{[^}}]*}})? (.*)$", answer.read().decode(), re.M)
        except OSError:
            assert self.process.poll() is None, self.log.read_text()
            return None
        return float(found[1]) if found else None

    def stop(self):
        # Without this Prometheus would finish its evaluation.
        self.process.kill()
        self.process.wait()


def wait_for(what, look):
    end = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < end, f"there is still no {what}"
        time.sleep(0.5)
    return found


def documented():
    """Returns the recommendation of alerts/README.md: the flag of Prometheus, and the routes with
    another time."""
    readme = (ALERTS / "README.md").read_text(encoding="utf-8")
    flag = re.search(r"^--alertmanager\.notification-queue-capacity=\d+$", readme, re.M)[0]
    group_wait = re.search(r"With\s+`(group_wait: \d+s)`", readme)[1]
    text = EXAMPLE
    for there, here in (
        ("\n          group_wait: 5s", f"\n          {group_wait}"),
        ("multipath-email ", "multipath-webhook "),
    ):
        assert text.count(there) == 1, f"alertmanager.yml has not one {there}"
        text = text.replace(there, here)
    return flag, text


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="many-alerts."))
    exporter = serve(http.server.ThreadingHTTPServer, Exporter)
    running = []

    flag, text = documented()

    def start(name, *flags):
        alertmanager = Alertmanager(scratch, name, text=text)
        running.append(alertmanager)
        alertmanager.ready()
        running.append(Prometheus(scratch, name, alertmanager.url, exporter, *flags))
        return running

    def stop():
        while running:
            running.pop().stop()

    sent, dropped = "prometheus_notifications_sent_total", "prometheus_notifications_dropped_total"
    try:
        begin = time.monotonic()
        _, prometheus = start("default")
        lost = wait_for("alert that is dropped", lambda: prometheus.number(dropped))
        took = time.monotonic() - begin
        print(f"after {took:.0f} s {lost:.0f} of {HOSTS * DEVICES} alerts dropped with the default queue", flush=True)
        stop()

        alertmanager, prometheus = start("documented", flag)
        first = wait_for("alert that is sent", lambda: prometheus.number(sent) and time.monotonic())
        wait_for("alert that is sent last", lambda: prometheus.number(sent) >= HOSTS * DEVICES)
        took = time.monotonic() - first
        seen = alertmanager.json("/api/v2/alerts")
        known = sum(one["labels"]["alertname"] == "MultipathFaultyPaths" for one in seen)
        print(f"{known} known after {took:.0f} s with {flag}, {time.monotonic() - begin:.0f} s", flush=True)
        assert (known, prometheus.number(dropped)) == (HOSTS * DEVICES, 0)

        def sizes():
            with alertmanager.inbox.changed:
                bodies = [body for all_ in alertmanager.inbox.arrived.values() for body in all_]
            return collections.Counter(len(body["alerts"]) for body in bodies)

        wait_for("message of every host", lambda: sizes().total() >= HOSTS)
        # Fewer if an evaluation takes longer than group_wait, as on a busy machine.
        whole = sizes()[DEVICES]
        print(f"{whole} of {sizes().total()} first messages name all {DEVICES} devices, {time.monotonic() - begin:.0f} s")
    finally:
        stop()
        shutil.rmtree(scratch)


if __name__ == "__main__":
    sys.exit(main())
