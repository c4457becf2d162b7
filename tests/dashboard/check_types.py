#!/usr/bin/env python3
"""dashboard.json -> check.ts: one typed literal per part, so that tsc checks it against Grafana's
own types, and refuses unknown fields.

    check_types.py DASHBOARD.json > check.ts

The types of the newest Grafana know the options of every panel type. The types of the oldest
supported Grafana know only the common parts of all panels.
"""
import json
import sys

# Panel types with published types. The flag tells if they have their own field options.
PANELS = {'stat': ('stat/panelcfg/x/StatPanelCfg', False), 'bargauge': ('bargauge/panelcfg/x/BarGaugePanelCfg', False),
          'timeseries': ('timeseries/panelcfg/x/TimeSeriesPanelCfg', True), 'table': ('table/panelcfg/x/TablePanelCfg', True),
          'state-timeline': ('statetimeline/panelcfg/x/StateTimelinePanelCfg', True), 'text': ('text/panelcfg/x/TextPanelCfg', False)}
QUERY = ('expr', 'step', 'titleFormat', 'textFormat', 'useValueForTime')
HEAD = '''
import type * as New from '@grafana/schema/dist/esm/raw/dashboard/x/Dashboard_types.gen';
import type * as Old from 'grafana-schema-10';
// In JSON an enum is its value, and any field with a default may be left out.
type Json<T> = T extends string ? `${T}` : T extends number | boolean | null | undefined ? T
  : T extends Array<infer U> ? Array<Json<U>> : T extends object ? { [K in keyof T]?: Json<T[K]> } : T;
// The published types lack the query of the Prometheus data source.
type Target = { refId: string; expr: string; editorMode: 'code'; legendFormat?: string;
  instant: boolean; range: boolean; format?: 'table' };
type Annotation = { expr: string; step: string; titleFormat: string; textFormat: string; useValueForTime: 'on' };
'''


def literal(name, kind, value):
    print(f'const {name}: {kind} = {json.dumps(value, indent=1)};')


def waived(value):
    """Returns the value without parts that Grafana 10 reads but its published types lack: a first
    threshold of null, and the match of a special value."""
    if isinstance(value, dict):
        if value.get('type') == 'special':
            value = {**value, 'options': {k: v for k, v in value['options'].items() if k != 'match'}}
        return {k: waived(v) for k, v in value.items() if not (k == 'value' and v is None)}
    return [waived(v) for v in value] if isinstance(value, list) else value


def panel(one):
    name, kind = f'panel{one["id"]}', one['type']
    shared = {k: v for k, v in one.items() if k not in ('options', 'fieldConfig', 'targets')}
    literal(name, 'Json<New.Panel>', shared)
    literal(name + '_old', 'Json<Old.Panel>', shared)
    types = kind.replace('-', '_')
    literal(name + '_options', f'Json<{types}.Options>', one['options'])
    defaults = dict(one['fieldConfig']['defaults'])
    custom = defaults.pop('custom', None)
    for age, values in ('New', defaults), ('Old', waived(defaults)):
        literal(f'{name}_defaults{age}', f'Json<{age}.FieldConfig>', values)
        literal(f'{name}_overrides{age}', f'Json<{age}.FieldConfigSource["overrides"]>', one['fieldConfig']['overrides'])
    if custom is not None:
        literal(name + '_custom', f'Json<{types}.FieldConfig>' if PANELS[kind][1] else 'never', custom)
    literal(name + '_targets', 'Target[]', one.get('targets', []))


def main():
    with open(sys.argv[1]) as file:
        dashboard = json.load(file)
    print(HEAD)
    panels = [p for one in dashboard['panels'] for p in [one, *one.get('panels', [])]]
    for kind in sorted({p['type'] for p in panels} - {'row'}):
        print(f"import type * as {kind.replace('-', '_')} from '@grafana/schema/dist/esm/raw/composable/{PANELS[kind][0]}_types.gen';")
    for one in panels:
        if one['type'] == 'row':
            literal(f'row{one["id"]}', 'Json<New.RowPanel>', {k: v for k, v in one.items() if k != 'panels'})
        else:
            panel(one)
    rest = {k: v for k, v in dashboard.items() if k != 'panels'}
    # The query of an annotation belongs to the data source's types, which are not published.
    rest['annotations'] = {'list': [{k: v for k, v in one.items() if k not in QUERY} for one in rest['annotations']['list']]}
    literal('annotations', 'Annotation[]', [{k: one[k] for k in QUERY} for one in dashboard['annotations']['list']])
    literal('dashboard', 'Json<New.Dashboard>', rest)
    literal('dashboardOld', 'Json<Old.Dashboard>', {k: v for k, v in rest.items() if k != 'templating'})  # not typed yet
    print('export {};')


if __name__ == '__main__':
    main()
