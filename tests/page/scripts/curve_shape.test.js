// The shape of the curve below the scrubber.

import assert from "node:assert/strict";
import test from "node:test";

import { curveShape, describeRange, HEIGHT, WIDTH } from "../../../assets/page/curve_shape.js";

const SAME = Number.POSITIVE_INFINITY;

test("frames lie where the scrubber has them", () => {
  const { line, bars } = curveShape([40, 50], [1, 2], 5);
  assert.equal(line, `M0 90L${WIDTH / 4} 42`);
  assert.equal(bars, `M0 ${HEIGHT}V75M250 ${HEIGHT}V50`);
});

test("identical frames lie at the top, without a bar", () => {
  const { line, bars } = curveShape([SAME, SAME, 30], [0, 0, 9], 3);
  assert.equal(line, "M0 28L500 28L1000 90");
  assert.equal(bars, `M1000 ${HEIGHT}V50`);
});

test("a single frame is a point, where the scrubber has it", () => {
  const { line, bars } = curveShape([40], [3], 1);
  assert.deepEqual([line, bars], ["M0 90L0 90", `M0 ${HEIGHT}V50`]);
});

test("the range is told", () => {
  assert.equal(describeRange([SAME, SAME], [0, 0]), "PSNR: identical");
  assert.equal(describeRange([38.204, 41], [3, 2]), "PSNR 38.20 to 41.00 dB · largest difference 3 of 255");
  assert.equal(describeRange([50, SAME], [1, 0]), "PSNR 50.00 to identical · largest difference 1 of 255");
});
