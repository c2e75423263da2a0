// What a button of a page does: the outcome is said in words, and what was refused as well.
//
//   const act = acting(() => refresh());
//   act(() => send("POST", path), (answer) => "Done.")
//   onclick: (event) => twice(event.target, "Really delete?", () => act(…))     a second press means it

import { say } from "./dom.js";

export function acting(refresh) {
  return async (action, words) => {
    try {
      say(words(await action()));
    } catch (error) {
      say(`Refused: ${error.message}`);
    }
    refresh();
  };
}

// No dialog stands in the way of who can only use keys; the question goes away by itself.
export function twice(pressed, question, action) {
  if (pressed.dataset.sure) {
    action();
    return;
  }
  const words = pressed.textContent;
  pressed.dataset.sure = "yes";
  pressed.textContent = question;
  setTimeout(() => {
    delete pressed.dataset.sure;
    pressed.textContent = words;
  }, 8_000);
}

// A secret that is shown once, with a button that copies it.
export function secretShown(place, element, words, secret) {
  const copy = element("button", { type: "button", onclick: async () => {
    await navigator.clipboard.writeText(secret);
    say("Copied.");
  } }, "Copy");
  place.replaceChildren(element("p", {}, element("strong", {}, words)), element("p", { class: "secret" }, element("code", {}, secret), copy));
  place.hidden = false;
  place.focus();
}
