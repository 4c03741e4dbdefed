// File names: an uploaded file is called everywhere as the server calls it, which leaves out characters such as < and >.

/**
 * Return Gradio's files with the names that the server has given them. Gradio calls it when files are uploaded.
 *
 * @param {{path: string, orig_name: string}[] | null} files
 * @returns {[object[] | null]} the value of one output: the same array if there is nothing to change
 */
export function asKept(files) {
  if (!files?.some((file) => file.orig_name !== nameOf(file))) return [files];
  return [files.map((file) => ({ ...file, orig_name: nameOf(file) }))];
}

function nameOf({ path }) {
  return path.split("/").at(-1);
}
