// Drawing: curves and a heat map over a shared axis of training steps, with phase changes as bands. No library.

const MARGIN = { left: 64, right: 14, top: 8, bottom: 34 };
const VIRIDIS = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"];
const SVG = "http://www.w3.org/2000/svg";

export function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function shape(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null));
  return node;
}

// Steps are spread by ln(1 + step): checkpoints are, and early training is where things happen.
export function stepScale(steps, low, high) {
  const [first, last] = [Math.log1p(Math.min(...steps)), Math.log1p(Math.max(...steps))];
  const span = last - first || 1;
  const scale = (step) => low + ((Math.log1p(step) - first) / span) * (high - low);
  scale.step = (x) => Math.expm1(first + ((x - low) / (high - low)) * span);
  return scale;
}

function stepTicks(steps, x) {
  const last = Math.max(...steps);
  const wanted = [0];
  for (let power = 1; power <= last; power *= 10) wanted.push(power, 2 * power, 5 * power);
  const ticks = [];
  for (const step of wanted) {
    if (step < Math.min(...steps) || step > last) continue;
    if (!ticks.length || x(step) - x(ticks.at(-1)) >= 44) ticks.push(step);
  }
  return ticks;
}

function valueTicks(low, high) {
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const size = [1, 2, 5, 10].map((factor) => factor * power).find((factor) => factor >= rough);
  const ticks = [];
  for (let tick = Math.ceil(low / size) * size; tick <= high + size * 1e-6; tick += size) ticks.push(tick);
  const digits = Math.max(0, -Math.floor(Math.log10(size) + 1e-9));
  return ticks.map((tick) => [tick, tick.toFixed(digits)]);
}

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

// A change's time as a band, its middle as a line; only outlined where colours behind it mean something.
function bands(changes, x, steps, height, outlined) {
  const nodes = [];
  const [first, last] = [Math.min(...steps), Math.max(...steps)];
  const inside = (step) => Math.min(Math.max(step, first), last);
  for (const change of changes) {
    const kind = `${change.induction ? " induction" : ""}${outlined ? " outlined" : ""}`;
    const [start, end] = [x(inside(change.start_step)), x(inside(change.end_step ?? last))];
    const name = change.induction ? "induction" : change.kind;
    const label = `${name}, steps ${change.start_step} to ${change.end_step ?? "…"}`;
    const place = { x: start, y: 0, width: Math.max(end - start, 1.5), height };
    nodes.push(shape("rect", { class: `band${kind}`, ...place, "data-change": change.id }, shape("title", {}, label)));
    const middle = x(inside(change.step));
    nodes.push(shape("line", { class: `middle${kind}`, x1: middle, x2: middle, y1: 0, y2: height }));
    if (outlined || end - start < 8 * name.length) continue;
    nodes.push(shape("text", { x: start + 4, y: 14 }, name));
  }
  return nodes;
}

// An empty plot inside a figure: axes, bands, and a group to draw in. Coordinates start at the plot's inner corner.
function frame(figure, { steps, height, changes, label, outlined = false }) {
  figure.querySelector(".plot")?.remove();
  const plot = element("div", { class: "plot" });
  figure.querySelector("figcaption").after(plot);
  const width = Math.max(plot.clientWidth, 240) - MARGIN.left - MARGIN.right;
  const outer = [width + MARGIN.left + MARGIN.right, height + MARGIN.top + MARGIN.bottom];
  const svg = shape("svg", { viewBox: `0 0 ${outer[0]} ${outer[1]}`, height: outer[1], role: "img", "aria-label": label });
  const inner = shape("g", { transform: `translate(${MARGIN.left} ${MARGIN.top})` });
  const x = stepScale(steps, 0, width);
  inner.append(...bands(changes, x, steps, height, outlined));
  inner.append(shape("path", { class: "axis", d: `M0 ${height}H${width}` }));
  for (const step of stepTicks(steps, x)) {
    inner.append(shape("path", { class: "axis", d: `M${x(step)} ${height}v5`, "data-step": step }));
    inner.append(shape("text", { x: x(step), y: height + 17, "text-anchor": "middle" }, compact.format(step)));
  }
  inner.append(shape("text", { x: width, y: height + 31, "text-anchor": "end" }, "training step"));
  svg.append(inner);
  plot.append(svg);
  return { figure, plot, svg, inner, x, width, height };
}

