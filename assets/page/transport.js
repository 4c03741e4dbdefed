// Transport: the controls below the picture.

const PLAY = "M4 2.5v11l9-5.5z";
const PAUSE = "M3.5 2.5h3v11h-3zm6 0h3v11h-3z";

/** Connects the controls in `root` to a player, in both directions. */
export class Transport {
  /**
   * @param {Element} root
   * @param {import("./player.js").Player} player
   */
  constructor(root, player) {
    this.player = player;
    this.play = root.querySelector(".play");
    this.icon = root.querySelector(".play path");
    this.scrub = root.querySelector(".scrub");
    this.frame = root.querySelector(".frame");
    this.loop = root.querySelector(".loop");
    this.speed = root.querySelector(".speed");
    this.marks = root.querySelectorAll(".mark");
    player.listen(() => this.show());
    this.#listen();
    this.show();
  }

  /** Show the player's state. */
  show() {
    const { count, first, last: out, loop, numFrames, playing, shown, speed } = this.player;
    const last = Math.max(numFrames, count) - 1;
    const percent = (frame) => (last > 0 ? `${(100 * frame) / last}%` : "0%");
    this.scrub.max = Math.max(0, last);
    this.scrub.value = Math.max(0, shown);
    this.scrub.style.setProperty("--there", percent(count - 1));
    this.scrub.style.setProperty("--at", percent(shown));
    this.scrub.style.setProperty("--in", percent(first));
    this.scrub.style.setProperty("--out", percent(out ?? last));
    this.scrub.setAttribute("aria-valuetext", count ? `Frame ${shown + 1} of ${last + 1}` : "No frame");
    this.scrub.disabled = this.play.disabled = count === 0;
    this.frame.textContent = count ? `${shown + 1} / ${last + 1}` : "–";
    const isPlaying = playing && count > 0;
    this.icon.setAttribute("d", isPlaying ? PAUSE : PLAY);
    this.play.setAttribute("aria-label", isPlaying ? "Pause" : "Play");
    this.loop.setAttribute("aria-pressed", loop);
    this.speed.value = speed;
    const [markIn, markOut] = this.marks;
    markIn.setAttribute("aria-pressed", first > 0);
    markOut.setAttribute("aria-pressed", out !== null);
    for (const mark of this.marks) mark.disabled = count === 0;
  }

  #listen() {
    const { player } = this;
    const [markIn, markOut] = this.marks;
    this.play.addEventListener("click", () => player.toggle());
    this.scrub.addEventListener("input", () => player.seek(Number(this.scrub.value)));
    this.loop.addEventListener("click", () => player.toggleLoop());
    this.speed.addEventListener("change", () => player.chooseSpeed(this.speed.value));
    markIn.addEventListener("click", () => player.markIn());
    markOut.addEventListener("click", () => player.markOut());
  }
}
