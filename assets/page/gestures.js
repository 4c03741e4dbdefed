// Gestures: wheel, mouse and fingers on the stage. They zoom, move the picture, and move the edge of a wipe.

import { wipeSplit } from "./modes.js";

const WHEEL_DOUBLING = 300; // pixels of the wheel that double the size
const LINE = 16; // pixels of a wheel that counts lines
const EDGE = 0.02; // of the width, that a key moves a wipe's edge
const CONTROLS = "button, a, select, label"; // on the stage, which have gestures of their own
const EDGE_KEYS = { ArrowLeft: -EDGE, ArrowDown: -EDGE, ArrowRight: EDGE, ArrowUp: EDGE };

/** Connects the stage to pointers. */
export class Gestures {
  #fingers = new Map(); // what is pressed: points of the page, by pointer id
  #dragsEdge = false;

  /** @param {import("./stage.js").Stage} stage */
  constructor(stage) {
    this.stage = stage;
    const { element, wipe } = stage;
    element.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    element.addEventListener("pointerdown", (event) => this.#press(event));
    element.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) {
      element.addEventListener(end, (event) => this.#fingers.delete(event.pointerId));
    }
    element.addEventListener("dblclick", (event) => this.#toggleZoom(event));
    wipe.addEventListener("keydown", (event) => this.#key(event));
  }

  #wheel(event) {
    const { stage } = this;
    const isOut = event.deltaY > 0;
    if (isOut && stage.view.scale === null && !event.ctrlKey) return; // the page scrolls
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode ? LINE : 1) * (event.ctrlKey ? 4 : 1); // a pinch sends little
    const scale = (stage.scale / devicePixelRatio) * 2 ** (-pixels / WHEEL_DOUBLING);
    stage.zoomTo(scale, pointOf(event));
  }

  #press(event) {
    const { stage } = this;
    if (event.button > 0 || event.target.closest(CONTROLS)) return;
    this.#fingers.set(event.pointerId, pointOf(event));
    stage.element.setPointerCapture(event.pointerId);
    const isHandle = event.target.closest(".wipe") !== null;
    // Without a zoom there is nothing else to drag.
    this.#dragsEdge = stage.mode === "wipe" && (isHandle || stage.view.scale === null);
    if (this.#dragsEdge && !isHandle) this.#moveEdge(event);
  }

  #move(event) {
    const before = this.#fingers.get(event.pointerId);
    if (!before) return;
    const now = pointOf(event);
    const others = [...this.#fingers].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
    this.#fingers.set(event.pointerId, now);
    if (others.length) this.#pinch(before, now, others[0]);
    else if (this.#dragsEdge) this.#moveEdge(event);
    else this.stage.pan(now.x - before.x, now.y - before.y);
  }

  #pinch(before, now, other) {
    const { stage } = this;
    const distance = (point) => Math.hypot(point.x - other.x, point.y - other.y);
    const middle = { x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 };
    const factor = distance(now) / Math.max(1, distance(before));
    stage.zoomTo((stage.scale / devicePixelRatio) * factor, middle);
    stage.pan((now.x - before.x) / 2, (now.y - before.y) / 2);
  }

  #moveEdge(event) {
    this.stage.setSplit(wipeSplit(event.clientX, this.stage.wipeRange));
  }

  #toggleZoom(event) {
    const { stage } = this;
    if (event.target.closest(`.wipe, ${CONTROLS}`)) return;
    if (stage.view.scale === null) stage.zoomTo((2 * stage.scale) / devicePixelRatio, pointOf(event));
    else stage.look({ ...stage.view, scale: null });
  }

  #key(event) {
    const { stage } = this;
    const splits = { Home: 0, End: 1 };
    const split = splits[event.key] ?? stage.split + (EDGE_KEYS[event.key] ?? Number.NaN);
    if (Number.isNaN(split)) return;
    event.preventDefault();
    event.stopPropagation(); // else the player would go to another frame
    stage.setSplit(split);
  }
}

function pointOf(event) {
  return { x: event.clientX, y: event.clientY };
}
