// The texts or pictures that a person sends to a backbone: a form that the playground and the map share.

import { empty, h, show } from "./dom.js";

/** A choice of a ready backbone, and a field for texts or for pictures, whichever the backbone takes. */
export class Items {
  #choice;
  #texts;
  #files;
  #pictures = [];
  #thumbnails = h("div", { className: "thumbnails" });
  #remove = h("p", { className: "actions", hidden: true },
    h("button", { type: "button", className: "quiet", onclick: () => this.#clear() }, "Remove all pictures"));
  #hint = h("p", { className: "empty" }, "No backbone for texts or pictures is ready.");
  #backbones = new Map();
  #areas;

  constructor(prefix, changed = () => {}) {
    this.changed = changed;
    this.#choice = h("select", { id: `${prefix}-backbone`, onchange: () => this.#showArea() });
    this.#texts = h("textarea", { id: `${prefix}-texts`, placeholder: "One text per line", oninput: () => this.changed() });
    this.#files = h("input", { type: "file", id: `${prefix}-pictures`, accept: "image/*", multiple: true,
      onchange: () => this.#add(this.#files.files) });
    const drop = h("div", { className: "drop" },
      h("label", { htmlFor: `${prefix}-pictures` }, "Drop pictures here, or choose files"), this.#files);
    acceptDrops(drop, (files) => this.#add(files));
    this.#areas = {
      text: h("div", { hidden: true }, h("label", { htmlFor: `${prefix}-texts` }, "Texts, one per line"), this.#texts),
      image: h("div", { hidden: true }, drop, this.#thumbnails, this.#remove),
    };
    this.element = h("div", {},
      h("div", { className: "fields" }, h("div", {}, h("label", { htmlFor: `${prefix}-backbone` }, "Backbone"), this.#choice)),
      this.#hint, this.#areas.text, this.#areas.image);
  }

  get backbone() {
    return this.#choice.value;
  }

  get media() {
    return this.#backbones.get(this.#choice.value);
  }

  /** The texts, or the data URLs of the pictures; labels: texts, or the names of the files. */
  get values() {
    if (this.media === "image") return this.#pictures.map(({ url, name }) => ({ value: url, label: name, picture: url }));
    return this.#texts.value.split("\n").map((line) => line.trim()).filter(Boolean).map((line) => ({ value: line, label: line }));
  }

  update({ backbones }) {
    const usable = backbones.filter((b) => b.state === "ready" && (b.media === "text" || b.media === "image"));
    usable.sort((left, right) => (left.media === right.media ? 0 : left.media === "text" ? -1 : 1));
    const names = usable.map((b) => b.name);
    if (JSON.stringify(names) === JSON.stringify([...this.#backbones.keys()])) return;
    const before = this.#choice.value;
    this.#backbones = new Map(usable.map((b) => [b.name, b.media]));
    show(this.#choice, ...names.map((name) => h("option", { value: name }, name)));
    if (names.includes(before)) this.#choice.value = before;
    this.#showArea();
  }

  #showArea() {
    this.#hint.hidden = Boolean(this.media);
    for (const [media, area] of Object.entries(this.#areas)) area.hidden = media !== this.media;
    this.changed();
  }

  async #add(files) {
    const pictures = [...files].filter((file) => file.type.startsWith("image/"));
    this.#pictures.push(...(await Promise.all(pictures.map(async (file) => ({ name: file.name, url: await dataUrl(file) })))));
    this.#files.value = "";
    this.#showPictures();
  }

  #clear() {
    this.#pictures = [];
    this.#showPictures();
  }

  #showPictures() {
    const images = this.#pictures.map(({ url, name }) => h("img", { src: url, alt: name, title: name }));
    this.#remove.hidden = !images.length;
    show(this.#thumbnails, ...(images.length ? images : [empty("No picture yet.")]));
    this.changed();
  }
}

/** Call a function with the files that are dropped on an element. */
export function acceptDrops(element, receive) {
  element.addEventListener("dragover", (event) => {
    event.preventDefault();
    element.classList.add("over");
  });
  element.addEventListener("dragleave", () => element.classList.remove("over"));
  element.addEventListener("drop", (event) => {
    event.preventDefault();
    element.classList.remove("over");
    receive(event.dataTransfer.files);
  });
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
