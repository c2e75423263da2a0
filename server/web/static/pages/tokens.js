// The tokens of a run: the probe text, coloured by loss or by what was gained since another checkpoint, along the run.

import { get } from "../core/api.js";
import { byId, element, offer, replace, report, say } from "../core/dom.js";
import { plural, value, whole } from "../core/format.js";
import { keepFresh } from "../core/live.js";
import { category } from "../core/palette.js";
import { ready } from "../core/shell.js";
import { urlState } from "../core/url-state.js";
import { AXIS_STATE, StepAxis, lowerBound } from "../plots/axis.js";
import { changeName } from "../plots/bands.js";
import { Figure } from "../plots/figure.js";
import { LinePlot } from "../plots/lines.js";
import { TokenCanvas } from "../tokens/canvas.js";
import { TokenScale, limitOf } from "../tokens/colours.js";
import { LossWindow } from "../tokens/losses.js";
import { Members } from "../tokens/members.js";
import { drawTokens, tokenTable } from "../tokens/picture.js";
import { Player } from "../tokens/player.js";
import { Search } from "../tokens/search.js";
import { inWords } from "../tokens/visible.js";
import { loadWindow, overTokens, sequencesAWindow } from "../tokens/window.js";

const RUN = document.body.dataset.run;
const PAPER = { width: 960, height: 640 };
const HISTORY_MS = 80;
const ASIDE_MS = 200; // between two looks of what stands beside the text, and of the URL, while the run plays
const CONTEXT = 6;

const state = urlState({
  slice: null, first: null, step: null, colour: "loss", since: null, view: "text", only: "all", token: null, q: "", speed: "10", ...AXIS_STATE,
});

let run, set, changes, groups, steps; // what is known of the run
let shape, shown, losses, members, search; // of the slice, and of the window on the page
let base = null; // losses at the step that gains are counted from
let [scale, colours] = [null, null];
let later = null; // when what stands beside the text is drawn
let pointed = null;
let asked = 0; // numbers the windows, so that an answer that comes late is left out

const slice = () => (state.get("slice") in set.slices ? state.get("slice") : "text" in set.slices ? "text" : Object.keys(set.slices)[0]);
const isGain = () => state.get("colour") === "gain";
const indexOfStep = (text, otherwise) => (text === null || !/^\d+$/.test(text) ? otherwise : Math.min(lowerBound(steps, Number(text)), steps.length - 1));
const sinceIndex = () => indexOfStep(state.get("since"), 0);

const axis = new StepAxis();
axis.bind(state);
const figure = new Figure(byId("text"), { title: "Probe text", unit: "", paper: PAPER });
const legend = element("p", { class: "token-legend" });
const place = element("div", { id: "tokens" });
figure.body.append(legend, place);
const canvas = new TokenCanvas(place, { label: "Probe text: arrow keys walk over the tokens, Space plays the run", onPoint: point, onChoose: choose });
const history = new Figure(byId("history"), { title: "Its history", unit: "nats" });
const plot = new LinePlot(history, axis, { name: "token-history", height: 200 });
const player = new Player(byId("player"), {
  speed: state.get("speed"),
  onSpeed: (speed) => state.set({ speed }),
  onIndex: (index, direction) => draw(direction).catch(report),
  isReady: (index) => losses?.at(index) !== null,
});

function choice(group, options, name) {
  replace(byId(group), options.map(([one, words]) =>
    element("button", { type: "button", "data-value": one, onclick: () => state.set({ [name]: one }) }, words)));
}

function markChoices() {
  for (const [group, name] of [["by", "colour"], ["view", "view"]]) {
    for (const button of byId(group).children) button.setAttribute("aria-pressed", String(button.dataset.value === state.get(name)));
  }
  byId("since-label").hidden = !isGain();
}

// What the page is about, once.

