#!/usr/bin/env python3
"""Renders deploy/kubernetes with kubectl's kustomize and with Helm, and checks the results.

    check.py EXPORTER DIRECTORY

The schemas of the oldest and the newest Kubernetes known to kubernetes-validate must accept each
object, without unknown fields. The script writes the operator's objects to DIRECTORY/check.ts,
which tsc checks against the operator's types. The real EXPORTER must accept the arguments of the
containers. The chart must render the same objects as the overlays, and every value of the chart
must have an effect. For a kubectl older than 1.21 (Debian 12's), a copy replaces the words that its
kustomize does not know.
"""
import json
import pathlib
import shutil
import subprocess
import sys
import tomllib

import _jsonnet
import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
OVERLAYS = ("unprivileged", "kernel-status", "without-operator", "tls")
PLACE = "/etc/multipath-exporter"
MEMORY = "/var/lib/multipath-exporter"
KUBERNETES = ("1.25", "1.37")
OPERATOR = {"PodMonitor", "PrometheusRule"}
# The limit of etcd and of a ConfigMap.
MOST_BYTES = 1 << 20
NAME = {"app.kubernetes.io/name": "multipath-exporter"}
CHART = ROOT / "deploy/kubernetes/chart"
# Labels that Helm adds to its objects.
HELM = {"app.kubernetes.io/version", "app.kubernetes.io/managed-by", "helm.sh/chart"}
# The values with which the chart renders each overlay. The TLS settings of Prometheus are taken
# from the overlay itself.
SAME = {
    "unprivileged": {},
    "kernel-status": {"kernelStatus": True},
    "without-operator": {"podMonitor": {"enabled": False}, "prometheusRule": {"enabled": False}},
    "tls": {
        "image": {"repository": "registry.example.org/multipath-exporter"},
        "webConfig": {"secretName": "multipath-exporter-web"},
    },
}
# Each value differs from its default.
VALUES = {
    "image": {"repository": "registry.example/multipath", "tag": "1.2.3", "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "registry"}],
    "kernelStatus": True,
    "memory": {"hostPath": "/srv/multipath"},
    "port": 9999,
    "webConfig": {"secretName": "web"},
    "config": {
        "expected_paths": [{"vendor": "LABARRAY", "product": "VD.*K", "paths": 2}],
        "ignore_unassembled": ["36006016*"],
        "forget": [{"wwid": "3600a098000aad1e3000064e45f2c2399", "before": "2026-11-29T10:00:00Z"}],
        "iscsi_bonds": [],
    },
    "statusPage": False,
    "allowedHosts": ["storage.example.org"],
    "args": ["--no-collector.paths"],
    "resources": {"limits": {"memory": "64Mi"}},
    "nodeSelector": {"storage": "san"},
    "tolerations": [{"key": "storage", "operator": "Exists"}],
    "priorityClassName": "system-cluster-critical",
    "podMonitor": {"interval": "30s", "labels": {"release": "prometheus"}, "endpoint": {"scheme": "https"}},
    "prometheusRule": {
        "labels": {"release": "prometheus"},
        # These characters would end a string or begin a comment in YAML.
        "selector": 'env=~"a: b #c\'",team!=""',
        "jobSelector": 'job="storage"',
        "clusterLabel": "region",
        "runbookURL": "https://runbooks.example/$1/%s",
        "disabled": ["MultipathNeverRedundant"],
        "severities": {"MultipathSinglePath": "warning"},
        "durations": {"MultipathFaultyPaths": "2m", "MultipathSizeMismatch": "0s", "MultipathNoValidPathsStandby": "3m"},
        "alertLabels": {"team": "storage"},
    },
    "dashboard": {"labels": {"grafana_dashboard": "yes"}},
}
# The chart passes these values on unchanged.
WHOLE = {("config",), ("resources",), ("nodeSelector",), ("podMonitor", "endpoint")} | {
    (name, "labels") for name in ("podMonitor", "prometheusRule", "dashboard")
} | {("prometheusRule", name) for name in ("severities", "durations", "alertLabels")}
# The chart must refuse these values and must not render something else.
WRONG = (
    {"kernelstatus": True},
    {"port": None},
    {"image": {"repository": None}},
    {"statusPage": "no"},
    {"statusPage": None},
    {"allowedHosts": ["https://storage.example.org"]},
    {"memory": {"enabled": "no"}},
    {"memory": {"hostPath": "multipath"}},
    {"memory": {"hostPath": None}},
    {"podMonitor": {"endpoint": {"interval": "30s"}}},
    {"podMonitor": {"endpoint": {"relabelings": []}}},
    {"prometheusRule": {"durations": {"MultipathFaultyPaths": "two minutes"}}},
    {"prometheusRule": {"disabled": ["FaultyPaths"]}},
    {"prometheusRule": {"durations": {"MultipathFaultyPath": "2m"}}},
    {"prometheusRule": {"selector": 'env="prod",'}},
    {"prometheusRule": {"alertLabels": {"severity": "none"}}},
    {"prometheusRule": {"runbookURL": "https://runbooks.example"}},
)


def kustomize_before_2_1(kubectl):
    version = json.loads(subprocess.check_output([kubectl, "version", "--client", "-o", "json"]))
    return "kustomizeVersion" not in version


def copy_for_old(destination):
    """Copies the tree with the words of kustomize 2.0: directories are `bases`, and patches are
    `patchesStrategicMerge`."""
    for part in ("alerts", "dashboards", "deploy"):
        shutil.copytree(ROOT / part, destination / part)
    for file in destination.rglob("kustomization.yaml"):
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        resources = content.pop("resources", [])
        content["bases"] = [one for one in resources if (file.parent / one).is_dir()]
        content["resources"] = [one for one in resources if one not in content["bases"]]
        content["patchesStrategicMerge"] = [patch["path"] for patch in content.pop("patches", [])]
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return destination


def render(kubectl, tree, overlay):
    place = tree / "deploy/kubernetes/overlays" / overlay
    done = subprocess.run([kubectl, "kustomize", str(place)], capture_output=True, text=True, check=False)
    if done.returncode or done.stderr:
        sys.exit(f"FAIL {kubectl} kustomize {overlay}: {done.stderr}")
    return list(yaml.safe_load_all(done.stdout))


def equal(what, found, wanted):
    if isinstance(found, dict) and isinstance(wanted, dict):
        equal(f"{what}: what it has", sorted(found), sorted(wanted))
        for key, value in wanted.items():
            equal(f"{what}.{key}", found[key], value)
    if found != wanted:
        sys.exit(f"FAIL {what} is {found!r}, not {wanted!r}")


def check(objects, overlay, exporter, directory):
    by_kind = {one["kind"]: one for one in objects}
    kinds = {"ConfigMap", "DaemonSet", "Namespace", "ServiceAccount"} | (OPERATOR if overlay != "without-operator" else set())
    equal(f"{overlay}: kinds", sorted(one["kind"] for one in objects), sorted(kinds))
    namespace = by_kind["Namespace"]["metadata"]["name"]
    for one in objects:
        if (size := len(json.dumps(one))) >= MOST_BYTES:
            sys.exit(f"FAIL {overlay}: {one['kind']} has {size} bytes")
        if one["kind"] != "Namespace":
            equal(f"{overlay}: namespace of {one['kind']}", one["metadata"]["namespace"], namespace)
        hold_to_schemas(one)
    daemon_set = by_kind["DaemonSet"]["spec"]
    pod = daemon_set["template"]
    equal(f"{overlay}: selector", daemon_set["selector"]["matchLabels"], NAME)
    equal(f"{overlay}: labels of a pod", pod["metadata"]["labels"], NAME)
    equal(f"{overlay}: account", pod["spec"]["serviceAccountName"], by_kind["ServiceAccount"]["metadata"]["name"])
    (container,) = pod["spec"]["containers"]
    probes = [container[probe] for probe in ("livenessProbe", "readinessProbe")]
    used = {(probe.get("httpGet") or probe["tcpSocket"])["port"] for probe in probes}
    equal(f"{overlay}: ports", used, {port["name"] for port in container["ports"]})
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    equal(f"{overlay}: volumes", mounts.keys(), {volume["name"] for volume in pod["spec"]["volumes"]})
    writable = {name for name, mount in mounts.items() if not mount.get("readOnly")}
    equal(f"{overlay}: what is written to", writable, {"memory"})
    sees_the_node(overlay, container, mounts)
    remembers(overlay, pod["spec"], container, mounts)
    security = container["securityContext"]
    equal(f"{overlay}: privileged", security.get("privileged", False), overlay == "kernel-status")
    equal(f"{overlay}: non-root", security["runAsNonRoot"], overlay != "kernel-status")
    take_arguments(exporter, container, directory)
    dashboard = (ROOT / "dashboards/multipath.json").read_text(encoding="utf-8")
    equal(f"{overlay}: dashboard", by_kind["ConfigMap"]["data"], {"multipath.json": dashboard})
    if overlay == "without-operator":
        return []
    monitor = by_kind["PodMonitor"]["spec"]
    equal(f"{overlay}: selector of the monitor", monitor["selector"]["matchLabels"], NAME)
    (endpoint,) = monitor["podMetricsEndpoints"]
    equal(f"{overlay}: port of the monitor", {endpoint["port"]}, used)
    equal(f"{overlay}: scheme", endpoint.get("scheme"), "https" if overlay == "tls" else None)
    equal(f"{overlay}: relabelling", endpoint["relabelings"], relabelings())
    rules = yaml.safe_load((ROOT / "alerts/prometheus-rule.yaml").read_text(encoding="utf-8"))
    equal(f"{overlay}: rules", by_kind["PrometheusRule"]["spec"], rules["spec"])
    return [by_kind[kind] for kind in sorted(OPERATOR)]


def sees_the_node(what, container, mounts):
    """Checks that the exporter sees the node's mounts, which show if a device is in use."""
    (procfs,) = (argument for argument in container["args"] if argument.startswith("--path.procfs="))
    equal(f"{what}: procfs", procfs, f"--path.procfs={mounts['proc']['mountPath']}")


def remembers(what, pod, container, mounts, host_path=MEMORY):
    """Checks that the memory's directory is on the node, and that an init container gives it to the
    exporter and may do nothing else."""
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == "memory")
    equal(f"{what}: directory of the memory", volume["hostPath"], {"path": host_path, "type": "DirectoryOrCreate"})
    equal(f"{what}: where it is mounted", mounts["memory"], {"name": "memory", "mountPath": MEMORY})
    equal(f"{what}: file of the memory", f"--memory.file={MEMORY}/memory.json" in container["args"], True)
    (first,) = pod["initContainers"]
    equal(f"{what}: image of what comes first", first["image"], container["image"])
    equal(f"{what}: what it is given", first["volumeMounts"], [mounts["memory"]])
    equal(f"{what}: what it does", first["command"][2:], ["65534:65534", MEMORY])
    security = first["securityContext"]
    equal(f"{what}: what it may do", security["capabilities"], {"drop": ["ALL"], "add": ["CHOWN"]})
    equal(f"{what}: what it may become", security["allowPrivilegeEscalation"], False)


