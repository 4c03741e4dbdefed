// Player: draws frames on time, while they are being made and afterwards.

class Player {
  constructor(root) {
    this.root = root;
    this.find = (selector) => root.querySelector(selector);
    this.canvas = this.find("canvas");
    this.context = this.canvas.getContext("2d");
    this.scrub = this.find(".scrub");
    this.loop = localStorage.getItem("wanvae-loop") === "yes";
    this.mode = "decoded";
    this.split = 0.5;
    this.decoded = this.source = null;
    this.listen();
    this.clear();
  }

  clear() {
    this.decoded?.close();
    this.source?.close();
    this.decoded = this.source = null;
    this.total = 0; // frames that there will be
    this.step = 62; // milliseconds per frame
    this.shown = -1; // the frame on the canvas
    this.wanted = null; // the frame asked for by hand
    this.preview = null; // the source's frame to show while nothing is decoded
    this.drawn = new Set(); // decoded frames that were on the canvas
    this.due = 0;
    this.playing = true;
    this.canvas.parentElement.classList.add("stale"); // what is on it is of another run
    this.show();
  }

  open(run, url) {
    this.clear();
    this.total = run.num_frames;
    this.step = 1000 / run.fps;
    this.size = [run.width, run.height];
    this.decoded = new Feed(`${url}?view=decoded&`, () => this.wake());
    if (run.source) this.source = new Feed(`${url}?view=source&`, () => this.wake());
    this.find(".modes").hidden = !run.source;
    this.setMode(run.source ? localStorage.getItem("wanvae-mode") || "side" : "decoded");
  }

  get count() {
    return this.decoded?.count ?? 0;
  }

  get over() {
    return this.decoded !== null && (this.decoded.complete || this.decoded.gone) && this.shown >= this.count - 1;
  }

  wake() {
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame((now) => {
      this.scheduled = false;
      if (this.decoded) this.tick(now);
    });
  }

  tick(now) {
    if (this.count === 0) {
      this.drawPreview();
    } else if (this.wanted !== null) {
      if (this.draw(this.wanted)) {
        this.wanted = null;
        this.wake();
      }
    } else if (this.playing && this.shown + 1 < this.count) {
      // A frame that is late is drawn at once; only one that is early waits.
      if (now < this.due - 2) this.wake();
      else if (this.draw(this.shown + 1)) {
        this.due = now - this.due > this.step ? now + this.step : this.due + this.step;
        this.wake();
      }
    } else if (this.playing && this.over) {
      if (this.loop && this.count > 1) this.wanted = 0;
      else this.playing = false;
      this.wake();
    }
    this.show();
  }

  // True if the frame is on the canvas now; if it is not ready, its feed will wake us.
  draw(frame) {
    const needsSource = this.source && !this.source.gone && this.mode !== "decoded";
    this.decoded.prepare(frame);
    if (needsSource) this.source.prepare(frame);
    const bitmap = this.decoded.bitmaps.get(frame);
    const source = needsSource ? this.source.bitmaps.get(frame) : null;
    if (!bitmap || (needsSource && !source && frame < this.source.count)) return false;
    compose(this.context, source ? this.mode : "decoded", bitmap, source, this);
    this.shown = frame;
    this.drawn.add(frame);
    this.tags(source ? this.mode : "decoded");
    return true;
  }

  drawPreview() {
    if (this.preview === null || !this.source) return;
    this.source.prepare(this.preview);
    const bitmap = this.source.bitmaps.get(this.preview);
    if (!bitmap) return;
    compose(this.context, "decoded", bitmap, null, this);
    this.tags("source");
  }

  tags(mode) {
    const [left, right] = { decoded: this.source ? ["Decoded", ""] : ["", ""], source: ["Source", ""],
      side: ["Source", "Decoded"], wipe: ["Source", "Decoded"], difference: ["Difference × 8", ""] }[mode];
    for (const [selector, text] of [[".tag.left", left], [".tag.right", right]]) {
      const tag = this.find(selector);
      tag.textContent = text;
      tag.hidden = !text;
    }
    this.canvas.parentElement.classList.remove("stale");
    this.canvas.hidden = false;
    this.find(".empty").hidden = true;
  }

