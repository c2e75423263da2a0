// Numbers, times and names as people read them.

const compactFormat = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const wholeFormat = new Intl.NumberFormat("en");

export const compact = (number) => compactFormat.format(number).replace("K", "k");
export const whole = (number) => wholeFormat.format(number);

// Four significant digits, and words for what is no number.
export function value(number, digits = 4) {
  if (typeof number !== "number" || !Number.isFinite(number)) return "not finite";
  if (number !== 0 && (Math.abs(number) >= 1e6 || Math.abs(number) < 1e-3)) return number.toExponential(2);
  return String(Number(number.toPrecision(digits)));
}

export const percent = (share) => `${Math.round(share * 100)} %`;

export const time = (text) => (text === null ? "" : new Date(text).toLocaleString());

const UNITS = [["year", 31_536_000], ["month", 2_592_000], ["day", 86_400], ["hour", 3_600], ["minute", 60]];
const ago = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

// "3 minutes ago"; the exact time belongs in the title of the element.
export function since(text, now = Date.now()) {
  if (text === null) return "";
  const seconds = (Date.parse(text) - now) / 1_000;
  for (const [unit, size] of UNITS) {
    if (Math.abs(seconds) >= size) return ago.format(Math.round(seconds / size), unit);
  }
  return "just now";
}

// natural_prefix_matching:L1H0 → "natural prefix matching, L1H0"
export function measureName(name) {
  const [head, ...rest] = name.split(":");
  return [head.replaceAll("_", " "), ...rest].join(", ");
}

export const plural = (count, one, many = `${one}s`) => `${whole(count)} ${count === 1 ? one : many}`;

export const headName = ([layer, head]) => `L${layer}H${head}`;

export function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = Math.min(Math.floor(Math.log10(Math.max(count, 1)) / 3), units.length - 1);
  return `${Number((count / 1000 ** power).toPrecision(3))} ${units[power]}`;
}
