// Follow: joins the page to a run, through reloads and restarts of the server.

import { CONNECTION_LOST, DELETED, describeLost, GONE, LOGGED_OUT, NO_ANSWER } from "./sentences.js";

const ENDED = ["finished", "stopped", "failed", "gone"];
const JOB_KEY = "wanvae-job";
const BOOT_KEY = "wanvae-boot";
const FRAMES_PER_LATENT = 4;
const EAGER = 2000; // milliseconds in which a run that is next in line is asked for at every beat, for its first frame

/** Asks the server for a run's state at each `beat` that is due, and shows the answers. */
export class Follower {
  #restarted = false; // whether another server answers than the page knew
  #lastWords = ""; // why the server was restarted, if it knows
  #toStop = null; // id of a run to be stopped, until the server has heard of it
  #numActivities = 0; // that have arrived
  #isFresh = false; // whether the run was started here, and goes on though the server has not said so
  #named = null; // id of a run that the page's address names
  #asking = false;
  #lastAsked = 0; // on performance.now's clock
  #followed = 0; // when the present run was chosen, on the same clock

  /**
   * @param {object} parts
   * @param {import("./server.js").Server} parts.server
   * @param {import("./panel.js").Panel} parts.panel
   * @param {import("./comparison.js").Comparison} parts.comparison
   * @param {import("./controls.js").Controls} parts.controls
   * @param {import("./storage.js").SafeStorage} parts.session keeps what a reload needs
   * @param {(job: string | null) => void} [parts.onFollow] called with the run that is followed, null once it is gone
   */
  constructor({ server, panel, comparison, controls, session, onFollow = () => {} }) {
    this.onFollow = onFollow;
    this.server = server;
    this.panel = panel;
    this.comparison = comparison;
    this.controls = controls;
    this.session = session;
    this.job = null; // id of the run that is followed
    this.run = null; // its state, as last heard; "gone": the server that had it is gone
    this.reading = false; // whether the server is looking at an input
    this.lost = false; // whether the server does not answer; then "lost" or "silent", as Controls names it
    this.boot = session.get(BOOT_KEY); // names the server that answered last
  }

  /** Whether a run has begun and not ended, or is about to begin. */
  get active() {
    return this.reading || (this.job !== null && !this.#ended);
  }

  /** Whether all is known of a run that has ended. */
  get settled() {
    return this.#ended && (this.run.settled || this.run.state === "gone");
  }

  get #ended() {
    return this.run !== null && ENDED.includes(this.run.state);
  }

  /** Follow the run that the page's address names, or the one that a reload left behind, if there is one. */
  resume(named = null) {
    this.#named = named;
    const job = named ?? this.session.get(JOB_KEY);
    if (job) this.follow(job);
    else this.#ask();
  }

  follow(job) {
    this.job = job;
    this.run = null;
    this.#isFresh = false;
    this.reading = false;
    this.#numActivities = 0;
    this.#followed = performance.now();
    this.session.set(JOB_KEY, job);
    this.onFollow(job);
    this.panel.clear();
    this.comparison.clear();
    this.panel.say({ title: "Waiting", text: "" });
    this.panel.reveal();
    this.#ask();
  }

  /** Stop the run, as soon as the server answers. */
  stop() {
    if (!this.active || this.job === null) return;
    this.#toStop = this.job;
    this.#ask();
  }

  /** Take a message from the Run button's handler: { reading }, { error } or { job }. */
  hear(message) {
    if (message.job) {
      this.follow(message.job);
      this.#isFresh = true;
      this.#enable();
      return;
    }
    this.reading = Boolean(message.reading);
    if (message.reading) this.panel.say({ title: "Reading", text: message.reading });
    if (message.error) this.panel.refuse(message.error);
    this.#enable();
  }

  /** Take that the visitor has deleted an ended run, this one or another. What has arrived of it stays on the page. */
  forget(job) {
    this.comparison.lose(job);
    if (job !== this.job) return;
    this.session.remove(JOB_KEY);
    this.panel.say(DELETED);
  }

