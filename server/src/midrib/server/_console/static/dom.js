// Build elements without markup in strings, so that no value of the server is ever read as HTML.

/** Return a new element. Properties that start with "on" are listeners; children are nodes or texts. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && name !== "list") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Return a new element of SVG. */
export function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Return a table. columns: [title, class]; rows: arrays of nodes or texts, of which the first names the row. */
export function table(columns, rows) {
  const head = columns.map(([title, name = ""]) => h("th", { scope: "col", className: name }, title));
  const body = rows.map((cells) =>
    h("tr", {}, cells.map((cell, index) =>
      index ? h("td", { className: columns[index][1] ?? "" }, cell) : h("th", { scope: "row" }, cell))));
  return h("div", { className: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)));
}

/** Return a line that says that there is nothing to show. */
export const empty = (text) => h("p", { className: "empty" }, text);

/** Return a box with an error's message. */
export const problem = (error) =>
  h("p", { className: "notice error", role: "alert" }, error instanceof Error ? error.message : String(error));

/** Show nodes in place of the content of an element. */
export const show = (element, ...nodes) => element.replaceChildren(...nodes);

const dash = "–";
export const count = (value) => (value === null || value === undefined ? dash : Math.round(value).toLocaleString("en"));
export const decimal = (value) => (value === null || value === undefined ? dash : value.toLocaleString("en", { maximumFractionDigits: 1 }));
export function milliseconds(seconds) {
  if (seconds === null || seconds === undefined) return dash;
  const value = seconds * 1e3;
  return `${value.toFixed(value < 10 ? 1 : 0)} ms`;
}

/** Return a size in bytes for people. */
export function bytes(value) {
  if (value === null || value === undefined) return dash;
  const power = value > 0 ? Math.min(4, Math.floor(Math.log2(value) / 10)) : 0;
  return `${(value / 1024 ** power).toFixed(power ? 1 : 0)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
}

/** Offer a text as a file. */
export function download(name, type, text) {
  const link = h("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