async function start() {
  run = await get(`/runs/${RUN}`);
  byId("run").textContent = run.name;
  document.title = `Tokens of ${run.name} · phasewatch`;
  if (run.probe_set === null) return empty("This run has no probe set yet: a recorder sends one with recorder.probe(tokens).");
  const [known, found, named] = await Promise.all([
    get(`/probe-sets/${run.probe_set}`), get(`/runs/${RUN}/phase-changes`), get(`/probe-sets/${run.probe_set}/groups`),
  ]);
  [set, changes, groups] = [known, found.items, named.items];
  steps = await loadSteps();
  if (!steps.length) return empty(`No losses of slice ${slice()} are recorded yet; the page shows them as they come.`);
  byId("empty").hidden = true;
  byId("page").hidden = false;
  choice("by", [["loss", "loss"], ["gain", "gain"]], "colour");
  choice("view", [["text", "text"], ["cells", "cells"]], "view");
  listen();
  await showSlice();
  return true;
}

function empty(words) {
  byId("empty").textContent = words;
  byId("empty").hidden = false;
  return false;
}

// The checkpoints there are losses of.
const loadSteps = async () => (await get(`/runs/${RUN}/losses/${encodeURIComponent(slice())}/means`)).steps;

async function refresh() {
  const now = await get(`/runs/${RUN}`);
  if (now.last_step === run.last_step) return;
  const atEnd = player.index === steps.length - 1 && state.get("step") === null;
  run = now;
  const newer = await loadSteps();
  if (newer.length === steps.length) return;
  steps = newer;
  losses.grow(steps);
  showSteps(atEnd ? steps.length - 1 : player.index);
  if (atEnd) draw();
  followToken(true);
}

function showSteps(index) {
  player.setSteps(steps, index);
  const words = (step) => whole(Number(step));
  offer(byId("since"), steps.map(String), words, String(steps[sinceIndex()]));
}

async function showSlice() {
  shape = set.slices[slice()];
  const names = Object.keys(set.slices);
  offer(byId("slice"), names, undefined, slice());
  byId("slice-label").hidden = names.length < 2;
  offerOnly();
  showSteps(indexOfStep(state.get("step"), steps.length - 1));
  await showWindow();
}

function offerOnly() {
  const own = groups.filter((group) => slice() in group.n_members).map((group) => `group:${group.name}`);
  const moved = changes.filter((change) => change.n_tokens && change.slice === slice()).map((change) => `change:${change.id}`);
  const words = (only) => {
    if (only === "all") return "all tokens";
    if (only.startsWith("group:")) return only.slice(6).replaceAll("_", " ");
    const change = changes.find((one) => one.id === only.slice(7));
    return `moved at step ${whole(change.step)} (${changeName(change)})`;
  };
  offer(byId("only"), ["all", ...own, ...moved], words, state.get("only"));
}

// The window of sequences.

function chosenPlace() {
  const found = /^(\d+):(\d+)$/.exec(state.get("token") ?? "");
  return found && Number(found[1]) < shape.n_sequences && Number(found[2]) < shape.n_tokens ? [Number(found[1]), Number(found[2])] : null;
}

function firstSequence() {
  const asked = state.get("first");
  if (asked !== null && /^\d+$/.test(asked)) return Math.min(Number(asked), shape.n_sequences - 1);
  const [sequence] = chosenPlace() ?? [0];
  return sequence - (sequence % sequencesAWindow(shape));
}

async function showWindow() {
  const mine = (asked += 1);
  const found = await loadWindow({ probeSet: set.id, slice: slice(), shape, first: firstSequence() });
  if (mine !== asked) return;
  losses?.end();
  shown = found;
  losses = new LossWindow({ run: RUN, slice: slice(), first: shown.losses.first, count: shown.losses.count, steps });
  canvas.firstSequence = shown.first;
  canvas.setView(state.get("view"));
  canvas.setTokens({ pieces: shown.texts, nTokens: shown.n });
  showPages();
  await Promise.all([settle(), filter(), find()]);
  followToken();
}

