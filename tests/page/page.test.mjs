// The status page in a real browser. Tests beside its code check its contents. These tests check
// what a reader can do with it.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { DESK, PHONE, assertAccessible, assertFits, awaitText, launch, open, text } from "./browser.mjs";
import { Exporter } from "./exporter.mjs";
import { Host } from "./host.mjs";

const program = process.env.EXPORTER;
let browser;
before(async () => (browser = await launch()));
after(() => browser.close());

// Runs `look` on an exporter on a host with the properties `made`.
async function on(made, look, start = Exporter.start) {
  const host = new Host(made);
  let exporter;
  try {
    await host.start();
    exporter = await start(program, host);
    await look(exporter, host);
  } finally {
    await exporter?.stop();
    host.remove();
  }
}

// As `on`, but the exporter has read nothing until `speak` is called.
function onUnread(made, look) {
  let speak;
  return on(made, exporter => look(exporter, speak), (program, host) => {
    speak = host.mute();
    return Exporter.startUnready(program, host);
  });
}

const HOSTS = {
  healthy: { devices: 6 },
  degraded: { devices: 6, state: (device, path) => (device < 2 && path % 2 === 0 ? "failed" : "active") },
  dead: { devices: 6, state: (device, path) => (device === 3 || path % 2 === 0 ? "failed" : "active") },
  none: { devices: 0 },
};
const SENTENCES = {
  healthy: "✓ All paths of 6 devices work",
  degraded: "! 2 of 6 devices have failed paths",
  dead: "✕ 1 of 6 devices has no valid path",
  none: "i This host has no multipath device",
};

for (const [name, made] of Object.entries(HOSTS)) {
  test(`${name}: understood, accessible and in place, light and dark, on a desk and on a phone`, () =>
    on(made, async exporter => {
      for (const viewport of [DESK, PHONE])
        for (const scheme of ["light", "dark"]) {
          const page = await open(browser, exporter.url, { viewport, scheme });
          await awaitText(page, "#live", "Live");
          assert.equal(await text(page, "h1"), SENTENCES[name]);
          const what = `${name}, ${scheme}, ${viewport.width} pixels`;
          await assertAccessible(page, what);
          await assertFits(page, what);
          // The same with all details unfolded.
          await page.$$eval("details", folds => folds.forEach(fold => (fold.open = true)));
          await assertAccessible(page, `${what}, unfolded`);
          await assertFits(page, `${what}, unfolded`);
          assert.deepEqual(page.wrong, [], what);
          await page.close();
        }
    }));
}

test("a path fails, and the open page shows it without a reload", () => {
  let failed = false;
  return on({ devices: 6, state: (device, path) => (failed && device === 4 && path === 1 ? "failed" : "active") },
    async exporter => {
      const page = await open(browser, exporter.url);
      await awaitText(page, "#live", "Live");
      await page.evaluate(() => (window.same = true));
      failed = true;
      exporter.reread();
      await awaitText(page, "h1", "! 1 of 6 devices has failed paths");
      await awaitText(page, "#events", /mpathe: ✕ path sdr failed, 3 valid paths/);
      assert.match(await text(page, "#newest"), /^Last event \d s ago\. mpathe: ✕ path sdr failed, 3 valid paths\. Recent events$/);
      assert.match(await page.title(), /^1 of 6 devices has failed paths – /);
      assert.equal(await page.$eval("details", fold => fold.dataset.device), "3600a098000aad1e3000064e45f2c0004");
      assert.equal(await page.$eval("details", fold => fold.open), true);
      assert.equal(await page.$$eval("svg .failed .cross", crosses => crosses.length), 1);

      failed = false;
      exporter.reread();
      await awaitText(page, "h1", SENTENCES.healthy);
      await awaitText(page, "#events", /mpathe: ✓ path sdr is back, 4 valid paths/);
      assert.equal(await page.evaluate(() => window.same), true, "it was loaded again");
      assert.deepEqual(page.wrong, []);
      await page.close();
    });
});

const UNREAD = "i The first full read is in progress";

