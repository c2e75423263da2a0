// A heat map over the shared step axis: a row a head (or a position), a column a checkpoint, on canvas.
//
//   const plot = new HeatPlot(figure, axis, { name: "heads", palette: "viridis", rowName: "head" });
//   plot.update({ steps, rows: ["L0H0", …], values, changes, range: [low, high] or null, note: "chance 0.04", gaps: [12, …] })
//   plot.onRow((index) => …); plot.select(index)
//
// values: Float32Array, steps × rows. Where checkpoints share a pixel the one furthest from the scale's zero is shown, so
// that a spike stays seen. palette "gain" puts zero in the middle. gaps: rows before which a thin line is drawn. Arrow up
// and down choose a row, Enter takes it.

import { element } from "../core/dom.js";
import { value } from "../core/format.js";
import { cssColor, table } from "../core/palette.js";
import { nearest } from "./axis.js";
import { drawBands } from "./bands.js";
import { walk } from "./keys.js";
import { drawPaper } from "./paper.js";
import { CanvasSurface } from "./surface.js";

const MARGIN = { left: 60, right: 10, top: 8, bottom: 34 };

export class HeatPlot {
  #data = null;
  #row = null; // under the pointer
  #chosen = null;
  #listeners = new Set();
  #drag = null;
  #asked = false;