function showPages() {
  const more = shape.n_sequences > shown.count;
  byId("pages").hidden = !more;
  byId("first").value = shown.first;
  byId("first").max = shape.n_sequences - 1;
  byId("page-words").textContent = `to ${whole(shown.first + shown.count - 1)} of ${whole(shape.n_sequences)}`;
  byId("page-before").disabled = shown.first === 0;
  byId("page-next").disabled = shown.first + shown.count >= shape.n_sequences;
  byId("facts").textContent = `${plural(shape.n_sequences, "sequence")} of ${plural(shape.n_tokens, "token")} · ${plural(steps.length, "checkpoint")} · ${slice()}`;
}

// Goes to a token, wherever it is.
async function visit(sequence, position) {
  const inside = sequence >= shown.first && sequence < shown.first + shown.count;
  state.set({ token: `${sequence}:${position}`, ...(inside ? {} : { first: null }) });
  if (!inside) await showWindow();
  canvas.show((sequence - shown.first) * shown.n + position);
  followToken();
}

const placeOf = (loss) => [Math.floor(loss / shown.positions), (loss % shown.positions) + 1];

// Colours.

// The scale of a window: the same at all its checkpoints, so that a run can be played and a link shows the same.
async function settle() {
  markChoices();
  const mine = losses;
  const [first, last] = [isGain() ? sinceIndex() : 0, steps.length - 1];
  const [from, to] = await Promise.all([mine.load(first), mine.load(last)]);
  if (mine !== losses) return;
  base = isGain() ? from : null;
  const limit = limitOf(isGain() ? from.map((loss, index) => loss - to[index]) : from);
  scale = { limit, by: state.get("colour") };
  makeColours();
  await draw();
}

const makeScale = (options = {}) => new TokenScale({ ...scale, view: state.get("view"), ...options });

async function draw(direction = 1) {
  if (scale === null) return;
  const [mine, index] = [losses, player.index];
  const values = mine.at(index) ?? (await mine.load(index));
  if (mine !== losses || index !== player.index) return;
  mine.ahead(index, direction);
  canvas.paint({ levels: levelsOf(values, colours), pixels: colours.pixels, step: steps[index] });
  later ??= setTimeout(drawAside, player.isPlaying ? ASIDE_MS : 0);
}

// What need not be drawn twenty times a second.
function drawAside() {
  later = null;
  if (losses === undefined || player.index >= steps.length) return;
  if (player.index !== indexOfStep(state.get("step"), steps.length - 1)) state.set({ step: steps[player.index] }, { replace: true });
  showFacts();
  if (pointed === null) axis.hover(steps[player.index], null);
}

function makeColours() {
  if (scale === null) return;
  colours = makeScale();
  showLegend();
}

const gainOf = (values) => (base === null ? values : values.map((loss, index) => base[index] - loss));

function levelsOf(values, within) {
  const levels = new Int16Array(shown.count * shown.n).fill(-1);
  const coloured = gainOf(values);
  for (let loss = 0; loss < coloured.length; loss += 1) {
    const level = within.level(coloured[loss]);
    if (level !== null) levels[Math.floor(loss / shown.positions) * shown.n + (loss % shown.positions) + 1] = level;
  }
  return levels;
}

function showLegend() {
  const words = isGain() ? `gain since step ${whole(steps[sinceIndex()])}, nats` : "loss, nats";
  const strip = element("canvas", { width: 192, height: 1, role: "img", "aria-label": "colours from low to high" });
  const context = strip.getContext("2d");
  colours.legend(192).forEach((color, x) => Object.assign(context, { fillStyle: color }).fillRect(x, 0, 1, 1));
  const [low, high] = isGain() ? [`−${value(scale.limit)} (worse)`, `+${value(scale.limit)} (better)`] : ["0", `${value(scale.limit)} and more`];
  legend.replaceChildren(element("strong", {}, words), low, strip, high);
  figure.setUnit(words);
}

// The token that is looked at: under the pointer, else the chosen one.

function chosenIndex() {
  const found = chosenPlace();
  if (found === null || found[0] < shown.first || found[0] >= shown.first + shown.count) return null;
  return (found[0] - shown.first) * shown.n + found[1];
}

function point(index) {
  pointed = index;
  showFacts();
  askHistory();
}

