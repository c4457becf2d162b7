#!/bin/bash
# Checks that amtool and promtool accept the example configurations, and that each alert reaches the
# right receivers. `make test` runs it. It needs amtool and promtool. tests/alerts/notifications.py
# shows the messages.
set -euo pipefail
cd "$(dirname "$0")/../.."
scratch=$(mktemp -d)
trap 'rm -r "$scratch"' EXIT

fail() {
	echo "routes.sh: $*" >&2
	exit 1
}

# Prints the output of a command only if the command fails.
quietly() {
	"$@" >"$scratch/output" 2>&1 || {
		cat "$scratch/output" >&2
		fail "failed: $*"
	}
}

# The files as they are, and then with the commented parts in force.
quietly amtool check-config alerts/alertmanager.yml
quietly promtool check config alerts/prometheus.yml
cp alerts/multipath* "$scratch"
sed -E '/^ +# - matchers: /,/^ +#   continue: true$/s/# //' alerts/alertmanager.yml >"$scratch/alertmanager.yml"
sed -E -e '/^  # external_labels:/,/^$/s/# //' -e '/^  # alert_relabel_configs:/,$s/# //' \
	alerts/prometheus.yml >"$scratch/prometheus.yml"
grep -q '^    - matchers: .*severity' "$scratch/alertmanager.yml" || fail 'no pager route in alertmanager.yml'
grep -q '^  external_labels:' "$scratch/prometheus.yml" || fail 'no external_labels in prometheus.yml'
grep -q '^  alert_relabel_configs:' "$scratch/prometheus.yml" || fail 'no alert_relabel_configs in prometheus.yml'
quietly amtool check-config "$scratch/alertmanager.yml"
quietly promtool check config "$scratch/prometheus.yml"

# Hosts of two clusters may have the same name.
! grep -E 'group_by:|equal:' alerts/alertmanager.yml | grep -v cluster || fail 'a group or an inhibition without cluster'

# told FILE RECEIVERS LABEL=VALUE...
told() {
	local file=$1 receivers=$2
	shift 2
	quietly amtool config routes test --config.file="$file" --verify.receivers="$receivers" "$@"
}

names=$(sed -n 's/^ *- alert: //p' alerts/multipath.rules.yml | sort -u)
[ "$(wc -l <<<"$names")" -gt 20 ] || fail "alerts: $names"
for name in $names; do
	receiver=multipath-email
	[ "$name" = MultipathPathsRecovered ] && receiver=multipath-recovered
	for cluster in '' prod; do
		alert=("alertname=$name" "cluster=$cluster" job=multipath instance=db01 wwid=3600a098000aad1e3000064e45f2c2355)
		told alerts/alertmanager.yml "$receiver" severity=critical "${alert[@]}"
		told "$scratch/alertmanager.yml" "$receiver" severity=warning "${alert[@]}"
		told "$scratch/alertmanager.yml" "multipath-pager,$receiver" severity=critical "${alert[@]}"
	done
done
for file in alerts/alertmanager.yml "$scratch/alertmanager.yml"; do
	told "$file" default alertname=Watchdog severity=critical job=multipath instance=db01
done

echo 'routes.sh: ok'
