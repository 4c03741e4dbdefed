"""A client of the remote VAE: decodes and encodes on another machine, which runs this app.

    for frames in wanvae_app.remote.decode("http://host:7860", latent, scaling="normalised"):
        show(frames)  # uint8 [1 H W 3], as soon as it is decoded

Needs NumPy, and PyTorch only where tensors come in or go out. The same file is the client of assets/comfyui, so it
imports nothing of this package. docs/remote.md describes the protocol.
"""

from __future__ import annotations

import base64
import http.client
import json
import math
import selectors
import ssl
import struct
import sys
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlencode, urlsplit

import numpy as np

if TYPE_CHECKING:
    import torch

STREAM_TYPE = "application/x-wan-frames"
RECORD_HEADER = struct.Struct("<IId")  # index, length of what follows in bytes, seconds since the run's start
END_INDEX = 2**32 - 1  # of the last record, which holds JSON
MAX_RECORD = 2**28  # bytes of a frame
PIECE_BYTES = 2**20  # of a body that are sent at once
WAIT_SECONDS = 0.5  # between two calls of `on_wait`
TIMEOUT = 900.0  # seconds without a byte, the wait in the server's queue included
EXACT_FORMATS = ("raw", "png")
SCALINGS = ("raw", "normalised")

Progress = Callable[[int, int], None]  # how much is done, and of how much


class RemoteError(RuntimeError):
    """The server refused a clip, failed, or was not reached. The message is one sentence."""


def decode(
    url: str,
    latent: torch.Tensor | np.ndarray,
    *,
    scaling: str,
    vae: str = "",
    image_format: str = "raw",
    on_progress: Progress | None = None,
    on_wait: Callable[[], object] | None = None,
    timeout: float = TIMEOUT,
) -> Generator[np.ndarray]:
    """Decode a latent [1 C T H W] on the server, and yield its frames, uint8 [1 H W C], as soon as they are decoded.

    C is 3, or 4 where the VAE makes alpha. `url` is the server's address, such as http://host:7860 or
    https://user:password@host. `scaling` says what the latent is: "raw", or "normalised" by the VAE's statistics. `vae`
    names one of the server's VAEs. Frames travel as "raw" bytes, or as "png", which is slower and smaller; both are
    exact. `on_progress` gets the number of frames so far and of all. `on_wait` is called every WAIT_SECONDS until the
    first frame comes. Closing the generator, and whatever these two raise, stops the run on the server.

    Raises ValueError for arguments that are not known, RemoteError, with one sentence, for what the server refuses and
    for a run that fails; a UserWarning says what is odd about the latent.
    """
    if image_format not in EXACT_FORMATS:
        raise ValueError(f"image_format={image_format!r} is not exact; give {' or '.join(EXACT_FORMATS)}.")
    shape, dtype, body = _sent(latent)
    query = {"shape": shape, "dtype": dtype, "image_format": image_format, **_asked(scaling, vae)}
    return _decoded(url, query, body, on_progress, on_wait, timeout)


def encode(
    url: str,
    video: torch.Tensor | np.ndarray,
    *,
    scaling: str,
    vae: str = "",
    on_progress: Progress | None = None,
    on_wait: Callable[[], object] | None = None,
    timeout: float = TIMEOUT,
) -> torch.Tensor:
    """Encode a video on the server; return its latent, float32 [1 C T H W], on the CPU.

    The video is uint8 [N H W 3], or floats in [-1, 1] [1 3 N H W], which are rounded to 8 bits; N is 4 k + 1.
    `scaling` says which latent is wanted. `on_progress` gets the number of bytes sent so far and of all. For the other
    arguments, and what is raised, see `decode`.
    """
    import torch

    shape, dtype, body = _sent(video)
    query = {"shape": shape, "dtype": dtype, **_asked(scaling, vae)}
    with _Answer(url, "vae/encode", query, body, "tensor/binary", timeout, on_progress, on_wait) as answer:
        found_shape = json.loads(answer.header("shape"))
        data = bytearray(answer.read(4 * math.prod(found_shape)))
    return torch.frombuffer(data, dtype=torch.float32).reshape(found_shape)


def _decoded(
    url: str,
    query: dict[str, Any],
    body: memoryview,
    on_progress: Progress | None,
    on_wait: Callable[[], object] | None,
    timeout: float,
) -> Generator[np.ndarray]:
    with _Answer(url, "vae/decode", query, body, STREAM_TYPE, timeout, None, on_wait) as answer:
        num_frames, *size = json.loads(answer.header("shape"))
        num_done = 0
        while True:
            index, length, _ = RECORD_HEADER.unpack(answer.read(RECORD_HEADER.size))
            if length > MAX_RECORD:
                raise RemoteError(f"The server sent a record of {length} bytes, which is no frame.")
            payload = answer.read(length)
            if index == END_INDEX:
                break
            pixels = _pixels(payload, query["image_format"], size)
            num_done += 1
            if on_progress is not None:
                on_progress(num_done, num_frames)
            yield pixels[None]
        outcome = json.loads(payload)
        if "detail" in outcome or num_done != num_frames:
            raise RemoteError(outcome.get("detail", f"The server sent {num_done} of {num_frames} frames."))


def _pixels(payload: bytes, image_format: str, size: list[int]) -> np.ndarray:
    """Return a frame, uint8 [H W C], whose size is known."""
    if image_format == "raw":
        return np.frombuffer(bytearray(payload), np.uint8).reshape(size)
    import io

    from PIL import Image

    mode = "RGB" if size[-1] == 3 else "RGBA"
    return np.array(Image.open(io.BytesIO(payload), formats=["PNG"]).convert(mode))


