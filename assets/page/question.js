// Question: how a file of latents is read, where its values leave that open.

/** Mark the picture that is clicked, or no more. */
export function start({ element }) {
  element.addEventListener("click", (event) => {
    const clicked = event.target.closest(".reading");
    if (!clicked) return;
    const chosen = clicked.getAttribute("aria-pressed") !== "true";
    for (const other of clicked.parentElement.querySelectorAll(".reading"))
      other.setAttribute("aria-pressed", String(chosen && other === clicked));
  });
}

/**
 * Return the inputs of the Run button with the answers as the last one, in JSON. Gradio calls it when Run is clicked: so
 * an answer is never on its way while the run that it is for begins.
 *
 * @param {string[]} _ nothing
 * @param {...unknown} values the inputs
 */
export function withAnswers(_, ...values) {
  const chosen = document.querySelectorAll("#question .reading[aria-pressed=true]");
  const answers = Array.from(chosen, ({ dataset: { file, scaling, order, part } }) => {
    return { file: Number(file), scaling, order, part };
  });
  return [...values.slice(0, -1), JSON.stringify(answers)];
}
