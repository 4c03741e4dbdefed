// Panel: what is written around the picture: status, progress, numbers, and the runs of this input.

import { Downloads } from "./downloads.js";
import { Exports } from "./exports.js";
import { RunsTable } from "./runs_table.js";
import { compareRuns, describe, formatDecibel, formatNumber, formatSeconds, notes } from "./sentences.js";
import { Timeline } from "./timeline.js";

const TITLE = "Wan VAE"; // of the browser's tab
const ENCODE_SHARE = 1 / 3; // of a roundtrip's time: encoding takes about half as long as decoding

/** Shows a run's state, but for its frames. */
export class Panel {
  /**
   * @param {Element} root the player's element, as player.html builds it
   * @param {import("./server.js").Server} server
   * @param {import("./comparison.js").Comparison} comparison
   */
  constructor(root, server, comparison) {
    this.root = root;
    this.find = (selector) => root.querySelector(selector);
    this.timeline = new Timeline(this.find(".timeline"));
    this.downloads = new Downloads(root, server);
    this.exports = new Exports(root, server);
    this.table = new RunsTable(this.find(".runs"), comparison);
  }

  clear() {
    this.timeline.clear();
    this.downloads.clear();
    this.exports.clear();
    for (const cell of this.root.querySelectorAll("[data-stat]")) cell.textContent = "–";
    this.find(".psnr").hidden = true;
    this.#misfit();
    this.#progress(0, 0);
  }

  /** Scroll to the player if it is below what is seen, or if it fits but is not all in sight. */
  reveal() {
    const { top, bottom, height } = this.find(".theatre").getBoundingClientRect();
    const isCut = bottom > innerHeight && height <= innerHeight;
    if (top > innerHeight * 0.5 || isCut) this.root.scrollIntoView({ block: "start" });
  }

  /**
   * Show a line that stays until the next one. tone is "", "good" or "bad".
   *
   * A screen reader is told when the title changes, not at every frame.
   */
  say({ title, text, tone = "" }) {
    const line = this.find(".status");
    line.dataset.tone = tone;
    line.firstElementChild.textContent = title;
    line.lastElementChild.textContent = text;
    this.find(".note").hidden = true;
    if (title) {
      this.find(".empty strong").textContent = title;
      this.find(".empty span").textContent = text;
    }
    const announced = tone ? `${title}. ${text}` : title;
    const announcer = this.find(".announcer");
    if (announcer.textContent !== announced) announcer.textContent = announced;
  }

  /** Say why nothing is run. */
  refuse(reason) {
    this.say({ title: "Not run", text: reason, tone: "bad" });
  }

  /** Show an alert over the picture; none for an empty text. */
  alert(text) {
    const banner = this.find(".banner");
    banner.hidden = !text;
    banner.textContent = text;
  }

  /** Show a run's state. The server sends each activity once, so each state is to be shown once. */
  update(run) {
    this.say(describe(run));
    this.#note(notes(run), run.why ?? "");
    this.#misfit(run.misfit);
    this.#stats(run);
    const [encoded, numLatents] = run.phases.encode ?? [0, 0];
    const share = numLatents ? ENCODE_SHARE : 0;
    this.#progress(
      numLatents ? (share * encoded) / numLatents : 0,
      ((1 - share) * run.frames) / (run.num_frames || 1),
      ["queued", "running"].includes(run.state),
    );
    this.timeline.add(run.activity, run.elapsed, Math.max(run.ranks, run.peak.length));
    this.downloads.update(run);
    this.exports.update(run);
    this.#runs(run);
  }

  #note(text, why) {
    const note = this.find(".note");
    note.querySelector(".text").textContent = text;
    note.querySelector("details").hidden = !why;
    note.querySelector("details p").textContent = why;
    note.hidden = !text;
  }

  /** Say that a latent may not fit the VAE. */
  #misfit({ sentence, clear } = { sentence: "", clear: false }) {
    const line = this.find(".misfit");
    if (line.textContent !== sentence) line.textContent = sentence;
    line.dataset.tone = clear ? "bad" : "";
    line.hidden = !sentence;
  }

  #stats(run) {
    const stats = {
      frames: `${run.frames} / ${run.num_frames}`,
      rate: formatNumber(run.rate),
      first: formatSeconds(run.first),
      elapsed: run.state === "queued" ? "–" : formatSeconds(run.elapsed),
      size: run.width ? `${run.width} × ${run.height}, ${Number(run.fps.toFixed(2))} fps` : "–",
    };
    if (run.psnr != null) stats.psnr = formatDecibel(run.psnr);
    for (const [name, text] of Object.entries(stats)) this.find(`[data-stat=${name}]`).textContent = text;
    this.find(".psnr").hidden = run.psnr == null;
  }

  /** Show shares of the whole work, 0 to 1. While it is going on, the tab's title tells it, too. */
  #progress(encoded, decoded, isActive = false) {
    const bar = this.find(".progress");
    bar.querySelector(".encode").style.width = `${100 * encoded}%`;
    bar.querySelector(".decode").style.width = `${100 * decoded}%`;
    bar.querySelector(".decode").style.left = `${100 * encoded}%`;
    const percent = Math.round(100 * (encoded + decoded));
    bar.setAttribute("aria-valuenow", percent);
    document.title = isActive ? `${percent} % · ${TITLE}` : TITLE;
  }

  #runs(run) {
    this.table.update(run);
    const comparison = this.find(".comparison");
    comparison.hidden = !run.comparison;
    if (run.comparison) comparison.textContent = compareRuns(run.comparison);
  }
}
