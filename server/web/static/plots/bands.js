// Phase changes as bands: from start to end, paler over the intervals of both, a line in the middle.
//
//   drawBands(surface, changes, { x: (step) => pixel, top, height, outlined, first, last })   x is clamped to what is seen
//   nameBands(surface, changes, { x, top, left, right, first, last, fill }), changeName(change), changeTime(change)

import { plural } from "../core/format.js";
import { cssColor } from "../core/palette.js";

const PAPER = { induction: "#cc79a7", other: "#7a8796" };
export const COLORS = {
  screen: () => ({ induction: cssColor("--induction"), other: cssColor("--change") }),
  paper: () => PAPER,
};

export function changeName(change) {
  if (change.induction) return "induction heads form";
  const what = change.measure.split(":")[0].replaceAll("_", " ");
  if (change.kind === "hidden") return change.n_tokens ? `hidden: ${plural(change.n_tokens, "token")}` : "hidden change";
  return `${what} ${change.direction === "drop" ? "falls" : "rises"}`;
}

export const changeTime = (change) =>
  change.end_step === null ? `from step ${change.start_step}, not over` : `steps ${change.start_step} to ${change.end_step}`;

// What lies in sight, in the order it is painted: the change that matters most last.
export const inOrder = (changes) => [...changes].sort((one, other) => Number(one.induction) - Number(other.induction));

export function drawBands(surface, changes, { x, top, height, last, outlined = false, colors = COLORS.screen() }) {
  for (const change of inOrder(changes)) {
    const color = change.induction ? colors.induction : colors.other;
    const alpha = change.induction ? 0.3 : 0.17;
    const end = change.end_step ?? last;
    const strip = (from, to, strength) => {
      const [left, right] = [x(from), x(to)];
      if (right > left) surface.rect(left, top, right - left, height, { fill: color, alpha: strength });
    };
    if (outlined) {
      surface.line([[x(change.start_step), top], [x(change.start_step), top + height]], { stroke: color, width: 1.5 });
      surface.line([[x(end), top], [x(end), top + height]], { stroke: color, width: 1.5 });
    } else {
      const least = Math.max(x(end), x(change.start_step) + 1.5);
      surface.rect(x(change.start_step), top, least - x(change.start_step), height, { fill: color, alpha });
      if (change.start_interval) strip(change.start_interval[0], change.start_step, alpha / 3);
      if (change.end_interval && change.end_step !== null) strip(change.end_step, change.end_interval[1], alpha / 3);
    }
    const middle = x(change.step);
    surface.line([[middle, top], [middle, top + height]], { stroke: color, width: 1.5, dash: [5, 3] });
    if (change.step_interval) whisker(surface, change.step_interval.map(x), top + 5, color);
  }
}

// Over each band what it is, where there is room for it; x as for drawBands, first and last the steps in sight.
export function nameBands(surface, changes, { x, top, left, right, first, last, fill }) {
  const placed = [];
  for (const change of inOrder(changes).reverse()) {
    if (change.step < first || change.step > last) continue;
    const words = changeName(change);
    const half = 3.3 * words.length;
    const at = Math.min(Math.max(x(change.step), left + half), right - half);
    if (placed.some((other) => Math.abs(other.at - at) < other.half + half + 8)) continue;
    placed.push({ at, half, words });
  }
  for (const { at, words } of placed) surface.text(words, at, top, { size: 11, anchor: "middle", fill });
}

// The interval of the middle, as an error bar at the top.
function whisker(surface, [left, right], y, color) {
  surface.line([[left, y], [right, y], null, [left, y - 3], [left, y + 3], null, [right, y - 3], [right, y + 3]], { stroke: color, width: 1.5 });
}
