// Colours told apart with every kind of colour vision, in light and in dark.
//
//   category(i)                   Okabe and Ito's eight, for lines and groups
//   ramp("viridis")(share)        [r, g, b] for 0 … 1; also "cividis", and "gain" for −1 (orange, worse) … 1 (purple, better)
//   table("viridis")              256 colours as ImageData wants them, for pictures of many cells
//   cssColor("--text")            a colour of the style sheet, as canvas wants it

const STOPS = {
  viridis: [
    "#440154", "#481a6c", "#472f7d", "#414487", "#39568c", "#31688e", "#2a788e", "#23888e", "#1f988b", "#22a884",
    "#35b779", "#54c568", "#7ad151", "#a5db36", "#d2e21b", "#fde725",
  ],
  cividis: [
    "#00224e", "#002f6f", "#123570", "#2a3f6d", "#3b496c", "#4a546d", "#575d6d", "#666970", "#737475", "#838079",
    "#948e77", "#a59c74", "#b8aa6f", "#cbba69", "#dfc95f", "#fee838",
  ],
  gainLight: [
    "#7f3b08", "#b35806", "#e08214", "#fdb863", "#fee0b6", "#f7f7f7", "#d8daeb", "#b2abd2", "#8073ac", "#542788",
    "#2d004b",
  ],
  gainDark: [
    "#ffb866", "#f39a3d", "#cf7a1f", "#97591a", "#573a1e", "#22262c", "#3a3357", "#5d4f93", "#8271c4", "#a999e6",
    "#d2c8ff",
  ],
};
const LIGHT = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7a5195", "#4d4d4d"];
const DARK = ["#56b4e9", "#e69f00", "#2fc79a", "#e08fbd", "#f0e442", "#8ab6ff", "#b99ae0", "#c9d1d9"];

export const isDark = () => document.documentElement.dataset.theme === "dark";

export const category = (index, dark = isDark()) => (dark ? DARK : LIGHT)[index % LIGHT.length];

const stopsOf = (name, dark = isDark()) => (name === "gain" ? STOPS[dark ? "gainDark" : "gainLight"] : STOPS[name]);

const part = (hex, index) => parseInt(hex.slice(1 + 2 * index, 3 + 2 * index), 16);

export function ramp(name, dark = isDark()) {
  const stops = stopsOf(name, dark);
  return (share) => {
    const unit = name === "gain" ? (share + 1) / 2 : share;
    const place = Math.min(Math.max(unit, 0), 1) * (stops.length - 1);
    const [from, to] = [stops[Math.floor(place)], stops[Math.ceil(place)]];
    return [0, 1, 2].map((index) => Math.round(part(from, index) + (part(to, index) - part(from, index)) * (place % 1)));
  };
}

const tables = new Map();

// Little-endian ABGR, 256 of them from the low end to the high one.
export function table(name, dark = isDark()) {
  const key = `${name} ${name === "gain" && dark}`;
  if (!tables.has(key)) {
    const color = ramp(name, dark);
    const colors = Uint32Array.from({ length: 256 }, (_, index) => {
      const [red, green, blue] = color(name === "gain" ? index / 127.5 - 1 : index / 255);
      return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
    });
    tables.set(key, colors);
  }
  return tables.get(key);
}

export const css = ([red, green, blue]) => `rgb(${red}, ${green}, ${blue})`;

export const cssColor = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
