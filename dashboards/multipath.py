#!/usr/bin/env python3
"""Writes the Grafana dashboard: dashboards/multipath.py > dashboards/multipath.json

Thirty panels in JSON are thousands of lines, which hide repetitions and differences. Here each
panel is a query, its columns and a sentence. The JSON is committed, because users import it.
tests/dashboard/run fails if the two differ.

Rules of the queries:
- The exporter judges, and the dashboard shows. CRITICAL, WARNING and INFO have one line for each
  alert: the condition of the alert, without its `for`. tests/dashboard/run compares them with the
  alerts.
- No query reads a recording rule, because there are none.
- Joins use the target (cluster, job, instance) and the wwid: two hosts may hold the same wwid, and
  two clusters may have the same host.
- topk bounds all results that grow with the fleet, worst first: 500 hosts of 50 devices have
  100,000 paths.
- A host that does not report is not healthy: a count is absent, and not 0, if no host reports.
- Red marks critical alerts, and orange marks warnings. Green marks only a count of 0 in the first
  row.
"""
import json
import pathlib
import tomllib

PACKAGE = tomllib.loads((pathlib.Path(__file__).parents[1] / 'Cargo.toml').read_text())['package']
REPOSITORY = PACKAGE['repository'] + '/blob/main'
RUNBOOK = REPOSITORY + '/alerts/runbooks/{}.md'
DATASOURCE = {'type': 'prometheus', 'uid': '${datasource}'}
GREEN, ORANGE, RED, BLUE, GREY, PLAIN = 'green', 'orange', 'red', 'blue', '#808791', 'text'
# The background colours of white words. White on Grafana's own orange, green and red has a contrast
# of 2 to 3.6. Here the contrast is 4.5 or more.
ON_GREEN, ON_ORANGE, ON_RED, ON_BLUE = '#2b7a39', '#b45309', '#c4162a', '#1f60c4'

# -- PromQL ----------------------------------------------------------------------------------------

S = 'cluster=~"$cluster", job=~"$job", instance=~"$instance"'
HOST, DEVICE, PATH = '(cluster, job, instance)', '(cluster, job, instance, wwid)', '(cluster, job, instance, wwid, path)'
STANDBY, LIVE, FAILED_EVENT = 'state=~"inaccessible|change"', 'state="live"', 'action="path_failed"'
LUN = S + ', wwid="$wwid"'


def metric(name, more='', base=S):
    return 'multipath_%s{%s%s}' % (name, base, ', ' + more if more else '')


def by(labels, expr, function='max'):
    return f'{function} by {labels} ({expr})'


def either(*exprs, on=''):
    return f'\nor{" on " + on if on else ""} '.join(exprs)


VALID, FAILED = metric('device_valid_paths'), metric('device_failed_paths')
UNHEALTHY = f'({VALID} == 0 or on {DEVICE} {FAILED} > 0)'


def device_state(base=S):
    """0 healthy, 1 degraded, 2 without valid paths. The rare states are filtered first, because a
    fleet has 25,000 devices, most of them healthy."""
    valid, failed = metric('device_valid_paths', base=base), metric('device_failed_paths', base=base)
    return f'({either(f"2 + ({valid} == 0)", f"1 + 0 * ({failed} > 0)", f"0 * {valid}", on=DEVICE)})'


def device_scores(count):
    """Returns devices without valid paths first, then the devices with the most failed paths."""
    return f'topk({count}, 1000 + ({VALID} == 0) or on {DEVICE} {FAILED})'


def path_state(base=S):
    """0 failed, 1 valid, 2 standby. Only NVMe has standby: a live controller whose ANA state lets
    no I/O through."""
    waits = f'{metric("path_ana_state", STANDBY, base)} and on {PATH} {metric("path_device_state", LIVE, base)}'
    return '(' + either(by(PATH, metric('path_valid', base=base) + ' == 1'), '2 * ' + by(PATH, waits),
                        by(PATH, metric('path_valid', base=base)), on=PATH) + ')'


def info(pick=''):
    """The alias of each device. topk is necessary because a device may have two series during a
    rename."""
    return f'topk by {DEVICE} (1, {metric("device_info")}{pick})'


def worst_lines(expr, labels, over, count=5, function='max'):
    """Returns the series that `over` finds worst at the end of the time shown. A bare topk would
    choose again at each step: lines would come and go, and there would be more of them than
    requested."""
    return f'{by(labels, expr, function)} and on {labels} topk({count}, {by(labels, over, function)})'


def counted(name, span='$__rate_interval', more='', end=False):
    return f'increase({metric(name, more)}[{span}]{" @ end()" if end else ""})'


def failed_paths_by(*labels):
    names = ', '.join(labels)
    failed = (f'{metric("path_valid")} == 0 unless on {PATH} '
              f'({metric("path_ana_state", STANDBY)} and on {PATH} {metric("path_device_state", LIVE)})')
    return f'topk(10, count by ({names}) ({metric("path_info")} and on {PATH} ({failed})))'


# "All jobs" is every job of this Prometheus. $exporter_job is the jobs among them that hold
# exporters.
UP = 'up{%s, job=~"$exporter_job"}' % S
# A target may answer without any series of this exporter: its textfile is gone, or another program
# uses its port. A target may also have existed five minutes ago and be gone. The alerts report its
# devices for the same time.
SILENT = f'({UP} == 0 or {UP} unless on {HOST} {metric("devices")} or last_over_time({UP}[5m]) unless {UP})'
# -- findings: the conditions of the alerts --------------------------------------------------------

LOST, OF_TARGET = 'wwid, name, kind, vendor, product, reason', 'session, target_port, initiator_port'
CONTROLLER = 'controller, target, target_port, initiator_port'
DAEMON, NOT_DAEMON = 'source="multipathd"', 'source!="multipathd"'


def risen(name, limit, window='15m'):
    return f'increase({metric(name)}[{window}]) {limit}'


UNUSED = f'{metric("device_in_use")} == 0'
# multipathd has nothing to do if device mapper holds no device (NVMe only, or no multipath at all).
DAEMON_WANTED = f' and on {HOST} ' + metric('device_info', 'kind="dm"')

