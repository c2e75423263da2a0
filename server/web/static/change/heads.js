// The heads of a change: their scores before and after it, and their attention as pictures.
//
//   await showHeads(change, { place, tablePlace, state })

import { get, getNpy } from "../core/api.js";
import { element, offer, replace } from "../core/dom.js";
import { headName, measureName, plural, value } from "../core/format.js";
import { Figure } from "../plots/figure.js";
import { visible } from "../tokens/visible.js";
import { AttentionPictures } from "./attention.js";

const SCORES = ["natural_prefix_matching", "prefix_matching", "previous_token", "duplicate_token"];
const PATTERNS = { attention_pattern: ["repeats", "random tokens, repeated"], natural_attention_pattern: ["text", "real text"] };
const SHOWN_HEADS = 24;
const AROUND = 5; // checkpoints that a score before or after is the mean of

let pictures = null;

export async function showHeads(change, { place, tablePlace, state }) {
  const { items } = await get(`/runs/${change.run}/measures`);
  const names = items.map((item) => item.measure);
  await showScores(change, SCORES.filter((name) => names.includes(name)), tablePlace);
  const heads = change.heads.map(headName);
  const known = heads.filter((head) => Object.keys(PATTERNS).some((name) => names.includes(`${name}:${head}`)));
  if (!known.length) {
    replace(place, element("p", { class: "quiet", id: "no-patterns" }, await whyNone(change)));
    return;
  }
  pictures ??= makePictures(change, place, state);
  await pictures.show(known, names);
}

async function whyNone(change) {
  const { items } = await get(`/runs/${change.run}/checkpoints?limit=200`);
  if (!items.some((item) => item.size_bytes !== null)) return "Attention pictures need the model: weights were not recorded for this run. Record them with recorder.record(step, model, weights=True), or train here.";
  return "The heads' attention is measured once the change is confirmed; it has not been yet.";
}

function makePictures(change, place, state) {
  const figure = new Figure(place, { title: "What the head attends to", unit: "share of a query's attention", paper: { width: 960, height: 440 } });
  const [head, text] = [element("select", { id: "head", "aria-label": "Head" }), element("select", { id: "pattern", "aria-label": "Sequence" })];
  figure.controls.append(head, text);
  const drawn = new AttentionPictures(figure, { name: "attention" });
  head.onchange = () => state.set({ head: head.value });
  text.onchange = () => state.set({ pattern: text.value });
  return {
    async show(heads, names) {
      const own = offer(head, heads, undefined, state.get("head"));
      const there = Object.keys(PATTERNS).filter((name) => names.includes(`${name}:${own}`));
      const pattern = offer(text, there, (name) => PATTERNS[name][1], state.get("pattern"));
      const [slice] = PATTERNS[pattern];
      const [{ steps, n, rows }, words] = await Promise.all([patternOf(change, `${pattern}:${own}`), wordsOf(change, slice)]);
      const panes = around(change, steps).map(([title, at]) => ({ title, step: steps[at], values: rows[at] }));
      drawn.update({ words, panes, n, note: `${own} over the first sequence of ${slice}, ${plural(n, "token")}.` });
      figure.describe(describe(own, panes, n));
    },
  };
}

async function patternOf(change, name) {
  const { length, fields } = await getNpy(`/runs/${change.run}/measures/${encodeURIComponent(name)}`);
  const at = Array.from({ length }, (_, index) => index);
  return { steps: at.map((index) => fields.step.at(index)), n: fields.values.shape[0], rows: at.map((index) => fields.values.row(index)) };
}

async function wordsOf(change, slice) {
  const run = await get(`/runs/${change.run}`);
  const found = await get(`/probe-sets/${run.probe_set}/slices/${slice}?count=1`);
  return found.texts === null ? found.tokens[0].map((id) => `⟨${id}⟩`) : found.texts[0].map(visible);
}

// The checkpoint before the change, the one nearest to its middle, and the one after it: [title, index].
export function around(change, steps) {
  const end = change.end_step ?? Infinity;
  const before = Math.max(steps.findLastIndex((step) => step <= change.start_step), 0);
  const later = steps.findIndex((step) => step >= end);
  const after = later < 0 ? steps.length - 1 : later;
  const far = (step) => Math.abs(Math.log1p(step) - Math.log1p(change.step));
  const middle = steps.reduce((best, step, at) => (far(step) < far(steps[best]) ? at : best), 0);
  const shown = [["before", before], ["during", middle], ["after", after]];
  return shown.filter(([title, at]) => title !== "during" || (at !== before && at !== after));
}

// The keys that get most, in words, for those who cannot see the picture.
function describe(head, panes, n) {
  const most = (pane) => {
    let total = 0;
    for (let query = 1; query < n; query += 1) total += Math.max(...pane.values.subarray(query * n, query * n + query + 1));
    return Math.round((100 * total) / (n - 1));
  };
  return `A query of ${head} gives its favourite key ${panes.map((pane) => `${most(pane)} % of its attention ${pane.title}`).join(", ")} the change.`;
}

async function showScores(change, names, place) {
  const found = await Promise.all(names.map((name) => get(`/runs/${change.run}/measures/${name}`)));
  const rows = change.heads.slice(0, SHOWN_HEADS).map(([layer, head]) => [
    headName([layer, head]),
    ...found.map((one) => {
      const values = one.values.map((row) => row?.[layer]?.[head] ?? NaN);
      return sides(change, one.steps, values).map((side) => value(side, 2)).join(" → ");
    }),
  ]);
  const chance = found.filter((one) => one.chance !== null).map((one) => `${measureName(one.measure)} ${value(one.chance, 2)}`);
  const left = change.heads.length - rows.length;
  replace(place, !rows.length || !names.length ? null : element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Scores of its heads" },
    element("table", { id: "scores" },
      element("caption", {}, `Scores before → after, means of ${AROUND} checkpoints. Chance: ${chance.join(", ") || "not recorded"}.${left > 0 ? ` ${left} more heads move with it.` : ""}`),
      element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "head"), names.map((name) => element("th", { scope: "col", class: "number" }, measureName(name))))),
      element("tbody", {}, rows.map(([name, ...cells]) => element("tr", {}, element("th", { scope: "row" }, name), cells.map((cell) => element("td", { class: "number" }, cell))))))));
}

function sides(change, steps, values) {
  const end = change.end_step ?? change.step;
  const mean = (some) => some.reduce((sum, one) => sum + one, 0) / some.length;
  const of = (keep) => values.filter((one, at) => keep(steps[at]) && Number.isFinite(one));
  return [mean(of((step) => step < change.start_step).slice(-AROUND)), mean(of((step) => step > end).slice(0, AROUND))];
}
