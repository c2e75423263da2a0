// Points with intervals: one thing of each run against another, or by treatment, on axes that may be logarithmic.
//
//   const plot = new DotPlot(figure, { name: "change-times", height: 260 });
//   plot.update({ points: [{ x, y, low, high, color, paperColor, name, words, open }], rows: ["a", "aa"] or null,
//                 xLabel, logX, logY })
// With `rows` y is an index into them; low and high lie along x then, else along y. open: an empty triangle, a bound
// (nothing up to there). Arrow keys walk over the points and say what they are.

import { element } from "../core/dom.js";
import { compact, value } from "../core/format.js";
import { category, cssColor } from "../core/palette.js";
import { evenly } from "./axis.js";
import { CanvasSurface } from "./surface.js";

const PAPER = { text: "#1b2430", quiet: "#4a5565", rule: "#d5dbe2" };

export class DotPlot {
  #data = null;
  #at = null;
  #places = [];

  constructor(figure, { name, height = 260 }) {
    Object.assign(this, { figure, name, height });
    this.canvas = element("canvas", { "aria-hidden": true });
    this.place = element("div", { class: "dots", tabindex: "0", role: "img", "aria-label": `${figure.title}: arrow keys walk over the runs` }, this.canvas);
    figure.body.replaceChildren(this.place);
    document.addEventListener("themechange", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(this.place);
    this.place.addEventListener("pointermove", (event) => this.#point(event));
    this.place.addEventListener("pointerleave", () => this.#show(null));
    this.place.addEventListener("blur", () => this.#show(null));
    this.place.addEventListener("keydown", (event) => this.#walk(event));
    figure.offers({
      name,
      draw: (surface, width, height_) => this.#paint(surface, width, height_, PAPER, true),
      table: () => this.#table(),
    });
  }

  update(data) {
    this.#data = data;
    this.draw();
  }

  draw() {
    if (this.#data === null || !this.canvas.isConnected) return;
    const [width, height] = [Math.max(this.place.clientWidth, 200), this.#height()];
    const scale = devicePixelRatio;
    Object.assign(this.canvas, { width: width * scale, height: height * scale });
    Object.assign(this.canvas.style, { width: `${width}px`, height: `${height}px`, display: "block" });
    const context = this.canvas.getContext("2d");
    context.scale(scale, scale);
    const colors = { text: cssColor("--text"), quiet: cssColor("--quiet"), rule: cssColor("--grid") };
    this.#places = this.#paint(new CanvasSurface(context), width, height, colors, false);
  }

  #height() {
    return this.#data.rows === null ? this.height : Math.max(110, 64 + 34 * this.#data.rows.length);
  }

  #paint(surface, width, height, colors, paper) {
    const { points, rows, xLabel, logX, logY } = this.#data;
    const longest = rows === null ? 0 : Math.max(...rows.map((row) => row.length));
    const left = rows === null ? 62 : Math.min(14 + 6.6 * longest, width * 0.4);
    const box = { left, top: paper ? 44 : 12, width: width - left - 22, height: height - (paper ? 100 : 58) };
    const ends = (of) => points.flatMap(of).filter(Number.isFinite);
    const x = scale(ends((one) => [one.x, ...(rows ? [one.low, one.high] : [])]), logX, box.width);
    const y = rows === null ? scale(ends((one) => [one.y, one.low, one.high]), logY, box.height) : null;
    const placeY = (at) => (rows === null ? box.top + box.height - y.place(at) : box.top + ((at + 0.5) / rows.length) * box.height);
    const placeX = (at) => box.left + x.place(at);
    if (paper) surface.text(this.figure.title, 16, 24, { size: 16, weight: 600, fill: colors.text });
    this.#axes(surface, box, { x, y, rows, placeX, placeY, xLabel, colors, height });
    return points.map((one, index) => {
      const color = paper ? one.paperColor : one.color;
      const spread = rows === null ? 0 : 4 * ((index % 3) - 1); // runs of one treatment do not hide each other
      const [px, py] = [placeX(one.x), placeY(one.y) + spread];
      if (Number.isFinite(one.low) && Number.isFinite(one.high)) {
        const bar = rows === null ? [[px, placeY(one.low)], [px, placeY(one.high)]] : [[placeX(one.low), py], [placeX(one.high), py]];
        surface.line(bar, { stroke: color, width: 2, alpha: 0.7 });
      }
      if (one.open) surface.line([[px - 4, py - 5], [px + 5, py], [px - 4, py + 5], [px - 4, py - 5]], { stroke: color, width: 1.8 });
      else surface.dot(px, py, 4.5, { fill: color, stroke: paper ? "#ffffff" : cssColor("--raised") });
      if (!paper && index === this.#at) surface.dot(px, py, 2, { fill: colors.text });
      return [px, py];
    });
  }

  #axes(surface, box, { x, y, rows, placeX, placeY, xLabel, colors, height }) {
    const bottom = box.top + box.height;
    for (const at of x.ticks) {
      surface.line([[placeX(at), box.top], [placeX(at), bottom]], { stroke: colors.rule });
      surface.text(compact(at), placeX(at), bottom + 16, { anchor: "middle", fill: colors.quiet });
    }
    for (const at of y?.ticks ?? []) {
      surface.line([[box.left, placeY(at)], [box.left + box.width, placeY(at)]], { stroke: colors.rule });
      surface.text(y.log ? compact(at) : value(Number(at.toPrecision(8))), box.left - 8, placeY(at) + 4, { anchor: "end", fill: colors.quiet });
    }
    for (const [index, row] of (rows ?? []).entries()) {
      const most = Math.floor(box.left / 6.6) - 1;
      const words = row.length > most ? `${row.slice(0, most - 1)}…` : row;
      surface.text(words, box.left - 8, placeY(index) + 4, { anchor: "end", fill: colors.text });
      surface.line([[box.left, placeY(index)], [box.left + box.width, placeY(index)]], { stroke: colors.rule });
    }
    surface.line([[box.left, box.top], [box.left, bottom], [box.left + box.width, bottom]], { stroke: colors.quiet });
    surface.text(xLabel, box.left + box.width / 2, height - 8, { anchor: "middle", fill: colors.text });
  }

  #point(event) {
    const { left, top } = this.place.getBoundingClientRect();
    const [x, y] = [event.clientX - left, event.clientY - top];
    const distances = this.#places.map(([px, py]) => Math.hypot(px - x, py - y));
    const nearest = Math.min(...distances);
    this.#show(nearest < 24 ? distances.indexOf(nearest) : null);
  }

  #walk(event) {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const count = this.#data?.points.length ?? 0;
    if (!by || !count) return;
    event.preventDefault();
    this.#show(this.#at === null ? (by > 0 ? 0 : count - 1) : (this.#at + by + count) % count);
  }

  #show(at) {
    if (at === this.#at) return;
    this.#at = at;
    this.figure.read(at === null ? "" : this.#data.points[at].words);
    this.draw();
  }

  #table() {
    const { points, rows, xLabel } = this.#data;
    const columns = ["run", rows === null ? this.figure.unit : "treatment", xLabel, "low", "high", "a bound"];
    return { columns, rows: points.map((one) => [one.name, rows === null ? one.y : rows[one.y], one.x, one.low, one.high, one.open ? "yes" : ""]) };
  }
}

// Where a value lies on an axis of that many pixels, and which values are written beside it.
function scale(values, log, pixels) {
  const turn = log ? (one) => Math.log(Math.max(one, 1e-12)) : (one) => one;
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (!values.length) [low, high] = [1, 10];
  if (low === high) [low, high] = log ? [low / 2, high * 2] : [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
  const room = 0.06 * (turn(high) - turn(low));
  const [from, to] = [turn(low) - room, turn(high) + room];
  const place = (one) => ((turn(one) - from) / (to - from)) * pixels;
  const [first, last] = log ? [Math.exp(from), Math.exp(to)] : [from, to];
  const wide = log ? decades(first, last) : [];
  const ticks = wide.length >= 3 ? wide : evenly(first, last, Math.min(pixels / 90, 6));
  return { place, log, ticks: apart(ticks, place) };
}

function decades(from, to) {
  const found = [];
  for (let power = 10 ** Math.floor(Math.log10(from)); power <= to; power *= 10) {
    for (const factor of [1, 2, 3, 5, 7]) if (factor * power >= from && factor * power <= to) found.push(factor * power);
  }
  return found;
}

function apart(ticks, place) {
  const kept = [];
  for (const one of ticks) if (!kept.length || Math.abs(place(one) - place(kept.at(-1))) >= 44) kept.push(one);
  return kept;
}

export const groupColors = (index) => ({ color: category(index), paperColor: category(index, false) });