def relabelings():
    monitor = yaml.safe_load((ROOT / "deploy/kubernetes/operator/podmonitor.yaml").read_text(encoding="utf-8"))
    return monitor["spec"]["podMetricsEndpoints"][0]["relabelings"]


def take_arguments(exporter, container, directory):
    """Checks that the exporter accepts all its arguments. Files of a volume are below DIRECTORY
    here."""
    arguments = [argument.replace(PLACE, str(directory)) for argument in container["args"]]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"] if mount["mountPath"].startswith(PLACE)}
    read = {argument.split("=")[1].rsplit("/", 1)[0] for argument in container["args"] if PLACE in argument}
    equal("what is mounted is read", mounted, read)
    if not any(argument.startswith("--config.file=") for argument in arguments):
        arguments.append(f"--config.file={directory / 'config/config.yml'}")
    subprocess.run([exporter, *arguments, "--config.check"], check=True, stdout=subprocess.DEVNULL)


def hold_to_schemas(one):
    for version in KUBERNETES if one["kind"] not in OPERATOR else ():
        kubernetes_validate.validate(one, version, strict=True)


def helm(values, may_fail=False):
    """Returns the objects that the chart renders, or None if the chart refuses the values and
    `may_fail` allows it."""
    command = [pathlib.Path(sys.executable).with_name("helm"), "template", "multipath-exporter", CHART]
    command += ["--namespace", "multipath-exporter", "--values", "-"]
    done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)
    if done.returncode and not may_fail:
        sys.exit(f"FAIL chart: {done.stderr}")
    return list(yaml.safe_load_all(done.stdout)) if done.returncode == 0 else None


