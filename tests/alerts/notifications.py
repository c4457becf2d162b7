#!/usr/bin/env python3
"""Tests the messages that people get: a real Alertmanager with alerts/alertmanager.yml, and the
mail, Slack and webhook messages that it sends.

    notifications.py [--keep DIRECTORY] [SCENARIO ...]

Alerts are posted as Prometheus posts them. Firing alerts are sent repeatedly, and so are resolved
alerts, for a quarter of an hour. Only the addresses of the configuration are replaced. Every time
is divided by fifty, in the configuration and here, so the test also covers the ratio of times
(group_interval and Prometheus' repeated sending). The scenarios run at the same time, each on its
own hosts. With --keep, every mail is kept in that directory for inspection.
"""

import argparse
import collections
import datetime
import email
import email.policy
import http.server
import itertools
import json
import os
import pathlib
import re
import shutil
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import urllib.request

import yaml

ALERTS = pathlib.Path(__file__).resolve().parents[2] / "alerts"
FASTER = 50
EVALUATION = 15 / FASTER  # evaluation_interval of alerts/prometheus.yml
RESEND = 4  # --rules.alert.resend-delay, 1m, in evaluations; Prometheus sends again at the first one after it
RETENTION = 60  # in evaluations: resolved alerts are sent for 15 minutes
LIFETIME = 240 / FASTER  # an alert ends this long after Prometheus sent it last: 4 × the resend delay
PATIENCE = 20  # seconds after which an expected message counts as missing

PACKAGE = tomllib.loads((pathlib.Path(__file__).parents[2] / "Cargo.toml").read_text())["package"]
RUNBOOKS = PACKAGE["repository"] + "/blob/main/alerts/runbooks"

A, B, C, D = (f"3600a098000aad1e3000064e45f2c23{i}" for i in (50, 51, 52, 53))


# The alerts --------------------------------------------------------------------------------------

# oVirt's sentences and similar ones. These alerts have no summary.
PROBLEMS = {
    "NoValidPaths": ("Multipath devices without valid paths on host {}: [{}]", "I/O to it fails."),
    "NoValidPathsUnused": ("Multipath devices without valid paths on host {}: [{}]", "Nothing uses it."),
    "DeviceInUseLost": ("Lost multipath devices on host {}: [{}]", "It was in use and is gone."),
    "DeviceLost": ("Lost multipath devices on host {}: [{}]", "It had no valid path when it went."),
    "FaultyPaths": ("Faulty multipath paths on host {} on devices: [{}]", "Failed paths: 1."),
    "PathsMissing": ("Missing multipath paths on host {} on devices: [{}]", "Missing paths: 1."),
}
RECOVERED = "PathsRecovered"
CRITICAL = """NoValidPaths DeviceInUseLost SinglePath AllPathsBlocked IoStalled QueueingWithoutPaths DeviceSuspended
WwidMismatch LunConflict IscsiBondDown""".split()
INFO = [RECOVERED, "NeverRedundant", "FewerPathsThanOtherHosts"]
DEVICE = """SinglePath NotRedundant NeverRedundant FewerPathsThanOtherHosts PathFlapping PathMarginal PathErrors
AllPathsBlocked IoStalled QueueingWithoutPaths DeviceSuspended NonOptimizedPath StateDisagreement SizeMismatch
ReadOnlyMismatch WwidMismatch LunConflict LunMismatch StrayPath DiskUsedDirectly NotAssembled""".split()
ISCSI = {"target": "iqn.2024-01.org.example:a", "target_port": "192.0.2.1:3260", "initiator_port": "eth1"}
FC = {"initiator_port": "0x10000090fa0001a0"}
TRANSPORT = {
    "IscsiSessionDown": ISCSI | {"session": "session1"},
    "IscsiSessionFlapping": ISCSI,
    "SessionWithoutPath": ISCSI | {"session": "session1"},
    "IscsiBondNetworkDown": {"bond": "storage", "network": "eth1"},
    "IscsiBondDown": {"bond": "storage"},
    "FcHostPortDown": FC,
    "FcRemotePortDown": FC | {"target_port": "0x500a098000aad1e3"},
    "NvmeControllerDown": ISCSI | {"controller": "nvme0"},
    "NvmeNamespaceUnreachable": {"target": "nqn.2024-01.org.example:a"},
}
REST = {
    "DaemonDown": {},
    "DaemonBlocked": {},
    "ExporterDown": {},
    "ExporterStale": {"source": "sysfs"},
    "ExporterErrors": {"source": "sysfs"},
}
NAMES = [*PROBLEMS, RECOVERED, *DEVICE, *TRANSPORT, *REST]

# Source and target of each inhibition, and the label that both must share. No other pair is
# silenced.
NUMBER = {"NotRedundant", "NeverRedundant", "FewerPathsThanOtherHosts"}
NO_PATH = NUMBER | {"PathsMissing", "PathFlapping", "PathMarginal", "PathErrors", "NonOptimizedPath",
                    "StateDisagreement"}  # fmt: skip
SILENCES = {
    (source, target): label
    for source, label, targets in [
        ("NoValidPaths", "wwid", NO_PATH),
        ("NoValidPathsUnused", "wwid", NO_PATH),
        ("DeviceInUseLost", "wwid", {"PathsMissing", "PathFlapping", "PathErrors"}),
        ("DeviceLost", "wwid", {"PathsMissing", "PathFlapping", "PathErrors"}),
        ("FaultyPaths", "wwid", {"PathFlapping", "PathErrors", "NeverRedundant", "FewerPathsThanOtherHosts"}),
        ("SinglePath", "wwid", NUMBER | {"PathsMissing"}),
        ("PathsMissing", "wwid", NUMBER),
        ("WwidMismatch", "wwid", {"SizeMismatch", "ReadOnlyMismatch"}),
        ("LunConflict", "wwid", {"LunMismatch"}),
        ("FcHostPortDown", "initiator_port", {"FcRemotePortDown"}),
        ("IscsiBondDown", "bond", {"IscsiBondNetworkDown"}),
        ("DaemonDown", "instance", {"DaemonBlocked"}),
    ]
    for target in targets
}
# These alerts must reach people, whatever else fires.
NEVER_SILENCED = {"FaultyPaths", "NoValidPaths", "NoValidPathsUnused", RECOVERED, "DeviceInUseLost", "WwidMismatch",
                  "LunConflict", "DiskUsedDirectly", "IoStalled"}  # fmt: skip


