// Runs beside one another: a measure over steps, tokens or size, when each changed, and what that says by treatment.

import { get, getAll } from "../core/api.js";
import { byId, element, offer, replace, report } from "../core/dom.js";
import { compact, measureName, plural, value, whole } from "../core/format.js";
import { keepFresh } from "../core/live.js";
import { ready } from "../core/shell.js";
import { urlState } from "../core/url-state.js";
import { AXIS_STATE, StepAxis } from "../plots/axis.js";
import { axisControls } from "../plots/controls.js";
import { DotPlot, groupColors } from "../plots/dots.js";
import { Figure } from "../plots/figure.js";
import { LinePlot } from "../plots/lines.js";
import { groupsTable, overlapTable, runsTable, treatmentWords, trendWords } from "./compare-tables.js";
import { RunPicker } from "./run-picker.js";

const FIRST = "icl_score";
const X = { step: "training step", tokens: "tokens seen", parameters: "parameters" };
const AGAINST = { treatment: "by treatment", parameters: "against parameters", depth: "against layers" };
const MOST_BANDS = 3;
const ASKED = 6; // runs whose measures are offered: runs that are compared mostly have the same

const state = urlState({ ...AXIS_STATE, runs: "", tag: "", measure: FIRST, x: "step", against: "treatment" });

// Lines over steps or over each run's own tokens: the same axis, other words.
class OverlayAxis extends StepAxis {
  get label() {
    return X[state.get("x")] ?? X.step;
  }
}

class OverlayPlot extends LinePlot {
  words(step) {
    return state.get("x") === "tokens" ? super.words(step).replace(/^step (\d+)/, (_, x) => `${compact(Number(x))} tokens`) : super.words(step);
  }

  table() {
    const found = super.table();
    return { columns: [X[state.get("x")] ?? "step", ...found.columns.slice(1)], rows: found.rows };
  }
}

let picker = null;
let found = null;
let runs = [];
let plots = null;
let asked = 0;

const figures = {
  overlay: new Figure(byId("overlay"), { title: "Overlay" }),
  when: new Figure(byId("when"), { title: "When each changed" }),
};

const sameTreatment = (one, other) => JSON.stringify(one) === JSON.stringify(other);
const groupOf = (run) => found.groups.findIndex((group) => sameTreatment(group.treatment, run.treatment));
const colorOf = (run) => groupColors(Math.max(groupOf(run), 0));
const runName = (run) => (run.seed === null ? run.name : `${run.name}, seed ${run.seed}`);

// The overlay.

function makeOverlay() {
  const kind = state.get("x") === "parameters" ? "dots" : state.get("x");
  if (plots?.kind === kind) return;
  const axis = new OverlayAxis();
  axis.bind(state);
  byId("axis").hidden = kind === "dots";
  byId("axis").replaceChildren(...(kind === "dots" ? [] : axisControls(axis)));
  const plot = kind === "dots" ? new DotPlot(figures.overlay, { name: "compare", height: 320 }) : new OverlayPlot(figures.overlay, axis, { name: "compare", height: 320 });
  plots = { kind, plot };
}

function lineOf(run) {
  const rows = run.values.map((_, index) => index).filter((index) => run.values[index] !== null && (state.get("x") === "step" || run.tokens?.[index] != null));
  const along = state.get("x") === "tokens" ? rows.map((index) => run.tokens[index]) : rows.map((index) => found.steps[index]);
  return { name: runName(run), steps: along, values: rows.map((index) => run.values[index]), width: 1.5, ...colorOf(run) };
}

// Bands of the runs that changed, while there are few enough to tell them apart.
function changesShown() {
  const tokens = state.get("x") === "tokens";
  const changed = found.runs.filter(({ change }) => change !== null && (!tokens || change.tokens !== null));
  if (changed.length > MOST_BANDS) return [];
  return changed.map(({ change }) => (tokens
    ? { induction: true, start_step: change.start_tokens, step: change.tokens, end_step: change.end_tokens }
    : { ...change, induction: true }));
}

function drawOverlay() {
  makeOverlay();
  const title = measureName(found.measure) + (found.of_heads ? " of the highest head" : "");
  replace(byId("overlay-title"), title);
  Object.assign(figures.overlay, { title });
  figures.overlay.setUnit(found.unit ?? "");
  if (plots.kind !== "dots") {
    const lines = found.runs.map(lineOf);
    plots.plot.update({ lines, changes: changesShown() });
    const without = lines.filter((line) => !line.steps.length).length;
    figures.overlay.describe(without ? `${plural(without, "run")} of ${lines.length} ${without === 1 ? "has" : "have"} no such value${state.get("x") === "tokens" ? ", or did not say how many tokens were seen" : ""}.` : `${plural(lines.length, "run")}, a colour a treatment.`);
    return;
  }
  const points = found.runs.filter((run) => run.n_parameters !== null && run.last !== null).map((run) => ({
    x: run.n_parameters, y: run.last.value, low: run.last.low, high: run.last.high, name: runName(run),
    words: `${runName(run)}: ${whole(run.n_parameters)} parameters, ${value(run.last.value)} ${found.unit ?? ""} at the end`, ...colorOf(run),
  }));
  plots.plot.update({ points, rows: null, xLabel: X.parameters, logX: true, logY: false });
  figures.overlay.describe(`At the end of each run, mean of up to five checkpoints, with its interval; ${points.length} of ${found.runs.length} runs have a known size.`);
}

// When each changed.

const whenPlot = new DotPlot(figures.when, { name: "when" });