test("opened before the first full read, it soon shows it", () =>
  onUnread({ devices: 2 }, async (exporter, speak) => {
    const pages = [await open(browser, exporter.url), await open(browser, exporter.url, { scripts: false })];
    for (const page of pages) await awaitText(page, "h1", UNREAD);
    await pages[0].evaluate(() => (window.same = true));
    speak();
    for (const page of pages) {
      // A hidden tab sleeps.
      await page.bringToFront();
      await awaitText(page, "h1", "✓ All paths of 2 devices work");
      await page.waitForFunction(() => document.querySelectorAll("#devices details").length === 2);
      assert.deepEqual(page.wrong, []);
    }
    assert.equal(await pages[0].evaluate(() => window.same), true, "it was loaded again");
    await assertAccessible(pages[0], "after the first full read");
    await Promise.all(pages.map(page => page.close()));
  }));

test("what the reader has unfolded, focused, typed and scrolled to stays", () => {
  let failed = 0;
  const worst = (device, path) => (device === 29 && path < failed ? "failed" : "active");
  return on({ devices: 30, state: worst }, async (exporter, host) => {
    const page = await open(browser, exporter.url, { viewport: PHONE });
    await awaitText(page, "#live", "Live");
    const at = device => `[data-device="${host.wwid(device)}"]`;
    await page.type("#q", "half a na");
    await page.focus(`${at(20)} summary`);
    await page.keyboard.press("Enter");
    await page.waitForSelector(`${at(20)}[open]`);
    const place = () => page.$eval(at(20), fold => Math.round(fold.getBoundingClientRect().top));
    const before = await place();
    failed = 1;
    exporter.reread();
    await awaitText(page, "h1", "! 1 of 30 devices has failed paths");
    await page.waitForSelector(`${at(29)}[open]`);
    assert.equal(await page.$eval(at(20), fold => fold.open), true);
    assert.equal(await page.$eval(at(19), fold => fold.open), false);
    assert.equal(await page.evaluate(() => document.activeElement.closest("details")?.dataset.device), host.wwid(20));
    assert.equal(await page.$eval("#q", field => field.value), "half a na");
    const moved = Math.abs((await place()) - before);
    assert.ok(moved <= 2, `it moved by ${moved} pixels`);

    // A device that the reader has folded stays folded, even in trouble.
    await page.$eval(`${at(29)} summary`, summary => summary.click());
    await page.waitForSelector(`${at(29)}:not([open])`);
    await page.$eval(at(29), fold => (fold.old = true));
    failed = 2;
    exporter.reread();
    await page.waitForFunction(selector => !document.querySelector(selector).old, {}, at(29));
    assert.equal(await page.$eval(at(29), fold => fold.open), false);
    await page.close();
  });
});

test("what has not changed is left alone, and what is selected until it is no longer", () => {
  let failed = 1;
  const state = (device, path) => (path < failed && device < 2 ? "failed" : "active");
  return on({ devices: 3, state }, async (exporter, host) => {
    const page = await open(browser, exporter.url, { viewport: PHONE });
    await awaitText(page, "#live", "Live");
    const at = device => `[data-device="${host.wwid(device)}"]`;
    const scroll = device => `${at(device)} .scroll`;
    await page.$eval(`${at(2)} summary`, summary => summary.click());
    await page.$$eval(".scroll", all => all.forEach(one => (one.scrollLeft = 40)));
    await page.$$eval("details", all => all.forEach(one => (one.old = true)));
    await page.$eval(`${at(0)} .wwid`, wwid => getSelection().selectAllChildren(wwid));

    failed = 2;
    exporter.reread();
    await page.waitForFunction(selector => !document.querySelector(selector).old, {}, at(1));
    assert.equal(await page.$eval(scroll(1), table => table.scrollLeft), 40);
    assert.equal(await page.$eval(at(2), fold => fold.old && fold.open), true, "it had not changed");
    assert.equal(await page.$eval(scroll(2), table => table.scrollLeft), 40);
    assert.equal(await page.$eval(at(0), fold => fold.old), true, "it was selected");
    assert.equal(await page.evaluate(() => getSelection().toString()), host.wwid(0));

    await page.evaluate(() => getSelection().removeAllRanges());
    await page.waitForFunction(selector => !document.querySelector(selector).old, { timeout: 10000 }, at(0));
    assert.equal(await page.$eval(at(2), fold => fold.old), true);
    assert.deepEqual(page.wrong, []);
    await page.close();
  });
});

