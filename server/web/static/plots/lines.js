// Lines over the shared step axis, drawn by uPlot (which the template loads before this module as /static/vendor/uplot).
//
//   const plot = new LinePlot(figure, axis, { name: "loss", height: 240, named: true });   named: bands are told in words
//   plot.update({ lines: [{ name, color, steps, values, low, high, width, points }], changes });
//
// Values that are not finite leave a gap. low and high, where given, are drawn as a band around the line. Drag to zoom
// all plots, double-click or Escape for everything, arrow keys to walk over the checkpoints, + and − to zoom.

import { element } from "../core/dom.js";
import { measureName, value } from "../core/format.js";
import { category, cssColor } from "../core/palette.js";
import { evenly, lowerBound, nearest } from "./axis.js";
import { drawBands, nameBands } from "./bands.js";
import { walk } from "./keys.js";
import { drawPaper } from "./paper.js";
import { CanvasSurface } from "./surface.js";

const FONT = '12px system-ui, "Segoe UI", "DejaVu Sans", sans-serif';

export class LinePlot {
  #plot = null;
  #lines = [];
  #changes = [];
  #shape = "";

  constructor(figure, axis, { name, height = 240, named = false }) {
    Object.assign(this, { figure, axis, name, height, named });
    this.legend = element("p", { class: "legend" });
    this.place = element("div", { class: "lines", tabindex: "0", role: "img", "aria-label": `${figure.title}: arrow keys walk over the checkpoints` });
    figure.body.replaceChildren(this.legend, this.place);
    walk(this.place, axis, () => this.#lines[0]?.steps ?? []);
    axis.onChange(() => this.draw());
    axis.onHover((step, source) => this.#follow(step, source));
    document.addEventListener("themechange", () => this.#again());
    new ResizeObserver(() => this.#resize()).observe(this.place);
    figure.offers({ name, draw: (...paper) => this.#paper(...paper), table: () => this.table() });
  }

  update({ lines, changes = [] }) {
    this.#lines = lines.filter((line) => line.steps.length);
    this.#changes = changes;
    for (const line of this.#lines) this.axis.cover(line.steps);
    this.draw();
  }

  get #width() {
    return Math.max(this.place.clientWidth, 200);
  }

  draw() {
    if (!this.#lines.length) return;
    const shape = this.#lines.map((line) => [line.name, line.color, Boolean(line.low), line.width, line.points]).join();
    if (this.#plot === null || shape !== this.#shape) this.#make(shape);
    else this.#plot.setData(this.#data(), false);
    const [min, max] = this.axis.domain();
    this.#plot.setScale("x", { min, max });
    this.#writeLegend();
    this.#follow(this.axis.step0, null);
  }

  #again() {
    this.#shape = "";
    this.draw();
  }

  #resize() {
    if (this.#plot !== null && this.#plot.width !== this.#width) this.#plot.setSize({ width: this.#width, height: this.height });
  }

  // One table of all lines: uPlot joins their steps; undefined is no value there, null a gap.
  #data() {
    const clean = (values) => Array.from(values, (one) => (Number.isFinite(one) ? one : null));
    const tables = this.#lines.map((line) => {
      const positions = Array.from(line.steps, (step) => this.axis.position(step));
      return [positions, clean(line.values), ...(line.low ? [clean(line.low), clean(line.high)] : [])];
    });
    const keepGaps = tables.map((table) => table.map(() => 1));
    return tables.length === 1 ? tables[0] : uPlot.join(tables, keepGaps);
  }

  #make(shape) {
    this.#plot?.destroy();
    this.#shape = shape;
    const [series, bands] = [[{}], []];
    this.#lines.forEach((line, index) => {
      const color = line.color ?? category(index);
      series.push({ label: line.name, stroke: color, width: line.width ?? 1.75, points: { show: line.points ?? false, size: 5 }, spanGaps: false });
      if (!line.low) return;
      series.push({ stroke: "transparent", points: { show: false } }, { stroke: "transparent", points: { show: false } });
      bands.push({ series: [series.length - 1, series.length - 2], fill: fade(color) });
    });
    const options = {
      width: this.#width, height: this.height, series, bands, legend: { show: false }, padding: [this.named ? 20 : 10, 10, 0, 0],
      scales: { x: { time: false, auto: false }, y: { range: roomy } },
      axes: [this.#axisX(), axisY()],
      cursor: { y: false, points: { size: 7 }, drag: { x: true, y: false, setScale: false }, bind: { dblclick: () => () => this.axis.reset() } },
      hooks: {
        drawClear: [(plot) => this.#drawBands(plot)],
        setCursor: [(plot) => this.#hover(plot)],
        setSelect: [(plot) => this.#select(plot)],
      },
    };
    this.#plot = new uPlot(options, this.#data(), this.place);
  }

  #axisX() {
    return {
      stroke: () => cssColor("--quiet"), font: FONT, grid: { show: false }, ticks: { stroke: () => cssColor("--rule"), size: 5 },
      size: 34,
      splits: (plot) => this.axis.ticks(plot.bbox.width / devicePixelRatio).map((tick) => tick.position),
      values: (plot, splits) => {
        const ticks = this.axis.ticks(plot.bbox.width / devicePixelRatio);
        return splits.map((split) => ticks.find((tick) => tick.position === split)?.text ?? "");
      },
    };
  }

  #drawBands(plot) {
    const { left, top, width, height } = plot.bbox;
    const [low, high] = [plot.scales.x.min, plot.scales.x.max];
    const surface = new CanvasSurface(plot.ctx);
    const x = (step) => {
      const at = left + ((this.axis.position(step) - low) / (high - low)) * width;
      return Math.min(Math.max(at, left), left + width);
    };
    const [first, last] = this.axis.range;
    plot.ctx.save();
    plot.ctx.scale(devicePixelRatio, devicePixelRatio); // uPlot counts pixels of the canvas, a surface those of the page
    const per = (pixels) => pixels / devicePixelRatio;
    const place = (step) => per(x(step));
    drawBands(surface, this.#changes, { x: place, top: per(top), height: per(height), last });
    const edges = { left: per(left), right: per(left + width), first, last };
    if (this.named) nameBands(surface, this.#changes, { x: place, top: per(top) - 6, ...edges, fill: cssColor("--text") });
    plot.ctx.restore();
  }

  #hover(plot) {
    const { left, idx } = plot.cursor;
    if (left < 0 || idx === null || idx === undefined) this.axis.hover(null, this);
    else this.axis.hover(Math.round(this.axis.step(plot.posToVal(left, "x"))), this);
  }

  #select(plot) {
    const { left, width } = plot.select;
    if (width > 4) this.axis.zoom(...[left, left + width].map((at) => this.axis.step(plot.posToVal(at, "x"))));
    plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
  }

  #follow(step, source) {
    if (this.#plot === null) return;
    if (step === null) {
      if (source !== this) this.#plot.setCursor({ left: -10, top: -10 }, false);
      this.figure.read("");
      return;
    }
    if (source !== this) this.#plot.setCursor({ left: this.#plot.valToPos(this.axis.position(step), "x"), top: 10 }, false);
    this.figure.read(this.words(step));
  }

  // "step 400: score −0.41, …" of the checkpoint of the first line nearest to a step
  words(step) {
    const [first] = this.#lines;
    const own = first.steps[nearest(this.axis, first.steps, step)];
    const parts = this.#lines.map((line) => {
      const one = line.values[nearest(this.axis, line.steps, own)];
      return `${this.#lines.length > 1 ? `${line.name} ` : ""}${value(one)}`;
    });
    return `step ${own}: ${parts.join(", ")} ${this.figure.unit.split(/[;,(]/)[0]}`.trim();
  }

  #writeLegend() {
    this.legend.hidden = this.#lines.length < 2;
    this.legend.replaceChildren(...this.#lines.map((line, index) => {
      const key = element("span", { class: "key" });
      key.style.background = line.color ?? category(index);
      return element("span", {}, key, line.name);
    }));
  }

  table() {
    const columns = ["step"];
    for (const line of this.#lines) columns.push(line.name, ...(line.low ? [`${line.name} low`, `${line.name} high`] : []));
    const steps = [...new Set(this.#lines.flatMap((line) => Array.from(line.steps)))].sort((one, other) => one - other);
    const rows = steps.map((step) => [step, ...this.#lines.flatMap((line) => {
      const at = lowerBound(line.steps, step);
      const there = line.steps[at] === step;
      return [line.values, ...(line.low ? [line.low, line.high] : [])].map((list) => (there ? list[at] : null));
    })]);
    return { columns, rows };
  }

  #paper(surface, width, height) {
    const seen = this.#lines.map((line) => this.#inSight(line));
    const finite = seen.flatMap(({ values, low, high }) => [...values, ...low, ...high]).filter(Number.isFinite);
    const [bottom, top] = roomy(null, least(finite), most(finite));
    const share = (one) => (top - one) / (top - bottom);
    const colors = this.#lines.map((line, index) => line.paperColor ?? category(index, false));
    const yTicks = evenly(bottom, top, 6).map((tick) => [share(tick), value(Number(tick.toPrecision(10)))]);
    const legend = this.#lines.length > 1 ? this.#lines.map((line, index) => [colors[index], line.name]) : [];
    drawPaper(surface, width, height, {
      figure: this.figure, axis: this.axis, changes: this.#changes, yTicks, legend,
      content: (inner, box, x) => seen.forEach((line, index) => {
        const point = (list) => Array.from(list, (one, at) => (Number.isFinite(one) ? [x(line.steps[at]), box.top + share(one) * box.height] : null));
        const around = [...point(line.low), ...point(line.high).reverse()].filter(Boolean);
        if (around.length) inner.area(around, { fill: colors[index], alpha: 0.18 });
        inner.line(point(line.values), { stroke: colors[index], width: (this.#lines[index].width ?? 1.75) });
      }),
    });
  }

  // A line between the first checkpoint left of what is seen and the first right of it.
  #inSight(line) {
    const [from, to] = this.axis.range;
    const first = Math.max(0, lowerBound(line.steps, from) - 1);
    const end = lowerBound(line.steps, to) + 1;
    const cut = (list) => (list ? Array.from(list.slice(first, end)) : []);
    return { steps: line.steps.slice(first, end), values: cut(line.values), low: cut(line.low), high: cut(line.high) };
  }
}

const least = (values) => values.reduce((one, other) => Math.min(one, other), Infinity);
const most = (values) => values.reduce((one, other) => Math.max(one, other), -Infinity);

function roomy(_plot, low, high) {
  if (low === null || high === null || !Number.isFinite(low)) return [0, 1];
  const space = (high - low) * 0.06 || Math.abs(high) * 0.1 || 0.5;
  return [low - space, high + space];
}

function axisY() {
  return {
    stroke: () => cssColor("--quiet"), font: FONT, size: 60, grid: { stroke: () => cssColor("--grid"), width: 1 }, ticks: { show: false },
    values: (_plot, splits) => splits.map((split) => value(Number(split.toPrecision(10)))),
  };
}

const fade = (color) => `${color}30`;
