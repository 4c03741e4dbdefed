// Modes: the ways to see the decoded clip beside its source, their labels and their geometry.

export const MODES = ["decoded", "side", "wipe", "difference"];
export const DIFFERENCE_DOUBLINGS = 3; // a difference of one or two steps of 255 would not be seen

const LABELS = {
  source: ["Source", ""],
  side: ["Source", "Decoded"],
  wipe: ["Source", "Decoded"],
  difference: [`Difference × ${2 ** DIFFERENCE_DOUBLINGS}`, ""],
};

/** Return the labels of the canvas's left and right picture; empty: no label. A clip without source needs none. */
export function labels(mode, hasSource) {
  return LABELS[mode] ?? [hasSource ? "Decoded" : "", ""];
}

/**
 * Say how large the canvas is, and where the decoded frame lies on it, in pixels of the frame.
 *
 * Side by side becomes one above the other where frames are then seen larger.
 *
 * @param {string} mode
 * @param {{width: number, height: number}} frame the size of either clip
 * @param {{width: number, height: number}} stage the space on the page
 * @returns {{width: number, height: number, left: number, top: number, stacked: boolean}}
 */
export function layout(mode, frame, stage) {
  const { width, height } = frame;
  if (mode !== "side") return { width, height, left: 0, top: 0, stacked: false };

  const gap = Math.max(2, Math.round(Math.min(width, height) / 100));
  const scaleBeside = Math.min(stage.width / (2 * width), stage.height / height);
  const scaleBelow = Math.min(stage.width / width, stage.height / (2 * height));
  if (scaleBelow > scaleBeside) {
    return { width, height: 2 * height + gap, left: 0, top: height + gap, stacked: true };
  }
  return { width: 2 * width + gap, height, left: width + gap, top: 0, stacked: false };
}

/** Return the share of a box's width, 0 to 1, that lies left of a pointer. */
export function wipeSplit(pointerX, box) {
  return Math.min(Math.max((pointerX - box.left) / box.width, 0), 1);
}
