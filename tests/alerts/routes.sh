#!/bin/bash
# Whether the example configurations are accepted by those who will read them, and who is told of which alert.
# `make test` runs it; it needs amtool and promtool. tests/alerts/notifications.py shows what is told.
set -euo pipefail
cd "$(dirname "$0")/../.."
scratch=$(mktemp -d)
trap 'rm -r "$scratch"' EXIT

fail() {
	echo "routes.sh: $*" >&2
	exit 1
}

# Says nothing unless it fails.
quietly() {
	"$@" >"$scratch/output" 2>&1 || {
		cat "$scratch/output" >&2
		fail "failed: $*"
	}
}

# As they are, and with what is commented out put into force.
quietly amtool check-config alerts/alertmanager.yml
quietly promtool check config alerts/prometheus.yml
cp alerts/multipath* "$scratch"
sed -E '/^ +# - matchers: /,/^ +#   continue: true$/s/# //' alerts/alertmanager.yml >"$scratch/alertmanager.yml"
sed -E '/^  # alert_relabel_configs:/,$s/# //' alerts/prometheus.yml >"$scratch/prometheus.yml"
cmp -s alerts/alertmanager.yml "$scratch/alertmanager.yml" && fail 'no severity route in alertmanager.yml'
cmp -s alerts/prometheus.yml "$scratch/prometheus.yml" && fail 'no alert_relabel_configs in prometheus.yml'
quietly amtool check-config "$scratch/alertmanager.yml"
quietly promtool check config "$scratch/prometheus.yml"

# told FILE RECEIVERS LABEL=VALUE...
told() {
	local file=$1 receivers=$2
	shift 2
	quietly amtool config routes test --config.file="$file" --verify.receivers="$receivers" "$@"
}
host=(job=multipath instance=db01)
device=("${host[@]}" wwid=3600a098000aad1e3000064e45f2c2355)

names=$(sed -n 's/^ *- alert: //p' alerts/multipath.rules.yml | sort -u)
[ "$(wc -l <<<"$names")" -gt 20 ] || fail "alerts: $names"
for name in $names; do
	[ "$name" = MultipathPathsRecovered ] && continue
	told alerts/alertmanager.yml multipath-email "alertname=$name" severity=warning "${device[@]}"
	told alerts/alertmanager.yml multipath-email "alertname=$name" severity=critical "${host[@]}"
	told alerts/alertmanager.yml multipath-email "alertname=$name" severity=critical "${device[@]}" array=x
	told "$scratch/alertmanager.yml" multipath-email "alertname=$name" severity=warning "${device[@]}"
	told "$scratch/alertmanager.yml" multipath-pager,multipath-email \
		"alertname=$name" severity=critical "${device[@]}"
done
for file in alerts/alertmanager.yml "$scratch/alertmanager.yml"; do
	told "$file" nobody alertname=MultipathPathsRecovered severity=info "${host[@]}"
	told "$file" default alertname=Watchdog severity=critical "${host[@]}"
done

# The label `array`, as Prometheus anchors and applies the expression.
expression=$(sed -n "s/^ *regex: '\(Multipath.*\)'$/\1/p" "$scratch/prometheus.yml")
array() {
	sed -nE "s/^$expression\$/\1/p" <<<"$1"
}
[ "$(array 'MultipathFaultyPaths;3600a098000aad1e3000064e45f2c2355')" = 600a098000aad1e3 ] || fail "array: $expression"
[ -z "$(array 'MultipathFaultyPaths;3500a098000aad1e3')" ] || fail "an array of a disk: $expression"
[ -z "$(array 'MultipathFaultyPaths;eui.0025385b71b0f2a4')" ] || fail "an array of a namespace: $expression"

echo 'routes.sh: ok'
