// Arithmetic on rows of numbers, and the file that the map takes.

/** Return the rows scaled to unit length; a row of zeros stays as it is. */
export function normalised(rows) {
  return rows.map((row) => {
    const length = Math.hypot(...row) || 1;
    return row.map((value) => value / length);
  });
}

/** Return for each row the indices and cosines of the rows that are nearest to it, itself left out. */
export function nearest(rows, top) {
  const units = normalised(rows);
  return units.map((unit, index) =>
    units
      .map((other, place) => ({ index: place, cosine: unit.reduce((sum, value, at) => sum + value * other[at], 0) }))
      .filter((entry) => entry.index !== index)
      .sort((left, right) => right.cosine - left.cosine)
      .slice(0, top));
}

/** Return rows as the bytes of a .npy file of little-endian float32. Source: numpy.lib.format, version 1.0. */
export function npy(rows) {
  const width = rows[0].length;
  const text = `{'descr': '<f4', 'fortran_order': False, 'shape': (${rows.length}, ${width}), }`;
  const header = text.padEnd(Math.ceil((text.length + 11) / 64) * 64 - 11) + "\n";
  const bytes = new Uint8Array(10 + header.length + rows.length * width * 4);
  bytes.set([0x93, ...new TextEncoder().encode("NUMPY"), 1, 0, header.length & 255, header.length >> 8]);
  bytes.set(new TextEncoder().encode(header), 10);
  const view = new DataView(bytes.buffer, 10 + header.length);
  rows.forEach((row, index) => row.forEach((value, at) => view.setFloat32((index * width + at) * 4, value, true)));
  return bytes;
}
