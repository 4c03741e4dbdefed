// Which frame is drawn, and when.

import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import { Player } from "../../../assets/page/player.js";
import { SafeStorage } from "../../../assets/page/storage.js";

const FPS = 10; // a frame every 100 ms
let waiting; // callbacks for the next repaint
let drawn; // [mode, frame] as the stage got them
let player;

beforeEach(() => {
  waiting = [];
  drawn = [];
  globalThis.requestAnimationFrame = (callback) => waiting.push(callback);
  const draw = (mode, { decoded, source }) => drawn.push([mode, (decoded ?? source).frame]);
  player = new Player({ draw, markStale() {} }, new SafeStorage(() => null));
});

/** A clip's frames, all of them ready. */
function clip(count, complete = true) {
  const bitmaps = new Map(Array.from({ length: count }, (_, i) => [i, { frame: i }]));
  return { count, complete, gone: false, bitmaps, start() {}, prepare() {}, close() {} };
}

function open(decoded, source = null) {
  player.open({ numFrames: 5, fps: FPS, decoded, source });
}

/** Repaint at these times, in milliseconds. */
function repaint(...times) {
  for (const now of times) for (const callback of waiting.splice(0)) callback(now);
}

const frames = () => drawn.map(([, frame]) => frame);

test("frames are drawn on time", () => {
  open(clip(5));
  repaint(1000, 1050, 1099, 1150, 1199, 1210);
  assert.deepEqual(frames(), [0, 1, 2]);
});

test("a clip that falls behind is not hurried", () => {
  open(clip(5));
  repaint(1000, 1900, 1916, 1932, 2001);
  assert.deepEqual(frames(), [0, 1, 2]);
});

test("playing waits for frames, and ends after the last", () => {
  const decoded = clip(2, false);
  open(decoded);
  repaint(1000, 1100, 1200, 1300);
  assert.deepEqual([frames(), player.playing], [[0, 1], true]);
  Object.assign(decoded, clip(3));
  player.wake();
  repaint(1400, 1500, 1600);
  assert.deepEqual([frames(), player.playing, player.over], [[0, 1, 2], false, true]);
});

test("a loop begins again", () => {
  player.toggleLoop();
  open(clip(2));
  repaint(1000, 1100, 1200, 1300, 1400);
  assert.deepEqual(frames().slice(0, 3), [0, 1, 0]);
});

test("seeking pauses, and stays within the clip", () => {
  open(clip(5));
  for (const [wish, shown] of [
    [3, 3],
    [99, 4],
    [-1, 0],
  ]) {
    player.seek(wish);
    repaint(0);
    assert.deepEqual([player.shown, player.playing], [shown, false]);
  }
});

test("play at the end begins again", () => {
  open(clip(2));
  player.seek(1);
  repaint(0);
  player.toggle();
  repaint(10, 20, 130);
  assert.deepEqual(frames(), [1, 0, 1]);
});

test("a frame that is not ready is drawn once it is", () => {
  const decoded = clip(3);
  decoded.bitmaps.delete(0);
  open(decoded);
  repaint(0);
  assert.deepEqual(frames(), []);
  decoded.bitmaps.set(0, { frame: 0 });
  player.wake();
  repaint(10);
  assert.deepEqual(frames(), [0]);
});

test("a mode is kept for the next clip that has a source", () => {
  open(clip(1), clip(1));
  assert.equal(player.mode, "side");
  player.chooseMode("wipe");
  open(clip(1));
  assert.equal(player.mode, "decoded");
  open(clip(1), clip(1));
  assert.equal(player.mode, "wipe");
  repaint(0);
  assert.deepEqual(drawn.at(-1), ["wipe", 0]);
});

test("an unknown mode is not believed", () => {
  player.settings.set("wanvae-mode", "of a later version");
  open(clip(1), clip(1));
  assert.equal(player.mode, "side");
});

test("a deleted source is not waited for", () => {
  open(clip(1), { ...clip(0), gone: true });
  repaint(0);
  assert.deepEqual(drawn, [["decoded", 0]]);
});

test("a source that is shorter ends before", () => {
  open(clip(3), clip(1));
  repaint(0, 100, 200);
  assert.deepEqual(drawn.slice(0, 2), [
    ["side", 0],
    ["decoded", 1],
  ]);
});

test("the source is shown until something is decoded", () => {
  open(clip(0, false), clip(5));
  player.showPreview(3);
  repaint(0);
  assert.deepEqual([drawn, player.shown], [[["source", 3]], -1]);
});
