// Loads the page again while a run is watched, and replaces what has changed. Every page works without this file.
"use strict";
(() => {
  let tag = null;
  const find = (selector) => document.querySelector(selector);
  const busy = () => find("main").querySelector("input:focus, select:focus, .token:focus") || getSelection().toString();

  function replace(page) {
    const opened = [...find("main").querySelectorAll("details")].map((one) => one.open);
    const focused = document.activeElement?.closest("main") ? document.activeElement.getAttribute("href") : null;
    const main = document.adoptNode(page.querySelector("main"));
    main.querySelectorAll("details").forEach((one, i) => { one.open = opened[i] ?? one.open; });
    const top = window.scrollY;
    find("main").replaceWith(main);
    window.scrollTo(0, top);
    if (focused) main.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  }

  async function look() {
    try {
      const response = await fetch(location.href, { headers: tag ? { "If-None-Match": tag } : {} });
      if (response.redirected || response.status === 403) return location.reload();
      if (response.ok) {
        tag = response.headers.get("etag");
        const page = new DOMParser().parseFromString(await response.text(), "text/html");
        if (!busy()) replace(page);
        else tag = null; // once more when nobody reads or types there
      }
      find("#announced").textContent = "";
    } catch {
      find("#announced").textContent = "The server does not answer; the page shows the last state.";
    }
  }

  async function watch() {
    for (;;) {
      const seconds = Number(find("main").dataset.refresh);
      if (!seconds) return; // the page of a problem
      await new Promise((done) => setTimeout(done, 1000 * seconds));
      if (!document.hidden) await look();
    }
  }
  watch();
})();
