// Which runs something is about: all, those with a tag, or one. As a field of a form, and in words.
//
//   const which = selectorField(runs); which.value() → {all: true}, {tag: "demo"} or {run: id}
//   selectorWords(selector, names)        names: a Map from run id to name

import { element } from "./dom.js";
import { choose, field } from "./forms.js";

export function selectorField(runs, label = "Which runs", name = "selector") {
  const tags = [...new Set(runs.flatMap((run) => run.tags))].sort();
  const how = choose(name, label, [["all", "All, those to come too"], ["tag", "Those with a tag"], ["run", "One run"]]);
  const known = element("datalist", { id: `${name}-tags` }, tags.map((tag) => element("option", { value: tag })));
  const tag = field("tag", "Tag", element("input", { required: true, maxlength: 200, list: `${name}-tags`, autocomplete: "off" }));
  const run = choose("run", "Run", runs.map((one) => [one.id, one.name]));
  const show = () => {
    tag.hidden = how.control.value !== "tag";
    run.hidden = how.control.value !== "run";
  };
  how.control.addEventListener("change", show);
  show();
  const fields = [how, tag, run];
  tag.append(known);
  const value = () => ({ all: { all: true }, tag: { tag: tag.control.value.trim() }, run: { run: run.control.value } })[how.control.value];
  return { fields, value };
}

export function selectorWords(selector, names) {
  if (selector.run) return element("a", { href: `/runs/${selector.run}` }, names.get(selector.run) ?? "a run that was deleted");
  return selector.tag ? `runs tagged ${selector.tag}` : "all runs";
}
