// Records: the format in which frames travel. wanvae_app/page/routes.py writes it.

export const HEADER_BYTES = 16; // index u32, length u32, seconds f64, little-endian; `length` bytes of JPEG follow

/**
 * @typedef {object} FrameRecord
 * @property {number} index the frame's number in the clip, from 0
 * @property {number} seconds from the run's start until the frame existed
 * @property {Uint8Array} jpeg
 */

/** Cuts a stream of bytes into records, wherever the network has cut it. */
export class RecordParser {
  #parts = []; // bytes that belong to no complete record yet, in order
  #length = 0; // of all parts together
  #needed = HEADER_BYTES; // bytes until there is something to do

  /** Number of bytes that belong to no complete record yet. */
  get numPending() {
    return this.#length;
  }

  /**
   * Take the next bytes of the stream; return the records that are complete now.
   *
   * @param {Uint8Array} bytes
   * @returns {FrameRecord[]}
   */
  push(bytes) {
    this.#parts.push(bytes);
    this.#length += bytes.length;
    if (this.#length < this.#needed) return []; // joining the parts each time would copy a large frame many times

    const data = join(this.#parts, this.#length);
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    const records = [];
    let start = 0;
    this.#needed = HEADER_BYTES;
    while (data.length - start >= HEADER_BYTES) {
      const length = view.getUint32(start + 4, true);
      const stop = start + HEADER_BYTES + length;
      if (data.length < stop) {
        this.#needed = HEADER_BYTES + length;
        break;
      }
      records.push({
        index: view.getUint32(start, true),
        seconds: view.getFloat64(start + 8, true),
        jpeg: data.subarray(start + HEADER_BYTES, stop),
      });
      start = stop;
    }
    this.#parts = start < data.length ? [data.subarray(start)] : [];
    this.#length = data.length - start;
    return records;
  }
}

function join(parts, length) {
  if (parts.length === 1) return parts[0];
  const joined = new Uint8Array(length);
  let start = 0;
  for (const part of parts) {
    joined.set(part, start);
    start += part.length;
  }
  return joined;
}
