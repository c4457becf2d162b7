#!/usr/bin/env python3
"""Runs every variable and every query of a dashboard against real Prometheus servers, one for each
scenario of fleet.py.

    check_queries.py DASHBOARD.json GOLDEN SCENARIO=URL=FLEET.om=FACTS.json ...

It reports every panel and query that fails, that is empty but may not be, or whose result differs
from the facts.
"""
import json
import pathlib
import re
import sys
import urllib.error
import urllib.parse
import urllib.request

import fleet

# The title of each tile of the fleet, and the fact that it must show.
FLEET = {'Hosts': 'hosts', 'Hosts in trouble': 'trouble', 'Devices': 'devices', 'Paths': 'paths', 'Failed paths': 'failed'}
FINDINGS = 'What is found'
# A recovery is not a finding. The dashboard marks its time.
NO_FINDING = {'MultipathPathsRecovered'}
# The devices of the one alert are among the devices of the other, so they are counted once.
AMONG = {'MultipathQueueingWithoutPaths': 'MultipathNoValidPaths'}
TYPES = {'stat', 'bargauge', 'timeseries', 'table', 'state-timeline', 'text', 'row'}
# Nobody reads a longer table or a graph with more lines, and in a large fleet they are expensive.
MOST = {'table': 200, 'timeseries': 20, 'state-timeline': 100, 'bargauge': 10, 'stat': 14}
# Metrics that Prometheus makes, besides the exporter's own.
FOREIGN = {'up', 'ALERTS', 'scrape_duration_seconds'}
BUILTIN = {'__rate_interval': '120s', '__interval': '30s', '__range': '3600s'}
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the servers run on this machine
# These exist only if something is wrong, as on the golden page.
FAULTS = {'multipath_device_non_optimized'}
# The number of queries on opening the dashboard, including variables and annotations. A browser
# sends six at a time.
MOST_QUERIES = 25
# The limit of Kubernetes for annotations. A client-side apply puts the whole object there.
MOST_BYTES = 262144
DATASOURCE = {'type': 'prometheus', 'uid': '${datasource}'}
errors = []


def error(where, message):
    errors.append(where)
    print(f'FAIL {where}: {message}')


def panels(dashboard):
    for panel in dashboard['panels']:
        yield panel
        yield from panel.get('panels') or []


def name(panel):
    return f'panel {panel.get("id")} "{panel.get("title")}"'


# -- checks without a server -----------------------------------------------------------------------

def check_structure(dashboard):
    seen, taken = {}, {}
    for panel in panels(dashboard):
        where, grid = name(panel), panel['gridPos']
        if panel['id'] in seen:
            error(where, f'has the id of {seen[panel["id"]]}')
        seen[panel['id']] = where
        if panel['type'] not in TYPES:
            error(where, f'type {panel["type"]} is not among {sorted(TYPES)}')
        if grid['x'] < 0 or grid['x'] + grid['w'] > 24 or grid['w'] < 1 or grid['h'] < 1:
            error(where, f'leaves the grid: {grid}')
        for cell in ((x, y) for x in range(grid['x'], grid['x'] + grid['w']) for y in range(grid['y'], grid['y'] + grid['h'])):
            if taken.setdefault(cell, where) != where:
                error(where, f'overlaps {taken[cell]}')
                break
        if panel['type'] == 'row':
            continue
        if not panel.get('description'):
            error(where, 'has no description')
        if panel['type'] != 'text' and not panel.get('targets'):
            error(where, 'has no query')
        if panel.get('datasource') != DATASOURCE or any('datasource' in t for t in panel.get('targets', [])):
            error(where, 'does not use the data source variable')
        references = [t['refId'] for t in panel.get('targets', [])]
        if len(references) != len(set(references)):
            error(where, f'uses a refId twice: {references}')
    if not dashboard.get('uid') or 'id' in dashboard:
        error('dashboard', 'needs a fixed uid and must have no id')
    opened = sum(len(p.get('targets', [])) for p in dashboard['panels'])  # queries of folded rows run when a row is opened
    opened += sum(v['type'] == 'query' for v in dashboard['templating']['list']) + len(dashboard['annotations']['list'])
    if opened > MOST_QUERIES:
        error('dashboard', f'opens with {opened} queries, more than {MOST_QUERIES}')


