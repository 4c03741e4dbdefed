// Theme: the button that switches between dark and light. head.js applies the choice to the next page.

/**
 * @param {HTMLElement | null} button
 * @param {import("./storage.js").SafeStorage} settings keeps the choice
 */
export function startTheme(button, settings) {
  if (!button) return;
  const isDark = () => document.body.classList.contains("dark");
  const label = () => {
    button.textContent = isDark() ? "Light" : "Dark";
  };
  button.addEventListener("click", () => {
    document.body.classList.toggle("dark");
    settings.set("wanvae-theme", isDark() ? "dark" : "light");
    label();
  });
  label();
}
