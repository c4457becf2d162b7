#!/usr/bin/env python3
"""What people are sent: real Alertmanager with alerts/alertmanager.yml, and the mail, Slack and webhook that leave it.

    notifications.py [--keep DIRECTORY] [SCENARIO ...]

Alerts are posted as Prometheus posts them: firing ones again and again, resolved ones too for a quarter of an hour. In
the configuration only addresses are replaced, and every time is a fiftieth of itself, here and there, so that what
depends on their ratio (group_interval and Prometheus' resends) is put to the test too. The scenarios run at once, each
on hosts of its own. With --keep, every mail is left in that directory, to be looked at.
"""

import argparse
import collections
import datetime
import email
import email.policy
import html
import http.server
import json
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
import urllib.request

import yaml

ALERTS = pathlib.Path(__file__).resolve().parents[2] / "alerts"
FASTER = 50
EVALUATION = 15 / FASTER  # evaluation_interval of alerts/prometheus.yml
RESEND = 4  # --rules.alert.resend-delay, 1m, in evaluations; Prometheus sends again at the first one after it
RETENTION = 60  # resolved alerts are sent for 15 minutes: evaluations
PATIENCE = 20  # seconds until what must come has not come

RUNBOOKS = "https://github.com/multipath-exporter/multipath_exporter/blob/main/alerts/runbooks"

A, B, C, D = (f"3600a098000aad1e3000064e45f2c23{i}" for i in (50, 51, 52, 53))


# The alerts ---------------------------------------------------------------------------------------------------------

PROBLEMS = {
    "MultipathNoValidPaths": ("critical", "Multipath devices without valid paths on host {}: [{}]", "I/O to it fails."),
    "MultipathDeviceLost": ("critical", "Lost multipath devices on host {}: [{}]", "It had failed paths."),
    "MultipathFaultyPaths": (
        "warning", "Faulty multipath paths on host {} on devices: [{}]", "1 failed, 3 still valid."),
    "MultipathPathsMissing": ("warning", "Missing multipath paths on host {} on devices: [{}]", "It has 3 paths."),
}  # fmt: skip
DEVICE = """SinglePath SingleFabric ExpectedPathsMissing PathFlapping PathMarginal NonOptimizedPath StateDisagreement
QueueingWithoutPaths DeviceSuspended SizeMismatch ReadOnlyMismatch WwidMismatch NotAssembled""".split()
HOST = """PathsRecovered DaemonDown DaemonBlocked IscsiSessionDown SessionWithoutPath IscsiBondNetworkDown IscsiBondDown
FcRemotePortDown ExporterDown ExporterStale ExporterErrors""".split()
NAMES = [*PROBLEMS, *(f"Multipath{name}" for name in DEVICE + HOST)]

# Who silences whom: everything that is not here is told.
NO_PATH = {"SingleFabric", "ExpectedPathsMissing", "PathFlapping", "PathMarginal", "NonOptimizedPath",
           "StateDisagreement"}  # fmt: skip
SILENCES = {
    (f"Multipath{source}", f"Multipath{target}")
    for source, targets in {
        "NoValidPaths": NO_PATH,
        "DeviceLost": NO_PATH,
        "FaultyPaths": {"PathFlapping"},
        "SinglePath": {"SingleFabric"},
        "PathsMissing": {"ExpectedPathsMissing"},
        "WwidMismatch": {"SizeMismatch", "ReadOnlyMismatch"},
        "IscsiBondDown": {"IscsiBondNetworkDown"},
        "DaemonDown": {"DaemonBlocked", "ExporterStale"},
        "DaemonBlocked": {"ExporterStale"},
    }.items()
    for target in targets
}


