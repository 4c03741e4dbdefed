// Listed run: what the list of runs says about one of them, in words. `run` is one of what the route `runs` answers.

import { formatDecibel, formatSeconds, plural } from "./sentences.js";

const ACTIVE = ["queued", "running", "writing"];
const MINUTE = 60; // seconds
const HOUR = 3600;
const DAY = 24 * HOUR;

/** Whether a run has not ended. */
export function isActive(run) {
  return ACTIVE.includes(run.state);
}

/** Name a run as buttons do, for those who hear them. */
export function nameRun(run) {
  return run.number ? `run ${run.number}, ${run.name}` : run.name;
}

/** Say with which settings a run was started. */
export function tellSettings(run) {
  const size = run.width && run.height ? `${run.width} × ${run.height}` : "";
  const where = run.parallel ? plural(run.ranks, "rank") : "rank 0 alone";
  const vae = run.vae.replace(/ \(.*/, ""); // what is in brackets stands in the page's header
  return [size, where, `chunk ${run.chunk}`, run.scaling, vae].filter(Boolean).join(" · ");
}

/** Say which run it is, and what came of it. */
export function tellOutcome(run) {
  const number = run.number ? `run ${run.number}: ` : "";
  return number + tellResult(run);
}

function tellResult(run) {
  if (run.state === "queued") return "waiting";
  if (run.refused) return "not run";
  if (isActive(run)) return `${run.frames} of ${plural(run.num_frames, "frame")}`;
  const frames =
    run.state === "finished" ? plural(run.frames, "frame") : `${run.state}, ${plural(run.frames, "frame")}`;
  const seconds = run.seconds == null || !run.frames ? "" : `in ${formatSeconds(run.seconds)}`;
  const quality = run.psnr == null ? "" : `· ${formatDecibel(run.psnr)}`;
  const gone = run.frames && !run.frames_available ? "· frames deleted" : "";
  return [frames, seconds, quality, gone].filter(Boolean).join(" ");
}

/** Say why a run has failed, or will not outlive the app; "" for others. */
export function tellProblem(run) {
  return run.problem || (run.state === "failed" ? run.message : "");
}

/**
 * Say how long ago something was, or on which day.
 *
 * @param {number} then unix seconds
 * @param {number} now unix seconds
 */
export function tellAge(then, now) {
  const seconds = now - then;
  if (seconds < MINUTE) return "just now";
  if (seconds < HOUR) return `${Math.floor(seconds / MINUTE)} min ago`;
  if (seconds < DAY) return `${Math.floor(seconds / HOUR)} h ago`;
  return new Date(then * 1000).toLocaleDateString(undefined, {
    day: "numeric",
    month: "short",
    year: "numeric",
  });
}
