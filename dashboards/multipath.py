#!/usr/bin/env python3
"""Writes the Grafana dashboard: dashboards/multipath.py > dashboards/multipath.json

Forty panels in JSON are 5,000 lines in which nobody sees what is repeated and what differs. Here each is a query, its
columns and a sentence. The JSON is committed, as users import it; tests/dashboard/run fails where the two differ.

Rules of the queries:
- Raw metrics only: the dashboard works where no recording rule is installed.
- Joins are on (job, instance, wwid[, path]): two hosts may hold the same wwid, and name their disks and sessions alike.
- What grows with the fleet is bounded by topk, worst first: 500 hosts of 50 devices have 100,000 paths.
- Whoever reports nothing is not healthy: a count stays absent where no host reports, rather than being 0.
"""
import json

REPOSITORY = 'https://github.com/multipath-exporter/multipath_exporter/blob/main'
RUNBOOK = REPOSITORY + '/alerts/runbooks/{}.md'
DATASOURCE = {'type': 'prometheus', 'uid': '${datasource}'}
GREEN, ORANGE, RED, BLUE, GREY, PLAIN = 'green', 'orange', 'red', 'blue', '#808791', 'text'

# -- PromQL ------------------------------------------------------------------------------------------------------------

S = 'job=~"$job", instance=~"$instance"'
HOST, DEVICE, PATH = '(job, instance)', '(job, instance, wwid)', '(job, instance, wwid, path)'
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


def device_state(base=S, healthy=True):
    """0 healthy, 1 degraded, 2 without valid paths. What is rare is filtered first: a fleet has 25,000 devices, most healthy."""
    valid, failed = metric('device_valid_paths', base=base), metric('device_failed_paths', base=base)
    states = [f'2 + ({valid} == 0)', f'1 + 0 * ({failed} > 0)'] + [f'0 * {valid}'] * healthy
    return f'({either(*states, on=DEVICE)})'


def device_scores(count, healthy=True):
    """Those without valid paths, then those with most failed ones."""
    failed = FAILED if healthy else FAILED + ' > 0'
    return f'topk({count}, 1000 + ({VALID} == 0) or on {DEVICE} {failed})'


def worst_devices(count, healthy=True):
    return f' and on {DEVICE} {device_scores(count, healthy)}'


def path_state(base=S):
    """0 failed, 1 valid, 2 standby. Standby is NVMe's: a live controller whose ANA state lets no I/O through."""
    waits = f'{metric("path_ana_state", STANDBY, base)} and on {PATH} {metric("path_device_state", LIVE, base)}'
    return '(' + either(by(PATH, metric('path_valid', base=base) + ' == 1'), '2 * ' + by(PATH, waits),
                        by(PATH, metric('path_valid', base=base)), on=PATH) + ')'


def ports(label, pick):
    """How many ports the valid paths of a device run through: 0 where no path is valid, absent where no port is known."""
    known = metric('path_info', label + '!=""')
    paths_of = f'({known}{pick}) and on {PATH} {metric("path_valid")} == 1'
    return f'{by(DEVICE, by(f"(job, instance, wwid, {label})", paths_of, "count"), "count")} or on {DEVICE} ({by(DEVICE, VALID)} == 0{pick})'


def worst_lines(expr, labels, over, count=5, function='max'):
    """The series that `over` finds worst at the end of the time shown. A bare topk would choose anew at each step: lines
    that come and go, and more of them than asked for."""
    return f'{by(labels, expr, function)} and on {labels} topk({count}, {by(labels, over, function)})'


def counted(name, span='$__rate_interval', more='', end=False):
    return f'increase({metric(name, more)}[{span}]{" @ end()" if end else ""})'


def failed_paths_by(*labels):
    info = ', '.join(labels)
    failed = (f'{metric("path_valid")} == 0 unless on {PATH} '
              f'({metric("path_ana_state", STANDBY)} and on {PATH} {metric("path_device_state", LIVE)})')
    return f'topk(10, count by ({info}) ({metric("path_info")} and on {PATH} ({failed})))'


# A target may answer and yet hold nothing of this exporter: its textfile is gone, another program took its port.
UP = 'up{%s}' % S
SILENT = f'({UP} == 0 or {UP} unless on {HOST} {metric("devices")})'
DOWN = f'count({SILENT}) or 0 * count({UP})'
# multipathd has nothing to do where device mapper holds no device: NVMe only, or no multipath at all.
DAEMON_WANTED = f' and on {HOST} ' + metric('device_info', 'kind="dm"')

# Of a host that does not report nothing else is known; whoever reports is as bad as its worst device.
HOST_STATE = '(' + either(f'3 + 0 * {by(HOST, SILENT)}', f'2 * clamp_max({metric("devices_without_valid_paths")}, 1) > 0',
                          f'clamp_max({metric("degraded_devices")}, 1)', on=HOST) + ')'
# The hosts of the chosen device that had most trouble with it in the time shown: it may be shared by hundreds.
def worst_hosts(count):
    return (f' and on {HOST} topk({count}, {by(HOST, "max_over_time(" + metric("device_failed_paths", base=LUN) + "[$__range] @ end())")})')

