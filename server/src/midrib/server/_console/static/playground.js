// Send texts or pictures, and see which of them are near each other.

import { embed, hasToken } from "./api.js";
import { empty, h, problem, show, table } from "./dom.js";
import { Items } from "./items.js";
import { snippets } from "./snippets.js";
import { nearest } from "./vectors.js";

const NEAREST = 3;
const MAX_ITEMS = 200;

export class Playground {
  #items = new Items("playground", () => this.#showSnippet());
  #result = h("div", { ariaLive: "polite" }, empty("Nothing was sent yet."));
  #button = h("button", { type: "submit", className: "primary", id: "embed" }, "Embed");
  #code = h("code", {});
  #tabs;
  #language = "curl";
  #showOnMap;

  /** showOnMap: called with the items and their vectors. */
  constructor(root, showOnMap) {
    this.#showOnMap = showOnMap;
    this.#tabs = ["curl", "Python", "TypeScript"].map((language) =>
      h("button", { type: "button", onclick: () => this.#choose(language) }, language));
    const copy = h("button", { type: "button", className: "quiet", onclick: () => this.#copy(copy) }, "Copy");
    const form = h("form", { className: "panel", onsubmit: (event) => this.#embed(event) },
      h("h2", {}, "Input"), this.#items.element, h("p", { className: "actions" }, this.#button));
    root.append(
      h("h1", { id: "playground-title" }, "Playground"),
      h("p", { className: "lead" }, "Send texts or pictures to a backbone, and see which of them it finds similar."),
      h("div", { className: "columns" }, form,
        h("div", { className: "panel" }, h("h2", {}, "The same call elsewhere"),
          h("div", { className: "actions" }, ...this.#tabs, copy), h("pre", { tabIndex: 0 }, this.#code),
          h("p", { className: "soft small" }, "OpenAI's packages work too: their base URL is this server's address and /v1."))),
      h("div", { className: "panel" }, h("h2", {}, "Nearest to each"), this.#result));
    this.#choose("curl");
  }

  update(overview) {
    this.#items.update(overview);
  }

  setSession() {
    this.#showSnippet();
  }

  #choose(language) {
    this.#language = language;
    for (const tab of this.#tabs) tab.ariaPressed = String(tab.textContent === language);
    this.#showSnippet();
  }

  #showSnippet() {
    const { backbone, media, values } = this.#items;
    const url = new URL("..", location.href).href.replace(/\/$/, "");
    const call = { url, model: backbone || "NAME", media, inputs: values.map((item) => item.value), token: hasToken() };
    this.#code.textContent = snippets(call)[this.#language];
  }

  async #copy(button) {
    try {
      await navigator.clipboard.writeText(this.#code.textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Select it and copy"; // without HTTPS there is no clipboard
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  }

  async #embed(event) {
    event.preventDefault();
    const items = this.#items.values;
    if (!items.length || items.length > MAX_ITEMS) {
      show(this.#result, problem(items.length ? `${items.length} items were given, at most ${MAX_ITEMS} are compared here: use the map` : "There is nothing to embed: type a text, or choose a picture."));
      return;
    }
    this.#button.disabled = true;
    show(this.#result, h("p", { className: "soft" }, "Embedding …"));
    try {
      const answer = await embed(this.#items.backbone, items.map((item) => item.value));
      this.#showAnswer(items, answer);
    } catch (error) {
      show(this.#result, problem(error));
    }
    this.#button.disabled = false;
  }

  #showAnswer(items, { rows, seconds, revision, tokens }) {
    const parts = [`${rows.length} × ${rows[0].length} numbers`, `${(seconds * 1e3).toFixed(0)} ms`, tokens ? `${tokens} tokens` : "", `revision ${revision.slice(0, 12)}`];
    const label = (item) => (item.picture ? h("img", { src: item.picture, alt: item.label, title: item.label }) : item.label);
    const lines = nearest(rows, NEAREST).map((near, index) => [
      label(items[index]),
      near.length ? h("div", {}, near.map(({ index: other, cosine }) =>
        h("div", {}, h("meter", { min: 0, max: 1, value: Math.max(0, cosine), title: "cosine" }), ` ${cosine.toFixed(3)} `, label(items[other])))) : "send more than one"]);
    show(this.#result,
      h("p", { className: "soft" }, parts.filter(Boolean).join(" · ")),
      table([["sent"], [`nearest, by cosine`]], lines),
      h("p", { className: "actions" }, h("button", { type: "button", onclick: () => this.#showOnMap(items.map((item, index) => ({ ...item, row: rows[index] }))) }, "Show on the map")));
  }
}
