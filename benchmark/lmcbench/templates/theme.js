"use strict";
// the theme: as the system has it until chosen; kept where storage is allowed
(() => {
  const button = document.getElementById("theme");
  const store = { get: () => { try { return localStorage.getItem("lmcbench-theme"); } catch { return null; } }, set: (value) => { try { localStorage.setItem("lmcbench-theme", value); } catch { /* none: it is kept for this visit */ } } };
  function setTheme(theme) {
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme; else delete document.documentElement.dataset.theme;
    button.textContent = `Theme: ${theme === "light" || theme === "dark" ? theme : "system"}`;
  }
  setTheme(store.get());
  button.addEventListener("click", () => {
    const next = { light: "dark", dark: "system" }[document.documentElement.dataset.theme] || "light";
    store.set(next);
    setTheme(next);
  });
})();
