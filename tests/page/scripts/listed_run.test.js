// What the list of runs says about a run, and which run the page's address names.

import assert from "node:assert/strict";
import test from "node:test";
import { parse } from "../../../assets/page/choices.js";
import {
  isActive,
  nameRun,
  tellAge,
  tellOutcome,
  tellProblem,
  tellSettings,
} from "../../../assets/page/listed_run.js";
import { addressedRun, addressOf } from "../../../assets/page/run_address.js";

const RUN = {
  id: "abc",
  name: "clip.pt",
  number: 3,
  state: "finished",
  parallel: true,
  ranks: 2,
  chunk: 4,
  scaling: "raw",
  vae: "demo (Wan 2.1 VAE, width 16)",
  width: 832,
  height: 480,
  frames: 17,
  num_frames: 81,
  seconds: 1.5,
  psnr: null,
  frames_available: true,
};

test("settings", () => {
  assert.equal(tellSettings(RUN), "832 × 480 · 2 ranks · chunk 4 · raw · demo");
  const other = { ...RUN, parallel: false, scaling: "", vae: "", width: 0 };
  assert.equal(tellSettings(other), "rank 0 alone · chunk 4");
});

test("why a run has failed", () => {
  const refused = {
    ...RUN,
    state: "failed",
    frames: 0,
    refused: true,
    message: "It is damaged.",
    problem: "",
  };
  assert.deepEqual([tellOutcome(refused), tellProblem(refused)], ["run 3: not run", "It is damaged."]);
  assert.equal(tellProblem({ ...RUN, problem: "", message: "Finished." }), "");
  assert.equal(tellProblem({ ...RUN, problem: "Not kept.", message: "Finished." }), "Not kept.");
});

test("outcomes", () => {
  const waiting = { ...RUN, state: "running", frames: 0, num_frames: 1 };
  assert.equal(tellOutcome(waiting), "run 3: 0 of 1 frame");
  assert.equal(tellOutcome(RUN), "run 3: 17 frames in 1.50 s");
  assert.equal(tellOutcome({ ...RUN, psnr: 31.25 }), "run 3: 17 frames in 1.50 s · 31.25 dB");
  assert.equal(tellOutcome({ ...RUN, state: "stopped" }), "run 3: stopped, 17 frames in 1.50 s");
  assert.equal(tellOutcome({ ...RUN, state: "failed", frames: 0 }), "run 3: failed, 0 frames");
  assert.equal(
    tellOutcome({ ...RUN, frames_available: false }),
    "run 3: 17 frames in 1.50 s · frames deleted",
  );
  assert.equal(tellOutcome({ ...RUN, number: 0, state: "running" }), "17 of 81 frames");
  assert.equal(tellOutcome({ ...RUN, state: "queued" }), "run 3: waiting");
  assert.deepEqual(
    ["queued", "running", "writing", "finished", "stopped", "failed"].filter((state) => isActive({ state })),
    ["queued", "running", "writing"],
  );
  assert.equal(nameRun(RUN), "run 3, clip.pt");
});

test("ages", () => {
  const ages = [0, -5, 59, 60, 3599, 3600, 86399].map((seconds) => tellAge(1e9 - seconds, 1e9));
  const expected = ["just now", "just now", "just now", "1 min ago", "59 min ago", "1 h ago", "23 h ago"];
  assert.deepEqual(ages, expected);
  assert.match(tellAge(1e9 - 86400, 1e9), /2001/);
});

test("the run in the address", () => {
  assert.equal(addressedRun("#run=a-b_C"), "a-b_C");
  assert.equal(addressedRun("#a=x&run=abc&frame=3"), "abc");
  for (const hash of ["", "#", "#run=", "#frame=3"]) {
    assert.equal(addressedRun(hash), null);
  }
  assert.equal(addressOf("#frame=3&run=a", "b"), "#frame=3&run=b");
  assert.equal(addressOf("", "b"), "#run=b");
  assert.equal(addressOf("#frame=3&run=a", null), "#frame=3");
  assert.equal(addressOf("#run=a", null), "");
});

test("choices that were kept", () => {
  assert.deepEqual(parse('["a,b", null, true, 2]', ["a", "b"], 3), [null, true, 2]);
  assert.equal(parse('["a,b", null, true, 2]', ["a"], 3), null);
  for (const text of [null, "", "{", "{}", '["a", 1]', "3", "null"])
    assert.equal(parse(text, ["a"], 3), null);
});