def check_size(path):
    """Checks the size of the annotation that a client-side `kubectl apply` makes from the config
    map."""
    labels = {'app.kubernetes.io/name': 'multipath-exporter', 'grafana_dashboard': '1'}
    whole = {'apiVersion': 'v1', 'data': {'multipath.json': pathlib.Path(path).read_text()}, 'kind': 'ConfigMap',
             'metadata': {'annotations': {}, 'labels': labels, 'name': 'multipath-dashboard', 'namespace': 'n' * 63}}
    # kubectl writes <, > and & as Go does: in six bytes
    size = len(re.sub('[<>&]', '......', json.dumps(whole, ensure_ascii=False, separators=(',', ':'))).encode())
    if size >= MOST_BYTES:
        error('dashboard', f'has {size} bytes in the annotation of a client-side apply, {MOST_BYTES} are allowed')


def check_runbooks(dashboard, folder):
    """Checks that every alert in a link or a table has a runbook."""
    if not folder.is_dir():
        return
    for panel in panels(dashboard):
        for alert in set(re.findall(r'\bMultipath[A-Z]\w+', json.dumps({k: v for k, v in panel.items() if k != 'panels'}))):
            if not (folder / f'{alert}.md').is_file():
                error(name(panel), f'names the runbook of {alert}, which does not exist')


def samples(lines):
    """Returns (name, label names) of every sample, and (family, type) of every TYPE line, in text
    0.0.4 or OpenMetrics."""
    shapes, types = set(), {}
    for line in lines:
        if line.startswith('# TYPE '):
            _, _, family, kind = line.split()
            types[family] = kind
        elif line[:1] not in '#\n':
            metric, _, rest = line.partition('{')
            if rest:
                shapes.add((metric, frozenset(re.findall(r'(?:^|,)([a-zA-Z_]\w*)="', rest[:rest.rindex('}')]))))
            else:
                shapes.add((line.split()[0], frozenset()))
    return shapes, types


def check_fleet(golden, scenario, path):
    """Checks that the made-up fleet has the same types and labels as the exporter's golden page."""
    with open(path) as file:
        shapes, types = samples(file)
    with open(golden) as file:
        expected, kinds = samples(file)
    shapes = {(n, labels - {'cluster', 'job', 'instance'}) for n, labels in shapes}
    names = {n for n, _ in shapes}
    for metric, labels in sorted(expected, key=str):
        if metric not in FAULTS and (metric, labels) not in shapes:
            have = [sorted(ls) for n, ls in shapes if n == metric]
            error(f'fleet {scenario}', f'{metric} has the labels {sorted(labels)} on the golden page, here {have or "no sample"}')
        if {ls for n, ls in shapes if n == metric} - {ls for n, ls in expected if n == metric}:
            error(f'fleet {scenario}', f'{metric} has labels that the golden page has not')
    for family, kind in kinds.items():
        here = types.get(re.sub(r'_total$', '', family) if kind == 'counter' else family)
        if here not in (kind, None):
            error(f'fleet {scenario}', f'{family} is a {here}, on the golden page a {kind}')
    return names, {n for n in kinds}


# -- queries ---------------------------------------------------------------------------------------

class Scenario:
    def __init__(self, argument):
        self.name, self.url, self.fleet, facts = argument.split('=')
        with open(facts) as file:
            self.facts = json.load(file)
        self.values, self.said = {}, {}
        self.silent = self.facts['devices'] is None  # no host reports

    def get(self, path, **parameters):
        data = urllib.parse.urlencode({**parameters}, doseq=True)
        try:
            reads = '/label/' in path or not parameters
            with DIRECT.open(f'{self.url}{path}?{data}' if reads else f'{self.url}{path}', None if reads else data.encode(), timeout=30) as answer:
                return json.load(answer)['data']
        except urllib.error.HTTPError as failure:
            raise RuntimeError(json.load(failure).get('error')) from failure

    def instant(self, query):
        return self.get('/api/v1/query', query=query, time=fleet.END)['result']

    def range(self, query):
        return self.get('/api/v1/query_range', query=query, start=fleet.START, end=fleet.END, step=15)['result']

    def rules(self):
        """Returns the alerts as Prometheus has read them: (name, severity, expression)."""
        return [(r['name'], r['labels']['severity'], r['query']) for group in self.get('/api/v1/rules')['groups'] for r in group['rules']
                if r['type'] == 'alerting']


