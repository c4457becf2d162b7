#!/usr/bin/env python3
"""Runs every variable and every query of a dashboard against real Prometheus servers, one for each scenario of fleet.py.

    check_queries.py DASHBOARD.json GOLDEN SCENARIO=URL=FLEET.om=FACTS.json ...

Names every panel and query that fails, is empty where it may not be, or says something else than what is true.
"""
import json
import pathlib
import re
import sys
import urllib.error
import urllib.parse
import urllib.request

import fleet

# What the first row must say, and the fact it is about.
FACTS = {'No valid path': 'without', 'Degraded devices': 'degraded', 'Failed paths': 'failed', 'Exporters down': 'down',
         'multipathd down': 'daemonless', 'Alerts firing': 'alerts', 'Devices': 'devices', 'Hosts': 'hosts'}
TYPES = {'stat', 'bargauge', 'timeseries', 'table', 'state-timeline', 'text', 'row'}
# A table longer than this, a graph with more lines than this: nobody reads them, and a large fleet pays for them.
MOST = {'table': 200, 'timeseries': 20, 'state-timeline': 100, 'bargauge': 10, 'stat': 1}
# Beside the exporter's own: what Prometheus makes.
FOREIGN = {'up', 'ALERTS', 'scrape_duration_seconds'}
BUILTIN = {'__rate_interval': '120s', '__interval': '30s', '__range': '3600s'}
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the servers are this machine's
# Exist only where something is wrong, as it is on the golden page.
FAULTS = {'multipath_device_non_optimized'}
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


# -- what needs no server ----------------------------------------------------------------------------------------------

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
        for source in [panel.get('datasource')] + [t.get('datasource') for t in panel.get('targets', [])]:
            if source != {'type': 'prometheus', 'uid': '${datasource}'}:
                error(where, f'does not use the data source variable: {source}')
        references = [t['refId'] for t in panel.get('targets', [])]
        if len(references) != len(set(references)):
            error(where, f'uses a refId twice: {references}')
    if not dashboard.get('uid') or 'id' in dashboard:
        error('dashboard', 'needs a fixed uid and must have no id')
    titles = [p['title'] for p in panels(dashboard)]
    for title in FACTS:
        if titles.count(title) != 1:
            error('dashboard', f'{titles.count(title)} panels are named "{title}"')


def check_runbooks(dashboard, folder):
    """An alert that a link or a table names has a runbook."""
    if not folder.is_dir():
        return
    for panel in panels(dashboard):
        for alert in set(re.findall(r'\bMultipath[A-Z]\w+', json.dumps({k: v for k, v in panel.items() if k != 'panels'}))):
            if not (folder / f'{alert}.md').is_file():
                error(name(panel), f'names the runbook of {alert}, which does not exist')


def samples(lines):
    """(name, label names) of every sample, and (family, type) of every TYPE line, in text 0.0.4 or OpenMetrics."""
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
    """The made-up fleet must look as the exporter's golden page does: the same types, the same labels."""
    with open(path) as file:
        shapes, types = samples(file)
    with open(golden) as file:
        expected, kinds = samples(file)
    shapes = {(n, labels - {'job', 'instance'}) for n, labels in shapes}
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


# -- queries -------------------------------------------------------------------------------------------------------------

class Scenario:
    def __init__(self, argument):
        self.name, self.url, self.fleet, facts = argument.split('=')
        with open(facts) as file:
            self.facts = json.load(file)
        self.values = {}
        self.silent = self.facts['devices'] is None  # no host reports

    def get(self, path, **parameters):
        data = urllib.parse.urlencode({**parameters}, doseq=True)
        try:
            with DIRECT.open(f'{self.url}{path}?{data}' if '/label/' in path else f'{self.url}{path}',
                                        None if '/label/' in path else data.encode(), timeout=30) as answer:
                return json.load(answer)['data']
        except urllib.error.HTTPError as failure:
            raise RuntimeError(json.load(failure).get('error')) from failure

    def instant(self, query):
        return self.get('/api/v1/query', query=query, time=fleet.END)['result']

    def range(self, query):
        return self.get('/api/v1/query_range', query=query, start=fleet.START, end=fleet.END, step=15)['result']


