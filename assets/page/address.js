// Address: what is compared, behind the # of the page's address, so that it can be kept, sent and opened again.

import { NO_RUN } from "./run_address.js";

const DELAY = 300; // milliseconds until a change is written
const NAME = /^[\w-]{1,64}(\.source)?$/;

/**
 * Read what an address says of the comparison. What it does not say is undefined.
 *
 * What cannot be a clip's name becomes NO_RUN, so that the page says that it is not there.
 *
 * @param {string} hash such as "#a=ID&b=ID.source&mode=wipe&frame=12"; b= without a name: nothing
 * @returns {{a?: string, b?: string | null, mode?: string, frame?: number}}
 */
export function parseAddress(hash) {
  const values = new URLSearchParams(hash.replace(/^#/, ""));
  const found = {};
  const clip = (name) => (NAME.test(name) ? name : NO_RUN);
  const [a, b, mode, frame] = ["a", "b", "mode", "frame"].map((name) => values.get(name));
  if (a) found.a = clip(a);
  if (b === "") found.b = null;
  else if (b) found.b = clip(b);
  if (mode) found.mode = mode;
  if (/^\d{1,6}$/.test(frame ?? "")) found.frame = Number(frame);
  return found;
}

/** Return the hash with other values for the comparison, or none for undefined; what else it holds stays. */
export function formatAddress(hash, { a, b, mode, frame }) {
  const values = new URLSearchParams(hash.replace(/^#/, ""));
  for (const [name, value] of Object.entries({ a, b, mode, frame })) {
    if (value === undefined) values.delete(name);
    else values.set(name, value ?? "");
  }
  return values.size ? `#${values}` : "";
}

/** Writes the address of the page whenever something else is compared. */
export class AddressWriter {
  #timer = 0;

  /**
   * @param {import("./comparison.js").Comparison} comparison
   * @param {import("./player.js").Player} player
   */
  constructor(comparison, player) {
    this.comparison = comparison;
    this.player = player;
    comparison.listen(() => this.#change());
    player.listen(() => this.#change());
  }

  /** Write soon: a browser allows a page few changes of its address. */
  #change() {
    if (this.#timer || this.#next() === location.hash) return;
    this.#timer = setTimeout(() => {
      this.#timer = 0;
      history.replaceState(history.state, "", this.#next() || location.pathname + location.search);
    }, DELAY);
  }

  #next() {
    const { comparison, player } = this;
    const { a, b } = comparison;
    if (!comparison.isOpen) return comparison.hasWish ? location.hash : formatAddress(location.hash, {});
    const frame = player.still ? player.shown : undefined;
    return formatAddress(location.hash, { a, b, mode: player.mode, frame });
  }
}
