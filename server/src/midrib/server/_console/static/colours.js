// The colour of each point by the values of a column.

const CATEGORIES = ["#1f9d6b", "#3f7fdb", "#d9822b", "#a25ad6", "#d0455e", "#2aa5b8", "#8a8f2a", "#e06aa8", "#7a6a5d", "#5560c4"];
const SCALE = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]]; // viridis
const NONE = "#8b949c";
const SHOWN = 12;

/** Return the colour of each value, and the legend as pairs of a text and a colour. */
export function colours(column) {
  if (!column) return { each: [], legend: [] };
  return column.kind === "number" ? byNumber(column.values) : byCategory(column.values);
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
  const mixed = SCALE[index].map((value, at) => Math.round(value + (SCALE[index + 1][at] - value) * (place - index)));
  return `rgb(${mixed.join(",")})`;
}
