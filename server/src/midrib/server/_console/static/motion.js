// Fewer points while the map moves: without a GPU, a frame of 100,000 points takes a quarter of a second.

const SLOW_MS = 50; // of a frame; 20 a second look like a motion
const FEWEST = 2000;
const REST_MS = 250; // without a step, after which all points are drawn again

export class Motion {
  #show;
  #total = 0;
  #shown = Infinity;
  #limit = Infinity;
  #rest = null;
  #measures = false;

  /** show(count): draws the first points, all of them if the count is Infinity. */
  constructor(show) {
    this.#show = show;
  }

  /** The map has moved by a step.  total: the number of points. */
  step(total) {
    if (!total) return;
    if (total !== this.#total) [this.#total, this.#limit] = [total, Infinity];
    this.#draw(this.#limit);
    if (this.#rest !== null) this.#measure(); // not the first step, whose frame may compile the shaders
    clearTimeout(this.#rest);
    this.#rest = setTimeout(() => this.#end(), REST_MS);
  }

  /** Draw a quarter of the points from the next step on if a frame takes long. */
  #measure() {
    if (this.#measures) return;
    this.#measures = true;
    const started = performance.now();
    const measured = () => {
      this.#measures = false;
      const frameMs = (performance.now() - started) / 2;
      if (frameMs > SLOW_MS) this.#limit = Math.max(Math.floor(Math.min(this.#limit, this.#total) / 4), FEWEST);
    };
    requestAnimationFrame(() => requestAnimationFrame(measured)); // the second waits until the first is drawn
  }

  #end() {
    this.#rest = null;
    this.#draw(Infinity); // all of them: the map may show other points by now
  }

  #draw(count) {
    if (count === this.#shown) return;
    this.#shown = count;
    this.#show(count);
  }
}
