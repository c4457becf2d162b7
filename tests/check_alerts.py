#!/usr/bin/env python3
"""Compares alerts and dashboards with the exporter's output. `make test` runs it.

The exporter's golden page has every metric and every label that a rule, a notification, a runbook
or a panel names. promtool evaluates every query of alerts/README.md and docs/comparison.md exactly
as written there. Every alert of the interface has its severity, its reasons, a runbook, and tests
in which it fires, stays quiet, and waits. The rendered rules equal the output of the mixin.
"""

import json
import pathlib
import re
import subprocess
import sys
import tomllib

import yaml
from check_exposition import GOLDEN, INTERFACE
from promql_labels import Metrics

ROOT = pathlib.Path(__file__).parent.parent
RULES = ROOT / "alerts" / "multipath.rules.yml"
RENDER = ROOT / "alerts" / "render"
RUNBOOKS = ROOT / "alerts" / "runbooks"
RULE_TESTS = ROOT / "tests" / "alerts" / "rules"
MANUALS = [ROOT / "alerts" / "README.md", ROOT / "docs" / "comparison.md"]
QUERY_TESTS = ROOT / "tests" / "alerts" / "queries"
DASHBOARDS = ROOT / "dashboards"

# The alerts of the interface by severity. Stock inhibition rules compare names, so a name has one
# severity.
SEVERITIES = {
    "critical": """
        MultipathNoValidPaths MultipathDeviceInUseLost MultipathSinglePath MultipathAllPathsBlocked MultipathIoStalled
        MultipathQueueingWithoutPaths MultipathDeviceSuspended MultipathWwidMismatch MultipathLunConflict
        MultipathIscsiBondDown
    """,
    "warning": """
        MultipathFaultyPaths MultipathNoValidPathsUnused MultipathDeviceLost MultipathPathsMissing MultipathNotRedundant
        MultipathPathFlapping MultipathPathMarginal MultipathPathErrors MultipathNonOptimizedPath
        MultipathStateDisagreement MultipathSizeMismatch MultipathReadOnlyMismatch MultipathLunMismatch
        MultipathStrayPath MultipathDiskUsedDirectly MultipathNotAssembled MultipathIscsiSessionDown
        MultipathIscsiSessionFlapping MultipathSessionWithoutPath MultipathIscsiBondNetworkDown MultipathFcHostPortDown
        MultipathFcRemotePortDown MultipathNvmeControllerDown MultipathNvmeNamespaceUnreachable MultipathDaemonDown
        MultipathDaemonBlocked MultipathExporterDown MultipathExporterStale MultipathExporterErrors
    """,
    "info": "MultipathPathsRecovered MultipathNeverRedundant MultipathFewerPathsThanOtherHosts",
}
ALERTS = {name: severity for severity, names in SEVERITIES.items() for name in names.split()}

# These alerts report 25,000 devices at once, and have no summary, because each text costs time.
# Their descriptions begin as oVirt's do.
DEVICE = "[{{ $labels.wwid }}{{ with $labels.name }} ({{ . }}){{ end }}]. "
HOST = "on host {{ $labels.instance }}"
SENTENCES = {
    "MultipathFaultyPaths": f"Faulty multipath paths {HOST} on devices: {DEVICE}",
    "MultipathNoValidPaths": f"Multipath devices without valid paths {HOST}: {DEVICE}",
    "MultipathNoValidPathsUnused": f"Multipath devices without valid paths {HOST}: {DEVICE}",
    "MultipathDeviceInUseLost": f"Lost multipath devices {HOST}: {DEVICE}",
    "MultipathDeviceLost": f"Lost multipath devices {HOST}: {DEVICE}",
    "MultipathPathsMissing": f"Missing multipath paths {HOST} on devices: {DEVICE}",
    "MultipathPathsRecovered": f"No faulty multipath paths {HOST}.",
}
PACKAGE = tomllib.loads((pathlib.Path(__file__).parents[1] / "Cargo.toml").read_text())["package"]
RUNBOOK_URL = PACKAGE["repository"] + "/blob/main/alerts/runbooks/"
HEADINGS = ["First", "Meaning", "Impact", "Diagnosis", "Mitigation"]

# The golden page comes from an exporter without a memory file.
ELSEWHERE = {"multipath_exporter_memory_last_write_successful": ""}

# Metrics of node_exporter (collector/fibrechannel_linux.go, dmmultipath_linux.go) and
# csi-volume-device-exporter (docs/metrics.md).
OTHER_EXPORTERS = {
    "node_fibrechannel_info": "fc_host speed port_state port_type port_id port_name fabric_name symbolic_name supported_classes"
    " supported_speeds dev_loss_tmo",
    "node_fibrechannel_invalid_crc_total": "fc_host",
    "node_dmmultipath_device_info": "device sysfs_name uuid",
    "node_dmmultipath_device_paths_failed": "device sysfs_name",
    "csiaddons_volume_node_device_info": "node volume_handle driver device",
}

