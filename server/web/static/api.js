// Talks to the public API of this server: JSON, pages of lists, and the event stream, with the token where one is needed.

const BASE = "/api/v1";
const TOKEN = "phasewatch-token";

export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export const hasToken = () => sessionStorage.getItem(TOKEN) !== null;
export const keepToken = (token) => sessionStorage.setItem(TOKEN, token);
export const dropToken = () => sessionStorage.removeItem(TOKEN);

async function ask(path, options = {}) {
  const headers = { Accept: "application/json", ...options.headers };
  if (hasToken()) headers.Authorization = `Bearer ${sessionStorage.getItem(TOKEN)}`;
  const answer = await fetch(BASE + path, { ...options, headers });
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}));
    throw new Refused(answer.status, problem.detail ?? `${path} answered ${answer.status}`);
  }
  return answer;
}

export const get = async (path) => (await ask(path)).json();

// Every item of a list, page after page.
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

// Server-sent events by fetch, because EventSource cannot send a token. Returns when the stream ends.
export async function readEvents(path, lastId, onOpen, onEvent) {
  const headers = { Accept: "text/event-stream" };
  if (lastId !== null) headers["Last-Event-ID"] = lastId;
  const answer = await ask(path, { headers, cache: "no-store" });
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
