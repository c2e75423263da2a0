// The window of tokens on the screen: two canvases over one another that scroll together. The colours are painted anew at
// every checkpoint, the text only when something moves, so that twenty thousand tokens play smoothly.
//
//   const view = new TokenCanvas(place, { onPoint: (index) => …, onChoose: (index) => … });
//   view.setTokens({ pieces, nTokens }); view.setView("text"); view.paint({ levels, pixels, step })
//   view.mark({ members, found, chosen }); view.show(index)
//
// levels: Int16Array, a level of the scale a token, −1 for none. Arrow keys walk over tokens and lines.

import { element } from "../core/dom.js";
import { cssColor } from "../core/palette.js";
import { layOut, neighbour, SIZES } from "./layout.js";
import { breaksAfter, breaksBefore, visible } from "./visible.js";

const FAMILY = 'ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace';
const FADED = 0.38;

export const fontOf = (view) => `${SIZES[view].font || 10}px ${FAMILY}`;

export class TokenCanvas {
  #texts = [];
  #nTokens = 1;
  #view = "text";
  #layout = null;
  #painted = null;
  #marks = { members: null, found: [], chosen: null };
  #pointed = null;
  #asked = 0; // 1: colours, 2: everything
  #widths = new Map();
  #strip = element("canvas", { width: 1, height: 1 });

