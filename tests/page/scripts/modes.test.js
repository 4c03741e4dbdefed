// Where the pictures of each mode lie.

import assert from "node:assert/strict";
import test from "node:test";

import { layout, MODES, visibleRange, wipeSplit } from "../../../assets/page/modes.js";

const WIDE = { width: 1000, height: 400 };
const NARROW = { width: 400, height: 400 };
const PICTURE = { width: 832, height: 480 };

test("each mode shows what it is for, on all of the stage", () => {
  const all = { left: 0, top: 0, ...WIDE };
  assert.deepEqual(layout("single", PICTURE, WIDE), { a: all, b: null, difference: null });
  for (const mode of ["wipe", "flicker"]) {
    assert.deepEqual(layout(mode, PICTURE, WIDE), { a: all, b: all, difference: null });
  }
  assert.deepEqual(layout("difference", PICTURE, WIDE), { a: null, b: null, difference: all });
  assert.equal(MODES.length, 5);
});

test("two pictures stand side by side on a wide stage", () => {
  const { a, b } = layout("side", PICTURE, WIDE);
  assert.deepEqual(a, { left: 0, top: 0, width: 498, height: 400 });
  assert.deepEqual(b, { left: 502, top: 0, width: 498, height: 400 });
});

test("wide pictures stand one above the other on a narrow stage", () => {
  const { a, b } = layout("side", PICTURE, NARROW);
  assert.deepEqual(a, { left: 0, top: 0, width: 400, height: 198 });
  assert.deepEqual(b, { left: 0, top: 202, width: 400, height: 198 });
});

test("high pictures, and of equals, stand side by side", () => {
  for (const picture of [
    { width: 480, height: 832 },
    { width: 256, height: 256 },
  ]) {
    assert.equal(layout("side", picture, NARROW).b.top, 0);
  }
});

test("a wipe's edge follows the pointer, and stays on what is seen of the picture", () => {
  const box = { width: 300, height: 100 };
  assert.deepEqual(visibleRange({ left: 50, scale: 2 }, { width: 100 }, box), { start: 50, stop: 250 });
  assert.deepEqual(visibleRange({ left: -50, scale: 9 }, { width: 100 }, box), { start: 0, stop: 300 });
  const range = { start: 100, stop: 300 };
  assert.deepEqual(
    [100, 150, 300, 0, 999].map((x) => wipeSplit(x, range)),
    [0, 0.25, 1, 0, 1],
  );
});