def alert(host, name, wwid=None, alias="mpatha", **labels):
    """An alert as the rules make it."""
    labels = {"alertname": name, "job": "multipath", "instance": host, "severity": "warning", **labels}
    annotations = {"runbook_url": f"{RUNBOOKS}/{name}.md"}
    short = name.removeprefix("Multipath")
    if name in PROBLEMS:
        device = f"{wwid} ({alias})"
        severity, sentence, rest = PROBLEMS[name]
        labels = {**labels, "severity": severity, "name": alias}
        annotations |= {"device": device, "description": f"{sentence.format(host, device)}. {rest} "}
        wwid = wwid or A
    elif short in DEVICE:
        wwid = wwid or A
        annotations["description"] = f"Device {wwid} ({alias}) on host {host}: {short}."
    else:
        annotations["description"] = f"Host {host}: {short}."
    if wwid:
        labels["wwid"] = wwid
    if "IscsiBond" in name:
        labels.setdefault("bond", "storage")
    if name == "MultipathIscsiBondNetworkDown":
        labels.setdefault("network", "eth1")
    if name in ("MultipathExporterStale", "MultipathExporterErrors"):
        labels.setdefault("source", "multipathd")
    return {"labels": labels, "annotations": {"summary": f"About {short}.", **annotations}}


class Prometheus:
    """Sends alerts as Prometheus' rule manager does: (*AlertingRule).sendAlerts and its notifier."""

    def __init__(self, url):
        self.url = url
        self.lock = threading.Lock()
        self.alerts = {}
        self.tick = 0
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def set(self, firing=(), resolved=()):
        """What the next evaluation finds."""
        with self.lock:
            for one in firing:
                self.alerts[json.dumps(one["labels"], sort_keys=True)] = {"alert": one, "resolved": None, "sent": None}
            for one in resolved:
                self.alerts[json.dumps(one["labels"], sort_keys=True)] |= {"resolved": self.tick + 1, "sent": None}

    def evaluated(self):
        """Waits for the next evaluation."""
        tick = self.tick
        while self.tick == tick:
            time.sleep(EVALUATION / 20)

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
                    # When it fired: Alertmanager does not keep group_wait for what is older than that.
                    state.setdefault("began", now)
                    if state["resolved"] is not None:
                        state.setdefault("ended", now)
                    due.append(
                        {
                            **state["alert"],
                            "startsAt": state["began"].isoformat(),
                            "endsAt": state.get("ended", now + datetime.timedelta(minutes=4)).isoformat(),
                        }
                    )
        for i in range(0, len(due), 64):
            post(self.url, due[i : i + 64])


def post(url, alerts):
    body = json.dumps(alerts).encode()
    request = urllib.request.Request(f"{url}/api/v2/alerts", body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=10).close()


# Those who are told -------------------------------------------------------------------------------------------------


class Inbox:
    """What arrived, by medium and by whom it is about: a host or an array."""

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
    """Whom a subject names."""
    found = re.search(r"array (\w+)", subject) or re.search(r"[Hh]ost ([\w-]+)", subject)
    return found[1] if found else None


