// Keys, the next pair in advance, and the time that somebody works on a pair. Every page works without this file.
"use strict";
(() => {
  const IDLE = 30_000; // milliseconds without a sign of life after which the timer pauses
  const SETTLE = 250; // milliseconds in which a new pair takes no answer by key: nobody has read it yet
  const TRIES = 4; // a request that gets no response is sent again; its uuid makes it count once
  const KEYS = {
    ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie", b: "both_bad", s: "skip",
  };
  let shown, active, last, sign, busy, next;

  const find = (selector) => document.querySelector(selector);
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));

  // The time that somebody works: until the last sign of life, without pauses.
  function tick() {
    const now = performance.now();
    const paused = document.hidden || now - sign > IDLE;
    if (!paused) active += now - last;
    last = now;
    const timer = find("#timer");
    if (timer) timer.textContent = paused ? "Timer paused" : "";
  }
  function alive() {
    tick();
    sign = performance.now();
    tick();
  }

  function begin() {
    shown = last = sign = performance.now();
    active = 0;
    busy = false;
    next = null;
    const form = find("#vote");
    if (form?.dataset.next) next = load(form.dataset.next).catch(() => null);
  }

  async function load(path) {
    const response = await fetch(path, { headers: { Accept: "text/html" } });
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    return response.ok && page.querySelector("#vote") ? page : null;
  }

  async function send(body) {
    for (let attempt = 1; ; attempt++) {
      try {
        return await fetch("/vote", { method: "POST", body, headers: { Accept: "application/json" }, keepalive: true });
      } catch (error) {
        if (attempt === TRIES) throw error;
        say("Not saved yet: trying again", true);
        await wait(500 * attempt);
      }
    }
  }

  function say(words, problem = false) {
    const saved = find("#saved");
    saved.textContent = words;
    saved.classList.toggle("problem", problem);
    find("#announced").textContent = words; // outside of what is replaced: screen readers announce its changes
  }

  function show(page) {
    find("main").replaceWith(document.adoptNode(page.querySelector("main")));
    document.title = page.title;
    find("#announced").textContent = `Saved. ${find("#progress")?.textContent ?? ""}`;
    window.scrollTo(0, 0);
    find("h1").focus({ preventScroll: true });
    begin();
  }

  async function vote(answer) {
    const form = find("#vote");
    if (busy) return;
    busy = true;
    tick();
    form.elements.active_ms.value = Math.round(active);
    form.elements.wall_ms.value = Math.round(performance.now() - shown);
    const body = new URLSearchParams(new FormData(form));
    body.set("answer", answer);
    mark(answer, true);
    let response;
    try {
      response = await send(body);
    } catch {
      mark(answer, false);
      say("Not saved: the server does not answer. Answer again to retry.", true);
      busy = false;
      return;
    }
    if (!response.ok) return location.assign("/compare"); // answered elsewhere, or signed out: begin anew
    // A skipped pair does not count as answered, so the page that was fetched in advance has the wrong number.
    const page = (answer === "skip" ? null : await next) ?? (await load("/compare").catch(() => null));
    if (page) show(page);
    else location.assign("/compare");
  }

  function mark(answer, chosen) {
    find(`#${answer.split("-")[0]}.card`)?.classList.toggle("chosen", chosen);
  }

  document.addEventListener("submit", (event) => {
    if (event.target.id !== "vote" || !event.submitter) return;
    event.preventDefault();
    vote(event.submitter.value);
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
    if (event.target.closest("input, textarea, select")) return;
    const help = find("#help");
    if (event.key === "?" && help) return help.togglePopover();
    if (!find("#vote") || help.matches(":popover-open")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (!(key in KEYS) && key !== "z") return;
    event.preventDefault(); // the arrow down would scroll
    if (event.repeat || busy || performance.now() - shown < SETTLE) return;
    if (key === "z") return find("[form=undo]:enabled")?.click();
    const strong = event.shiftKey && /^Arrow(Left|Right)$/.test(key);
    vote(KEYS[key] + (strong ? "-strong" : ""));
  });

  for (const kind of ["keydown", "pointerdown", "pointermove", "wheel", "scroll", "touchstart"])
    document.addEventListener(kind, alive, { passive: true, capture: true });
  document.addEventListener("visibilitychange", alive);

  // Pages that show what others do are loaded again while they can be seen.
  async function refresh() {
    const seconds = Number(find("[data-refresh]")?.dataset.refresh);
    if (!seconds) return;
    await wait(1000 * seconds);
    if (!document.hidden) {
      const response = await fetch(location.href).catch(() => null);
      if (response?.redirected) return location.reload();
      if (response?.ok) {
        const page = new DOMParser().parseFromString(await response.text(), "text/html");
        find("main").replaceWith(document.adoptNode(page.querySelector("main")));
      }
    }
    refresh();
  }

  if (find("#vote")) {
    begin();
    setInterval(tick, 1000);
  }
  refresh();
})();