function choose(index) {
  state.set({ token: `${shown.first + Math.floor(index / shown.n)}:${index % shown.n}` }, { replace: true });
  followToken();
}

function followToken(again = false) {
  canvas.mark({ chosen: chosenIndex() });
  showFacts();
  if (again) histories.clear();
  askHistory();
}

function showFacts() {
  const index = pointed ?? chosenIndex();
  if (shown === undefined || index === null) {
    replace(byId("token-now"), element("span", { class: "quiet" }, "Point at a token, or choose one with the arrow keys."));
    replace(byId("token-facts"));
    return;
  }
  const start = index - (index % shown.n);
  const text = (from, to) => canvas.texts.slice(Math.max(from, start), Math.min(to, start + shown.n)).map((one) => one.shown).join("");
  const own = set.has_pieces ? inWords(shown.texts[index]) : shown.texts[index];
  replace(byId("token-now"), element("bdi", {}, text(index - CONTEXT, index)), element("mark", {}, element("bdi", {}, own)), element("bdi", {}, text(index + 1, index + 1 + CONTEXT)));
  const values = losses.at(player.index);
  const loss = shown.lossOf(index);
  const at = loss < 0 ? null : loss - shown.losses.first;
  const facts = [["place", `sequence ${whole(shown.first + start / shown.n)}, token ${index % shown.n}`], ["token id", String(shown.ids[index])]];
  if (at === null) facts.push(["loss", "none: the first token of a sequence is not predicted"]);
  else if (values !== null) {
    facts.push([`loss at step ${whole(steps[player.index])}`, `${value(values[at])} nats`]);
    if (base !== null) facts.push([`gain since ${whole(steps[sinceIndex()])}`, `${value(base[at] - values[at])} nats`]);
  }
  replace(byId("token-facts"), facts.flatMap(([name, words]) => [element("dt", {}, name), element("dd", {}, words)]));
  if (pointed === null && !player.isPlaying) byId("token-words").textContent = [own, ...facts.map((fact) => fact.join(" "))].join(", ");
}

const histories = new Map();
let waiting = null;

function askHistory() {
  clearTimeout(waiting);
  waiting = setTimeout(() => showHistory().catch(report), HISTORY_MS);
}

async function showHistory() {
  const index = pointed ?? chosenIndex();
  const loss = index === null ? -1 : shown.lossOf(index);
  byId("history").hidden = loss < 0;
  if (loss < 0) return;
  if (!histories.has(loss)) {
    if (histories.size > 200) histories.clear();
    histories.set(loss, get(`/runs/${RUN}/losses/${encodeURIComponent(slice())}?tokens=${loss}`));
  }
  const found = await histories.get(loss);
  if ((pointed ?? chosenIndex()) !== index) return;
  const values = found.values.map(([one]) => one ?? NaN);
  plot.update({ lines: [{ name: "loss", color: category(0), steps: found.steps, values }], changes: changes.filter((change) => change.kind !== "spike") });
  const finite = values.filter(Number.isFinite);
  history.describe(finite.length ? `From ${value(finite[0], 3)} to ${value(finite.at(-1), 3)} nats.` : "No finite loss is recorded.");
  axis.hover(steps[player.index], null);
}

// Filter and search.

async function filter() {
  const only = state.get("only");
  const mine = shown;
  members = new Members({ probeSet: set.id, slice: slice(), only });
  byId("members").hidden = only === "all";
  const mask = await members.within(mine.losses.first, mine.losses.count);
  if (mine !== shown) return;
  const spread = mask === null ? null : overTokens(mine, mask).map((one) => (one > 0 ? 1 : 0));
  canvas.mark({ members: spread });
}

async function goToMember(direction) {
  const at = chosenIndex();
  const loss = at === null ? -1 : shown.lossOf(at);
  const from = loss >= 0 ? loss : shown.losses.first - (direction > 0 ? 1 : 0);
  const found = await members.from(from, direction);
  if (found === null) say("There is none further that way.");
  else await visit(...placeOf(found));
}

