// The series that a change was seen in, found from its name.
//
//   await seriesOf(change) → {name, unit, steps, values, low, high}, or null where it is not served

import { get } from "../core/api.js";
import { measureName } from "../core/format.js";

const MEAN_TOKENS = 400; // of a change's tokens, the most certain first

const finite = (values) => values.map((one) => (typeof one === "number" ? one : NaN));
const path = (change, rest) => `/runs/${change.run}${rest}`;

export async function seriesOf(change) {
  const [base, rest] = change.measure.split(":");
  if (base === "mean_loss") return meanLoss(change, rest ?? "text");
  if (change.n_tokens) return ofTokens(change);
  const { items } = await get(path(change, "/measures"));
  const names = items.map((item) => item.measure);
  if (names.includes(change.measure)) return ofMeasure(change, change.measure);
  if (names.includes(base)) return ofMeasure(change, base, headOf(rest) ?? change.heads[0]);
  return ofSeries(change, change.measure);
}

function headOf(text) {
  const found = /^L(\d+)H(\d+)$/.exec(text ?? "");
  return found === null ? null : [Number(found[1]), Number(found[2])];
}

async function meanLoss(change, slice) {
  const found = await get(path(change, `/losses/${encodeURIComponent(slice)}/means`));
  return { name: `mean loss of ${slice}`, unit: "nats", steps: found.steps, values: finite(found.values ?? found.means) };
}

// The mean over the tokens that move with it.
async function ofTokens(change) {
  const { items } = await get(`/phase-changes/${change.id}/tokens?limit=${Math.min(MEAN_TOKENS, 200)}`);
  const tokens = items.map((item) => item.token);
  const found = await get(path(change, `/losses/${encodeURIComponent(change.slice)}?tokens=${tokens.join(",")}`));
  const values = found.values.map((row) => {
    const known = row.filter((one) => one !== null);
    return known.reduce((sum, one) => sum + one, 0) / known.length;
  });
  const some = tokens.length < change.n_tokens ? `the ${tokens.length} most certain of its ${change.n_tokens} tokens` : `its ${tokens.length} tokens`;
  return { name: `mean loss of ${some}`, unit: "nats", steps: found.steps, values };
}

async function ofMeasure(change, name, head = null) {
  const found = await get(path(change, `/measures/${encodeURIComponent(name)}`));
  const pick = (values) => (head === null ? values : values?.[head[0]]?.[head[1]]);
  const values = found.values.map(pick);
  if (values.some((one) => Array.isArray(one))) return null;
  const interval = found.interval;
  const ends = interval ? { low: finite(interval.map((pair) => pick(pair[0]))), high: finite(interval.map((pair) => pick(pair[1]))) } : {};
  const own = head === null ? measureName(name) : `${measureName(name)}, L${head[0]}H${head[1]}`;
  return { name: own, unit: found.unit ?? change.unit, steps: found.steps, values: finite(values), ...ends };
}

async function ofSeries(change, name) {
  const { items } = await get(path(change, `/series?name=${encodeURIComponent(name)}`));
  return items.length ? { name, unit: change.unit, steps: items[0].steps, values: finite(items[0].values) } : null;
}