def severity(name):
    return "critical" if name in CRITICAL else "info" if name in INFO else "warning"


def alert(host, name, wwid=A, alias="mpatha", **labels):
    """Returns an alert as the rules make it."""
    full = f"Multipath{name}"
    labels = {"alertname": full, "job": "multipath", "instance": host, "severity": severity(name)} | labels
    annotations = {"runbook_url": f"{RUNBOOKS}/{full}.md"}
    if name == RECOVERED:
        annotations["description"] = f"No faulty multipath paths on host {host}."
    elif name in PROBLEMS:
        sentence, rest = PROBLEMS[name]
        annotations["description"] = f"{sentence.format(host, f'{wwid} ({alias})')}. {rest}"
    else:
        annotations["summary"] = f"About {name}."
        annotations["description"] = f"{f'Device {wwid} on host ' if name in DEVICE else ''}{host}: {name}."
    if name in PROBLEMS or name in DEVICE:
        labels["wwid"] = wwid
    labels = TRANSPORT.get(name, {}) | REST.get(name, {}) | labels
    return {"labels": labels, "annotations": annotations}


class Prometheus:
    """Sends alerts like Prometheus' rule manager: (*AlertingRule).sendAlerts and its notifier."""

    def __init__(self, url, lifetime):
        self.url, self.lifetime = url, datetime.timedelta(seconds=lifetime)
        self.lock = threading.Lock()
        self.alerts = {}
        self.tick = 0
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def set(self, firing=(), resolved=()):
        """Sets the results of the next evaluation."""
        with self.lock:
            for one in firing:
                self.alerts[json.dumps(one["labels"], sort_keys=True)] = {"alert": one, "resolved": None, "sent": None}
            for one in resolved:
                self.alerts[json.dumps(one["labels"], sort_keys=True)] |= {"resolved": self.tick + 1, "sent": None}

    def stop(self):
        self.stopped.set()
        if self.thread.ident:
            self.thread.join()

    def run(self):
        begin = time.monotonic()
        while not self.stopped.wait(max(0, begin + (self.tick + 1) * EVALUATION - time.monotonic())):
            self.evaluate()

    def evaluate(self):
        now = datetime.datetime.now(datetime.timezone.utc)
        with self.lock:
            self.tick += 1
            due = []
            for key, state in list(self.alerts.items()):
                if state["resolved"] is not None and self.tick - state["resolved"] > RETENTION:
                    del self.alerts[key]
                elif state["sent"] is None or self.tick > state["sent"] + RESEND:
                    state["sent"] = self.tick
                    # The time of firing. Alertmanager does not wait for group_wait with alerts that
                    # are older than that.
                    state.setdefault("began", now)
                    if state["resolved"] is not None:
                        state.setdefault("ended", now)
                    due.append(
                        {
                            **state["alert"],
                            "startsAt": state["began"].isoformat(),
                            "endsAt": state.get("ended", now + self.lifetime).isoformat(),
                        }
                    )
        for i in range(0, len(due), 64):
            post(self.url, due[i : i + 64])


def post(url, alerts):
    body = json.dumps(alerts).encode()
    request = urllib.request.Request(f"{url}/api/v2/alerts", body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=10).close()


# Receivers ---------------------------------------------------------------------------------------


class Inbox:
    """Stores the messages by medium and by subject."""

    def __init__(self):
        self.changed = threading.Condition()
        self.arrived = collections.defaultdict(list)

    def put(self, medium, about, what):
        with self.changed:
            self.arrived[medium, about].append(what)
            self.changed.notify_all()

    def get(self, medium, about, number):
        with self.changed:
            if not self.changed.wait_for(lambda: len(self.arrived[medium, about]) > number, PATIENCE):
                raise AssertionError(f"no {medium} number {number + 1} about {about}")
            return self.arrived[medium, about][number]

    def count(self, medium, about):
        with self.changed:
            return len(self.arrived[medium, about])


def about(subject):
    """Returns the host that a subject names, with its cluster. The recovery of a host is a subject
    of its own."""
    cluster, host = re.search(r"\] Cluster ([\w-]+): ", subject), re.search(r"[Hh]ost ([\w.:[\]-]*[\w\]])", subject)
    whom = host[1] if host else "nowhere"
    whom = f"{cluster[1]}-{whom}" if cluster else whom
    return f"{whom}-recovered" if "No faulty" in subject else whom


Mail = collections.namedtuple("Mail", "subject text")


