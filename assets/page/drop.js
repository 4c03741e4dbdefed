// Drop: files that are dropped anywhere on the page, or pasted, go where a click on the upload would have put them.

const WAIT = 3000; // milliseconds for Gradio to offer its input again
const CLEAR = "button[aria-label='Clear']";
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

let before = Promise.resolve(); // ends when the files that came before are given

/** Upload files in place of those that are chosen. */
function give(files) {
  const kept = new DataTransfer(); // the event's own list is emptied when it is over
  for (const file of files) kept.items.add(file);
  before = before.then(async () => {
    const input = kept.files.length ? await freeInput() : null;
    if (!input) return;
    input.files = kept.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  });
}

/** Return Gradio's input for files, which is there only while none is chosen; null if it does not come. */
async function freeInput() {
  const find = (selector) => document.querySelector(`#file ${selector}`);
  const pause = () => new Promise((resolve) => setTimeout(resolve, LOOK));
  while (find(".uploading")) await pause(); // what is uploaded now would replace these files
  find(CLEAR)?.click();
  for (let waited = 0; waited < WAIT; waited += LOOK) {
    const input = find("input[type=file]");
    if (input && !find(CLEAR)) return input;
    await pause();
  }
  return null;
}
