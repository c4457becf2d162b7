#!/usr/bin/env python3
"""Renders deploy/kubernetes with kubectl's kustomize and checks what comes out.

    check.py EXPORTER DIRECTORY

Each object is held to the schemas of the oldest and the newest Kubernetes known to kubernetes-validate, unknown fields refused;
the operator's objects are left in DIRECTORY/check.ts for tsc and its types. The arguments of the containers are given to
the real EXPORTER. Where kubectl is older than 1.21 (Debian 12's), what its kustomize calls otherwise is rewritten in a copy.
"""
import json
import pathlib
import shutil
import subprocess
import sys

import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
OVERLAYS = ("unprivileged", "kernel-status")
KUBERNETES = ("1.25", "1.37")
OPERATOR = {"PodMonitor", "PrometheusRule"}
# What etcd takes, and a ConfigMap.
MOST_BYTES = 1 << 20
NAME = {"app.kubernetes.io/name": "multipath-exporter"}


def kustomize_before_2_1(kubectl):
    version = json.loads(subprocess.check_output([kubectl, "version", "--client", "-o", "json"]))
    return "kustomizeVersion" not in version


def copy_for_old(destination):
    """The same tree in the words of kustomize 2.0: directories are `bases`, patches `patchesStrategicMerge`."""
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
    if found != wanted:
        sys.exit(f"FAIL {what} is {found!r}, not {wanted!r}")


def check(objects, overlay, exporter, directory):
    by_kind = {one["kind"]: one for one in objects}
    kinds = ["ConfigMap", "DaemonSet", "Namespace", "PodMonitor", "PrometheusRule", "ServiceAccount"]
    equal(f"{overlay}: kinds", sorted(one["kind"] for one in objects), kinds)
    namespace = by_kind["Namespace"]["metadata"]["name"]
    for one in objects:
        if (size := len(json.dumps(one))) >= MOST_BYTES:
            sys.exit(f"FAIL {overlay}: {one['kind']} has {size} bytes")
        if one["kind"] != "Namespace":
            equal(f"{overlay}: namespace of {one['kind']}", one["metadata"]["namespace"], namespace)
        for version in KUBERNETES if one["kind"] not in OPERATOR else ():
            kubernetes_validate.validate(one, version, strict=True)
    daemon_set, monitor = by_kind["DaemonSet"]["spec"], by_kind["PodMonitor"]["spec"]
    pod = daemon_set["template"]
    for selector in (daemon_set["selector"], monitor["selector"]):
        equal(f"{overlay}: selector", selector["matchLabels"], NAME)
    equal(f"{overlay}: labels of a pod", pod["metadata"]["labels"], NAME)
    equal(f"{overlay}: account", pod["spec"]["serviceAccountName"], by_kind["ServiceAccount"]["metadata"]["name"])
    (container,) = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    used = {container[probe]["httpGet"]["port"] for probe in ("livenessProbe", "readinessProbe")}
    used |= {endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]}
    equal(f"{overlay}: ports", used, set(ports))
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    equal(f"{overlay}: volumes", mounted, {volume["name"] for volume in pod["spec"]["volumes"]})
    security = container["securityContext"]
    equal(f"{overlay}: privileged", security.get("privileged", False), overlay == "kernel-status")
    equal(f"{overlay}: non-root", security["runAsNonRoot"], overlay != "kernel-status")
    # Reads all arguments and leaves.
    only_check = ["--config.check", f"--config.file={directory / 'config.yml'}"]
    subprocess.run([exporter, *container["args"], *only_check], check=True, stdout=subprocess.DEVNULL)
    rules = yaml.safe_load((ROOT / "alerts/prometheus-rule.yaml").read_text(encoding="utf-8"))
    equal(f"{overlay}: rules", by_kind["PrometheusRule"]["spec"], rules["spec"])
    dashboard = (ROOT / "dashboards/multipath.json").read_text(encoding="utf-8")
    equal(f"{overlay}: dashboard", by_kind["ConfigMap"]["data"], {"multipath.json": dashboard})
    return [by_kind[kind] for kind in sorted(OPERATOR)]


def must_fail():
    """The schemas refuse what is wrong: or they would prove nothing."""
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
    (directory / "config.yml").touch()
    tree = copy_for_old(directory / "tree") if kustomize_before_2_1(kubectl) else ROOT
    typed = []
    for overlay in OVERLAYS:
        typed += check(render(kubectl, tree, overlay), overlay, exporter, directory)
        print(f"ok    {overlay}")
    with (directory / "check.ts").open("w", encoding="utf-8") as file:
        file.write("import type * as Operator from '@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1';\n")
        for number, one in enumerate(typed):
            file.write(f"export const object{number}: Operator.I{one['kind']} = {json.dumps(one, indent=1)};\n")


if __name__ == "__main__":
    main()