// Makes the page behave as if another tab were in front, or no longer in front.
const hide = (page, hidden) => page.evaluate(hidden => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
  document.dispatchEvent(new Event("visibilitychange"));
}, hidden);

test("tabs that nobody sees take no connection", () => {
  let failed = false;
  return on({ devices: 1, state: (_, path) => (failed && path === 0 ? "failed" : "active") }, async exporter => {
    const tabs = [];
    // One tab more than the browser has connections.
    for (let number = 0; number < 7; number++) {
      const page = await open(browser, exporter.url);
      await awaitText(page, "#live", "Live");
      await hide(page, true);
      tabs.push(page);
    }
    const [page] = tabs;
    failed = true;
    exporter.reread();
    await hide(page, false);
    await awaitText(page, "h1", /^! The only device has failed paths/);
    await awaitText(page, "#events", /sda failed/);
    failed = false;
    exporter.reread();
    await awaitText(page, "h1", /^✓/);
    await Promise.all(tabs.map(tab => tab.close()));
  });
});

test("a page that was translated is not loaded again", () =>
  on({ devices: 1 }, async exporter => {
    const page = await open(browser, exporter.url);
    await awaitText(page, "#live", "Live");
    await page.evaluate(() => {
      window.same = true;
      document.querySelector("footer h2").textContent = "Mehr";
    });
    for (let number = 0; number < 2; number++) {
      const read = page.waitForResponse(answer => answer.url() === `${exporter.url}/`);
      await hide(page, false);
      await (await read).text();
    }
    await sleep(500);
    assert.equal(await page.evaluate(() => window.same), true);
    assert.equal(await text(page, "footer h2"), "Mehr");
    await page.close();
  }));

test("another version is loaded, once at a time", () =>
  on({ devices: 1 }, async exporter => {
    const page = await browser.newPage();
    // Each response has another version.
    let version = 0;
    const loaded = [];
    await page.setRequestInterception(true);
    page.on("request", async request => {
      if (request.url() !== `${exporter.url}/`) return request.continue();
      if (request.resourceType() === "document") loaded.push(version);
      const answer = await fetch(request.url());
      const body = (await answer.text()).replace(/data-version="[^"]*"/, `data-version="${version++}"`);
      const headers = { "content-type": "text/html; charset=utf-8", "content-security-policy": answer.headers.get("content-security-policy") };
      await request.respond({ headers, body });
    });
    await page.goto(exporter.url);
    await page.waitForFunction(() => performance.getEntriesByType("navigation")[0].type === "reload", { timeout: 10000 });
    for (let number = 0; number < 3; number++) {
      await awaitText(page, "#live", "Live");
      const before = version;
      await hide(page, false);
      while (version === before) await sleep(50);
      await sleep(200);
    }
    assert.equal(loaded.length, 2);
    await page.close();
  }));

test("it tells when it is not connected, and comes back by itself", () =>
  on({ devices: 2 }, async exporter => {
    const page = await open(browser, exporter.url);
    await awaitText(page, "#live", "Live");
    await exporter.stop();
    await awaitText(page, "#live", /^Not connected, last update at \d\d:\d\d:\d\d UTC$/);
    assert.equal(await text(page, "h1"), "✓ All paths of 2 devices work");
    await exporter.startAgain();
    await awaitText(page, "#live", "Live");
    await page.close();
  }));

test("an exporter that is restarted before its first read is found again", () =>
  onUnread({ devices: 2 }, async (exporter, speak) => {
    const page = await open(browser, exporter.url);
    await awaitText(page, "#live", "Live");
    await awaitText(page, "h1", UNREAD);
    await page.evaluate(() => (window.same = true));
    await exporter.stop();
    await awaitText(page, "#live", /^Not connected/);
    // The page asks without success, and stays.
    await page.waitForRequest(request => request.resourceType() === "fetch", { timeout: 10000 });
    await awaitText(page, "h1", UNREAD);
    speak();
    await exporter.startAgain();
    await awaitText(page, "h1", "✓ All paths of 2 devices work");
    await awaitText(page, "#live", "Live");
    assert.equal(await page.$$eval("#devices details", folds => folds.length), 2);
    assert.equal(await page.evaluate(() => window.same), true, "it was loaded again");
    await page.close();
  }));

