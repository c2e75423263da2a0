// Which runs are compared: a search, a tag, and a box to tick for each; the choice lies in the page's URL.

import { byId, element, replace } from "../core/dom.js";
import { plural } from "../core/format.js";

export class RunPicker {
  #runs = [];
  #words = "";

  constructor(state) {
    this.state = state;
    byId("search").addEventListener("input", (event) => {
      this.#words = event.target.value.trim().toLowerCase();
      this.#draw();
    });
    byId("tag").addEventListener("change", (event) => state.set({ tag: event.target.value, runs: "" }));
    byId("all-shown").addEventListener("click", () => this.#choose([...this.chosen, ...this.#shown().map((run) => run.id)]));
    byId("none").addEventListener("click", () => state.set({ runs: "", tag: "" }));
    state.onChange(() => this.#draw());
  }

  update(runs) {
    this.#runs = runs;
    this.#draw();
  }

  // Ids of the runs that are chosen and that there are, in the list's order.
  get chosen() {
    const tag = this.state.get("tag");
    if (tag) return this.#runs.filter((run) => run.tags.includes(tag)).map((run) => run.id);
    const wanted = new Set(this.state.get("runs").split(",").filter(Boolean));
    return this.#runs.filter((run) => wanted.has(run.id)).map((run) => run.id);
  }

  #choose(ids) {
    this.state.set({ runs: [...new Set(ids)].join(","), tag: "" });
  }

  #shown() {
    return this.#runs.filter((run) => `${run.name} ${run.tags.join(" ")}`.toLowerCase().includes(this.#words));
  }

  #draw() {
    const tags = [...new Set(this.#runs.flatMap((run) => run.tags))].sort();
    replace(byId("tag"), element("option", { value: "" }, "by hand"), tags.map((tag) => element("option", { value: tag }, `all tagged ${tag}`)));
    byId("tag").value = this.state.get("tag");
    const chosen = new Set(this.chosen);
    const shown = this.#shown();
    const focus = document.activeElement?.dataset?.run;
    replace(byId("choices"), shown.map((run) => this.#choice(run, chosen.has(run.id))));
    for (const box of byId("choices").querySelectorAll("input")) box.checked = chosen.has(box.dataset.run);
    if (focus) byId("choices").querySelector(`[data-run="${focus}"]`)?.focus();
    replace(byId("chosen"), `${plural(chosen.size, "run")} chosen${shown.length < this.#runs.length ? `, ${shown.length} of ${this.#runs.length} shown` : ""}`);
  }

  #choice(run, checked) {
    const box = element("input", { type: "checkbox", "data-run": run.id, checked, onchange: (event) => {
      this.#choose(event.target.checked ? [...this.chosen, run.id] : this.chosen.filter((id) => id !== run.id));
    } });
    return element("label", { class: "pick" }, box, element("span", {}, run.name), run.tags.map((tag) => element("span", { class: "tag" }, tag)),
      element("span", { class: "status quiet", "data-status": run.status }, run.status));
  }
}