Mail = collections.namedtuple("Mail", "subject text html")


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
            part = {kind: message.get_body((kind,)).get_content().replace("\r\n", "\n") for kind in ("plain", "html")}
            mail = Mail(message["Subject"], part["plain"], part["html"])
            whom = about(mail.subject)
            if keep:
                name = f"{whom}-{inbox.count('mail', whom) + 1}"
                (keep / f"{name}.html").write_text(mail.html, encoding="utf-8")
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
                inbox.put("webhook", body["groupLabels"].get("array") or body["groupLabels"]["instance"], body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    return serve(http.server.ThreadingHTTPServer, Request)


def serve(kind, handler):
    class Server(kind):
        daemon_threads = True
        # With socketserver's 5 the kernel resets a connection when many groups are told at once.
        request_queue_size = 1024

    server = Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


# Alertmanager -------------------------------------------------------------------------------------------------------


def faster(configuration):
    """Every time a fiftieth of itself."""

    def shorten(found):
        seconds = int(found[2]) * {"s": 1, "m": 60, "h": 3600}[found[3]]
        return f"{found[1]}{seconds * 1000 // FASTER}ms"

    return re.sub(r"(group_wait: |group_interval: |repeat_interval: )(\d+)([smh])\b", shorten, configuration)


class Alertmanager:
    """One of its own, with the example's configuration, after `change`."""

    def __init__(self, scratch, name, keep=None, change=lambda text: text, finish=lambda config: None):
        self.inbox = Inbox()
        smtp, web, port = smtp_sink(self.inbox, keep), http_sink(self.inbox), free_port()
        directory = scratch / name
        directory.mkdir()
        (directory / "slack-url").write_text(f"http://127.0.0.1:{web}/slack\n")
        text = faster(change((ALERTS / "alertmanager.yml").read_text(encoding="utf-8")))
        for there, here in (
            ("smtp_smarthost: localhost:25", f"smtp_smarthost: 127.0.0.1:{smtp}"),
            ("/etc/prometheus/multipath-slack-url", str(directory / "slack-url")),
            ("http://localhost:9095/", f"http://127.0.0.1:{web}/"),
            ("[multipath.tmpl]", f"[{ALERTS}/multipath.tmpl]"),
        ):
            assert text.count(there) == 1, f"alertmanager.yml has not one {there}"
            text = text.replace(there, here)
        config = yaml.safe_load(text)
        finish(config)
        (directory / "alertmanager.yml").write_text(yaml.safe_dump(config))
        self.log = directory / "log"
        self.url = f"http://127.0.0.1:{port}"
        binary = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
        assert binary, "there is no alertmanager"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [binary, f"--config.file={directory}/alertmanager.yml", f"--storage.path={directory}/data",
                 f"--web.listen-address=127.0.0.1:{port}", "--web.external-url=http://alertmanager.example:9093",
                 "--cluster.listen-address=", "--log.level=warn"],
                stdout=log, stderr=log)  # fmt: skip
        self.prometheus = Prometheus(self.url)

    def ready(self):
        end = time.monotonic() + PATIENCE
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/-/ready", timeout=1).close()
                break
            except OSError:
                assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
                time.sleep(0.02)
        self.prometheus.thread.start()

    def stop(self):
        self.prometheus.stopped.set()
        self.prometheus.thread.join()
        self.process.terminate()
        self.process.wait(10)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def everyone(config):
    """One receiver that has mail, Slack and webhook, and takes what goes to mail."""
    receivers = {receiver["name"]: receiver for receiver in config["receivers"]}
    assert receivers["nobody"] == {"name": "nobody"}, "nobody is somebody"
    kinds = {"email": "multipath-email", "slack": "multipath-slack", "webhook": "multipath-webhook"}
    configs = {f"{kind}_configs": receivers[name][f"{kind}_configs"] for kind, name in kinds.items()}
    config["receivers"].append({"name": "everyone", **configs})
    config["route"]["routes"][0]["receiver"] = "everyone"


def with_severity_route(text):
    """Slack instead of mail, the severity route in force, and a reminder after some seconds instead of a day."""
    text, times = re.subn(r"receiver: multipath-email ", "receiver: multipath-slack ", text)
    assert times == 1
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("    # - matchers: "))
    last = next(i for i in range(first, len(lines)) if lines[i].strip() == "#   continue: true")
    lines[first : last + 1] = [line.replace("# ", "", 1) for line in lines[first : last + 1]]
    return "\n".join(lines).replace("repeat_interval: 24h", f"repeat_interval: {6 * FASTER}s")


# The scenarios ------------------------------------------------------------------------------------------------------


