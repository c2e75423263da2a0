// Which tokens are on the page: a window of whole sequences of a slice, at most twenty thousand tokens.
//
//   const window = await loadWindow({ probeSet, slice, shape, first })
//   window.texts, window.ids (flat, sequence after sequence), window.lossOf(index) → flat index among the losses, −1 for the
//   first token of a sequence; window.indexOf(lossIndex) → index into the window or null; window.losses = {first, count}

import { get } from "../core/api.js";

export const MOST_TOKENS = 20_000;

export const sequencesAWindow = (shape) => Math.max(1, Math.floor(MOST_TOKENS / shape.n_tokens));

export async function loadWindow({ probeSet, slice, shape, first }) {
  const count = Math.min(sequencesAWindow(shape), shape.n_sequences - first);
  const found = await get(`/probe-sets/${probeSet}/slices/${encodeURIComponent(slice)}?first=${first}&count=${count}`);
  const [n, positions] = [shape.n_tokens, shape.n_positions];
  const ids = found.tokens.flat();
  const texts = found.texts === null ? ids.map((id) => `⟨${id}⟩`) : found.texts.flat();
  return {
    first, count, n, positions, ids, texts,
    losses: { first: first * positions, count: count * positions },
    lossOf: (index) => (index % n === 0 ? -1 : (first + Math.floor(index / n)) * positions + (index % n) - 1),
    indexOf(loss) {
      const sequence = Math.floor(loss / positions) - first;
      return sequence < 0 || sequence >= count ? null : sequence * n + (loss % positions) + 1;
    },
  };
}

// Values of losses (count sequences × positions), spread over the tokens: NaN for the first of each sequence.
export function overTokens(window, values) {
  const spread = new Float32Array(window.count * window.n);
  for (let sequence = 0; sequence < window.count; sequence += 1) {
    spread[sequence * window.n] = NaN;
    spread.set(values.subarray(sequence * window.positions, (sequence + 1) * window.positions), sequence * window.n + 1);
  }
  return spread;
}
