"""What decoding over HTTP costs over decoding alone: bytes, seconds, and the first frame, for each form of the answer.

    python -m wanvae_app.bench.remote_cost http://127.0.0.1:7860

The app must be running. Each form is asked for several times with the same latent of noise; the median is printed. The
server says how long its ranks decoded, which is what decoding takes without HTTP; the rest is the cost.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import time
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

import numpy as np

from wanvae_app.remote import END_INDEX, RECORD_HEADER, STREAM_TYPE

STREAMS = {"frames as raw bytes": "raw", "frames as PNG": "png", "frames as JPEG, as the page has": "jpg"}
TENSORS = {
    "one tensor, uint8": {"output_type": "pt", "partial_postprocess": "true"},
    "one tensor, float16": {"output_type": "pt"},
    "MP4": {"output_type": "mp4"},
}
PIECE_BYTES = 2**20


class Cost(NamedTuple):
    """One request; times are in seconds from before the connection is made."""

    num_bytes: int  # of the answer
    first: float | None  # until the first frame was there, of a stream
    total: float
    decoded: float  # from the run's start to its last frame, as the server says


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("url", help="the app's address")
    parser.add_argument("--latent", type=int, nargs=4, default=[16, 5, 30, 52], metavar=("C", "T", "H", "W"))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    latent = np.random.default_rng(0).standard_normal((1, *options.latent)).astype(np.float32)
    ask(options.url, latent, {"image_format": "jpg"}, is_stream=True)  # warms up
    print(f"A latent {list(latent.shape)} of {latent.nbytes / 1e6:.2f} MB, median of {options.repeats}\n")
    print("| answer | MB | first frame | all | decoded by the ranks in | cost |")
    print("|---|---|---|---|---|---|")
    forms = [(name, {"image_format": image_format}, True) for name, image_format in STREAMS.items()]
    forms += [(name, query, False) for name, query in TENSORS.items()]
    for name, query, is_stream in forms:
        costs = [ask(options.url, latent, query, is_stream) for _ in range(options.repeats)]
        print(row(name, costs), flush=True)


def row(name: str, costs: list[Cost]) -> str:
    """One row of the table: medians."""
    firsts = [cost.first for cost in costs if cost.first is not None]
    columns = [
        f"{statistics.median(cost.num_bytes for cost in costs) / 1e6:.2f}",
        f"{statistics.median(firsts):.3f} s" if firsts else "",
        f"{statistics.median(cost.total for cost in costs):.3f} s",
        f"{statistics.median(cost.decoded for cost in costs):.3f} s",
        f"{statistics.median(cost.total - cost.decoded for cost in costs):.3f} s",
    ]
    return f"| {name} | {' | '.join(columns)} |"


def ask(url: str, latent: np.ndarray, query: dict[str, str], is_stream: bool) -> Cost:
    """Decode once. Exits with the server's sentence if it refuses."""
    parts = urlsplit(url)
    start = time.perf_counter()
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=900)
    asked = {"shape": list(latent.shape), "dtype": str(latent.dtype), **query}
    headers = {"Accept": STREAM_TYPE} if is_stream else {}
    try:
        connection.request("POST", f"/vae/decode?{urlencode(asked, doseq=True)}", latent.tobytes(), headers)
    except OSError as error:
        raise SystemExit(f"{url} is not reached: {error.strerror or error}.") from error
    answer = connection.getresponse()
    if answer.status != 200:
        raise SystemExit(json.loads(answer.read())["detail"])
    try:
        if is_stream:
            return _read_records(answer, start)
        num_bytes = 0
        while piece := answer.read(PIECE_BYTES):
            num_bytes += len(piece)
        return Cost(num_bytes, None, time.perf_counter() - start, float(answer.headers["seconds"]))
    finally:
        connection.close()


def _read_records(answer: http.client.HTTPResponse, start: float) -> Cost:
    num_bytes, first, decoded = 0, None, 0.0
    while True:
        index, length, seconds = RECORD_HEADER.unpack(answer.read(RECORD_HEADER.size))
        answer.read(length)
        num_bytes += RECORD_HEADER.size + length
        if index == END_INDEX:
            return Cost(num_bytes, first, time.perf_counter() - start, decoded)
        first = first if first is not None else time.perf_counter() - start
        decoded = seconds


if __name__ == "__main__":
    main()
