// Zooming and moving: where the picture lies.

import assert from "node:assert/strict";
import test from "node:test";

import { FIT, pan, pixelAt, place, zoomStep, zoomTo } from "../../../assets/page/view.js";

const PICTURE = { width: 200, height: 100 };
const SPACE = { width: 400, height: 300 };
const MIDDLE = { x: 201, y: 151 };

/** Return the view after zooming to a scale around a point. */
const zoomed = (scale, point = MIDDLE, view = FIT, ratio = 1) =>
  zoomTo(view, scale, point, PICTURE, SPACE, ratio);

test("all of the picture is seen, in the middle", () => {
  assert.deepEqual(place(FIT, PICTURE, SPACE), { scale: 2, left: 0, top: 50, squares: true });
});

test("pixels are squares from twice their size on the screen", () => {
  assert.equal(place({ ...FIT, scale: 1.9 }, PICTURE, SPACE).squares, false);
  assert.equal(place({ ...FIT, scale: 2 }, PICTURE, SPACE).squares, true);
  assert.equal(place({ ...FIT, scale: 1 }, PICTURE, SPACE, 2).squares, true);
});

test("the point below the pointer stays where it is", () => {
  for (const point of [MIDDLE, { x: 101, y: 121 }, { x: 399, y: 161 }]) {
    for (const scale of [4, 7.3, 40]) {
      const before = pixelAt(point, FIT, PICTURE, SPACE);
      assert.deepEqual(pixelAt(point, zoomed(scale, point), PICTURE, SPACE), before);
    }
  }
});

test("the stage is never empty where the picture could fill it", () => {
  const view = zoomed(8);
  for (const [dx, dy] of [
    [9999, 9999],
    [-9999, -9999],
  ]) {
    const { left, top } = place(pan(view, dx, dy, PICTURE, SPACE), PICTURE, SPACE);
    assert.deepEqual([left, top], dx > 0 ? [0, 0] : [400 - 1600, 300 - 800]);
  }
  // Dragging back begins at once.
  const back = pan(pan(view, 9999, 0, PICTURE, SPACE), -10, 0, PICTURE, SPACE);
  assert.equal(place(back, PICTURE, SPACE).left, -10);
});

test("what is seen as a whole cannot be moved", () => {
  assert.equal(pan(FIT, 50, 50, PICTURE, SPACE), FIT);
});

test("zoom ends at 64 pixels for one, and at all of the picture or 1:1", () => {
  assert.equal(zoomed(999).scale, 64);
  assert.equal(zoomed(999, MIDDLE, FIT, 2).scale, 32);
  assert.equal(zoomed(0.1).scale, 1);
  assert.equal(zoomed(2.001), FIT);
  const large = { width: 4000, height: 2000 };
  assert.equal(zoomTo(zoomed(3), 0.01, MIDDLE, large, SPACE), FIT);
});

test("keys zoom in steps, and back to all of the picture", () => {
  const step = (view, isLarger) => zoomStep(view, isLarger, PICTURE, SPACE);
  assert.equal(step(FIT, true).scale, 3);
  assert.equal(step({ ...FIT, scale: 3.5 }, false).scale, 3);
  assert.equal(step({ ...FIT, scale: 3 }, false), FIT);
  assert.equal(step(FIT, false).scale, 1.5); // a small picture fits larger than it is
  assert.equal(step({ ...FIT, scale: 64 }, true).scale, 64);
});

test("pixels are counted on the picture alone", () => {
  assert.deepEqual(pixelAt({ x: 0, y: 50 }, FIT, PICTURE, SPACE), { x: 0, y: 0 });
  assert.deepEqual(pixelAt({ x: 399, y: 249 }, FIT, PICTURE, SPACE), { x: 199, y: 99 });
  assert.equal(pixelAt({ x: 10, y: 49 }, FIT, PICTURE, SPACE), null);
});