def interpolate(text, values, used):
    """Inserts the variables as Grafana does for Prometheus: one value as it is, several as an
    alternation, and a `:format` only in links."""
    def replace(match):
        variable = match[1] or match[2]
        used.add(variable)
        if variable in BUILTIN:
            return BUILTIN[variable]
        if variable not in values:
            raise RuntimeError(f'undefined variable ${variable}')
        value = values[variable]
        if isinstance(value, str):
            return value
        return value[0] if len(value) == 1 else '(' + '|'.join(re.escape(v).replace('\\', '\\\\') for v in value) + ')'
    return re.sub(r'\$([a-zA-Z_]\w*)|\$\{(\w+)(?::\w+)?\}', replace, text)


def resolve(variable, scenario, used):
    """Returns the values that a variable lists."""
    query = interpolate(variable['query']['query'], scenario.values, used)
    if listed := re.fullmatch(r'label_values\((.+), *(\w+)\)', query, re.S):
        return scenario.get(f'/api/v1/label/{listed[2]}/values', **{'match[]': listed[1], 'start': fleet.START, 'end': fleet.END})
    if asked := re.fullmatch(r'query_result\((.+)\)', query, re.S):
        pattern = re.compile(variable['regex'].strip('/').replace('(?<', '(?P<'))
        found = []
        for one in scenario.instant(asked[1]):
            text = '{' + ','.join(f'{k}="{v}"' for k, v in one['metric'].items()) + '} ' + one['value'][1]
            if not (match := pattern.search(text)):
                raise RuntimeError(f'the regex {variable["regex"]} does not match {text}')
            found.append(match['value'])
        return found
    raise RuntimeError(f'not understood: {query}')


def check_variables(dashboard, scenario, used):
    scenario.values = {'datasource': 'prometheus'}
    for variable in dashboard['templating']['list']:
        if variable['type'] == 'datasource':
            continue
        where = f'{scenario.name}: variable ${variable["name"]}'
        try:
            values = resolve(variable, scenario, used)
        except RuntimeError as failure:
            error(where, f'{failure}\n     {variable["query"]["query"]}')
            values = []
        if not values and not (scenario.silent and variable['name'] == 'wwid') and not (variable['name'] == 'cluster' and not scenario.facts['clusters']):
            error(where, f'has no values\n     {variable["query"]["query"]}')
        if len(values) != len(set(values)):
            error(where, 'lists a value twice')
        scenario.values[variable['name']] = values if variable['multi'] else values[0] if values else ''
        if variable.get('allValue'):
            scenario.values[variable['name']] = variable['allValue']
        if variable['name'] == 'instance':
            scenario.instances = values
            if len(values) != scenario.facts['instances']:
                error(where, f'lists {len(values)} hosts of {scenario.facts["instances"]}')


def ask(panel, one, scenario, values, used):
    query = interpolate(one['expr'], values, used)
    return (scenario.instant(query) if one.get('instant') else scenario.range(query)), query


