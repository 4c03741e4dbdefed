// VAE facts: what the page says of the chosen VAE.

/** Show a VAE and its code path in the header. Gradio calls it when another one is chosen, or restored. */
export function show(name) {
  const { label, path, reason } = factsOf(name);
  document.getElementById("which").textContent = label;
  const word = document.getElementById("path");
  word.textContent = path;
  word.title = reason;
}

/** Return the latent frames per chunk that a VAE takes unless asked otherwise. Gradio calls it when a visitor chooses one. */
export function defaultChunk(name) {
  return factsOf(name).chunk;
}

/** The facts that the server wrote into the header. */
function factsOf(name) {
  return JSON.parse(document.querySelector("#header .facts").dataset.vaes)[name];
}
