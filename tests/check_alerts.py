#!/usr/bin/env python3
"""Holds alerts and dashboards against what the exporter gives. `make test` runs it.

Every metric and every label that a rule, a notification, a runbook or a panel names is one that the exporter's golden
page has. Every alert of the interface has a rule with its reasons, a runbook, and tests that show it firing and quiet.
The operator's copy of the rules is up to date; `check_alerts.py --write` makes it so.
"""

import json
import pathlib
import re
import sys

import yaml
from check_exposition import INTERFACE
from promql_labels import Metrics

ROOT = pathlib.Path(__file__).parent.parent
RULES = ROOT / "alerts" / "multipath.rules.yml"
OPERATOR = ROOT / "alerts" / "prometheus-rule.yaml"
RUNBOOKS = ROOT / "alerts" / "runbooks"
RULE_TESTS = ROOT / "tests" / "alerts" / "rules"
DASHBOARDS = ROOT / "dashboards"

ALERTS = """
MultipathFaultyPaths MultipathNoValidPaths MultipathPathsRecovered
MultipathDeviceLost MultipathSinglePath MultipathPathsMissing MultipathExpectedPathsMissing MultipathSingleFabric
MultipathPathFlapping MultipathPathMarginal MultipathQueueingWithoutPaths MultipathDeviceSuspended
MultipathNonOptimizedPath MultipathStateDisagreement MultipathSizeMismatch MultipathReadOnlyMismatch
MultipathWwidMismatch MultipathNotAssembled MultipathDaemonDown MultipathDaemonBlocked MultipathIscsiSessionDown
MultipathSessionWithoutPath MultipathIscsiBondNetworkDown MultipathIscsiBondDown MultipathFcRemotePortDown
MultipathExporterDown MultipathExporterStale MultipathExporterErrors
""".split()

# These outlive a missed scrape by themselves: what was last seen is kept, or a window is looked at. All others keep firing.
OUTLIVING = """
MultipathFaultyPaths MultipathNoValidPaths MultipathDeviceLost MultipathPathsMissing MultipathPathsRecovered
MultipathExpectedPathsMissing MultipathPathFlapping MultipathExporterDown MultipathExporterStale MultipathExporterErrors
""".split()

SEVERITIES = {"critical", "warning", "info"}
ANNOTATIONS = {"summary", "description", "runbook_url"}
RUNBOOK_URL = "https://github.com/multipath-exporter/multipath_exporter/blob/main/alerts/runbooks/"
HEADINGS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]

OPERATOR_HEAD = """\
# The rules of multipath.rules.yml for the Prometheus operator, generated from it: edit that one.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: multipath
  labels:
    app.kubernetes.io/name: multipath-exporter
spec:
"""

# What Grafana puts in place of its variables, as far as it matters to a parser.
GRAFANA_DURATIONS = re.compile(r"\$(?:__rate_interval|__interval|__range)\b|\$\{__(?:rate_interval|interval|range)\}")
GRAFANA_VARIABLE = re.compile(r"\$(?:\w+|\{\w+(?::\w+)?\})")


def check_rules(rules, metrics):
    named = {rule["alert"] for rule in rules if "alert" in rule}
    yield from (f"no rule for {name}" for name in ALERTS if name not in named)
    yield from (f"an alert that the interface does not have: {name}" for name in sorted(named - set(ALERTS)))
    for rule in rules:
        name = rule.get("alert") or rule["record"]
        try:
            labels = metrics.of(rule["expr"]) | {"severity"}
            if "alert" in rule:
                yield from (f"{name}: {wrong}" for wrong in check_alert(rule, labels, metrics))
        except ValueError as error:
            yield f"{name}: {error}"


def check_alert(rule, labels, metrics):
    if rule["labels"].get("severity") not in SEVERITIES:
        yield f"severity {rule['labels'].get('severity')}"
    if ("keep_firing_for" in rule) == (rule["alert"] in OUTLIVING):
        yield "keep_firing_for is for those that a missed scrape would end, and for all of them"
    annotations = rule["annotations"]
    yield from (f"no {missing}" for missing in sorted(ANNOTATIONS - annotations.keys()))
    if "{{" in annotations["summary"] or not annotations["summary"].endswith("."):
        yield "summary is not one static sentence"
    if annotations["runbook_url"] != f"{RUNBOOK_URL}{rule['alert']}.md":
        yield f"runbook_url {annotations['runbook_url']}"
    for text in annotations.values():
        for label in re.findall(r"\$labels\.(\w+)", text):
            if label not in labels:
                yield f"{{{{ $labels.{label} }}}} is not among {sorted(labels)}"
        for query in re.findall(r'printf "([^"]*\{[^"]*)"', text):
            metrics.of(query.replace("%q", '"x"'))


def check_comments(text):
    """Every number has its reason, so every rule has a comment."""
    lines = text.splitlines()
    for before, line in zip(lines, lines[1:]):
        if re.match(r"\s*- (alert|record|name): ", line) and not before.lstrip().startswith("#"):
            yield f"no reason is given above {line.strip()}"


def check_rule_tests():
    firing, quiet = set(), set()
    for file in sorted(RULE_TESTS.glob("*.yml")):
        for group in yaml.safe_load(file.read_text(encoding="utf-8"))["tests"]:
            for test in group.get("alert_rule_test", []):
                (firing if test.get("exp_alerts") else quiet).add(test["alertname"])
    yield from (f"no test shows {name} firing" for name in ALERTS if name not in firing)
    yield from (f"no test shows {name} quiet" for name in ALERTS if name not in quiet)
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
        for block in re.findall(r"^```promql\n(.*?)^```", text, re.M | re.S):
            try:
                metrics.of(block)
            except ValueError as error:
                yield f"{file.name}: {error}"
        for link in re.findall(r"\]\((\w+\.md)", text):
            if not (RUNBOOKS / link).exists():
                yield f"{file.name}: a link to {link}, which is not there"


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
        values = re.fullmatch(r"label_values\((.*), *(\w+)\)", query)
        result = re.fullmatch(r"query_result\((.*)\)", query)
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


def operator_rules(text):
    return OPERATOR_HEAD + "".join(f"  {line}\n" if line else "\n" for line in text.splitlines())


def main():
    text = RULES.read_text(encoding="utf-8")
    if sys.argv[1:] == ["--write"]:
        OPERATOR.write_text(operator_rules(text), encoding="utf-8")
    groups = yaml.safe_load(text)["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    given = {name: labels for group in INTERFACE.values() for name, labels in group.items()}
    metrics = Metrics(given)
    metrics.record([rule for rule in rules if "record" in rule])
    wrong = []

    def collect(place, findings):
        wrong.extend(f"{place}: {finding}" for finding in findings)

    collect(RULES.name, check_rules(rules, metrics))
    collect(RULES.name, check_comments(text))
    collect("tests/alerts/rules", check_rule_tests())
    collect("runbooks", check_runbooks(metrics))
    for file in sorted(DASHBOARDS.glob("*.json")):
        collect(file.name, check_dashboard(json.loads(file.read_text(encoding="utf-8")), metrics))
    if yaml.safe_load(OPERATOR.read_text(encoding="utf-8"))["spec"]["groups"] != groups:
        wrong.append(f"{OPERATOR.name} is not what {RULES.name} makes: run tests/check_alerts.py --write")
    for line in wrong:
        print(f"check_alerts: {line}", file=sys.stderr)
    if wrong:
        return 1
    print(f"check_alerts: {len(ALERTS)} alerts in {len(rules)} rules, with runbooks and tests; every name is exported")
    return 0


if __name__ == "__main__":
    sys.exit(main())
