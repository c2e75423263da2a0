// A plot's frame: title, unit, controls, buttons for PNG, SVG and CSV, a place to draw, what the pointer is over in
// words, a sentence of what is seen, and the values as a table. Every plot of every page is put in one.
//
//   const figure = new Figure(byId("loss"), { title: "Loss", unit: "nats a token" });
//   figure.body                       where the plot goes
//   figure.controls.append(select)
//   figure.describe("Loss falls from 6.2 to 2.1.")
//   figure.read("step 400: 2.31")
//   figure.offers({ name: "loss", draw: (surface, width, height) => …, table: () => ({ columns: […], rows: [[…]] }) })
// `draw` paints the picture for paper, always in light colours; `table` gives every value, for CSV and for reading.

import { element, replace, say } from "../core/dom.js";
import { CanvasSurface, SvgSurface } from "./surface.js";

const PAPER = { width: 960, height: 440 };
const PNG_SCALE = 3;
const ROWS_READ = 60;

export class Figure {
  #made = null;

  constructor(place, { title, unit = "", paper = PAPER }) {
    Object.assign(this, { place, title, unit, paper });
    place.classList.add("figure");
    const id = `${place.id}-title`;
    this.heading = element("h3", { id }, title);
    this.body = element("div", { class: "figure-body" });
    this.controls = element("div", { class: "controls" });
    this.readout = element("p", { class: "readout", "aria-live": "polite" });
    this.summary = element("p", { class: "summary", id: `${place.id}-summary` });
    this.unitPlace = element("span", { class: "unit" }, unit);
    const saves = ["PNG", "SVG", "CSV"].map((form) =>
      element("button", { type: "button", class: "save", onclick: () => this.save(form), "aria-label": `${title} as ${form}` }, form));
    this.tablePlace = element("div", {});
    this.details = element("details", { class: "values", ontoggle: () => this.#showTable() },
      element("summary", {}, "Values"), this.tablePlace);
    place.setAttribute("aria-labelledby", id);
    place.replaceChildren(
      element("div", { class: "figure-head" }, this.heading, this.unitPlace, this.controls, element("div", { class: "saves" }, saves)),
      this.body, this.readout, this.summary, this.details,
    );
  }

  setTitle(title) {
    this.title = title;
    replace(this.heading, title);
  }

  setUnit(unit) {
    this.unit = unit;
    replace(this.unitPlace, unit);
  }

  describe(words) {
    replace(this.summary, words);
  }

  read(words) {
    if (this.readout.textContent !== words) this.readout.textContent = words;
  }

  offers(made) {
    this.#made = made;
    if (this.details.open) this.#showTable();
  }

  save(form) {
    if (this.#made === null) return;
    if (form === "CSV") keep(new Blob([csv(this.#made.table())], { type: "text/csv" }), `${this.#made.name}.csv`);
    if (form === "SVG") keep(new Blob([this.svg()], { type: "image/svg+xml" }), `${this.#made.name}.svg`);
    if (form === "PNG") this.png().toBlob((blob) => keep(blob, `${this.#made.name}.png`), "image/png");
    say(`${this.title} saved as ${form}.`);
  }

  svg() {
    const { width, height } = this.paper;
    const surface = new SvgSurface(width, height);
    surface.rect(0, 0, width, height, { fill: "#ffffff" });
    this.#made.draw(surface, width, height);
    return surface.toString();
  }

  png() {
    const { width, height } = this.paper;
    const canvas = element("canvas", { width: width * PNG_SCALE, height: height * PNG_SCALE });
    const context = canvas.getContext("2d");
    context.scale(PNG_SCALE, PNG_SCALE);
    const surface = new CanvasSurface(context);
    surface.rect(0, 0, width, height, { fill: "#ffffff" });
    this.#made.draw(surface, width, height);
    return canvas;
  }

  // As many rows as one reads; the CSV has all.
  #showTable() {
    if (!this.details.open || this.#made === null) return;
    const { columns, rows } = this.#made.table();
    const every = Math.max(1, Math.ceil(rows.length / ROWS_READ));
    const shown = rows.filter((_, index) => index % every === 0 || index === rows.length - 1);
    const words = every === 1 ? `${rows.length} rows` : `${shown.length} of ${rows.length} rows; the CSV has all`;
    const table = element("table", {},
      element("caption", {}, `${this.title}: ${words}`),
      element("thead", {}, element("tr", {}, columns.map((name) => element("th", { scope: "col" }, name)))),
      element("tbody", {}, shown.map((row) => element("tr", {}, row.map((one) => element("td", { class: "number" }, tableText(one)))))));
    const scroll = element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${this.title}, values` }, table);
    replace(this.tablePlace, scroll);
  }
}

const tableText = (one) => (typeof one === "number" && !Number.isInteger(one) ? Number(one.toPrecision(6)) : one ?? "");

export function csv({ columns, rows }) {
  const cell = (one) => {
    const words = one === null || one === undefined || Number.isNaN(one) ? "" : String(one);
    return /[",\n\r]/.test(words) ? `"${words.replaceAll('"', '""')}"` : words;
  };
  return [columns, ...rows].map((row) => row.map(cell).join(",")).join("\n") + "\n";
}

function keep(blob, name) {
  const address = URL.createObjectURL(blob);
  element("a", { href: address, download: name.replace(/[^\w.-]+/g, "_") }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
