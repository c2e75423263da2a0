// The tokens in sight for paper, in light colours; and every token of the window as a table.
//
//   drawTokens(surface, width, height, { texts, from, nTokens, levels, scale, title, note })

import { layOut } from "./layout.js";

const TOP = 64;
const INK = { text: "#17202b", quiet: "#4a5565" };
const MONO_WIDTH = 8.43; // of DejaVu Sans Mono at 14 px

const widthOf = (shown) => [...shown].length * MONO_WIDTH + 1;

export function drawTokens(surface, width, height, { texts, from, nTokens, levels, scale, title, note }) {
  surface.text(title, 24, 26, { size: 16, weight: 600, fill: INK.text });
  surface.text(note, 24, 46, { fill: INK.quiet });
  const pieces = scale.legend();
  pieces.forEach((color, index) => surface.rect(width - 24 - 4 * (pieces.length - index), 32, 4.2, 12, { fill: color }));
  const low = scale.by === "loss" ? "0" : `−${scale.limit}`;
  surface.text(`${low} … ${scale.limit} nats`, width - 24 - 4 * pieces.length - 8, 43, { anchor: "end", fill: INK.quiet });
  const layout = layOut({ texts: texts.slice(from), nTokens, width: width - 48, view: "text", measure: widthOf });
  for (const { first, last, y } of layout.lines) {
    if (TOP + y + layout.size.line > height - 16) return;
    for (let index = first; index < last; index += 1) {
      const [x, w, level] = [24 + layout.x[index] - layout.left, layout.w[index], levels[from + index]];
      if (level >= 0) surface.rect(x, TOP + y, w - 1, layout.size.line - 2, { fill: scale.css[level] });
      surface.text(texts[from + index].shown, x, TOP + y + 15, { size: 14, fill: INK.text, mono: true });
    }
  }
}

export function tokenTable(window, columns) {
  const rows = window.ids.map((id, index) => [
    window.first + Math.floor(index / window.n), index % window.n, id, window.texts[index],
    ...columns.map(([, values]) => (Number.isFinite(values[index]) ? values[index] : null)),
  ]);
  return { columns: ["sequence", "position", "token id", "text", ...columns.map(([name]) => name)], rows };
}