const pointers = new WeakMap(); // figure -> the last pointer event, which outlives a redraw

// What the pointer is over, in words below the plot.
function follow({ figure, plot, svg, inner, x, width, height }, describe) {
  const cursor = shape("line", { class: "cursor", y1: 0, y2: height, visibility: "hidden" });
  const words = element("div", { class: "readout" });
  inner.append(cursor);
  plot.append(words);
  const show = (event) => {
    pointers.set(figure, event);
    const box = svg.getBoundingClientRect();
    const [left, top] = [event.clientX - box.left - MARGIN.left, event.clientY - box.top - MARGIN.top];
    const found = left < 0 || left > width || top < 0 || top > height ? null : describe(x.step(left), top);
    cursor.setAttribute("visibility", found ? "visible" : "hidden");
    words.textContent = found ? found.text : "";
    if (found) fill(cursor, { x1: x(found.step), x2: x(found.step) }, []);
  };
  svg.addEventListener("pointermove", show);
  if (pointers.has(figure) && figure.matches(":hover")) show(pointers.get(figure));
}

export const nearest = (steps, wanted) => {
  const distance = (step) => Math.abs(Math.log1p(step) - Math.log1p(wanted));
  return steps.reduce((best, step, index) => (distance(step) < distance(steps[best]) ? index : best), 0);
};

function path(points) {
  let [d, pen] = ["", "M"];
  for (const [px, py] of points) {
    if (Number.isFinite(py)) d += `${pen}${px.toFixed(2)} ${py.toFixed(2)}`;
    pen = Number.isFinite(py) ? "L" : "M"; // a value that is not finite leaves a gap
  }
  return d;
}

const number = (value) => (typeof value === "number" ? value : NaN);

// lines: [{name, kind: "first" | "second", steps, values, low?, high?}]
export function drawLines(figure, { lines, changes, unit }) {
  const steps = lines.flatMap((line) => line.steps);
  const shown = lines.flatMap((line) => [line.values, line.low ?? [], line.high ?? []]);
  const values = shown.flat().filter(Number.isFinite);
  if (!values.length) return;
  const space = (Math.max(...values) - Math.min(...values)) * 0.06 || 0.5;
  const [low, high] = [Math.min(...values) - space, Math.max(...values) + space];
  const drawn = frame(figure, { steps, height: 220, changes, label: figure.querySelector("figcaption").textContent });
  const y = (value) => drawn.height - ((value - low) / (high - low)) * drawn.height;
  for (const [tick, words] of valueTicks(low, high)) {
    drawn.inner.append(shape("path", { class: "axis", d: `M-4 ${y(tick)}H${drawn.width}` }));
    drawn.inner.append(shape("text", { x: -8, y: y(tick) + 4, "text-anchor": "end" }, words));
  }
  for (const line of [...lines].reverse()) {
    const at = (list) => list.map((value, index) => [drawn.x(line.steps[index]), y(number(value))]);
    if (line.low) {
      const around = [...at(line.low), ...at(line.high).reverse()].filter(([, py]) => Number.isFinite(py));
      drawn.inner.append(shape("path", { class: "interval", d: `${path(around)}Z` }));
    }
    drawn.inner.append(shape("path", { class: `line ${line.kind}`, d: path(at(line.values)), "data-line": line.name }));
  }
  const legend = element("span", { class: "legend" });
  if (lines.length > 1) {
    for (const line of lines) legend.append(element("span", {}, element("span", { class: `key ${line.kind}` }), line.name));
    drawn.plot.prepend(legend);
  }
  follow(drawn, (wanted) => {
    const { steps: own } = lines[0];
    const step = own[nearest(own, wanted)];
    const parts = lines.map((line) => [line.name, line.values[nearest(line.steps, step)]]);
    const words = parts.map(([name, value]) => `${name} ${Number.isFinite(value) ? value.toFixed(3) : "not finite"}`);
    return { step, text: `step ${step}: ${words.join(", ")} ${unit}` };
  });
}

