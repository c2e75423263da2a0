// A plot by keyboard: arrows walk over the checkpoints (with Shift ten at a time), + and − zoom around the one walked
// to, Home and End go to the ends, Escape shows everything.
//
//   walk(element, axis, () => steps, { up: () => …, down: () => …, enter: () => … })

import { nearest } from "./axis.js";

export function walk(place, axis, stepsOf, others = {}) {
  const go = (by) => {
    const steps = stepsOf();
    if (!steps.length) return;
    const from = axis.step0 === null ? (by > 0 ? -1 : steps.length) : nearest(axis, steps, axis.step0);
    axis.hover(steps[Math.min(Math.max(from + by, 0), steps.length - 1)], null);
  };
  const zoom = (factor) => {
    const [low, high] = axis.domain();
    const middle = axis.step0 === null ? (low + high) / 2 : axis.position(axis.step0);
    const [from, to] = [middle - (middle - low) * factor, middle + (high - middle) * factor];
    const whole = axis.extent.map((step) => axis.position(step));
    if (factor > 1 && from <= whole[0] && to >= whole[1]) axis.reset();
    else axis.zoom(axis.step(Math.max(from, whole[0])), axis.step(Math.min(to, whole[1])));
  };
  const keys = {
    ArrowLeft: (event) => go(event.shiftKey ? -10 : -1),
    ArrowRight: (event) => go(event.shiftKey ? 10 : 1),
    Home: () => go(-Infinity),
    End: () => go(Infinity),
    "+": () => zoom(0.5),
    "=": () => zoom(0.5),
    "-": () => zoom(2),
    Escape: () => axis.reset(),
    ArrowUp: others.up,
    ArrowDown: others.down,
    Enter: others.enter,
  };
  place.addEventListener("keydown", (event) => {
    const action = keys[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action(event);
  });
  place.addEventListener("blur", () => axis.hover(null, null));
}
