// Choices: which clips can be A or B, and what they are called.

import { isEmpty, SOURCE } from "./comparison.js";

/** Return a file's name without its ending. */
export function stem(name) {
  return name.replace(/\.[^.]+$/, "");
}

/** Describe a run among others of its input: "Run 2, 2 ranks, chunk 1"; where there are several VAEs, its own comes second. */
export function describeRun({ number, parallel, ranks, chunk, vae }, showsVae = false) {
  const where = parallel && ranks > 1 ? `${ranks} ranks` : "rank 0 alone";
  const parts = [`Run ${number}`, showsVae && vae, where, `chunk ${chunk}`];
  return parts.filter(Boolean).join(", ");
}

/** Label a clip on the stage: which input, which run. */
export function labelClip(run, isSource, showsVae = false) {
  if (run === undefined) return "";
  return isSource ? `${stem(run.name)} · source` : `${stem(run.name)} · ${describeRun(run, showsVae)}`;
}

/**
 * List the clips that can be compared with the run on the page: of one size, and with frames.
 *
 * @param {object} run state of the run that is followed
 * @param {object[]} runs the visitor's runs, as the server lists them; without them the run's own table is used
 * @returns {{input: {name: string, label: string}[], others: {name: string, label: string}[]}} clips of the same
 *   input, and of other inputs
 */
export function listChoices(run, runs) {
  const present = { ...run, id: run.job, frames_available: !isEmpty(run) };
  const listed = new Map(
    run.rows.map((row) => [row.id, { ...row, name: run.name, frames_available: row.frames > 0 }]),
  );
  listed.set(present.id, present);
  const input = runs.find(({ id }) => id === run.job)?.input;
  const others = [];
  for (const other of runs) {
    if (other.id === run.job || other.width !== run.width || other.height !== run.height) continue;
    if (input !== undefined && other.input === input) listed.set(other.id, other);
    else if (!listed.has(other.id) && other.frames_available) others.push(other);
    else if (listed.has(other.id)) listed.get(other.id).frames_available = other.frames_available;
  }
  const own = [...listed.values()].filter((row) => row.frames_available).sort((a, b) => a.number - b.number);
  const showsVae = new Set([...own, ...others].map(({ vae }) => vae ?? "")).size > 1;
  const source = run.source ? [{ name: run.job + SOURCE, label: "Source" }] : [];
  return {
    input: [...source, ...own.map((row) => ({ name: row.id, label: describeRun(row, showsVae) }))],
    others: others.flatMap((other) => {
      const name = [stem(other.name), other.scaling].filter(Boolean).join(", ");
      const clips = [{ name: other.id, label: `${name}: ${describeRun(other, showsVae)}` }];
      return other.source ? [{ name: other.id + SOURCE, label: `${name}: source` }, ...clips] : clips;
    }),
  };
}
