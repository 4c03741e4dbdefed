// View: which part of a picture is seen, and how large. All of it is geometry, without a page.

export const MAX_PIXELS = 64; // of the screen for one of the picture, on either side
const STEPS = [1 / 8, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, MAX_PIXELS];
const SMOOTH_BELOW = 2; // from here on, pixels of the picture are seen as squares
const ALMOST = 1.001; // factor within which two scales are one

/**
 * @typedef {object} View
 * @property {number | null} scale pixels of the page for one of the picture; null: as large as fits
 * @property {number} x share of the picture's width that lies left of the middle of what is seen
 * @property {number} y share of the picture's height that lies above it
 *
 * @typedef {{width: number, height: number}} Size
 */

/** @type {View} all of the picture */
export const FIT = { scale: null, x: 0.5, y: 0.5 };

/** Return the scale at which all of a picture is seen. */
export function fitScale(picture, space) {
  return Math.min(space.width / picture.width, space.height / picture.height);
}

/**
 * Say where the picture lies in its space. The space is never empty where the picture could fill it.
 *
 * @param {View} view
 * @param {Size} picture
 * @param {Size} space in pixels of the page
 * @param {number} ratio pixels of the screen for one of the page
 * @returns {{scale: number, left: number, top: number, squares: boolean}} squares: whether pixels are not smoothed
 */
export function place(view, picture, space, ratio = 1) {
  const scale = view.scale ?? fitScale(picture, space);
  const along = (share, length, room) => {
    const size = scale * length;
    if (size <= room) return (room - size) / 2;
    return Math.min(0, Math.max(room - size, room / 2 - share * size));
  };
  const round = (value) => Math.round(value * ratio) / ratio; // so that pixels fall on pixels
  return {
    scale,
    left: round(along(view.x, picture.width, space.width)),
    top: round(along(view.y, picture.height, space.height)),
    squares: scale * ratio >= SMOOTH_BELOW / ALMOST,
  };
}

/** Return the view at another scale, with the same point of the picture below `point` of the space. */
export function zoomTo(view, scale, point, picture, space, ratio = 1) {
  const fit = fitScale(picture, space);
  const wanted = Math.min(Math.max(scale, Math.min(fit, 1 / ratio)), Math.max(fit, MAX_PIXELS / ratio));
  if (wanted < fit * ALMOST && wanted > fit / ALMOST) return FIT;
  const before = place(view, picture, space);
  const share = (at, start, length, room) => {
    const under = (at - start) / (before.scale * length); // share of the picture below the point
    return under + (room / 2 - at) / (wanted * length);
  };
  return settle(
    {
      scale: wanted,
      x: share(point.x, before.left, picture.width, space.width),
      y: share(point.y, before.top, picture.height, space.height),
    },
    picture,
    space,
  );
}

/** Return the view at the next larger scale of STEPS, or the next smaller one, around the middle. */
export function zoomStep(view, isLarger, picture, space, ratio = 1) {
  const now = place(view, picture, space).scale * ratio;
  const next = isLarger
    ? STEPS.find((step) => step > now * ALMOST)
    : STEPS.findLast((step) => step < now / ALMOST);
  const middle = { x: space.width / 2, y: space.height / 2 };
  const fit = fitScale(picture, space) * ratio;
  if (!isLarger && fit < now / ALMOST && !(next > fit)) return FIT;
  return next === undefined ? view : zoomTo(view, next / ratio, middle, picture, space, ratio);
}

/** Return the view after the picture was dragged by so many pixels of the page. */
export function pan(view, dx, dy, picture, space) {
  if (view.scale === null) return view;
  const { scale } = view;
  const moved = {
    scale,
    x: view.x - dx / (scale * picture.width),
    y: view.y - dy / (scale * picture.height),
  };
  return settle(moved, picture, space);
}

/** Return the pixel of the picture that lies below a point of the space; null beside the picture. */
export function pixelAt(point, view, picture, space, ratio = 1) {
  const { scale, left, top } = place(view, picture, space, ratio);
  const [x, y] = [Math.floor((point.x - left) / scale), Math.floor((point.y - top) / scale)];
  return x >= 0 && y >= 0 && x < picture.width && y < picture.height ? { x, y } : null;
}

/** Return the view with its middle where `place` puts it, so that dragging back begins at once. */
function settle(view, picture, space) {
  const clamp = (share, length, room) => {
    const half = room / 2 / (view.scale * length);
    return half >= 0.5 ? 0.5 : Math.min(1 - half, Math.max(half, share));
  };
  return {
    scale: view.scale,
    x: clamp(view.x, picture.width, space.width),
    y: clamp(view.y, picture.height, space.height),
  };
}
