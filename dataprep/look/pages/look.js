"use strict";
// Own script of the inspector: theme, tabs, token readout, keys. The page reads well without it.
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const store = {
    get(name) { try { return localStorage.getItem(name); } catch { return null; } },
    set(name, value) { try { localStorage.setItem(name, value); } catch { /* a file may not */ } },
  };

  // theme: as the system has it, unless chosen
  const isDark = () => root.dataset.theme
    ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const chosen = store.get("neva-prep-theme");
  if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;
  const switchTheme = () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    store.set("neva-prep-theme", root.dataset.theme);
  };

  // tabs of the file
  const select = (item, name) => {
    const tabs = all("[role=tab]", item);
    if (!tabs.some((tab) => tab.dataset.tab === name)) return;
    for (const tab of tabs) {
      const on = tab.dataset.tab === name;
      tab.setAttribute("aria-selected", String(on));
      tab.tabIndex = on ? 0 : -1;
    }
    for (const panel of all(".panel", item)) panel.hidden = panel.dataset.tab !== name;
  };
  const startTabs = () => {
    for (const item of all(".item:has([role=tab])")) {
      const tabs = all("[role=tab]", item);
      select(item, item.dataset.open || tabs[0].dataset.tab);
      item.addEventListener("click", (event) => {
        const tab = event.target.closest("[role=tab]");
        if (tab) select(item, tab.dataset.tab);
      });
      item.addEventListener("keydown", (event) => {
        const at = tabs.indexOf(event.target);
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (at < 0 || !step) return;
        const next = tabs[(at + step + tabs.length) % tabs.length];
        select(item, next.dataset.tab);
        next.focus();
        event.preventDefault();
      });
    }
  };

  // tokens: what stands under the pointer, or where the arrow keys are
  const part = (name, value) => {
    const span = document.createElement("span");
    const bold = document.createElement("b");
    bold.textContent = value;
    span.append(`${name} `, bold);
    return span;
  };
  const describe = (stream, token) => {
    for (const other of all(".k.on", stream)) other.classList.remove("on");
    token.classList.add("on");
    const run = token.closest(".run");
    const parts = [
      part("position", Number(stream.dataset.from) + all(".k", stream).indexOf(token)),
      part("id", token.dataset.i),
      part("piece", token.textContent),
      part("position_id", token.dataset.p),
      part("label", "l" in token.dataset ? `${token.dataset.l} ${token.dataset.y}` : "-100"),
      part(run.classList.contains("tr") ? "trained:" : "not trained:", run.dataset.rule),
    ];
    if ("t" in token.dataset) parts.splice(3, 0, part("text", JSON.stringify(token.dataset.t)));
    stream.nextElementSibling.replaceChildren(...parts);
  };
  const startTokens = () => {
    for (const stream of all(".stream")) {
      stream.addEventListener("pointerover", (event) => {
        const token = event.target.closest(".k");
        if (token) describe(stream, token);
      });
      stream.addEventListener("click", (event) => {
        const token = event.target.closest(".k");
        if (token) describe(stream, token);
      });
      stream.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 }[event.key];
        if (!step) return;
        const tokens = all(".k", stream);
        const at = tokens.findIndex((token) => token.classList.contains("on"));
        const next = at < 0 ? 0 : Math.min(Math.max(at + step, 0), tokens.length - 1);
        describe(stream, tokens[next]);
        tokens[next].scrollIntoView({ block: "nearest" });
        event.preventDefault();
        event.stopPropagation();
      });
    }
  };

  // keys: a page says with data-key which element a key follows, clicks or focuses
  const help = () => {
    const dialog = document.getElementById("help");
    if (dialog) { if (dialog.open) dialog.close(); else dialog.showModal(); }
  };
  const items = () => all("[data-item]");
  let at = -1;
  const go = (place) => {
    const list = items();
    if (!list.length) return;
    at = Math.min(Math.max(place, 0), list.length - 1);
    list.forEach((item, number) => item.classList.toggle("at", number === at));
    const target = list[at].matches("a") ? list[at] : list[at].querySelector("a, [tabindex]");
    (target || list[at]).focus({ preventScroll: true });
    list[at].scrollIntoView({ block: list[at].matches(".item") ? "start" : "nearest" });
  };
  const here = () => {
    const list = items();
    const focused = list.findIndex((item) => item.contains(document.activeElement));
    return focused >= 0 ? focused : at;
  };
  const columns = () => {
    const list = items();
    const top = list.length ? list[0].offsetTop : 0;
    return Math.max(list.filter((item) => item.offsetTop === top).length, 1);
  };
  const keys = {
    "?": help,
    t: switchTheme,
    j: () => go(here() + 1),
    k: () => go(here() - 1),
  };
  const arrows = {
    ArrowRight: () => go(here() + 1),
    ArrowLeft: () => go(here() - 1),
    ArrowDown: () => go(here() < 0 ? 0 : here() + columns()),
    ArrowUp: () => go(here() - columns()),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.closest("input:not([type=checkbox]), select, textarea");
    if (typing) {
      if (event.key === "Escape") typing.blur();
      return;
    }
    if (document.querySelector("dialog[open]") && event.key !== "?") return;
    const marked = all(`[data-key]`).find((one) => one.dataset.key.split(" ").includes(event.key));
    if (marked) {
      if (marked.matches("input")) { marked.focus(); marked.select(); } else marked.click();
    } else if (/^[1-5]$/.test(event.key) && document.querySelector("[role=tab]")) {
      const item = items()[Math.max(here(), 0)];
      const tab = item && all("[role=tab]", item).find((one) => one.dataset.digit === event.key);
      if (!tab) return;
      select(item, tab.dataset.tab);
      item.scrollIntoView({ block: "start" });
    } else if (keys[event.key]) keys[event.key]();
    else if (root.dataset.arrows !== undefined && arrows[event.key]) arrows[event.key]();
    else return;
    event.preventDefault();
  });

  // switches: shared by all token views of a page; the viewer keeps them in the address
  const startSwitches = () => {
    for (const box of all("[data-state]")) {
      box.addEventListener("change", () => {
        for (const other of all(`[data-state=${box.dataset.state}]`)) other.checked = box.checked;
        if (root.dataset.address === undefined) return;
        const url = new URL(location.href);
        if (box.checked) url.searchParams.set(box.dataset.state, "1");
        else url.searchParams.delete(box.dataset.state);
        history.replaceState(null, "", url);
      });
    }
  };

  document.addEventListener("DOMContentLoaded", () => {
    for (const button of all("[data-do=theme]")) button.addEventListener("click", switchTheme);
    for (const button of all("[data-do=help]")) button.addEventListener("click", help);
    if (matchMedia("(max-width: 64rem)").matches) {
      for (const list of all(".contents details")) list.open = false;
    }
    startTabs();
    startTokens();
    startSwitches();
    const marked = location.hash && document.getElementById(location.hash.slice(1));
    if (marked) at = items().indexOf(marked);
  });
})();
