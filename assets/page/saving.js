// Saving: the frame on the stage as PNG files, from the exact frames.

import { stem } from "./clip_choices.js";
import { parseClip } from "./comparison.js";

const GAP = 8; // pixels between two pictures in one file

/** Connects the buttons that save A, B, or both beside each other. */
export class Saving {
  /**
   * @param {Element} root holds `.save`
   * @param {object} parts
   * @param {import("./server.js").Server} parts.server
   * @param {import("./player.js").Player} parts.player
   * @param {import("./comparison.js").Comparison} parts.comparison
   * @param {import("./difference.js").Difference} parts.difference
   */
  constructor(root, { server, player, comparison, difference }) {
    Object.assign(this, { server, player, comparison, difference });
    this.menu = root.querySelector(".save");
    this.menu.addEventListener("click", (event) => {
      const { save } = event.target.dataset;
      if (save) this.#save(save);
    });
    this.menu.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.menu.open) return;
      this.#close();
      event.stopPropagation();
    });
    document.addEventListener("pointerdown", (event) => {
      if (!this.menu.contains(event.target)) this.menu.open = false;
    });
    player.listen(() => this.#show());
    comparison.listen(() => this.#show());
  }

  #show() {
    const hasB = this.comparison.b !== null;
    this.menu.hidden = !this.comparison.isOpen || this.player.shown < 0;
    for (const button of this.menu.querySelectorAll("[data-save]")) {
      button.hidden = button.dataset.save !== "a" && !hasB;
    }
  }

  async #save(what) {
    this.#close();
    this.player.seek(this.player.shown); // the frame that is seen now
    const frame = this.player.shown;
    const { a, b } = this.comparison;
    try {
      if (what === "both") {
        const pictures = await Promise.all([a, b].map((clip) => this.#fetch(this.#address(clip, frame))));
        keep(await join(pictures), `${this.#name(a)}-and-${this.#name(b)}-frame${frame + 1}.png`);
      } else if (what === "difference") {
        const picture = await this.#fetch(this.difference.address(frame));
        keep(picture, `${this.#name(a)}-minus-${this.#name(b)}-frame${frame + 1}.png`);
      } else {
        const clip = this.comparison[what];
        const picture = await this.#fetch(this.#address(clip, frame, true));
        keep(picture, `${this.#name(clip)}-frame${frame + 1}.png`);
      }
    } catch (error) {
      this.comparison.report(`The picture could not be saved: ${error.message}`);
    }
  }

  #close() {
    this.menu.open = false;
    this.menu.querySelector("summary").focus();
  }

  #address(clip, frame, withAlpha = false) {
    const { id, isSource } = parseClip(clip);
    return this.server.exactAddress(id, isSource, frame, withAlpha);
  }

  #name(clip) {
    const run = this.comparison.runOf(clip);
    return parseClip(clip).isSource ? `${stem(run.name)}-source` : `${stem(run.name)}-run${run.number}`;
  }

  async #fetch(address) {
    const response = await fetch(address);
    if (response.ok) return response.blob();
    const { detail } = await response.json().catch(() => ({}));
    throw new Error(detail ?? response.statusText);
  }
}

/** Return one PNG of two pictures side by side. */
async function join(blobs) {
  const [one, two] = await Promise.all(
    blobs.map((blob) => createImageBitmap(blob, { colorSpaceConversion: "none" })),
  );
  const canvas = document.createElement("canvas");
  canvas.width = one.width + GAP + two.width;
  canvas.height = Math.max(one.height, two.height);
  const context = canvas.getContext("2d");
  context.drawImage(one, 0, 0);
  context.drawImage(two, one.width + GAP, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

/** Have the browser save a file. */
function keep(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
