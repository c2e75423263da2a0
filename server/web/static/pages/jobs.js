// The queue: what waits, runs, is done or failed, and why; each job can be tried again or cancelled.

import { get, getAll, mayWrite, send } from "../core/api.js";
import { acting } from "../core/actions.js";
import { byId, element, replace } from "../core/dom.js";
import { percent, plural, since, value } from "../core/format.js";
import { keepFresh } from "../core/live.js";
import { button, moreButton, Rows } from "../core/rows.js";
import { ready } from "../core/shell.js";
import { urlState } from "../core/url-state.js";

const STATES = ["waiting", "running", "done", "failed", "cancelled"];
const SHOWN = 50;
const PROGRESS_MS = 3_000; // no event tells of the progress of a job
const state = urlState({ state: "", kind: "", run: "", id: "" });

let names = new Map();
let jobs = [];
let nextPage = null;
let refresh = () => {};
const act = acting(() => refresh());
const kinds = new Set();
const traces = new Map();

const columns = [
  ["job", "Job"], ["run", "Run"], ["step", "Step", "number"], ["state", "State"], ["told", "Outcome"], ["when", "When"], ["actions", ""],
];
const table = new Rows(byId("jobs"), { caption: "Jobs", columns, empty: "No job is like this." });
const showMore = moreButton(byId("more"), () => loadPage(nextPage));

function cells(job) {
  const { id, kind } = job;
  const actions = [];
  if (mayWrite() && ["failed", "cancelled"].includes(job.state)) {
    actions.push(button("retry", "Try again", `Try job ${id} again`, () => act(() => send("POST", `/jobs/${id}/retry`), () => `Job ${id} waits again.`)));
  }
  if (mayWrite() && ["waiting", "running"].includes(job.state)) {
    actions.push(button("cancel", "Cancel", `Cancel job ${id}`, () => act(() => send("POST", `/jobs/${id}/cancel`), () => `Job ${id} is cancelled.`)));
  }
  const moment = job.finished_at ?? job.started_at ?? job.created_at;
  return {
    job: element("span", {}, element("a", { href: `/jobs?id=${id}` }, String(id)), ` ${kind.replaceAll("_", " ")}`),
    run: job.run && element("a", { href: `/runs/${job.run}` }, names.get(job.run) ?? "a run"),
    step: job.step === null ? "" : String(job.step),
    state: [element("span", { class: "status", "data-status": job.state }, job.state), job.attempts > 1 && element("span", { class: "quiet" }, ` try ${job.attempts}`)],
    told: told(job),
    when: element("span", { title: moment }, since(moment), duration(job)),
    actions,
  };
}

function duration({ started_at: from, finished_at: to }) {
  if (from === null || to === null) return null;
  return element("span", { class: "quiet" }, `, took ${value((Date.parse(to) - Date.parse(from)) / 1_000, 2)} s`);
}

function told(job) {
  const parts = [];
  if (job.state === "running" && job.progress !== null) {
    const words = `${percent(job.progress)}${job.progress_text ? `, ${job.progress_text}` : ""}`;
    parts.push(element("progress", { max: 1, value: job.progress, "aria-label": `Progress of job ${job.id}` }), ` ${words}`);
  } else if (job.state === "running" && job.progress_text) parts.push(job.progress_text);
  if (job.error) {
    const fold = table.fold(`error ${job.id}`, element("span", { class: "wrong" }, job.error.split("\n")[0]),
      element("pre", { class: "error", tabindex: "0" }, [job.error, traces.get(job.id)].filter(Boolean).join("\n\n")));
    fold.addEventListener("toggle", () => fold.open && !traces.has(job.id) && loadTrace(job.id));
    parts.push(fold);
  }
  const asked = { ...job.parameters, ...(job.result ? { result: job.result } : {}) };
  if (Object.keys(asked).length) {
    parts.push(table.fold(`told ${job.id}`, job.result ? "Parameters and result" : "Parameters",
      element("pre", { class: "error", tabindex: "0" }, JSON.stringify(asked, null, 1))));
  }
  return parts;
}

// Where in the code it failed, which the server tells admins alone.
async function loadTrace(id) {
  traces.set(id, (await get(`/jobs/${id}`)).traceback ?? "");
  table.fill(jobs, (job) => job.id, cells);
}

// The filters.

function options(id, label, choices, words = (one) => one.replaceAll("_", " ")) {
  const select = byId(id);
  const chosen = state.get(id);
  const all = chosen && !choices.includes(chosen) ? [...choices, chosen] : choices;
  replace(select, element("option", { value: "" }, label), all.map((one) => element("option", { value: one }, words(one))));
  select.value = chosen;
}

function showFilters() {
  options("state", "any state", STATES);
  options("kind", "any kind", [...kinds].sort());
  options("run", "any run", [...names.keys()], (id) => names.get(id) ?? id);
  byId("one").hidden = state.get("id") === "";
  byId("one-words").textContent = `Only job ${state.get("id")}.`;
}

async function loadPage(cursor = null) {
  const filters = ["state", "kind", "run"].filter((name) => state.get(name)).map((name) => `&${name}=${encodeURIComponent(state.get(name))}`);
  if (state.get("id")) {
    jobs = [await get(`/jobs/${encodeURIComponent(state.get("id"))}`)];
    nextPage = null;
  } else {
    const page = await get(`/jobs?limit=${SHOWN}${filters.join("")}${cursor === null ? "" : `&cursor=${cursor}`}`);
    jobs = cursor === null ? page.items : [...jobs, ...page.items];
    nextPage = page.next;
  }
  for (const job of jobs) kinds.add(job.kind);
  table.fill(jobs, (job) => job.id, cells);
  replace(byId("count"), `${plural(jobs.length, "job")}${nextPage === null ? "" : ", and older ones"}`);
  showMore(nextPage);
  showFilters();
}

// Older pages stay as they are; what is new comes at the top.
async function load() {
  if (jobs.some((job) => job.run !== null && !names.has(job.run)) || !names.size) {
    names = new Map((await getAll("/runs")).map((run) => [run.id, run.name]));
  }
  if (jobs.length <= SHOWN) await loadPage();
}

ready(async () => {
  for (const id of ["state", "kind", "run"]) byId(id).addEventListener("change", (event) => state.set({ [id]: event.target.value, id: "" }));
  byId("all").addEventListener("click", () => state.set({ id: "" }));
  state.onChange(() => loadPage());
  refresh = keepFresh({ kinds: ["job"], load });
  setInterval(() => document.hidden || (jobs.some((job) => job.state === "running") && refresh()), PROGRESS_MS);
});
