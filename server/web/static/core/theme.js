// Light or dark, before anything is drawn: what was chosen with the button, else what the system prefers.
// A classic script, so that the page never flashes in the other colours. Listen to the event "themechange" on document.

(() => {
  const KEY = "phasewatch-theme";
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const kept = () => {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // a browser that keeps nothing
    }
  };
  const apply = () => {
    root.dataset.theme = kept() ?? (system.matches ? "dark" : "light");
    document.dispatchEvent(new Event("themechange"));
  };
  system.addEventListener("change", apply);
  addEventListener("storage", apply);
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.("#theme")) return;
    try {
      localStorage.setItem(KEY, root.dataset.theme === "dark" ? "light" : "dark");
    } catch {
      return;
    }
    apply();
  });
  apply();
})();