def interpolate(text, values, used):
    """As Grafana does for Prometheus: one value as it is, several as an alternation, a `:format` only in links."""
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
    """The values of a variable: what it lists."""
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
        if not values and not (scenario.silent and variable['name'] == 'wwid'):
            error(where, f'has no values\n     {variable["query"]["query"]}')
        if len(values) != len(set(values)):
            error(where, 'lists a value twice')
        scenario.values[variable['name']] = values if variable['multi'] else values[0] if values else ''
        if variable.get('allValue'):
            scenario.values[variable['name']] = variable['allValue']
        if variable['name'] == 'instance':
            scenario.instances = values
            if len(values) != scenario.facts['hosts']:
                error(where, f'lists {len(values)} hosts of {scenario.facts["hosts"]}')


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
        except RuntimeError as failure:
            error(at, f'{failure}\n     {query}')
            continue
        if result:
            filled.add((panel['id'], one['refId']))
        elif not panel['fieldConfig']['defaults'].get('noValue'):
            error(at, f'is empty and the panel has no word for it (noValue)\n     {query}')
        if one.get('instant') and any(s['value'][1] == 'NaN' for s in result):
            error(at, f'is not a number\n     {query}')
        if len(result) > MOST[panel['type']]:
            error(at, f'returns {len(result)} series, more than {MOST[panel["type"]]}\n     {query}')
        for label in re.findall(r'{{\s*(\w+)\s*}}', one.get('legendFormat', '')):
            if any(label not in s['metric'] for s in result):
                error(at, f'has no label {label}, which its legend names\n     {query}')
        labels.setdefault(panel['id'], set()).update(*(s['metric'] for s in result))
        rows.append((one['refId'], result, query))
    if panel['type'] == 'table' and len(rows) > 1:
        check_rows(where, rows)
    if panel['title'] in FACTS and rows:
        said = rows[0][1][0]['value'][1] if rows[0][1] else 'nothing'
        true = scenario.facts[FACTS[panel['title']]]
        if said != ('nothing' if true is None else str(true)):
            error(where, f'says {said}, true is {true}\n     {rows[0][2]}')
    check_devices(panel, where, rows, scenario)
    check_hosts(panel, where, rows, scenario)


def check_rows(where, rows):
    """Grafana merges the frames of a table on the labels that all have: each of those must be a single row in each frame."""
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
    """The tables of devices, against the model: who is in which state."""
    if not panel['title'].startswith(('Unhealthy devices', 'Devices of the chosen')) or not rows or scenario.silent:
        return
    states = [s['value'][1] for s in rows[0][1]]
    facts = scenario.facts
    wanted = {'2': facts['without'], '1': facts['degraded']}
    if panel['title'].startswith('Devices'):
        wanted['0'] = facts['devices'] - facts['without'] - facts['degraded']
    for state, count in wanted.items():
        if states.count(state) != count:
            error(where, f'has {states.count(state)} devices in state {state}, true is {count}\n     {rows[0][2]}')


def check_hosts(panel, where, rows, scenario):
    """The table of hosts and that of findings, against the model."""
    facts = scenario.facts
    if panel['title'].startswith('Hosts, worst') and rows:
        states = [s['value'][1] for s in rows[0][1]]
        if len(states) != facts['hosts'] or states.count('3') != facts['down']:
            error(where, f'has {len(states)} hosts, {states.count("3")} of them silent, true is {facts["hosts"]} and {facts["down"]}\n     {rows[0][2]}')
        daemons = [s['value'][1] for s in rows[-1][1]]
        if daemons.count('0') != (facts['daemonless'] or 0):
            error(where, f'has {daemons.count("0")} hosts without multipathd, true is {facts["daemonless"]}\n     {rows[-1][2]}')
    if panel['title'].startswith('Findings') and rows and not scenario.silent:
        said = {s['metric']['alertname']: s['value'][1] for s in rows[0][1]}
        for finding in ('MultipathSinglePath', 'MultipathSingleFabric'):
            if said.get(finding) != str(facts[finding]):
                error(where, f'says {said.get(finding)} of {finding}, true is {facts[finding]}\n     {rows[0][2]}')


def check_columns(panel, labels):
    """Columns that a table picks must exist: labels of some scenario's result, values of its queries."""
    references = {t['refId'] for t in panel['targets']}
    values = {'Value'} if len(references) == 1 else {f'Value #{r}' for r in references}
    for step in panel.get('transformations', []):
        for field in step['options'].get('include', {}).get('names', []):
            if field not in labels | values:
                error(name(panel), f'picks a column {field}, which no result has')
        for key in ('rowField', 'columnField'):
            if key in step['options'] and step['options'][key] not in labels:
                error(name(panel), f'makes a matrix of {step["options"][key]}, which no result has')


def main():
    path, golden, *arguments = sys.argv[1:]
    with open(path) as file:
        dashboard = json.load(file)
    check_structure(dashboard)
    check_runbooks(dashboard, pathlib.Path(path).parent.parent / 'alerts' / 'runbooks')
    used, filled, labels, known, asked = set(), set(), {}, set(), 0
    scenarios = [Scenario(a) for a in arguments]
    for scenario in scenarios:
        names, families = check_fleet(golden, scenario.name, scenario.fleet)
        known |= names | families
        check_variables(dashboard, scenario, used)
        for panel in panels(dashboard):
            if panel['type'] != 'row':
                check_panel(panel, scenario, used, filled, labels)
                asked += len(panel['targets'])
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
