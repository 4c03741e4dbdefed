// Stage: the canvas, and the labels on it.

import { DIFFERENCE_DOUBLINGS, labels, layout } from "./modes.js";

/** Draws single frames, or a decoded frame together with its source. */
export class Stage {
  /** @param {Element} root holds `.stage`, which holds a canvas */
  constructor(root) {
    this.element = root.querySelector(".stage");
    this.canvas = this.element.querySelector("canvas");
    this.context = this.canvas.getContext("2d");
    this.empty = this.element.querySelector(".empty");
    this.labels = [...this.element.querySelectorAll(".tag")];
    this.onResize = () => {};
    new ResizeObserver(() => this.onResize()).observe(this.element);
  }

  /** Dim what is on the canvas: it belongs to another run. */
  markStale() {
    this.element.classList.add("stale");
  }

  /**
   * Draw.
   *
   * @param {string} mode one of MODES, or "source" for the source alone
   * @param {{decoded?: ImageBitmap, source?: ImageBitmap}} pictures those that the mode needs
   * @param {{split?: number, hasSource?: boolean}} options split: the share of a wipe that shows the source;
   *   hasSource: whether the clip has one, shown or not
   */
  draw(mode, pictures, { split = 0.5, hasSource = false } = {}) {
    const picture = mode === "source" ? pictures.source : pictures.decoded;
    const space = { width: this.element.clientWidth, height: this.element.clientHeight };
    const place = layout(mode, picture, space);
    this.#resize(place);
    const { context } = this;
    context.globalCompositeOperation = "copy";
    if (mode === "side") this.#drawSide(pictures, place);
    else if (mode === "wipe") this.#drawWipe(pictures, split);
    else if (mode === "difference") this.#drawDifference(pictures);
    else context.drawImage(picture, 0, 0);
    this.#label(mode, hasSource);
  }

  #resize({ width, height, stacked }) {
    const { canvas } = this;
    // Setting a size, even the same, clears the canvas.
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    this.element.style.setProperty("--aspect", width / height);
    this.element.classList.toggle("stacked", stacked);
  }

  #drawSide({ decoded, source }, { left, top }) {
    this.context.drawImage(source, 0, 0, decoded.width, decoded.height);
    this.context.globalCompositeOperation = "source-over";
    this.context.drawImage(decoded, left, top);
  }

  #drawWipe({ decoded, source }, split) {
    const { context } = this;
    const { width, height } = decoded;
    const edge = Math.round(width * split);
    const cut = (edge * source.width) / width;
    context.drawImage(decoded, 0, 0);
    context.globalCompositeOperation = "source-over";
    if (edge) context.drawImage(source, 0, 0, cut, source.height, 0, 0, edge, height);
    context.fillStyle = "#fff";
    context.fillRect(edge - 0.5, 0, 1, height);
  }

  #drawDifference({ decoded, source }) {
    const { canvas, context } = this;
    context.drawImage(decoded, 0, 0);
    context.globalCompositeOperation = "difference";
    context.drawImage(source, 0, 0, decoded.width, decoded.height);
    context.globalCompositeOperation = "lighter"; // adds
    for (let i = 0; i < DIFFERENCE_DOUBLINGS; i++) context.drawImage(canvas, 0, 0);
  }

  #label(mode, hasSource) {
    for (const [i, text] of labels(mode, hasSource).entries()) {
      this.labels[i].textContent = text;
      this.labels[i].hidden = !text;
    }
    this.element.classList.remove("stale");
    this.canvas.hidden = false;
    this.empty.hidden = true;
  }
}