def smtp_sink(inbox, keep):
    class Session(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(b"220 sink\r\n")
            while line := self.rfile.readline():
                verb = line.split()[0].upper()
                if verb == b"DATA":
                    self.wfile.write(b"354 go on\r\n")
                    data = b""
                    while (line := self.rfile.readline()) != b".\r\n":
                        data += line.removeprefix(b".") if line.startswith(b"..") else line
                    self.take(email.message_from_bytes(data, policy=email.policy.default))
                self.wfile.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 ok\r\n")
                if verb == b"QUIT":
                    return

        def take(self, message):
            (part,) = message.iter_parts()
            mail = Mail(message["Subject"], part.get_content().replace("\r\n", "\n"))
            whom = about(mail.subject)
            if keep:
                name = f"{whom}-{inbox.count('mail', whom) + 1}"
                (keep / f"{name}.txt").write_text(f"{mail.subject}\n\n{mail.text}", encoding="utf-8")
            inbox.put("mail", whom, mail)

    return serve(socketserver.ThreadingTCPServer, Session)


def http_sink(inbox):
    class Request(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/slack":
                (attachment,) = body["attachments"]
                inbox.put("slack", about(attachment["title"]), attachment | {"channel": body["channel"]})
            else:
                labels = body["groupLabels"]
                whom = labels.get("instance", "nowhere")
                whom = f"{labels['cluster']}-{whom}" if "cluster" in labels else whom
                is_recovery = body["commonLabels"].get("alertname") == f"Multipath{RECOVERED}"
                inbox.put("webhook", f"{whom}-recovered" if is_recovery else whom, body)
            # Slack answers like this. Newer Alertmanagers treat any other response as a failure.
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_):
            pass

    return serve(http.server.ThreadingHTTPServer, Request)


def serve(kind, handler):
    class Server(kind):
        daemon_threads = True
        # With the default of socketserver, 5, the kernel resets a connection when many groups are
        # sent at once.
        request_queue_size = 1024

    server = Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


# Alertmanager ------------------------------------------------------------------------------------


def faster(configuration, times=FASTER):
    """Divides every time by fifty."""

    def shorten(found):
        seconds = int(found[2]) * {"s": 1, "m": 60, "h": 3600}[found[3]]
        return f"{found[1]}{seconds * 1000 // times}ms"

    return re.sub(r"(group_wait: |group_interval: |repeat_interval: )(\d+)([smh])\b", shorten, configuration)


EXAMPLE = (ALERTS / "alertmanager.yml").read_text(encoding="utf-8")


class Alertmanager:
    """An Alertmanager with this configuration, changed by `finish`."""

    def __init__(self, scratch, name, keep=None, text=faster(EXAMPLE), finish=lambda config: None):
        self.inbox = Inbox()
        smtp, web, port = smtp_sink(self.inbox, keep), http_sink(self.inbox), free_port()
        self.directory = scratch / name
        self.directory.mkdir()
        (self.directory / "slack-url").write_text(f"http://127.0.0.1:{web}/slack\n")
        for there, here in (
            ("smtp_smarthost: localhost:25", f"smtp_smarthost: 127.0.0.1:{smtp}"),
            ("/etc/prometheus/multipath-slack-url", str(self.directory / "slack-url")),
            ("http://localhost:9095/", f"http://127.0.0.1:{web}/"),
            ("[multipath.tmpl]", f"[{ALERTS}/multipath.tmpl]"),
        ):
            assert EXAMPLE.count(there) == 1, f"alertmanager.yml has not one {there}"
            text = text.replace(there, here)
        config = yaml.safe_load(text)
        finish(config)
        (self.directory / "alertmanager.yml").write_text(yaml.safe_dump(config))
        self.log = self.directory / "log"
        self.url = f"http://127.0.0.1:{port}"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [program("prometheus-alertmanager", "alertmanager"), f"--config.file={self.directory}/alertmanager.yml",
                 f"--storage.path={self.directory}/data", f"--web.listen-address=127.0.0.1:{port}",
                 "--web.external-url=http://alertmanager.example:9093", "--cluster.listen-address=",
                 "--log.level=warn"], stdout=log, stderr=log)  # fmt: skip
        # Much longer than Prometheus' lifetime: a busy machine must not end the alerts.
        self.prometheus = Prometheus(self.url, 100 * LIFETIME)

    def ready(self):
        end = time.monotonic() + PATIENCE
        while True:
            try:
                self.get("/-/ready")
                break
            except OSError:
                assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
                time.sleep(0.02)
        self.prometheus.thread.start()

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=PATIENCE) as answer:
            return answer.read()

    def json(self, path):
        return json.loads(self.get(path))

    def stop(self):
        self.prometheus.stop()
        self.process.terminate()
        self.process.wait(10)

    def settled(self, alerts, expected):
        """Posts these alerts, and waits until Alertmanager holds all of them, and those in
        `expected`, as (host, name), are inhibited."""
        for i in range(0, len(alerts), 64):
            post(self.url, alerts[i : i + 64])
        end = time.monotonic() + PATIENCE
        while True:
            seen = self.json("/api/v2/alerts")
            silenced = {(o["labels"]["instance"], short(o)) for o in seen if o["status"]["inhibitedBy"]}
            if len(seen) == len(alerts) and silenced == expected:
                return
            assert time.monotonic() < end, (len(seen), len(alerts), sorted(silenced ^ expected))
            time.sleep(0.1)

    def groups(self):
        """Returns the receivers and the labels of the groups for each alert name."""
        by = collections.defaultdict(set)
        for group in self.json("/api/v2/alerts/groups"):
            for one in group["alerts"]:
                by[short(one)].add((group["receiver"]["name"], tuple(sorted(group["labels"]))))
        return by


def short(one):
    return one["labels"]["alertname"].removeprefix("Multipath")


def program(*names):
    binary = next(filter(None, map(shutil.which, names)), None)
    assert binary, f"there is no {names[0]}"
    return binary


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def everyone(config):
    """Keeps two receivers that have mail, Slack and webhook: the one for mail, and the one for the
    recovery."""
    receivers = {receiver["name"]: receiver for receiver in config["receivers"]}
    kinds = {"email": "multipath-email", "slack": "multipath-slack", "webhook": "multipath-webhook"}
    configs = {f"{kind}_configs": receivers[name][f"{kind}_configs"] for kind, name in kinds.items()}
    receivers["multipath-email"].update(configs)
    (mail,) = receivers["multipath-recovered"]["email_configs"]
    quiet = {kind: [one | {"send_resolved": mail["send_resolved"]} for one in all_] for kind, all_ in configs.items()}
    receivers["multipath-recovered"].update(quiet)


def mute(config):
    """Removes all media from all receivers."""
    config["receivers"] = [{"name": receiver["name"]} for receiver in config["receivers"]]


def with_pager():
    """Slack replaces mail, the pager's route is in force, and the reminder comes after seconds
    instead of a day."""
    text, times = re.subn(r"receiver: multipath-email ", "receiver: multipath-slack ", EXAMPLE)
    assert times == 1
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("    # - matchers: "))
    last = next(i for i in range(first, len(lines)) if lines[i].strip() == "#   continue: true")
    lines[first : last + 1] = [line.replace("# ", "", 1) for line in lines[first : last + 1]]
    return faster("\n".join(lines).replace("repeat_interval: 24h", f"repeat_interval: {6 * FASTER}s"))


# The configurations to merge with ----------------------------------------------------------------

# Debian's /etc/prometheus/alertmanager.yml, without addresses.
DEBIAN = """
templates: ['/etc/prometheus/alertmanager_templates/*.tmpl']
route:
  group_by: [alertname, cluster, service]
  group_wait: 30s
  group_interval: 5m
  repeat_interval: 3h
  receiver: team-X-mails
  routes:
    - match_re: {service: ^(foo1|foo2|baz)$}
      receiver: team-X-mails
      routes:
        - match: {severity: critical}
          receiver: team-X-pager
    - match: {service: files}
      receiver: team-Y-mails
      routes:
        - match: {severity: critical}
          receiver: team-Y-pager
    - match: {service: database}
      receiver: team-DB-pager
      group_by: [alertname, cluster, database]
inhibit_rules:
  - source_match: {severity: critical}
    target_match: {severity: warning}
    equal: [alertname, cluster, service]
receivers:
  [{name: team-X-mails}, {name: team-X-pager}, {name: team-Y-mails}, {name: team-Y-pager}, {name: team-DB-pager}]
"""
# kube-prometheus' alertmanager-secret.yaml.
KUBE = """
inhibit_rules:
  - source_matchers: ['severity = critical']
    target_matchers: ['severity =~ warning|info']
    equal: [namespace, alertname]
  - source_matchers: ['severity = warning']
    target_matchers: ['severity = info']
    equal: [namespace, alertname]
  - source_matchers: ['alertname = InfoInhibitor']
    target_matchers: ['severity = info']
    equal: [namespace]
route:
  group_by: [namespace]
  group_wait: 30s
  group_interval: 5m
  repeat_interval: 12h
  receiver: Default
  routes:
    - {matchers: ['alertname = Watchdog'], receiver: Watchdog}
    - {matchers: ['alertname = InfoInhibitor'], receiver: 'null'}
    - {matchers: ['severity = critical'], receiver: Critical}
receivers: [{name: Default}, {name: Watchdog}, {name: Critical}, {name: 'null'}]
"""