  /** Ask if it is time to, and look after the streams. To be called often. */
  beat() {
    this.#enable();
    if (this.run !== null && !this.lost) this.comparison.expect(this.job, this.run.frames, this.#ended);
    if (performance.now() - this.#lastAsked >= this.#pause()) this.#ask();
  }

  /** Milliseconds between two questions. */
  #pause() {
    if (this.lost) return 1000;
    if (this.job === null || this.settled) return 4000;
    if (this.run?.state !== "queued") return 200;
    return this.run.place === 0 && performance.now() - this.#followed < EAGER ? 0 : 500;
  }

  #enable() {
    const goesOn = this.job !== null && (this.run === null ? this.#isFresh : !this.#ended);
    this.controls.enable({ run: !this.active && !this.lost, stop: goesOn && !this.reading });
  }

  async #ask() {
    if (this.#asking) return;
    this.#asking = true;
    this.#lastAsked = performance.now();
    try {
      await (this.job !== null && !this.settled ? this.#askRun(this.job) : this.#askHealth());
      this.#found();
    } catch (error) {
      this.#lose(error);
    } finally {
      this.#asking = false;
      this.#enable();
    }
  }

  async #askRun(job) {
    if (this.#toStop === job) {
      await this.server.stop(job);
      this.#toStop = null;
    }
    const response = await this.server.askState(job, this.#numActivities);
    if (job !== this.job) return; // another run is followed by now
    if (response.status === 401) {
      this.#found();
      this.panel.alert(LOGGED_OUT);
      return;
    }
    if (response.status === 404) {
      await this.#askHealth();
      if (job === this.job) this.#vanish();
      return;
    }
    if (!response.ok) throw new Error(response.statusText);
    const run = await response.json();
    if (job === this.job) await this.#show(run);
  }

  async #show(run) {
    this.run = run;
    this.#numActivities += run.activity.length;
    // A run that waits has no frames yet. A browser has six connections to a server, which its tabs share.
    if (!this.comparison.isOpen && run.state !== "queued" && run.num_frames) this.comparison.begin(run);
    else this.comparison.hear(run);
    if (run.kind === "roundtrip" && run.phase === "encode") {
      const newest = FRAMES_PER_LATENT * (run.phases.encode[0] - 1);
      this.comparison.showPreview(Math.min(run.num_frames - 1, Math.max(0, newest)));
    }
    this.panel.update(run);
    if (["queued", "running"].includes(run.state)) this.controls.showHealth("busy");
    else await this.#askHealth();
  }

  async #askHealth() {
    const { state, boot, last_words } = await this.server.askHealth();
    if (this.boot !== null && this.boot !== boot) this.#restarted = true;
    this.boot = boot;
    this.session.set(BOOT_KEY, boot);
    this.#lastWords = last_words;
    this.controls.showHealth(state);
  }

  #lose(error) {
    const lost = error.name === "TimeoutError" ? "silent" : "lost";
    if (this.lost === lost) return;
    console.warn(error);
    this.lost = lost;
    this.panel.alert(lost === "silent" ? NO_ANSWER : CONNECTION_LOST);
    this.controls.showHealth(lost);
  }

  #found() {
    if (!this.lost) return;
    this.lost = false;
    this.panel.alert("");
  }

  /** The server does not know the run: it is another server, or has deleted the run. */
  #vanish() {
    this.session.remove(JOB_KEY);
    this.onFollow(null);
    this.comparison.lose(this.job);
    if (this.run === null) {
      this.job = null; // the run ended before this page was loaded
      const lost = describeLost(this.#lastWords, "Choose its input and run it again.");
      if (this.#restarted) this.panel.say(lost);
      else this.panel.say(this.#named ? GONE : { title: "", text: "" });
    } else if (!this.#ended) {
      this.run = { ...this.run, state: "gone" };
      this.panel.say(describeLost(this.#lastWords, "Run it again."));
    } else {
      this.run = { ...this.run, settled: true };
    }
  }
}
