// Follow: joins the page to a run: asks for its state, survives reloads and restarts of the server.

const BASE = document.querySelector("base")?.href ?? document.baseURI;
const address = (path) => new URL(path, BASE).href;
const ENDED = ["finished", "stopped", "failed", "gone"];

const panel = new Panel(element);
const player = new Player(element);
let job = null; // the id of the run that is followed
let run = null; // its state, as last heard
let stopping = null; // the id of a run that is to be stopped, until the server has heard of it
let reading = false; // the server is looking at the input
let lost = false; // the server does not answer
let boot = sessionStorage.getItem("wanvae-boot"); // which start of the server answered last, perhaps before a reload
let restarted = false; // another start of it than the page knew
let lastWords = ""; // why the server was restarted, if it knows
let numActivities = 0;
let asking = false;
let lastAsked = 0;
let resized = innerWidth;

const active = () => reading || (job !== null && !(run && ENDED.includes(run.state)));
const settled = () => run !== null && ENDED.includes(run.state) && (run.settled || run.state === "gone");

function follow(id) {
  job = id;
  run = null;
  reading = false;
  numActivities = 0;
  sessionStorage.setItem("wanvae-job", id);
  panel.clear();
  player.clear();
  panel.say("Waiting", "");
  const box = element.getBoundingClientRect();
  if (box.top > innerHeight * 0.8) element.scrollIntoView({ behavior: "smooth", block: "start" });
  ask();
}

async function ask() {
  if (asking) return;
  asking = true;
  lastAsked = performance.now();
  try {
    await (job !== null && !settled() ? askRun(job) : askHealth());
    if (lost) found();
  } catch (error) {
    if (!lost) {
      lost = true;
      panel.banner("Connection lost, reconnecting…");
      health("lost");
    }
  } finally {
    asking = false;
    buttons();
  }
}

async function askRun(id) {
  if (stopping === id) {
    await fetch(address(`live/${id}/stop`), { method: "POST" });
    stopping = null;
  }
  const response = await fetch(address(`live/${id}/state?activity=${numActivities}`), { cache: "no-store" });
  if (id !== job) return;
  if (response.status === 401) return panel.banner("You have been logged out: reload the page to log in.");
  if (response.status === 404) return askHealth().then(vanished);
  if (!response.ok) throw new Error(response.statusText);
  const news = await response.json();
  if (id !== job) return;
  numActivities += news.activity.length;
  run = news;
  // Not while it waits: a browser has six connections to a server, and tabs share them.
  if (player.decoded === null && run.state !== "queued") player.open(run, address(`live/${id}`));
  if (run.kind === "roundtrip" && run.phase === "encode") {
    player.preview = Math.min(run.num_frames - 1, Math.max(0, 4 * (run.phases.encode[0] - 1)));
    player.wake();
  }
  panel.update(run);
  if (["queued", "running"].includes(run.state)) health("busy");
  else await askHealth();
}

async function askHealth() {
  const response = await fetch(address("health"), { cache: "no-store" });
  if (!response.ok) throw new Error(response.statusText);
  const news = await response.json();
  restarted ||= boot !== null && boot !== news.boot;
  boot = news.boot;
  sessionStorage.setItem("wanvae-boot", boot);
  lastWords = news.last_words;
  health(news.state);
}

// The server answers again, perhaps another one than before.
function found() {
  lost = false;
  panel.banner("");
}

function vanished() {
  sessionStorage.removeItem("wanvae-job");
  const why = lastWords ? ` (${lastWords})` : "";
  const gone = `The server was restarted${why}, and this run with it.`;
  if (run === null) {
    job = null; // it ended before this page was loaded
    if (restarted) panel.say("Lost", `${gone} Choose its input and run it again.`, "bad");
    else panel.say("", "");
  } else if (!ENDED.includes(run.state)) {
    run = { ...run, state: "gone" };
    panel.say("Lost", `${gone} Run it again.`, "bad");
  } else {
    run = { ...run, settled: true };
  }
}

function health(state) {
  const badge = document.getElementById("health");
  if (!badge) return;
  badge.dataset.state = state;
  badge.lastElementChild.textContent = { ready: "ready", busy: "busy", broken: "restarting", lost: "no connection" }[state] ?? state;
}

function buttons() {
  const start = document.getElementById("run");
  const stop = document.getElementById("stop");
  if (!start || !stop) return;
  start.disabled = active() || lost;
  stop.disabled = !active() || reading;
}

function stop() {
  if (!active() || job === null) return;
  stopping = job;
  ask();
}

// Messages from the Run button's handler.
function hear(message) {
  if (message.job) return follow(message.job);
  reading = "reading" in message && Boolean(message.reading);
  if (reading) panel.say("Reading", message.reading);
  if (message.error) panel.say("Not run", message.error, "bad");
  buttons();
}

function beat() {
  buttons(); // Gradio may have drawn them anew
  const pause = lost ? 1000 : job !== null && !settled() ? (run?.state === "queued" ? 500 : 200) : 4000;
  if (performance.now() - lastAsked >= pause) ask();
  if (resized !== innerWidth) {
    resized = innerWidth;
    if (player.shown >= 0) player.setMode(player.mode);
  }
}

watch("value", () => props.value && hear(JSON.parse(props.value)));

// A worker's clock goes on in a hidden tab, where the page's own is slowed to one beat a minute: enough for the
// server to believe that nobody is watching.
const clock = new Worker(URL.createObjectURL(new Blob(["setInterval(() => postMessage(0), 100)"])));
clock.onmessage = beat;

const theme = document.getElementById("theme");
const dark = () => document.body.classList.contains("dark");
const label = () => theme && (theme.textContent = dark() ? "Light" : "Dark");
theme?.addEventListener("click", () => {
  document.body.classList.toggle("dark");
  localStorage.setItem("wanvae-theme", dark() ? "dark" : "light");
  label();
});
label();

window.wanvae = {
  follow,
  stop,
  player,
  // What is on the page, for tests: run is the server's word, the rest is ours.
  get state() {
    return {
      job, run, lost, reading, boot, active: active(), settled: settled(),
      received: player.count, drawn: player.drawn.size, shown: player.shown, playing: player.playing,
      complete: player.decoded?.complete ?? false, mode: player.mode,
      status: element.querySelector(".status").textContent,
    };
  },
};

const before = sessionStorage.getItem("wanvae-job");
if (before) follow(before);
else ask();
