// The form of a channel: where alerts go, which, and the hours in which nothing is sent.

import { element } from "../core/dom.js";
import { choose, field, help } from "../core/forms.js";
import { selectorField } from "../core/selectors.js";

export const KINDS = {
  phase_change: "phase changes", stale_run: "runs that fell silent", divergence: "runs that diverge", job_failed: "jobs that failed",
};
const STATES = { provisional: "when first seen (provisional)", confirmed: "when confirmed", withdrawn: "when withdrawn again" };

function boxes(name, label, choices, checked) {
  const fields = Object.entries(choices).map(([one, words]) =>
    field(`${name}-${one}`, words, element("input", { type: "checkbox", value: one, checked: checked.includes(one) })));
  const place = element("fieldset", { class: "whole" }, element("legend", {}, label), fields);
  return Object.assign(place, { chosen: () => fields.filter((one) => one.control.checked).map((one) => one.control.value), inner: fields });
}

const zone = Intl.DateTimeFormat().resolvedOptions().timeZone ?? "UTC";

// The fields in order, and what they say as the body of POST /channels.
export function channelFields(runs) {
  const name = field("name", "Name", element("input", { required: true, maxlength: 200, autocomplete: "off" }));
  const url = field("url", "Address", element("input", { required: true, maxlength: 2000, autocomplete: "off", spellcheck: "false" }),
    "https://… for a signed webhook, or an Apprise address such as mailto://, slack://, ntfy://; kept sealed, never shown again");
  const kinds = boxes("kinds", "It is told of", KINDS, Object.keys(KINDS));
  const states = boxes("states", "Phase changes", STATES, ["confirmed"]);
  const which = selectorField(runs, "Of which runs", "runs");
  const induction = field("induction_only", "Only when induction heads form", element("input", { type: "checkbox" }));
  const effect = field("min_effect", "Smallest change", element("input", { type: "number", min: 0, step: "any" }), "in its own unit; empty: any");
  const q = field("max_q", "Largest q", element("input", { type: "number", min: 0, max: 1, step: "any" }), "false-discovery rate; empty: any");
  const quiet = field("quiet", "Quiet hours", element("input", { type: "checkbox" }));
  const from = field("from", "From", element("input", { type: "time", value: "22:00", required: true }));
  const to = field("to", "To", element("input", { type: "time", value: "07:00", required: true }));
  const where = field("zone", "Time zone", element("input", { value: zone, autocomplete: "off", required: true }));
  const enabled = field("enabled", "On at once", element("input", { type: "checkbox", checked: true }));
  const show = () => {
    for (const one of [from, to, where]) one.hidden = !quiet.control.checked;
    const changes = kinds.chosen().includes("phase_change");
    for (const one of [states, induction, effect, q]) one.hidden = !changes;
    help(quiet, quiet.control.checked ? "what comes meanwhile is sent when they end" : "");
  };
  for (const one of [quiet, ...kinds.inner]) one.control.addEventListener("change", show);
  show();
  const number = (one) => (one.control.value === "" ? null : Number(one.control.value));
  const body = () => ({
    name: name.control.value.trim(),
    url: url.control.value.trim(),
    enabled: enabled.control.checked,
    rules: {
      kinds: kinds.chosen(), runs: which.value(), states: states.chosen(), induction_only: induction.control.checked,
      min_effect: number(effect), max_q: number(q),
    },
    quiet_hours: quiet.control.checked ? { from: from.control.value, to: to.control.value, zone: where.control.value.trim() } : null,
  });
  const empty = () => {
    name.control.value = "";
    url.control.value = "";
  };
  return { fields: [name, url, kinds, states, ...which.fields, induction, effect, q, quiet, from, to, where, enabled], body, empty };
}
