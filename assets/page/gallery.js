// The samples: a click tells the server which one, by number.
element.addEventListener("click", (event) => {
  const card = event.target.closest(".sample");
  if (!card || document.querySelector("#file .uploading")) return; // what is being uploaded would come after it
  mark(card);
  trigger("select", { index: Number(card.dataset.index) });
});

// A file of one's own, or none any more.
for (const type of ["change", "drop", "click"]) {
  document.addEventListener(type, (event) => {
    if (event.target.closest?.("#file") && (type !== "click" || event.target.closest("[aria-label='Clear']"))) mark(null);
  }, true);
}

function mark(card) {
  for (const other of element.querySelectorAll(".sample")) other.classList.toggle("chosen", other === card);
}
