// Keys: what the keyboard does, and the list of it that `?` opens.

const PAGE = 10; // frames that an arrow key goes with shift
export const KEYS = [
  ["Space", "play or pause"],
  ["← →", "one frame back or on; with Shift ten"],
  ["Home End", "first frame, last frame"],
  ["I O", "play from here on, play to here; again: all of it"],
  ["L", "loop"],
  ["M", "next view"],
  ["X", "swap A and B"],
  ["B (hold)", "show B in A's place"],
  ["G", "borders of the ranks' slabs"],
  ["+ −", "zoom; so do the wheel, two fingers and a double click"],
  ["1", "one pixel of the picture is one of the screen"],
  ["0 Esc", "all of the picture"],
  ["F", "full screen"],
  ["?", "this list"],
];
const TYPING = "select, textarea, input:not([type=range]):not([type=checkbox]):not([type=radio])";
const PRESSED_BY_SPACE = "button, a, summary, input[type=checkbox], input[type=radio]";

/** Connects the keyboard to the player and its controls. */
export class Keys {
  /**
   * @param {Element} root the player's element
   * @param {object} parts
   * @param {import("./player.js").Player} parts.player
   * @param {import("./comparison.js").Comparison} parts.comparison
   * @param {import("./viewbar.js").ViewBar} parts.viewBar
   */
  constructor(root, { player, comparison, viewBar }) {
    Object.assign(this, { root, player, comparison, viewBar });
    this.help = root.querySelector(".help-text");
    this.help.querySelector("tbody").replaceChildren(...KEYS.map(helpLine));
    root.querySelector(".help").addEventListener("click", () => this.help.showModal());
    document.addEventListener("keydown", (event) => this.#press(event));
    document.addEventListener("keyup", (event) => {
      if (event.key.toLowerCase() === "b") player.peek(false);
    });
    window.addEventListener("blur", () => player.peek(false));
  }

  #press(event) {
    const { target } = event;
    const isInside = this.root.contains(target) || target === document.body;
    if (event.ctrlKey || event.metaKey || event.altKey || !isInside || this.help.open) return;
    if (target.closest(TYPING)) return;
    if (event.key === " " && target.closest(PRESSED_BY_SPACE)) return; // it presses that
    const action = this.#action(event);
    if (!action) return;
    event.preventDefault();
    action();
  }

  #action({ key, shiftKey }) {
    const { player, comparison, viewBar } = this;
    const { stage } = player;
    const step = shiftKey ? PAGE : 1;
    if (key === "?") return () => this.help.showModal();
    if (!player.count) return undefined;
    return {
      " ": () => player.toggle(),
      ArrowLeft: () => player.step(-step),
      ArrowRight: () => player.step(step),
      Home: () => player.seek(0),
      End: () => player.seek(player.count - 1),
      i: () => player.markIn(),
      o: () => player.markOut(),
      l: () => player.toggleLoop(),
      m: () => viewBar.nextMode(),
      x: () => comparison.swap(),
      b: () => player.peek(true),
      g: () => viewBar.toggleBorders(),
      "+": () => stage.zoomStep(true),
      "=": () => stage.zoomStep(true),
      "-": () => stage.zoomStep(false),
      1: () => stage.showPixels(),
      0: () => viewBar.fit(),
      Escape: stage.view.scale === null ? undefined : () => viewBar.fit(),
      f: () => viewBar.toggleFullScreen(),
    }[key.length === 1 ? key.toLowerCase() : key];
  }
}

function helpLine([keys, text]) {
  const line = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = keys;
  line.append(head);
  line.insertCell().textContent = text;
  return line;
}