# -- parts of a panel ----------------------------------------------------------------------------------------------------

def thresholds(*steps):
    """thresholds('green', (1, 'red')): green below 1."""
    return {'mode': 'absolute', 'steps': [{'color': steps[0], 'value': None}] + [{'color': c, 'value': v} for v, c in steps[1:]]}


def words(*pairs):
    """words((0, 'healthy', 'green'), …): numbers shown as words, in colours."""
    return [{'type': 'value', 'options': {str(n): {'text': text, 'color': color, 'index': i} for i, (n, text, color) in enumerate(pairs)}}]


DEVICE_WORDS = words((0, 'healthy', GREEN), (1, 'degraded', ORANGE), (2, 'without valid paths', RED))
HOST_WORDS = words((0, 'healthy', GREEN), (1, 'degraded', ORANGE), (2, 'without valid paths', RED), (3, 'does not report', RED))
PATH_WORDS = words((0, 'failed', RED), (1, 'valid', GREEN), (2, 'standby', BLUE))
DOWN_WORDS = words((0, 'up', GREEN), (1, 'down', RED))
YES_WORDS = words((0, 'no', PLAIN), (1, 'yes', PLAIN))
NOTHING = '–'


def target(expr, legend=None, table=False, ref='A'):
    one = {'refId': ref, 'datasource': DATASOURCE, 'editorMode': 'code', 'expr': expr}
    if table:
        return {**one, 'format': 'table', 'instant': True, 'range': False}
    if legend is None:
        return {**one, 'instant': True, 'range': False, 'legendFormat': '__auto'}
    return {**one, 'range': True, 'instant': False, 'legendFormat': legend}


def refs(targets):
    return [{**one, 'refId': chr(ord('A') + i)} for i, one in enumerate(targets)]


def panel(kind, title, description, alerts, targets, defaults, options, overrides=(), transformations=()):
    """alerts: the names of those whose runbooks help here."""
    made = {'type': kind, 'title': title, 'description': description, 'datasource': DATASOURCE, 'targets': refs(targets),
            'fieldConfig': {'defaults': defaults, 'overrides': list(overrides)}, 'options': options}
    if alerts:
        made['links'] = [{'title': 'Runbook ' + name, 'url': RUNBOOK.format(name), 'targetBlank': True} for name in alerts]
    if transformations:
        made['transformations'] = list(transformations)
    return made


def stat(title, description, alerts, expr, steps, silent='no host reports', **more):
    null = [{'type': 'special', 'options': {'match': 'null', 'result': {'text': silent, 'color': RED, 'index': 0}}}]
    return panel('stat', title, description, alerts, [target(expr)],
                 {'thresholds': thresholds(*steps), 'color': {'mode': 'thresholds'}, 'mappings': null, 'noValue': silent, 'decimals': 0, **more},
                 {'colorMode': 'background_solid' if steps[0] != PLAIN else 'none', 'graphMode': 'none', 'justifyMode': 'center', 'orientation': 'auto', 'textMode': 'value',
                  'wideLayout': True, 'reduceOptions': {'calcs': ['lastNotNull'], 'fields': '', 'values': False}})


def lines(title, description, alerts, queries, unit='short', colors=(), silent=None, draw='line', stack=False, fill=0, shade=BLUE, **more):
    """queries: (expression, legend); colors: (legend, colour). Lines that only differ by host are shades of one colour:
    red and green say how something is, not whose it is."""
    custom = {'drawStyle': draw, 'lineInterpolation': 'stepAfter' if unit == 'none' else 'linear', 'lineWidth': 1 if draw == 'bars' else 2,
              'fillOpacity': 70 if draw == 'bars' else fill, 'showPoints': 'never', 'spanNulls': False, 'axisSoftMin': 0,
              'stacking': {'mode': 'normal' if stack else 'none', 'group': 'A'}}
    defaults = {'unit': unit, 'color': {'mode': 'shades', 'fixedColor': shade}, 'custom': custom, 'min': 0, **more}
    if unit == 'none' or draw == 'bars':  # counts: a line at 0 needs a scale, and that without fractions
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


def table(title, description, alerts, queries, columns, silent, sort=()):
    """columns: (field, heading, width, more): `V` is the value of the only query, `A` that of query A, all else a label.

    A negative width is the least: such columns share the room that is left."""
    field = {c[0]: 'Value' if c[0] == 'V' else f'Value #{c[0]}' if len(c[0]) == 1 else c[0] for c in columns}
    names = [field[c[0]] for c in columns]
    overrides = []
    for _, heading, width, *more in columns:
        properties = {'noValue': NOTHING}
        if width > 0:
            properties['custom.width'] = width
        if width < 0:
            properties['custom.minWidth'] = -width
        for one in more:
            properties.update(one)
        overrides.append({'matcher': {'id': 'byName', 'options': heading}, 'properties': [{'id': k, 'value': v} for k, v in properties.items()]})
    steps = [{'id': 'merge', 'options': {}}] if len(queries) > 1 else []
    steps += [{'id': 'filterFieldsByName', 'options': {'include': {'names': names}}},
              {'id': 'organize', 'options': {'excludeByName': {}, 'indexByName': {n: i for i, n in enumerate(names)},
                                             'renameByName': {n: c[1] for n, c in zip(names, columns)}}}]
    return panel('table', title, description, alerts, [target(q, table=True) for q in queries],
                 {'noValue': silent, 'mappings': [], 'thresholds': thresholds(PLAIN), 'color': {'mode': 'thresholds'},
                  'custom': {'align': 'left', 'cellOptions': {'type': 'auto'}, 'inspect': False, 'filterable': False}},
                 {'showHeader': True, 'cellHeight': 'sm',
                  'sortBy': [{'displayName': name.lstrip('-'), 'desc': name.startswith('-')} for name in sort]}, overrides, steps)


