// Fetching frames: streams that are cut off, clips that are gone, seeking.

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { Feed } from "../../../assets/page/feed.js";
import { HEADER_BYTES } from "../../../assets/page/records.js";

const JPEG_BYTES = 10;
let starts; // where each request began
let answers; // what the next requests get: a Response, or an Error
let feed;

beforeEach(() => {
  starts = [];
  answers = [];
  globalThis.fetch = async (start, { signal }) => {
    starts.push(start);
    const answer = answers.shift() ?? endless();
    if (answer instanceof Error) throw answer;
    signal.addEventListener("abort", () => answer.fail?.(signal.reason));
    return answer;
  };
  globalThis.createImageBitmap = async (jpeg) => ({ jpeg, close() {} });
});

afterEach(() => {
  feed.close();
  mock.restoreAll();
});

function records(first, last) {
  const size = HEADER_BYTES + JPEG_BYTES;
  const bytes = new Uint8Array(size * (last - first + 1));
  const view = new DataView(bytes.buffer);
  for (let index = first; index <= last; index++) {
    view.setUint32(size * (index - first), index, true);
    view.setUint32(size * (index - first) + 4, JPEG_BYTES, true);
  }
  return bytes;
}

/** A stream that has not ended; `fail` ends it with an error. */
function endless(bytes = new Uint8Array(0)) {
  let controller;
  const stream = new ReadableStream({
    start(it) {
      controller = it;
      if (bytes.length) controller.enqueue(bytes);
    },
  });
  return Object.assign(new Response(stream), { fail: (reason) => controller.error(reason) });
}

/** Start a feed; resolves when the condition holds after a change. */
function until(condition) {
  feed = new Feed((start) => start);
  return new Promise((resolve) => {
    feed.start(() => condition() && resolve());
  });
}

test("a whole clip", async () => {
  answers = [new Response(records(0, 4))];
  await until(() => feed.complete);
  assert.deepEqual([feed.count, feed.gone, starts], [5, false, [0]]);
});

test("a stream that is cut off within a frame goes on where it stopped", async () => {
  answers = [new Response(records(0, 3).subarray(0, -1)), new Response(records(3, 4))];
  await until(() => feed.complete);
  assert.deepEqual([feed.count, starts], [5, [0, 3]]);
});

test("a server that does not answer is asked again", async () => {
  answers = [new TypeError("network"), new Response("", { status: 502 }), new Response(records(0, 0))];
  await until(() => feed.complete);
  assert.deepEqual([feed.count, starts], [1, [0, 0, 0]]);
});

test("a stream that is dead is asked for again, and one that waits for frames is left alone", async () => {
  let now = 0;
  mock.method(performance, "now", () => now);
  answers = [endless(records(0, 4)), new Response(records(5, 9))];
  await until(() => feed.count === 5);
  const later = (milliseconds, numFrames, ended) => {
    now += milliseconds;
    feed.expect(numFrames, ended);
  };
  later(0, 5, false); // nothing more is decoded for an hour
  later(3_600_000, 5, false);
  later(0, 10, false); // the new frames may be on their way
  later(9_999, 10, false);
  assert.deepEqual(starts, [0]);
  later(1, 10, false);
  await new Promise((resolve) => feed.start(() => feed.complete && resolve()));
  assert.deepEqual([feed.count, starts], [10, [0, 5]]);
  later(20_000, 10, true);
  later(20_000, 10, true);
  assert.equal(starts.length, 2);
});

test("a stream whose end does not come is asked for again", async () => {
  let now = 0;
  mock.method(performance, "now", () => now);
  answers = [endless(records(0, 4)), new Response("", { status: 404 })];
  await until(() => feed.count === 5);
  feed.expect(5, true);
  now = 10_000;
  feed.expect(5, true);
  await new Promise((resolve) => feed.start(() => feed.gone && resolve()));
  assert.deepEqual(starts, [0, 5]);
});

for (const status of [404, 410]) {
  test(`a clip that is answered by ${status} is gone`, async () => {
    answers = [new Response("", { status })];
    await until(() => feed.gone);
    assert.deepEqual([feed.count, feed.complete, starts], [0, false, [0]]);
  });
}

test("bitmaps are made from the playhead on, and closed far from it", async () => {
  answers = [new Response(records(0, 99))];
  await until(() => {
    feed.prepare(0);
    return feed.bitmaps.has(23);
  });
  assert.deepEqual(
    [...feed.bitmaps.keys()].sort((a, b) => a - b),
    Array.from({ length: 24 }, (_, i) => i),
  );
  feed.prepare(20);
  assert.deepEqual(
    [15, 16].map((frame) => feed.bitmaps.has(frame)),
    [false, true],
  );
});

test("a frame that the stream will not bring soon is asked for at once", async () => {
  answers = [endless(records(0, 9)), new Response(records(100, 104))];
  await until(() => feed.count === 10);
  feed.count = 105; // it had been there, and was dropped
  feed.prepare(100);
  await new Promise((resolve) => setTimeout(resolve));
  assert.deepEqual([starts, feed.complete], [[0, 100], true]);
});

test("a closed feed asks no more", async () => {
  answers = [endless(records(0, 0))];
  await until(() => feed.count === 1);
  feed.close();
  await new Promise((resolve) => setTimeout(resolve, 250));
  assert.deepEqual([starts, feed.bitmaps.size], [[0], 0]);
});

test("a feed that is paused asks for nothing, and goes on where it stopped", async () => {
  answers = [endless(records(0, 1)), new Response(records(2, 3))];
  await until(() => feed.count === 2);
  feed.pause();
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual(starts, [0]);
  await new Promise((resolve) => feed.start(() => feed.complete && resolve()));
  assert.deepEqual([starts, feed.count], [[0, 2], 4]);
});
