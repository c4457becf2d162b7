"use strict";
// Keeps the page up to date. Fetches it again when an event arrives, and at intervals, and replaces
// the parts that change (data-live). Keeps what the reader has unfolded, focused, selected and
// scrolled to. A hidden page does nothing: a browser has six connections for all tabs with one
// exporter, and each stream takes one.
(() => {
  const POLL = 30000, UNREAD = 3000, SOON = 300, PAUSE = 1000, AFTERMATH = 2000, RELOAD = 60000, LONGEST = 300000;
  const status = document.getElementById("live");
  let last = new Date(), reachable = true, following = false, busy = false, again = false;
  let begun = 0, soon = 0, later = 0, events = null, failures = 0, retry = 0, held = false;

  // True before the first full read, which no event announces.
  const isUnread = page => page.documentElement.dataset.unread !== undefined;
  let unread = isUnread(document);

  const tell = () => {
    const time = last.toISOString().slice(11, 19);
    const [state, words] = !reachable ? ["lost", `Not connected, last update at ${time} UTC`]
      : following ? ["live", "Live"] : ["polling", `Updated every ${(unread ? UNREAD : POLL) / 1000} seconds`];
    status.dataset.state = state;
    // Screen readers announce each assignment, so this assigns only changes.
    if (status.textContent !== words) status.textContent = words;
  };

  // The key of an element, which is the same in the old and the new page.
  const key = element => [
    element?.closest("[data-live]")?.id, element?.tagName, element?.closest("[data-device]")?.dataset.device,
    element?.getAttribute("href"),
  ].join("\n");
  const device = name => document.querySelector(`[data-device="${CSS.escape(name)}"]`);

  // If the exporter's version changes, the whole page is loaded again. The time limit prevents a
  // loop if two exporters respond alternately.
  const version = page => page.documentElement.dataset.version;
  const VERSION = version(document);
  const reloaded = () =>
    performance.getEntriesByType("navigation")[0]?.type === "reload" && performance.now() < RELOAD;

  // The HTML of each part and device as the exporter sent it. Comparing with this ignores changes
  // by the reader or by browser extensions.
  const sent = new WeakMap();
  const devices = part => [...part.querySelectorAll("[data-device]")];
  const note = part => { for (const one of [part, ...devices(part)]) sent.set(one, one.outerHTML); };
  for (const part of document.querySelectorAll("[data-live]")) note(part);

  const find = name =>
    [...document.querySelectorAll("[data-live] :is(a, summary, [tabindex])")].find(one => key(one) === name);
  const selected = element => !getSelection().isCollapsed && getSelection().containsNode(element, true);

  const replace = (old, fresh, put) => {
    if (selected(old)) return void (held = true);
    for (const fold of [old, ...devices(old)]) {
      // The reader has folded or unfolded it, so it stays as it is.
      if (fold.open === undefined || fold.open === fold.hasAttribute("data-open")) continue;
      const now = [fresh, ...devices(fresh)].find(one => one.dataset.device === fold.dataset.device);
      if (now) now.open = fold.open;
    }
    const aside = [...old.querySelectorAll(".scroll")].map(table => [key(table), table.scrollLeft]);
    put();
    for (const [name, left] of aside) if (left > 0 && find(name)) find(name).scrollLeft = left;
  };

  // Replaces devices one by one if they are in the same order, otherwise all together.
  const order = part => [...part.children].map(one => one.dataset.device ?? one.tagName).join("\n");
  const put = (old, fresh) => {
    note(fresh);
    if (devices(old).length > 0 && order(old) === order(fresh)) {
      sent.delete(old);
      const now = [...fresh.children];
      [...old.children].forEach((one, index) => {
        const same = (sent.get(one) ?? one.outerHTML) === (sent.get(now[index]) ?? now[index].outerHTML);
        if (!same) replace(one, now[index], () => one.replaceWith(now[index]));
      });
    } else if (sent.get(old) !== sent.get(fresh)) {
      replace(old, fresh, () => {
        sent.set(old, sent.get(fresh));
        old.className = fresh.className;
        old.replaceChildren(...fresh.childNodes);
      });
    }
  };

  // Adds the section of devices with the first device, and removes it with the last.
  const appear = fresh => {
    const [old, now] = [document, fresh].map(page => page.getElementById("devices"));
    if (old && !now) old.parentElement.remove();
    if (old || !now) return;
    note(now);
    document.getElementById("events").before(now.parentElement);
  };

  const show = fresh => {
    if (version(fresh) !== VERSION && !reloaded()) return location.reload();
    unread = isUnread(fresh);
    const focused = document.activeElement?.closest("[data-live]") && document.activeElement;
    const name = key(focused);
    const seen = scrollY > 0 && [...document.querySelectorAll("[data-device]")]
      .find(fold => fold === focused?.closest("[data-device]") || fold.getBoundingClientRect().bottom > 0);
    const top = seen && seen.getBoundingClientRect().top;
    held = false;
    for (const old of document.querySelectorAll("[data-live]")) {
      const now = fresh.getElementById(old.id);
      if (now) put(old, now);
    }
    appear(fresh);
    document.title = fresh.title;
    if (focused && !focused.isConnected) {
      find(name)?.focus({ preventScroll: true });
    }
    const now = seen && device(seen.dataset.device);
    if (now) scrollBy(0, now.getBoundingClientRect().top - top);
  };

  const refresh = async () => {
    if (document.hidden) return;
    if (busy) return void (again = true);
    busy = true;
    begun = Date.now();
    try {
      const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(10000) });
      if (!answer.ok) throw new Error(answer.status);
      show(new DOMParser().parseFromString(await answer.text(), "text/html"));
      last = new Date();
      reachable = true;
    } catch {
      reachable = false;
    }
    busy = false;
    tell();
    if (again) {
      again = false;
      refreshSoon();
    }
  };

  // Fetches the page once for events that arrive together, and with pauses during a storm.
  const refreshSoon = () => {
    soon ||= setTimeout(() => {
      soon = 0;
      refresh();
    }, Math.max(SOON, begun + PAUSE - Date.now()));
  };

  // Fetches the page a second time, after multipathd has reacted to the event.
  const news = () => {
    refreshSoon();
    clearTimeout(later);
    later = setTimeout(refreshSoon, AFTERMATH);
  };

  const follow = () => {
    events = new EventSource("/api/v1/events");
    events.onopen = () => {
      following = true;
      failures = 0;
      refresh();
    };
    events.onmessage = news;
    events.onerror = () => {
      const refused = events.readyState === EventSource.CLOSED;
      // Streams end regularly, and the browser reconnects. This is reported only if that fails.
      if (refused || failures > 0) following = false;
      failures++;
      if (!refused) return refreshSoon();
      retry = setTimeout(follow, Math.min(POLL * 2 ** (failures - 1), LONGEST) * (0.75 + Math.random() / 2));
      if (Date.now() - begun > POLL) refresh();
      else tell();
    };
  };

  // The start of the stream, or its refusal, fetches the page with what happened in the meantime.
  const look = () => {
    clearTimeout(retry);
    events?.close();
    begun = 0;
    if (!document.hidden) follow();
  };

  setInterval(refresh, POLL);
  setInterval(() => unread && refresh(), UNREAD);
  // Updates that were held back because of a selection.
  document.addEventListener("selectionchange", () => {
    if (held && getSelection().isCollapsed) refreshSoon();
  });
  document.addEventListener("visibilitychange", look);
  tell();
  look();
})();