function changePoint(run) {
  const tokens = state.get("x") === "tokens";
  const { change } = run;
  const at = change === null ? (tokens ? run.last_tokens : run.last_step) : tokens ? change.tokens : change.step;
  if (at === null) return null;
  const interval = change === null || tokens ? null : change.step_interval;
  const unit = tokens ? "tokens" : "steps";
  const words = change === null ? `${runName(run)}: none up to ${compact(at)} ${unit}` : `${runName(run)}: half way after ${compact(at)} ${unit}`;
  return { at, low: interval?.[0] ?? NaN, high: interval?.[1] ?? NaN, open: change === null, name: runName(run), words, ...colorOf(run) };
}

function drawWhen() {
  const tokens = state.get("x") === "tokens";
  const against = state.get("against") in AGAINST ? state.get("against") : "treatment";
  const known = found.runs.map((run) => [run, changePoint(run)]).filter(([, point]) => point !== null);
  const unit = tokens ? "training tokens seen by the middle of the change" : "step of the middle of the change";
  if (against === "treatment") {
    const points = known.map(([run, point]) => ({ ...point, x: point.at, y: Math.max(groupOf(run), 0) }));
    figures.when.setUnit("");
    whenPlot.update({ points, rows: found.groups.map((group) => treatmentWords(group.treatment)), xLabel: unit, logX: true, logY: false });
  } else {
    const sized = known.map(([run, point]) => ({ ...point, x: against === "depth" ? run.depth : run.n_parameters, y: point.at }));
    const points = sized.filter((point) => point.x !== null);
    figures.when.setUnit(unit);
    whenPlot.update({ points, rows: null, xLabel: against === "depth" ? "attention layers" : "parameters", logX: against === "parameters", logY: true });
  }
  const changed = found.runs.filter((run) => run.change !== null).length;
  figures.when.describe(`${changed} of ${plural(found.runs.length, "run")} changed; an empty triangle had no change up to there.`);
}

// Everything.

async function offerMeasures(ids) {
  const shapes = new Map((await getAll("/measures")).map((one) => [one.name, one.shape ?? []]));
  const comparable = (name) => {
    const shape = shapes.get(name.split(":")[0]) ?? [];
    return !shape.length || shape.join() === "layers,heads";
  };
  const lists = await Promise.all(ids.slice(0, ASKED).map((id) => getAll(`/runs/${id}/measures`)));
  const names = [...new Set(lists.flat().map((one) => one.measure))].filter((name) => comparable(name) && !name.startsWith("ablation:")).sort();
  const all = names.includes(state.get("measure")) ? names : [state.get("measure"), ...names];
  offer(byId("measure"), all, measureName, state.get("measure"));
}

async function showOverlap(ids) {
  byId("overlap-part").hidden = true;
  if (ids.length !== 2) return;
  const two = ids.map((id) => runs.find((run) => run.id === id));
  if (two[0].probe_set === null || two[0].probe_set !== two[1].probe_set) return;
  const changes = await Promise.all(ids.map((id) => getAll(`/runs/${id}/phase-changes`)));
  if (!changes.every((list) => list.some((one) => one.n_tokens))) return;
  overlapTable(byId("overlap"), await get(`/compare/tokens?runs=${ids.join(",")}`), two.map((run) => run.name));
  byId("overlap-part").hidden = false;
}

function showGroupKey() {
  replace(byId("groups-key"), found.groups.length < 2 ? null : found.groups.map((group, index) => {
    const mark = element("span", { class: "key" });
    mark.style.background = groupColors(index).color;
    return element("span", {}, mark, treatmentWords(group.treatment));
  }));
}

function draw() {
  for (const [id, choices] of [["x", X], ["against", AGAINST]]) offer(byId(id), Object.keys(choices), (one) => choices[one], state.get(id));
  const many = found !== null;
  byId("comparison").hidden = !many;
  byId("hint").hidden = many;
  if (!many) return;
  showGroupKey();
  drawOverlay();
  drawWhen();
  groupsTable(byId("groups"), found, found.groups.map((_, index) => groupColors(index).color));
  runsTable(byId("runs-table"), found, (run) => colorOf(run).color);
  trendWords(byId("trends"), found);
  byId("trends-part").hidden = !found.trends.length;
}

async function compare() {
  const mine = (asked += 1);
  const ids = picker.chosen;
  const next = ids.length < 2 ? null : await get(`/compare?measure=${encodeURIComponent(state.get("measure"))}&runs=${ids.join(",")}`);
  if (mine !== asked) return; // another choice was made meanwhile
  found = next;
  draw();
  if (found === null) return;
  await offerMeasures(ids);
  await showOverlap(ids);
}

const told = (work) => work().then(() => report(null), report);

async function load(events) {
  const chosen = new Set(picker.chosen);
  if (events?.length && !events.some((event) => event.kind === "run" || chosen.has(event.run))) return;
  runs = await getAll("/runs");
  picker.update(runs);
  await compare();
}

ready(async () => {
  picker = new RunPicker(state);
  for (const id of ["measure", "x", "against"]) byId(id).addEventListener("change", (event) => state.set({ [id]: event.target.value, steps: null }));
  document.addEventListener("themechange", () => found !== null && draw());
  state.onChange((names) => {
    if (["runs", "tag", "measure"].some((name) => names.has(name))) told(compare);
    else if (names.has("x") || names.has("against")) draw();
  });
  keepFresh({ kinds: ["measurement", "phase_change", "run"], load });
});
