// Exports: a run's frames as files of other formats, which the server makes when they are asked for.

const POLL = 500; // milliseconds between two questions while a file is being made
const PREVIEW = "mp4"; // which every run has already

/** Shows the formats, what they are for, and how far the run's file of the chosen one is. */
export class Exports {
  #run = null; // its id
  #formats = [];
  #wanted = new Set(); // names of formats, to be saved as soon as they are there
  #timer = null;

  /**
   * @param {Element} root holds `.export`
   * @param {import("./server.js").Server} server
   */
  constructor(root, server) {
    this.server = server;
    this.menu = root.querySelector(".export");
    this.find = (selector) => this.menu.querySelector(selector);
    this.choice = this.find("select");
    this.button = this.find("button");
    this.link = this.find("a");
    this.menu.addEventListener("toggle", () => this.menu.open && this.#ask());
    this.choice.addEventListener("change", () => this.#show());
    this.button.addEventListener("click", () => this.#act());
    this.menu.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.menu.open) return;
      this.menu.open = false;
      this.find("summary").focus();
      event.stopPropagation();
    });
    document.addEventListener("pointerdown", (event) => {
      if (!this.menu.contains(event.target)) this.menu.open = false;
    });
  }

  clear() {
    clearTimeout(this.#timer);
    this.#run = null;
    this.#formats = [];
    this.#wanted.clear();
    this.menu.open = false;
    this.menu.hidden = true;
    this.#tell("");
  }

  /** Offer the files of a run that has ended with frames. */
  update(run) {
    const isOver = ["finished", "stopped"].includes(run.state) && run.frames > 0;
    if (!isOver || this.#run === run.job) return;
    this.clear();
    this.#run = run.job;
    this.menu.hidden = false;
  }

  get #chosen() {
    return this.#formats.find((format) => format.name === this.choice.value);
  }

  /** Ask how far the files are, again and again while one is being made. */
  async #ask() {
    const run = this.#run;
    clearTimeout(this.#timer);
    const formats = await this.server.askExports(run).catch(() => null);
    if (run !== this.#run) return;
    if (formats === null) {
      this.#tell("This run's files cannot be asked for now.");
    } else {
      this.#formats = formats.filter((format) => format.name !== PREVIEW);
      this.#fill();
      this.#show();
      this.#saveWanted();
    }
    const isBusy = this.#formats.some((format) => describeExport(format).isBusy);
    if (isBusy) this.#timer = setTimeout(() => this.#ask(), POLL);
  }

  #fill() {
    if (this.choice.options.length === this.#formats.length) return;
    const options = this.#formats.map(({ name, label }) => new Option(label, name));
    this.choice.replaceChildren(...options);
  }

  #show() {
    const format = this.#chosen;
    const { text, action, progress } = describeExport(format);
    this.find(".purpose").textContent = `${format.purpose} ${format.players}`;
    this.#tell(text);
    this.button.hidden = action === "Save";
    this.link.hidden = action !== "Save";
    this.button.textContent = action;
    this.find("progress").hidden = progress === null;
    this.find("progress").value = progress ?? 0;
    if (action !== "Save") return;
    this.link.href = this.server.exportAddress(this.#run, format.name);
    this.link.download = format.export.name;
  }

  /** Make the chosen file, or stop making it. */
  async #act() {
    if (!this.#chosen) return this.#ask(); // the formats have not arrived
    const { name } = this.#chosen;
    const isBusy = describeExport(this.#chosen).isBusy;
    const asked = isBusy ? this.server.stopExport(this.#run, name) : this.server.startExport(this.#run, name);
    const problem = await asked.catch(() => "The server does not answer.");
    if (problem) return this.#tell(problem);
    if (isBusy) this.#wanted.delete(name);
    else this.#wanted.add(name);
    await this.#ask();
  }

  /** Save the files that were asked for here, once each. */
  #saveWanted() {
    for (const format of this.#formats) {
      if (!this.#wanted.has(format.name) || describeExport(format).isBusy) continue;
      this.#wanted.delete(format.name);
      if (format.export?.state !== "finished") continue;
      const link = document.createElement("a");
      link.href = this.server.exportAddress(this.#run, format.name);
      link.download = format.export.name;
      link.click();
    }
  }

  #tell(text) {
    const line = this.find(".progress-text");
    if (line.textContent !== text) line.textContent = text;
  }
}

/**
 * Say how far a format's file is.
 *
 * @returns {{text: string, action: "Make" | "Stop" | "Save", progress: number | null, isBusy: boolean}}
 */
export function describeExport({ bit_depth, export: file }) {
  const idle = { action: "Make", progress: null, isBusy: false };
  if (!file) return { ...idle, text: bit_depth > 8 ? "The clip is decoded again for it." : "" };
  const busy = { action: "Stop", progress: file.progress, isBusy: true };
  const percent = `${Math.floor(100 * file.progress)} %`;
  switch (file.state) {
    case "waiting":
      return { ...busy, text: "Waiting for other files." };
    case "decoding":
      if (file.place) return { ...busy, text: `Waiting for ${file.place} run${file.place > 1 ? "s" : ""}.` };
      return { ...busy, text: `Decoding again, ${percent}.` };
    case "writing":
      return { ...busy, text: `Writing, ${percent}.` };
    case "finished":
      return {
        ...idle,
        action: "Save",
        text: [formatBytes(file.bytes), file.message].filter(Boolean).join(" "),
      };
    case "stopped":
      return { ...idle, text: "Stopped." };
    default:
      return { ...idle, text: file.message };
  }
}

function formatBytes(bytes) {
  if (bytes >= 1e9) return `${(bytes / 1e9).toFixed(1)} GB.`;
  return bytes >= 1e6 ? `${(bytes / 1e6).toFixed(1)} MB.` : `${Math.ceil(bytes / 1e3)} kB.`;
}