class Told:
    """What one host, or one array, is the subject of, notification by notification."""

    def __init__(self, alertmanager, whom):
        self.alertmanager, self.inbox, self.whom, self.number = alertmanager, alertmanager.inbox, whom, 0

    def set(self, firing=(), resolved=()):
        self.alertmanager.prometheus.set(firing, resolved)

    def next(self, subject, *sentences, color):
        """The next notification says this, over every medium."""
        mail, slack, webhook = (
            self.inbox.get(medium, self.whom, self.number) for medium in ("mail", "slack", "webhook")
        )
        self.number += 1
        since = r"Since (....-..-.. ..:..) UTC\."
        if began := re.search(since, mail.text):
            equal(began[1] in {one["startsAt"][:16].replace("T", " ") for one in webhook["alerts"]}, True)
        mail = mail._replace(text=re.sub(since, "Since THEN.", mail.text))
        slack["text"] = re.sub(since, "Since THEN.", slack["text"])
        equal(mail.subject, subject)
        equal(mail.text.split("\n\n")[0].strip().split("\n"), list(sentences))
        body = mail.html.partition("<body")[2]
        shown = [html.unescape(re.sub(r"<[^>]*>", "", line)) for line in re.findall(r"<p .*?</p>", body)]
        equal([line for line in shown if "What to do" not in line and line != "Alertmanager"], list(sentences))
        equal(slack["title"], subject)
        equal(slack["fallback"].strip().split("\n"), list(sentences))
        equal(slack["text"].split("\n\n")[0].strip().split("\n"), list(sentences))
        equal(slack["color"], color)
        equal(webhook["status"], "resolved" if color == "good" else "firing")
        return mail, slack, webhook

    def nothing_more(self):
        """Nobody was sent anything beyond what `next` saw."""
        counts = {medium: self.inbox.count(medium, self.whom) for medium in ("mail", "slack", "webhook")}
        for medium, count in counts.items():
            if count != self.number:
                last = self.inbox.get(medium, self.whom, count - 1)
                raise AssertionError(f"{count} × {medium} about {self.whom}, expected {self.number}; the last: {last}")


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


def well(host):
    return f"No faulty multipath paths on host {host}"


def forgotten(*wwids):
    return f"No longer counted as lost or missing (back, removed, or forgotten after a day): [{', '.join(wwids)}]"


def degraded(host, *wwids, **labels):
    return [alert(host, "MultipathFaultyPaths", wwid, **labels) for wwid in wwids]


def without_paths(host, *wwids, **labels):
    return [alert(host, "MultipathNoValidPaths", wwid, **labels) for wwid in wwids]


def one_degraded(on):
    host = on("one-degraded")
    host.set(degraded(host.whom, A))
    mail, slack, webhook = host.next(
        "[WARNING] Multipath devices on host one-degraded: 1 with faulty paths", faulty(host.whom, A), color="warning"
    )
    equal(
        mail.text,
        f"""Faulty multipath paths on host one-degraded on devices: [{A}]

- {A} (mpatha): 1 failed, 3 still valid. Since THEN.

What to do:
{RUNBOOKS}/MultipathFaultyPaths.md

Alertmanager: http://alertmanager.example:9093/#/alerts?filter=%7Binstance%3D%22one-degraded%22%7D
""",
    )
    equal(
        slack["text"],
        f"""Faulty multipath paths on host one-degraded on devices: [{A}]

- {A} (mpatha): 1 failed, 3 still valid. Since THEN.

What to do: <{RUNBOOKS}/MultipathFaultyPaths.md|MultipathFaultyPaths>""",
    )
    equal(slack["channel"], "#storage")
    (one,) = webhook["alerts"]
    equal(one["annotations"]["device"], f"{A} (mpatha)")
    host.set(resolved=degraded(host.whom, A))
    mail, *_ = host.next(f"[RESOLVED] {well(host.whom)}", well(host.whom), color="good")
    equal(
        mail.text,
        """No faulty multipath paths on host one-degraded

Alertmanager: http://alertmanager.example:9093/#/alerts?filter=%7Binstance%3D%22one-degraded%22%7D
""",
    )


