// Values: the colours of A and B below the pointer, as the exact frames have them.

/** Shows them in a corner of the stage. */
export class Values {
  #point = null; // of the page, where the pointer is
  #pixel; // a canvas of one pixel

  /**
   * @param {import("./stage.js").Stage} stage
   * @param {import("./player.js").Player} player
   */
  constructor(stage, player) {
    this.stage = stage;
    this.player = player;
    this.line = stage.element.querySelector(".values");
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 1;
    this.#pixel = canvas.getContext("2d", { willReadFrequently: true });
    this.#pixel.globalCompositeOperation = "copy";
    this.#pixel.imageSmoothingEnabled = false;
    const { element } = stage;
    element.addEventListener("pointermove", ({ clientX: x, clientY: y }) => this.#show({ x, y }));
    element.addEventListener("pointerdown", ({ clientX: x, clientY: y }) => this.#show({ x, y }));
    element.addEventListener("pointerleave", () => this.#show(null));
    player.listen(() => this.#show(this.#point));
  }

  #show(point) {
    this.#point = point;
    const pixel = point && this.player.still ? this.stage.pixelAt(point) : null;
    this.line.hidden = !pixel;
    if (pixel) this.line.textContent = this.#tell(pixel);
  }

  #tell({ x, y }) {
    const exact = this.player.exactPictures(this.player.shown);
    const place = `x ${x}  y ${y}`;
    const [a, b] = [exact.a, exact.b].map((picture) => this.#read(picture, x, y));
    const colours = [a && `A ${a.join(" ")}`, b && `B ${b.join(" ")}`].filter(Boolean);
    if (a && b) colours.push(`A − B ${a.map((value, i) => signed(value - b[i])).join(" ")}`);
    return [place, ...(colours.length ? colours : ["…"])].join("   ");
  }

  /** Return red, green and blue of a pixel, 0 to 255; null if the picture is not there. */
  #read(picture, x, y) {
    if (!picture?.width) return null; // or is closed
    const across = Math.floor((x * picture.width) / this.stage.picture.width);
    const down = Math.floor((y * picture.height) / this.stage.picture.height);
    this.#pixel.drawImage(picture, across, down, 1, 1, 0, 0, 1, 1);
    return [...this.#pixel.getImageData(0, 0, 1, 1).data.slice(0, 3)];
  }
}

function signed(value) {
  return value > 0 ? `+${value}` : value < 0 ? `−${-value}` : "0";
}
