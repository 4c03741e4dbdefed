// Question: how a file of latents is read, where its values leave that open.

/** Tell the server which picture is clicked, by two numbers, and mark it. */
export function start({ element, trigger }) {
  element.addEventListener("click", (event) => {
    const chosen = event.target.closest(".reading");
    if (!chosen) return;
    for (const other of chosen.parentElement.querySelectorAll(".reading"))
      other.setAttribute("aria-pressed", String(other === chosen));
    trigger("select", { file: Number(chosen.dataset.file), option: Number(chosen.dataset.option) });
  });
}
