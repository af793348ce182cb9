// The colour of each point by the values of a column: red, green and blue, each from 0 to 255.

const CATEGORIES = [
  [31, 157, 107], [63, 127, 219], [217, 130, 43], [162, 90, 214], [208, 69, 94],
  [42, 165, 184], [138, 143, 42], [224, 106, 168], [122, 106, 93], [85, 96, 196],
];
const SCALE = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]]; // viridis
const NONE = [139, 148, 156];
const SHOWN = 12;

/** Return the colour of each value, and the legend as pairs of a text and a colour of CSS. */
export function colours(column) {
  if (!column) return { each: [], legend: [] };
  const { each, legend } = column.kind === "number" ? byNumber(column.values) : byCategory(column.values);
  return { each, legend: legend.map(([text, colour]) => [text, `rgb(${colour.join(" ")})`]) };
}

function byCategory(values) {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  const ordered = [...counts.keys()].filter((value) => value !== null).sort((a, b) => counts.get(b) - counts.get(a));
  const colour = new Map(ordered.map((value, index) => [value, index < CATEGORIES.length ? CATEGORIES[index] : NONE]));
  const legend = ordered.slice(0, SHOWN).map((value) => [`${value} (${counts.get(value)})`, colour.get(value)]);
  if (ordered.length > SHOWN) legend.push([`${ordered.length - SHOWN} more`, NONE]);
  return { each: values.map((value) => colour.get(value) ?? NONE), legend };
}

function byNumber(values) {
  const numbers = values.filter((value) => value !== null);
  const low = numbers.reduce((least, value) => Math.min(least, value), Infinity);
  const high = numbers.reduce((most, value) => Math.max(most, value), -Infinity);
  const colour = (value) => (value === null ? NONE : onScale((value - low) / (high - low || 1)));
  const steps = [0, 0.25, 0.5, 0.75, 1].map((share) => low + share * (high - low));
  return { each: values.map(colour), legend: steps.map((value) => [value.toPrecision(3), colour(value)]) };
}

function onScale(share) {
  const place = share * (SCALE.length - 1);
  const index = Math.min(Math.floor(place), SCALE.length - 2);
  return SCALE[index].map((value, at) => Math.round(value + (SCALE[index + 1][at] - value) * (place - index)));
}
