// The course that a change's times describe: 10, 50 and 90 % of the way at its start, middle and end, in log step, between
// the two levels that suit the values best.
//
//   fitOf(change, steps, values) → {steps, values}, or null where the change has no width

const LOGIT = Math.log(9); // of 90 %
const POINTS = 160;

export function shareOf(change) {
  const [start, middle, end] = [change.start_step, change.step, change.end_step].map((step) => Math.log1p(step));
  return (step) => {
    const x = Math.log1p(step) - middle;
    const width = x < 0 ? middle - start : end - middle;
    return 1 / (1 + Math.exp((-x / width) * LOGIT));
  };
}

export function fitOf(change, steps, values) {
  const hasWidth = change.end_step !== null && change.start_step < change.step && change.step < change.end_step;
  if (!hasWidth || !["level", "hidden"].includes(change.kind)) return null;
  const share = shareOf(change);
  const near = (step) => step >= change.start_step / 4 && step <= change.end_step * 4;
  const pairs = steps.map((step, at) => [share(step), values[at], step]).filter(([, y, step]) => Number.isFinite(y) && near(step));
  if (pairs.length < 4) return null;
  const mean = (column) => pairs.reduce((sum, pair) => sum + pair[column], 0) / pairs.length;
  const [meanX, meanY] = [mean(0), mean(1)];
  const spread = pairs.reduce((sum, [x]) => sum + (x - meanX) ** 2, 0);
  if (spread === 0) return null;
  const slope = pairs.reduce((sum, [x, y]) => sum + (x - meanX) * (y - meanY), 0) / spread;
  const [low, high] = [Math.log1p(Math.max(pairs[0][2], 0)), Math.log1p(pairs.at(-1)[2])];
  const at = Array.from({ length: POINTS }, (_, index) => Math.expm1(low + ((high - low) * index) / (POINTS - 1)));
  return { steps: at, values: at.map((step) => meanY + slope * (share(step) - meanX)) };
}