def two_degraded_one_dead(on):
    host = on("two-and-one")
    host.set(degraded(host.whom, A, B) + without_paths(host.whom, C))
    mail, *_ = host.next(
        "[CRITICAL] Multipath devices on host two-and-one: 1 without valid paths, 2 with faulty paths",
        dead(host.whom, C),
        faulty(host.whom, A, B),
        color="danger",
    )
    equal(
        mail.text.split("\n\n")[2],
        f"What to do:\n{RUNBOOKS}/MultipathNoValidPaths.md\n{RUNBOOKS}/MultipathFaultyPaths.md",
    )


def two_hosts_one_wwid(on):
    for host in [on("twin-1"), on("twin-2")]:
        host.set(degraded(host.whom, A))
    for host in [on("twin-1"), on("twin-2")]:
        host.next(
            f"[WARNING] Multipath devices on host {host.whom}: 1 with faulty paths",
            faulty(host.whom, A),
            color="warning",
        )


def worse_and_better(on):
    host = on("worse-and-better")
    subject = "[{}] Multipath devices on host worse-and-better: 1 with{}"
    host.set(degraded(host.whom, A))
    host.next(subject.format("WARNING", " faulty paths"), faulty(host.whom, A), color="warning")
    for _ in range(2):
        host.set(without_paths(host.whom, A), degraded(host.whom, A))
        host.next(subject.format("CRITICAL", "out valid paths"), dead(host.whom, A), color="danger")
        host.set(degraded(host.whom, A), without_paths(host.whom, A))
        host.next(subject.format("WARNING", " faulty paths"), faulty(host.whom, A), color="warning")
    host.set(resolved=degraded(host.whom, A))
    host.next(f"[RESOLVED] {well(host.whom)}", well(host.whom), color="good")


def no_change_no_word(on):
    host = on("unchanged")
    host.set(degraded(host.whom, A, B))
    subject = "[WARNING] Multipath devices on host unchanged: 2 with faulty paths"
    host.next(subject, faulty(host.whom, A, B), color="warning")
    time.sleep(6 * 90 / FASTER)
    host.nothing_more()


def one_after_the_other(on):
    """They recover one by one while another does not: Prometheus' resends of the resolved ones are no news."""
    host = on("one-by-one")
    subject = "[WARNING] Multipath devices on host one-by-one: {} with faulty paths"
    host.set(degraded(host.whom, A, B, C, D))
    host.next(subject.format(4), faulty(host.whom, A, B, C, D), color="warning")
    for left in ([B, C, D], [C, D], [D]):
        host.set(resolved=degraded(host.whom, {3: A, 2: B, 1: C}[len(left)]))
        host.next(subject.format(len(left)), faulty(host.whom, *left), color="warning")
    time.sleep(RETENTION * EVALUATION / 2)
    host.nothing_more()


def lost_and_missing(on):
    host = on("lost-and-missing")
    subject = "Multipath devices on host lost-and-missing:"
    host.set(degraded(host.whom, A, B))
    host.next(f"[WARNING] {subject} 2 with faulty paths", faulty(host.whom, A, B), color="warning")
    now = [alert(host.whom, "MultipathDeviceLost", A), alert(host.whom, "MultipathPathsMissing", B)]
    host.set(now, degraded(host.whom, A, B))
    host.next(
        f"[CRITICAL] {subject} 1 lost, 1 with missing paths",
        lost(host.whom, A),
        missing(host.whom, B),
        color="danger",
    )
    host.set(resolved=now)
    host.next(f"[RESOLVED] {well(host.whom)}", well(host.whom), forgotten(A, B), color="good")


def missing_only(on):
    host = on("missing-only")
    now = [alert(host.whom, "MultipathPathsMissing", A)]
    host.set(now)
    subject = "[WARNING] Multipath devices on host missing-only: 1 with missing paths"
    host.next(subject, missing(host.whom, A), color="warning")
    host.set(resolved=now)
    host.next(f"[RESOLVED] {well(host.whom)}", well(host.whom), forgotten(A), color="good")


