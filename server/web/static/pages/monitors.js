// What is watched: a list of monitors, a form for another, and when each was due and what it asked for.

import { get, getAll, mayWrite, send } from "../core/api.js";
import { acting, twice } from "../core/actions.js";
import { byId, element, replace, say } from "../core/dom.js";
import { choose, field, form, help } from "../core/forms.js";
import { plural, since, time } from "../core/format.js";
import { keepFresh } from "../core/live.js";
import { button, moreButton, Rows } from "../core/rows.js";
import { selectorField, selectorWords } from "../core/selectors.js";
import { ready } from "../core/shell.js";
import { inWords, nextTimes, triggerWords, unitSeconds } from "../core/triggers.js";
import { urlState } from "../core/url-state.js";

const KINDS = {
  score: ["Score", "Measures every checkpoint that is not measured yet."],
  scan: ["Scan", "Looks for phase changes in every run of which enough is new."],
  ablate_on_change: ["Ablate on change", "Silences the heads of each confirmed change at the checkpoints around it."],
  compare: ["Compare", "Sets the runs beside one another; the comparison is the result of its job."],
  stale_run: ["Stale run", "Tells of running runs that fell silent, once for each silence."],
  divergence: ["Divergence", "Tells of runs whose loss had fallen and rises again to stay."],
};
const SHOWN_FIRINGS = 20;
const state = urlState({ monitor: null });

let names = new Map();
let monitors = [];
let firings = [];
let refresh = () => {};
const act = acting(() => refresh());

const kindName = (kind) => KINDS[kind]?.[0] ?? kind;
const parameterWords = (parameters) =>
  Object.entries(parameters).filter(([, value]) => value !== null).map(([name, value]) => `${name} ${value}`).join(", ");

// The list.

const columns = [
  ["name", "Monitor"], ["what", "What"], ["which", "Which runs"], ["when", "When"], ["on", "On"], ["actions", ""],
];
const table = new Rows(byId("monitors"), { caption: "Monitors", columns, empty: "No monitors: nothing is scored or scanned by itself. Make one below." });

function cells(monitor) {
  const { id, name, enabled } = monitor;
  const actions = [button("history", "History", `History of ${name}`, () => state.set({ monitor: id }))];
  if (mayWrite()) {
    actions.push(
      button("fire", "Fire now", `Fire ${name} now`, () => act(() => send("POST", `/monitors/${id}/fire`), fired)),
      button("toggle", enabled ? "Turn off" : "Turn on", `Turn ${name} ${enabled ? "off" : "on"}`, () =>
        act(() => send("PATCH", `/monitors/${id}`, { enabled: !enabled }), () => `${name} is ${enabled ? "off" : "on"}.`)),
      button("delete", "Delete", `Delete ${name}`, (event) => twice(event.target, "Really delete?", () => remove(monitor))),
    );
  }
  const parameters = parameterWords(monitor.parameters);
  return {
    name: element("strong", {}, name),
    what: element("span", { title: KINDS[monitor.kind]?.[1] ?? null }, kindName(monitor.kind), parameters && element("span", { class: "quiet" }, ` (${parameters})`)),
    which: selectorWords(monitor.selector, names),
    when: element("span", {}, triggerWords(monitor.trigger), element("span", { class: "help next" }, next(monitor))),
    on: element("span", { class: "status", "data-status": enabled ? "running" : "off" }, enabled ? "on" : "off"),
    actions,
  };
}

const fired = ({ jobs }) => (jobs.length ? `Fired: ${plural(jobs.length, "job")}.` : "Fired: there was nothing to do.");

function remove({ id, name }) {
  if (state.get("monitor") === String(id)) state.set({ monitor: null });
  act(() => send("DELETE", `/monitors/${id}`), ({ firings: count }) => `${name} is deleted, with ${plural(count, "firing")}.`);
}

function next(monitor) {
  if (!monitor.enabled) return "";
  if (monitor.trigger.each_checkpoint) return "";
  if (monitor.trigger.cron) return monitor.due?.length ? ` next ${inWords(new Date(monitor.due[0]))}` : "";
  return ` next ${inWords(nextTimes(monitor, 1)[0])}`;
}

const dueTimes = async (cron, count) => (await get(`/monitors/due?count=${count}&cron=${encodeURIComponent(cron)}`)).times;

// What one was due for.

const history = new Rows(byId("firings"), {
  caption: "Firings", columns: [["due", "Due"], ["noticed", "Noticed"], ["jobs", "Jobs"]], empty: "It has not fired yet.",
});
const showMore = moreButton(byId("more-firings"), () => loadFirings(firings.next));

function firingCells({ id, scheduled_at: due, created_at: noticed, coalesced, jobs }) {
  const links = jobs.map((job) => element("a", { href: `/jobs?id=${job.id}` }, `${job.kind} ${job.id}`, element("span", { class: "quiet" }, ` ${job.state}`)));
  const shown = links.slice(0, 6).flatMap((link, index) => (index ? [", ", link] : [link]));
  const rest = links.slice(6).flatMap((link) => [link, " "]);
  return {
    due: element("span", { title: due }, time(due), coalesced && element("span", { class: "quiet" }, " (also for earlier times that were missed)")),
    noticed: element("span", { title: noticed }, since(noticed)),
    jobs: jobs.length ? [...shown, rest.length ? history.fold(`firing ${id}`, `and ${rest.length / 2} more`, rest) : null] : "nothing to do",
  };
}