def merged(config):
    """Returns an existing configuration with the exporter's merged into it, as alerts/README.md
    describes."""
    config, ours = yaml.safe_load(config), yaml.safe_load(faster(EXAMPLE))
    config["templates"] = config.get("templates", []) + ours["templates"]
    config["route"]["routes"][:0] = ours["route"]["routes"]
    added = [receiver for receiver in ours["receivers"] if receiver["name"].startswith("multipath-")]
    assert len(added) == len(ours["receivers"]) - 1, "a receiver whose name may be another's"
    config["receivers"] += added
    config["inhibit_rules"] += ours["inhibit_rules"]
    return config


def foreign():
    """Returns alerts of others, with every label that the two configurations and the exporter's
    configuration use."""
    values = {
        "alertname": ["Disk", "Watchdog", "InfoInhibitor", "NodeMultipathThing"],
        "severity": ["critical", "warning", "info"],
        "service": ["files", "database", None],
        "instance": ["db01"],
        "job": ["multipath"],
        "wwid": [A],
        "namespace": ["monitoring", None],
    }
    for labels in itertools.product(*values.values()):
        labels = {name: value for name, value in zip(values, labels) if value is not None}
        yield {"labels": labels, "annotations": {}}


# The scenarios -----------------------------------------------------------------------------------


class Told:
    """The notifications about one host, one after the other."""

    def __init__(self, alertmanager, whom):
        self.alertmanager, self.inbox, self.whom, self.number = alertmanager, alertmanager.inbox, whom, 0

    def set(self, firing=(), resolved=()):
        self.alertmanager.prometheus.set(firing, resolved)

    def next(self, subject, *sentences, color):
        """Checks the next notification in every medium."""
        mail, slack, webhook = (
            self.inbox.get(medium, self.whom, self.number) for medium in ("mail", "slack", "webhook")
        )
        self.number += 1
        since = r"Since (....-..-.. ..:..) UTC\."
        if began := re.search(since, mail.text):
            equal(began[1] in {one["startsAt"][:16].replace("T", " ") for one in webhook["alerts"]}, True)
        text = re.sub(since, "Since THEN.", mail.text)
        said = [section.split("\n")[0] for section in text.strip().split("\n\n")]
        equal(mail.subject, subject)
        equal(said[-1].startswith("Alertmanager: http://alertmanager.example:9093/#/alerts"), True)
        hint = [HINT] if any(sentence.startswith("No longer firing") for sentence in sentences) else []
        equal(said[:-1], [*sentences, *hint])
        equal(slack["title"], subject)
        equal(slack["fallback"], subject)
        equal(re.sub(since, "Since THEN.", slack["text"]).strip(), text.strip())
        equal(slack["color"], color)
        equal(webhook["status"], "resolved" if color == GREY else "firing")
        return text, slack, webhook

    def nothing_more(self):
        """Checks that no messages were sent after those that `next` has read."""
        counts = {medium: self.inbox.count(medium, self.whom) for medium in ("mail", "slack", "webhook")}
        for medium, count in counts.items():
            if count != self.number:
                last = self.inbox.get(medium, self.whom, count - 1) if count else None
                wrong = f"{count} × {medium} about {self.whom}, expected {self.number}; the last: {last}"
                raise AssertionError(wrong[:1000])


HINT = "An alert that ends is no recovery. It also ends if another takes its place, or if Prometheus stops."
GREY = "#9e9e9e"


def equal(is_, should):
    if is_ != should:
        raise AssertionError(f"\n  is     {is_!r}\n  should {should!r}")


def faulty(host, *wwids):
    return f"Faulty multipath paths on host {host} on devices: [{', '.join(wwids)}]"


def dead(host, *wwids):
    return f"Multipath devices without valid paths on host {host}: [{', '.join(wwids)}]"


def lost(host, *wwids):
    return f"Lost multipath devices on host {host}: [{', '.join(wwids)}]"


def missing(host, *wwids):
    return f"Missing multipath paths on host {host} on devices: [{', '.join(wwids)}]"


def over(host, name, *wwids):
    return f"No longer firing on host {host}: Multipath{name}" + (f": [{', '.join(wwids)}]" if wwids else "")


def well(host):
    return f"No faulty multipath paths on host {host}."


def of(name, host, *wwids, **labels):
    return [alert(host, name, wwid, **labels) for wwid in wwids]


def link(host):
    return f"Alertmanager: http://alertmanager.example:9093/#/alerts?filter=%7Binstance%3D%22{host}%22%7D\n"


def one_degraded(on):
    host, recovered = on("one-degraded"), on("one-degraded-recovered")
    host.set(of("FaultyPaths", host.whom, A))
    text, slack, webhook = host.next(
        "[WARNING] Faulty multipath paths on host one-degraded on devices", faulty(host.whom, A), color="warning"
    )
    equal(
        text,
        f"""Faulty multipath paths on host one-degraded on devices: [{A}]
- {A} (mpatha): Failed paths: 1. Since THEN.
{RUNBOOKS}/MultipathFaultyPaths.md

{link(host.whom)}""",
    )
    equal(slack["channel"], "#storage")
    (one,) = webhook["alerts"]
    equal(one["annotations"].keys(), {"description", "runbook_url"})
    recovery = alert(host.whom, RECOVERED)
    host.set([recovery], of("FaultyPaths", host.whom, A))
    text, *_ = recovered.next(
        "[INFO] No faulty multipath paths on host one-degraded.", well(host.whom), color="good"
    )
    equal(text, f"{well(host.whom)}\n{RUNBOOKS}/MultipathPathsRecovered.md\n\n{link(host.whom)}")
    # This is in the middle of the other group's interval.
    host.nothing_more()
    text, *_ = host.next(
        f"[ENDED] {over(host.whom, 'FaultyPaths')}", over(host.whom, "FaultyPaths", A), color=GREY
    )
    equal(text, f"{over(host.whom, 'FaultyPaths', A)}\n\n{HINT}\n\n{link(host.whom)}")
    host.set(resolved=[recovery])