# (alert, tile, what it counts, its condition, and for findings of a device the word for that
# device), worst first. The rules also keep a host's last values for five minutes. Here such a host
# counts as one that does not report.
CRITICAL = [
    ('MultipathDeviceInUseLost', 'Lost in use', 'Lost devices that were in use', metric('lost_device_info', 'reason="in_use"'), 'lost in use'),
    ('MultipathNoValidPaths', 'No valid path', 'Devices in use without a valid path', f'{metric("device_valid_paths")} == 0 unless {UNUSED}', 'without valid paths'),
    ('MultipathWwidMismatch', 'Wrong LUN', 'Devices with paths to a LUN that changed', metric('device_wwid_mismatched_paths'), 'path to another LUN'),
    ('MultipathLunConflict', 'Wrong LUN', 'Devices that hold two LUNs', metric('device_lun_conflicts'), 'two LUNs'),
    ('MultipathIoStalled', 'I/O hangs', 'Devices whose I/O has stalled', metric('device_stalled_seconds') + ' >= 60', 'I/O stalled'),
    ('MultipathAllPathsBlocked', 'I/O hangs', 'Devices whose valid paths are all blocked', f'{metric("device_blocked_paths")} >= {metric("device_valid_paths")}', 'all paths blocked'),
    ('MultipathDeviceSuspended', 'I/O hangs', 'Suspended devices', metric('device_suspended'), 'suspended'),
    ('MultipathSinglePath', 'One path left', 'Devices with one valid path of several',
     f'{metric("device_valid_paths")} == 1 unless {metric("device_standby_paths")} > 0 and {metric("device_expected_paths")} > 1', 'one path left'),
    ('MultipathIscsiBondDown', 'iSCSI bond down', 'iSCSI bonds without a network', metric('iscsi_bond_networks_up') + ' == 0', None),
]
WARNING = [
    ('MultipathDeviceLost', 'Lost', 'Lost devices, not known to be in use', metric('lost_device_info', 'reason!="in_use"'), 'lost'),
    ('MultipathNoValidPathsUnused', 'Dead, unused', 'Unused devices without a valid path', f'{metric("device_valid_paths")} == 0 and {UNUSED}', 'no path, unused'),
    ('MultipathFaultyPaths', 'Degraded', 'Devices with failed and valid paths', f'{metric("device_failed_paths")} > 0 and {metric("device_valid_paths")} > 0', 'degraded'),
    ('MultipathPathsMissing', 'Paths missing', 'Devices that miss paths', f'{metric("device_missing_paths")} > 0', 'paths missing'),
    ('MultipathNotRedundant', 'Not redundant', 'Devices that have lost their redundancy', f'{metric("device_redundancy_lost")} == 1 unless {metric("device_failed_paths")} > 0', 'not redundant'),
    ('MultipathSizeMismatch', 'Mismatches', 'Devices with paths of another size', metric('device_size_mismatched_paths'), 'sizes differ'),
    ('MultipathReadOnlyMismatch', 'Mismatches', 'Devices with paths of other write protection', metric('device_read_only_mismatched_paths'), 'write protection'),
    ('MultipathLunMismatch', 'Mismatches', 'Devices with paths of another LUN number', metric('device_lun_mismatched_paths'), 'LUN numbers differ'),
    ('MultipathPathFlapping', 'Flapping', 'Devices whose paths flap', risen('device_repeated_path_failures_total', '>= 2'), None),
    ('MultipathPathErrors', 'I/O errors', 'Devices with many I/O errors', risen('device_path_io_errors_total', '> 10', '10m'), None),
    ('MultipathPathMarginal', 'Weak paths', 'Devices with marginal paths', metric('device_marginal_paths'), 'marginal paths'),
    ('MultipathStateDisagreement', 'Weak paths', 'Devices on whose paths kernel and checker disagree', metric('device_disagreeing_paths'), 'kernel and checker'),
    ('MultipathNonOptimizedPath', 'Weak paths', 'Devices that use a slower way to the array', metric('device_non_optimized'), 'not optimized'),
    ('MultipathStrayPath', 'Bypassed', 'Devices that do not hold all of their disks', metric('device_stray_paths'), 'stray disks'),
    ('MultipathDiskUsedDirectly', 'Bypassed', 'Disks that are used beside their device', metric('disk_used_directly'), None),
    ('MultipathNotAssembled', 'Bypassed', 'Disks that no device holds', metric('unassembled_paths'), None),
    ('MultipathIscsiSessionDown', 'Transport', 'iSCSI sessions that are down', metric('iscsi_session_up') + ' == 0', None),
    ('MultipathIscsiSessionFlapping', 'Transport', 'iSCSI sessions that flap', risen('iscsi_session_failures_total', f'>= 3 * count without (session) ({metric("iscsi_session_up")})'), None),
    ('MultipathSessionWithoutPath', 'Transport', 'iSCSI sessions without a path',
     f'{metric("iscsi_session_up")} == 1 and {metric("iscsi_session_paths")} == 0 and ignoring ({OF_TARGET}) sum without ({OF_TARGET}) ({metric("iscsi_session_paths")}) > 0', None),
    ('MultipathIscsiBondNetworkDown', 'Transport', 'Networks of iSCSI bonds that are down', metric('iscsi_bond_network_up') + ' == 0', None),
    ('MultipathFcHostPortDown', 'Transport', 'FC host ports that are down', metric('fc_host_port_up') + ' == 0', None),
    ('MultipathFcRemotePortDown', 'Transport', 'FC remote ports that are lost', metric('fc_remote_port_up') + ' == 0', None),
    ('MultipathNvmeControllerDown', 'Transport', 'NVMe controllers that are down', metric('nvme_controller_up') + ' == 0', None),
    ('MultipathNvmeNamespaceUnreachable', 'Transport', 'NVMe subsystems with unreachable namespaces', metric('nvme_unreachable_namespaces') + ' > 0', None),
    ('MultipathExporterDown', 'Not watched', 'Hosts that do not report', SILENT, None),
    ('MultipathExporterStale', 'Not watched', 'Sources that an exporter cannot read', f'{metric("exporter_source_up", NOT_DAEMON)} == 0', None),
    ('MultipathExporterErrors', 'Not watched', 'Sources with errors, memories not written',
     f'{risen("exporter_errors_total", "> 5", "10m")} or {metric("exporter_memory_last_write_successful")} == 0', None),
    ('MultipathDaemonDown', 'Not watched', 'Hosts whose multipathd is down', f'{metric("daemon_up")} == 0{DAEMON_WANTED}', None),
    ('MultipathDaemonBlocked', 'Not watched', 'Hosts whose multipathd does not tell its devices',
     f'{metric("exporter_source_up", DAEMON)} == 0 and ignoring (source) {metric("daemon_up")} == 1', None),
]
INFO = [
    ('MultipathNeverRedundant', 'To improve', 'Devices that never were redundant',
     f'{metric("device_redundant")} == 0 unless {metric("device_redundancy_lost")} == 1 unless {metric("device_failed_paths")} > 0', None),
    ('MultipathFewerPathsThanOtherHosts', 'To improve', 'Devices with fewer paths than on other hosts',
     f'{metric("device_paths")} < on (cluster, wwid) group_left () quantile by (cluster, wwid) (0.5, {metric("device_paths")})', None),
]
# Only the worst finding of a device counts, so fewer queries are necessary.
SHORTER = {'MultipathNoValidPathsUnused': f'{VALID} == 0', 'MultipathFaultyPaths': f'{FAILED} > 0', 'MultipathNotRedundant': metric('device_redundancy_lost') + ' == 1'}
DEVICE_FINDINGS = [one for one in CRITICAL + WARNING if one[4]]


# The alias of each device, including lost devices. A device that the configuration expects and that
# never existed has no alias.
ALIAS = f'{info(" or " + metric("lost_device_info"))} or on {DEVICE} {by(DEVICE, metric("device_missing_paths") + " > 0")}'


def labelled(expr, **labels):
    for label, value in labels.items():
        expr = f'label_replace({expr}, "{label}", "{value}", "", "")'
    return expr


# The exporter has already counted these. The sum of 500 gauges is faster than the count of 25,000.
COUNTED = {'MultipathFaultyPaths': f'sum({metric("degraded_devices")})'}


def counted_findings(alert, condition):
    return COUNTED.get(alert, f'count({condition})')


# Another alert counts the devices of this alert as well, so both have the same tile.
AMONG = {'MultipathNoValidPaths': ['MultipathQueueingWithoutPaths']}


def tiles(findings, zero):
    """Returns a number for each tile: how many of its alerts fire or wait for their `for`. The
    number is absent if no host reports."""
    made = {}
    for alert, tile, _, condition, _ in findings:
        made.setdefault(tile, []).append((alert, condition))
    for tile, of in made.items():
        count = counted_findings(*of[0]) if len(of) == 1 else f'sum({either(*(labelled(counted_findings(a, c), alertname=a) for a, c in of))})'
        yield tile, labelled(f'{count} or {zero.get(tile, zero[None])}', tile=tile), [name for alert, _ in of for name in [alert, *AMONG.get(alert, [])]]


def troubled(count):
    """Returns the devices with the worst findings: the place in DEVICE_FINDINGS counted from its
    end, so that the worst is the highest. The worst of each kind are chosen first, because an
    outage is a finding of all devices."""
    return either(*(labelled(f'{number} + 0 * {by(DEVICE, f"topk({count}, {SHORTER.get(alert, condition)})")}', alertname=alert)
                    for number, (alert, _, _, condition, _) in sorted(enumerate(reversed(DEVICE_FINDINGS), 1), reverse=True)), on=DEVICE)


def scores():
    """Returns scores for a choice of devices: roughly the worst first, with few selectors."""
    return either(f'9000 + 0 * {by(DEVICE, metric("lost_device_info"))}', f'8000 + {by(DEVICE, metric("device_wwid_mismatched_paths"))}',
                  f'7000 + {by(DEVICE, f"{VALID} == 0")}', f'6000 + {by(DEVICE, metric("device_stalled_seconds"))}', f'5000 + {by(DEVICE, metric("device_lun_conflicts"))}',
                  f'4000 + {by(DEVICE, metric("device_suspended"))}', f'100 * {by(DEVICE, f"{FAILED} > 0")}', metric('device_missing_paths'), on=DEVICE)

# No more is known about a host that does not report. A host that reports is as bad as its worst
# device.
HOST_STATE = '(' + either(f'4 + 0 * {by(HOST, SILENT)}',
                          f'3 + 0 * ({metric("devices_without_valid_paths")} > 0 or {metric("lost_devices")} > 0)',
                          f'2 + 0 * ({metric("degraded_devices")} > 0)', metric('in_trouble'), on=HOST) + ')'
# The hosts that had the most trouble with the chosen device in the time shown. Hundreds of hosts
# may share it.
def worst_hosts(count):
    return (f' and on {HOST} topk({count}, {by(HOST, "max_over_time(" + metric("device_failed_paths", base=LUN) + "[$__range] @ end())")})')

