// Player: decides which frame is drawn, and when, while the clip is being made and afterwards.

import { MODES } from "./modes.js";

const EARLY = 2; // milliseconds before its time at which a frame may be drawn

/**
 * Plays one clip at a time on a stage.
 *
 *     const player = new Player(stage, settings);
 *     player.open({ numFrames: 17, fps: 16, decoded: feed, source: null });
 */
export class Player {
  #scheduled = false;
  #due = 0; // when the next frame is to be drawn, on requestAnimationFrame's clock

  /**
   * @param {import("./stage.js").Stage} stage
   * @param {import("./storage.js").SafeStorage} settings keeps mode and loop
   */
  constructor(stage, settings) {
    this.stage = stage;
    this.settings = settings;
    this.onChange = () => {}; // called when anything that a control shows may have changed
    this.loop = settings.get("wanvae-loop") === "yes";
    this.mode = "decoded";
    this.split = 0.5; // share of a wipe that shows the source
    this.decoded = null; // Feed
    this.source = null; // Feed; null for a clip that has none
    this.clear();
    stage.onResize = () => this.redraw();
  }

  /** Forget the clip. Its last frame stays on the canvas, dimmed. */
  clear() {
    this.decoded?.close();
    this.source?.close();
    this.decoded = this.source = null;
    this.numFrames = 0; // that there will be
    this.interval = 62; // milliseconds per frame
    this.shown = -1; // number of the frame on the canvas
    this.wanted = null; // number of a frame to draw before anything else
    this.preview = null; // number of the source's frame to show while nothing is decoded
    this.drawn = new Set(); // numbers of the decoded frames that were on the canvas
    this.playing = true;
    this.#due = 0;
    this.stage.markStale();
    this.onChange();
  }

  /**
   * Play a clip from its first frame on.
   *
   * @param {object} clip
   * @param {number} clip.numFrames that there will be
   * @param {number} clip.fps frames per second
   * @param {import("./feed.js").Feed} clip.decoded
   * @param {import("./feed.js").Feed | null} clip.source
   */
  open({ numFrames, fps, decoded, source }) {
    this.clear();
    this.numFrames = numFrames;
    this.interval = 1000 / fps;
    this.decoded = decoded;
    this.source = source;
    for (const feed of [decoded, source]) feed?.start(() => this.wake());
    const chosen = this.settings.get("wanvae-mode");
    this.#setMode(!source ? "decoded" : MODES.includes(chosen) ? chosen : "side");
  }

  /** Number of decoded frames so far. */
  get count() {
    return this.decoded?.count ?? 0;
  }

  /** Whether the last frame is on the canvas and no other will come. */
  get over() {
    return (
      this.decoded !== null && (this.decoded.complete || this.decoded.gone) && this.shown >= this.count - 1
    );
  }

  /** Take how many frames the server has decoded, and whether no more will come: see `Feed.expect`. */
  expect(numDecoded, ended) {
    this.decoded?.expect(numDecoded, ended);
    this.source?.expect(0, ended);
  }

  /** Look, once before the next repaint, whether there is something to draw. */
  wake() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame((now) => {
      this.#scheduled = false;
      if (this.decoded) this.#tick(now);
    });
  }

  /** Draw the frame on the canvas again. */
  redraw() {
    if (this.shown >= 0) this.wanted ??= this.shown;
    this.wake();
  }

  /** Show a frame of the source until something is decoded. */
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

  /** Pause, or play on; from the beginning if the clip is over. */
  toggle() {
    if (!this.count) return;
    this.playing = !this.playing || this.over;
    if (this.playing && this.over) this.wanted = 0;
    this.#due = 0;
    this.wake();
  }

  toggleLoop() {
    this.loop = !this.loop;
    this.settings.set("wanvae-loop", this.loop ? "yes" : "no");
    this.onChange();
    this.wake();
  }

  /** Choose one of MODES, for this clip and those to come. */
  chooseMode(mode) {
    this.settings.set("wanvae-mode", mode);
    this.#setMode(mode);
  }

  /** Move the edge of a wipe; 0 to 1. */
  setSplit(split) {
    if (this.mode !== "wipe" || this.shown < 0) return;
    this.split = split;
    this.redraw();
  }

  #setMode(mode) {
    this.mode = mode;
    this.onChange();
    this.redraw();
  }

  #tick(now) {
    if (this.count === 0) {
      this.#drawPreview();
    } else if (this.wanted !== null) {
      if (this.#draw(this.wanted)) {
        this.wanted = null;
        this.wake();
      }
    } else if (this.playing && this.shown + 1 < this.count) {
      // A frame that is late is drawn at once; only one that is early waits.
      if (now < this.#due - EARLY) this.wake();
      else if (this.#draw(this.shown + 1)) {
        this.#due = now - this.#due > this.interval ? now + this.interval : this.#due + this.interval;
        this.wake();
      }
    } else if (this.playing && this.over) {
      if (this.loop && this.count > 1) this.wanted = 0;
      else this.playing = false;
      this.wake();
    }
    this.onChange();
  }

  /** Draw a frame and return true, or return false if it is not ready; its feed wakes the player when it is. */
  #draw(frame) {
    const needsSource = this.source && !this.source.gone && this.mode !== "decoded";
    this.decoded.prepare(frame);
    if (needsSource) this.source.prepare(frame);
    const decoded = this.decoded.bitmaps.get(frame);
    const source = needsSource ? this.source.bitmaps.get(frame) : undefined;
    if (!decoded || (needsSource && !source && frame < this.source.count)) return false;
    const options = { split: this.split, hasSource: this.source !== null };
    this.stage.draw(source ? this.mode : "decoded", { decoded, source }, options);
    this.shown = frame;
    this.drawn.add(frame);
    return true;
  }

  #drawPreview() {
    if (this.preview === null || !this.source) return;
    this.source.prepare(this.preview);
    const source = this.source.bitmaps.get(this.preview);
    if (source) this.stage.draw("source", { source });
  }
}
