// A map of an embedding file, or of texts and pictures: near points have similar vectors.

import { embed, floats, postBytes } from "./api.js";
import { colours } from "./colours.js";
import { bytes, download, empty, h, problem, show, svg } from "./dom.js";
import { acceptDrops, Items } from "./items.js";
import { npy } from "./vectors.js";

const KINDS = ["parquet", "npy", "safetensors", "jsonl"];
const AT_ONCE = 128;
const NO_WEBGL = "This browser has no WebGL2, which the map needs: update the browser, or turn its hardware acceleration on.";

export class EmbeddingMap {
  #items = new Items("map");
  #method = h("select", { id: "method" }, h("option", { value: "pca" }, "PCA"));
  #colour = h("select", { id: "colour", onchange: () => this.#showColours() });
  #files = h("input", { type: "file", id: "file", multiple: true, accept: [...KINDS, "json"].map((kind) => `.${kind}`).join(","),
    onchange: () => this.#drawFiles([...this.#files.files]) });
  #draw = h("button", { type: "submit", className: "primary", id: "draw" }, "Draw");
  #status = h("div", { ariaLive: "polite" }, empty("Nothing is drawn yet: choose a file, or send texts."));
  #legend = h("div", { className: "legend" });
  #tooltip = h("div", { className: "tooltip", hidden: true, role: "status" });
  #canvas = h("canvas", { tabIndex: 0, ariaLabel: "Map of the vectors. Arrows move, + and - zoom, 0 shows all, n and p walk through the points, space selects, Escape clears." });
  #plot;
  #lasso = h("button", { type: "button", id: "lasso", ariaPressed: "false", onclick: () => this.#toggleLasso() }, "Lasso");
  #exports = ["CSV", "JSON"].map((kind) => h("button", { type: "button", id: `export-${kind.toLowerCase()}`, disabled: true, onclick: () => this.#export(kind) }, `Export ${kind}`));
  #count = h("span", { className: "soft", id: "selected" }, "0 selected");
  #scatter;
  #columns = [];
  #selected = [];
  #last = null;
  #maxBytes = Infinity;

