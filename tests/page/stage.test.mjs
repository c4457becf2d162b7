// The status page of a real host: a machine whose kernel loses its paths while the page is open in
// a browser. The test leaves pictures of each state in .cache/page.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { assertAccessible, awaitText, launch, open, text } from "./browser.mjs";
import { PATIENCE, Stage } from "./stage.mjs";

const PICTURES = fileURLToPath(new URL("../../.cache/page", import.meta.url));

test("real paths fail and come back, and the open page shows it without a reload", { timeout: 10 * PATIENCE }, async t => {
  mkdirSync(PICTURES, { recursive: true });
  const browser = await launch();
  t.after(() => browser.close());
  const stage = await Stage.start("stage_iscsi", t);
  // Only events may bring news, because the timed reading would show it as well.
  const page = await open(browser, stage.url, { before: () => (window.setInterval = () => {}) });
  page.setDefaultTimeout(PATIENCE);
  try {
    await look(page, stage, t);
  } catch (error) {
    await page.screenshot({ path: join(PICTURES, "failed.png"), fullPage: true });
    throw error;
  }
});

async function look(page, stage, t) {
  const { devices } = await (await fetch(`${stage.url}/api/v1/devices`)).json();
  assert.deepEqual(devices.map(device => device.paths.length), [4, 4]);
  const [device, other] = devices;
  const { path } = device.paths[1];
  const at = `[data-device="${device.wwid}"]`;
  const crosses = () => page.$$eval("svg .cross", all => all.length);
  // Returns what the page shows after a command, and after how long.
  const after = async (command, headline, picture) => {
    const began = performance.now();
    await stage.do(command);
    await awaitText(page, "h1", headline);
    t.diagnostic(`${command}: shown after ${Math.round(performance.now() - began)} ms`);
    await page.screenshot({ path: join(PICTURES, `${picture}.png`), fullPage: true });
  };
  const WELL = "✓ All paths of 2 devices work";

  await awaitText(page, "#live", "Live");
  await page.evaluate(() => (window.same = true));
  assert.equal(await text(page, "h1"), WELL);
  assert.equal(await crosses(), 0);

  await after(`offline ${path}`, "! 1 of 2 devices has failed paths", "1-path-failed");
  assert.match(await page.title(), /^1 of 2 devices has failed paths – /);
  assert.equal(await text(page, "#verdict p"), "All paths of 1 other device work.");
  assert.equal(await page.$eval("details", fold => fold.open && fold.dataset.device), device.wwid, "the worst comes first");
  assert.equal(await text(page, `${at} .badge`), "! 1 path failed");
  assert.deepEqual(await page.$$eval("svg .failed:has(.cross) .name", all => all.map(name => name.textContent)), [path]);
  assert.match(await text(page, `${at} tr.failed`), new RegExp(`^${path} ✕ FAILED `));
  await awaitText(page, "#events", new RegExp(`${device.name}: ✕ path ${path} failed, 3 valid paths`));

  await after(`running ${path}`, WELL, "2-path-back");
  assert.equal(await crosses(), 0);
  await awaitText(page, "#events", new RegExp(`${device.name}: ✓ path ${path} is back, 4 valid paths`));

  await after("cut storage1", "! 2 of 2 devices have failed paths", "3-network-lost");
  await awaitText(page, "#verdict p", "All 4 failed paths leave this host through storage1: no path through it is left.");
  assert.equal(await crosses(), 4);

  await after("cut storage2", "✕ 2 of 2 devices have no valid path", "4-no-valid-path");
  assert.equal(await crosses(), 8);
  await awaitText(page, "#wrong", new RegExp(
    `I/O to 2 devices waits for a valid path: programs hang: ${device.name}, ${other.name}. Runbook`));
  // The order in which the kernel raised the events does not matter.
  await awaitText(page, "#newest", /^Last event .*: ✕ path \w+ failed, no valid path left\. Recent events$/);
  await assertAccessible(page, "no valid path");

  await stage.do("mend storage1");
  await after("mend storage2", WELL, "5-all-back");
  assert.equal(await crosses(), 0);
  assert.equal(await page.evaluate(() => window.same), true, "it was loaded again");
  assert.deepEqual(page.wrong, []);
}
