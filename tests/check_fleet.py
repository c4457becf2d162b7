#!/usr/bin/env python3
"""deploy/prometheus in real servers: hosts found as its scrape jobs find them, and what of their series goes up.

Two made-up hosts serve the golden page. A Prometheus scrapes them by both jobs, evaluates the rules of alerts/ and of the fleet,
and sends what remote_write.yml lets through to a second one, which federation.yml has ask for the same. Debian's
Prometheus knows no Kubernetes: its pods are given with the labels that its discovery would give them.
"""
import http.server
import json
import pathlib
import shutil
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
PATIENCE = 90
POD = {
    "__meta_kubernetes_pod_label_app_kubernetes_io_name": "multipath-exporter",
    "__meta_kubernetes_pod_container_port_name": "metrics",
    "__meta_kubernetes_pod_node_name": "node1",
    "__meta_kubernetes_pod_name": "multipath-exporter-x7k2p",
}
# What goes up, by name. What counts the hosts and daemons that are down is absent: none is.
ALWAYS = {
    "up", "multipath_devices", "multipath_degraded_devices", "multipath_devices_without_valid_paths", "multipath_paths",
    "multipath_failed_paths", "multipath_unassembled_wwids", "multipath_daemon_up", "multipath_exporter_build_info",
    "multipath_exporter_source_up", "wwid:multipath_trouble:last", "job:multipath_hosts:count",
    "job:multipath_devices:sum", "job:multipath_degraded_devices:sum",
    "job:multipath_devices_without_valid_paths:sum", "job:multipath_paths:sum", "job:multipath_failed_paths:sum",
    "job:multipath_unassembled_wwids:sum", "ALERTS",
}  # fmt: skip


def load(name):
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


def page_server(page):
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Prometheus:
    def __init__(self, directory, config, *flags):
        self.port = free_port()
        directory.mkdir(exist_ok=True)
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
        self.log = directory / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["prometheus", f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data",
                 f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn", *flags],
                stdout=log, stderr=log)  # fmt: skip

    def ask(self, path, **parameters):
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, expression):
        return self.ask("query", query=expression)["result"]

    def names(self):
        return {one["metric"]["__name__"] for one in self.query('{__name__!=""}')}

    def stop(self):
        self.process.terminate()
        self.process.wait(20)


def eventually(what, servers, check):
    end = time.monotonic() + PATIENCE
    while True:
        try:
            found = check()
        except OSError as error:
            found = error
        if found is True:
            return
        if time.monotonic() > end:
            logs = "\n".join(server.log.read_text() for server in servers)
            sys.exit(f"FAIL {what}: {found!r}\n{logs}")
        time.sleep(0.3)


def scrape_jobs(port):
    files, pods = load("file-sd.yml")["scrape_configs"], load("kubernetes-sd.yml")["scrape_configs"]
    assert len(files) == len(pods) == 1
    del pods[0]["kubernetes_sd_configs"]
    there = f"127.0.0.1:{port}"
    other = {**POD, "__meta_kubernetes_pod_container_port_name": "http", "__meta_kubernetes_pod_node_name": "other"}
    pods[0]["static_configs"] = [{"targets": [there], "labels": POD}, {"targets": [there], "labels": other}]
    files[0]["file_sd_configs"][0]["files"] = ["targets/*.yml"]
    return [*files, *pods]


def main():
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="fleet."))
    servers = []
    try:
        port = page_server((ROOT / "tests/golden/metrics.txt").read_bytes())
        edge = scratch / "edge"
        (edge / "targets").mkdir(parents=True)
        targets = [{"targets": [f"127.0.0.1:{port}"], "labels": {"site": "fra1"}}]
        (edge / "targets/hosts.yml").write_text(yaml.safe_dump(targets), encoding="utf-8")
        federation = load("federation.yml")
        edge_config = {
            "scrape_configs": scrape_jobs(port),
            "rule_files": [str(ROOT / "alerts/multipath.rules.yml"), str(DEPLOY / "multipath-fleet.rules.yml")],
        }
        written = Prometheus(scratch / "written", {}, "--web.enable-remote-write-receiver")
        servers.append(written)
        (remote_write,) = load("remote_write.yml")["remote_write"]
        remote_write["url"] = f"http://127.0.0.1:{written.port}/api/v1/write"
        servers.append(edge_server := Prometheus(edge, {**edge_config, "remote_write": [remote_write]}))
        federation["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{edge_server.port}"]}]
        servers.append(federated := Prometheus(scratch / "federated", federation))

        found = lambda: {  # noqa: E731
            (one["labels"]["job"], one["labels"]["instance"], one["labels"].get("site"))
            for one in edge_server.ask("targets", state="active")["activeTargets"]
        }
        wanted = {("multipath", "127.0.0.1", "fra1"), ("multipath-kubernetes", "node1", None)}
        eventually("the hosts that are found", servers, lambda: found() == wanted or found())
        eventually("both hosts answer", servers, lambda: len(edge_server.query("multipath_devices")) == 2)
        federation_own = {"scrape_duration_seconds", "scrape_samples_scraped", "scrape_series_added",
                          "scrape_samples_post_metric_relabeling"}  # fmt: skip
        eventually("what is sent", servers, lambda: (n := written.names() - {"ALERTS_FOR_STATE"}) == ALWAYS or n)
        eventually("what is federated", servers, lambda: (n := federated.names() - federation_own) == ALWAYS or n)
        every = '{__name__!="",job=~"multipath.*",__name__!~"scrape_.*"}'
        count = lambda server: int(server.query(f"count({every})")[0]["value"][1])  # noqa: E731
        trouble = len(written.query("wwid:multipath_trouble:last"))
        print(f"ok    {count(written)} of {count(edge_server)} series of two hosts with {trouble} devices in trouble are sent")
    finally:
        for server in servers:
            server.stop()
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
