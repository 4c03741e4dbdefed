// Panel: what is written around the picture: status, progress, numbers, and the runs of this input.

import { Downloads } from "./downloads.js";
import {
  compareRuns,
  describe,
  formatDecibel,
  formatNumber,
  formatPeaks,
  formatSeconds,
  notes,
} from "./sentences.js";
import { Timeline } from "./timeline.js";

const ENCODE_SHARE = 1 / 3; // of a roundtrip's time: encoding takes about half as long as decoding

/** Shows a run's state, but for its frames. */
export class Panel {
  /**
   * @param {Element} root the player's element, as player.html builds it
   * @param {import("./server.js").Server} server
   */
  constructor(root, server) {
    this.root = root;
    this.find = (selector) => root.querySelector(selector);
    this.timeline = new Timeline(this.find(".timeline"));
    this.downloads = new Downloads(root, server);
  }

  clear() {
    this.timeline.clear();
    this.downloads.clear();
    for (const cell of this.root.querySelectorAll("[data-stat]")) cell.textContent = "–";
    this.find(".psnr").hidden = true;
    this.#misfit();
    this.#progress(0, 0);
  }

  /** Scroll to the player if it is below what is seen. */
  reveal() {
    const { top } = this.root.getBoundingClientRect();
    if (top > innerHeight * 0.8) this.root.scrollIntoView({ behavior: "smooth", block: "start" });
  }

  /** Show a line that stays until the next one. tone is "", "good" or "bad". */
  say({ title, text, tone = "" }) {
    const line = this.find(".status");
    line.dataset.tone = tone;
    line.firstElementChild.textContent = title;
    line.lastElementChild.textContent = text;
    this.find(".note").hidden = true;
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
    this.#note(notes(run));
    this.#misfit(run.misfit);
    this.#stats(run);
    const [encoded, numLatents] = run.phases.encode ?? [0, 0];
    const share = numLatents ? ENCODE_SHARE : 0;
    this.#progress(
      numLatents ? (share * encoded) / numLatents : 0,
      ((1 - share) * run.frames) / (run.num_frames || 1),
    );
    this.timeline.add(run.activity, run.elapsed, Math.max(run.ranks, run.peak.length));
    this.downloads.update(run);
    this.#runs(run);
  }

  #note(text) {
    const note = this.find(".note");
    note.textContent = text;
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

  /** Show shares of the whole work, 0 to 1. */
  #progress(encoded, decoded) {
    const bar = this.find(".progress");
    bar.querySelector(".encode").style.width = `${100 * encoded}%`;
    bar.querySelector(".decode").style.width = `${100 * decoded}%`;
    bar.querySelector(".decode").style.left = `${100 * encoded}%`;
    bar.setAttribute("aria-valuenow", Math.round(100 * (encoded + decoded)));
  }

  #runs(run) {
    this.find(".runs").hidden = !run.rows.length;
    // Gradio leaves the choice out where there is one VAE.
    this.find(".runs").classList.toggle("one-vae", document.getElementById("vae") === null);
    const lines = run.rows.map((row) => tableLine(row, row.number === run.number));
    this.find(".runs tbody").replaceChildren(...lines);
    const comparison = this.find(".comparison");
    comparison.hidden = !run.comparison;
    if (run.comparison) comparison.textContent = compareRuns(run.comparison);
  }
}

function tableLine(row, isPresent) {
  const cells = [
    row.number,
    row.vae,
    row.parallel ? "on" : "off",
    row.ranks,
    row.chunk,
    formatSeconds(row.seconds),
    formatSeconds(row.first),
    formatNumber(row.rate),
    formatPeaks(row.peak),
    row.state,
  ];
  const line = document.createElement("tr");
  line.classList.toggle("present", isPresent);
  for (const cell of cells) line.insertCell().textContent = cell;
  return line;
}
