// Tables that stay what they are while their data changes: rows by key, untouched where they say the same, so that
// focus, selection and what was unfolded stay.
//
//   const table = new Rows(byId("jobs"), { caption, columns: [["state", "State"], ["n", "Tries", "number"]], empty: "No jobs." });
//   table.fill(items, (item) => item.id, (item) => ({ state: "done", n: 3, actions: [button, …] }));
//   button("retry", "Retry", `Retry job ${id}`, () => …)      an action in a row
//
// On a narrow screen each row is a card, its cells named by their columns (page.css, table.cards).

import { element, replace } from "./dom.js";

export function button(action, words, label, onclick, attributes = {}) {
  return element("button", { type: "button", "data-action": action, "aria-label": label, onclick, ...attributes }, words);
}

export class Rows {
  constructor(place, { caption, columns, empty = "Nothing yet." }) {
    Object.assign(this, { columns, open: new Set() });
    this.body = element("tbody", {});
    this.empty = element("p", { class: "quiet" }, empty);
    const head = columns.map(([, words, kind]) => element("th", { scope: "col", class: kind ?? null }, words || element("span", { class: "hidden" }, "Actions")));
    this.table = element("table", { class: "cards" },
      element("caption", { class: "hidden" }, caption), element("thead", {}, element("tr", {}, head)), this.body);
    place.replaceChildren(this.table, this.empty);
  }

  fill(items, keyOf, cellsOf) {
    this.table.hidden = !items.length;
    this.empty.hidden = items.length > 0;
    const known = new Map([...this.body.children].map((row) => [row.dataset.key, row]));
    const active = this.body.contains(document.activeElement) ? document.activeElement : null;
    const place = active && [active.closest("tr").dataset.key, active.dataset.action];
    items.map((item) => {
      const row = this.#row(String(keyOf(item)), cellsOf(item));
      const old = known.get(row.dataset.key);
      return old?.isEqualNode(row) || old?.querySelector("[data-sure]") ? old : row; // a question that waits stays
    }).forEach((row, index) => {
      if (this.body.children[index] !== row) this.body.insertBefore(row, this.body.children[index] ?? null);
    });
    while (this.body.children.length > items.length) this.body.lastChild.remove();
    if (active && !this.body.contains(active)) this.#focus(...place);
  }

  #row(key, cells) {
    return element("tr", { "data-key": key }, this.columns.map(([name, words, kind]) =>
      element("td", { class: kind ?? (name === "actions" ? "actions" : null), "data-label": words || null }, cells[name])));
  }

  #focus(key, action) {
    const row = [...this.body.children].find((one) => one.dataset.key === key);
    (row?.querySelector(`[data-action="${action}"]`) ?? row?.querySelector("button, a, summary"))?.focus();
  }

  // Something long, unfolded on demand; it stays as it was left while the row is written again.
  fold(name, words, ...content) {
    const details = element("details", { open: this.open.has(name) }, element("summary", { "data-action": name }, words), content);
    details.addEventListener("toggle", () => this.open[details.open ? "add" : "delete"](name));
    return details;
  }
}

// Every item that a list has, a page at a time: a button below the table asks for more.
export function moreButton(place, more) {
  const again = element("button", { type: "button", onclick: more }, "Show more");
  return (next) => replace(place, next === null ? null : again);
}
