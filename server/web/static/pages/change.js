// One phase change: what, when, and everything that speaks for and against it; and what a person makes of it.

import { get, mayWrite, send } from "../core/api.js";
import { byId, element, replace, report, say } from "../core/dom.js";
import { headName, time, value, whole } from "../core/format.js";
import { keepFresh } from "../core/live.js";
import { category } from "../core/palette.js";
import { ready } from "../core/shell.js";
import { urlState } from "../core/url-state.js";
import { AXIS_STATE, StepAxis } from "../plots/axis.js";
import { axisControls } from "../plots/controls.js";
import { Figure } from "../plots/figure.js";
import { LinePlot } from "../plots/lines.js";
import { fitOf } from "../change/fit.js";
import { showHeads } from "../change/heads.js";
import { seriesOf } from "../change/series.js";
import { showTokens, tokensPage } from "../change/tokens.js";
import { STATES, lead, matched, share, times, title } from "../change/words.js";

const CHANGE = document.body.dataset.change;
const BEYOND = 4; // how much more than the change is shown on either side, as a factor

let [change, state, plot, stamp] = [null, null, null, ""];

async function load() {
  change = await get(`/phase-changes/${CHANGE}`);
  const first = state === null;
  if (first) await begin();
  const now = JSON.stringify(change);
  if (now === stamp) {
    await showAlerts();
    return;
  }
  stamp = now;
  showWords();
  showReview();
  showEvidence();
  const later = [showSeries(), showAlerts()];
  if (change.heads.length) later.push(heads());
  later.push(showTokens(change, { gained: byId("gained"), lost: byId("lost"), groups: byId("groups-place") }));
  await Promise.all(later);
}

const heads = () => showHeads(change, { place: byId("attention"), tablePlace: byId("scores-place"), state });

// What hangs on the change's own steps: the axis begins around it.
async function begin() {
  const run = await get(`/runs/${change.run}`);
  Object.assign(byId("run"), { href: `/runs/${change.run}`, textContent: run.name });
  document.title = `${title(change)} · ${run.name} · phasewatch`;
  const end = change.end_step ?? run.last_step ?? change.step;
  const last = Math.min(end * BEYOND, run.last_step ?? Infinity);
  state = urlState({ ...AXIS_STATE, steps: `${Math.floor(change.start_step / BEYOND)}..${Math.max(last, end + 1)}`, head: null, pattern: null });
  const axis = new StepAxis();
  axis.bind(state);
  const figure = new Figure(byId("course"), { title: "The course around it", unit: change.unit });
  figure.controls.append(...axisControls(axis));
  plot = new LinePlot(figure, axis, { name: "change", height: 260 });
  state.onChange((names) => {
    if (names.has("head") || names.has("pattern")) heads().then(() => report(null), report);
  });
}

function showWords() {
  byId("title").textContent = title(change);
  byId("lead").textContent = lead(change);
  const tags = [change.state, change.kind, change.review].filter(Boolean).map((word) => element("span", { class: "tag", "data-word": word }, word));
  replace(byId("tags"), tags);
  replace(byId("times"), times(change).map((row) => element("tr", {}, element("th", { scope: "row" }, row[0]), element("td", { class: "number" }, row[1]), element("td", { class: "number" }, row[2]))));
  const facts = [
    `${whole(change.n_checkpoints_inside)} checkpoints lie inside`,
    change.q_value === null ? null : `false-discovery rate q = ${value(change.q_value, 2)}${change.q_scope ? ` over ${change.q_scope}` : ""}`,
    `first seen at step ${whole(change.first_seen_step)}, last looked for at step ${whole(change.last_seen_step)}`,
  ];
  byId("found").textContent = `${facts.filter(Boolean).join("; ")}.`;
  byId("explanation").textContent = change.explanation;
  showSigns();
  const none = "No logged event, such as the end of the warm-up, falls into its time.";
  replace(byId("coincides"), change.coincides_with.length
    ? element("p", {}, element("strong", {}, "Coincides with "), `${change.coincides_with.join(", ")}, which may be its cause.`)
    : element("p", { class: "quiet" }, none));
  byId("all-tokens").href = tokensPage(change, change.n_tokens ? { only: `change:${change.id}` } : {});
  byId("heads-section").hidden = !change.heads.length;
}

