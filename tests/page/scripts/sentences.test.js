// Every state of a run, and every comparison of two, in words.

import assert from "node:assert/strict";
import test from "node:test";

import {
  compareRuns,
  describe,
  describeLost,
  formatDecibel,
  formatNumber,
  formatPeaks,
  formatSeconds,
  notes,
  plural,
  tellDifference,
  tellQuality,
  tellSame,
} from "../../../assets/page/sentences.js";

const DECODE = {
  state: "running",
  stopping: false,
  message: "Decoding.",
  place: 0,
  ...{ phase: "decode", phases: { decode: [2, 5] }, frames: 5, num_frames: 17 },
  parallel: true,
  ranks: 2,
  elapsed: 1.234,
  encode_seconds: null,
  decode_seconds: null,
};
const ROUNDTRIP = { ...DECODE, phase: "encode", phases: { encode: [3, 5], decode: [0, 5] }, frames: 0 };
const WAITING = { ...DECODE, state: "queued", message: "Waiting.", frames: 0 };

const STATES = [
  ["queued behind one run", { ...WAITING, place: 1 }, "Waiting", "1 run before this one."],
  ["queued behind three runs", { ...WAITING, place: 3 }, "Waiting", "3 runs before this one."],
  [
    "reading the input",
    { ...WAITING, reading: true, message: "Reading 120 of about 480 frames." },
    "Reading",
    "120 of about 480 frames.",
  ],
  [
    "reading the input behind a run",
    { ...WAITING, reading: true, place: 1, message: "Reading the latent." },
    "Reading",
    "the latent. 1 run before this one.",
  ],
  [
    "an input that is refused late",
    { ...WAITING, state: "failed", refused: true, message: "a.mp4 is damaged." },
    "Not run",
    "a.mp4 is damaged.",
    "bad",
  ],
  ["next in line", WAITING, "Waiting", "Next in line."],
  [
    "queued until the GPUs are ready",
    { ...WAITING, message: "The GPUs are being got ready." },
    "Waiting",
    "The GPUs are being got ready.",
  ],
  ["decoding", DECODE, "Decoding", "5 of 17 frames, on 2 ranks."],
  [
    "decoding alone",
    { ...DECODE, parallel: false, ranks: 1 },
    "Decoding",
    "5 of 17 frames, on rank 0 alone.",
  ],
  ["decoding on the only rank", { ...DECODE, ranks: 1 }, "Decoding", "5 of 17 frames, on 1 rank."],
  ["encoding", ROUNDTRIP, "Encoding", "3 of 5 latent frames, on 2 ranks."],
  [
    "encoding and decoding by turns",
    { ...ROUNDTRIP, phase: "decode", frames: 9 },
    "Encoding and decoding",
    "9 of 17 frames, on 2 ranks.",
  ],
  [
    "decoding what is encoded",
    { ...ROUNDTRIP, phase: "decode", phases: { encode: [5, 5], decode: [1, 5] }, frames: 1 },
    "Decoding",
    "1 of 17 frames, on 2 ranks.",
  ],
  ["stopping", { ...DECODE, stopping: true }, "Stopping", "at the end of the present chunk."],
  [
    "writing",
    { ...DECODE, state: "writing", frames: 17 },
    "Decoded",
    "17 frames in 1.23 s; writing the files to download.",
    "good",
  ],
  [
    "finished",
    { ...DECODE, state: "finished", message: "Finished.", frames: 17, elapsed: 12.34 },
    "Finished",
    "17 frames in 12.3 s, on 2 ranks.",
    "good",
  ],
  [
    "finished, and more to say",
    { ...DECODE, state: "finished", message: "Finished. No MP4.", frames: 1 },
    "Finished",
    "1 frame in 1.23 s, on 2 ranks. No MP4.",
    "good",
  ],
  [
    "finished there and back",
    { ...ROUNDTRIP, state: "finished", message: "Finished.", encode_seconds: 0.5, decode_seconds: 11 },
    "Finished",
    "0 frames in 1.23 s (encoding 0.50 s, decoding 11.0 s), on 2 ranks.",
    "good",
  ],
  [
    "stopped",
    { ...DECODE, state: "stopped", message: "Stopped after 5 frames." },
    "Stopped",
    "after 5 frames. They stay watchable.",
  ],
  [
    "stopped before the first frame",
    { ...DECODE, state: "stopped", message: "Stopped before it began.", frames: 0 },
    "Stopped",
    "before it began.",
  ],
  [
    "failed",
    { ...DECODE, state: "failed", message: "Rank 1: no memory." },
    "Failed",
    "Rank 1: no memory.",
    "bad",
  ],
];

