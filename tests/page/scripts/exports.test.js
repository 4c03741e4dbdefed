// How far a file of another format is, in words.

import assert from "node:assert/strict";
import test from "node:test";

import { describeExport } from "../../../assets/page/exports.js";

const told = (bit_depth, file) => describeExport({ bit_depth, export: file });

test("a file that nobody asked for can be made", () => {
  assert.deepEqual(told(8, null), { action: "Make", progress: null, isBusy: false, text: "" });
  assert.equal(told(16, null).text, "The clip is decoded again for it.");
});

test("a file that is being made tells how far it is, and can be stopped", () => {
  const decoding = { state: "decoding", progress: 0.257, place: 0, message: "" };
  assert.deepEqual(told(16, decoding), {
    action: "Stop",
    progress: 0.257,
    isBusy: true,
    text: "Decoding again, 25 %.",
  });
  assert.equal(told(16, { ...decoding, place: 1 }).text, "Waiting for 1 run.");
  assert.equal(told(16, { ...decoding, place: 2 }).text, "Waiting for 2 runs.");
  assert.equal(told(8, { state: "waiting", progress: 0 }).text, "Waiting for other files.");
  assert.equal(told(8, { state: "writing", progress: 0.999 }).text, "Writing, 99 %.");
});

test("a file that is there is saved; what went wrong is said, and it can be made again", () => {
  const finished = { state: "finished", progress: 1, bytes: 12_345_678, message: "" };
  assert.deepEqual(told(8, finished), { action: "Save", progress: null, isBusy: false, text: "12.3 MB." });
  assert.equal(told(8, { ...finished, bytes: 2_500_000_000 }).text, "2.5 GB.");
  const silent = { ...finished, bytes: 999, message: "The file has no sound: it is damaged." };
  assert.equal(told(8, silent).text, "1 kB. The file has no sound: it is damaged.");
  assert.deepEqual(
    [told(8, { state: "stopped" }).text, told(8, { state: "stopped" }).action],
    ["Stopped.", "Make"],
  );
  assert.equal(told(8, { state: "failed", message: "The disk is full." }).text, "The disk is full.");
});
