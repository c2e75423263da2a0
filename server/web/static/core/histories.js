// What a page holds of a run's histories, and how it asks for no more than it lacks.
//
//   const loss = new LineHistory((query) => get(`/runs/${id}/losses/text/means?${query}`).then(…));
//   await loss.refresh({ axis, points, anew })   loss.steps, loss.values, loss.low, loss.high; true where it changed
//   const heads = new TableHistory(path); await heads.refresh({ anew })   heads.steps, heads.values (steps × columns)
//
// A line that is short is held whole, and only what comes after its last step is asked for. A long one is asked for as
// few points that hide no spike, of the steps in sight. anew: what was held may be wrong (a resumed run, a checkpoint
// measured late), so that everything is asked for again.

import { getNpy } from "./api.js";

export class LineHistory {
  #ask;
  #whole = false;
  #seen = ""; // the range and scale that a thinned line was asked for
  steps = [];
  values = [];
  low = null;
  high = null;

  constructor(ask) {
    this.#ask = ask;
  }

  async refresh({ axis, points, anew = false }) {
    const range = axis.isZoomed ? `steps=${axis.range.join("-")}&` : "";
    const seen = `${range}scale=${axis.scale}&points=${points}`;
    const fresh = anew || !this.steps.length || (!this.#whole && (seen !== this.#seen || this.steps.length > 2 * points));
    const found = await this.#ask(fresh ? (this.#whole ? seen.slice(range.length) : seen) : `after=${this.steps.at(-1)}`);
    if (found === null) return false;
    if (!fresh && !found.steps.length) return false;
    this.#take(found, fresh);
    if (fresh) {
      this.#whole = found.n_all === found.steps.length && range === "";
      this.#seen = seen;
    }
    return true;
  }

  #take({ steps, values, interval = null }, fresh) {
    const [low, high] = [0, 1].map((end) => interval?.map((pair) => pair[end]) ?? null);
    const join = (held, more) => (fresh ? more : held && more ? [...held, ...more] : null);
    this.steps = join(this.steps, steps);
    this.values = join(this.values, values);
    this.low = join(this.low, low);
    this.high = join(this.high, high);
  }
}

export class TableHistory {
  steps = [];
  values = new Float32Array(0);
  columns = 0;

  constructor(path) {
    this.path = path;
  }

  async refresh({ anew = false } = {}) {
    const fresh = anew || !this.steps.length;
    const { length, fields } = await getNpy(fresh ? this.path : `${this.path}?after=${this.steps.at(-1)}`);
    if (!length) return false;
    this.columns = fields.values.row(0).length;
    const held = fresh ? 0 : this.steps.length;
    const values = new Float32Array((held + length) * this.columns);
    if (held) values.set(this.values);
    for (let at = 0; at < length; at += 1) values.set(fields.values.row(at), (held + at) * this.columns);
    const steps = Array.from({ length }, (_, at) => fields.step.at(at));
    this.steps = fresh ? steps : [...this.steps, ...steps];
    this.values = values;
    return true;
  }

  column(index) {
    return Float32Array.from(this.steps, (_, at) => this.values[at * this.columns + index]);
  }
}
