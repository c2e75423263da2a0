// A plot for paper: frame, axes, bands and legend around what a plot draws, on white, the same as PNG and as SVG.
//
//   drawPaper(surface, width, height, { figure, axis, changes, yTicks: [[share, words]], legend: [[color, name]],
//             right: pixels kept free at the right, content: (surface, box, x) => … })

import { COLORS, changeName, drawBands } from "./bands.js";

const INK = { text: "#1b2430", quiet: "#4a5565", rule: "#c9d0d8" };
const MARGIN = { left: 72, right: 24, top: 58, bottom: 52 };

export function drawPaper(surface, width, height, { figure, axis, changes, yTicks, legend = [], right = 0, outlined = false, content }) {
  const box = {
    left: MARGIN.left, top: MARGIN.top, width: width - MARGIN.left - MARGIN.right - right, height: height - MARGIN.top - MARGIN.bottom,
  };
  const [low, high] = axis.domain();
  const place = (position) => box.left + ((position - low) / (high - low)) * box.width;
  const x = (step) => Math.min(Math.max(place(axis.position(step)), box.left), box.left + box.width);
  surface.text(figure.title, MARGIN.left, 24, { size: 16, weight: 600, fill: INK.text });
  surface.text(figure.unit, width - MARGIN.right, 24, { anchor: "end", fill: INK.quiet });
  drawLegend(surface, legend);
  const bands = { x, top: box.top, height: box.height, last: axis.range[1], outlined, colors: COLORS.paper() };
  if (!outlined) drawBands(surface, changes, bands);
  for (const [share, words] of yTicks) {
    const y = box.top + share * box.height;
    if (!outlined) surface.line([[box.left, y], [box.left + box.width, y]], { stroke: INK.rule, alpha: 0.6 });
    surface.text(words, box.left - 8, y + 4, { anchor: "end", fill: INK.quiet });
  }
  surface.clip(box.left, box.top, box.width, box.height, () => content(surface, box, (step) => place(axis.position(step))));
  if (outlined) drawBands(surface, changes, bands);
  surface.rect(box.left, box.top, box.width, box.height, { stroke: INK.quiet });
  for (const { position, text } of axis.ticks(box.width)) {
    const at = place(position);
    surface.line([[at, box.top + box.height], [at, box.top + box.height + 5]], { stroke: INK.quiet });
    surface.text(text, at, box.top + box.height + 18, { anchor: "middle", fill: INK.quiet });
  }
  surface.text(axis.label, box.left + box.width / 2, height - 12, { anchor: "middle", fill: INK.text });
  nameBands(surface, changes, axis, x, box);
}

function drawLegend(surface, legend) {
  let at = MARGIN.left;
  for (const [color, name] of legend) {
    surface.line([[at, 40], [at + 18, 40]], { stroke: color, width: 2.5 });
    surface.text(name, at + 24, 44, { fill: INK.quiet });
    at += 42 + 6.6 * name.length;
  }
}

// Over each band what it is, where there is room for it.
function nameBands(surface, changes, axis, x, box) {
  let free = -Infinity;
  const [first, last] = axis.range;
  for (const change of [...changes].sort((one, other) => one.step - other.step)) {
    const words = changeName(change);
    const at = x(change.step);
    const half = 3.1 * words.length;
    if (change.step < first || change.step > last || at - half < free || at + half > box.left + box.width + 20) continue;
    surface.text(words, at, box.top - 5, { size: 11, anchor: "middle", fill: INK.text });
    free = at + half + 8;
  }
}