  show() {
    const last = Math.max(this.total, this.count) - 1;
    this.scrub.max = Math.max(0, last);
    this.scrub.disabled = this.find(".play").disabled = this.count === 0;
    this.scrub.value = Math.max(0, this.shown);
    this.scrub.style.setProperty("--there", last > 0 ? `${(100 * (this.count - 1)) / last}%` : "0%");
    this.scrub.style.setProperty("--at", last > 0 ? `${(100 * this.shown) / last}%` : "0%");
    this.find(".frame").textContent = this.count ? `${this.shown + 1} / ${last + 1}` : "–";
    const paused = !this.playing || !this.count;
    this.find(".play path").setAttribute("d", paused ? "M4 2.5v11l9-5.5z" : "M3.5 2.5h3v11h-3zm6 0h3v11h-3z");
    this.find(".loop").setAttribute("aria-pressed", this.loop);
  }

  seek(frame) {
    if (!this.count) return;
    this.playing = false;
    this.wanted = Math.min(Math.max(0, frame), this.count - 1);
    this.wake();
  }

  toggle() {
    if (!this.count) return;
    this.playing = !this.playing || this.over;
    if (this.playing && this.over) this.wanted = 0;
    this.due = 0;
    this.wake();
  }

  setMode(mode) {
    this.mode = mode;
    for (const button of this.root.querySelectorAll("[data-mode]")) {
      button.setAttribute("aria-pressed", button.dataset.mode === mode);
    }
    if (this.shown >= 0 && this.wanted === null) this.wanted = this.shown;
    this.wake();
  }

  listen() {
    this.find(".play").addEventListener("click", () => this.toggle());
    this.scrub.addEventListener("input", () => this.seek(Number(this.scrub.value)));
    this.find(".loop").addEventListener("click", () => {
      this.loop = !this.loop;
      localStorage.setItem("wanvae-loop", this.loop ? "yes" : "no");
      this.show();
      this.wake();
    });
    this.find(".modes").addEventListener("click", (event) => {
      const mode = event.target.dataset.mode;
      if (!mode) return;
      localStorage.setItem("wanvae-mode", mode);
      this.setMode(mode);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (this.mode !== "wipe" || this.shown < 0) return;
      const box = this.canvas.getBoundingClientRect();
      this.split = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
      this.wanted ??= this.shown;
      this.wake();
    });
    document.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    const inside = this.root.contains(event.target);
    if (event.ctrlKey || event.metaKey || event.altKey || (!inside && event.target !== document.body)) return;
    const far = event.shiftKey ? 10 : 1;
    const actions = { ArrowLeft: () => this.seek(this.shown - far), ArrowRight: () => this.seek(this.shown + far),
      Home: () => this.seek(0), End: () => this.seek(this.count - 1) };
    // Space on a button presses that button.
    if (event.target.tagName !== "BUTTON" && event.target.tagName !== "A") actions[" "] = () => this.toggle();
    if (!actions[event.key] || !this.count) return;
    event.preventDefault();
    actions[event.key]();
  }
}

// Draw one frame, or source and decoded frame together.
function compose(context, mode, bitmap, source, player) {
  const { canvas } = context;
  const { width, height } = bitmap;
  const gap = Math.max(2, Math.round(Math.min(width, height) / 100));
  const stage = canvas.parentElement;
  const beside = Math.min(stage.clientWidth / (2 * width), stage.clientHeight / height);
  const below = Math.min(stage.clientWidth / width, stage.clientHeight / (2 * height));
  const stacked = mode === "side" && below > beside;
  const size = [
    mode === "side" && !stacked ? 2 * width + gap : width,
    stacked ? 2 * height + gap : height,
  ];
  if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
  stage.style.setProperty("--aspect", size[0] / size[1]);
  stage.classList.toggle("stacked", stacked);
  context.globalCompositeOperation = "copy";
  if (mode === "side") {
    context.drawImage(source, 0, 0, width, height);
    context.globalCompositeOperation = "source-over";
    context.drawImage(bitmap, size[0] - width, size[1] - height);
  } else if (mode === "wipe") {
    const split = Math.round(width * player.split);
    context.drawImage(bitmap, 0, 0);
    context.globalCompositeOperation = "source-over";
    const scale = source.width / width;
    if (split) context.drawImage(source, 0, 0, split * scale, source.height, 0, 0, split, height);
    context.fillStyle = "#fff";
    context.fillRect(split - 0.5, 0, 1, height);
  } else {
    context.drawImage(bitmap, 0, 0);
    if (mode === "difference") {
      context.globalCompositeOperation = "difference";
      context.drawImage(source, 0, 0, width, height);
      // Three times doubled: differences of one or two steps would not be seen.
      context.globalCompositeOperation = "lighter";
      for (let i = 0; i < 3; i++) context.drawImage(canvas, 0, 0);
    }
  }
}
