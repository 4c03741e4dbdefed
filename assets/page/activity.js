// Activity: what each rank did and when, prepared for a drawing. Times are seconds since the run started.

/**
 * @typedef {object} Activity one rank's work on one chunk
 * @property {number} rank
 * @property {"encode" | "decode"} phase
 * @property {number} chunk counted from 0
 * @property {number} start
 * @property {number} compute seconds of computing, which come first
 * @property {number} wait seconds of waiting for neighbours
 */

/** Return the Activity that the server sent as a list. */
export function parseActivity([rank, phase, chunk, start, compute, wait]) {
  return { rank, phase, chunk, start, compute, wait };
}

/** Return the seconds that a drawing covers: to the end of the newest activities, at least `elapsed`. */
export function timeSpan(activities, elapsed, numRanks) {
  const ends = activities.slice(-numRanks).map(({ start, compute, wait }) => start + compute + wait);
  return Math.max(elapsed, ...ends);
}

/**
 * Join neighbouring chunks of one phase that would be drawn too thin alone.
 *
 * @param {Activity[]} activities of one rank, in order
 * @param {number} minSeconds a block that is at least so long takes no further chunk
 * @returns {{phase, first, last, start, compute, wait}[]} blocks of the chunks first to last
 */
export function joinChunks(activities, minSeconds) {
  const blocks = [];
  for (const { phase, chunk, start, compute, wait } of activities) {
    const block = blocks.at(-1);
    if (block?.phase === phase && block.compute + block.wait < minSeconds) {
      block.compute += compute;
      block.wait += wait;
      block.last = chunk;
    } else {
      blocks.push({ phase, first: chunk, last: chunk, start, compute, wait });
    }
  }
  return blocks;
}

/** Return which share of the time a rank computed, in words. */
export function busyShare(activities, span) {
  const busy = activities.reduce((sum, { compute }) => sum + compute, 0);
  return busy ? `${Math.round((100 * busy) / span)} %` : "idle";
}

/** Describe a block of `joinChunks`. */
export function describeBlock(rank, { phase, first, last, compute, wait }) {
  const chunks = last > first ? `${first + 1} to ${last + 1}` : `${first + 1}`;
  const times = `${compute.toFixed(3)} s computing, ${wait.toFixed(3)} s waiting for neighbours`;
  return `Rank ${rank}, ${phase}, chunk ${chunks}: ${times}`;
}

/** Return at most `count`, but at least one, steps of a round length from 0 to `span`, their ends included. */
export function ticks(span, count) {
  const rough = span / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((length) => length >= rough);
  const rounding = 1e-9; // steps that a quotient may lack
  return Array.from({ length: Math.floor(span / step + rounding) + 1 }, (_, i) => i * step);
}