def state(mappings):
    return {'mappings': mappings, 'custom.cellOptions': {'type': 'color-background', 'mode': 'basic'}, 'custom.align': 'left'}


def colored(*steps):
    return {'thresholds': thresholds(*steps), 'custom.cellOptions': {'type': 'color-text'}, 'custom.align': 'right', 'decimals': 0}


BAR = {'custom.cellOptions': {'type': 'gauge', 'mode': 'basic', 'valueDisplayMode': 'text'}, 'min': 0, 'decimals': 0, 'thresholds': thresholds(ORANGE)}
NUMBER = {'custom.align': 'right', 'decimals': 0}
BAD = colored(PLAIN, (1, ORANGE))
DEAD = colored(RED, (1, PLAIN))


def unit(name, **more):
    return {'unit': name, 'custom.align': 'right', **more}


def link(title, url, blank=False):
    return {'links': [{'title': title, 'url': url, 'targetBlank': blank}]}


HERE = '/d/multipath?${datasource:queryparam}&${job:queryparam}&${__url_time_range}'
TO_HOST = link('Only this host', HERE + '&var-instance=${__value.raw}&var-wwid=${wwid}')
TO_DEVICE = link('The paths of this device', HERE + '&${instance:queryparam}&var-wwid=${__value.raw}')
TO_RUNBOOK = link('Open the runbook', RUNBOOK.format('${__value.raw}'), True)

# -- rows ------------------------------------------------------------------------------------------------------------------

