// Points and polygons of the plane.

/** Return the points, moved around 0 and scaled so that the largest coordinate is 1, and the largest x and y among them.
 *  points: x and y of each, one after the other. float32, which WebGL computes in, is most precise around 0. */
export function unit(points) {
  const [low, high] = [[Infinity, Infinity], [-Infinity, -Infinity]];
  for (let at = 0; at < points.length; at += 1) {
    low[at % 2] = Math.min(low[at % 2], points[at]);
    high[at % 2] = Math.max(high[at % 2], points[at]);
  }
  const half = [0, 1].map((axis) => (high[axis] - low[axis]) / 2);
  const largest = Math.max(...half) || 1;
  const centred = points.map((value, at) => (value - (low[at % 2] + high[at % 2]) / 2) / largest);
  return [centred, half.map((length) => length / largest)];
}

/** Return whether a polygon contains a point, by the even-odd rule. */
export function contains(corners, x, y) {
  let inside = false;
  for (let index = 0, before = corners.length - 1; index < corners.length; before = index, index += 1) {
    const [[x1, y1], [x2, y2]] = [corners[index], corners[before]];
    if (y1 > y !== y2 > y && x < ((x2 - x1) * (y - y1)) / (y2 - y1) + x1) inside = !inside;
  }
  return inside;
}

/** Return 0 to length - 1 in an order whose first numbers are spread evenly over all, a sample of rows in any order. */
export function spread(length) {
  let stride = Math.max(Math.round(length * 0.618), 1); // the golden ratio
  while (divisor(stride, length) !== 1) stride += 1;
  return Uint32Array.from({ length }, (_, at) => (at * stride) % length);
}

function divisor(a, b) {
  return b ? divisor(b, a % b) : a;
}