def two_degraded_one_dead(on):
    host = on("two-and-one")
    host.set(of("FaultyPaths", host.whom, A, B) + of("NoValidPaths", host.whom, C))
    text, *_ = host.next(
        "[CRITICAL] Multipath devices without valid paths on host two-and-one (and 2 more)",
        dead(host.whom, C),
        faulty(host.whom, A, B),
        color="danger",
    )
    equal(text.count(RUNBOOKS), 2)


def two_clusters_one_host(on):
    """Same host name, same device: one message per cluster. Only its heading names the cluster."""
    for cluster in ("a", "b"):
        on(f"{cluster}-twin").set(of("FaultyPaths", "twin", A, cluster=cluster))
    for cluster in ("a", "b"):
        told = on(f"{cluster}-twin")
        subject = f"[WARNING] Cluster {cluster}: Faulty multipath paths on host twin on devices"
        text, _, webhook = told.next(subject, faulty("twin", A), color="warning")
        equal([one["labels"]["cluster"] for one in webhook["alerts"]], [cluster])
    on("a-twin").set(resolved=of("FaultyPaths", "twin", A, cluster="a"))
    subject = f"[ENDED] Cluster a: {over('twin', 'FaultyPaths')}"
    on("a-twin").next(subject, over("twin", "FaultyPaths", A), color=GREY)


def worse_and_better(on):
    host = on("worse-and-better")
    worse = "[CRITICAL] Multipath devices without valid paths on host worse-and-better"
    better = "[WARNING] Faulty multipath paths on host worse-and-better on devices"
    host.set(of("FaultyPaths", host.whom, A))
    host.next(better, faulty(host.whom, A), color="warning")
    for _ in range(2):
        host.set(of("NoValidPaths", host.whom, A), of("FaultyPaths", host.whom, A))
        host.next(worse, dead(host.whom, A), over(host.whom, "FaultyPaths", A), color="danger")
        host.set(of("FaultyPaths", host.whom, A), of("NoValidPaths", host.whom, A))
        host.next(better, faulty(host.whom, A), over(host.whom, "NoValidPaths", A), color="warning")


def no_change_no_word(on):
    host = on("unchanged")
    host.set(of("FaultyPaths", host.whom, A, B))
    subject = "[WARNING] Faulty multipath paths on host unchanged on devices (and 1 more)"
    host.next(subject, faulty(host.whom, A, B), color="warning")
    time.sleep(6 * 90 / FASTER)
    host.nothing_more()


def one_after_the_other(on):
    """The alerts end one by one while another one stays. Prometheus' repeated sending of the ended
    alerts must not cause messages."""
    host = on("one-by-one")
    subject = "[WARNING] Faulty multipath paths on host one-by-one on devices"
    host.set(of("FaultyPaths", host.whom, A, B, C, D))
    host.next(f"{subject} (and 3 more)", faulty(host.whom, A, B, C, D), color="warning")
    for gone, *left in ([A, B, C, D], [B, C, D], [C, D]):
        host.set(resolved=of("FaultyPaths", host.whom, gone))
        more = f" (and {len(left) - 1} more)" if left[1:] else ""
        said = ended_lately(host, 3 - len(left))
        host.next(subject + more, faulty(host.whom, *left), over(host.whom, "FaultyPaths", *said), color="warning")
    time.sleep(RETENTION * EVALUATION / 2)
    host.nothing_more()


def ended_lately(host, before):
    """Returns the ended alerts of the next message: the last of A, B, C, and earlier ones that
    Prometheus has sent again."""
    webhook = host.inbox.get("webhook", host.whom, host.number)
    wwids = [one["labels"]["wwid"] for one in webhook["alerts"] if one["status"] == "resolved"]
    equal((set(wwids) <= {A, B, C}, [A, B, C][before] in wwids), (True, True))
    return wwids


def lost_and_missing(on):
    host = on("lost-and-missing")
    host.set(
        of("DeviceInUseLost", host.whom, A, reason="in_use")
        + of("DeviceLost", host.whom, B, reason="no_valid_path")
        + of("PathsMissing", host.whom, C)
        + of("NoValidPathsUnused", host.whom, D)
    )
    host.next(
        "[CRITICAL] Lost multipath devices on host lost-and-missing (and 3 more)",
        lost(host.whom, A),
        dead(host.whom, D),
        missing(host.whom, C),
        lost(host.whom, B),
        color="danger",
    )


def standby_beside_failed(on):
    """An alert with one additional label has its own section, and no text is repeated."""
    host = on("standby")
    host.set(of("NoValidPaths", host.whom, A) + of("NoValidPaths", host.whom, B, paths="standby"))
    host.set(of("QueueingWithoutPaths", host.whom, A))
    subject = "[CRITICAL] Multipath devices without valid paths on host standby (and 1 more)"
    sections = {tuple(text.split("\n\n")[:-1]) for text in (host.inbox.get("mail", host.whom, n).text for n in (0, 1))}
    equal(sorted(len(one) for one in sections), [1, 2])
    equal(subject in {host.inbox.get("mail", host.whom, n).subject for n in (0, 1)}, True)
    host.number = 2


def odd_wwid(on):
    """No character of a WWID or of an IPv6 address has a meaning in a template, and no device is
    named twice."""
    host = on("[2001:db8::5]:10056")
    odd = "1ATA_(+[*<b>&\"x\\"
    host.set(of("PathsMissing", host.whom, odd))
    subject = f"[WARNING] Missing multipath paths on host {host.whom} on devices"
    text, *_ = host.next(subject, missing(host.whom, odd), color="warning")
    equal(text.split("\n")[1], f"- {odd} (mpatha): Missing paths: 1. Since THEN.")
    host.set(resolved=of("PathsMissing", host.whom, odd))
    host.next(f"[ENDED] {over(host.whom, 'PathsMissing')}", over(host.whom, "PathsMissing", odd), color=GREY)


