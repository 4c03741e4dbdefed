// Which clips are on the stage as A and B.

import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import { Comparison } from "../../../assets/page/comparison.js";

const RUN = {
  job: "x",
  state: "running",
  source: true,
  frames: 0,
  num_frames: 17,
  width: 8,
  height: 8,
  fps: 16,
  rate: null,
};
let player;
let comparison;

beforeEach(() => {
  player = { isLost: false, listen() {}, clear() {}, open: (clips) => Object.assign(player, clips) };
  comparison = new Comparison({}, player);
});

const shown = () => [comparison.a, comparison.b];

test("a run that begins is A, its source B", () => {
  comparison.begin(RUN);
  assert.deepEqual(shown(), ["x", "x.source"]);
});

test("of a run that ends without frames, the source is shown alone", () => {
  comparison.begin({ ...RUN, state: "stopped" });
  assert.deepEqual([...shown(), player.b], ["x.source", null, null]);
  comparison.clear();
  comparison.begin(RUN);
  comparison.hear({ ...RUN, state: "failed" });
  assert.deepEqual(shown(), ["x.source", null]);
});

test("of a run that ends without frames and has no source, nothing is shown", () => {
  comparison.begin({ ...RUN, source: false, state: "stopped" });
  assert.equal(comparison.isOpen, false);
  comparison.begin({ ...RUN, source: false });
  comparison.hear({ ...RUN, source: false, state: "stopped" });
  assert.equal(comparison.isOpen, false);
});

test("a next run is compared with the last one that has frames", () => {
  const run = (job, frames) => ({ ...RUN, job, frames, source: false });
  comparison.begin(run("one", 17));
  comparison.clear();
  comparison.begin(run("two", 0));
  comparison.clear();
  comparison.begin(run("three", 0));
  assert.deepEqual(shown(), ["three", "one"]);
});

test("no exact frame comes of a run that the server has lost", () => {
  comparison.begin(RUN);
  comparison.lose("another");
  assert.equal(player.isLost, false);
  comparison.lose("x");
  assert.equal(player.isLost, true);
});
