// What a page shows lies in its URL, so that a link shows what I see.
//
//   const state = urlState({ measure: "prefix_matching", step: null });   what is left out has its default
//   state.get("measure"); state.set({ measure: "x" }); state.set({ step: 5 }, { replace: true }) for what moves quickly
//   state.onChange((names) => …)   after set(), and after the browser's back and forward; names: a Set of what changed

export function urlState(defaults) {
  const listeners = new Set();
  let values = read();

  function read() {
    const query = new URLSearchParams(location.search);
    return Object.fromEntries(Object.entries(defaults).map(([name, value]) => [name, query.get(name) ?? value]));
  }

  function tell(before) {
    const changed = new Set(Object.keys(defaults).filter((name) => before[name] !== values[name]));
    if (changed.size) for (const listener of listeners) listener(changed);
  }

  function set(changes, { replace = false } = {}) {
    const before = values;
    values = { ...values };
    const query = new URLSearchParams(location.search);
    for (const [name, value] of Object.entries(changes)) {
      if (!(name in defaults)) throw new Error(`the URL of this page has no ${name}`);
      values[name] = value === null || value === undefined ? defaults[name] : String(value);
      if (values[name] === defaults[name]) query.delete(name);
      else query.set(name, values[name]);
    }
    const address = `${location.pathname}${query.size ? `?${query}` : ""}${location.hash}`;
    if (address !== `${location.pathname}${location.search}${location.hash}`) {
      history[replace ? "replaceState" : "pushState"](null, "", address);
    }
    tell(before);
  }

  addEventListener("popstate", () => {
    const before = values;
    values = read();
    tell(before);
  });

  return { get: (name) => values[name], set, onChange: (listener) => listeners.add(listener) };
}
