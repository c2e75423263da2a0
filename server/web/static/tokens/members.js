// Which tokens a filter leaves: those of a token group, or those that move with a change.
//
//   const members = new Members({ probeSet, slice, only: "group:closing" });   "all", "group:NAME" or "change:ID"
//   await members.within(first, count) → Uint8Array over losses, or null for all
//   await members.from(loss, 1 or −1) → the nearest member after or before, or null

import { get, getNpy } from "../core/api.js";
import { lowerBound } from "../plots/axis.js";

const LOOK = 50_000; // members a request at most

export class Members {
  #sorted = null;

  constructor({ probeSet, slice, only }) {
    Object.assign(this, { probeSet, slice, only });
    this.kind = only.split(":")[0];
    this.name = only.slice(this.kind.length + 1);
  }

  async within(first, count) {
    if (this.kind === "all") return null;
    const mask = new Uint8Array(count);
    for (const one of this.kind === "change" ? await this.#ofChange() : await this.#ofGroup(first, first + count)) {
      if (one >= first && one < first + count) mask[one - first] = 1;
    }
    return mask;
  }

  async from(loss, direction) {
    if (this.kind === "change") {
      const all = await this.#ofChange();
      const at = lowerBound(all, direction > 0 ? loss + 1 : loss);
      return all[direction > 0 ? at : at - 1] ?? null;
    }
    if (direction > 0) return (await this.#page(loss + 1, 1)).items[0] ?? null;
    for (let end = loss; end > 0; end -= LOOK) {
      const found = await this.#ofGroup(Math.max(0, end - LOOK), end);
      if (found.length) return found.at(-1);
    }
    return null;
  }

  async #ofChange() {
    this.#sorted ??= (await getNpy(`/phase-changes/${this.name}/tokens`)).data.slice().sort((one, other) => one - other);
    return this.#sorted;
  }

  async #ofGroup(first, end) {
    const found = [];
    for (let from = first; from !== null && from < end; ) {
      const page = await this.#page(from, Math.min(LOOK, end - from));
      found.push(...page.items.filter((one) => one < end));
      from = page.next;
    }
    return found;
  }

  #page(first, limit) {
    return get(`/probe-sets/${this.probeSet}/groups/${encodeURIComponent(this.name)}/members?slice=${encodeURIComponent(this.slice)}&first=${first}&limit=${limit}`);
  }
}