function showSigns() {
  const signs = Object.entries(change.signs);
  byId("verdict").textContent = change.induction ? "Verdict: this is the formation of induction heads." : "Verdict: not shown to be the formation of induction heads.";
  byId("verdict").dataset.induction = change.induction;
  replace(byId("signs"), signs.map(([name, found]) => element("li", { "data-sign": found },
    element("span", { class: "sign", "aria-hidden": "true" }, STATES[found] ?? "–"), element("span", {}, name.replaceAll("_", " ")), element("span", { class: "quiet" }, found))));
  byId("signs").hidden = !signs.length;
}

async function showSeries() {
  const found = await seriesOf(change);
  byId("course").hidden = found === null;
  if (found === null) return;
  const lines = [{ ...found, color: category(0), points: found.steps.length < 80 }];
  const fit = fitOf(change, found.steps, found.values);
  if (fit !== null) lines.push({ name: "10, 50, 90 % at its start, middle, end", color: category(1), width: 2.25, ...fit });
  plot.figure.setUnit(found.unit);
  plot.update({ lines, changes: [change] });
  plot.figure.describe(`The band is the change, paler over the intervals of its start and end; the dashed line is its middle.`);
}

function showEvidence() {
  const place = byId("evidence");
  if (!change.evidence.length) {
    const words = change.heads.length ? "Not measured yet: its heads are silenced once it is confirmed, where weights are recorded." : "It names no heads that could be silenced.";
    replace(place, element("p", { class: "quiet" }, words));
    return;
  }
  const bar = (lost) => (lost?.share ? element("meter", { min: "0", max: "1", value: String(Math.min(Math.max(lost.share, 0), 1)), "aria-label": "share taken away" }) : null);
  const rows = change.evidence.map((one) => {
    const scores = ["icl_score", "repeat_gain"].map((name) => one.scores[name]);
    return element("tr", {},
      element("th", { scope: "row" }, one.heads.map(headName).join(", ")), element("td", {}, one.mode.replaceAll("_", " ")),
      scores.map((lost) => element("td", {}, bar(lost), " ", share(lost), element("br"), element("span", { class: "quiet" }, `matched heads ${matched(lost)}`))));
  });
  const columns = ["zeroed", "mode", "of the ICL score", "of the repeat gain"];
  replace(place,
    element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Causal evidence" }, element("table", { id: "ablations" },
      element("caption", {}, `The share that zeroing heads takes away at step ${whole(change.evidence[0].step)}, with its 95 % interval in percent`),
      element("thead", {}, element("tr", {}, columns.map((name) => element("th", { scope: "col" }, name)))), element("tbody", {}, rows))),
    element("ul", { class: "sentences" }, [...new Set(change.evidence.map((one) => one.sentence))].map((words) => element("li", {}, words))));
}

// What a person makes of it.

function showReview() {
  for (const name of ["acknowledged", "dismissed"]) byId(name).setAttribute("aria-pressed", String(change.review === name));
  if (document.activeElement !== byId("note")) byId("note").value = change.note ?? "";
  for (const name of ["acknowledged", "dismissed", "note", "save-note"]) byId(name).disabled = !mayWrite();
}

async function review(body, words) {
  change = await send("PATCH", `/phase-changes/${CHANGE}`, body);
  stamp = JSON.stringify(change);
  showWords();
  showReview();
  say(words);
}

async function showAlerts() {
  const { items } = await get(`/alerts?change=${CHANGE}&limit=50`);
  const rows = items.map((one) => element("li", {}, element("span", { class: "status", "data-status": one.state === "sent" ? "done" : one.state }, one.state), ` ${one.title} `, element("span", { class: "quiet" }, time(one.finished_at ?? one.created_at))));
  replace(byId("alerts"), rows.length ? rows : element("li", { class: "quiet" }, "No channel was told of it."));
}

function listen() {
  const tell = (action) => (event) => {
    event.preventDefault();
    action().then(() => report(null), report);
  };
  for (const name of ["acknowledged", "dismissed"]) {
    byId(name).onclick = tell(() => (change.review === name ? review({ review: null }, "Taken back.") : review({ review: name }, `${name[0].toUpperCase()}${name.slice(1)}.`)));
  }
  byId("note-form").onsubmit = tell(() => review({ note: byId("note").value.trim() || null }, "Note saved."));
}

ready(async () => {
  listen();
  keepFresh({ kinds: ["phase_change", "measurement", "alert"], load });
});