def overview():
    pick = worst_devices(50, healthy=False)
    yield 3, 4, stat('No valid path', 'Devices of all chosen hosts to which the kernel can send no I/O. A LUN that three hosts have lost counts three times.',
                     ['MultipathNoValidPaths', 'MultipathQueueingWithoutPaths'], f'sum({metric("devices_without_valid_paths")})', (GREEN, (1, RED)))
    yield 3, 4, stat('Degraded devices', 'Devices that have lost some of their paths and still work: the next failure may take the storage away.',
                     ['MultipathFaultyPaths'], f'sum({metric("degraded_devices")})', (GREEN, (1, ORANGE)))
    yield 3, 4, stat('Failed paths', 'Failed paths of all devices. NVMe paths on standby are not among them.',
                     ['MultipathFaultyPaths'], f'sum({metric("failed_paths")})', (GREEN, (1, ORANGE)))
    yield 3, 4, stat('Exporters down', 'Hosts that do not report: Prometheus cannot scrape them, or what answers has no metrics of this exporter. Nothing is known of their devices: all other figures leave them out.',
                     ['MultipathExporterDown'], DOWN, (GREEN, (1, RED)), 'no target')
    yield 3, 4, stat('multipathd down', 'Reporting hosts with device mapper devices whose multipathd does not answer: nobody tests their failed paths, and none comes back. Hosts with NVMe alone need none.',
                     ['MultipathDaemonDown', 'MultipathDaemonBlocked'],
                     f'count({metric("daemon_up")} == 0{DAEMON_WANTED}) or 0 * sum({metric("devices")})', (GREEN, (1, ORANGE)))
    yield 3, 4, stat('Alerts firing', 'Firing alerts whose name begins with Multipath, those that only inform left out. Always 0 where the rules of this project are not installed.',
                     [], f'count({ALERTS}) or vector(0)', (GREEN, (1, ORANGE)), 'no data')
    yield 3, 4, stat('Devices', 'Multipath devices of all hosts that report; a LUN counts once for each host that holds it.', [],
                     f'sum({metric("devices")})', (PLAIN,))
    yield 3, 4, stat('Hosts', 'Targets of the chosen jobs, whether they report or not.', [], f'count({UP})', (PLAIN,), 'no target')
    last = metric('device_last_path_event_timestamp_seconds', FAILED_EVENT)
    yield 14, 9, table('Unhealthy devices, worst first', 'Devices that are degraded or without valid paths, at most 50. A click on a WWID shows its paths below.',
                       ['MultipathNoValidPaths', 'MultipathFaultyPaths'],
                       [by(DEVICE, device_state(healthy=False)) + pick, by('(job, instance, wwid, name)', metric('device_info') + pick),
                        by(DEVICE, VALID + pick), by(DEVICE, FAILED + pick), 'time() - ' + by(DEVICE, last + pick)],
                       [('A', 'State', 140, state(DEVICE_WORDS)), ('instance', 'Host', 115, TO_HOST), ('name', 'Device', 85), ('wwid', 'WWID', -270, TO_DEVICE),
                        ('C', 'Valid', 55, DEAD), ('D', 'Failed', 72, BAD), ('E', 'Failed since', 100, unit('s', decimals=0))],
                       'No device that reports is unhealthy', ['-State', '-Failed', 'Host'])
    hosts = f' and on {HOST} topk(50, {HOST_STATE})'
    yield 10, 9, table('Hosts, worst first', 'The 50 hosts in the worst state. Of a host that does not report nothing else is known. A dash for multipathd: no device needs it.',
                       ['MultipathExporterDown', 'MultipathDaemonDown'],
                       [f'{HOST_STATE}{hosts}', by(HOST, metric('devices')) + hosts,
                        by(HOST, metric('degraded_devices') + ' + ' + metric('devices_without_valid_paths')) + hosts,
                        by(HOST, metric('failed_paths')) + hosts, by(HOST, metric('daemon_up') + DAEMON_WANTED) + hosts],
                       [('A', 'State', 140, state(HOST_WORDS)), ('instance', 'Host', -110, TO_HOST), ('B', 'Devices', 70, NUMBER), ('C', 'Unhealthy', 84, BAD),
                        ('D', 'Failed', 72, BAD), ('E', 'multipathd', 88, {'mappings': words((0, 'down', ORANGE), (1, 'up', PLAIN)), 'custom.cellOptions': {'type': 'color-text'}})],
                       'No target of the chosen jobs is known', ['-State', '-Failed', 'Host'])
    yield 7, 8, lines('Trouble over time', 'Devices and hosts in trouble, all chosen hosts together.', ['MultipathFaultyPaths', 'MultipathNoValidPaths'],
                      [(f'sum({metric("devices_without_valid_paths")})', 'without valid paths'), (f'sum({metric("degraded_devices")})', 'degraded devices'),
                       (DOWN, 'exporters down')],
                      'none', [('without valid paths', RED), ('degraded devices', ORANGE), ('exporters down', GREY)], 'no host reports', fill=15)
    labels = '(severity, alertname, instance)'
    ranks = ((2, 'critical'), (1, 'warning'))
    rank = either(*(f'{n} * ' + by(labels, ALERTS[:-1] + f', severity="{word}"}}') for n, word in ranks))
    yield 8, 8, table('Firing alerts', 'Firing alerts whose name begins with Multipath, those that only inform left out, at most 50, as Prometheus evaluates them. Silences are not known here.', [],
                      [f'topk(50, {rank})', f'{by(labels, ALERTS, "count")} and topk(50, {rank})'],
                      [('A', 'Severity', 88, state(words((2, 'critical', RED), (1, 'warning', ORANGE)))), ('alertname', 'Alert', -180, TO_RUNBOOK),
                       ('instance', 'Host', 110, TO_HOST), ('B', 'Count', 60, NUMBER)], 'No alert fires', ['-Severity', 'Alert', 'Host'])
    yield 9, 8, table('Findings that break nothing yet', 'What weakens or endangers devices that still work. The number counts devices, paths or disks, as the words say. One valid path or one host port counts where others failed and are still members: neither a device that never had more nor one whose failed paths were removed.', [],
                      [either(*(f'label_replace(label_replace(sum({expr}) or 0 * sum({metric("devices")}), "finding", "{text}", "", ""), "alertname", "{alert}", "", "")'
                                for text, alert, expr in FINDINGS))],
                      [('V', 'Count', 72, {'thresholds': thresholds(GREEN, (1, ORANGE)), 'custom.cellOptions': {'type': 'color-background', 'mode': 'basic'},
                                           'custom.align': 'right', 'decimals': 0}),
                       ('finding', 'Finding', -200), ('alertname', 'Runbook', 235, TO_RUNBOOK)], 'No host reports', ['-Count', 'Finding'])


ALERTS = 'ALERTS{alertstate="firing", alertname=~"Multipath.+", severity!="info", job=~"($job)?", instance=~"($instance)?"}'


def single_port(label):
    # Only devices with failed members are asked for: all paths of a fleet are 100,000, and a device may have one port by design.
    info = '(' + metric('path_info', label + '!=""') + f' and on {DEVICE} {FAILED} > 0)'
    now = f'{info} and on {PATH} {metric("path_valid")} == 1'
    per = f'(job, instance, wwid, {label})'
    return (f'({by(DEVICE, by(per, now, "count"), "count")} == bool 1) '
            f'and on {DEVICE} {by(DEVICE, by(per, info, "count"), "count")} > 1')