# -- parts of a panel ------------------------------------------------------------------------------

def thresholds(*steps):
    """thresholds('green', (1, 'red')): green below 1."""
    return {'mode': 'absolute', 'steps': [{'color': steps[0], 'value': None}] + [{'color': c, 'value': v} for v, c in steps[1:]]}


def words(*pairs):
    """words((0, 'healthy', 'green'), …): shows numbers as words, in colours."""
    return [{'type': 'value', 'options': {str(n): {'text': text, 'color': color, 'index': i} for i, (n, text, color) in enumerate(pairs)}}]


DEVICE_TEXT = words((0, 'healthy', 'transparent'), (1, 'degraded', ON_ORANGE), (2, 'without valid paths', ON_RED))
DEVICE_WORDS = words((0, 'healthy', ON_GREEN), (1, 'degraded', ON_ORANGE), (2, 'without valid paths', ON_RED))
# The dashboard does not paint such a host green, because another of its devices may be in trouble.
HOST_WORDS = words((0, 'no path trouble', 'transparent'), (1, 'paths missing', ON_ORANGE), (2, 'degraded', ON_ORANGE),
                   (3, 'devices unreachable', ON_RED), (4, 'does not report', ON_ORANGE))
TROUBLE_WORDS = words(*((n, one[4], ON_RED if one in CRITICAL else ON_ORANGE) for n, one in enumerate(reversed(DEVICE_FINDINGS), 1)))
SEVERITY_WORDS = [{'type': 'value', 'options': {word: {'text': word, 'color': color, 'index': i} for i, (word, color) in
                                                enumerate((('critical', ON_RED), ('warning', ON_ORANGE), ('info', ON_BLUE)))}}]
PATH_WORDS = words((0, 'failed', ON_RED), (1, 'valid', ON_GREEN), (2, 'standby', ON_BLUE))
DOWN_WORDS = words((0, 'up', 'transparent'), (1, 'down', ON_ORANGE))
YES_WORDS = words((0, 'no', PLAIN), (1, 'yes', PLAIN))
NOTHING = '–'


def target(expr, legend=None, table=False, ref='A'):
    # single quotes: each double quote is escaped in this file, and again in the annotation of a
    # client-side `kubectl apply`
    one = {'refId': ref, 'editorMode': 'code', 'expr': expr.replace('"', "'")}
    if table:
        return {**one, 'format': 'table', 'instant': True, 'range': False}
    if legend is None:
        return {**one, 'instant': True, 'range': False, 'legendFormat': '__auto'}
    return {**one, 'range': True, 'instant': False, 'legendFormat': legend}


def refs(targets):
    return [{**one, 'refId': chr(ord('A') + i)} for i, one in enumerate(targets)]


def panel(kind, title, description, alerts, targets, defaults, options, overrides=(), transformations=()):
    """alerts: the names of the alerts whose runbooks help here."""
    made = {'type': kind, 'title': title, 'description': description, 'datasource': DATASOURCE, 'targets': refs(targets),
            'fieldConfig': {'defaults': defaults, 'overrides': list(overrides)}, 'options': options}
    if alerts:
        made['links'] = [{'title': 'Runbook ' + name, 'url': RUNBOOK.format(name), 'targetBlank': True} for name in alerts]
    if transformations:
        made['transformations'] = list(transformations)
    return made


def stat(title, description, alerts, expr, steps, silent='no host reports', legend=None, overrides=(), **more):
    null = [{'type': 'special', 'options': {'match': 'null', 'result': {'text': silent, 'color': ON_ORANGE, 'index': 0}}}]
    one = {**target(expr), 'legendFormat': legend or '__auto'}
    return panel('stat', title, description, alerts, [one],
                 {'thresholds': thresholds(*steps), 'color': {'mode': 'thresholds'}, 'mappings': null, 'noValue': silent, 'unit': 'none', 'decimals': 0, **more},
                 {'colorMode': 'background_solid' if steps[0] != PLAIN else 'none', 'graphMode': 'none', 'justifyMode': 'center', 'orientation': 'vertical' if legend else 'auto',
                  'textMode': 'value_and_name' if legend else 'value', 'wideLayout': False, 'text': {'titleSize': 14, 'valueSize': 34},
                  'reduceOptions': {'calcs': ['lastNotNull'], 'fields': '', 'values': False}}, overrides)


def tile_panel(title, description, findings, steps, firing, zero, more=()):
    """One query for all tiles. A click on a tile leads to the runbooks of its alerts."""
    exprs, overrides = [], []
    for tile, expr, alerts in [*tiles(findings, zero), *more]:
        exprs.append(expr)
        properties = [{'id': 'links', 'value': [{'title': 'Runbook ' + alert, 'url': RUNBOOK.format(alert), 'targetBlank': True} for alert in alerts]}]
        if tile == 'To improve':
            properties.append({'id': 'thresholds', 'value': thresholds(ON_GREEN, (1, ON_BLUE))})
        overrides.append({'matcher': {'id': 'byName', 'options': tile}, 'properties': properties})
    severity = firing.split()[0].lower()
    exprs.append(labelled('count(ALERTS{%s, alertstate="firing", alertname=~"Multipath.+", severity="%s"}) or %s' % (S, severity, zero[None]), tile=firing))
    return stat(title, description, [], either(*exprs), steps, legend='{{tile}}', overrides=overrides)


def lines(title, description, alerts, queries, unit='short', colors=(), silent=None, draw='line', stack=False, fill=0, shade=BLUE, **more):
    """queries: (expression, legend); colors: (legend, colour). Lines that differ only by host are
    shades of one colour, because red and green show a state and not a host."""
    custom = {'drawStyle': draw, 'lineInterpolation': 'stepAfter' if unit == 'none' else 'linear', 'lineWidth': 1 if draw == 'bars' else 2,
              'fillOpacity': 70 if draw == 'bars' else fill, 'showPoints': 'never', 'spanNulls': False, 'axisSoftMin': 0,
              'stacking': {'mode': 'normal' if stack else 'none', 'group': 'A'}}
    defaults = {'unit': unit, 'color': {'mode': 'shades', 'fixedColor': shade}, 'custom': custom, 'min': 0, **more}
    if unit == 'none' or draw == 'bars':  # counts: a line at 0 needs a scale without fractions
        defaults['decimals'] = 0
        custom['axisSoftMax'] = 1
    if silent:
        defaults['noValue'] = silent
    overrides = [{'matcher': {'id': 'byName', 'options': name}, 'properties': [{'id': 'color', 'value': {'mode': 'fixed', 'fixedColor': color}}]}
                 for name, color in colors]
    return panel('timeseries', title, description, alerts, [target(e, legend) for e, legend in queries], defaults,
                 {'legend': {'showLegend': True, 'displayMode': 'list', 'placement': 'bottom', 'calcs': []},
                  'tooltip': {'mode': 'multi', 'sort': 'desc'}}, overrides)


def timeline(title, description, alerts, expr, legend, mappings, silent):
    return panel('state-timeline', title, description, alerts, [target(expr, legend)],
                 {'mappings': mappings, 'noValue': silent, 'color': {'mode': 'thresholds'}, 'thresholds': thresholds(GREY),
                  'custom': {'fillOpacity': 80, 'lineWidth': 0}},
                 {'mergeValues': True, 'showValue': 'auto', 'alignValue': 'left', 'rowHeight': 0.85,
                  'legend': {'showLegend': True, 'displayMode': 'list', 'placement': 'bottom'}, 'tooltip': {'mode': 'single', 'sort': 'none'}})


