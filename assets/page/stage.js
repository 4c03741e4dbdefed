// Stage: the pictures of A and B, their difference, and what is drawn over them.

import { layout, visibleRange } from "./modes.js";
import { Pane } from "./pane.js";
import { FIT, pan, pixelAt, place, zoomStep, zoomTo } from "./view.js";

const SIDES = ["a", "b", "difference"];

/** Shows pictures. Zoom and place are the same for all of them. */
export class Stage {
  #key = ""; // what the present arrangement was made for
  #range = { start: 0, stop: 1 }; // of x, in which the picture is seen

  /** @param {Element} root holds `.stage`, as player.html builds it */
  constructor(root) {
    this.element = root.querySelector(".stage");
    this.empty = this.element.querySelector(".empty");
    this.wipe = this.element.querySelector(".wipe");
    this.panes = Object.fromEntries(
      SIDES.map((side) => [side, new Pane(this.element.querySelector(`.pane.${side}`))]),
    );
    this.view = FIT;
    this.mode = "single";
    this.isPeeking = false;
    this.split = 0.5; // share of a wipe that shows A
    this.gain = 8; // of differences that are not exact
    this.picture = { width: 16, height: 9 }; // size of A
    this.pictures = {}; // bitmaps that are seen: a, b, difference
    this.labels = { a: "", b: "", difference: "" };
    this.slabs = { a: null, b: null }; // borders of the ranks' slabs, see Pane.showLines
    this.showsSlabs = false; // whether they are drawn
    this.onView = () => {}; // called when zoom or place have changed
    new ResizeObserver(() => this.arrange()).observe(this.element);
  }

  /** Size of the stage in pixels of the page. */
  get size() {
    return { width: this.element.clientWidth, height: this.element.clientHeight };
  }

  /** Dim what is on the stage, and say over it what happens: it belongs to the run before. */
  markStale() {
    this.pictures = {};
    this.element.classList.add("stale");
    this.empty.hidden = false;
    for (const side of SIDES) this.panes[side].tag.textContent = this.#label(side);
  }

  /** Whether there is a picture, of this run or the one before. */
  get hasPicture() {
    return SIDES.some((side) => this.panes[side].hasPicture);
  }

  /** Say something where no picture is. */
  tell(title, text) {
    this.empty.querySelector("strong").textContent = title;
    this.empty.querySelector("span").textContent = text;
  }

