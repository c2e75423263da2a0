// Checkpoints as points in two components, joined in the order of training, coloured by step.
//
//   const plot = new PathPlot(figure, axis, { name: "trajectory" });
//   plot.update({ steps, x, y, xLabel, yLabel, changes })
//
// The checkpoint under the pointer is the one that all plots of the page show; arrow keys walk.

import { element } from "../core/dom.js";
import { value } from "../core/format.js";
import { css, cssColor, ramp } from "../core/palette.js";
import { evenly, nearest } from "./axis.js";
import { walk } from "./keys.js";
import { CanvasSurface } from "./surface.js";

const MARGIN = { left: 60, right: 16, top: 10, bottom: 40 };
const INK = { text: "#1b2430", quiet: "#4a5565", rule: "#c9d0d8" };

export class PathPlot {
  #data = null;
  #asked = false;

  constructor(figure, axis, { name, height = 340 }) {
    Object.assign(this, { figure, axis, height });
    this.place = element("div", { class: "heat", tabindex: "0", role: "img", "aria-label": `${figure.title}: arrow keys walk over the checkpoints` });
    this.canvas = element("canvas", {});
    this.place.append(this.canvas);
    figure.body.replaceChildren(this.place);
    walk(this.place, axis, () => this.#data?.steps ?? []);
    axis.onHover(() => this.draw());
    axis.onChange(() => this.draw());
    document.addEventListener("themechange", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(this.place);
    this.place.addEventListener("pointermove", (event) => this.#hover(event));
    this.place.addEventListener("pointerleave", () => axis.hover(null, this));
    figure.offers({ name, draw: (...paper) => this.#paper(...paper), table: () => this.table() });
  }

  update(data) {
    this.#data = data;
    this.draw();
  }

  draw() {
    if (this.#asked || this.#data === null) return;
    this.#asked = true;
    requestAnimationFrame(() => {
      this.#asked = false;
      this.#drawNow();
    });
  }

  #drawNow() {
    const width = Math.max(this.place.clientWidth, 200);
    Object.assign(this.canvas, { width: Math.round(width * devicePixelRatio), height: Math.round(this.height * devicePixelRatio) });
    Object.assign(this.canvas.style, { width: `${width}px`, height: `${this.height}px` });
    const context = this.canvas.getContext("2d");
    context.scale(devicePixelRatio, devicePixelRatio);
    const ink = { text: cssColor("--text"), quiet: cssColor("--quiet"), rule: cssColor("--grid") };
    this.#picture(new CanvasSurface(context), this.#box(width, this.height, MARGIN.top), ink);
  }

  #box(width, height, top) {
    return { left: MARGIN.left, top, width: width - MARGIN.left - MARGIN.right, height: height - top - MARGIN.bottom };
  }

  #places({ left, top, width, height }) {
    const [spanX, spanY] = [spread(this.#data.x), spread(this.#data.y)];
    const x = (one) => left + ((one - spanX[0]) / (spanX[1] - spanX[0])) * width;
    const y = (one) => top + (1 - (one - spanY[0]) / (spanY[1] - spanY[0])) * height;
    return { spanX, spanY, x, y, points: this.#data.steps.map((_, at) => [x(this.#data.x[at]), y(this.#data.y[at])]) };
  }

  #picture(surface, box, ink, dark = undefined) {
    const { spanX, spanY, x, y, points } = this.#places(box);
    const bottom = box.top + box.height;
    for (const tick of evenly(...spanX, box.width / 90)) {
      surface.line([[x(tick), box.top], [x(tick), bottom]], { stroke: ink.rule });
      surface.text(value(Number(tick.toPrecision(8))), x(tick), bottom + 16, { anchor: "middle", fill: ink.quiet });
    }
    for (const tick of evenly(...spanY, box.height / 50)) {
      surface.line([[box.left, y(tick)], [box.left + box.width, y(tick)]], { stroke: ink.rule });
      surface.text(value(Number(tick.toPrecision(8))), box.left - 8, y(tick) + 4, { anchor: "end", fill: ink.quiet });
    }
    surface.text(this.#data.xLabel, box.left + box.width / 2, bottom + 34, { anchor: "middle", fill: ink.quiet });
    surface.text(this.#data.yLabel, 14, box.top + box.height / 2, { anchor: "middle", fill: ink.quiet, turn: -90 });
    surface.line(points, { stroke: ink.quiet, width: 1, alpha: 0.6 });
    const color = ramp("viridis", dark);
    const [low, high] = this.axis.extent.map((step) => this.axis.position(step));
    this.#data.steps.forEach((step, at) => {
      const inside = this.#data.changes.some((one) => one.induction && step >= one.start_step && step <= (one.end_step ?? Infinity));
      const fill = css(color((this.axis.position(step) - low) / (high - low)));
      surface.dot(points[at][0], points[at][1], inside ? 5 : 3.5, { fill, stroke: inside ? "#cc79a7" : null });
    });
    [0, points.length - 1].forEach((at) => surface.text(`step ${this.#data.steps[at]}`, points[at][0] + (at && points[at][0] > box.left + box.width / 2 ? -8 : 8), points[at][1] - 8, { fill: ink.text, anchor: at && points[at][0] > box.left + box.width / 2 ? "end" : "start" }));
    const shown = this.axis.step0 === null ? -1 : nearest(this.axis, this.#data.steps, this.axis.step0);
    if (shown < 0 || dark === false) this.figure.read("");
    else {
      surface.dot(...points[shown], 6, { fill: "transparent", stroke: ink.text });
      this.figure.read(`step ${this.#data.steps[shown]}: ${value(this.#data.x[shown])}, ${value(this.#data.y[shown])}`);
    }
  }

  #hover(event) {
    if (this.#data === null) return;
    const corner = this.place.getBoundingClientRect();
    const { points } = this.#places(this.#box(Math.max(this.place.clientWidth, 200), this.height, MARGIN.top));
    const far = points.map(([px, py]) => Math.hypot(px - (event.clientX - corner.left), py - (event.clientY - corner.top)));
    const at = far.indexOf(Math.min(...far));
    this.axis.hover(far[at] < 30 ? this.#data.steps[at] : null, this);
  }

  table() {
    const { steps, x, y } = this.#data;
    return { columns: ["step", this.#data.xLabel, this.#data.yLabel], rows: steps.map((step, at) => [step, x[at], y[at]]) };
  }

  #paper(surface, width, height) {
    surface.text(this.figure.title, MARGIN.left, 24, { size: 16, weight: 600, fill: INK.text });
    surface.text(this.figure.unit, width - MARGIN.right, 24, { anchor: "end", fill: INK.quiet });
    this.#picture(surface, this.#box(width, height, 44), INK, false);
  }
}

function spread(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const space = (high - low) * 0.06 || 1;
  return [low - space, high + space];
}