FINDINGS = [
    ('Paths to a LUN that changed', 'MultipathWwidMismatch', metric('device_wwid_mismatched_paths')),
    ('Paths of another size', 'MultipathSizeMismatch', metric('device_size_mismatched_paths')),
    ('Paths of other write protection', 'MultipathReadOnlyMismatch', metric('device_read_only_mismatched_paths')),
    ('Devices suspended', 'MultipathDeviceSuspended', metric('device_suspended')),
    ('Devices left one valid path by failures', 'MultipathSinglePath',
     f'{VALID} == 1 and on {DEVICE} {metric("device_paths")} > 1 unless on {DEVICE} {metric("device_standby_paths")} > 0'),
    ('Devices left one host port by failures', 'MultipathSingleFabric', single_port('initiator_port')),
    ('Devices short of expected paths', 'MultipathExpectedPathsMissing',
     f'({metric("device_expected_paths")} > bool on {DEVICE} {metric("device_paths")}) or on {DEVICE} {metric("device_expected_paths")} > bool 0'),
    ('Devices not on their best group', 'MultipathNonOptimizedPath',
     f'{metric("device_active_group_priority")} < bool on {DEVICE} {metric("device_best_group_priority")}'),
    ('Marginal paths', 'MultipathPathMarginal', metric('path_marginal')),
    ('Disks that no device holds', 'MultipathNotAssembled', metric('unassembled_wwids')),
]


def devices():
    pick = worst_devices(200)

    def also(expr):
        return by(DEVICE, expr + pick)
    yield 24, 10, table(
        'Devices of the chosen hosts, worst first',
        'At most 200 devices: choose a host for all of its own. Host ports and array ports are those its valid paths run through: with one, a single cable or switch decides. Queueing: without a valid path I/O waits instead of failing. Open: by how many it is in use. Root: the root file system stands on it.',
        ['MultipathNoValidPaths', 'MultipathFaultyPaths', 'MultipathSingleFabric', 'MultipathQueueingWithoutPaths'],
        [by(DEVICE, device_state() + pick), by('(job, instance, wwid, name, product)', metric('device_info') + pick),
         *(also(metric('device_' + m)) for m in ('valid_paths', 'failed_paths', 'standby_paths')),
         ports('initiator_port', pick), ports('target_port', pick), also(metric('device_queueing')), also(metric('device_open_count')),
         also(metric('device_root')), also(metric('device_size_bytes'))],
        [('A', 'State', 140, state(DEVICE_WORDS)), ('instance', 'Host', 125, TO_HOST), ('name', 'Device', 105),
         ('wwid', 'WWID', -270, TO_DEVICE), ('C', 'Valid', 58, DEAD), ('D', 'Failed', 72, BAD), ('E', 'Standby', 74, colored(PLAIN, (1, BLUE))),
         ('F', 'Host ports', 88, colored(RED, (1, ORANGE), (2, PLAIN))), ('G', 'Array ports', 92, colored(RED, (1, ORANGE), (2, PLAIN))),
         ('H', 'Queueing', 80, {'mappings': YES_WORDS}),
         ('I', 'Open', 60, NUMBER), ('J', 'Root', 56, {'mappings': YES_WORDS}), ('K', 'Size', 86, unit('bytes')), ('product', 'Product', 130)],
        'No host that reports has a device', ['-State', '-Failed', 'Host'])
    hosts = f'count by (wwid) ({VALID})'
    worst = f' and on (wwid) topk(20, count by (wwid) {UNHEALTHY} and on (wwid) {hosts} > 1)'
    yield 12, 7, table('Shared LUNs in trouble', 'LUNs that several hosts hold and at least one does not hold with all paths, at most 20. Healthy on the others: look at that host. Unhealthy on all: look at the array.',
                       ['MultipathFaultyPaths', 'MultipathNoValidPaths'],
                       [f'{hosts} - on (wwid) count by (wwid) {UNHEALTHY}{worst}']
                       + [f'(count by (wwid) ({few}) or on (wwid) 0 * {hosts}){worst}' for few in (f'{FAILED} > 0 unless on {DEVICE} {VALID} == 0', f'{VALID} == 0')]
                       + ['topk by (wwid) (1, ' + by('(wwid, name)', metric('device_info') + worst) + ')'],
                       [('name', 'Device', 95), ('wwid', 'WWID', -270, TO_DEVICE), ('A', 'Healthy on', 90, colored(PLAIN, (1, GREEN))),
                        ('B', 'Degraded on', 112, BAD), ('C', 'Without paths on', 142, colored(PLAIN, (1, RED)))],
                       'No LUN that several hosts share is unhealthy', ['-Without paths on', '-Degraded on', 'Device'])
    yield 12, 7, lines('Failed paths by host', 'The ten hosts that had most failed paths at one moment. Steps at the same time on many hosts are one cause: an array, a switch.',
                       ['MultipathFaultyPaths'], [(worst_lines(metric('failed_paths'), '(instance)', f'max_over_time({metric("failed_paths")}[$__range] @ end()) > 0', 10), '{{instance}}')], 'none', shade=ORANGE, silent='No path has failed in this time')
    matrix = table('Shared LUNs in trouble, by host', 'The same LUNs on the ten worst hosts that hold them: a dash is a host that does not hold the LUN or does not report.',
                   ['MultipathFaultyPaths', 'MultipathNoValidPaths'],
                   [f'label_join(({device_state()}{worst}) * on {DEVICE} group_left (name) {by("(job, instance, wwid, name)", metric("device_info") + worst)}, "lun", "  ", "name", "wwid")'
                    f' and on {HOST} topk(10, sum by {HOST} ({device_state()}{worst}))'],
                   [], 'No LUN that several hosts share is unhealthy')
    absent = [{'type': 'special', 'options': {'match': 'null+nan', 'result': {'text': NOTHING, 'color': 'transparent', 'index': 9}}}]
    matrix['fieldConfig']['defaults']['mappings'] = words((0, 'healthy', GREEN), (1, 'degraded', ORANGE), (2, 'no valid path', RED)) + absent
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
    """The word of a state as its place in the table, from 1; a word that is not in it comes last."""
    parts = []
    for number, (word, _) in enumerate(table_of, 1):
        parts.append(f'{number} * ' + by(PATH, either(*(metric(m, f'state=~"(active/)?{word}"' if 'optimized' in word else f'state="{word}"', LUN) for m in metrics))))
    parts.append(f'{len(table_of) + 1} * ' + by(PATH, either(*(metric(m, base=LUN) for m in metrics))))
    return '(' + either(*parts, on=PATH) + ')'


