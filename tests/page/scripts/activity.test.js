// What the timeline draws.

import assert from "node:assert/strict";
import test from "node:test";

import {
  busyShare,
  describeBlock,
  joinChunks,
  parseActivity,
  ticks,
  timeSpan,
} from "../../../assets/page/activity.js";

const work = (chunk, start, compute, wait = 0, phase = "decode") =>
  parseActivity([0, phase, chunk, start, compute, wait]);

test("ticks stand at round numbers", () => {
  assert.deepEqual(ticks(10, 5), [0, 2, 4, 6, 8, 10]);
  assert.deepEqual(ticks(7, 3), [0, 5]);
  assert.deepEqual(ticks(1, 1), [0, 1]);
  assert.deepEqual(
    ticks(0.3, 3).map((tick) => tick.toFixed(3)),
    ["0.000", "0.100", "0.200", "0.300"],
  );
  assert.deepEqual(ticks(1234, 4), [0, 500, 1000]);
});

test("ticks are never denser than asked for, and there is always the first", () => {
  for (const span of [1e-4, 0.013, 0.99, 1, 3.7, 59, 1e4]) {
    for (const count of [0, 0.4, 1, 2, 7.5, 20]) {
      const found = ticks(span, count);
      assert.equal(found[0], 0);
      assert.ok(found.length - 1 <= Math.max(1, count), `${found.length} ticks for ${span} s, ${count}`);
      assert.ok(found.at(-1) <= span * (1 + 1e-6));
    }
  }
});

test("thin chunks are joined, those of two phases are not", () => {
  const found = joinChunks(
    [work(0, 0, 1, 1, "encode"), work(0, 2, 0.1), work(1, 2.2, 0.1, 0.1), work(2, 2.5, 3), work(3, 6, 1)],
    0.4,
  );
  assert.deepEqual(
    found.map(({ phase, first, last }) => [phase, first, last]),
    [
      ["encode", 0, 0],
      ["decode", 0, 2], // until the block is wide enough
      ["decode", 3, 3],
    ],
  );
  assert.equal(found[1].start, 2);
  assert.ok(Math.abs(found[1].compute - 3.2) < 1e-9 && Math.abs(found[1].wait - 0.1) < 1e-9);
});

test("joining changes no activity", () => {
  const activities = [work(0, 0, 0.1), work(1, 0.1, 0.1)];
  joinChunks(activities, 1);
  assert.equal(activities[0].compute, 0.1);
});

test("a block is described with its chunks counted from 1", () => {
  const block = { phase: "decode", first: 0, last: 0, compute: 0.5, wait: 0.25 };
  assert.equal(
    describeBlock(1, block),
    "Rank 1, decode, chunk 1: 0.500 s computing, 0.250 s waiting for neighbours",
  );
  assert.match(describeBlock(0, { ...block, last: 4 }), /^Rank 0, decode, chunk 1 to 5: /);
});

test("the share of a rank", () => {
  assert.equal(busyShare([work(0, 0, 1, 1), work(1, 2, 0.5)], 3), "50 %");
  assert.equal(busyShare([], 3), "idle");
});

test("the drawing covers the newest activities of all ranks", () => {
  const activities = [work(0, 0, 9), work(1, 1, 1, 0.5), work(1, 1, 2)];
  assert.equal(timeSpan(activities, 1, 2), 3);
  assert.equal(timeSpan(activities, 5, 2), 5);
});
