// Web storage that never throws.

/**
 * Texts by key, in one of the browser's storages where the browser allows it, else for as long as the page lives.
 *
 * A browser may deny storage to a page, for example inside another site's IFrame: naming `localStorage` then throws.
 */
export class SafeStorage {
  #open;
  #denied = new Map(); // what the browser did not take, by key

  /** @param {() => Storage} open returns the browser's storage; may throw */
  constructor(open) {
    this.#open = open;
  }

  /** Return the text of a key, null if it has none. */
  get(key) {
    if (this.#denied.has(key)) return this.#denied.get(key);
    try {
      return this.#open().getItem(key);
    } catch {
      return null;
    }
  }

  /** Store a text, or anything else as text. */
  set(key, value) {
    try {
      this.#open().setItem(key, value);
      this.#denied.delete(key);
    } catch {
      this.#denied.set(key, String(value));
    }
  }

  /** Forget a key. */
  remove(key) {
    this.#denied.delete(key);
    try {
      this.#open().removeItem(key);
    } catch {
      return; // it was never there
    }
  }
}