test("before the first read it asks often, and not while nobody sees it", () =>
  onUnread({ devices: 1 }, async (exporter, speak) => {
    const page = await open(browser, exporter.url);
    await awaitText(page, "#live", "Live");
    const asked = [];
    page.on("request", request => asked.push(request.url()));
    const reads = () => page.waitForRequest(`${exporter.url}/`, { timeout: 10000 });
    for (let number = 0; number < 2; number++) await reads();
    await hide(page, true);
    // Lets the requests pass that were already about to be sent.
    await sleep(1000);
    asked.length = 0;
    await sleep(4000);
    assert.deepEqual(asked, []);
    speak();
    await hide(page, false);
    await awaitText(page, "h1", "✓ All paths of the only device work");
    await page.close();
  }));

test("where there is no room for its stream it reads now and then", () =>
  on({ devices: 1 }, async exporter => {
    const all = new AbortController();
    // As many as one address may have.
    for (let number = 0; number < 16; number++) {
      const answer = await fetch(`${exporter.url}/api/v1/events`, { headers: { Accept: "text/event-stream" }, signal: all.signal });
      assert.equal(answer.status, 200);
    }
    const page = await open(browser, exporter.url);
    await awaitText(page, "#live", "Updated every 30 seconds");
    // The page asks again after longer and longer waits, and not while it is hidden.
    const asked = await page.evaluate(async () => {
      const waits = [];
      window.setTimeout = (again, wait) => void (wait > 10000 && waits.push(wait) && waits.length < 8 && again());
      document.dispatchEvent(new Event("visibilitychange"));
      const end = performance.now() + 10000;
      while (waits.length < 8 && performance.now() < end) await new Promise(requestAnimationFrame);
      return waits;
    });
    assert.equal(asked.length, 8);
    // The exporter may have refused the page before, or not yet.
    const first = asked[0] < 40000 ? 30000 : 60000;
    asked.forEach((wait, index) => {
      const middle = Math.min(first * 2 ** index, 300000);
      assert.ok(wait >= middle * 0.75 && wait <= middle * 1.25, `${asked}`);
    });
    await page.close();
    all.abort();
  }));

test("a storm of events neither keeps it from reading nor makes it read without a break", () =>
  on({ devices: 1 }, async exporter => {
    const page = await browser.newPage();
    await page.evaluateOnNewDocument(() => {
      window.EventSource = class {
        constructor() {
          setTimeout(() => this.onopen());
          setInterval(() => this.onmessage(), 20);
        }
      };
    });
    await page.goto(exporter.url);
    // This is sooner than the page's own interval.
    const reads = () => page.waitForRequest(request => request.resourceType() === "fetch", { timeout: 10000 });
    await reads();
    const first = performance.now();
    for (let number = 0; number < 3; number++) await reads();
    const took = performance.now() - first;
    assert.ok(took > 1900, `three times in ${took} ms`);
    await page.close();
  }));

test("with the keyboard alone", () =>
  on(HOSTS.degraded, async exporter => {
    const page = await open(browser, exporter.url);
    await awaitText(page, "#live", "Live");
    const focused = () => page.evaluate(() => {
      const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
      const element = document.activeElement;
      const name = element.getAttribute("aria-label") ?? element.innerText.replace(/\s+/g, " ").trim();
      return { tag: element.tagName, name, id: element.id, visible: outlineStyle !== "none" && parseFloat(outlineWidth) >= 2 };
    });
    const visited = [];
    for (;;) {
      await page.keyboard.press("Tab");
      const element = await focused();
      if (element.tag === "BODY") break;
      assert.ok(element.visible, `no outline: ${JSON.stringify(element)}`);
      visited.push(element);
      assert.ok(visited.length < 100, "no end");
    }
    const place = wanted => {
      const index = visited.findIndex(one => Object.entries(wanted).every(([key, value]) => one[key] === value));
      assert.ok(index >= 0, `${JSON.stringify(wanted)} in ${JSON.stringify(visited)}`);
      return index;
    };
    const order = [
      { tag: "A", name: "mpatha" }, { tag: "A", name: "Runbook: MultipathFaultyPaths" }, { id: "q" },
      { tag: "BUTTON", name: "Filter" }, { tag: "DIV", name: "Paths of mpatha" }, { tag: "DIV", name: "Paths of mpathb" },
      { tag: "A", name: "Metrics" },
    ].map(place);
    assert.deepEqual(order, [...order].sort((one, other) => one - other));
    assert.equal(visited.filter(one => one.tag === "SUMMARY").length, 6);

    await page.focus("#q");
    await page.keyboard.type("mpathf");
    await Promise.all([page.waitForNavigation(), page.keyboard.press("Enter")]);
    assert.match(page.url(), /\?q=mpathf$/);
    assert.deepEqual(await page.$$eval("details bdi", names => names.map(name => name.textContent)), ["mpathf"]);
    await page.focus("summary");
    await page.keyboard.press("Space");
    await page.waitForSelector("details:not([open])");
    await page.keyboard.press("Space");
    await page.waitForSelector("details[open]");
    await page.close();
  }));