def _asked(scaling: str, vae: str) -> dict[str, Any]:
    if scaling not in SCALINGS:
        raise ValueError(f"scaling={scaling!r} is not known; give {' or '.join(map(repr, SCALINGS))}.")
    return {"do_scaling": str(scaling == "normalised").lower(), **({"vae": vae} if vae else {})}


def _sent(clip: torch.Tensor | np.ndarray) -> tuple[list[int], str, memoryview]:
    """Return shape, dtype and bytes of a tensor or an array. Raises ValueError for anything else."""
    if isinstance(clip, np.ndarray):
        if sys.byteorder != "little" or clip.dtype.byteorder == ">":
            raise ValueError("Numbers must be little-endian.")
        array = np.ascontiguousarray(clip)
        return list(clip.shape), clip.dtype.name, array.reshape(-1).view(np.uint8).data
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(clip, torch.Tensor):
        raise ValueError(f"A clip is a tensor or an array, not {type(clip).__name__}.")
    tensor = clip.detach().cpu().contiguous()
    data = tensor.reshape(-1).view(torch.uint8).numpy()
    return list(tensor.shape), str(tensor.dtype).removeprefix("torch."), data.data


class _Answer:
    """One request and its answer. Leaving the context closes the connection, which ends the run on the server."""

    def __init__(
        self,
        url: str,
        path: str,
        query: dict[str, Any],
        body: memoryview,
        accept: str,
        timeout: float,
        on_progress: Progress | None = None,
        on_wait: Callable[[], object] | None = None,
    ) -> None:
        parts = urlsplit(url.strip())
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{_without_login(url)!r} is no address; give one such as http://host:7860.")
        try:
            port = parts.port
        except ValueError:  # its text may hold a part of the password
            raise ValueError(
                "The address has no port from 0 to 65535; in a password, / and : and @ are written %2F, %3A and %40."
            ) from None
        self._where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self._connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context()
            self._connection = http.client.HTTPSConnection(
                parts.hostname, port, timeout=timeout, context=context
            )
        else:
            self._connection = http.client.HTTPConnection(parts.hostname, port, timeout=timeout)
        headers = {"Content-Type": "tensor/binary", "Content-Length": str(len(body)), "Accept": accept}
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        base = parts.path.rstrip("/").removesuffix("/vae/decode").removesuffix("/vae/encode")
        target = f"{base}/{path}?{urlencode(query, doseq=True)}"
        try:
            self._ask(target, headers, _pieces(body, on_progress))
            self._response = self._first_answer(on_wait or (lambda: None), timeout)
            self._check()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> _Answer:
        return self

    def __exit__(self, *exception: object) -> None:
        self._response.close()
        self._connection.close()

    def header(self, name: str) -> str:
        """Return a header of the answer. Raises RemoteError if it is missing."""
        found = self._response.getheader(name)
        if found is None:
            raise RemoteError(f"{self._where} answers, but not as a remote VAE does.")
        return found

    def read(self, num_bytes: int) -> bytes:
        """Return so many bytes. Raises RemoteError if the connection ends before."""
        try:
            data = self._response.read(num_bytes)
        except (OSError, http.client.HTTPException) as error:
            raise self._lost(error) from error
        if len(data) != num_bytes:
            raise RemoteError(f"{self._where} broke its answer off; its log says more.")
        return data

    def _ask(self, target: str, headers: dict[str, str], pieces: Iterable[memoryview]) -> None:
        try:
            self._connection.connect()
        except OSError as error:
            raise RemoteError(f"{self._where} is not reached: {error.strerror or error}.") from error
        try:
            self._connection.request("POST", target, body=pieces, headers=headers)
        except OSError as error:
            # A server that refuses a body need not read it to the end; then its answer says why.
            if not isinstance(error, (BrokenPipeError, ConnectionResetError)):
                raise self._lost(error) from error

    def _first_answer(self, on_wait: Callable[[], object], timeout: float) -> http.client.HTTPResponse:
        """Wait for the answer's headers, and call `on_wait` meanwhile. Raises RemoteError if none come."""
        end = time.monotonic() + timeout
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._connection.sock, selectors.EVENT_READ)
                while not selector.select(min(WAIT_SECONDS, timeout)):
                    on_wait()
                    if time.monotonic() > end:
                        raise TimeoutError
            return self._connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise self._lost(error) from error

    def _check(self) -> None:
        """Raise RemoteError for a refusal, and warn of what the answer notes."""
        response = self._response
        if response.status != 200:
            text = response.read(2**16)
            try:
                sentence = str(json.loads(text)["detail"])
            except (ValueError, KeyError, TypeError):
                sentence = f"{self._where} answered with status {response.status}."
            raise RemoteError(sentence)
        if note := response.getheader("note"):
            warnings.warn(note, stacklevel=4)

    def _lost(self, error: Exception) -> RemoteError:
        reason = (
            "it was silent for too long" if isinstance(error, TimeoutError) else str(error) or "it has ended"
        )
        return RemoteError(f"The connection to {self._where} was lost: {reason}.")


def _pieces(body: memoryview, on_progress: Progress | None) -> Iterator[memoryview]:
    for start in range(0, len(body), PIECE_BYTES):
        yield body[start : start + PIECE_BYTES]
        if on_progress is not None:
            on_progress(min(start + PIECE_BYTES, len(body)), len(body))


def _without_login(url: str) -> str:
    return url.rpartition("@")[2]
