"""Files that are not trusted, read in a process of their own, which has limits on time and memory.

What can go wrong there costs one sentence here: the process may be killed, hang, or run out of memory. It answers with
JSON, and puts a latent's values into memory that both share. Any thread may call.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

import wanvae_app
from wanvae_app.formats.latent_file import NO_CHOICE, ClipChoice, ClipLabels, StoredFacts
from wanvae_app.formats.limits import WALL_FACTOR, limits_for

MAX_AT_ONCE = 8  # files
MAX_ANSWER = 2**16  # bytes
START_SECONDS = 60  # for importing PyTorch from a slow disk
SETTLE_SECONDS = 0.2  # for the process to be gone, if it is that which ended and not only its fork
# The process has one thread, so that it can fork, and needs no GPU.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES",  # else macOS may end a fork of a process that has loaded frameworks
}


class ServerLost(Exception):
    """The process that forks for each file has ended."""


def read_latent(path: Path, num_channels: int, choice: ClipChoice = NO_CHOICE) -> tuple[Tensor, str]:
    """The latent in a file, float32 [1, C, T, H, W], and the order of its dimensions; see `latents.read_clip`."""
    with _shared_file() as values:
        answer = _ask({"task": "latent", "channels": num_channels, "choice": choice}, path, values)
        shape = answer.get("shape")
        num_bytes = os.fstat(values.fileno()).st_size
        if not shape or 4 * math.prod(shape) != num_bytes:
            raise _too_much(path)
        memory = mmap.mmap(values.fileno(), num_bytes)
    return torch.frombuffer(memory, dtype=torch.float32).reshape(shape), answer["order"]


def latent_shape(path: Path, num_channels: int, choice: ClipChoice = NO_CHOICE) -> list[int]:
    """The shape [1, C, T, H, W] of the latent in a file; see `latents.latent_shape`."""
    shape: list[int] = _ask_header({"task": "shape", "channels": num_channels, "choice": choice}, path)[
        "shape"
    ]
    return shape


def clip_labels(path: Path, num_channels: int, order: str = "") -> ClipLabels:
    """The latents in a file; see `latent_file.clip_labels`."""
    request = {"task": "labels", "channels": num_channels, "order": order}
    return ClipLabels(*_ask_header(request, path)["labels"])


def stored_facts(path: Path) -> StoredFacts:
    """What a file states of its latent; see `latent_file.stored_facts`."""
    return StoredFacts(*_ask_header({"task": "facts"}, path)["facts"]) if path.is_file() else StoredFacts()


def start() -> None:
    """Start the process, unless it runs, so that the first file need not wait for it. Returns at once."""
    _server.start()


class _Server:
    """The process that forks for each file. It is started when it is needed, and ends with this one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._owner = 0  # this process's id; one that was forked from it needs a server of its own

    def start(self) -> None:
        """Start the process, unless it runs."""
        with self._lock:
            self._connect()

    def ask(self, request: bytes, values: int, timeout: float) -> bytes:
        """The answer to a request, empty if the fork for it was killed or did not answer in time.

        Raises ServerLost if the process itself is gone, OSError if it cannot be started.
        """
        ours, theirs = socket.socketpair()
        with ours:
            with theirs, self._lock:
                control, process = self._connect()
                try:
                    socket.send_fds(control, [len(request).to_bytes(4, "little")], [theirs.fileno(), values])
                    control.sendall(request)
                except OSError as error:
                    raise ServerLost from error
            ours.settimeout(timeout)
            answer = b""
            try:
                while part := ours.recv(MAX_ANSWER):
                    answer += part
            except OSError:  # it hangs
                return b""
        if not answer:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SETTLE_SECONDS)
                raise ServerLost
        return answer

    def _connect(self) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        """The running process, and the socket to it. The lock is held."""
        process, control = self._process, self._control
        if process is None or control is None or self._owner != os.getpid() or process.poll() is not None:
            if control is not None:
                control.close()
            control, theirs = socket.socketpair()
            root = str(Path(wanvae_app.__file__).parents[1])
            paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
            with theirs:
                process = subprocess.Popen(
                    [sys.executable, "-m", "wanvae_app.formats.reading_server", str(theirs.fileno())],
                    env=os.environ | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(paths)},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                )
            self._process, self._control, self._owner = process, control, os.getpid()
        return control, process


_server = _Server()
_places = threading.BoundedSemaphore(MAX_AT_ONCE)


def _ask(request: dict[str, Any], path: Path, values: IO[bytes]) -> dict[str, Any]:
    """The answer to a request about a file. Raises ValueError, with one sentence, or OSError."""
    text = json.dumps(request | {"path": str(path.absolute())}).encode()
    timeout = START_SECONDS + WALL_FACTOR * limits_for(path.stat().st_size).cpu_seconds
    with _places:
        for _ in range(2):  # the server may have been killed since the last file
            try:
                answer = _server.ask(text, values.fileno(), timeout)
                break
            except ServerLost:
                continue
        else:
            raise OSError("Files cannot be read now: the process that reads them ends at once.")
    found: dict[str, Any] = json.loads(answer or b"{}")
    if "refusal" in found:
        raise ValueError(found["refusal"])
    if "error" in found:
        raise OSError(found["errno"], found["error"])
    if not found:
        raise _too_much(path)
    return found


def _ask_header(request: dict[str, Any], path: Path) -> dict[str, Any]:
    """The answer to a request about a file's header."""
    with _shared_file() as values:
        return _ask(request, path, values)


def _too_much(path: Path) -> ValueError:
    return ValueError(
        f"{path.name} cannot be read: it takes more time or memory than a latent of its size; save it again, as "
        ".safetensors."
    )


def _shared_file() -> IO[bytes]:
    """A file in memory, for values that the process writes; on systems without those, an unlinked file."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("latent"), "w+b")
    return tempfile.TemporaryFile()