async function find() {
  const text = state.get("q");
  byId("query").value = text;
  byId("hits").hidden = text === "";
  if (text === "") search = undefined;
  else if (search?.text !== text || search.slice !== slice()) {
    search = Object.assign(new Search({ probeSet: set.id, slice: slice(), text }), { slice: slice() });
    await search.more();
  }
  showHits();
}

function showHits() {
  if (search) byId("hit-words").textContent = search.at < 0 && search.hits.length ? `${search.hits.length}${search.isWhole ? "" : "+"} found` : search.words;
  const inside = (search?.hits ?? []).filter((hit) => hit.sequence >= shown.first && hit.sequence < shown.first + shown.count);
  const found = inside.flatMap((hit) => Array.from({ length: hit.n_tokens }, (_, more) => (hit.sequence - shown.first) * shown.n + hit.position + more));
  canvas.mark({ found });
}

async function goToHit(by) {
  const hit = await search.step(by);
  if (hit !== null) await visit(hit.sequence, hit.position);
  showHits();
}

// What is done on the page.

const tell = (action) => (...given) => Promise.resolve(action(...given)).then(() => report(null), report);

function listen() {
  byId("since").onchange = () => state.set({ since: byId("since").value });
  byId("slice").onchange = () => state.set({ slice: byId("slice").value, first: null, token: null, only: "all" });
  byId("only").onchange = () => state.set({ only: byId("only").value });
  byId("first").onchange = () => state.set({ first: byId("first").value, token: null });
  byId("page-before").onclick = () => state.set({ first: Math.max(0, shown.first - sequencesAWindow(shape)), token: null });
  byId("page-next").onclick = () => state.set({ first: shown.first + shown.count, token: null });
  byId("member-before").onclick = tell(() => goToMember(-1));
  byId("member-next").onclick = tell(() => goToMember(1));
  byId("hit-before").onclick = tell(() => goToHit(-1));
  byId("hit-next").onclick = tell(() => goToHit(1));
  byId("search").onsubmit = tell(async (event) => {
    event.preventDefault();
    state.set({ q: byId("query").value });
    await find();
    if (search) await goToHit(1);
  });
  document.addEventListener("themechange", () => {
    makeColours();
    draw().catch(report);
  });
  state.onChange(tell(follow));
}

// After a change of the URL, by a control or by back and forward.
async function follow(names) {
  if (names.has("slice")) {
    steps = await loadSteps();
    await showSlice();
    return;
  }
  if (names.has("first") && shown.first !== firstSequence()) {
    await showWindow();
    return;
  }
  if (names.has("view")) canvas.setView(state.get("view"));
  if (names.has("colour") || names.has("since")) await settle();
  if (names.has("view")) {
    markChoices();
    makeColours();
    await draw();
  }
  if (names.has("only")) {
    byId("only").value = state.get("only");
    await filter();
  }
  if (names.has("q")) await find();
  if (names.has("token")) followToken();
  const index = indexOfStep(state.get("step"), steps.length - 1);
  if (names.has("step") && index !== player.index) {
    player.setSteps(steps, index);
    await draw();
  }
}

figure.offers({
  name: "tokens",
  draw: (surface, width, height) => {
    const values = losses.at(player.index);
    const paper = makeScale({ view: "text", dark: false });
    const [from] = canvas.inSight();
    const note = `${run.name}, step ${whole(steps[player.index])}: ${isGain() ? `gain since step ${whole(steps[sinceIndex()])}` : "loss"}`;
    drawTokens(surface, width, height, { texts: canvas.texts, from: from - (from % shown.n), nTokens: shown.n, levels: levelsOf(values, paper), scale: paper, title: "Probe text", note });
  },
  table: () => {
    const values = losses.at(player.index);
    const columns = [[`loss at step ${steps[player.index]}`, overTokens(shown, values)]];
    if (base !== null) columns.push([`gain since step ${steps[sinceIndex()]}`, overTokens(shown, gainOf(values))]);
    return tokenTable(shown, columns);
  },
});

ready(async () => {
  let started = false;
  keepFresh({
    run: RUN,
    load: async () => {
      if (started) await refresh();
      else started = await start();
    },
  });
});
