// Comparison: which two clips are on the stage as A and B. A clip is named by its run's id, a source with SOURCE behind.

import { Feed } from "./feed.js";

export const SOURCE = ".source";
const ALL_ACTIVITIES = 1e9; // known: a state without them is asked for

/** Return the run's id and whether its source is meant. */
export function parseClip(name) {
  const isSource = name.endsWith(SOURCE);
  return { id: isSource ? name.slice(0, -SOURCE.length) : name, isSource };
}

/** Whether a run has ended without a frame. */
export function isEmpty({ state, frames }) {
  return ["finished", "stopped", "failed"].includes(state) && frames === 0;
}

/** Chooses A and B, and gives them to the player. */
export class Comparison {
  #feeds = new Map(); // Feed by the clip's name: of those on the stage alone
  #runs = new Map(); // state by run id, as last heard
  #listeners = [];
  #lost = new Set(); // ids of runs that the server no longer has
  #before = null; // A of the run before, which the next run is compared with
  #wished = null; // { a, b, frame } of the page's address, until their runs are known
  #frame = null; // number of a frame of the page's address, until it is there

  /**
   * @param {import("./server.js").Server} server
   * @param {import("./player.js").Player} player
   */
  constructor(server, player) {
    this.server = server;
    this.player = player;
    this.a = this.b = null; // names
    this.followed = null; // state of the run that the page follows
    this.problem = ""; // why a clip could not be chosen, in a sentence
    player.listen(() => this.#seekWished());
  }

  /** Call back when A, B, or what is known of them has changed. */
  listen(callback) {
    this.#listeners.push(callback);
  }

  /** Whether there is something on the stage. */
  get isOpen() {
    return this.a !== null;
  }

  /** Whether A and B are one clip. */
  get isSame() {
    return this.a !== null && this.a === this.b;
  }

  /** Return the state of a clip's run, as last heard; undefined if it is not known. */
  runOf(name) {
    return name === null ? undefined : this.#runs.get(parseClip(name).id);
  }

  /** Whether the page's address names clips that are not shown yet. */
  get hasWish() {
    return this.#wished?.a !== undefined;
  }

  /** Take A, B and the frame from the page's address: they are shown once their runs are known. */
  wish(choice) {
    this.#wished = choice;
  }

  /** Take everything from the stage: another run begins. */
  clear() {
    if (this.runOf(this.a)?.frames > 0 && !parseClip(this.a).isSource) this.#before = this.a;
    this.a = this.b = null;
    this.#frame = null;
    this.problem = "";
    this.#closeFeeds();
    this.player.clear();
    this.#tell();
  }

  /** Put a run that has frames, or will have some, on the stage as A; B is its source, or the run before it. */
  begin(run) {
    this.#take(run);
    if (isEmpty(run)) return this.#dismiss(run);
    const before = this.runOf(this.#before);
    const isLike = before?.width === run.width && before?.height === run.height && before?.frames > 0;
    this.a = run.job;
    this.b = run.source ? run.job + SOURCE : isLike && before.job !== run.job ? before.job : null;
    this.#show("open");
    this.#grantWish(run);
  }

  /** Take the state of the run that is followed. */
  hear(run) {
    this.#take(run);
    if (isEmpty(run) && this.a === run.job) return this.#dismiss(run);
    if (this.a !== null && parseClip(this.a).id === run.job) this.player.rate = run.rate;
    if (this.isOpen) this.#tell();
  }

  /** Take that the server no longer has a run. What has arrived of it can still be watched. */
  lose(id) {
    this.#lost.add(id);
    this.player.isLost = this.#isLost;
    this.#tell();
  }

  get #isLost() {
    return [this.a, this.b].some((name) => name !== null && this.#lost.has(parseClip(name).id));
  }

  /** Show the source alone of a run that is empty; if there is none, nothing. */
  #dismiss(run) {
    this.#wished = null;
    if (!run.source) return this.clear();
    this.a = run.job + SOURCE;
    this.b = null;
    this.#show("open");
  }

  #take(run) {
    this.#runs.set(run.job, run);
    this.followed = run;
  }