  constructor(figure, axis, { name, palette = "viridis", rowName = "row", height = null }) {
    Object.assign(this, { figure, axis, name, palette, rowName, wanted: height });
    this.place = element("div", { class: "heat", tabindex: "0", role: "img", "aria-label": `${figure.title}: arrow keys walk over checkpoints and rows, Enter chooses a row` });
    this.canvas = element("canvas", {});
    this.over = element("canvas", { class: "over" });
    this.scale = element("div", { class: "colour-scale" });
    this.place.append(this.canvas, this.over);
    figure.body.replaceChildren(this.place, this.scale);
    const step = (by) => () => this.#point((this.#row ?? this.#chosen ?? 0) + by);
    walk(this.place, axis, () => this.#data?.steps ?? [], { up: step(-1), down: step(1), enter: () => this.#take(this.#row) });
    this.#listen();
    axis.onChange(() => this.draw());
    axis.onHover(() => this.#drawOver());
    document.addEventListener("themechange", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(this.place);
    figure.offers({ name, draw: (...paper) => this.#paper(...paper), table: () => this.table() });
  }

  onRow(listener) {
    this.#listeners.add(listener);
  }

  select(index) {
    this.#chosen = index;
    this.#drawOver();
  }

  update(data) {
    this.#data = { changes: [], note: "", gaps: [], range: null, ...data };
    this.#data.range ??= this.#spread();
    this.axis.cover(data.steps);
    this.draw();
  }

  #spread() {
    let [low, high] = [Infinity, -Infinity];
    for (const one of this.#data.values) {
      if (!Number.isFinite(one)) continue;
      low = Math.min(low, one);
      high = Math.max(high, one);
    }
    if (low > high) return [0, 1];
    if (this.palette === "gain") return [-Math.max(Math.abs(low), Math.abs(high)), Math.max(Math.abs(low), Math.abs(high))];
    return [Math.min(0, low), high > Math.min(0, low) ? high : low + 1];
  }

  get height() {
    return this.wanted ?? Math.min(Math.max(this.#data.rows.length * Math.min(Math.max(220 / this.#data.rows.length, 3), 26), 110), 520);
  }

  // Once a frame, however often it is asked for.
  draw() {
    if (this.#asked || this.#data === null) return;
    this.#asked = true;
    requestAnimationFrame(() => {
      this.#asked = false;
      this.#drawNow();
    });
  }

  #box() {
    const width = Math.max(this.place.clientWidth, 200) - MARGIN.left - MARGIN.right;
    return { left: MARGIN.left, top: MARGIN.top, width, height: this.height };
  }

  #drawNow() {
    const box = this.#box();
    const [width, height] = [box.width + MARGIN.left + MARGIN.right, box.height + MARGIN.top + MARGIN.bottom];
    for (const canvas of [this.canvas, this.over]) {
      Object.assign(canvas, { width: Math.round(width * devicePixelRatio), height: Math.round(height * devicePixelRatio) });
      Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
    }
    const context = this.canvas.getContext("2d");
    context.scale(devicePixelRatio, devicePixelRatio);
    const surface = new CanvasSurface(context);
    surface.picture(this.picture(Math.round(box.width)), box.left, box.top, box.width, box.height);
    const ink = cssColor("--quiet");
    drawBands(surface, this.#data.changes, { x: this.#toX(box), top: box.top, height: box.height, last: this.axis.range[1], outlined: true });
    for (const [share, words] of this.#rowTicks(box.height)) {
      surface.text(words, box.left - 6, box.top + share * box.height + 4, { anchor: "end", fill: ink });
    }
    const [low, high] = this.axis.domain();
    for (const { position, text } of this.axis.ticks(box.width)) {
      const x = box.left + ((position - low) / (high - low)) * box.width;
      surface.line([[x, box.top + box.height], [x, box.top + box.height + 5]], { stroke: cssColor("--rule") });
      surface.text(text, x, box.top + box.height + 20, { anchor: "middle", fill: ink });
    }
    this.#drawScale();
    this.#drawOver();
  }

  #toX(box) {
    const [low, high] = this.axis.domain();
    return (step) => {
      const share = (this.axis.position(step) - low) / (high - low);
      return box.left + Math.min(Math.max(share, 0), 1) * box.width;
    };
  }

  // The cells as they are, a pixel of the canvas a column and a row.
  picture(width, dark = undefined) {
    const { rows, values, range } = this.#data;
    const canvas = element("canvas", { width, height: rows.length });
    const image = new ImageData(width, rows.length);
    const pixels = new Uint32Array(image.data.buffer);
    const colors = table(this.palette, dark);
    const toColor = 255 / (range[1] - range[0]);
    const columns = this.#columns(width);
    for (let row = 0; row < rows.length; row += 1) {
      for (let column = 0; column < width; column += 1) {
        const [from, to] = [columns[2 * column], columns[2 * column + 1]];
        let shown = values[from * rows.length + row];
        for (let step = from + 1; step <= to; step += 1) {
          const other = values[step * rows.length + row];
          if (Math.abs(other) > Math.abs(shown) || Number.isNaN(shown)) shown = other;
        }
        if (Number.isFinite(shown)) pixels[row * width + column] = colors[Math.min(Math.max(Math.round((shown - range[0]) * toColor), 0), 255)];
      }
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }

  // For each pixel the first and the last checkpoint it shows: those inside it, else the nearest one.
  #columns(width) {
    const { steps } = this.#data;
    const [low, high] = this.axis.domain();
    const per = (high - low) / width;
    const places = Float64Array.from(steps, (step) => this.axis.position(step));
    const found = new Int32Array(2 * width);
    let at = 0;
    for (let column = 0; column < width; column += 1) {
      const [left, right] = [low + column * per, low + (column + 1) * per];
      while (at < places.length && places[at] < left) at += 1;
      let end = at;
      while (end < places.length && places[end] < right) end += 1;
      const middle = (left + right) / 2;
      const before = at > 0 && (at === places.length || middle - places[at - 1] < places[at] - middle) ? at - 1 : at;
      found.set(end > at ? [at, end - 1] : [before, before], 2 * column);
    }
    return found;
  }

  #rowTicks(height) {
    const { rows } = this.#data;
    const every = Math.ceil((15 * rows.length) / height);
    const nice = every > 1 && this.#data.gaps.length ? this.#data.gaps : null;
    const named = nice ? [0, ...nice] : [...rows.keys()].filter((row) => row % every === 0);
    return named.map((row) => [(row + 0.5) / rows.length, rows[row]]);
  }

  #drawOver() {
    if (this.#data === null || !this.over.width) return;
    const box = this.#box();
    const context = this.over.getContext("2d");
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, this.over.width, this.over.height);
    const surface = new CanvasSurface(context);
    const { rows, steps } = this.#data;
    const rowHeight = box.height / rows.length;
    for (const [row, width] of [[this.#chosen, 2], [this.#row, 1]]) {
      if (row === null) continue;
      surface.rect(box.left - 1, box.top + row * rowHeight - 1, box.width + 2, rowHeight + 2, { stroke: cssColor("--text"), width });
    }
    const step = this.axis.step0;
    if (this.#drag !== null) surface.rect(Math.min(...this.#drag), box.top, Math.abs(this.#drag[1] - this.#drag[0]), box.height, { fill: cssColor("--text"), alpha: 0.2 });
    if (step === null) {
      this.figure.read("");
      return;
    }
    const at = nearest(this.axis, steps, step);
    const x = this.#toX(box)(steps[at]);
    surface.line([[x, box.top], [x, box.top + box.height]], { stroke: cssColor("--text"), alpha: 0.7 });
    const row = this.#row ?? this.#chosen;
    const words = row === null ? "" : `, ${rows[row]}: ${value(this.#data.values[at * rows.length + row])}`;
    this.figure.read(`step ${steps[at]}${words}`);
  }

  #listen() {
    const place = (event) => {
      const [corner, box] = [this.place.getBoundingClientRect(), this.#box()];
      const [x, y] = [event.clientX - corner.left, event.clientY - corner.top];
      const inside = x >= box.left && x <= box.left + box.width && y >= box.top && y < box.top + box.height;
      const [low, high] = this.axis.domain();
      const step = this.axis.step(low + ((x - box.left) / box.width) * (high - low));
      return { x, inside, step, row: Math.floor(((y - box.top) / box.height) * this.#data.rows.length) };
    };
    this.place.addEventListener("pointermove", (event) => {
      if (this.#data === null) return;
      const { x, inside, step, row } = place(event);
      if (this.#drag !== null) this.#drag[1] = x;
      this.#row = inside ? row : null;
      this.axis.hover(inside ? Math.max(0, Math.round(step)) : null, this);
      this.#drawOver();
    });
    this.place.addEventListener("pointerleave", () => {
      this.#row = this.#drag = null;
      this.axis.hover(null, this);
      this.#drawOver();
    });
    this.place.addEventListener("pointerdown", (event) => {
      if (this.#data !== null && event.button === 0 && place(event).inside) this.#drag = [place(event).x, place(event).x];
    });
    this.place.addEventListener("pointerup", (event) => {
      if (this.#drag === null) return;
      const [from, to] = this.#drag;
      this.#drag = null;
      const { row, inside } = place(event);
      if (Math.abs(to - from) > 4) this.#zoom(from, to);
      else if (inside) this.#take(row);
    });
    this.place.addEventListener("dblclick", () => this.axis.reset());
  }

  #zoom(...places) {
    const box = this.#box();
    const [low, high] = this.axis.domain();
    this.axis.zoom(...places.map((x) => this.axis.step(low + ((x - box.left) / box.width) * (high - low))));
  }

  #point(row) {
    this.#row = Math.min(Math.max(row, 0), this.#data.rows.length - 1);
    if (this.axis.step0 === null) this.axis.hover(this.#data.steps.at(-1), this);
    this.#drawOver();
  }

  #take(row) {
    if (row === null) return;
    this.select(row);
    for (const listener of this.#listeners) listener(row);
  }

  #drawScale() {
    const [low, high] = this.#data.range;
    const canvas = element("canvas", { width: 256, height: 1, "aria-hidden": true });
    const image = new ImageData(256, 1);
    new Uint32Array(image.data.buffer).set(table(this.palette));
    canvas.getContext("2d").putImageData(image, 0, 0);
    this.scale.replaceChildren(value(low, 3), canvas, value(high, 3), element("span", { class: "unit" }, this.#data.note));
  }

  table() {
    const { steps, rows, values } = this.#data;
    return { columns: ["step", ...rows], rows: Array.from(steps, (step, at) => [step, ...values.subarray(at * rows.length, (at + 1) * rows.length)]) };
  }

  #paper(surface, width, height) {
    drawPaper(surface, width, height, {
      figure: this.figure, axis: this.axis, changes: this.#data.changes, outlined: true, right: 76,
      yTicks: this.#rowTicks(height - 110),
      content: (inner, box) => inner.picture(this.picture(Math.round(box.width), false), box.left, box.top, box.width, box.height),
    });
    const bar = element("canvas", { width: 1, height: 256 });
    const image = new ImageData(1, 256);
    new Uint32Array(image.data.buffer).set([...table(this.palette, false)].reverse());
    bar.getContext("2d").putImageData(image, 0, 0);
    const [left, top, size] = [width - 84, 58, height - 110];
    surface.picture(bar, left, top, 14, size);
    this.#data.range.forEach((one, end) => surface.text(value(one, 3), left + 20, end ? top + 9 : top + size, { fill: "#4a5565" }));
  }
}