def fabric_outage(on):
    """Every host of a fabric has one message about all its devices, and one about all failures on
    the way to them."""
    hosts = [on(f"fabric-{i:02}") for i in range(20)]
    wwids = [f"3600a098000aad1e3000064e45f2c2{i:03}" for i in range(50)]
    ports = [f"0x500a098000aad1e{i}" for i in range(8)]
    for host in hosts:
        host.set(of("FaultyPaths", host.whom, *wwids))
    for host in hosts:
        subject = f"[WARNING] Faulty multipath paths on host {host.whom} on devices (and 49 more)"
        text, _, webhook = host.next(subject, faulty(host.whom, *wwids), color="warning")
        equal(len(webhook["alerts"]), 50)
        details = text.split("\n\n")[0].split("\n")
        equal(details[1], f"- {wwids[0]} (mpatha): Failed paths: 1. Since THEN.")
        equal([len(details), details[-2]], [13, "- and 40 more"])
    for host in hosts:
        host.set(
            [alert(host.whom, "FcRemotePortDown", target_port=port, initiator_port="0x2") for port in ports]
            + [alert(host.whom, "FcHostPortDown")]
            + [alert(host.whom, "NvmeControllerDown", controller=f"nvme{i}") for i in range(4)]
            + [alert(host.whom, "IscsiSessionDown", session=f"session{i}") for i in range(4)]
        )
    for host in hosts:
        host.next(
            f"[WARNING] Host {host.whom}: About FcHostPortDown. (and 16 more)",
            *(f"Host {host.whom}: About {name}." for name in
              ("FcHostPortDown", "FcRemotePortDown", "IscsiSessionDown", "NvmeControllerDown")),
            color="warning",
        )  # fmt: skip


def critical_does_not_wait(on):
    """A critical alert has its own message beside the host's warnings."""
    host = on("both")
    host.set([alert(host.whom, "DaemonDown")])
    host.next("[WARNING] Host both: About DaemonDown.", "Host both: About DaemonDown.", color="warning")
    host.set(of("SinglePath", host.whom, A, B))
    text, *_ = host.next(
        "[CRITICAL] Host both: About SinglePath. (and 1 more)", "Host both: About SinglePath.", color="danger"
    )
    equal(
        text.split("\n\n")[0].split("\n")[1:],
        [
            *(f"- Device {wwid} on host both: SinglePath. Since THEN." for wwid in (A, B)),
            f"{RUNBOOKS}/MultipathSinglePath.md",
        ],
    )
    host.set(resolved=of("SinglePath", host.whom, A, B))
    host.next(f"[ENDED] {over(host.whom, 'SinglePath')} (and 1 more)", over(host.whom, "SinglePath", A, B), color=GREY)


def no_host_at_all(on):
    """MultipathExporterDown has no `instance` if Prometheus has no target."""
    down = alert("", "ExporterDown")
    del down["labels"]["instance"]
    on("nowhere").set([down])
    text, *_ = on("nowhere").next("[WARNING] About ExporterDown.", "About ExporterDown.", color="warning")
    equal(text.split("\n")[-2], "Alertmanager: http://alertmanager.example:9093/#/alerts")
    on("nowhere").set(resolved=[down])
    sentence = "No longer firing: MultipathExporterDown"
    on("nowhere").next(f"[ENDED] {sentence}", sentence, color=GREY)


def recovery_is_announced_once(on):
    """One message for each recovery, even if another one follows within the ten minutes in which
    the alert fires."""
    host, recovered = on("well"), on("well-recovered")
    recovery = [alert("well", RECOVERED)]
    for _ in range(2):
        recovered.set(recovery)
        recovered.next("[INFO] No faulty multipath paths on host well.", well("well"), color="good")
        time.sleep(2 * EVALUATION)
        recovered.nothing_more()
        # In trouble again, for two evaluations.
        recovered.set(resolved=recovery)
        time.sleep(2.5 * EVALUATION)
    recovered.set(recovery)
    recovered.next("[INFO] No faulty multipath paths on host well.", well("well"), color="good")
    time.sleep(600 / FASTER)
    recovered.set(resolved=recovery)
    host.nothing_more()


def prometheus_stops(on):
    """The alerts of a stopped Prometheus end. No recovery is reported, and all alerts are sent
    again after its return."""
    host, recovered = on("unwatched"), on("unwatched-recovered")
    down = on("unwatched-for-long")
    alerts = of("FaultyPaths", host.whom, A) + of("NoValidPaths", host.whom, B)
    for _ in range(2):
        prometheus = Prometheus(host.alertmanager.url, LIFETIME)
        prometheus.thread.start()
        prometheus.set(alerts + [alert(down.whom, "DaemonDown")])
        said = dead(host.whom, B), faulty(host.whom, A)
        subject = "Multipath devices without valid paths on host unwatched"
        host.next(f"[CRITICAL] {subject} (and 1 more)", *said, color="danger")
        sentence = f"Host {down.whom}: About DaemonDown."
        down.next(f"[WARNING] {sentence}", sentence, color="warning")
        prometheus.stop()
        _, slack, _ = host.next(
            f"[ENDED] {over(host.whom, 'NoValidPaths')} (and 1 more)",
            over(host.whom, "FaultyPaths", A),
            over(host.whom, "NoValidPaths", B),
            color=GREY,
        )
        assert "No faulty" not in slack["text"] + slack["title"]
        down.next(f"[ENDED] {over(down.whom, 'DaemonDown')}", over(down.whom, "DaemonDown"), color=GREY)
    recovered.nothing_more()


def silenced_until_the_worse_is_over(on):
    host = on("silenced")
    host.set(of("NoValidPaths", host.whom, A) + of("PathMarginal", host.whom, A))
    subject = "[CRITICAL] Multipath devices without valid paths on host silenced"
    host.next(subject, dead(host.whom, A), color="danger")
    time.sleep(3 * 90 / FASTER)
    host.nothing_more()
    host.set(resolved=of("NoValidPaths", host.whom, A))
    # In either order, because they are two groups.
    mails = {host.inbox.get("mail", host.whom, number).subject for number in (1, 2)}
    equal(mails, {f"[ENDED] {over(host.whom, 'NoValidPaths')}", "[WARNING] Host silenced: About PathMarginal."})
    host.number = 3


SCENARIOS = [
    one_degraded, two_degraded_one_dead, two_clusters_one_host, worse_and_better, no_change_no_word,
    one_after_the_other, lost_and_missing, standby_beside_failed, odd_wwid, critical_does_not_wait,
    no_host_at_all, recovery_is_announced_once, prometheus_stops, silenced_until_the_worse_is_over,
]  # fmt: skip


