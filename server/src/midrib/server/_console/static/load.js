// The first page: the load of each backbone and of each token, the devices, and the refused calls.

import { bytes, count, decimal, empty, h, milliseconds, problem, show, table } from "./dom.js";
import uPlot from "./vendor/uplot/uPlot.esm.js";

const POINTS = 150;
const COLOURS = ["#1f9d6b", "#3f7fdb", "#d9822b", "#a25ad6", "#d0455e", "#2aa5b8", "#8a8f2a", "#7a6a5d"];
const STATES = { ready: "good", loading: "warn", draining: "warn", failed: "bad" };

export const stateOf = (backbone) =>
  h("span", { className: `pill ${STATES[backbone.state] ?? ""}`, title: backbone.error }, backbone.state);

/** Return a line with the quotas of the token of this page. */
function limits(token) {
  const held = (value, most, unit) => `${unit(value)} in flight` + (most === null ? "" : ` of ${unit(most)}`);
  const rate = (most, unit, what) => (most === null ? "" : `at most ${unit(most)}${what} per second`);
  const parts = [
    held(token.in_flight_bytes, token.max_in_flight_bytes, bytes),
    held(token.in_flight_items, token.max_in_flight_items, (value) => `${count(value)} items`),
    rate(token.max_requests_per_s, decimal, " requests"), rate(token.max_bytes_per_s, bytes, ""),
  ];
  return h("p", { className: "soft", id: "own-limits" }, `Token ${token.name}: ${parts.filter(Boolean).join(", ")}.`);
}

export class Load {
  #times = [];
  #series = new Map();
  #charts = [];
  #parts;

  constructor(root) {
    const part = (title) => {
      const body = h("div", {}, empty("Waiting for the server."));
      return [body, h("div", { className: "panel" }, h("h2", {}, title), body)];
    };
    const parts = ["Rows per second", "99th percentile of an item, ms", "Backbones", "Tokens", "Devices", "Refused calls"].map(part);
    const [rows, slow, backbones, tenants, devices, refusals] = parts.map(([body]) => body);
    const panels = parts.map(([, panel]) => panel);
    const tiles = h("div", { className: "tiles" });
    const notice = h("div", {});
    this.#parts = { rows, slow, backbones, tenants, devices, refusals, tiles, notice };
    root.append(
      h("h1", { id: "load-title" }, "Load"),
      h("p", { className: "lead" }, "Values of the last ten seconds, every two seconds."),
      notice, tiles,
      h("div", { className: "columns" }, panels[0], panels[1]), panels[2],
      h("div", { className: "columns" }, panels[3], panels[4], panels[5]));
    addEventListener("resize", () => this.#resize());
  }

  fail(error) {
    show(this.#parts.notice, problem(error));
  }

  update(overview) {
    show(this.#parts.notice);
    this.#showTiles(overview);
    this.#showTables(overview);
    this.#append(overview.backbones);
  }

  opened() {
    this.#resize();
  }

  themeChanged() {
    for (const { plot } of this.#charts) plot.destroy();
    this.#charts = [];
    if (this.#times.length) this.#draw();
  }

  #showTiles(overview) {
    const total = overview.backbones.reduce((sum, backbone) => sum + (backbone.rows_per_s ?? 0), 0);
    const waiting = overview.backbones.reduce((sum, backbone) => sum + backbone.queue_items, 0);
    const tile = (value, title) => h("div", { className: "tile" }, h("b", {}, value), h("span", {}, title));
    show(this.#parts.tiles,
      tile(decimal(total), "rows per second"), tile(count(waiting), "items wait"),
      tile(bytes(overview.in_flight_bytes), `in flight of ${bytes(overview.max_in_flight_bytes)}`),
      tile(bytes(overview.resident_bytes), "memory of the server"));
  }

  #showTables({ backbones, tenants, token, devices, refusals }) {
    const number = "number";
    const or = (rows, text, columns) => (rows.length ? table(columns, rows) : empty(text));
    show(this.#parts.backbones, or(
      backbones.map((b) => [b.name, stateOf(b), b.device ?? "–", count(b.queue_items), decimal(b.rows_per_s),
        decimal(b.batch_rows), milliseconds(b.queue_p50_s), milliseconds(b.item_p50_s), milliseconds(b.item_p99_s),
        count(b.failed_items)]),
      "No backbone is served. Load one on the page Backbones.",
      [["name"], ["state"], ["device"], ["queue", number], ["rows/s", number], ["rows/batch", number],
        ["p50 wait", number], ["p50", number], ["p99", number], ["failed", number]]));
    const rows = or(
      tenants.map((t) => [t.name, decimal(t.rows_per_s), count(t.rows), count(t.items), count(t.failed_items)]),
      token ? "No token that you may see has sent an item yet." : "No token has sent an item yet.",
      [["token"], ["rows/s", number], ["rows", number], ["items", number], ["failed", number]]);
    show(this.#parts.tenants, rows, ...(token ? [limits(token)] : []));
    show(this.#parts.devices, or(
      devices.map((d) => [d.name, bytes(d.weight_bytes), bytes(d.max_weight_bytes), bytes(d.allocated_bytes)]),
      "No device holds weights.",
      [["device"], ["weights", number], ["limit", number], ["allocated", number]]));
    show(this.#parts.refusals, or(
      refusals.map((r) => [r.reason, r.protocol, count(r.count)]), "No call was refused.",
      [["reason"], ["protocol"], ["calls", number]]));
  }

  #append(backbones) {
    this.#times.push(Date.now() / 1e3);
    for (const { name } of backbones) {
      if (!this.#series.has(name)) {
        this.#series.set(name, { rows: this.#times.slice(1).map(() => null), slow: this.#times.slice(1).map(() => null) });
        this.themeChanged(); // another line: the charts are built again
      }
    }
    const byName = new Map(backbones.map((backbone) => [backbone.name, backbone]));
    for (const [name, series] of this.#series) {
      const seconds = byName.get(name)?.item_p99_s ?? null;
      series.rows.push(byName.get(name)?.rows_per_s ?? null);
      series.slow.push(seconds === null ? null : seconds * 1e3);
    }
    if (this.#times.length > POINTS) {
      this.#times.shift();
      for (const series of this.#series.values()) for (const values of Object.values(series)) values.shift();
    }
    this.#draw();
  }

  #draw() {
    if (!this.#charts.length && this.#series.size) {
      this.#charts = ["rows", "slow"].map((key) => ({ key, plot: this.#chart(this.#parts[key]) }));
    }
    for (const { key, plot } of this.#charts) {
      plot.setData([this.#times, ...[...this.#series.values()].map((series) => series[key].slice(-this.#times.length))]);
    }
  }

  #chart(element) {
    show(element);
    const style = getComputedStyle(document.documentElement);
    const [soft, line] = ["--soft", "--line"].map((name) => style.getPropertyValue(name));
    const axis = { stroke: soft, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } };
    const series = [...this.#series.keys()].map((label, index) =>
      ({ label, stroke: COLOURS[index % COLOURS.length], width: 2, points: { size: 5 }, spanGaps: false }));
    const options = {
      width: element.clientWidth || 480, height: 210, series: [{}, ...series],
      axes: [axis, { ...axis, size: 56 }], scales: { y: { range: (_plot, _low, high) => [0, high > 0 ? high * 1.1 : 1] } },
    };
    return new uPlot(options, [this.#times, ...series.map(() => [])], element);
  }

  #resize() {
    for (const { key, plot } of this.#charts) {
      const width = this.#parts[key].clientWidth;
      if (width) plot.setSize({ width, height: 210 });
    }
  }
}
