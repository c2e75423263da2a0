// The colours of tokens: neutral at nought, orange for loss (or what was lost), purple for what was gained.
//
//   const scale = new TokenScale({ by: "gain", limit: 3, view: "text" });
//   scale.css[scale.level(value)], scale.pixels likewise as ImageData has them; scale.level of what is not finite is null
//   limitOf(values, by) → the value at which the scale ends: 97 % of all are within
//
// Under text only the paler part of the ramp is used, so that the text keeps a contrast of 4.5 : 1.

import { css, isDark, ramp } from "../core/palette.js";

const LEVELS = 64; // on each side of nought
const STRENGTH = { light: 0.55, dark: 0.4 };
const WITHIN = 0.97;

export class TokenScale {
  constructor({ by, limit, view, dark = isDark() }) {
    Object.assign(this, { by, limit });
    const strength = view === "cells" ? 1 : STRENGTH[dark ? "dark" : "light"];
    const color = ramp("gain", dark);
    const colors = Array.from({ length: 2 * LEVELS + 1 }, (_, level) => color(((level - LEVELS) / LEVELS) * strength));
    this.css = colors.map(css);
    this.pixels = Uint32Array.from(colors, ([red, green, blue]) => ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0);
  }

  level(value) {
    if (!Number.isFinite(value)) return null;
    const share = Math.min(Math.max((this.by === "loss" ? -value : value) / this.limit, -1), 1);
    return LEVELS + Math.round(share * LEVELS);
  }

  // [[share of the legend, words]], and the colours along it
  legend(pieces = 48) {
    const from = this.by === "loss" ? 0 : -this.limit;
    return Array.from({ length: pieces }, (_, index) => this.css[this.level(from + ((index + 0.5) / pieces) * (this.limit - from))]);
  }
}

export function limitOf(values) {
  const finite = [];
  const every = Math.max(1, Math.floor(values.length / 4_000));
  for (let index = 0; index < values.length; index += every) if (Number.isFinite(values[index])) finite.push(Math.abs(values[index]));
  if (!finite.length) return 1;
  finite.sort((one, other) => one - other);
  const found = finite[Math.floor(WITHIN * (finite.length - 1))];
  const power = 10 ** Math.floor(Math.log10(found || 1));
  return Math.max(Math.ceil((found / power) * 2) / 2, 0.5) * power;
}
