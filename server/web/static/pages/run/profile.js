// The loss by place in the context as rows that can be told apart: places evenly apart in ln place, 64 of them at most.
//
//   logBins(values, columns)   values: Float32Array, steps × columns → { names, values } of means over each bin
//   slopes(values, columns)    (loss at place 2i − loss at place i) / ln 2, in such bins over i

const ROWS = 64;

// [first, end) of each bin; places count from 0
export function bins(columns) {
  const edges = [0];
  for (let row = 1; row <= ROWS; row += 1) {
    const edge = Math.round(Math.exp((row / ROWS) * Math.log(columns + 1)) - 1);
    if (edge > edges.at(-1)) edges.push(edge);
  }
  if (edges.at(-1) !== columns) edges.push(columns);
  return edges.slice(1).map((end, index) => [edges[index], end]);
}

const names = (found) => found.map(([first, end]) => (end - first === 1 ? `${first + 1}` : `${first + 1}–${end}`));

export function logBins(values, columns) {
  const found = bins(columns);
  const binned = new Float32Array((values.length / columns) * found.length);
  for (let step = 0; step < values.length / columns; step += 1) {
    found.forEach(([first, end], row) => {
      let [sum, count] = [0, 0];
      for (let place = first; place < end; place += 1) {
        const one = values[step * columns + place];
        if (!Number.isFinite(one)) continue;
        sum += one;
        count += 1;
      }
      binned[step * found.length + row] = count ? sum / count : NaN;
    });
  }
  return { names: names(found), values: binned };
}

export function slopes(values, columns) {
  const half = Math.floor(columns / 2);
  const steep = new Float32Array((values.length / columns) * half);
  for (let step = 0; step < values.length / columns; step += 1) {
    for (let place = 0; place < half; place += 1) {
      const [near, far] = [values[step * columns + place], values[step * columns + 2 * place + 1]];
      steep[step * half + place] = (far - near) / Math.LN2;
    }
  }
  return half ? logBins(steep, half) : { names: [], values: steep };
}
