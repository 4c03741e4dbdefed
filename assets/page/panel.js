// Panel: what is written around the picture: progress, numbers, who did what, and the runs of this input.

const MEGA = 2 ** 20;
const HELD_BYTES = 200e6; // of a file to download that the page keeps
const seconds = (value) => (value == null ? "–" : value < 10 ? `${value.toFixed(2)} s` : `${value.toFixed(1)} s`);
const number = (value, digits = 1) => (value == null ? "–" : value.toFixed(digits));
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
const decibel = (value) => (value === "inf" ? "identical" : `${value.toFixed(2)} dB`);

class Panel {
  constructor(root) {
    this.root = root;
    this.find = (selector) => root.querySelector(selector);
    this.timeline = new Timeline(this.find(".timeline"));
  }

  clear() {
    this.timeline.clear();
    for (const cell of this.root.querySelectorAll("[data-stat]")) cell.textContent = "–";
    for (const link of this.root.querySelectorAll(".files a")) {
      link.hidden = true;
      URL.revokeObjectURL(link.href);
      link.removeAttribute("href");
    }
    this.find(".psnr").hidden = true;
    this.progress(0, 0);
  }

  // A line that stays until the next one; tone is "", "good" or "bad".
  say(title, text, tone = "") {
    const line = this.find(".status");
    line.dataset.tone = tone;
    line.firstElementChild.textContent = title;
    line.lastElementChild.textContent = text;
    this.find(".note").hidden = true;
  }

  banner(text) {
    const banner = this.find(".banner");
    banner.hidden = !text;
    banner.textContent = text;
  }

  update(run) {
    this.find("[data-stat=frames]").textContent = `${run.frames} / ${run.num_frames}`;
    this.find("[data-stat=rate]").textContent = number(run.rate);
    this.find("[data-stat=first]").textContent = seconds(run.first);
    this.find("[data-stat=elapsed]").textContent = run.state === "queued" ? "–" : seconds(run.elapsed);
    this.find("[data-stat=size]").textContent = `${run.width} × ${run.height}, ${+run.fps.toFixed(2)} fps`;
    this.find(".psnr").hidden = run.psnr == null;
    if (run.psnr != null) this.find("[data-stat=psnr]").textContent = decibel(run.psnr);
    this.say(...describe(run));
    const note = this.find(".note");
    note.textContent = [run.note, run.warning && `${run.warning}.`].filter(Boolean).join(" ");
    note.hidden = !note.textContent;
    const [encoded, latents] = run.phases.encode ?? [0, 0];
    // Encoding takes about half as long as decoding.
    const share = latents ? 1 / 3 : 0;
    this.progress(latents ? (share * encoded) / latents : 0, ((1 - share) * run.frames) / run.num_frames);
    this.timeline.add(run.activity, run.elapsed, Math.max(run.ranks, run.peak.length));
    this.files(run);
    this.runs(run);
  }

  progress(encoded, decoded) {
    const bar = this.find(".progress");
    bar.querySelector(".encode").style.width = `${100 * encoded}%`;
    bar.querySelector(".decode").style.width = `${100 * decoded}%`;
    bar.querySelector(".decode").style.left = `${100 * encoded}%`;
    bar.setAttribute("aria-valuenow", Math.round(100 * (encoded + decoded)));
  }

  files(run) {
    const stem = run.name.replace(/\.[^.]*$/, "");
    const links = [
      [".video-file", run.video_file, "video.mp4", `${stem}-decoded.mp4`],
      [".latent-file", run.latent_file, "latent.safetensors", `${stem}-latent.safetensors`],
    ];
    for (const [selector, there, route, name] of links) {
      const link = this.find(selector);
      if (!there || link.href) continue;
      link.hidden = false;
      link.download = name;
      link.href = address(`live/${run.job}/${route}`);
      this.hold(link);
    }
  }

