// Talks to the public API of this server. Paths are what follows /api/v1.
//
//   await get("/runs?limit=5")                 JSON; throws Refused with the problem's words
//   await getNpy(path)                         a .npy answer, parsed (npy.js)
//   await getAll("/jobs?state=failed")         every item of a list, page after page
//   await getIfNew(path)                       JSON, or null where the server says it is what we had (ETag)
//   await send("POST", "/monitors", body)      JSON or null; PATCH, PUT and DELETE likewise
//   await signIn(token), signOut(), session()  who we are: {name, scope, expires_at, csrf}
//   mayWrite() mayAdmin()                      what that scope allows; a server without tokens allows everything

import { parseNpy } from "./npy.js";

const BASE = "/api/v1";
const NPY = "application/x-npy";

export class Refused extends Error {
  constructor(status, problem, path) {
    super(problem.detail ?? `${path} answered ${status}`);
    this.status = status;
    this.problem = problem;
  }
}

const OPEN = { name: "", scope: "admin", csrf: null }; // a server without tokens
let known = null; // the session, once asked for

async function ask(path, { headers = {}, ...options } = {}) {
  const all = { Accept: "application/json", ...headers };
  const unsafe = !["GET", "HEAD", undefined].includes(options.method);
  if (unsafe && known?.csrf) all["X-CSRF-Token"] = known.csrf;
  let answer;
  try {
    answer = await fetch(BASE + path, { credentials: "same-origin", ...options, headers: all });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(`The server does not answer (${error.message}).`, { cause: error });
  }
  if (answer.ok || answer.status === 304) return answer;
  const problem = await answer.json().catch(() => ({}));
  const refused = new Refused(answer.status, problem, path);
  if (answer.status === 401) document.dispatchEvent(new CustomEvent("signinneeded", { detail: refused }));
  throw refused;
}

export const get = async (path, options) => (await ask(path, options)).json();

export async function getNpy(path, options) {
  const answer = await ask(path, { ...options, headers: { Accept: NPY } });
  return parseNpy(await answer.arrayBuffer());
}

export async function getAll(path) {
  const items = [];
  let cursor = "";
  do {
    const page = await get(`${path}${path.includes("?") ? "&" : "?"}limit=200${cursor}`);
    items.push(...page.items);
    cursor = page.next === null ? "" : `&cursor=${encodeURIComponent(page.next)}`;
  } while (cursor);
  return items;
}

const tags = new Map();

export async function getIfNew(path, options = {}) {
  const headers = tags.has(path) ? { "If-None-Match": tags.get(path) } : {};
  const answer = await ask(path, { ...options, headers, cache: "no-store" });
  if (answer.status === 304) return null;
  const tag = answer.headers.get("ETag");
  if (tag) tags.set(path, tag);
  return answer.json();
}

export async function send(method, path, body) {
  const content = body === undefined ? {} : { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  const answer = await ask(path, { method, ...content });
  const text = await answer.text();
  return text ? JSON.parse(text) : null;
}

// Signing in makes a cookie that scripts cannot read; what they get is who it is, and the word that writes need.
export async function signIn(token) {
  known = await send("POST", "/session", { token });
}

export async function signOut() {
  await send("DELETE", "/session");
  known = null;
}

// The page itself says whether there is anything to ask: open, needed (a token is), or token (one is there).
export async function session() {
  const { access } = document.body.dataset;
  if (access === "open") known = OPEN;
  if (access === "needed" && known === null) throw new Refused(401, { detail: "This server asks for a token." }, "/session");
  known ??= await get("/session");
  return known;
}

export const mayWrite = () => known === null || known.scope !== "read";
export const mayAdmin = () => known === null || known.scope === "admin";

// Server-sent events by fetch, which says in words why it is refused. Returns when the stream ends.
export async function readEvents(path, lastId, { onOpen, onEvent, signal }) {
  const headers = { Accept: "text/event-stream" };
  if (lastId !== null) headers["Last-Event-ID"] = lastId;
  const answer = await ask(path, { headers, cache: "no-store", signal });
  onOpen();
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (waiting + value).split("\n\n");
    waiting = blocks.pop();
    for (const block of blocks) {
      const event = parseEvent(block);
      if (event !== null) onEvent(event);
    }
  }
}

function parseEvent(block) {
  const data = block.split("\n").filter((line) => line.startsWith("data: "));
  return data.length ? JSON.parse(data.map((line) => line.slice(6)).join("\n")) : null;
}
