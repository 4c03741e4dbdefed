// The samples: a click tells the server which one, by number.
element.addEventListener("click", (event) => {
  const card = event.target.closest(".sample");
  if (!card) return;
  for (const other of element.querySelectorAll(".sample")) other.classList.toggle("chosen", other === card);
  trigger("select", { index: Number(card.dataset.index) });
});
