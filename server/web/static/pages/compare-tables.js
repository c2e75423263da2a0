// What a comparison says in tables: each run, each treatment, what goes with size and depth, and shared tokens.

import { element, replace } from "../core/dom.js";
import { compact, value, whole } from "../core/format.js";

export function treatmentWords(treatment) {
  const parts = Object.entries(treatment).map(([name, setting]) => `${name.split(".").at(-1)} ${setting === null ? "none" : setting}`);
  return parts.join(", ") || "the same settings";
}

const MISSING = "–";
const number = (one, write = value) => (one === null || one === undefined ? MISSING : write(one));
const ends = (low, high, write) => (low === null && high === null ? "" : ` [${low === null ? "…" : write(low)}, ${high === null ? "…" : write(high)}]`);
const steps = (one) => whole(Math.round(one));
const nats = (one) => value(one, 3);

// A value with its interval; ≥ where runs without a change make it a bound.
export function estimate(found, write = nats) {
  if (!found) return MISSING;
  const bound = found.n_censored ? "≥ " : "";
  return element("span", {}, `${bound}${write(found.value)}`, element("span", { class: "quiet" }, ends(found.low, found.high, write)));
}

function table(caption, columns, rows) {
  const head = columns.map((words) => element("th", { scope: "col", class: words.startsWith(">") ? "number" : null }, words.replace(/^>/, "")));
  const body = rows.map((cells) => element("tr", {}, cells.map((cell, index) =>
    element("td", { class: columns[index].startsWith(">") ? "number" : null, "data-label": columns[index].replace(/^>/, "") }, cell))));
  const inner = element("table", { class: "cards" }, element("caption", {}, caption), element("thead", {}, element("tr", {}, head)), element("tbody", {}, body));
  return element("div", { class: "sideways", tabindex: "0", role: "region", "aria-label": caption }, inner);
}

const key = (color) => {
  const mark = element("span", { class: "key" });
  mark.style.background = color;
  return mark;
};

function change(run) {
  if (run.change === null) return run.last_step === null ? "nothing recorded" : `none up to ${whole(run.last_step)}`;
  const { id, step, step_interval: interval } = run.change;
  const around = interval === null ? "" : ends(...interval, steps);
  return element("span", {}, element("a", { href: `/changes/${id}` }, whole(step)), element("span", { class: "quiet" }, around));
}

const level = (found) => (found === null ? MISSING : element("span", {}, nats(found.value), element("span", { class: "quiet" }, ends(found.low, found.high, nats))));

export function runsTable(place, found, colorOf) {
  const unit = found.unit === null ? "" : `, ${found.unit}`;
  const columns = ["Run", "Treatment", ">Parameters", ">Layers", ">Change at step", ">Tokens by then", ">Before", ">After", ">At the end"];
  const rows = found.runs.map((run) => [
    element("span", {}, key(colorOf(run)), element("a", { href: `/runs/${run.id}` }, run.name), run.seed === null ? null : element("span", { class: "quiet" }, ` seed ${run.seed}`)),
    treatmentWords(run.treatment), number(run.n_parameters, whole), number(run.depth, String), change(run),
    number(run.change?.tokens ?? null, compact), level(run.before), level(run.after), level(run.last),
  ]);
  replace(place, table(`Each run: ${found.measure.replaceAll("_", " ")}${unit}, before and after its induction change, means of up to five checkpoints with 95 % intervals`, columns, rows));
}

export function groupsTable(place, found, colors) {
  const columns = ["Treatment", ">Changed", ">At step", ">Tokens by then", ">Before", ">After", ">Difference", ">At the end"];
  const rows = found.groups.map((group, index) => [
    element("span", {}, key(colors[index]), treatmentWords(group.treatment)), `${group.n_changed} of ${group.n_runs}`,
    estimate(group.step, steps), estimate(group.tokens, compact), estimate(group.before), estimate(group.after), estimate(group.difference), estimate(group.last),
  ]);
  replace(place, table("By treatment: means over runs with 95 % intervals; a run without a change counts as ≥ its last step", columns, rows));
}

const OF = {
  before: "before the change", after: "after it", last: "at the end",
  log2_step: "log2 of the change's step", log2_tokens: "log2 of the tokens by then",
};
const AGAINST = { log2_parameters: "a doubling of the parameters", depth: "a layer more" };

export function trendWords(place, found) {
  replace(place, found.trends.map(({ of, against, slope }) =>
    element("li", {}, `${OF[of] ?? of}: ${nats(slope.value)}${ends(slope.low, slope.high, nats)} for ${AGAINST[against] ?? against} (${slope.n} runs)`)));
}

export function overlapTable(place, found, names) {
  const columns = ["Changes", `>In ${names[0]}`, `>In ${names[1]}`, ">In both", ">By chance", ">Ratio", ">Odds ratio", ">p"];
  const rows = found.pairs.map(({ first_step: one, second_step: other, overlap }) => [
    one === null ? "all together" : `steps ${whole(one)} and ${whole(other)}`, whole(overlap.n_first), whole(overlap.n_second), whole(overlap.n_both),
    nats(overlap.expected), overlap.ratio === null ? MISSING : `×${nats(overlap.ratio)}`,
    element("span", {}, nats(overlap.odds_ratio), element("span", { class: "quiet" }, ends(...overlap.odds_interval, nats))), overlap.p_value < 1e-4 ? "< 0.0001" : nats(overlap.p_value),
  ]);
  const caption = `Tokens of slice ${found.slice} that changed in both, of ${whole(found.n_tokens)}; p takes tokens as exchangeable, though those of one kind move together`;
  replace(place, table(caption, columns, rows));
}
