// Feed: one clip's frames, fetched while the server makes them, and the bitmaps near the playhead.

import { FrameCache } from "./frame_cache.js";
import { RecordParser } from "./records.js";

const AHEAD = 24; // frames from the playhead on that are held as bitmaps
const BEHIND = 4; // frames before the playhead whose bitmaps are not yet closed
const MAX_BYTES = 300e6; // of JPEGs
const MAX_DECODING = 4; // frames at once
const MIN_DELAY = 200; // milliseconds until a stream that was cut off is asked for again
const MAX_DELAY = 2000;
const STALLED = 10_000; // milliseconds in which a stream must bring something of what the server has

/**
 * The frames of one clip.
 *
 *     const feed = new Feed((start) => server.framesAddress(job, "decoded", start));
 *     feed.start(redraw);
 *     feed.prepare(0); // `redraw` is called when there is news
 *     feed.bitmaps.get(0);
 */
export class Feed {
  #cache = new FrameCache(MAX_BYTES, AHEAD);
  #decoding = new Set(); // numbers of frames that are becoming bitmaps
  #onChange = () => {};
  #playhead = 0;
  #next = 0; // number of the frame that the stream will bring
  #closed = false;
  #reading = false;
  #paused = false; // whether nothing is to be fetched
  #abort = new AbortController();
  #behindSince = null; // when the server was first known to have more, if nothing has come since; on performance.now's clock
  #isFull = false; // whether the stream waits for room
  #resume = () => {}; // lets a stream that waits for room go on

  /** @param {(start: number) => string} addressFrom returns the address of the records from a frame on */
  constructor(addressFrom) {
    this.addressFrom = addressFrom;
    this.bitmaps = new Map(); // ImageBitmap by frame number
    this.count = 0; // frames that are known to exist
    this.complete = false; // whether the clip has ended and all of it has arrived
    this.gone = false; // whether the server has deleted the clip
    this.available = 0; // frames that the server is known to have
  }

  /** Begin to fetch, or go on. `onChange` is called whenever a frame has arrived or a bitmap is ready. */
  start(onChange) {
    this.#onChange = onChange;
    this.#paused = false;
    if (!this.complete && !this.gone) this.#read();
  }

  /** Fetch nothing more until `start` is called again. */
  pause() {
    this.#paused = true;
    this.#abort.abort();
    this.#resume();
  }

  /** Whether a frame is here or will come soon. */
  hasSoon(frame) {
    return !this.gone && frame < Math.max(this.count, this.available);
  }

  /** Move the playhead to a frame, make bitmaps from there on, and close those far from it. */
  prepare(index) {
    this.#playhead = index;
    this.#resume();
    for (const [frame, bitmap] of this.bitmaps) {
      if (frame >= index - BEHIND && frame <= index + AHEAD) continue;
      bitmap.close();
      this.bitmaps.delete(frame);
    }
    for (let frame = index; frame < Math.min(index + AHEAD, this.count); frame++) {
      if (!this.#cache.has(frame)) {
        if (frame < this.#next || this.complete || frame > this.#next + AHEAD) this.#fetchFrom(frame);
        break;
      }
      if (this.#decoding.size >= MAX_DECODING) break;
      if (!this.bitmaps.has(frame) && !this.#decoding.has(frame)) this.#decode(frame);
    }
  }

  /**
   * Take how many frames the server has, and whether no more will come.
   *
   * A stream may be silent for any time while nothing is decoded. One that brings nothing though the server has more is
   * dead, as after a change of networks, and is asked for again.
   */
  expect(numFrames, ended) {
    this.available = Math.max(this.available, numFrames);
    const isBehind = this.#reading && !this.#isFull && (this.#next < numFrames || ended);
    const now = performance.now();
    this.#behindSince = isBehind ? (this.#behindSince ?? now) : null;
    if (!isBehind || now - this.#behindSince < STALLED) return;
    this.#behindSince = null;
    this.#abort.abort();
  }

  /** Stop fetching and free everything. */
  close() {
    this.#closed = true;
    this.#abort.abort();
    this.#resume();
    for (const bitmap of this.bitmaps.values()) bitmap.close();
    this.bitmaps.clear();
    this.#cache.clear();
  }

  async #read() {
    if (this.#reading || this.#paused) return;
    this.#reading = true;
    let delay = MIN_DELAY;
    while (!this.#closed && !this.#paused) {
      const before = this.#next;
      this.#abort = new AbortController();
      const { signal } = this.#abort;
      try {
        await this.#stream(signal);
        break;
      } catch {
        if (signal.aborted) continue; // by `close`, `pause` or `#fetchFrom`
        // The stream was cut off: go on where it stopped, and wait longer each time that it brings nothing.
        delay = this.#next > before ? MIN_DELAY : Math.min(delay * 2, MAX_DELAY);
        await new Promise((resolve) => setTimeout(resolve, delay));
      }
    }
    this.#reading = false;
    this.#onChange();
  }

  /** Read to the clip's end. Rejects if the stream ends before. */
  async #stream(signal) {
    const response = await fetch(this.addressFrom(this.#next), { signal });
    if (response.status === 404 || response.status === 410) {
      this.gone = true;
      return;
    }
    if (!response.ok) throw new Error(response.statusText);

    const reader = response.body.getReader();
    const parser = new RecordParser();
    for (;;) {
      const { done, value } = await reader.read();
      this.#behindSince = null;
      if (done) break;
      for (const record of parser.push(value)) {
        signal.throwIfAborted(); // `#next` is another stream's now
        this.#keep(record);
        await this.#room(signal);
      }
    }
    if (parser.numPending) throw new Error("the stream ended within a frame");
    this.complete = true;
  }

  #keep({ index, jpeg }) {
    this.#cache.keep(index, new Blob([jpeg], { type: "image/jpeg" }), this.#playhead);
    this.#next = index + 1;
    this.count = Math.max(this.count, this.#next);
    this.#onChange();
  }

  /** Wait until the cache takes more. Nothing is read meanwhile, which slows the server down for this page alone. */
  async #room(signal) {
    while (this.#cache.isFull && this.#next > this.#playhead + AHEAD && !signal.aborted) {
      this.#isFull = true;
      await new Promise((resolve) => {
        this.#resume = resolve;
      });
    }
    this.#isFull = false;
  }

  async #decode(frame) {
    this.#decoding.add(frame);
    try {
      const bitmap = await createImageBitmap(this.#cache.get(frame));
      if (this.#closed) bitmap.close();
      else this.bitmaps.set(frame, bitmap);
    } finally {
      this.#decoding.delete(frame);
      this.#onChange();
    }
  }

  /** Ask for the frames from here on instead of those that the stream would bring. */
  #fetchFrom(frame) {
    this.#next = frame;
    this.complete = false;
    this.#abort.abort();
    this.#resume();
    this.#read();
  }
}