  /** Say how many frames the server has of all clips, and whether more will come: see `Feed.expect`. */
  expect(followed, numFrames, ended) {
    for (const [name, feed] of this.#feeds) {
      const { id, isSource } = parseClip(name);
      if (id !== followed) feed.expect(this.#runs.get(id).frames, true);
      else if (!isSource) feed.expect(numFrames, ended);
      else feed.expect(0, ended); // it may be on its way still
    }
  }

  /** See `Player.showPreview`. */
  showPreview(frame) {
    this.player.showPreview(frame);
  }

  /**
   * Choose A or B. What cannot be chosen leaves everything as it is, and `problem` says why.
   *
   * @param {"a" | "b"} side
   * @param {string | null} name null: nothing, for B alone
   */
  async choose(side, name) {
    this.problem = "";
    if (name !== null && !(await this.#learn(name))) return this.#tell();
    const other = side === "a" ? this.b : this.a;
    if (other !== null && name !== null && !this.#areAlike(name, other)) {
      if (side === "b") {
        this.problem = `${sizeOf(this.runOf(name))} cannot be compared with ${sizeOf(this.runOf(other))}: choose a clip of the same size.`;
        return this.#tell();
      }
      this.b = null;
    }
    this[side] = name;
    this.#show("choose");
  }

  /** Tell a problem with what is compared. */
  report(problem) {
    this.problem = problem;
    this.#tell();
  }

  swap() {
    if (this.b === null) return;
    [this.a, this.b] = [this.b, this.a];
    this.#show("choose");
  }

  /** Show what the page's address names, if it is this run. Another one began in its place: then it is over. */
  async #grantWish(run) {
    const wished = this.#wished;
    this.#wished = null;
    if (!wished || (wished.a && parseClip(wished.a).id !== run.job)) return;
    if (wished.a && wished.a !== this.a) await this.choose("a", wished.a);
    if (wished.b !== undefined && wished.b !== this.b) await this.choose("b", wished.b);
    this.#frame = wished.frame > 0 ? wished.frame : null;
    this.#seekWished();
  }

  /** Go to the frame that was wished as soon as it has arrived. */
  #seekWished() {
    if (this.#frame === null || this.player.count <= this.#frame) return;
    const frame = this.#frame;
    this.#frame = null;
    this.player.seek(frame);
  }

  /** Ask for the state of a clip's run, if it is not known. Returns whether the clip is there. */
  async #learn(name) {
    const { id, isSource } = parseClip(name);
    if (!this.#runs.has(id)) {
      const run = await this.#ask(id);
      if (run === null) return false;
      this.#runs.set(id, run);
    }
    const run = this.#runs.get(id);
    if (isSource && !run.source) this.problem = `Run ${run.number} has no source that could be shown.`;
    else if (!run.num_frames) this.problem = `Run ${run.number} has no frames.`;
    return !this.problem;
  }

  async #ask(id) {
    try {
      const response = await this.server.askState(id, ALL_ACTIVITIES);
      if (response.ok) return await response.json();
      this.problem = "This run has been deleted: run its input again.";
    } catch {
      this.problem = "The server does not answer: try again.";
    }
    return null;
  }

  /** Whether two clips are of one size; a run and its own source can always be laid over each other. */
  #areAlike(name, other) {
    const [one, two] = [this.runOf(name), this.runOf(other)];
    return one === two || (one.width === two.width && one.height === two.height);
  }

  /** Give A and B to the player. how: "open" begins with the first frame, "choose" keeps the present one. */
  #show(how) {
    const run = this.runOf(this.a);
    const [a, b] = [this.#feed(this.a), this.b === null ? null : this.#feed(this.b)];
    this.#closeFeeds();
    const { num_frames: numFrames, fps, rate } = run;
    this.player[how]({ a, b, numFrames, fps, rate, isLost: this.#isLost });
    this.#tell();
  }

  #feed(name) {
    if (!this.#feeds.has(name)) {
      const { id, isSource } = parseClip(name);
      const view = isSource ? "source" : "decoded";
      const feed = new Feed((start) => this.server.framesAddress(id, view, start));
      feed.isSource = isSource;
      const run = this.#runs.get(id);
      feed.available = isSource ? run.num_frames : run.frames;
      this.#feeds.set(name, feed);
    }
    return this.#feeds.get(name);
  }

  /** Close the feeds of clips that are no longer on the stage. */
  #closeFeeds() {
    for (const [name, feed] of this.#feeds) {
      if (name === this.a || name === this.b) continue;
      feed.close();
      this.#feeds.delete(name);
    }
  }

  #tell() {
    for (const callback of this.#listeners) callback();
  }
}

function sizeOf({ width, height }) {
  return `A clip of ${width} × ${height}`;
}
