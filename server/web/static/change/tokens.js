// The tokens that a change moved, in their text, and what they have in common.
//
//   await showTokens(change, { gained, lost, groups })      three places

import { get } from "../core/api.js";
import { element, replace } from "../core/dom.js";
import { value, whole } from "../core/format.js";
import { visible } from "../tokens/visible.js";

const SHOWN = 12;

const signed = (number) => (number > 0 ? `+${value(number, 3)}` : value(number, 3).replace("-", "−"));

// The address of the page of tokens with this change's gain.
export function tokensPage(change, more = {}) {
  const query = new URLSearchParams({ colour: "gain", since: Math.max(change.start_step - 1, 0), ...(change.end_step === null ? {} : { step: change.end_step + 1 }), ...more });
  return `/runs/${change.run}/tokens?${query}`;
}

export async function showTokens(change, places) {
  const [gained, lost, groups] = await Promise.all([
    get(`/phase-changes/${change.id}/tokens?order=gained&limit=${SHOWN}`),
    get(`/phase-changes/${change.id}/tokens?order=lost&limit=${SHOWN}`),
    get(`/phase-changes/${change.id}/groups`),
  ]);
  replace(places.gained, table(change, gained.items, "gained most: their loss fell"));
  replace(places.lost, table(change, lost.items, "lost most: their loss rose"));
  replace(places.groups, groupsTable(groups), contextsTable(groups));
}

function table(change, items, words) {
  if (!items.length) return element("p", { class: "quiet" }, `No token ${words.split(":")[0].replace(" most", "")}.`);
  const rows = items.map((item) => element("tr", { "data-token": item.token },
    element("td", {}, inContext(change, item)),
    element("td", { class: "number" }, signed(item.loss_before - item.loss_after)),
    element("td", { class: "number wide" }, `${value(item.loss_before, 3)} → ${value(item.loss_after, 3)}`)));
  return element("table", { class: "moved" },
    element("caption", {}, `Tokens that ${words}`),
    element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "token in its text"), element("th", { scope: "col", class: "number" }, "gain, nats"), element("th", { scope: "col", class: "number wide" }, "loss"))),
    element("tbody", {}, rows));
}

function inContext(change, item) {
  const where = { href: tokensPage(change, { token: `${item.sequence}:${item.position}` }), title: `sequence ${item.sequence}, token ${item.position}` };
  if (item.text === null) return element("a", where, `token id ${item.token_id}`);
  const [before, own, after] = [item.before, item.text, item.after].map((text) => element("bdi", {}, text === "" ? "" : visible(text)));
  return element("span", { class: "in-text" }, before, element("a", where, element("mark", {}, own)), after);
}

const ratio = (one) => (one.expected > 0 ? `${value(one.n_moved / one.expected, 2)}×` : "");

const fromTo = (one) => (one.loss_before === null || one.loss_after === null ? "" : `${value(one.loss_before, 3)} → ${value(one.loss_after, 3)}`);

function groupsTable({ groups }) {
  if (!groups.length) return element("p", { class: "quiet" }, "No token groups are defined on this probe set; `phasewatch group` defines them.");
  const rows = groups.map((one) => element("tr", {},
    element("th", { scope: "row" }, one.name.replaceAll("_", " ")),
    element("td", { class: "number" }, whole(one.n_tokens)),
    element("td", { class: "number" }, fromTo(one)),
    element("td", { class: "number" }, one.n_moved === null ? "–" : `${whole(one.n_moved)} (${ratio(one)})`)));
  return scrolling("Token groups", element("table", { id: "groups" },
    element("caption", {}, "Token groups across the change: mean loss in nats, and how many of their tokens moved with it (against chance)"),
    head("group", "tokens", "loss", "moved"), element("tbody", {}, rows)));
}

function contextsTable({ contexts }) {
  if (!contexts.length) return null;
  const rows = contexts.map((one) => {
    const own = one.text === null ? `id ${one.token_id}` : visible(one.text);
    return element("tr", {},
      element("th", { scope: "row" }, one.kind === "previous" ? "after " : "the token ", element("code", {}, element("bdi", {}, own))),
      element("td", { class: "number" }, whole(one.n_tokens)),
      element("td", { class: "number" }, fromTo(one)),
      element("td", { class: "number" }, `${whole(one.n_moved)} (${ratio(one)})`));
  });
  return scrolling("What its tokens have in common", element("table", { id: "contexts" },
    element("caption", {}, "What the tokens that moved have in common, oftener than chance gives"),
    head("context", "tokens", "loss", "moved"), element("tbody", {}, rows)));
}

const scrolling = (words, ...inside) => element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": words }, inside);

const head = (first, ...rest) => element("thead", {}, element("tr", {}, element("th", { scope: "col" }, first), rest.map((name) => element("th", { scope: "col", class: "number" }, name))));
