// Points drawn by deck.gl: drag to move, wheel to zoom, hover, lasso. The keyboard does the same.

import { svg } from "./dom.js";
import { contains, spread, unit } from "./geometry.js";
import { Motion } from "./motion.js";
import { Points } from "./points.js";
import { Deck, OrthographicView } from "./vendor/deck/deck.js";

const HOVER_PIXELS = 12;
const MARGIN = 24;
const LEAST_EXTENT = 0.1; // the smallest x or y that is fitted, so that points in a row or in one place have a scale
const DEFAULT_COLOUR = [31, 157, 107];
const [STRONG, WEAK] = [217, 51]; // the opacity of a point, and that of a point outside the selection; 255 is opaque
const VIEW = new OrthographicView({ id: "plane", controller: { keyboard: false, doubleClickZoom: false } });
const KEY_ZOOM = 1 / 3; // in levels: each doubles the size
const KEYS = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] };

export class Scatter {
  #canvas;
  #deck;
  #points = new Float32Array();
  #order = []; // the index of each drawn point, in an order whose first points are a sample
  #motion = new Motion((shown) => this.#show(shown));
  #data = { length: 0 };
  #extent = [1, 1];
  #colours = [];
  #selected = new Set();
  #view = { target: [0, 0], zoom: 0 };
  #outline = svg("polygon", {});
  #ring = svg("circle", { r: 0 });
  #lasso = null;
  #hovered = -1;

  /** onHover(index, x, y): index is -1 beside all points.  onSelect(indices). */
  constructor(canvas, { onHover, onSelect }) {
    this.#canvas = canvas;
    canvas.after(svg("svg", { class: "overlay", "aria-hidden": "true" }, this.#outline, this.#ring));
    this.onHover = onHover;
    this.onSelect = onSelect;
    this.lassoMode = false;
    this.#deck = new Deck({
      canvas, views: VIEW, viewState: this.#view, pickingRadius: HOVER_PIXELS, getCursor: () => "crosshair",
      onViewStateChange: ({ viewState: { target, zoom } }) => this.#look({ target, zoom }),
      onHover: ({ index }) => this.#hover(this.#order[index] ?? -1),
    });
    const area = canvas.parentElement; // its listeners run before those of deck.gl, which would move the points during a lasso
    area.addEventListener("pointerdown", (event) => this.#down(event), { capture: true });
    area.addEventListener("pointermove", (event) => this.#move(event), { capture: true });
    for (const end of ["pointerup", "pointercancel"]) area.addEventListener(end, () => this.#up(), { capture: true });
    canvas.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.fit()).observe(canvas);
  }

  /** Show other points.  points: x and y of each, one after the other. */
  setPoints(points) {
    [this.#points, this.#extent] = unit(points);
    this.#order = spread(this.#points.length / 2);
    this.#hovered = -1;
    this.select([]);
    this.fit();
  }

  /** Set the colour of each point: red, green and blue, each from 0 to 255. */
  setColours(colours) {
    this.#colours = colours;
    this.#colour();
  }

  select(indices) {
    this.#selected = new Set(indices);
    this.onSelect(indices);
    this.#colour();
  }

  /** Show all points. */
  fit() {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    const scale = Math.min(...[width, height].map((length, axis) => (length / 2 - MARGIN) / Math.max(this.#extent[axis], LEAST_EXTENT)));
    this.#look({ target: [0, 0], zoom: Math.log2(Math.max(scale, 1)) });
  }

  #look(view) {
    this.#view = view;
    this.#deck.setProps({ viewState: view });
    this.#hover(-1);
    this.#motion.step(this.#data.length);
  }

  #viewport() {
    return VIEW.makeViewport({ width: this.#canvas.clientWidth, height: this.#canvas.clientHeight, viewState: this.#view });
  }

  #point(index) {
    return [this.#points[2 * index], this.#points[2 * index + 1]];
  }

  #diameter() {
    const count = this.#points.length / 2;
    return count > 20000 ? 3 : count > 2000 ? 4 : 7;
  }

  #colour() {
    const length = this.#order.length;
    const [positions, colours] = [new Float32Array(2 * length), new Uint8Array(4 * length)];
    this.#order.forEach((index, at) => {
      positions.set(this.#point(index), 2 * at);
      colours.set(this.#colours[index] ?? DEFAULT_COLOUR, 4 * at);
      colours[4 * at + 3] = this.#selected.size && !this.#selected.has(index) ? WEAK : STRONG;
    });
    const attributes = { getPosition: { value: positions, size: 2 }, getColour: { value: colours, size: 4, normalized: true } };
    this.#data = { length, attributes };
    this.#show(length);
  }

  #show(shown) {
    this.#canvas.dataset.points = Math.min(shown, this.#data.length);
    this.#deck.setProps({ layers: [new Points({ id: "points", data: this.#data, diameter: this.#diameter(), pickable: true, shown })] });
  }

  #down(event) {
    if (!this.lassoMode && !event.shiftKey) return;
    event.stopPropagation();
    event.currentTarget.setPointerCapture(event.pointerId);
    this.#lasso = [];
    this.#move(event);
  }

  #move(event) {
    if (!this.#lasso) return;
    event.stopPropagation();
    const { left, top } = this.#canvas.getBoundingClientRect();
    this.#lasso.push([event.clientX - left, event.clientY - top]);
    this.#outline.setAttribute("points", this.#lasso.join(" "));
  }

  #up() {
    if (!this.#lasso) return;
    const viewport = this.#viewport();
    const corners = this.#lasso.map((place) => viewport.unproject(place));
    this.#lasso = null;
    this.#outline.setAttribute("points", "");
    const indices = Array.from({ length: this.#points.length / 2 }, (_, index) => index);
    this.select(indices.filter((index) => contains(corners, ...this.#point(index))));
  }

  #hover(index) {
    if (index === this.#hovered) return;
    this.#hovered = index;
    const [x, y] = index < 0 ? [0, 0] : this.#viewport().project(this.#point(index));
    this.#ring.setAttribute("r", index < 0 ? 0 : this.#diameter() / 2 + 3);
    this.#ring.setAttribute("cx", x);
    this.#ring.setAttribute("cy", y);
    this.onHover(index, x, y);
  }

  #key(event) {
    const count = this.#points.length / 2;
    if (event.key in KEYS) this.#pan(...KEYS[event.key]);
    else if (event.key === "+" || event.key === "-") this.#zoom(event.key === "+" ? KEY_ZOOM : -KEY_ZOOM);
    else if (event.key === "0") this.fit();
    else if (event.key === "n" && count) this.#hover((this.#hovered + 1) % count);
    else if (event.key === "p" && count) this.#hover((Math.max(this.#hovered, 0) - 1 + count) % count);
    else if (event.key === " " && this.#hovered >= 0) this.#toggle(this.#hovered);
    else if (event.key === "Escape") this.select([]);
    else return;
    event.preventDefault();
  }

  #pan(dx, dy) {
    const { target: [x, y], zoom } = this.#view;
    this.#look({ target: [x - dx / 2 ** zoom, y - dy / 2 ** zoom], zoom });
  }

  #zoom(levels) {
    this.#look({ ...this.#view, zoom: this.#view.zoom + levels });
  }

  #toggle(index) {
    const selected = new Set(this.#selected);
    if (!selected.delete(index)) selected.add(index);
    this.select([...selected].sort((a, b) => a - b));
  }
}