def check_panel(panel, scenario, used, filled, labels):
    where, rows = f'{scenario.name}: {name(panel)}', []
    for one in panel.get('targets', []):
        at, query = f'{where} query {one["refId"]}', one['expr']
        try:
            result, query = ask(panel, one, scenario, scenario.values, used)
            for host in (scenario.instances[0], scenario.instances[-1]):
                alone, _ = ask(panel, one, scenario, {**scenario.values, 'instance': [host]}, used)
                if strangers := {s['metric']['instance'] for s in alone if s['metric'].get('instance', host) != host}:
                    error(at, f'shows {sorted(strangers)} where {host} is chosen\n     {query}')
            for cluster in scenario.facts['clusters']:
                alone, _ = ask(panel, one, scenario, {**scenario.values, 'cluster': [cluster]}, used)
                if strangers := {s['metric']['cluster'] for s in alone if s['metric'].get('cluster', cluster) != cluster}:
                    error(at, f'shows {sorted(strangers)} where {cluster} is chosen\n     {query}')
        except RuntimeError as failure:
            error(at, f'{failure}\n     {query}')
            continue
        if result:
            filled.add((panel['id'], one['refId']))
        elif not panel['fieldConfig']['defaults'].get('noValue'):
            error(at, f'is empty and the panel has no word for it (noValue)\n     {query}')
        if one.get('instant') and any(s['value'][1] == 'NaN' for s in result):
            error(at, f'is not a number\n     {query}')
        if len({frozenset(s['metric'].items() - {('column', s['metric'].get('column'))}) for s in result}) > MOST[panel['type']]:
            error(at, f'returns {len(result)} series, more than {MOST[panel["type"]]}\n     {query}')
        for label in re.findall(r'{{\s*(\w+)\s*}}', one.get('legendFormat', '')):
            if any(label not in s['metric'] for s in result):
                error(at, f'has no label {label}, which its legend names\n     {query}')
        if any('column' in s['metric'] and '__name__' in s['metric'] for s in result):
            error(at, f'has the name of a metric, so that Grafana does not merge its columns\n     {query}')
        labels.setdefault(panel['id'], set()).update(*(s['metric'] for s in result), {s['metric']['column'] for s in result if 'column' in s['metric']})
        rows.append((one['refId'], result, query))
    if panel['type'] == 'table' and len(rows) > 1:
        check_rows(where, rows)
    if rows:
        scenario.said[panel['title']] = rows[0][1]
    check_devices(panel, where, rows, scenario)
    check_hosts(panel, where, rows, scenario)


def check_rows(where, rows):
    """Checks that tables merge correctly. Grafana merges the frames of a table on the labels that
    all frames have. Each set of these labels must be a single row in each frame."""
    shared = set.intersection(*({frozenset(s['metric']) for s in result} and set.union(*(set(s['metric']) for s in result))
                                for _, result, _ in rows if result)) if any(r for _, r, _ in rows) else set()
    first = None
    for reference, result, query in rows:
        keys = [tuple(s['metric'].get(k) for k in sorted(shared)) for s in result]
        if len(keys) != len(set(keys)):
            error(where, f'query {reference} has several rows for one {sorted(shared)}\n     {query}')
        first = set(keys) if first is None else first
        if set(keys) - first:
            error(where, f'query {reference} has rows that query A has not: {sorted(set(keys) - first)[:3]}\n     {query}')


def check_devices(panel, where, rows, scenario):
    """Compares the tables of devices with the model: which device is in which state."""
    if not panel['title'].startswith(('Devices in trouble', 'Devices of the chosen')) or not rows or scenario.silent:
        return
    facts = scenario.facts
    if panel['title'].startswith('Devices of'):
        states = [s['value'][1] for s in rows[0][1]]
        said = {'without': states.count('2'), 'degraded': states.count('1'), 'devices': len(states)}
    else:
        alerts = [s['metric']['alertname'] for s in rows[0][1] if s['metric']['column'] == 'state']
        cells = {c: [s for s in rows[0][1] if s['metric']['column'] == c] for c in ('state', 'valid', 'failed')}
        here = {c: {(s['metric'].get('cluster'), s['metric']['instance'], s['metric']['wwid']) for s in of} for c, of in cells.items()}
        if not here['valid'] <= here['state'] or len(here['state']) != len(cells['state']):
            error(where, f'has a device that has no state, or two\n     {rows[0][2]}')
        valid, failed = ({(s['metric'].get('cluster'), s['metric']['instance'], s['metric']['wwid']) for s in cells[c] if s['value'][1] != '0'}
                         for c in ('valid', 'failed'))
        said = {'without': sum(a.startswith('MultipathNoValidPaths') for a in alerts), 'degraded': len(valid & failed),
                'lost': sum(a in ('MultipathDeviceLost', 'MultipathDeviceInUseLost') for a in alerts)}
    for fact, count in said.items():
        if count != facts[fact]:
            error(where, f'says {count} devices are {fact}, true is {facts[fact]}\n     {rows[0][2]}')


