// Downloads: the links to a run's files.

import { LatentFormat } from "./latent_format.js";

const MAX_HELD_BYTES = 200e6; // of a file that the page keeps
const HOLD_TIMEOUT = 120_000; // milliseconds to fetch it

/** Shows a link for each file as soon as it exists. */
export class Downloads {
  /**
   * @param {Element} root holds `.video-file` and `.latent-file`
   * @param {import("./server.js").Server} server
   */
  constructor(root, server) {
    this.server = server;
    this.video = root.querySelector(".video-file");
    this.latent = root.querySelector(".latent-file");
    this.job = null; // of the latent that is linked
    this.format = new LatentFormat(root, (file) => {
      this.#unlink(this.latent);
      this.#linkLatent(file);
    });
  }

  clear() {
    for (const link of [this.video, this.latent]) this.#unlink(link);
    this.format.hide();
  }

  /** Link the files that a run has by now. */
  update(run) {
    const stem = run.name.replace(/\.[^.]*$/, "");
    if (run.video_file) this.#link(this.video, `live/${run.job}/video.mp4`, `${stem}-decoded.mp4`);
    if (run.latent_file && !this.latent.href) {
      this.job = run.job;
      this.#linkLatent(this.format.show(stem));
    }
  }

  #linkLatent({ name, query }) {
    this.#link(this.latent, `live/${this.job}/latent.safetensors${query}`, name);
  }

  #unlink(link) {
    link.hidden = true;
    URL.revokeObjectURL(link.href);
    link.removeAttribute("href");
  }

  #link(link, path, name) {
    if (link.href) return;
    link.hidden = false;
    link.download = name;
    link.href = this.server.address(path);
    this.#hold(link);
  }

  /** Fetch the file at once: it can then be downloaded though the server has gone away. */
  async #hold(link) {
    const { href } = link;
    const response = await fetch(href, { signal: AbortSignal.timeout(HOLD_TIMEOUT) }).catch(() => null);
    if (!response?.ok || Number(response.headers.get("content-length")) > MAX_HELD_BYTES) return;
    const file = await response.blob().catch(() => null);
    if (file && link.href === href) link.href = URL.createObjectURL(file);
  }
}
