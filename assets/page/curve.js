// Curve: how much A and B differ, frame by frame, below the scrubber.

import { parseClip } from "./comparison.js";
import { curveShape, describeRange } from "./curve_shape.js";
import { plural, tellDifference, tellSame } from "./sentences.js";

const PAUSE = 600; // milliseconds between two questions while frames are still being made

/** Asks for the differences of all frames as they become known, and draws them. */
export class Curve {
  #key = ""; // the clips that are compared
  #asking = false;
  #lastAsked = 0;
  #complete = true;
  #drawn = ""; // what the drawing shows: how many frames, and whether these are all

  /**
   * @param {Element} root holds `.curve` and `.found-clip`
   * @param {object} parts
   * @param {import("./server.js").Server} parts.server
   * @param {import("./player.js").Player} parts.player
   * @param {import("./comparison.js").Comparison} parts.comparison
   */
  constructor(root, { server, player, comparison }) {
    Object.assign(this, { server, player, comparison });
    this.element = root.querySelector(".curve");
    this.drawing = this.element.querySelector("svg");
    this.legend = this.element.querySelector(".legend");
    this.line = root.querySelector(".found-clip");
    this.#forget();
    comparison.listen(() => this.look());
    player.listen(() => this.#showPlayhead());
    const seek = (event) => event.buttons & 1 && this.#seek(event);
    this.drawing.addEventListener("pointerdown", seek);
    this.drawing.addEventListener("pointermove", seek);
  }

  /** Begin anew if other clips are compared now. */
  look() {
    const { a, b, isOpen, isSame } = this.comparison;
    const key = isOpen && b !== null ? `${a}/${b}/curve` : "";
    if (key === this.#key) return;
    this.#key = key;
    this.#forget();
    this.#complete = !key || isSame;
    // It keeps its place until there is something else to see, so that the stage keeps its size.
    if (isOpen) this.element.hidden = b === null;
    if (!isOpen) this.legend.textContent = "No frames to compare";
    if (isSame) this.line.textContent = tellSame(parseClip(a).isSource);
  }

  /** Ask if there is something to ask for. To be called often. */
  beat() {
    if (this.#complete || this.#asking) return;
    const isWaiting = this.psnr.length >= this.player.count || this.psnr.length === this.known;
    if (isWaiting && performance.now() - this.#lastAsked < PAUSE) return;
    this.#ask(this.#key);
  }

  async #ask(key) {
    this.#asking = true;
    this.#lastAsked = performance.now();
    try {
      const answer = await this.server.askComparison(`${key}?start=${this.psnr.length}`);
      const found = await answer.json();
      if (key !== this.#key) return;
      if (answer.ok) this.#add(found);
      else this.#complete = true; // the line of the frame says why
    } catch {
      // the server does not answer, which the banner says: ask again
    } finally {
      this.#asking = false;
    }
  }

  #add({ psnr, on_borders, elsewhere, num_frames, complete }) {
    this.psnr.push(...psnr.map((value) => (value === "inf" ? Number.POSITIVE_INFINITY : value)));
    for (const [i, border] of on_borders.entries()) {
      this.worst.push(Math.max(border ?? 0, elsewhere[i]));
      if (border !== null) this.onBorders = Math.max(this.onBorders ?? 0, border);
      this.elsewhere = Math.max(this.elsewhere, elsewhere[i]);
    }
    this.known = num_frames;
    this.#complete = complete && this.psnr.length === num_frames;
    this.#draw();
  }

  #forget() {
    this.psnr = []; // dB by frame
    this.worst = []; // largest differences by frame, 0 to 255
    this.onBorders = null; // largest of all frames; null: there are no borders
    this.elsewhere = 0;
    this.known = 0; // frames that both clips have
    this.#drawn = "";
    this.line.textContent = this.legend.textContent = "";
    this.drawing.setAttribute("aria-label", "Differences of A and B by frame");
    for (const path of this.drawing.querySelectorAll("path")) path.removeAttribute("d");
  }

  #draw() {
    const drawn = `${this.psnr.length} ${this.#complete}`;
    if (drawn === this.#drawn || !this.psnr.length) return;
    this.#drawn = drawn;
    const { line, bars } = curveShape(this.psnr, this.worst, this.#total);
    this.drawing.querySelector(".psnr-line").setAttribute("d", line);
    this.drawing.querySelector(".worst-bars").setAttribute("d", bars);
    const range = describeRange(this.psnr, this.worst);
    this.legend.textContent = range;
    this.drawing.setAttribute("aria-label", `Differences of A and B by frame. ${range}`);
    const frames = this.psnr.length === 1 ? "Its only frame" : `All ${this.psnr.length} frames`;
    const found = { on_borders: this.onBorders, elsewhere: this.elsewhere };
    this.line.textContent = `${this.#complete ? frames : `${plural(this.psnr.length, "frame")} so far`}: ${tellDifference(found)}`;
    this.#showPlayhead();
  }

  get #total() {
    return Math.max(this.player.numFrames, this.known, 1);
  }

  #showPlayhead() {
    const x = this.#total > 1 ? Math.max(0, this.player.shown) / (this.#total - 1) : 0;
    this.element.style.setProperty("--at", `${100 * x}%`);
  }

  #seek({ clientX }) {
    const { left, width } = this.drawing.getBoundingClientRect();
    this.player.seek(Math.round(((clientX - left) / width) * (this.#total - 1)));
  }
}