test("without scripts", () =>
  on(HOSTS.dead, async exporter => {
    const page = await open(browser, exporter.url, { viewport: PHONE, scripts: false });
    assert.equal(await text(page, "h1"), SENTENCES.dead);
    assert.equal(await page.$eval("meta[http-equiv=refresh]", meta => meta.content), "30");
    assert.equal(await page.$$eval("details[open]", folds => folds.length), 6);
    await page.tap("summary");
    assert.equal(await page.$$eval("details[open]", folds => folds.length), 5);
    await page.type("#q", "MPATHD");
    await Promise.all([page.waitForNavigation(), page.tap("form button")]);
    assert.deepEqual(await page.$$eval("details bdi", names => names.map(name => name.textContent)), ["mpathd"]);
    assert.equal(await page.$eval("#q", field => field.value), "MPATHD");
    assert.deepEqual(page.wrong, []);
    await page.close();
  }));

test("a name is text, whatever it says", () => {
  const names = ["<script>alert(1)</script>", "a\nb", "\"><img src=x onerror=alert(2)>", "</style></title><b>", "\u202egnp.exe"];
  let failed = false;
  const state = (_, path) => (failed && path === 0 ? "failed" : "active");
  return on({ devices: names.length, names: device => names[device], state }, async exporter => {
    const page = await open(browser, exporter.url);
    await awaitText(page, "#live", "Live");
    failed = true;
    exporter.reread();
    await awaitText(page, "h1", "! 5 of 5 devices have failed paths");
    await awaitText(page, "#events", /failed/);
    const shown = names.map(name => name.replace(/[\n\u202e]/g, "\ufffd")).sort();
    assert.deepEqual((await page.$$eval("details bdi", all => all.map(name => name.textContent))).sort(), shown);
    assert.equal(await page.$$eval("script, img, main b b, main style", all => all.length), 1);
    await assertAccessible(page, "hostile names");
    assert.deepEqual(page.wrong, []);
    await page.close();
  });
});

test("1,000 devices of 8 paths stay usable", async t => {
  const state = (device, path) => (device % 100 === 7 && path % 2 === 0 ? "failed" : "active");
  await on({ devices: 1000, paths: 8, state }, async (exporter, host) => {
    const asked = performance.now();
    const page = await open(browser, exporter.url, { viewport: PHONE });
    t.diagnostic(`${(await page.content()).length} characters, there after ${Math.round(performance.now() - asked)} ms`);
    assert.equal(await text(page, "h1"), "! 10 of 1000 devices have failed paths");
    assert.equal(await text(page, "#verdict p"),
      "All paths of 990 other devices work. All 40 failed paths leave this host through 0x10000090fa000005.");
    assert.equal(await page.$$eval("details", folds => folds.length), 50);
    assert.equal(await page.$$eval("details[open]", folds => folds.length), 10);
    await assertFits(page, "1,000 devices");
    await assertAccessible(page, "1,000 devices");
    await Promise.all([page.waitForNavigation(), page.tap("a[rel=next]")]);
    assert.equal(await text(page, "nav span"), "Page 2 of 20");
    await page.$eval("#q", (field, value) => (field.value = value), host.wwid(777));
    await Promise.all([page.waitForNavigation(), page.tap("form button")]);
    assert.equal(await page.$$eval("details[open]", folds => folds.length), 1);
    assert.equal(await page.$$eval("details svg circle", paths => paths.length), 8);
    await page.close();
  });
});

