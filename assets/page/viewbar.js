// View bar: how the picture is seen: mode, borders, zoom, full screen.

import { MODES } from "./modes.js";
import { NONE, tellQuality } from "./sentences.js";
import { FIT } from "./view.js";

/** Connects them to the player and its stage. */
export class ViewBar {
  /**
   * @param {Element} root holds `.theatre`, which holds `.viewbar` and `.zoom`
   * @param {object} parts
   * @param {import("./player.js").Player} parts.player
   * @param {import("./comparison.js").Comparison} parts.comparison
   * @param {import("./storage.js").SafeStorage} parts.settings keeps whether borders are drawn
   */
  constructor(root, { player, comparison, settings }) {
    Object.assign(this, { player, comparison, settings });
    this.theatre = root.querySelector(".theatre");
    this.bar = root.querySelector(".viewbar");
    this.modes = this.bar.querySelector(".modes");
    this.borders = this.bar.querySelector(".borders");
    this.zoom = root.querySelector(".zoom");
    this.percent = root.querySelector(".percent");
    this.full = root.querySelector(".full");
    this.quality = root.querySelector(".quality");
    player.stage.showsSlabs = settings.get("wanvae-borders") === "yes";
    this.#listen();
    player.listen(() => this.show());
    comparison.listen(() => this.show());
    player.stage.onView = () => this.#showZoom();
  }

  /** Show the player's state. */
  show() {
    const { player, comparison } = this;
    const { stage } = player;
    this.bar.hidden = this.zoom.hidden = !comparison.isOpen && !stage.hasPicture;
    if (comparison.isOpen) this.modes.hidden = comparison.b === null; // until then they keep their place
    const mode = comparison.isOpen ? player.mode : stage.mode; // that of the picture before
    for (const button of this.modes.querySelectorAll("[data-mode]")) {
      button.setAttribute("aria-pressed", button.dataset.mode === mode);
      button.disabled = !comparison.isOpen;
    }
    this.borders.hidden = !(stage.slabs.a || stage.slabs.b);
    this.borders.setAttribute("aria-pressed", stage.showsSlabs);
    const quality = tellQuality(player);
    this.quality.hidden = !quality;
    if (this.quality.textContent !== quality) this.quality.textContent = quality;
  }

  nextMode() {
    if (this.comparison.b === null) return;
    const { player } = this;
    player.chooseMode(MODES[(MODES.indexOf(player.mode) + 1) % MODES.length]);
  }

  toggleBorders() {
    const { stage } = this.player;
    stage.showsSlabs = !stage.showsSlabs;
    this.settings.set("wanvae-borders", stage.showsSlabs ? "yes" : "no");
    stage.arrange();
    this.show();
  }

  fit() {
    this.player.stage.look(FIT);
  }

  /** Fill the screen with the picture and its controls; where the browser cannot, the window. */
  toggleFullScreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else if (this.theatre.requestFullscreen && !this.theatre.classList.contains("filling")) {
      this.theatre.requestFullscreen().catch(() => this.#fillWindow());
    } else this.#fillWindow();
  }

  #fillWindow() {
    this.full.setAttribute("aria-pressed", this.theatre.classList.toggle("filling"));
  }

  #showZoom() {
    const { stage } = this.player;
    this.percent.textContent = stage.hasPicture ? `${Math.round(100 * stage.scale)} %` : NONE;
  }

  #listen() {
    const { player, zoom } = this;
    const { stage } = player;
    this.modes.addEventListener("click", (event) => {
      if (event.target.dataset.mode) player.chooseMode(event.target.dataset.mode);
    });
    this.borders.addEventListener("click", () => this.toggleBorders());
    zoom.querySelector(".zoom-in").addEventListener("click", () => stage.zoomStep(true));
    zoom.querySelector(".zoom-out").addEventListener("click", () => stage.zoomStep(false));
    zoom.querySelector(".fit").addEventListener("click", () => this.fit());
    zoom.querySelector(".pixels").addEventListener("click", () => stage.showPixels());
    this.full.addEventListener("click", () => this.toggleFullScreen());
    document.addEventListener("fullscreenchange", () => {
      this.full.setAttribute("aria-pressed", document.fullscreenElement !== null);
    });
  }
}
