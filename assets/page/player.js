// Player: decides which frame is drawn, and when, while the clip is being made and afterwards.

import { MODES } from "./modes.js";

const EARLY = 2; // milliseconds before its time at which a frame may be drawn
const MIN_INTERVAL = 1000 / 61; // milliseconds between two repaints; a faster clip leaves frames out
export const SPEEDS = ["0.25", "0.5", "1", "2", "4", "decoding"];

/**
 * Plays clip A on a stage, and clip B with it.
 *
 *     const player = new Player(stage, settings);
 *     player.open({ a: feed, b: null, numFrames: 17, fps: 16, rate: null });
 */
export class Player {
  #scheduled = false;
  #due = 0; // when the next frame is to be drawn, on requestAnimationFrame's clock
  #listeners = [];
  #range = { first: 0, last: null }; // in and out points

  /**
   * @param {import("./stage.js").Stage} stage
   * @param {import("./storage.js").SafeStorage} settings keeps mode, loop and speed
   */
  constructor(stage, settings) {
    this.stage = stage;
    this.settings = settings;
    /** Returns the exact pictures of a frame that are there, { a, b, difference }; see exact.js. */
    this.exactPictures = () => ({});
    this.loop = settings.get("wanvae-loop") === "yes";
    this.speed = SPEEDS.includes(settings.get("wanvae-speed")) ? settings.get("wanvae-speed") : "1";
    this.a = this.b = null; // Feed
    this.clear();
  }

  /** Call back when anything that a control shows may have changed. */
  listen(callback) {
    this.#listeners.push(callback);
  }

  /** Forget the clips. The last frame stays on the canvas, dimmed. */
  clear() {
    this.a = this.b = null;
    this.numFrames = 0; // of A, when it is complete
    this.fps = 16; // frames per second
    this.rate = null; // frames per second at which A was decoded
    this.shown = -1; // number of the frame on the canvas
    this.isExact = false; // whether exact pictures are on the canvas
    this.isLost = false; // whether the server no longer has A or B: no exact picture will come
    this.wanted = null; // number of a frame to draw before anything else
    this.preview = null; // number of B's frame to show while A has none
    this.drawn = new Set(); // numbers of A's frames that were on the canvas
    this.playing = true;
    this.peeking = false; // whether B is seen in A's place
    this.#range = { first: 0, last: null };
    this.#due = 0;
    this.stage.markStale();
    this.#tell();
  }

  /** Play A from its first frame on. `b` is null if there is nothing beside it; the rest is as `choose` says. */
  open(clips) {
    this.clear();
    this.choose(clips);
  }

  /**
   * Put other clips on the stage, at the same frame.
   *
   * @param {object} clips
   * @param {import("./feed.js").Feed} clips.a
   * @param {import("./feed.js").Feed | null} clips.b
   * @param {number} clips.numFrames of A, that there will be
   * @param {number} clips.fps frames per second
   * @param {number | null} clips.rate frames per second at which A was decoded
   * @param {boolean} [clips.isLost] whether the server no longer has A or B
   */
  choose({ a, b, numFrames, fps, rate, isLost = false }) {
    Object.assign(this, { a, b, numFrames, fps, rate, isLost });
    a.start(() => this.wake());
    this.#startB();
    this.redraw();
    this.#tell();
  }

  /** The mode that is seen: that which was chosen, or "single" if there is nothing to compare with. */
  get mode() {
    if (!this.b) return "single";
    const chosen = this.settings.get("wanvae-mode");
    return MODES.includes(chosen) ? chosen : this.b.isSource ? "side" : "single";
  }

  /** Milliseconds per frame. */
  get interval() {
    if (this.speed === "decoding") return 1000 / (this.rate || this.fps);
    return 1000 / (this.fps * Number(this.speed));
  }

  /** Number of A's frames so far. */
  get count() {
    return this.a?.count ?? 0;
  }

  /** First frame to play. */
  get first() {
    return Math.min(this.#range.first, Math.max(0, this.count - 1));
  }

  /** Last frame to play, or null: to the end. */
  get last() {
    return this.#range.last;
  }

  /** Whether the last frame is on the canvas and no other will come. */
  get over() {
    if (this.a === null) return false;
    if (this.last !== null && this.shown >= this.last) return true;
    return (this.a.complete || this.a.gone) && this.shown >= this.count - 1;
  }

  /** Whether one frame stays on the canvas. */
  get still() {
    return this.a !== null && this.shown >= 0 && !this.playing && this.wanted === null;
  }

  /** Look, once before the next repaint, whether there is something to draw. */
  wake() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame((now) => {
      this.#scheduled = false;
      if (this.a) this.#tick(now);
    });
  }

  /** Draw the frame on the canvas again. */
  redraw() {
    if (this.shown >= 0) this.wanted ??= Math.min(this.shown, Math.max(0, this.numFrames - 1));
    this.wake();
  }