for (const [name, run, title, text, tone] of STATES) {
  test(`a run that is ${name}`, () => {
    const found = describe(run);
    assert.deepEqual([found.title, found.text, found.tone], [title, text, tone]);
  });
}

test("a run that ended with its server", () => {
  assert.deepEqual(describeLost("", "Run it again."), {
    title: "Lost",
    tone: "bad",
    text: "The server was restarted, and this run with it. Run it again.",
  });
  assert.match(
    describeLost("rank 1 died", "").text,
    /^The server was restarted \(rank 1 died\), and this run/,
  );
});

const FOUND = {
  before: 1,
  after: 2,
  parallel: [true, false],
  cold: [false, false],
  vae: ["full", "full"],
  speedup: 0.5,
  max_abs: 0,
  frame: 0,
  row: 0,
  column: 0,
  num_different: 0,
  num_pixels: 1000,
};

const SPEEDS = [
  [
    "parallel first, and faster",
    [true, false],
    0.5,
    "Parallel (run 1) was 2.00 times as fast as rank 0 alone (run 2).",
  ],
  [
    "parallel first, and slower",
    [true, false],
    1.25,
    "Parallel (run 1) took 1.25 times as long as rank 0 alone (run 2).",
  ],
  [
    "parallel last, and faster",
    [false, true],
    1.5,
    "Parallel (run 2) was 1.50 times as fast as rank 0 alone (run 1).",
  ],
  [
    "parallel last, and slower",
    [false, true],
    0.8,
    "Parallel (run 2) took 1.25 times as long as rank 0 alone (run 1).",
  ],
  ["both parallel, the second faster", [true, true], 1.1, "Run 2 was 1.10 times as fast as run 1."],
  ["both alone, the second slower", [false, false], 0.5, "Run 2 took 2.00 times as long as run 1."],
  ["both as fast", [true, true], 1, "Run 2 was 1.00 times as fast as run 1."],
];

for (const [name, parallel, speedup, sentence] of SPEEDS) {
  test(`two runs: ${name}`, () => {
    assert.equal(compareRuns({ ...FOUND, parallel, speedup }), `${sentence} Their frames are identical.`);
  });
}

test("two runs by different VAEs", () => {
  const found = { ...FOUND, vae: ["full", "light"], speedup: 1.5 };
  assert.equal(
    compareRuns(found),
    "light (run 2) was 1.50 times as fast as full (run 1). Their frames are identical.",
  );
  const refusal = "The frames of run 1 (8x8) and run 2 (16x16) are not compared: they are of two sizes.";
  assert.equal(compareRuns({ before: 1, after: 2, refusal }), refusal);
});

test("two runs of unknown speed", () => {
  assert.equal(compareRuns({ ...FOUND, speedup: null }), "Their frames are identical.");
});

test("two runs whose frames differ", () => {
  const found = { ...FOUND, speedup: null, max_abs: 3, frame: 4, row: 5, column: 6, num_different: 15 };
  assert.equal(
    compareRuns(found),
    "Largest difference of a pixel: 3 of 255, in frame 5, row 5, column 6; 1.5 % of pixels differ.",
  );
  assert.match(compareRuns({ ...found, num_different: 1000 }), /; 100 % of pixels differ\.$/);
});

