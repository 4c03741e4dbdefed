// Chunk field: the number of latent frames per chunk, which Gradio lets be any number.

/** Return the whole number in the field's range that is nearest to what was typed. */
export function wholeNumber(text, { min, max }) {
  const value = Math.round(Number(text));
  return Math.min(Math.max(Number.isFinite(value) ? value : Number(min), Number(min)), Number(max));
}

/** Round what is typed into the field as soon as it is left. Gradio may build the field anew at any time. */
export function startChunkField() {
  document.addEventListener("change", ({ target }) => {
    if (!target.matches?.("#chunk input[type=number]")) return;
    const range = document.querySelector("#chunk input[type=range]") ?? target;
    const whole = String(wholeNumber(target.value, range));
    if (whole === target.value) return;
    target.value = whole;
    target.dispatchEvent(new Event("input", { bubbles: true }));
    target.dispatchEvent(new Event("change", { bubbles: true }));
  });
}
