// The two pages: the list of runs, and one run. Both fill themselves from the API and follow its events.

import { dropToken, get, getAll, hasToken, keepToken, readEvents, Refused } from "./api.js";
import { drawHeads, drawLines, element } from "./plots.js";

const POLL_MS = 10_000;
const RETRY_MS = 3_000;
const QUIET_MS = 1_000; // between two refreshes: a training run is never held up by who watches it
const TOKEN_GROUP = "token_group:";
const HEAD_SCORES = ["natural_prefix_matching", "prefix_matching", "previous_token", "duplicate_token", "first_token"];

const byId = (id) => document.getElementById(id);
const time = (text) => (text === null ? "" : new Date(text).toLocaleString());
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function report(error) {
  const problem = byId("problem");
  problem.hidden = error === null;
  if (error === null) return;
  problem.textContent = error instanceof Refused ? error.message : `The server does not answer (${error.message}).`;
  if (error.status === 401) askForToken();
}

function askForToken() {
  dropToken();
  byId("sign-in").hidden = false;
  byId("token").focus();
}

// One refresh at a time; what asks meanwhile gets one more when it is done.
function refresher(load) {
  let running = false;
  let again = false;
  return async function refresh() {
    if (running) {
      again = true;
      return;
    }
    running = true;
    do {
      again = false;
      try {
        await load();
        report(null);
      } catch (error) {
        report(error);
      }
      await pause(QUIET_MS);
    } while (again);
    running = false;
  };
}

function showLive(words) {
  byId("live").textContent = words;
  byId("live").hidden = false;
}

// Refreshes at every event, and every ten seconds where the stream is not to be had.
async function keepFresh(path, refresh) {
  let lastId = null;
  setInterval(() => document.hidden || refresh(), POLL_MS);
  for (;;) {
    try {
      await readEvents(path, lastId, () => showLive("live"), (event) => {
        lastId = event.id;
        if (event.kind !== "job") refresh(); // what a job found comes as events of its own
      });
    } catch (error) {
      if (error.status === 401) return;
    }
    showLive(`every ${POLL_MS / 1000} s`);
    await pause(RETRY_MS);
  }
}

// The list of runs.

function changesInWords(changes) {
  if (!changes.length) return "–";
  const induction = changes.find((change) => change.induction);
  const others = changes.length - (induction ? 1 : 0);
  const words = induction ? [`induction at step ${induction.step}`] : [];
  if (others) words.push(`${others} ${induction ? "more" : others === 1 ? "change" : "changes"}`);
  return words.join(", ");
}

function progress(run) {
  if (run.last_step === null) return "–";
  return run.n_steps === null ? `${run.last_step}` : `${run.last_step} / ${run.n_steps}`;
}

async function runRow(run) {
  const changes = await get(`/runs/${run.id}/phase-changes`);
  return element(
    "tr", {},
    element("td", {}, element("a", { href: `/runs/${run.id}` }, run.name)),
    element("td", {}, run.status),
    element("td", { class: "number" }, progress(run)),
    element("td", {}, changesInWords(changes.items)),
    element("td", {}, time(run.started_at)),
  );
}

function runsPage() {
  let shown = 50;
  const refresh = refresher(async () => {
    const runs = [];
    let next = "";
    while (next !== null && runs.length < shown) {
      const page = await get(`/runs?limit=50${next && `&cursor=${encodeURIComponent(next)}`}`);
      runs.push(...page.items);
      next = page.next;
    }
    const rows = await Promise.all(runs.map(runRow));
    byId("runs").tBodies[0].replaceChildren(...rows);
    byId("runs").hidden = !rows.length;
    byId("empty").hidden = rows.length > 0;
    byId("more").hidden = next === null;
  });
  byId("more").firstElementChild.addEventListener("click", () => {
    shown += 50;
    refresh();
  });
  refresh();
  keepFresh("/events", refresh);
}

// One run.

function showFacts(run) {
  document.title = `${run.name} · phasewatch`;
  byId("name").textContent = run.name;
  const model = run.training?.model;
  const facts = [
    run.status,
    `step ${progress(run)}`,
    model ? `sublayers ${model.sublayers}, width ${model.d_model}, ${model.n_heads} heads` : "recorded from outside",
    ...run.tags.map((tag) => `#${tag}`),
    run.failure,
  ];
  byId("facts").textContent = facts.filter(Boolean).join(" · ");
}

