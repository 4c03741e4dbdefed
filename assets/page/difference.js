// Difference: how the frames of A and B differ, as the server computes it from the exact ones.

import { tellDifference } from "./sentences.js";

const DELAY = 100; // milliseconds that a frame must stay
export const GAINS = [1, 2, 4, 8, 16, 32, 64];
export const CHANNELS = ["worst", "luma"];

/** The line below the curve, and the difference's gain, channel and colours. */
export class Difference {
  #key = ""; // of the frames that the line is about
  #timer = 0;

  /**
   * @param {Element} root holds `.difference-options`, `.colours` and `.found`
   * @param {object} parts
   * @param {import("./server.js").Server} parts.server
   * @param {import("./player.js").Player} parts.player
   * @param {import("./comparison.js").Comparison} parts.comparison
   * @param {import("./storage.js").SafeStorage} parts.settings keeps gain and channel
   */
  constructor(root, { server, player, comparison, settings }) {
    Object.assign(this, { server, player, comparison, settings });
    this.options = root.querySelector(".difference-options");
    this.colours = root.querySelector(".colours");
    this.line = root.querySelector(".found-frame");
    this.gain = GAINS.find((gain) => String(gain) === settings.get("wanvae-gain")) ?? 8;
    this.channel = CHANNELS.find((channel) => channel === settings.get("wanvae-channel")) ?? CHANNELS[0];
    this.#listen();
    player.listen(() => this.look());
    comparison.listen(() => this.look());
  }

  /** Return the address of the picture of a frame's difference. */
  address(frame) {
    const { a, b } = this.comparison;
    return this.server.address(
      `compare/${a}/${b}/frame/${frame}.png?gain=${this.gain}&channel=${this.channel}`,
    );
  }

  /** Show what there is to show for the present frame. */
  look() {
    const { player, comparison } = this;
    const isSeen = player.mode === "difference";
    const hasTwo = comparison.b !== null && !comparison.isSame;
    this.options.hidden = !isSeen;
    this.colours.hidden = !isSeen || !player.isExact;
    const isMeant = player.still && hasTwo && !player.isLost;
    const isInBoth = isMeant && player.b.hasSoon(player.shown);
    const key = isMeant ? `${comparison.a}/${comparison.b}/frame/${player.shown}` : "";
    if (`${key} ${isInBoth}` === this.#key) return;
    this.#key = `${key} ${isInBoth}`;
    this.line.textContent = isMeant && !isInBoth ? `Frame ${player.shown + 1} is in A alone.` : "";
    clearTimeout(this.#timer);
    if (isInBoth) this.#timer = setTimeout(() => this.#ask(key), DELAY);
  }

  async #ask(key) {
    const asked = this.#key;
    const answer = await this.server.askComparison(key).catch(() => null);
    if (asked !== this.#key || answer === null) return;
    const found = await answer.json().catch(() => ({}));
    if (asked !== this.#key) return;
    this.line.textContent = answer.ok
      ? `Frame ${found.frame + 1}: ${tellDifference(found)}`
      : (found.detail ?? "");
    if (found.colours) this.#showColours(found.colours);
  }

  #showColours(colours) {
    const [low, bar, high] = this.colours.children;
    bar.style.background = `linear-gradient(to right, ${colours.join(", ")})`;
    low.textContent = "0";
    high.textContent = `${Number((255 / this.gain).toFixed(1))} of 255`;
  }

  #listen() {
    const { player } = this;
    const [gain, channel] = this.options.querySelectorAll("select");
    gain.value = this.gain;
    channel.value = this.channel;
    player.stage.gain = this.gain;
    this.options.addEventListener("change", () => {
      this.gain = Number(gain.value);
      this.channel = channel.value;
      this.settings.set("wanvae-gain", this.gain);
      this.settings.set("wanvae-channel", this.channel);
      player.stage.gain = this.gain;
      this.#key = "";
      this.look();
      player.redraw();
    });
  }
}
