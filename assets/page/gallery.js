// Gallery: the samples to click.

/** Tell the server which sample is clicked, by number, and mark it until another input is chosen. */
export function start({ element, trigger }) {
  const mark = (card) => {
    for (const other of element.querySelectorAll(".sample")) other.classList.toggle("chosen", other === card);
  };

  element.addEventListener("click", (event) => {
    const card = event.target.closest(".sample");
    if (!card || document.querySelector("#file .uploading")) return; // the uploaded file would replace the sample
    mark(card);
    trigger("select", { index: Number(card.dataset.index) });
  });

  // A file of one's own, or none any more.
  const chooseFile = (event) => {
    const file = event.target.closest?.("#file");
    if (file && (event.type !== "click" || event.target.closest("[aria-label='Clear']"))) mark(null);
  };
  for (const type of ["change", "drop", "click"]) document.addEventListener(type, chooseFile, true);
}
