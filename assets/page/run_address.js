// Run address: the run that the page's own address names, as #run=ID among other values.

const NAME = "run";
const ID = /^[\w-]{1,64}$/;

/** Return the id of the run that a hash such as "#run=abc&frame=3" names, null if it names none. */
export function addressedRun(hash) {
  const id = new URLSearchParams(hash.replace(/^#/, "")).get(NAME);
  return id !== null && ID.test(id) ? id : null;
}

/** Return the hash with another run, or none for null; all else in it stays. */
export function addressOf(hash, id) {
  const values = new URLSearchParams(hash.replace(/^#/, ""));
  if (id === null) values.delete(NAME);
  else values.set(NAME, id);
  const text = values.toString();
  return text ? `#${text}` : "";
}
