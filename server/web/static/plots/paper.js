// A plot for paper: frame, axes, bands and legend around what a plot draws, on white, the same as PNG and as SVG.
//
//   drawPaper(surface, width, height, { figure, axis, changes, yTicks: [[share, words]], legend: [[color, name]],
//             right: pixels kept free at the right, content: (surface, box, x) => … })

import { COLORS, drawBands, nameBands } from "./bands.js";

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
  const [first, last] = axis.range;
  nameBands(surface, changes, { x, top: box.top - 5, left: box.left, right: box.left + box.width, first, last, fill: INK.text });
}

function drawLegend(surface, legend) {
  let at = MARGIN.left;
  for (const [color, name] of legend) {
    surface.line([[at, 40], [at + 18, 40]], { stroke: color, width: 2.5 });
    surface.text(name, at + 24, 44, { fill: INK.quiet });
    at += 42 + 6.6 * name.length;
  }
}
