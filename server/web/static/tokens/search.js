// Searching the probe text: what was found, which of it is looked at, and more of it when that is wanted.
//
//   const search = new Search({ probeSet, slice, text }); await search.more(); search.hits; search.isWhole

import { get } from "../core/api.js";

const PAGE = 200;

export class Search {
  hits = [];
  at = -1;
  #next = "";
  #asked = null;

  constructor({ probeSet, slice, text }) {
    this.text = text;
    this.path = `/probe-sets/${probeSet}/slices/${encodeURIComponent(slice)}/search?text=${encodeURIComponent(text)}&limit=${PAGE}`;
  }

  get isWhole() {
    return this.#next === null;
  }

  // One page at a time, whoever asks.
  more() {
    this.#asked ??= this.#fetch().finally(() => {
      this.#asked = null;
    });
    return this.#asked;
  }

  async #fetch() {
    if (this.isWhole) return;
    const page = await get(`${this.path}${this.#next === "" ? "" : `&cursor=${encodeURIComponent(this.#next)}`}`);
    this.hits.push(...page.items);
    this.#next = page.next;
  }

  // The hit after or before the one that is looked at, around the ends.
  async step(by) {
    if (this.#asked !== null || (by > 0 && this.at === this.hits.length - 1)) await this.more();
    if (!this.hits.length) return null;
    this.at = (this.at + by + this.hits.length) % this.hits.length;
    return this.hits[this.at];
  }

  get words() {
    if (!this.hits.length) return "not found";
    return `${this.at + 1} of ${this.hits.length}${this.isWhole ? "" : "+"}`;
  }
}
