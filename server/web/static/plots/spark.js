// A sparkline: a curve without axes, for a table. `spark(values, words, places)` gives an element; words say what it
// shows, places where the values lie from left to right (default: evenly). Null where there are fewer than two.

import { svgElement } from "../core/dom.js";

const [WIDTH, HEIGHT] = [120, 28];

export function spark(values, words, places = values.map((_, index) => index)) {
  const finite = values.filter(Number.isFinite);
  if (finite.length < 2) return null;
  const [low, high] = [Math.min(...finite), Math.max(...finite)];
  const place = (one, index) => [
    1 + ((places[index] - places[0]) / (places.at(-1) - places[0] || 1)) * (WIDTH - 2), 2 + (1 - (one - low) / (high - low || 1)) * (HEIGHT - 4),
  ];
  let [path, pen] = ["", "M"];
  values.forEach((one, index) => {
    const there = Number.isFinite(one);
    if (there) path += pen + place(one, index).map((at) => at.toFixed(1)).join(" ");
    pen = there ? "L" : "M";
  });
  const picture = svgElement("svg", { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": words });
  picture.append(svgElement("path", { d: path }));
  return picture;
}
