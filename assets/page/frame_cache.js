// The frames that a page keeps, and which of them it drops when they take too much memory.

/**
 * Encoded frames of one clip, by number. When they exceed `maxBytes`, those farthest from the playhead are dropped, but
 * none within `ahead` frames of it.
 */
export class FrameCache {
  #frames = new Map();

  /**
   * @param {number} maxBytes of all frames together
   * @param {number} ahead frames on either side of the playhead that are never dropped
   */
  constructor(maxBytes, ahead) {
    this.maxBytes = maxBytes;
    this.ahead = ahead;
    this.numBytes = 0;
  }

  /** Whether the frames that may not be dropped already exceed the limit. */
  get isFull() {
    return this.numBytes > this.maxBytes;
  }

  has(index) {
    return this.#frames.has(index);
  }

  /** Return a frame, undefined if it was dropped or never there. */
  get(index) {
    return this.#frames.get(index);
  }

  /**
   * Keep a frame, and drop others if there are too many bytes now.
   *
   * @param {number} index
   * @param {{size: number}} frame a Blob
   * @param {number} playhead the frame that is on the canvas
   */
  keep(index, frame, playhead) {
    if (this.#frames.has(index)) return;
    this.#frames.set(index, frame);
    this.numBytes += frame.size;
    while (this.isFull && this.#drop(this.#farthest(playhead), playhead));
  }

  clear() {
    this.#frames.clear();
    this.numBytes = 0;
  }

  /** The frame farthest from the playhead; of two as far, the earlier. */
  #farthest(playhead) {
    let farthest = playhead;
    for (const index of this.#frames.keys()) {
      const further = Math.abs(index - playhead) - Math.abs(farthest - playhead);
      if (further > 0 || (further === 0 && index < farthest)) farthest = index;
    }
    return farthest;
  }

  #drop(index, playhead) {
    if (Math.abs(index - playhead) <= this.ahead) return false;
    this.numBytes -= this.#frames.get(index).size;
    return this.#frames.delete(index);
  }
}