def coded_words(table_of):
    return words(*((n, word, color) for n, (word, color) in enumerate(table_of, 1)), (len(table_of) + 1, 'other', GREY))


def paths():
    pick = f' and on {HOST} topk(12, {by(HOST, "1000 * (" + metric("device_valid_paths", base=LUN) + " == bool 0) + on " + DEVICE + " " + metric("device_failed_paths", base=LUN))})'

    def word(name, *metrics):
        return by(f'(job, instance, wwid, path, {name})',
                  f'label_replace({either(*(metric(m, base=LUN) for m in metrics))}, "{name}", "$1", "state", "(.+)")') + pick
    yield 24, 9, table(
        'Paths of the chosen device', 'Every path of the device chosen above, on its 12 worst hosts. The kernel decides; what multipathd and the transport say of the path stands beside it. Failures: within the time shown.',
        ['MultipathFaultyPaths', 'MultipathStateDisagreement', 'MultipathPathMarginal', 'MultipathPathFlapping'],
        [path_state(LUN) + pick, by('(job, instance, wwid, path, transport, group, hctl, initiator_port, target_port)', metric('path_info', base=LUN)) + pick,
         word('checker', 'path_checker_state'), word('device', 'path_device_state'), word('access', 'path_access_state', 'path_ana_state'),
         by(PATH, metric('path_priority', base=LUN)) + pick, by(PATH, metric('path_marginal', base=LUN)) + pick,
         f'round({by(PATH, "increase(" + metric("path_failures_total", base=LUN) + "[$__range])")}){pick}'],
        [('A', 'Kernel', 84, state(PATH_WORDS)), ('instance', 'Host', 115, TO_HOST), ('path', 'Path', 88), ('checker', 'multipathd', 92),
         ('device', 'SCSI or controller', 136), ('access', 'ALUA or ANA', 158), ('transport', 'Transport', 84), ('initiator_port', 'Host port', -155), ('target_port', 'Array port', -155),
         ('hctl', 'H:C:T:L', 72), ('group', 'Group', 60), ('F', 'Priority', 68, NUMBER), ('G', 'Marginal', 78, {'mappings': words((0, 'no', PLAIN), (1, 'yes', ORANGE)), 'custom.cellOptions': {'type': 'color-text'}}),
         ('H', 'Failures', 74, BAD)],
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
                      ['MultipathFaultyPaths', 'MultipathSingleFabric'], [failed_paths_by('instance', 'initiator_port')],
                      [('instance', 'Host', 125, TO_HOST), ('initiator_port', 'Host port', -160), ('V', 'Failed paths', 200, BAR)],
                      'No path has failed', ['-Failed paths', 'Host'])
    not_live = metric('path_device_state', 'state!="live"') + f' and on {PATH} ' + metric('path_info', 'transport=~"nvme-.+"')
    parts = [('iSCSI sessions', 'iscsi_session_up'), ('bond networks', 'iscsi_bond_network_up'), ('FC host ports', 'fc_host_port_up'), ('FC remote ports', 'fc_remote_port_up')]
    yield 8, 8, lines('Parts of the transport that are down', 'Sessions, networks and ports that are not up, all chosen hosts together.',
                      ['MultipathIscsiSessionDown', 'MultipathIscsiBondNetworkDown', 'MultipathFcRemotePortDown'],
                      [(f'sum({metric(m)} == bool 0)', name) for name, m in parts]
                      + [(f'count({not_live}) or 0 * sum({metric("devices")})', 'NVMe paths not live')],
                      'none', [('iSCSI sessions', 'blue'), ('bond networks', 'light-blue'), ('FC host ports', 'orange'), ('FC remote ports', 'yellow'), ('NVMe paths not live', 'purple')],
                      'No host that reports has iSCSI, FC or NVMe paths', stack=True, fill=40)
    yield 14, 8, table('iSCSI sessions', 'Sessions that are not logged in come first; at most 100.', ['MultipathIscsiSessionDown', 'MultipathSessionWithoutPath'],
                       [f'topk(100, {metric("iscsi_session_state")} * on (job, instance, session) group_left () (1 - {metric("iscsi_session_up")}))'],
                       [('V', 'State', 76, state(DOWN_WORDS)), ('instance', 'Host', 115, TO_HOST), ('session', 'Session', 88), ('state', 'Kernel says', 100), ('initiator_port', 'Interface', 80),
                        ('target_port', 'Portal', 150), ('target', 'Target', -200)], 'No host that reports has an iSCSI session', ['-State', 'Host', 'Session'])
    bond = f'topk(100, 1 - {by("(job, instance, bond, network)", metric("iscsi_bond_network_up"))})'
    yield 10, 8, table('iSCSI bonds', 'Networks over which targets must be reached, as the exporter\'s configuration names them: those that are not reached first; at most 100.',
                       ['MultipathIscsiBondNetworkDown', 'MultipathIscsiBondDown'],
                       [bond] + [f'0 * {bond} + on (job, instance, bond) group_left () {metric(m)}' for m in ('iscsi_bond_networks_up', 'iscsi_bond_networks')],
                       [('A', 'State', 76, state(DOWN_WORDS)), ('instance', 'Host', -110, TO_HOST), ('bond', 'Bond', 90), ('network', 'Network', 110),
                        ('B', 'Networks up', 98, DEAD), ('C', 'Configured', 92, NUMBER)], 'No host that reports has an iSCSI bond configured', ['-State', 'Host', 'Network'])
    yield 14, 8, table('Fibre Channel ports', 'Host ports, and array ports as each host port sees them: those that are not online first; at most 100.', ['MultipathFcRemotePortDown'],
                       [f'topk(100, label_replace(1 - {metric("fc_host_port_up")}, "port", "host", "", "") or label_replace({metric("fc_remote_port_state")} * on (job, instance, initiator_port, target_port) group_left () (1 - {metric("fc_remote_port_up")}), "port", "array", "", ""))'],
                       [('V', 'State', 76, state(DOWN_WORDS)), ('port', 'Port', 64), ('instance', 'Host', 115, TO_HOST), ('initiator_port', 'Host port', -160), ('target_port', 'Array port', -160), ('state', 'Kernel says', 110)],
                       'No host that reports has Fibre Channel', ['-State', 'Host', 'Host port'])
    yield 10, 8, lines('NVMe ANA states', 'Paths of native NVMe devices by what the array says of them. Inaccessible is the standby of an array with one active controller; change must pass within seconds.',
                       ['MultipathNonOptimizedPath'], [(f'count by (state) ({metric("path_ana_state")})', '{{state}}')], 'none',
                       [('optimized', GREEN), ('non-optimized', 'purple'), ('inaccessible', BLUE), ('change', ORANGE), ('persistent-loss', RED)],
                       'No host that reports has native NVMe', stack=True, fill=40)