test("in a text browser of 80 columns", () =>
  on(HOSTS.dead, async exporter => {
    const shown = execFileSync("w3m", ["-dump", "-cols", "80", "-T", "text/html", exporter.url], { encoding: "utf8" });
    const lines = shown.split("\n");
    assert.deepEqual(lines.filter(line => [...line].length > 80), []);
    const sentence = lines.findIndex(line => line.includes(SENTENCES.dead));
    assert.ok(sentence >= 0 && sentence < 10, shown);
    assert.match(shown, /sdm {2,}✕ FAILED .*0x10000090fa000005 0x201000a098aad1e3/);
  }));

test("the runbooks: accessible and in place, and in a text browser", () =>
  on(HOSTS.degraded, async exporter => {
    const names = ["", "MultipathFaultyPaths", "MultipathDeviceLost", "MultipathExporterDown"];
    for (const name of names) {
      const url = `${exporter.url}/runbooks/${name}`;
      for (const viewport of [DESK, PHONE])
        for (const scheme of ["light", "dark"]) {
          const page = await open(browser, url, { viewport, scheme });
          assert.equal(await text(page, "h1"), name || "Runbooks");
          const what = `${url}, ${scheme}, ${viewport.width} pixels`;
          await assertAccessible(page, what);
          await assertFits(page, what);
          assert.deepEqual(page.wrong, [], what);
          await page.close();
        }
      const shown = execFileSync("w3m", ["-dump", "-cols", "80", "-T", "text/html", url], { encoding: "utf8" });
      assert.ok(shown.split("\n").findIndex(line => line === (name || "Runbooks")) < 8, shown);
    }
    const page = await open(browser, exporter.url, { scripts: false });
    await Promise.all([page.waitForNavigation(), page.click(".findings .help")]);
    assert.equal(await text(page, "h1"), "MultipathFaultyPaths");
    await Promise.all([page.waitForNavigation(), page.click("nav a")]);
    assert.equal(await text(page, "h1"), SENTENCES.degraded);
    await page.close();
  }));

test("what happened last is found before many devices", () => {
  let failed = false;
  return on({ devices: 50, state: (device, path) => (failed && device === 4 && path === 1 ? "failed" : "active") },
    async exporter => {
      const page = await open(browser, exporter.url, { viewport: PHONE, scripts: false });
      assert.equal(await page.$("#newest a"), null);
      failed = true;
      exporter.reread();
      while ((await (await fetch(`${exporter.url}/api/v1/events`)).json()).events.length === 0) await sleep(50);
      const shown = execFileSync("w3m", ["-dump", "-cols", "80", "-T", "text/html", exporter.url], { encoding: "utf8" });
      const lines = shown.split("\n");
      const newest = lines.findIndex(line => /^Last event \d s ago\. mpathe: ✕ path sdr failed, 3 valid paths\./.test(line));
      assert.ok(newest >= 0 && newest < 12, shown);
      await page.reload();
      await Promise.all([page.waitForNavigation(), page.tap("#newest a")]);
      assert.match(page.url(), /#events$/);
      const top = await page.$eval("#events", section => section.getBoundingClientRect().top);
      assert.ok(Math.abs(top) < PHONE.height / 2, `${top}`);
      await page.close();
    });
});

// A host that has lost one of its two ports, and a device that had only paths over that port.
const LOST = {
  devices: 48,
  ports: ["Linkdown", "Online"],
  names: device => ["postgres", "mail", "backup"][device] ?? `vm${100 + device}`,
  state: (device, path) => (device === 1 || path % 2 === 0 ? "failed" : "active"),
};

test("pictures", { skip: !process.env.SCREENSHOTS }, () =>
  on(LOST, async exporter => {
    mkdirSync(process.env.SCREENSHOTS, { recursive: true });
    const pictures = [["status-page", { ...DESK, height: 828 }, "light"], ["status-page-phone", PHONE, "dark"]];
    for (const [name, viewport, scheme] of pictures) {
      const page = await open(browser, exporter.url, { viewport, scheme });
      await awaitText(page, "#live", "Live");
      await page.$eval("header b", element => (element.textContent = "db01"));
      await page.screenshot({ path: join(process.env.SCREENSHOTS, `${name}.png`) });
      await page.close();
    }
  }));