  constructor(place, { onPoint, onChoose, label }) {
    Object.assign(this, { place, onPoint, onChoose });
    this.scroller = element("div", { class: "token-scroll", tabindex: "0", role: "application", "aria-label": label, "aria-describedby": "token-words" });
    this.stage = element("div", { class: "token-stage" });
    this.colours = element("canvas", { "aria-hidden": "true" });
    this.ink = element("canvas", { "aria-hidden": "true" });
    this.sizer = element("div", { class: "token-sizer" });
    this.stage.append(this.colours, this.ink);
    this.scroller.append(this.stage, this.sizer);
    place.replaceChildren(this.scroller);
    this.scroller.addEventListener("scroll", () => this.#ask(2), { passive: true });
    this.scroller.addEventListener("pointermove", (event) => this.#point(event));
    this.scroller.addEventListener("pointerleave", () => this.#setPointed(null));
    this.scroller.addEventListener("click", (event) => {
      this.#point(event);
      if (this.#pointed !== null) this.onChoose(this.#pointed);
    });
    this.scroller.addEventListener("keydown", (event) => this.#key(event));
    document.addEventListener("themechange", () => this.#ask(2));
    new ResizeObserver(() => this.#again()).observe(this.scroller);
  }

  get layout() {
    return this.#layout;
  }

  get texts() {
    return this.#texts;
  }

  setTokens({ pieces, nTokens }) {
    const known = new Map();
    const made = (piece) => {
      if (!known.has(piece)) known.set(piece, { shown: visible(piece), before: breaksBefore(piece), after: breaksAfter(piece) });
      return known.get(piece);
    };
    this.#texts = pieces.map(made);
    this.#nTokens = nTokens;
    this.#painted = null;
    this.scroller.scrollTop = 0;
    this.#again();
  }

  setView(view) {
    this.#view = view;
    this.#again();
  }

  paint(painted) {
    this.#painted = painted;
    this.#ask(1);
  }

  mark(marks) {
    this.#marks = { ...this.#marks, ...marks };
    this.#ask(2);
  }

  // Brings a token into sight.
  show(index) {
    if (this.#layout === null) return;
    const { y } = this.#layout.lines[this.#layout.line[index]];
    const [top, height] = [this.scroller.scrollTop, this.scroller.clientHeight];
    if (y < top + 8 || y + this.#layout.size.line > top + height - 8) this.scroller.scrollTop = Math.max(0, y - height / 3);
  }

  #measure(text) {
    if (!this.#widths.has(text)) {
      const context = this.ink.getContext("2d");
      context.font = fontOf("text");
      this.#widths.set(text, context.measureText(text).width + SIZES.text.gap);
    }
    return this.#widths.get(text);
  }

  #again() {
    const width = this.scroller.clientWidth;
    if (!this.#texts.length || width < 40) return;
    this.#layout = layOut({ texts: this.#texts, nTokens: this.#nTokens, width: width - 6, view: this.#view, measure: (text) => this.#measure(text) });
    this.sizer.style.height = `${this.#layout.height}px`;
    const most = Math.round(innerHeight * 0.72);
    const height = Math.min(this.#layout.height, Math.max(most, 260));
    this.scroller.style.height = `${height}px`;
    for (const canvas of [this.colours, this.ink]) {
      const [pixelsX, pixelsY] = [Math.round(width * devicePixelRatio), Math.round(height * devicePixelRatio)];
      if (canvas.width !== pixelsX || canvas.height !== pixelsY) Object.assign(canvas, { width: pixelsX, height: pixelsY });
      Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
    }
    this.#ask(2);
  }

  // Once a frame, however often it is asked for.
  #ask(what) {
    if (this.#asked === 0) {
      requestAnimationFrame(() => {
        const asked = this.#asked;
        this.#asked = 0;
        if (this.#layout === null) return;
        this.#drawColours();
        if (asked === 2) this.#drawInk();
      });
    }
    this.#asked = Math.max(this.#asked, what);
  }

  #begin(canvas) {
    const context = canvas.getContext("2d");
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.translate(0, -this.scroller.scrollTop);
    return context;
  }

  // The first token in sight and the first beyond.
  inSight() {
    const { lines } = this.#layout;
    const top = this.scroller.scrollTop;
    const last = lines[this.#layout.lineAt(top + this.scroller.clientHeight)];
    return [lines[this.#layout.lineAt(top)].first, last.last];
  }

  // A line of the picture is one row of pixels, stretched: a hundred pictures a frame, and not twenty thousand squares.
  #drawColours() {
    const context = this.#begin(this.colours);
    if (this.#painted === null) return;
    const { x, w, line, lines, size } = this.#layout;
    const { levels, pixels, step } = this.#painted;
    const { members } = this.#marks;
    const [first, last] = this.inSight();
    const [top, width, scale] = [line[first], this.colours.width, devicePixelRatio];
    const count = line[last - 1] - top + 1;
    if (this.#strip.width !== width || this.#strip.height < count) Object.assign(this.#strip, { width, height: count + 4 });
    const image = new ImageData(width, count);
    const row = new Uint32Array(image.data.buffer);
    for (let index = first; index < last; index += 1) {
      if (levels[index] < 0 || (members !== null && !members[index])) continue;
      const [start, left] = [(line[index] - top) * width, Math.round(x[index] * scale)];
      row.fill(pixels[levels[index]], start + left, start + Math.min(Math.max(Math.round((x[index] + w[index] - size.gap) * scale), left + 1), width));
    }
    this.#strip.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingEnabled = false;
    for (let at = 0; at < count; at += 1) context.drawImage(this.#strip, 0, at, width, 1, 0, lines[top + at].y, width / scale, size.line - 2);
    this.place.dataset.step = step;
  }

  #drawInk() {
    const context = this.#begin(this.ink);
    const { x, w, line, lines, size, left } = this.#layout;
    const [first, last] = this.inSight();
    const [ink, quiet] = [cssColor("--text"), cssColor("--quiet")];
    const { members, found, chosen } = this.#marks;
    context.direction = "ltr";
    context.textBaseline = "middle";
    if (size.font) {
      context.font = fontOf("text");
      context.fillStyle = ink;
      for (const faded of members === null ? [false] : [true, false]) {
        context.globalAlpha = faded ? FADED : 1;
        for (let index = first; index < last; index += 1) {
          if (members === null || Boolean(members[index]) !== faded) context.fillText(this.#texts[index].shown, x[index], lines[line[index]].y + size.line / 2 - 0.5, w[index]);
        }
      }
      context.globalAlpha = 1;
    }
    context.font = "11px system-ui, sans-serif";
    context.fillStyle = quiet;
    context.textAlign = "right";
    for (let at = line[first]; at < lines.length && lines[at].first < last; at += 1) {
      if (lines[at].first % this.#nTokens === 0) context.fillText(String(this.firstSequence + lines[at].first / this.#nTokens), left - 8, lines[at].y + size.line / 2 - 1);
    }
    context.textAlign = "left";
    const box = (index, color, width) => {
      Object.assign(context, { strokeStyle: color, lineWidth: width });
      context.strokeRect(x[index] - 0.5, lines[line[index]].y - 0.5, w[index], size.line - 1);
    };
    for (const index of found) if (index >= first && index < last) box(index, cssColor("--accent"), 1.5);
    if (this.#pointed !== null && this.#pointed < this.#texts.length) box(this.#pointed, ink, 1);
    if (chosen !== null) box(chosen, ink, 2.5);
  }

  firstSequence = 0;

  #point(event) {
    if (this.#layout === null) return;
    const corner = this.scroller.getBoundingClientRect();
    this.#setPointed(this.#layout.tokenAt(event.clientX - corner.left, event.clientY - corner.top + this.scroller.scrollTop));
  }

  #setPointed(index) {
    if (index === this.#pointed) return;
    this.#pointed = index;
    this.#ask(2);
    this.onPoint(index);
  }

  #key(event) {
    if (this.#layout === null || event.ctrlKey || event.metaKey || event.altKey) return;
    const at = this.#marks.chosen ?? this.inSight()[0];
    const sequence = at - (at % this.#nTokens);
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / this.#layout.size.line) - 2);
    const goTo = {
      ArrowLeft: at - 1, ArrowRight: at + 1, ArrowUp: neighbour(this.#layout, at, -1), ArrowDown: neighbour(this.#layout, at, 1),
      Home: sequence, End: sequence + this.#nTokens - 1, PageUp: neighbour(this.#layout, at, -page) ?? 0, PageDown: neighbour(this.#layout, at, page) ?? this.#texts.length - 1,
    }[event.key];
    if (goTo === undefined) return;
    event.preventDefault();
    if (goTo === null || goTo < 0 || goTo >= this.#texts.length) return;
    this.show(goTo);
    this.onChoose(goTo);
  }
}
