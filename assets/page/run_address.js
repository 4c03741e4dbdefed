// Run address: the run that the page's own address names, as #run=ID among other values.

export const NO_RUN = "-"; // a name that no run has
const NAME = "run";
const ID = /^[\w-]{1,64}$/;

/** Return the id of the run that a hash such as "#run=abc&frame=3" names, null if it names none; NO_RUN for no id. */
export function addressedRun(hash) {
  const id = new URLSearchParams(hash.replace(/^#/, "")).get(NAME);
  if (!id) return null;
  return ID.test(id) ? id : NO_RUN;
}

/** Return the hash with another run, or none for null; all else in it stays. */
export function addressOf(hash, id) {
  const values = new URLSearchParams(hash.replace(/^#/, ""));
  if (id === null) values.delete(NAME);
  else values.set(NAME, id);
  const text = values.toString();
  return text ? `#${text}` : "";
}
