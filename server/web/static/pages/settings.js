// How this server is set up, whether it is well, and who changed what.

import { get, mayAdmin } from "../core/api.js";
import { byId, element, replace, report } from "../core/dom.js";
import { since } from "../core/format.js";
import { keepFresh } from "../core/live.js";
import { moreButton, Rows } from "../core/rows.js";
import { ready } from "../core/shell.js";
import { urlState } from "../core/url-state.js";

const SHOWN = 30;
const SOURCES = { given: "environment or command line", file: "from its file", default: "default" };
const state = urlState({ method: "", target: "" });
let entries = [];
let nextPage = null;

// The settings.

const settings = new Rows(byId("settings"), {
  caption: "Settings", columns: [["name", "Setting"], ["value", "Value"], ["source", "From"], ["about", "What it is for"]],
});

const written = (value) => (value === null || value === "" ? element("span", { class: "quiet" }, "nothing") : element("code", {}, String(value)));

function settingCells(one) {
  const other = one.source !== "default" && one.default !== null && one.default !== one.value;
  return {
    name: element("code", {}, one.name),
    value: one.secret ? element("span", { class: "tag" }, one.value) : written(one.value),
    source: element("span", { class: one.source === "default" ? "quiet" : null }, SOURCES[one.source]),
    about: [one.description, other && element("span", { class: "quiet" }, ` (default ${one.default})`)],
  };
}

async function showSettings() {
  const found = await get("/settings");
  replace(byId("version"), `phasewatch ${found.version}, schema ${found.schema}`);
  settings.fill(found.settings, (one) => one.name, settingCells);
}

// The doctor.

const findings = new Rows(byId("findings"), {
  caption: "Findings", columns: [["what", "What"], ["well", "State"], ["detail", "Found"], ["advice", "What to do"]], empty: "Not looked at yet.",
});

const findingCells = (one) => ({
  what: element("strong", {}, one.what),
  well: element("span", { class: "status", "data-status": one.is_well ? "done" : "failed" }, one.is_well ? "well" : "wrong"),
  detail: one.detail,
  advice: one.advice,
});

async function examine() {
  const pressed = byId("examine");
  pressed.disabled = true;
  replace(byId("verdict"), "Looking …");
  try {
    const found = await get("/doctor");
    findings.fill(found.findings, (one) => one.what, findingCells);
    const wrong = found.findings.filter((one) => !one.is_well).length;
    replace(byId("verdict"), wrong ? `${wrong} of ${found.findings.length} are not well.` : `All ${found.findings.length} are well.`);
  } catch (error) {
    replace(byId("verdict"), "");
    report(error);
  }
  pressed.disabled = false;
}

// The audit log.

const audit = new Rows(byId("audit"), {
  caption: "Audit log", columns: [["when", "When"], ["who", "Who"], ["what", "What"], ["target", "Of what"], ["status", "Answer", "number"], ["from", "From"]],
  empty: "No write like this has been asked for.",
});
const showMore = moreButton(byId("more-audit"), () => loadAudit(nextPage));

const auditCells = (one) => ({
  when: element("span", { title: one.time }, since(one.time)),
  who: one.name,
  what: element("code", {}, `${one.method} ${one.route}`),
  target: one.target,
  status: element("span", { class: one.status >= 400 ? "wrong" : null }, String(one.status)),
  from: one.address,
});

async function loadAudit(cursor = null) {
  const filters = ["method", "target"].filter((name) => state.get(name)).map((name) => `&${name}=${encodeURIComponent(state.get(name))}`);
  const page = await get(`/audit?limit=${SHOWN}${filters.join("")}${cursor === null ? "" : `&cursor=${cursor}`}`);
  entries = cursor === null ? page.items : [...entries, ...page.items];
  nextPage = page.next;
  audit.fill(entries, (one) => one.id, auditCells);
  showMore(nextPage);
}

async function load() {
  await showSettings();
  if (entries.length <= SHOWN) await loadAudit();
}

ready(async () => {
  byId("whole").hidden = !mayAdmin();
  byId("only-admins").hidden = mayAdmin();
  if (!mayAdmin()) return;
  byId("examine").addEventListener("click", examine);
  for (const name of ["method", "target"]) {
    byId(name).value = state.get(name);
    byId(name).addEventListener("change", (event) => state.set({ [name]: event.target.value.trim() }));
  }
  state.onChange(() => loadAudit().then(() => report(null), report));
  keepFresh({ kinds: [], load });
});
