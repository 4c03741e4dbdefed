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
  const draw = (mode, { a }, isPeeking) => drawn.push([isPeeking ? "peek" : mode, a.frame]);
  player = new Player({ draw, markStale() {} }, new SafeStorage(() => null));
});

/** A clip's frames, all of them ready. */
function clip(count, complete = true) {
  const bitmaps = new Map(Array.from({ length: count }, (_, i) => [i, { frame: i }]));
  const feed = { count, complete, gone: false, bitmaps, isFetching: false, isSource: false, prepare() {} };
  feed.start = () => {
    feed.isFetching = true;
  };
  feed.pause = () => {
    feed.isFetching = false;
  };
  feed.hasSoon = (frame) => !feed.gone && frame < feed.count;
  return feed;
}

function source(count) {
  return Object.assign(clip(count), { isSource: true });
}

function open(a, b = null) {
  player.open({ a, b, numFrames: 5, fps: FPS, rate: 40 });
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

test("steps add up, though keys come faster than frames", () => {
  open(clip(5));
  player.seek(3);
  player.step(-1);
  player.step(-1);
  repaint(0);
  player.step(1);
  repaint(10);
  assert.deepEqual([player.shown, player.playing], [2, false]);
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

test("a mode is kept for the next clip that can be compared", () => {
  open(clip(1), source(1));
  assert.equal(player.mode, "side");
  player.chooseMode("wipe");
  open(clip(1));
  assert.equal(player.mode, "single");
  open(clip(1), source(1));
  assert.equal(player.mode, "wipe");
  repaint(0);
  assert.deepEqual(drawn.at(-1), ["wipe", 0]);
});

test("an unknown mode is not believed", () => {
  player.settings.set("wanvae-mode", "of a later version");
  open(clip(1), source(1));
  assert.equal(player.mode, "side");
  open(clip(1), clip(1));
  assert.equal(player.mode, "single");
});

test("a deleted clip is not waited for", () => {
  open(clip(1), Object.assign(source(0), { gone: true }));
  repaint(0);
  assert.deepEqual(drawn, [["single", 0]]);
});

test("of two clips, the shorter ends before", () => {
  open(clip(3), source(1));
  repaint(0, 100, 200);
  assert.deepEqual(drawn.slice(0, 2), [
    ["side", 0],
    ["single", 1],
  ]);
});

test("the source is shown until something is decoded", () => {
  open(clip(0, false), source(5));
  player.showPreview(3);
  repaint(0);
  assert.deepEqual([drawn, player.shown], [[["single", 3]], -1]);
});

test("what is not seen is not fetched", () => {
  const [a, b] = [clip(1), source(1)];
  player.settings.set("wanvae-mode", "single");
  open(a, b);
  repaint(0);
  assert.deepEqual([a.isFetching, b.isFetching, drawn], [true, false, [["single", 0]]]);
  player.chooseMode("wipe");
  assert.equal(b.isFetching, true);
  player.chooseMode("single");
  assert.equal(b.isFetching, false);
});

test("B is seen while its key is held", () => {
  open(clip(2), clip(2));
  player.chooseMode("single");
  player.seek(1);
  repaint(0);
  player.peek(true);
  repaint(10);
  player.peek(false);
  repaint(20);
  assert.deepEqual(drawn.slice(-3), [
    ["single", 1],
    ["peek", 1],
    ["single", 1],
  ]);
});

test("other clips keep the frame", () => {
  open(clip(5));
  player.seek(3);
  repaint(0);
  player.choose({ a: clip(5), b: clip(5), numFrames: 5, fps: FPS, rate: null });
  repaint(10);
  assert.deepEqual([player.shown, player.playing, drawn.length], [3, false, 2]);
});

test("a still frame is drawn from the exact pictures once they are there", () => {
  open(clip(3));
  player.seek(2);
  repaint(0);
  assert.deepEqual([player.still, player.isExact], [true, false]);
  player.exactPictures = (frame) => ({ a: { frame: `exact ${frame}` } });
  player.redraw();
  repaint(10);
  assert.deepEqual([frames().at(-1), player.isExact], ["exact 2", true]);
  player.toggle();
  repaint(20, 130);
  assert.equal(player.isExact, false);
});

test("the speed changes how long a frame stays", () => {
  for (const [speed, times, expected] of [
    ["0.5", [1000, 1100, 1200, 1300, 1400], [0, 1, 2]],
    ["2", [1000, 1050, 1100], [0, 1, 2]],
    ["decoding", [1000, 1025, 1050], [0, 1, 2]],
  ]) {
    drawn = [];
    player.chooseSpeed(speed);
    open(clip(5));
    repaint(...times);
    assert.deepEqual(frames(), expected, speed);
  }
});

test("a clip that is faster than the screen leaves frames out", () => {
  player.chooseSpeed("4");
  player.open({ a: clip(9), b: null, numFrames: 9, fps: 24, rate: null }); // 96 a second
  repaint(...Array.from({ length: 7 }, (_, i) => 1000 + (i * 1000) / 60));
  assert.deepEqual(frames(), [1, 3, 5, 7, 8].slice(0, frames().length));
  assert.ok(player.shown >= 7, `${player.shown}`);
});

test("in and out points bound what is played", () => {
  open(clip(5));
  player.seek(1);
  repaint(0);
  player.markIn();
  player.seek(3);
  repaint(10);
  player.markOut();
  assert.deepEqual([player.first, player.last, player.over], [1, 3, true]);
  drawn = [];
  player.toggle();
  repaint(1000, 1010, 1110, 1210, 1310, 1410);
  assert.deepEqual([frames(), player.playing], [[1, 2, 3], false]);
  player.markOut();
  assert.equal(player.last, null);
  player.toggleLoop();
  player.seek(1);
  repaint(1500);
  player.markIn();
  assert.equal(player.first, 0);
});