def pager(alertmanager):
    """Critical alerts also page somebody. The other alerts, and the end of any alert, do not."""
    prometheus, inbox = alertmanager.prometheus, alertmanager.inbox

    def first(medium, whom, number):
        found = inbox.get(medium, whom, number)
        return (found.text if medium == "mail" else found["text"]).split("\n")[0]

    prometheus.set(of("FaultyPaths", "paged", A, B))
    equal(first("slack", "paged", 0), faulty("paged", A, B))
    prometheus.set(of("NoValidPaths", "paged", A), of("FaultyPaths", "paged", A))
    equal(first("mail", "paged", 0), dead("paged", A))
    equal(first("slack", "paged", 1), dead("paged", A))
    prometheus.set([alert("paged-too", "SinglePath")])
    for medium in ("mail", "slack"):
        inbox.get(medium, "paged-too", 0)
    prometheus.set((), of("NoValidPaths", "paged", A) + of("FaultyPaths", "paged", B))
    equal(first("slack", "paged", 2).startswith(over("paged", "FaultyPaths")), True)
    time.sleep(1)
    equal(inbox.count("mail", "paged"), 1)


def reminder(alertmanager):
    """Tests repeat_interval: there is no message before it."""
    alertmanager.prometheus.set(of("FaultyPaths", "reminded", A))
    first = alertmanager.inbox.get("slack", "reminded", 0)
    before = time.monotonic()
    equal(alertmanager.inbox.get("slack", "reminded", 1), first)
    assert time.monotonic() - before > 5, "reminded before repeat_interval"


def who_silences_whom(alertmanager):
    """Each pair of alerts fires on its own host. Exactly the pairs of SILENCES are silenced."""
    alerts, expected = [], set()
    for source, target in itertools.combinations(NAMES, 2):
        host = f"both-{source}-{target}"
        alerts += [alert(host, source), alert(host, target)]
        expected |= {(host, pair[1]) for pair in ((source, target), (target, source)) if pair in SILENCES}
    for (source, target), label in SILENCES.items():
        for other in {"cluster", "job", label} - {"instance"}:
            host = f"{other}-{source}-{target}"
            alerts += [alert(host, source, **{other: "x"}), alert(host, target, **{other: "y"})]
        alerts += [alert(f"here-{source}-{target}", source), alert(f"there-{source}-{target}", target)]
        # Two alerts without the label.
        if label != "instance":
            for name in (source, target):
                one = alert(f"lacking-{source}-{target}", name)
                del one["labels"][label]
                alerts.append(one)
    alertmanager.settled(alerts, expected)
    assert not NEVER_SILENCED & {name for _, name in expected}, "silenced what must never be"
    assert RECOVERED not in {source for source, _ in SILENCES}
    by = alertmanager.groups()
    for name in NAMES:
        labels = ("cluster", "instance", "job")
        receiver = "multipath-email"
        if name == RECOVERED:
            receiver = "multipath-recovered"
        elif name not in PROBLEMS:
            labels += ("severity",)
        # A label that an alert lacks is not in its group.
        equal((name, {(receiver, labels), (receiver, labels[1:])} >= by[name] != set()), (name, True))


def every_alert(_):
    """The alerts in this file equal the alerts of the rules, and have the same severities."""
    rules = yaml.safe_load((ALERTS / "multipath.rules.yml").read_text(encoding="utf-8"))
    found = [rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule]
    found = {(rule["alert"], rule["labels"]["severity"]) for rule in found}
    equal(found, {(f"Multipath{name}", severity(name)) for name in NAMES})


def stock_inhibition(alertmanager):
    """Inhibition rules of others hide none of the exporter's alerts. All alerts fire on two hosts,
    and only the exporter's rules silence any."""
    alerts = [alert(host, name, namespace="monitoring", service="files") for host in ("one", "two") for name in NAMES]
    alertmanager.settled(alerts, {(host, target) for host in ("one", "two") for _, target in SILENCES})


def info_inhibitor(alertmanagers):
    """kube-prometheus silences every info alert. README.md describes how to let the recovery
    through."""
    alerts = [alert("kube", RECOVERED, namespace="monitoring"), alert("kube", "NeverRedundant", namespace="monitoring")]
    inhibitor = {"alertname": "InfoInhibitor", "namespace": "monitoring", "instance": "kube", "severity": "none"}
    alerts.append({"labels": inhibitor, "annotations": {}})
    as_it_is, let_through = alertmanagers
    as_it_is.settled(alerts, {("kube", "NeverRedundant"), ("kube", RECOVERED)})
    let_through.settled(alerts, {("kube", "NeverRedundant")})


LET_THROUGH = 'alertname!="MultipathPathsRecovered"'


def recovery_let_through(config):
    rules = [rule for rule in config["inhibit_rules"] if "alertname = InfoInhibitor" in rule["source_matchers"]]
    (rule,) = rules
    rule["target_matchers"].append(LET_THROUGH)
    assert LET_THROUGH in (ALERTS / "README.md").read_text(encoding="utf-8"), "README.md does not say so"
    mute(config)


def merging_changes_nothing(alertmanagers):
    """A configuration treats the alerts of others as it did before the merge."""
    alerts, seen = list(foreign()), []
    for one in alertmanagers:
        for i in range(0, len(alerts), 64):
            post(one.url, alerts[i : i + 64])
        end = time.monotonic() + PATIENCE
        while len(all_ := one.json("/api/v2/alerts")) < len(alerts):
            assert time.monotonic() < end, f"{len(all_)} of {len(alerts)}"
            time.sleep(0.1)
        groups = {
            (group["receiver"]["name"], json.dumps(group["labels"], sort_keys=True), alert["fingerprint"])
            for group in one.json("/api/v2/alerts/groups")
            for alert in group["alerts"]
        }
        inhibited = {alert["fingerprint"] for alert in all_ if alert["status"]["inhibitedBy"]}
        seen.append((groups, inhibited))
    (before, silenced_before), (after, silenced_after) = seen
    equal(before ^ after, set())
    equal(silenced_before ^ silenced_after, set())
    assert silenced_before, "nothing is inhibited, so that nothing is shown"


# The alerts that docs/maintenance.md silences for a fabric.
FABRIC = set("""FaultyPaths PathsMissing SinglePath NotRedundant NeverRedundant FewerPathsThanOtherHosts
PathFlapping PathMarginal PathErrors NonOptimizedPath SessionWithoutPath IscsiSessionDown
IscsiSessionFlapping IscsiBondNetworkDown FcHostPortDown FcRemotePortDown NvmeControllerDown""".split())