  // Fetch a file as soon as it exists: what was finished can then be downloaded though the server went away.
  async hold(link) {
    const href = link.href;
    const response = await fetch(href).catch(() => null);
    if (!response?.ok || Number(response.headers.get("content-length")) > HELD_BYTES) return;
    const file = await response.blob().catch(() => null);
    if (!file || link.href !== href) return;
    link.href = URL.createObjectURL(file);
  }

  runs(run) {
    this.find(".runs").hidden = !run.rows.length;
    const body = run.rows.map((row) => {
      const cells = [row.number, row.parallel ? "on" : "off", row.ranks, row.chunk, seconds(row.seconds),
        seconds(row.first), number(row.rate), peaks(row.peak), row.state];
      const line = document.createElement("tr");
      line.classList.toggle("present", row.number === run.number);
      for (const cell of cells) line.insertCell().textContent = cell;
      return line;
    });
    this.find(".runs tbody").replaceChildren(...body);
    const line = this.find(".comparison");
    line.hidden = !run.comparison;
    if (run.comparison) line.textContent = compare(run.comparison);
  }
}

// A run in a title, a sentence and a tone.
function describe(run) {
  const where = run.parallel ? plural(run.ranks, "rank") : "rank 0 alone";
  const [done, total] = run.phases[run.phase];
  switch (run.state) {
    case "queued":
      if (run.place) return ["Waiting", `${plural(run.place, "run")} before this one.`];
      return ["Waiting", run.message === "Waiting." ? "Next in line." : run.message];
    case "running":
      if (run.stopping) return ["Stopping", "at the end of the present chunk."];
      if (run.phase === "encode") return ["Encoding", `${done} of ${total} latent frames, on ${where}.`];
      return [run.phases.encode?.[0] < total ? "Encoding and decoding" : "Decoding",
        `${run.frames} of ${run.num_frames} frames, on ${where}.`];
    case "writing":
      return ["Decoded", `${plural(run.frames, "frame")} in ${seconds(run.elapsed)}; writing the files to download.`, "good"];
    case "finished":
      return ["Finished", finished(run, where), "good"];
    case "stopped":
      return ["Stopped", run.message.replace(/^Stopped /, "") + (run.frames ? " They stay watchable." : "")];
    default:
      return ["Failed", run.message, "bad"];
  }
}

function finished(run, where) {
  const parts = run.encode_seconds == null ? "" :
    ` (encoding ${seconds(run.encode_seconds)}, decoding ${seconds(run.decode_seconds)})`;
  const more = run.message === "Finished." ? "" : ` ${run.message.replace(/^Finished\. /, "")}`;
  return `${plural(run.frames, "frame")} in ${seconds(run.elapsed)}${parts}, on ${where}.${more}`;
}

function compare(found) {
  // Where one of the two was parallel, the speed is told of that one.
  const [before, after] = [found.before, found.after].map((number, i) =>
    found.parallel[0] === found.parallel[1] ? `Run ${number}` :
      `${found.parallel[i] ? "Parallel" : "Rank 0 alone"} (run ${number})`);
  const turned = found.parallel[0] && !found.parallel[1];
  const [first, second] = turned ? [before, after] : [after, before];
  const times = turned ? 1 / found.speedup : found.speedup;
  const relation = times < 1 ? `took ${(1 / times).toFixed(2)} times as long as` : `was ${times.toFixed(2)} times as fast as`;
  const pace = found.speedup == null ? "" : `${first} ${relation} ${second.replace("R", "r")}. `;
  if (found.max_abs === 0) return `${pace}Their frames are identical.`;
  const share = ((100 * found.num_different) / found.num_pixels).toPrecision(2);
  return `${pace}Largest difference of a pixel: ${found.max_abs} of 255, in frame ${found.frame + 1}, ` +
    `row ${found.row}, column ${found.column}; ${share} % of pixels differ.`;
}

function peaks(bytes) {
  return bytes.length ? `${bytes.map((n) => Math.round(n / MEGA)).join(" / ")} MiB` : "–";
}
