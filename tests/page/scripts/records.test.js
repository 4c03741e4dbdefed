// A stream of records, cut wherever a network may cut it.

import assert from "node:assert/strict";
import test from "node:test";

import { HEADER_BYTES, RecordParser } from "../../../assets/page/records.js";

function record(index, seconds, jpeg) {
  const bytes = new Uint8Array(HEADER_BYTES + jpeg.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, index, true);
  view.setUint32(4, jpeg.length, true);
  view.setFloat64(8, seconds, true);
  bytes.set(jpeg, HEADER_BYTES);
  return bytes;
}

const FRAMES = [
  { index: 7, seconds: 0.25, jpeg: Uint8Array.of(1, 2, 3) },
  { index: 8, seconds: 0.5, jpeg: new Uint8Array(0) },
  { index: 2 ** 32 - 1, seconds: 1e9, jpeg: Uint8Array.from({ length: 300 }, (_, i) => i % 256) },
];
const STREAM = Uint8Array.from(
  FRAMES.flatMap(({ index, seconds, jpeg }) => [...record(index, seconds, jpeg)]),
);

/** Give the stream in pieces that end at the given places; return all records. */
function parse(parser, ends) {
  const records = [];
  let start = 0;
  for (const end of [...ends, STREAM.length]) {
    records.push(...parser.push(STREAM.subarray(start, end)));
    start = end;
  }
  return records;
}

test("a stream in one piece", () => {
  const parser = new RecordParser();
  assert.deepEqual(parse(parser, []), FRAMES);
  assert.equal(parser.numPending, 0);
});

test("a stream cut at any one place, and at any two", () => {
  for (let first = 0; first <= STREAM.length; first++) {
    assert.deepEqual(parse(new RecordParser(), [first]), FRAMES);
    for (let second = first; second <= STREAM.length; second += 7) {
      assert.deepEqual(parse(new RecordParser(), [first, second]), FRAMES);
    }
  }
});

test("a stream of single bytes", () => {
  const ends = Array.from(STREAM.keys());
  assert.deepEqual(parse(new RecordParser(), ends), FRAMES);
});

test("a piece of a larger buffer", () => {
  const padded = new Uint8Array(STREAM.length + 5);
  padded.set(STREAM, 5);
  assert.deepEqual(new RecordParser().push(padded.subarray(5)), FRAMES);
});

test("records come as soon as they are complete", () => {
  const parser = new RecordParser();
  const end = HEADER_BYTES + 3;
  assert.deepEqual(parser.push(STREAM.subarray(0, end - 1)), []);
  assert.equal(parser.numPending, end - 1);
  assert.deepEqual(parser.push(STREAM.subarray(end - 1, end)), FRAMES.slice(0, 1));
  assert.equal(parser.numPending, 0);
});

test("a stream that ends within a frame leaves bytes over", () => {
  const parser = new RecordParser();
  parser.push(STREAM.subarray(0, STREAM.length - 1));
  assert.equal(parser.numPending, HEADER_BYTES + 299);
});