  /** Show a frame of B until A has one, if the mode shows B at all. */
  showPreview(frame) {
    this.preview = frame;
    this.wake();
  }

  /** Pause on a frame, or on the nearest that exists. */
  seek(frame) {
    if (!this.count) return;
    this.playing = false;
    this.wanted = Math.min(Math.max(0, frame), this.count - 1);
    this.wake();
  }

  /** Pause on the frame so many behind the one that is shown, or that is about to be: keys may come faster than frames. */
  step(count) {
    this.seek((this.wanted ?? this.shown) + count);
  }

  /** Pause, or play on; from the first frame if the clip is over. */
  toggle() {
    if (!this.count) return;
    this.playing = !this.playing || this.over;
    const isOutside = this.shown < this.first || (this.last !== null && this.shown > this.last);
    if (this.playing && (this.over || isOutside)) this.wanted = this.first;
    this.#due = 0;
    this.wake();
  }

  toggleLoop() {
    this.loop = !this.loop;
    this.settings.set("wanvae-loop", this.loop ? "yes" : "no");
    this.#tell();
    this.wake();
  }

  /** Choose one of SPEEDS: times the clip's own, or the rate at which it was decoded. */
  chooseSpeed(speed) {
    this.speed = speed;
    this.settings.set("wanvae-speed", speed);
    this.#due = 0;
    this.#tell();
  }

  /** Play from the present frame on, or, if it is the first one already, from the beginning. */
  markIn() {
    const { shown } = this;
    this.#mark({
      first: shown === this.#range.first ? 0 : shown,
      last: this.last > shown ? this.last : null,
    });
  }

  /** Play to the present frame, or, if it is the last one already, to the end. */
  markOut() {
    const { shown } = this;
    const first = this.#range.first < shown ? this.#range.first : 0;
    this.#mark({ first, last: shown === this.last ? null : shown });
  }

  #mark(range) {
    if (this.shown < 0) return;
    this.#range = range;
    this.#tell();
  }

  /** Choose one of MODES, for these clips and those to come. */
  chooseMode(mode) {
    if (!MODES.includes(mode)) return;
    this.settings.set("wanvae-mode", mode);
    this.#startB();
    this.#tell();
    this.redraw();
  }

  /** Show B in A's place, or no longer. */
  peek(isPeeking) {
    if (!this.b || this.peeking === isPeeking) return;
    this.peeking = isPeeking;
    this.#startB();
    this.#tell();
    this.redraw();
  }

  get #needsB() {
    return this.b !== null && !this.b.gone && (this.mode !== "single" || this.peeking);
  }

  /** Fetch B's frames only where they are seen. */
  #startB() {
    if (this.#needsB) this.b.start(() => this.wake());
    else this.b?.pause();
  }

  #tell() {
    for (const callback of this.#listeners) callback();
  }

  #tick(now) {
    const { interval, last } = this;
    const step = Math.max(1, Math.ceil(MIN_INTERVAL / interval - 0.01));
    const stop = last === null ? this.count - 1 : Math.min(last, this.count - 1);
    if (this.count === 0) {
      this.#drawPreview();
    } else if (this.wanted !== null) {
      if (this.#draw(this.wanted)) {
        this.wanted = null;
        this.wake();
      }
    } else if (this.playing && this.shown < stop) {
      // A frame that is late is drawn at once; only one that is early waits.
      const wait = step * interval;
      if (now < this.#due - EARLY) this.wake();
      else if (this.#draw(Math.min(this.shown + step, stop))) {
        this.#due = now - this.#due > wait ? now + wait : this.#due + wait;
        this.wake();
      }
    } else if (this.playing && this.over) {
      if (this.loop && stop > this.first) this.wanted = this.first;
      else this.playing = false;
      this.wake();
    }
    this.#tell();
  }

  /** Draw a frame and return true, or return false if it is not ready; its feed wakes the player when it is. */
  #draw(frame) {
    const exact = this.playing ? {} : this.exactPictures(frame);
    const needsB = this.#needsB;
    this.a.prepare(frame);
    if (needsB) this.b.prepare(frame);
    const a = exact.a ?? this.a.bitmaps.get(frame);
    const b = needsB ? (exact.b ?? this.b.bitmaps.get(frame)) : undefined;
    if (!a || (needsB && !b && this.b.hasSoon(frame))) return false;
    const { difference } = exact;
    const mode = !b ? "single" : this.peeking ? "flicker" : this.mode;
    this.stage.draw(mode, { a, b, difference }, this.peeking);
    this.shown = frame;
    this.isExact = mode === "difference" ? Boolean(difference) : Boolean(exact.a) && (!b || Boolean(exact.b));
    this.drawn.add(frame);
    return true;
  }

  #drawPreview() {
    if (this.preview === null || !this.#needsB) return;
    this.b.prepare(this.preview);
    const b = this.b.bitmaps.get(this.preview);
    if (b) this.stage.draw("single", { a: b }, false, "b");
  }
}
