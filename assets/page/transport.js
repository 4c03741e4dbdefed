// Transport: the controls below the picture, the keyboard, and the pointer on a wipe.

import { wipeSplit } from "./modes.js";

const PLAY = "M4 2.5v11l9-5.5z";
const PAUSE = "M3.5 2.5h3v11h-3zm6 0h3v11h-3z";
const PAGE = 10; // frames that an arrow key goes with shift

/** Connects the controls in `root` to a player, in both directions. */
export class Transport {
  /**
   * @param {Element} root
   * @param {import("./player.js").Player} player
   */
  constructor(root, player) {
    this.root = root;
    this.player = player;
    this.play = root.querySelector(".play");
    this.icon = root.querySelector(".play path");
    this.scrub = root.querySelector(".scrub");
    this.frame = root.querySelector(".frame");
    this.loop = root.querySelector(".loop");
    this.modes = root.querySelector(".modes");
    player.onChange = () => this.show();
    this.#listen();
    this.show();
  }

  /** Show the player's state. */
  show() {
    const { count, decoded, loop, mode, numFrames, playing, shown, source } = this.player;
    const last = Math.max(numFrames, count) - 1;
    const percent = (frame) => (last > 0 ? `${(100 * frame) / last}%` : "0%");
    this.scrub.max = Math.max(0, last);
    this.scrub.value = Math.max(0, shown);
    this.scrub.style.setProperty("--there", percent(count - 1));
    this.scrub.style.setProperty("--at", percent(shown));
    this.scrub.disabled = this.play.disabled = count === 0;
    this.frame.textContent = count ? `${shown + 1} / ${last + 1}` : "–";
    this.icon.setAttribute("d", playing && count ? PAUSE : PLAY);
    this.loop.setAttribute("aria-pressed", loop);
    if (decoded) this.modes.hidden = !source; // between two clips nothing moves
    for (const button of this.modes.querySelectorAll("[data-mode]")) {
      button.setAttribute("aria-pressed", button.dataset.mode === mode);
    }
  }

  #listen() {
    const { player } = this;
    const { canvas } = player.stage;
    this.play.addEventListener("click", () => player.toggle());
    this.scrub.addEventListener("input", () => player.seek(Number(this.scrub.value)));
    this.loop.addEventListener("click", () => player.toggleLoop());
    this.modes.addEventListener("click", (event) => {
      if (event.target.dataset.mode) player.chooseMode(event.target.dataset.mode);
    });
    canvas.addEventListener("pointermove", (event) => {
      player.setSplit(wipeSplit(event.clientX, canvas.getBoundingClientRect()));
    });
    document.addEventListener("keydown", (event) => this.#press(event));
  }

  #press(event) {
    const { player } = this;
    const inside = this.root.contains(event.target);
    if (event.ctrlKey || event.metaKey || event.altKey || (!inside && event.target !== document.body)) return;
    const step = event.shiftKey ? PAGE : 1;
    const actions = {
      ArrowLeft: () => player.seek(player.shown - step),
      ArrowRight: () => player.seek(player.shown + step),
      Home: () => player.seek(0),
      End: () => player.seek(player.count - 1),
    };
    // Space on a button or link presses it.
    if (!["BUTTON", "A"].includes(event.target.tagName)) actions[" "] = () => player.toggle();
    if (!actions[event.key] || !player.count) return;
    event.preventDefault();
    actions[event.key]();
  }
}
