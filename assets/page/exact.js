// Exact: lossless pictures of the frame that stays on the stage. What is played is JPEG, which nobody should inspect.

const DELAY = 80; // milliseconds that a frame must stay
const MAX_PICTURES = 9; // that are kept: three frames of A, B and their difference

/** Fetches the exact pictures of a frame as soon as the player stays on it, and has it drawn again. */
export class ExactPictures {
  #pictures = new Map(); // ImageBitmap by address, the one asked for last at the end
  #key = ""; // the addresses that are wanted
  #timer = 0;
  #abort = new AbortController();

  /**
   * @param {import("./player.js").Player} player
   * @param {(frame: number) => Record<string, string>} addresses returns where the pictures that are seen are found:
   *   a, b, difference
   */
  constructor(player, addresses) {
    this.player = player;
    this.addresses = addresses;
    player.exactPictures = (frame) => this.get(frame);
    player.listen(() => this.look());
  }

  /** Return the pictures of a frame that are here. */
  get(frame) {
    const found = {};
    for (const [side, address] of Object.entries(this.addresses(frame))) {
      const picture = this.#pictures.get(address);
      if (picture) found[side] = picture;
    }
    return found;
  }

  /** Look whether there is something to fetch. */
  look() {
    const { player } = this;
    const wanted = player.still ? Object.values(this.addresses(player.shown)) : [];
    const key = wanted.join(" ");
    if (key === this.#key) return;
    this.#key = key;
    clearTimeout(this.#timer);
    this.#abort.abort();
    const missing = wanted.filter((address) => !this.#pictures.has(address));
    if (missing.length && player.isLost) return;
    if (missing.length) this.#timer = setTimeout(() => this.#load(missing), DELAY);
    else if (wanted.length && !player.isExact) player.redraw();
  }

  async #load(addresses) {
    this.#abort = new AbortController();
    const { signal } = this.#abort;
    const pictures = await Promise.all(addresses.map((address) => fetchPicture(address, signal)));
    for (const [i, picture] of pictures.entries()) if (picture) this.#keep(addresses[i], picture);
    if (!signal.aborted && pictures.every(Boolean)) this.player.redraw();
  }

  #keep(address, picture) {
    this.#pictures.set(address, picture);
    for (const [oldest, old] of this.#pictures) {
      if (this.#pictures.size <= MAX_PICTURES) break;
      old.close();
      this.#pictures.delete(oldest);
    }
  }
}

/** Fetch a picture; null if there is none, or nobody wants it any more. */
async function fetchPicture(address, signal) {
  try {
    const response = await fetch(address, { signal });
    if (!response.ok) return null;
    return await createImageBitmap(await response.blob(), { colorSpaceConversion: "none" });
  } catch {
    return null;
  }
}
