// The server's routes, as addresses and questions. wanvae_app/page/routes.py documents the answers.

const ANSWER_TIMEOUT = 8000; // milliseconds for a whole answer, which is short

/**
 * The app's server. Every method that asks rejects if the server does not answer: with a TimeoutError if it takes the
 * question and says nothing, as one that hangs.
 */
export class Server {
  /** @param {string} base the page's own address, which may lie below a sub-path */
  constructor(base) {
    this.base = base;
  }

  /** Return the absolute address of a path. */
  address(path) {
    return new URL(path, this.base).href;
  }

  /** Return the address of a run's frames from `start` on; view is "decoded" or "source". */
  framesAddress(job, view, start) {
    return this.address(`live/${job}?view=${view}&start=${start}`);
  }

  /** Return the address of a clip's exact frame; a clip is a run, or a run's source. */
  exactAddress(job, isSource, frame, withAlpha = false) {
    const query = [...(isSource ? ["source=1"] : []), ...(withAlpha ? ["alpha=1"] : [])].join("&");
    return this.address(`live/${job}/frame/${frame}.png${query ? `?${query}` : ""}`);
  }

  /** Ask how clips differ, by a path below compare/. Returns the Response, whatever its status. */
  askComparison(path) {
    return this.#ask(`compare/${path}`, { cache: "no-store" });
  }

  /** Ask for the visitor's runs, newest first; none where the server keeps no list. */
  async askRuns() {
    const response = await this.#ask("runs", { cache: "no-store" });
    return response.ok ? (await response.json()).runs : [];
  }

  /** Ask for a run's state, with its activities from number `since` on. Returns the Response, whatever its status. */
  askState(job, since) {
    return this.#ask(`live/${job}/state?activity=${since}`, { cache: "no-store" });
  }

  /** Ask how the app is: { state, boot, last_words }. Rejects unless the status is 200 to 299. */
  async askHealth() {
    const response = await this.#ask("health", { cache: "no-store" });
    if (!response.ok) throw new Error(response.statusText);
    return response.json();
  }

  /** End a run on all ranks. */
  stop(job) {
    return this.#ask(`live/${job}/stop`, { method: "POST" });
  }

  #ask(path, options) {
    return fetch(this.address(path), { ...options, signal: AbortSignal.timeout(ANSWER_TIMEOUT) });
  }
}
