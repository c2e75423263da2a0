// The top of a run's page: what it is, what was found in it, and what can be done with it.

import { get, mayWrite, send } from "../../core/api.js";
import { byId, element, replace, report, say } from "../../core/dom.js";
import { headName, plural, since, time, whole } from "../../core/format.js";
import { changeName } from "../../plots/bands.js";

const ALLOWED = {
  pause: ["queued", "running"],
  resume: ["paused", "failed", "cancelled"],
  cancel: ["queued", "running", "paused"],
};

function model(run) {
  const made = run.training?.model;
  if (!made) return "recorded from outside";
  return `sublayers ${made.sublayers}, width ${made.d_model}, ${plural(made.n_heads, "head")} a layer`;
}

export function showRun(run) {
  document.title = `${run.name} · phasewatch`;
  replace(byId("name"), run.name);
  const progress = run.last_step === null ? "no step yet" : `step ${whole(run.last_step)}${run.n_steps ? ` of ${whole(run.n_steps)}` : ""}`;
  const parts = [
    element("span", { class: "status", "data-status": run.status }, run.status),
    progress,
    model(run),
    run.heartbeat_at && element("span", { title: time(run.heartbeat_at) }, `heard from ${since(run.heartbeat_at)}`),
    run.parent && element("a", { href: `/runs/${run.parent}` }, "parent run"),
    ...run.tags.map((tag) => element("a", { class: "tag", href: `/?${new URLSearchParams({ tag })}` }, tag)),
  ].filter(Boolean);
  replace(byId("facts"), parts.flatMap((part, index) => (index ? [" · ", part] : [part])));
  byId("failure").hidden = !run.failure;
  replace(byId("failure"), run.failure ?? "");
  showActions(run);
}

function showActions(run) {
  for (const button of document.querySelectorAll("[data-action]")) {
    button.hidden = !mayWrite() || !ALLOWED[button.dataset.action].includes(run.status);
  }
  byId("tag-form").hidden = !mayWrite();
  if (document.activeElement !== byId("tags")) byId("tags").value = run.tags.join(", ");
}

export function listenToActions(id, again) {
  const act = async (work, words) => {
    try {
      await work();
      say(words);
      again();
    } catch (error) {
      report(error);
    }
  };
  for (const button of document.querySelectorAll("[data-action]")) {
    const { action } = button.dataset;
    button.addEventListener("click", () => act(() => send("POST", `/runs/${id}/${action}`), `Asked to ${action}.`));
  }
  byId("tag-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const tags = [...new Set(byId("tags").value.split(",").map((tag) => tag.trim()).filter(Boolean))];
    act(() => send("PATCH", `/runs/${id}`, { tags }), "Tags saved.");
  });
}

// What a newcomer reads first: the change that matters most, then the others, each with its own page.
export function showChanges(changes) {
  const order = [...changes].sort((one, other) => Number(other.induction) - Number(one.induction) || one.step - other.step);
  const items = order.map((change) => {
    const name = changeName(change);
    const link = element("a", { href: `/changes/${change.id}` }, name.charAt(0).toUpperCase() + name.slice(1));
    const state = change.state === "provisional" && element("span", { class: "tag" }, "provisional");
    const review = change.review && element("span", { class: "tag" }, change.review);
    return element("li", { "data-change": change.id, class: change.induction ? "induction card" : "card" },
      element("p", { class: "change-name" }, element("strong", {}, link), " ", element("span", { class: "quiet" }, when(change)), " ", state, " ", review),
      element("p", { class: "change-words" }, change.explanation));
  });
  if (!items.length) items.push(element("li", { class: "none" }, "None found so far."));
  replace(byId("changes"), items);
}

function when(change) {
  const end = change.end_step === null ? "not over yet" : `to ${whole(change.end_step)}`;
  const heads = change.heads.length ? `, ${change.heads.slice(0, 4).map(headName).join(" ")}${change.heads.length > 4 ? " …" : ""}` : "";
  return `steps ${whole(change.start_step)} ${end}${heads}`;
}

export const loadChanges = async (id) => {
  const { items } = await get(`/runs/${id}/phase-changes`);
  return items.filter((change) => change.state !== "withdrawn" && change.review !== "dismissed");
};