# Values that replace Grafana's variables, as far as they matter to a parser.
GRAFANA_DURATIONS = re.compile(r"\$(?:__rate_interval|__interval|__range)\b|\$\{__(?:rate_interval|interval|range)\}")
GRAFANA_VARIABLE = re.compile(r"\$(?:\w+|\{\w+(?::\w+)?\})")


def check_elsewhere():
    page = (GOLDEN / "metrics.txt").read_text(encoding="utf-8")
    present = set(re.findall(r"^(?:# TYPE )?(multipath_\w+)", page, re.M))
    yield from (f"{name} is on the golden page: take it off the list" for name in ELSEWHERE if name in present)


def check_rules(rules, metrics):
    named = {rule.get("alert") for rule in rules}
    yield from (f"no rule for {name}" for name in ALERTS if name not in named)
    for rule in rules:
        name = rule.get("alert")
        if name not in ALERTS:
            yield f"not an alert of the interface: {rule.get('record', name)}"
            continue
        try:
            yield from (f"{name}: {wrong}" for wrong in check_alert(name, rule, metrics.of(rule["expr"])))
        except ValueError as error:
            yield f"{name}: {error}"


def check_alert(name, rule, labels):
    if rule["labels"]["severity"] != ALERTS[name]:
        yield f"severity {rule['labels']['severity']}"
    # An alert with `keep_firing_for` reports a state that has ended.
    yield from (f"has {key}" for key in rule.keys() - {"alert", "expr", "for", "labels", "annotations"})
    if rule["expr"].count("\n") > 2:
        yield "more than three lines"
    if re.search(r"\bon \([^)]*\b(job|instance)\b", rule["expr"]):
        yield "matches on a target's labels, which would mix clusters and replicas"
    if "name" in labels and rule["labels"].get("name") != "":
        yield "the alias is a label: a device that is renamed would be another alert"
    annotations = rule["annotations"]
    wanted = {"description", "runbook_url"} | ({"summary"} if name not in SENTENCES else set())
    if annotations.keys() != wanted:
        yield f"annotations {sorted(annotations)}, not {sorted(wanted)}"
    if not annotations["description"].startswith(SENTENCES.get(name, "")):
        yield f"does not begin as it should: {annotations['description']}"
    if not re.fullmatch(r"[^{]*\.", annotations.get("summary", ".")):
        yield "summary is not a static sentence"
    if annotations["runbook_url"] != f"{RUNBOOK_URL}{name}.md":
        yield f"runbook_url {annotations['runbook_url']}"
    for text in annotations.values():
        if re.search(r"\bquery\b", text):
            yield "a text that asks for more: with 25,000 alerts that takes seconds"
        for label in re.findall(r"\$labels\.(\w+)", text):
            if label not in labels:
                yield f"{{{{ $labels.{label} }}}} is not among {sorted(labels)}"


def check_comments(text):
    """Every rule needs a comment, because a reader can change a number safely only if its reason is
    known."""
    lines = text.splitlines()
    for before, line in zip(lines, lines[1:]):
        if re.match(r"\s*- (alert|record): ", line) and not before.lstrip().startswith("#"):
            yield f"no reason is given above {line.strip()}"


def seconds(time):
    units = {"h": 3600, "m": 60, "s": 1}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([hms])", str(time)))


def check_rule_tests(rules):
    firing, quiet, waiting = set(), set(), set()
    for file in sorted(RULE_TESTS.glob("*.yml")):
        for group in yaml.safe_load(file.read_text(encoding="utf-8"))["tests"]:
            silent = set()
            for test in sorted(group["alert_rule_test"], key=lambda test: seconds(test["eval_time"])):
                name = test["alertname"]
                if test.get("exp_alerts"):
                    firing.add(name)
                    waiting |= silent & {name}
                else:
                    quiet.add(name)
                    silent.add(name)
    yield from (f"no test shows {name} firing" for name in ALERTS if name not in firing)
    yield from (f"no test shows {name} quiet" for name in ALERTS if name not in quiet)
    slow = {rule["alert"] for rule in rules if "for" in rule}
    yield from (f"no test shows {name} quiet before it fires" for name in sorted(slow - waiting))
    yield from (f"a test of an unknown alert: {name}" for name in sorted((firing | quiet) - set(ALERTS)))


