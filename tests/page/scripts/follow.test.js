// Following a run: what the page asks, and what it makes of the answers.

import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";

import { Follower } from "../../../assets/page/follow.js";
import { SafeStorage } from "../../../assets/page/storage.js";

const RUN = {
  job: "a",
  kind: "decode",
  state: "running",
  settled: false,
  source: false,
  fps: 16,
  num_frames: 17,
  phase: "decode",
  phases: { decode: [1, 5] },
  activity: [[], []],
};
let now; // milliseconds
let asked; // of the server
let answer; // to questions for a run: its state, a status, or an Error
let health;
let page; // what is shown
let session;
let follower;

beforeEach(() => {
  now = 0;
  asked = [];
  answer = RUN;
  health = { state: "ready", boot: "first", last_words: "" };
  page = { numOpened: 0 };
  session = new SafeStorage(() => null);
  follower = newFollower();
  mock.method(performance, "now", () => now);
  mock.method(console, "warn", () => {}); // says why a connection was lost
});

function newFollower() {
  const answered = async (question) => {
    asked.push(question);
    if (answer instanceof Error) throw answer;
    if (question === "health") return health;
    return typeof answer === "number" ? new Response("", { status: answer }) : Response.json(answer);
  };
  const show = (name) => (value) => {
    page[name] = value;
  };
  const comparison = {
    isOpen: false,
    clear: () => {
      comparison.isOpen = false;
    },
    begin: () => {
      comparison.isOpen = true;
      page.numOpened++;
    },
    hear() {},
    lose: show("lost"),
    showPreview: show("preview"),
    expect: (_job, count, ended) => show("expected")([count, ended]),
  };
  return new Follower({
    server: {
      askState: (job, since) => answered(`${job} since ${since}`),
      askHealth: () => answered("health"),
      stop: (job) => answered(`stop ${job}`),
    },
    panel: {
      alert: show("alert"),
      say: show("line"),
      refuse: show("refusal"),
      update: show("run"),
      clear() {},
      reveal() {},
    },
    comparison,
    controls: { showHealth: show("health"), enable: show("buttons") },
    session,
  });
}

/** Begin something, and wait for what the server answers to it. */
async function after(begin) {
  begin();
  await new Promise((resolve) => setTimeout(resolve));
}

function beat(milliseconds = 5000) {
  now += milliseconds;
  return after(() => follower.beat());
}

test("a page without a run asks how the server is", async () => {
  await after(() => follower.resume());
  assert.deepEqual([asked, page.health], [["health"], "ready"]);
  assert.deepEqual(page.buttons, { run: true, stop: false });
  await beat(3999);
  assert.equal(asked.length, 1);
  await beat(1);
  assert.equal(asked.length, 2);
});

test("a run that a reload finds can be stopped once it is known to go on", async () => {
  session.set("wanvae-job", "a");
  follower.resume();
  await after(() => follower.beat());
  assert.deepEqual(page.buttons, { run: false, stop: true });
  await after(() => {
    follower.resume();
    follower.beat();
    assert.deepEqual(page.buttons, { run: false, stop: false }, "it may have ended");
  });
  await after(() => {
    follower.hear({ job: "a" });
    assert.deepEqual(page.buttons, { run: false, stop: true }, "it has just been started");
  });
});

test("a run is asked for until it is settled, with its new activities alone", async () => {
  await after(() => follower.hear({ job: "a" }));
  assert.deepEqual(page.buttons, { run: false, stop: true });
  await beat(200);
  answer = { ...RUN, state: "finished", activity: [] };
  await beat(200);
  answer = { ...answer, settled: true };
  await beat(200);
  await beat();
  assert.deepEqual(asked, [
    "a since 0",
    "a since 2",
    "a since 4",
    "health", // the run has ended, so the server may have become ready
    "a since 4",
    "health",
    "health",
  ]);
  assert.deepEqual([follower.settled, page.numOpened], [true, 1]);
});

test("a run that waits opens no stream", async () => {
  answer = { ...RUN, state: "queued" };
  await after(() => follower.follow("a"));
  await beat(499);
  assert.deepEqual([page.numOpened, asked.length], [0, 1]);
  answer = RUN;
  await beat(1);
  assert.deepEqual([page.numOpened, asked.length], [1, 2]);
});

test("a run that is next in line is asked for at every beat at first", async () => {
  answer = { ...RUN, state: "queued", place: 0 };
  await after(() => follower.follow("a"));
  await beat(100);
  assert.equal(asked.length, 2);
  await beat(1900);
  await beat(100);
  assert.equal(asked.length, 3);
});