def odd_wwid(on):
    """No character of a WWID means anything to a template, and none is named twice."""
    host = on("odd-wwid")
    odd = "1ATA_(+[*<b>&\"x\\"
    subject = "[{}] Multipath devices on host odd-wwid: 1 {}"
    now = [alert(host.whom, "MultipathPathsMissing", odd)]
    host.set(now)
    host.next(subject.format("WARNING", "with missing paths"), missing(host.whom, odd), color="warning")
    then = [alert(host.whom, "MultipathDeviceLost", odd)]
    host.set(then, now)
    host.next(subject.format("CRITICAL", "lost"), lost(host.whom, odd), color="danger")
    host.set(resolved=then)
    host.next(f"[RESOLVED] {well(host.whom)}", well(host.whom), forgotten(odd), color="good")


def many_devices(on):
    host = on("hundred")
    wwids = [f"3600a098000aad1e3000064e45f2c2{i:03}" for i in range(100)]
    host.set(degraded(host.whom, *wwids[:60]) + without_paths(host.whom, *wwids[60:]))
    mail, slack, webhook = host.next(
        "[CRITICAL] Multipath devices on host hundred: 40 without valid paths, 60 with faulty paths",
        dead(host.whom, *wwids[60:]),
        faulty(host.whom, *wwids[:60]),
        color="danger",
    )
    details = mail.text.split("\n\n")[1].split("\n")
    equal(details[0], f"- {wwids[60]} (mpatha): I/O to it fails. Since THEN.")
    equal([len(details), details[-1]], [11, "- and 90 more"])
    equal(slack["text"].split("\n\n")[1].split("\n"), details)
    equal(len(webhook["alerts"]), 100)


def one_array(on):
    """Fifty hosts see it within two scrapes; two recover, then all."""
    array = on("600a098000aad1e3")
    hosts = [f"h{i:02}" for i in range(50)]
    first = [one for host in hosts[:25] for one in degraded(host, A, B, array=array.whom)]
    second = [one for host in hosts[25:] for one in degraded(host, A, array=array.whom)]
    second += [one for host in hosts[25:] for one in without_paths(host, B, array=array.whom)]
    array.set(first)
    array.alertmanager.prometheus.evaluated()
    array.set(second)
    mail, *_ = array.next(
        "[CRITICAL] Multipath devices on 50 hosts, array 600a098000aad1e3: 25 without valid paths, 75 with faulty paths",
        *(dead(host, B) for host in hosts[25:]),
        *(faulty(host, A, B) for host in hosts[:25]),
        *(faulty(host, A) for host in hosts[25:]),
        color="danger",
    )
    equal(mail.text.split("\n\n")[1].split("\n")[-1], "- and 90 more")
    array.set(resolved=[one for one in first if one["labels"]["instance"] not in hosts[:2]] + second)
    array.next(
        "[WARNING] Multipath devices on 2 hosts, array 600a098000aad1e3: 4 with faulty paths",
        *(faulty(host, A, B) for host in hosts[:2]),
        color="warning",
    )
    array.set(resolved=[one for one in first if one["labels"]["instance"] in hosts[:2]])
    array.next(
        "[RESOLVED] No faulty multipath paths to array 600a098000aad1e3",
        *(f"{well(host)} to array 600a098000aad1e3" for host in hosts),
        color="good",
    )


def everything_else(on):
    host = on("everything-else")
    now = [alert(host.whom, "MultipathSinglePath", wwid) for wwid in (A, B)]
    host.set(now)
    mail, *_ = host.next(
        "[WARNING] Host everything-else: About SinglePath.",
        "Host everything-else: About SinglePath.",
        color="warning",
    )
    equal(
        mail.text.split("\n\n")[1:3],
        [
            "\n".join(
                f"- Device {wwid} (mpatha) on host {host.whom}: SinglePath. Since THEN."
                for wwid in (A, B)
            ),
            f"What to do:\n{RUNBOOKS}/MultipathSinglePath.md",
        ],
    )
    host.set(resolved=now)
    mail, *_ = host.next(
        "[RESOLVED] Host everything-else: About SinglePath.",
        "Resolved on host everything-else: About SinglePath.",
        color="good",
    )
    equal(mail.text.split("\n\n")[1].split("\n")[0], f"- Device {A} (mpatha) on host {host.whom}: SinglePath.")