def table(title, description, alerts, queries, columns, silent, sort=(), column=None, needed=None):
    """columns: (field, heading, width, more). `V` is the value of the only query, `A` is the value
    of query A, and any other field is a label.

    A negative width is a minimum. Such columns share the remaining room. `column` is a label that
    names the column of a value, so one query fills several columns."""
    field = {c[0]: 'Value' if c[0] == 'V' else f'Value #{c[0]}' if len(c[0]) == 1 else c[0] for c in columns}
    names = [field[c[0]] for c in columns]
    overrides = [{'matcher': {'id': 'byRegexp', 'options': '.*'}, 'properties': [{'id': 'noValue', 'value': NOTHING}]}]
    for _, heading, width, *more in columns:
        properties = {}
        if width > 0:
            properties['custom.width'] = width
        if width < 0:
            properties['custom.minWidth'] = -width
        for one in more:
            properties.update(one)
        if properties:
            overrides.append({'matcher': {'id': 'byName', 'options': heading}, 'properties': [{'id': k, 'value': v} for k, v in properties.items()]})
    steps = [{'id': 'labelsToFields', 'options': {'valueLabel': column}}] if column else []
    steps += [{'id': 'merge', 'options': {}}] if len(queries) > 1 or column else []
    if needed:  # with many troubled devices, the query may return numbers of devices that are not shown
        steps.append({'id': 'filterByValue', 'options': {'type': 'include', 'match': 'all', 'filters': [{'fieldName': needed, 'config': {'id': 'isNotNull', 'options': {}}}]}})
    steps += [{'id': 'filterFieldsByName', 'options': {'include': {'names': names}}},
              {'id': 'organize', 'options': {'indexByName': {n: i for i, n in enumerate(names)},
                                             'renameByName': {n: c[1] for n, c in zip(names, columns)}}}]
    return panel('table', title, description, alerts, [target(q, table=not column) for q in queries],
                 {'noValue': silent, 'mappings': [], 'thresholds': thresholds(PLAIN), 'color': {'mode': 'thresholds'},
                  'custom': {'align': 'left', 'cellOptions': {'type': 'auto'}, 'inspect': False, 'filterable': False}},
                 {'showHeader': True, 'cellHeight': 'sm',
                  'sortBy': [{'displayName': name.lstrip('-'), 'desc': name.startswith('-')} for name in sort]}, overrides, steps)


def state(mappings):
    return {'mappings': mappings, 'custom.cellOptions': {'type': 'color-background', 'mode': 'basic'}, 'custom.align': 'left'}


def colored(*steps):
    return {'thresholds': thresholds(*steps), 'custom.cellOptions': {'type': 'color-text'}, 'custom.align': 'right', 'decimals': 0}


HIDDEN = {'custom.hidden': True, 'custom.hideFrom.viz': True}  # the first for Grafana 10 and 11, the second for later ones
BAR = {'custom.cellOptions': {'type': 'gauge', 'mode': 'basic', 'valueDisplayMode': 'text'}, 'min': 0, 'decimals': 0, 'thresholds': thresholds(ORANGE)}
NUMBER = {'custom.align': 'right', 'decimals': 0}
BAD = colored(PLAIN, (1, ORANGE))
DEAD = {**colored(PLAIN), 'mappings': words((0, '0', RED))}


def unit(name, **more):
    return {'unit': name, 'custom.align': 'right', **more}


def link(title, url, blank=False):
    return {'links': [{'title': title, 'url': url, **({'targetBlank': True} if blank else {})}]}


HERE = '/d/multipath?${datasource:queryparam}&${cluster:queryparam}&${job:queryparam}&${__url_time_range}'
TO_HOST = {'links': [{'title': 'Only this host', 'url': HERE + '&var-instance=${__value.raw}&var-wwid=${wwid}'},
                     {'title': 'Its status page, if it is reached under this name', 'url': 'http://${__value.raw}/', 'targetBlank': True}]}
TO_DEVICE = link('The paths of this device', HERE + '&${instance:queryparam}&var-wwid=${__value.raw}')
TO_RUNBOOK = link('Open the runbook', RUNBOOK.format('${__value.raw}'), True)
# The place of a row. A column of a label that no series has is not shown.
WHERE = [('cluster', 'Cluster', 70), ('instance', 'Host', 105, TO_HOST)]

# -- rows ------------------------------------------------------------------------------------------

def overview():
    zero = {None: f'0 * sum({metric("devices")})', 'Not watched': f'0 * count({UP})'}
    yield 14, 4, tile_panel('Critical', 'Each number counts the alerts of its kind that fire, or will fire if it lasts. Click on it for the runbook. Wrong LUN: stop the use now. The last counts the critical alerts that fire, where this Prometheus evaluates the rules.',
                            CRITICAL, (ON_GREEN, (1, ON_RED)), 'Critical alerts', zero)
    fleet = [('Hosts', f'count({UP})'), ('Hosts in trouble', f'sum({metric("in_trouble")})'), *((t, f'sum({metric(m)})') for t, m in
             (('Devices', 'devices'), ('Paths', 'paths'), ('Failed paths', 'failed_paths')))]
    yield 10, 4, stat('Fleet', 'Targets of the chosen jobs, whether they report or not; hosts with a device that is degraded, dead, lost or short of paths; devices and paths of all hosts that report. A LUN counts once for each host that holds it.',
                      [], either(*(labelled(e, tile=t) for t, e in fleet)), (PLAIN,), 'no target', '{{tile}}')
    yield 24, 4, tile_panel('Warnings', 'Counted as above. Weak paths: they are marginal, slow, or disputed. Bypassed: disks that no device holds, or that are used beside their device. To improve: never redundant, or fewer paths than on other hosts. Not watched: exporters, sources and multipathd that do not answer.',
                            WARNING, (ON_GREEN, (1, ON_ORANGE)), 'Warning alerts', zero, tiles(INFO, zero))
    worst = f'topk(50, {troubled(50)})'
    failed, missing = FAILED + ' > 0', metric('device_missing_paths') + ' > 0'
    columns = [('valid', VALID), ('failed', failed), ('missing', missing),
               ('since', f'time() - {metric("device_last_path_event_timestamp_seconds", FAILED_EVENT)}')]
    state_of = labelled(f'{worst} + on {DEVICE} group_left (name) 0 * ({ALIAS})', column='state')
    rest = either(*(labelled(f'0 + ({expr})', column=column) for column, expr in columns))  # without the metric's name, which would become a column
    yield 16, 10, table('Devices in trouble, worst first', 'Each device by the worst that is found of it, at most 50; where there are more, the numbers of some are not asked. Since: the time from its last path failure. A click on a WWID shows its paths below, a click on its state the runbook.',
                        [], [f'{state_of}\nor ({rest}) and on {DEVICE} (topk(50, {failed}) or topk(50, {missing}))'],
                        [('state', 'State', 150, state(TROUBLE_WORDS), link('Open the runbook', RUNBOOK.format('${__data.fields.Alert}'), True)), *WHERE, ('name', 'Device', 85), ('wwid', 'WWID', -265, TO_DEVICE),
                         ('valid', 'Valid', 52, DEAD), ('failed', 'Failed', 62, BAD), ('missing', 'Missing', 72, BAD), ('since', 'Since', 80, unit('s', decimals=0)), ('alertname', 'Alert', 0, HIDDEN)],
                        'No device is in trouble on the hosts that report', ['-State', 'Host', 'Device'], column='column', needed='state')
    hosts = f' and on {HOST} topk(50, {HOST_STATE})'
    yield 8, 10, table('Hosts, worst first', 'The 50 hosts in the worst state. Nothing else is known of a host that does not report. Unhealthy: devices that are degraded, without valid paths, or lost.',
                       ['MultipathExporterDown'],
                       [f'topk(50, {HOST_STATE})', by(HOST, metric('devices')) + hosts,
                        by(HOST, f'{metric("degraded_devices")} + {metric("devices_without_valid_paths")} + {metric("lost_devices")}') + hosts],
                       [('A', 'State', 160, state(HOST_WORDS)), *WHERE, ('B', 'Devices', 66, NUMBER), ('C', 'Unhealthy', 82, BAD)],
                       'No target of the chosen jobs is known', ['-State', 'Host'])
    grouped = [(severity, one) for severity, some in (('critical', CRITICAL), ('warning', WARNING)) for one in some if sum(one[1] == other[1] for other in some) > 1]
    found = [labelled(counted_findings(alert, condition), finding=text, alertname=alert, severity=severity) for severity, (alert, _, text, condition, _) in grouped]
    yield 11, 9, table('What is found', 'What stands behind the tiles that hold several kinds of findings: what fires, and what will fire if it lasts.',
                       [], [either(*found)],
                       [('severity', 'Severity', 70, state(SEVERITY_WORDS)), ('V', 'Count', 52, NUMBER), ('finding', 'Finding', -240), ('alertname', 'Alert', 235, TO_RUNBOOK)],
                       'Nothing of these kinds is found on the hosts that report')
    labels = '(severity, alertname, cluster, instance)'
    firing = either(*(f'topk(25, {by(labels, "ALERTS{%s}" % more, "count")})' for more in
                      (S + f', alertstate="firing", alertname=~"Multipath.+", severity="{severity}"' for severity in ('critical', 'warning'))))
    yield 7, 9, table('Firing alerts', 'Firing alerts whose name begins with Multipath, those that only inform left out, at most 25 of each severity. This Prometheus must evaluate the rules. Silences are not known here.', [], [firing],
                      [('severity', 'Severity', 70, state(SEVERITY_WORDS)), ('alertname', 'Alert', -150, TO_RUNBOOK), *WHERE, ('V', 'Count', 52, NUMBER)],
                      'No alert of these hosts fires here', ['Severity', 'Alert', 'Host'])
    trouble = [('no valid path', f'sum({metric("devices_without_valid_paths")})', RED), ('lost', f'sum({metric("lost_devices")})', 'purple'),
               ('degraded', f'sum({metric("degraded_devices")})', ORANGE), ('missing paths', f'sum({metric("missing_paths")})', 'yellow'),
               ('hosts that do not report', f'count({SILENT}) or 0 * count({UP})', GREY)]
    yield 6, 9, lines('Trouble over time', 'Devices without a valid path, lost and degraded; missing paths; hosts that do not report; of all chosen hosts together.', ['MultipathFaultyPaths', 'MultipathNoValidPaths'],
                      [(either(*(labelled(e, trouble=t) for t, e, _ in trouble)), '{{trouble}}')], 'none', [(t, c) for t, _, c in trouble], 'no target', fill=15)


