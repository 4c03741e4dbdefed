// Sentences: a run's state, and how runs compare, in words. `run` is what routes.py's `snapshot` sends.

const MIB = 2 ** 20;
export const NONE = "–"; // where there is no number

export const CONNECTION_LOST = "Connection lost, reconnecting…";
export const NO_ANSWER = "The server does not answer, waiting…";
export const GONE = {
  title: "Not there",
  text: "The run that the page's address names has been deleted, or is another visitor's.",
  tone: "bad",
};
export const DELETED = {
  title: "Deleted",
  text: "What is on the page can be watched until another run begins.",
};
export const LOGGED_OUT = "You have been logged out: reload the page to log in.";

/** @param {number | null} value */
export function formatSeconds(value) {
  if (value == null) return NONE;
  return `${value.toFixed(value < 10 ? 2 : 1)} s`;
}

/** @param {number | null} value */
export function formatNumber(value) {
  return value == null ? NONE : value.toFixed(1);
}

/** @param {number | "inf"} value peak signal-to-noise ratio */
export function formatDecibel(value) {
  return value === "inf" ? "identical" : `${value.toFixed(2)} dB`;
}

/** @param {number[]} bytes peak memory by rank */
export function formatPeaks(bytes) {
  return bytes.length ? `${bytes.map((n) => Math.round(n / MIB)).join(" / ")} MiB` : NONE;
}

export function plural(count, word) {
  return `${count} ${word}${count === 1 ? "" : "s"}`;
}

/**
 * Describe a run's state.
 *
 * @returns {{title: string, text: string, tone?: "good" | "bad"}}
 */
export function describe(run) {
  const where = run.parallel ? plural(run.ranks, "rank") : "rank 0 alone";
  switch (run.state) {
    case "queued":
      return { title: run.reading ? "Reading" : "Waiting", text: queued(run) };
    case "running":
      return running(run, where);
    case "writing": {
      if (run.stopping) return { title: "Stopping", text: "writing what is decoded so far." };
      const done = `${plural(run.frames, "frame")} in ${formatSeconds(run.elapsed)}`;
      return { title: "Decoded", text: `${done}; writing the files to download.`, tone: "good" };
    }
    case "finished":
      return { title: "Finished", text: finished(run, where), tone: "good" };
    case "stopped": {
      const watchable = run.frames ? " They stay watchable." : "";
      return { title: "Stopped", text: run.message.replace(/^Stopped /, "") + watchable };
    }
    default:
      return { title: run.refused ? "Not run" : "Failed", text: run.message, tone: "bad" };
  }
}

/** Say how the input was read, and what went wrong meanwhile unless the state's message says it already. */
export function notes(run) {
  const warning = run.warning && !run.message.includes(run.warning) ? `${run.warning}.` : "";
  return [run.note, warning].filter(Boolean).join(" ");
}

function queued(run) {
  const before = run.place ? `${plural(run.place, "run")} before this one.` : "";
  if (run.reading) return [run.message.replace(/^Reading /, ""), before].filter(Boolean).join(" ");
  if (before) return before;
  return run.message === "Waiting." ? "Next in line." : run.message;
}

function running(run, where) {
  if (run.stopping) return { title: "Stopping", text: "at the end of the present chunk." };
  const [done, total] = run.phases[run.phase];
  if (run.phase === "encode") {
    return { title: "Encoding", text: `${done} of ${plural(total, "latent frame")}, on ${where}.` };
  }
  const encoding = run.phases.encode?.[0] < total;
  return {
    title: encoding ? "Encoding and decoding" : "Decoding",
    text: `${run.frames} of ${plural(run.num_frames, "frame")}, on ${where}.${remaining(run)}`,
  };
}

/** Say how long a run that decodes will take, if its rate is known. */
function remaining({ rate, frames, num_frames }) {
  if (!rate || frames >= num_frames) return "";
  const seconds = (num_frames - frames) / rate;
  if (seconds < 1) return " Less than a second left.";
  if (seconds < 100) return ` About ${Math.round(seconds)} s left.`;
  return ` About ${Math.round(seconds / 60)} min left.`;
}

