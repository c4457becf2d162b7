"use strict";
// Keeps the page up to date: fetches it again when an event comes, and now and then without one, and puts the parts that
// change (data-live) in place of the old ones. What the reader has unfolded, focused, selected and scrolled to
// stays. A page that nobody sees does nothing: a browser has six connections for all tabs with one exporter, and each stream takes one.
(() => {
  const POLL = 30000, UNREAD = 3000, SOON = 300, PAUSE = 1000, AFTERMATH = 2000, RELOAD = 60000, LONGEST = 300000;
  const status = document.getElementById("live");
  let last = new Date(), reachable = true, following = false, busy = false, again = false;
  let begun = 0, soon = 0, later = 0, events = null, failures = 0, retry = 0, held = false;

  // Before the first full read, of which no event tells.
  const isUnread = page => page.documentElement.dataset.unread !== undefined;
  let unread = isUnread(document);

  const tell = () => {
    const time = last.toISOString().slice(11, 19);
    const [state, words] = !reachable ? ["lost", `Not connected, last update at ${time} UTC`]
      : following ? ["live", "Live"] : ["polling", `Read again every ${(unread ? UNREAD : POLL) / 1000} seconds`];
    status.dataset.state = state;
    // Set only if it changes: each time it is read out.
    if (status.textContent !== words) status.textContent = words;
  };

  // What an element is called in the old page and in the new one.
  const key = element => [
    element?.closest("[data-live]")?.id, element?.tagName, element?.closest("[data-device]")?.dataset.device,
    element?.getAttribute("href"),
  ].join("\n");
  const device = name => document.querySelector(`[data-device="${CSS.escape(name)}"]`);

  // Another version of the exporter: the page as a whole. Once at a time, should it come from two exporters in turns.
  const version = page => page.documentElement.dataset.version;
  const VERSION = version(document);
  const reloaded = () =>
    performance.getEntriesByType("navigation")[0]?.type === "reload" && performance.now() < RELOAD;

  // What was sent of each part and of each device: what has been made of it since, by the reader or by others, is no news.
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
      // Folded or unfolded by hand: so it stays.
      if (fold.open === undefined || fold.open === fold.hasAttribute("data-open")) continue;
      const now = [fresh, ...devices(fresh)].find(one => one.dataset.device === fold.dataset.device);
      if (now) now.open = fold.open;
    }
    const aside = [...old.querySelectorAll(".scroll")].map(table => [key(table), table.scrollLeft]);
    put();
    for (const [name, left] of aside) if (left > 0 && find(name)) find(name).scrollLeft = left;
  };

  // The same devices in the same order: one by one. Otherwise as a whole.
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

  // The devices come with the first of them, and go with the last.
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

  // Once for all that comes at a time, and in a storm with pauses.
  const refreshSoon = () => {
    soon ||= setTimeout(() => {
      soon = 0;
      refresh();
    }, Math.max(SOON, begun + PAUSE - Date.now()));
  };

  // And again when multipathd has had its say.
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
      // Streams end now and then, and the browser comes back by itself: no news unless it fails to.
      if (refused || failures > 0) following = false;
      failures++;
      if (!refused) return refreshSoon();
      retry = setTimeout(follow, Math.min(POLL * 2 ** (failures - 1), LONGEST) * (0.75 + Math.random() / 2));
      if (Date.now() - begun > POLL) refresh();
      else tell();
    };
  };

  // The stream's beginning, or its refusal, brings what has happened meanwhile.
  const look = () => {
    clearTimeout(retry);
    events?.close();
    begun = 0;
    if (!document.hidden) follow();
  };

  setInterval(refresh, POLL);
  setInterval(() => unread && refresh(), UNREAD);
  // What was kept back for a selection.
  document.addEventListener("selectionchange", () => {
    if (held && getSelection().isCollapsed) refreshSoon();
  });
  document.addEventListener("visibilitychange", look);
  tell();
  look();
})();
