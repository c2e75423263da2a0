// Losses of a window of tokens by step, fetched some checkpoints at a time, those that come next beforehand.
//
//   const losses = new LossWindow({ run, slice, first, count, steps });
//   losses.at(index) → Float32Array (count) or null where it is not here yet; await losses.load(index) fetches it alone
//   losses.ahead(index, direction); losses.end() stops what is under way

import { getNpy } from "../core/api.js";

const CHUNK = 16; // checkpoints a request
const KEPT_BYTES = 64 * 2 ** 20;

export class LossWindow {
  #rows = new Map(); // index of the step → values; the least recently used first
  #asked = new Map(); // chunk → promise
  #stop = new AbortController();

  constructor({ run, slice, first, count, steps }) {
    Object.assign(this, { run, slice, first, count, steps });
    this.kept = Math.max(4 * CHUNK, Math.floor(KEPT_BYTES / (4 * count)));
  }

  at(index) {
    const row = this.#rows.get(index) ?? null;
    if (row !== null) {
      this.#rows.delete(index);
      this.#rows.set(index, row);
    }
    return row;
  }

  async load(index) {
    if (!this.#rows.has(index)) await (this.#asked.get(Math.floor(index / CHUNK)) ?? this.#fetch(index, 1));
    return this.at(index);
  }

  // What the slider comes to next in a direction, the neighbours of a checkpoint first.
  ahead(index, direction = 1) {
    const chunk = Math.floor(index / CHUNK);
    for (const next of [chunk, chunk + direction, chunk + 2 * direction]) {
      const from = next * CHUNK;
      const there = Array.from({ length: CHUNK }, (_, more) => from + more).filter((at) => at >= 0 && at < this.steps.length);
      if (there.some((at) => !this.#rows.has(at))) this.#chunk(next).catch(() => null);
    }
  }

  // Checkpoints that came since; what is here stays.
  grow(steps) {
    this.#asked.delete(Math.floor((this.steps.length - 1) / CHUNK));
    this.steps = steps;
  }

  end() {
    this.#stop.abort();
  }

  #chunk(chunk) {
    if (!this.#asked.has(chunk)) {
      const asked = this.#fetch(chunk * CHUNK, CHUNK).finally(() => this.#asked.delete(chunk));
      this.#asked.set(chunk, asked);
    }
    return this.#asked.get(chunk);
  }

  async #fetch(from, count) {
    const steps = this.steps.slice(from, from + count);
    const tokens = `${this.first}-${this.first + this.count - 1}`;
    const path = `/runs/${this.run}/losses/${encodeURIComponent(this.slice)}?tokens=${tokens}&steps=${steps.join(",")}`;
    const { shape, data } = await getNpy(path, { signal: this.#stop.signal });
    if (shape[0] !== steps.length) throw new Error(`${shape[0]} of ${steps.length} checkpoints came: the run was resumed; load the page again`);
    steps.forEach((_, row) => this.#rows.set(from + row, data.subarray(row * this.count, (row + 1) * this.count)));
    while (this.#rows.size > this.kept) this.#rows.delete(this.#rows.keys().next().value);
  }
}
