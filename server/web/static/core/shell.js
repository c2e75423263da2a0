// What every page has around it: signing in and out, and the page's own module started once there is access.
//
// A page's module says `import { ready } from "../core/shell.js"; ready(async () => {…});`

import { session, signIn, signOut } from "./api.js";
import { byId, report } from "./dom.js";

const form = byId("sign-in");

function askForToken() {
  form.hidden = false;
  byId("content").hidden = true;
  byId("token").focus();
}

// Who is signed in; nobody is where the server has no tokens.
export async function showSession() {
  const who = await session();
  byId("who").hidden = who.csrf === null; // without a token there is nothing to sign out of
  byId("who-name").textContent = `${who.name} (${who.scope})`;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await signIn(byId("token").value.trim());
    location.reload();
  } catch (error) {
    report(error);
    byId("token").select();
  }
});

byId("sign-out").addEventListener("click", async () => {
  await signOut();
  location.reload();
});

document.addEventListener("signinneeded", askForToken);

// Calls `start` once this browser may read; until then the page asks for a token.
export async function ready(start) {
  try {
    await showSession();
    await start();
  } catch (error) {
    if (error.status === 401) askForToken();
    else report(error);
  }
}
