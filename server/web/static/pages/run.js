// One run: what it is, what was found in it, and its curves over one step axis, true while the run goes on.

import { get, getAll } from "../core/api.js";
import { byId } from "../core/dom.js";
import { keepFresh } from "../core/live.js";
import { ready } from "../core/shell.js";
import { urlState } from "../core/url-state.js";
import { AXIS_STATE, StepAxis } from "../plots/axis.js";
import { axisControls } from "../plots/controls.js";
import { showEvents, showJobs } from "./run/activity.js";
import { HeadsFigure, ICL, LossFigure, MeasureFigure, ProfileFigures, TrajectoryFigure } from "./run/figures.js";
import { listenToActions, loadChanges, showChanges, showRun } from "./run/header.js";

const id = document.body.dataset.run;
const state = urlState({ ...AXIS_STATE, slice: "", measure: "", heads: "", head: "" });
const axis = new StepAxis();

// What was held may be wrong: a resumed run hides steps, and a job may measure a checkpoint before the last one held.
class Past {
  #segments = null;
  #last = -1;
  #counts = new Map();

  changed(segments, measures, events) {
    const newest = segments.at(-1)?.number ?? 0;
    const resumed = this.#segments !== null && newest !== this.#segments;
    const late = (events ?? []).some((event) => event.kind === "measurement" && event.step < this.#last);
    const uneven = measures.some((one) => {
      const known = this.#counts.get(one.measure);
      return known && one.last_step === known.last_step && one.n_steps !== known.n_steps;
    });
    this.#segments = newest;
    this.#counts = new Map(measures.map((one) => [one.measure, one]));
    for (const one of measures) this.#last = Math.max(this.#last, one.last_step);
    return resumed || late || uneven;
  }
}

async function tokensSeen(run) {
  if (run.last_step === null) return;
  const items = (await getAll(`/runs/${id}/checkpoints`)).filter((one) => one.tokens_seen !== null);
  axis.setTokens(items.map((one) => one.step), items.map((one) => one.tokens_seen));
}

// For whoever waits for the whole page, such as a measurement.
function markDrawn() {
  performance.mark("run-drawn");
  document.body.dataset.drawn = "";
}

ready(async () => {
  axis.bind(state);
  const figures = [
    new LossFigure(id, axis, state),
    new MeasureFigure(id, axis, state, { place: "icl", title: "In-context learning score", unit: "nats; late minus early loss, lower is more", only: ICL }),
    new HeadsFigure(id, axis, state),
    new MeasureFigure(id, axis, state, { place: "measure", title: "Measure", unit: "" }),
    new ProfileFigures(id, axis),
    new TrajectoryFigure(id, axis),
  ];
  byId("axis").append(...axisControls(axis));
  const past = new Past();
  let known = null;

  const load = async (events) => {
    const [run, changes, measures, segments] = await Promise.all([
      get(`/runs/${id}`), loadChanges(id), get(`/runs/${id}/measures`), get(`/runs/${id}/segments`),
    ]);
    showRun(run);
    showChanges(changes);
    if (events?.length) showEvents(events);
    const anew = past.changed(segments.items, measures.items, events);
    const first = known === null;
    known = { run, changes, measures: measures.items };
    const tokens = first || axis.by === "tokens" ? tokensSeen(run) : null;
    await Promise.all([tokens, showJobs(id), ...figures.map((figure) => figure.refresh({ ...known, anew }))]);
    if (first) requestAnimationFrame(() => requestAnimationFrame(markDrawn));
  };
  const again = keepFresh({ run: id, load });
  listenToActions(id, again);
  state.onChange(() => {
    if (known !== null) for (const figure of figures) figure.refresh({ ...known, anew: false });
  });
});
