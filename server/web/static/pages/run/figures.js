// The plots of a run over one step axis. Each knows what it shows, what it lacks, and says in a sentence what is seen.

import { get } from "../../core/api.js";
import { byId, element, offer } from "../../core/dom.js";
import { headName, measureName, plural, value, whole } from "../../core/format.js";
import { LineHistory, TableHistory } from "../../core/histories.js";
import { category } from "../../core/palette.js";
import { Figure } from "../../plots/figure.js";
import { HeatPlot } from "../../plots/heat.js";
import { LinePlot } from "../../plots/lines.js";
import { PathPlot } from "../../plots/scatter.js";
import { logBins, slopes } from "./profile.js";

const ICL = "icl_score";
const PROFILE = "position_profile";
const HEAD_SCORES = ["natural_prefix_matching", "prefix_matching", "previous_token", "duplicate_token", "first_token"];

const pointsFor = (plot) => Math.min(Math.max(Math.round(plot.place.clientWidth * 1.5), 300), 4_000);
const finite = (values) => Array.from(values).filter(Number.isFinite);

// "falls from 6.2 at step 0 to 2.1 at step 700"
function course(steps, values, digits = 3) {
  const there = steps.map((step, at) => [step, values[at]]).filter(([, one]) => Number.isFinite(one));
  if (!there.length) return "";
  const [[from, first], [to, last]] = [there[0], there.at(-1)];
  const verb = last < first ? "falls" : last > first ? "rises" : "stays";
  return `${verb} from ${value(first, digits)} at step ${whole(from)} to ${value(last, digits)} at step ${whole(to)}`;
}

const measured = (id, name) => (query) => get(`/runs/${id}/measures/${encodeURIComponent(name)}?${query}`);

function line(history, name, index, more = {}) {
  const { steps, values, low, high } = history;
  return { name, steps, values, low, high, color: category(index), paperColor: category(index, false), ...more };
}

export class LossFigure {
  #slices = null;

  constructor(id, axis, state) {
    Object.assign(this, { id, axis, state });
    this.figure = new Figure(byId("loss"), { title: "Loss", unit: "nats a token" });
    this.plot = new LinePlot(this.figure, axis, { name: "loss", height: 270, named: true });
    this.select = element("select", { "aria-label": "held-out slice", hidden: true, onchange: () => state.set({ slice: this.select.value }) });
    this.figure.controls.append(this.select);
    this.training = new LineHistory(async (query) => (await get(`/runs/${id}/series?name=loss&${query}`)).items[0] ?? null);
    this.held = null;
  }

  async refresh({ run, changes, anew }) {
    await this.#findSlice(run);
    const asked = { axis: this.axis, points: pointsFor(this.plot), anew };
    await Promise.all([this.training.refresh(asked), this.held?.refresh(asked)]);
    const lines = this.held?.steps.length ? [line(this.held, `held out (${this.slice})`, 0, { width: 2.2 })] : [];
    if (this.training.steps.length) lines.push(line(this.training, "training batch", 1, { width: 1 }));
    this.plot.update({ lines, changes });
    const main = lines[0];
    this.figure.describe(main ? `The ${main.name.replace(/ \(.*/, "")} loss ${course(main.steps, main.values)}.` : "No loss was recorded yet.");
  }

  async #findSlice(run) {
    if (run.probe_set === null) return;
    this.#slices ??= Object.keys((await get(`/probe-sets/${run.probe_set}`)).slices);
    const preferred = [this.state.get("slice"), "text"].find((name) => this.#slices.includes(name));
    const slice = offer(this.select, this.#slices, undefined, preferred);
    this.select.hidden = this.#slices.length < 2;
    if (slice === this.slice) return;
    this.slice = slice;
    this.held = new LineHistory((query) => get(`/runs/${this.id}/losses/${encodeURIComponent(slice)}/means?${query}`));
  }
}

// One measure that is a single number a checkpoint: the ICL score, or any that is chosen.
export class MeasureFigure {
  #histories = new Map();

  constructor(id, axis, state, { place, title, unit, only = null }) {
    Object.assign(this, { id, axis, state, only, place: byId(place) });
    this.figure = new Figure(this.place, { title, unit });
    this.plot = new LinePlot(this.figure, axis, { name: place, height: 240 });
    if (only !== null) return;
    this.select = element("select", { "aria-label": "measure", onchange: () => state.set({ measure: this.select.value }) });
    this.figure.controls.append(this.select);
  }

