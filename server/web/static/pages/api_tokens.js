// Who may use the API: tokens are made here and shown once, and revoked.

import { getAll, mayAdmin, send, signIn } from "../core/api.js";
import { acting, secretShown, twice } from "../core/actions.js";
import { byId, element, say } from "../core/dom.js";
import { choose, field, form } from "../core/forms.js";
import { since, time } from "../core/format.js";
import { keepFresh } from "../core/live.js";
import { button, Rows } from "../core/rows.js";
import { ready, showSession } from "../core/shell.js";
import { urlState } from "../core/url-state.js";

const SCOPES = [["read", "read: look at everything"], ["write", "write: also record, start and change"], ["admin", "admin: everything, tokens and channels too"]];
const state = urlState({ revoked: "" });
let refresh = () => {};
const act = acting(() => refresh());

const columns = [
  ["name", "Name"], ["scope", "Scope"], ["used", "Last used"], ["made", "Made"], ["ends", "Ends"], ["actions", ""],
];
const table = new Rows(byId("tokens"), {
  caption: "API tokens", columns, empty: "No tokens: whoever reaches this address, on this machine alone, may do everything. The first token closes it.",
});

function cells(token) {
  const over = token.revoked_at !== null;
  const revoke = () => act(() => send("DELETE", `/tokens/${token.id}`), () => `${token.name} is revoked.`);
  const ends = over ? `revoked ${since(token.revoked_at)}` : token.expires_at === null ? "never" : time(token.expires_at);
  return {
    name: element("strong", {}, token.name),
    scope: element("span", { class: "tag" }, token.scope),
    used: token.last_used_at === null ? "never" : element("span", { title: token.last_used_at }, since(token.last_used_at)),
    made: element("span", { title: token.created_at }, since(token.created_at), token.made_by && element("span", { class: "quiet" }, ` by ${token.made_by}`)),
    ends: element("span", { class: over ? "quiet" : null }, ends),
    actions: over ? [] : [button("revoke", "Revoke", `Revoke ${token.name}`, (event) => twice(event.target, "Really revoke?", revoke))],
  };
}

function buildForm() {
  const name = field("name", "Name", element("input", { required: true, maxlength: 200, autocomplete: "off" }), "whose it is, or what for");
  const scope = choose("scope", "Scope", SCOPES);
  const ends = field("expires_at", "Ends", element("input", { type: "datetime-local" }), "empty: never");
  form(byId("new-token"), [name, scope, ends], "Create", async () => {
    const expires = ends.control.value ? new Date(ends.control.value).toISOString() : null;
    const open = document.body.dataset.access === "open";
    const made = await send("POST", "/tokens", { name: name.control.value.trim(), scope: scope.control.value, expires_at: expires });
    if (open) {
      document.body.dataset.access = "token"; // from now on every page needs one
      await signIn(made.token);
      await showSession();
    }
    secretShown(byId("shown"), element, `The token of ${made.name}. It is shown this once; keep it where secrets are kept.`, made.token);
    say(`${made.name} is made.`);
    name.control.value = "";
    refresh();
  });
}

async function load() {
  table.fill(await getAll(`/tokens?revoked=${state.get("revoked") === "yes"}`), (token) => token.id, cells);
}

ready(async () => {
  byId("manage").hidden = !mayAdmin();
  byId("only-admins").hidden = mayAdmin();
  if (!mayAdmin()) return;
  buildForm();
  byId("revoked").checked = state.get("revoked") === "yes";
  byId("revoked").addEventListener("change", (event) => state.set({ revoked: event.target.checked ? "yes" : "" }));
  state.onChange(() => refresh());
  refresh = keepFresh({ kinds: [], load });
});
