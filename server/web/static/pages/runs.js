// The list of runs: one request for what the table shows, searched and sorted by the server, true while it is open.

import { get } from "../core/api.js";
import { byId, element, offer, replace } from "../core/dom.js";
import { plural, since, time, value, whole } from "../core/format.js";
import { keepFresh } from "../core/live.js";
import { ready } from "../core/shell.js";
import { urlState } from "../core/url-state.js";
import { spark } from "../plots/spark.js";

const PAGE = 50;
const state = urlState({ q: "", status: "", tag: "", sort: "created", rows: String(PAGE) });
const KINDS = ["run", "checkpoint", "measurement", "phase_change"];
const tagsSeen = new Set();

async function load() {
  const chosen = ["q", "status", "tag", "sort"].filter((name) => state.get(name)).map((name) => [name, state.get(name)]);
  const query = new URLSearchParams([...chosen, ["include", "summary"]]);
  const [wanted, runs] = [Math.max(Number(state.get("rows")) || PAGE, 1), []];
  let next = "";
  while (next !== null && runs.length < wanted) {
    query.set("limit", String(Math.min(wanted - runs.length, 200)));
    const page = await get(`/runs?${query}${next && `&cursor=${encodeURIComponent(next)}`}`);
    runs.push(...page.items);
    next = page.next;
  }
  show(runs, next !== null);
}

function show(runs, more) {
  const filtered = ["q", "status", "tag"].some((name) => state.get(name));
  const body = byId("runs").tBodies[0];
  const held = new Map([...body.rows].map((row) => [row.dataset.run, row]));
  const rows = runs.map((run) => {
    const [row, old] = [runRow(run), held.get(run.id)];
    return old?.isEqualNode(row) ? old : row;
  });
  if (rows.length !== body.rows.length || rows.some((row, index) => row !== body.rows[index])) body.replaceChildren(...rows);
  byId("runs").hidden = !rows.length;
  byId("tools").hidden = !rows.length && !filtered;
  byId("empty").hidden = rows.length > 0 || filtered;
  byId("none").hidden = rows.length > 0 || !filtered;
  byId("more").hidden = !more;
  for (const run of runs) for (const tag of run.tags) tagsSeen.add(tag);
  if (state.get("tag")) tagsSeen.add(state.get("tag"));
  offer(byId("tag"), ["", ...[...tagsSeen].sort()], (tag) => tag || "any tag", state.get("tag"));
  byId("tag").hidden = !tagsSeen.size;
  performance.mark("runs-drawn");
}

function runRow(run) {
  const { summary } = run;
  return element("tr", { "data-run": run.id },
    element("td", {}, element("a", { href: `/runs/${run.id}` }, run.name),
      run.tags.length > 0 && element("span", { class: "tags" }, run.tags.map(tagLink))),
    element("td", {}, element("span", { class: "status", "data-status": run.status, title: run.failure }, run.status)),
    element("td", { class: "number" }, ...progress(run)),
    element("td", {}, loss(run, summary)),
    element("td", { class: "number wide" }, summary.icl_score === null ? "–" : value(summary.icl_score, 3)),
    element("td", {}, ...changes(summary)),
    element("td", { class: "quiet wide", title: time(run.heartbeat_at ?? run.created_at) }, since(run.heartbeat_at ?? run.created_at)));
}

const tagLink = (tag) => [" ", element("a", { class: "tag", href: `/?${new URLSearchParams({ tag })}` }, tag)];

function progress(run) {
  if (run.last_step === null) return ["–"];
  if (run.n_steps === null) return [whole(run.last_step)];
  const bar = element("progress", { max: run.n_steps, value: Math.min(run.last_step, run.n_steps), "aria-label": `progress of ${run.name}` });
  return [`${whole(run.last_step)} / ${whole(run.n_steps)}`, bar];
}

function loss(run, { loss_steps: steps, loss_values: values, loss: last }) {
  if (!steps.length) return "–";
  const shown = last === null ? "not finite" : value(last, 3);
  const words = `loss of ${run.name} from step ${steps[0]} to ${steps.at(-1)}, now ${shown}`;
  return element("span", { class: "spark-cell" }, spark(values.map((one) => one ?? NaN), words, steps.map(Math.log1p)), element("span", { class: "number" }, shown));
}

function changes({ n_changes: count, induction_step: step }) {
  if (!count) return ["–"];
  if (step === null) return [plural(count, "change")];
  const mark = element("span", { class: "induction-mark" }, `induction at step ${whole(step)}`);
  return [mark, count > 1 ? `, ${count - 1} more` : ""];
}

function listen(refresh) {
  let waiting = null;
  byId("q").value = state.get("q");
  byId("q").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => state.set({ q: byId("q").value.trim() }, { replace: true }), 200);
  });
  for (const name of ["status", "sort", "tag"]) {
    byId(name).value = state.get(name);
    byId(name).addEventListener("change", () => state.set({ [name]: byId(name).value }));
  }
  byId("more").firstElementChild.addEventListener("click", () => state.set({ rows: String(Number(state.get("rows")) + PAGE) }));
  state.onChange(() => {
    for (const name of ["q", "status", "sort"]) if (byId(name).value.trim() !== state.get(name)) byId(name).value = state.get(name);
    refresh();
  });
}

ready(async () => {
  listen(keepFresh({ kinds: KINDS, load }));
  replace(byId("address"), location.origin);
});
