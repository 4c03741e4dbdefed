// Timeline: which rank computed, waited or was idle, and when; an SVG drawn from the run's activity.

const ROW = 18;
const GAP = 5;
const LEFT = 52;
const RIGHT = 56;
const AXIS = 18;

class Timeline {
  constructor(figure) {
    this.figure = figure;
    this.drawing = figure.querySelector(".drawing");
    this.clear();
    new ResizeObserver(() => this.draw()).observe(this.drawing);
  }

  clear() {
    this.activity = []; // [rank, phase, chunk, start, compute, wait], in seconds
    this.seconds = 0;
    this.numRanks = 0;
    this.figure.hidden = true;
    this.drawing.replaceChildren();
  }

  add(activity, seconds, numRanks) {
    this.activity.push(...activity);
    this.seconds = seconds;
    this.numRanks = Math.max(numRanks, ...activity.map(([rank]) => rank + 1));
    this.figure.hidden = !this.activity.length;
    this.draw();
  }

  draw() {
    const width = this.drawing.clientWidth;
    if (!this.activity.length || width < LEFT + RIGHT + 40) return;
    const span = Math.max(this.seconds, ...this.activity.slice(-this.numRanks).map((a) => a[3] + a[4] + a[5]));
    const scale = (width - LEFT - RIGHT) / span;
    const height = this.numRanks * (ROW + GAP) + AXIS;
    const parts = [];
    for (let rank = 0; rank < this.numRanks; rank++) parts.push(this.row(rank, span, scale));
    for (const second of ticks(span, (width - LEFT - RIGHT) / 80)) {
      const x = (LEFT + second * scale).toFixed(1);
      parts.push(`<line class="tick" x1="${x}" x2="${x}" y1="0" y2="${height - AXIS}"/>`);
      parts.push(`<text class="axis" x="${x}" y="${height - 4}" text-anchor="middle">${+second.toFixed(3)} s</text>`);
    }
    this.drawing.innerHTML =
      `<svg width="${width}" height="${height}" role="img" aria-label="Activity of each rank">${parts.join("")}</svg>`;
  }

  row(rank, span, scale) {
    const y = rank * (ROW + GAP);
    const parts = [`<text class="rank" x="0" y="${y + 13}">Rank ${rank}</text>`];
    parts.push(`<rect class="idle" x="${LEFT}" y="${y}" width="${(span * scale).toFixed(1)}" height="${ROW}"/>`);
    let busy = 0;
    let block = null; // neighbouring chunks that are too thin to draw alone
    const flush = () => {
      if (!block) return;
      const x = LEFT + block.start * scale;
      const compute = block.compute * scale;
      const wait = block.wait * scale;
      const title = `<title>Rank ${rank}, ${block.phase}, chunk ${block.first + 1}` +
        `${block.last > block.first ? ` to ${block.last + 1}` : ""}: ${block.compute.toFixed(3)} s computing, ` +
        `${block.wait.toFixed(3)} s waiting for neighbours</title>`;
      parts.push(`<g>${title}`);
      parts.push(bar(block.phase, x, y, compute), bar("wait", x + compute, y, wait), "</g>");
      block = null;
    };
    for (const [who, phase, chunk, start, compute, wait] of this.activity) {
      if (who !== rank) continue;
      busy += compute;
      if (block && block.phase === phase && (block.compute + block.wait) * scale < 3) {
        block.compute += compute;
        block.wait += wait;
        block.last = chunk;
      } else {
        flush();
        block = { phase, first: chunk, last: chunk, start, compute, wait };
      }
    }
    flush();
    const share = busy ? `${Math.round((100 * busy) / span)} %` : "idle";
    parts.push(`<text class="share" x="${LEFT + span * scale + RIGHT}" y="${y + 13}" text-anchor="end">${share}</text>`);
    return parts.join("");
  }
}

function bar(name, x, y, width) {
  if (width <= 0) return "";
  const drawn = Math.max(0.5, width - (width > 4 ? 1 : 0)); // a hairline between chunks
  return `<rect class="${name}" x="${x.toFixed(1)}" y="${y}" width="${drawn.toFixed(1)}" height="${ROW}"/>`;
}

// About `count` round numbers from 0 to `span`.
function ticks(span, count) {
  const rough = span / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  return Array.from({ length: Math.floor(span / step + 1e-9) + 1 }, (_, i) => i * step);
}