def nobody_hears_of_recovery(on):
    host = on("recovered")
    host.set([alert(host.whom, "MultipathPathsRecovered", severity="info")])


def silenced_until_the_worse_is_over(on):
    host = on("silenced")
    host.set(without_paths(host.whom, A) + [alert(host.whom, "MultipathPathMarginal", A)])
    subject = "[CRITICAL] Multipath devices on host silenced: 1 without valid paths"
    host.next(subject, dead(host.whom, A), color="danger")
    time.sleep(3 * 90 / FASTER)
    host.nothing_more()
    host.set(resolved=without_paths(host.whom, A))
    # In either order: they are two groups.
    mails = {host.inbox.get("mail", host.whom, number).subject for number in (1, 2)}
    equal(mails, {f"[RESOLVED] {well(host.whom)}", "[WARNING] Host silenced: About PathMarginal."})
    host.number = 3


def not_silenced_for_another_device(on):
    host = on("another")
    host.set([alert(host.whom, "MultipathWwidMismatch", A)])
    host.next("[WARNING] Host another: About WwidMismatch.", "Host another: About WwidMismatch.", color="warning")
    host.set([alert(host.whom, "MultipathSizeMismatch", wwid) for wwid in (A, B)])
    mail, *_ = host.next(
        "[WARNING] Host another: About SizeMismatch.", "Host another: About SizeMismatch.", color="warning"
    )
    assert B in mail.text and A not in mail.text, mail.text


SCENARIOS = [
    one_degraded, two_degraded_one_dead, two_hosts_one_wwid, worse_and_better, no_change_no_word, one_after_the_other,
    lost_and_missing, missing_only, odd_wwid, many_devices, one_array, everything_else, nobody_hears_of_recovery,
    silenced_until_the_worse_is_over, not_silenced_for_another_device,
]  # fmt: skip


def severity_route(alertmanager):
    """Critical ones wake somebody as well; the rest, and the end, do not."""
    prometheus, inbox = alertmanager.prometheus, alertmanager.inbox
    prometheus.set(degraded("paged", A, B))
    equal(inbox.get("slack", "paged", 0)["fallback"].strip(), faulty("paged", A, B))
    prometheus.set(without_paths("paged", A), degraded("paged", A))
    mail = inbox.get("mail", "paged", 0)
    equal(mail.subject, "[CRITICAL] Multipath devices on host paged: 1 without valid paths")
    equal(mail.text.split("\n\n")[0], dead("paged", A))
    equal(inbox.get("slack", "paged", 1)["fallback"].strip(), f"{dead('paged', A)}\n{faulty('paged', B)}")
    prometheus.set([alert("paged-too", "MultipathSinglePath", A, severity="critical")])
    for medium in ("mail", "slack"):
        inbox.get(medium, "paged-too", 0)
    prometheus.set((), without_paths("paged", A) + degraded("paged", B))
    equal(inbox.get("slack", "paged", 2)["fallback"].strip(), well("paged"))
    time.sleep(1)
    equal(inbox.count("mail", "paged"), 1)


def reminder(alertmanager):
    """repeat_interval, and nothing before it."""
    alertmanager.prometheus.set(degraded("reminded", A))
    first = alertmanager.inbox.get("slack", "reminded", 0)
    before = time.monotonic()
    equal(alertmanager.inbox.get("slack", "reminded", 1), first)
    assert time.monotonic() - before > 5, "reminded before repeat_interval"