  async refresh({ measures, changes, anew }) {
    const numbers = measures.filter((one) => one.axes?.length === 0 && (this.only === null ? one.measure !== ICL : one.measure === this.only));
    const names = [...new Set(numbers.map((one) => one.measure))];
    const name = this.only ?? offer(this.select, names, measureName, this.state.get("measure"));
    this.place.hidden = !names.length;
    if (!names.length) return;
    if (!this.#histories.has(name)) this.#histories.set(name, new LineHistory(measured(this.id, name)));
    const history = this.#histories.get(name);
    const about = numbers.findLast((one) => one.measure === name);
    if (this.only === null) this.figure.setUnit(about.unit ?? "");
    await history.refresh({ axis: this.axis, points: pointsFor(this.plot), anew });
    this.plot.update({ lines: [line(history, measureName(name), 0)], changes });
    const subject = this.only === null ? measureName(name) : this.figure.title;
    this.figure.describe(`${subject} ${course(history.steps, history.values)}.${about.summary ? ` ${about.summary}` : ""}`);
  }
}

export class HeadsFigure {
  #tables = new Map();
  #shown = null;

  constructor(id, axis, state) {
    Object.assign(this, { id, axis, state });
    this.figure = new Figure(byId("heads"), { title: "Head scores", unit: "", paper: { width: 960, height: 620 } });
    this.plot = new HeatPlot(this.figure, axis, { name: "heads" });
    this.select = element("select", { "aria-label": "head score", onchange: () => state.set({ heads: this.select.value, head: null }) });
    this.figure.controls.append(this.select);
    this.one = new Figure(byId("head"), { title: "One head", unit: "" });
    this.onePlot = new LinePlot(this.one, axis, { name: "head", height: 240 });
    this.plot.onRow((row) => state.set({ head: this.#shown.rows[row] }));
    this.one.controls.append(element("button", { type: "button", onclick: () => state.set({ head: null }) }, "Close"));
  }

  async refresh({ measures, changes, anew }) {
    const tables = measures.filter((one) => one.axes?.length > 0 && one.axes.every((name) => ["layers", "heads"].includes(name)));
    const known = HEAD_SCORES.filter((name) => tables.some((one) => one.measure === name));
    const names = [...new Set([...known, ...tables.map((one) => one.measure)])];
    const name = offer(this.select, names, measureName, this.state.get("heads"));
    byId("heads").hidden = !names.length;
    if (!names.length) return;
    const about = tables.findLast((one) => one.measure === name);
    if (!this.#tables.has(name)) this.#tables.set(name, await this.#open(name));
    const held = this.#tables.get(name);
    await held.table.refresh({ anew });
    this.figure.setUnit(about.unit ?? "");
    this.#show(held, about, changes);
  }

  // The shape and the chance level come with the newest value alone.
  async #open(name) {
    const path = `/runs/${this.id}/measures/${encodeURIComponent(name)}`;
    const { last_step: last } = (await get(`/runs/${this.id}/measures`)).items.findLast((one) => one.measure === name);
    const { shape, chance } = await get(`${path}?steps=${last}`);
    const [layers, heads = 1] = shape;
    const rows = Array.from({ length: layers * heads }, (_, at) => (shape.length > 1 ? headName([Math.floor(at / heads), at % heads]) : `layer ${at}`));
    const gaps = Array.from({ length: layers - 1 }, (_, at) => (at + 1) * heads);
    return { name, rows, gaps, chance, table: new TableHistory(path) };
  }

  #show({ name, rows, gaps, chance, table }, about, changes) {
    const note = chance === null ? "" : `chance ${chance.toFixed(3)}`;
    this.#shown = { rows };
    this.plot.update({ steps: table.steps, rows, gaps, values: table.values, changes, note });
    const last = Array.from(table.values.subarray(-rows.length));
    const best = last.indexOf(Math.max(...finite(last)));
    this.figure.describe(`${plural(rows.length, "row")}, one a head; at step ${whole(table.steps.at(-1))} ${rows[best]} is highest with ${value(last[best], 3)}. ${about.summary ?? ""}`);
    const row = rows.indexOf(this.state.get("head"));
    this.plot.select(row < 0 ? null : row);
    byId("head").hidden = row < 0;
    if (row < 0) return;
    const values = table.column(row);
    const lines = [{ name: rows[row], steps: table.steps, values, color: category(0), paperColor: category(0, false) }];
    if (chance !== null) lines.push({ name: "chance", steps: [table.steps[0], table.steps.at(-1)], values: [chance, chance], width: 1, color: category(7), paperColor: category(7, false) });
    this.one.setTitle(`${rows[row]}, ${measureName(name)}`);
    this.one.setUnit(about.unit ?? "");
    this.onePlot.update({ lines, changes });
    this.one.describe(`${rows[row]} ${course(table.steps, values)}.`);
  }
}

// Loss by place in the context, and how steeply it falls along it: the two-dimensional figures of Olsson et al. (2022).
export class ProfileFigures {
  constructor(id, axis) {
    this.table = new TableHistory(`/runs/${id}/measures/${PROFILE}`);
    const paper = { width: 960, height: 560 };
    this.figure = new Figure(byId("position"), { title: "Loss by place in the context", unit: "nats a token", paper });
    this.plot = new HeatPlot(this.figure, axis, { name: "loss_by_position", palette: "cividis", height: 300 });
    this.slopeFigure = new Figure(byId("slope"), { title: "Slope of the loss along the context", unit: "nats per ln token", paper });
    this.slopePlot = new HeatPlot(this.slopeFigure, axis, { name: "loss_slope_by_position", palette: "gain", height: 300 });
  }

  async refresh({ measures, changes, anew }) {
    const there = measures.some((one) => one.measure === PROFILE);
    for (const place of ["position", "slope"]) byId(place).hidden = !there;
    if (!there) return;
    await this.table.refresh({ anew });
    const { steps, values, columns } = this.table;
    const profile = logBins(values, columns);
    this.plot.update({ steps, rows: profile.names, values: profile.values, changes, range: bounds(profile.values), note: "the first token of the context at the top" });
    this.figure.describe("A row a place in the context, the first at the top: where the model learns to use its context, the loss falls further down the picture.");
    const slope = slopes(values, columns);
    this.slopePlot.update({ steps, rows: slope.names, values: slope.values, changes, note: "below 0: each doubling of the context lowers the loss" });
    this.slopeFigure.describe("How much the loss changes along the context: (loss at place 2i − loss at place i) / ln 2, by i.");
  }
}

function bounds(values) {
  const there = finite(values).sort((one, other) => one - other);
  return there.length ? [there[Math.floor(there.length * 0.005)], there[Math.ceil(there.length * 0.995) - 1]] : [0, 1];
}

export class TrajectoryFigure {
  #steps = "";

  constructor(id, axis) {
    this.id = id;
    this.figure = new Figure(byId("trajectory"), { title: "Path through the losses", unit: "first two principal components" });
    this.plot = new PathPlot(this.figure, axis, { name: "trajectory", height: 320 });
  }

  // The path is another with every checkpoint, so it is asked for again when there are enough new ones to see it.
  async refresh({ run, changes, anew }) {
    const due = anew || run.last_step === null || this.last === undefined || run.last_step > this.last * 1.02 || run.status !== this.status;
    if (due && run.probe_set !== null) {
      this.found = await get(`/runs/${this.id}/trajectory`).catch((error) => {
        if (error.status === 404) return { reason: "the probe set has no slice text" };
        throw error;
      });
      [this.last, this.status] = [run.last_step, run.status];
    }
    const path = this.found;
    byId("trajectory").hidden = !path;
    if (!path) return;
    this.plot.place.hidden = path.reason !== null;
    if (path.reason !== null) {
      this.figure.describe(`No path yet: ${path.reason}.`);
      return;
    }
    const [x, y] = [0, 1].map((component) => path.coordinates.map((one) => one[component]));
    const [first, second] = path.explained.map((share) => `${Math.round(share * 100)} %`);
    this.plot.update({ steps: path.steps, x, y, xLabel: `component 1 (${first} of the variance)`, yLabel: `component 2 (${second})`, changes });
    this.figure.describe(`Each point is a checkpoint, coloured by its step; ${whole(path.n_tokens)} of ${whole(path.n_all)} tokens were looked at. A phase change is a turn.`);
  }
}

export { ICL };