def devices():
    pick = f' and on {DEVICE} {device_scores(200)}'

    def also(name):
        return by(DEVICE, metric('device_' + name)) + pick
    few = colored(RED, (1, ORANGE), (2, PLAIN))
    yield 24, 10, table(
        'Devices of the chosen hosts, worst first',
        'At most 200 devices: choose a host for all of its own. Host ports and array ports are those that its valid and standby paths use. Redundant: no single port takes the device away. Queueing: without a valid path I/O waits instead of failing. Root: the root file system stands on it.',
        ['MultipathNoValidPaths', 'MultipathFaultyPaths', 'MultipathNotRedundant', 'MultipathPathsMissing', 'MultipathQueueingWithoutPaths'],
        [device_state() + pick, f'topk by {DEVICE} (1, {by("(cluster, job, instance, wwid, name, product)", metric("device_info"))}){pick}',
         *map(also, ('valid_paths', 'failed_paths', 'standby_paths', 'missing_paths', 'initiator_ports', 'target_ports', 'redundant', 'in_use', 'queueing', 'root', 'size_bytes'))],
        [('A', 'State', 140, state(DEVICE_TEXT)), *WHERE, ('name', 'Device', 105),
         ('wwid', 'WWID', -260, TO_DEVICE), ('C', 'Valid', 52, DEAD), ('D', 'Failed', 62, BAD), ('E', 'Standby', 70, colored(PLAIN, (1, BLUE))), ('F', 'Missing', 72, BAD),
         ('G', 'Host ports', 80, few), ('H', 'Array ports', 84, few), ('I', 'Redundant', 80, {'mappings': words((0, 'no', ORANGE), (1, 'yes', PLAIN)), 'custom.cellOptions': {'type': 'color-text'}}),
         ('J', 'In use', 60, {'mappings': YES_WORDS}), ('K', 'Queueing', 74, {'mappings': YES_WORDS}), ('L', 'Root', 50, {'mappings': YES_WORDS}), ('M', 'Size', 80, unit('bytes')), ('product', 'Product', 130)],
        'No host that reports has a device', ['-State', '-Failed', 'Host'])
    hosts = f'count by (wwid) ({VALID})'
    worst = f' and on (wwid) topk(20, count by (wwid) {UNHEALTHY} and on (wwid) {hosts} > 1)'
    yield 12, 7, table('Shared LUNs in trouble', 'LUNs that several hosts hold and at least one does not hold with all paths, at most 20. Healthy on the others: look at that host. Unhealthy on all: look at the array.',
                       ['MultipathFaultyPaths', 'MultipathNoValidPaths'],
                       [f'{hosts} - on (wwid) count by (wwid) {UNHEALTHY}{worst}']
                       + [f'(count by (wwid) ({few}) or on (wwid) 0 * {hosts}){worst}' for few in (f'{FAILED} > 0 unless on {DEVICE} {VALID} == 0', f'{VALID} == 0')]
                       + ['topk by (wwid) (1, ' + by('(wwid, name)', metric('device_info') + worst) + ')'],
                       [('name', 'Device', 95), ('wwid', 'WWID', -270, TO_DEVICE), ('A', 'Healthy on', 90, NUMBER),
                        ('B', 'Degraded on', 112, BAD), ('C', 'Without paths on', 142, colored(PLAIN, (1, RED)))],
                       'No LUN that several hosts share is unhealthy', ['-Without paths on', '-Degraded on', 'Device'])
    yield 12, 7, lines('Failed paths by host', 'The ten hosts that had most failed paths at one moment. Steps at the same time on many hosts are one cause: an array, a switch.',
                       ['MultipathFaultyPaths'], [(worst_lines(metric('failed_paths'), '(instance)', f'max_over_time({metric("failed_paths")}[$__range] @ end()) > 0', 10), '{{instance}}')], 'none', shade=ORANGE, silent='No path has failed in this time')
    matrix = table('Shared LUNs in trouble, by host', 'The same LUNs on the ten worst hosts that hold them: a dash is a host that does not hold the LUN or does not report.',
                   ['MultipathFaultyPaths', 'MultipathNoValidPaths'],
                   [f'label_join(({device_state()}{worst}) * on {DEVICE} group_left (name) {info(worst)}, "lun", "  ", "name", "wwid")'
                    f' and on {HOST} topk(10, sum by {HOST} ({device_state()}{worst}))'],
                   [], 'No LUN that several hosts share is unhealthy')
    absent = [{'type': 'special', 'options': {'match': 'null+nan', 'result': {'text': NOTHING, 'color': 'transparent', 'index': 9}}}]
    matrix['fieldConfig']['defaults']['mappings'] = words((0, 'healthy', 'transparent'), (1, 'degraded', ON_ORANGE), (2, 'no valid path', ON_RED)) + absent
    matrix['fieldConfig']['defaults']['custom'].update({'cellOptions': {'type': 'color-background', 'mode': 'basic'}, 'minWidth': 105})
    matrix['fieldConfig']['overrides'] = [{'matcher': {'id': 'byName', 'options': 'lun\\instance'}, 'properties': [
        {'id': 'displayName', 'value': 'LUN'}, {'id': 'custom.width', 'value': 350}, {'id': 'custom.cellOptions', 'value': {'type': 'auto'}}]}]
    matrix['transformations'] = [{'id': 'sortBy', 'options': {'fields': {}, 'sort': [{'field': 'instance', 'desc': False}]}},
                                 {'id': 'groupingToMatrix', 'options': {'columnField': 'instance', 'rowField': 'lun', 'valueField': 'Value', 'emptyValue': 'null'}}]
    yield 24, 7, matrix


CHECKER = [('ready', GREEN), ('ghost', BLUE), ('i/o pending', GREY), ('delayed', GREY), ('shaky', ORANGE), ('faulty', RED), ('i/o timeout', RED), ('disconnected', RED)]
ACCESS = [('optimized', GREEN), ('non-optimized', BLUE), ('standby', BLUE), ('inaccessible', GREY), ('change', ORANGE), ('transitioning', ORANGE),
          ('unavailable', RED), ('persistent-loss', RED), ('offline', RED)]


def coded(metrics, table_of):
    """Returns the word of a state as its place in the table, from 1. An unknown word comes last."""
    parts = []
    for number, (word, _) in enumerate(table_of, 1):
        parts.append(f'{number} * ' + by(PATH, either(*(metric(m, f'state=~"(active/)?{word}"' if 'optimized' in word else f'state="{word}"', LUN) for m in metrics))))
    parts.append(f'{len(table_of) + 1} * ' + by(PATH, either(*(metric(m, base=LUN) for m in metrics))))
    return '(' + either(*parts, on=PATH) + ')'


def coded_words(table_of):
    return words(*((n, word, color) for n, (word, color) in enumerate(table_of, 1)), (len(table_of) + 1, 'other', GREY))


def worst_of_device():
    """The hosts on which the chosen device is worst. At most 12, because hundreds may share a
    LUN."""
    return f' and on {HOST} topk(12, {by(HOST, "1000 * (" + metric("device_valid_paths", base=LUN) + " == bool 0) + on " + DEVICE + " " + metric("device_failed_paths", base=LUN))})'


