// Where the pictures of each mode lie.

import assert from "node:assert/strict";
import test from "node:test";

import { labels, layout, MODES, wipeSplit } from "../../../assets/page/modes.js";

const WIDE = { width: 1000, height: 400 };
const NARROW = { width: 400, height: 400 };

test("one picture is as large as a frame", () => {
  for (const mode of ["decoded", "source", "wipe", "difference"]) {
    assert.deepEqual(layout(mode, { width: 832, height: 480 }, WIDE), {
      width: 832,
      height: 480,
      left: 0,
      top: 0,
      stacked: false,
    });
  }
});

test("two pictures stand side by side on a wide stage", () => {
  assert.deepEqual(layout("side", { width: 832, height: 480 }, WIDE), {
    width: 1669,
    height: 480,
    left: 837,
    top: 0,
    stacked: false,
  });
});

test("wide pictures stand one above the other on a narrow stage", () => {
  assert.deepEqual(layout("side", { width: 832, height: 480 }, NARROW), {
    width: 832,
    height: 965,
    left: 0,
    top: 485,
    stacked: true,
  });
});

test("high pictures stand side by side on a narrow stage", () => {
  assert.equal(layout("side", { width: 480, height: 832 }, NARROW).stacked, false);
});

test("of equals, side by side", () => {
  assert.equal(layout("side", { width: 256, height: 256 }, NARROW).stacked, false);
});

test("both pictures lie on the canvas, with a gap between them", () => {
  for (const stage of [WIDE, NARROW]) {
    for (const frame of [
      { width: 16, height: 8 },
      { width: 1920, height: 1088 },
      { width: 8, height: 512 },
    ]) {
      const { width, height, left, top } = layout("side", frame, stage);
      assert.deepEqual([left + frame.width, top + frame.height], [width, height]);
      assert.ok(Math.max(left - frame.width, top - frame.height) >= 2);
    }
  }
});

test("each mode says what is to be seen", () => {
  assert.deepEqual(
    MODES.map((mode) => labels(mode, true)),
    [
      ["Decoded", ""],
      ["Source", "Decoded"],
      ["Source", "Decoded"],
      ["Difference × 8", ""],
    ],
  );
  assert.deepEqual(labels("source", true), ["Source", ""]);
  assert.deepEqual(labels("decoded", false), ["", ""]); // there is nothing to confuse it with
});

test("a wipe's edge follows the pointer, and stays on the picture", () => {
  const box = { left: 100, width: 200 };
  assert.deepEqual(
    [100, 150, 300, 0, 999].map((x) => wipeSplit(x, box)),
    [0, 0.25, 1, 0, 1],
  );
});
