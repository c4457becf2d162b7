// A browser, and the checks of every page in it.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import puppeteer from "puppeteer-core";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

export const DESK = { width: 1100, height: 900 };
export const PHONE = { width: 375, height: 812, deviceScaleFactor: 2, isMobile: true, hasTouch: true };

export const launch = () => puppeteer.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  // Chromium's sandbox does not work for root.
  args: process.getuid() === 0 ? ["--no-sandbox"] : [],
});

// Opens a page that records everything that goes wrong in it. `before` runs in it before its own
// script.
export async function open(browser, url, { viewport = DESK, scheme = "light", scripts = true, before } = {}) {
  const page = await browser.newPage();
  page.wrong = [];
  page.on("console", message => message.type() === "error" && page.wrong.push(message.text()));
  page.on("pageerror", error => page.wrong.push(error.message));
  page.on("dialog", dialog => {
    page.wrong.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on("request", request => request.url().startsWith(new URL(url).origin) || page.wrong.push(request.url()));
  await page.setJavaScriptEnabled(scripts);
  await page.setViewport(viewport);
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
  if (before) await page.evaluateOnNewDocument(before);
  await page.goto(url, { waitUntil: "domcontentloaded" });
  return page;
}

export const text = (page, selector) => page.$eval(selector, element => element.innerText.replace(/\s+/g, " ").trim());

// Waits until the text of an element equals or matches `wanted`.
export const awaitText = (page, selector, wanted) => page.waitForFunction(
  (selector, source) => new RegExp(source).test(document.querySelector(selector)?.innerText.replace(/\s+/g, " ").trim()),
  { polling: "mutation" }, selector,
  wanted instanceof RegExp ? wanted.source : `^${wanted.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}$`,
);

export async function assertAccessible(page, what) {
  // Runs like a command in a developer's console, because the page's policy does not matter here.
  await page.evaluate(axe);
  const { violations, passes } = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
  const told = violations.map(one => `${one.impact} ${one.id}: ${one.nodes.map(node => node.html).slice(0, 3).join(" ")}`);
  assert.deepEqual(told, [], what);
  assert.ok(passes.length > 20, `${what}: axe looked at nothing`);
}

export async function assertFits(page, what) {
  const content = await page.evaluate(() => document.documentElement.scrollWidth);
  const { width } = page.viewport();
  assert.ok(content <= width, `${what}: ${content} pixels wide on ${width}`);
}
