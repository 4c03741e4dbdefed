// Timeline: an SVG of when each rank computed, waited or was idle.

import { busyShare, describeBlock, joinChunks, parseActivity, ticks, timeSpan } from "./activity.js";

// Pixels.
const ROW = 18;
const GAP = 5; // between rows
const BASELINE = 13; // of a row's text, below the row's top
const LEFT = 52; // for the ranks' names
const RIGHT = 56; // for their shares
const AXIS = 18;
const MIN_WIDTH = 40; // of the bars; less is not drawn
const MIN_BLOCK = 3; // chunks that are thinner are drawn together
const TICK_DISTANCE = 80;

/** Draws a run's activity into a figure, again whenever there is more, or another width. */
export class Timeline {
  /** @param {HTMLElement} figure is hidden while there is nothing to draw; holds `.drawing` */
  constructor(figure) {
    this.figure = figure;
    this.drawing = figure.querySelector(".drawing");
    this.clear();
    new ResizeObserver(() => this.draw()).observe(this.drawing);
  }

  clear() {
    this.activities = [];
    this.elapsed = 0;
    this.numRanks = 0;
    this.figure.hidden = true;
    this.drawing.replaceChildren();
  }

  /** Add what the server sent since the last call. `elapsed` is the run's age in seconds. */
  add(activity, elapsed, numRanks) {
    const news = activity.map(parseActivity);
    this.activities.push(...news);
    this.elapsed = elapsed;
    this.numRanks = Math.max(numRanks, ...news.map(({ rank }) => rank + 1));
    this.figure.hidden = !this.activities.length;
    this.draw();
  }

  draw() {
    const width = this.drawing.clientWidth;
    if (!this.activities.length || width < LEFT + RIGHT + MIN_WIDTH) return;

    const span = timeSpan(this.activities, this.elapsed, this.numRanks);
    const scale = (width - LEFT - RIGHT) / span; // pixels per second
    const bottom = this.numRanks * (ROW + GAP);
    const parts = [];
    for (let rank = 0; rank < this.numRanks; rank++) parts.push(this.#row(rank, span, scale));
    for (const second of ticks(span, (width - LEFT - RIGHT) / TICK_DISTANCE)) {
      const x = (LEFT + second * scale).toFixed(1);
      parts.push(`<line class="tick" x1="${x}" x2="${x}" y1="0" y2="${bottom}"/>`);
      const text = `${Number(second.toFixed(3))} s`;
      parts.push(`<text class="axis" x="${x}" y="${bottom + AXIS - 4}" text-anchor="middle">${text}</text>`);
    }
    const size = `width="${width}" height="${bottom + AXIS}"`;
    this.drawing.innerHTML = `<svg ${size} role="img" aria-label="Activity of each rank">${parts.join("")}</svg>`;
  }

  #row(rank, span, scale) {
    const own = this.activities.filter((activity) => activity.rank === rank);
    const top = rank * (ROW + GAP);
    const right = LEFT + span * scale;
    const idle = (right - LEFT).toFixed(1);
    const parts = [
      `<text class="rank" x="0" y="${top + BASELINE}">Rank ${rank}</text>`,
      `<rect class="idle" x="${LEFT}" y="${top}" width="${idle}" height="${ROW}"/>`,
    ];
    for (const block of joinChunks(own, MIN_BLOCK / scale)) {
      const left = LEFT + block.start * scale;
      const compute = block.compute * scale;
      parts.push(`<g><title>${describeBlock(rank, block)}</title>`);
      parts.push(
        bar(block.phase, left, top, compute),
        bar("wait", left + compute, top, block.wait * scale),
        "</g>",
      );
    }
    const share = busyShare(own, span);
    parts.push(
      `<text class="share" x="${right + RIGHT}" y="${top + BASELINE}" text-anchor="end">${share}</text>`,
    );
    return parts.join("");
  }
}

function bar(name, x, y, width) {
  if (width <= 0) return "";
  const drawn = Math.max(0.5, width - (width > 4 ? 1 : 0)); // a hairline between chunks
  return `<rect class="${name}" x="${x.toFixed(1)}" y="${y}" width="${drawn.toFixed(1)}" height="${ROW}"/>`;
}
