// Points on a canvas: drag to move, wheel to zoom, hover, lasso. The keyboard does the same.

import KDBush from "./vendor/kdbush/index.js";

const HOVER_PIXELS = 12;
const MARGIN = 24;
const KEYS = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] };

export class Scatter {
  #canvas;
  #points = new Float32Array();
  #colours = [];
  #selected = new Set();
  #index = null;
  #view = { scale: 1, x: 0, y: 0 };
  #lasso = null;
  #drag = null;
  #hovered = -1;
  #scheduled = false;

  /** onHover(index, x, y): index is -1 beside all points.  onSelect(indices). */
  constructor(canvas, { onHover, onSelect }) {
    this.#canvas = canvas;
    this.onHover = onHover;
    this.onSelect = onSelect;
    this.lassoMode = false;
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", () => this.#up());
    canvas.addEventListener("pointerleave", () => this.#hover(-1));
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.#resize()).observe(canvas);
  }

  /** Show other points.  points: x and y of each, one after the other. */
  setPoints(points) {
    this.#points = points;
    this.#index = points.length ? new KDBush(points.length / 2, 64, Float32Array) : null;
    for (let at = 0; at < points.length; at += 2) this.#index.add(points[at], points[at + 1]);
    this.#index?.finish();
    this.#hovered = -1;
    this.select([]);
    this.fit();
  }

  /** Set the colour of each point. */
  setColours(colours) {
    this.#colours = colours;
    this.#draw();
  }

  select(indices) {
    this.#selected = new Set(indices);
    this.onSelect(indices);
    this.#draw();
  }

  /** Show all points. */
  fit() {
    const { width, height } = this.#size();
    let [left, right, top, bottom] = [Infinity, -Infinity, Infinity, -Infinity];
    for (let at = 0; at < this.#points.length; at += 2) {
      left = Math.min(left, this.#points[at]);
      right = Math.max(right, this.#points[at]);
      top = Math.min(top, this.#points[at + 1]);
      bottom = Math.max(bottom, this.#points[at + 1]);
    }
    const scale = Math.min((width - 2 * MARGIN) / (right - left || 1), (height - 2 * MARGIN) / (bottom - top || 1));
    this.#view = { scale, x: width / 2 - (scale * (left + right)) / 2, y: height / 2 - (scale * (top + bottom)) / 2 };
    this.#draw();
  }

  /** Return the place of a point on the canvas, in CSS pixels. */
  place(index) {
    const { scale, x, y } = this.#view;
    return [this.#points[2 * index] * scale + x, this.#points[2 * index + 1] * scale + y];
  }

  #size() {
    return { width: this.#canvas.clientWidth || 1, height: this.#canvas.clientHeight || 1 };
  }

  #resize() {
    const { width, height } = this.#size();
    this.#canvas.width = width * devicePixelRatio;
    this.#canvas.height = height * devicePixelRatio;
    this.fit();
  }

  #draw() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => {
      this.#scheduled = false;
      this.#paint();
    });
  }

  #paint() {
    const context = this.#canvas.getContext("2d");
    const { width, height } = this.#size();
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, width, height);
    const count = this.#points.length / 2;
    const size = count > 20000 ? 2 : count > 2000 ? 4 : 7;
    for (let index = 0; index < count; index += 1) {
      const [x, y] = this.place(index);
      if (x < -size || y < -size || x > width + size || y > height + size) continue;
      context.globalAlpha = this.#selected.size && !this.#selected.has(index) ? 0.2 : 0.85;
      context.fillStyle = this.#colours[index] ?? "#1f9d6b";
      if (size < 7) context.fillRect(x - size / 2, y - size / 2, size, size);
      else disc(context, x, y, size / 2).fill();
    }
    context.globalAlpha = 1;
    context.strokeStyle = getComputedStyle(this.#canvas).color;
    context.lineWidth = 1.5;
    if (this.#hovered >= 0) disc(context, ...this.place(this.#hovered), size / 2 + 3).stroke();
    if (this.#lasso) outline(context, this.#lasso).stroke();
  }

  #down(event) {
    this.#canvas.setPointerCapture(event.pointerId);
    const place = [event.offsetX, event.offsetY];
    if (this.lassoMode || event.shiftKey) this.#lasso = [place];
    else this.#drag = place;
  }

  #move(event) {
    const place = [event.offsetX, event.offsetY];
    if (this.#lasso) this.#lasso.push(place);
    else if (this.#drag) {
      this.#pan(place[0] - this.#drag[0], place[1] - this.#drag[1]);
      this.#drag = place;
    } else this.#hover(this.#nearest(...place));
    this.#draw();
  }

  #up() {
    if (this.#lasso) {
      const lasso = this.#lasso;
      this.#lasso = null;
      this.select(lasso.length > 2 ? this.#inside(lasso) : []);
    }
    this.#drag = null;
  }

  #nearest(x, y) {
    const { scale, x: left, y: top } = this.#view;
    const [px, py] = [(x - left) / scale, (y - top) / scale];
    const distance = (index) => Math.hypot(this.#points[2 * index] - px, this.#points[2 * index + 1] - py);
    const near = this.#index?.within(px, py, HOVER_PIXELS / scale) ?? [];
    return near.reduce((best, index) => (best < 0 || distance(index) < distance(best) ? index : best), -1);
  }

  #inside(lasso) {
    const { scale, x, y } = this.#view;
    const corners = lasso.map(([cx, cy]) => [(cx - x) / scale, (cy - y) / scale]);
    const [xs, ys] = [0, 1].map((axis) => corners.map((corner) => corner[axis]));
    const near = this.#index?.range(Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)) ?? [];
    return near.filter((index) => contains(corners, this.#points[2 * index], this.#points[2 * index + 1])).sort((a, b) => a - b);
  }

  #hover(index) {
    if (index === this.#hovered) return;
    this.#hovered = index;
    this.onHover(index, ...(index < 0 ? [0, 0] : this.place(index)));
    this.#draw();
  }

  #pan(dx, dy) {
    this.#view.x += dx;
    this.#view.y += dy;
    this.#hover(-1);
    this.#draw();
  }

  #zoom(factor, x, y) {
    const view = this.#view;
    this.#view = { scale: view.scale * factor, x: x - (x - view.x) * factor, y: y - (y - view.y) * factor };
    this.#hover(-1);
    this.#draw();
  }

  #wheel(event) {
    event.preventDefault();
    this.#zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
  }

