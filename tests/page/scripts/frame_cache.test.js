// Which frames are dropped when they take too much memory.

import assert from "node:assert/strict";
import test from "node:test";

import { FrameCache } from "../../../assets/page/frame_cache.js";

const frame = (size) => ({ size });

function kept(cache, numFrames) {
  return Array.from({ length: numFrames }, (_, i) => i).filter((i) => cache.has(i));
}

function filled(playhead, numFrames, maxBytes = 100, ahead = 2) {
  const cache = new FrameCache(maxBytes, ahead);
  for (let i = 0; i < numFrames; i++) cache.keep(i, frame(10), playhead);
  return cache;
}

test("nothing is dropped up to the limit", () => {
  const cache = filled(0, 10);
  assert.deepEqual(kept(cache, 20), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  assert.equal(cache.numBytes, 100);
  assert.equal(cache.isFull, false);
});

test("what was played long ago goes first", () => {
  assert.deepEqual(kept(filled(12, 13), 20), [3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
});

test("what will be played late goes first when the playhead stands", () => {
  assert.deepEqual(kept(filled(0, 30), 30), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
});

test("of two frames as far the earlier goes", () => {
  const cache = new FrameCache(20, 0);
  cache.keep(4, frame(10), 5);
  cache.keep(6, frame(10), 5);
  cache.keep(5, frame(10), 5);
  assert.deepEqual(kept(cache, 10), [5, 6]);
});

test("frames near the playhead stay, and the cache is full", () => {
  const cache = filled(2, 5, 30);
  assert.deepEqual(kept(cache, 5), [0, 1, 2, 3, 4]);
  assert.equal(cache.isFull, true);
  cache.keep(5, frame(10), 2);
  assert.equal(cache.has(5), false);
});

test("a large frame takes the place of several small ones", () => {
  const cache = filled(9, 10);
  cache.keep(10, frame(35), 9);
  assert.deepEqual(kept(cache, 20), [4, 5, 6, 7, 8, 9, 10]);
  assert.equal(cache.numBytes, 95);
});

test("gaps in the clip are no hindrance", () => {
  const cache = new FrameCache(40, 1);
  for (const index of [0, 1, 500, 501, 900]) cache.keep(index, frame(10), 0);
  assert.deepEqual(kept(cache, 1000), [0, 1, 500, 501]);
  cache.keep(2, frame(10), 0);
  assert.deepEqual(kept(cache, 1000), [0, 1, 2, 500]);
});

test("a frame that comes twice counts once", () => {
  const cache = filled(0, 3);
  cache.keep(1, frame(99), 0);
  assert.equal(cache.numBytes, 30);
  assert.equal(cache.get(1).size, 10);
});

test("a cleared cache is empty", () => {
  const cache = filled(0, 3);
  cache.clear();
  assert.equal(cache.numBytes, 0);
  assert.deepEqual(kept(cache, 3), []);
});