test("a run that is deleted is told, and not looked for after a reload", async () => {
  answer = { ...RUN, state: "finished", settled: true };
  await after(() => follower.follow("a"));
  follower.forget("b");
  assert.deepEqual([page.line.title, session.get("wanvae-job")], ["Waiting", "a"]);
  follower.forget("a");
  assert.deepEqual([page.line.title, session.get("wanvae-job")], ["Deleted", null]);
});

test("the newest encoded frame of the source is shown", async () => {
  answer = { ...RUN, kind: "roundtrip", phase: "encode", phases: { encode: [3, 5], decode: [0, 5] } };
  await after(() => follower.follow("a"));
  assert.equal(page.preview, 8);
});

test("stop is told when the server answers again", async () => {
  await after(() => follower.follow("a"));
  answer = new TypeError("network");
  await after(() => follower.stop());
  assert.deepEqual([follower.lost, page.health, page.buttons.run], ["lost", "lost", false]);
  assert.match(page.alert, /reconnecting/);
  answer = RUN;
  asked = [];
  await beat(1000);
  assert.deepEqual([asked, follower.lost, page.alert], [["stop a", "a since 2"], false, ""]);
});

test("a server that hangs is told from one that is gone", async () => {
  await after(() => follower.resume());
  answer = new DOMException("signal timed out", "TimeoutError");
  await beat();
  assert.deepEqual([follower.lost, page.health, page.buttons.run], ["silent", "silent", false]);
  assert.equal(page.alert, "The server does not answer, waiting…");
  answer = new TypeError("network");
  await beat();
  assert.deepEqual([follower.lost, page.health], ["lost", "lost"]);
  answer = RUN;
  await beat();
  assert.deepEqual([follower.lost, page.health, page.alert], [false, "ready", ""]);
});

test("the streams are told what the server has, while it answers", async () => {
  answer = { ...RUN, frames: 5 };
  await after(() => follower.follow("a"));
  await beat(200);
  assert.deepEqual(page.expected, [5, false]);
  answer = new TypeError("network");
  await beat(200);
  page.expected = null;
  await beat();
  assert.equal(page.expected, null);
  answer = { ...RUN, frames: 17, state: "finished" };
  await beat();
  await beat();
  assert.deepEqual(page.expected, [17, true]);
});

test("a refused click leaves what was there", async () => {
  await after(() => follower.follow("a"));
  follower.hear({ reading: "clip.pt" });
  assert.equal(follower.reading, true);
  follower.hear({ error: "No latent." });
  assert.equal(page.refusal, "No latent.");
  assert.deepEqual([follower.reading, follower.job], [false, "a"]);
});

test("whoever is logged out is told so, after a lost connection as well", async () => {
  answer = new TypeError("network");
  await after(() => follower.follow("a"));
  answer = 401;
  await beat();
  assert.match(page.alert, /^You have been logged out/);
});

test("a run that dies with the server is given up", async () => {
  await after(() => follower.resume());
  await after(() => follower.follow("a"));
  answer = 404;
  health = { state: "ready", boot: "second", last_words: "rank 1 died" };
  await beat();
  assert.deepEqual([follower.run.state, follower.settled, follower.active], ["gone", true, false]);
  assert.match(page.line.text, /^The server was restarted \(rank 1 died\), .* Run it again\.$/);
  assert.equal(session.get("wanvae-job"), null);
});

test("a finished run that the server deletes stays on the page", async () => {
  answer = { ...RUN, state: "finished" };
  await after(() => follower.follow("a"));
  answer = 404;
  await beat();
  assert.deepEqual([follower.run.state, follower.settled], ["finished", true]);
});

test("a reloaded page finds its run", async () => {
  session.set("wanvae-job", "a");
  await after(() => follower.resume());
  assert.deepEqual([asked, follower.run.state], [["a since 0"], "running"]);
});

for (const [boot, sentence] of [
  ["first", ""],
  ["another", "The server was restarted, and this run with it. Choose its input and run it again."],
]) {
  test(`a reloaded page whose run ended before, with the server named ${boot}`, async () => {
    session.set("wanvae-job", "a");
    session.set("wanvae-boot", boot);
    follower = newFollower();
    answer = 404;
    await after(() => follower.resume());
    assert.deepEqual([follower.job, page.line.text], [null, sentence]);
  });
}

test("an answer that comes after another run was begun is not shown", async () => {
  follower.follow("a");
  await after(() => follower.follow("b"));
  assert.deepEqual([follower.job, follower.run], ["b", null]);
  await beat(200);
  assert.equal(follower.run.job, "a"); // the fake server knows one run
});