  #key(event) {
    const count = this.#points.length / 2;
    const { width, height } = this.#size();
    if (event.key in KEYS) this.#pan(...KEYS[event.key]);
    else if (event.key === "+" || event.key === "-") this.#zoom(event.key === "+" ? 1.25 : 0.8, width / 2, height / 2);
    else if (event.key === "0") this.fit();
    else if (event.key === "n" && count) this.#hover((this.#hovered + 1) % count);
    else if (event.key === "p" && count) this.#hover((Math.max(this.#hovered, 0) - 1 + count) % count);
    else if (event.key === " " && this.#hovered >= 0) this.#toggle(this.#hovered);
    else if (event.key === "Escape") this.select([]);
    else return;
    event.preventDefault();
  }

  #toggle(index) {
    const selected = new Set(this.#selected);
    if (!selected.delete(index)) selected.add(index);
    this.select([...selected].sort((a, b) => a - b));
  }
}

function disc(context, x, y, radius) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  return context;
}

function outline(context, corners) {
  context.beginPath();
  for (const [x, y] of corners) context.lineTo(x, y);
  context.closePath();
  return context;
}

/** Return whether a polygon contains a point, by the even-odd rule. */
function contains(corners, x, y) {
  let inside = false;
  for (let index = 0, before = corners.length - 1; index < corners.length; before = index, index += 1) {
    const [[x1, y1], [x2, y2]] = [corners[index], corners[before]];
    if (y1 > y !== y2 > y && x < ((x2 - x1) * (y - y1)) / (y2 - y1) + x1) inside = !inside;
  }
  return inside;
}