def leaves(values, place=()):
    """Yields the place of each value that is not a mapping of the chart's own."""
    for name, value in values.items():
        if isinstance(value, dict) and (*place, name) not in WHOLE:
            yield from leaves(value, (*place, name))
        else:
            yield (*place, name)


def without(values, place):
    name, *below = place
    rest = {key: value for key, value in values.items() if key != name}
    return rest | {name: without(values[name], below)} if below else rest


def without_helms_labels(one):
    labels = one["metadata"]["labels"]
    if found := HELM - labels.keys():
        sys.exit(f"FAIL chart: {one['kind']} has no label {found}")
    one["metadata"]["labels"] = {label: value for label, value in labels.items() if label not in HELM}
    return one


def check_chart(overlays, exporter, directory):
    for overlay, objects in overlays.items():
        values = SAME[overlay]
        if overlay == "tls":
            (monitor,) = (one for one in objects if one["kind"] == "PodMonitor")
            (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
            values = values | {"podMonitor": {"endpoint": {key: endpoint[key] for key in ("scheme", "tlsConfig")}}}
        rendered = [without_helms_labels(one) for one in helm(values)]
        equal(f"chart: objects of {overlay}", len(rendered), len({one["kind"] for one in rendered}))
        rendered = {one["kind"]: one for one in rendered}
        for one in objects:
            if one["kind"] != "Namespace":
                equal(f"chart: {one['kind']} of {overlay}", rendered.pop(one["kind"], None), one)
        equal(f"chart: what is not in {overlay}", rendered, {})
    package = tomllib.loads((ROOT / "Cargo.toml").read_text(encoding="utf-8"))["package"]
    versions = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    equal("chart: version", {versions["version"], versions["appVersion"]}, {package["version"]})

    equal("chart: values", VALUES.keys(), yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8")).keys())
    full = helm(VALUES)
    for one in full:
        hold_to_schemas(one)
    for place in leaves(VALUES):
        if helm(without(VALUES, place)) == full:
            sys.exit(f"FAIL chart: {'.'.join(place)} changes nothing")
    daemon_set = next(one for one in full if one["kind"] == "DaemonSet")
    (container,) = daemon_set["spec"]["template"]["spec"]["containers"]
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    remembers("chart", daemon_set["spec"]["template"]["spec"], container, mounts, VALUES["memory"]["hostPath"])
    check_chart_without_memory()
    (config,) = (one["data"]["config.yml"] for one in full if one["kind"] == "ConfigMap" and "config.yml" in one["data"])
    equal("chart: configuration", yaml.safe_load(config), VALUES["config"])
    (directory / "config/config.yml").write_text(config, encoding="utf-8")
    take_arguments(exporter, container, directory)
    (rules,) = (one["spec"]["groups"] for one in full if one["kind"] == "PrometheusRule")
    equal("chart: rules with other settings", rules, rules_with(VALUES["prometheusRule"]))
    objects = ("podMonitor", "prometheusRule", "dashboard")
    least = helm({name: {"enabled": False} for name in objects})
    equal("chart: kinds without the operator", sorted(one["kind"] for one in least), ["DaemonSet", "ServiceAccount"])
    for wrong in WRONG:
        if helm(wrong, may_fail=True) is not None:
            sys.exit(f"FAIL chart: takes {wrong}")
    return [one for one in full if one["kind"] in OPERATOR]


def rules_with(values):
    """Returns the groups of the mixin with the same settings."""
    names = ("selector", "jobSelector", "clusterLabel", "runbookURL", "disabled")
    config = {name: values[name] for name in names}
    config |= {f"{name}+": values[name] for name in ("severities", "durations")}
    overrides = ", ".join(f"{name}: {json.dumps(value)}" for name, value in config.items())
    snippet = f"((import 'alerts/mixin.libsonnet') + {{ _config+:: {{ {overrides} }} }}).prometheusAlerts"
    groups = json.loads(_jsonnet.evaluate_snippet("chart", snippet, jpathdir=[str(ROOT)]))["groups"]
    for group in groups:
        for rule in group["rules"]:
            rule["labels"] |= values["alertLabels"]
    return groups


def check_chart_without_memory():
    rendered = helm({"memory": {"enabled": False}})
    for one in rendered:
        hold_to_schemas(one)
    pod = next(one for one in rendered if one["kind"] == "DaemonSet")["spec"]["template"]["spec"]
    equal("chart: what comes first without a memory", pod.get("initContainers"), None)
    equal("chart: volumes without a memory", {volume["name"] for volume in pod["volumes"]}, {"udev", "proc"})
    (container,) = pod["containers"]
    equal("chart: mounts without a memory", {mount["name"] for mount in container["volumeMounts"]}, {"udev", "proc"})
    equal("chart: arguments without a memory", [one for one in container["args"] if "memory" in one], [])


def must_fail():
    """Checks that the schemas refuse errors. Otherwise they would prove nothing."""
    daemon_set = yaml.safe_load((ROOT / "deploy/kubernetes/base/daemonset.yaml").read_text(encoding="utf-8"))
    daemon_set["spec"]["template"]["spec"]["hostNetwrok"] = True
    for version in KUBERNETES:
        try:
            kubernetes_validate.validate(daemon_set, version, strict=True)
        except kubernetes_validate.ValidationError:
            continue
        sys.exit(f"FAIL the schemas of {version} take a field that does not exist")


def main():
    exporter, directory = sys.argv[1], pathlib.Path(sys.argv[2])
    kubectl = shutil.which("kubectl") or sys.exit("FAIL there is no kubectl")
    must_fail()
    for file in ("config/config.yml", "web/web.yml"):
        (directory / file).parent.mkdir()
        (directory / file).touch()
    tree = copy_for_old(directory / "tree") if kustomize_before_2_1(kubectl) else ROOT
    rendered = {overlay: render(kubectl, tree, overlay) for overlay in OVERLAYS}
    typed = []
    for overlay, objects in rendered.items():
        typed += check(objects, overlay, exporter, directory)
        print(f"ok    {overlay}")
    typed += check_chart(rendered, exporter, directory)
    print("ok    chart")
    with (directory / "check.ts").open("w", encoding="utf-8") as file:
        file.write("import type * as Operator from '@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1';\n")
        for number, one in enumerate(typed):
            file.write(f"export const object{number}: Operator.I{one['kind']} = {json.dumps(one, indent=1)};\n")


if __name__ == "__main__":
    main()