def maintenance_page(alertmanager):
    """The commands of docs/maintenance.md, one after the other, have the documented effects."""
    page = (ALERTS.parent / "docs" / "maintenance.md").read_text(encoding="utf-8")
    fabric, is_silent, trial, look, after, expire, host = re.findall(r"^```sh\n(.*?)^```", page, re.M | re.S)
    # Debian's place of the configuration, and the usual one.
    for place in ("prometheus/amtool.yml", "amtool/config.yml"):
        configuration = alertmanager.directory / ".config" / place
        configuration.parent.mkdir(parents=True)
        configuration.write_text(f"alertmanager.url: {alertmanager.url}\nauthor: test\n")

    def run(commands):
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", commands], capture_output=True, text=True,
                              env={"PATH": os.environ["PATH"], "HOME": str(alertmanager.directory)})  # fmt: skip
        assert done.returncode == 0, f"{commands}: {done.stdout}{done.stderr}"
        return done.stdout

    def silenced():
        seen = alertmanager.json("/api/v2/alerts")
        seen = [one for one in seen if one["status"]["silencedBy"]]
        return {(one["labels"]["instance"], one["labels"].get("cluster"), short(one)) for one in seen}

    alerts = [
        alert(name, which, cluster=cluster)
        for name, cluster, which in itertools.product(("db01", "db02"), ("prod", "test"), NAMES)
    ]
    for i in range(0, len(alerts), 64):
        post(alertmanager.url, alerts[i : i + 64])
    printed = run(fabric).strip()
    planned = alertmanager.json("/api/v2/silences")
    equal([one["status"]["state"] for one in planned], ["active"])
    equal(silenced(), {(name, "prod", which) for name in ("db01", "db02") for which in FABRIC})
    equal(planned[0]["id"], printed)
    assert printed in run(is_silent), "the silence is not shown"
    run(trial)
    shown = run(look)
    assert "MultipathFaultyPaths" in shown and "MultipathNoValidPaths" not in shown, shown
    shown = run(after.replace(" query ", " query cluster=prod "))
    fires = set(re.findall(r"^Multipath(\w+) ", shown, re.M))
    equal(fires, set(NAMES) - FABRIC - {target for _, target in SILENCES})
    run(f"ID={printed}; {expire}")
    equal(silenced(), set())
    run(host)
    # The recovery is reported all the same.
    equal(silenced(), {("db01", "prod", which) for which in NAMES if which != RECOVERED})
    exported = (ALERTS.parent / "tests" / "golden" / "metrics.txt").read_text(encoding="utf-8")
    queries = re.findall(r"^```promql\n(.*?)^```", page, re.M | re.S)
    assert queries, "no query"
    rules = [{"record": f"query:{i}", "expr": query} for i, query in enumerate(queries)]
    (alertmanager.directory / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "page", "rules": rules}]}))
    run(f"promtool check rules {alertmanager.directory}/rules.yml")
    for metric in re.findall(r"\bmultipath_\w+", " ".join(queries)):
        assert f"# TYPE {metric} " in exported, f"{metric} is not exported"


def main():
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--keep", type=pathlib.Path, help="leave every mail in this directory")
    options.add_argument("scenario", nargs="*", help="only these")
    options = options.parse_args()
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    failed, hosts = [], []
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="notifications."))
    alertmanagers = []

    def start(name, **how):
        alertmanagers.append(Alertmanager(scratch, name, **how))
        return alertmanagers[-1]

    try:
        main_one = start("everyone", keep=options.keep, finish=everyone)
        # On a busy machine a fiftieth of group_wait is too short for a thousand alerts.
        slower = start("slower", keep=options.keep, text=faster(EXAMPLE, 5), finish=everyone)
        paging = start("pager", text=with_pager())
        quiet = [start(f"quiet-{i}", finish=mute) for i in range(2)]
        stock = {name: [
            start(f"{name}-alone", text=faster(config), finish=mute),
            start(f"{name}-merged", text=yaml.safe_dump(merged(config)), finish=mute),
        ] for name, config in (("debian", DEBIAN), ("kube", KUBE))}  # fmt: skip
        let_through = start("kube-let-through", text=yaml.safe_dump(merged(KUBE)), finish=recovery_let_through)
        others = {name: start(f"{name}-ours", text=yaml.safe_dump(merged(config)), finish=mute)
                  for name, config in (("debian", DEBIAN), ("kube", KUBE))}  # fmt: skip
        kube = start("kube-as-it-is", text=yaml.safe_dump(merged(KUBE)), finish=mute)
        for alertmanager in alertmanagers:
            alertmanager.ready()

        def told_by(alertmanager):
            remembered = {}

            def on(whom):
                if whom not in remembered:
                    remembered[whom] = Told(alertmanager, whom)
                    hosts.append(remembered[whom])
                return remembered[whom]

            return on

        on = told_by(main_one)
        jobs = [(scenario, on) for scenario in SCENARIOS]
        jobs += [(fabric_outage, told_by(slower))]
        jobs += [(pager, paging), (reminder, paging), (who_silences_whom, quiet[0]), (maintenance_page, quiet[1])]
        jobs += [(merging_changes_nothing, both) for both in stock.values()]
        jobs += [(stock_inhibition, other) for other in others.values()]
        jobs += [(info_inhibitor, (kube, let_through)), (every_alert, None)]

        def run(scenario, argument):
            try:
                scenario(argument)
                print(f"ok    {time.monotonic() - begin:5.1f} s  {scenario.__name__}", flush=True)
            except Exception as error:  # report any error and go on with the other scenarios
                failed.append(scenario.__name__)
                print(f"WRONG {time.monotonic() - begin:5.1f} s  {scenario.__name__}: {error!r}"[:4000], flush=True)

        threads = [
            threading.Thread(target=run, args=job)
            for job in jobs
            if not options.scenario or job[0].__name__ in options.scenario
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        time.sleep(3 * 90 / FASTER)
        for host in hosts:
            try:
                host.nothing_more()
            except AssertionError as error:
                failed.append(host.whom)
                print(f"WRONG {error}")
        for alertmanager in alertmanagers:
            if log := alertmanager.log.read_text():
                failed.append("log")
                print(f"WRONG Alertmanager complains: {log}"[:4000])
    finally:
        for alertmanager in alertmanagers:
            alertmanager.stop()
        shutil.rmtree(scratch)
    print(f"{len(failed)} wrong, {time.monotonic() - begin:.1f} s")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
