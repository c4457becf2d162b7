// Compares the names that Grafana's types leave as plain strings with the registries of the real
// @grafana/data: units, reducers, matchers, transformations, colour modes and the options that an
// override may set.
//   node check_ids.cjs DASHBOARD.json
Object.defineProperty(globalThis, 'navigator', { value: { language: 'en-US', languages: ['en-US'] }, configurable: true });
const grafana = require('@grafana/data');
const fs = require('fs');

const dashboard = JSON.parse(fs.readFileSync(process.argv[2]));
const units = new Set(grafana.getValueFormats().flatMap((category) => category.submenu.map((unit) => unit.value)));
const transformations = new Set(Object.values(grafana.standardTransformers).map((one) => one.id));
const options = new Set(['displayName', 'unit', 'decimals', 'min', 'max', 'noValue', 'mappings', 'thresholds', 'links', 'color', 'filterable', 'description']);
const colors = new Set(grafana.createTheme().visualization.hues.flatMap((hue) => [hue.name, ...hue.shades.flatMap((s) => [s.name, ...(s.aliases || [])])]));
let failures = 0;

function check(panel, kind, id, known) {
  if (id !== undefined && !known) {
    console.log(`FAIL panel ${panel.id} "${panel.title}": Grafana knows no ${kind} "${id}"`);
    failures += 1;
  }
}
const knownColor = (color) => /^(#[0-9a-f]{6}|transparent|text)$/i.test(color) || colors.has(color);
function checkColors(panel, part) {
  if (part === null || typeof part !== 'object') return;
  for (const [key, value] of Object.entries(part)) {
    if ((key === 'color' || key === 'fixedColor') && typeof value === 'string') check(panel, 'colour', value, knownColor(value));
    else checkColors(panel, value);
  }
}
for (const panel of dashboard.panels.flatMap((one) => [one, ...(one.panels || [])])) {
  if (panel.type === 'row') continue;
  const { defaults, overrides } = panel.fieldConfig;
  const custom = [[defaults.unit, defaults.color], ...overrides.map((o) => [o.properties.find((p) => p.id === 'unit')?.value, o.properties.find((p) => p.id === 'color')?.value])];
  for (const [unit, color] of custom) {
    check(panel, 'unit', unit, units.has(unit));
    check(panel, 'colour mode', color?.mode, grafana.fieldColorModeRegistry.getIfExists(color?.mode));
  }
  for (const calc of panel.options.reduceOptions?.calcs || []) check(panel, 'reducer', calc, grafana.fieldReducers.getIfExists(calc));
  for (const override of overrides) {
    check(panel, 'matcher', override.matcher.id, grafana.fieldMatchers.getIfExists(override.matcher.id));
    for (const { id } of override.properties) check(panel, 'option', id, options.has(id) || /^custom\.\w/.test(id));
  }
  for (const { id } of panel.transformations || []) check(panel, 'transformation', id, transformations.has(id));
  checkColors(panel, panel.fieldConfig);
}
process.exit(failures ? 1 : 0);
