// The table of the runs of one input, from which A and B are chosen as well.

import { SOURCE } from "./comparison.js";
import { formatNumber, formatPeaks, formatSeconds } from "./sentences.js";

const SIDES = ["a", "b"];
// Heads of the cells behind the first one: read before each number where there is no room for the table's own.
const LABELS = [
  "VAE",
  "Parallel",
  "Ranks",
  "Chunk",
  "Total",
  "First frame",
  "Frames/s",
  "Peak per rank",
  "Outcome",
];

/** Shows the ended runs of the present run's input. */
export class RunsTable {
  #key = ""; // what the present lines were made from

  /**
   * @param {HTMLElement} section holds a table
   * @param {import("./comparison.js").Comparison} comparison
   */
  constructor(section, comparison) {
    this.section = section;
    this.body = section.querySelector("tbody");
    this.comparison = comparison;
    this.body.addEventListener("click", (event) => {
      const { side, clip } = event.target.dataset;
      if (side) comparison.choose(side, side === "b" && comparison.b === clip ? null : clip);
    });
    comparison.listen(() => this.#press());
  }

  /** Take the state of the run that is followed. The lines stay as they are while nothing in them changes. */
  update({ rows, number, job, source }) {
    const key = JSON.stringify([rows, number, source]);
    if (key === this.#key) return;
    this.#key = key;
    this.section.hidden = !rows.length;
    // Gradio leaves the choice out where there is one VAE.
    this.section.classList.toggle("one-vae", document.getElementById("vae") === null);
    const lines = rows.map((row) => tableLine(row, row.number === number));
    this.body.replaceChildren(...(source && rows.length ? [sourceLine(job)] : []), ...lines);
    this.#press();
  }

  #press() {
    for (const button of this.body.querySelectorAll("[data-side]")) {
      const { side, clip } = button.dataset;
      button.setAttribute("aria-pressed", this.comparison[side] === clip);
    }
  }
}

function tableLine(row, isPresent) {
  const line = emptyLine();
  line.classList.toggle("present", isPresent);
  line.append(headCell(`${row.number}`, row.frames > 0 ? row.id : null, `Run ${row.number}`));
  const cells = [
    row.vae ?? "",
    row.parallel ? "on" : "off",
    row.ranks,
    row.chunk,
    formatSeconds(row.seconds),
    formatSeconds(row.first),
    formatNumber(row.rate),
    formatPeaks(row.peak),
    row.state,
  ];
  for (const [i, text] of cells.entries()) {
    const cell = line.insertCell();
    cell.textContent = text;
    cell.dataset.label = LABELS[i];
    cell.role = "cell";
  }
  line.cells[1].className = "vae";
  return line;
}

function sourceLine(job) {
  const line = emptyLine();
  line.append(headCell("Source", job + SOURCE, "Source"));
  const rest = line.insertCell();
  rest.colSpan = LABELS.length;
  return line;
}

/** Return a line of the table. Its role is said, as a line that is no table row for the eyes has none otherwise. */
function emptyLine() {
  const line = document.createElement("tr");
  line.role = "row";
  return line;
}

/** The first cell of a line: its name, and the buttons by which it becomes A or B. */
function headCell(text, clip, name) {
  const cell = document.createElement("th");
  cell.scope = "row";
  cell.role = "rowheader";
  cell.append(text);
  if (clip === null) return cell;
  const buttons = document.createElement("span");
  buttons.className = "sides";
  for (const side of SIDES) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = side.toUpperCase();
    button.setAttribute("aria-label", `Show ${name} as ${side.toUpperCase()}`);
    Object.assign(button.dataset, { side, clip });
    buttons.append(button);
  }
  cell.append(buttons);
  return cell;
}
