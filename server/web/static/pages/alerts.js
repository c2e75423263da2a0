// Where alerts go, and what was sent: channels are made and tried, alerts followed through every attempt.

import { get, getAll, mayAdmin, send } from "../core/api.js";
import { acting, secretShown, twice } from "../core/actions.js";
import { byId, element, offer, say } from "../core/dom.js";
import { form } from "../core/forms.js";
import { plural, since, time, value } from "../core/format.js";
import { keepFresh } from "../core/live.js";
import { button, moreButton, Rows } from "../core/rows.js";
import { selectorWords } from "../core/selectors.js";
import { ready } from "../core/shell.js";
import { urlState } from "../core/url-state.js";
import { channelFields, KINDS } from "./channel-form.js";

const STATES = ["waiting", "sending", "sent", "failed"];
const SHOWN = 30;
const state = urlState({ state: "", kind: "", channel: "" });

let names = new Map();
let channels = [];
let alerts = [];
let nextPage = null;
let refresh = () => {};
const act = acting(() => refresh());
const outcomes = new Map(); // of tests, by channel: they are not kept by the server
const logs = new Map(); // alerts with every attempt, once they are unfolded

// Channels.

const channelTable = new Rows(byId("channels"), {
  caption: "Channels", columns: [["name", "Channel"], ["where", "Where"], ["told", "Told of"], ["on", "On"], ["test", "Last test"], ["actions", ""]],
  empty: "No channels: nobody is told of anything.",
});

function rulesWords({ rules, quiet_hours: quiet }) {
  const parts = [rules.kinds.map((kind) => KINDS[kind] ?? kind).join(", "), " of ", selectorWords(rules.runs, names)];
  const more = [
    rules.induction_only && "only induction", rules.min_effect !== null && `size from ${rules.min_effect}`, rules.max_q !== null && `q up to ${rules.max_q}`,
    rules.kinds.includes("phase_change") && `${rules.states.join(", ")} changes`, quiet && `quiet ${quiet.from} to ${quiet.to} ${quiet.zone}`,
  ].filter(Boolean);
  return [...parts, element("span", { class: "quiet" }, more.length ? `; ${more.join("; ")}` : "")];
}

const outcomeWords = ({ outcome, status_code: status, took_ms: took, detail }) =>
  `${outcome}${status === null ? "" : ` (${status})`} in ${value(took, 2)} ms${detail === null ? "" : `: ${detail}`}`;

async function test(channel) {
  outcomes.set(channel.id, null);
  drawChannels();
  try {
    outcomes.set(channel.id, await send("POST", `/channels/${channel.id}/test`));
    say(`The test of ${channel.name}: ${outcomes.get(channel.id).outcome}.`);
  } catch (error) {
    outcomes.delete(channel.id);
    say(`Refused: ${error.message}`);
  }
  drawChannels();
}

function testWords(id) {
  if (!outcomes.has(id)) return null;
  const found = outcomes.get(id);
  if (found === null) return "sending …";
  return element("span", { class: "status", "data-status": found.outcome === "delivered" ? "done" : "failed" }, outcomeWords(found));
}

function channelCells(channel) {
  const { id, name, enabled } = channel;
  const turn = () => act(() => send("PATCH", `/channels/${id}`, { enabled: !enabled }), () => `${name} is ${enabled ? "off" : "on"}.`);
  const remove = () => act(() => send("DELETE", `/channels/${id}`), () => `${name} is deleted.`);
  const renew = () => act(async () => {
    const { secret } = await send("POST", `/channels/${id}/secret`);
    secretShown(byId("shown"), element, `The new secret of ${name}. It is shown this once.`, secret);
  }, () => `${name} has a new secret.`);
  return {
    name: element("strong", {}, name),
    where: [element("span", { class: "tag" }, channel.kind), ` ${channel.address}`],
    told: element("span", {}, rulesWords(channel)),
    on: element("span", { class: "status", "data-status": enabled ? "running" : "off" }, enabled ? "on" : "off"),
    test: testWords(id),
    actions: [
      button("test", "Send a test", `Send a test to ${name}`, () => test(channel)),
      channel.kind === "webhook" && button("secret", "New secret", `New secret for ${name}`, (event) => twice(event.target, "Really renew?", renew)),
      button("toggle", enabled ? "Turn off" : "Turn on", `Turn ${name} ${enabled ? "off" : "on"}`, turn),
      button("delete", "Delete", `Delete ${name}`, (event) => twice(event.target, "Really delete?", remove)),
    ],
  };
}

function drawChannels() {
  channelTable.fill(channels, (channel) => channel.id, channelCells);
}