def check_runbooks(metrics):
    present = {file.stem for file in RUNBOOKS.glob("*.md")} - {"README"}
    yield from (f"no runbook {name}.md" for name in ALERTS if name not in present)
    yield from (f"a runbook of an unknown alert: {name}.md" for name in sorted(present - set(ALERTS)))
    index = (RUNBOOKS / "README.md").read_text(encoding="utf-8")
    yield from (f"README.md does not link {name}.md" for name in ALERTS if f"({name}.md)" not in index)
    for file in sorted(RUNBOOKS.glob("*.md")):
        text = file.read_text(encoding="utf-8")
        if file.stem != "README":
            if not text.startswith(f"# {file.stem}\n"):
                yield f"{file.name}: its title is not its name"
            if (headings := re.findall(r"^## (.*)$", text, re.M)) != HEADINGS:
                yield f"{file.name}: headings {headings}"
        yield from (f"{file.name}: {wrong}" for wrong in check_queries(text, metrics))
        for link in re.findall(r"\]\((\w+\.md)", text):
            if not (RUNBOOKS / link).exists():
                yield f"{file.name}: a link to {link}, which is not there"


def queries_of(text):
    return re.findall(r"^```promql\n(.*?)^```", text, re.M | re.S)


def check_queries(text, metrics):
    for query in queries_of(text):
        try:
            metrics.of(query)
        except ValueError as error:
            yield str(error)


def check_manuals(metrics):
    text = "\n".join(manual.read_text(encoding="utf-8") for manual in MANUALS)
    yield from check_queries(text, metrics)
    tests = [test for file in QUERY_TESTS.glob("*.yml") for test in yaml.safe_load(file.read_text(encoding="utf-8"))["tests"]]
    evaluated = {case["expr"] for test in tests for case in test["promql_expr_test"]}
    documented = set(queries_of(text))
    yield from (f"no test in {QUERY_TESTS.name} evaluates {query!r}" for query in sorted(documented - evaluated))
    yield from (f"a test of a query that is not documented: {query!r}" for query in sorted(evaluated - documented))


def panels_of(dashboard):
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def check_dashboard(dashboard, metrics):
    def grafana(promql):
        return metrics.of(GRAFANA_VARIABLE.sub("1", GRAFANA_DURATIONS.sub("5m", promql)))

    for variable in dashboard["templating"]["list"]:
        if variable["type"] != "query":
            continue
        query = variable["query"]["query"] if isinstance(variable["query"], dict) else variable["query"]
        values = re.fullmatch(r"label_values\((.*), *(\w+)\)", query, re.S)
        result = re.fullmatch(r"query_result\((.*)\)", query, re.S)
        try:
            if result:
                grafana(result[1])
            elif not values:
                yield f"variable {variable['name']}: not understood: {query}"
            elif values[2] not in grafana(values[1]):
                yield f"variable {variable['name']}: no label {values[2]}"
        except ValueError as error:
            yield f"variable {variable['name']}: {error}"
    for panel in panels_of(dashboard):
        for target in panel.get("targets", []):
            place = f"panel {panel.get('title')!r} {target['refId']}"
            try:
                labels = grafana(target["expr"])
            except ValueError as error:
                yield f"{place}: {error}"
                continue
            for label in re.findall(r"\{\{\s*(\w+)\s*\}\}", target.get("legendFormat", "")):
                if label not in labels:
                    yield f"{place}: the legend names {label}, which is not among {sorted(labels)}"
        for link in re.findall(r"runbooks/(\w+)\.md", json.dumps(panel)):
            if link not in (*ALERTS, "README"):
                yield f"panel {panel.get('title')!r}: a link to an unknown runbook: {link}"


def main():
    text = RULES.read_text(encoding="utf-8")
    rules = [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
    given = {name: labels for group in INTERFACE.values() for name, labels in group.items()}
    metrics = Metrics(given | ELSEWHERE)
    wrong = []

    def collect(place, findings):
        wrong.extend(f"{place}: {finding}" for finding in findings)

    collect(RULES.name, check_rules(rules, metrics))
    collect(RULES.name, check_comments(text))
    collect("golden page", check_elsewhere())
    collect("tests/alerts/rules", check_rule_tests(rules))
    collect("runbooks", check_runbooks(metrics))
    collect("manuals", check_manuals(Metrics(given | OTHER_EXPORTERS)))
    for file in sorted(DASHBOARDS.glob("*.json")):
        collect(file.name, check_dashboard(json.loads(file.read_text(encoding="utf-8")), metrics))
    rendered = subprocess.run([sys.executable, RENDER, "--check"], stderr=subprocess.PIPE, text=True, check=False)
    if rendered.returncode != 0:
        wrong.append(rendered.stderr.strip())
    for line in wrong:
        print(f"check_alerts: {line}", file=sys.stderr)
    if wrong:
        return 1
    print(f"check_alerts: {len(ALERTS)} alerts in {len(rules)} rules, with runbooks and tests; every name is exported")
    return 0


if __name__ == "__main__":
    sys.exit(main())
