// Start the console: the pages, the token, the theme, and the live values that all pages share.

import { events, get, hasToken, setToken } from "./api.js";
import { Backbones } from "./backbones.js";
import { Load } from "./load.js";
import { EmbeddingMap } from "./map.js";
import { Playground } from "./playground.js";

const RETRY_MS = 3000;
const byId = (id) => document.getElementById(id);
const load = new Load(byId("load"));
const map = new EmbeddingMap(byId("map"));
const playground = new Playground(byId("playground"), (items) => {
  location.hash = "#/map";
  map.draw(items);
});
const pages = { load, backbones: new Backbones(byId("backbones"), byId("confirm-dialog")), playground, map };
let stream = new AbortController();

function openPage() {
  const name = location.hash.slice(2) in pages ? location.hash.slice(2) : "load";
  for (const id of Object.keys(pages)) byId(id).hidden = id !== name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#/${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${name[0].toUpperCase()}${name.slice(1)} · Midrib console`;
  pages[name].opened?.();
}

function setConnection(text, kind) {
  const pill = byId("connection");
  pill.className = `pill ${kind}`;
  if (pill.textContent !== text) pill.textContent = text;
}

async function start() {
  stream.abort();
  stream = new AbortController();
  const { signal } = stream;
  while (!signal.aborted) {
    try {
      const session = await get("api/session");
      byId("account").textContent = session.token ?? (hasToken() ? "Token" : "No token");
      for (const page of Object.values(pages)) page.setSession?.(session);
      for await (const overview of events("api/events", signal)) {
        setConnection(overview.ready ? "live" : "not ready", overview.ready ? "good" : "warn");
        for (const page of Object.values(pages)) page.update?.(overview);
      }
    } catch (error) {
      if (signal.aborted) return;
      setConnection(error.status === 401 ? "token needed" : "no connection", "bad");
      for (const page of Object.values(pages)) page.fail?.(error);
      if (error.status === 401 || error.status === 403) return;
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

function askForToken(reason) {
  if (reason) byId("token-reason").textContent = reason;
  if (!byId("token-dialog").open) byId("token-dialog").showModal();
}

byId("token-dialog").addEventListener("close", () => {
  const { returnValue } = byId("token-dialog");
  if (returnValue === "save") setToken(byId("token").value);
  if (returnValue === "forget") setToken("");
  byId("token").value = "";
  byId("token-dialog").returnValue = "";
  if (returnValue === "save" || returnValue === "forget") start();
});
byId("account").addEventListener("click", () => askForToken(""));
document.addEventListener("token-needed", (event) => askForToken(event.detail));

const dark = matchMedia("(prefers-color-scheme: dark)");
function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  byId("theme").textContent = theme === "dark" ? "Light" : "Dark";
  for (const page of Object.values(pages)) page.themeChanged?.();
}
byId("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));
setTheme(dark.matches ? "dark" : "light");
addEventListener("hashchange", openPage);
openPage();
start();