  constructor(root) {
    const drop = h("div", { className: "drop" }, h("label", { htmlFor: "file" },
      "Drop an output of midrib embed here, or choose it: .parquet, .safetensors, .npy (with its .npy.json), .jsonl"), this.#files);
    acceptDrops(drop, (files) => this.#drawFiles([...files]));
    this.#plot = h("div", { hidden: true },
      h("div", { className: "actions" }, h("label", { className: "inline" }, "Colour ", this.#colour), this.#lasso,
        h("button", { type: "button", onclick: () => this.#scatter.fit() }, "Show all"), ...this.#exports, this.#count),
      this.#legend, h("div", { className: "plot" }, this.#canvas, this.#tooltip),
      h("p", { className: "soft small" }, "Drag to move, wheel to zoom, Shift and drag to select."));
    root.append(
      h("h1", { id: "map-title" }, "Map"),
      h("p", { className: "lead" }, "Vectors as points, computed on this server: near points have similar vectors."),
      h("div", { className: "columns" },
        h("div", { className: "panel" }, h("h2", {}, "A file"), drop,
          h("div", { className: "fields" }, h("div", {}, h("label", { htmlFor: "method" }, "Method"), this.#method))),
        h("form", { className: "panel", onsubmit: (event) => this.#drawItems(event) },
          h("h2", {}, "Texts or pictures"), this.#items.element, h("p", { className: "actions" }, this.#draw))),
      h("div", { className: "panel" }, this.#status, this.#plot));
    this.#method.addEventListener("change", () => this.#last && this.#request(...this.#last));
  }

  update(overview) {
    this.#items.update(overview);
  }

  setSession(session) {
    this.#maxBytes = session.max_map_bytes;
    const methods = session.umap ? [["pca", "PCA"], ["umap", "UMAP"]] : [["pca", "PCA"]];
    if (methods.length !== this.#method.length) show(this.#method, ...methods.map(([value, title]) => h("option", { value }, title)));
  }

  themeChanged() {
    this.#scatter?.setColours(colours(this.#column()).each);
  }

  /** Draw items that are embedded already.  items: {label, picture, row}. */
  draw(items) {
    const columns = [{ name: "item", kind: "text", values: items.map((item) => item.label) }];
    if (items.some((item) => item.picture)) columns.push({ name: "picture", kind: "picture", values: items.map((item) => item.picture ?? null) });
    return this.#request(npy(items.map((item) => item.row)), "npy", columns);
  }

  async #drawItems(event) {
    event.preventDefault();
    const items = this.#items.values;
    if (items.length < 3) {
      show(this.#status, problem("A map needs three items or more: type one text per line, or choose more pictures."));
      return;
    }
    this.#draw.disabled = true;
    try {
      const rows = [];
      for (let at = 0; at < items.length; at += AT_ONCE) {
        show(this.#status, h("p", { className: "soft" }, `Embedding ${at} of ${items.length} …`));
        rows.push(...(await embed(this.#items.backbone, items.slice(at, at + AT_ONCE).map((item) => item.value))).rows);
      }
      await this.draw(items.map((item, index) => ({ ...item, row: rows[index] })));
    } catch (error) {
      show(this.#status, problem(error));
    }
    this.#draw.disabled = false;
  }

  async #drawFiles(files) {
    this.#files.value = "";
    const file = files.find((candidate) => KINDS.includes(ending(candidate.name)));
    if (!file || file.size > this.#maxBytes) {
      show(this.#status, problem(file ? `${file.name} has ${bytes(file.size)}, at most ${bytes(this.#maxBytes)} are drawn: send a sample.`
        : `${files[0]?.name ?? "Nothing"} cannot be drawn: choose a file that ends in ${KINDS.join(", ")}.`));
      return;
    }
    try {
      const beside = files.find((candidate) => candidate.name === `${file.name}.json`);
      await this.#request(await file.arrayBuffer(), ending(file.name), beside ? columnsOf(JSON.parse(await beside.text())) : []);
    } catch (error) {
      show(this.#status, problem(`${file.name} cannot be read: ${error.message}`));
    }
  }

  async #request(file, kind, columns) {
    this.#last = [file, kind, columns];
    if (document.createElement("canvas").getContext("webgl2") === null) {
      show(this.#status, problem(NO_WEBGL));
      return;
    }
    const method = this.#method.value;
    const started = performance.now();
    const showProgress = () => show(this.#status, h("p", { className: "soft" },
      `Drawing … ${((performance.now() - started) / 1e3).toFixed(0)} s` + (method === "umap" ? ", UMAP may take minutes" : "")));
    showProgress();
    const timer = setInterval(showProgress, 1000);
    try {
      const answer = await postBytes(`api/map?kind=${kind}&method=${method}`, file);
      clearInterval(timer);
      await this.#show(answer, [...columns, ...answer.columns]);
    } catch (error) {
      clearInterval(timer);
      show(this.#status, problem(error));
    }
  }

  async #show({ points, method, width, shares, left_out: leftOut }, columns) {
    const places = floats(points);
    this.#columns = columns;
    const variance = shares.length ? `, ${shares.map((share) => `${(share * 100).toFixed(0)} %`).join(" and ")} of the variance` : "";
    const usable = columns.filter((column) => column.kind === "category" || column.kind === "number");
    show(this.#colour, h("option", { value: "" }, "none"), ...usable.map((column) => h("option", { value: column.name }, column.name)));
    this.#colour.value = usable.find((column) => column.kind === "category")?.name ?? "";
    this.#plot.hidden = false;
    this.#scatter ??= await this.#newScatter();
    this.#scatter.setPoints(places);
    this.#showColours();
    show(this.#status, h("p", { className: "soft", id: "drawn" }, `${places.length / 2} vectors of ${width} numbers by ${method.toUpperCase()}${variance}.`,
      leftOut.length ? ` Left out, because they are too large: ${leftOut.join(", ")}.` : ""));
    this.#plot.scrollIntoView({ block: "nearest" });
  }

  /** Load the module that draws points, which is large, and return a new plot. */
  async #newScatter() {
    const { Scatter } = await import("./scatter.js");
    return new Scatter(this.#canvas, {
      onHover: (...point) => this.#showTooltip(...point),
      onSelect: (indices) => this.#select(indices),
    });
  }

  #column() {
    return this.#columns.find((column) => column.name === this.#colour.value);
  }

  #showColours() {
    const { each, legend } = colours(this.#column());
    this.#scatter.setColours(each);
    const swatch = (fill) => svg("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" }, svg("rect", { width: 10, height: 10, rx: 2, fill }));
    show(this.#legend, ...legend.map(([text, colour]) => h("span", {}, swatch(colour), text)));
  }

  #showTooltip(index, x, y) {
    this.#tooltip.hidden = index < 0;
    if (index < 0) return;
    const pictures = this.#columns.filter((column) => column.kind === "picture" && column.values[index]);
    const lines = this.#columns.filter((column) => column.kind !== "picture" && column.values[index] !== null)
      .map((column) => h("div", {}, h("span", { className: "soft" }, `${column.name} `), String(column.values[index])));
    show(this.#tooltip, ...pictures.map((column) => h("img", { src: column.values[index], alt: column.name })),
      ...(lines.length ? lines : [`row ${index}`]));
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    this.#tooltip.style.left = `${Math.min(x + 12, width - this.#tooltip.offsetWidth - 8)}px`;
    this.#tooltip.style.top = `${Math.min(y + 12, height - this.#tooltip.offsetHeight - 8)}px`;
  }

  #toggleLasso() {
    this.#scatter.lassoMode = !this.#scatter.lassoMode;
    this.#lasso.ariaPressed = String(this.#scatter.lassoMode);
  }

  #select(indices) {
    this.#selected = indices;
    this.#count.textContent = `${indices.length} selected`;
    for (const button of this.#exports) button.disabled = !indices.length;
  }

  #export(kind) {
    const columns = this.#columns.filter((column) => column.kind !== "picture");
    const rows = this.#selected.map((index) => Object.fromEntries([["row", index], ...columns.map((column) => [column.name, column.values[index]])]));
    if (kind === "JSON") download("selected.json", "application/json", JSON.stringify(rows, null, 2));
    else download("selected.csv", "text/csv", [Object.keys(rows[0]), ...rows.map(Object.values)].map((cells) => cells.map(csvCell).join(",")).join("\r\n"));
  }
}

const ending = (name) => name.slice(name.lastIndexOf(".") + 1).toLowerCase();

/** Return the columns of the JSON that `midrib embed` writes beside a .npy file. */
function columnsOf({ ids = [], kept = {} }) {
  return Object.entries({ id: ids, ...kept }).map(([name, values]) => {
    const number = values.every((value) => value === null || typeof value === "number");
    const few = new Set(values).size <= Math.min(30, Math.max(2, values.length / 2));
    return { name, kind: number ? "number" : few ? "category" : "text", values };
  });
}

/** Return a cell of CSV. A text that a spreadsheet would read as a formula gets an apostrophe. */
function csvCell(value) {
  if (value === null || value === undefined) return "";
  const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
