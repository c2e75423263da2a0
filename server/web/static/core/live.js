// Keeps a page true to the server: refreshes at events, and every ten seconds where their stream is not to be had.
//
//   const again = keepFresh({ run: id, kinds: ["checkpoint", "run"], load: async (events) => {…} });
//
// `load` is called at once with [], then with the events that came since (null for a look without events). One call
// at a time, a second apart; what it throws is told at the top of the page. `again()` asks for one now.
// A page that nobody sees waits, and catches up when it is seen.

import { readEvents } from "./api.js";
import { byId, report } from "./dom.js";

const POLL_MS = 10_000;
const RETRY_MS = 3_000;
const QUIET_MS = 1_000; // between two refreshes: a training run is never held up by who watches it

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function refresher(load) {
  let running = false;
  let waiting = null;
  return async function refresh(events = null) {
    waiting = waiting === null || events === null ? events : [...waiting, ...events];
    if (running) {
      refresh.again = true;
      return;
    }
    running = true;
    do {
      refresh.again = false;
      const now = waiting;
      waiting = [];
      try {
        await load(now);
        report(null);
      } catch (error) {
        if (error.status !== 401) report(error);
      }
      await pause(QUIET_MS);
    } while (refresh.again);
    running = false;
  };
}

function showLive(words, on) {
  byId("live").textContent = words;
  byId("live").dataset.on = on;
  byId("live").hidden = false;
}

export function keepFresh({ run = null, kinds = null, load }) {
  const refresh = refresher(load);
  let missed = [];
  const bring = (events) => {
    if (document.hidden) missed = [...missed, ...events].slice(-1_000);
    else refresh(events);
  };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden || !missed.length) return;
    refresh(missed);
    missed = [];
  });
  refresh([]);
  setInterval(() => document.hidden || refresh(null), POLL_MS);
  follow(`/events${run === null ? "" : `?run=${run}`}`, (event) => {
    if (kinds === null || kinds.includes(event.kind)) bring([event]);
  });
  return () => refresh(null);
}

async function follow(path, onEvent) {
  let lastId = null;
  for (;;) {
    try {
      await readEvents(path, lastId, {
        onOpen: () => showLive("live", true),
        onEvent: (event) => {
          lastId = event.id;
          onEvent(event);
        },
      });
    } catch (error) {
      if (error.status === 401) return;
    }
    showLive(`every ${POLL_MS / 1000} s`, false);
    await pause(RETRY_MS);
  }
}
