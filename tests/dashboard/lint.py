#!/usr/bin/env python3
"""The rules of Grafana's dashboard-linter, under its names, as far as they concern a dashboard for
Prometheus.

    lint.py DASHBOARD.json

Debian has no package of that tool. These rules are written from its documentation, and are stricter
in one point: they apply to every type of panel. target-logql-rule and target-logql-auto-rule
concern Loki. check_queries.py covers target-promql-rule (each query can be parsed) with a real
Prometheus.
"""
import json
import re
import sys

DATASOURCES = ('$datasource', '${datasource}')
# The words of PromQL that are not names of metrics, functions or labels.
WORDS = {'and', 'or', 'unless', 'bool', 'offset', 'start', 'end', 'by', 'without', 'on', 'ignoring', 'group_left', 'group_right', 'inf', 'nan'}
LABELS = re.compile(r'\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^()]*\)')
SELECTOR = re.compile(r'(\b[a-zA-Z_:][\w:]*)?\{((?:[^{}"\']|"[^"]*"|\'[^\']*\')*)\}')
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*(?:"([^"]*)"|\'([^\']*)\')')


def selectors(query):
    """Yields (metric, matchers, text before, text after) of every selector. Raises ValueError for a
    metric without braces."""
    for found in SELECTOR.finditer(query):
        yield found[1], [(m[1], m[2], m[3] or m[4] or '') for m in MATCHER.finditer(found[2])], query[:found.start()], query[found.end():]
    bare = re.sub(r'"[^"]*"|\'[^\']*\'', ' ', LABELS.sub(' ', SELECTOR.sub(' ', query)))
    bare = re.sub(r'\[[^\]]*\]|\b[\d.]+(?:e[+-]?\d+)?\w*', ' ', bare)
    if names := set(re.findall(r'\b[a-zA-Z_:][\w:]*\b(?!\s*\()', bare)) - WORDS:
        raise ValueError(f'no matchers for {sorted(names)}')


def template_datasource_rule(dashboard):
    """The data source is a variable with the name `datasource` and the label `Data source`."""
    found = [v for v in dashboard['templating']['list'] if v['type'] == 'datasource']
    if [(v['name'], v['label']) for v in found] != [('datasource', 'Data source')]:
        yield f'data source variables: {[(v["name"], v["label"]) for v in found]}'


def template_job_rule(dashboard, name='job'):
    """The variable `job` is a query of the data source with the label `Job`. It takes several
    values, and has `.+` for all."""
    found = [v for v in dashboard['templating']['list'] if v['name'] == name]
    if len(found) != 1:
        yield f'{len(found)} variables are named {name}'
    for one in found:
        wanted = {'type': 'query', 'label': name.title(), 'multi': True, 'allValue': '.+'}
        yield from (f'{name}: {key} is {one.get(key)!r}, not {value!r}' for key, value in wanted.items() if one.get(key) != value)
        if one.get('datasource', {}).get('uid') not in DATASOURCES:
            yield f'{name}: does not use the data source variable'


def template_instance_rule(dashboard):
    """The same rule for `instance`."""
    return template_job_rule(dashboard, 'instance')


def template_label_promql_rule(dashboard):
    """A variable's query is one of Grafana's functions for variables, on one line."""
    for one in queries_of_variables(dashboard):
        if not re.fullmatch(r'(?:label_names|label_values|metrics|query_result)\(.+\)', one['query']['query']):
            yield f'{one["name"]}: {one["query"]["query"]}'


def template_on_time_change_reload_rule(dashboard):
    """A variable is queried again when the time range changes."""
    return (f'{v["name"]}: refresh is {v["refresh"]}' for v in queries_of_variables(dashboard) if v['refresh'] != 2)


def uneditable_dashboard(dashboard):
    """The dashboard cannot be edited, because changes belong in the source."""
    if dashboard.get('editable', True):
        yield 'it is editable'


def panel_datasource_rule(panel):
    """A panel uses the variable for the data source."""
    if panel.get('datasource', {}).get('uid') not in DATASOURCES:
        yield f'data source {panel.get("datasource")}'


def panel_title_description_rule(panel):
    """A panel has a title and a description."""
    if not panel.get('title') or not panel.get('description'):
        yield 'no title or no description'


def panel_units_rule(panel):
    """A panel of numbers has a unit. check_ids.cjs checks that Grafana knows the unit."""
    if panel['type'] in ('stat', 'timeseries', 'gauge', 'bargauge') and not panel['fieldConfig']['defaults'].get('unit'):
        yield 'no unit'


def panel_no_targets_rule(panel):
    """A panel has a query."""
    if not panel.get('targets'):
        yield 'no query'


def target_job_rule(target, label='job'):
    """Every selector matches `job=~"$job"`."""
    for metric, matchers, _, _ in selectors(target['expr']):
        if (label, '=~', f'${label}') not in matchers:
            yield f'{metric} does not match {label}'


def target_instance_rule(target):
    """Every selector matches `instance=~"$instance"`."""
    return target_job_rule(target, 'instance')


def target_rate_interval_rule(target):
    """rate and irate use $__rate_interval. `increase` may use the whole time shown."""
    for metric, _, before, after in selectors(target['expr']):
        if re.search(r'\bi?rate\(\s*$', before) and not after.startswith('[$__rate_interval]'):
            yield f'rate({metric}) over {after[:12]}'


def target_counter_agg_rule(target):
    """A counter is read through rate, irate or increase."""
    for metric, _, before, after in selectors(target['expr']):
        if metric.endswith(('_total', '_bucket', '_count', '_sum')) and not (re.search(r'\b(?:i?rate|increase)\(\s*$', before) and after.startswith('[')):
            yield f'{metric} is a counter, and is not rated'


ON_DASHBOARD = [template_datasource_rule, template_job_rule, template_instance_rule, template_label_promql_rule, template_on_time_change_reload_rule, uneditable_dashboard]
ON_PANEL = [panel_datasource_rule, panel_title_description_rule, panel_units_rule, panel_no_targets_rule]
ON_TARGET = [target_job_rule, target_instance_rule, target_rate_interval_rule, target_counter_agg_rule]


def queries_of_variables(dashboard):
    return [v for v in dashboard['templating']['list'] if v['type'] == 'query']


def main():
    with open(sys.argv[1]) as file:
        dashboard = json.load(file)
    wrong = [f'{rule.__name__}: {message}' for rule in ON_DASHBOARD for message in rule(dashboard)]
    for panel in (p for row in dashboard['panels'] for p in [row, *row.get('panels', [])] if p['type'] != 'row'):
        wrong += [f'{rule.__name__}: panel {panel["id"]} "{panel["title"]}": {message}' for rule in ON_PANEL for message in rule(panel)]
        for target in panel.get('targets', []):
            try:
                messages = [(rule, message) for rule in ON_TARGET for message in rule(target)]
            except ValueError as failure:
                messages = [(selectors, str(failure))]
            wrong += [f'{rule.__name__}: panel {panel["id"]} "{panel["title"]}" query {target["refId"]}: {message}' for rule, message in messages]
    for one in wrong:
        print(f'FAIL {one}')
    return bool(wrong)


if __name__ == '__main__':
    sys.exit(main())
