// Drop: files that are dropped anywhere on the page, or pasted, go where a click on the upload would have put them.

const WAIT = 3000; // milliseconds for Gradio to offer its input again
const LOOK = 30; // milliseconds between two looks

/** Listen on the whole page, once. */
export function startDrop() {
  let depth = 0; // of the elements that a drag has entered
  const mark = (isOver) => document.body.classList.toggle("dropping", isOver);
  const isForeign = (event) =>
    event.dataTransfer?.types.includes("Files") && !event.target.closest?.("#file"); // Gradio's own takes its part

  document.addEventListener("dragenter", (event) => {
    if (event.dataTransfer?.types.includes("Files")) depth++;
    mark(isForeign(event));
  });
  document.addEventListener("dragleave", (event) => {
    if (event.dataTransfer?.types.includes("Files")) depth = Math.max(0, depth - 1);
    if (!depth) mark(false);
  });
  document.addEventListener("dragover", (event) => {
    if (isForeign(event)) event.preventDefault(); // else the browser would open the file
  });
  document.addEventListener(
    "drop",
    (event) => {
      depth = 0;
      mark(false);
      if (!isForeign(event)) return;
      event.preventDefault();
      give(event.dataTransfer.files);
    },
    true,
  );
  document.addEventListener("paste", (event) => {
    if (!event.clipboardData?.files.length) return;
    event.preventDefault();
    give(event.clipboardData.files);
  });
}

/** Upload files in place of those that are chosen. */
async function give(files) {
  if (!files.length || document.querySelector("#file .uploading")) return;
  const kept = new DataTransfer(); // the event's own list is emptied when it is over
  for (const file of files) kept.items.add(file);
  const input = await freeInput();
  if (!input) return;
  input.files = kept.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
}

/** Return Gradio's input for files, which is there only while none is chosen. */
async function freeInput() {
  document.querySelector("#file button[aria-label='Clear']")?.click();
  for (let waited = 0; waited < WAIT; waited += LOOK) {
    const input = document.querySelector("#file input[type=file]");
    if (input && !document.querySelector("#file button[aria-label='Clear']")) return input;
    await new Promise((resolve) => setTimeout(resolve, LOOK));
  }
  return null;
}
