// Sends forms without leaving the page, shows answers as they come, and moves between tokens with the arrow keys.
// Every page works without this file.
"use strict";
(() => {
  let tag = null, timer = null;
  const find = (selector, within = document) => within.querySelector(selector);
  const say = (words) => { find("#announced").textContent = words; };

  // Parts that have changed are replaced one by one, so that what is read or typed elsewhere stays as it is.
  const plain = (element) => {
    const copy = element.cloneNode(true);
    copy.querySelectorAll("details").forEach((one) => one.removeAttribute("open"));
    copy.querySelectorAll(".token").forEach((one) => one.setAttribute("tabindex", "0"));
    copy.querySelectorAll(".form-problem").forEach((one) => { one.textContent = ""; });
    return copy.innerHTML;
  };

  function update(page) {
    find("main").dataset.refresh = find("main", page).dataset.refresh;
    for (const selector of ["#state", ".top nav"]) {
      if (plain(find(selector)) !== plain(find(selector, page))) find(selector).replaceWith(document.adoptNode(find(selector, page)));
    }
    const history = find("#history"), fresh = [...find("#history", page).children].map((one) => document.adoptNode(one));
    const known = new Map([...history.children].filter((one) => one.id).map((one) => [one.id, one]));
    const now = fresh.map((one) => {
      const old = known.get(one.id);
      if (old && plain(old) === plain(one)) return old;
      const answered = one.querySelectorAll(".answer-of").length;
      if (old && answered > old.querySelectorAll(".answer-of").length) say("There are new answers.");
      one.querySelectorAll(".tokens").forEach(rove);
      return one;
    });
    for (const one of [...history.children]) if (!now.includes(one)) one.remove();
    now.forEach((one, i) => { if (history.children[i] !== one) history.insertBefore(one, history.children[i] || null); });
    const help = find("#prompt-help", page), choices = find(".picking", page);
    if (choices && !find(".picking")) find("#prompt-help").after(document.adoptNode(choices));
    if (help && help.textContent !== find("#prompt-help").textContent) {
      find("#prompt-help").replaceWith(document.adoptNode(help));
      find(".ask.card > label").textContent = find(".ask.card > label", page).textContent;
      find("#prompt").placeholder = find("#prompt", page).placeholder;
    }
  }

  async function look() {
    clearTimeout(timer);
    try {
      const response = await fetch(location.pathname + location.search, { headers: tag ? { "If-None-Match": tag } : {} });
      if (response.status === 403) return location.reload();
      if (response.ok) {
        tag = response.headers.get("etag");
        update(new DOMParser().parseFromString(await response.text(), "text/html"));
      }
      if (find("#announced").textContent.startsWith("The server")) say("");
    } catch {
      say("The server does not answer; the page shows the last state.");
    }
    timer = setTimeout(() => (document.hidden ? wait() : look()), 1000 * Number(find("main").dataset.refresh));
  }
  const wait = () => document.addEventListener("visibilitychange", look, { once: true });

  document.addEventListener("submit", async (event) => {
    const form = event.target;
    event.preventDefault();
    const problem = find(".form-problem", form), buttons = form.querySelectorAll("button");
    buttons.forEach((one) => { one.disabled = true; });
    try {
      const response = await fetch(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)) });
      const text = await response.text();
      if (response.ok) {
        if (problem) problem.textContent = "";
        if (form.matches(".reply")) form.reset();
        if (location.search) return location.assign("/"); // the newest are on the first page
      } else if (problem) {
        const lead = find(".lead", new DOMParser().parseFromString(text, "text/html"));
        problem.textContent = lead ? lead.textContent : text;
      }
    } catch {
      if (problem) problem.textContent = "The server does not answer. Nothing was sent.";
    } finally {
      buttons.forEach((one) => { one.disabled = false; });
    }
    await look();
  });

  document.addEventListener("input", (event) => {
    const picked = find("#picked");
    if (event.target.id === "prompt" && picked) picked.value = "";
    if (event.target === picked && picked.value) find("#prompt").value = "";
  });

  // One token of each answer is reached with Tab, and the others from there.
  function rove(tokens) {
    tokens.querySelectorAll(".token").forEach((one, i) => { one.tabIndex = i ? -1 : 0; });
  }

  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.matches("textarea")) {
      event.preventDefault();
      return event.target.form.requestSubmit();
    }
    if (!event.target.matches(".token") || event.ctrlKey || event.altKey || event.metaKey) return;
    const all = [...event.target.closest(".tokens").querySelectorAll(".token")], at = all.indexOf(event.target);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (event.key === "Escape") return event.target.blur();
    if (to === undefined || !all[to]) return;
    event.preventDefault();
    event.target.tabIndex = -1;
    all[to].tabIndex = 0;
    all[to].focus();
  });

  document.querySelectorAll(".tokens").forEach(rove);
  look();
})();