test("numbers", () => {
  assert.deepEqual([0, 1.005, 9.99, 10, 123.45].map(formatSeconds), [
    "0.00 s",
    "1.00 s",
    "9.99 s",
    "10.0 s",
    "123.5 s",
  ]);
  assert.equal(formatNumber(24), "24.0");
  assert.deepEqual([formatSeconds(null), formatNumber(null), formatPeaks([])], ["–", "–", "–"]);
  assert.equal(formatPeaks([2 ** 20, 1.6 * 2 ** 20]), "1 / 2 MiB");
  assert.deepEqual([formatDecibel(31.234), formatDecibel("inf")], ["31.23 dB", "identical"]);
  assert.deepEqual([plural(0, "rank"), plural(1, "rank")], ["0 ranks", "1 rank"]);
});

test("a warning that the message has is not said again", () => {
  const run = { note: "Cropped to 200 x 120.", warning: "Frames are kept in memory", message: "Decoding." };
  assert.equal(notes(run), "Cropped to 200 x 120. Frames are kept in memory.");
  assert.equal(notes({ ...run, message: "Finished. Frames are kept in memory." }), "Cropped to 200 x 120.");
  assert.equal(notes({ ...run, note: "", warning: "" }), "");
});

test("a difference says what is on the borders, and where it is largest", () => {
  const same = { on_borders: 0, elsewhere: 0, psnr: "inf", row: 0, column: 0 };
  assert.equal(tellDifference(same), "largest difference 0 on the borders, 0 elsewhere.");
  const one = { on_borders: 1, elsewhere: 0, psnr: 84.1, row: 128, column: 7 };
  assert.equal(
    tellDifference(one),
    "largest difference 1 on the borders, 0 elsewhere (x 7, y 128), PSNR 84.10 dB.",
  );
  assert.equal(tellDifference({ on_borders: null, elsewhere: 3 }), "largest difference 3.");
});

test("counts of one", () => {
  const one = { ...DECODE, frames: 0, num_frames: 1, phases: { decode: [0, 1], encode: [0, 1] } };
  assert.equal(describe(one).text, "0 of 1 frame, on 2 ranks.");
  assert.equal(describe({ ...one, phase: "encode" }).text, "0 of 1 latent frame, on 2 ranks.");
});

test("what is on the stage is called exact only if it is", () => {
  const still = { still: true, isExact: true, mode: "side", shown: 3 };
  assert.equal(tellQuality(still), "exact");
  assert.equal(tellQuality({ ...still, isExact: false }), "preview, the exact frame is on its way");
  assert.equal(tellQuality({ ...still, isExact: false, isLost: true }), "preview, the exact frame is gone");
  const playing = { ...still, still: false, isExact: false };
  assert.equal(tellQuality(playing), "");
  assert.equal(tellQuality({ ...playing, mode: "difference" }), "preview, exact when paused");
  assert.equal(tellQuality({ ...playing, mode: "difference", shown: -1 }), "");
});

test("one clip is not compared with itself", () => {
  assert.equal(tellSame(false), "A and B are the same run: choose another one to compare.");
  assert.equal(tellSame(true), "A and B are the same source: choose another one to compare.");
});

test("a run that decodes says how long it will take", () => {
  const text = (rate, frames) => describe({ ...DECODE, rate, frames }).text;
  assert.equal(text(null, 5), "5 of 17 frames, on 2 ranks.");
  assert.equal(text(2, 5), "5 of 17 frames, on 2 ranks. About 6 s left.");
  assert.equal(text(100, 5), "5 of 17 frames, on 2 ranks. Less than a second left.");
  assert.equal(text(0.1, 5), "5 of 17 frames, on 2 ranks. About 2 min left.");
});

test("a run that was the first of its size is said to be slower", () => {
  const told = (cold) => compareRuns({ ...FOUND, cold });
  assert.match(told([true, false]), / Run 1 was the first of its size, so its time includes warming up: /);
  assert.match(told([false, true]), / Run 2 was the first of its size/);
  assert.doesNotMatch(told([true, true]), /first/);
});