function buildForm(runs) {
  const { fields, body, empty } = channelFields(runs);
  form(byId("new-channel"), fields, "Create", async () => {
    const made = await send("POST", "/channels", body());
    if (made.secret !== null) {
      secretShown(byId("shown"), element, `The secret that messages to ${made.name} are signed with. It is shown this once; its receiver checks them with it.`, made.secret);
    }
    say(`${made.name} is made.`);
    empty();
    refresh();
  });
}

// Alerts.

const alertTable = new Rows(byId("alerts"), {
  caption: "Alerts", columns: [["what", "What"], ["run", "Run"], ["channel", "Channel"], ["state", "State"], ["when", "When"], ["log", "Attempts"], ["actions", ""]],
  empty: "No alert is like this.",
});
const showMore = moreButton(byId("more"), () => loadAlerts(nextPage));

function stateWords(alert) {
  const later = alert.state === "waiting" && Date.parse(alert.not_before) > Date.now();
  const why = alert.held_until === null ? "next try" : "quiet hours until";
  return [element("span", { class: "status", "data-status": { sent: "done" }[alert.state] ?? alert.state }, alert.state),
    later && element("span", { class: "quiet" }, ` ${why} ${time(alert.held_until ?? alert.not_before)}`)];
}

function attempts(alert) {
  const log = logs.get(alert.id);
  const list = log?.map((one) => element("li", {}, `${time(one.time)}: ${outcomeWords(one)}`)) ?? [];
  const fold = alertTable.fold(`log ${alert.id}`, alert.attempts ? plural(alert.attempts, "attempt") : "Text",
    element("p", { class: "told" }, alert.text), element("ul", {}, list));
  fold.addEventListener("toggle", () => fold.open && !logs.has(alert.id) && loadLog(alert.id));
  return fold;
}

async function loadLog(id) {
  logs.set(id, (await get(`/alerts/${id}`)).deliveries);
  drawAlerts();
}

function alertCells(alert) {
  const again = () => act(() => send("POST", `/alerts/${alert.id}/retry`), () => "It is sent again.");
  const link = alert.phase_change === null ? alert.title : element("a", { href: `/changes/${alert.phase_change}` }, alert.title);
  return {
    what: link,
    run: alert.run && element("a", { href: `/runs/${alert.run}` }, names.get(alert.run) ?? "a run"),
    channel: channels.find((one) => one.id === alert.channel)?.name ?? `channel ${alert.channel}`,
    state: stateWords(alert),
    when: element("span", { title: alert.created_at }, since(alert.created_at)),
    log: attempts(alert),
    actions: mayAdmin() && alert.state === "failed" ? [button("retry", "Send again", `Send alert ${alert.id} again`, again)] : [],
  };
}

function drawAlerts() {
  alertTable.fill(alerts, (alert) => alert.id, alertCells);
  showMore(nextPage);
}

async function loadAlerts(cursor = null) {
  const filters = ["state", "kind", "channel"].filter((name) => state.get(name)).map((name) => `&${name}=${encodeURIComponent(state.get(name))}`);
  const page = await get(`/alerts?limit=${SHOWN}${filters.join("")}${cursor === null ? "" : `&cursor=${cursor}`}`);
  alerts = cursor === null ? page.items : [...alerts, ...page.items];
  nextPage = page.next;
  for (const alert of alerts) if (logs.get(alert.id)?.length !== alert.attempts) logs.delete(alert.id);
  drawAlerts();
  for (const alert of alerts) if (alertTable.open.has(`log ${alert.id}`) && !logs.has(alert.id)) await loadLog(alert.id);
  offer(byId("state"), ["", ...STATES], (one) => one || "any state", state.get("state"));
  offer(byId("kind"), ["", ...Object.keys(KINDS)], (one) => (one ? KINDS[one] : "any kind"), state.get("kind"));
  offer(byId("channel"), ["", ...channels.map((one) => String(one.id))], (one) => channels.find(({ id }) => String(id) === one)?.name ?? "any channel", state.get("channel"));
}

async function load() {
  if (mayAdmin()) {
    channels = await getAll("/channels");
    drawChannels();
  }
  if (alerts.length <= SHOWN) await loadAlerts();
}

ready(async () => {
  const runs = await getAll("/runs");
  names = new Map(runs.map((run) => [run.id, run.name]));
  byId("manage").hidden = byId("new").hidden = !mayAdmin();
  if (mayAdmin()) buildForm(runs);
  for (const id of ["state", "kind", "channel"]) byId(id).addEventListener("change", (event) => state.set({ [id]: event.target.value }));
  state.onChange(() => loadAlerts());
  refresh = keepFresh({ kinds: ["alert", "run"], load });
});
