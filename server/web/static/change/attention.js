// The attention of a head over one sequence, before, during and after a change: pictures side by side that are pointed at
// together. A row is a query, a column a key; bright is attention.
//
//   const pictures = new AttentionPictures(figure, { name });
//   pictures.update({ words: ["self", …], panes: [{ title, step, values: Float32Array (n × n) }, …], n, note })
//
// Arrow keys walk over queries and keys.

import { element } from "../core/dom.js";
import { value, whole } from "../core/format.js";
import { cssColor, table } from "../core/palette.js";
import { CanvasSurface } from "../plots/surface.js";

const EDGE = 22; // pixels for the names of the axes
const PALETTE = "viridis";

export class AttentionPictures {
  #data = null;
  #at = null; // [query, key]
  #views = [];

  constructor(figure, { name }) {
    Object.assign(this, { figure, name });
    this.row = element("div", { class: "attention" });
    this.scale = element("div", { class: "attention-scale" });
    figure.body.append(this.row, this.scale);
    document.addEventListener("themechange", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(this.row);
    figure.offers({ name, draw: (...paper) => this.#paper(...paper), table: () => this.table() });
  }

  update(data) {
    this.#data = data;
    this.high = Math.max(...data.panes.map((pane) => pane.values.reduce((most, one) => (one > most ? one : most), 0)), 1e-6);
    this.#views = data.panes.map((pane) => this.#view(pane));
    this.row.replaceChildren(...this.#views.map((view) => view.place));
    this.#drawScale();
    this.draw();
  }

  #view(pane) {
    const canvas = element("canvas", { "aria-hidden": "true" });
    const label = `Attention ${pane.title}, step ${pane.step}: queries down, keys across; arrow keys walk`;
    const square = element("div", { class: "attention-square", tabindex: "0", role: "img", "aria-label": label, "data-step": pane.step }, canvas);
    square.addEventListener("pointermove", (event) => this.#point(event, square));
    square.addEventListener("pointerleave", () => this.#go(null));
    square.addEventListener("keydown", (event) => this.#key(event));
    square.addEventListener("blur", () => this.#go(null));
    const title = element("p", { class: "attention-title" }, element("strong", {}, pane.title), ` step ${whole(pane.step)}`);
    return { place: element("div", { class: "attention-pane" }, title, square), square, canvas, pane };
  }

  // The pattern as a picture of n × n pixels.
  picture(values) {
    const { n } = this.#data;
    const canvas = element("canvas", { width: n, height: n });
    const image = new ImageData(n, n);
    const pixels = new Uint32Array(image.data.buffer);
    const colors = table(PALETTE, false);
    for (let cell = 0; cell < n * n; cell += 1) {
      const future = cell % n > Math.floor(cell / n); // keys after the query, which a causal head cannot see
      if (!(future && values[cell] === 0)) pixels[cell] = colors[Math.round(Math.min(Math.max(values[cell] / this.high, 0), 1) * 255)];
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }

  draw() {
    if (this.#data === null) return;
    const { n } = this.#data;
    for (const { square, canvas, pane } of this.#views) {
      const side = square.clientWidth;
      if (side < 20) return;
      Object.assign(canvas, { width: Math.round(side * devicePixelRatio), height: Math.round(side * devicePixelRatio) });
      Object.assign(canvas.style, { width: `${side}px`, height: `${side}px` });
      const context = canvas.getContext("2d");
      context.scale(devicePixelRatio, devicePixelRatio);
      const surface = new CanvasSurface(context);
      const size = side - EDGE;
      surface.rect(EDGE, EDGE, size, size, { fill: cssColor("--sunk") });
      surface.picture(this.picture(pane.values), EDGE, EDGE, size, size);
      surface.text("key →", EDGE, EDGE - 7, { size: 11, fill: cssColor("--quiet") });
      surface.text("← query", EDGE - 8, EDGE + 46, { size: 11, fill: cssColor("--quiet"), turn: -90 });
      if (this.#at === null) continue;
      const [cell, [query, key]] = [size / n, this.#at];
      surface.rect(EDGE, EDGE + query * cell, size, cell, { stroke: "#ffffff", alpha: 0.5 });
      surface.rect(EDGE + key * cell, EDGE, cell, size, { stroke: "#ffffff", alpha: 0.5 });
      surface.rect(EDGE + key * cell - 1, EDGE + query * cell - 1, cell + 2, cell + 2, { stroke: "#ff5a36", width: 2 });
    }
  }

  #point(event, square) {
    const [corner, { n }] = [square.getBoundingClientRect(), this.#data];
    const cell = (square.clientWidth - EDGE) / n;
    const [key, query] = [Math.floor((event.clientX - corner.left - EDGE) / cell), Math.floor((event.clientY - corner.top - EDGE) / cell)];
    this.#go(query >= 0 && query < n && key >= 0 && key < n ? [query, key] : null);
  }

  #key(event) {
    const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (by === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const { n } = this.#data;
    const from = this.#at ?? [n - 1, 0];
    this.#go(from.map((one, axis) => Math.min(Math.max(one + by[axis] * (event.shiftKey ? 10 : 1), 0), n - 1)));
  }

  #go(at) {
    this.#at = at;
    this.figure.read(at === null ? "" : this.words(...at));
    this.draw();
  }

  words(query, key) {
    const { n, words, panes } = this.#data;
    const shares = panes.map((pane) => `${pane.title} ${value(pane.values[query * n + key], 3)}`).join(", ");
    return `query ${query} “${words[query]}” to key ${key} “${words[key]}”: ${shares}`;
  }

  #drawScale() {
    const strip = element("canvas", { width: 256, height: 1, "aria-hidden": "true" });
    const image = new ImageData(256, 1);
    new Uint32Array(image.data.buffer).set(table(PALETTE, false));
    strip.getContext("2d").putImageData(image, 0, 0);
    this.scale.replaceChildren("0", strip, `${value(this.high, 3)} of a query's attention`, element("span", { class: "unit" }, this.#data.note));
  }

  table() {
    const { n, words, panes } = this.#data;
    const rows = [];
    for (let query = 0; query < n; query += 1) {
      for (let key = 0; key <= query; key += 1) rows.push([query, words[query], key, words[key], ...panes.map((pane) => pane.values[query * n + key])]);
    }
    return { columns: ["query", "query text", "key", "key text", ...panes.map((pane) => `step ${pane.step}`)], rows };
  }

  #paper(surface, width, height) {
    const { panes } = this.#data;
    surface.text(this.figure.title, 24, 28, { size: 16, weight: 600, fill: "#17202b" });
    surface.text(`${this.#data.note} Queries down, keys across; 0 to ${value(this.high, 3)} (${PALETTE}).`, 24, 48, { fill: "#4a5565" });
    const side = Math.min((width - 24 * (panes.length + 1)) / panes.length, height - 108);
    panes.forEach((pane, index) => {
      const x = 24 + index * (side + 24);
      surface.text(`${pane.title}, step ${pane.step}`, x, 80, { size: 13, weight: 600, fill: "#17202b" });
      surface.picture(this.picture(pane.values), x, 90, side, side);
      surface.rect(x, 90, side, side, { stroke: "#4a5565" });
    });
  }
}
