// Runs before the page is built: the chosen theme, and a sign of life for the run that a reload left behind.
(() => {
  const theme = localStorage.getItem("wanvae-theme");
  const apply = () => document.body?.classList.toggle("dark", theme === "dark");
  if (theme) {
    // Gradio sets its own choice while it starts; ours comes after.
    for (const event of ["DOMContentLoaded", "load"]) addEventListener(event, apply);
  }
  const job = sessionStorage.getItem("wanvae-job");
  const base = document.querySelector("base")?.href ?? new URL(".", location.href).href;
  if (job) fetch(new URL(`live/${job}/state`, base)).catch(() => null);
})();
