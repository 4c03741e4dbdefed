// Runs before the page is built: applies the chosen theme, and tells the server that a reloaded page still watches.
(() => {
  const read = (openStorage, key) => {
    try {
      return openStorage().getItem(key);
    } catch {
      return null; // the browser denies storage
    }
  };
  const theme = read(() => localStorage, "wanvae-theme");
  const apply = () => document.body?.classList.toggle("dark", theme === "dark");
  if (theme) {
    // Gradio sets its own theme while it starts; ours comes after.
    for (const event of ["DOMContentLoaded", "load"]) addEventListener(event, apply);
  }
  const job = read(() => sessionStorage, "wanvae-job");
  if (job) fetch(new URL(`live/${job}/state`, document.baseURI)).catch(() => null);
})();
