// Where tokens stand: a window of sequences broken into lines, as text or as cells of one size.
//
//   const layout = layOut({ texts, nTokens, width, view, measure })
//   layout.x, layout.w (Float32Array, a place a token), layout.line; layout.lines: [{first, last, y}], layout.height
//   layout.lineAt(y), layout.tokenAt(x, y) → index into the window or null
//
// texts: visible texts, sequence after sequence, with `before` and `after` saying where a line ends.

export const SIZES = {
  text: { font: 14, line: 23, gap: 1, gutter: 48, between: 9 },
  cells: { font: 0, line: 12, gap: 1, gutter: 48, between: 3 },
};
const CELL = 12;

export function layOut({ texts, nTokens, width, view, measure }) {
  const size = SIZES[view];
  const left = width < 480 ? 34 : size.gutter;
  const count = texts.length;
  const [x, w, line] = [new Float32Array(count), new Float32Array(count), new Int32Array(count)];
  const lines = [];
  let [at, y] = [left, 4];
  const begin = (index) => {
    if (lines.length) {
      lines.at(-1).last = index;
      y += size.line + (index % nTokens === 0 ? size.between : 0);
    }
    lines.push({ first: index, last: count, y });
    at = left;
  };
  for (let index = 0; index < count; index += 1) {
    const text = texts[index];
    const own = view === "cells" ? CELL : Math.min(measure(text.shown), width - left);
    const starts = index % nTokens === 0;
    const broken = view === "text" && (text.before || (index > 0 && texts[index - 1].after));
    if (starts || at + own > width || (broken && at > left)) begin(index);
    [x[index], w[index], line[index]] = [at, own, lines.length - 1];
    at += own;
  }
  const height = y + size.line + 4;
  const lineAt = (place) => {
    let [low, high] = [0, lines.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (lines[middle].y <= place) low = middle;
      else high = middle - 1;
    }
    return low;
  };
  const tokenAt = (px, py) => {
    const found = lines[lineAt(py)];
    if (found === undefined || py < found.y || py >= found.y + size.line) return null;
    for (let index = found.first; index < found.last; index += 1) if (px >= x[index] && px < x[index] + w[index]) return index;
    return null;
  };
  return { x, w, line, lines, height, size, left, view, lineAt, tokenAt };
}

// The token of the line above or below that is nearest to one.
export function neighbour(layout, index, by) {
  const at = layout.line[index] + by;
  if (at < 0 || at >= layout.lines.length) return null;
  const middle = layout.x[index] + layout.w[index] / 2;
  const { first, last } = layout.lines[at];
  for (let other = first; other < last; other += 1) if (layout.x[other] + layout.w[other] > middle) return other;
  return last - 1;
}
