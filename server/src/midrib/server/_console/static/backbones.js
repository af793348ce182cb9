// Which backbones are served: look, load with a dry run, unload.

import { get, post } from "./api.js";
import { bytes, count, empty, h, problem, show, table } from "./dom.js";
import { stateOf } from "./load.js";

export class Backbones {
  #confirm;
  #served = h("div", {}, empty("Waiting for the server."));
  #result = h("div", { ariaLive: "polite" });
  #notice = h("div", {});
  #names = h("datalist", { id: "registered" });
  #arguments = h("div", { className: "fields" });
  #name = h("input", { id: "load-name", required: true, autocomplete: "off", spellcheck: false, oninput: () => this.#showArguments() });
  #pinned = h("input", { type: "checkbox", id: "pinned" });
  #replace = h("input", { type: "checkbox", id: "replace" });
  #buttons = [
    h("button", { type: "submit", value: "plan", id: "dry-run" }, "Dry run"),
    h("button", { type: "submit", value: "load", id: "load-now", className: "primary" }, "Load"),
  ];
  #registered = new Map();
  #shown = "";
  #mayChange = false;

  constructor(root, confirm) {
    this.#confirm = confirm;
    this.#name.setAttribute("list", "registered");
    const form = h("form", { onsubmit: (event) => this.#submit(event) },
      h("div", { className: "fields" }, h("div", {}, h("label", { htmlFor: "load-name" }, "Registered name"), this.#name, this.#names)),
      this.#arguments,
      h("label", { className: "inline" }, this.#pinned, "never unload it to make room"),
      h("label", { className: "inline" }, this.#replace, "replace other arguments for every client"),
      h("p", { className: "actions" }, ...this.#buttons));
    root.append(
      h("h1", { id: "backbones-title" }, "Backbones"),
      h("p", { className: "lead" }, "A dry run loads the weights and discards them: it says whether they fit, and what would be unloaded."),
      this.#notice,
      h("div", { className: "panel" }, h("h2", {}, "Served"), this.#served),
      h("div", { className: "panel" }, h("h2", {}, "Load"), form, this.#result));
  }

  async setSession(session) {
    this.#mayChange = session.may_change;
    for (const button of this.#buttons) button.disabled = !session.may_change;
    show(this.#notice, session.may_change ? "" : h("p", { className: "notice" },
      "Loading and unloading need `admin = true` in the settings of the server, and a token with the scope admin."));
    try {
      const { registered } = await get("api/registered");
      this.#registered = new Map(registered.map((entry) => [entry.name, entry.arguments]));
      show(this.#names, ...registered.map((entry) => h("option", { value: entry.name })));
    } catch (error) {
      show(this.#notice, problem(error));
    }
  }

  update({ backbones }) {
    const shown = JSON.stringify([this.#mayChange, backbones.map((b) => [b.name, b.state, b.error, b.revision, b.workers])]);
    if (shown === this.#shown) return; // the focus stays on a button
    this.#shown = shown;
    const rows = backbones.map((b) => [
      h("span", {}, b.name, ...b.aliases.map((alias) => h("span", { className: "soft" }, ` · ${alias}`))),
      stateOf(b), h("span", { title: b.revision ?? "" }, (b.revision ?? "–").slice(0, 12)), b.input ?? "–", count(b.num_features),
      b.device ? `${b.device} · ${b.dtype}` : "–", bytes(b.weight_bytes), b.license || "–",
      h("button", { type: "button", className: "danger", disabled: !this.#mayChange, onclick: () => this.#unload(b.name),
        ariaLabel: `Unload ${b.name}` }, "Unload")]);
    const columns = [["name"], ["state"], ["revision"], ["input"], ["width", "number"], ["device"], ["weights", "number"], ["licence"], [""]];
    show(this.#served, rows.length ? table(columns, rows) : empty("No backbone is served. Load one below."));
  }

  #showArguments() {
    const fields = Object.entries(this.#registered.get(this.#name.value) ?? {}).map(([name, value]) => {
      const id = `argument-${name}`;
      return h("div", {}, h("label", { htmlFor: id }, name),
        h("input", { id, name, placeholder: String(value ?? "required"), required: value === null, autocomplete: "off" }));
    });
    show(this.#arguments, ...fields);
  }

  #readArguments() {
    const defaults = this.#registered.get(this.#name.value) ?? {};
    const inputs = [...this.#arguments.querySelectorAll("input")].filter((input) => input.value.trim() !== "");
    return Object.fromEntries(inputs.map(({ name, value }) => [name, parsed(value.trim(), defaults[name])]));
  }

  async #submit(event) {
    event.preventDefault();
    const plan = event.submitter?.value === "plan";
    await this.#change(plan ? "Planning …" : "Loading …", async () => {
      const answer = await post("api/load", { name: this.#name.value, arguments: this.#readArguments(),
        pinned: this.#pinned.checked, replace: this.#replace.checked, dry_run: plan });
      const { name, weight_bytes: weights, device } = answer.backbone;
      const unloaded = answer.unloaded.length ? `; ${plan ? "it would unload" : "unloaded"} ${answer.unloaded.join(", ")}` : "";
      return plan ? `${name} fits: ${bytes(weights)} on ${device}${unloaded}.` : `${name} is loaded on ${device}${unloaded}.`;
    });
  }

  async #unload(name) {
    this.#confirm.querySelector("#confirm-text").textContent = `Unload ${name}? Accepted items are finished first; later calls are refused.`;
    this.#confirm.returnValue = "";
    this.#confirm.showModal();
    await new Promise((resolve) => this.#confirm.addEventListener("close", resolve, { once: true }));
    if (this.#confirm.returnValue !== "yes") return;
    await this.#change("Unloading …", async () => {
      await post("api/unload", { name });
      return `${name} is unloaded.`;
    });
  }

  async #change(progress, change) {
    show(this.#result, h("p", { className: "soft" }, progress));
    for (const button of this.#buttons) button.disabled = true;
    try {
      show(this.#result, h("p", { className: "notice" }, await change()));
    } catch (error) {
      const late = error.code === "DEADLINE_EXCEEDED" ? "It takes longer than a minute, and goes on: watch its state above. " : "";
      show(this.#result, problem(late + error.message));
    }
    for (const button of this.#buttons) button.disabled = !this.#mayChange;
  }
}

/** Return the text of a field as a value of the same type as the default of its argument, or as what it looks like. */
function parsed(text, byDefault) {
  if (byDefault === null && ["true", "false"].includes(text)) return text === "true";
  if (byDefault === null && Number.isFinite(Number(text))) return Number(text);
  if (typeof byDefault === "boolean") return text.toLowerCase() === "true";
  if (typeof byDefault === "number" && Number.isFinite(Number(text))) return Number(text);
  return text;
}