def check_hosts(panel, where, rows, scenario):
    """Compares the table of hosts with the model."""
    facts = scenario.facts
    if panel['title'].startswith('Hosts, worst') and rows:
        states = [s['value'][1] for s in rows[0][1]]
        down = facts['down']
        trouble = sum(s in '123' for s in states)
        if (len(states), states.count('4'), trouble) != (facts['listed'], down, facts['trouble'] or 0):
            error(where, f'has {len(states)} hosts, {states.count("4")} silent and {trouble} in trouble, true is '
                         f'{facts["listed"]}, {down}, {facts["trouble"]}\n     {rows[0][2]}')


def tiles(dashboard):
    """Returns the alerts of each tile. A click on a tile leads to their runbooks."""
    return {override['matcher']['options']: [link['title'].split()[-1] for p in override['properties'] if p['id'] == 'links' for link in p['value']]
            for panel in panels(dashboard) if panel['type'] == 'stat' for override in panel['fieldConfig']['overrides']}


def check_fleet_tiles(scenario):
    said = {s['metric']['tile']: s['value'][1] for s in scenario.said['Fleet']}
    for tile, fact in FLEET.items():
        true = scenario.facts[fact]
        if said.get(tile) != (None if true is None else str(true)):
            error(f'{scenario.name}: Fleet', f'says {said.get(tile)} of {tile}, true is {true}')


def check_agreement(dashboard, scenario, found):
    """Checks that dashboard and alerts agree: each alert has its place, and no tile is green while
    one of its alerts fires."""
    where, rules, counts = scenario.name, scenario.rules(), {}
    for alert, severity, expression in rules:
        counts[alert] = counts.get(alert, 0) + len(scenario.instant(expression))
    said = {s['metric']['tile']: int(s['value'][1]) for title in ('Critical', 'Warnings') for s in scenario.said[title]}
    placed = tiles(dashboard)
    severities = {alert: severity for alert, severity, _ in rules}
    for alert in sorted(severities.keys() - NO_FINDING ^ {a for of in placed.values() for a in of}):
        error('dashboard', f'{alert} is either no alert, or has no tile')
    for tile, alerts in placed.items():
        if scenario.silent and tile != 'Not watched':
            if tile in said:
                error(where, f'tile {tile} says {said[tile]} where no host reports')
            continue
        true = sum(counts.get(alert, 0) for alert in alerts if alert not in AMONG)
        if 'MultipathExporterDown' in alerts:  # the dashboard also counts targets that answer as another program
            true += scenario.facts['down'] - counts['MultipathExporterDown']
        # A host that has just stopped answering is not shown, while the rules keep its last values.
        if said.get(tile, -1) > true or said.get(tile, -1) < true and not scenario.facts['just_silent']:
            error(where, f'tile {tile} says {said.get(tile)}, its alerts {true}: { {a: counts.get(a) for a in alerts} }')
    if any(counts[alert] for alert in counts.keys() - NO_FINDING) and not any(said.values()):
        error(where, 'is all green while an alert fires')
    if scenario.facts['just_silent'] and not said['Not watched']:
        error(where, 'a host has just fallen silent, and the tile "Not watched" does not say so')
    for alert, true in scenario.facts['alerts'].items():
        if true is not None and counts.get(alert, 0) != true:
            error(where, f'the rule {alert} finds {counts.get(alert)}, true is {true}')
    for severity in ('critical', 'warning'):
        if not scenario.silent and said.get(f'{severity.title()} alerts') != scenario.facts[severity]:
            error(where, f'says that {said.get(f"{severity.title()} alerts")} {severity} alerts fire, true is {scenario.facts[severity]}')
    table = {s['metric']['alertname']: s for s in scenario.said[FINDINGS]}
    grouped = {a for of in placed.values() if len(set(of) - AMONG.keys()) > 1 for a in of if severities[a] != 'info'}
    for alert, other in AMONG.items():
        if counts[alert] > counts[other]:
            error(where, f'{alert} finds what {other} does not')
    for alert, count in counts.items():
        if count and alert not in NO_FINDING:
            found.add(alert)
        listed = int(table[alert]['value'][1]) if alert in table else 0
        if alert in grouped - {'MultipathExporterDown'} and (listed > count or listed < count and not scenario.facts['just_silent']):
            error(where, f'"{FINDINGS}" says {listed} of {alert}, the rule {count}')
        if alert in table:
            if table[alert]['metric']['severity'] != severities[alert]:
                error(where, f'"{FINDINGS}" calls {alert} {table[alert]["metric"]["severity"]}, the rule {severities[alert]}')
    return severities.keys()


