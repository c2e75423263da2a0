// Forms that a keyboard can fill in: a label over each control, what is wrong with it below it in the server's words.
//
//   const name = field("name", "Name", element("input", { required: true, maxlength: 200 }), "What people call it.");
//   form(byId("new"), [name, …], "Create", async () => { await send("POST", "/monitors", {…}); });
//   choose("kind", "Kind", [["score", "Score"], …])      a field with a <select>
//
// A problem's errors name values by their path (body, trigger, cron): each is told at the field whose name stands last
// in that path, the rest at the top of the form.

import { element, replace } from "./dom.js";

export function field(name, label, control, help = null) {
  const id = `field-${name}`;
  control.id = id;
  control.name = name;
  const wrong = element("span", { class: "wrong", id: `${id}-wrong` });
  const helped = element("span", { class: "help", id: `${id}-help`, hidden: help === null }, help);
  control.setAttribute("aria-describedby", `${id}-help ${id}-wrong`);
  const check = control.type === "checkbox";
  const named = element("label", { for: id }, label);
  const place = element("div", { class: check ? "field check" : "field" }, check ? [control, named] : [named, control], helped, wrong);
  return Object.assign(place, { control, wrong, helped, fieldName: name });
}

export const help = (place, words) => {
  place.helped.hidden = !words;
  replace(place.helped, words);
};

export const choose = (name, label, options, words = null) =>
  field(name, label, element("select", {}, options.map(([one, text]) => element("option", { value: one }, text))), words);

export function form(place, fields, action, submit) {
  const general = element("p", { class: "problem", role: "alert", hidden: true });
  const go = element("button", { class: "main" }, action);
  place.classList.add("form");
  place.noValidate = true;
  place.replaceChildren(general, ...fields, element("div", { class: "row" }, go));
  place.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!check(place, fields, general)) return;
    go.disabled = true;
    try {
      await submit();
    } catch (error) {
      tell(fields, general, error);
    }
    go.disabled = false;
  });
  return { clear: () => clear(fields, general) };
}

function clear(fields, general) {
  general.hidden = true;
  for (const one of controls(fields)) mark(one, "");
}

const controls = (fields) => fields.flatMap((one) => (one.control ? [one] : [...one.querySelectorAll(".field")]));

function mark(one, words) {
  one.wrong.textContent = words;
  if (words) one.control.setAttribute("aria-invalid", "true");
  else one.control.removeAttribute("aria-invalid");
}

// What the browser itself can tell, before anything is sent.
function check(place, fields, general) {
  clear(fields, general);
  const bad = controls(fields).filter((one) => one.control.offsetParent !== null && !one.control.checkValidity());
  for (const one of bad) mark(one, one.control.validationMessage);
  bad[0]?.control.focus();
  return bad.length === 0;
}

function tell(fields, general, error) {
  const known = controls(fields);
  const rest = [];
  for (const { loc, msg } of error.problem?.errors ?? []) {
    const path = loc.map(String);
    const [one, at] = known
      .map((candidate) => [candidate, path.lastIndexOf(candidate.fieldName)])
      .reduce((best, next) => (next[1] > best[1] ? next : best), [null, -1]);
    if (at > 0 && one.control.offsetParent !== null) mark(one, msg.replace(/^Value error, /, ""));
    else rest.push(`${path.slice(1).join(".")}: ${msg}`);
  }
  const words = error.problem?.errors?.length ? rest.join("; ") : error.message;
  general.textContent = words;
  general.hidden = !words;
  known.find((one) => one.control.hasAttribute("aria-invalid"))?.control.focus();
}
