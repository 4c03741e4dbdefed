// Pane: one canvas on the stage, as large as its frame, which is moved and scaled as a whole.

/** Draws bitmaps pixel by pixel: the canvas holds the frame's own values, and the browser scales it on the screen. */
export class Pane {
  /** @param {HTMLElement} element holds a canvas, `.lines` and `.tag` */
  constructor(element) {
    this.element = element;
    this.canvas = element.querySelector("canvas");
    this.context = this.canvas.getContext("2d");
    this.lines = element.querySelector(".lines");
    this.tag = element.querySelector(".tag");
    this.hasPicture = false;
  }

  /** Draw a frame. */
  draw(bitmap) {
    this.#resize(bitmap);
    this.context.globalCompositeOperation = "copy";
    this.context.drawImage(bitmap, 0, 0);
  }

  /**
   * Draw the differences of two frames as they are known here: their channels, each multiplied by `gain`.
   *
   * @param {ImageBitmap} a
   * @param {ImageBitmap} b is scaled to the size of `a`
   * @param {number} gain a power of two
   */
  drawDifference(a, b, gain) {
    this.#resize(a);
    const { canvas, context } = this;
    context.globalCompositeOperation = "copy";
    context.drawImage(a, 0, 0);
    context.globalCompositeOperation = "difference";
    context.drawImage(b, 0, 0, a.width, a.height);
    context.globalCompositeOperation = "lighter"; // adds
    for (let times = 1; times < gain; times *= 2) context.drawImage(canvas, 0, 0);
  }

  /**
   * Put the pane into its box, or hide it.
   *
   * @param {import("./modes.js").Box | null} box
   * @param {{scale: number, left: number, top: number, squares: boolean}} place of a picture of this width
   * @param {number} width pixels of the page's picture that `place` is for; another's is scaled to the same size
   */
  arrange(box, place, width) {
    const { element, canvas } = this;
    element.hidden = !box || !this.hasPicture;
    if (!box) return;
    for (const side of ["left", "top", "width", "height"]) element.style[side] = `${box[side]}px`;
    const scale = (place.scale * width) / canvas.width;
    canvas.style.transform = `translate(${place.left}px, ${place.top}px) scale(${scale})`;
    canvas.classList.toggle("squares", place.squares);
  }

  /**
   * Draw lines over the picture.
   *
   * @param {{columns: boolean, positions: number[]} | null} borders in pixels of the picture; null: none
   */
  showLines(borders, place, picture) {
    const lines = (borders?.positions ?? []).map((position) => {
      const line = document.createElement("i");
      const start = borders.columns ? place.left : place.top;
      const at = Math.round(start + position * place.scale);
      const length = (borders.columns ? picture.height : picture.width) * place.scale;
      line.className = borders.columns ? "column" : "row";
      line.style.transform = borders.columns
        ? `translate(${at}px, ${place.top}px)`
        : `translate(${place.left}px, ${at}px)`;
      line.style[borders.columns ? "height" : "width"] = `${length}px`;
      return line;
    });
    this.lines.replaceChildren(...lines);
  }

  #resize({ width, height }) {
    const { canvas } = this;
    this.hasPicture = true;
    // Setting a size, even the same, clears the canvas.
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  }
}