function showChanges(changes) {
  const items = changes.map((change) => {
    const head = change.induction ? "Induction heads form." : "";
    const words = [head, change.explanation, change.state === "provisional" ? "Provisional." : ""].filter(Boolean);
    return element("li", { "data-change": change.id, class: change.induction ? "induction" : null }, words.join(" "));
  });
  if (!items.length) items.push(element("li", { class: "none" }, "None found so far."));
  byId("changes").replaceChildren(...items);
}

const measureOrNothing = (run, measures, name) =>
  measures.some((one) => one.measure === name) ? get(`/runs/${run}/measures/${encodeURIComponent(name)}`) : null;

async function heldOut(run) {
  if (run.probe_set === null) return [];
  const { slices } = await get(`/probe-sets/${run.probe_set}`);
  const slice = slices.text ? "text" : Object.keys(slices)[0];
  const items = await getAll(`/runs/${run.id}/losses/${encodeURIComponent(slice)}`);
  if (!items.length) return [];
  return [{ name: `held out (${slice})`, steps: items.map((item) => item.step), values: items.map((item) => item.mean) }];
}

async function lossLines(run) {
  const [lines, series] = await Promise.all([heldOut(run), get(`/runs/${run.id}/series?name=loss`)]);
  lines.push(...series.items.map((item) => ({ ...item, name: "training batch" })));
  return lines.map((line, index) => ({ ...line, kind: index ? "second" : "first" }));
}

function lineOf(history, name) {
  const interval = history.interval;
  return {
    name, kind: "first", steps: history.steps, values: history.values,
    low: interval?.map((pair) => pair[0]), high: interval?.map((pair) => pair[1]),
  };
}

// Offers what there is to choose from, keeps what was chosen, and says which it is.
function offer(select, names, words) {
  const chosen = names.includes(select.value) ? select.value : names[0];
  select.replaceChildren(...names.map((name) => element("option", { value: name }, words(name))));
  if (chosen) select.value = chosen;
  return chosen;
}

function offerMeasures(measures) {
  const heads = HEAD_SCORES.filter((name) => measures.some((one) => one.measure === name));
  const groups = measures.map((one) => one.measure).filter((name) => name.startsWith(TOKEN_GROUP));
  return [
    offer(byId("measure"), heads, (name) => name.replaceAll("_", " ")),
    offer(byId("group"), groups, (name) => name.slice(TOKEN_GROUP.length).replaceAll("_", " ")),
  ];
}

function runPage(id) {
  let drawn = null;
  const draw = () => {
    if (drawn === null) return;
    const { lines, icl, group, heads, changes } = drawn;
    byId("loss").hidden = !lines.length;
    if (lines.length) drawLines(byId("loss"), { lines, changes, unit: "nats" });
    byId("icl").hidden = !icl;
    if (icl) drawLines(byId("icl"), { lines: [lineOf(icl, "score")], changes, unit: "nats" });
    byId("groups").hidden = !group;
    if (group) drawLines(byId("groups"), { lines: [lineOf(group, "mean loss")], changes, unit: "nats" });
    byId("heads").hidden = !heads;
    if (!heads) return;
    byId("measure-unit").textContent = heads.unit ?? "";
    const chance = heads.chance === null ? "" : `(chance ${heads.chance.toFixed(3)})`;
    drawHeads(byId("heads"), { history: heads, changes, note: chance });
  };
  const refresh = refresher(async () => {
    const run = await get(`/runs/${id}`);
    showFacts(run);
    const [changes, measures] = await Promise.all([get(`/runs/${id}/phase-changes`), get(`/runs/${id}/measures`)]);
    showChanges(changes.items);
    const chosen = offerMeasures(measures.items);
    const [lines, icl, heads, group] = await Promise.all([
      lossLines(run),
      measureOrNothing(id, measures.items, "icl_score"),
      ...chosen.map((name) => name && measureOrNothing(id, measures.items, name)),
    ]);
    drawn = { lines, icl, group, heads, changes: changes.items };
    draw();
  });
  for (const name of ["measure", "group"]) byId(name).addEventListener("change", refresh);
  let width = 0;
  new ResizeObserver(([main]) => {
    if (main.contentRect.width !== width) draw();
    width = main.contentRect.width;
  }).observe(document.querySelector("main"));
  refresh();
  keepFresh(`/events?run=${id}`, refresh);
}

function start() {
  const { page, run } = document.body.dataset;
  if (page === "runs") runsPage();
  else runPage(run);
}

byId("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken(byId("token").value.trim());
  location.reload();
});
if ("tokenNeeded" in document.body.dataset && !hasToken()) askForToken();
else start();