function colour(share) {
  const place = Math.min(Math.max(share, 0), 1) * (VIRIDIS.length - 1);
  const [from, to] = [VIRIDIS[Math.floor(place)], VIRIDIS[Math.ceil(place)]];
  const part = (hex, index) => parseInt(hex.slice(1 + 2 * index, 3 + 2 * index), 16);
  return [0, 1, 2].map((index) => Math.round(part(from, index) + (part(to, index) - part(from, index)) * (place % 1)));
}

// history: {steps, shape: [layers, heads], values: steps × layers × heads}; a row a head, a column a checkpoint
export function drawHeads(figure, { history, changes, note }) {
  const [layers, heads] = history.shape;
  const rows = [...Array(layers * heads).keys()].map((row) => [Math.floor(row / heads), row % heads]);
  const size = Math.min(Math.max(220 / rows.length, 2), 26);
  const label = "Head scores by step";
  const drawn = frame(figure, { steps: history.steps, height: rows.length * size, changes, label, outlined: true });
  const flat = history.values.flat(2).filter(Number.isFinite);
  const [low, high] = [Math.min(0, ...flat), Math.max(...flat, 1e-9)];
  const canvas = element("canvas", { width: Math.round(drawn.width), height: rows.length });
  Object.assign(canvas.style, {
    left: `${MARGIN.left}px`, top: `${MARGIN.top}px`, width: `${drawn.width}px`, height: `${drawn.height}px`,
  });
  const image = new ImageData(canvas.width, rows.length);
  for (let column = 0; column < canvas.width; column += 1) {
    const scores = history.values[nearest(history.steps, drawn.x.step(column + 0.5))];
    rows.forEach(([layer, head], row) => {
      const score = scores[layer][head];
      const at = 4 * (row * canvas.width + column);
      if (Number.isFinite(score)) image.data.set([...colour((score - low) / (high - low)), 255], at);
    });
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  drawn.plot.prepend(canvas);
  drawn.svg.style.position = "relative";
  const every = Math.ceil(14 / size);
  rows.forEach(([layer, head], row) => {
    if (row % every) return;
    drawn.inner.append(shape("text", { x: -8, y: (row + 0.5) * size + 4, "text-anchor": "end" }, `L${layer} H${head}`));
  });
  drawn.plot.append(scaleBar(low, high, note));
  follow(drawn, (wanted, top) => {
    const index = nearest(history.steps, wanted);
    const [layer, head] = rows[Math.min(Math.floor(top / size), rows.length - 1)];
    const score = history.values[index][layer][head];
    const words = Number.isFinite(score) ? score.toFixed(3) : "not measured";
    return { step: history.steps[index], text: `step ${history.steps[index]}, layer ${layer} head ${head}: ${words}` };
  });
}

function scaleBar(low, high, note) {
  const stops = VIRIDIS.map((_, index) => [index / (VIRIDIS.length - 1), VIRIDIS[index]]);
  const bar = shape("svg", { class: "bar", viewBox: "0 0 320 28", height: 28, role: "img", "aria-label": "Colour scale" });
  const ramp = shape("linearGradient", { id: "viridis" });
  ramp.append(...stops.map(([offset, stop]) => shape("stop", { offset, "stop-color": stop })));
  bar.append(shape("defs", {}, ramp), shape("rect", { x: 64, y: 6, width: 160, height: 10, fill: "url(#viridis)" }));
  bar.append(shape("text", { x: 60, y: 15, "text-anchor": "end" }, low.toFixed(2)));
  bar.append(shape("text", { x: 230, y: 15 }, `${high.toFixed(2)} ${note}`));
  bar.style.maxWidth = "320px";
  return bar;
}
