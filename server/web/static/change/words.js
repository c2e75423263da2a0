// A change in a few words: its verdict, its signs, its times.

import { measureName, value, whole } from "../core/format.js";

export const STATES = { present: "✓", absent: "✗", "not measured": "–" };

const capital = (words) => words[0].toUpperCase() + words.slice(1);

export function title(change) {
  if (change.induction) return "Induction heads form";
  const what = measureName(change.measure);
  const verbs = { drop: "falls", rise: "rises" };
  const kinds = {
    hidden: () => (change.n_tokens ? `${whole(change.n_tokens)} tokens change, hidden in the mean` : `Hidden change of ${what}`),
    spike: () => `A spike of ${what}`,
    divergence: () => `${what} diverges`,
    bump: () => `${what} rises and falls again`,
    slope: () => `The trend of ${what} turns`,
  };
  return capital((kinds[change.kind] ?? (() => `${what} ${verbs[change.direction]}`))());
}

export function lead(change) {
  const size = change.effect === null ? "" : ` by ${value(change.effect, 3)} ${change.unit}`;
  const verb = { drop: "falls", rise: "rises" }[change.direction];
  const what = `${capital(measureName(change.measure))} ${change.kind === "spike" ? "leaves its course" : verb}${size}`;
  if (change.kind === "spike") return `${what} at step ${whole(change.step)}.`;
  const end = change.end_step === null ? "and is not over yet" : `and is over at step ${whole(change.end_step)}`;
  return `${what}: it starts at step ${whole(change.start_step)}, is half way at step ${whole(change.step)}, ${end}.`;
}

// [name, step, interval] of start, middle and end
export function times(change) {
  const within = (interval) => (interval === null ? "no width fitted" : `${bound(interval[0])} to ${bound(interval[1])}`);
  const bound = (one) => (Number.isFinite(Number(one)) ? whole(Math.round(one)) : "open");
  return [
    ["start (10 %)", whole(change.start_step), within(change.start_interval)],
    ["middle (50 %)", whole(change.step), within(change.step_interval)],
    ["end (90 %)", change.end_step === null ? "not over" : whole(change.end_step), within(change.end_interval)],
  ];
}

export const share = (lost) => {
  if (lost === undefined) return "not measured";
  if (lost.share === null) return "not defined";
  return `${Math.round(100 * lost.share)} % [${lost.interval.map((end) => Math.round(100 * end)).join(", ")}]`;
};

export function matched(lost) {
  if (lost === undefined || lost.matched_mean === null) return "none to compare";
  return `${Math.round(100 * lost.matched_mean)} %${lost.matched_sd === null ? "" : ` ± ${Math.round(100 * lost.matched_sd)}`}`;
}
