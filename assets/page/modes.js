// Modes: the ways to see A and B together, and where their pictures lie on the stage.

export const MODES = ["single", "side", "wipe", "flicker", "difference"];
const GAP = 4; // pixels of the page between two pictures

/**
 * @typedef {{left: number, top: number, width: number, height: number}} Box in pixels of the page
 */

/**
 * Say where A, B and their difference lie on the stage; null for what is not seen.
 *
 * Side by side becomes one above the other where pictures are then seen larger.
 *
 * @param {string} mode one of MODES
 * @param {{width: number, height: number}} picture the size of A
 * @param {{width: number, height: number}} stage
 * @returns {{a: Box | null, b: Box | null, difference: Box | null}}
 */
export function layout(mode, picture, stage) {
  const all = { left: 0, top: 0, ...stage };
  switch (mode) {
    case "side":
      return { ...halves(picture, stage), difference: null };
    case "wipe":
    case "flicker":
      return { a: all, b: all, difference: null };
    case "difference":
      return { a: null, b: null, difference: all };
    default:
      return { a: all, b: null, difference: null };
  }
}

function halves(picture, stage) {
  const width = (stage.width - GAP) / 2;
  const height = (stage.height - GAP) / 2;
  const scaleBeside = Math.min(width / picture.width, stage.height / picture.height);
  const scaleBelow = Math.min(stage.width / picture.width, height / picture.height);
  if (scaleBelow > scaleBeside) {
    const size = { width: stage.width, height };
    return { a: { left: 0, top: 0, ...size }, b: { left: 0, top: height + GAP, ...size } };
  }
  const size = { width, height: stage.height };
  return { a: { left: 0, top: 0, ...size }, b: { left: width + GAP, top: 0, ...size } };
}

/** Return the range of x in a box, in its own pixels, in which a picture placed by `place` is seen. */
export function visibleRange({ left, scale }, picture, box) {
  return { start: Math.max(0, left), stop: Math.min(box.width, left + scale * picture.width) };
}

/** Return the share of a visible range, 0 to 1, that lies left of x. */
export function wipeSplit(x, { start, stop }) {
  return Math.min(Math.max((x - start) / Math.max(1, stop - start), 0), 1);
}
