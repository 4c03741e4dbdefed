// Choices: keeps the chosen files and settings in the tab, so that a reload finds them again.

import { SafeStorage } from "./storage.js";

const KEY = "wanvae-choices";
const ANSWER_TIMEOUT = 4000; // milliseconds until a file counts as gone
const storage = new SafeStorage(() => sessionStorage);

/**
 * Keep the values of all inputs. Gradio calls it when one has changed.
 *
 * @param {string[]} vaes the names that can be chosen: after a start with others, nothing is restored
 */
export function keep(vaes, ...values) {
  storage.set(KEY, JSON.stringify([vaes.join(), ...values]));
}

/**
 * Return the values that were kept, or the present ones. Files that the server has deleted meanwhile are left out.
 *
 * @param {string[]} vaes as for `keep`
 * @param {...unknown} present the present values, the files first
 */
export async function restore(vaes, ...present) {
  const kept = parse(storage.get(KEY), vaes, present.length);
  if (kept === null) return present;
  const [files, ...settings] = kept;
  return [await onServer(files), ...settings];
}

/** Return the values that `keep` wrote with these names, null for anything else. */
export function parse(text, vaes, length) {
  try {
    const [names, ...values] = JSON.parse(text);
    return names === vaes.join() && values.length === length ? values : null;
  } catch {
    return null;
  }
}

async function onServer(files) {
  if (!Array.isArray(files) || !files.length) return null;
  const there = await Promise.all(files.map(isThere));
  return there.every(Boolean) ? files : null;
}

async function isThere(file) {
  if (!file?.url) return false;
  const options = { method: "HEAD", signal: AbortSignal.timeout(ANSWER_TIMEOUT) };
  return fetch(file.url, options).then(
    (response) => response.ok,
    () => false,
  );
}
