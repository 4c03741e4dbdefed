// Feed: one clip's frames. They are fetched as the server makes them and kept as JPEG; those near the playhead
// also as bitmaps, ready to draw.

const AHEAD = 24; // frames that are held ready
const KEPT_BYTES = 300e6; // JPEGs that are kept; beyond, the farthest from the playhead go
const HEADER_BYTES = 16; // index u32, length u32, time f64, little-endian

class Feed {
  constructor(url, wake) {
    this.url = url; // ends in ? or &
    this.wake = wake; // called whenever a frame has come or is ready
    this.jpegs = []; // by frame; holes where one was dropped
    this.bitmaps = new Map(); // by frame
    this.decoding = new Set();
    this.count = 0; // frames known to exist
    this.next = 0; // that the stream will bring
    this.playhead = 0;
    this.bytes = 0;
    this.complete = false; // no frame will be added
    this.gone = false; // the server has deleted the clip
    this.closed = false;
    this.running = false;
    this.resume = null;
    this.read();
  }

  async read() {
    if (this.running) return;
    this.running = true;
    let delay = 200;
    while (!this.closed && !this.gone) {
      const before = this.next;
      try {
        this.abort = new AbortController();
        if (await this.stream(this.abort.signal)) break;
      } catch (error) {
        if (this.closed) break;
      }
      // Cut off: go on where it stopped, at first at once, then more and more patiently.
      delay = this.next > before ? 200 : Math.min(delay * 2, 2000);
      await new Promise((done) => setTimeout(done, delay));
    }
    this.running = false;
    this.wake();
  }

  async stream(signal) {
    const response = await fetch(`${this.url}start=${this.next}`, { signal });
    if (response.status === 404 || response.status === 410) {
      this.gone = true;
      return true;
    }
    if (!response.ok) throw new Error(response.statusText);
    const reader = response.body.getReader();
    let data = new Uint8Array(0);
    const fill = async (size) => {
      const parts = [data];
      let length = data.length;
      while (length < size) {
        const { done, value } = await reader.read();
        if (done) break;
        parts.push(value);
        length += value.length;
      }
      if (parts.length > 1) data = new Uint8Array(await new Blob(parts).arrayBuffer());
      return data.length >= size;
    };
    while (await fill(HEADER_BYTES)) {
      const header = new DataView(data.buffer, data.byteOffset, HEADER_BYTES);
      const index = header.getUint32(0, true);
      const length = header.getUint32(4, true);
      if (!(await fill(HEADER_BYTES + length))) break;
      this.keep(index, new Blob([data.subarray(HEADER_BYTES, HEADER_BYTES + length)], { type: "image/jpeg" }));
      data = data.subarray(HEADER_BYTES + length);
      // Not reading is what slows the server down for us, and for nobody else.
      while (this.bytes > KEPT_BYTES && this.next > this.playhead + AHEAD && !signal.aborted) {
        await new Promise((done) => (this.resume = done));
      }
    }
    if (data.length) throw new Error("cut off within a frame");
    this.complete = true;
    return true;
  }

  keep(index, jpeg) {
    if (!this.jpegs[index]) {
      this.jpegs[index] = jpeg;
      this.bytes += jpeg.size;
    }
    this.next = index + 1;
    this.count = Math.max(this.count, this.next);
    while (this.bytes > KEPT_BYTES) {
      const last = this.jpegs.length - 1;
      let farthest = this.jpegs.findIndex((jpeg) => jpeg);
      if (last - this.playhead > this.playhead - farthest) farthest = last;
      if (Math.abs(farthest - this.playhead) <= AHEAD) break;
      this.bytes -= this.jpegs[farthest].size;
      if (farthest === last) this.jpegs.length = last;
      else delete this.jpegs[farthest];
    }
    this.wake();
  }

  // Make bitmaps of the frames from `index` on, and forget those far from it.
  prepare(index) {
    this.playhead = index;
    this.resume?.();
    for (const [frame, bitmap] of this.bitmaps) {
      if (frame < index - 4 || frame > index + AHEAD) {
        bitmap.close();
        this.bitmaps.delete(frame);
      }
    }
    for (let frame = index; frame < Math.min(index + AHEAD, this.count); frame++) {
      if (!this.jpegs[frame]) {
        if (frame < this.next || this.complete || frame > this.next + AHEAD) this.fetchAgain(frame);
        break;
      }
      if (this.decoding.size >= 4) break;
      if (!this.bitmaps.has(frame) && !this.decoding.has(frame)) this.decode(frame);
    }
  }

  async decode(frame) {
    this.decoding.add(frame);
    try {
      const bitmap = await createImageBitmap(this.jpegs[frame]);
      if (this.closed) bitmap.close();
      else this.bitmaps.set(frame, bitmap);
    } finally {
      this.decoding.delete(frame);
      this.wake();
    }
  }

  fetchAgain(frame) {
    this.next = frame;
    this.complete = false;
    this.abort?.abort();
    this.resume?.();
    this.read();
  }

  close() {
    this.closed = true;
    this.abort?.abort();
    this.resume?.();
    for (const bitmap of this.bitmaps.values()) bitmap.close();
    this.bitmaps.clear();
    this.jpegs = [];
  }
}
