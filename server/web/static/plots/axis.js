// The step axis that every plot of a page shares: scale, zoom, and the checkpoint under the pointer.
//
//   const axis = new StepAxis(); axis.bind(state)      state: urlState({ scale: "log", by: "step", steps: null, … })
//   axis.cover(steps); axis.setTokens(steps, tokensSeen)
//   axis.position(step) → place on a line without unit; axis.step(position) back; axis.domain() → [low, high] positions
//   axis.zoom(from, to) in steps, axis.reset(); axis.onChange(draw)
//   axis.hover(step, source); axis.onHover((step, source) => …)
//
// Positions are ln(1 + x) or x itself, x being steps or tokens seen. Checkpoints lie ever wider apart, and early training
// is where things happen, so the logarithm comes first.

import { compact } from "../core/format.js";

export const AXIS_STATE = { scale: "log", by: "step", steps: null };

const SCALES = ["log", "linear"];
const UNITS = ["step", "tokens"];

export class StepAxis {
  #extent = [0, 1];
  #known = null; // {steps, tokens}
  #state = null;
  #changed = new Set();
  #hovered = new Set();
  step0 = null; // the step under the pointer

  bind(state) {
    this.#state = state;
    state.onChange((names) => {
      if (["scale", "by", "steps"].some((name) => names.has(name))) this.#tell();
    });
  }

  get scale() {
    const scale = this.#state?.get("scale");
    return SCALES.includes(scale) ? scale : "log";
  }

  get by() {
    const by = this.#state?.get("by");
    return UNITS.includes(by) && (by === "step" || this.#known !== null) ? by : "step";
  }

  get hasTokens() {
    return this.#known !== null;
  }

  // The steps in sight: what was zoomed to, else everything there is.
  get range() {
    const found = /^(\d+)\.\.(\d+)$/.exec(this.#state?.get("steps") ?? "");
    if (found === null || Number(found[1]) >= Number(found[2])) return this.#extent;
    return [Number(found[1]), Number(found[2])];
  }

  get isZoomed() {
    return this.range !== this.#extent;
  }

  get extent() {
    return this.#extent;
  }

  cover(steps) {
    if (!steps.length) return;
    const known = this.#covered ? this.#extent : [Infinity, -Infinity];
    const next = [Math.min(known[0], steps[0]), Math.max(known[1], steps.at(-1))];
    if (next[0] === next[1]) next[1] += 1;
    if (this.#covered && next[0] === this.#extent[0] && next[1] === this.#extent[1]) return;
    this.#covered = true;
    this.#extent = next;
    this.#tell();
  }

  #covered = false;

  // tokens seen at these steps, both ascending; between them it is a straight line
  setTokens(steps, tokens) {
    this.#known = steps.length >= 2 ? { steps, tokens } : null;
    this.#tell();
  }

  set(changes) {
    this.#state.set(changes);
  }

  zoom(from, to) {
    const [low, high] = [Math.max(0, Math.round(Math.min(from, to))), Math.round(Math.max(from, to))];
    if (high > low) this.#state.set({ steps: `${low}..${high}` });
  }

  reset() {
    this.#state.set({ steps: null });
  }

  position(step) {
    const x = this.by === "tokens" ? interpolate(this.#known.steps, this.#known.tokens, step) : step;
    return this.scale === "log" ? Math.log1p(Math.max(x, 0)) : x;
  }

  step(position) {
    const x = this.scale === "log" ? Math.expm1(position) : position;
    return this.by === "tokens" ? interpolate(this.#known.tokens, this.#known.steps, x) : x;
  }

  domain() {
    return this.range.map((step) => this.position(step));
  }

  get label() {
    return this.by === "tokens" ? "tokens seen" : "training step";
  }

  // [{position, text}] for an axis of that many pixels
  ticks(width) {
    const [low, high] = this.domain();
    const [from, to] = this.scale === "log" ? [Math.expm1(low), Math.expm1(high)] : [low, high];
    const found = [];
    const per = width / (high - low || 1);
    for (const x of this.scale === "log" && to > 4 * (from + 1) ? decades(from, to) : evenly(from, to, width / 80)) {
      const position = this.scale === "log" ? Math.log1p(x) : x;
      if (found.length && (position - found.at(-1).position) * per < 48) continue;
      found.push({ position, text: compact(x) });
    }
    return found;
  }

  hover(step, source = null) {
    if (step === this.step0) return;
    this.step0 = step;
    for (const listener of this.#hovered) listener(step, source);
  }

  onChange(listener) {
    this.#changed.add(listener);
  }

  onHover(listener) {
    this.#hovered.add(listener);
  }

  #tell() {
    for (const listener of this.#changed) listener();
  }
}

function decades(from, to) {
  const found = from <= 0 ? [0] : [];
  for (let power = 1; power <= to; power *= 10) {
    for (const factor of [1, 2, 5]) if (factor * power >= from && factor * power <= to) found.push(factor * power);
  }
  return found;
}

export function evenly(from, to, count) {
  const rough = (to - from) / Math.max(count, 1) || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const size = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough * 0.999);
  const found = [];
  for (let index = Math.ceil(from / size - 1e-9); index * size <= to + size * 1e-9; index += 1) found.push(index * size);
  return found;
}

// Index of the first of the ascending values that is at least x.
export function lowerBound(values, x) {
  let [low, high] = [0, values.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] < x) low = middle + 1;
    else high = middle;
  }
  return low;
}

function interpolate(xs, ys, x) {
  const at = Math.min(Math.max(lowerBound(xs, x), 1), xs.length - 1);
  const share = (x - xs[at - 1]) / (xs[at] - xs[at - 1] || 1);
  return ys[at - 1] + share * (ys[at] - ys[at - 1]);
}

// Index of the checkpoint nearest to a step, as the axis shows them; −1 without any.
export function nearest(axis, steps, step) {
  if (!steps.length) return -1;
  const after = Math.min(lowerBound(steps, step), steps.length - 1);
  if (after === 0) return 0;
  const at = axis.position(step);
  return at - axis.position(steps[after - 1]) < axis.position(steps[after]) - at ? after - 1 : after;
}
