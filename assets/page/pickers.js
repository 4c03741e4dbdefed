// Pickers: the two lists from which A and B are chosen.

import { labelClip, listChoices } from "./clip_choices.js";
import { parseClip } from "./comparison.js";
import { NONE } from "./sentences.js";

const NOTHING = { name: "", label: "nothing" };

/** Connects the lists, and the labels on the stage, to the comparison. */
export class Pickers {
  #runs = []; // the visitor's runs, as the server listed them last
  #key = ""; // what the present options were made from
  #listed = ""; // the run that #runs was asked for at, and whether it had ended

  /**
   * @param {Element} root holds `.viewbar`
   * @param {object} parts
   * @param {import("./server.js").Server} parts.server
   * @param {import("./comparison.js").Comparison} parts.comparison
   * @param {import("./stage.js").Stage} parts.stage
   */
  constructor(root, { server, comparison, stage }) {
    Object.assign(this, { server, comparison, stage });
    this.bar = root.querySelector(".viewbar");
    this.problem = root.querySelector(".problem");
    this.selects = { a: this.bar.querySelector(".pick.a"), b: this.bar.querySelector(".pick.b") };
    for (const [side, select] of Object.entries(this.selects)) {
      select.addEventListener("change", () => comparison.choose(side, select.value || null));
      select.addEventListener("focus", () => this.#askRuns());
    }
    this.swap = this.bar.querySelector(".swap");
    this.swap.addEventListener("click", () => comparison.swap());
    comparison.listen(() => this.show());
  }

  /** Show what is chosen, and what can be. */
  show() {
    const { comparison, stage } = this;
    this.problem.textContent = comparison.problem;
    this.problem.hidden = !comparison.problem;
    this.swap.disabled = comparison.b === null;
    const run = comparison.followed;
    if (!comparison.isOpen) return this.#empty();
    const listed = `${run.job} ${run.settled}`;
    if (listed !== this.#listed) {
      this.#listed = listed;
      this.#askRuns();
    }
    this.#fill(run);
    const [vaeOfA, vaeOfB] = ["a", "b"].map((side) => comparison.runOf(comparison[side])?.vae);
    const showsVae = comparison.b !== null && vaeOfA !== vaeOfB;
    for (const side of ["a", "b"]) {
      const name = comparison[side];
      const label =
        name === null ? "" : labelClip(comparison.runOf(name), parseClip(name).isSource, showsVae);
      stage.labels[side] = label && `${side.toUpperCase()} · ${label}`;
      const borders = name !== null && !parseClip(name).isSource ? comparison.runOf(name).borders : null;
      stage.slabs[side] = borders?.positions.length ? borders : null;
      const select = this.selects[side];
      select.value = name ?? "";
      select.title = select.selectedOptions[0]?.text ?? ""; // which may be longer than the list is wide
    }
    stage.labels.difference = comparison.b === null ? "" : "Difference of A and B";
    stage.arrange();
  }

  /** Name no clips while none are on the stage. */
  #empty() {
    this.#key = "";
    for (const select of Object.values(this.selects)) {
      if (select.disabled) continue;
      select.replaceChildren(new Option(NONE, ""));
      select.title = "";
      select.disabled = true;
    }
  }

  #fill(run) {
    const { input, others } = listChoices(run, this.#runs);
    const { a, b } = this.comparison;
    const known = new Set([...input, ...others].map(({ name }) => name));
    for (const name of [a, b]) {
      if (name === null || known.has(name)) continue;
      others.push({ name, label: labelClip(this.comparison.runOf(name), parseClip(name).isSource) });
      known.add(name);
    }
    const key = JSON.stringify([input, others]);
    if (key === this.#key) return;
    this.#key = key;
    for (const [side, select] of Object.entries(this.selects)) {
      const first = side === "b" ? [NOTHING, ...input] : input;
      const groups = [group("This input", first)];
      if (others.length) groups.push(group("Other inputs", others));
      select.replaceChildren(...groups);
      select.disabled = false;
    }
  }

  async #askRuns() {
    this.#runs = await this.server.askRuns().catch(() => this.#runs);
    this.show();
  }
}

function group(label, clips) {
  const element = document.createElement("optgroup");
  element.label = label;
  for (const clip of clips) element.append(new Option(clip.label, clip.name));
  return element;
}