def events():
    named = f' * on {DEVICE} group_left (name) {by("(job, instance, wwid, name)", metric("device_info"))}'
    yield 12, 8, lines('Path events', 'Paths that failed and were reinstated, all chosen hosts together. As many of both again and again: something flaps.', ['MultipathPathFlapping'],
                       [(f'sum by (action) (increase({metric("device_path_events_total")}[$__rate_interval]))', '{{action}}')], 'short',
                       [('path_failed', ORANGE), ('path_reinstated', GREEN)], 'No host reports', 'bars', decimals=0)
    failures = 'round(' + by(DEVICE, counted('device_path_events_total', '$__range', FAILED_EVENT)) + ')'
    yield 12, 8, table('Flapping: devices with most path failures', 'Path failures within the time shown, the ten worst devices. Failures of a path that always comes back are worse than one that stays.',
                       ['MultipathPathFlapping'], [f'topk(10, ({failures} > 0){named})'],
                       [('instance', 'Host', 115, TO_HOST), ('name', 'Device', 95), ('wwid', 'WWID', -270, TO_DEVICE), ('V', 'Path failures', 140, BAR)],
                       'No path has failed in this time', ['-Path failures', 'Host', 'Device'])
    yield 8, 8, lines('Path group switches', 'Changes of the path group in use, as multipathd counts them, the five hosts with most. Each is a change of controller for the array.',
                      ['MultipathNonOptimizedPath', 'MultipathPathFlapping'],
                      [(worst_lines(counted('device_group_switches_total'), '(instance)', counted('device_group_switches_total', '$__range', end=True) + ' > 0', function='sum'), '{{instance}}')],
                      'short', shade=ORANGE, silent='No path group was switched in this time', draw='bars', decimals=0)
    yield 8, 8, lines('I/O that waits for a path', 'Share of time in which a device queued I/O because it had no path, as multipathd counts it: 100% is a device at a standstill. The five worst.',
                      ['MultipathQueueingWithoutPaths', 'MultipathNoValidPaths'],
                      [('(' + worst_lines(f'rate({metric("device_queueing_seconds_total")}[$__rate_interval])', DEVICE, counted('device_queueing_seconds_total', '$__range', end=True) + ' > 0') + f'){named}', '{{instance}} {{name}}')],
                      'percentunit', shade=ORANGE, silent='No I/O waited for a path in this time')
    yield 8, 8, lines('multipathd\'s counters', 'Path faults, table loads and queueing timeouts that multipathd counts, all chosen hosts together. A timeout is the end of no_path_retry: from then on I/O fails.',
                      ['MultipathNoValidPaths', 'MultipathPathFlapping'],
                      [(f'sum(increase({metric(m)}[$__rate_interval]))', name) for name, m in
                       (('path faults', 'device_path_faults_total'), ('table loads', 'device_table_loads_total'), ('queueing timeouts', 'device_queueing_timeouts_total'))],
                      'short', [('path faults', ORANGE), ('table loads', BLUE), ('queueing timeouts', RED)], 'No multipathd reports', 'bars', decimals=0)