def who_silences_whom(alertmanager):
    """Every pair of alerts on a host of its own: exactly those of SILENCES are silenced, and no other."""
    alerts, expected = [], set()

    def pair(source, target, host, silenced=False, lack=()):
        for one in (source, target):
            for label in lack:
                one["labels"].pop(label, None)
            alerts.append(one)
        if silenced:
            expected.add((host, target["labels"]["alertname"]))

    for i, source in enumerate(NAMES):
        for j, target in enumerate(NAMES):
            if i < j:
                host = f"both-{i}-{j}"
                pair(alert(host, source), alert(host, target), host, (source, target) in SILENCES)
                if (target, source) in SILENCES:
                    expected.add((host, source))
    for source, target in SILENCES:
        host = f"other-device-{source}-{target}"
        if "Daemon" not in source:
            pair(alert(host, source, B, bond="b"), alert(host, target, A), host)
            host = f"no-label-{source}-{target}"
            pair(alert(host, source), alert(host, target), host, lack=("wwid", "bond"))
        pair(alert(f"here-{source}-{target}", source), alert(f"there-{source}-{target}", target), None)
    pair(alert("sysfs", "MultipathDaemonDown"), alert("sysfs", "MultipathExporterStale", source="sysfs"), "sysfs")
    for i in range(0, len(alerts), 64):
        post(alertmanager.url, alerts[i : i + 64])
    end = time.monotonic() + PATIENCE
    while True:
        with urllib.request.urlopen(f"{alertmanager.url}/api/v2/alerts", timeout=10) as answer:
            seen = json.load(answer)
        silenced = {(o["labels"]["instance"], o["labels"]["alertname"]) for o in seen if o["status"]["inhibitedBy"]}
        if len(seen) == len(alerts) and silenced == expected:
            break
        assert time.monotonic() < end, (len(seen), len(alerts), sorted(silenced ^ expected))
        time.sleep(0.1)
    never = {*PROBLEMS, "MultipathQueueingWithoutPaths", "MultipathNotAssembled"}
    assert not never & {name for _, name in silenced}, "silenced what must never be"
    with urllib.request.urlopen(f"{alertmanager.url}/api/v2/alerts/groups", timeout=10) as answer:
        by = collections.defaultdict(set)
        for group in json.load(answer):
            for one in group["alerts"]:
                by[one["labels"]["alertname"]].add((group["receiver"]["name"], tuple(sorted(group["labels"]))))
    for name in NAMES:
        labels = ("instance", "job") if name in PROBLEMS else ("alertname", "instance", "job")
        receiver = "nobody" if name == "MultipathPathsRecovered" else "quiet"
        equal((name, by[name]), (name, {(receiver, labels)}))


def every_alert(_):
    """The alerts here are those of the rules."""
    rules = yaml.safe_load((ALERTS / "multipath.rules.yml").read_text(encoding="utf-8"))
    equal({rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule}, set(NAMES))


def quiet(config):
    config["receivers"].append({"name": "quiet"})
    config["route"]["routes"][0]["receiver"] = "quiet"


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
    try:
        alertmanagers += [
            main_one := Alertmanager(scratch, "everyone", options.keep, finish=everyone),
            paging := Alertmanager(scratch, "severity", change=with_severity_route),
            silent := Alertmanager(scratch, "silent", finish=quiet),
        ]
        for alertmanager in alertmanagers:
            alertmanager.ready()
        remembered = {}

        def on(whom):
            if whom not in remembered:
                remembered[whom] = Told(main_one, whom)
                hosts.append(remembered[whom])
            return remembered[whom]

        jobs = [(scenario, on) for scenario in SCENARIOS]
        jobs += [(severity_route, paging), (reminder, paging), (who_silences_whom, silent), (every_alert, None)]

        def run(scenario, argument):
            try:
                scenario(argument)
                print(f"ok    {time.monotonic() - begin:5.1f} s  {scenario.__name__}", flush=True)
            except Exception as error:  # whatever it is, the others are to be told of too
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
                print(f"WRONG {error}"[:4000])
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