def paths():
    pick, details = worst_of_device(), '(cluster, job, instance, wwid, path, transport, hctl, initiator_port, target_port)'

    def word(name, *metrics):
        return by(f'(cluster, job, instance, wwid, path, {name})',
                  f'label_replace({either(*(metric(m, base=LUN) for m in metrics))}, "{name}", "$1", "state", "(.+)")') + pick
    yield 24, 9, table(
        'Paths of the chosen device', 'Every path of the device chosen above, on its 12 worst hosts. The kernel decides; what multipathd and the transport say of the path stands beside it.',
        ['MultipathFaultyPaths', 'MultipathStateDisagreement', 'MultipathNotRedundant'],
        [f'({path_state(LUN)} + on {PATH} group_left (transport, hctl, initiator_port, target_port) 0 * topk by {PATH} (1, {by(details, metric("path_info", base=LUN))})){pick}',
         word('checker', 'path_checker_state'), word('device', 'path_device_state'), word('access', 'path_access_state', 'path_ana_state')],
        [('A', 'Kernel', 84, state(PATH_WORDS)), *WHERE, ('path', 'Path', 100), ('checker', 'multipathd', 92),
         ('device', 'SCSI or controller', 136), ('access', 'ALUA or ANA', 172), ('transport', 'Transport', 84), ('initiator_port', 'Host port', -155), ('target_port', 'Array port', -155),
         ('hctl', 'H:C:T:L', 72)],
        'No chosen host that reports holds this device', ['Kernel', 'Host', 'Path'])


def history():
    pick = worst_of_device()
    grouped = f'topk by {PATH} (1, {by("(cluster, job, instance, wwid, path, group)", metric("path_info", base=LUN))})'

    def within(name):
        here = f' and on {PATH} {metric("path_valid", base=LUN)}'  # a path that is gone has a past, but no row
        return f'round({by(PATH, f"increase({metric(name, base=LUN)}[$__range])")}){here}{pick}'
    yield 24, 7, table(
        'Its paths in numbers', 'Group and priority decide which paths are used first. Failures, I/O errors and timeouts: within the time shown.',
        ['MultipathPathMarginal', 'MultipathPathErrors', 'MultipathPathFlapping'],
        [f'({path_state(LUN)} + on {PATH} group_left (group) 0 * {grouped}){pick}', by(PATH, metric('path_priority', base=LUN)) + pick, by(PATH, metric('path_marginal', base=LUN)) + pick,
         within('path_failures_total'), within('path_io_errors_total'), within('path_io_timeouts_total')],
        [('A', 'Kernel', 84, state(PATH_WORDS)), *WHERE, ('path', 'Path', -88), ('group', 'Group', 70), ('B', 'Priority', 78, NUMBER),
         ('C', 'Marginal', 88, {'mappings': words((0, 'no', PLAIN), (1, 'yes', ORANGE)), 'custom.cellOptions': {'type': 'color-text'}}),
         ('D', 'Failures', 84, BAD), ('E', 'I/O errors', 94, BAD), ('F', 'I/O timeouts', 104, BAD)],
        'No chosen host that reports holds this device', ['Kernel', 'Host', 'Path'])
    legend = '{{instance}} {{path}}'
    yield 12, 11, timeline('Paths over time, by the kernel', 'What the kernel held of each path of the chosen device, on the four hosts that had most trouble with it. A gap is a time in which the path did not exist or its host did not report.',
                          ['MultipathFaultyPaths', 'MultipathPathFlapping'], path_state(LUN) + worst_hosts(4), legend, PATH_WORDS,
                          'No chosen host held this device in this time')
    yield 12, 11, timeline('Paths over time, by multipathd', 'What multipathd\'s checker held of each path. Where it says ready and the kernel failed for minutes, the two disagree. Native NVMe has no checker.',
                          ['MultipathStateDisagreement', 'MultipathDaemonDown'], coded(['path_checker_state'], CHECKER) + worst_hosts(4), legend, coded_words(CHECKER),
                          'multipathd checks no path of this device')
    yield 12, 11, timeline('The chosen device on its hosts', 'The same LUN on the hosts that hold it, the 12 worst: healthy on the others means that this host is at fault, unhealthy on all means the array.',
                          ['MultipathFaultyPaths', 'MultipathNoValidPaths'], device_state(LUN) + worst_hosts(12), '{{instance}}', DEVICE_WORDS,
                          'No chosen host held this device in this time')
    yield 12, 11, timeline('Access state of its paths', 'What the array says of each path: SCSI ALUA or NVMe ANA. Non-optimized is a path through the controller that does not own the LUN.',
                          ['MultipathNonOptimizedPath'], coded(['path_access_state', 'path_ana_state'], ACCESS) + worst_hosts(4), legend, coded_words(ACCESS),
                          'The array of this device tells no access state')


def transport():
    yield 7, 8, table('Failed paths by array port', 'The ten array ports with most failed paths, over all chosen hosts. One port that many hosts miss is the array\'s or its switch\'s trouble.',
                      ['MultipathFcRemotePortDown', 'MultipathFaultyPaths'], [failed_paths_by('target_port')],
                      [('target_port', 'Array port', -160), ('V', 'Failed paths', 200, BAR)], 'No path has failed', ['-Failed paths', 'Array port'])
    yield 9, 8, table('Failed paths by host port', 'The ten host ports with most failed paths. All paths of one port: its cable, its adapter or its switch.',
                      ['MultipathFaultyPaths', 'MultipathFcHostPortDown'], [failed_paths_by('cluster', 'instance', 'initiator_port')],
                      [*WHERE, ('initiator_port', 'Host port', -160), ('V', 'Failed paths', 200, BAR)],
                      'No path has failed', ['-Failed paths', 'Host'])
    parts = [('iSCSI sessions', 'iscsi_session_up', 'blue'), ('bond networks', 'iscsi_bond_network_up', 'light-blue'), ('FC host ports', 'fc_host_port_up', 'orange'),
             ('FC remote ports', 'fc_remote_port_up', 'yellow'), ('NVMe controllers', 'nvme_controller_up', 'purple')]
    yield 8, 8, lines('Parts of the transport that are down', 'Sessions, networks, ports and controllers that are not up, all chosen hosts together.',
                      ['MultipathIscsiSessionDown', 'MultipathFcHostPortDown', 'MultipathFcRemotePortDown', 'MultipathNvmeControllerDown'],
                      [(either(*(labelled(f'sum({metric(m)} == bool 0)', part=name) for name, m, _ in parts)), '{{part}}')],
                      'none', [(name, color) for name, _, color in parts],
                      'No host that reports has iSCSI, FC or NVMe paths', stack=True, fill=40)
    yield 14, 8, table('iSCSI sessions', 'Sessions that are not logged in come first; at most 100.', ['MultipathIscsiSessionDown', 'MultipathSessionWithoutPath'],
                       [f'topk(100, {metric("iscsi_session_state")} * ignoring (state) group_left () (1 - {metric("iscsi_session_up")}))'],
                       [('V', 'State', 76, state(DOWN_WORDS)), *WHERE, ('session', 'Session', 88), ('state', 'Kernel says', 100), ('initiator_port', 'Interface', 80),
                        ('target_port', 'Portal', 150), ('target', 'Target', -200)], 'No host that reports has an iSCSI session', ['-State', 'Host', 'Session'])
    bond = f'topk(100, 1 - {by("(cluster, job, instance, bond, network)", metric("iscsi_bond_network_up"))})'
    yield 10, 8, table('iSCSI bonds', 'Networks over which targets must be reached, as the exporter\'s configuration names them: those that are not reached first; at most 100.',
                       ['MultipathIscsiBondNetworkDown', 'MultipathIscsiBondDown'],
                       [bond] + [f'0 * {bond} + on (cluster, job, instance, bond) group_left () {metric(m)}' for m in ('iscsi_bond_networks_up', 'iscsi_bond_networks')],
                       [('A', 'State', 76, state(DOWN_WORDS)), *WHERE, ('bond', 'Bond', 90), ('network', 'Network', 110),
                        ('B', 'Networks up', 98, DEAD), ('C', 'Configured', 92, NUMBER)], 'No host that reports has an iSCSI bond configured', ['-State', 'Host', 'Network'])
    yield 14, 8, table('Fibre Channel ports', 'Host ports, and array ports as each host port sees them: those that are not online first; at most 100.', ['MultipathFcHostPortDown', 'MultipathFcRemotePortDown'],
                       [f'topk(100, label_replace(1 - {metric("fc_host_port_up")}, "port", "host", "", "") or label_replace({metric("fc_remote_port_state")} * ignoring (state) group_left () (1 - {metric("fc_remote_port_up")}), "port", "array", "", ""))'],
                       [('V', 'State', 76, state(DOWN_WORDS)), ('port', 'Port', 64), *WHERE, ('initiator_port', 'Host port', -160), ('target_port', 'Array port', -160), ('state', 'Kernel says', 110)],
                       'No host that reports has Fibre Channel', ['-State', 'Host', 'Host port'])
    yield 10, 8, table('Disks beside multipath', 'Disks with several paths that no device holds, and disks that are used beside their device; at most 50 of each.', ['MultipathNotAssembled', 'MultipathDiskUsedDirectly', 'MultipathStrayPath'],
                       [either(*(f'topk(50, {labelled(metric(m), found=found)})' for m, found in (('disk_used_directly', 'used directly'), ('unassembled_paths', 'not assembled'), ('device_stray_paths', 'stray paths'))))],
                       [('found', 'Found', 105), *WHERE, ('wwid', 'WWID', -260), ('disk', 'Disk', 60), ('by', 'By', 60), ('V', 'Paths', 56, NUMBER)], 'Every disk of the hosts that report is used through its device', ['Found', 'Host'])
    yield 14, 8, table('NVMe controllers', 'Controllers over fabrics: those that are not live first; at most 100. After ctrl_loss_tmo seconds without a connection the kernel removes a controller.', ['MultipathNvmeControllerDown', 'MultipathNvmeNamespaceUnreachable'],
                       [f'topk(100, ({metric("nvme_controller_state")} * ignoring (state) group_left () (1 - {metric("nvme_controller_up")})))', f'topk by (cluster, job, instance, controller) (1, {by("(cluster, job, instance, controller, ctrl_loss_tmo)", metric("nvme_controller_info"))})'
                        f' and on (cluster, job, instance, controller) topk(100, 1 - {metric("nvme_controller_up")})'],
                       [('A', 'State', 76, state(DOWN_WORDS)), *WHERE, ('controller', 'Controller', 84), ('state', 'Kernel says', 96), ('initiator_port', 'Host port', 90), ('target_port', 'Array port', 150), ('ctrl_loss_tmo', 'ctrl_loss_tmo', 104), ('target', 'Subsystem', -180)],
                       'No host that reports has NVMe over fabrics', ['-State', 'Host', 'Controller'])
    yield 10, 8, lines('NVMe ANA states', 'Paths of native NVMe devices by what the array says of them. Inaccessible is the standby of an array with one active controller; change must pass within seconds.',
                       ['MultipathNonOptimizedPath'], [(f'count by (state) ({metric("path_ana_state")})', '{{state}}')], 'none',
                       [('optimized', GREEN), ('non-optimized', 'purple'), ('inaccessible', BLUE), ('change', ORANGE), ('persistent-loss', RED)],
                       'No host that reports has native NVMe', stack=True, fill=40)