def check_annotations(dashboard, scenario, used, filled):
    for one in dashboard['annotations']['list']:
        where, query = f'{scenario.name}: annotation "{one["name"]}"', interpolate(one['expr'], scenario.values, used)
        try:
            times = {float(v) / 1000 for s in scenario.range(query) for _, v in s['values']}
        except RuntimeError as failure:
            error(where, f'{failure}\n     {query}')
            continue
        if not all(fleet.START - 600 <= time <= fleet.END for time in times):
            error(where, f'has a time outside of those shown: {sorted(times)}')
        filled.update((one['name'], None) for _ in times)


def check_columns(panel, labels):
    """Checks that the columns of a table exist: labels of some scenario's result, or values of its
    queries."""
    references = {t['refId'] for t in panel['targets']}
    values = {'Value'} if len(references) == 1 else {f'Value #{r}' for r in references}
    for step in panel.get('transformations', []):
        for field in step['options'].get('include', {}).get('names', []):
            if field not in labels | values | {'cluster'}:  # this column exists if the fleet has clusters
                error(name(panel), f'picks a column {field}, which no result has')
        for key in ('rowField', 'columnField'):
            if key in step['options'] and step['options'][key] not in labels:
                error(name(panel), f'makes a matrix of {step["options"][key]}, which no result has')


def main():
    path, golden, *arguments = sys.argv[1:]
    with open(path) as file:
        dashboard = json.load(file)
    check_structure(dashboard)
    check_size(path)
    check_runbooks(dashboard, pathlib.Path(path).parent.parent / 'alerts' / 'runbooks')
    used, filled, labels, known, found, alerts, asked = set(), set(), {}, set(), set(), set(), 0
    scenarios = [Scenario(a) for a in arguments]
    for scenario in scenarios:
        names, families = check_fleet(golden, scenario.name, scenario.fleet)
        known |= names | families
        check_variables(dashboard, scenario, used)
        for panel in panels(dashboard):
            if panel['type'] != 'row':
                check_panel(panel, scenario, used, filled, labels)
                asked += len(panel['targets'])
        check_fleet_tiles(scenario)
        check_annotations(dashboard, scenario, used, filled)
        alerts |= check_agreement(dashboard, scenario, found)
    for alert in sorted(alerts - found - NO_FINDING):
        error('dashboard', f'{alert} is found in no scenario: add one to fleet.py')
    for one in dashboard['annotations']['list']:
        if (one['name'], None) not in filled:
            error('dashboard', f'annotation "{one["name"]}" is empty in every scenario')
    for panel in panels(dashboard):
        for one in panel.get('targets', []):
            if (panel['id'], one['refId']) not in filled:
                error(f'{name(panel)} query {one["refId"]}', f'is empty in every scenario\n     {one["expr"]}')
            for metric in re.findall(r'\b(\w+)\{', one['expr']):
                if metric not in known | FOREIGN:
                    error(name(panel), f'asks for {metric}, which is not a metric of the exporter\n     {one["expr"]}')
        if panel['type'] == 'table':
            check_columns(panel, labels.get(panel['id'], set()))
        interpolate(panel['title'], scenarios[0].values, used)
    for variable in dashboard['templating']['list']:
        if variable['name'] not in used and not (variable['type'] == 'datasource' and '${datasource}' in json.dumps(dashboard['panels'])):
            error(f'variable ${variable["name"]}', 'is used nowhere')
    count = sum(p['type'] != 'row' for p in panels(dashboard))
    print(f'{count} panels, {asked} queries in {len(scenarios)} scenarios: ' + (f'{len(errors)} failures' if errors else 'ok'))
    return bool(errors)


if __name__ == '__main__':
    sys.exit(main())