function finished(run, where) {
  const phases =
    run.encode_seconds == null
      ? ""
      : ` (encoding ${formatSeconds(run.encode_seconds)}, decoding ${formatSeconds(run.decode_seconds)})`;
  const more = run.message === "Finished." ? "" : ` ${run.message.replace(/^Finished\. /, "")}`;
  return `${plural(run.frames, "frame")} in ${formatSeconds(run.elapsed)}${phases}, on ${where}.${more}`;
}

/**
 * Say whether what is on the stage is exact; "" while a clip plays, which nobody takes for exact but in differences.
 *
 * @param {{still: boolean, isExact: boolean, isLost: boolean, mode: string, shown: number}} player
 */
export function tellQuality({ still, isExact, isLost, mode, shown }) {
  if (still && isExact) return "exact";
  if (still) return isLost ? "preview, the exact frame is gone" : "preview, the exact frame is on its way";
  return mode === "difference" && shown >= 0 ? "preview, exact when paused" : "";
}

/**
 * Say how two frames, or clips, differ at most.
 *
 * @param {object} found on_borders: on the borders of the ranks' slabs, null if there are none; elsewhere; and, of a
 *   single frame: psnr, row, column
 */
export function tellDifference({ on_borders, elsewhere, psnr, row, column }) {
  const worst = Math.max(on_borders ?? 0, elsewhere);
  const values = on_borders === null ? `${worst}` : `${on_borders} on the borders, ${elsewhere} elsewhere`;
  const place = worst && row !== undefined ? ` (x ${column}, y ${row})` : "";
  const quality = psnr === undefined || psnr === "inf" ? "" : `, PSNR ${formatDecibel(psnr)}`;
  return `largest difference ${values}${place}${quality}.`;
}

/** Say that A and B are one clip. */
export function tellSame(isSource) {
  return `A and B are the same ${isSource ? "source" : "run"}: choose another one to compare.`;
}

/** Say that a run ended with its server. `lastWords` is why that ended, if anybody knows. */
export function describeLost(lastWords, advice) {
  const why = lastWords ? ` (${lastWords})` : "";
  const text = `The server was restarted${why}, and this run with it. ${advice}`;
  return { title: "Lost", text, tone: "bad" };
}

/**
 * Compare two runs of one input: their speed, and their pixels.
 *
 * @param {object} found before, after: the runs' numbers; parallel, cold, vae: of both; speedup: how many times as fast
 *   the second was, or null; max_abs, frame, row, column, num_different, num_pixels: as compare.py says; or instead of
 *   these refusal: why the frames are not compared
 */
export function compareRuns(found) {
  if (found.refusal) return found.refusal;
  const speed = found.speedup == null ? "" : `${compareSpeed(found)} ${tellCold(found)}`;
  return speed + comparePixels(found);
}

/** Say which of the two runs was slower because it was the first. */
function tellCold({ before, after, cold: [isBeforeCold, isAfterCold] }) {
  if (isBeforeCold === isAfterCold) return "";
  const run = isBeforeCold ? before : after;
  return `Run ${run} was the first of its size, so its time includes warming up: run it again to compare. `;
}

function compareSpeed({ before, after, parallel, vae, speedup }) {
  if (vae[0] !== vae[1]) return tellSpeed(`${vae[1]} (run ${after})`, `${vae[0]} (run ${before})`, speedup);
  if (parallel[0] === parallel[1]) return tellSpeed(`Run ${after}`, `run ${before}`, speedup);
  // One of the two was parallel: tell how fast that one was, whichever came first.
  if (parallel[1]) return tellSpeed(`Parallel (run ${after})`, `rank 0 alone (run ${before})`, speedup);
  return tellSpeed(`Parallel (run ${before})`, `rank 0 alone (run ${after})`, 1 / speedup);
}

function tellSpeed(subject, object, times) {
  if (times < 1) return `${subject} took ${(1 / times).toFixed(2)} times as long as ${object}.`;
  return `${subject} was ${times.toFixed(2)} times as fast as ${object}.`;
}

function comparePixels({ max_abs, frame, row, column, num_different, num_pixels }) {
  if (max_abs === 0) return "Their frames are identical.";
  const share = Number(((100 * num_different) / num_pixels).toPrecision(2)); // 100, not 1.0e+2
  const place = `frame ${frame + 1}, row ${row}, column ${column}`;
  return `Largest difference of a pixel: ${max_abs} of 255, in ${place}; ${share} % of pixels differ.`;
}
