// The controls of the shared step axis: logarithmic or linear, steps or tokens seen, and back from a zoom.
//
//   byId("axis").append(...axisControls(axis))

import { element } from "../core/dom.js";
import { whole } from "../core/format.js";

export function axisControls(axis) {
  const scale = choice("Scale", [["log", "log"], ["linear", "linear"]], (one) => axis.set({ scale: one }));
  const by = choice("Along", [["step", "steps"], ["tokens", "tokens seen"]], (one) => axis.set({ by: one }));
  const seen = element("output", { class: "unit" });
  const reset = element("button", { type: "button", onclick: () => axis.reset() }, "Show everything");
  const show = () => {
    scale.mark(axis.scale);
    by.mark(axis.by);
    by.hidden = !axis.hasTokens;
    seen.textContent = axis.isZoomed ? `steps ${axis.range.map(whole).join(" to ")}` : "Drag over a plot to zoom all of them.";
    reset.hidden = !axis.isZoomed;
  };
  axis.onChange(show);
  show();
  return [scale, by, seen, reset];
}

function choice(name, options, take) {
  const group = element("div", { class: "choice", role: "group", "aria-label": name });
  const buttons = options.map(([one, words]) => element("button", { type: "button", onclick: () => take(one) }, words));
  group.append(...buttons);
  group.mark = (chosen) => buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(options[index][0] === chosen)));
  return group;
}