  /**
   * Draw a frame.
   *
   * @param {string} mode one of MODES; "single" where there is no b
   * @param {{a: ImageBitmap, b?: ImageBitmap, difference?: ImageBitmap}} pictures difference: exact, if it is known
   * @param {boolean} isPeeking whether B is seen in A's place
   * @param {string} labelled whose label the single picture has
   */
  draw(mode, pictures, isPeeking = false, labelled = "a") {
    const { a, b, difference } = pictures;
    if (mode !== "difference") {
      this.panes.a.draw(a);
      if (b) this.panes.b.draw(b);
    } else if (difference) this.panes.difference.draw(difference);
    else this.panes.difference.drawDifference(a, b, this.gain);
    this.pictures = pictures;
    if (this.#isStale) this.#key = "";
    this.element.classList.remove("stale");
    this.empty.hidden = true;
    const key = [mode, isPeeking, a.width, a.height, b?.width, Boolean(difference), labelled].join();
    if (key === this.#key) return;
    this.#key = key;
    Object.assign(this, { mode, isPeeking, picture: { width: a.width, height: a.height }, labelled });
    this.arrange();
  }

  /** Put everything in its place. */
  arrange() {
    const { element, panes, picture, mode } = this;
    const boxes = layout(mode, picture, this.size);
    const box = boxes.a ?? boxes.difference;
    const at = place(this.view, picture, box, devicePixelRatio);
    for (const side of SIDES) {
      panes[side].arrange(boxes[side], at, picture.width);
      panes[side].showLines(this.#bordersOf(side), at, picture);
      panes[side].tag.textContent = this.#label(side);
    }
    panes.b.element.classList.toggle("behind", mode === "flicker" && !this.isPeeking);
    this.#range = visibleRange(at, picture, box);
    this.#showWipe();
    element.dataset.mode = mode;
    element.classList.toggle("zoomed", this.view.scale !== null);
    this.scale = at.scale * devicePixelRatio;
    this.onView();
  }

  /** Show the same frame in another view. */
  look(view) {
    this.view = view;
    this.arrange();
  }

  /** Zoom to a scale, in pixels of the page, around a point of the page. */
  zoomTo(scale, point) {
    const { box, inside } = this.#boxAt(point);
    this.look(zoomTo(this.view, scale, inside, this.picture, box, devicePixelRatio));
  }

  /** Zoom in or out by a step. */
  zoomStep(isLarger) {
    this.look(zoomStep(this.view, isLarger, this.picture, this.#box, devicePixelRatio));
  }

  /** Show one pixel of the picture as one of the screen. */
  showPixels() {
    const { x, y } = this.view;
    this.look({ scale: 1 / devicePixelRatio, x, y });
  }

  /** Move the picture. */
  pan(dx, dy) {
    this.look(pan(this.view, dx, dy, this.picture, this.#box));
  }

  /** Return the pixel below a point of the page; null beside the pictures. */
  pixelAt(point) {
    const { box, inside } = this.#boxAt(point);
    return pixelAt(inside, this.view, this.picture, box, devicePixelRatio);
  }

  /** Return how the place of the wipe's edge on the page is measured: x of `start` and `stop`. */
  get wipeRange() {
    const { left } = this.element.getBoundingClientRect();
    return { start: left + this.#range.start, stop: left + this.#range.stop };
  }

  /** Move the edge of a wipe; 0 to 1. */
  setSplit(split) {
    this.split = Math.min(Math.max(split, 0), 1);
    this.#showWipe();
  }

  #showWipe() {
    const isWipe = this.mode === "wipe";
    const { start, stop } = this.#range;
    const edge = Math.round(start + this.split * (stop - start));
    this.wipe.hidden = !isWipe;
    this.wipe.style.transform = `translateX(${edge}px)`;
    this.wipe.setAttribute("aria-valuenow", Math.round(100 * this.split));
    this.wipe.setAttribute("aria-valuetext", `${Math.round(100 * this.split)} % A`);
    this.panes.b.element.style.clipPath = isWipe ? `inset(0 0 0 ${edge}px)` : "";
  }

  get #isStale() {
    return this.element.classList.contains("stale");
  }

  #label(side) {
    if (this.#isStale) return this.#labelBefore(side);
    if (side === "a" && this.mode === "single") return this.labels[this.labelled];
    return this.labels[side];
  }

  /** Name a picture that stays from the run before, whose clips are A and B no more. */
  #labelBefore(side) {
    const [a, b] = ["a", "b"].map((each) => this.labels[each].replace(/^[AB] · /, ""));
    const single = this.labelled === "b" ? b : a;
    const names = { a: this.mode === "single" ? single : a, b, difference: `difference of ${a} and ${b}` };
    return names[side] && `Before: ${names[side]}`;
  }

  #bordersOf(side) {
    if (!this.showsSlabs) return null;
    return side === "difference" ? (this.slabs.a ?? this.slabs.b) : this.slabs[side];
  }

  /** The box of A, or of the difference. */
  get #box() {
    const boxes = layout(this.mode, this.picture, this.size);
    return boxes.a ?? boxes.difference;
  }

  /** The box below a point of the page, and the point in it; A's if there is none. */
  #boxAt({ x, y }) {
    const { left, top } = this.element.getBoundingClientRect();
    const boxes = Object.values(layout(this.mode, this.picture, this.size)).filter(Boolean);
    const isInside = (box) =>
      x - left >= box.left &&
      y - top >= box.top &&
      x - left < box.left + box.width &&
      y - top < box.top + box.height;
    const box = boxes.find(isInside) ?? boxes[0];
    return { box, inside: { x: x - left - box.left, y: y - top - box.top } };
  }
}
