// What the service does for a run: its newest jobs, and what happens while the page is open.

import { get } from "../../core/api.js";
import { byId, element, replace } from "../../core/dom.js";
import { measureName, since, time, whole } from "../../core/format.js";

const JOBS = 8;
const EVENTS = 12;

export async function showJobs(id) {
  const { items } = await get(`/jobs?run=${id}&limit=${JOBS}`);
  const rows = items.map((job) => {
    const at = job.finished_at ?? job.started_at ?? job.created_at;
    return element("tr", {},
      element("td", {}, job.kind), element("td", { class: "number" }, job.step === null ? "–" : whole(job.step)),
      element("td", {}, element("span", { class: "status", "data-status": job.state, title: job.error }, job.state)),
      element("td", { class: "quiet", title: time(at) }, since(at)));
  });
  replace(byId("jobs").tBodies[0], rows);
  byId("jobs").hidden = !rows.length;
  byId("no-jobs").hidden = rows.length > 0;
}

const WORDS = {
  run: (event) => `the run is ${event.status}`,
  checkpoint: (event) => `checkpoint at step ${whole(event.step)}`,
  measurement: (event) => `measured at step ${whole(event.step)}: ${(event.measures ?? []).slice(0, 3).map(measureName).join("; ")}`,
  phase_change: (event) => `a phase change is ${event.state ?? "seen"}`,
  job: (event) => `job ${event.job ?? ""} is ${event.state ?? "known"}`,
};
const shown = [];

export function showEvents(events) {
  for (const event of events) {
    const words = WORDS[event.kind]?.(event) ?? event.kind.replaceAll("_", " ");
    shown.unshift(element("li", {}, element("time", { datetime: event.time, class: "quiet" }, new Date(event.time).toLocaleTimeString()), " ", words));
  }
  shown.length = Math.min(shown.length, EVENTS);
  byId("events").replaceChildren(...shown);
  byId("no-events").hidden = shown.length > 0;
}
