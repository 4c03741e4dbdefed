// The shape of the curve: paths in a drawing of WIDTH x HEIGHT, and its range in words.

import { formatDecibel } from "./sentences.js";

export const WIDTH = 1000;
export const HEIGHT = 100;
const SAME = 28; // where identical frames are drawn, below the words
const [TOP, BOTTOM] = [42, 90]; // where the highest and the lowest of the others are
const MIN_RANGE = 3; // dB from the lowest to the highest, so that noise is not blown up

/**
 * Return the paths of a curve.
 *
 * @param {number[]} psnr dB by frame; Infinity where frames are identical
 * @param {number[]} worst largest differences by frame, 0 to 255
 * @param {number} total frames that there will be
 * @returns {{line: string, bars: string}} the PSNR as a line, the largest differences as bars from below
 */
export function curveShape(psnr, worst, total) {
  const x = (frame) => (total > 1 ? (WIDTH * frame) / (total - 1) : 0); // as on the scrubber
  const finite = psnr.filter(Number.isFinite);
  const low = Math.min(...finite);
  const range = Math.max(MIN_RANGE, Math.max(...finite) - low);
  const y = (value) => (Number.isFinite(value) ? BOTTOM - ((value - low) / range) * (BOTTOM - TOP) : SAME);
  const points = psnr.map((value, frame) => `${round(x(frame))} ${round(y(value))}`);
  if (points.length === 1) points.push(points[0]); // a point is seen where a path ends
  const largest = Math.max(1, ...worst);
  const bars = worst.flatMap((value, frame) =>
    value ? [`M${round(x(frame))} ${HEIGHT}V${round(HEIGHT - (value / largest) * (HEIGHT / 2))}`] : [],
  );
  return { line: `M${points.join("L")}`, bars: bars.join("") };
}

/** Describe the range of a curve. */
export function describeRange(psnr, worst) {
  const finite = psnr.filter(Number.isFinite);
  if (!finite.length) return "PSNR: identical";
  const [low, high] = [Math.min(...finite), Math.max(...psnr)];
  const highest = Number.isFinite(high) ? formatDecibel(high) : "identical";
  const decibels = low === high ? formatDecibel(low) : `${low.toFixed(2)} to ${highest}`;
  return `PSNR ${decibels} · largest difference ${Math.max(...worst)} of 255`;
}

function round(value) {
  return Number(value.toFixed(2));
}