def events():
    yield 12, 8, lines('Path events', 'Paths that failed and were reinstated, all chosen hosts together. As many of both again and again: something flaps.', ['MultipathPathFlapping'],
                       [(f'sum by (action) (increase({metric("device_path_events_total")}[$__rate_interval]))', '{{action}}')], 'short',
                       [('path_failed', ORANGE), ('path_reinstated', GREEN)], 'No host reports', 'bars', decimals=0)
    failures = 'round(' + by(DEVICE, counted('device_path_events_total', '$__range', FAILED_EVENT)) + ')'
    yield 12, 8, table('Flapping: devices with most path failures', 'Path failures within the time shown, the ten worst devices. Failures of a path that always comes back are worse than one that stays.',
                       ['MultipathPathFlapping'], [f'topk(10, ({failures} > 0) * on {DEVICE} group_left (name) {info()})'],
                       [*WHERE, ('name', 'Device', 95), ('wwid', 'WWID', -270, TO_DEVICE), ('V', 'Path failures', 140, BAR)],
                       'No path has failed in this time', ['-Path failures', 'Host', 'Device'])
    yield 8, 8, lines('Path group switches', 'Changes of the path group in use, as multipathd counts them, the five hosts with most. Each is a change of controller for the array.',
                      ['MultipathNonOptimizedPath', 'MultipathPathFlapping'],
                      [(worst_lines(counted('device_group_switches_total'), '(instance)', counted('device_group_switches_total', '$__range', end=True) + ' > 0', function='sum'), '{{instance}}')],
                      'short', shade=ORANGE, silent='No path group was switched in this time', draw='bars', decimals=0)
    yield 8, 8, lines('I/O that waits for a path', 'Share of time in which a device queued I/O because it had no path, as multipathd counts it: 100% is a device at a standstill. The five worst.',
                      ['MultipathQueueingWithoutPaths', 'MultipathNoValidPaths'],
                      [(worst_lines(f'rate({metric("device_queueing_seconds_total")}[$__rate_interval])', DEVICE, counted('device_queueing_seconds_total', '$__range', end=True) + ' > 0'), '{{instance}} {{wwid}}')],
                      'percentunit', shade=ORANGE, silent='No I/O waited for a path in this time')
    yield 8, 8, lines('multipathd\'s counters', 'Path faults, table loads and queueing timeouts that multipathd counts, all chosen hosts together. A timeout is the end of no_path_retry: from then on I/O fails.',
                      ['MultipathNoValidPaths', 'MultipathPathFlapping'],
                      [(f'sum(increase({metric(m)}[$__rate_interval]))', name) for name, m in
                       (('path faults', 'device_path_faults_total'), ('table loads', 'device_table_loads_total'), ('queueing timeouts', 'device_queueing_timeouts_total'))],
                      'short', [('path faults', ORANGE), ('table loads', BLUE), ('queueing timeouts', RED)], 'No multipathd reports', 'bars', decimals=0)


def exporter():
    alive = f' and on {HOST} ' + metric('exporter_build_info')  # without other exporters of the same job
    yield 3, 4, stat('Sources down', 'Sources (kernel, multipathd, sysfs, uevents) that exporters cannot read or may not. The rest goes on without them.',
                     ['MultipathExporterErrors'], f'sum({metric("exporter_source_up")} == bool 0)', (GREEN, (1, ORANGE)))
    yield 3, 4, stat('Corrections', 'Devices that a timed reading found different though no event had told, within the time shown. It stays 0, or the exporter has a bug.',
                     ['MultipathExporterErrors'], f'round(sum({counted("exporter_resync_corrections_total", "$__range")}))', (GREEN, (1, ORANGE)))
    yield 3, 4, stat('Uevent overflows', 'Times the kernel dropped events before they were read, within the time shown. Each leads to a full reading: nothing is lost for long.',
                     ['MultipathExporterErrors'], f'round(sum({counted("exporter_uevent_overflows_total", "$__range")}))', (GREEN, (1, ORANGE)))
    yield 3, 4, stat('Bad configurations', 'Exporters whose configuration file was refused when it was last read; the old one stays in use.', ['MultipathExporterErrors'],
                     f'sum({metric("exporter_config_last_reload_successful")} == bool 0)', (GREEN, (1, ORANGE)))
    yield 12, 4, table('Exporter versions', 'Reporting exporters by version.', [],
                       [f'count by (version, revision, rustversion) ({metric("exporter_build_info")})'],
                       [('version', 'Version', 110), ('revision', 'Revision', -120), ('rustversion', 'Rust', 100), ('V', 'Exporters', 100, NUMBER)], 'No host reports', ['-Version'])
    yield 12, 8, table('Sources that cannot be read', 'Exporters that cannot read a source, or may not: docs/operations.md, Privileges, says what is then missing. At most 50.', ['MultipathExporterErrors', 'MultipathDaemonDown'],
                       [f'topk(50, 1 - ({by("(cluster, job, instance, source)", metric("exporter_source_up"))} == 0))'],
                       [('V', 'State', 110, state(words((1, 'not readable', ON_ORANGE)))), ('source', 'Source', 140), ('instance', 'Host', -120, TO_HOST)],
                       'Every exporter that reports reads all of its sources', ['Host', 'Source'])
    when = metric('exporter_source_last_success_timestamp_seconds', 'source!="uevent"')
    yield 12, 8, lines('Age of the last reading', 'How old each source\'s last reading was when it was scraped, the five oldest. Kernel events are left out: on a quiet host the last one is long ago.', ['MultipathExporterStale'],
                       [(worst_lines(f'timestamp({when}) - {when}', '(instance, source)', f'-1 * ({when} @ end())'), '{{instance}} {{source}}')], 's', silent='No host reports')
    yield 8, 8, lines('Objects that could not be read', 'Errors by host and source, the five with most.', ['MultipathExporterErrors'],
                      [(worst_lines(counted('exporter_errors_total'), '(instance, source)', counted('exporter_errors_total', '$__range', end=True) + ' > 0', function='sum'), '{{instance}} {{source}}')],
                      shade=ORANGE, silent='Every object could be read in this time', draw='bars', decimals=0)
    latency = lines('Event to metric', 'Time from a kernel event to its state published, all chosen hosts together: a point for each moment that had events.', ['MultipathExporterStale'],
                    [(f'histogram_quantile({q}, sum by (le) (rate({metric("exporter_event_to_metric_seconds_bucket")}[$__rate_interval]))) >= 0', name)
                     for q, name in ((0.5, 'median'), (0.99, '99th percentile'))], 's', [('median', BLUE), ('99th percentile', ORANGE)], 'No kernel event in this time', 'points')
    latency['fieldConfig']['defaults']['custom'].update({'showPoints': 'always', 'pointSize': 6})
    yield 8, 8, latency
    yield 8, 8, lines('Kernel events read', 'Uevents of block devices by the kernel\'s action, all chosen hosts together.', [],
                      [(f'sum by (action) ({counted("exporter_uevents_total")} and on (action) sum by (action) ({counted("exporter_uevents_total", "$__range", end=True)}) > 0)', '{{action}}')],
                      silent='No kernel event in this time', draw='bars', decimals=0)
    yield 6, 8, lines('Scrape duration', 'The five slowest scrapes, exporters that do not answer included.', ['MultipathExporterDown', 'MultipathExporterStale'],
                      [(worst_lines('scrape_duration_seconds{%s}' % S, '(instance)', 'max_over_time(scrape_duration_seconds{%s}[$__range] @ end())' % S), '{{instance}}')], 's', silent='no target')
    memory = 'process_resident_memory_bytes{%s}' % S
    yield 6, 8, lines('Memory', 'Resident memory, the five largest exporters.', [],
                      [(worst_lines(memory + alive, '(instance)', f'{memory} @ end(){alive} @ end()'), '{{instance}}')], 'bytes', silent='No host reports')
    cpu = 'process_cpu_seconds_total{%s}' % S
    yield 6, 8, lines('CPU', 'Processor time, the five busiest exporters: 100% is one processor.', [],
                      [(worst_lines(f'rate({cpu}[$__rate_interval])' + alive, '(instance)', f'increase({cpu}[$__range] @ end()){alive} @ end()'), '{{instance}}')], 'percentunit', silent='No host reports')
    yield 6, 8, lines('Full readings', 'Full readings by reason, all chosen hosts together. Timer is the usual one.', ['MultipathExporterStale'],
                      [(f'sum by (reason) ({counted("exporter_resyncs_total")})', '{{reason}}')], 'short',
                      [('timer', BLUE), ('overflow', ORANGE), ('start', GREY), ('signal', 'purple')], 'No host reports', decimals=0)


