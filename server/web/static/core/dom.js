// Elements from text. Data never becomes markup: there is no way here to give HTML.
//
//   element("a", { href: "/", class: "home", onclick: go, hidden: true }, "text", element("b", {}, "more"))
//   byId("name"), replace(byId("list"), ...items), say("Saved."), report(error), option-lists with offer(select, names)

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

// Attributes that are null or false are left out, true ones are set empty, functions listen to the event of their name.
export function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

export function svgElement(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

// New children, and nothing touched where they say the same: what is selected or focused in them stays.
export function replace(node, ...children) {
  const draft = node.cloneNode(false);
  draft.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  if (draft.isEqualNode(node)) return false;
  node.replaceChildren(...draft.childNodes);
  return true;
}

// A short message that screen readers speak and that goes away by itself.
let quiet = null;
export function say(words) {
  const place = byId("said");
  place.textContent = words;
  clearTimeout(quiet);
  quiet = setTimeout(() => {
    place.textContent = "";
  }, 6_000);
}

// What went wrong, in words, at the top of the page until it is over; null takes it away.
export function report(error) {
  const place = byId("problem");
  place.hidden = error === null;
  place.textContent = error === null ? "" : error.message;
}

// Fills a <select>, keeps what was chosen where it is still there, else `preferred`; what is chosen now.
export function offer(select, names, words = (name) => name, preferred = null) {
  const wanted = [preferred, select.value, names[0]].find((name) => names.includes(name));
  replace(select, names.map((name) => element("option", { value: name }, words(name))));
  if (wanted !== undefined) select.value = wanted;
  return wanted;
}
