// Which clips can be compared, and what they are called.

import assert from "node:assert/strict";
import test from "node:test";

import { describeRun, labelClip, listChoices } from "../../../assets/page/clip_choices.js";

const ROW = { id: "1", number: 1, parallel: true, ranks: 2, chunk: 1, frames: 5 };
const RUN = {
  ...ROW,
  job: "2",
  number: 2,
  name: "Fish pond.mp4",
  width: 64,
  height: 32,
  source: true,
  rows: [ROW],
};
const LISTED = { ...ROW, name: "Fish pond.mp4", width: 64, height: 32, frames_available: true };

const names = (clips) => clips.map(({ name }) => name);

test("without a list of runs, those of the table can be chosen", () => {
  const { input, others } = listChoices(RUN, []);
  assert.deepEqual(names(input), ["2.source", "1", "2"]);
  assert.deepEqual(others, []);
});

test("runs of other inputs can be chosen if they have frames of this size", () => {
  const runs = [
    { ...LISTED, id: "2", input: "x" },
    { ...LISTED, id: "3", number: 3, input: "x" },
    { ...LISTED, id: "4", number: 4, input: "y", name: "Night.pt", scaling: "raw", source: false },
    { ...LISTED, id: "5", number: 5, input: "y", width: 65 },
    { ...LISTED, id: "6", number: 6, input: "y", frames_available: false },
    { ...LISTED, id: "7", number: 7, input: "z", source: true },
  ];
  const { input, others } = listChoices(RUN, runs);
  assert.deepEqual(names(input), ["2.source", "1", "2", "3"]);
  assert.deepEqual(names(others), ["4", "7.source", "7"]);
  assert.equal(others[0].label, "Night, raw: Run 4, 2 ranks, chunk 1");
});

test("a run whose frames were deleted cannot be chosen", () => {
  const runs = [{ ...LISTED, frames_available: false, input: "x" }];
  assert.deepEqual(names(listChoices(RUN, runs).input), ["2.source", "2"]);
});

test("the VAE is told where runs by several can be chosen", () => {
  const run = { ...RUN, vae: "full", rows: [{ ...ROW, vae: "light" }] };
  assert.deepEqual(
    listChoices(run, []).input.map(({ label }) => label),
    ["Source", "Run 1, light, 2 ranks, chunk 1", "Run 2, full, 2 ranks, chunk 1"],
  );
});

test("a clip's label says input, run and settings", () => {
  assert.equal(describeRun({ ...ROW, parallel: false, ranks: 1 }), "Run 1, rank 0 alone, chunk 1");
  assert.equal(describeRun({ ...ROW, vae: "light" }, true), "Run 1, light, 2 ranks, chunk 1");
  assert.equal(describeRun({ ...ROW, vae: "light" }), "Run 1, 2 ranks, chunk 1");
  assert.equal(labelClip(RUN, false), "Fish pond · Run 2, 2 ranks, chunk 1");
  assert.equal(labelClip(RUN, true), "Fish pond · source");
});
