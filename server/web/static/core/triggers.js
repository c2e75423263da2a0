// When a monitor is due, in words and in times.
//
//   triggerWords({ every_s: 60 }) → "every minute"
//   nextTimes(monitor, count, now) → Dates of an interval; cron lines are the server's to read (GET /monitors/due)
//   inWords(date, now) → "in 12 seconds (14:03:20)"

import { plural } from "./format.js";

const UNITS = [["day", 86_400], ["hour", 3_600], ["minute", 60], ["second", 1]];

export const unitSeconds = Object.fromEntries(UNITS.map(([unit, size]) => [unit, size]));

function span(seconds) {
  const [unit, size] = UNITS.find(([, one]) => seconds >= one && seconds % one === 0) ?? ["second", 1];
  const count = seconds / size;
  return count === 1 ? unit : plural(count, unit);
}

export function triggerWords(trigger) {
  if (trigger.each_checkpoint) return "at each checkpoint";
  if (trigger.cron) return `by the clock: ${trigger.cron} (UTC)`;
  return `every ${span(trigger.every_s)}`;
}

// Intervals are counted from the monitor's creation.
export function nextTimes({ trigger, created_at: created }, count, now = Date.now()) {
  const every = trigger.every_s * 1_000;
  const from = Date.parse(created);
  const first = Math.max(0, Math.floor((now - from) / every)) + 1;
  return Array.from({ length: count }, (_, index) => new Date(from + (first + index) * every));
}

const ahead = new Intl.RelativeTimeFormat("en", { numeric: "always" });

export function inWords(date, now = Date.now()) {
  const seconds = Math.max(0, Math.round((date - now) / 1_000));
  const [unit, size] = UNITS.find(([, one]) => seconds >= 2 * one) ?? ["second", 1];
  const when = seconds > 43_200 ? date.toLocaleString() : date.toLocaleTimeString();
  return `${ahead.format(Math.round(seconds / size), unit)} (${when})`;
}