async function loadFirings(cursor = null) {
  const id = state.get("monitor");
  byId("history").hidden = id === null;
  if (id === null) return;
  const page = await get(`/monitors/${id}/firings?limit=${SHOWN_FIRINGS}${cursor === null ? "" : `&cursor=${cursor}`}`);
  firings = Object.assign(cursor === null ? page.items : [...firings, ...page.items], { next: page.next });
  const monitor = monitors.find((one) => String(one.id) === id);
  replace(byId("history-name"), `History of ${monitor?.name ?? `monitor ${id}`}`);
  history.fill(firings, (firing) => firing.id, firingCells);
  showMore(firings.next);
}

// A form for another.

function buildForm(runs) {
  const name = field("name", "Name", element("input", { required: true, maxlength: 200, autocomplete: "off" }));
  const kind = choose("kind", "Kind", Object.entries(KINDS).map(([one, [words]]) => [one, words]), "");
  const which = selectorField(runs);
  const when = choose("trigger", "When", [["each_checkpoint", "At each checkpoint"], ["every_s", "Again and again"], ["cron", "By the clock"]], "");
  const every = field("every_s", "Every", element("input", { type: "number", min: 1, step: "any", value: 5, required: true }));
  const unit = choose("unit", "Unit", Object.keys(unitSeconds).map((one) => [one, `${one}s`]));
  unit.control.value = "minute";
  const cron = field("cron", "Cron line", element("input", { required: true, value: "0 * * * *", autocomplete: "off", spellcheck: "false" }), "minute hour day month weekday, in UTC");
  const measure = field("measure", "Measure", element("input", { value: "icl_score", autocomplete: "off" }), "a number, or a score of heads");
  const after = field("after_s", "Silent after (seconds)", element("input", { type: "number", min: 1, step: "any", value: 600, required: true }));
  const series = field("series", "Metric", element("input", { autocomplete: "off" }), "empty: the mean loss of each slice, or the metric loss");
  const enabled = field("enabled", "On at once", element("input", { type: "checkbox", checked: true }));
  const parts = { compare: measure, stale_run: after, divergence: series };
  const trigger = () => ({
    each_checkpoint: { each_checkpoint: true }, every_s: { every_s: Number(every.control.value) * unitSeconds[unit.control.value] },
    cron: { cron: cron.control.value.trim() },
  })[when.control.value];
  const parameters = () => ({
    compare: { measure: measure.control.value.trim() || "icl_score" }, stale_run: { after_s: Number(after.control.value) },
    divergence: series.control.value.trim() ? { series: series.control.value.trim() } : {},
  })[kind.control.value] ?? {};

  function show() {
    help(kind, KINDS[kind.control.value][1]);
    for (const [of, part] of Object.entries(parts)) part.hidden = of !== kind.control.value;
    const waits = when.control.querySelector('[value="each_checkpoint"]');
    waits.disabled = kind.control.value === "stale_run";
    if (waits.disabled && when.control.value === "each_checkpoint") when.control.value = "every_s";
    every.hidden = unit.hidden = when.control.value !== "every_s";
    cron.hidden = when.control.value !== "cron";
    foretell();
  }

  let asked = 0;
  async function foretell() {
    const mine = (asked += 1);
    if (when.control.value !== "cron") {
      const first = nextTimes({ trigger: trigger(), created_at: new Date().toISOString() }, 3).filter((one) => !Number.isNaN(one.getTime()));
      help(when, when.control.value === "every_s" && first.length ? `${triggerWords(trigger())}: ${first.map((one) => inWords(one)).join(", then ")}` : "");
      return;
    }
    try {
      const times = await dueTimes(cron.control.value.trim(), 3);
      if (mine === asked) help(when, `Next: ${times.map((one) => inWords(new Date(one))).join(", then ")}`);
      if (mine === asked) cron.wrong.textContent = "";
    } catch (error) {
      if (mine === asked) help(when, "");
      if (mine === asked) cron.wrong.textContent = error.message;
    }
  }

  for (const control of [kind.control, when.control]) control.addEventListener("change", show);
  for (const control of [every.control, unit.control, cron.control]) control.addEventListener("input", foretell);
  const fields = [name, kind, ...which.fields, when, every, unit, cron, ...Object.values(parts), enabled];
  form(byId("new-monitor"), fields, "Create", async () => {
    const body = { name: name.control.value.trim(), kind: kind.control.value, selector: which.value(), trigger: trigger() };
    const made = await send("POST", "/monitors", { ...body, parameters: parameters(), enabled: enabled.control.checked });
    say(`${made.name} is made.`);
    name.control.value = "";
    refresh();
  });
  show();
}

async function load() {
  monitors = await getAll("/monitors");
  for (const monitor of monitors.filter((one) => one.enabled && one.trigger.cron)) monitor.due = await dueTimes(monitor.trigger.cron, 1);
  table.fill(monitors, (monitor) => monitor.id, cells);
  if (firings.length <= SHOWN_FIRINGS) await loadFirings();
}

ready(async () => {
  const runs = await getAll("/runs");
  names = new Map(runs.map((run) => [run.id, run.name]));
  if (mayWrite()) buildForm(runs);
  byId("new").hidden = !mayWrite();
  state.onChange(() => loadFirings());
  byId("close-history").addEventListener("click", () => state.set({ monitor: null }));
  refresh = keepFresh({ kinds: ["job", "run"], load });
});
