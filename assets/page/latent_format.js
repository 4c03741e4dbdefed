// Latent format: how the latent that is downloaded is scaled, and whether it is a file of ComfyUI's.

/** The file's name and the query of its address in a format, "" being the one that the app keeps. */
export function latentFile(stem, format) {
  if (!format) return { name: `${stem}-latent.safetensors`, query: "" };
  const suffix = format.startsWith("ComfyUI") ? "latent" : "safetensors";
  const scaling = format.toLowerCase().endsWith("raw") ? "raw" : "normalised";
  return { name: `${stem}-latent-${scaling}.${suffix}`, query: `?format=${encodeURIComponent(format)}` };
}

/** Lets the link to a latent lead to the format that is chosen beside it. */
export class LatentFormat {
  #select;

  /**
   * @param {Element} root holds `.latent-file` and `.latent-format`
   * @param {(file: {name: string, query: string}) => void} onChange called with the file that the link should lead to
   */
  constructor(root, onChange) {
    this.stem = "";
    this.#select = root.querySelector(".latent-format");
    this.#select.addEventListener("change", () => onChange(latentFile(this.stem, this.#select.value)));
  }

  /** Show the choice for a run's latent, and return the file that is chosen now. */
  show(stem) {
    this.stem = stem;
    this.#select.hidden = false;
    return latentFile(stem, this.#select.value);
  }

  hide() {
    this.#select.hidden = true;
  }
}