def exporter():
    alive = ' and on (job, instance) ' + metric('exporter_build_info')  # not those of other exporters of the same job
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
    yield 12, 8, table('Sources that cannot be read', 'Exporters that cannot read a source, or may not: what then is missing stands in the README under Privileges. At most 50.', ['MultipathExporterErrors', 'MultipathDaemonDown'],
                       [f'topk(50, 1 - ({by("(job, instance, source)", metric("exporter_source_up"))} == 0))'],
                       [('V', 'State', 110, state(words((1, 'not readable', ORANGE)))), ('source', 'Source', 140), ('instance', 'Host', -120, TO_HOST)],
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
    cpu = 'rate(process_cpu_seconds_total{%s}[%%s]%%s)' % S
    yield 6, 8, lines('CPU', 'Processor time, the five busiest exporters: 100% is one processor.', [],
                      [(worst_lines(cpu % ('$__rate_interval', '') + alive, '(instance)', cpu % ('$__range', ' @ end()') + alive + ' @ end()'), '{{instance}}')], 'percentunit', silent='No host reports')
    yield 6, 8, lines('Full readings', 'Full readings by reason, all chosen hosts together. Timer is the usual one.', ['MultipathExporterStale'],
                      [(f'sum by (reason) ({counted("exporter_resyncs_total")})', '{{reason}}')], 'short',
                      [('timer', BLUE), ('overflow', ORANGE), ('start', GREY), ('signal', 'purple')], 'No host reports', decimals=0)


# -- the dashboard -------------------------------------------------------------------------------------------------------------

ROWS = [('Is anything wrong, and where?', overview, False), ('Devices, and the LUNs that several hosts share', devices, False), ('Paths of the device $wwid', paths, False),
        ('Transport: iSCSI, Fibre Channel, NVMe', transport, True), ('Events and flapping', events, True), ('The exporter itself', exporter, True)]


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


def dashboard():
    worst = (f'max by (name, wwid) ({device_scores(2000)} * on {DEVICE} group_left (name) '
             f'{by("(job, instance, wwid, name)", metric("device_info"))})')
    variables = [
        {'type': 'datasource', 'name': 'datasource', 'label': 'Data source', 'query': 'prometheus', 'hide': 0, 'refresh': 1, 'regex': '', 'multi': False, 'includeAll': False,
         'current': {}, 'options': []},
        # without an allValue: "all jobs" must not become every target of this Prometheus
        variable('job', 'Job', 'label_values(multipath_exporter_build_info, job)', 'Scrape jobs that hold multipath exporters'),
        # from `up`, so that a host that does not report can be chosen
        variable('instance', 'Host', 'label_values(up{job=~"$job"}, instance)', 'Hosts, whether they report or not', allValue='.+'),
        variable('wwid', 'Device', f'query_result(sort_desc(label_join(topk(500, {worst}), "text", "  ", "name", "wwid")))',
                 'The device whose paths are shown, worst first; choose a host to find all of its own', multi=False, includeAll=False, sort=0, current={},
                 regex='/text="(?<text>[^"]+)",wwid="(?<value>[^"]+)"/'),
    ]
    return {'uid': 'multipath', 'title': 'Multipath', 'description': 'Paths from servers to their storage: which are lost, on which host, and what is left.',
            'tags': ['multipath', 'storage'], 'schemaVersion': 38, 'version': 1, 'editable': True, 'graphTooltip': 1, 'timezone': 'browser', 'weekStart': '', 'fiscalYearStartMonth': 0,
            'liveNow': False, 'refresh': '1m', 'time': {'from': 'now-1h', 'to': 'now'}, 'timepicker': {},
            'annotations': {'list': []}, 'templating': {'list': variables},
            'links': [{'type': 'link', 'title': title, 'url': REPOSITORY + path, 'icon': 'doc', 'targetBlank': True, 'asDropdown': False, 'includeVars': False,
                       'keepTime': False, 'tags': [], 'tooltip': ''} for title, path in (('Metrics', '/README.md#metrics'), ('Runbooks', '/alerts/runbooks'))],
            'panels': layout()}


if __name__ == '__main__':
    print(json.dumps(dashboard(), indent=2, ensure_ascii=False))
