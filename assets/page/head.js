// Runs before the page is built: applies the chosen theme, and tells the server that a reloaded page still watches.
// Gradio inserts it into the page's head right after it has set a theme of its own.
(() => {
  const read = (openStorage, key) => {
    try {
      return openStorage().getItem(key);
    } catch {
      return null; // the browser denies storage
    }
  };
  const theme = read(() => localStorage, "wanvae-theme");
  if (theme) document.body.classList.toggle("dark", theme === "dark");
  const job = read(() => sessionStorage, "wanvae-job");
  const signal = AbortSignal.timeout(8000);
  if (job) fetch(new URL(`live/${job}/state`, document.baseURI), { signal }).catch(() => null);
})();