# -- the dashboard ---------------------------------------------------------------------------------

ROWS = [('Is anything wrong, and where?', overview, False), ('Paths of the device $wwid', paths, False), ('The device $wwid over time', history, True),
        ('Devices, and the LUNs that several hosts share', devices, True), ('Transport: iSCSI, Fibre Channel, NVMe', transport, True),
        ('Events and flapping', events, True), ('The exporter itself', exporter, True)]


def layout():
    panels, y, number = [], 0, 0
    for title, make, collapsed in ROWS:
        number += 1
        row = {'id': number, 'type': 'row', 'title': title, 'collapsed': collapsed, 'gridPos': {'x': 0, 'y': y, 'w': 24, 'h': 1}, 'panels': []}
        panels.append(row)
        y, x, height = y + 1, 0, 0
        for w, h, made in make():
            if x + w > 24:
                x, y = 0, y + height
            number += 1
            made = {'id': number, **made, 'gridPos': {'x': x, 'y': y, 'w': w, 'h': h}}
            (row['panels'] if collapsed else panels).append(made)
            x, height = x + w, h
        y += height
    return panels


def variable(name, label, query, description, **more):
    return {'type': 'query', 'name': name, 'label': label, 'description': description, 'datasource': DATASOURCE, 'query': {'query': query, 'refId': name},
            'refresh': 2, 'hide': 0, 'sort': 1, 'multi': True, 'includeAll': True, 'current': {'selected': True, 'text': ['All'], 'value': ['$__all']}, 'options': [], 'regex': '', **more}


def happened(name, color, when, text):
    """Returns an annotation at the time that a gauge names. The query reads the gauge for ten
    minutes from then on, so a missed scrape does not hide it."""
    return {'name': name, 'datasource': DATASOURCE, 'enable': True, 'hide': False, 'iconColor': color, 'expr': f'1000 * ({when} > time() - 600)', 'step': '60s',
            'titleFormat': text, 'textFormat': '{{cluster}} {{instance}}', 'useValueForTime': 'on'}


def dashboard():
    worst = f'max by (name, wwid) (topk(200, {scores()}) + on {DEVICE} group_left (name) 0 * ({ALIAS}))'.replace('"', "'").replace('\n', ' ')
    exporters = metric('exporter_build_info', base='cluster=~"$cluster", job=~"$job"')
    variables = [
        {'type': 'datasource', 'name': 'datasource', 'label': 'Data source', 'query': 'prometheus', 'hide': 0, 'refresh': 1, 'regex': '', 'multi': False, 'includeAll': False,
         'current': {}, 'options': []},
        variable('cluster', 'Cluster', 'label_values(multipath_exporter_build_info, cluster)', 'Clusters, where the series have such a label', allValue='.*'),
        variable('job', 'Job', 'label_values(multipath_exporter_build_info{cluster=~"$cluster"}, job)', 'Scrape jobs that hold multipath exporters', allValue='.+'),
        # without an allValue: "all jobs" must not become every target of this Prometheus
        variable('exporter_job', 'Jobs of exporters', f'label_values({exporters}, job)', 'The chosen jobs by name', hide=2),
        # from `up`, so that a host that does not report can be chosen
        variable('instance', 'Instance', 'label_values(up{cluster=~"$cluster", job=~"$exporter_job"}, instance)', 'Hosts, whether they report or not', allValue='.+'),
        variable('wwid', 'Device', f"query_result(sort_desc(label_join(topk(200, {worst}), 'text', '  ', 'name', 'wwid')))",
                 'The device whose paths are shown, worst first; choose a host to find all of its own', multi=False, includeAll=False, sort=0, current={},
                 regex='/text="(?<text>[^"]+)",wwid="(?<value>[^"]+)"/'),
    ]
    started = f'process_start_time_seconds{{{S}, job=~"$exporter_job"}}'
    links = [('Alert rules', '/alerting/list?search=Multipath', False), ('Runbooks', REPOSITORY + '/alerts/runbooks', True), ('Metrics', REPOSITORY + '/docs/metrics.md', True)]
    return {'uid': 'multipath', 'title': 'Multipath', 'description': 'Paths from servers to their storage: which are lost, on which host, and what is left.',
            'tags': ['multipath', 'storage'], 'schemaVersion': 38, 'version': 1, 'editable': False, 'graphTooltip': 1, 'timezone': 'browser', 'weekStart': '', 'fiscalYearStartMonth': 0,
            'liveNow': False, 'refresh': '1m', 'time': {'from': 'now-1h', 'to': 'now'}, 'timepicker': {},
            'annotations': {'list': [happened('Recoveries', GREEN, metric('last_recovery_timestamp_seconds'), 'All paths are back'),
                                     happened('Exporter restarts', BLUE, started, 'The exporter started')]},
            'templating': {'list': variables},
            'links': [{'type': 'link', 'title': title, 'url': url, 'icon': 'doc' if new else 'bolt', 'targetBlank': new, 'asDropdown': False, 'includeVars': False,
                       'keepTime': False, 'tags': [], 'tooltip': ''} for title, url, new in links],
            'panels': layout()}


def pretty(value, indent=0):
    """Returns JSON with one line for each part that is short or deep. With a line for each value, a
    client-side `kubectl apply` would refuse it."""
    short = json.dumps(value, ensure_ascii=False, separators=(',', ': '))
    if len(short) + indent <= 120 or indent > 5 or not value or not isinstance(value, (dict, list)):
        return short
    pad = '\n' + ' ' * (indent + 1)
    parts = ([f'{json.dumps(k)}: {pretty(v, indent + 1)}' for k, v in value.items()] if isinstance(value, dict)
             else [pretty(v, indent + 1) for v in value])
    left, right = '{}' if isinstance(value, dict) else '[]'
    return left + pad + (',' + pad).join(parts) + '\n' + ' ' * indent + right


if __name__ == '__main__':
    print(pretty(dashboard()))
